"""Write and read the result files of a run. `journal` names the files.

A dense run or ticket is finished when its `checkpoint.safetensors` exists, a mask when its .pkl exists; these are written last.
Only `CLOCK_FILES` depend on time, so all other files are reproducible to the byte.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..algorithms.base import Agent, AgentState
from ..algorithms.checkpoint import dump_agent, load_agent, load_agent_and_more
from ..algorithms.tickets import masks_of
from ..config import LAST_RUN, Sparsity, replay_capacity
from ..errors import InputError
from ..files import csv_bytes, dump_pickle, load_pickle, read_json, read_rows, write_sealed, write_whole
from ..precision import in_float32
from ..pruning.masks import check_mask_values, check_same_structure, compute_sparsity
from ..replay import ReplayBuffer, ReplayState
from ..types import Mask
from .journal import (
    ATTEMPTS,
    CONNECTIVITY,
    FAILURES,
    LOCK,
    METRICS,
    PROGRESS,
    RESUME,
    SPEC,
    TIMINGS,
    VERIFIED,
    MetricRow,
    check_spec,
    checkpoint_file,
    mask_name,
    record_finished,
    remove_leftovers,
    replay_file,
)
from .provenance import provenance
from .question import QUESTION_FILE
from .spec import SPEC_VERSION, DenseSpec, FileMask, MaskSpec, Spec, TicketSpec, parse_spec

ANALYSIS = "analysis.csv"
PROVENANCE = "provenance.json"
EVENTS = "events"
TABLE_MEMORY = ".tidy.json"
CLOCK_FILES = (QUESTION_FILE, LAST_RUN, TIMINGS, ATTEMPTS, FAILURES, PROGRESS, LOCK, VERIFIED, EVENTS, TABLE_MEMORY)
"""Files that depend on time, on the command or on interruptions; all others are reproducible to the byte."""


class Run(NamedTuple):
    """A loaded run: the agent, its replay buffer, and its masks by network."""

    agent: Agent
    """The agent."""
    replay_buffer: ReplayBuffer | None
    """None where it was deleted."""
    masks: dict[str, Mask]
    """By network, 1 kept and 0 pruned; a dense run's are all ones."""


def open_run(root: Path, spec: Spec) -> Path:
    """Create a run's directory, write its spec, and return the directory.

    Raises:
        InputError: the directory contains another run, or is not writable.
    """
    run = root / spec.path
    if (run / SPEC).exists():
        check_spec(run, spec)
    for partial in run.glob(".*.partial"):  # left by a killed process
        partial.unlink(missing_ok=True)
    _write_json(run / SPEC, {"spec_version": SPEC_VERSION, **spec.model_dump(mode="json")})
    _write_json(run / PROVENANCE, provenance())
    return run


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), checksum=False)


def save_agent(run: Path, spec: DenseSpec | TicketSpec, state: AgentState, env_steps: int | None = None) -> None:
    """Write a checkpoint, which records the spec of its run.

    Raises:
        TrainingError: the state contains NaN or infinity.
    """
    about = {"task": spec.task, "spec": spec.sha256}
    write_whole(checkpoint_file(run, env_steps), dump_agent(spec.dense.agent, state, about))


@in_float32
def read_agent(root: Path, spec: DenseSpec | TicketSpec, env_steps: int | None = None) -> Agent:
    """Read a checkpoint of a run, without its replay buffer.

    Raises:
        InputError: it is missing, damaged, or belongs to another run.
    """
    path = checkpoint_file(root / spec.path, env_steps)
    config, state, about = load_agent(path)
    _check_whose(path, "checkpoint", about.get("spec"), spec)
    expected = env_steps if env_steps is not None else spec.dense.training.env_steps
    if config != spec.dense.agent or int(state.env_steps) != expected:
        raise InputError(
            f"the checkpoint '{path}' is of environment step {int(state.env_steps)}, but step {expected} of {spec.title()} with "
            f"its settings is needed. {_RECREATE.format(path.parent)}"
        )
    return Agent(config, state, task=spec.task)


def _check_whose(path: Path, what: str, found: Any, spec: Spec) -> None:
    if found != spec.sha256:
        whose = f"belongs to the run {str(found)[:8]}" if found else "does not name its run"
        raise InputError(
            f"the {what} '{path}' {whose}, but the one of {spec.title()} ({spec.sha256[:8]}) is needed. It may have been copied "
            f"from another folder. {_RECREATE.format(path.parent)}"
        )


