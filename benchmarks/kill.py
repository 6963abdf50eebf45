"""Crash-recovery test: a grid that is killed repeatedly must end with the same bytes as an undisturbed grid.

    python benchmarks/kill.py [--json] [--kills 100] [--mean 30] [--seeds 3] [--steps 1500] [--folder DIR] [--seed 0]

Each algorithm has one grid: one task, three seeds, three methods, three sparsities, all controls and connectivity, with two
workers; every run trains for less than 10 seconds. Each grid is first made undisturbed. Then it is made in another folder while
SIGKILL ends either one worker process or all processes, at random times `--mean` seconds apart on average; after a kill of all
processes, the same command is run again. This repeats, one algorithm after another, until there were `--kills` kills. All files
except those that depend on time are compared byte by byte.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--kills", type=int, default=100)
parser.add_argument("--mean", type=float, default=30.0)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--algorithms", nargs="+", default=["sac", "td3", "dqn"])
parser.add_argument("--methods", nargs="+", default=["magnitude", "gradient", "taylor"])
parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.8, 0.95])
parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
parser.add_argument("--seed", type=int, default=0, help="the seed of the kills")
options = parser.parse_args()

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / place) for place in ("tests", "src")]

from helpers.grids import contents, differences

CONTROLS = ["reinit", "shuffled", "permuted", "inverted", "random-erk", "small-dense", "retrained"]


SIZES = {
    "sac": {"actor_hidden": [32, 32], "critic_hidden": [32, 32]},
    "td3": {"actor_hidden": [32, 32], "critic_hidden": [32, 32]},
    "dqn": {"q_hidden": [32, 32]},
}


def grid(algorithm: str) -> dict:
    """Return the config of an algorithm's grid, without its output folder."""
    return {
        "algorithm": algorithm,
        "tasks": ["CartPole-v1" if algorithm == "dqn" else "Pendulum-v1"],
        "seeds": list(range(options.seeds)),
        "workers": 2,
        "retries": 0,
        "training": {
            "env_steps": options.steps,
            "start_steps": 200,
            "segment_steps": 250,
            "batch_size": 64,
            "checkpoint_every": 1,
        },
        algorithm: SIZES[algorithm],
        "evaluation": {"every": 500, "episodes": 2},
        "pruning": {
            "methods": options.methods,
            "sparsity": options.sparsities,
            "mask_every": 200,
            "num_gradient_batches": 20,
            "gradient_batch_size": 64,
            "controls": CONTROLS,
        },
        "analysis": {"connectivity": ["parent", "methods"]},
    }


def start(folder: Path, algorithm: str) -> subprocess.Popen:
    """Start `lth run` on an algorithm's grid with a given output folder."""
    config = folder.with_suffix(".yaml")
    config.write_text(json.dumps({**grid(algorithm), "output_dir": str(folder)}))
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", "lth", "run", str(config)], stdout=log, stderr=log)


def workers_of(process: subprocess.Popen) -> list[int]:
    """Return the worker processes of an `lth run`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == process.pid and b"lth.experiment.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def kill(pid: int) -> None:
    """Kill a process, if it still exists; workers end when their parent does."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def disturbed(folder: Path, algorithm: str, rng: random.Random, counts: dict[str, int]) -> None:
    """Make the grid in a folder while killing processes."""
    process = start(folder, algorithm)
    next_kill = time.monotonic() + rng.expovariate(1 / options.mean)
    while True:
        try:
            status = process.wait(timeout=max(next_kill - time.monotonic(), 0.001))
        except subprocess.TimeoutExpired:
            next_kill = time.monotonic() + rng.expovariate(1 / options.mean)
            workers = workers_of(process)
            if workers and rng.random() < 0.5:
                kill(rng.choice(workers))
                counts["workers_killed"] += 1
                continue
            for pid in (process.pid, *workers):
                kill(pid)
            process.wait()
            counts["everything_killed"] += 1
            process = start(folder, algorithm)
            continue
        if status:
            raise SystemExit(f"lth run ended with status {status}: see {folder.with_suffix('.log')}")
        return


def main() -> None:
    root = options.folder or Path(tempfile.mkdtemp(prefix="lth-kill-"))
    root.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    counts = {"workers_killed": 0, "everything_killed": 0}
    began = time.monotonic()
    files = {}
    for algorithm in options.algorithms:
        if start(root / algorithm, algorithm).wait():
            raise SystemExit(f"the undisturbed grid failed: see {root / algorithm}.log")
        files[algorithm] = len(contents(root / algorithm))
    undisturbed_seconds = time.monotonic() - began
    grids, compared, differing = 0, 0, []
    while sum(counts.values()) < options.kills:
        algorithm = options.algorithms[grids % len(options.algorithms)]
        folder = root / f"killed{grids}"
        disturbed(folder, algorithm, rng, counts)
        grids += 1
        compared += files[algorithm]
        found = differences(root / algorithm, folder)
        differing += [f"{folder.name}/{name}" for name in found]
        print(f"{counts}, {grids} grids, {len(differing)} differences", file=sys.stderr, flush=True)
        if not found:
            shutil.rmtree(folder)
    results = {"kills": sum(counts.values()), **counts, "grids": grids, "files_compared": compared}
    results |= {"differences": len(differing), "undisturbed_seconds": round(undisturbed_seconds, 1)}
    report({**results, "first_differences": differing[:5]}, options.json)
    sys.exit(bool(differing))


main()
