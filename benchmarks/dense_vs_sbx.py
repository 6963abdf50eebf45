"""Compare the environment steps per second of dense training in lth and in SBX's SAC.

    python benchmarks/dense_vs_sbx.py [--json] [--task HalfCheetah-v5] [--steps 500] [--repeats 9]

Both train two hidden layers of 256 with batches of 256, and alternate strictly between acting, stepping and updating (SBX:
train_freq=1, gradient_steps=1). Each side runs in separate processes with 1 and 2 threads, and only one process works at a time.
After a warm-up, the processes take turns of `--steps` steps. Compares the medians of each side's better number of threads;
`env_steps_ratio` is lth over SBX.
"""

from common import arguments, interleave, report
from trainers import ask, start, stop

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--repeats", type=int, default=9)
options = parser.parse_args()

SIDES = {"ours": "dense", "sbx": "sbx"}
THREADS = (1, 2)


def main() -> None:
    processes = {
        (name, threads): start(side, threads, options.task, options.steps)
        for name, side in SIDES.items()
        for threads in THREADS
    }
    try:
        seconds = interleave(
            {f"{name} {threads}": lambda p=p: ask(p) for (name, threads), p in processes.items()}, options.repeats
        )
    finally:
        stop(processes.values())
    rate = {name: options.steps / value for name, value in seconds.items()}
    best = {side: max(THREADS, key=lambda t, side=side: rate[f"{side} {t}"]) for side in SIDES}
    results = {"env_steps_ratio": rate[f"ours {best['ours']}"] / rate[f"sbx {best['sbx']}"]}
    for side in SIDES:
        results[f"{side}_best_threads"] = best[side]
        for threads in THREADS:
            results[f"{side}_steps_per_second_{threads}_threads"] = rate[f"{side} {threads}"]
    report({"task": options.task, **results}, options.json)


main()