def finish_agent(root: Path, spec: DenseSpec | TicketSpec, state: AgentState) -> None:
    """Write the final checkpoint of a run, which marks the run as finished."""
    run = root / spec.path
    save_agent(run, spec, state)
    record_finished(root, spec)
    remove_leftovers(run)


def finish_mask(root: Path, spec: MaskSpec, masks: dict[str, Mask], name: str | None = None) -> Path:
    """Write the mask file, which marks the run as finished; returns its path."""
    path = save_mask(root / spec.path, name or mask_name(spec.method), masks)
    record_finished(root, spec)
    return path


def save_replay_buffer(
    run: Path, spec: DenseSpec | TicketSpec, buffer: ReplayBuffer, env_steps: int | None = None
) -> None:
    """Write a replay buffer as a pickled dict of NumPy arrays; `spec_sha256` (32 bytes) identifies its run."""
    whose = np.frombuffer(bytes.fromhex(spec.sha256), np.uint8)
    write_whole(replay_file(run, env_steps), dump_pickle({**buffer.save(), _WHOSE: whose}))


_WHOSE = "spec_sha256"


class Resume(NamedTuple):
    """The state of a run between two segments."""

    state: AgentState
    replay: ReplayState
    rows: list[tuple[int, str, float]]  # metrics so far
    seconds: dict[str, float]


def save_resume(run: Path, spec: DenseSpec | TicketSpec, resume: Resume) -> None:
    """Write the resume state of a run, as one file so that its parts are consistent."""
    size = int(resume.replay.size)
    more = {
        "replay/rows": np.asarray(resume.replay.rows)[:size],
        "replay/position": np.asarray(resume.replay.position),
        "replay/capacity": np.asarray(resume.replay.rows.shape[0], np.int64),
    }
    about = {"spec": spec.sha256, "rows": [list(row) for row in resume.rows], "seconds": resume.seconds}
    write_sealed(run / RESUME, dump_agent(spec.dense.agent, resume.state, about, more))


def load_resume(run: Path, spec: DenseSpec | TicketSpec) -> Resume | None:
    """Read the resume state of a run; None if there is none.

    Raises:
        InputError: the file is damaged, or belongs to another run.
    """
    if not (run / RESUME).exists():
        return None
    _, state, about, more = load_agent_and_more(run / RESUME, sealed=True)
    _check_whose(run / RESUME, "resume file", about.get("spec"), spec)
    try:
        rows, capacity, position = more["replay/rows"], int(more["replay/capacity"]), int(more["replay/position"])
        if capacity != replay_capacity(spec.dense.agent, spec.dense.training):
            raise ValueError(f"its replay buffer has capacity {capacity}")
        if not (0 <= position < capacity and len(rows) <= capacity and np.isfinite(rows).all()):
            raise ValueError("its replay buffer is invalid")
        steps, training = int(state.env_steps), spec.dense.training
        if not spec.start < steps < training.env_steps or steps % training.segment_steps:
            raise ValueError(f"it is of environment step {steps}, which is not the end of a segment")
        full = np.zeros((capacity, rows.shape[1]), np.float32)
        full[: len(rows)] = rows
        size = np.array(len(rows), np.int32)
        replay = ReplayState(*jax.device_put((full, more["replay/position"], size)))
        return Resume(state, replay, [(int(a), str(b), float(c)) for a, b, c in about["rows"]], dict(about["seconds"]))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"'{run / RESUME}' is not a usable resume file ({error}); delete it to restart the run"
        ) from None


class AnalysisRow(NamedTuple):
    """An analysis result of a run; `layer` is empty for the whole network (docs/analysis.md)."""

    network: str
    layer: str
    metric: str
    value: float


class LineRow(NamedTuple):
    """A measurement at a point of the line between two agents: `alpha` 0 is the first agent, 1 the second."""

    alpha: float
    metric: str  # return, success, <network>_loss
    value: float


def save_metrics(run: Path, rows: Iterable[tuple[int, str, float]]) -> None:
    """Write tidy metrics: env_steps, metric, value."""
    write_whole(run / METRICS, csv_bytes(MetricRow._fields, rows), checksum=False)


def save_analysis(run: Path, rows: Iterable[AnalysisRow]) -> None:
    """Write the analysis of a run."""
    write_whole(run / ANALYSIS, csv_bytes(AnalysisRow._fields, rows), checksum=False)


def save_line(root: Path, spec: Spec, rows: Iterable[LineRow]) -> None:
    """Write a comparison; the file marks it as finished."""
    write_whole(root / spec.path / CONNECTIVITY, csv_bytes(LineRow._fields, rows))
    record_finished(root, spec)


