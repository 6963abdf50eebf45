"""The report's charts as rows: what each point, band and square shows. `figures`, `svg` and the page only draw them."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import stats
from ..analysis.scores import DECADE
from ..experiment.records import SCORES
from ..experiment.tidy import DENSE
from .families import compared
from .numbers import percent, rewound
from .scores import (
    ALL_TASKS,
    DENSE_AGENT,
    Condition,
    Estimate,
    Result,
    Runs,
    ascending,
    estimate,
    interval,
    level_name,
    results,
    shares,
)
from .tickets import overlaps
from .views import RETURN, SUCCESS

MOST_ROWS = 80
"""Of a picture of masks whose rows are all named."""
MOST_BANDS = 3
"""Series whose bands are drawn: more overlap to one grey."""
THRESHOLDS = np.linspace(0.0, 1.25, 51)
"""Of the performance profiles."""
_PROFILE = functools.partial(stats.profile, thresholds=THRESHOLDS)


class Point(NamedTuple):
    """A point of a chart, with the interval drawn around it."""

    series: str
    x: float
    y: float
    low: float
    high: float
    runs: int


class Dot(NamedTuple):
    """One run of a chart."""

    series: str
    x: float
    y: float
    task: str
    seed: int


class Chart(NamedTuple):
    """What a chart shows.

    `kind`: curve and time (lines with bands), sparsity (points over `ticks`), profile (steps), bytes (points with their runs).
    """

    kind: str
    title: str
    x: str
    y: str
    points: list[Point]
    ticks: tuple[str, ...] = ()
    metric: str = ""  # of the tidy table
    dots: tuple[Dot, ...] = ()  # the runs behind the points; of sparsity, dense agents are at x = -1

    def by_series(self) -> dict[str, list[Point]]:
        """Return the points of each series."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.series, []).append(point)
        return found

    def banded(self) -> list[str]:
        """Return the series whose bands are drawn: the dense agents', where there are many series."""
        found = self.by_series()
        return [name for name in found if name == DENSE or len(found) <= MOST_BANDS]

    def runs_of(self, series: str) -> list[Dot]:
        """Return the runs behind a series."""
        return [dot for dot in self.dots if dot.series == series]


def _points(series: str, x: Sequence[float], scores: stats.Scores, statistic: Callable[..., Any]) -> list[Point]:
    low, high = interval(statistic, scores)
    runs = sum(np.shape(s)[-1] for s in scores)
    y, low, high = (np.atleast_1d(v).tolist() for v in (statistic(scores), low, high))
    return [Point(series, *values, runs) for values in zip(x, y, low, high, strict=True)]


def curves(runs: Runs) -> list[Chart]:
    """Learning curves: the IQM of the return (then mean success) on each task; of the score over all (sample efficiency)."""
    found: list[Chart] = []
    for scope, tasks in runs.scopes().items():
        whats = [(RETURN, "return (IQM)", stats.iqm), (SUCCESS, "success rate (mean)", stats.mean)]
        if scope == ALL_TASKS:
            whats = [(RETURN, "score (IQM; 1 is dense)", stats.iqm)]
        for metric, name, statistic in whats:
            found += _curves(runs, scope, tasks, metric, name, statistic)
    return found


def _curves(
    runs: Runs, scope: str, tasks: Sequence[str], metric: str, name: str, statistic: Callable[..., Any]
) -> Iterator[Chart]:
    """Yield a chart for each level at which a metric was measured."""
    for level in runs.levels():
        if chart := _curve(runs, scope, tasks, level, metric, name, statistic):
            yield chart


def _curve(
    runs: Runs,
    scope: str,
    tasks: Sequence[str],
    level: tuple[str, str],
    metric: str,
    name: str,
    statistic: Callable[..., Any],
) -> Chart | None:
    points = []
    for condition in runs.beside_dense(*level):
        sets = [runs.curve(task, condition, metric) for task in tasks]
        times = sorted(set.intersection(*(set(t) for t, _ in sets)))
        if not times:
            continue
        values = [v[[t.index(x) for x in times]] for t, v in sets]
        if scope == ALL_TASKS:
            values = [runs.score(task, v) for task, v in zip(tasks, values, strict=True)]
        points += _points(condition.label, times, values, statistic)
    title = _title(runs, scope, level)
    return Chart("curve", title, "environment steps", name, points, metric=metric) if points else None


