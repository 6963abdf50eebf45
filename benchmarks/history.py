"""Run the benchmarks of speed, and add every figure to benchmarks/history.csv, with processor and versions.

    python benchmarks/history.py [NAME ...] [--core 0]

Each release adds its figures; run it on a machine without other work (40 minutes in all). NAME chooses from the table below. What
compares one core is bound to `--core`. Columns: date, version and revision of lth; processor; versions; benchmark, figure, value.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import processor

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "history.csv"
COLUMNS = ("date", "lth", "revision", "processor", "versions", "benchmark", "figure", "value")
VERSIONS = ("jax", "jaxlib", "numpy", "torch", "sbx-rl", "stable-baselines3", "sparselab", "metaworld", "mujoco")

ONE_CORE = {
    "peers": "peers.py",
    "algorithms": "algorithms.py",
    "sparse_update": "sparse_update.py",
    "sparse_update_lower": "sparse_update.py --lower",
    "ticket_end_to_end": "ticket_end_to_end.py",
    "account_ticket": "account.py --sparsity 0.95 --run_steps 0",
    "account_dense": "account.py --run_steps 0",
    "dynamic": "dynamic.py",
    "acting": "acting.py",
    "rates": "rates.py",
    "gradient_statistics": "gradient_statistics.py",
    "mask": "mask.py",
    "study_cost": "study_cost.py --steps 10000",
}
TWO_CORES = {
    "sac_update": "sac_update.py --threads 2",
    "dense_vs_sbx": "dense_vs_sbx.py",
    "workers": "workers.py",
    "report": "report.py",
}


def figures(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a JSON value by their path: `dense_seconds.train`."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from figures(value, f"{name}.{key}".lstrip("."))
    elif isinstance(found, int | float) and not isinstance(found, bool):
        yield name, float(found)


def versions() -> str:
    """Return the versions of what is installed, `jax 0.10.2; numpy 2.4.6`."""
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return "; ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *ONE_CORE, *TWO_CORES], metavar="NAME")
    parser.add_argument("--core", type=int, default=0)
    options = parser.parse_args()
    revision = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    about = [
        importlib.metadata.version("lth"),
        revision.stdout.strip(),
        f"{processor()}, {os.cpu_count()} cores",
        versions(),
    ]
    every = os.sched_getaffinity(0)
    for name in options.names or [*ONE_CORE, *TWO_CORES]:
        script, *words = (ONE_CORE | TWO_CORES)[name].split()
        os.sched_setaffinity(0, {options.core} if name in ONE_CORE else every)  # the benchmark inherits it
        began = time.monotonic()
        command = [sys.executable, str(ROOT / "benchmarks" / script), "--json", *words]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name}: exit status {done.returncode}; nothing is added")
            continue
        found = list(figures(json.loads(done.stdout.splitlines()[-1])))
        new = not FILE.exists()
        with FILE.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            today = time.strftime("%Y-%m-%d", time.gmtime())
            writer.writerows([today, *about, name, figure, f"{value:.6g}"] for figure, value in found)
        print(f"{name}: {len(found)} figures in {time.monotonic() - began:.0f} s", flush=True)


main()
