"""Time one action in microseconds: NumPy with whole matrices, the native kernel with kept weights, and a compiled JAX call.

    python benchmarks/acting.py [--json] [--width 256] [--repeats 9]

Uses Meta-World's sizes and Erdos-Renyi-kernel masks, and times all of `act`, from a raw observation to a sampled action.
"""

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()

import jax
import numpy as np

from src.lth.algorithms.acting import act, policy_reader
from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.learner import flat_policy
from src.lth.algorithms.packed import pack_state, patterns_of
from src.lth.algorithms.sac.algorithm import gaussian_of
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import SACConfig
from src.lth.pruning.controls import random_mask

OBSERVATION_DIM, ACTION_DIM, CALLS = 39, 4, 2000


def main() -> None:
    config = SACConfig(actor_hidden=(options.width,) * 2, critic_hidden=(options.width,) * 2)
    algorithm = config.build(Spaces(OBSERVATION_DIM, ACTION_DIM))
    state = algorithm.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(1, OBSERVATION_DIM))
    noise = rng.standard_normal((1, ACTION_DIM), np.float32)
    dense = policy_reader(algorithm)(np.asarray(flat_policy(algorithm, state)))
    policies = {"numpy": dense}
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.99):
        masks = {name: random_mask(p, sparsity, jax.random.key(1), (), "erk") for name, p in state.params.items()}
        ticket = make_ticket(state, masks)
        patterns = patterns_of(ticket)
        read = policy_reader(algorithm, patterns)
        policies[f"native {sparsity}"] = read(np.asarray(flat_policy(algorithm, pack_state(patterns, ticket))))

    def many(policy):
        def call() -> None:
            for _ in range(CALLS):
                act(policy, observation, noise)

        return call

    compiled = jax.jit(gaussian_of(algorithm.applies()["actor"]))
    first = observation.astype(np.float32)

    def jax_calls() -> None:
        for _ in range(CALLS):
            np.asarray(compiled(state.params["actor"], first)[0])

    jax_calls()
    sides = {name: many(policy) for name, policy in policies.items()} | {"jax, the network alone": jax_calls}
    report({name: value / CALLS * 1e6 for name, value in interleave(sides, options.repeats).items()}, options.json)


main()
