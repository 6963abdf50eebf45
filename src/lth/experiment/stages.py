"""The stages of an experiment: (root, spec) -> files. Each does nothing where its result is there already."""

import hashlib
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import envs
from ..algorithms.acting import policy_of
from ..algorithms.architecture import AgentConfig, Network, Spaces
from ..algorithms.base import Agent, AgentState, Algorithm
from ..algorithms.checkpoint import load_agent
from ..algorithms.packed import Patterns, patterns_of
from ..algorithms.tickets import align_learning_rates, make_ticket, masks_of, permuted_ticket
from ..analysis.stability import Stability, stability
from ..config import GRADIENT_METHODS, Config
from ..errors import InputError
from ..files import checksum_path
from ..pruning.controls import shuffled_mask
from ..pruning.criteria import CRITERIA
from ..pruning.layers import check_layer_names, holds_layer, layer_names, prunable_leaves
from ..pruning.masks import check_same_structure
from ..pruning.prune import check_collapse, prune
from ..pruning.schedules import prune_at, rigl, sparse_evolution
from ..replay import ReplayBuffer, init_replay
from ..saliency import gradient_halves, gradient_statistics, synaptic_flow
from ..sparse import native
from ..training import Evaluation, evaluate, evaluation_due, metric_rows, replay_capacity, total_updates, train
from ..types import Mask, Params
from . import store
from .analysis import AnalysisRow, agent_rows, mask_rows, stability_rows
from .connectivity import connect
from .events import event_log
from .spec import INVERTED, ConnectivitySpec, DenseSpec, FileMask, MaskSpec, Spec, TicketSpec, rows

Progress = Callable[[int, dict[str, float]], None]
"""Called with the environment step and the newest metrics after every segment."""


def _quiet(env_steps: int, metrics: dict[str, float]) -> None:
    del env_steps, metrics


class How(NamedTuple):
    """How runs are made; none of it changes their results."""

    rewind_points: tuple[int, ...] = ()  # what dense runs keep besides their start and end
    checkpoint_every: int = 10  # segments
    tensorboard: bool = False
    progress: Progress = _quiet


PLAIN = How()


def how_of(config: Config, progress: Progress = _quiet) -> How:
    """Read from a config how its runs are made."""
    points = tuple(step for step in config.pruning.rewind_steps if step != "none")
    return How(points, config.training.checkpoint_every, config.tensorboard, progress)


def is_made(root: Path, spec: Spec, how: How) -> bool:
    """Say whether nothing is left to do for a run; a dense run includes its rewind points.

    Raises:
        InputError: the directory holds a run of another specification, or a file was altered.
    """
    run = store.directory(root, spec)
    kept = not isinstance(spec, DenseSpec) or not _missing_points(run, how.rewind_points)
    return kept and store.is_finished(root, spec)


def _missing_points(run: Path, points: Sequence[int]) -> list[int]:
    files = (store.checkpoint_file, store.replay_file)
    return sorted(step for step in set(points) if step and not all(file(run, step).exists() for file in files))


def run_stage(root: Path, spec: Spec, how: How) -> Path:
    """Make a run's files unless they are there; returns its directory.

    Raises:
        InputError: something that it needs is missing or unusable.
        TrainingError: training could not go on.
    """
    if isinstance(spec, DenseSpec):
        return train_dense(root, spec, how.rewind_points, how)
    if isinstance(spec, MaskSpec):
        return make_mask(root, spec)
    if isinstance(spec, ConnectivitySpec):
        return connect(root, spec)
    return train_ticket(root, spec, how=how)


def train_dense(root: Path, spec: DenseSpec, rewind_points: Sequence[int] = (), how: How = PLAIN) -> Path:
    """Train a dense agent, keeping its start, the states at `rewind_points`, its end and its replay buffer.

    A rewind point that an earlier run did not keep is made by training up to it again, which gives the same bytes.
    """
    run = store.directory(root, spec)
    finished = store.is_finished(root, spec)
    missing = _missing_points(run, rewind_points)
    if finished and not missing:
        return run
    if not finished and store.checkpoint_file(run).exists():
        warnings.warn(
            f"{spec.title()}: its replay buffer is missing, so it is trained again, to the same bytes", stacklevel=2
        )
    if not finished:
        store.open_run(root, spec)
    started = time.perf_counter()
    env = envs.make(spec.task, spec.seed, envs.EVALUATE)
    algorithm = spec.agent.build(envs.spaces_of(env), spec.task)
    state = algorithm.init(jax.random.key(spec.seed))
    buffer = _empty_buffer(algorithm, spec)
    if finished:
        for segment in train(algorithm, spec.training, spec.task, spec.seed, state, buffer.state, missing[-1]):
            how.progress(segment.env_steps, segment.metrics)
            buffer.state = segment.replay
            if segment.env_steps in missing:
                _save_point(run, spec, segment.state, buffer, segment.env_steps)
        return run
    store.save_agent(run, spec.agent, state, spec.task, 0)
    _train_to_end(run, spec, Agent(spec.agent, state, buffer), env, started, how, keep=rewind_points)
    return run


