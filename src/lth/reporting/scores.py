"""From the tidy table to numbers: conditions, their scores and aggregates. Pure: rows in, rows out.

A score is (R - U) / (D - U) for a return (or success rate) R: U is the mean of a uniform random policy over 200 episodes, and D
the mean of the task's dense agents' last evaluations. So 0 is a random policy and 1 is dense, whatever the signs; a plain ratio to
dense would call a return of -300 twice as good as -150. Where dense agents gained no more than their spread over seeds, there is
no score.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import stats
from ..config import CONTROL_METHODS, SALIENCY_METHODS
from ..experiment.tidy import DENSE, RANDOM_POLICY, TidyRow
from .numbers import percent, rewound
from .views import RETURN, SUCCESS, label, names_rewind

ALL_TASKS = "all tasks"


class Condition(NamedTuple):
    """What was done to the runs that are compared."""

    method: str
    control: str
    sparsity: str
    rewind: str

    @property
    def label(self) -> str:
        """Its name beside others of the same sparsity and rewind point."""
        return label(self.method, self.control)

    @property
    def is_ticket(self) -> bool:
        """Whether a method is tried here, and not a control."""
        return self.method not in (*CONTROL_METHODS, DENSE, "") and not self.control


DENSE_AGENT = Condition(DENSE, "", "", "")
_RANDOM = Condition(RANDOM_POLICY, "", "", "")


class Reference(NamedTuple):
    """What scores of a task are measured by, in units of the metric."""

    task: str
    metric: str
    seeds: int
    random: float  # the uniform random policy's mean; NaN where it was not measured
    random_error: float  # its standard error
    untrained: tuple[float, ...]  # of the dense agents' networks at step 0, by seed
    trained: tuple[float, ...]  # of the dense agents at their last evaluation, by seed

    @property
    def dense(self) -> float:
        """The mean of the dense agents."""
        return float(np.mean(self.trained)) if self.trained else np.nan

    @property
    def spread(self) -> float:
        """The sample standard deviation of the dense agents over seeds; 0 for one seed."""
        return float(np.std(self.trained, ddof=1)) if len(self.trained) > 1 else 0.0

    @property
    def measured(self) -> bool:
        """Whether the random policy was measured."""
        return self.random == self.random

    @property
    def usable(self) -> bool:
        """Whether the dense agents learned enough for scores to mean anything."""
        return self.dense - self.random > max(self.spread, 2.0 * self.random_error)

    @property
    def overlaps(self) -> bool:
        """Whether an untrained network of one seed does as well as a trained dense agent of another."""
        return bool(self.trained) and max(self.untrained) >= min(self.trained)


class Estimate(NamedTuple):
    """A number with its 95 % interval; NaN bounds where there is but one run."""

    value: float
    low: float
    high: float


class Runs:
    """The tidy rows by run: what is wanted of them, as arrays."""

    def __init__(self, rows: Iterable[TidyRow]):
        self.values: dict[tuple[str, Condition, str], dict[int, dict[int, float]]] = {}  # -> seed -> env_steps -> value
        for row in rows:
            condition = Condition(row.method, row.control, row.sparsity, row.rewind)
            at = self.values.setdefault((row.task, condition, row.metric), {})
            at.setdefault(row.seed, {})[row.env_steps] = row.value
        self.tasks = list(dict.fromkeys(task for task, _, metric in self.values if metric == RETURN))
        self.metrics: dict[tuple[str, Condition], list[str]] = {}
        for task, condition, metric in self.values:
            self.metrics.setdefault((task, condition), []).append(metric)
        self.conditions = sorted(dict.fromkeys(c for _, c, m in self.values if m == RETURN), key=_order)
        self.references = {task: self.reference(task) for task in self.tasks}
        self.scored = [task for task in self.tasks if self.have_scores([task])]

    def reference(self, task: str, metric: str = RETURN) -> Reference:
        """Return what scores of a metric on a task are measured by."""
        dense = sorted(self.values.get((task, DENSE_AGENT, metric), {}).items())
        name = f"random_policy/{metric.removeprefix('evaluation/')}"
        random, error = (
            self.values.get((task, _RANDOM, n), {}).get(0, {}).get(0, np.nan) for n in (name, f"{name}_error")
        )
        start = tuple(steps[min(steps)] for _, steps in dense)
        last = tuple(steps[max(steps)] for _, steps in dense)
        return Reference(task, metric, len(dense), random, error, start, last)

    def have_scores(self, tasks: Sequence[str], metric: str = RETURN) -> bool:
        """Return whether the dense agents of all these tasks learned enough for scores by a metric."""
        return all(self.reference(task, metric).usable for task in tasks)

    def scopes(self, metric: str = RETURN) -> dict[str, list[str]]:
        """Return the tasks behind each thing that is said: of all that have scores, if these are several, and of each."""
        scored = [task for task in self.tasks if self.have_scores([task], metric)]
        several = {ALL_TASKS: scored} if len(scored) > 1 else {}
        return {**several, **{task: [task] for task in self.tasks}}

    def last(self, task: str, condition: Condition, metric: str = RETURN) -> dict[int, float]:
        """Return the last value of a metric by seed: the last evaluation, never the best."""
        found = self.values.get((task, condition, metric), {})
        return {seed: steps[max(steps)] for seed, steps in sorted(found.items())}

    def score(self, task: str, values: Any, metric: str = RETURN) -> np.ndarray:
        """Turn returns (or success rates) into scores."""
        reference = self.references[task] if metric == RETURN else self.reference(task, metric)
        return (np.asarray(values) - reference.random) / (reference.dense - reference.random)

    def differences(
        self, tasks: Sequence[str], first: Condition, second: Condition, metric: str = RETURN
    ) -> dict[int, float]:
        """Return the difference of scores by seed, the mean over tasks; of the seeds that have both on every task."""
        found: list[dict[int, float]] = []
        for task in tasks:
            mine, other = (self.last(task, condition, metric) for condition in (first, second))
            seeds = [seed for seed in mine if seed in other]
            scores = (self.score(task, [side[seed] for seed in seeds], metric) for side in (mine, other))
            found.append(dict(zip(seeds, np.subtract(*scores).tolist(), strict=True)))
        common = set.intersection(*(set(one) for one in found)) if found else set()
        return {seed: float(np.mean([one[seed] for one in found])) for seed in sorted(common)}

    def scores(self, tasks: Sequence[str], condition: Condition) -> stats.Scores:
        """Return the scores of a condition's runs, one array for each task."""
        return [self.score(task, [*self.last(task, condition).values()]) for task in tasks]

    def mean(self, task: str, condition: Condition, metric: str) -> float:
        """Return the mean over seeds of the last values of a metric."""
        return float(np.mean([*self.last(task, condition, metric).values()]))

    def measured(self, task: str, condition: Condition, prefix: str) -> dict[str, float]:
        """Return the mean over seeds of each metric that begins so, by what follows."""
        return {
            metric.removeprefix(prefix): self.mean(task, condition, metric)
            for metric in self.metrics.get((task, condition), ())
            if metric.startswith(prefix)
        }

    def has(self, tasks: Sequence[str], condition: Condition) -> bool:
        """Return whether a condition has runs on each of the tasks."""
        return all(self.last(task, condition) for task in tasks)

    def curve(self, task: str, condition: Condition, metric: str) -> tuple[list[int], np.ndarray]:
        """Return the environment steps that all runs of a condition were evaluated at, and the values, (times, runs)."""
        found = [steps for _, steps in sorted(self.values.get((task, condition, metric), {}).items())]
        times = sorted(set.intersection(*(set(steps) for steps in found))) if found else []
        return times, np.array([[steps[t] for steps in found] for t in times])

    def levels(self) -> list[tuple[str, str]]:
        """Return the rewind points and sparsities at which something is compared."""
        return list(dict.fromkeys((c.rewind, c.sparsity) for c in self.conditions if c.sparsity))

    def at(self, rewind: str, sparsity: str) -> list[Condition]:
        """Return what was done at a level; what is pruned nowhere (`retrained`) is at each of its rewind point."""
        return [c for c in self.conditions if c.rewind == rewind and c.sparsity in (sparsity, "")]

    def beside_dense(self, rewind: str, sparsity: str) -> list[Condition]:
        """Return the dense agents, then what was done at a level."""
        return [DENSE_AGENT, *self.at(rewind, sparsity)]