def by_time(runs: Runs) -> list[Chart]:
    """Return by seconds of training, at the evaluations; a run's seconds are spread evenly over its environment steps.

    Start-up and compilation are left out where runs have recorded them apart.

    A ticket's clock starts with its own training; its dense agent's is not on it. Intervals are of the returns.
    """
    found = []
    for task in runs.tasks:
        for level in runs.levels():
            points = []
            for condition in runs.beside_dense(*level):
                steps, values = runs.curve(task, condition, RETURN)
                seconds, start, trained = (
                    runs.last(task, condition, f"cost/{name}")
                    for name in ("train_seconds", "start_seconds", "env_steps")
                )
                if steps and seconds:
                    own = [seconds[seed] - start.get(seed, 0.0) for seed in trained]
                    rate = float(np.mean(np.array(own) / np.maximum([*trained.values()], 1.0)))
                    times = [rate * (step - steps[0]) for step in steps]
                    points += _points(condition.label, times, [values], stats.iqm)
            if points:
                title = _title(runs, task, level)
                found.append(Chart("time", title, "seconds of training", "return (IQM)", points))
    return found


LEARNED = {
    "train/critic_loss": "critic loss",
    "train/actor_loss": "actor loss",
    "train/q_loss": "loss",
    "train/alpha": "temperature alpha",
    "train/entropy": "entropy (nats)",
    "train/q_mean": "mean Q",
}
"""What is measured of learning, by name, in the order of the charts; algorithms of users' own may measure other things."""


def training(runs: Runs) -> list[Chart]:
    """Losses, Q values and what else the algorithm measured while it learned, at the evaluations: IQM over seeds."""
    return [
        chart
        for task in runs.tasks
        for metric, name in _learned(runs)
        for chart in _curves(runs, task, [task], metric, name, stats.iqm)
    ]


def training_by_level(runs: Runs) -> Iterator[list[Chart]]:
    """Yield the charts of `training` level by level."""
    for task in runs.tasks:
        for level in runs.levels():
            charts = (_curve(runs, task, [task], level, *what, stats.iqm) for what in _learned(runs))
            if found := [chart for chart in charts if chart]:
                yield found


def _learned(runs: Runs) -> list[tuple[str, str]]:
    """Return what was measured of learning: its metric and its name."""
    metrics = {metric for _, _, metric in runs.values if metric.startswith("train/")}
    order = [*(metric for metric in LEARNED if metric in metrics), *sorted(metrics - LEARNED.keys())]
    return [(metric, LEARNED.get(metric, metric.removeprefix("train/"))) for metric in order]


def against_sparsity(runs: Runs) -> list[Chart]:
    """Each run at its sparsity, with the mean: returns, then success where it is defined; over all tasks the score.

    Dense agents have a point at every sparsity; their runs are at x = -1.
    """
    found = []
    for scope, tasks in runs.scopes().items():
        for metric in (RETURN, SUCCESS):
            if not all(runs.last(task, DENSE_AGENT, metric) for task in tasks):
                continue
            for rewind in dict.fromkeys(r for r, _ in runs.levels()):
                if chart := _over_sparsity(runs, scope, tasks, metric, rewind):
                    found.append(chart)
    return found


def _over_sparsity(runs: Runs, scope: str, tasks: Sequence[str], metric: str, rewind: str) -> Chart | None:
    scored = metric == RETURN and scope == ALL_TASKS

    def values(task: str, condition: Condition) -> dict[int, float]:
        last = runs.last(task, condition, metric)
        return dict(zip(last, runs.score(task, [*last.values()]).tolist(), strict=True)) if scored else last

    def dots(condition: Condition, x: float) -> list[Dot]:
        return [Dot(condition.label, x, y, task, seed) for task in tasks for seed, y in values(task, condition).items()]

    ticks = [s for r, s in runs.levels() if r == rewind]
    points: list[Point] = []
    runs_shown = dots(DENSE_AGENT, -1.0)
    for i, sparsity in enumerate(ticks):
        for condition in runs.beside_dense(rewind, sparsity):
            arrays = [np.array([*values(task, condition).values()]) for task in tasks]
            if all(a.size for a in arrays):
                points += _points(condition.label, [i], arrays, stats.mean)
                runs_shown += dots(condition, i) if condition != DENSE_AGENT else ()
    if not points:
        return None
    name = "success rate (mean)" if metric == SUCCESS else "score (mean; 1 is dense)" if scored else "return (mean)"
    several = len({r for r, _ in runs.levels()}) > 1
    title = scope + (f", {rewound(rewind)}" if several else "")
    return Chart("sparsity", title, "pruned", name, points, tuple(map(percent, ticks)), metric, tuple(runs_shown))


