"""The files of a run's results: how they are written and read. `journal` says which of them there are.

A dense run or ticket is finished when its `checkpoint.safetensors` is there, a mask when its .pkl is; each is written
last. Whatever depends on the clock stays in `timings.json`, so that all other files repeat to the byte.
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
from ..config import Sparsity, replay_capacity
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
    PROGRESS,
    RESUME,
    SPEC,
    TIMINGS,
    VERIFIED,
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

METRICS = "metrics.csv"
ANALYSIS = "analysis.csv"
PROVENANCE = "provenance.json"
EVENTS = "events"
TABLE_MEMORY = ".tidy.json"
CLOCK_FILES = (QUESTION_FILE, TIMINGS, ATTEMPTS, FAILURES, PROGRESS, LOCK, VERIFIED, EVENTS, TABLE_MEMORY)
"""What depends on the clock or on what happened to a run; all else repeats to the byte."""


class Run(NamedTuple):
    """A run read back: the agent, the replay buffer it learned from, and its masks by network."""

    agent: Agent
    replay_buffer: ReplayBuffer | None
    masks: dict[str, Mask]


def open_run(root: Path, spec: Spec) -> Path:
    """Make a run's directory, record what it is, and return it.

    Raises:
        InputError: the directory holds a run of another specification, or cannot be written.
    """
    run = root / spec.path
    if (run / SPEC).exists():
        check_spec(run, spec)
    for partial in run.glob(".*.partial"):  # of a process that was killed
        partial.unlink(missing_ok=True)
    _write_json(run / SPEC, {"spec_version": SPEC_VERSION, **spec.model_dump(mode="json")})
    _write_json(run / PROVENANCE, provenance())
    return run


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), checksum=False)


def save_agent(run: Path, spec: DenseSpec | TicketSpec, state: AgentState, env_steps: int | None = None) -> None:
    """Write a checkpoint, which says whose it is.

    Raises:
        TrainingError: a number of it is not finite, so that it could not be read again.
    """
    about = {"task": spec.task, "spec": spec.sha256}
    write_whole(checkpoint_file(run, env_steps), dump_agent(spec.dense.agent, state, about))


@in_float32
def read_agent(root: Path, spec: DenseSpec | TicketSpec, env_steps: int | None = None) -> Agent:
    """Read a checkpoint of a run, without its replay buffer.

    Raises:
        InputError: it is missing, damaged, or another run's.
    """
    path = checkpoint_file(root / spec.path, env_steps)
    config, state, about = load_agent(path)
    _check_whose(path, "checkpoint", about.get("spec"), spec)
    expected = env_steps if env_steps is not None else spec.dense.training.env_steps
    if config != spec.dense.agent or int(state.env_steps) != expected:
        raise InputError(
            f"the checkpoint {path} is of environment step {int(state.env_steps)}, and that of step {expected} of {spec.title()} "
            f"is needed, with its settings. {_ANEW.format(path.parent)}"
        )
    return Agent(config, state, task=spec.task)


def _check_whose(path: Path, what: str, found: Any, spec: Spec) -> None:
    if found != spec.sha256:
        whose = f"of the run {str(found)[:8]}" if found else "of no run that it names"
        raise InputError(
            f"the {what} {path} is {whose}, and that of {spec.title()} ({spec.sha256[:8]}) is needed. Was it copied here from "
            f"another folder? {_ANEW.format(path.parent)}"
        )


def finish_agent(root: Path, spec: DenseSpec | TicketSpec, state: AgentState) -> None:
    """Write the last checkpoint of a run, which says that it is finished."""
    run = root / spec.path
    save_agent(run, spec, state)
    record_finished(root, spec)
    remove_leftovers(run)


def finish_mask(root: Path, spec: MaskSpec, masks: dict[str, Mask], name: str | None = None) -> Path:
    """Write the file of a mask, in `name` or as usual, which says that it is finished; returns its path."""
    path = save_mask(root / spec.path, name or mask_name(spec.method), masks)
    record_finished(root, spec)
    return path


def save_replay_buffer(
    run: Path, spec: DenseSpec | TicketSpec, buffer: ReplayBuffer, env_steps: int | None = None
) -> None:
    """Write a replay buffer as a pickled dict of NumPy arrays; `spec_sha256` (32 bytes) says whose it is."""
    whose = np.frombuffer(bytes.fromhex(spec.sha256), np.uint8)
    write_whole(replay_file(run, env_steps), dump_pickle({**buffer.save(), _WHOSE: whose}))


_WHOSE = "spec_sha256"


class Resume(NamedTuple):
    """Where a run stands between two segments."""

    state: AgentState
    replay: ReplayState
    rows: list[tuple[int, str, float]]  # metrics so far
    seconds: dict[str, float]


def save_resume(run: Path, spec: DenseSpec | TicketSpec, resume: Resume) -> None:
    """Write all that a run needs to go on. One file, so that none of it can be of another moment than the rest."""
    size = int(resume.replay.size)
    more = {
        "replay/rows": np.asarray(resume.replay.rows[:size]),
        "replay/position": np.asarray(resume.replay.position),
        "replay/capacity": np.asarray(resume.replay.rows.shape[0], np.int64),
    }
    about = {"spec": spec.sha256, "rows": [list(row) for row in resume.rows], "seconds": resume.seconds}
    write_sealed(run / RESUME, dump_agent(spec.dense.agent, resume.state, about, more))


def load_resume(run: Path, spec: DenseSpec | TicketSpec) -> Resume | None:
    """Read where a run stands; None if it has not come to the first such point.

    Raises:
        InputError: the file is damaged, or another run's.
    """
    if not (run / RESUME).exists():
        return None
    _, state, about, more = load_agent_and_more(run / RESUME, sealed=True)
    _check_whose(run / RESUME, "state to go on from", about.get("spec"), spec)
    try:
        rows, capacity, position = more["replay/rows"], int(more["replay/capacity"]), int(more["replay/position"])
        if capacity != replay_capacity(spec.dense.agent, spec.dense.training):
            raise ValueError(f"its replay buffer has room for {capacity} transitions")
        if not (0 <= position < capacity and len(rows) <= capacity and np.isfinite(rows).all()):
            raise ValueError("its replay buffer is not whole")
        steps, training = int(state.env_steps), spec.dense.training
        if not spec.start < steps < training.env_steps or steps % training.segment_steps:
            raise ValueError(f"it is of environment step {steps}, where no segment of the run ends")
        full = np.zeros((capacity, rows.shape[1]), np.float32)
        full[: len(rows)] = rows
        size = np.array(len(rows), np.int32)
        replay = ReplayState(*jax.device_put((full, more["replay/position"], size)))
        return Resume(state, replay, [(int(a), str(b), float(c)) for a, b, c in about["rows"]], dict(about["seconds"]))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"{run / RESUME} is no state to go on from ({error}); delete it to start the run anew"
        ) from None


class MetricRow(NamedTuple):
    """One number that a run measured while it trained."""

    env_steps: int
    metric: str
    value: float


class AnalysisRow(NamedTuple):
    """One number about a run; `layer` is empty for what concerns the whole network (docs/analysis.md)."""

    network: str
    layer: str
    metric: str
    value: float


class LineRow(NamedTuple):
    """One number measured at a point of the line between two agents: `alpha` 0 is the one, 1 the other."""

    alpha: float
    metric: str  # return, success, <network>_loss
    value: float


def save_metrics(run: Path, rows: Iterable[tuple[int, str, float]]) -> None:
    """Write tidy metrics: env_steps, metric, value."""
    write_whole(run / METRICS, csv_bytes(MetricRow._fields, rows), checksum=False)


def save_analysis(run: Path, rows: Iterable[AnalysisRow]) -> None:
    """Write what is known of a run besides its results."""
    write_whole(run / ANALYSIS, csv_bytes(AnalysisRow._fields, rows), checksum=False)


def save_line(root: Path, spec: Spec, rows: Iterable[LineRow]) -> None:
    """Write a comparison, the file whose presence says that it is finished."""
    write_whole(root / spec.path / CONNECTIVITY, csv_bytes(LineRow._fields, rows))
    record_finished(root, spec)


def save_timings(run: Path, timings: dict[str, float]) -> None:
    """Write seconds by name."""
    _write_json(run / TIMINGS, {name: round(seconds, 3) for name, seconds in timings.items()})


_ANEW = "To make the run anew, delete the folder {} and run the same command again."


def read_provenance(run: Path) -> dict[str, Any]:
    """Return what a run was made with; empty where the file is missing or damaged, for nothing depends on it."""
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
    return read_rows(run / ANALYSIS, "the analysis", AnalysisRow, "Delete it, and it is made anew.")


def read_line(run: Path) -> list[LineRow]:
    """Read a comparison.

    Raises:
        InputError: it is missing or unreadable.
    """
    return read_rows(run / CONNECTIVITY, "the comparison", LineRow, _ANEW.format(run))


def evaluations(run: Path) -> list[MetricRow]:
    """Return what a run's evaluations measured: `evaluation/return`, `evaluation/success`.

    Raises:
        InputError: they cannot be read, or there are none.
    """
    rows = read_rows(run / METRICS, "the metrics", MetricRow, _ANEW.format(run))
    found = [row for row in rows if row.metric.startswith("evaluation/")]
    if not found:
        raise InputError(f"{run / METRICS} holds no evaluation. {_ANEW.format(run)}")
    if not all(math.isfinite(row.value) for row in found):
        raise InputError(f"{run / METRICS} holds an evaluation that is not finite. {_ANEW.format(run)}")
    return found


def evaluations_of(root: Path, spec: DenseSpec | TicketSpec) -> list[MetricRow]:
    """Return what the evaluations of a finished run measured.

    Raises:
        InputError: as `evaluations`; or they do not reach the run's end.
    """
    run, end = root / spec.path, spec.dense.training.env_steps
    found = evaluations(run)
    if max(row.env_steps for row in found) != end or any(row.env_steps < spec.start for row in found):
        raise InputError(
            f"{run / METRICS} is not of this run, whose last evaluation is at step {end}. {_ANEW.format(run)}"
        )
    return found


def last_evaluation(run: Path) -> dict[str, float]:
    """Return the metrics of a run's last evaluation by name: `evaluation/return`, and `evaluation/success` if defined."""
    found = evaluations(run)
    end = max(env_steps for env_steps, _, _ in found)
    return {metric: value for env_steps, metric, value in found if env_steps == end}


