"""Environment steps a second of dense training, ours beside SBX's SAC.

    python benchmarks/dense_vs_sbx.py [--json] [--task HalfCheetah-v5] [--steps 500] [--repeats 9]

Both train two hidden layers of 256 with batches of 256, and act, step and update strictly in turn (SBX: train_freq=1,
gradient_steps=1), each in processes of its own with 1 and 2 threads and the whole machine to itself while it is its turn.
The processes are warmed up, then asked in turn for `--steps` steps each; the medians of each side's better number of threads
are compared. `env_steps_ratio` is ours over SBX's.
"""

import subprocess
import sys

from common import arguments, interleave, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--task", default="HalfCheetah-v5")
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--repeats", type=int, default=9)
parser.add_argument("--worker", nargs=2, metavar=("SIDE", "THREADS"), help="be one of the processes that are timed")
options = parser.parse_args()

SIDES = ("ours", "sbx")
THREADS = (1, 2)
LONGEST = 10_000_000


def ours(threads: int) -> None:
    """Train `--steps` steps for each line of standard input."""
    import jax

    from src.lth import envs
    from src.lth.config import SACConfig, TrainingConfig
    from src.lth.replay import init_replay
    from src.lth.sac.agent import init_state
    from src.lth.training import train

    config = SACConfig(buffer_size=100_000)
    training = TrainingConfig(
        env_steps=LONGEST, start_steps=options.steps, segment_steps=options.steps, threads=threads
    )
    observation_dim, action_dim = envs.dimensions(envs.make(options.task))
    state = init_state(config, jax.random.key(0), observation_dim, action_dim)
    replay = init_replay(config.buffer_size, observation_dim, action_dim)
    segments = train(config, training, options.task, 0, state, replay, LONGEST)
    serve(lambda: next(segments))


def sbx() -> None:
    """The same for SBX."""
    import gymnasium
    from sbx import SAC

    model = SAC(
        "MlpPolicy",
        gymnasium.make(options.task),
        seed=0,
        buffer_size=100_000,
        batch_size=256,
        learning_starts=options.steps,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [256, 256]},
    )
    serve(lambda: model.learn(options.steps, reset_num_timesteps=False))


def serve(step) -> None:
    """Do it twice to warm up (steps without learning, then compilation), then once for each line that is read."""
    for _ in range(2):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def start(side: str, threads: int) -> subprocess.Popen:
    """Start a process that is to be timed, and wait until it is warm."""
    command = [sys.executable, __file__, "--task", options.task, "--steps", str(options.steps)]
    process = subprocess.Popen(
        [*command, "--worker", side, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    expect(process, "ready")
    return process


def expect(process: subprocess.Popen, word: str) -> None:
    """Read a line from a process."""
    line = process.stdout.readline().strip()
    if line != word:
        raise SystemExit(f"a worker ended early: {line!r}")


def ask(process: subprocess.Popen) -> None:
    """Have a process train its steps."""
    process.stdin.write("go\n")
    process.stdin.flush()
    expect(process, "done")


def main() -> None:
    processes = {(side, threads): start(side, threads) for side in SIDES for threads in THREADS}
    try:
        seconds = interleave(
            {f"{side} {threads}": lambda p=p: ask(p) for (side, threads), p in processes.items()}, options.repeats
        )
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    rate = {name: options.steps / value for name, value in seconds.items()}
    best = {side: max(THREADS, key=lambda t, side=side: rate[f"{side} {t}"]) for side in SIDES}
    results = {"env_steps_ratio": rate[f"ours {best['ours']}"] / rate[f"sbx {best['sbx']}"]}
    for side in SIDES:
        results[f"{side}_best_threads"] = best[side]
        for threads in THREADS:
            results[f"{side}_steps_per_second_{threads}_threads"] = rate[f"{side} {threads}"]
    report({"task": options.task, **results}, options.json)


if options.worker:
    side, threads = options.worker[0], int(options.worker[1])
    from src.lth.threads import set_threads

    set_threads(threads)
    ours(threads) if side == "ours" else sbx()
else:
    main()
