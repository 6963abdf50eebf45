"""The stages of an experiment: (root, spec) -> files. Each does nothing where its result is there already."""

import hashlib
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .. import envs
from ..config import GRADIENT_METHODS, SACConfig
from ..errors import InputError, nearest
from ..files import checksum_path
from ..gradient_pruning import (
    accumulate_gradient_statistics,
    prune_kernels_by_gradient_saliency,
    prune_kernels_by_magnitude,
)
from ..pruning.controls import random_mask, shuffled_mask
from ..pruning.masks import emptied_layers, holds_layer, layer_names
from ..replay import ReplayBuffer, init_replay
from ..sac.acting import policy_of
from ..sac.agent import Agent, SACState, init_state, make_ticket
from ..sac.checkpoint import load_agent
from ..training import Evaluation, evaluate, evaluation_due, metric_rows, replay_capacity, train
from ..types import Mask
from . import store
from .spec import DenseSpec, FileMask, MaskSpec, Spec, TicketSpec

Progress = Callable[[int, dict[str, float]], None]
"""Called with the environment step and the newest metrics after every segment."""


def _quiet(env_steps: int, metrics: dict[str, float]) -> None:
    del env_steps, metrics


def run_stage(root: Path, spec: Spec, rewind_steps: int = 0, progress: Progress = _quiet) -> Path:
    """Make a run's files unless they are there; returns its directory. A dense run keeps the state at `rewind_steps`.

    Raises:
        InputError: something that it needs is missing or unusable.
        TrainingError: training could not go on.
    """
    if isinstance(spec, DenseSpec):
        return train_dense(root, spec, rewind_steps, progress)
    if isinstance(spec, MaskSpec):
        return make_mask(root, spec)
    return train_ticket(root, spec, progress=progress)


def train_dense(root: Path, spec: DenseSpec, rewind_steps: int = 0, progress: Progress = _quiet) -> Path:
    """Train a dense agent, keeping its start, the state at `rewind_steps`, its end and its replay buffer.

    A rewind point that an earlier run did not keep is made by training up to it again, which gives the same bytes.
    """
    run = store.directory(root, spec)
    finished = store.is_finished(root, spec)
    kept = not rewind_steps or (
        store.checkpoint_file(run, rewind_steps).exists() and store.replay_file(run, rewind_steps).exists()
    )
    if finished and kept:
        return run
    if not finished and store.checkpoint_file(run).exists():
        warnings.warn(
            f"{spec.title()}: its replay buffer is missing, so it is trained again, to the same bytes", stacklevel=2
        )
    if not finished:
        store.open_run(root, spec)
    started = time.perf_counter()
    env = envs.make(spec.task, spec.seed, envs.EVALUATE)
    observation_dim, action_dim = envs.dimensions(env)
    state = init_state(spec.sac, jax.random.key(spec.seed), observation_dim, action_dim)
    replay = init_replay(replay_capacity(spec.sac, spec.training), observation_dim, action_dim)
    if not finished:
        store.save_agent(run, spec.sac, state, spec.task, 0)
    buffer = ReplayBuffer(replay, observation_dim, spec.seed)
    if finished:
        for segment in train(spec.sac, spec.training, spec.task, spec.seed, state, replay, rewind_steps):
            progress(segment.env_steps, segment.metrics)
            state, buffer.state = segment.state, segment.replay
        _save_point(run, spec, state, buffer, rewind_steps)
        return run
    _train_to_end(run, spec, Agent(spec.sac, state, buffer), env, started, progress, keep=rewind_steps)
    return run


def _save_point(run: Path, spec: DenseSpec, state: SACState, buffer: ReplayBuffer, env_steps: int) -> None:
    store.save_replay_buffer(run, buffer, env_steps)
    store.save_agent(run, spec.sac, state, spec.task, env_steps)