class Beside(NamedTuple):
    """Where a series of a chart against sparsity stands."""

    means: list[Point]  # their bars reach BAR slots to either side; of dense agents at the ticks
    dots: list[Dot]  # of dense agents at DENSE_PLACE
    slot: float  # what each series takes of the distance between two ticks, which is 1


DENSE_PLACE = -0.8
"""Where the runs of dense agents stand, beside the first tick at 0."""
BAR = 0.44
"""Half of a mean's bar, in slots."""


def beside_ticks(chart: Chart, order: Iterable[str]) -> dict[str, Beside]:
    """Place series beside the ticks so that none hides another, dense agents first; every seed has a place, the same in each.

    Args:
        chart: of kind sparsity.
        order: of the series; others may be among them.
    """
    found, room = chart.by_series(), 0.84  # of the distance between two ticks
    names = [name for name in order if name in found and name != DENSE]
    seeds = sorted({dot.seed for dot in chart.dots})
    count, slot = max(len(names), 1), room / max(len(names), 1)
    placed = {}
    for name in [name for name in (DENSE, *names) if name in found]:
        place = 0.0 if name == DENSE else (names.index(name) - (count - 1) / 2) * room / count
        offset = {
            seed: place + (i - (len(seeds) - 1) / 2) * 0.75 * min(slot, 0.4) / len(seeds)
            for i, seed in enumerate(seeds)
        }
        dots = [
            dot._replace(x=(DENSE_PLACE if name == DENSE else dot.x) + offset[dot.seed]) for dot in chart.runs_of(name)
        ]
        placed[name] = Beside([p._replace(x=p.x + place) for p in found[name]], dots, slot)
    return placed


def profiles(runs: Runs) -> list[Chart]:
    """Performance profiles: the share of runs x tasks with a score above each threshold."""
    found = []
    for scope, tasks, level in _scored_levels(runs):
        if scope != ALL_TASKS and len(runs.scored) > 1:
            continue
        points = []
        for condition in runs.beside_dense(*level):
            if runs.has(tasks, condition):
                scores = runs.scores(tasks, condition)
                points += _points(condition.label, THRESHOLDS.tolist(), scores, _PROFILE)
        found.append(Chart("profile", _title(runs, scope, level), "score (1 is dense)", "share of runs above", points))
    return found


class Bar(NamedTuple):
    """A number with its interval, on a row of a panel."""

    panel: str
    row: str
    series: str
    value: float
    low: float
    high: float
    runs: int


class Bars(NamedTuple):
    """Intervals by row, a panel for each statistic; `reference` is where a line stands in every panel, if it does."""

    title: str
    bars: list[Bar]
    reference: float | None = None

    def by_panel(self) -> dict[str, list[Bar]]:
        """Return the rows of each panel."""
        found: dict[str, list[Bar]] = {}
        for bar in self.bars:
            found.setdefault(bar.panel, []).append(bar)
        return found


AGGREGATES: dict[str, Callable[[Result], Estimate | None]] = {
    "median": lambda one: one.median,
    "IQM": lambda one: one.score,
    "mean": lambda one: one.mean,
    "optimality gap": lambda one: one.gap,
}


def intervals(runs: Runs) -> list[Bars]:
    """The aggregates of the scores with their intervals, as rliable shows them: a row for each condition, dense agents first.

    The median over tasks is left out where there is one task.
    """
    found = []
    known = {(one.scope, one.condition): one for one in results(runs)}
    for scope, _, level in _scored_levels(runs):
        here = [known[scope, condition] for condition in runs.beside_dense(*level) if (scope, condition) in known]
        bars = [
            Bar(panel, one.condition.label, one.condition.label, *estimated, one.runs)
            for panel, aggregate in AGGREGATES.items()
            for one in here
            if (estimated := aggregate(one))
        ]
        found.append(Bars(_title(runs, scope, level), bars))
    return found


