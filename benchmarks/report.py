"""Measure the size of the report of a grid of 200 runs, and the time that `lth report` takes.

    python benchmarks/report.py [--json] [--seeds 5]

Writes result files with synthetic returns and networks of the usual size (tests/helpers/grids.py): 2 tasks, 5 methods, 4 sparsities
and 5 seeds give 210 training runs and 200 masks. `seconds` is the wall time of a whole process, including its start, `cpu_seconds`
its CPU time, which depends less on other load, and `megabytes` the size of the page.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=5)
options = parser.parse_args()

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / place) for place in ("tests", "src")]

import yaml
from helpers.grids import make_grid

from lth.config import CONTROL_METHODS, DEFAULT_METHODS
from lth.experiment.plan import plan
from lth.experiment.spec import MaskSpec

GRID = {
    "tasks": ["HalfCheetah-v5", "drawer-close-v3"],
    "seeds": list(range(options.seeds)),
    "training": {"env_steps": 200_000},
    "pruning": {"methods": [*DEFAULT_METHODS, *CONTROL_METHODS], "sparsity": [0.8, 0.9, 0.95, 0.98]},
}

with tempfile.TemporaryDirectory() as folder:
    config = make_grid(GRID, Path(folder) / "results")
    path = Path(folder) / "config.yaml"
    path.write_text(yaml.safe_dump({**GRID, "output_dir": str(config.output_dir)}))
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lth", "report", str(path)], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    spent = os.times()
    size = (config.output_dir / "report.html").stat().st_size

report(
    {
        "megabytes": round(size / 1e6, 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(spent.children_user + spent.children_system, 1),
        "training_runs": sum(not isinstance(spec, MaskSpec) for spec in plan(config).specs),
    },
    options.json,
)