def save_timings(run: Path, timings: dict[str, float]) -> None:
    """Write seconds by name."""
    _write_json(run / TIMINGS, {name: round(seconds, 3) for name, seconds in timings.items()})


_RECREATE = "To recreate the run, delete the folder '{}' and run the same command again."


def read_provenance(run: Path) -> dict[str, Any]:
    """Return the recorded software and hardware of a run; empty if the file is missing or damaged."""
    try:
        found = read_json(run / PROVENANCE)
        texts = [*found["versions"].values(), *found["devices"], found["git_revision"] or "", found["machine"]]
        return found if all(isinstance(text, str) for text in texts) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_analysis(run: Path) -> list[AnalysisRow]:
    """Read a file of `save_analysis`.

    Raises:
        InputError: it is missing or unreadable.
    """
    return read_rows(run / ANALYSIS, "the analysis", AnalysisRow, "Delete it to recreate it.")


def read_line(run: Path) -> list[LineRow]:
    """Read a comparison.

    Raises:
        InputError: it is missing or unreadable.
    """
    return read_rows(run / CONNECTIVITY, "the comparison", LineRow, _RECREATE.format(run))


def _metrics(run: Path) -> tuple[list[MetricRow], list[MetricRow]]:
    """Read the metrics of a run; returns those of its evaluations, and all.

    Raises:
        InputError: they are missing or unreadable, or have no evaluation, or one that is not finite.
    """
    rows = read_rows(run / METRICS, "the metrics", MetricRow, _RECREATE.format(run))
    found = [row for row in rows if row.metric.startswith("evaluation/")]
    if not found:
        raise InputError(f"'{run / METRICS}' contains no evaluation. {_RECREATE.format(run)}")
    if not all(math.isfinite(row.value) for row in found):
        raise InputError(f"'{run / METRICS}' contains an evaluation that is not finite. {_RECREATE.format(run)}")
    return found, rows


def metrics_of(root: Path, spec: DenseSpec | TicketSpec) -> list[MetricRow]:
    """Return the evaluation metrics of a finished run, then its training metrics at the same steps.

    The training metrics (`train/...`: losses, Q values, SAC's temperature and entropy) are of the last update before an
    evaluation. Values that are not finite, and the return of exploring episodes, are left out.

    Raises:
        InputError: they are missing or unreadable, have no evaluation at the end of the run, or one that is not finite.
    """
    run, end = root / spec.path, spec.dense.training.env_steps
    found, rows = _metrics(run)
    if max(row.env_steps for row in found) != end or any(row.env_steps < spec.start for row in found):
        raise InputError(
            f"'{run / METRICS}' belongs to another run: the last evaluation should be at step {end}. {_RECREATE.format(run)}"
        )
    times = {row.env_steps for row in found}
    learning = (row for row in rows if row.metric.startswith("train/") and row.metric != "train/return")
    return found + [row for row in learning if row.env_steps in times and math.isfinite(row.value)]


def last_evaluation(run: Path) -> dict[str, float]:
    """Return the metrics of a run's last evaluation by name: `evaluation/return`, and where success is defined the two of it.

    Raises:
        InputError: the metrics are missing or unreadable, have no evaluation, or one that is not finite.
    """
    found, _ = _metrics(run)
    end = max(env_steps for env_steps, _, _ in found)
    return {metric: value for env_steps, metric, value in found if env_steps == end}


def save_mask(run: Path, name: str, masks: dict[str, Mask]) -> Path:
    """Write masks by network as a pickled dict of NumPy arrays."""
    tree = {network: jax.tree.map(lambda leaf: np.array(leaf, order="C"), masks[network]) for network in sorted(masks)}
    write_whole(run / name, dump_pickle(tree))
    return run / name


def load_mask(path: str | Path, state: AgentState | None = None) -> dict[str, Mask]:
    """Read masks by network as JAX arrays; see `read_mask`."""
    return {network: jax.device_put(mask) for network, mask in read_mask(path, state).items()}


def read_mask(path: str | Path, state: AgentState | None = None) -> dict[str, Mask]:
    """Read masks by network as NumPy arrays, from lth or any other program.

    Raises:
        InputError: the file is missing, altered or malicious; it is not a mask; or it does not fit the networks of `state`
            (names the leaf and both shapes).
    """
    path = Path(path)
    tree = load_pickle(path, "the mask")
    wanted = "a dict of arrays for each network"
    if state is not None:
        wanted = f"a dict of arrays for each of {', '.join(sorted(state.params))}"
    fits = tree and (state is None or set(tree) == set(state.params))
    if not fits or not all(isinstance(name, str) and isinstance(value, dict) for name, value in tree.items()):
        raise InputError(f"the mask '{path}' has the keys {sorted(map(str, tree))}, but needs {wanted}")
    for network, mask in tree.items():
        check_mask_values(mask, f"the {network}'s part of {path}")
        if state is not None:
            check_same_structure(mask, state.params[network], f"the {network}'s mask in {path}", f"the {network}'s")
    return tree


