"""The tests of a report, by family: the primary question, tickets against dense, against their controls, and all else.

Each test takes one number for each seed: the mean over tasks of the paired difference of scores. Signs are flipped by seed, so
runs of one seed on several tasks count once. Within a family the chance of any false alarm is at most 5 % (docs/report.md).
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .. import stats
from ..config import CONTROL_METHODS
from .scores import ALL_TASKS, DENSE_AGENT, Condition, Runs
from .views import RETURN, SUCCESS

WINNING, WORSE, UNDECIDED = "winning", "worse", "undecided"
TOO_FEW, NOT_JUDGED = "too few seeds", "not judged"
VERDICTS = (WINNING, UNDECIDED, WORSE, TOO_FEW, NOT_JUDGED)
BOTH_SIDES = 1.0 - 2.0 * stats.LEVEL
"""The confidence of an interval whose ends are the one-sided bounds at LEVEL."""


class Comparison(NamedTuple):
    """Two conditions, seed by seed. Below FEWEST seeds interval and p are NaN: there is no test."""

    family: str  # primary, control, exploratory
    scope: str
    metric: str
    first: Condition  # its sparsity is empty where the mean over all levels is compared
    second: Condition
    seeds: int
    wins: int  # seeds on which the first is above
    difference: float  # mean over seeds
    low: float
    high: float
    confidence: float
    p: float  # uncorrected
    corrected: float  # within its family

    @property
    def tested(self) -> bool:
        """Whether there are enough seeds for a test."""
        return self.corrected == self.corrected

    @property
    def differs(self) -> bool:
        """Whether the two may be called different."""
        return self.corrected <= stats.LEVEL


class Verdict(NamedTuple):
    """A condition beside the dense agents of the same seeds: does it win within the margin?"""

    scope: str
    metric: str
    condition: Condition
    verdict: str  # of VERDICTS
    seeds: int
    within: int  # seeds on which it is less than the margin below dense, or above
    difference: float
    low: float  # one-sided 95 % bounds
    high: float
    winning_p: float  # that the mean difference is above -margin; corrected along the sequence of sparsities
    worse_p: float  # that it is below -margin


class Primary(NamedTuple):
    """The primary question: the mean over levels, and each level in a closed procedure."""

    overall: Comparison
    levels: list[Comparison]


class Families(NamedTuple):
    """All that a report tests."""

    margin: float
    primary: Primary | None
    verdicts: list[Verdict]
    controls: list[Comparison]
    exploratory: list[Comparison]
    question: tuple[str, str] | None = None
    """The methods of the primary question; `primary` is None where no task has scores of both."""

    @property
    def levels(self) -> list[Comparison]:
        """The primary question at each level; none where it is not tested."""
        return self.primary.levels if self.primary else []

    def judged(self, scope: str, metric: str) -> dict[Condition, Verdict]:
        """Return the verdicts by a metric on a task or over all."""
        return {v.condition: v for v in self.verdicts if (v.scope, v.metric) == (scope, metric)}


def families(runs: Runs, question: tuple[str, str] | None, margin: float) -> Families:
    """Test everything: returns first, then success rates where the tasks define success; over all tasks, then on each.

    >>> found = families(runs, ("taylor", "magnitude"), margin=0.1)  # doctest: +SKIP
    >>> [(row.condition.label, row.verdict) for row in found.verdicts]  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.
        question: the two methods of the primary question; None: there is none.
        margin: a ticket wins if its score is less than this below dense.

    Returns:
        `primary`, `verdicts` (tickets beside dense), `controls` and `exploratory`.
    """
    scopes = [
        (scope, tasks, metric) for metric in (RETURN, SUCCESS) for scope, tasks in _judged(runs, metric, scored=False)
    ]
    asked = primary(runs, question) if question else None
    return Families(
        margin,
        asked,
        [v for scope, tasks, metric in scopes for v in verdicts(runs, scope, tasks, metric, margin)],
        [c for metric in (RETURN, SUCCESS) for s, t in _judged(runs, metric) for c in controls(runs, s, t, metric)],
        exploratory(runs, asked),
        question,
    )


def compared(conditions: Sequence[Condition]) -> list[tuple[Condition, Condition]]:
    """Return the pairs of one level that are compared: tickets with each other, with dense, and with their controls."""
    tickets = [c for c in conditions if c.is_ticket]
    return [
        *combinations(tickets, 2),
        *((ticket, DENSE_AGENT) for ticket in tickets),
        *((ticket, control) for control in conditions for ticket in tickets if _is_control_of(control, ticket)),
    ]


def _is_control_of(control: Condition, ticket: Condition) -> bool:
    """Return whether one condition is a control of another: of its method, or of all methods."""
    return not control.is_ticket and control.method in (ticket.method, *CONTROL_METHODS, "")


def _judged(runs: Runs, metric: str, scored: bool = True) -> Iterable[tuple[str, list[str]]]:
    for scope, tasks in runs.scopes(metric).items():
        there = all(runs.last(task, DENSE_AGENT, metric) for task in tasks)
        if there and (not scored or runs.have_scores(tasks, metric)):
            yield scope, tasks


def main_scope(runs: Runs, metric: str = RETURN) -> tuple[str, list[str]]:
    """Return what a report's first statements are about: all tasks that have scores by the metric, or the only one."""
    scopes = runs.scopes(metric)
    first = next((task for task in runs.tasks if runs.have_scores([task], metric)), next(iter(scopes), ""))
    name = ALL_TASKS if ALL_TASKS in scopes else first
    return name, scopes.get(name, [])


