"""The main chart: a dot for each seed, beside the dense agents and the random policy, as SVG that needs no program to be drawn.

Positions are shares of the picture's width, so that it fits a phone and a wide screen with text of one size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..experiment.tidy import DENSE
from .families import NOT_JUDGED, UNDECIDED, WINNING, WORSE, Families, Verdict
from .html import text
from .numbers import names, number, quantity, share
from .scores import DENSE_AGENT, Condition, Runs, level_name
from .styles import SOFT, Style, style_of
from .views import SUCCESS

SHAPES = {WINNING: "▲", UNDECIDED: "◆", WORSE: "▼"}
"""What a verdict is marked with besides its word."""
LEFT, RIGHT = 30.0, 79.0
"""Where the dots' axis begins and ends, in per cent of the width; names are left of it, counts right."""
ROW, TOP, BOTTOM = 24, 20, 35
LOWEST, HIGHEST = -1.0, 3.0
"""Scores beyond these are drawn at the edge, as arrows, so that one lost run does not squeeze all others together."""


class Axis(NamedTuple):
    """Where values stand in a panel."""

    low: float
    high: float
    y: int  # of the axis, below the rows, in pixels

    def share(self, value: float) -> float:
        """Return how far from the low to the high end a value is drawn: what lies beyond is at the end."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)

    def x(self, value: float) -> str:
        """Return where a value is drawn, in per cent of the width."""
        return f"{LEFT + self.share(value) * (RIGHT - LEFT):.2f}%"


class Row(NamedTuple):
    """The runs of one condition."""

    condition: Condition
    values: dict[int, float]  # by seed; the mean over tasks
    verdict: Verdict | None  # None for the dense agents

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean([*self.values.values()]))


class Panel(NamedTuple):
    """One level on one task, or over all: dense agents first, then tickets, then controls."""

    scope: str
    metric: str
    title: str
    rows: list[Row]
    zero: float  # what the random policy reaches on the axis; NaN where it was not measured
    one: float  # the mean dense agent
    margin: float  # NaN where there are no scores
    raw: tuple[float, float] | None  # return (success rate) of the random policy and the mean dense agent, on one task

    @property
    def scored(self) -> bool:
        """Whether the axis has scores, not returns (success rates)."""
        return self.margin == self.margin

    @property
    def digits(self) -> int:
        """Behind the point of what is written of it."""
        return 2 if self.scored or self.metric == SUCCESS else 1


def panels(runs: Runs, found: Families, scope: str, tasks: Sequence[str], metric: str) -> list[Panel]:
    """Return what is shown of a metric on a task or over all: one panel for each rewind point and sparsity.

    The axis has scores, or where a task has none its returns (success rates). Where no task has results, there are no panels.
    """
    if not tasks:
        return []
    reference, scored = runs.reference(tasks[0], metric), runs.have_scores(tasks, metric)
    zero, one, margin = (0.0, 1.0, found.margin) if scored else (reference.random, reference.dense, math.nan)
    raw = (reference.random, reference.dense) if scored and len(tasks) == 1 else None
    verdicts = found.judged(scope, metric)
    shown = []
    for rewind, sparsity in runs.levels():
        rows = []
        for condition in (DENSE_AGENT, *sorted(runs.at(rewind, sparsity), key=lambda c: not c.is_ticket)):
            by_task = [runs.last(task, condition, metric) for task in tasks]
            seeds = sorted(set.intersection(*(set(one) for one in by_task)))
            if seeds:
                values = np.array([[one[seed] for seed in seeds] for one in by_task], float)
                if scored:
                    values = np.array([runs.score(t, v, metric) for t, v in zip(tasks, values, strict=True)])
                by_seed = dict(zip(seeds, values.mean(axis=0).tolist(), strict=True))
                rows.append(Row(condition, by_seed, verdicts.get(condition)))
        if len(rows) > 1:
            title = level_name(runs, rewind, sparsity) + (", by success" if metric == SUCCESS else "")
            shown.append(Panel(scope, metric, title, rows, zero, one, margin, raw))
    return shown


def finding(panel: Panel) -> str:
    """State which ticket is within the margin of dense on most seeds."""
    if not panel.scored:
        why = "The dense agents learned too little for scores"
        if panel.zero != panel.zero:
            why = "There are no scores, because the random policy was not measured"
        return f"{why}; the axis has {'success rates' if panel.metric == SUCCESS else 'returns'}."
    tickets = [row for row in panel.rows if row.condition.is_ticket and row.verdict]
    if not tickets:
        return ""
    best = [row for row in tickets if _share(row) == max(map(_share, tickets))]
    first = best[0].verdict
    assert first
    who = names(row.condition.label for row in best) if len(best) < 3 else f"{len(best)} methods"
    if not first.within:
        return f"No ticket is within {share(panel.margin)} of dense on any seed."
    return f"Most seeds within {share(panel.margin)}: {who} ({first.within} of {first.seeds})."


def _share(row: Row) -> float:
    return row.verdict.within / row.verdict.seeds if row.verdict and row.verdict.seeds else 0.0


def draw(panel: Panel, looks: Mapping[str, Style], name: str) -> str:
    """Return a panel as SVG. `name` is a prefix for ids, different for each picture of a page."""
    axis = Axis(*_domain(panel), TOP + ROW * len(panel.rows))
    used = list(dict.fromkeys(row.condition.label for row in panel.rows))
    marks = "".join(f'<g id="{name}-{i}">{_marker(looks[label])}</g>' for i, label in enumerate(used))
    parts = [f"<defs>{marks}</defs>"]
    parts += _references(panel, axis)
    for i, row in enumerate(panel.rows):
        middle = TOP + ROW * i + ROW / 2
        parts += _row(panel, row, f"{name}-{used.index(row.condition.label)}", middle, axis)
    parts += _scale(panel, axis)
    about = f'role="img" aria-labelledby="{name}-t" font-size="12" fill="currentColor"'
    return (
        f'<svg class="dots" width="100%" height="{axis.y + BOTTOM}" {about}>'
        f'<title id="{name}-t">{text(panel.title)}: {text(finding(panel))}</title>{"".join(parts)}</svg>'
    )


def _domain(panel: Panel) -> tuple[float, float]:
    values = [value for row in panel.rows for value in row.values.values()]
    values += [value for value in (panel.zero, panel.one) if value == value]
    low, high = min(values), max(values)
    if panel.scored:
        low, high = max(low, LOWEST), min(high, HIGHEST)
    pad = 0.04 * (high - low) or 1.0
    return low - pad, high + pad


def _marker(style: Style) -> str:
    fill = "none" if style.hollow else style.paint
    path = f"M0 0{style.outline(4)}"
    return f'<path d="{path}" fill="{fill}" fill-opacity=".6" stroke="{style.paint}" stroke-width="1.4"/>'


def _references(panel: Panel, axis: Axis) -> list[str]:
    """The lines at the random policy and at dense, and the margin below dense."""
    dense = style_of(DENSE).paint
    x, end = axis.x, axis.y
    parts, at, zero = [], float(x(panel.one)[:-1]), LEFT
    if panel.zero == panel.zero:
        zero = float(x(panel.zero)[:-1])
        anchor = "middle" if at - zero > 25 else "end"
        parts.append(f'<line x1="{zero}%" x2="{zero}%" y1="{TOP - 4}" y2="{end}" stroke="{SOFT}"/>')
        parts.append(f'<text x="{zero}%" y="11" text-anchor="{anchor}">random policy</text>')
    if panel.scored:
        edge = x(panel.one - panel.margin)
        parts.append(f'<line x1="{edge}" x2="{edge}" y1="{TOP}" y2="{end}" stroke="{dense}" stroke-dasharray="3 3"/>')
        parts.append(
            f'<text x="100%" y="{end + 16}" text-anchor="end" fill="{SOFT}">within {share(panel.margin)}</text>'
        )
    anchor = "middle" if at - zero > 25 else "start"
    parts.append(f'<line x1="{at}%" x2="{at}%" y1="{TOP - 4}" y2="{end}" stroke="{dense}" stroke-width="2"/>')
    parts.append(f'<text x="{at}%" y="11" text-anchor="{anchor}" font-weight="600">dense</text>')
    return parts


def _row(panel: Panel, row: Row, marker: str, middle: float, axis: Axis) -> list[str]:
    label = row.condition.label
    first, _, second = label.partition(" + ") if len(label) > 17 else (label, "", "")
    if second:
        parts = [
            f'<text y="{middle - 2:g}">{text(first)}</text><text y="{middle + 11:g}">+ {text(second)}</text>',
        ]
    else:
        parts = [f'<text y="{middle + 4:g}">{text(label)}</text>']
    for seed, value, lift in _stacked(row.values, axis):
        y = middle + lift
        told = f"<title>{text(label)}, seed {seed}: {number(value, panel.digits)}</title>"
        if axis.low <= value <= axis.high:
            parts.append(f'<use href="#{marker}" x="{axis.x(value)}" y="{y:g}">{told}</use>')
        else:
            arrow, anchor = ("◂", "start") if value < axis.low else ("▸", "end")
            parts.append(f'<text x="{axis.x(value)}" y="{y + 4:g}" text-anchor="{anchor}">{arrow}{told}</text>')
    mean = number(row.mean, panel.digits)
    parts.append(
        f'<line x1="{axis.x(row.mean)}" x2="{axis.x(row.mean)}" y1="{middle - 10:g}" y2="{middle + 10:g}" stroke="currentColor" '
        f'stroke-width="3"><title>{text(label)}, mean {mean}</title></line>'
    )
    if row.verdict and row.verdict.verdict != NOT_JUDGED:
        shape = f"{SHAPES[row.verdict.verdict]} " if row.verdict.verdict in SHAPES else ""
        counted = f"{shape}{row.verdict.within} of {row.verdict.seeds}"
        parts.append(f'<text x="100%" y="{middle + 4:g}" text-anchor="end">{counted}</text>')
    return parts


def _stacked(values: Mapping[int, float], axis: Axis) -> list[tuple[int, float, float]]:
    """Return seed, value and height of each dot: those that would hide each other stand above one another."""
    bins: dict[int, list[int]] = {}
    for seed, value in sorted(values.items(), key=lambda item: item[1]):
        bins.setdefault(round(axis.share(value) * 45), []).append(seed)
    found = []
    for seeds in bins.values():
        step = min(5.0, 16.0 / max(len(seeds) - 1, 1))
        found += [(seed, values[seed], round((i - (len(seeds) - 1) / 2) * step, 1)) for i, seed in enumerate(seeds)]
    return found


def _scale(panel: Panel, axis: Axis) -> list[str]:
    x, end = axis.x, axis.y
    parts = [f'<line x1="{LEFT}%" x2="{RIGHT}%" y1="{end}" y2="{end}" stroke="{SOFT}"/>']
    what = "success rate" if panel.metric == SUCCESS else "return"
    parts.append(f'<text y="{end + 16}" fill="{SOFT}">{"score" if panel.scored else what}</text>')
    if panel.raw:
        parts.append(f'<text y="{end + 31}" fill="{SOFT}">{what}</text>')
    ticks = [t / 2 for t in range(-2, 7)] if panel.scored else [panel.zero, panel.one]
    shown = [tick for tick in ticks if axis.low <= tick <= axis.high]
    step = 2 if len(shown) > 5 else 1
    for tick in shown if step == 1 else [t for t in shown if t == int(t)]:
        parts.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{end}" y2="{end + 4}" stroke="{SOFT}"/>')
        name = f"{tick:g}" if panel.scored else quantity(tick)
        anchor = "end" if axis.share(tick) > 0.88 else "middle"  # keeps clear of what is written right of the axis
        parts.append(f'<text x="{x(tick)}" y="{end + 16}" text-anchor="{anchor}">{name}</text>')
        if panel.raw:
            value = _rounded(panel.raw[0] + tick * (panel.raw[1] - panel.raw[0]), panel.raw[1] - panel.raw[0])
            parts.append(f'<text x="{x(tick)}" y="{end + 31}" text-anchor="middle" fill="{SOFT}">{value}</text>')
    return parts


def _rounded(value: float, span: float) -> str:
    """Write a number on an axis as fine as a thousandth of what it spans."""
    digits = 2 - math.floor(math.log10(abs(span))) if span else 0
    found = round(value, digits) + 0.0
    return f"{found:,.0f}" if digits <= 0 else f"{found:g}"
