"""Plot learning curves of dense agents and of SBX's SAC and TD3 on HalfCheetah-v5, and of dense agents on Meta-World.

    python benchmarks/learning_curves.py [--output_dir results/curves] [--workers 2] [--only NAME ...] [--steps N]

Every curve has three seeds, with one thread each, two at a time. Finished runs are skipped, so the same command resumes an
interrupted study. Both sides have two hidden layers of 256, batches of 256, 5,000 random steps and one update per step, and are
evaluated with deterministic actions on the same ten episodes. Both TD3s explore with Gaussian noise of 0.1. Writes
docs/learning_curves.{csv,png}, or with --only or --steps the same files in the output directory.
"""

import csv
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import arguments

SEEDS = (0, 1, 2)
PAPER = {"temperature_loss": "alpha"}  # as docs/learning_curves.csv was made; benchmarks/temperature.py compares
CURVES = {
    # name: (task, environment steps, algorithm, settings of ours or None for SBX)
    "lth": ("HalfCheetah-v5", 50_000, "sac", PAPER),
    "lth, observations not normalised": ("HalfCheetah-v5", 50_000, "sac", {"normalize_obs": False, **PAPER}),
    "SBX": ("HalfCheetah-v5", 50_000, "sac", None),
    "lth TD3": ("HalfCheetah-v5", 50_000, "td3", {}),
    "lth TD3, observations not normalized": ("HalfCheetah-v5", 50_000, "td3", {"normalize_obs": False}),
    "SBX TD3": ("HalfCheetah-v5", 50_000, "td3", None),
    "drawer-close-v3": ("drawer-close-v3", 50_000, "sac", PAPER),
    "window-open-v3": ("window-open-v3", 100_000, "sac", PAPER),
}
EVERY, EPISODES, START_STEPS = 5_000, 10, 5_000
DOCS = Path(__file__).resolve().parents[1] / "docs"

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--output_dir", type=Path, default=Path("results/curves"))
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES))
parser.add_argument("--steps", type=int, help="environment steps, where not those of the study")
parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help="make one run, in this process")
options = parser.parse_args()


def steps_of(name: str) -> int:
    """Return the number of environment steps of a curve."""
    return options.steps or CURVES[name][1]


def spec_of(name: str, seed: int):
    """Return the spec of a run of lth."""
    from src.lth.algorithms import ALGORITHMS
    from src.lth.config import EvaluationConfig, TrainingConfig
    from src.lth.experiment.spec import DenseSpec

    return DenseSpec(
        task=CURVES[name][0],
        seed=seed,
        training=TrainingConfig(env_steps=steps_of(name), start_steps=START_STEPS, segment_steps=EVERY),
        agent=ALGORITHMS[CURVES[name][2]](**CURVES[name][3]),
        evaluation=EvaluationConfig(every=EVERY, episodes=EPISODES),
    )


def file_of(name: str, seed: int) -> Path:
    """Return the path of a run's metrics."""
    from src.lth.experiment import journal

    task, _, algorithm, settings = CURVES[name]
    if settings is None:
        kind = "" if algorithm == "sac" else f"{algorithm}-"
        return options.output_dir / "sbx" / f"{kind}{task}-{steps_of(name)}-seed{seed}.csv"
    return (options.output_dir / spec_of(name, seed).path) / journal.METRICS


def run_one(name: str, seed: int) -> None:
    """Make one run."""
    from src.lth.experiment.lottery import train_dense
    from src.lth.experiment.options import RunOptions

    def say(env_steps, metrics):
        print(name, seed, env_steps, {key: round(value, 2) for key, value in metrics.items() if "evaluation" in key})

    if CURVES[name][3] is not None:
        train_dense(options.output_dir, spec_of(name, seed), RunOptions(progress=say))
    else:
        run_sbx(name, seed, say)


