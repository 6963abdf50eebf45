"""From the tidy table to numbers: scores, aggregates, comparisons, charts, costs. Pure: rows in, rows out.

A score is (R - U) / (D - U) for a return R: U is the mean return of the task's untrained agents (the dense runs' evaluation at
step 0) and D the mean of its dense agents' last evaluations. So 0 is what an untrained agent does and 1 is dense, whatever the
signs; a plain ratio to dense would call a return of -300 twice as good as -150. Where dense agents gained no more than their
spread over seeds, there is no score.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import stats
from ..config import CONTROLS, SALIENCY_METHODS
from .tables import label
from .tidy import DENSE, TidyRow

ALL_TASKS = "all tasks"
RETURN = "evaluation/return"
SUCCESS = "evaluation/success"
THRESHOLDS = np.linspace(0.0, 1.25, 51)
"""Of the performance profiles."""


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
        return self.method not in (*CONTROLS, DENSE, "") and not self.control


class Reference(NamedTuple):
    """What scores of a task are measured by."""

    task: str
    seeds: int
    untrained: float
    dense: float
    spread: float  # sample standard deviation of the dense agents over seeds; 0 for one seed

    @property
    def usable(self) -> bool:
        """Whether the dense agents learned enough for scores to mean anything."""
        return self.dense - self.untrained > self.spread


class Estimate(NamedTuple):
    """A number with its 95 % interval; NaN bounds where there is but one run."""

    value: float
    low: float
    high: float


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


class Runs:
    """The tidy rows by run: what is wanted of them, as arrays."""

    def __init__(self, rows: Iterable[TidyRow]):
        self.tasks: list[str] = []
        self.conditions: list[Condition] = []
        self.values: dict[tuple[str, Condition, str], dict[int, dict[int, float]]] = {}  # -> seed -> env_steps -> value
        for row in rows:
            condition = Condition(row.method, row.control, row.sparsity, row.rewind)
            at = self.values.setdefault((row.task, condition, row.metric), {})
            at.setdefault(row.seed, {})[row.env_steps] = row.value
        self.tasks = list(dict.fromkeys(task for task, _, _ in self.values))
        self.metrics: dict[tuple[str, Condition], list[str]] = {}
        for task, condition, metric in self.values:
            self.metrics.setdefault((task, condition), []).append(metric)
        self.conditions = sorted(dict.fromkeys(c for _, c, m in self.values if m == RETURN), key=_order)
        self.references = {task: self._reference(task) for task in self.tasks}
        self.scored = [task for task in self.tasks if self.references[task].usable]

    def _reference(self, task: str) -> Reference:
        dense = self.values.get((task, Condition(DENSE, "", "", ""), RETURN), {})
        last = [steps[max(steps)] for steps in dense.values()]
        start = [steps[min(steps)] for steps in dense.values()]
        spread = float(np.std(last, ddof=1)) if len(last) > 1 else 0.0
        return Reference(task, len(last), float(np.mean(start)), float(np.mean(last)), spread)

    def scopes(self) -> dict[str, list[str]]:
        """Return the tasks behind each thing that is said: of all that have scores, if these are several, and of each."""
        several = {ALL_TASKS: self.scored} if len(self.scored) > 1 else {}
        return {**several, **{task: [task] for task in self.tasks}}

    def last(self, task: str, condition: Condition, metric: str = RETURN) -> dict[int, float]:
        """Return the last value of a metric by seed: the last evaluation, never the best."""
        found = self.values.get((task, condition, metric), {})
        return {seed: steps[max(steps)] for seed, steps in sorted(found.items())}

    def score(self, task: str, returns: Any) -> np.ndarray:
        """Turn returns into scores."""
        reference = self.references[task]
        return (np.asarray(returns) - reference.untrained) / (reference.dense - reference.untrained)

    def scores(
        self, tasks: Sequence[str], condition: Condition, seeds: Sequence[list[int]] | None = None
    ) -> stats.Scores:
        """Return the scores of a condition's runs, one array for each task."""
        found = [self.last(task, condition) for task in tasks]
        chosen = seeds or [list(runs) for runs in found]
        return [
            self.score(task, [runs[seed] for seed in some])
            for task, runs, some in zip(tasks, found, chosen, strict=True)
        ]

    def measured(self, task: str, condition: Condition, prefix: str) -> dict[str, float]:
        """Return the mean over seeds of each metric that begins so, by what follows."""
        return {
            metric.removeprefix(prefix): float(np.mean(list(self.last(task, condition, metric).values())))
            for metric in self.metrics.get((task, condition), ())
            if metric.startswith(prefix)
        }

    def has(self, tasks: Sequence[str], condition: Condition) -> bool:
        """Say whether a condition has runs on each of the tasks."""
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