def improvement(runs: Runs) -> list[Bars]:
    """The probability that a run of the first of two conditions beats one of the second, with its interval."""
    found = []
    for scope, tasks, level in _scored_levels(runs):
        bars = []
        for first, second in compared([c for c in runs.at(*level) if runs.has(tasks, c)]):
            sides = [runs.scores(tasks, c) for c in (first, second)]
            better = estimate(stats.probability_of_improvement, *sides)
            row = f"{first.label} > {second.label}"
            bars.append(Bar("P(first better)", row, first.label, *better, sum(map(len, sides[0]))))
        if bars:
            found.append(Bars(_title(runs, scope, level), bars, 0.5))
    return found


def _scored_levels(runs: Runs) -> Iterator[tuple[str, list[str], tuple[str, str]]]:
    for scope, tasks in runs.scopes().items():
        if runs.have_scores(tasks):
            yield from ((scope, tasks, level) for level in runs.levels())


def _title(runs: Runs, scope: str, level: tuple[str, str]) -> str:
    return f"{scope}, {level_name(runs, *level)}"


class Likeness(NamedTuple):
    """A square of a heat map of masks: what two methods' masks share; of one method, its masks of two seeds."""

    row: str
    column: str
    jaccard: float
    by_chance: float
    pairs: int


class HeatMap(NamedTuple):
    """How alike the masks of methods are, in one network."""

    title: str
    network: str
    cells: list[Likeness]  # each pair once

    def names(self) -> list[str]:
        """Return the methods, which are rows and columns alike."""
        return list(dict.fromkeys(name for cell in self.cells for name in (cell.row, cell.column)))


def overlap(runs: Runs) -> list[HeatMap]:
    """The Jaccard index of the masks of each two methods at the same seed, and of each method at two seeds; means."""
    found: dict[tuple[str, str, str], list[Likeness]] = {}
    for one in overlaps(runs):
        if one.differ_in in ("method", "seed"):
            other = one.method if one.differ_in == "seed" else one.other
            cell = Likeness(one.method, other, one.jaccard, one.by_chance, one.pairs)
            found.setdefault((one.task, one.sparsity, one.network), []).append(cell)
    return [HeatMap(f"{t}, {percent(s)} pruned, {n}", n, cells) for (t, s, n), cells in found.items()]


class Bin(NamedTuple):
    """How many weights have a |score| in [10^low, 10^high), all seeds together; low is -inf for scores of zero."""

    low: float
    high: float
    weights: int


class Cut(NamedTuple):
    """What the masks of one sparsity keep."""

    sparsity: str  # in per cent
    kept: list[int]  # by bin
    thresholds: list[float]  # log10 of the lowest |score| that is kept, by seed; empty where each layer has its own


class Histogram(NamedTuple):
    """How the scores of one method are distributed in one network; sparsities that prune the same scores are together."""

    title: str
    network: str
    series: str
    bins: list[Bin]
    cuts: list[Cut]  # the lowest sparsity first

    @property
    def width(self) -> float:
        """Of a bin, in powers of ten."""
        return self.bins[-1].high - self.bins[-1].low

    def totals(self) -> list[int]:
        """Return the weights of each bin."""
        return [b.weights for b in self.bins]

    def pruned(self) -> list[int]:
        """Return how many weights of each bin the least sparse mask prunes, and so every mask."""
        return [b.weights - kept for b, kept in zip(self.bins, self.cuts[0].kept, strict=True)]

    def places(self) -> tuple[list[float], list[tuple[float, int | None]]]:
        """Return where each bin begins, zero a little apart at the left; and the ticks with their powers of ten, None for zero."""
        finite = [b.low for b in self.bins if math.isfinite(b.low)] or [0.0]
        first, last = finite[0], finite[-1] + self.width
        zero = first - 4 * self.width
        ticks: list[tuple[float, int | None]] = []
        if not math.isfinite(self.bins[0].low):
            ticks.append((zero + self.width / 2, None))
        every = max(1, round((last - first) / 4))
        ticks += [(t, t) for t in range(math.ceil(first), math.floor(last) + 1) if t % every == 0]
        if len(ticks) > 1 and ticks[0][1] is None and ticks[1][0] - ticks[0][0] < every / 2:
            del ticks[1]
        return [b.low if math.isfinite(b.low) else zero for b in self.bins], ticks


