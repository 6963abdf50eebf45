"""The report's charts as static SVG: a function for each kind of chart, which returns one <svg> element to be put into the page.

They need no script. Text is text; ink is currentColor; lines, cards and soft text take the page's CSS variables, and series take
those of `styles.css`, so that they are right in the dark. Each has a label, and a <desc> that says what is drawn. What belongs to a
series is in a <g> with its name in `data-series`, so that page.js can hide it; `data-at` has the places of its points.
"""

import base64
import io
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from ..experiment.tidy import DENSE
from .charts import BAR, DENSE_PLACE, MOST_ROWS, Bar, Bars, Chart, Dot, HeatMap, Histogram, Picture, Point, beside_ticks
from .html import text
from .networks import Graph, Masks, positions
from .numbers import short
from .styles import CARD, LINE, NEGATIVE, POSITIVE, SOFT, Style, ink_on, style_of

WIDTH, HEIGHT = 400, 250
"""Of a chart, in pixels, without its legend; other pictures are as high as they need."""
CIVIDIS = [
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
]  # at equal distances
SIZE = 11
"""Of text, in pixels at the picture's own width."""
LETTER = 6.0
"""About the width of a letter."""
FAINT = f' fill="{SOFT}"'
"""Of soft text."""


class Drawing:
    """Pieces of SVG in pixels, y downward."""

    def __init__(self, width: float, height: float, title: str, about: str):
        self.width, self.height, self.title, self.parts = width, height, title, [f"<desc>{text(about)}</desc>"]

    def add(self, part: str) -> None:
        """Append an element."""
        self.parts.append(part)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, stroke: str = LINE, width: float = 1, more: str = ""
    ) -> None:
        """Draw a straight line; one of the color LINE is decoration."""
        more += ' class="rule"' if stroke == LINE else ""
        self.add(f'<path d="M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}" stroke="{stroke}" stroke-width="{width:g}"{more}/>')

    def box(self, x: float, y: float, width: float, height: float, fill: str, more: str = "") -> None:
        """Draw a filled rectangle."""
        self.add(f'<path d="M{_n(x)} {_n(y)}h{_n(width)}v{_n(height)}h{_n(-width)}z" fill="{fill}"{more}/>')

    def write(self, x: float, y: float, words: str, anchor: str = "start", more: str = "") -> None:
        """Write words whose baseline is a third of their size below y."""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.add(f'<text x="{_n(x)}" y="{_n(y + 0.35 * SIZE)}"{where}{more}>{text(words)}</text>')

    def marks(self, places: Iterable[tuple[float, float]], style: Style, radius: float = 4.0) -> None:
        """Draw a series' marker at each place, all as one path."""
        one = style.outline(radius)
        path = "".join(f"M{_n(x)} {_n(y)}{one}" for x, y in places)
        self.add(f'<path d="{path}" fill="{CARD if style.hollow else style.paint}" stroke="{style.paint}"/>')

    @contextmanager
    def series(self, name: str, places: Iterable[tuple[float, float]] = ()) -> Iterator[None]:
        """Put what is drawn within into a group that has the series' name and the places of its points."""
        at = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
        self.add(f'<g data-series="{text(name)}"' + (f' data-at="{at}">' if at else ">"))
        yield
        self.add("</g>")

    def svg(self, kind: str) -> str:
        """Return the element."""
        w, h = math.ceil(self.width), math.ceil(self.height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="view {kind}" role="img" aria-label="{text(self.title)}" '
            f'viewBox="0 0 {w} {h}" width="{w}" style="--w:{w}px;width:100%;max-width:{1.2 * w:.0f}px;height:auto" '
            f'font-family="system-ui,sans-serif" font-size="{SIZE}" fill="currentColor">'
            f"{''.join(self.parts)}</svg>"
        )


def _n(value: float) -> str:
    words = f"{value:.1f}".removesuffix(".0")
    return "0" if words == "-0" else words


