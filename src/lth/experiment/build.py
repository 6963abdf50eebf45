"""From a config to the specs of single runs: what of a config bears on which run."""

from typing import Any, Literal

from ..config import REWOUND, Config, Sparsity, TrainingConfig
from .spec import (
    INVERTED,
    Allocation,
    DenseSpec,
    FileMask,
    MaskSpec,
    ScheduleSpec,
    TicketSpec,
    takes_gradients,
)

BREAK_EVEN = 0.5
"""The sparsity from which on the native kernel is faster than masked dense products (docs/performance.md)."""


def dense_spec(config: Config, task: str, seed: int) -> DenseSpec:
    """Describe the dense run of a config for one task and seed."""
    plain = TrainingConfig.model_fields
    # These concern tickets alone, or no result at all.
    update = {name: plain[name].default for name in ("backend", "checkpoint_every", "step_timeout")}
    training = config.training.model_copy(update=update)
    return DenseSpec(task=task, seed=seed, training=training, agent=config.agent_config, evaluation=config.evaluation)


def mask_spec(
    config: Config,
    dense: DenseSpec,
    method: str,
    sparsity: Sparsity,
    previous: TicketSpec | None = None,
    allocation: Allocation | None = None,
) -> MaskSpec:
    """Describe a mask of a config; how gradients are taken is part of it only where the method takes any."""
    pruning = config.pruning
    fields: dict[str, Any] = {"exclude": tuple(sorted(pruning.exclude))}
    if method.removeprefix(INVERTED) != "random":
        fields |= {"allocation": allocation or allocation_of(config), "pool": pruning.pool}
    elif allocation:
        fields["allocation"] = allocation
    if takes_gradients(method):
        fields |= {name: getattr(pruning, name) for name in ("num_gradient_batches", "gradient_batch_size")}
    return MaskSpec(dense=dense, method=method, sparsity=sparsity, previous=previous, **fields)


def allocation_of(config: Config) -> Allocation:
    """Return a config's allocation as a spec holds it, which can be hashed."""
    allocation = config.pruning.allocation
    return allocation if isinstance(allocation, str) else tuple(sorted(allocation.items()))


def ticket_spec(
    config: Config,
    dense: DenseSpec,
    mask: MaskSpec | FileMask | None,
    rewind_steps: int | Literal["none"] | None = None,
    control: str = "",
    **more: Any,
) -> TicketSpec:
    """Describe the ticket that a config trains under a mask, from its first rewind point if none is named."""
    pruning = config.pruning
    rewind = pruning.rewind_steps[0] if rewind_steps is None else rewind_steps
    fields = {
        "backend": _backend(config, dense, mask.sparsity if mask else None),
        "rewound": REWOUND if rewind == "none" else tuple(part for part in REWOUND if part in pruning.rewound),
        **more,
    }
    return TicketSpec(dense=dense, mask=mask, rewind_steps=rewind, control=control, **fields)


def scheduled_spec(
    config: Config, dense: DenseSpec, method: str, sparsity: Sparsity, rewind_steps: int | Literal["none"]
) -> TicketSpec:
    """Describe a ticket whose masks change in training: gradual from a dense start, set and rigl from a random ERK mask."""
    pruning, allocation, start = config.pruning, allocation_of(config), None
    if method != "gradual":
        allocation = "erk" if allocation == "global" else allocation
        start = mask_spec(config, dense, "random", sparsity, allocation=allocation)
    schedule = ScheduleSpec(
        method=method,  # type: ignore[arg-type]
        sparsity=sparsity,
        every=pruning.mask_every,
        until=pruning.mask_until,
        fraction=0.0 if method == "gradual" else pruning.mask_fraction,
        allocation=allocation,
        exclude=tuple(sorted(pruning.exclude)),
    )
    # The kernel's pattern is fixed, so what changes its mask is computed densely.
    return ticket_spec(config, dense, start, rewind_steps, schedule=schedule, backend="dense")


def _backend(config: Config, dense: DenseSpec, sparsity: Sparsity | None) -> Literal["dense", "native"]:
    wanted = config.training.backend
    networks = dense.agent.networks()
    if sparsity is None or wanted == "dense" or any(network.layer_norm for network in networks.values()):
        return "dense"
    # A network's members count each: they are most of the work.
    copies = {name: network.copies for name, network in networks.items()}
    pays = sum(copies[name] * sparsity[name] for name in copies) / sum(copies.values()) >= BREAK_EVEN
    return "native" if wanted == "native" or pays else "dense"
