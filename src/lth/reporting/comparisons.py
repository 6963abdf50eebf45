"""Which conditions differ: an exact paired test on each task and over all, with Holm's correction over the whole report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import stats
from ..config import CONTROL_METHODS
from ..experiment.tidy import DENSE
from .scores import Condition, Estimate, Runs, estimate


class Comparison(NamedTuple):
    """Two conditions on the same tasks and seeds."""

    scope: str
    first: Condition
    second: Condition
    pairs: int
    tasks: int
    difference: Estimate  # mean over pairs of the scores' difference
    probability: Estimate  # that a run of the first beats one of the second
    p: float
    corrected: float  # p after Holm's correction over all comparisons of the report
    seeds_needed: int | None

    @property
    def differs(self) -> bool:
        """Whether the two may be called different."""
        return self.corrected <= stats.LEVEL


def compared(conditions: Sequence[Condition]) -> list[tuple[Condition, Condition]]:
    """Return the pairs that a report compares at one level: tickets with each other, with dense, and with their controls."""
    tickets = [c for c in conditions if c.is_ticket]
    dense = Condition(DENSE, "", "", "")
    pairs = [(a, b) for i, a in enumerate(tickets) for b in tickets[i + 1 :]]
    pairs += [(ticket, dense) for ticket in tickets]
    for control in (c for c in conditions if not c.is_ticket):
        own = [t for t in tickets if control.method in (t.method, *CONTROL_METHODS, "")]
        pairs += [(ticket, control) for ticket in own]
        pairs += [] if own else [(control, dense)]
    return pairs


def comparisons(runs: Runs) -> list[Comparison]:
    """Return every comparison that the report makes, on each task and over all; Holm's correction is over all of them together.

    >>> [(c.first.label, c.second.label, c.corrected) for c in comparisons(runs) if c.differs]  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.
    """
    todo = []
    for scope, tasks in runs.scopes().items():
        if not set(tasks) <= set(runs.scored):
            continue
        for rewind, sparsity in runs.levels():
            for first, second in compared([c for c in runs.at(rewind, sparsity) if runs.has(tasks, c)]):
                seeds = [sorted(runs.last(t, first).keys() & runs.last(t, second).keys()) for t in tasks]
                if all(seeds):
                    scores = [runs.scores(tasks, condition, seeds) for condition in (first, second)]
                    todo.append((scope, tasks, first, second, scores))
    differences = [[a - b for a, b in zip(*scores, strict=True)] for *_, scores in todo]
    p = [stats.sign_flip_test(np.concatenate(d)) for d in differences]
    found = []
    for (scope, tasks, first, second, scores), d, one, corrected in zip(
        todo, differences, p, stats.holm(p), strict=True
    ):
        pairs = np.concatenate(d)
        needed = stats.pairs_needed(pairs, len(todo))
        found.append(
            Comparison(
                scope,
                first,
                second,
                len(pairs),
                len(tasks),
                estimate(lambda s: np.mean(np.concatenate(s, axis=-1), axis=-1), d),
                estimate(stats.probability_of_improvement, *scores),
                one,
                corrected,
                None if needed is None else -(-needed // len(tasks)),
            )
        )
    return found
