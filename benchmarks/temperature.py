"""Compare the temperature losses of SAC: dense agents with `sac.temperature_loss` alpha and log_alpha, all else equal.

    python benchmarks/temperature.py [--output_dir results/temperature] [--configs 1] [--workers 2] [--steps 50000] [--json]

Trains on HalfCheetah-v5 with and without normalized observations, and on drawer-close-v3, with three seeds each. Runs `--configs`
of the six configs at a time, with `--workers` seeds each. Finished runs are skipped, so the same command resumes an interrupted
study. Writes temperature.csv to the output directory (docs/temperature.csv is a copy), and prints the last evaluations.
"""

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import arguments

SETTINGS = {
    "HalfCheetah-v5": ("HalfCheetah-v5", True),
    "HalfCheetah-v5, observations not normalized": ("HalfCheetah-v5", False),
    "drawer-close-v3": ("drawer-close-v3", True),
}
LOSSES = ("alpha", "log_alpha")
METRICS = ("evaluation/return", "evaluation/success", "train/alpha", "train/entropy")

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--output_dir", type=Path, default=Path("results/temperature"))
parser.add_argument("--configs", type=int, default=1)
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--steps", type=int, default=50_000)
parser.add_argument("--seeds", type=int, default=3)
options = parser.parse_args()


def config_of(setting: str, loss: str) -> dict:
    """Return the config of one setting's dense agents."""
    task, normalize_obs = SETTINGS[setting]
    return {
        "tasks": [task],
        "seeds": list(range(options.seeds)),
        "output_dir": str(options.output_dir.resolve()),
        "workers": options.workers,
        "training": {
            "env_steps": options.steps,
            "start_steps": options.steps // 10,
            "segment_steps": options.steps // 10,
        },
        "sac": {"normalize_obs": normalize_obs, "temperature_loss": loss},
        "evaluation": {"every": options.steps // 10, "episodes": 10},
        "pruning": {"methods": ["magnitude"], "sparsity": [0.9]},
    }


def make(setting: str, loss: str) -> None:
    """Train one setting's dense agents with `lth run` in a separate process."""
    path = options.output_dir / f"{setting}-{loss}.json"
    path.write_text(json.dumps(config_of(setting, loss)))  # JSON is YAML too
    command = [sys.executable, "-m", "lth", "run", str(path), "--only", "/dense-"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"{setting}, {loss}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-1500:]}", file=sys.stderr)


def collect() -> list[dict]:
    """Read the evaluations of the finished runs."""
    from src.lth.api import planned_runs
    from src.lth.config import parse_config

    rows = []
    for setting in SETTINGS:
        for loss in LOSSES:
            for spec in planned_runs(parse_config(config_of(setting, loss))).specs:
                metrics = options.output_dir / spec.path / "metrics.csv"
                if spec.stage != "dense" or not metrics.exists():
                    continue
                with metrics.open() as file:
                    rows += [
                        {"setting": setting, "temperature_loss": loss, "seed": spec.seed, **row}
                        for row in csv.DictReader(file)
                        if row["metric"] in METRICS
                    ]
    return rows


options.output_dir.mkdir(parents=True, exist_ok=True)
pairs = [(setting, loss) for setting in SETTINGS for loss in LOSSES]
with ThreadPoolExecutor(options.configs) as pool:
    list(pool.map(make, *zip(*pairs, strict=True)))
found = collect()
if not found:
    raise SystemExit(
        f"no run of these settings is finished in {options.output_dir}: did `lth run` fail, or lth change in between?"
    )
with (options.output_dir / "temperature.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
last = {f"{setting}, {loss}": [] for setting, loss in pairs}
for row in found:
    if row["metric"] == "evaluation/return" and int(row["env_steps"]) == options.steps:
        last[f"{row['setting']}, {row['temperature_loss']}"].append(round(float(row["value"]), 1))
if options.json:
    print(json.dumps(last))
else:
    for name, values in last.items():
        print(f"{name}: {values}")