def _empty_buffer(algorithm: Algorithm, spec: DenseSpec) -> ReplayBuffer:
    spaces = algorithm.spaces
    replay = init_replay(replay_capacity(spec.agent, spec.training), spaces.observation_dim, spaces.action_width)
    return ReplayBuffer(replay, spaces.observation_dim, spec.seed, discrete=spaces.discrete)


def _save_point(run: Path, spec: DenseSpec, state: AgentState, buffer: ReplayBuffer, env_steps: int) -> None:
    store.save_replay_buffer(run, buffer, env_steps)
    store.save_agent(run, spec.agent, state, spec.task, env_steps)


def _train_to_end(
    run: Path,
    spec: DenseSpec,
    agent: Agent,
    env: Any,
    started: float,
    how: How,
    keep: Sequence[int] = (),
    again: bool = False,
    patterns: Patterns | None = None,
) -> None:
    """Train from where the agent or an interrupted run stands to the end of the budget, and write what a run consists of."""
    buffer = agent.replay_buffer
    assert buffer is not None
    state = agent.state
    seconds = {"start": time.perf_counter() - started, "train": 0.0, "evaluate": 0.0, "save": 0.0}
    rows: list[tuple[int, str, float]] = []
    latest: dict[str, float] = {}
    events = event_log(run / store.EVENTS) if how.tensorboard else None

    def add(env_steps: int, metrics: dict[str, float]) -> None:
        latest.update(metrics)
        rows.extend(metric_rows(env_steps, metrics))
        if events:
            events(env_steps, metrics)

    def evaluate_now(state: AgentState) -> None:
        began = time.perf_counter()
        result = evaluate(policy_of(Agent(spec.agent, state)), env, spec.evaluation.episodes)
        seconds["evaluate"] += time.perf_counter() - began
        add(int(state.env_steps), evaluation_metrics(result))

    resume = store.load_resume(run)
    if resume:
        state, buffer.state, rows = resume.state, resume.replay, resume.rows
        latest |= {name: value for _, name, value in rows}
        seconds = {name: seconds[name] + resume.seconds.get(name, 0.0) for name in seconds}
    else:
        evaluate_now(state)
    how.progress(int(state.env_steps), latest)
    until = spec.training.env_steps
    algorithm = agent.algorithm
    segments = train(algorithm, spec.training, spec.task, spec.seed, state, buffer.state, until, again, patterns)
    for number, segment in enumerate(segments, 1):
        state, buffer.state = segment.state, segment.replay
        seconds["train"] += segment.seconds
        add(segment.env_steps, segment.metrics)
        if evaluation_due(spec.training, spec.evaluation.every, segment.env_steps):
            evaluate_now(state)
        began = time.perf_counter()
        if segment.env_steps in keep:
            _save_point(run, spec, state, buffer, segment.env_steps)
        if number % how.checkpoint_every == 0 and segment.env_steps < spec.training.env_steps:
            store.save_resume(run, spec.agent, store.Resume(state, buffer.state, rows, seconds))
        seconds["save"] += time.perf_counter() - began
        how.progress(segment.env_steps, latest)
    env.close()
    began = time.perf_counter()
    if any(state.opts[name].schedule is not None for name in state.params):
        store.save_mask(run, store.MASK, masks_of(state))
    store.save_replay_buffer(run, buffer)
    store.save_metrics(run, rows)
    store.save_analysis(run, agent_rows(Agent(spec.agent, state, buffer)))
    seconds["save"] += time.perf_counter() - began
    store.save_timings(run, {**seconds, "total": sum(seconds.values())})
    store.save_agent(run, spec.agent, state, spec.task)
    store.tidy(run)


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
    """Make the mask of each network from a trained agent; `buffer` is called where gradients are taken.

    What the agent was trained without stays pruned. Random masks depend on the run's seed, the method and the network, and
    not on the sparsity of other networks.
    """
    if spec.criterion not in GRADIENT_METHODS:
        return _select_masks(agent, spec, {})
    sizes = (spec.num_gradient_batches, spec.gradient_batch_size)
    return _select_masks(agent, spec, gradient_statistics(agent, buffer(), *sizes, statistic=_statistic(spec)))


