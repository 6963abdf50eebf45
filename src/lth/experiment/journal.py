"""The state of a run on disk: finished or not, progress, attempts, failures and locks. Does not import JAX."""

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import FIX_FOLDER, InputError, UnwritableError
from ..files import parse_json, read_json, read_rows, read_text, read_whole
from .spec import SPEC_VERSION, ConnectivitySpec, DenseSpec, MaskSpec, Spec, takes_gradients

SPEC = "spec.json"
CHECKPOINT = "checkpoint.safetensors"
REPLAY_BUFFER = "replay_buffer.pkl"
CONNECTIVITY = "connectivity.csv"
MASK = "mask.pkl"
MASK_GRADIENT = "mask_gradient.pkl"
METRICS = "metrics.csv"
TIMINGS = "timings.json"
RESUME = "resume.safetensors"
VERIFIED = ".verified.json"
ATTEMPTS = "attempts.jsonl"
FAILURES = "failures.jsonl"
PROGRESS = "progress.json"  # for `lth status`
LOCK = ".lock"
RETURN, SUCCESS = "evaluation/return", "evaluation/success"
"""The metrics of an evaluation."""


def checkpoint_file(run: Path, env_steps: int | None = None) -> Path:
    """Return the path of the checkpoint at an environment step; None is the end of training."""
    return run / (CHECKPOINT if env_steps is None else f"checkpoint_{env_steps}.safetensors")


def replay_file(run: Path, env_steps: int | None = None) -> Path:
    """Return the path of the replay buffer at an environment step; None is the end of training."""
    return run / (REPLAY_BUFFER if env_steps is None else f"replay_buffer_{env_steps}.pkl")


def mask_name(method: str) -> str:
    """Return the file name of a method's mask: `mask_gradient.pkl` if the method uses gradients, else `mask.pkl`."""
    return MASK_GRADIENT if takes_gradients(method) else MASK


def last_file(root: Path, spec: Spec) -> Path:
    """Return the file that is written last, which marks a run as finished."""
    run = root / spec.path
    if isinstance(spec, ConnectivitySpec):
        return run / CONNECTIVITY
    return run / mask_name(spec.method) if isinstance(spec, MaskSpec) else checkpoint_file(run)


def is_finished(root: Path, spec: Spec) -> bool:
    """Return whether a run is finished; a dense run includes its replay buffer.

    The last file is hashed once. Its size and modification time are recorded in `.verified.json`; while they are unchanged, it is
    not hashed again here. Reading its content always checks the hash.

    Raises:
        InputError: the directory contains another run, or a file was altered.
    """
    run, last = root / spec.path, last_file(root, spec)
    stamp = _stamp(spec, last)
    if stamp is None or (isinstance(spec, DenseSpec) and not replay_file(run).exists()):
        return False
    with contextlib.suppress(OSError, ValueError):
        if read_json(run / VERIFIED) == stamp:
            return True
    check_spec(run, spec)
    what = {"connectivity": "the comparison", "mask": "the mask"}.get(spec.stage, "the checkpoint")
    read_whole(last, what, needs_checksum=what == "the checkpoint")
    write_quick(run / VERIFIED, stamp)
    return True


def is_made(root: Path, spec: Spec, points: Iterable[int]) -> bool:
    """Return whether a run is finished and, if it is a dense run, has kept these rewind points.

    Raises:
        InputError: the directory contains another run, or a file was altered.
    """
    kept = not isinstance(spec, DenseSpec) or not missing_points(root / spec.path, points)
    return kept and is_finished(root, spec)


def missing_points(run: Path, points: Iterable[int]) -> list[int]:
    """Return the rewind points that a dense run did not save, in order; it always saves step 0."""
    files = (checkpoint_file, replay_file)
    return sorted(step for step in {*points} if step and not all(file(run, step).exists() for file in files))


def record_finished(root: Path, spec: Spec) -> None:
    """Record that a run's last file was just written, with its checksum."""
    if stamp := _stamp(spec, last_file(root, spec)):
        write_quick(root / spec.path / VERIFIED, stamp)


def _stamp(spec: Spec, last: Path) -> dict[str, Any] | None:
    files = {path.name: file_stamp(path) for path in (last, last.parent / SPEC)}
    return {"spec": spec.sha256, "files": files} if all(files.values()) else None


