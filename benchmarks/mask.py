"""Measure the cost of a mask: making it for ten million weights, and applying it during training.

    python benchmarks/mask.py [--json] [--repeats 7] [--updates 50]

- `ratio_to_sort`: the time of `lth.prune` (magnitude, one-shot, global) for a tree of 10 million weights, including its checks,
  over the time of one `jnp.sort` of the same scores as one array. Both warm, one thread, interleaved in one process; medians.
- `first_seconds`: processor seconds of the process's first mask (magnitude, global), of a network with 48 layers of different
  sizes: what compiling takes. `first_compiled_seconds`: the same under `jax.jit`, as masks that change during training need it.
- `training_overhead`: the time of an update of the SAC agent at Meta-World's sizes (39 observations, 4 actions, 2x256, batch 256;
  see benchmarks/sac_update.py) with a mask of 90 %, over the same update with plain Adam, minus 1. The plain program differs only
  in `keep_pruned_at_zero`. Many updates per call, interleaved calls; the median of the ratios of neighboring calls.
"""

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--updates", type=int, default=50)
options = parser.parse_args()

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from src.lth import prune
from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.base import AgentState, Algorithm
from src.lth.algorithms.learner import update
from src.lth.algorithms.sac.algorithm import SAC
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import SACConfig
from src.lth.types import Batch

SHAPES = [(1000, 2000), (2000, 2000), (2000, 1000), (1000, 1000), (1000, 1000)]  # 10 million
OBSERVATION_DIM, ACTION_DIM, BATCH = 39, 4, 256


def first_seconds() -> dict[str, float]:
    """Time the first mask of a deep network. Has to be called before anything else is compiled."""
    rng = np.random.default_rng(0)
    params = {
        f"layer_{i:02d}": {
            "kernel": rng.standard_normal((40 + i, 41 + i), np.float32),
            "bias": np.zeros(41 + i, np.float32),
        }
        for i in range(48)
    }
    seconds = {}
    for name, call in (("", prune), ("compiled_", jax.jit(prune, static_argnums=1))):
        began = time.process_time()
        jax.block_until_ready(call(params, 0.9))
        seconds[f"first_{name}seconds"] = time.process_time() - began
    return seconds


def ratio_to_sort() -> dict[str, float]:
    """Time a mask of ten million weights and a sort of its scores."""
    rng = np.random.default_rng(0)
    params = {
        f"layer_{i}": {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32), "bias": jnp.zeros(shape[1])}
        for i, shape in enumerate(SHAPES)
    }
    scores = jnp.concatenate([jnp.abs(layer["kernel"]).ravel() for layer in params.values()])
    sort = jax.jit(jnp.sort)
    sides = {
        "mask": lambda: jax.block_until_ready(prune(params, 0.9)),
        "sort": lambda: jax.block_until_ready(sort(scores)),
    }
    for call in sides.values():
        call()
    seconds = interleave(sides, max(3, options.repeats // 2))
    return {
        "ratio_to_sort": seconds["mask"] / seconds["sort"],
        "seconds_mask": seconds["mask"],
        "seconds_sort": seconds["sort"],
    }


class Unmasked(SAC):
    """SAC whose optimizers do not keep pruned weights at zero."""

    def optimizer(self, network: str) -> optax.GradientTransformation:
        """Return plain Adam, on the state of a ticket's optimizer."""
        adam = optax.adam(self.networks[network].learning_rate)

        def step(grads: object, state: object, params: object) -> tuple[object, object]:
            updates, inner = adam.update(grads, state.inner, params)
            return updates, state._replace(inner=inner)

        return optax.GradientTransformation(adam.init, step)


def training_overhead() -> dict[str, float]:
    """Time updates with and without a mask."""
    config, spaces = SACConfig(), Spaces(OBSERVATION_DIM, ACTION_DIM)
    masked = config.build(spaces)
    state = masked.init(jax.random.key(0))
    ticket = make_ticket(state, {name: prune(params, 0.9) for name, params in state.params.items()})
    rng = np.random.default_rng(0)
    fields = [(OBSERVATION_DIM,), (ACTION_DIM,), (), (OBSERVATION_DIM,), ()]
    batches = Batch(*(rng.normal(size=(options.updates, BATCH, *f)).astype(np.float32) for f in fields))
    noise = rng.standard_normal((options.updates, *masked.noise_shape(BATCH)), np.float32)

    def program(algorithm: Algorithm) -> object:
        def many(state: AgentState) -> AgentState:
            return jax.lax.scan(lambda s, x: (update(algorithm, s, *x)[0], None), state, (batches, noise))[0]

        return jax.jit(many)

    sides = {"plain": program(Unmasked(config, spaces)), "masked": program(masked)}
    start = ticket._replace(key=None)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name in sides:
        jax.block_until_ready(sides[name](start))
    for i in range(2 * options.repeats):
        for name in sorted(sides, reverse=bool(i % 2)):  # each goes first as often
            began = time.perf_counter()
            jax.block_until_ready(sides[name](start))
            seconds[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds["masked"], seconds["plain"], strict=True)]
    return {
        "training_overhead": statistics.median(ratios) - 1,
        "milliseconds_update": 1000 * statistics.median(seconds["plain"]) / options.updates,
    }


report({**first_seconds(), **ratio_to_sort(), **training_overhead()}, options.json)
