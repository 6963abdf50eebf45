"""The report's charts as rows: what each point, band and square shows. `figures` and the page only draw them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import stats
from ..experiment.tidy import DENSE
from .scores import ALL_TASKS, Condition, Runs, level_name, percent, shares
from .views import RETURN, SUCCESS

THRESHOLDS = np.linspace(0.0, 1.25, 51)
"""Of the performance profiles."""


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
