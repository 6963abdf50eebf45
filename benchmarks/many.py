"""Many agents in one program: updates a second by the number of agents, and a whole grid against one run after the other.

    python benchmarks/many.py [--json] [--agents 1 4 16 64 256] [--precision float32] [--no-grid]
    python benchmarks/many.py --task brax:halfcheetah --tickets 256 --env-steps 25000

Updates: SAC tickets of 90 % with 17 observations and 6 actions (HalfCheetah's), two hidden layers of 256, batches of 256.
`updates_per_second_N` counts the updates of all N agents: on a CPU by the calls that a batch makes there, on a GPU by one call for
all `--updates`, as in a segment of environments on the device. `alone_updates_per_second` is of the call that one run makes on
the dense backend.

Grid: `lth run` of one dense agent and `--tickets` tickets of random masks on `--task`, timed as a whole: with executor=batched,
and one run after the other on the dense backend (left out with more than 32 tickets).
"""

from common import arguments, interleave, processor, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--agents", type=int, nargs="+", default=[1, 4, 16, 64, 256])
parser.add_argument("--precision", default="float32", help="of matrix products: float32, or tensorfloat32 on a GPU")
parser.add_argument("--updates", type=int, default=20, help="of each agent in one call")
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--no-grid", action="store_true")
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--tickets", type=int, default=8)
parser.add_argument("--batch", type=int, default=None, help="places (default: the number of tickets)")
parser.add_argument("--env-steps", type=int, default=2000)
options = parser.parse_args()

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.learner import draw, learner, updated
from src.lth.algorithms.randomness import DeviceGenerator
from src.lth.algorithms.stacked import Agents, form_of, over_agents, stack
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import SACConfig
from src.lth.pruning.controls import random_mask
from src.lth.replay import init_replay, insert
from src.lth.training.lockstep import agents_in_call

ROWS, BATCH, SPACES = 10_000, 256, Spaces(17, 6)
ALGORITHM = SACConfig().build(SPACES)
ROOT = Path(__file__).resolve().parents[1]


def ticket() -> Any:
    """Return a state with random masks."""
    state, key = ALGORITHM.init(jax.random.key(0)), jax.random.key(1)
    return make_ticket(state, {n: random_mask(p, 0.9, key, (), "erk") for n, p in state.params.items()})


def transitions() -> Any:
    """Return a full replay buffer of random transitions, none of them terminal."""
    rows = np.random.default_rng(0).normal(size=(ROWS, 2 * 17 + 6 + 2)).astype(np.float32)
    rows[:, 17:23] = np.tanh(rows[:, 17:23])
    rows[:, -1] = 0.0
    return insert(init_replay(ROWS, 17, 6), rows)


def in_turn(agents: int) -> Any:
    """Return what makes `--updates` updates of each of several agents, by calls as of environments on the host."""
    places = agents_in_call(agents)
    rng, rows = np.random.default_rng(0), np.zeros((places, 1, 2 * 17 + 6 + 2), np.float32)
    parts = [Agents(ALGORITHM, [ticket()] * places, [transitions()] * places) for _ in range(0, agents, places)]
    drawn = [[draw(ALGORITHM, rng, 1, BATCH, ROWS) for _ in range(places)] for _ in range(options.updates)]
    draws = [jax.tree.map(lambda *leaves: np.stack(leaves), *many) for many in drawn]

    def updates() -> None:
        for numbers in draws:
            told = [part.step(rows, numbers)[1] for part in parts]
        jax.block_until_ready(told)

    updates()
    return updates


def together(agents: int) -> Any:
    """Return what makes `--updates` updates of each of several agents in one call."""
    state = ticket()
    form = form_of(state)
    stacked = stack([state] * agents)
    replays = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], agents, axis=0), transitions())
    keys = jax.random.key_data(jax.random.split(jax.random.key(2), agents))

    def one(state: Any, replay: Any, key: Any) -> Any:
        def step(state: Any, k: Any) -> Any:
            rng = DeviceGenerator(jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), k))
            return updated(ALGORITHM, state, replay, draw(ALGORITHM, rng, 1, BATCH, replay.size))[0], None

        return (jax.lax.scan(step, state, jnp.arange(options.updates))[0],)

    compiled = jax.jit(over_agents(one, form), donate_argnums=0)
    carry = [stacked]

    def updates() -> None:
        (carry[0],) = compiled(carry[0], replays, keys)
        jax.block_until_ready(carry[0])

    updates()
    return updates


def alone() -> Any:
    """Return what makes `--updates` updates of one agent, as a run on the dense backend does."""
    learn, rng = learner(ALGORITHM), np.random.default_rng(0)
    carry: list[Any] = [ticket(), transitions()]
    rows = np.zeros((1, 2 * 17 + 6 + 2), np.float32)
    draws = [draw(ALGORITHM, rng, 1, BATCH, ROWS) for _ in range(options.updates)]

    def updates() -> None:
        for one in draws:
            carry[0], carry[1], flat, _ = learn(*carry, rows, one)
            flat.block_until_ready()

    updates()
    return updates


def grid_seconds(folder: Path, *overrides: str) -> float:
    """Time `lth run` of one dense agent and its tickets."""
    steps = options.env_steps
    config = {
        "tasks": [options.task],
        "seeds": [0],
        "training": {"env_steps": steps, "start_steps": steps // 10, "segment_steps": steps // 2},
        "evaluation": {"every": steps, "episodes": 1, "last_episodes": 5},
        # Random masks of many sparsities: as many tickets as wanted, each with a cheap mask.
        "pruning": {"methods": ["random"], "sparsity": np.linspace(0.5, 0.99, options.tickets).round(4).tolist()},
        "report": {"random_episodes": 2},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "lth", "run", "config.yaml", f"output_dir={folder / 'out'}", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - started


def main() -> None:
    device = jax.devices()[0]
    name = processor() if device.platform == "cpu" else device.device_kind
    found: dict[str, Any] = {"device": name, "precision": options.precision}
    with jax.default_matmul_precision(options.precision):
        many = in_turn if device.platform == "cpu" else together
        for agents in options.agents:
            seconds = interleave({"alone": alone(), "many": many(agents)}, options.repeats)
            found["alone_updates_per_second"] = options.updates / seconds["alone"]
            found[f"updates_per_second_{agents}"] = agents * options.updates / seconds["many"]
            found[f"ratio_{agents}"] = agents * seconds["alone"] / seconds["many"]
    if not options.no_grid:
        with tempfile.TemporaryDirectory() as scratch:
            run = functools.partial(grid_seconds)
            places = options.batch or options.tickets
            for side, overrides in {
                "batched": ["executor=batched", f"batch={places}"],
                "one_after_other": ["training.backend=dense"],
            }.items():
                if side == "one_after_other" and options.tickets > 32:
                    continue
                folder = Path(scratch) / side
                folder.mkdir()
                found[f"grid_{side}_seconds"] = run(folder, *overrides)
        if "grid_one_after_other_seconds" in found:
            found["grid_ratio"] = found["grid_one_after_other_seconds"] / found["grid_batched_seconds"]
    report(found, options.json)


main()