def save_mask(run: Path, name: str, masks: dict[str, Mask]) -> Path:
    """Write masks by network as a pickled dict of NumPy arrays."""
    tree = {network: jax.tree.map(lambda leaf: np.array(leaf, order="C"), masks[network]) for network in sorted(masks)}
    write_whole(run / name, dump_pickle(tree))
    return run / name


def load_mask(path: str | Path, state: AgentState | None = None) -> dict[str, Mask]:
    """Read masks by network, of any program's making, as JAX arrays; otherwise as `read_mask`."""
    return {network: jax.device_put(mask) for network, mask in read_mask(path, state).items()}


def read_mask(path: str | Path, state: AgentState | None = None) -> dict[str, Mask]:
    """Read masks by network, of any program's making, as NumPy arrays.

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
    return tree


def file_mask(path: Path, method: str) -> FileMask:
    """Describe a mask file by its content.

    Raises:
        InputError: as `load_mask`.
    """
    masks = load_mask(path)
    sparsity = {network: round(compute_sparsity(mask), 4) for network, mask in masks.items()}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FileMask(method=method, sha256=digest, sparsity=Sparsity(**sparsity))


def load_replay_buffer(
    run: Path, env_steps: int | None = None, spec: DenseSpec | TicketSpec | None = None
) -> ReplayBuffer:
    """Read a replay buffer; with `spec`, that of this run.

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
    data = load_pickle(path, "the replay buffer")
    if spec is not None and _WHOSE in data:  # other programs' buffers do not say
        _check_whose(path, "replay buffer", np.asarray(data[_WHOSE]).astype(np.uint8).tobytes().hex(), spec)
    return ReplayBuffer.load(data, f"the replay buffer {path}")