def _statistic(spec: MaskSpec) -> str:
    statistic = CRITERIA[spec.criterion].statistic
    assert statistic
    return statistic


def saliency_stability(agent: Agent, buffer: ReplayBuffer, spec: MaskSpec) -> dict[str, Stability]:
    """Make a mask from each half of its gradient batches, and say how far they agree, by network."""
    sizes = (spec.num_gradient_batches, spec.gradient_batch_size)
    gathered = gradient_halves(agent, buffer, *sizes, statistic=_statistic(spec))
    masks = [_select_masks(agent, spec, half) for half in gathered]
    exclude, _ = named_layers(agent.config, spec.exclude, spec.allocation)
    found = {}
    for network, before in masks_of(agent.state).items():
        prunable = prunable_leaves(before, exclude[network])
        treedef: Any
        leaves, treedef = jax.tree.flatten(before)
        # What is excluded, or was pruned before, is no candidate.
        candidates = treedef.unflatten([m * flag for m, flag in zip(leaves, prunable, strict=True)])
        found[network] = stability(
            agent.state.params[network],
            (gathered[0][network], gathered[1][network]),
            (masks[0][network], masks[1][network]),
            spec.criterion,
            candidates,
        )
    return found


def _select_masks(agent: Agent, spec: MaskSpec, gathered: dict[str, Any]) -> dict[str, Mask]:
    """Make the masks from what was gathered over batches, by network; nothing where the criterion needs none."""
    params = agent.state.params
    before: dict[str, Any] = masks_of(agent.state) if spec.previous else dict.fromkeys(params)
    shuffled = spec.method == "shuffled"
    criterion = "magnitude" if shuffled else spec.criterion
    keys = {
        network: jax.random.fold_in(jax.random.key(spec.dense.seed), zlib.crc32(f"{spec.method}/{network}".encode()))
        for network in params
    }
    exclude, allocation = named_layers(agent.config, spec.exclude, spec.allocation)
    if criterion == "random":
        allocation = {network: "layer" if spec.allocation == "global" else allocation[network] for network in params}
    masks = {}
    if spec.pool == "together":
        every = [f"{network}/{name}" for network in params for name in exclude[network]]
        by_layer = {f"{n}/{name}": s for n, a in allocation.items() if not isinstance(a, str) for name, s in a.items()}
        masks = prune(
            params,
            next(iter(spec.sparsity.networks.values())),
            criterion,
            loss=synaptic_flow,
            batches=[jnp.ones(())],
            gradients=gathered or None,
            allocation=by_layer or spec.allocation,  # type: ignore[arg-type]
            exclude=every,
            prev_mask=before if spec.previous else None,
            invert=spec.method.startswith(INVERTED),
            collapse="allow",
        )
    else:
        for network, tree in params.items():
            masks[network] = prune(
                tree,
                spec.sparsity[network],
                criterion,
                loss=synaptic_flow,
                batches=[jnp.ones(())],
                gradients=gathered.get(network),
                key=keys[network],
                allocation=allocation[network],
                exclude=exclude[network],
                prev_mask=before[network],
                invert=spec.method.startswith(INVERTED),
                collapse="allow",
            )
    if shuffled:
        masks = {n: shuffled_mask(masks[n], tree, keys[n], exclude[n]) for n, tree in params.items()}
    return masks