def _train_to_end(
    run: Path,
    spec: DenseSpec,
    agent: Agent,
    env: Any,
    started: float,
    progress: Progress,
    keep: int = 0,
) -> None:
    """Train from the agent's step to the end of its budget with evaluations, and write what a run consists of."""
    buffer = agent.replay_buffer
    assert buffer is not None
    env_steps = int(agent.state.env_steps)
    seconds = {"start": time.perf_counter() - started, "train": 0.0, "evaluate": 0.0}
    rows: list[tuple[int, str, float]] = []

    def evaluate_now(agent: Agent, env_steps: int) -> dict[str, float]:
        began = time.perf_counter()
        metrics = evaluation_metrics(evaluate(policy_of(agent), env, spec.evaluation.episodes))
        seconds["evaluate"] += time.perf_counter() - began
        rows.extend(metric_rows(env_steps, metrics))
        return metrics

    latest = evaluate_now(agent, env_steps)
    progress(env_steps, latest)
    state = agent.state
    for segment in train(spec.sac, spec.training, spec.task, spec.seed, state, buffer.state, spec.training.env_steps):
        state, buffer.state = segment.state, segment.replay
        seconds["train"] += segment.seconds
        rows.extend(metric_rows(segment.env_steps, segment.metrics))
        latest |= segment.metrics
        if evaluation_due(spec.training, spec.evaluation.every, segment.env_steps):
            latest |= evaluate_now(Agent(spec.sac, state), segment.env_steps)
        if keep and segment.env_steps == keep:
            _save_point(run, spec, state, buffer, keep)
        progress(segment.env_steps, latest)
    env.close()
    began = time.perf_counter()
    store.save_replay_buffer(run, buffer)
    store.save_metrics(run, rows)
    store.save_agent(run, spec.sac, state, spec.task)
    seconds["save"] = time.perf_counter() - began
    store.save_timings(run, {**seconds, "total": time.perf_counter() - started})


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Name what an evaluation measured."""
    metrics = {"evaluation/return": evaluation.return_mean}
    if evaluation.success_rate is not None:
        metrics["evaluation/success"] = evaluation.success_rate
    return metrics


def load_dense(root: Path, spec: DenseSpec, env_steps: int | None = None) -> Agent:
    """Read a dense run's agent (without its replay buffer).

    Raises:
        InputError: there is none, naming the path and the command that makes it.
    """
    path = store.checkpoint_file(store.directory(root, spec), env_steps)
    if not path.exists():
        raise InputError(
            f"there is no dense run for {spec.task}, seed {spec.seed}: {path} is missing. Make it with "
            f"`python scripts/_01_train_dense.py tasks={spec.task} seeds={spec.seed}` or "
            "`lth run`, with the same config (another setting is another run)."
        )
    config, state, _ = load_agent(path)
    return Agent(config, state)


def create_masks(agent: Agent, buffer: Callable[[], ReplayBuffer], spec: MaskSpec) -> dict[str, Mask]:
    """Make the masks of actor and critics from a trained agent; `buffer` is called where gradients are taken.

    Random masks depend on the run's seed, the method and the network, and not on the sparsity of the other network.
    """
    params = {"actor": agent.state.actor_params, "critic": agent.state.critic_params}
    sparsity = {"actor": spec.sparsity.actor, "critic": spec.sparsity.critic}
    exclude = dict(zip(params, excluded_layers(agent.config, spec.exclude), strict=True))
    gradients: dict[str, Any] = {}
    if spec.method in GRADIENT_METHODS:
        actor_grads, critic_grads = accumulate_gradient_statistics(
            agent, buffer(), spec.num_gradient_batches, spec.gradient_batch_size
        )
        gradients = {"actor": actor_grads, "critic": critic_grads}
    masks = {}
    for network, tree in params.items():
        stream = zlib.crc32(f"{spec.method}/{network}".encode())
        key = jax.random.fold_in(jax.random.key(spec.dense.seed), stream)
        if spec.method == "random":
            masks[network] = random_mask(tree, sparsity[network], key, exclude[network])
        elif spec.method == "shuffled":
            magnitude = prune_kernels_by_magnitude(tree, sparsity[network], exclude=exclude[network])
            masks[network] = shuffled_mask(magnitude, tree, key, exclude[network])
        else:
            masks[network] = prune_kernels_by_gradient_saliency(
                tree, gradients.get(network), sparsity[network], spec.method, exclude=exclude[network]
            )
    return masks


def excluded_layers(sac: SACConfig, exclude: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of `exclude` that the actor has, and those that the critics have.

    Raises:
        InputError: a name is no layer of either (naming the layers there are).
    """
    state = jax.eval_shape(lambda: init_state(sac, jax.random.key(0), 1, 1))
    layers = [layer_names(state.actor_params), layer_names(state.critic_params)]
    every = sorted({part for names in layers for name in names for part in (name, *name.split("/"))})
    for name in exclude:
        if name.strip("/") not in every:
            raise InputError(
                f"pruning.exclude names {name!r}, which is no layer of actor or critic; layers: {every}{nearest(name, every)}"
            )
    actor, critic = (tuple(n for n in exclude if any(holds_layer(layer, n) for layer in names)) for names in layers)
    return actor, critic


def warn_of_emptied_layers(masks: dict[str, Mask], title: str) -> None:
    """Warn, by name, of layers that a mask leaves without a weight: what comes before them has no effect any more."""
    for network, mask in masks.items():
        if emptied := emptied_layers(mask):
            warnings.warn(
                f"{title}: no weight is left in the {network}'s {', '.join(emptied)}: all that comes out of such a layer "
                "is its bias. pruning.exclude keeps a layer dense; a lower pruning.sparsity empties fewer.",
                stacklevel=2,
            )