@in_float32
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
        raise InputError(no_run(run, path))
    config, state, about = load_agent(path)
    if (run / SPEC).exists() and about.get("spec"):
        _check_whose(path, "checkpoint", about["spec"], spec_of(run))
    buffer = load_replay_buffer(run, env_steps) if replay_file(run, env_steps).exists() else None
    return Run(Agent(config, state, buffer, str(about.get("task", ""))), buffer, masks_of(state))


def spec_of(run: Path) -> Spec:
    """Return a run's specification.

    Raises:
        InputError: there is no such run.
    """
    if not (run / SPEC).exists():
        raise InputError(no_run(run, run / SPEC))
    try:
        fields = dict(read_json(run / SPEC))
        version = fields.pop("spec_version")
        if version != SPEC_VERSION:
            raise ValueError(f"it is of version {version}, and this lth makes and reads version {SPEC_VERSION}")
        return parse_spec(fields)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{run / SPEC} is no description of a run: {error}") from None


def dense_spec_of(run: Path) -> DenseSpec:
    """Return the dense part of a run's specification: task, seed and settings.

    Raises:
        InputError: there is no such run.
    """
    spec = spec_of(run)
    return spec if isinstance(spec, DenseSpec) else spec.dense


def no_run(run: Path, path: Path) -> str:
    """Say why a folder is no run that can be read, and where there are some."""
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