def run_sbx(name: str, seed: int, say) -> None:
    """Train SBX's agent like lth's, and write the same metrics."""
    import gymnasium
    import numpy as np
    import sbx
    from stable_baselines3.common.noise import NormalActionNoise

    from src.lth.files import write_whole
    from src.lth.training import EVALUATION_SEED

    task, evaluation = CURVES[name][0], gymnasium.make(CURVES[name][0])
    actions = evaluation.action_space.shape
    noise = {"action_noise": NormalActionNoise(np.zeros(actions), np.full(actions, 0.1))}
    model = getattr(sbx, CURVES[name][2].upper())(
        "MlpPolicy",
        gymnasium.make(task),
        seed=seed,
        buffer_size=steps_of(name),
        batch_size=256,
        learning_starts=START_STEPS,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [256, 256]},
        **(noise if CURVES[name][2] == "td3" else {}),
    )
    rows = []
    for env_steps in range(0, steps_of(name) + 1, EVERY):
        if env_steps:
            model.learn(EVERY, reset_num_timesteps=False)
        returns = []
        for episode in range(EPISODES):
            observation, _ = evaluation.reset(seed=EVALUATION_SEED + episode)
            total, done = 0.0, False
            while not done:
                action, _ = model.predict(observation, deterministic=True)
                observation, reward, terminated, truncated, _ = evaluation.step(action)
                total, done = total + float(reward), terminated or truncated
            returns.append(total)
        rows.append((env_steps, "evaluation/return", sum(returns) / EPISODES))
        say(env_steps, {"evaluation/return": rows[-1][2]})
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("env_steps", "metric", "value"), *rows])
    write_whole(file_of(name, seed), text.getvalue().encode(), checksum=False)


def collect() -> list[dict]:
    """Read the evaluations of all runs: curve, task, seed, env_steps, metric, value."""
    rows = []
    for name in options.only:
        for seed in SEEDS:
            with file_of(name, seed).open() as file:
                for row in csv.DictReader(file):
                    if row["metric"].startswith("evaluation/"):
                        rows.append({"curve": name, "task": CURVES[name][0], "seed": seed, **row})
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Plot the mean over seeds of each curve, and the range from the lowest to the highest seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    panels = [("HalfCheetah-v5", "evaluation/return"), ("Meta-World", "evaluation/success")]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, (title, metric) in zip(axes, panels, strict=True):
        names = [n for n in options.only if (CURVES[n][0] == "HalfCheetah-v5") == (title == "HalfCheetah-v5")]
        for name in names:
            values: dict[int, list[float]] = {}
            for row in rows:
                if row["curve"] == name and row["metric"] == metric:
                    values.setdefault(int(row["env_steps"]), []).append(float(row["value"]))
            x = sorted(values)
            y = np.array([values[step] for step in x])
            (line,) = axis.plot(x, y.mean(1), label=name)
            axis.fill_between(x, y.min(1), y.max(1), color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(title=f"{title}, mean and range of 3 seeds", xlabel="environment steps", ylabel=metric.split("/")[1])
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Make missing runs, then write the CSV file and the plot."""
    todo = [(name, seed) for name in options.only for seed in SEEDS if not file_of(name, seed).exists()]

    def start(run: tuple[str, int]) -> int:
        command = [sys.executable, *sys.argv, "--one", run[0], str(run[1])]
        return subprocess.run(command, check=False).returncode

    with ThreadPoolExecutor(options.workers) as pool:
        failed = [run for run, status in zip(todo, pool.map(start, todo), strict=True) if status]
    if failed:
        raise SystemExit(f"failed: {failed}")
    rows = collect()
    folder = options.output_dir if options.steps or set(options.only) != set(CURVES) else DOCS
    with (folder / "learning_curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, folder / "learning_curves.png")
    print(f"wrote {folder / 'learning_curves.csv'} and .png")


if options.one:
    run_one(options.one[0], int(options.one[1]))
else:
    main()
