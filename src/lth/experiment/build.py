"""Build the specs of single runs from a config."""

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
    """Return the spec of a config's dense run for one task and seed."""
    plain = TrainingConfig.model_fields
    places = config.batch_size
    backend = "batched" if places else "dense" if config.training.backend == "dense" else "native"
    # These do not affect results.
    without = ("checkpoint_every", "step_timeout", *(["threads"] if backend == "native" else []))
    update = {"backend": backend, "batch": places, **{name: plain[name].default for name in without}}
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
    """Return the spec of a config's mask. Gradient settings are included only if the method uses gradients."""
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
    """Return a config's allocation in the hashable form that specs use."""
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
    """Return the spec of a config's ticket with a mask, from its first rewind point unless `rewind_steps` is given."""
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
    """Return the spec of a ticket whose mask changes during training: gradual starts dense, set and rigl from a random ERK mask."""
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
