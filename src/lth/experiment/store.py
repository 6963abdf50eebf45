"""The files of a run: the only place that knows their names.

A dense run or ticket is finished when its `checkpoint.safetensors` is there, a mask when its .pkl is; each is written
last. Whatever depends on the clock stays in `timings.json`, so that all other files repeat to the byte.
"""

import contextlib
import csv
import fcntl
import hashlib
import io
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import envs
from ..algorithms.architecture import AgentConfig
from ..algorithms.base import Agent, AgentState
from ..algorithms.checkpoint import dump_agent, load_agent, load_agent_and_more
from ..algorithms.tickets import masks_of
from ..config import GRADIENT_METHODS, Sparsity
from ..errors import InputError
from ..files import dump_pickle, load_pickle, read_whole, write_whole
from ..pruning.masks import check_mask_values, check_same_structure, compute_sparsity
from ..replay import ReplayBuffer, ReplayState
from ..types import Mask
from .analysis import AnalysisRow
from .spec import INVERTED, SPEC_VERSION, ConnectivitySpec, DenseSpec, FileMask, MaskSpec, Spec, parse_spec, run_path

CHECKPOINT = "checkpoint.safetensors"
REPLAY_BUFFER = "replay_buffer.pkl"
METRICS = "metrics.csv"
ANALYSIS = "analysis.csv"
CONNECTIVITY = "connectivity.csv"
TIMINGS = "timings.json"
SPEC = "spec.json"
PROVENANCE = "provenance.json"
MASK = "mask.pkl"
MASK_GRADIENT = "mask_gradient.pkl"
RESUME = "resume.safetensors"
ATTEMPTS = "attempts.jsonl"
FAILURES = "failures.jsonl"
PROGRESS = "progress.json"
LOCK = ".lock"
EVENTS = "events"
CLOCK_FILES = (TIMINGS, ATTEMPTS, FAILURES, PROGRESS, LOCK, EVENTS)
"""What depends on the clock or on what befell a run; all else repeats to the byte."""


class Run(NamedTuple):
    """A run read back: the agent, the replay buffer it learned from, and its masks by network."""

    agent: Agent
    replay_buffer: ReplayBuffer | None
    masks: dict[str, Mask]


def directory(root: Path, spec: Spec) -> Path:
    """Return a run's directory."""
    return root / run_path(spec)


def checkpoint_file(run: Path, env_steps: int | None = None) -> Path:
    """Return where the agent at an environment step lies; None is the end of training."""
    return run / (CHECKPOINT if env_steps is None else f"checkpoint_{env_steps}.safetensors")


def replay_file(run: Path, env_steps: int | None = None) -> Path:
    """Return where the replay buffer at an environment step lies; None is the end of training."""
    return run / (REPLAY_BUFFER if env_steps is None else f"replay_buffer_{env_steps}.pkl")


def mask_name(method: str) -> str:
    """Return the file name of a method's mask: `mask_gradient.pkl` where gradients were taken, else `mask.pkl`."""
    return MASK_GRADIENT if method.removeprefix(INVERTED) in GRADIENT_METHODS else MASK


def last_file(root: Path, spec: Spec) -> Path:
    """Return the file whose presence says that a run is finished."""
    run = directory(root, spec)
    if isinstance(spec, ConnectivitySpec):
        return run / CONNECTIVITY
    return run / mask_name(spec.method) if isinstance(spec, MaskSpec) else checkpoint_file(run)


def is_finished(root: Path, spec: Spec) -> bool:
    """Say whether a run is there, whole; a dense run includes its replay buffer, which masks are made from.

    Raises:
        InputError: the directory holds a run of another specification.
    """
    run = directory(root, spec)
    if not last_file(root, spec).exists():
        return False
    if not (run / SPEC).exists() or (isinstance(spec, DenseSpec) and not replay_file(run).exists()):
        return False
    check_spec(run, spec)
    if isinstance(spec, ConnectivitySpec):
        read_whole(last_file(root, spec), "the comparison")
    elif isinstance(spec, MaskSpec):
        read_whole(last_file(root, spec), "the mask")
    else:
        read_whole(last_file(root, spec), "the checkpoint", needs_checksum=True)
    return True


