"""The panels of matplotlib figures: each function draws one chart on an axis."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..analysis.paths import Layer
from ..experiment.tidy import DENSE
from .charts import BAR, DENSE_PLACE, MOST_ROWS, Bar, Chart, Dot, HeatMap, Histogram, Picture, Point, beside_ticks
from .networks import Graph, positions
from .numbers import short
from .styles import NEGATIVE, POSITIVE, Style, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK, GREY, PALE, GRID = "#1a1a1a", "#767676", "#949494", "#dddddd"


def _marker(style: Style) -> dict[str, Any]:
    return {
        "color": style.color,
        "marker": list(style.marker) or "o",
        "markerfacecolor": "white" if style.hollow else style.color,
        "markeredgecolor": style.color,
        "markeredgewidth": 0.8,
    }


def _line(style: Style) -> dict[str, Any]:
    return _marker(style) | {"linestyle": (0, style.dash) if style.dash else "-"}


def _xy(points: Sequence[Point | Dot]) -> tuple[list[float], list[float]]:
    return [p.x for p in points], [p.y for p in points]


def _few(side: "Axis", count: int = 4) -> None:
    from matplotlib.ticker import MaxNLocator

    side.set_major_locator(MaxNLocator(count))


def _name(axis: "Axes", x: str, y: str) -> None:
    """Name the axes, and set thousands apart on y."""
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    low, high = axis.yaxis.get_view_interval()
    if max(abs(low), abs(high)) >= 1000:
        axis.yaxis.set_major_formatter(lambda v, _: f"{v:,.0f}".replace("-", "\N{MINUS SIGN}"))


def curve(axis: "Axes", chart: Chart, looks: dict[str, Style]) -> None:
    """Draw lines with bands; of a profile, steps."""
    step = chart.kind == "profile"
    banded = chart.banded()
    for name, points in chart.by_series().items():
        x, y, low, high = ([getattr(p, field) for p in points] for field in ("x", "y", "low", "high"))
        color = looks[name].color
        if name in banded:
            axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0, step="post" if step else None)
        axis.plot(
            x,
            y,
            label=name,
            markevery=max(1, len(x) // 6),
            drawstyle="steps-post" if step else "default",
            zorder=3 if name == DENSE else 2.5,
            **_line(looks[name]) | ({"marker": ""} if step or name == DENSE else {}),
        )
    _few(axis.xaxis)
    if not step:
        axis.xaxis.set_major_formatter(lambda v, _: short(v))
    _name(axis, chart.x, chart.y)


def sparsity(axis: "Axes", chart: Chart, looks: dict[str, Style]) -> None:
    """Draw each run as a dot beside its sparsity's tick, means and intervals over them, and dense agents as a line."""
    small = 2.8 if len({dot.task for dot in chart.dots}) == 1 else 2.0
    ends = (DENSE_PLACE - 0.3, len(chart.ticks) - 0.5)
    for name, here in beside_ticks(chart, looks).items():
        color = looks[name].color
        if name == DENSE:
            axis.plot(ends, [here.means[0].y] * 2, color=color, lw=1.2, label=DENSE, zorder=2)
        look = _marker(looks[name]) | {"markersize": small, "markeredgewidth": 0.5, "linestyle": ""}
        axis.plot(*_xy(here.dots), label="" if name == DENSE else name, zorder=3, **look)
        for p in here.means if name != DENSE else ():
            half = BAR * here.slot
            axis.plot([p.x - half, p.x + half], [p.y, p.y], color=color, lw=1.5, zorder=4)
            axis.plot([p.x, p.x], [p.low, p.high], color=color, lw=0.7, zorder=2.5)
    axis.set_xticks([DENSE_PLACE, *range(len(chart.ticks))], [DENSE, *chart.ticks])
    axis.set_xlim(*ends)
    axis.grid(False, axis="x")
    for i in range(len(chart.ticks)):
        axis.axvline(i - 0.5, color=GRID, lw=0.5, zorder=0)
    _name(axis, chart.x, chart.y)


