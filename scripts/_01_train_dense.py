"""Train one dense agent for each task and seed of a config, and save its replay buffer."""

import pickle  # noqa: F401  (for the marked place below)
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.lth.cli import guard, script

config, _ = script(__doc__)

from src.lth.scripts import dense_agents, save_replay_buffer


def main() -> int:
    for output_dir, agent in dense_agents(config):
        # The replay buffer is saved below. Insert the code of docs/saliency-pruning.md under
        # 'Error: "No replay buffer found"' between these two lines:
        # <<< docs/saliency-pruning.md, Troubleshooting
        # >>>
        save_replay_buffer(output_dir, agent.replay_buffer)
    return 0


sys.exit(guard(main))
