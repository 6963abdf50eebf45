"""Compare the whole SAC update of tickets and of the dense agent on the native kernel, on one core.

    taskset -c 0 python benchmarks/sparse_update.py [--json] [--batch 256] [--width 256] [--masks erk|layer] [--repeats 9]

Both are the calls that training makes (draw, insert, gather, update), with many updates per call, at Meta-World's sizes (39
observations, 4 actions, two hidden layers), measured alternately in one process. Each ratio is the dense agent's median over the
ticket's. Masks are random: `erk` is Erdos-Renyi-kernel, which keeps small layers denser; `layer` prunes the same share of each
layer. `--lower` measures sparsities around break-even, and `--profile 0.9` the kernel calls of one update in microseconds.
`--beside REVISION` alternates between this script and the one of that revision, in separate processes, and prints this script's
time of a ticket's update over the other's.
"""

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--masks", choices=("erk", "layer"), default="erk")
parser.add_argument("--updates", type=int, default=50)
parser.add_argument("--repeats", type=int, default=9)
parser.add_argument("--lower", action="store_true", help="sparsities 0 to 0.7")
parser.add_argument(
    "--beside", metavar="REVISION", help="compare with this script at another revision of the repository"
)
parser.add_argument("--profile", type=float, metavar="SPARSITY", help="time the kernel's calls of one update")
options = parser.parse_args()

if options.beside:
    from beside import compare

    words = ["--batch", str(options.batch), "--width", str(options.width), "--masks", options.masks, "--updates", "20"]
    compare(__file__, options.beside, [*words, *(["--lower"] if options.lower else [])], "ms_", options.json)

import jax
import jax.numpy as jnp
import numpy as np

from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.learner import draw, learner
from src.lth.algorithms.packed import pack_state, patterns_of
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import SACConfig
from src.lth.pruning.controls import random_mask
from src.lth.replay import init_replay, insert
from src.lth.sparse import sparse_mlp

OBSERVATION_DIM, ACTION_DIM, ROWS = 39, 4, 100_000
SPARSITIES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7) if options.lower else (0.80, 0.90, 0.95, 0.98, 0.99)


def ticket(state, sparsity: float):
    key = jax.random.key(1)
    return make_ticket(state, {n: random_mask(p, sparsity, key, (), options.masks) for n, p in state.params.items()})


def profile(state) -> None:
    """Time each kernel call of an update in a compiled loop."""
    calls = 200
    patterns = patterns_of(ticket(state, options.profile))
    packed = pack_state(patterns, ticket(state, options.profile))
    actor, critic = (sparse_mlp(patterns[name]) for name in ("actor", "critic"))
    observations = jax.random.normal(jax.random.key(2), (options.batch, OBSERVATION_DIM))
    actions = jax.random.normal(jax.random.key(3), (options.batch, ACTION_DIM))
    actor_at, critic_at = packed.params["actor"], packed.params["critic"]
    by_actions = jax.grad(lambda theta, o, a: critic(theta, o, a).sum(), argnums=2)
    parts = {
        "actor": lambda o, a: actor(actor_at, o),
        "target critics": lambda o, a: critic(critic_at, o, a),
        "critics, gradient by weights": lambda o, a: jax.grad(lambda t: critic(t, o, a).sum())(critic_at),
        "actor, gradient by weights": lambda o, a: jax.grad(lambda t: actor(t, o).sum())(actor_at),
        "critics, gradient by actions": lambda o, a: by_actions(critic_at, o, a),
    }

    def loop(call):
        def step(carry, _):
            return call(observations + carry * 1e-30, actions).ravel()[
                0
            ] * 1e-30, None  # prevents hoisting out of the loop

        run = jax.jit(lambda: jax.lax.scan(step, jnp.float32(0), length=calls)[0])
        run().block_until_ready()
        return lambda: run().block_until_ready()

    seconds = interleave({name: loop(call) for name, call in parts.items()}, options.repeats)
    microseconds = {name: value / calls * 1e6 for name, value in seconds.items()}
    weights = int(patterns["critic"].table[1])
    rate = 2 * options.batch * weights / microseconds["target critics"] / 1e3
    report({**microseconds, "all": sum(microseconds.values()), "target critics, GFLOP/s": rate}, options.json)


def main() -> None:
    config = SACConfig(actor_hidden=(options.width,) * 2, critic_hidden=(options.width,) * 2)
    algorithm = config.build(Spaces(OBSERVATION_DIM, ACTION_DIM))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, 2 * OBSERVATION_DIM + ACTION_DIM + 2)).astype(np.float32)
    draws = draw(algorithm, rng, options.updates, options.batch, ROWS)

    if options.profile is not None:
        profile(algorithm.init(jax.random.key(0)))
        return

    def side(sparsity: float | None):
        state, patterns = algorithm.init(jax.random.key(0)), None
        if sparsity is not None:
            state = ticket(state, sparsity)
            patterns = patterns_of(state)
            state = pack_state(patterns, state)
        learn = learner(algorithm, patterns)
        carry = [state, insert(init_replay(ROWS, OBSERVATION_DIM, ACTION_DIM), rows)]

        def updates() -> None:
            carry[0], carry[1], flat, _ = learn(*carry, rows[:1], draws)
            jax.block_until_ready(flat)

        updates()
        return updates

    sides = {"dense": side(None), **{f"{sparsity:.2f}": side(sparsity) for sparsity in SPARSITIES}}
    seconds = interleave(sides, options.repeats)
    ratios = {name: seconds["dense"] / value for name, value in seconds.items() if name != "dense"}
    milliseconds = {f"ms_{name}": value / options.updates * 1e3 for name, value in seconds.items()}
    report({**ratios, **milliseconds}, options.json)


main()
