"""Fuzz the file readers: the pickle reader, and every command on a grid with a damaged small file.

    python benchmarks/fuzz.py pickles|files [--minutes 60] [--seed 0] [--folder FOLDER] [--json]
    python benchmarks/fuzz.py pickles|files --replay FINDING

`pickles` (fuzzing/pickles.py) mutates pickles and checks that each is read as Python reads it, or rejected, without running code
and within limits of time and memory. `files` (fuzzing/files.py) damages one file of a finished grid and calls commands, which
must keep the contract of tests/cli/test_boundary.py. Findings are saved in FOLDER; the exit status is 1 if there are any.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("what", choices=["pickles", "files"])
parser.add_argument("--minutes", type=float, default=60)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--folder", type=Path, default=Path("fuzz-findings"), help="where findings are saved")
parser.add_argument("--replay", type=Path, metavar="FINDING", help="try a saved finding again")
parser.add_argument("--worker", action="store_true", help="internal: run as a worker process")
options = parser.parse_args()
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / place) for place in ("tests/cli", "tests", "src")]

from fuzzing.record import Record

MOST_CPU, MOST_WALL = 180, 900
"""Seconds between two inputs after which a worker is killed: of its own, and of the clock (the machine may be busy)."""
folder = options.folder.resolve() / options.what
folder.mkdir(parents=True, exist_ok=True)


def work() -> None:
    """Try inputs until the time is up, or only the input of `--replay`."""
    record = Record(folder, options.what, options.seed)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if options.what == "pickles":
        from fuzzing.pickles import PickleFuzzer as Fuzzer
    else:
        from fuzzing.files import FileFuzzer as Fuzzer
    fuzzer = Fuzzer(record)
    if options.replay:
        fuzzer.replay(options.replay.resolve().read_bytes())
    else:
        fuzzer.run(time.monotonic() + 60 * options.minutes)
    record.keep_counts()


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def wait_for(worker: subprocess.Popen) -> None:
    """Wait for a worker, and kill it if it does not reach its next input in time."""
    last, since = 0.0, (cpu_seconds(worker.pid), time.monotonic())
    while worker.poll() is None:
        time.sleep(0.5)
        changed, now = (folder / "current").stat().st_mtime, (cpu_seconds(worker.pid), time.monotonic())
        if changed != last:
            last, since = changed, now
        elif now[0] - since[0] > MOST_CPU or now[1] - since[1] > MOST_WALL:
            worker.kill()


def watch() -> dict:
    """Keep a worker running. A worker that dies or hangs is a finding, and is replaced."""
    began, total, found, number, slowest = time.monotonic(), Counter(), Counter(), 0, 0
    while (left := options.minutes - (time.monotonic() - began) / 60) > 0.05:
        command = [sys.executable, __file__, options.what, "--worker", "--folder", str(options.folder)]
        command += ["--minutes", str(left), "--seed", str(options.seed + number)]
        number += 1
        (folder / "current").touch()
        (folder / "counts.json").write_text('{"counts": {}, "findings": {}}')
        with subprocess.Popen(command) as worker:
            wait_for(worker)
        if worker.returncode:
            shutil.copy(folder / "current", folder / f"died-{number}")
            found["a worker died"] += 1
            print(f"FINDING status {worker.returncode}: {folder / f'died-{number}'}", file=sys.stderr, flush=True)
        one = json.loads((folder / "counts.json").read_text())
        slowest = max(slowest, one["counts"].pop("slowest_ms", 0))
        total.update(one["counts"])
        found.update(one["findings"])
    minutes = round((time.monotonic() - began) / 60, 1)
    return {"minutes": minutes, **total, "slowest_ms": slowest, "findings": dict(found)}


if options.worker or options.replay:
    work()
else:
    results = watch()
    report(results, options.json)
    sys.exit(bool(results["findings"]))