def file_stamp(path: Path) -> list[int]:
    """Return a file's size and the time of its last change in nanoseconds; empty if there is none."""
    try:
        about = path.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def write_quick(path: Path, value: Any) -> None:
    """Write a file that no result depends on, without flushing it to disk."""
    temporary = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.partial")
    try:
        temporary.write_text(json.dumps(value))
        temporary.replace(path)
    except OSError:  # the folder may be read-only
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_spec(run: Path, spec: Spec) -> None:
    """Raise InputError unless a run's directory contains the given spec."""
    try:
        stored = read_json(run / SPEC)
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{run / SPEC}' cannot be read ({error}); delete the folder '{run}' to restart the run"
        ) from None
    asked = {"spec_version": SPEC_VERSION, **spec.model_dump(mode="json")}
    # Fields added by later versions are absent from older specs, where they have their default.
    optional = {name for name, field in type(spec).model_fields.items() if not field.is_required()}
    required = (asked.keys() - optional) | {"stage"}
    if not isinstance(stored, dict) or not required <= stored.keys() or not _agrees(stored, asked):
        raise InputError(
            f"'{run}' contains a run with other settings ({first_difference(stored, asked)}). "
            "Use another output_dir, or move that folder."
        )


def _agrees(stored: Any, asked: Any) -> bool:
    if isinstance(stored, dict) and isinstance(asked, dict):
        return stored.keys() <= asked.keys() and all(_agrees(stored[key], asked[key]) for key in stored)
    return bool(stored == asked)


def first_difference(stored: Any, asked: Any, where: str = "") -> str:
    """Return a message about the first setting in which two specs differ, both as JSON."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            if key not in stored or key not in asked or not _agrees(stored[key], asked[key]):
                return first_difference(stored.get(key), asked.get(key), f"{where}.{key}".strip("."))
    return f"{where} is {stored!r} in the folder, but {asked!r} in the config"


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files of a finished run, including those of killed processes."""
    for file in (run / RESUME, run / PROGRESS, *run.glob(".*.partial")):
        with contextlib.suppress(OSError):  # the folder may be read-only
            file.unlink(missing_ok=True)


def now() -> str:
    """Return the current local time for records of attempts and failures."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append a JSON object as one line to a record of attempts or failures.

    Raises:
        InputError: the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            cut_short = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * cut_short + json.dumps(value, sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise UnwritableError(f"'{path}' cannot be written: {error.strerror or error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of `append_line`; incomplete lines of killed processes are skipped."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        for line in read_text(path).splitlines():
            with contextlib.suppress(ValueError):
                value = parse_json(line)
                if isinstance(value, dict):
                    found.append(value)
    return found


def last_failure(run: Path) -> dict[str, Any] | None:
    """Return the failure that ended a run's last attempt; None if none did, as where its process was killed.

    Failures are not counted against attempts, because an attempt whose process was killed leaves none.
    """
    attempts, failures = read_lines(run / ATTEMPTS), read_lines(run / FAILURES)
    if not failures:
        return None
    begun = [str(line.get("time", "")) for line in attempts[-1:]]
    return failures[-1] if all(str(failures[-1].get("time", "")) >= time for time in begun) else None


def read_progress(run: Path) -> dict[str, Any]:
    """Read the progress of a run; empty if it is unknown or contains implausible values."""
    try:
        found = dict(read_json(run / PROGRESS))
        steps, numbers = found["env_steps"], [found["env_steps"], found["seconds"], found["time"]]
        numbers += dict(found["metrics"]).values()
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    possible = all(isinstance(number, int | float) and not abs(number) > 1e18 for number in numbers)  # NaN is
    return found if possible and type(steps) is int else {}


def read_timings(run: Path) -> dict[str, float]:
    """Return a run's timings; empty if there are none, or one is not a finite number."""
    try:
        found = {str(name): float(seconds) for name, seconds in dict(read_json(run / TIMINGS)).items()}
    except (OSError, ValueError, TypeError, OverflowError):
        return {}
    return found if all(map(math.isfinite, found.values())) else {}


class MetricRow(NamedTuple):
    """A metric of a run during training."""

    env_steps: int
    metric: str
    value: float


def read_evaluations(run: Path) -> dict[str, dict[int, float]]:
    """Return a run's evaluations by metric (`evaluation/return`) and environment step, in order.

    Empty if there are none or they are unreadable, where `records.metrics_of` and `records.last_evaluation` raise an error.
    """
    found: dict[str, dict[int, float]] = {}
    with contextlib.suppress(InputError):
        for row in read_rows(run / METRICS, "the metrics", MetricRow, ""):
            if row.metric.startswith("evaluation/") and math.isfinite(row.value):
                found.setdefault(row.metric, {})[row.env_steps] = row.value
    return found


_HELD: set[Any] = set()
"""The lock files that this process holds. Forked children inherit locks and would keep them after this process ends."""


def _let_go() -> None:
    for file in _HELD:
        with contextlib.suppress(OSError):
            file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that is released when the process ends; yields whether it was acquired.

    Raises:
        InputError: the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise UnwritableError(f"'{path.parent}' cannot be written: {error.strerror or error}. {FIX_FOLDER}") from error
    with file:
        _HELD.add(file)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            have = True
        except OSError:
            have = False
        try:
            yield have
        finally:
            _HELD.discard(file)


def is_locked(path: Path) -> bool:
    """Return whether another process holds a lock exclusively; changes nothing."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
