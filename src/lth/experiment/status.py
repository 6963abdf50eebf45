"""How far a grid has come, read from its files alone; and what of them it no longer needs. Imports no JAX."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import InputError
from . import journal
from .plan import Plan
from .spec import Spec, TicketSpec


class Outcome(NamedTuple):
    """How one run ended."""

    spec: Spec
    status: Literal[
        "done", "kept", "failed", "skipped"
    ]  # kept: finished before; skipped: a run that it depends on failed
    seconds: float  # of this attempt; of a kept run, of all its training
    message: str = ""


class Display:
    """What is told of a grid while it runs. This one shows nothing."""

    def begin(self, spec: Spec) -> None:
        """A run starts."""

    def step(self, spec: Spec, env_steps: int, metrics: dict[str, float]) -> None:
        """A run has come to an environment step."""

    def note(self, spec: Spec, text: str) -> None:
        """Something happened that does not end the run: it is tried again."""

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""


class State(NamedTuple):
    """One run of a grid. `state` is finished, running, failed, interrupted (it has begun) or to do."""

    spec: Spec
    state: str
    env_steps: int  # trained so far
    total_steps: int
    seconds: float  # that it took, if it is finished
    megabytes: float
    progress: dict[str, Any]
    message: str


def states(plan: Plan) -> list[State]:
    """Return the state of every run of a plan."""
    points = [step for step in plan.config.pruning.rewind_steps if step != "none"]
    return [_state(plan.root, spec, points) for spec in plan.specs]


def _state(root: Path, spec: Spec, points: Iterable[int]) -> State:
    run, total = root / spec.path, spec.env_steps
    sizes = list(_sizes(run))
    begun = State(spec, "interrupted", 0, total, 0.0, sum(sizes) / 1e6, {}, "")
    if not sizes:
        return begun._replace(state="to do")
    if journal.is_locked(run / journal.LOCK):
        progress = journal.read_progress(run)
        done = min(max(progress.get("env_steps", 0) - spec.start, 0), total)
        return begun._replace(state="running", env_steps=done, progress=progress)
    try:
        made = journal.is_made(root, spec, points)
    except InputError as error:
        return begun._replace(state="failed", message=str(error))
    if made:
        seconds = journal.read_timings(run).get("total", 0.0)
        return begun._replace(state="finished", env_steps=total, seconds=seconds)
    if failure := journal.last_failure(run):
        return begun._replace(state="failed", message=str(failure.get("message", "")))
    return begun


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the sizes in bytes of all files below a folder, as far as they can be read; none where there is no folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry))
            elif entry.is_file():
                yield entry.stat().st_size


def clean(plan: Plan, dry_run: bool = False) -> tuple[list[Path], float]:
    """Remove what a finished grid no longer needs: the replay buffers of tickets, and what killed processes left.

    Returns:
        The files, and how many megabytes they take.

    Raises:
        InputError: runs of the grid are not finished yet, or a run is being made.
    """
    if not plan.root.is_dir():
        raise InputError(f"there is no folder {plan.root}")
    with journal.locked(plan.root / journal.LOCK) as have:
        if not have:
            raise InputError(f"an `lth run` is at work in {plan.root}; clean up when it has ended")
        unfinished = [state for state in states(plan) if state.state != "finished"]
        if unfinished:
            raise InputError(
                f"{len(unfinished)} runs of this grid are not finished, such as {unfinished[0].spec.title()}: `lth run` first. "
                "Nothing was removed."
            )
        files = list(_unneeded(plan))
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        if not dry_run:
            for file in files:
                file.unlink(missing_ok=True)
        return files, megabytes


def _unneeded(plan: Plan) -> Iterable[Path]:
    for spec in plan.specs:
        run = plan.root / spec.path
        yield from (*run.glob(".*.partial"), *run.glob(journal.RESUME), *run.glob(journal.PROGRESS))
        if isinstance(spec, TicketSpec):
            yield from sorted(run.glob(f"{journal.REPLAY_BUFFER}*"))