def open_run(root: Path, spec: Spec) -> Path:
    """Make a run's directory, record what it is, and return it.

    Raises:
        InputError: the directory holds a run of another specification, or cannot be written.
    """
    run = directory(root, spec)
    if (run / SPEC).exists():
        check_spec(run, spec)
    for partial in run.glob(".*.partial"):  # of a process that was killed
        partial.unlink(missing_ok=True)
    _write_json(run / SPEC, {"spec_version": SPEC_VERSION, **spec.model_dump(mode="json")})
    _write_json(run / PROVENANCE, provenance())
    return run


def check_spec(run: Path, spec: Spec) -> None:
    """Raise InputError unless a run's directory holds the run that is asked for."""
    try:
        stored = json.loads((run / SPEC).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{run / SPEC} cannot be read ({error}); delete the folder {run} to make the run anew"
        ) from None
    asked = {"spec_version": SPEC_VERSION, **spec.model_dump(mode="json")}
    # Fields that a later version added are absent from what an earlier one stored, and are at their default there.
    optional = {name for name, field in type(spec).model_fields.items() if not field.is_required()}
    required = (asked.keys() - optional) | {"stage"}
    if not isinstance(stored, dict) or not required <= stored.keys() or not _agrees(stored, asked):
        raise InputError(
            f"{run} holds a run whose settings differ from those asked for ({_first_difference(stored, asked)}). "
            "Use another output_dir, or move that folder away."
        )


def _agrees(stored: Any, asked: Any) -> bool:
    if isinstance(stored, dict) and isinstance(asked, dict):
        return stored.keys() <= asked.keys() and all(_agrees(stored[key], asked[key]) for key in stored)
    return bool(stored == asked)


def _first_difference(stored: Any, asked: Any, where: str = "") -> str:
    if isinstance(stored, dict) and isinstance(asked, dict):
        for key in sorted(stored.keys() | asked.keys()):
            if key not in stored or key not in asked or not _agrees(stored[key], asked[key]):
                return _first_difference(stored.get(key), asked.get(key), f"{where}.{key}".strip("."))
    return f"{where} is {stored!r} there and {asked!r} here"


def provenance() -> dict[str, Any]:
    """Return what a run was made with: versions, git revision, processor."""
    import flax
    import optax

    from .. import __version__

    versions = {"lth": __version__, "jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    versions |= {"numpy": np.__version__, "python": platform.python_version(), **envs.versions()}
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "machine": platform.machine(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
    }


def _git_revision() -> str | None:
    try:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), checksum=False)


def save_agent(run: Path, config: AgentConfig, state: AgentState, task: str, env_steps: int | None = None) -> None:
    """Write a checkpoint."""
    write_whole(checkpoint_file(run, env_steps), dump_agent(config, state, {"task": task}))


def save_replay_buffer(run: Path, buffer: ReplayBuffer, env_steps: int | None = None) -> None:
    """Write a replay buffer as a pickled dict of NumPy arrays."""
    write_whole(replay_file(run, env_steps), dump_pickle(buffer.save()))


class Resume(NamedTuple):
    """Where a run stands between two segments."""

    state: AgentState
    replay: ReplayState
    rows: list[tuple[int, str, float]]  # metrics so far
    seconds: dict[str, float]


def save_resume(run: Path, config: AgentConfig, resume: Resume) -> None:
    """Write all that a run needs to go on. One file, so that none of it can be of another moment than the rest."""
    size = int(resume.replay.size)
    more = {
        "replay/rows": np.asarray(resume.replay.rows[:size]),
        "replay/position": np.asarray(resume.replay.position),
        "replay/capacity": np.asarray(resume.replay.rows.shape[0], np.int64),
    }
    about = {"rows": [list(row) for row in resume.rows], "seconds": resume.seconds}
    write_whole(run / RESUME, dump_agent(config, resume.state, about, more), checksum=False)