def sizes(axis: "Axes", chart: Chart, looks: dict[str, Style]) -> None:
    """Draw means and runs over bytes."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for name, points in chart.by_series().items():
        look = _line(looks[name])
        axis.plot(*_xy(chart.runs_of(name)), **look | {"linestyle": "", "markersize": 2.2, "markeredgewidth": 0.4})
        axis.plot(*_xy(points), label=name, zorder=3, **look)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda v, _: short(v))
    axis.xaxis.set_minor_formatter(NullFormatter())
    _name(axis, chart.x, chart.y)


def bars(
    axis: "Axes", shown: Sequence[Bar], span: tuple[float, float], reference: float | None, looks: dict[str, Style]
) -> None:
    """Draw intervals, a row each, with the values as strokes; `span` is the axis's, `reference` where a line stands."""
    for i, bar in enumerate(shown):
        if bar.low == bar.low:
            color = looks[bar.series].color
            axis.barh(i, bar.high - bar.low, left=bar.low, height=0.62, color=color, alpha=0.5, lw=0)
            axis.barh(i, bar.high - bar.low, left=bar.low, height=0.62, edgecolor=color, fill=False, lw=0.6)
        axis.plot([bar.value] * 2, [i - 0.34, i + 0.34], color=INK, lw=1.4)
    if reference is not None:
        axis.axvline(reference, color=INK, lw=0.7, ls=(0, (3, 2)))
    axis.set_xlim(*span)
    axis.set_yticks(range(len(shown)), [bar.row for bar in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    _few(axis.xaxis)


def heat(axis: "Axes", one: HeatMap) -> None:
    """Draw the overlap of masks as a square for each pair of methods, with what chance gives in brackets."""
    names = one.names()
    values = [[math.nan] * len(names) for _ in names]
    for cell in one.cells:
        i, j = names.index(cell.row), names.index(cell.column)
        values[i][j] = values[j][i] = cell.jaccard
        for a, b in {(i, j), (j, i)}:
            about: dict[str, Any] = {"ha": "center", "va": "center", "color": ink_on(cell.jaccard)}
            axis.text(b, a - 0.16, f"{cell.jaccard:.2f}", fontsize=6.5, **about)
            axis.text(b, a + 0.26, f"({cell.by_chance:.2f})", fontsize=5, **about)
    axis.imshow(values, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0)
    axis.grid(False)


def histogram(axis: "Axes", one: Histogram, looks: dict[str, Style]) -> None:
    """Draw the weights by score; what is kept in the method's color, the darker the sparser, and each mask's threshold."""
    (places, ticks), width, totals = one.places(), one.width, one.totals()
    axis.bar(places, one.pruned(), width=width, align="edge", color=PALE, lw=0)
    for i, cut in enumerate(one.cuts):
        color = tint(looks[one.series].color, (i + 1) / len(one.cuts))
        bottoms = [total - kept for total, kept in zip(totals, cut.kept, strict=True)]
        axis.bar(places, cut.kept, bottom=bottoms, width=width, align="edge", color=color, lw=0)
        for threshold in cut.thresholds:
            axis.axvline(threshold, color=INK, lw=0.5, ls=(0, (3, 1.5)))
        if cut.thresholds:
            last = i == len(one.cuts) - 1
            place = max(cut.thresholds) + width / 2 if last else min(cut.thresholds) - width / 2
            high = 1.0 - (0.11 * (len(one.cuts) - 2 - i) if not last else 0)
            about: dict[str, Any] = {"ha": "left" if last else "right", "va": "top", "fontsize": 6}
            axis.text(place, high, cut.sparsity, transform=axis.get_xaxis_transform(), **about)
    axis.set_xticks([x for x, _ in ticks], ["0" if e is None else f"$10^{{{e}}}$" for _, e in ticks])
    axis.set_ylim(0, 1.08 * max(totals))
    axis.grid(False, axis="x")
    _few(axis.yaxis)
    _name(axis, "|score|", f"{one.network}: weights")


def tint(color: str, strength: float) -> str:
    """Mix a color, #rrggbb, with white: 1 leaves it as it is."""
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * strength):02x}" for part in parts)


