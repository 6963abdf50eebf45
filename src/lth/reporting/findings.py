"""What each chart shows, in a sentence: its caption. Rows in, words out."""

import math
from collections.abc import Iterable, Mapping, Sequence

from ..experiment.tidy import DENSE
from .charts import Bars, Chart, Cut, HeatMap, Histogram, Picture, Point
from .networks import Graph, Masks
from .numbers import names, number, quantity, share
from .styles import Style

CLOSE = 0.9
"""The score whose share of runs a profile's caption has."""
MOST_NAMED = 4


def finding(chart: Chart, looks: Mapping[str, Style]) -> str:
    """State what a chart shows of dense agents and tickets; controls are in the picture.

    Args:
        chart: of kind sparsity, curve, time, bytes or profile.
        looks: the look of each series; controls are hollow.
    """
    tickets = [p for p in chart.points if p.series in looks and not looks[p.series].hollow and p.series != DENSE]
    dense = [p for p in chart.points if p.series == DENSE]
    if not tickets or not dense:
        return ""
    if chart.kind == "sparsity":
        ticks = sorted({p.x for p in tickets})
        best = [max((p for p in tickets if p.x == x), key=lambda p: p.y) for x in ticks]
        said = names(f"{p.series} at {chart.ticks[int(p.x)]} ({quantity(p.y)})" for p in best)
        return f"The best ticket: {said}; dense: {quantity(dense[0].y)}."
    if chart.kind == "bytes":
        least = min(tickets, key=lambda p: p.x)
        smallest = (
            f"The smallest ticket, {least.series}, takes {quantity(least.x)} bytes and returns {quantity(least.y)}"
        )
        return f"{smallest}; dense takes {quantity(dense[0].x)} and returns {quantity(dense[0].y)}."
    ends = _last(tickets)
    if chart.kind == "time":
        took = [p.x for p in ends]
        span = " to ".join(dict.fromkeys(map(quantity, (min(took), max(took)))))
        return f"Training took {span} s for a ticket, {quantity(_last(dense)[0].x)} s for dense."
    if chart.kind == "profile":
        above = [p for p in [*dense, *tickets] if abs(p.x - CLOSE) < 1e-9]
        return f"Runs above {CLOSE:g}: {names(f'{p.series} {share(round(p.y, 2))}' for p in above[: MOST_NAMED + 1])}."
    ranked = sorted(ends, key=lambda p: -p.y)
    said = names(f"{p.series} {quantity(p.y)}" for p in [*_last(dense), *ranked[:MOST_NAMED]])
    return f"At the last evaluation: {said}."


def _last(points: Iterable[Point]) -> list[Point]:
    """Return the last point of each series."""
    return list({p.series: p for p in sorted(points, key=lambda p: p.x)}.values())


def finding_of_picture(picture: Picture) -> str:
    """State which layer is the narrowest, or which observations nothing reads."""
    if picture.row == "layer":
        least = min(picture.cells, key=lambda c: c.share)
        return f"Narrowest: {least.series} keeps {share(float(f'{least.share:.2g}'))} of {least.row}."
    unread: dict[str, list[str]] = {}
    for cell in picture.cells:
        if cell.share == 0:
            unread.setdefault(cell.series, []).append(cell.row)
    if not unread:
        return "Every observation is read under every mask."
    return f"Not read on any seed: {'; '.join(f'{name} {_some(rows)}' for name, rows in unread.items())}."


def finding_of_bars(bars: Bars, looks: Mapping[str, Style]) -> str:
    """State the IQM of dense agents and tickets; or the tickets' chances to score above dense agents."""
    if bars.reference is not None:
        chances = [f"{b.series} {number(b.value)}" for b in bars.bars if b.row == f"{b.series} > dense"]
        return f"The chance to score above a dense agent: {names(chances)}." if chances else ""
    shown = [b for b in bars.bars if b.panel == "IQM" and not looks[b.series].hollow]
    ranked = sorted(shown[1:], key=lambda b: -b.value)
    return f"IQM: {names(f'{b.series} {number(b.value)}' for b in [*shown[:1], *ranked[:MOST_NAMED]])}."


def finding_of_overlap(one: HeatMap) -> str:
    """State which masks share the most beyond what chance gives."""
    most = max(one.cells, key=lambda c: c.jaccard - c.by_chance)
    who = f"two seeds of {most.row}" if most.row == most.column else f"{most.row} and {most.column}"
    return f"Farthest above chance: {who}, {number(most.jaccard)} (by chance {number(most.by_chance)})."


def finding_of_histogram(one: Histogram) -> str:
    """State how many weights are kept, and from which score on."""

    def kept(cut: Cut) -> str:
        said = f"{sum(cut.kept):,} at {cut.sparsity}"
        if not cut.thresholds:
            return said
        span = " to ".join(dict.fromkeys(f"{10**t:.2g}" for t in (min(cut.thresholds), max(cut.thresholds))))
        return f"{said} (|score| of at least {span})"

    zero = sum(b.weights for b in one.bins if b.low == -math.inf)
    said = f"Of {sum(one.totals()):,} weights, masks keep {names(map(kept, one.cuts))}"
    return said + (f"; {zero:,} scores are 0." if zero else ".")


def finding_of_masks(one: Masks) -> str:
    """State how many inputs have no weight left in the first layer."""
    read = {name: layers[0].kept for name, layers in one.columns.items() if layers and layers[0].name == "layer_0"}
    bare = {name: int((~kept.any(axis=1)).sum()) for name, kept in read.items()}
    if not any(bare.values()):
        return "Every mask keeps a weight at each input."
    return (
        f"Of {len(one.inputs)} inputs, without any weight: {names(f'{name} {count}' for name, count in bare.items())}."
    )


def finding_of_graph(one: Graph) -> str:
    """State how many observations are read, and through how many units."""
    hidden = sum(one.sizes[1:-1])
    return f"Observations that are read: {one.read} of {len(one.inputs)}, through {hidden} hidden units."


def _some(rows: Sequence[str]) -> str:
    if len(rows) <= MOST_NAMED:
        return names(rows)
    return f"{len(rows)} observations ({', '.join(rows[:2])}, ...)"