def load_resume(run: Path) -> Resume | None:
    """Read where a run stands; None if it has not come to the first such point.

    Raises:
        InputError: the file is damaged.
    """
    if not (run / RESUME).exists():
        return None
    _, state, about, more = load_agent_and_more(run / RESUME, needs_checksum=False)
    try:
        rows, capacity = more["replay/rows"], int(more["replay/capacity"])
        full = np.zeros((capacity, rows.shape[1]), np.float32)
        full[: len(rows)] = rows
        size = jnp.asarray(len(rows), jnp.int32)
        replay = ReplayState(jnp.asarray(full), jnp.asarray(more["replay/position"]), size)
        return Resume(state, replay, [(int(a), str(b), float(c)) for a, b, c in about["rows"]], dict(about["seconds"]))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{run / RESUME} is no state to go on from ({error}); delete it to start the run anew"
        ) from None


def tidy(run: Path) -> None:
    """Remove what a finished run no longer needs, and what killed processes left of it."""
    for file in (run / RESUME, run / PROGRESS, *run.glob(".*.partial")):
        with contextlib.suppress(OSError):  # such as a read-only folder's
            file.unlink(missing_ok=True)


def now() -> str:
    """Return the time of day for records of what befell a run."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append a JSON object as one line: of attempts and failures.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            cut_short = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * cut_short + json.dumps(value, sort_keys=True).encode() + b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of `append_line`; a line that a killed process left unfinished is passed over."""
    found = []
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def save_progress(run: Path, progress: dict[str, Any]) -> None:
    """Write where a run stands, for whoever looks on. Not flushed to the disk: it is of no use after a crash."""
    temporary = run / f".{PROGRESS}.partial"
    try:
        temporary.write_text(json.dumps(progress))
        temporary.replace(run / PROGRESS)
    except OSError:
        temporary.unlink(missing_ok=True)


def read_progress(run: Path) -> dict[str, Any]:
    """Read where a run stands; empty if nothing is known."""
    try:
        found = json.loads((run / PROGRESS).read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields whether it was to be had.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written: {error.strerror or error}. Is it read-only, or the disk full?"
        ) from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            have = True
        except OSError:
            have = False
        yield have


def is_locked(path: Path) -> bool:
    """Say whether somebody holds a lock exclusively; changes nothing."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def save_metrics(run: Path, rows: Iterable[tuple[int, str, float]]) -> None:
    """Write tidy metrics: env_steps, metric, value."""
    write_whole(run / METRICS, csv_bytes(("env_steps", "metric", "value"), rows), checksum=False)


def save_analysis(run: Path, rows: Iterable[AnalysisRow]) -> None:
    """Write what is known of a run besides its results."""
    write_whole(run / ANALYSIS, csv_bytes(AnalysisRow._fields, rows), checksum=False)


def read_analysis(run: Path) -> list[AnalysisRow]:
    """Read a file of `save_analysis`.

    Raises:
        InputError: it is missing or unreadable.
    """
    path = run / ANALYSIS
    try:
        rows = read_csv(path, "the analysis")
        return [AnalysisRow(row["network"], row["layer"], row["metric"], float(row["value"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Delete it, and it is made anew.") from None


class LineRow(NamedTuple):
    """One number measured at a point of the line between two agents: `alpha` 0 is the one, 1 the other."""

    alpha: float
    metric: str  # return, success, <network>_loss
    value: float


def save_line(run: Path, rows: Iterable[LineRow]) -> None:
    """Write a comparison, the file whose presence says that it is finished."""
    write_whole(run / CONNECTIVITY, csv_bytes(LineRow._fields, rows))


def read_line(run: Path) -> list[LineRow]:
    """Read a comparison.

    Raises:
        InputError: it is missing or unreadable.
    """
    path = run / CONNECTIVITY
    try:
        rows = read_csv(path, "the comparison")
        return [LineRow(float(row["alpha"]), row["metric"], float(row["value"])) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). {_ANEW.format(run)}") from None


def save_timings(run: Path, timings: dict[str, float]) -> None:
    """Write seconds by name."""
    _write_json(run / TIMINGS, {name: round(seconds, 3) for name, seconds in timings.items()})


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Lay rows out as CSV; floats keep all their digits, so they can be read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([["" if x is None else x for x in row] for row in rows])
    return text.getvalue().encode()


def read_csv(path: Path, what: str) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Raises:
        InputError: it is missing or unreadable.
    """
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{what} {path} cannot be read: {error}. {_ANEW.format(path.parent)}") from None