class Axes:
    """A place in a drawing where values are drawn."""

    def __init__(self, drawing: Drawing, left: float, top: float, width: float, height: float):
        self.d, self.left, self.top, self.width, self.height = drawing, left, top, width, height
        self.right, self.bottom = left + width, top + height
        self.x_range, self.y_range = (0.0, 1.0), (0.0, 1.0)

    def x(self, value: float) -> float:
        """Return where a value is."""
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * self.width

    def y(self, value: float) -> float:
        """Return where a value is."""
        low, high = self.y_range
        return self.bottom - (value - low) / ((high - low) or 1) * self.height

    def places(self, points: Iterable[Point | Dot]) -> list[tuple[float, float]]:
        """Return where points are."""
        return [(self.x(p.x), self.y(p.y)) for p in points]

    def name(self, value: float, words: str) -> None:
        """Write below the axis what a value is called."""
        self.d.write(self.x(value), self.bottom + 11, words, "middle", FAINT)

    def across(self, value: float, stroke: str = LINE, width: float = 1) -> None:
        """Draw a line from left to right at a value."""
        self.d.line(self.left, self.y(value), self.right, self.y(value), stroke, width)

    def upright(self, value: float, stroke: str = LINE, width: float = 1, more: str = "") -> None:
        """Draw a line from top to bottom at a value."""
        self.d.line(self.x(value), self.top, self.x(value), self.bottom, stroke, width, more)

    def frame(
        self,
        x_ticks: Iterable[tuple[float, str]],
        y_ticks: Iterable[tuple[float, str]],
        x_label: str = "",
        y_label: str = "",
    ) -> None:
        """Draw ticks, lines behind the values, and labels: that of y above, so that it is read without turning the head."""
        for value, name in y_ticks:
            self.across(value)
            self.d.write(self.left - 5, self.y(value), name, "end", FAINT)
        for value, name in x_ticks:
            self.upright(value)
            self.name(value, name)
        self.d.line(self.left, self.bottom, self.right, self.bottom, SOFT)
        if x_label:
            self.d.write(self.right, self.bottom + 26, x_label, "end")
        if y_label:
            self.d.write(self.left - 30, self.top - 14, y_label)

    def band(self, points: Sequence[Point]) -> str:
        """Return the path around the intervals of points, within the frame."""
        low, high = self.y_range
        ends = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in points[::-1]]
        places = (f"{self.x(x):.0f} {self.y(min(max(y, low), high)):.0f}" for x, y in ends)
        return f"M{'L'.join(places)}z"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values within a range, about so many.

    >>> ticks(0.0, 4855.0)
    [0.0, 1000.0, 2000.0, 3000.0, 4000.0]
    """
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / count))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= count)
    return [round(k * step, 10) + 0.0 for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:g}"


def _named(values: Iterable[float], name: Callable[[float], str] = _number) -> list[tuple[float, str]]:
    return [(value, name(value).replace("-", "\N{MINUS SIGN}")) for value in values]


def _range(values: Iterable[float], margin: float = 0.04) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    room = margin * (high - low or abs(high) or 1.0)
    return low - room, high + room


def _legend(
    d: Drawing, names: Iterable[str], looks: Mapping[str, Style], top: float, lines: bool, dense: bool = False
) -> float:
    """Write what the series look like, in as many lines as it takes; `dense` agents have a marker too. Returns the height."""
    left = 8
    x, y = float(left), top
    for name in names:
        wide = 34 + LETTER * len(name)
        if x + wide > d.width and x > left:
            x, y = left, y + 18
        with d.series(name):
            if lines or name == DENSE:
                _stroke(d, f"M{_n(x)} {_n(y)}h24", looks[name])
            if name != DENSE or dense:
                d.marks([(x + 12, y)], looks[name])
            d.write(x + 29, y, name)
        x += wide + 8
    return y + 14 - top


def _way(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places)


def _stroke(d: Drawing, path: str, style: Style) -> None:
    dash = f' stroke-dasharray="{" ".join(map(str, style.dash))}"' if style.dash else ""
    d.add(
        f'<path d="{path}" fill="none" stroke="{style.paint}" stroke-width="{2 if style.name != DENSE else 2.2}"{dash}/>'
    )


def _chart(
    title: str,
    about: str,
    names: Iterable[str],
    looks: Mapping[str, Style],
    right: int,
    lines: bool,
    dense: bool = False,
) -> tuple[Drawing, Axes]:
    """Begin a chart with a legend below its axes, which leave so much room at their right; `lines` and `dense` as in `_legend`."""
    d = Drawing(WIDTH, HEIGHT, title, about)
    axes = Axes(d, 48, 26, WIDTH - 48 - right, HEIGHT - 26 - 44)
    d.height += _legend(d, names, looks, HEIGHT + 3, lines, dense)
    return d, axes


# --- one function for each kind of chart -----------------------------------------------------------------------------


def sparsity(chart: Chart, looks: Mapping[str, Style]) -> str:
    """Draw each run as a mark by sparsity, the means as bars, and the dense agents' mean as a line (`charts.against_sparsity`)."""
    placed = beside_ticks(chart, looks)
    about = f"{chart.y} by sparsity: a mark for each run, a bar for the mean, a thin line for its 95 % interval"
    d, axes = _chart(f"{chart.title}: {chart.y} by sparsity", about, placed, looks, right=6, lines=False)
    axes.x_range = (DENSE_PLACE - 0.3, len(chart.ticks) - 0.5)
    axes.y_range = _range([*(dot.y for dot in chart.dots), *(v for p in chart.points for v in (p.low, p.high))])
    axes.frame([], _named(ticks(*axes.y_range)), chart.x, chart.y)
    for i, name in enumerate(chart.ticks):
        axes.upright(i - 0.5)
        axes.name(i, name)
    for name, here in placed.items():
        paint = looks[name].paint
        with d.series(name, axes.places(here.means)):
            if name == DENSE:
                axes.name(DENSE_PLACE, DENSE)
                axes.across(here.means[0].y, paint, 2)
            bars = here.means if name != DENSE else []
            for p in bars:
                if p.low == p.low:
                    d.line(axes.x(p.x), axes.y(p.low), axes.x(p.x), axes.y(p.high), paint)
            d.marks(axes.places(here.dots), looks[name], 2.5)
            for p in bars:
                left, right = (axes.x(p.x + side * BAR * here.slot) for side in (-1, 1))
                d.line(left, axes.y(p.y), right, axes.y(p.y), paint, 2.6)
    return d.svg("sparsity")


