"""Which runs train together (`executor: batched`). Imports no JAX."""

from collections.abc import Sequence
from typing import Any

from ..envs.suites import suite_of
from .plan import Plan
from .spec import DenseSpec, Spec, TicketSpec
from .tasks import spaces_of_task


def jobs_of(ready: Sequence[Spec], plan: Plan, idle: bool) -> list[list[Spec]]:
    """Divide runs that can start into jobs: each alone, or those that train into batches of runs alike.

    A batch that is not full waits for more runs, until nothing else is left to do (`idle`).
    """
    if plan.config.batch_size is None:
        return [[spec] for spec in ready]
    alone: list[list[Spec]] = [[spec] for spec in ready if not isinstance(spec, DenseSpec | TicketSpec)]
    batches = _batches(ready, plan)
    full = [batch for batch in batches if len(batch) == plan.config.batch_size]
    return alone + full or batches[: int(idle)]


def _batches(specs: Sequence[Spec], plan: Plan) -> list[list[Spec]]:
    """Divide the runs that train into batches of runs alike."""
    size = plan.config.batch_size
    assert size
    alike: dict[Any, list[Spec]] = {}
    for spec in specs:
        if isinstance(spec, DenseSpec | TicketSpec):
            alike.setdefault(_kind(spec, plan), []).append(spec)
    batches = [runs[i : i + size] for runs in alike.values() for i in range(0, len(runs), size)]
    # Each process locks the runs of a batch in this order, so that two of them cannot wait for each other.
    return [sorted(batch, key=lambda spec: spec.path) for batch in batches]


def _kind(spec: DenseSpec | TicketSpec, plan: Plan) -> Any:
    schedule = spec.schedule if isinstance(spec, TicketSpec) else None
    changes = schedule and (schedule.method, schedule.every, schedule.until)
    dense = spec.dense
    spaces = spaces_of_task(plan.root, spec.task)
    on_device = suite_of(spec.task)[0].on_device and spec.task  # its steps are part of the program
    return on_device, spaces, dense.agent, dense.training, dense.evaluation, spec.start, spec.env_steps, changes


def planned_batches(specs: Sequence[Spec], plan: Plan) -> list[list[Spec]]:
    """Divide runs into the batches that they train in if each starts when all that it needs is made, together with those alike."""
    waiting, found = list(specs), []
    while waiting:
        missing = set(waiting)
        ready = [spec for spec in waiting if missing.isdisjoint(spec.needs())]
        found += _batches(ready, plan)
        made = set(ready)
        waiting = [spec for spec in waiting if spec not in made]
    return found
