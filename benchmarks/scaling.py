"""Measure how time and memory scale with network width, batch size, environments and replay buffer size.

    python benchmarks/scaling.py [--json] [--task HalfCheetah-v5] [--steps 320] [--repeats 3] [--docs]

Starting from 2 hidden layers of 256, batch 256, 1 environment and 1e5 transitions, one of the four is varied at a time, with one
thread. Each setting is trained in a separate process (full replay buffer, one update per environment step), which reports the
median time of a segment of `--steps` environment steps and its peak memory. `--docs` writes docs/scaling.csv and
docs/scaling.png.
"""

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

from common import arguments, report

BASE = {"width": 256, "batch": 256, "envs": 1, "replay": 100_000}
VALUES = {
    "width": (64, 128, 256, 512, 1024),
    "batch": (64, 128, 256, 512, 1024, 2048),
    "envs": (1, 2, 4, 8, 16),
    "replay": (10_000, 100_000, 1_000_000),
}
DOCS = Path(__file__).resolve().parents[1] / "docs"

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--steps", type=int, default=320)
parser.add_argument("--repeats", type=int, default=3)
parser.add_argument("--docs", action="store_true", help="write docs/scaling.csv and docs/scaling.png")
parser.add_argument("--one", type=json.loads, metavar="JSON", help="internal: measure one setting in this process")
options = parser.parse_args()


def measure(setting: dict[str, int]) -> dict[str, float]:
    """Train briefly with one setting."""
    import statistics

    import jax
    import numpy as np

    from src.lth import envs
    from src.lth.config import SACConfig, TrainingConfig
    from src.lth.replay import init_replay, insert
    from src.lth.training import train

    sizes = (setting["width"],) * 2
    config = SACConfig(actor_hidden=sizes, critic_hidden=sizes, buffer_size=setting["replay"])
    loop = TrainingConfig(
        env_steps=10**9,
        start_steps=0,
        segment_steps=options.steps,
        num_envs=setting["envs"],
        batch_size=setting["batch"],
    )
    spaces = envs.spaces_of(envs.make(options.task))
    algorithm = config.build(spaces, options.task)
    rows = np.random.default_rng(0).standard_normal(
        (setting["replay"], 2 * spaces.observation_dim + spaces.action_width + 2), np.float32
    )
    state = algorithm.init(jax.random.key(0))
    replay = insert(init_replay(len(rows), spaces.observation_dim, spaces.action_width), rows)
    del rows
    segments = train(algorithm, loop, options.task, 0, state, replay, 10**9)
    next(segments)
    seconds = statistics.median(next(segments).seconds for _ in range(options.repeats))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms_per_env_step": 1e3 * seconds / options.steps, "peak_megabytes": peak}


def plot(rows: list[dict], path: Path) -> None:
    """Plot time and memory against each of the four settings."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(12, 5), layout="constrained", sharey="row")
    labels = {
        "width": "width of both hidden layers",
        "batch": "batch",
        "envs": "environments",
        "replay": "replay buffer",
    }
    for column, name in enumerate(VALUES):
        mine = [row for row in rows if row["varied"] == name]
        for line, (metric, label) in enumerate(
            (("ms_per_env_step", "ms per environment step"), ("peak_megabytes", "peak memory, MB"))
        ):
            axis = axes[line, column]
            axis.plot([row[name] for row in mine], [row[metric] for row in mine], marker="o")
            axis.set_xscale("log", base=10 if name == "replay" else 2)
            axis.set_xticks([row[name] for row in mine], [f"{row[name]:,}" for row in mine])
            axis.minorticks_off()
            if line:
                axis.set_ylim(0, 1.1 * max(row["peak_megabytes"] for row in rows))
            else:
                axis.set_yscale("log")
                axis.set_yticks((1, 3, 10, 30), ("1", "3", "10", "30"))
            axis.grid(alpha=0.3)
            if line:
                axis.set_xlabel(labels[name])
            if not column:
                axis.set_ylabel(label)
    figure.savefig(path, dpi=110)


def main() -> None:
    rows = []
    for varied, values in VALUES.items():
        for value in values:
            setting = BASE | {varied: value}
            command = [sys.executable, *sys.argv, "--one", json.dumps(setting)]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rows.append({"varied": varied, **setting, **json.loads(found.splitlines()[-1])})
            if not options.json:
                report(rows[-1], as_json=True)
    if options.json:
        report({"settings": rows}, as_json=True)
    if options.docs:
        with (DOCS / "scaling.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        plot(rows, DOCS / "scaling.png")


if options.one:
    print(json.dumps({name: round(value, 3) for name, value in measure(options.one).items()}))
else:
    main()