def primary(runs: Runs, question: tuple[str, str]) -> Primary | None:
    """Test the primary question: the mean over levels of each seed, two-sided; then the levels, in a closed procedure.

    None where no seed has both methods at every level, or no task has scores.
    """
    scope, tasks = main_scope(runs)
    asked = [[Condition(method, "", sparsity, rewind) for method in question] for rewind, sparsity in runs.levels()]
    pairs = [pair for pair in asked if all(runs.has(tasks, condition) for condition in pair)]
    if not pairs or not tasks or not runs.have_scores(tasks):
        return None
    found = [runs.differences(tasks, first, second) for first, second in pairs]
    seeds = sorted(set.intersection(*(set(one) for one in found)))
    if not seeds:
        return None
    d = np.array([[one[seed] for one in found] for seed in seeds])
    enough = len(seeds) >= stats.FEWEST
    overall_p, level_p = stats.closed_test(d) if enough else (np.nan, [np.nan] * len(pairs))
    whole = [Condition(method, "", "", "") for method in question]
    return Primary(
        _comparison("primary", scope, RETURN, whole, d.mean(axis=1), overall_p),
        [_comparison("primary", scope, RETURN, pair, d[:, i], level_p[i]) for i, pair in enumerate(pairs)],
    )


def verdicts(runs: Runs, scope: str, tasks: Sequence[str], metric: str, margin: float) -> list[Verdict]:
    """Judge every condition against dense: non-inferiority by a margin, and its opposite, one-sided at 5 % each.

    A method's sparsities are tested in a fixed order, at each rewind point: for winning from the least sparse on, for worse from
    the sparsest on, in each case until one is not decided.
    """
    usable = runs.have_scores(tasks, metric)
    groups: dict[tuple[str, str, str], list[Condition]] = {}
    for c in runs.conditions:
        if c != DENSE_AGENT and runs.has(tasks, c):
            groups.setdefault((c.method, c.control, c.rewind), []).append(c)
    found = []
    for conditions in groups.values():
        differences = [_differences(runs, tasks, c, metric, usable) for c in conditions]
        enough = [usable and d.size >= stats.FEWEST for d in differences]
        above, below = (
            [
                stats.sign_flip_test(sign * (d + margin), greater=True) if e else np.nan
                for d, e in zip(differences, enough, strict=True)
            ]
            for sign in (1.0, -1.0)
        )
        wins, loses = stats.fixed_sequence(above), stats.fixed_sequence(below[::-1])[::-1]
        for c, d, e, win, lose in zip(conditions, differences, enough, wins, loses, strict=True):
            low, high, _ = stats.sign_flip_interval(d, BOTH_SIDES) if e else (np.nan,) * 3
            verdict = WINNING if win <= stats.LEVEL else WORSE if lose <= stats.LEVEL else UNDECIDED
            found.append(
                Verdict(
                    scope,
                    metric,
                    c,
                    verdict if e else TOO_FEW if usable else NOT_JUDGED,
                    d.size,
                    int(np.sum(d > -margin)) if usable else 0,
                    float(d.mean()) if d.size and usable else np.nan,
                    low,
                    high,
                    win,
                    lose,
                )
            )
    place = {c: i for i, c in enumerate(runs.conditions)}
    return sorted(found, key=lambda v: place[v.condition])


