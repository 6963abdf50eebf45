"""What the tickets are and what they cost: sparsity, dead units, stability, overlaps, barriers, steps, seconds and FLOPs."""

from typing import NamedTuple

import numpy as np

from .scores import Condition, Runs, shares


class Ticket(NamedTuple):
    """What one network of the runs of a condition is, the mean over seeds; NaN where it was not measured."""

    task: str
    condition: Condition
    network: str
    sparsity: float
    effective_sparsity: float  # weights off every path from inputs to outputs count as pruned
    dead: float  # share of hidden units
    dormant: float
    spearman: float  # of two halves of the gradient batches
    shared: float
    shared_by_chance: float


def tickets(runs: Runs) -> list[Ticket]:
    """Describe the networks of all conditions."""
    found = []
    for task in runs.tasks:
        for condition in runs.conditions:
            kept, effective = (shares(runs, task, condition, count) for count in ("kept", "effective"))
            others = [shares(runs, task, condition, count, of="units") for count in ("dead_units", "dormant_units")]
            for name in ("spearman", "shared", "shared_by_chance"):
                others.append(runs.measured(task, condition, f"saliency_{name}/"))
            for network in kept:
                if "/" not in network:  # not a layer
                    sparse = 1.0 - kept[network], 1.0 - effective.get(network, np.nan)
                    found.append(Ticket(task, condition, network, *sparse, *(o.get(network, np.nan) for o in others)))
    return found


class Shared(NamedTuple):
    """How much the masks of two methods (or seeds, tasks, rounds) have in common, the mean over what is alike."""

    task: str
    sparsity: str
    method: str
    other: str
    differ_in: str
    network: str
    pairs: int
    jaccard: float
    by_chance: float


def overlaps(runs: Runs) -> list[Shared]:
    """Average the overlap of masks over seeds (or over pairs of seeds)."""
    groups: dict[tuple[str, str, str, str, str, str], list[tuple[float, float]]] = {}
    for (task, c, metric), seeds in runs.values.items():
        kind, _, rest = metric.partition("/")
        if kind == "overlap":
            network, differ_in, other = rest.split("/", 2)
            key = (task, c.sparsity, c.method, "another seed" if differ_in == "seed" else other, differ_in, network)
            chance = runs.values[task, c, f"overlap_by_chance/{rest}"]
            groups.setdefault(key, []).extend(
                (value, chance[seed][step]) for seed, steps in seeds.items() for step, value in steps.items()
            )
    return [Shared(*key, len(pairs), *(float(v) for v in np.mean(pairs, axis=0))) for key, pairs in groups.items()]


class Barrier(NamedTuple):
    """A metric on the line from another agent to the runs of a condition: at both ends, and how much worse between."""

    task: str
    condition: Condition
    other: str  # where the line starts: dense, another method, an earlier round, other noise
    metric: str
    seeds: int
    at_other: float
    at_run: float
    barrier: float


def barriers(runs: Runs) -> list[Barrier]:
    """Average over seeds what lies between agents."""
    found = []
    for (task, condition, metric), seeds in runs.values.items():
        kind, _, rest = metric.partition("/")
        if kind == "barrier":
            line, other, name = rest.split("/", 2)
            ends = ("value_other", "value_one") if line == "noise" else ("value_one", "value_other")
            means = [runs.mean(task, condition, f"{k}/{rest}") for k in (*ends, "barrier")]
            found.append(Barrier(task, condition, other, name, len(seeds), *means))
    return found


class CostRow(NamedTuple):
    """What a run of a condition took on a task, besides its dense agent: means over seeds."""

    task: str
    condition: Condition
    runs: int
    env_steps: float
    updates: float
    train_seconds: float
    mask_seconds: float
    flops_dense: float
    flops: float


def costs(runs: Runs) -> list[CostRow]:
    """Average what was spent, by task and condition."""
    return [
        CostRow(
            task,
            condition,
            len(runs.last(task, condition)),
            *(runs.mean(task, condition, f"cost/{name}") for name in CostRow._fields[3:]),
        )
        for task in runs.tasks
        for condition in runs.conditions
        if runs.last(task, condition)
    ]


class MaskCost(NamedTuple):
    """The seconds that masks with gradients took: of one mask, and of all masks of a task and seed."""

    masks: int
    batches: tuple[int, ...]
    median: float
    largest: float
    task_and_seed: float  # median


def gradient_masks(runs: Runs) -> MaskCost | None:
    """Return what masks with gradients took; None if there are none. Controls and other rewind points share their ticket's."""
    seconds: list[float] = []
    together: dict[tuple[str, int], float] = {}
    batches = set()
    first = runs.levels()[0][0] if runs.levels() else ""
    for task in runs.tasks:
        for condition in runs.conditions:
            drawn = runs.last(task, condition, "cost/gradient_batches")
            if not condition.is_ticket or condition.rewind != first:
                continue
            for seed, took in runs.last(task, condition, "cost/mask_seconds").items():
                if drawn[seed]:
                    seconds.append(took)
                    batches.add(int(drawn[seed]))
                    together[task, seed] = together.get((task, seed), 0.0) + took
    if not seconds:
        return None
    sums = list(together.values())
    return MaskCost(
        len(seconds), tuple(sorted(batches)), float(np.median(seconds)), max(seconds), float(np.median(sums))
    )
