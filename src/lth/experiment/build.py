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


def dense_spec(config: Config, task: str, seed: int) -> DenseSpec:
    """Describe the dense run of a config for one task and seed."""
    plain = TrainingConfig.model_fields
    native = config.training.backend != "dense"
    # These change no result.
    without = ("checkpoint_every", "step_timeout", *(["threads"] if native else []))
    update = {"backend": "native" if native else "dense", **{name: plain[name].default for name in without}}
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
    return ticket_spec(config, dense, start, rewind_steps, schedule=schedule)
