"""Measure the speedup of the quickstart with two workers over one, with one thread per run.

    python benchmarks/workers.py [--json] [--repeats 1] [KEY=VALUE ...]

`speedup_2_workers` is the median wall time of `lth run` with workers=1 over that with workers=2, measured alternately; each starts
in an empty folder.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--repeats", type=int, default=1)
parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings of the quickstart to override")
options = parser.parse_args()

CONFIG = Path(__file__).resolve().parents[1] / "config.yaml"


def quickstart(workers: int) -> None:
    """Make the quickstart in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*options.words, f"workers={workers}", "training.threads=1", f"output_dir={folder}"]
        command = [sys.executable, "-m", "lth", "run", str(CONFIG), *words]
        subprocess.run(command, check=True, capture_output=True)


seconds = interleave({"1": lambda: quickstart(1), "2": lambda: quickstart(2)}, options.repeats)
report(
    {
        "speedup_2_workers": seconds["1"] / seconds["2"],
        "seconds_1_worker": round(seconds["1"], 1),
        "seconds_2_workers": round(seconds["2"], 1),
    },
    options.json,
)