def _order(condition: Condition) -> tuple[Any, ...]:
    known = (DENSE, *SALIENCY_METHODS)
    place = known.index(condition.method) if condition.method in known else len(known)
    level = ascending(condition.rewind), ascending(condition.sparsity)
    return (*level, bool(condition.control), place, not condition.is_ticket)


def ascending(level: str) -> tuple[float, str]:
    """Return a key that sorts sparsities, or rewind points, by their number; what has none (`none`) comes last.

    >>> sorted(["none", "10000", "2000", "0.9", "", "0.95", "1e-05", "0.9 (round 1 of 2)"], key=ascending)
    ['', '1e-05', '0.9', '0.9 (round 1 of 2)', '0.95', '2000', '10000', 'none']
    """
    try:
        return float(level.partition(" ")[0] or -1.0), level
    except ValueError:
        return math.inf, level


def interval(statistic: Callable[..., Any], *groups: stats.Scores) -> tuple[Any, Any]:
    """Return the bootstrap interval of a statistic. Each draws from a Generator of seed 0, so it can be made again."""
    # The last ones are kept: the charts of all levels have the same dense agents.
    return _interval(statistic, tuple(tuple((np.shape(s), _bytes(s)) for s in scores) for scores in groups))


def _bytes(scores: np.ndarray) -> bytes:
    return np.asarray(scores, np.float64).tobytes()