_ANEW = "To make the run anew, delete the folder {} and run the same command again."


def evaluations(run: Path) -> list[tuple[int, str, float]]:
    """Return what a run's evaluations measured, (env_steps, metric, value): `evaluation/return`, `evaluation/success`.

    Raises:
        InputError: they cannot be read, or there are none.
    """
    rows = read_csv(run / METRICS, "the metrics")
    try:
        found = [
            (int(row["env_steps"]), row["metric"], float(row["value"]))
            for row in rows
            if row["metric"].startswith("evaluation/")
        ]
        if not found:
            raise ValueError("no row is one")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{run / METRICS} holds no evaluation that can be read ({error}). {_ANEW.format(run)}"
        ) from None
    return found


def last_evaluation(run: Path) -> dict[str, float]:
    """Return the metrics of a run's last evaluation by name: `evaluation/return`, and `evaluation/success` if defined."""
    found = evaluations(run)
    end = max(env_steps for env_steps, _, _ in found)
    return {metric: value for env_steps, metric, value in found if env_steps == end}


def read_timings(run: Path) -> dict[str, float]:
    """Return a run's timings, empty where there are none."""
    try:
        found = dict(json.loads((run / TIMINGS).read_text()))
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def save_mask(run: Path, name: str, masks: dict[str, Mask]) -> Path:
    """Write masks by network as a pickled dict of NumPy arrays."""
    tree = {network: jax.tree.map(lambda leaf: np.array(leaf, order="C"), masks[network]) for network in sorted(masks)}
    write_whole(run / name, dump_pickle(tree))
    return run / name


def load_mask(path: str | Path, state: AgentState | None = None) -> dict[str, Mask]:
    """Read masks by network, of any program's making.

    Raises:
        InputError: the file is missing, altered or hostile; it is not a mask; it does not fit the networks of `state`
            (naming the leaf and both shapes).
    """
    path = Path(path)
    tree = load_pickle(path, "the mask")
    wanted = "a dict of arrays for each network"
    if state is not None:
        wanted = f"a dict of arrays for each of {', '.join(sorted(state.params))}"
    fits = tree and (state is None or set(tree) == set(state.params))
    if not fits or not all(isinstance(name, str) and isinstance(value, dict) for name, value in tree.items()):
        raise InputError(f"the mask {path} has the keys {sorted(map(str, tree))}, and needs {wanted}")
    for network, mask in tree.items():
        check_mask_values(mask, f"the {network}'s part of {path}")
        if state is not None:
            check_same_structure(mask, state.params[network], f"the {network}'s mask in {path}", f"the {network}'s")
    return {network: jax.tree.map(jnp.asarray, mask) for network, mask in tree.items()}


def file_mask(path: Path, method: str) -> FileMask:
    """Describe a mask file by its content.

    Raises:
        InputError: as `load_mask`.
    """
    masks = load_mask(path)
    sparsity = {network: round(compute_sparsity(mask), 4) for network, mask in masks.items()}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileMask(method=method, sha256=digest, sparsity=Sparsity(**sparsity))