def picture(axis: "Axes", picture: Picture, rows: Sequence[str], what: str, cell: float) -> None:
    """Draw shares as squares, with their numbers where there is room: `cell` is the width of a square in inches."""
    columns = picture.columns()
    shares = [[math.nan] * len(columns) for _ in rows]
    for one in picture.cells:
        shares[rows.index(one.row)][columns.index(one.series)] = one.share
    axis.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto", interpolation="nearest")
    about: dict[str, Any] = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if cell >= 0.25 else {"rotation": 90, "fontsize": 6}
    )
    axis.set_xticks(range(len(columns)), columns, **about)
    every = math.ceil(len(rows) / MOST_ROWS)
    axis.set_yticks(range(0, len(rows), every), rows[::every], fontsize=6.5)
    axis.set_ylabel(what)
    axis.tick_params(length=0)
    axis.grid(False)
    for i, row in enumerate(shares if every == 1 and cell >= 0.21 else ()):
        for j, share in enumerate(row):
            if share == share:
                about = {"ha": "center", "va": "center", "color": ink_on(share), "fontsize": 5.5}
                axis.text(j, i, f"{share:.2f}", **about)


def weights(axis: "Axes", layer: Layer, look: Style, labels: Sequence[str]) -> None:
    """Draw a layer's mask: rows are inputs, columns are units, kept weights in the method's color."""
    from matplotlib.colors import ListedColormap

    inputs, outputs = layer.kept.shape
    colors = ListedColormap(["white", look.color])
    axis.imshow(layer.kept, cmap=colors, vmin=0, vmax=1, aspect="auto", interpolation="none")
    axis.set_xticks([0, outputs - 1], ["1", str(outputs)])
    rows = range(inputs) if labels else (0, inputs - 1)
    axis.set_yticks(rows, [labels[i] if labels else str(i + 1) for i in rows], fontsize=6.5)
    for i in range(1, len(labels)):
        axis.axhline(i - 0.5, color=GRID, lw=0.3)
    axis.set_ylabel(layer.name + ("" if labels else ": inputs"))
    axis.set_xlabel("units")
    axis.tick_params(length=0)
    axis.grid(False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(True)


def graph(axis: "Axes", found: Graph) -> None:
    """Draw nodes in columns and weights as lines between them: wide where they are large, colored by their sign."""
    from matplotlib.collections import LineCollection

    places = positions(found)
    largest = max((abs(e.weight) for e in found.edges), default=1.0)
    order = sorted(found.edges, key=lambda e: abs(e.weight))
    ends = [(places[e.layer][e.source], places[e.layer + 1][e.target]) for e in order]
    colors = [(POSITIVE if e.weight > 0 else NEGATIVE).color for e in order]
    axis.add_collection(
        LineCollection(ends, colors=colors, linewidths=[0.2 + 1.2 * abs(e.weight) / largest for e in order])
    )
    for k, nodes in enumerate(places):
        inner = 0 < k < len(places) - 1
        axis.plot([x for x, _ in nodes], [y for _, y in nodes], "o", color=INK, markersize=1.4 if inner else 3)
    read = {e.source for e in found.edges if e.layer == 0}
    for i, ((x, y), name) in enumerate(zip(places[0], found.inputs, strict=True)):
        axis.text(x - 0.02, y, name, ha="right", va="center", fontsize=7, color=INK if i in read else GREY)
    for (x, y), name in zip(places[-1], found.outputs, strict=True):
        axis.text(x + 0.02, y, name, ha="left", va="center", fontsize=7)
    axis.set_ylim(1.01, -0.01)
    axis.set_axis_off()
    for name, style in {"positive weight": POSITIVE, "negative": NEGATIVE}.items():
        axis.plot([], [], color=style.color, label=name)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=7)
