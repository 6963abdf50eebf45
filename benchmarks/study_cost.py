"""Measure the cost of a whole ticket by part, compared with the dense agent on XLA and with another revision.

    python benchmarks/study_cost.py [--json] [--task drawer-close-v3] [--sparsity 0.95] [--steps 50000] [--beside REVISION]
                                    [--repeats 1] [--core 0]

Each side trains the dense agent, makes a magnitude mask and trains the ticket on the native kernel, in separate processes on the
same core, including evaluations (10 episodes every 5,000 steps). `ratio_to_dense` is the total time of a dense agent on XLA over
the ticket's. `--beside` checks the revision out in a temporary Git worktree and does the same there; `seconds_ratio` is this
checkout's ticket over the revision's. With `--repeats`, the tickets are trained repeatedly, alternating between revisions, and
medians are reported. A dense agent of 50,000 steps takes minutes, and is trained once per revision.

Parts: `start`, imports and preparation; `compile`, compilation of the update; `simulate`, `act`, `update` (from the dispatch of the
compiled call to its result) and `rest` of the training loop; `evaluate`; `save`; `other`, everything else. `processor` is CPU time;
`processor_ratio_to_dense` and `processor_seconds_ratio` are the same ratios in CPU time, for machines with other load.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import arguments, report

ROOT = Path(__file__).resolve().parents[1]

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="drawer-close-v3")
parser.add_argument("--sparsity", type=float, default=0.95)
parser.add_argument("--steps", type=int, default=50_000)
parser.add_argument("--repeats", type=int, default=1)
parser.add_argument("--core", type=int, default=0)
parser.add_argument("--beside", metavar="REVISION")
parser.add_argument(
    "--run", nargs=3, metavar=("KIND", "FOLDER", "STARTED"), help="internal: run as one of the processes"
)
options = parser.parse_args()


def timed_parts() -> dict[str, float]:
    """Patch the training loop to sum the seconds of its parts."""
    import jax

    from src.lth import envs, training

    seconds: dict[str, float] = defaultdict(float)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event) if "/compile/" in event else None
    )
    dispatched = [time.perf_counter()]

    def timed(name, function, count=lambda arguments: True):
        def call(*arguments):
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                if count(arguments):
                    seconds[name] += time.perf_counter() - began

        return call

    act, learner, policy_reader, make_vector = training.act, training.learner, training.policy_reader, envs.make_vector

    def noting_learner(*arguments):
        learn = learner(*arguments)

        def call(*given):
            before, dispatched[0] = len(compiled), time.perf_counter()
            result = learn(*given)
            if len(compiled) > before:
                seconds["compile"] += time.perf_counter() - dispatched[0]
                dispatched[0] = time.perf_counter()
            return result

        return call

    def noting_reader(*arguments):
        read_policy = policy_reader(*arguments)

        def read(flat):
            if dispatched[0]:  # not where a segment starts
                seconds["update"] += time.perf_counter() - dispatched[0]
                dispatched[0] = 0.0
            return read_policy(flat)

        dispatched[0] = 0.0
        return read

    def timed_vector(*arguments):
        vector = make_vector(*arguments)
        vector.step, vector.reset = timed("simulate", vector.step), timed_reset(vector.reset)
        return vector

    def timed_reset(reset):
        def call(**named):
            began = time.perf_counter()
            result = reset(**named)
            seconds["simulate"] += time.perf_counter() - began
            return result

        return call

    training.act = timed("act", act, lambda arguments: len(arguments) == 3)  # an evaluation's has no noise
    training.learner, training.policy_reader, envs.make_vector = noting_learner, noting_reader, timed_vector
    return seconds


def one_run(kind: str, folder: Path, since: float) -> None:
    """Make a dense run and its mask, or a ticket, and print its time by part."""
    from src.lth.config import EvaluationConfig, SACConfig, Sparsity, TrainingConfig
    from src.lth.experiment import journal
    from src.lth.experiment.lottery import make_mask, train_dense, train_ticket
    from src.lth.experiment.spec import DenseSpec, MaskSpec, TicketSpec

    imported = time.time() - since
    seconds = timed_parts()
    steps = options.steps
    every = min(5000, steps)
    own = (
        "backend" in TicketSpec.model_fields
    )  # an earlier revision: dense agents train on XLA, tickets say how they do
    backend = {} if own else {"backend": "dense" if kind == "xla" else "native"}
    loop = TrainingConfig(env_steps=steps, start_steps=min(2000, steps // 5), segment_steps=every, **backend)
    evaluation = EvaluationConfig(every=every, episodes=10)
    dense = DenseSpec(task=options.task, seed=0, training=loop, agent=SACConfig(), evaluation=evaluation)
    sparsity = Sparsity(actor=options.sparsity, critic=options.sparsity)
    mask = MaskSpec(dense=dense, method="magnitude", sparsity=sparsity)
    ticket = TicketSpec(dense=dense, mask=mask, **({"backend": "native"} if own else {}))
    if kind == "ticket":
        shutil.rmtree(folder / ticket.path, ignore_errors=True)
    run = train_ticket(folder, ticket) if kind == "ticket" else train_dense(folder, dense)
    total = time.time() - since
    timings = journal.read_timings(run)
    loop_parts = {name: seconds[name] for name in ("compile", "simulate", "act", "update")}
    parts = {"start": imported + timings["start"], **loop_parts, "rest": timings["train"] - sum(loop_parts.values())}
    parts |= {name: timings[name] for name in ("evaluate", "save")}
    parts |= {"other": total - sum(parts.values()), "total": total, "processor": time.process_time()}
    if kind == "dense":
        make_mask(folder, mask)
    print(json.dumps(parts))


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out in a temporary worktree, with this file in its benchmarks."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            shutil.copy(__file__, tree / "benchmarks" / Path(__file__).name)
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def seconds_of(tree: Path, kind: str, folder: Path) -> dict[str, float]:
    """Make a run with the source of a checkout, in a separate process."""
    script = tree / "benchmarks" / Path(__file__).name
    how = ["--task", options.task, "--sparsity", str(options.sparsity), "--steps", str(options.steps)]
    command = [sys.executable, str(script), *how, "--run", kind, str(folder), repr(time.time())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree / "src"), str(tree)))}
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(process.stdout.splitlines()[-1])


def compare(trees: dict[str, Path]) -> dict[str, object]:
    """Make the runs of each checkout, and return their times."""
    with tempfile.TemporaryDirectory() as folder:
        dense = {name: seconds_of(tree, "dense", Path(folder) / name) for name, tree in trees.items()}
        xla = seconds_of(ROOT, "xla", Path(folder) / "xla")
        found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
        for _ in range(options.repeats):
            for name, tree in trees.items():
                found[name].append(seconds_of(tree, "ticket", Path(folder) / name))
    tickets = {
        name: {part: statistics.median(one[part] for one in many) for part in many[0]} for name, many in found.items()
    }
    results = {}
    for prefix, clock in (("", "total"), ("processor_", "processor")):
        results[f"{prefix}ratio_to_dense"] = xla[clock] / tickets["here"][clock]
        if "beside" in trees:
            results[f"{prefix}seconds_ratio"] = tickets["here"][clock] / tickets["beside"][clock]
    parts = {f"dense_{name}": value for name, value in dense.items()}
    parts["dense_xla"] = xla
    parts |= {f"ticket_{name}": value for name, value in tickets.items()}
    return results | {side: {k: round(v, 2) for k, v in seconds.items()} for side, seconds in parts.items()}


def main() -> None:
    os.sched_setaffinity(0, {options.core})  # the processes inherit it
    about = {"task": options.task, "sparsity": options.sparsity, "steps": options.steps}
    if options.beside:
        with checked_out(options.beside) as tree:
            results = compare({"here": ROOT, "beside": tree})
    else:
        results = compare({"here": ROOT})
    report(about | results, options.json)


if options.run:
    one_run(options.run[0], Path(options.run[1]), float(options.run[2]))
else:
    main()
