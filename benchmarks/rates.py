"""What `lth run --dry-run` assumes where nothing has run: the constants of src/lth/experiment/rates.py.

    taskset -c 0 python benchmarks/rates.py [--json] [--repeats 60]

Processor time of one thread, first quartiles, so that other work on the machine bears on them little. `update_ms` is the compiled
call of an update that does next to no arithmetic; `gflops`, what is done of the dense agent's floating-point operations in a
second besides, at Meta-World's sizes and batch 256 on XLA, and on the native kernel by sparsity (random masks, Erdos-Renyi-kernel):
operations of pruned weights count, so that rates grow with sparsity. `step_us` is a step of an environment, the mean over tasks of
its simulator; `loop_us` what else the training loop does in a step; `compile_s` what a run takes until its first update is done.
"""

import statistics
import time

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--repeats", type=int, default=60)
options = parser.parse_args()

import jax
import numpy as np

from src.lth import envs
from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.learner import draw, learner
from src.lth.algorithms.packed import pack_state, patterns_of
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import SACConfig, TrainingConfig
from src.lth.experiment.rates import NATIVE_GFLOPS, STEP_US, update_flops
from src.lth.pruning.controls import random_mask
from src.lth.replay import init_replay, insert
from src.lth.training import train

SPACES, ROWS = Spaces(39, 4), 20_000
TASKS = {
    "metaworld": ("drawer-close-v3", "door-close-v3"),
    "mujoco": ("HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5"),
    "classic": ("Pendulum-v1", "CartPole-v1"),
}


def quartile(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=4)[0]


def updates(width: int, batch: int, sparsity: float | None) -> tuple[float, float, float]:
    """Return the seconds of one update and of the first, and the dense agent's operations; on XLA without a sparsity."""
    config = SACConfig(actor_hidden=(width,) * 2, critic_hidden=(width,) * 2)
    algorithm, rng = config.build(SPACES), np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, 2 * SPACES.observation_dim + SPACES.action_width + 2)).astype(np.float32)
    began = time.process_time()
    state, patterns = algorithm.init(jax.random.key(0)), None
    if sparsity is not None:
        key = jax.random.key(1)
        masks = {name: random_mask(params, sparsity, key, (), "erk") for name, params in state.params.items()}
        state = make_ticket(state, masks)
        patterns = patterns_of(state)
        state = pack_state(patterns, state)
    learn = learner(algorithm, patterns)
    carry = [state, insert(init_replay(ROWS, SPACES.observation_dim, SPACES.action_width), rows)]
    seconds, first = [], 0.0
    for _ in range(options.repeats):
        draws = draw(algorithm, rng, 1, batch, ROWS)
        started = time.process_time()
        carry[0], carry[1], flat, _ = learn(*carry, rows[:1], draws)
        jax.block_until_ready(flat)
        seconds.append(time.process_time() - started)
        first = first or time.process_time() - began
    return quartile(seconds[5:]), first, sum(update_flops(config, SPACES, batch).values())


def environment(task: str) -> float:
    """Return the seconds of one step of an environment under random actions."""
    vector, rng, seconds = envs.make_vector(task, 0, 1), np.random.default_rng(0), []
    vector.reset(0)
    spaces = envs.spaces_of(vector.envs[0])
    for _ in range(20):
        size = (100, 1, 1 if spaces.discrete else spaces.action_dim)
        actions = rng.uniform(-1, 1, size).astype(np.float32)
        if spaces.discrete:
            actions = rng.integers(spaces.action_dim, size=size[:2])
        started = time.process_time()
        for action in actions:
            vector.step(action)
        seconds.append((time.process_time() - started) / 100)
    vector.close()
    return quartile(seconds)


def loop() -> float:
    """Return the seconds of one step of the training loop on Pendulum-v1."""
    config = SACConfig(actor_hidden=(64, 64), critic_hidden=(64, 64))
    spaces = envs.task_spaces("Pendulum-v1")
    algorithm = config.build(spaces)
    training = TrainingConfig(env_steps=10**6, start_steps=64, segment_steps=2000, batch_size=64)
    state, replay = algorithm.init(jax.random.key(0)), init_replay(ROWS, spaces.observation_dim, spaces.action_width)
    segments = train(algorithm, training, "Pendulum-v1", 0, state, replay, 10**6, native=True)
    seconds = []
    for _ in range(6):
        started = time.process_time()
        next(segments)
        seconds.append((time.process_time() - started) / training.segment_steps)
    return quartile(seconds[1:])


def main() -> None:
    results = {}
    dense = {}
    for name, sparsity in (("xla", None), ("native", 0.0)):
        small, _, few = updates(64, 64, sparsity)
        large, first, many = updates(256, 256, sparsity)
        rate = (many - few) / (large - small)
        dense[name] = small - few / rate
        results |= {f"update_ms_{name}": dense[name] * 1e3, f"gflops_{name}": rate / 1e9}
    for sparsity in [s for s in NATIVE_GFLOPS if s]:
        seconds, first, many = updates(256, 256, sparsity)
        results[f"gflops_native_{sparsity}"] = many / max(seconds - dense["native"], 1e-6) / 1e9
    results["compile_s"] = first
    steps = {name: statistics.mean(map(environment, TASKS[name])) for name in STEP_US}
    results |= {f"step_us_{name}": seconds * 1e6 for name, seconds in steps.items()}
    small, _, _ = updates(64, 64, 0.0)
    results["loop_us"] = (loop() - small - steps["classic"]) * 1e6
    report(results, options.json)


main()
