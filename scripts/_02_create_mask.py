"""Create the magnitude mask, mask.pkl, for each task, seed and sparsity of a config."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.cli import guard, script

config, _ = script(__doc__)

from src.lth import prune_kernels_by_magnitude
from src.lth.scripts import dense_runs, layers_to_exclude, save_mask


def main() -> int:
    for_actor, for_critic = layers_to_exclude(config)
    for run, agent, replay_buffer, sparsity in dense_runs(config):  # noqa: B007  (replay_buffer: for the marked place)
        actor_mask = prune_kernels_by_magnitude(agent.state.actor_params, sparsity.actor, exclude=for_actor)
        critic_mask = prune_kernels_by_magnitude(agent.state.critic_params, sparsity.critic, exclude=for_critic)
        # To use gradient saliency instead, insert option 2 of docs/saliency-pruning.md between these two lines:
        # <<< docs/saliency-pruning.md, Option 2
        # >>>
        save_mask(config, run, sparsity, actor_mask, critic_mask)
    return 0


sys.exit(guard(main))
