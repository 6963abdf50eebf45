"""The method, a function a stage: (output directory, spec) -> the run's folder. Where its files are there nothing is done.

dense     train an agent; keep its start, its rewind points, its end and its replay buffer
mask      score the trained weights over the replay buffer, and keep the best of each network
start     put the dense agent's early state under the mask
ticket    train it for the steps that remain, with the pruned weights gone
"""

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
from . import store
from .journal import check_spec, checkpoint_file, is_finished, last_file, mask_name, replay_file
from .masking import gather_statistics, select_masks
from .measurements import rows_of_mask
from .spec import DenseSpec, MaskSpec, TicketSpec
from .start import check_mask_file, initial_agent, load_source, rewound_buffer, ticket_start
from .trainer import RunOptions, keep_points, train_to_end

PLAIN = RunOptions()


@in_float32
def train_dense(root: Path, spec: DenseSpec, options: RunOptions = PLAIN) -> Path:
    """Train a dense agent, keeping its start, the states at `options.rewind_points`, its end and its replay buffer.

    Raises:
        InputError: the folder holds another run, or cannot be written.
        TrainingError: training could not go on.
    """
    run, started = root / spec.path, time.perf_counter()
    if is_finished(root, spec):
        return keep_points(root, spec, options)
    if spec.training.adopted:
        raise InputError(
            f"{spec.title()} is an adopted agent, which is not trained here, and {run} is not whole: call `lth.adopt` again"
        )
    if checkpoint_file(run).exists():
        warnings.warn(
            f"{spec.title()}: its replay buffer is missing, so it is trained again, to the same bytes", stacklevel=2
        )
    store.open_run(root, spec)
    env = envs.make(spec.task, spec.seed, envs.EVALUATE, step_timeout=options.step_timeout)
    agent = initial_agent(spec, envs.spaces_of(env))
    store.save_agent(run, spec, agent.state, 0)
    train_to_end(root, spec, agent, env, options, started, keep=options.rewind_points)
    return run


@in_float32
def make_mask(root: Path, spec: MaskSpec, name: str | None = None) -> Path:
    """Score the weights of a finished run and keep the best of each network, in a file called `name` or as usual.

    Raises:
        InputError: the run, or the replay buffer that its gradients are taken on, is missing or unusable.
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
    store.open_run(root, spec)
    store.save_analysis(run, rows_of_mask(masks, agent, buffer, spec, gathered))
    store.save_timings(run, {"total": total, "analysis": time.perf_counter() - started - total})
    store.finish_mask(root, spec, masks, name)
    return run


def _source_buffer(root: Path, spec: MaskSpec) -> ReplayBuffer:
    """Return the replay buffer of the run that a mask is made from; of a ticket that `lth clean` has been at, it is made again."""
    source = spec.previous or spec.dense
    if spec.previous and not replay_file(root / source.path).exists():
        warnings.warn(
            f"{source.title()}: its replay buffer is missing, so it is trained again, to the same bytes", stacklevel=2
        )
        train_ticket(root, spec.previous, again=True)
    return store.load_replay_buffer(root / source.path, spec=source)


@in_float32
def train_ticket(
    root: Path,
    spec: TicketSpec,
    mask_file: Path | None = None,
    options: RunOptions = PLAIN,
    again: bool = False,
) -> Path:
    """Put a dense agent's early state under a mask and train it for the steps that remain; or a control.

    Args:
        root: the output directory.
        spec: the ticket, or a control.
        mask_file: where the mask lies, for a spec whose mask is a file.
        options: how the run is made.
        again: train it even if it is finished.

    Raises:
        InputError: the dense agent, its rewind point or the mask is missing or unusable.
        TrainingError: training could not go on.
    """
    run, started = root / spec.path, time.perf_counter()
    if is_finished(root, spec) and not again:
        return run
    if isinstance(spec.mask, MaskSpec):
        mask_file = last_file(root, spec.mask)
    check_mask_file(spec, mask_file)
    state = ticket_start(root, spec, mask_file)
    ticket = Agent(spec.dense.agent, state, rewound_buffer(root, spec, state))
    store.open_run(root, spec)
    store.save_agent(run, spec, state, spec.start)
    env = envs.make(spec.task, spec.seed, envs.EVALUATE, step_timeout=options.step_timeout)
    fresh_noise = bool(spec.control) and control_named(spec.control, load=False).fresh_noise
    train_to_end(root, spec, ticket, env, options, started, fresh_noise=fresh_noise)
    return run