def _order(condition: Condition) -> tuple[Any, ...]:
    known = (DENSE, *SALIENCY_METHODS)
    place = known.index(condition.method) if condition.method in known else len(known)
    return (condition.rewind, condition.sparsity, bool(condition.control), place, not condition.is_ticket)


def estimate(statistic: Callable[..., Any], *groups: stats.Scores) -> Estimate:
    """Return a statistic with its interval. Every interval draws from a Generator of seed 0, so each can be made again."""
    low, high = stats.interval(statistic, *groups, rng=np.random.default_rng(0))
    return Estimate(float(statistic(*groups)), float(low), float(high))


def results(runs: Runs) -> list[Result]:
    """Aggregate every condition, dense agents included, on each task and over all."""
    found = []
    for scope, tasks in runs.scopes().items():
        for condition in runs.conditions:
            if not runs.has(tasks, condition):
                continue
            one = [np.array(list(runs.last(tasks[0], condition).values()))]
            success = [np.array(list(runs.last(tasks[0], condition, SUCCESS).values()))]
            scores = runs.scores(tasks, condition) if set(tasks) <= set(runs.scored) else None
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


def compared(conditions: Sequence[Condition]) -> list[tuple[Condition, Condition]]:
    """Return the pairs that a report compares at one level: tickets with each other, with dense, and with their controls."""
    tickets = [c for c in conditions if c.is_ticket]
    dense = Condition(DENSE, "", "", "")
    pairs = [(a, b) for i, a in enumerate(tickets) for b in tickets[i + 1 :]]
    pairs += [(ticket, dense) for ticket in tickets]
    for control in (c for c in conditions if not c.is_ticket):
        own = [t for t in tickets if control.method in (t.method, *CONTROLS, "")]
        pairs += [(ticket, control) for ticket in own]
        pairs += [] if own else [(control, dense)]
    return pairs


def comparisons(runs: Runs) -> list[Comparison]:
    """Compare what there is to compare, on each task and over all; Holm's correction is over everything together."""
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


class Point(NamedTuple):
    """A point of a chart, with the interval drawn around it."""

    series: str
    x: float
    y: float
    low: float
    high: float
    runs: int


class Chart(NamedTuple):
    """What a chart shows. `kind`: curve (lines with bands), sparsity (points over `ticks`), profile (steps)."""

    kind: str
    title: str
    x: str
    y: str
    points: list[Point]
    ticks: tuple[str, ...] = ()


def _points(series: str, x: Sequence[float], scores: stats.Scores, statistic: Callable[..., Any]) -> list[Point]:
    low, high = stats.interval(statistic, scores, rng=np.random.default_rng(0))
    runs = sum(np.shape(s)[-1] for s in scores)
    y, low, high = (np.atleast_1d(v).tolist() for v in (statistic(scores), low, high))
    return [Point(series, *values, runs) for values in zip(x, y, low, high, strict=True)]


def level_name(runs: Runs, rewind: str, sparsity: str) -> str:
    """Name a level as far as levels differ: `95 % pruned, rewound to step 2000`."""
    rewinds = {r for r, _ in runs.levels()}
    back = {"none": "fine-tuned"}.get(rewind, f"rewound to step {rewind}")
    return percent(sparsity) + " pruned" + (f", {back}" if len(rewinds) > 1 else "")


def percent(sparsity: str) -> str:
    """Say a sparsity's label in per cent where it is one number."""
    try:
        return f"{round(100 * float(sparsity), 4):g} %"
    except ValueError:
        return sparsity


def curves(runs: Runs) -> list[Chart]:
    """Learning curves: the IQM of the return (and mean success) on each task; of the score over all (sample efficiency)."""
    found = []
    dense = Condition(DENSE, "", "", "")
    for scope, tasks in runs.scopes().items():
        for rewind, sparsity in runs.levels():
            shown = [dense, *runs.at(rewind, sparsity)]
            whats = [(RETURN, "return (IQM)", stats.iqm), (SUCCESS, "success rate (mean)", stats.mean)]
            if scope == ALL_TASKS:
                whats = [(RETURN, "score (IQM; 1 is dense)", stats.iqm)]
            for metric, name, statistic in whats:
                points = []
                for condition in shown:
                    sets = [runs.curve(task, condition, metric) for task in tasks]
                    times = sorted(set.intersection(*(set(t) for t, _ in sets)))
                    if not times:
                        continue
                    values = [v[[t.index(x) for x in times]] for t, v in sets]
                    if scope == ALL_TASKS:
                        values = [runs.score(task, v) for task, v in zip(tasks, values, strict=True)]
                    points += _points(condition.label, times, values, statistic)
                if points:
                    title = f"{scope}, {level_name(runs, rewind, sparsity)}"
                    found.append(Chart("curve", title, "environment steps", name, points))
    return found


