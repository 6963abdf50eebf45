"""Options of training that do not affect results. Does not import JAX."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..config import Config
from .trackers import trackers_of

Progress = Callable[[int, dict[str, float]], None]
"""Called with the environment step and the latest metrics after every segment, and about once a second within one."""


def _quiet(env_steps: int, metrics: dict[str, float]) -> None:
    del env_steps, metrics


class RunOptions(NamedTuple):
    """Options that do not affect results."""

    rewind_points: Sequence[int] = ()  # states that dense runs save besides their initial and final state
    checkpoint_every: int = 10  # segments
    trackers: Sequence[str] = ()  # keys of `trackers.TRACKERS`
    step_timeout: float | None = None  # seconds
    random_episodes: int = 200  # of the random policy, on each task
    threads: int = 1  # of the native kernel
    progress: Progress = _quiet

    def for_workers(self) -> dict[str, Any]:
        """Return the options by name as plain data for another process, which has its own way to tell of progress."""
        return {name: value for name, value in self._asdict().items() if name != "progress"}


def options_of(config: Config) -> RunOptions:
    """Return the run options of a config."""
    points = tuple(step for step in config.pruning.rewind_steps if step != "none")
    training = config.training
    return RunOptions(
        points,
        training.checkpoint_every,
        trackers_of(config),
        training.step_timeout,
        config.report.random_episodes,
        training.threads,
    )