def file_mask(path: Path, method: str) -> FileMask:
    """Return the spec of a mask file.

    Raises:
        InputError: see `load_mask`.
    """
    masks = load_mask(path)
    sparsity = {network: round(compute_sparsity(mask), 4) for network, mask in masks.items()}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileMask(method=method, sha256=digest, sparsity=Sparsity(**sparsity))


def load_replay_buffer(
    run: Path, env_steps: int | None = None, spec: DenseSpec | TicketSpec | None = None
) -> ReplayBuffer:
    """Read a replay buffer; with `spec`, check that it belongs to this run.

    Raises:
        InputError: "No replay buffer found", with the path and the command that makes it; or it is altered, malicious,
            or contains NaN (names the field and the row).
    """
    path = replay_file(run, env_steps)
    if not path.exists():
        raise InputError(
            f"No replay buffer found at {path}. It is saved during dense training: run `python scripts/_01_train_dense.py` "
            "or `lth run` with the same config to make it."
        )
    data = load_pickle(path, "the replay buffer")
    if spec is not None and _WHOSE in data:  # other programs' buffers have no such field
        _check_whose(path, "replay buffer", np.asarray(data[_WHOSE]).astype(np.uint8).tobytes().hex(), spec)
    return ReplayBuffer.load(data, f"the replay buffer {path}")


@in_float32
def load(run: str | Path, env_steps: int | None = None) -> Run:
    """Load a dense run or a ticket: the agent, its replay buffer (None if it was deleted) and its masks.

    >>> agent, replay_buffer, masks = load("results/Pendulum-v1/seed0/dense-0a1b2c3d")  # doctest: +SKIP

    Args:
        run: the run's directory.
        env_steps: a saved rewind point (0, or one of `pruning.rewind_steps`); None is the end of training.

    Returns:
        A named tuple (agent, replay_buffer, masks). `masks` are by network, 1 kept and 0 pruned; a dense run's are all ones.

    Raises:
        InputError: the run does not exist or is unfinished, or a file was altered.
    """
    run = Path(run)
    path = checkpoint_file(run, env_steps)
    if not path.exists():
        raise InputError(no_run(run, path))
    config, state, about = load_agent(path)
    if (run / SPEC).exists() and about.get("spec"):
        _check_whose(path, "checkpoint", about["spec"], spec_of(run))
    buffer = load_replay_buffer(run, env_steps) if replay_file(run, env_steps).exists() else None
    return Run(Agent(config, state, buffer, str(about.get("task", ""))), buffer, masks_of(state))


def spec_of(run: Path) -> Spec:
    """Return a run's specification.

    Raises:
        InputError: the run does not exist.
    """
    if not (run / SPEC).exists():
        raise InputError(no_run(run, run / SPEC))
    try:
        fields = dict(read_json(run / SPEC))
        version = fields.pop("spec_version")
        if version != SPEC_VERSION:
            raise ValueError(f"its version is {version}, but this lth reads version {SPEC_VERSION}")
        return parse_spec(fields)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"'{run / SPEC}' is not a valid run specification: {error}") from None


def no_run(run: Path, path: Path) -> str:
    """Return a message why a folder is not a loadable run, with runs below it."""
    if run.is_file():
        return f"'{run}' is a file; a run is a directory such as results/Pendulum-v1/seed0/dense-0a1b2c3d"
    if (run / CONNECTIVITY).exists():
        return f"'{run}' is a comparison of two agents and contains no agent; its {SPEC} names both."
    if (run / SPEC).exists() and any(run.glob("mask*.pkl")):
        return f"'{run}' is a mask and contains no agent. Read the mask with `lth.load_mask`; tickets are in sibling folders."
    if (run / SPEC).exists():
        kept = sorted(file.name for file in run.glob("*.safetensors")) or "none"
        return f"'{run}' has no {path.name} (checkpoints: {kept}). If the run was interrupted, run the same command to resume."
    below = sorted(str(file.parent) for file in run.glob(f"**/{SPEC}"))[:5] if run.is_dir() else []
    return f"there is no run at '{run}'" + (f"; runs below it: {', '.join(below)}" if below else "")
