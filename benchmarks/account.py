"""Profile one environment step of training, dense or of a ticket, a whole dense run and a whole ticket.

    taskset -c 0 python benchmarks/account.py [--json] [--task HalfCheetah-v5] [--sparsity 0] [--threads 1] [--steps 2000]

The parts of an environment step are timed inside the training loop after a warm-up; `wait` is the part of the update that the
loop waits for with nothing else to do. Inserting and gathering, which are part of the compiled call, are timed in separate compiled
loops. `overhead_share` is the share of a step that is neither simulation nor update, and `overhead_us` its microseconds.
Each run is timed in a separate process, from the start of the interpreter to its end; `--run_steps 0` leaves them out.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--sparsity", type=float, default=0.0, help="of a random ticket (ERK)")
parser.add_argument("--threads", type=int, default=1, help="threads of the native kernel")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--run_steps", type=int, default=10_000)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument(
    "--run", nargs=3, metavar=("KIND", "FOLDER", "STARTED"), help="internal: run as one of the processes"
)
options = parser.parse_args()

import jax
import numpy as np

from src.lth import envs, training
from src.lth.algorithms.architecture import Spaces
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import EvaluationConfig, SACConfig, Sparsity, TrainingConfig
from src.lth.experiment import journal
from src.lth.experiment.lottery import make_mask, train_dense, train_ticket
from src.lth.experiment.spec import DenseSpec, MaskSpec, TicketSpec
from src.lth.pruning.controls import random_mask
from src.lth.replay import init_replay, insert, take_rows
from src.lth.sparse.native import set_threads


def one_step() -> dict[str, float]:
    """Return the microseconds that each part of an environment step takes."""
    config = SACConfig(buffer_size=100_000)
    spaces = envs.spaces_of(envs.make(options.task))
    algorithm = config.build(spaces, options.task)
    seconds: dict[str, float] = defaultdict(float)
    called = {"dispatch": time.perf_counter(), "drawn": time.perf_counter()}

    def timed(name, function):
        def call(*args):
            began = called[name] = time.perf_counter()
            result = function(*args)
            called["drawn"] = time.perf_counter()
            seconds[name] += called["drawn"] - began
            return result

        return call

    def timed_learner(*args):
        return timed("dispatch", learner(*args))

    def timed_reader(*args):
        read_policy = policy_reader(*args)

        def read(flat):
            # Reading the policy waits for the update, so the update takes from its dispatch to here.
            now = time.perf_counter()
            seconds["update"] += now - called["dispatch"]
            seconds["wait"] += now - called["drawn"]
            return read_policy(flat)

        return read

    learner, policy_reader, make_vector = training.learner, training.policy_reader, envs.make_vector

    def timed_vector(*args):
        vector = make_vector(*args)
        vector.step = timed("simulate", vector.step)
        return vector

    training.act = timed("act", training.act)
    training.pack_rows = timed("pack", training.pack_rows)
    training.draw = timed("draw", training.draw)
    training.learner, training.policy_reader, envs.make_vector = timed_learner, timed_reader, timed_vector
    set_threads(options.threads)
    loop = TrainingConfig(env_steps=10**9, start_steps=options.steps, segment_steps=options.steps)
    state = algorithm.init(jax.random.key(0))
    if options.sparsity:
        key = jax.random.key(1)
        masks = {n: random_mask(p, options.sparsity, key, (), "erk") for n, p in state.params.items()}
        state = make_ticket(state, masks)
    replay = init_replay(config.buffer_size, spaces.observation_dim, spaces.action_width)
    segments = training.train(algorithm, loop, options.task, 0, state, replay, 10**9, native=True)
    for _ in range(2):
        next(segments)
    found = []
    for _ in range(options.repeats):
        seconds.clear()
        called["dispatch"] = time.perf_counter()  # a segment reads the policy once before it starts
        total = next(segments).seconds
        parts = {name: 1e6 * value / options.steps for name, value in seconds.items()}
        found.append({"total": 1e6 * total / options.steps, **parts})
    step = {name: sorted(parts[name] for parts in found)[len(found) // 2] for name in found[0]}
    step |= inside_the_call(config, spaces)
    step["rest"] = step["total"] - sum(step[name] for name in ("simulate", "act", "pack", "update"))
    return {name: round(value, 1) for name, value in step.items()}


def inside_the_call(config: SACConfig, spaces: Spaces) -> dict[str, float]:
    """Return the microseconds of inserting one transition and of gathering a batch, in compiled loops."""
    times, width = 1000, 2 * spaces.observation_dim + spaces.action_width + 2
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((config.buffer_size, width), np.float32)
    carry = [insert(init_replay(config.buffer_size, spaces.observation_dim, spaces.action_width), rows)]
    indices = rng.integers(0, config.buffer_size, (times, 256), np.int32)
    insertion = jax.jit(
        lambda replay: jax.lax.fori_loop(0, times, lambda i, r: insert(r, rows[:1] + i), replay), donate_argnums=0
    )
    gathering = jax.jit(
        lambda replay: jax.lax.scan(lambda total, i: (total + take_rows(replay, i), None), rows[:256], indices)[0]
    )

    def inserted() -> None:
        carry[0] = jax.block_until_ready(insertion(carry[0]))

    sides = {"insert": inserted, "sample": lambda: jax.block_until_ready(gathering(carry[0]))}
    for side in sides.values():
        side()
    return {name: 1e6 * value / times for name, value in interleave(sides, options.repeats).items()}


def one_run(kind: str, folder: Path, since: float) -> None:
    """Make a dense run (and a mask), or a ticket, and print its time by part."""
    imported = time.time() - since
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if "/compile/" in event or "/pjit/" in event else None
    )
    steps = options.run_steps
    loop = TrainingConfig(env_steps=steps, start_steps=steps // 10, segment_steps=steps // 10, backend="native")
    evaluation = EvaluationConfig(every=steps // 5, episodes=5)
    dense = DenseSpec(task=options.task, seed=0, training=loop, agent=SACConfig(), evaluation=evaluation)
    mask = MaskSpec(dense=dense, method="magnitude", sparsity=Sparsity(actor=0.9, critic=0.9))
    ticket = TicketSpec(dense=dense, mask=mask)
    run = train_dense(folder, dense) if kind == "dense" else train_ticket(folder, ticket)
    timings = journal.read_timings(run)
    spent = sum(compiled)
    parts = {"start": imported, "compile": spent, "train": timings["train"] - spent}
    parts |= {name: timings[name] for name in ("evaluate", "save")}
    total = time.time() - since
    if kind == "dense":
        make_mask(folder, mask)
    print(json.dumps({"total": total, **parts, "rest": total - sum(parts.values())}))


def main() -> None:
    results = {"step_us": one_step()}
    step = results["step_us"]
    results["overhead_us"] = step["total"] - step["simulate"] - step["update"]
    results["overhead_share"] = results["overhead_us"] / step["total"]
    if not options.run_steps:
        report(results, options.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("dense", "ticket"):
            command = [sys.executable, *sys.argv, "--run", kind, folder, repr(time.time())]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results[f"{kind}_seconds"] = {k: round(v, 2) for k, v in json.loads(found.splitlines()[-1]).items()}
    report(results, options.json)


if options.run:
    one_run(options.run[0], Path(options.run[1]), float(options.run[2]))
else:
    main()
