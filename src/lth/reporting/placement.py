"""Where charts appear on the page: a table of sections, titles, captions and the functions that draw them."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..experiment.plan import Plan
from ..experiment.spec import Spec
from . import charts, networks, svg
from .charts import Bars, Chart, HeatMap, Histogram, Likeness, Picture, Point, Size
from .findings import (
    finding,
    finding_of_bars,
    finding_of_graph,
    finding_of_histogram,
    finding_of_masks,
    finding_of_overlap,
    finding_of_picture,
)
from .html import figure, fold, note, text
from .networks import Graph, Masks
from .scores import ALL_TASKS, Condition, Runs
from .styles import Style
from .views import RETURN, SUCCESS

SAVINGS, TICKETS = "What it saves", "What the tickets are"
"""Sections that have sentences and tables besides."""
MOST_SHOWN = {"charts": 6, "wide": 2}
"""Charts of a view that are not folded, by its kind; where there are charts over all tasks, it is these."""
MOST_PRINTED = 12
"""Folded charts that are shown on paper."""
MOST_BYTES = 300_000
"""The approximate limit for the charts of one view."""


class Source:
    """The data that charts are drawn from."""

    def __init__(self, plan: Plan, finished: Collection[Spec], runs: Runs, looks: Mapping[str, Style]):
        self.plan, self.finished, self.runs, self.looks = plan, finished, runs, looks

    @cached_property
    def sizes(self) -> list[Size]:
        """The bytes of every exported policy."""
        return networks.sizes(self.plan, self.finished)

    @cached_property
    def curves(self) -> list[Chart]:
        """Learning curves, of which two views show their own."""
        return charts.curves(self.runs)

    @cached_property
    def against_sparsity(self) -> list[Chart]:
        """Results against sparsity, of which two views show their own where there are several sparsities."""
        return [chart for chart in charts.against_sparsity(self.runs) if len(chart.ticks) > 1]

    @cached_property
    def pictures(self) -> list[Picture]:
        """Shares of what masks kept, of which two views show their own."""
        return charts.pictures(self.runs)

    def mean_sizes(self) -> dict[tuple[str, Condition], float]:
        """Return the mean bytes of a condition's exported policies, by task."""
        found: dict[tuple[str, Condition], list[int]] = {}
        for size in self.sizes:
            found.setdefault((size.task, size.condition), []).append(size.bytes)
        return {key: float(np.mean(some)) for key, some in found.items()}


class Drawn(NamedTuple):
    """One chart: its title, what it shows in a sentence, the SVG, and what is behind it."""

    title: str
    finding: str
    body: str
    data: Mapping[str, Any] | None = None  # columns and rows; of points also the axes' labels and ticks
    aside: bool = False  # folded in any case


class View(NamedTuple):
    """A row of the table."""

    section: str  # sections stand in the order in which they first occur
    title: str  # its charts' titles begin with it
    caption: str  # how to read it
    draw: Callable[[Source], Iterable[Drawn]]  # none where these runs have nothing to show
    kind: str = "charts"  # or wide: a row for each


Shown = Chart | Bars | HeatMap | Histogram | Picture | Masks | Graph
"""What a view shows as charts."""


def _drawn(one: Shown, looks: Mapping[str, Style]) -> Drawn:
    match one:
        case Chart():
            draw = {"sparsity": svg.sparsity, "bytes": svg.sizes}.get(one.kind, svg.curve)
            axes = {"x": one.x, "y": one.y, "ticks": one.ticks}
            data = _table(Point._fields, one.points)
            return Drawn(one.title, finding(one, looks), draw(one, looks), axes | data)
        case Bars():
            data = _table(("statistic", "of", "value", "low", "high", "runs"), [b[:2] + b[3:] for b in one.bars])
            return Drawn(one.title, finding_of_bars(one, looks), svg.bars(one, looks), data)
        case HeatMap():
            data = _table(Likeness._fields, one.cells)
            return Drawn(one.title, finding_of_overlap(one), svg.heat(one), data)
        case Histogram():
            kept = [f"kept at {cut.sparsity}" for cut in one.cuts]
            counts = zip(one.bins, *(cut.kept for cut in one.cuts), strict=True)
            data = _table(("log10 |score| from", "to", "weights", *kept), [(*b, *each) for b, *each in counts])
            return Drawn(one.title, finding_of_histogram(one), svg.histogram(one, looks), data)
        case Picture():
            data = _table(("of", one.row, "share"), one.cells)
            return Drawn(one.title.partition(": ")[2], finding_of_picture(one), svg.picture(one), data)
        case Masks():
            return Drawn(one.title, finding_of_masks(one), svg.weight_masks(one))
        case Graph():
            return Drawn(one.title, finding_of_graph(one), svg.graph(one))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"columns": columns, "rows": rows}


