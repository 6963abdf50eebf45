"""Build the initial state of a ticket: rewind the dense agent, apply the mask, then the control and the schedule."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ..algorithms.architecture import Network, Spaces
from ..algorithms.base import Agent, AgentState, Algorithm
from ..algorithms.controls import Control, control_named
from ..algorithms.tickets import align_learning_rates, make_ticket, masks_of
from ..config import replay_capacity, total_updates
from ..errors import InputError
from ..pruning.allocation import pruned_count
from ..pruning.masks import check_same_structure, pruned_counts
from ..pruning.schedules import prune_at, rigl, sparse_evolution
from ..replay import ReplayBuffer, init_replay
from ..types import Mask, Params
from . import store
from .journal import MASK, MASK_GRADIENT, checkpoint_file, mask_name, replay_file
from .masking import named_key, named_layers
from .plan import Plan
from .spec import DenseSpec, FileMask, MaskSpec, TicketSpec


def load_dense(root: Path, spec: DenseSpec, env_steps: int | None = None) -> Agent:
    """Read a dense run's agent without its replay buffer.

    Raises:
        InputError: it does not exist; names the path and the command that makes it.
    """
    path = checkpoint_file(root / spec.path, env_steps)
    if not path.exists():
        raise InputError(
            f"there is no dense run for {spec.task}, seed {spec.seed}: '{path}' is missing. Create it with "
            f"`python scripts/_01_train_dense.py tasks={spec.task} seeds={spec.seed}` or "
            "`lth run`, with the same config (other settings are another run)."
        )
    return store.read_agent(root, spec, env_steps)


def load_source(root: Path, spec: MaskSpec) -> Agent:
    """Return the agent whose weights are scored.

    Raises:
        InputError: it does not exist.
    """
    return store.read_agent(root, spec.previous) if spec.previous else load_dense(root, spec.dense)


def initial_agent(spec: DenseSpec, spaces: Spaces) -> Agent:
    """Return the untrained agent of a seed, with an empty replay buffer."""
    algorithm = spec.agent.build(spaces, spec.task)
    return Agent(spec.agent, algorithm.init(jax.random.key(spec.seed)), empty_buffer(algorithm, spec))


def check_mask_file(spec: TicketSpec, mask_file: Path | None) -> None:
    """Raise InputError unless a ticket's mask exists and matches the spec."""
    if isinstance(spec.mask, MaskSpec) and not (mask_file and mask_file.exists()):
        raise InputError(no_mask(mask_file or Path(mask_name(spec.mask.method)), spec.mask))
    if isinstance(spec.mask, FileMask):
        assert mask_file is not None
        if hashlib.sha256(mask_file.read_bytes()).hexdigest() != spec.mask.sha256:
            raise InputError(f"the mask '{mask_file}' changed during this command; run it again")


def no_mask(path: Path, spec: MaskSpec) -> str:
    """Return a message that a mask is missing, with the command that makes it."""
    if path.name == MASK and not spec.dense.agent.has_pair():
        return (
            f"there is no mask at '{path}'. Create it with `lth run` and the same config. For {spec.dense.agent.NAME}, use the "
            f"script `_02b_create_mask_gradient.py`, and its masks with --mask {MASK_GRADIENT}."
        )
    script = "_02b_create_mask_gradient.py" if path.name == MASK_GRADIENT else "_02_create_mask.py"
    return (
        f"there is no mask at '{path}'. Create it with `python scripts/{script}`"
        f"{f' pruning.gradient_method={spec.method}' if path.name == MASK_GRADIENT else ''} or `lth run`, "
        "with the same config."
    )


def ticket_start(root: Path, spec: TicketSpec, mask_file: Path | None) -> AgentState:
    """Return the initial state of a ticket: rewound, masked, and modified by its control and its schedule.

    Raises:
        InputError: the dense agent or the mask is missing or invalid, or they do not fit each other.
    """
    state = rewound_state(root, spec)
    masks = masks_of(state)
    if mask_file is not None:
        masks = store.load_mask(mask_file, None if spec.mismatch == "dense" else state)
        if masks.keys() != state.params.keys():
            raise InputError(
                f"the mask '{mask_file}' has the networks {sorted(masks)}, but this agent has {sorted(state.params)}"
            )
        if isinstance(spec.mask, MaskSpec):
            check_counts(masks, spec.mask, mask_file)
        masks = {network: _fitted(mask, state.params[network]) for network, mask in masks.items()}
    state = attach_schedule(spec, apply_control(spec, state, masks))
    return align_learning_rates(state, spec.dense.agent.networks())


def rewound_state(root: Path, spec: TicketSpec) -> AgentState:
    """Return the dense agent's state at the rewind point; parts that are not rewound are taken from the final state."""
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


def check_counts(masks: dict[str, Mask], spec: MaskSpec, path: Path) -> None:
    """Raise InputError unless masks prune as many weights as their spec requires.

    Allocations by layer name are not checked.
    """
    if not isinstance(spec.allocation, str):
        return
    exclude, _ = named_layers(spec.dense.agent, spec.exclude, spec.allocation)
    found = {n: [sum(x) for x in zip(*pruned_counts(m, exclude[n]).values(), strict=True)] for n, m in masks.items()}
    wanted = {n: pruned_count(size, spec.sparsity[n]) for n, (_, size) in found.items()}
    pruned = {n: count for n, (count, _) in found.items()}
    if spec.pool == "together":
        share = next(iter(spec.sparsity.networks.values()))
        pruned = {"networks": sum(pruned.values())}
        wanted = {"networks": pruned_count(sum(size for _, size in found.values()), share)}
    for network, count in pruned.items():
        if count != wanted[network]:
            raise InputError(
                f"the mask '{path}' prunes {count} weights of the {network}, but {spec.title()} prunes {wanted[network]}: the file "
                f"was modified. Delete the folder '{path.parent}' to recreate it. To use a custom mask, save it elsewhere and run "
                "python scripts/_03_train_ticket.py --mask FILE"
            )