def histograms(runs: Runs) -> list[Histogram]:
    """Count the weights by their score before pruning, and where each mask cut; of methods that have results."""
    order = list(dict.fromkeys(c.label for c in runs.conditions))
    groups: dict[tuple[str, Condition], list[str]] = {}
    for task, condition, metric in runs.values:
        if metric.startswith(SCORES) and condition.label in order:
            groups.setdefault((task, condition), []).append(metric)
    found: dict[tuple[Any, ...], Histogram] = {}
    several = len({rewind for rewind, _ in runs.levels()}) > 1
    for task, c in sorted(groups, key=lambda key: ascending(key[1].sparsity)):
        metrics = groups[task, c]
        for network in dict.fromkeys(metric.partition("/")[2] for metric in metrics):
            counts: dict[float, list[int]] = {}  # pruned, kept
            for metric in metrics:
                kind, _, rest = metric.removeprefix(SCORES).partition("[")
                low, _, owner = rest.partition("]/")
                if owner == network:
                    total = sum(int(v) for v in runs.last(task, c, metric).values())
                    counts.setdefault(float(low), [0, 0])[kind == "kept"] += total
            bins = [Bin(low, round(low + 1 / DECADE, 6), sum(counts[low])) for low in sorted(counts)]
            key = (task, network, c.label, c.rewind, tuple(bins))
            title = f"{task}, {network}, {c.label}" + (f", {rewound(c.rewind)}" if c.rewind and several else "")
            one = found.setdefault(key, Histogram(title, network, c.label, bins, []))
            cuts = list(runs.last(task, c, f"score_threshold/{network}").values())
            one.cuts.append(Cut(percent(c.sparsity), [counts[b.low][1] for b in bins], cuts))
    return sorted(found.values(), key=lambda h: (h.title.partition(", ")[0], h.network, order.index(h.series)))


class Size(NamedTuple):
    """What one run's policy takes as an exported program."""

    task: str
    seed: int
    condition: Condition
    bytes: int


def against_bytes(runs: Runs, sizes: Iterable[Size]) -> list[Chart]:
    """Return against bytes, a chart for each task: means over seeds, with every run. A series' points go up in sparsity."""
    found = []
    order = list(dict.fromkeys(c.label for c in runs.conditions))
    by_task: dict[str, dict[Condition, dict[int, int]]] = {}
    for size in sizes:
        if not runs.last(size.task, size.condition):  # its run is not in the table
            continue
        by_task.setdefault(size.task, {}).setdefault(size.condition, {})[size.seed] = size.bytes
    for task, conditions in by_task.items():
        points, dots = [], []
        for condition in sorted(
            conditions, key=lambda c: (order.index(c.label), ascending(c.rewind), ascending(c.sparsity))
        ):
            returns, sized = runs.last(task, condition), conditions[condition]
            if seeds := sorted(returns.keys() & sized.keys()):
                x = float(np.mean([sized[s] for s in seeds]))
                points += _points(condition.label, [x], [np.array([returns[s] for s in seeds])], stats.mean)
                dots += [Dot(condition.label, sized[s], returns[s], task, s) for s in seeds]
        found.append(
            Chart(
                "bytes", task, "bytes of the exported policy", "return (mean)", points, metric=RETURN, dots=tuple(dots)
            )
        )
    return [chart for chart in found if chart.points]


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

    def columns(self) -> list[str]:
        """Return the series, each a column."""
        return list(dict.fromkeys(cell.series for cell in self.cells))

    def rows(self) -> list[str]:
        """Return the names of the rows."""
        return list(dict.fromkeys(cell.row for cell in self.cells))


def pictures(runs: Runs) -> list[Picture]:
    """What the masks kept: of each layer's weights; and of the policy's weights from each observation, those on a path."""
    found = []
    for task in runs.tasks:
        for level in runs.levels():
            here, name = runs.at(*level), _title(runs, task, level)
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