def _each(rows: Callable[[Source], Iterable[Shown]]) -> Callable[[Source], Iterator[Drawn]]:
    """Return what draws all that is found in a source."""
    return lambda source: (_drawn(one, source.looks) for one in rows(source))


def _curves(metric: str) -> Callable[[Source], Iterator[Drawn]]:
    return _each(lambda source: (chart for chart in source.curves if chart.metric == metric))


def _against_sparsity(metric: str) -> Callable[[Source], Iterator[Drawn]]:
    return _each(lambda source: (chart for chart in source.against_sparsity if chart.metric == metric))


def _training(source: Source) -> Iterator[Drawn]:
    """Draw all measurements of the first level, then those of the next, which are folded."""
    for i, some in enumerate(charts.training_by_level(source.runs)):
        for chart in some:
            yield _drawn(chart, source.looks)._replace(title=f"{chart.y}, {chart.title}", aside=i > 0)


def _masks(source: Source) -> Iterator[Masks]:
    """Return the masks of which some layer is pruned."""
    return (one for one in networks.weight_masks(source.plan, source.finished) if any(one.columns.values()))


def _shares(row: str) -> Callable[[Source], Iterator[Drawn]]:
    return _each(lambda source: (one for one in source.pictures if one.row == row))


_CURVES = (
    "Evaluations use the policy's mean action, on the same episodes for all runs. The band is a 95 % bootstrap interval of the "
    "dense agents, and of the series at the pointer."
)
_SPARSITY = (
    "A mark is a run, a bar the mean, a thin line its 95 % bootstrap interval over seeds; the line across is the mean of the dense "
    "agents. Hollow marks are controls: where they do as well as a ticket, the choice of its weights did not matter."
)
_KEPT = "Means over seeds. A layer that keeps little is the narrowest part of the network."
_READS = (
    "Share of the weights at each observation that are kept and on a path to an action, mean over seeds. An observation that keeps "
    "none cannot change an action any more."
)
VIEWS: tuple[View, ...] = (
    View(
        SAVINGS,
        "Return by time",
        "The interquartile mean (IQM) of the return by seconds of training, which are spread evenly over environment steps; "
        "start-up and compilation are left out where they were recorded apart.",
        _each(lambda source: charts.by_time(source.runs)),
    ),
    View(
        SAVINGS,
        "Return by size",
        "Bytes of the weights of a policy exported as a C program, computed from its mask. A small mark is a run, a large one the "
        "mean of a sparsity.",
        _each(lambda source: charts.against_bytes(source.runs, source.sizes)),
    ),
    View("Results against sparsity", "Return against sparsity", _SPARSITY, _against_sparsity(RETURN)),
    View("Results against sparsity", "Success against sparsity", "", _against_sparsity(SUCCESS)),
    View("Learning curves", "Learning curves", f"IQM over seeds. {_CURVES}", _curves(RETURN)),
    View("Learning curves", "Learning curves of success", f"Mean over seeds. {_CURVES}", _curves(SUCCESS)),
    View(
        "Training measurements",
        "Training measurements",
        "Losses, Q values and other training metrics of the last update before each evaluation, IQM over seeds.",
        _training,
    ),
    View(
        "Performance profiles",
        "Performance profiles",
        "The share of runs whose score exceeds a threshold: higher is better, and where curves cross neither is better throughout.",
        _each(lambda source: charts.profiles(source.runs)),
    ),
    View(
        "Aggregates",
        "Aggregate scores",
        "A stroke is the value, a bar its 95 % bootstrap interval; a score of 1 is dense. An optimality gap is better when it is "
        "smaller. Intervals describe and decide nothing.",
        _each(lambda source: charts.intervals(source.runs)),
    ),
    View(
        "Aggregates",
        "Probability of improvement",
        "The chance that a run of the first scores above a run of the second, with its 95 % bootstrap interval. 0.5 is even.",
        _each(lambda source: charts.improvement(source.runs)),
    ),
    View(
        TICKETS,
        "Masks, weight by weight",
        "Of the first seed's policies. A mark is a weight that is kept; rows are inputs, columns are units, first layer on top. "
        "They are drawn from the mask files in the run folders.",
        _each(_masks),
        "wide",
    ),
    View(TICKETS, "Share of each layer kept", _KEPT, _shares("layer")),
    View(TICKETS, "What the policy still reads", _READS, _shares("observation")),
    View(
        TICKETS,
        "Overlap of masks",
        "Jaccard index: the weights that both masks keep, as a share of those that either keeps. In brackets, its mean for "
        "random masks with as many weights in each layer. On the diagonal, masks of two seeds.",
        _each(lambda source: charts.overlap(source.runs)),
    ),
    View(
        TICKETS,
        "Scores and threshold",
        "Weights by |score| before pruning, all seeds together. Colored weights are kept, the darker the sparser; a dashed line is "
        "the lowest score that a seed's mask keeps. Masks that prune layer by layer have no common threshold.",
        _each(lambda source: charts.histograms(source.runs)),
    ),
    View(
        TICKETS,
        "Surviving weights",
        "The trained policies of the first seed that have few enough weights. A line is a weight on a path from an observation "
        "(left) to an action (right), the wider the larger; observations in italics are not read.",
        _each(lambda source: networks.each_graph(source.plan, source.finished)),
    ),
)