@functools.lru_cache(maxsize=256)
def _interval(
    statistic: Callable[..., Any], content: tuple[tuple[tuple[tuple[int, ...], bytes], ...], ...]
) -> tuple[Any, Any]:
    groups = [[np.frombuffer(data).reshape(shape) for shape, data in scores] for scores in content]
    return stats.interval(statistic, *groups, rng=np.random.default_rng(0))


def estimate(statistic: Callable[..., Any], *groups: stats.Scores) -> Estimate:
    """Return a statistic with its interval."""
    low, high = interval(statistic, *groups)
    return Estimate(float(statistic(*groups)), float(low), float(high))


class Result(NamedTuple):
    """One condition on one task or on all. Returns and successes are of one task; scores None where dense learned nothing."""

    scope: str
    condition: Condition
    runs: int
    score: Estimate | None  # IQM
    mean: Estimate | None
    median: Estimate | None  # over tasks, so of several
    gap: Estimate | None
    returns: Estimate | None  # IQM
    success: Estimate | None  # mean


def results(runs: Runs) -> list[Result]:
    """Aggregate every condition, dense agents included, on each task and over all.

    >>> [(row.condition.label, row.score.value) for row in results(runs)]  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.

    Returns:
        A row for each condition, on each task and over all; NaN bounds where there is one run.
    """
    found = []
    for scope, tasks in runs.scopes().items():
        for condition in runs.conditions:
            if not runs.has(tasks, condition):
                continue
            one = [np.array(list(runs.last(tasks[0], condition).values()))]
            success = [np.array(list(runs.last(tasks[0], condition, SUCCESS).values()))]
            scores = runs.scores(tasks, condition) if runs.have_scores(tasks) else None
            found.append(
                Result(
                    scope,
                    condition,
                    sum(len(runs.last(task, condition)) for task in tasks),
                    estimate(stats.iqm, scores) if scores else None,
                    estimate(stats.mean, scores) if scores else None,
                    estimate(stats.median, scores) if scores and len(tasks) > 1 else None,
                    estimate(stats.optimality_gap, scores) if scores else None,
                    estimate(stats.iqm, one) if scope != ALL_TASKS else None,
                    estimate(stats.mean, success) if scope != ALL_TASKS and success[0].size else None,
                )
            )
    return found


def level_name(runs: Runs, rewind: str, sparsity: str) -> str:
    """Name a level as far as levels differ: `95 % pruned, rewound to step 2000`."""
    named = names_rewind(r for r, _ in runs.levels())
    return percent(sparsity) + " pruned" + (f", {rewound(rewind)}" if named else "")


def shares(runs: Runs, task: str, condition: Condition, metric: str, of: str = "weights") -> dict[str, float]:
    """Return a count of the analysis as a share of another, by network and layer; the mean over seeds."""
    counts, whole = (runs.measured(task, condition, f"{name}/") for name in (metric, of))
    return {name: counts[name] / whole[name] for name in counts if whole.get(name)}