def named_layers(
    agent: AgentConfig, exclude: Sequence[str], allocation: str | Sequence[tuple[str, float]] = "global"
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Say for each network which of its layers stay dense, and what its allocation is, both by layers' whole names.

    A name is any part of a layer's path from its network on: `layer_0`, `q1/output`, `q/layer_1`.

    Raises:
        InputError: a name is no layer's (naming the layers there are).
    """
    algorithm = agent.build(Spaces(1, 1, agent.DISCRETE))
    state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
    layers = {network: layer_names(params) for network, params in state.params.items()}
    where = f"of {' or '.join(layers)}"
    every = [f"{network}/{layer}" for network, names in layers.items() for layer in names]
    check_layer_names(exclude, every, "pruning.exclude", where)
    dense = {n: [x for x in names if any(holds_layer(f"{n}/{x}", e) for e in exclude)] for n, names in layers.items()}
    if isinstance(allocation, str):
        return dense, dict.fromkeys(layers, allocation)
    shares = dict(allocation)
    check_layer_names(shares, every, "pruning.allocation", where)
    named: dict[str, Any] = {}
    for network, names in layers.items():
        fitting = {x: [name for name in shares if holds_layer(f"{network}/{x}", name)] for x in names}
        named[network] = {
            x: shares[max(found, key=len)] for x, found in fitting.items() if found and x not in dense[network]
        }
    return dense, named


def make_mask(root: Path, spec: MaskSpec, name: str | None = None) -> Path:
    """Make the masks of one method and sparsity from a finished dense run, in a file called `name` or as usual."""
    run = store.directory(root, spec)
    name = name or store.mask_name(spec.method)
    if (run / name).exists():
        store.check_spec(run, spec)
        return run
    started = time.perf_counter()
    agent, source = _scored(root, spec)
    masks = create_masks(agent, lambda: store.load_replay_buffer(source), spec)
    for network, mask in masks.items():
        check_collapse(mask, what=spec.title(), whose=f"the {network}'s ")
    total = time.perf_counter() - started
    store.open_run(root, spec)
    store.save_analysis(run, _mask_rows(masks, agent, lambda: store.load_replay_buffer(source), spec))
    store.save_timings(run, {"total": total, "analysis": time.perf_counter() - started - total})
    store.save_mask(run, name, masks)
    return run


def _mask_rows(
    masks: dict[str, Mask], agent: Agent, buffer: Callable[[], ReplayBuffer], spec: MaskSpec
) -> list[AnalysisRow]:
    rows = mask_rows(masks)
    if spec.criterion in GRADIENT_METHODS and spec.num_gradient_batches > 1:
        rows += stability_rows(saliency_stability(agent, buffer(), spec))
    return rows


def analyze(root: Path, spec: DenseSpec | MaskSpec | TicketSpec) -> list[AnalysisRow]:
    """Return what `analysis.csv` says of a finished run; for a run of an earlier version it is made now.

    Raises:
        InputError: the run is not there, or a file was altered.
    """
    run = store.directory(root, spec)
    if not (run / store.ANALYSIS).exists():
        if isinstance(spec, MaskSpec):
            agent, source = _scored(root, spec)
            masks = store.load_mask(store.last_file(root, spec))
            rows = mask_rows(masks)
            if store.replay_file(source).exists():
                rows = _mask_rows(masks, agent, lambda: store.load_replay_buffer(source), spec)
        else:
            rows = agent_rows(store.load(run).agent)
        store.save_analysis(run, rows)
    return store.read_analysis(run)


def _scored(root: Path, spec: MaskSpec) -> tuple[Agent, Path]:
    """Return the agent whose weights a mask is made from, and its directory."""
    source = store.directory(root, spec.previous or spec.dense)
    if not spec.previous:
        return load_dense(root, spec.dense), source
    config, state, _ = load_agent(store.checkpoint_file(source))
    return Agent(config, state), source


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
    for network, mask in masks.items():
        check_collapse(mask, what=spec.title(), whose=f"the {network}'s ")
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


def train_ticket(root: Path, spec: TicketSpec, mask_file: Path | None = None, how: How = PLAIN) -> Path:
    """Put a dense agent's early state under a mask and train it for the steps that remain.

    Args:
        root: the output directory.
        spec: the ticket, or a control.
        mask_file: where the mask lies, for a spec whose mask is a file.
        how: how the run is made.
    """
    run = store.directory(root, spec)
    if store.is_finished(root, spec):
        return run
    started = time.perf_counter()
    if isinstance(spec.mask, MaskSpec):
        mask_file = store.last_file(root, spec.mask)
        if not mask_file.exists():
            raise InputError(no_mask(mask_file, spec.mask))
    if isinstance(spec.mask, FileMask):
        assert mask_file is not None
        if hashlib.sha256(mask_file.read_bytes()).hexdigest() != spec.mask.sha256:
            raise InputError(f"the mask {mask_file} changed while this ran; start again")
    for dense in (spec.dense, spec.weights):
        if dense:
            load_dense(root, dense)  # a ticket's counterpart has to be there, and its rewind point can be made again
            train_dense(root, dense, () if spec.rewind_steps == "none" else (spec.rewind_steps,))
    state = rewound_state(root, spec)
    masks = masks_of(state)
    if mask_file is not None:
        masks = store.load_mask(mask_file, None if spec.mismatch == "dense" else state)
        _check_names(masks, state, mask_file)
        masks = {network: _fitted(mask, state.params[network]) for network, mask in masks.items()}
    state = scheduled(spec, controlled(spec, state, masks))
    state = align_learning_rates(state, spec.dense.agent.networks())
    buffer = rewound_buffer(root, spec, state)
    run = store.open_run(root, spec)
    store.save_agent(run, spec.dense.agent, state, spec.dense.task, spec.start)
    env = envs.make(spec.dense.task, spec.dense.seed, envs.EVALUATE)
    ticket = Agent(spec.dense.agent, state, buffer)
    again = spec.control == "retrained"
    _train_to_end(run, spec.dense, ticket, env, started, how, again=again, patterns=_patterns(spec, state))
    return run


def _patterns(spec: TicketSpec, state: AgentState) -> Patterns | None:
    """Return what the native kernel needs for a ticket that is to be computed by it, or None where it cannot be."""
    if spec.backend == "dense":
        return None
    try:
        native.load()
    except native.Unavailable as error:
        warnings.warn(
            f"{spec.title()}: there is no native kernel on this machine ({error}), so this ticket is computed densely: the same "
            "mathematics, more slowly, and other last bits",
            stacklevel=2,
        )
        return None
    return patterns_of(state)


def rewound_state(root: Path, spec: TicketSpec) -> AgentState:
    """Return the dense agent's state at the rewind point, with what is not rewound taken from its end."""
    last = load_dense(root, spec.dense).state
    at = None if spec.rewind_steps == "none" else spec.rewind_steps
    state = load_dense(root, spec.dense, at).state
    if at is None:
        start = jnp.asarray(spec.start, jnp.int32)
        state = state._replace(env_steps=start, grad_steps=jnp.zeros_like(last.grad_steps))
    if "optimizer" not in spec.rewound:
        state = state._replace(opts={**state.opts, **{name: last.opts[name] for name in state.params}})
    if "normalizer" not in spec.rewound:
        state = state._replace(normalizer=last.normalizer)
    if "temperature" not in spec.rewound:
        others = {name: opt for name, opt in last.opts.items() if name not in state.params}
        state = state._replace(values=last.values, opts={**state.opts, **others})
    if spec.weights:
        theirs = load_dense(root, spec.weights, at).state
        for name in ("params", "targets"):
            mine, other = getattr(state, name), getattr(theirs, name)
            if spec.mismatch == "error":
                check_same_structure(other, mine, f"the agent of {spec.weights.task}", f"that of {spec.dense.task}")
            state = state._replace(**{name: jax.tree.map(lambda a, b: b if a.shape == b.shape else a, mine, other)})
    return state


def _check_names(masks: dict[str, Mask], state: AgentState, path: Path) -> None:
    if set(masks) != set(state.params):
        raise InputError(
            f"the mask {path} is of the networks {sorted(masks)}, and this agent has {sorted(state.params)}"
        )


def _fitted(mask: Mask, params: Params) -> Mask:
    """Leave layers dense whose shapes are others than the mask's."""
    return jax.tree.map(lambda m, p: m if m.shape == p.shape else jnp.ones_like(p), mask, params)


def controlled(spec: TicketSpec, state: AgentState, masks: dict[str, Mask]) -> AgentState:
    """Put a state under the masks, as a ticket or as the control that `spec` names (docs/protocols.md)."""
    if spec.control == "retrained" and spec.mask is None:
        return state
    keys = {
        network: jax.random.fold_in(jax.random.key(spec.dense.seed), zlib.crc32(f"{spec.control}/{network}".encode()))
        for network in masks
    }
    if spec.control == "shuffled":
        masks = {n: shuffled_mask(masks[n], state.params[n], keys[n]) for n in masks}
    if spec.control == "reinit":
        algorithm = Agent(spec.dense.agent, state).algorithm
        fresh = algorithm.init(keys[algorithm.policy])
        opts = {**state.opts, **{name: fresh.opts[name] for name in state.params}}
        state = state._replace(params=fresh.params, targets=fresh.targets, opts=opts)
    state = make_ticket(state, masks)
    return permuted_ticket(state, keys) if spec.control == "permuted" else state


def scheduled(spec: TicketSpec, state: AgentState) -> AgentState:
    """Put what changes the masks in training into the optimisers' states, where the spec asks for it."""
    schedule = spec.schedule
    if schedule is None:
        return state
    last = last_change(spec)
    exclude, allocation = named_layers(spec.dense.agent, schedule.exclude, schedule.allocation)
    opts = dict(state.opts)
    for network, about in spec.dense.agent.networks().items():
        # A schedule counts the updates of its own network, which may be fewer than the agent's (a delayed policy).
        params, every, until = state.params[network], _network_updates(schedule.every, about), last // about.period
        if schedule.method == "gradual":
            at = range(every, until + 1, every)
            sparsity = schedule.sparsity[network]
            found: Any = prune_at(params, sparsity, at, "cubic", allocation[network], exclude[network])
        elif schedule.method == "set":
            key = jax.random.fold_in(jax.random.key(spec.dense.seed), zlib.crc32(f"set/{network}/growth".encode()))
            found = sparse_evolution(params, every, until, key, schedule.fraction, exclude[network])
        else:
            found = rigl(params, every, until, schedule.fraction, exclude[network])
        opts[network] = opts[network]._replace(schedule=found)
    return state._replace(opts=opts)


def _network_updates(updates: int, network: Network) -> int:
    """Return how many of a network's own updates fill so many of the agent's, at least one."""
    return -(-updates // network.period)


def check_schedules(config: Config) -> None:
    """Raise InputError where a ticket's mask is to change in training and never would."""
    for row in rows(config):
        if isinstance(row.run, TicketSpec) and row.run.schedule:
            last_change(row.run)


def last_change(spec: TicketSpec) -> int:
    """Return the update up to which a ticket's mask changes in training.

    Raises:
        InputError: it would never change.
    """
    schedule = spec.schedule
    assert schedule is not None
    updates = total_updates(spec.dense.training, spec.start)
    until = round(schedule.until * updates)

    def never(network: Network) -> bool:  # gradual pruning changes its mask at the last update too
        return _network_updates(schedule.every, network) >= until // network.period + (schedule.method == "gradual")

    if any(map(never, spec.dense.agent.networks().values())):
        raise InputError(
            f"{schedule.method} would never change its mask: it does so after every {schedule.every} updates "
            f"(pruning.mask_every), up to update {until} of the ticket's {updates} (pruning.mask_until={schedule.until}). Lower "
            "pruning.mask_every, or train for longer."
        )
    return until


def rewound_buffer(root: Path, spec: TicketSpec, state: AgentState) -> ReplayBuffer:
    """Return the replay buffer that a ticket starts with: empty, that of the rewind point, or the trained agent's."""
    dense, training = store.directory(root, spec.dense), spec.dense.training
    capacity = replay_capacity(spec.dense.agent, training)
    algorithm = Agent(spec.dense.agent, state).algorithm
    sizes = (algorithm.spaces.observation_dim, algorithm.spaces.action_width)
    kept = spec.rewind_steps == "none" or "replay_buffer" not in spec.rewound
    if spec.rewind_steps == 0 and not kept:
        return _empty_buffer(algorithm, spec.dense)
    at = None if kept or spec.rewind_steps == "none" else spec.rewind_steps
    buffer = store.load_replay_buffer(dense, at)
    have = (buffer.observation_dim, buffer.action_dim, buffer.capacity, len(buffer))
    want = (*sizes, capacity, min(training.env_steps if at is None else at, capacity))
    if have != want:
        raise InputError(
            f"the replay buffer {store.replay_file(dense, at)} is not this run's: the lengths of its "
            f"observations and actions, its capacity and its size are {have}, and should be {want}"
        )
    buffer.state = buffer.full_state()
    return buffer


def no_mask(path: Path, spec: MaskSpec) -> str:
    """Say that a mask is missing, and which command makes it."""
    if path.name == store.MASK and not spec.dense.agent.has_pair():
        return (
            f"there is no mask at {path}. `lth run` with the same config makes it; of the scripts `_02b_create_mask_gradient.py` "
            f"prunes {spec.dense.agent.NAME}, and its masks are used with --mask {store.MASK_GRADIENT}."
        )
    script = "_02b_create_mask_gradient.py" if path.name == store.MASK_GRADIENT else "_02_create_mask.py"
    return (
        f"there is no mask at {path}. Make it with `python scripts/{script}`"
        f"{f' pruning.gradient_method={spec.method}' if path.name == store.MASK_GRADIENT else ''} or `lth run`, "
        "with the same config."
    )