def curve(chart: Chart, looks: Mapping[str, Style]) -> str:
    """Draw lines over steps, or a profile's steps (`charts.curves`, `training`, `profiles`).

    Where there are many series, the bands of dense agents are shown, and the others are there for page.js to show.
    """
    found, banded, step = chart.by_series(), chart.banded(), chart.kind == "profile"
    about = f"{chart.y} by {chart.x}, a line for each of {', '.join(found)}"
    d, axes = _chart(f"{chart.title}: {chart.y}", about, found, looks, right=10, lines=True)
    axes.x_range = _range((p.x for p in chart.points), 0.01)
    drawn = [*(p.y for p in chart.points), *(v for n in banded for p in found[n] for v in (p.low, p.high))]
    axes.y_range = (0.0, 1.0) if step else _range(drawn)
    x_names = _number if step else short
    axes.frame(_named(ticks(*axes.x_range), x_names), _named(ticks(*axes.y_range)), chart.x, chart.y)
    for name in sorted(found, key=lambda n: n == DENSE):
        some = _stepped(found[name], step)
        places = axes.places(found[name])
        with d.series(name, places):
            if all(math.isfinite(p.low) for p in some):
                more = "" if name in banded else ' display="none"'
                d.add(f'<path class="band" d="{axes.band(some)}" fill="{looks[name].paint}" fill-opacity=".15"{more}/>')
            _stroke(d, _way(axes.places(some)), looks[name])
            if not step and name != DENSE:
                d.marks(places[:: max(1, len(places) // 5)], looks[name])
    return d.svg("curve")


def _stepped(points: Sequence[Point], step: bool) -> list[Point]:
    if not step:
        return list(points)
    return [q for p, after in zip(points, [*points[1:], points[-1]], strict=True) for q in (p, p._replace(x=after.x))]


def sizes(chart: Chart, looks: Mapping[str, Style]) -> str:
    """Draw return against bytes: small marks are runs, large ones means (`charts.against_bytes`)."""
    found = chart.by_series()
    title = f"{chart.title}: {chart.y} by {chart.x}"
    about = f"{title}, a line for each method over its sparsities"
    d, axes = _chart(title, about, found, looks, right=10, lines=True, dense=True)
    axes.x_range = _range(math.log10(dot.x) for dot in chart.dots)
    axes.y_range = _range(dot.y for dot in chart.dots)
    powers = [m * 10.0**e for e in range(0, 10) for m in (1, 2, 5)]
    shown = [v for v in powers if axes.x_range[0] <= math.log10(v) <= axes.x_range[1]]
    axes.frame([(math.log10(v), short(v)) for v in shown], _named(ticks(*axes.y_range)), chart.x, chart.y)
    for name, points in found.items():
        means = axes.places(p._replace(x=math.log10(p.x)) for p in points)
        with d.series(name, means):
            d.marks(axes.places(p._replace(x=math.log10(p.x)) for p in chart.runs_of(name)), looks[name], 2.0)
            _stroke(d, _way(means), looks[name])
            d.marks(means, looks[name])
    return d.svg("sizes")


def bars(one: Bars, looks: Mapping[str, Style]) -> str:
    """Draw intervals by row, a panel for each statistic, two side by side (`charts.intervals`, `improvement`)."""
    panels = one.by_panel()
    rows = list(dict.fromkeys(bar.row for bar in one.bars))
    left = 10 + LETTER * max(map(len, rows))
    across = min(2, len(panels))
    wide, tall = (WIDTH - left - 8) / across, 24 + 18 * len(rows) + 24
    about = "; ".join(f"{bar.panel} {bar.row}: {_interval(bar)}" for bar in one.bars)
    d = Drawing(WIDTH, tall * math.ceil(len(panels) / across), f"{one.title}: {', '.join(panels)}", about)
    for k, (name, shown) in enumerate(panels.items()):
        axes = Axes(d, left + (k % across) * wide, 24 + (k // across) * tall, wide - 14, 18 * len(rows))
        axes.x_range = (
            (-0.02, 1.02) if one.reference is not None else _range(v for b in shown for v in (b.low, b.value, b.high))
        )
        axes.frame(_named(ticks(*axes.x_range, 3)), [])
        d.write(axes.left + axes.width / 2, axes.top - 12, name, "middle", ' font-weight="600"')
        for i, row in enumerate(rows if k % across == 0 else ()):
            d.write(left - 6, axes.top + 18 * i + 9, row, "end")
        for bar in shown:
            y = axes.top + 18 * rows.index(bar.row)
            if bar.low == bar.low:
                paint = looks[bar.series].paint
                more = f' fill-opacity=".5" stroke="{paint}"'
                d.box(axes.x(bar.low), y + 4, axes.x(bar.high) - axes.x(bar.low), 10, paint, more)
            d.box(axes.x(bar.value) - 1.2, y + 2.5, 2.4, 13, "currentColor")
        if one.reference is not None:
            axes.upright(one.reference, "currentColor", 1, ' stroke-dasharray="4 3"')
    return d.svg("bars")


def _interval(bar: Bar) -> str:
    return f"{bar.value:.2f}" + (f" [{bar.low:.2f}, {bar.high:.2f}]" if bar.low == bar.low else "")


def heat(one: HeatMap) -> str:
    """Draw what masks have in common as squares, chance in brackets; the diagonal is of two seeds (`charts.overlap`)."""
    names = one.names()
    left = 14 + LETTER * max(map(len, names))
    wide, tall = (WIDTH - left) / len(names), 34
    about = "Jaccard index of two masks of a seed, that of chance in brackets; on the diagonal, of two seeds"
    d = Drawing(WIDTH, 20 + tall * len(names), f"Overlap of masks: {one.title}", about)
    for i, name in enumerate(names):
        d.write(left - 6, 20 + tall * (i + 0.5), name, "end")
        fitting = name if LETTER * len(name) < wide else name[: int(wide / LETTER) - 1] + "."
        d.write(left + wide * (i + 0.5), 9, fitting, "middle")
    numbers: dict[str, list[str]] = {}
    for cell in one.cells:
        i, j = names.index(cell.row), names.index(cell.column)
        for a, b in sorted({(i, j), (j, i)}):
            x, y = left + wide * b, 20 + tall * a
            d.box(x, y, wide - 1, tall - 1, cividis(cell.jaccard))
            middle = _n(x + wide / 2)
            words = f'<text x="{middle}" y="{_n(y + 15)}">{cell.jaccard:.2f}</text>'
            words += f'<text x="{middle}" y="{_n(y + 27)}" font-size="9">({cell.by_chance:.2f})</text>'
            numbers.setdefault(ink_on(cell.jaccard), []).append(words)
    for color, some in numbers.items():
        d.add(f'<g fill="{color}" text-anchor="middle">{"".join(some)}</g>')
    return d.svg("heat")


def cividis(share: float) -> str:
    """Return the color of a share in [0, 1]: matplotlib's cividis, between ten of its colors."""
    at = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    low = min(int(at), len(CIVIDIS) - 2)
    ends = [[int(CIVIDIS[k][i : i + 2], 16) for i in (1, 3, 5)] for k in (low, low + 1)]
    return "#" + "".join(f"{round(a + (b - a) * (at - low)):02x}" for a, b in zip(*ends, strict=True))


def picture(one: Picture) -> str:
    """Draw shares by row and condition as squares with their numbers (`charts.pictures`)."""
    columns, rows = one.columns(), one.rows()
    left = 10 + 5.6 * max(map(len, rows))
    longest = LETTER * max(map(len, columns))
    wide = (WIDTH - left) / len(columns)
    turned = longest > wide - 4
    if turned:  # the last name reaches beyond its column
        wide = (WIDTH - left - max(0.84 * LETTER * len(columns[-1]) - wide / 2, 0)) / len(columns)
    named = len(rows) <= MOST_ROWS
    top, tall = (10 + 0.56 * longest if turned else 20), 16 if named else 6
    d = Drawing(WIDTH, top + tall * len(rows), one.title, f"shares from 0 to 1, a row for each {one.row}")
    for j, name in enumerate(columns):
        x, y = left + wide * (j + 0.5), top - 8
        more = f' transform="rotate(-33 {_n(x)} {_n(y)})"' if turned else ""
        d.write(x, y, name, "start" if turned else "middle", more)
    for i, name in enumerate(rows):
        if named or i % 2 == 0:
            d.write(left - 6, top + tall * (i + 0.5), name, "end", "" if named else ' font-size="8"')
    squares: dict[str, list[str]] = {}
    numbers: dict[str, list[str]] = {}
    for cell in one.cells:
        x, y = left + wide * columns.index(cell.series), top + tall * rows.index(cell.row)
        squares.setdefault(cividis(cell.share), []).append(
            f"M{_n(x)} {_n(y)}h{_n(wide - 1)}v{tall - 1}h{_n(1 - wide)}z"
        )
        if named:
            words = f'<text x="{_n(x + wide / 2)}" y="{_n(y + 11.5)}">{cell.share:.2f}</text>'
            numbers.setdefault(ink_on(cell.share), []).append(words)
    for color, some in squares.items():
        d.add(f'<path d="{"".join(some)}" fill="{color}"/>')
    for color, some in numbers.items():
        d.add(f'<g fill="{color}" font-size="10" text-anchor="middle">{"".join(some)}</g>')
    return d.svg("picture")


def histogram(one: Histogram, looks: Mapping[str, Style]) -> str:
    """Draw the weights by score, what each sparsity keeps, and the thresholds (`charts.histograms`)."""
    (places, at), size, totals, height = one.places(), one.width, one.totals(), 200
    style = looks[one.series]
    kept = "; ".join(f"{cut.sparsity} pruned: {sum(cut.kept):,} kept" for cut in one.cuts)
    d = Drawing(WIDTH, height, f"Scores: {one.title}", f"{sum(totals):,} weights by |score|; {kept}")
    axes = Axes(d, 48, 34, WIDTH - 54, height - 34 - 32)
    axes.x_range, axes.y_range = (places[0] - size, places[-1] + 2 * size), (0.0, 1.05 * max(totals))
    axes.frame([], _named(ticks(*axes.y_range, 4)), "|score|", "weights")
    for x, exponent in at:
        power = "0" if exponent is None else f'10<tspan dy="-4" font-size="8">{str(exponent).replace("-", "−")}</tspan>'  # noqa: RUF001
        d.add(f'<text x="{_n(axes.x(x))}" y="{_n(axes.bottom + 14)}" text-anchor="middle" fill="{SOFT}">{power}</text>')

    def blocks(counts: Sequence[int], tops: Sequence[int], fill: str, more: str = "") -> None:
        path = "".join(
            f"M{_n(axes.x(x))} {_n(axes.y(top))}H{_n(axes.x(x + size))}V{_n(axes.y(top - count))}H{_n(axes.x(x))}z"
            for x, count, top in zip(places, counts, tops, strict=True)
            if count
        )
        d.add(f'<path d="{path}" fill="{fill}"{more}/>')

    blocks(one.pruned(), one.pruned(), SOFT, ' fill-opacity=".7"')
    for i, cut in enumerate(one.cuts):
        blocks(cut.kept, totals, style.paint, f' fill-opacity="{(i + 1) / len(one.cuts):.2g}"')
        last = i == len(one.cuts) - 1
        for threshold in cut.thresholds:
            axes.upright(threshold, "currentColor", 0.8, ' stroke-dasharray="3 2"')
        if cut.thresholds:
            x = axes.x(max(cut.thresholds)) + 3 if last else axes.x(min(cut.thresholds)) - 3
            y = axes.top + 5 + (0 if last else 11 * (len(one.cuts) - 2 - i))
            d.write(x, y, cut.sparsity, "start" if last else "end", ' font-size="9"')
    return d.svg("histogram")


def weight_masks(one: Masks) -> str:
    """Draw a policy's masks weight by weight: a column for each method, five side by side, rows are inputs with their names.

    Each mask is a picture of a bit a weight, cut out of the method's color (`networks.weight_masks`).
    """
    names = list(one.columns)
    shown = one.inputs if len(one.inputs) <= MOST_ROWS else []
    left = 10 + 5.6 * max([len(n) for n in shown] + [8])
    wide = (900 - left) / 5 - 8
    across = min(5, len(names))
    layers = next(iter(one.columns.values()))
    tall = [12.0 * len(shown) if layer.name == "layer_0" and shown else wide for layer in layers]
    block = 22 + sum(t + 24 for t in tall)
    about = f"A mark is a weight that is kept; rows are inputs, columns are units; layers {', '.join(x.name for x in layers)}"
    d = Drawing(left + across * (wide + 8), block * math.ceil(len(names) / across), f"Masks: {one.title}", about)
    for k, (name, read) in enumerate(one.columns.items()):
        x, y = left + (k % across) * (wide + 8), block * (k // across) + 22
        d.write(x + wide / 2, y - 11, name, "middle", ' font-weight="600"')
        for layer, high in zip(read, tall, strict=True):
            inputs, units = layer.kept.shape
            if k % across == 0 and high != wide:
                for i, words in enumerate(shown):
                    d.write(left - 6, y + high * (i + 0.5) / inputs, words, "end", ' font-size="10"')
            elif k % across == 0:
                d.write(left - 6, y + 6, "1", "end", FAINT)
                d.write(left - 6, y + high / 2, f"{layer.name}", "end")
                d.write(left - 6, y + high - 6, str(inputs), "end", FAINT)
            _cut_out(d, layer.kept, x, y, wide, high, style_of(name).paint)
            d.write(x + wide, y + high + 9, f"{units} units", "end", f' fill="{SOFT}" font-size="9"')
            y += high + 24
    return d.svg("masks")


def _cut_out(d: Drawing, kept: np.ndarray, x: float, y: float, wide: float, high: float, paint: str) -> None:
    png = _png(np.repeat(kept, max(1, round(high / kept.shape[0])), axis=0))
    name = f"m{zlib.crc32(png + f'{d.title} {x} {y}'.encode()):08x}"
    size = f'x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" height="{_n(high)}"'
    data = base64.b64encode(png).decode()
    d.add(
        f'<mask id="{name}"><image {size} preserveAspectRatio="none" href="data:image/png;base64,{data}"/></mask>'
        f'<rect {size} fill="{paint}" mask="url(#{name})"/><rect {size} fill="none" stroke="{SOFT}" stroke-width=".5"/>'
    )


def _png(kept: np.ndarray) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(kept.astype(np.uint8) * 255).convert("1").save(data, "PNG", optimize=True)
    return data.getvalue()


def graph(one: Graph) -> str:
    """Draw a policy's weights as lines between its units: wide where they are large, colored by their sign (`networks.graphs`)."""
    left = 12 + LETTER * max(map(len, one.inputs))
    right = 12 + LETTER * max(map(len, one.outputs))
    width, height = 420, min(max(3 * max(one.sizes), 13 * len(one.inputs), 120), 510)
    about = "observations at the left, hidden units, actions at the right; a line is a weight"
    d = Drawing(width, height + 24, f"Weights: {one.title}", about)
    places = [[(left + x * (width - left - right), y * height) for x, y in nodes] for nodes in positions(one)]
    largest = max((abs(e.weight) for e in one.edges), default=1.0)
    paths: dict[tuple[int, str], list[str]] = {}
    for e in one.edges:
        (x1, y1), (x2, y2) = places[e.layer][e.source], places[e.layer + 1][e.target]
        key = (min(int(5 * abs(e.weight) / largest), 4), (POSITIVE if e.weight > 0 else NEGATIVE).paint)
        paths.setdefault(key, []).append(f"M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}")
    for (size, paint), some in sorted(paths.items()):
        d.add(f'<path d="{"".join(some)}" stroke="{paint}" stroke-width="{0.5 + 0.45 * size:g}"/>')
    for k, nodes in enumerate(places):
        r = 3.5 if k in (0, len(places) - 1) else 1.6
        dots = "".join(f"M{_n(x - r)} {_n(y)}a{r},{r} 0 1 0 {2 * r},0a{r},{r} 0 1 0 {-2 * r},0" for x, y in nodes)
        d.add(f'<path d="{dots}"/>')
    read = {e.source for e in one.edges if e.layer == 0}
    for i, ((x, y), name) in enumerate(zip(places[0], one.inputs, strict=True)):
        d.write(x - 8, y, name, "end", "" if i in read else f' fill="{SOFT}" font-style="italic"')
    for (x, y), name in zip(places[-1], one.outputs, strict=True):
        d.write(x + 8, y, name)
    for x, style, name in ((left, POSITIVE, "positive weight"), (left + 130, NEGATIVE, "negative")):
        d.line(x, height + 14, x + 22, height + 14, style.paint, 2)
        d.write(x + 28, height + 14, name)
    return d.svg("graph")