def place(source: Source) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Draw all views: HTML by section, and the data behind each chart that has some."""
    found: dict[str, str] = {}
    data: list[dict[str, Any]] = []
    for view in VIEWS:
        drawn, more = _fitting(view.draw(source))
        if drawn:
            found[view.section] = found.get(view.section, "") + _block(view, drawn, more)
            data += [{"view": view.title, "title": _title(view, d), **_rounded(d.data)} for d in drawn if d.data]
    return {section: f'<div class="blocks">{body}</div>' for section, body in found.items()}, data


def _fitting(some: Iterable[Drawn]) -> tuple[list[Drawn], bool]:
    """Return the charts that fit on the page, and whether there are more."""
    drawn: list[Drawn] = []
    size = 0
    for one in some:
        if size > MOST_BYTES:
            return drawn, True
        size += len(one.body)
        drawn.append(one)
    return drawn, False


def _block(view: View, drawn: Sequence[Drawn], more: bool) -> str:
    """Return a view's charts below its title; one of which a single chart is shown shares its row with others."""
    whole = [one for one in drawn if one.title.startswith(ALL_TASKS)] or drawn
    first = [one for one in whole if not one.aside][: MOST_SHOWN[view.kind]]
    rest = [one for one in drawn if all(one is not other for other in first)]
    parts = [f"<h3>{text(view.title)}</h3>"] if view.title != view.section else []
    parts += [note(text(view.caption))] if view.caption else []
    parts.append(_grid(view, first))
    if rest:
        summary = f"{view.title}: {len(rest)} more chart{'s' * (len(rest) > 1)}"
        parts.append(fold(summary, _grid(view, rest), "single printed" if len(rest) <= MOST_PRINTED else "single"))
    if more:
        parts.append(
            note("More of these charts would make the page too large; <code>lth.reporting.figures</code> draws all.")
        )
    return f'<div class="block{" one" * (len(first) == 1 and view.kind == "charts")}">{"".join(parts)}</div>'


def _grid(view: View, some: Sequence[Drawn]) -> str:
    figures = "".join(figure(_title(view, one), one.finding, one.body) for one in some)
    return f'<div class="{view.kind}" data-view="{text(view.title)}">{figures}</div>'


def _title(view: View, drawn: Drawn) -> str:
    return f"{view.title}: {drawn.title}"


def _rounded(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return data for the page: what is not finite is null, and numbers have six digits."""

    def value(v: Any) -> Any:
        if not isinstance(v, float):
            return v
        short = float(f"{v:.6g}")
        return None if not math.isfinite(v) else int(short) if short == int(short) else short

    return {**data, "rows": [[value(v) for v in row] for row in data["rows"]]}
