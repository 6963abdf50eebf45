"""Compare the returns of tickets on another backend and on the dense one, on the same grid, paired by seed.

    python benchmarks/backend_returns.py [--json] [--backend native] [--seeds 10] [--sparsity 0.9] [--output-dir DIR]
                                         [--config config.yaml] [--task TASK]

`--backend batched` trains all runs of a kind in one batch; on a task that lives on the device their random numbers are others, too.
`difference` is the mean over seeds of the ticket's last return on the backend minus the dense backend's, `low` and `high` its 95 %
interval (Student's t over paired seeds), and `dense` the mean return of the dense backend's tickets.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=10)
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--config", default=str(Path(__file__).resolve().parents[1] / "config.yaml"))
parser.add_argument("--output-dir", type=Path)
parser.add_argument("--backend", choices=["native", "batched"], default="native")
parser.add_argument("--task", default=None)
options = parser.parse_args()

import numpy as np
from scipy import stats


def returns(root: Path, backend: str) -> np.ndarray:
    """Run the grid on a backend; returns the tickets' last returns by seed."""
    words = [f"output_dir={root / backend}", f"seeds={list(range(options.seeds))}"]
    words += ["executor=batched", f"batch={options.seeds}"] if backend == "batched" else [f"training.backend={backend}"]
    words += [f"tasks=[{options.task}]"] if options.task else []
    words += ["pruning.methods=[magnitude]", f"pruning.sparsity=[{options.sparsity}]", "report.primary=null"]
    subprocess.run([sys.executable, "-m", "lth", "run", options.config, *words], check=True, stdout=sys.stderr)
    with (root / backend / "runs.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["seed"]))
    return np.array([float(row["ticket_return"]) for row in rows])


def main() -> None:
    root = options.output_dir or Path(tempfile.mkdtemp())
    dense, other = returns(root, "dense"), returns(root, options.backend)
    difference = other - dense
    half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    mean = float(difference.mean())
    report(
        {
            "seeds": len(dense),
            "dense": float(dense.mean()),
            "difference": mean,
            "low": mean - half,
            "high": mean + half,
        },
        options.json,
    )


main()