def _fitted(mask: Mask, params: Params) -> Mask:
    """Leave a layer dense if its shape differs from the mask's."""
    return jax.tree.map(lambda m, p: m if m.shape == p.shape else jnp.ones_like(p), mask, params)


def apply_control(spec: TicketSpec, state: AgentState, masks: dict[str, Mask]) -> AgentState:
    """Apply the masks to a state, as a ticket or as the control of `spec` (docs/protocols.md)."""
    control = control_named(spec.control, load=False) if spec.control else Control()
    if control.mask == "none" and spec.mask is None:
        return state
    if control.start is None:
        return make_ticket(state, masks)
    keys = {network: named_key(spec.dense.seed, f"{spec.control}/{network}") for network in masks}
    return control.start(Agent(spec.dense.agent, state).algorithm, state, masks, keys)


def attach_schedule(spec: TicketSpec, state: AgentState) -> AgentState:
    """Add the spec's schedule, if any, to the optimizer states."""
    schedule = spec.schedule
    if schedule is None:
        return state
    last = last_change(spec)
    exclude, allocation = named_layers(spec.dense.agent, schedule.exclude, schedule.allocation)
    opts = dict(state.opts)
    for network, about in spec.dense.agent.networks().items():
        # A schedule counts the updates of its network, which may be fewer than the agent's (delayed policy updates).
        params, every, until = state.params[network], _network_updates(schedule.every, about), last // about.period
        if schedule.method == "gradual":
            at = range(every, until + 1, every)
            sparsity = schedule.sparsity[network]
            found: Any = prune_at(params, sparsity, at, "cubic", allocation[network], exclude[network])
        elif schedule.method == "set":
            key = named_key(spec.dense.seed, f"set/{network}/growth")
            found = sparse_evolution(params, every, until, key, schedule.fraction, exclude[network])
        else:
            found = rigl(params, every, until, schedule.fraction, exclude[network])
        opts[network] = opts[network]._replace(schedule=found)
    return state._replace(opts=opts)


def _network_updates(updates: int, network: Network) -> int:
    """Convert agent updates to updates of one network, at least one."""
    return -(-updates // network.period)


def check_schedules(plan: Plan) -> None:
    """Raise InputError if a ticket's schedule would never change its mask."""
    for row in plan.rows:
        if isinstance(row.run, TicketSpec) and row.run.schedule:
            last_change(row.run)


def last_change(spec: TicketSpec) -> int:
    """Return the last update at which a ticket's mask may change.

    Raises:
        InputError: the mask would never change.
    """
    schedule = spec.schedule
    assert schedule is not None
    updates = total_updates(spec.dense.training, spec.start)
    until = round(schedule.until * updates)

    def never(network: Network) -> bool:  # gradual pruning also changes its mask at the last update
        return _network_updates(schedule.every, network) >= until // network.period + (schedule.method == "gradual")

    if any(map(never, spec.dense.agent.networks().values())):
        raise InputError(
            f"{schedule.method} would never change its mask: it changes every {schedule.every} updates "
            f"(pruning.mask_every) up to update {until} of {updates} (pruning.mask_until={schedule.until}). Lower "
            "pruning.mask_every, or train longer."
        )
    return until


def rewound_buffer(root: Path, spec: TicketSpec, state: AgentState) -> ReplayBuffer:
    """Return a ticket's initial replay buffer: empty, from the rewind point, or from the trained agent."""
    dense, training = root / spec.dense.path, spec.dense.training
    capacity = replay_capacity(spec.dense.agent, training)
    algorithm = Agent(spec.dense.agent, state).algorithm
    kept = spec.rewind_steps == "none" or "replay_buffer" not in spec.rewound
    if spec.rewind_steps == 0 and not kept:
        return empty_buffer(algorithm, spec.dense)
    at = None if kept or spec.rewind_steps == "none" else spec.rewind_steps
    buffer = store.load_replay_buffer(dense, at, spec.dense)
    have = (buffer.observation_dim, buffer.action_dim, buffer.capacity, len(buffer))
    spaces, size = algorithm.spaces, min(training.env_steps if at is None else at, capacity)
    if training.adopted and at is None:
        size = min(size, len(buffer))  # the library may have kept fewer: those since it was loaded, or whole rows
    want = (spaces.observation_dim, spaces.action_width, capacity, size)
    if have != want:
        raise InputError(
            f"the replay buffer '{replay_file(dense, at)}' does not fit this run: its observation length, action length, capacity "
            f"and size are {have}, but should be {want}"
        )
    buffer.state = buffer.full_state()
    return buffer


def empty_buffer(algorithm: Algorithm, spec: DenseSpec) -> ReplayBuffer:
    """Return an empty replay buffer with the run's capacity."""
    spaces = algorithm.spaces
    replay = init_replay(replay_capacity(spec.agent, spec.training), spaces.observation_dim, spaces.action_width)
    return ReplayBuffer(replay, spaces.observation_dim, spec.seed, discrete=spaces.discrete)