def _differences(runs: Runs, tasks: Sequence[str], c: Condition, metric: str, usable: bool) -> np.ndarray:
    """Return a condition's differences to dense; NaN for each seed where there are no scores."""
    if usable:
        return np.array([*runs.differences(tasks, c, DENSE_AGENT, metric).values()])
    there = [set(runs.last(task, one, metric)) for task in tasks for one in (c, DENSE_AGENT)]
    return np.full(len(set.intersection(*there)), np.nan)


def controls(runs: Runs, scope: str, tasks: Sequence[str], metric: str) -> list[Comparison]:
    """Test whether tickets are better than their controls, one-sided; the family is all controls and sparsities of a method."""
    found = []
    tickets = [c for c in runs.conditions if c.is_ticket and runs.has(tasks, c)]
    for method in dict.fromkeys(c.method for c in tickets):
        pairs = [
            (ticket, control)
            for ticket in tickets
            if ticket.method == method
            for control in runs.at(ticket.rewind, ticket.sparsity)
            if _is_control_of(control, ticket) and runs.has(tasks, control)
        ]
        found += _family("control", scope, metric, runs, tasks, pairs, greater=True)
    return found


def exploratory(runs: Runs, asked: Primary | None) -> list[Comparison]:
    """Compare all tickets with each other, and with dense, at each level on each task and over all.

    One family by the largest statistic, by metric and seeds; what the primary question has answered is left out.
    """
    done = {(c.scope, c.metric, frozenset((c.first, c.second))) for c in (asked.levels if asked else ())}
    found = []
    for metric in (RETURN, SUCCESS):
        for scope, tasks in _judged(runs, metric):
            pairs: list[tuple[Condition, Condition]] = []
            for rewind, sparsity in runs.levels():
                tickets = [c for c in runs.at(rewind, sparsity) if c.is_ticket and runs.has(tasks, c)]
                pairs += combinations(tickets, 2)
            pairs = [pair for pair in pairs if (scope, metric, frozenset(pair)) not in done]
            found += _family("exploratory", scope, metric, runs, tasks, pairs)
    return found


def _family(
    family: str,
    scope: str,
    metric: str,
    runs: Runs,
    tasks: Sequence[str],
    pairs: Sequence[tuple[Condition, Condition]],
    greater: bool = False,
) -> list[Comparison]:
    """Compare pairs, corrected together: those that have the same seeds."""
    differences = [runs.differences(tasks, *pair, metric) for pair in pairs]
    by_seeds: dict[tuple[int, ...], list[int]] = {}
    for i, d in enumerate(differences):
        by_seeds.setdefault(tuple(d), []).append(i)
    corrected = [float("nan")] * len(pairs)
    for seeds, members in by_seeds.items():
        if len(seeds) >= stats.FEWEST:
            together = np.array([[differences[i][seed] for i in members] for seed in seeds])
            # Groups of other seeds are corrected for each other by Bonferroni.
            for i, p in zip(members, stats.max_t_test(together, greater), strict=True):
                corrected[i] = min(p * len(by_seeds), 1.0)
    return [
        _comparison(family, scope, metric, pair, np.array([*d.values()]), p, greater)
        for pair, d, p in zip(pairs, differences, corrected, strict=True)
        if d
    ]


def _comparison(
    family: str,
    scope: str,
    metric: str,
    pair: Sequence[Condition],
    d: np.ndarray,
    corrected: float,
    greater: bool = False,
) -> Comparison:
    interval, p = (np.nan,) * 3, np.nan  # low, high, confidence
    if d.size >= stats.FEWEST:
        interval = stats.sign_flip_interval(d, BOTH_SIDES if greater else stats.CONFIDENCE)
        p = stats.sign_flip_test(d, greater)
    above, mean = int(np.sum(d > 0)), float(d.mean())
    return Comparison(family, scope, metric, pair[0], pair[1], d.size, above, mean, *interval, p, corrected)