def against_sparsity(runs: Runs) -> list[Chart]:
    """Return against sparsity, with the dense agents at every sparsity; over all tasks the score."""
    found = []
    dense = Condition(DENSE, "", "", "")
    for scope, tasks in runs.scopes().items():
        for rewind in dict.fromkeys(r for r, _ in runs.levels()):
            ticks = sorted((s for r, s in runs.levels() if r == rewind), key=_sparsity)
            points = []
            for i, sparsity in enumerate(ticks):
                for condition in (dense, *runs.at(rewind, sparsity)):
                    if runs.has(tasks, condition):
                        values: stats.Scores = [np.array(list(runs.last(tasks[0], condition).values()))]
                        if scope == ALL_TASKS:
                            values = runs.scores(tasks, condition)
                        points += _points(condition.label, [i], values, stats.iqm)
            if points:
                name = "score (IQM; 1 is dense)" if scope == ALL_TASKS else "return at the last evaluation (IQM)"
                back = "fine-tuned" if rewind == "none" else f"rewound to step {rewind}"
                title = scope + (f", {back}" if len({r for r, _ in runs.levels()}) > 1 else "")
                found.append(Chart("sparsity", title, "pruned", name, points, tuple(percent(t) for t in ticks)))
    return found


def _sparsity(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return 2.0, text


def profiles(runs: Runs) -> list[Chart]:
    """Performance profiles: the share of runs x tasks with a score above each threshold."""
    found = []
    for scope, tasks in runs.scopes().items():
        if not set(tasks) <= set(runs.scored) or (scope != ALL_TASKS and len(runs.scored) > 1):
            continue
        for rewind, sparsity in runs.levels():
            points = []
            for condition in (Condition(DENSE, "", "", ""), *runs.at(rewind, sparsity)):
                if runs.has(tasks, condition):
                    scores = runs.scores(tasks, condition)
                    points += _points(
                        condition.label, THRESHOLDS.tolist(), scores, lambda s: stats.profile(s, THRESHOLDS)
                    )
            title = f"{scope}, {level_name(runs, rewind, sparsity)}"
            found.append(Chart("profile", title, "score (1 is dense)", "share of runs above", points))
    return found


class Cell(NamedTuple):
    """A square of a picture of masks: a share in [0, 1], the mean over seeds."""

    series: str
    row: str
    share: float


class Picture(NamedTuple):
    """Shares by row and condition."""

    title: str
    row: str  # what a row is
    cells: list[Cell]


def pictures(runs: Runs) -> list[Picture]:
    """What the masks kept: of each layer's weights; and of the policy's weights from each observation, those on a path."""
    found = []
    for task in runs.tasks:
        for rewind, sparsity in runs.levels():
            here = runs.at(rewind, sparsity)
            name = f"{task}, {level_name(runs, rewind, sparsity)}"
            kept = [
                Cell(condition.label, layer, share)
                for condition in here
                for layer, share in shares(runs, task, condition, "kept").items()
                if "/" in layer  # not the whole network
            ]
            read, policy = [], ""
            for condition in here:
                counts = runs.measured(task, condition, "reads/")  # recorded of the network that acts
                policy = next(iter(counts), policy).partition("/")[0]
                first = next(iter(runs.measured(task, condition, f"weights/{policy}/").values()), 0.0)
                read += [
                    Cell(condition.label, n.removeprefix(f"{policy}/"), v * len(counts) / first)
                    for n, v in counts.items()
                ]
            found.append(Picture(f"Share of each layer kept: {name}", "layer", kept))
            found.append(Picture(f"What the {policy} still reads: {name}", "observation", read))
    return [picture for picture in found if picture.cells]


def shares(runs: Runs, task: str, condition: Condition, metric: str, of: str = "weights") -> dict[str, float]:
    """Return a count of the analysis as a share of another, by network and layer; the mean over seeds."""
    counts, whole = (runs.measured(task, condition, f"{name}/") for name in (metric, of))
    return {name: counts[name] / whole[name] for name in counts if whole.get(name)}


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
            networks = [name for name in runs.measured(task, condition, "weights/") if "/" not in name]
            for network in networks:
                units, stability = "units", ("spearman", "shared", "shared_by_chance")
                values = [1.0 - shares(runs, task, condition, m).get(network, np.nan) for m in ("kept", "effective")]
                values += [
                    shares(runs, task, condition, m, units).get(network, np.nan)
                    for m in ("dead_units", "dormant_units")
                ]
                values += [runs.measured(task, condition, f"saliency_{m}/").get(network, np.nan) for m in stability]
                if values[0] == values[0]:
                    found.append(Ticket(task, condition, network, *values))
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
            values = [runs.last(task, condition, f"{k}/{rest}").values() for k in (*ends, "barrier")]
            means = [float(np.mean(list(v))) for v in values]
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
            *(
                float(np.mean(list(runs.last(task, condition, f"cost/{name}").values())))
                for name in CostRow._fields[3:]
            ),
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
