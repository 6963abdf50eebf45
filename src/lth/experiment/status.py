"""How far a grid has come, read from its files alone; and what of them it no longer needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..errors import InputError
from . import store
from .spec import Spec, TicketSpec, grid, training_steps
from .stages import how_of, is_made


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


def states(config: Config) -> list[State]:
    """Return the state of every run of a config."""
    return [_state(config, spec) for spec in grid(config)]


def _state(config: Config, spec: Spec) -> State:
    run = store.directory(config.output_dir, spec)
    files = [file for file in run.rglob("*") if file.is_file()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    start = spec.start if isinstance(spec, TicketSpec) else 0
    total = training_steps(spec)
    running = store.is_locked(run / store.LOCK)
    progress = store.read_progress(run) if running else {}
    done = max(int(progress.get("env_steps", start)) - start, 0)
    failures = store.read_lines(run / store.FAILURES)
    message = failures[-1]["message"] if failures else ""
    if running:
        return State(spec, "running", done, total, 0.0, megabytes, progress, "")
    if is_made(config.output_dir, spec, how_of(config)):
        seconds = float(store.read_timings(run).get("total", 0.0))
        return State(spec, "finished", total, total, seconds, megabytes, {}, "")
    if failures and len(failures) >= len(store.read_lines(run / store.ATTEMPTS)):
        return State(spec, "failed", 0, total, 0.0, megabytes, {}, message)
    return State(spec, "interrupted" if files else "to do", 0, total, 0.0, megabytes, {}, "")


def clean(config: Config, dry_run: bool = False) -> tuple[list[Path], float]:
    """Remove what a finished grid no longer needs: the replay buffers of tickets, and what killed processes left.

    Returns:
        The files, and how many megabytes they take.

    Raises:
        InputError: runs of the grid are not finished yet, or a run is being made.
    """
    if not config.output_dir.is_dir():
        raise InputError(f"there is no folder {config.output_dir}")
    with store.locked(config.output_dir / store.LOCK) as have:
        if not have:
            raise InputError(f"an `lth run` is at work in {config.output_dir}; clean up when it has ended")
        unfinished = [state for state in states(config) if state.state != "finished"]
        if unfinished:
            raise InputError(
                f"{len(unfinished)} runs of this grid are not finished, such as {unfinished[0].spec.title()}: `lth run` first. "
                "Nothing was removed."
            )
        files = _unneeded(config.output_dir, grid(config))
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        if not dry_run:
            for file in files:
                file.unlink(missing_ok=True)
        return files, megabytes


def _unneeded(root: Path, specs: Sequence[Spec]) -> list[Path]:
    found: list[Path] = []
    for spec in specs:
        run = store.directory(root, spec)
        found += [*run.glob(".*.partial"), *run.glob(store.RESUME), *run.glob(store.PROGRESS)]
        if isinstance(spec, TicketSpec):
            found += sorted(run.glob(f"{store.REPLAY_BUFFER}*"))
    return found