def make_mask(root: Path, spec: MaskSpec, name: str | None = None) -> Path:
    """Make the masks of one method and sparsity from a finished dense run, in a file called `name` or as usual."""
    run = store.directory(root, spec)
    name = name or store.mask_name(spec.method)
    if (run / name).exists():
        store.check_spec(run, spec)
        return run
    started = time.perf_counter()
    dense = store.directory(root, spec.dense)
    agent = load_dense(root, spec.dense)
    masks = create_masks(agent, lambda: store.load_replay_buffer(dense), spec)
    warn_of_emptied_layers(masks, spec.title())
    store.open_run(root, spec)
    store.save_mask(run, name, masks)
    store.save_timings(run, {"total": time.perf_counter() - started})
    return run


def save_edited_mask(root: Path, spec: MaskSpec, masks: dict[str, Mask]) -> Path:
    """Write the mask.pkl of `_02_create_mask.py`: as the magnitude mask if it is that, else in a folder of its own.

    Whoever follows option 2 of docs/saliency-pruning.md edits the script so that its masks are others; they must not
    come to lie where `lth run` expects magnitude masks. The folder holds what the script wrote last, or is absent.
    """
    magnitude = create_masks(load_dense(root, spec.dense), lambda: ReplayBuffer.load({}), spec)
    same = all(
        bool(jnp.array_equal(a, b)) for a, b in zip(jax.tree.leaves(masks), jax.tree.leaves(magnitude), strict=True)
    )
    run = store.directory(root, spec)
    custom = edited_mask_file(root, spec)
    warn_of_emptied_layers(masks, spec.title())
    if not same:
        return store.save_mask(custom.parent, custom.name, masks)
    for file in (custom, checksum_path(custom)):
        file.unlink(missing_ok=True)
    if custom.parent.is_dir() and not any(custom.parent.iterdir()):
        custom.parent.rmdir()
    store.open_run(root, spec)
    return store.save_mask(run, store.mask_name(spec.method), masks)


def edited_mask_file(root: Path, spec: MaskSpec) -> Path:
    """Return where an edited `_02_create_mask.py` leaves its mask.pkl."""
    run = store.directory(root, spec)
    return run.with_name(run.name.replace(f"mask-{spec.method}", "mask-custom", 1)) / store.MASK


def train_ticket(root: Path, spec: TicketSpec, mask_file: Path | None = None, progress: Progress = _quiet) -> Path:
    """Put a dense agent's early state under a mask and train it for the steps that remain.

    Args:
        root: the output directory.
        spec: the ticket.
        mask_file: where the mask lies, for a spec whose mask is a file.
        progress: called after every segment.
    """
    run = store.directory(root, spec)
    if store.is_finished(root, spec):
        return run
    started = time.perf_counter()
    if isinstance(spec.mask, MaskSpec):
        mask_file = store.last_file(root, spec.mask)
        if not mask_file.exists():
            raise InputError(no_mask(mask_file, spec.mask))
    assert mask_file is not None
    if isinstance(spec.mask, FileMask) and hashlib.sha256(mask_file.read_bytes()).hexdigest() != spec.mask.sha256:
        raise InputError(f"the mask {mask_file} changed while this ran; start again")
    load_dense(root, spec.dense)  # a ticket's counterpart has to be there, and its rewind point can be made again
    dense = train_dense(root, spec.dense, spec.rewind_steps)
    agent = load_dense(root, spec.dense, spec.rewind_steps)
    masks = store.load_mask(mask_file, agent.state)
    capacity = replay_capacity(spec.dense.sac, spec.dense.training)
    state = make_ticket(agent.state, masks["actor"], masks["critic"])
    if spec.rewind_steps:
        buffer = store.load_replay_buffer(dense, spec.rewind_steps)
        have = (buffer.observation_dim, buffer.action_dim, buffer.capacity, len(buffer))
        want = (agent.observation_dim, agent.action_dim, capacity, min(spec.rewind_steps, capacity))
        if have != want:
            raise InputError(
                f"the replay buffer {store.replay_file(dense, spec.rewind_steps)} is not this run's: the lengths of its "
                f"observations and actions, its capacity and its size are {have}, and should be {want}"
            )
        buffer.state = buffer.full_state()
    else:
        buffer = ReplayBuffer(init_replay(capacity, agent.observation_dim, agent.action_dim), agent.observation_dim)
    run = store.open_run(root, spec)
    store.save_agent(run, spec.dense.sac, state, spec.dense.task, spec.rewind_steps)
    env = envs.make(spec.dense.task, spec.dense.seed, envs.EVALUATE)
    ticket = Agent(spec.dense.sac, state, buffer)
    _train_to_end(run, spec.dense, ticket, env, started, progress)
    return run


def no_mask(path: Path, spec: MaskSpec) -> str:
    """Say that a mask is missing, and which command makes it."""
    script = "_02b_create_mask_gradient.py" if path.name == store.MASK_GRADIENT else "_02_create_mask.py"
    return (
        f"there is no mask at {path}. Make it with `python scripts/{script}`"
        f"{f' pruning.gradient_method={spec.method}' if path.name == store.MASK_GRADIENT else ''} or `lth run`, "
        "with the same config."
    )
