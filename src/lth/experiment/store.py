"""Write and read a run's agent, its replay buffer, its masks and the state to resume from. `journal` names the files.

A dense run or ticket is finished when its `checkpoint.safetensors` exists, a mask when its .pkl exists; these are written last.
`records` has what a run measured.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ..algorithms.base import Agent, AgentState
from ..algorithms.checkpoint import dump_agent, load_agent, load_agent_and_more
from ..algorithms.tickets import masks_of
from ..config import Sparsity, replay_capacity
from ..errors import InputError
from ..files import dump_pickle, load_pickle, write_sealed, write_whole
from ..precision import in_float32
from ..pruning.masks import check_same_structure, compute_sparsity
from ..replay import ReplayBuffer, ReplayState
from ..types import Mask
from .journal import RESUME, SPEC, checkpoint_file, mask_name, record_finished, remove_leftovers, replay_file
from .records import RECREATE, check_whose, no_run, read_mask, spec_of
from .spec import DenseSpec, FileMask, MaskSpec, TicketSpec


class Run(NamedTuple):
    """A loaded run: the agent, its replay buffer, and its masks by network."""

    agent: Agent
    """The agent."""
    replay_buffer: ReplayBuffer | None
    """None where it was deleted."""
    masks: dict[str, Mask]
    """By network, 1 kept and 0 pruned; a dense run's are all ones."""


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
    check_whose(path, "checkpoint", about.get("spec"), spec)
    expected = env_steps if env_steps is not None else spec.dense.training.env_steps
    if config != spec.dense.agent or int(state.env_steps) != expected:
        raise InputError(
            f"the checkpoint '{path}' is of environment step {int(state.env_steps)}, but step {expected} of {spec.title()} with "
            f"its settings is needed. {RECREATE.format(path.parent)}"
        )
    return Agent(config, state, task=spec.task)


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
    check_whose(run / RESUME, "resume file", about.get("spec"), spec)
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


def save_mask(run: Path, name: str, masks: dict[str, Mask]) -> Path:
    """Write masks by network as a pickled dict of NumPy arrays."""
    tree = {network: jax.tree.map(lambda leaf: np.array(leaf, order="C"), masks[network]) for network in sorted(masks)}
    write_whole(run / name, dump_pickle(tree))
    return run / name


def load_mask(path: str | Path, state: AgentState | None = None) -> dict[str, Mask]:
    """Read masks by network as JAX arrays; see `records.read_mask`.

    Raises:
        InputError: the file cannot be read, or does not fit the networks of `state` (names the leaf and both shapes).
    """
    masks = read_mask(path, state.params if state else ())
    if state is not None:
        for network, mask in masks.items():
            check_same_structure(mask, state.params[network], f"the {network}'s mask in {path}", f"the {network}'s")
    return {network: jax.device_put(mask) for network, mask in masks.items()}


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
        check_whose(path, "replay buffer", np.asarray(data[_WHOSE]).astype(np.uint8).tobytes().hex(), spec)
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
        check_whose(path, "checkpoint", about["spec"], spec_of(run))
    buffer = load_replay_buffer(run, env_steps) if replay_file(run, env_steps).exists() else None
    return Run(Agent(config, state, buffer, str(about.get("task", ""))), buffer, masks_of(state))
