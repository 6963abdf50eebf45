"""What each chart shows, in a sentence: its caption. Rows in, words out."""

from collections.abc import Iterable, Mapping, Sequence

from .answer import names, sentence
from .charts import Chart, Picture, Point
from .numbers import quantity, share
from .styles import Style

CLOSE = 0.9
"""The score whose share of runs a profile's caption has."""
MOST_NAMED = 4


def finding(chart: Chart, looks: Mapping[str, Style]) -> str:
    """State what a chart shows of dense agents and tickets; controls are in the picture.

    Args:
        chart: of kind sparsity, curve, time or profile.
        looks: the look of each series; controls are hollow.
    """
    tickets = [p for p in chart.points if p.series in looks and not looks[p.series].hollow and p.series != "dense"]
    dense = [p for p in chart.points if p.series == "dense"]
    if not tickets or not dense:
        return ""
    if chart.kind == "sparsity":
        ticks = sorted({p.x for p in tickets})
        best = [max((p for p in tickets if p.x == x), key=lambda p: p.y) for x in ticks]
        said = names(f"{p.series} at {chart.ticks[int(p.x)]} ({quantity(p.y)})" for p in best)
        return f"The best ticket: {said}; dense: {quantity(dense[0].y)}."
    ends = _last(tickets)
    if chart.kind == "time":
        took = sorted(p.x for p in ends)
        span = (
            quantity(took[0])
            if quantity(took[0]) == quantity(took[-1])
            else f"{quantity(took[0])} to {quantity(took[-1])}"
        )
        return f"Training took {span} s for a ticket, {quantity(_last(dense)[0].x)} s for dense."
    if chart.kind == "profile":
        above = [p for p in [*dense, *tickets] if abs(p.x - CLOSE) < 1e-9]
        return sentence(
            f"runs above {CLOSE:g}: {names(f'{p.series} {share(round(p.y, 2))}' for p in above[: MOST_NAMED + 1])}."
        )
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
    return sentence(f"not read on any seed: {'; '.join(f'{name} {_some(rows)}' for name, rows in unread.items())}.")


def _some(rows: Sequence[str]) -> str:
    if len(rows) <= MOST_NAMED:
        return names(rows)
    return f"{len(rows)} observations ({', '.join(rows[:2])}, ...)"
