"""Time the commands that do not train: on 2,000 finished runs, and on a plan of 50,000 runs.

    python benchmarks/bookkeeping.py [--json] [--seeds 10] [--folder DIR]

Writes result files with synthetic returns and networks of the usual size, two hidden layers of 256 (tests/helpers/grids.py): one
task, five methods, 20 sparsities and 10 seeds give 2,010 runs in 4 GB. Each figure is a whole process, including its start:
`lth status`; `lth run` with all runs finished, which writes the tables, for the first time (`first_tables_seconds` reads every run
and every pair of masks) and a second time; `lth report`; and `lth run --dry-run` of 50,250 planned runs. With `--folder`, the runs
are kept there and reused.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument("--folder", type=Path, help="keep the runs here, and reuse existing ones")
options = parser.parse_args()

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / place) for place in ("tests", "src")]

import yaml
from helpers.grids import make_grid

from lth.config import CONTROL_METHODS, DEFAULT_METHODS
from lth.experiment.plan import plan

GRID = {
    "tasks": ["Pendulum-v1"],
    "seeds": list(range(options.seeds)),
    "training": {"env_steps": 100_000, "backend": "dense"},
    "pruning": {
        "methods": [*DEFAULT_METHODS, *CONTROL_METHODS],
        "sparsity": [round(0.5 + 0.025 * i, 3) for i in range(20)],
    },
}


def seconds(*words: str) -> float:
    """Return the seconds that a command of lth takes."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-m", "lth", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"lth {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - started


def main(folder: Path) -> None:
    """Make the runs, unless they exist, and time the commands."""
    results, config = folder / "results", folder / "config.yaml"
    if not config.exists():
        made = make_grid(GRID, results)
        config.write_text(yaml.safe_dump({**GRID, "output_dir": str(made.output_dir)}))
    (results / ".tidy.json").unlink(missing_ok=True)
    many = folder / "many.yaml"
    many.write_text(yaml.safe_dump({**GRID, "seeds": list(range(250)), "output_dir": str(folder / "nothing")}))
    from lth.config import load_config

    figures = {
        "runs": len(plan(load_config(config)).specs),
        "status_seconds": seconds("status", str(config)),
        "first_tables_seconds": seconds("run", str(config)),
        "tables_seconds": seconds("run", str(config)),
        "report_seconds": seconds("report", str(config)),
        "planned_runs": len(plan(load_config(many)).specs),
        "dry_run_seconds": seconds("run", str(many), "--dry-run"),
    }
    report({name: round(value, 2) for name, value in figures.items()}, options.json)


if options.folder:
    options.folder.mkdir(parents=True, exist_ok=True)
    main(options.folder.resolve())
else:
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
