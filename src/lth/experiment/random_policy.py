"""The uniform random policy on a task: the zero of its scores, measured once for each output directory."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import envs
from ..files import csv_bytes, read_rows, write_whole
from .journal import LOCK, locked
from .spec import folder_name

FILE = "returns.csv"
_SEED = 0


class Episode(NamedTuple):
    """One row of the file."""

    episode: int
    total_return: float
    success: float  # 0 or 1; NaN where the task defines none


def random_policy_file(root: Path, task: str) -> Path:
    """Return where the episodes of a task are kept."""
    return root / folder_name(task) / "random-policy" / FILE


def measure_random_policy(root: Path, task: str, episodes: int = 200, step_timeout: float | None = None) -> None:
    """Run evaluation episodes with uniformly random actions, unless that was done or another process is at it.

    The episodes are those that agents are evaluated on, and those that follow; the actions come from a Generator of seed 0.

    Raises:
        InputError: the folder cannot be written, or an episode does not end.
        TrainingError: the environment raised.
    """
    from ..training import run_episodes  # loads JAX, which reading does not need

    path = random_policy_file(root, task)
    if path.exists():
        return
    with locked(path.parent / LOCK) as mine:
        if not mine or path.exists():
            return
        with contextlib.closing(envs.make(task, _SEED, envs.EVALUATE, step_timeout=step_timeout)) as env:
            spaces, rng = envs.spaces_of(env), np.random.default_rng(_SEED)
            found = run_episodes(lambda observation: spaces.random_actions(rng, 1), env, episodes)
        successes = found.successes or [float("nan")] * episodes
        rows = [Episode(i, *both) for i, both in enumerate(zip(found.returns, successes, strict=True))]
        write_whole(path, csv_bytes(Episode._fields, rows), checksum=False)


def measure_in_a_process(root: Path, task: str, episodes: int = 200, step_timeout: float | None = None) -> None:
    """Call `measure_random_policy` in a separate process, which is ended if a step exceeds `step_timeout`. Errors are ignored."""
    arguments = [str(root), task, str(episodes), *([str(step_timeout)] if step_timeout else [])]
    nothing = subprocess.DEVNULL
    command = [sys.executable, "-m", __name__, *arguments]
    subprocess.run(command, stdin=nothing, stdout=nothing, stderr=nothing, check=False)


def read_random_policy(root: Path, task: str) -> dict[str, float]:
    """Return what the random policy reached, by metric; empty where it was not measured.

    Returns:
        `random_policy/return`, its standard error `random_policy/return_error`, `random_policy/episodes`, and
        `random_policy/success` with `random_policy/success_error` where the task defines success.

    Raises:
        InputError: the file is damaged.
    """
    path = random_policy_file(root, task)
    if not path.exists():
        return {}
    rows = read_rows(path, "the random policy's episodes", Episode, "Delete it, and `lth run` makes it again.")
    returns, successes = [row.total_return for row in rows], [row.success for row in rows]
    found = {"random_policy/return": float(np.mean(returns)), "random_policy/return_error": _error(returns)}
    if not np.isnan(successes).any():
        found |= {"random_policy/success": float(np.mean(successes)), "random_policy/success_error": _error(successes)}
    return found | {"random_policy/episodes": float(len(rows))}


def _error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    measure_random_policy(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *map(float, sys.argv[4:]))
