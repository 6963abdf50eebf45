"""The stages of an experiment. Each is a function (output directory, spec) -> run folder that skips finished runs.

dense     train an agent; save its initial state, its rewind points, its final state and its replay buffer
mask      score the trained weights over the replay buffer, and keep the highest-scoring weights of each network
start     rewind the dense agent and apply the mask
ticket    train it for the remaining steps with the pruned weights at zero
"""

import contextlib
import functools
import time
import warnings
from pathlib import Path

from .. import envs
from ..algorithms.base import Agent
from ..algorithms.controls import control_named
from ..errors import InputError
from ..precision import in_float32
from ..pruning.prune import check_collapse
from ..replay import ReplayBuffer
from . import records, store
from .journal import (
    SPEC,
    check_spec,
    checkpoint_file,
    first_difference,
    is_finished,
    last_file,
    mask_name,
    replay_file,
)
from .masking import gather_statistics, select_masks
from .measurements import rows_of_mask
from .options import RunOptions
from .spec import DenseSpec, MaskSpec, TicketSpec
from .start import check_mask_file, initial_agent, load_source, rewound_buffer, ticket_start
from .steps import Stage, Steps
from .trainer import keep_points, train_to_end

PLAIN = RunOptions()


@Stage
def train_dense(root: Path, spec: DenseSpec, options: RunOptions = PLAIN) -> Steps[Path]:
    """Train a dense agent. Saves its initial state, the states at `options.rewind_points`, its final state and its replay buffer.

    Raises:
        InputError: the folder contains another run, or is not writable.
        TrainingError: training failed.
    """
    run, started = root / spec.path, time.perf_counter()
    if is_finished(root, spec):
        return (yield from keep_points(root, spec, options))
    if spec.training.adopted:
        raise InputError(
            f"{spec.title()} is an adopted agent, which lth does not train, {_why_not_adopted(root, spec)}"
        )
    if checkpoint_file(run).exists():
        warnings.warn(
            f"{spec.title()}: its replay buffer is missing; training it again, with identical results", stacklevel=2
        )
    records.open_run(root, spec)
    agent = initial_agent(spec, envs.task_spaces(spec.task))
    store.save_agent(run, spec, agent.state, 0)
    yield from train_to_end(root, spec, agent, options, started, keep=options.rewind_points)
    return run


def _why_not_adopted(root: Path, spec: DenseSpec) -> str:
    """Return the likely reason that an adopted agent has no finished run: it may have been adopted with other settings."""
    if not (root / spec.path / SPEC).exists():
        for path in sorted(root.glob(f"*/*/dense-*/{SPEC}")):
            with contextlib.suppress(InputError):  # of another version, or damaged
                other = records.spec_of(path.parent)
                if isinstance(other, DenseSpec) and other.training.adopted == spec.training.adopted:
                    differs = first_difference(other.model_dump(mode="json"), spec.model_dump(mode="json"))
                    return (
                        f"and it was adopted with other settings, in '{path.parent}': {differs}. Leave tasks, seeds, training, "
                        "evaluation and the algorithm's section as in the config.yaml that `lth.adopt` wrote"
                    )
    return f"but '{root / spec.path}' is incomplete; call `lth.adopt` again"


@in_float32
def make_mask(root: Path, spec: MaskSpec, name: str | None = None) -> Path:
    """Score the weights of a finished run and write the masks of the highest-scoring weights to the file `name`.

    Raises:
        InputError: the run or its replay buffer is missing or invalid.
    """
    run, name, started = root / spec.path, name or mask_name(spec.method), time.perf_counter()
    if (run / name).exists():
        check_spec(run, spec)
        return run
    agent, buffer = load_source(root, spec), functools.partial(_source_buffer, root, spec)
    gathered = gather_statistics(agent, buffer, spec)
    masks = select_masks(agent, spec, gathered)
    for network, mask in masks.items():
        check_collapse(mask, what=spec.title(), whose=f"the {network}'s ")
    total = time.perf_counter() - started
    records.open_run(root, spec)
    records.save_analysis(run, rows_of_mask(masks, agent, buffer, spec, gathered))
    records.save_timings(run, {"total": total, "analysis": time.perf_counter() - started - total})
    store.finish_mask(root, spec, masks, name)
    return run


def _source_buffer(root: Path, spec: MaskSpec) -> ReplayBuffer:
    """Return the replay buffer of the scored run; a ticket whose buffer was removed by `lth clean` is trained again."""
    source = spec.previous or spec.dense
    if spec.previous and not replay_file(root / source.path).exists():
        warnings.warn(
            f"{source.title()}: its replay buffer is missing; training it again, with identical results", stacklevel=2
        )
        train_ticket(root, spec.previous, force=True)
    return store.load_replay_buffer(root / source.path, spec=source)


@Stage
def train_ticket(
    root: Path,
    spec: TicketSpec,
    mask_file: Path | None = None,
    options: RunOptions = PLAIN,
    force: bool = False,
) -> Steps[Path]:
    """Rewind a dense agent, apply a mask and train it for the remaining steps; also trains controls.

    Args:
        root: the output directory.
        spec: the ticket or control.
        mask_file: the path of the mask, for a spec whose mask is a file.
        options: options that do not affect results.
        force: train even if the run is finished.

    Raises:
        InputError: the dense agent, its rewind point or the mask is missing or invalid.
        TrainingError: training failed.
    """
    run, started = root / spec.path, time.perf_counter()
    if is_finished(root, spec) and not force:
        return run
    if isinstance(spec.mask, MaskSpec):
        mask_file = last_file(root, spec.mask)
    check_mask_file(spec, mask_file)
    state = ticket_start(root, spec, mask_file)
    ticket = Agent(spec.dense.agent, state, rewound_buffer(root, spec, state))
    records.open_run(root, spec)
    store.save_agent(run, spec, state, spec.start)
    fresh_noise = bool(spec.control) and control_named(spec.control, load=False).fresh_noise
    yield from train_to_end(root, spec, ticket, options, started, fresh_noise=fresh_noise)
    return run