def load_replay_buffer(run: Path, env_steps: int | None = None) -> ReplayBuffer:
    """Read a replay buffer.

    Raises:
        InputError: "No replay buffer found", naming the path and the command that makes it; or it is altered, hostile,
            or holds NaN (naming field and row).
    """
    path = replay_file(run, env_steps)
    if not path.exists():
        raise InputError(
            f"No replay buffer found at {path}. It is saved during dense training: run `python scripts/_01_train_dense.py` "
            "or `lth run` with the same config to make it."
        )
    return ReplayBuffer.load(load_pickle(path, "the replay buffer"), f"the replay buffer {path}")


def load(run: str | Path, env_steps: int | None = None) -> Run:
    """Read a dense run or a ticket back: the agent, its replay buffer (None if it was deleted) and its masks.

    >>> agent, replay_buffer, masks = load("results/Pendulum-v1/seed0/dense-0a1b2c3d")  # doctest: +SKIP

    Args:
        run: the run's directory.
        env_steps: a rewind point that was kept (0, or `pruning.rewind_steps`); None is the end of training.

    Raises:
        InputError: there is no such run, it is unfinished, or a file was altered.
    """
    run = Path(run)
    path = checkpoint_file(run, env_steps)
    if not path.exists():
        raise InputError(_no_run(run, path))
    config, state, _ = load_agent(path)
    buffer = load_replay_buffer(run, env_steps) if replay_file(run, env_steps).exists() else None
    return Run(Agent(config, state, buffer), buffer, masks_of(state))


def dense_spec_of(run: Path) -> DenseSpec:
    """Return the dense part of a run's specification: task, seed and settings.

    Raises:
        InputError: there is no such run.
    """
    if not (run / SPEC).exists():
        raise InputError(_no_run(run, run / SPEC))
    try:
        fields = json.loads((run / SPEC).read_text())
        fields.pop("spec_version")
        spec = parse_spec(fields)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{run / SPEC} is no description of a run: {error}") from None
    return spec if isinstance(spec, DenseSpec) else spec.dense


def _no_run(run: Path, path: Path) -> str:
    if run.is_file():
        return f"{run} is a file; a run is a directory such as results/Pendulum-v1/seed0/dense-0a1b2c3d"
    if (run / CONNECTIVITY).exists():
        return f"{run} is a comparison of two agents, and has none of its own: its {SPEC} names them."
    if (run / SPEC).exists() and any(run.glob("mask*.pkl")):
        return f"{run} is a mask, which has no agent. `lth.load_mask` reads its file; the tickets lie beside it."
    if (run / SPEC).exists():
        kept = sorted(file.name for file in run.glob("*.safetensors")) or "none"
        return f"{run} has no {path.name} (checkpoints there: {kept}). If the run was interrupted, run the same command again."
    below = sorted(str(file.parent) for file in run.glob(f"**/{SPEC}"))[:5] if run.is_dir() else []
    return f"there is no run at {run}" + (f"; runs below it: {', '.join(below)}" if below else "")


def describe(run: Path) -> dict[str, Any]:
    """Return all that is known of a run: settings, provenance, timings, attempts, failures, and its files by size.

    Raises:
        InputError: there is no run.
    """
    if not (run / SPEC).exists():
        raise InputError(_no_run(run, run / SPEC))
    try:
        spec, made_with = (json.loads((run / name).read_text()) for name in (SPEC, PROVENANCE))
        title = parse_spec({k: v for k, v in spec.items() if k != "spec_version"}).title()
    except (OSError, ValueError) as error:
        raise InputError(f"{run} cannot be read: {error}") from None
    return {
        "run": {
            "folder": str(run),
            "title": title,
        },
        "settings": spec,
        "made with": made_with,
        "seconds": read_timings(run),
        "progress": read_progress(run),
        "attempts": read_lines(run / ATTEMPTS),
        "failures": read_lines(run / FAILURES),
        "files": {
            str(file.relative_to(run)): f"{file.stat().st_size:,} bytes"
            for file in sorted(run.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        },
    }
