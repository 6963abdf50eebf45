"""Processes that train a dense agent (native or XLA), a ticket, or SBX's or SB3's SAC, for benchmarks that time them in turn.

    python benchmarks/trainers.py {dense,ticket,rigl,xla,rigl-xla,sbx,sb3} THREADS TASK STEPS [SPARSITY]

All have two hidden layers of 256 and batches of 256, and act, step and update strictly in turn (SBX and SB3: train_freq=1,
gradient_steps=1). A process warms up (steps without learning, then compilation), writes "ready", and trains STEPS environment
steps for each line that it reads.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import interleave

from src.lth.threads import set_threads

LONGEST = 10_000_000
LIBRARIES = {"sbx": "sbx", "sb3": "stable_baselines3"}


def ours(threads: int, task: str, steps: int, sparsity: float, native: bool, rigged: bool):
    """Return what trains our agent for some steps: dense at sparsity 0, else a random ticket (ERK), whose mask RigL may move."""
    import jax

    from src.lth import envs
    from src.lth.algorithms.tickets import make_ticket
    from src.lth.config import SACConfig, TrainingConfig
    from src.lth.pruning.controls import random_mask
    from src.lth.pruning.schedules import rigl
    from src.lth.replay import init_replay
    from src.lth.sparse.native import set_threads
    from src.lth.training import train

    config = SACConfig(buffer_size=100_000)
    training = TrainingConfig(env_steps=LONGEST, start_steps=steps, segment_steps=steps, threads=threads)
    spaces = envs.spaces_of(envs.make(task))
    algorithm = config.build(spaces, task)
    state = algorithm.init(jax.random.key(0))
    if sparsity:
        masks = {name: random_mask(p, sparsity, jax.random.key(1), (), "erk") for name, p in state.params.items()}
        state = make_ticket(state, masks)
    if rigged:
        opts = {n: state.opts[n]._replace(schedule=rigl(p, every=100, until=LONGEST)) for n, p in state.params.items()}
        state = state._replace(opts={**state.opts, **opts})
    replay = init_replay(config.buffer_size, spaces.observation_dim, spaces.action_width)
    if native:
        set_threads(threads)
    segments = train(algorithm, training, task, 0, state, replay, LONGEST, native=native)
    return lambda: next(segments)


def theirs(library: str, task: str, steps: int):
    """Return what trains the SAC of sbx or stable_baselines3 for some steps."""
    import gymnasium
    import torch

    SAC = importlib.import_module(library).SAC
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    model = SAC(
        "MlpPolicy",
        gymnasium.make(task),
        seed=0,
        buffer_size=100_000,
        batch_size=256,
        learning_starts=steps,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [256, 256]},
    )
    return lambda: model.learn(steps, reset_num_timesteps=False)


def start(side: str, threads: int, task: str, steps: int, sparsity: float = 0.0) -> subprocess.Popen:
    """Start a process and wait until it is warm."""
    command = [sys.executable, __file__, side, str(threads), task, str(steps), str(sparsity)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _expect(process, "ready")
    return process


def ask(process: subprocess.Popen) -> None:
    """Have a process train its steps."""
    process.stdin.write("go\n")
    process.stdin.flush()
    _expect(process, "done")


def stop(processes) -> None:
    """End processes."""
    for process in processes:
        process.stdin.close()
        process.wait()


def rates(sides: dict[str, str], task: str, steps: int, sparsity: float, core: int, repeats: int) -> dict[str, float]:
    """Return the environment steps a second of each side, {name: side}, trained in turn on the same one core; medians."""
    os.sched_setaffinity(0, {core})  # the processes inherit it
    processes = {name: start(side, 1, task, steps, sparsity) for name, side in sides.items()}
    try:
        seconds = interleave({name: lambda p=p: ask(p) for name, p in processes.items()}, repeats)
    finally:
        stop(processes.values())
    return {name: steps / value for name, value in seconds.items()}


def _expect(process: subprocess.Popen, word: str) -> None:
    line = process.stdout.readline().strip()
    if line != word:
        raise SystemExit(f"a process that was to be timed ended early: {line!r}")


def main() -> None:
    side, threads, task, steps, sparsity = sys.argv[1:]
    set_threads(int(threads) if side in ("xla", "rigl-xla", *LIBRARIES) else 1)  # the kernel has threads of its own
    if side in LIBRARIES:
        step = theirs(LIBRARIES[side], task, int(steps))
    else:
        share = 0.0 if side in ("dense", "xla") else float(sparsity)
        step = ours(int(threads), task, int(steps), share, "xla" not in side, "rigl" in side)
    for _ in range(2):
        step()
    print("ready", flush=True)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


if __name__ == "__main__":
    main()
