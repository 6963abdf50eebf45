"""Milliseconds of one update of each algorithm on one core: dense on XLA, dense on the native kernel, and tickets.

    taskset -c 0 python benchmarks/algorithms.py [--json] [--sparsity 0.95] [--repeats 9]

All are the calls that training makes, many updates a call, measured in turn in one process: SAC and TD3 with 17 observations and 6
actions (HalfCheetah's), DQN with 8 observations and 4 actions, two hidden layers of 256, batches of 256, the algorithms' default
settings, random masks by the ERK rule.
"""

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--sparsity", type=float, default=0.95)
parser.add_argument("--updates", type=int, default=50)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()

import jax
import numpy as np

from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.learner import draw, learner
from src.lth.algorithms.packed import pack_state, patterns_of
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import DQNConfig, SACConfig, TD3Config
from src.lth.pruning.controls import random_mask
from src.lth.replay import init_replay, insert

ROWS, BATCH = 50_000, 256
ALGORITHMS = {
    "SAC": (SACConfig(), Spaces(17, 6)),
    "TD3": (TD3Config(), Spaces(17, 6)),
    "DQN": (DQNConfig(), Spaces(8, 4, True)),
}


def side(algorithm, spaces: Spaces, native: bool, sparsity: float):
    """Return what makes `--updates` updates."""
    rng = np.random.default_rng(0)
    actions = spaces.random_actions(rng, ROWS)
    width = 2 * spaces.observation_dim + spaces.action_width + 2
    rows = rng.normal(size=(ROWS, width)).astype(np.float32)
    rows[:, spaces.observation_dim : spaces.observation_dim + spaces.action_width] = actions
    rows[:, -1] = 0.0  # none is terminal
    draws = draw(algorithm, rng, options.updates, BATCH, ROWS)
    state, patterns = algorithm.init(jax.random.key(0)), None
    if sparsity:
        key = jax.random.key(1)
        state = make_ticket(state, {n: random_mask(p, sparsity, key, (), "erk") for n, p in state.params.items()})
    if native:
        patterns = patterns_of(state)
        state = pack_state(patterns, state)
    learn = learner(algorithm, patterns)
    carry = [state, insert(init_replay(ROWS, spaces.observation_dim, spaces.action_width), rows)]

    def updates() -> None:
        carry[0], carry[1], flat, _ = learn(*carry, rows[:1], draws)
        jax.block_until_ready(flat)

    updates()
    return updates


def main() -> None:
    found = {}
    for name, (config, spaces) in ALGORITHMS.items():
        algorithm = config.build(spaces)
        sides = {
            "dense_xla": side(algorithm, spaces, False, 0.0),
            "dense_native": side(algorithm, spaces, True, 0.0),
            f"ticket_{options.sparsity:g}": side(algorithm, spaces, True, options.sparsity),
        }
        seconds = interleave(sides, options.repeats)
        found |= {f"{name}_{what}_ms": value / options.updates * 1e3 for what, value in seconds.items()}
    report(found, options.json)


main()
