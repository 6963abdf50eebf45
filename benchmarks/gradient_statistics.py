"""Compare gradient statistics in one compiled loop with the same computation batch by batch.

    python benchmarks/gradient_statistics.py [--json] [--batches 100] [--repeats 5]

The agent is 2x256 on Meta-World's sizes (39 observations, 4 actions), the replay buffer real transitions of
drawer-close-v3 under random actions, 100 batches of 256. Sides, each warm, interleaved in one process:

- compiled: `accumulate_gradient_statistics`;
- loop: for each batch `replay_buffer.sample`, then jax.grad without jit, then a sum of |g|, as research scripts do;
- jitted_loop: the same loop around the jitted gradients of one batch (`compute_gradients_from_batch`).

`speedup_vs_loop` and `speedup_vs_jitted_loop` are their times over compiled's. `temporary_ratio` is the compiled program's
temporary memory at 1000 batches over that at 10.
"""

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--batches", type=int, default=100)
parser.add_argument("--repeats", type=int, default=5)
options = parser.parse_args()

import jax
import jax.numpy as jnp
import numpy as np

from src.lth import ReplayBuffer, accumulate_gradient_statistics, compute_gradients_from_batch, envs
from src.lth.algorithms.base import Agent, update_normalizer
from src.lth.config import SACConfig
from src.lth.replay import init_replay, insert, pack_rows
from src.lth.saliency import gradient_accumulator, network_loss
from src.lth.types import Batch

BATCH_SIZE, TRANSITIONS = 256, 2000


def random_transitions(env: object, n: int) -> Batch:
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    found = []
    for _ in range(n):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        after, reward, terminated, truncated, _ = env.step(action)
        found.append((observation, action, reward, after, terminated))
        observation = env.reset()[0] if terminated or truncated else after
    return Batch(*(np.asarray(column, np.float32) for column in zip(*found, strict=True)))


def main() -> None:
    env = envs.make("drawer-close-v3")
    spaces = envs.spaces_of(env)
    transitions = random_transitions(env, TRANSITIONS)
    config = SACConfig()
    algorithm = config.build(spaces)
    state = algorithm.init(jax.random.key(0))
    state = state._replace(normalizer=update_normalizer(state.normalizer, jnp.asarray(transitions.observations)))
    replay = init_replay(TRANSITIONS, spaces.observation_dim, spaces.action_width)
    replay = insert(replay, jnp.asarray(pack_rows(transitions)))
    buffer = ReplayBuffer(replay, spaces.observation_dim)
    agent = Agent(config, state, buffer)
    keys = jax.random.split(jax.random.key(1), options.batches)

    def compiled() -> object:
        return jax.block_until_ready(accumulate_gradient_statistics(agent, buffer, options.batches, BATCH_SIZE))

    def looped(gradients: object) -> object:
        total = None
        for key in keys:
            grads = jax.tree.map(jnp.abs, gradients(buffer.sample(BATCH_SIZE), key))
            total = grads if total is None else jax.tree.map(jnp.add, total, grads)
        return jax.block_until_ready(jax.tree.map(lambda g: g / options.batches, total))

    def loop() -> object:
        def gradients(batch: Batch, key: object) -> object:
            grads = jax.grad(lambda params: network_loss(algorithm, state, params, batch, key, True))(state.params)
            return grads["actor"], grads["critic"]

        return looped(gradients)

    def jitted_loop() -> object:
        return looped(lambda batch, key: compute_gradients_from_batch(agent, batch, key=key))

    sides = {"compiled": compiled, "loop": loop, "jitted_loop": jitted_loop}
    means = {name: call() for name, call in sides.items()}  # warm, and comparable
    actor = {name: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree[0])]) for name, tree in means.items()}
    agreement = float(np.corrcoef(actor["compiled"], actor["loop"])[0, 1])
    seconds = interleave(sides, options.repeats)

    accumulate = gradient_accumulator(algorithm, BATCH_SIZE, True)
    temporary = {}
    for n in (10, 1000):
        lowered = accumulate.lower(state, replay, jax.random.key(0), jnp.asarray(n, jnp.int32))
        temporary[n] = lowered.compile().memory_analysis().temp_size_in_bytes
    report(
        {
            "speedup_vs_loop": seconds["loop"] / seconds["compiled"],
            "speedup_vs_jitted_loop": seconds["jitted_loop"] / seconds["compiled"],
            "seconds_compiled": seconds["compiled"],
            "seconds_loop": seconds["loop"],
            "seconds_jitted_loop": seconds["jitted_loop"],
            "temporary_ratio": temporary[1000] / temporary[10],
            "temporary_megabytes": temporary[10] / 1e6,
            "correlation_with_loop": agreement,
        },
        options.json,
    )


main()
