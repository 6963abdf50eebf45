"""The report's charts as matplotlib figures for papers: as wide as a column, each seed a dot, n in the legend, text as text.

runs = Runs(read_tidy(Path("results/quickstart/tidy.csv")))
save(against_sparsity(runs, methods=["taylor", "random"], width="column"), "sparsity.pdf")

Arguments that figures share:

    runs        of all conditions
    methods     which of them: `taylor`, `random`, `small-dense`, or a label of the table such as `taylor + reinit`; None: all.
                Dense agents are always shown
    sparsities  which of them: as in the config (0.95, or the label of one by network); None: all
    metric      `return` or `success`; None: what there is, in separate rows
    width       of the figure: `column` (3.25 in, of ICML), `text` (5.5 in, of NeurIPS and ICLR), `page` (6.75 in, both columns of
                ICML), or a number of inches

They raise InputError where there are no such runs, metrics or widths, and name those that there are.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest
from ..experiment.tidy import DENSE, TidyRow
from ..files import write_whole
from . import charts, numbers, panels
from .charts import Bars, Chart, Picture
from .networks import Graph, Masks
from .scores import Runs
from .styles import style_of, styles
from .views import RETURN, SUCCESS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..exporting.flash import FlashRow

PLOT_FILE, FLASH_FILE = "returns.png", "flash.png"
WIDTHS = {"column": 3.25, "text": 5.5, "page": 6.75}
FORMATS = ("pdf", "svg", "png")
PAPER = {
    "font.family": ["STIXGeneral"],  # Times, which matplotlib brings along
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": panels.GRID,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "pdf.fonttype": 42,  # TrueType, which venues ask for; matplotlib's default is Type 3
    "svg.fonttype": "none",
    "svg.hashsalt": "lth",
}
METRICS = {"return": RETURN, "success": SUCCESS}
Names = Sequence[str] | None
Levels = Sequence[float | str] | None
Panel = tuple[str, Callable[["Axes"], None]]
"""A title, and what draws the panel on an axis."""


def save(figure: "Figure", path: str | Path, dpi: int = 300) -> Path:
    """Write a figure as PDF, SVG or PNG, by the suffix of the path; the same figure gives the same bytes.

    Text is text: TrueType in PDF (no Type 3, which venues refuse), characters in SVG.

    Args:
        figure: any of matplotlib.
        path: ends in .pdf, .svg or .png; folders are made.
        dpi: pixels an inch, of PNG and of pictures within the others.

    Raises:
        InputError: the suffix is another, or the folder cannot be written.
    """
    import matplotlib

    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InputError(f"cannot write a figure as {path.name!r}; the path has to end in .{', .'.join(FORMATS)}")
    data = io.BytesIO()
    unset = {"pdf": ("CreationDate", "Creator", "Producer"), "svg": ("Date", "Creator"), "png": ("Software",)}[kind]
    with matplotlib.rc_context(PAPER):  # type: ignore[arg-type]
        figure.savefig(data, format=kind, dpi=dpi, metadata=dict.fromkeys(unset))
    content = data.getvalue()
    write_whole(path, _with_numbered_clips(content) if kind == "svg" else content, checksum=False)
    return path


def _with_numbered_clips(svg: bytes) -> bytes:
    """Name the clips of an SVG file by number: their names are hashes of places, whose last bits the layout leaves to chance."""
    names: dict[bytes, bytes] = {}
    pattern = rb'(?<=<clipPath id=")\w+(?=")|(?<=clip-path="url\(#)\w+(?=\)")'
    return re.sub(pattern, lambda found: names.setdefault(found[0], b"clip%d" % (len(names) + 1)), svg)


def learning_curves(
    runs: Runs,
    *,
    methods: Names = None,
    metric: str | None = None,
    sparsities: Levels = None,
    width: str | float = "text",
) -> "Figure":
    """Draw the IQM of returns by environment step, then success; a panel for each level.

    95 % bands are drawn of dense agents, and of all where three series or fewer are shown: more bands are one grey.

    Args:
        runs: the runs of a tidy table.
        methods: methods or labels to draw; None: all. Dense agents are always drawn.
        metric: `return` or `success`; None: both where there are both.
        sparsities: sparsities as in the config; None: all.
        width: `column` (3.25 in), `text` (5.5 in), `page` (6.75 in), or inches.

    Returns:
        A `matplotlib.figure.Figure`, which `save` writes.

    >>> learning_curves(runs, metric="success")  # doctest: +SKIP
    """
    runs = select(runs, methods, sparsities)
    return _curves(runs, _with_metric(charts.curves(runs), metric), inches(width))


def training(
    runs: Runs,
    *,
    methods: Names = None,
    metric: str | None = None,
    sparsities: Levels = None,
    width: str | float = "text",
) -> "Figure":
    """Draw losses, Q values and what else was measured while the agents learned, at the evaluations.

    `metric` is one of the algorithm's, of SAC `critic_loss`, `actor_loss`, `alpha`, `entropy` or `q_mean`.
    """
    runs = select(runs, methods, sparsities)
    wanted = f"train/{metric.removeprefix('train/')}" if metric else None
    return _curves(runs, _with_metric(charts.training(runs), wanted), inches(width))


def against_sparsity(
    runs: Runs,
    *,
    methods: Names = None,
    metric: str | None = None,
    sparsities: Levels = None,
    width: str | float = "text",
) -> "Figure":
    """Draw each run as a dot by sparsity, with the mean, its 95 % interval, and the dense agents' mean as a line.

    A row of panels for each metric, a panel for each task (and rewind point); over all tasks the score.

    Args:
        runs: the runs of a tidy table.
        methods: methods or labels to draw; None: all. Dense agents are always drawn.
        metric: `return` or `success`; None: both where there are both.
        sparsities: sparsities as in the config; None: all.
        width: `column` (3.25 in), `text` (5.5 in), `page` (6.75 in), or inches.

    Returns:
        A `matplotlib.figure.Figure`, which `save` writes.

    >>> against_sparsity(runs, methods=["taylor", "random"], width="column")  # doctest: +SKIP
    """
    runs, wide = select(runs, methods, sparsities), inches(width)
    rows: dict[str, list[Panel]] = {}
    for chart in _with_metric(charts.against_sparsity(runs), metric):
        rows.setdefault(chart.metric, []).append(_panel(panels.sparsity, chart, runs))
    note = "dots: runs; bars: means, 95 % intervals"
    return _figure(runs, list(rows.values()), wide, max(1, int(wide / 2.2)), 1.7, note)


def profiles(runs: Runs, *, methods: Names = None, sparsities: Levels = None, width: str | float = "text") -> "Figure":
    """Draw the performance profiles, a panel for each level.

    Args:
        runs: the runs of a tidy table.
        methods: methods or labels to draw; None: all. Dense agents are always drawn.
        sparsities: sparsities as in the config; None: all.
        width: `column` (3.25 in), `text` (5.5 in), `page` (6.75 in), or inches.

    Returns:
        A `matplotlib.figure.Figure`, which `save` writes.

    >>> profiles(runs, sparsities=[0.95])  # doctest: +SKIP
    """
    runs, wide = select(runs, methods, sparsities), inches(width)
    drawn = [_panel(panels.curve, chart, runs) for chart in charts.profiles(runs)]
    return _figure(runs, [drawn], wide, _across(wide), 1.35)


def intervals(runs: Runs, *, methods: Names = None, sparsities: Levels = None, width: str | float = "text") -> "Figure":
    """Draw the aggregates of the scores with their 95 % intervals: a row of panels for each level."""
    runs = select(runs, methods, sparsities)
    return _bars(runs, charts.intervals(runs), inches(width))


def improvement(
    runs: Runs, *, methods: Names = None, sparsities: Levels = None, width: str | float = "text"
) -> "Figure":
    """Draw the probability that a run of one condition beats one of another, with 95 % intervals: a panel for each level."""
    runs = select(runs, methods, sparsities)
    return _bars(runs, charts.improvement(runs), inches(width))


def overlap(runs: Runs, *, methods: Names = None, sparsities: Levels = None, width: str | float = "text") -> "Figure":
    """Draw what the masks of methods have in common, chance in brackets: a row for each network, a heat map for each level."""
    runs, wide = select(runs, methods, sparsities), inches(width)
    rows: dict[str, list[Panel]] = {}
    names = {c.method or c.control for c in runs.conditions}
    for one in charts.overlap(runs):
        cells = [cell for cell in one.cells if {cell.row, cell.column} <= names]
        rows.setdefault(one.network, []).append((one.title, partial(panels.heat, one=one._replace(cells=cells))))
    note = "Jaccard index of two masks of a seed (by chance); diagonal: of two seeds"
    return _figure(None, list(rows.values()), wide, max(1, round(wide / 2.2)), 1.5, below=note, share=True)


def score_histograms(
    runs: Runs, *, methods: Names = None, sparsities: Levels = None, width: str | float = "text"
) -> "Figure":
    """Draw how the scores of each method are distributed, what is kept at each sparsity, and where the masks cut."""
    runs, wide = select(runs, methods, sparsities), inches(width)
    rows: dict[tuple[str, str], list[Panel]] = {}
    for one in charts.histograms(runs):
        task = one.title.partition(", ")[0]
        draw = partial(panels.histogram, one=one, looks=styles(runs))
        rows.setdefault((task, one.network), []).append((f"{task}, {one.series}", draw))
    return _figure(None, list(rows.values()), wide, _across(wide), 1.1)


def masks(runs: Runs, *, methods: Names = None, sparsities: Levels = None, width: str | float = "text") -> "Figure":
    """Draw what the masks kept of each layer and of each observation's weights; a panel for each level.

    Args:
        runs: the runs of a tidy table.
        methods: methods or labels to draw; None: all. Dense agents are always drawn.
        sparsities: sparsities as in the config; None: all.
        width: `column` (3.25 in), `text` (5.5 in), `page` (6.75 in), or inches.

    Returns:
        A `matplotlib.figure.Figure`, which `save` writes.

    >>> masks(runs)  # doctest: +SKIP
    """
    runs, wide = select(runs, methods, sparsities), inches(width)
    groups: dict[tuple[str, ...], list[Picture]] = {}
    for one in charts.pictures(runs):
        groups.setdefault((one.row, *one.rows()), []).append(one)
    rows: list[list[Panel]] = []
    heights = []
    for (_, *names), group in groups.items():
        room = wide - 0.3 - 0.055 * max(map(len, names))  # beside the names
        series = max(len(one.columns()) for one in group)
        across = max(1, min(len(group), int(room / (0.085 * series + 0.06))))
        tall = max(0.55, 0.115 * min(len(names), charts.MOST_ROWS)) + 0.1
        for i in range(0, len(group), across):
            part = group[i : i + across]
            cell = (room / len(part) - 0.06) / series
            drawn: list[Panel] = []
            for one in part:
                what, _, title = one.title.partition(": ")
                draw = partial(panels.picture, picture=one, rows=names, what=what.lower(), cell=cell)
                drawn.append((title if cell * series > 0.8 else title.replace(" pruned", ""), draw))
            rows.append(drawn)
            heights.append(tall)
    return _figure(None, rows, wide, max(map(len, rows), default=1), heights, share=True)


def weight_masks(found: Masks, width: str | float = "page") -> "Figure":
    """Draw a policy's masks weight by weight (`networks.weight_masks`): a column for each method, a row for each layer."""
    wide, names = inches(width), list(found.columns)
    rows: list[list[Panel]] = []
    heights = []
    for k, layer in enumerate(found.columns[names[0]]):
        labels = found.inputs if layer.name == "layer_0" and len(found.inputs) <= charts.MOST_ROWS else []
        rows.append(
            [
                (name if k == 0 else "", partial(panels.weights, layer=read[k], look=style_of(name), labels=labels))
                for name, read in found.columns.items()
            ]
        )
        heights.append(max(0.4, 0.105 * len(labels)) if labels else 0.85 * wide / (len(names) + 1))
    return _figure(None, rows, wide, len(names), heights, title=found.title, share=True)


def graph(found: Graph, width: str | float = "text") -> "Figure":
    """Draw a policy's weights as a layered graph (`networks.graphs`): observations at the left, actions at the right."""
    tall = min(max(0.035 * max(found.sizes), 0.115 * len(found.inputs), 1.2), 7.5)
    return _figure(None, [[(found.title, partial(panels.graph, found=found))]], inches(width), 1, tall)


def against_bytes(
    runs: Runs, sizes: Sequence[charts.Size], *, methods: Names = None, width: str | float = "text"
) -> "Figure":
    """Draw return against the bytes of an exported policy (`networks.sizes`), a panel for each task; small markers are runs."""
    runs, wide = select(runs, methods), inches(width)
    labels = {c.label for c in runs.conditions}
    found = charts.against_bytes(runs, [size for size in sizes if size.condition.label in labels])
    drawn = [_panel(panels.sizes, chart, runs) for chart in found]
    return _figure(runs, [drawn], wide, max(1, int(wide / 2.2)), 1.7, "small: runs; large: means")


def flash(rows: "Sequence[FlashRow]", width: str | float = "text") -> "Figure":
    """Draw return against the flash that `lth flash` measured, a panel for each task and kind of weights."""
    wide = inches(width)
    looks = {row.method: style_of(row.method) for row in rows}
    seeds = {row.seed for row in rows}
    drawn: list[list[Panel]] = []
    for task in dict.fromkeys(row.task for row in rows):
        drawn.append([])
        for weights in dict.fromkeys(row.weights for row in rows):
            groups: dict[tuple[str, str], list[FlashRow]] = {}
            for row in rows:
                if (row.task, row.weights) == (task, weights):
                    groups.setdefault((row.method, row.sparsity), []).append(row)
            means = [
                charts.Point(
                    name, fmean(r.bytes for r in some), fmean(r.value for r in some), math.nan, math.nan, len(some)
                )
                for (name, _), some in groups.items()
            ]
            dots = tuple(
                charts.Dot(name, r.bytes, r.value, task, r.seed) for (name, _), some in groups.items() for r in some
            )
            what = f"bytes of flash ({rows[0].measured})"
            chart = Chart("bytes", task, what, "return (mean)", means, metric=RETURN, dots=dots)
            drawn[-1].append((f"{task}, {weights}", partial(panels.sizes, chart=chart, looks=looks)))
    note = f"n = {numbers.seeds(len(seeds))}; small: runs; large: means"
    return _figure(None, drawn, wide, max(1, int(wide / 2.2)), 1.7, note)


def save_flash(root: Path, rows: "Sequence[FlashRow]") -> Path:
    """Write `flash.png`."""
    return save(flash(rows), root / FLASH_FILE, dpi=150)


def save_plot(root: Path, runs: Runs) -> list[Path]:
    """Write `returns.png`: return against sparsity; nothing where nothing is pruned, as by the control retrained alone."""
    return [save(against_sparsity(runs), root / PLOT_FILE, dpi=150)] if runs.levels() else []


# --- what is shown ---------------------------------------------------------------------------------------------------


def select(runs: Runs, methods: Names = None, sparsities: Levels = None) -> Runs:
    """Return the part of the runs that a figure is to show.

    Raises:
        InputError: there are no such runs, naming those that there are.
    """
    if methods is None and sparsities is None:
        return runs
    labels = list(dict.fromkeys(c.label for c in runs.conditions))
    short = {c.method: c.label for c in runs.conditions if not c.control}
    levels = list(dict.fromkeys(c.sparsity for c in runs.conditions if c.sparsity))
    shown = set(labels) if methods is None else {DENSE, *(short.get(m, m) for m in methods)}
    kept = set(levels) if sparsities is None else {_level(str(s), levels) for s in sparsities}
    if unknown := sorted(shown - set(labels)):
        raise InputError(f"no runs of {unknown[0]!r}; there are {', '.join(labels)}{nearest(unknown[0], labels)}")

    def rows() -> Iterator[TidyRow]:
        for (task, c, metric), seeds in runs.values.items():
            # Rows without a condition, such as those of masks and references, stay.
            if (c.label in shown or c.label not in labels) and (c.sparsity in kept or c.sparsity not in levels):
                for seed, steps in seeds.items():
                    about = (task, seed, c.method, c.control, c.sparsity, c.rewind, "")
                    yield from (TidyRow(*about, step, metric, value) for step, value in steps.items())

    return Runs(rows())


def _level(wanted: str, levels: Sequence[str]) -> str:
    for level in levels:
        if level == wanted or _number(level) == _number(wanted) is not None:
            return level
    raise InputError(f"no runs with the sparsity {wanted}; there are {', '.join(levels)}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _with_metric(found: Sequence[Chart], metric: str | None) -> list[Chart]:
    wanted = METRICS.get(metric or "", metric)
    shown = [chart for chart in found if metric is None or chart.metric == wanted]
    if metric and not shown:
        known = dict.fromkeys(c.metric.partition("/")[2] for c in found)
        raise InputError(f"no runs have the metric {metric!r}; there is {', '.join(known) or 'none'}")
    return shown


def inches(width: str | float) -> float:
    """Return a width in inches.

    Raises:
        InputError: it is neither a name of `WIDTHS` nor a number from 1 to 40.
    """
    if isinstance(width, str) and width in WIDTHS:
        return WIDTHS[width]
    if isinstance(width, int | float) and 1 <= width <= 40:
        return float(width)
    raise InputError(f"unknown width {width!r}; give inches, from 1 to 40, or one of {', '.join(WIDTHS)}")


# --- layout ----------------------------------------------------------------------------------------------------------


def _panel(draw: Callable[..., None], chart: Chart, runs: Runs) -> Panel:
    return chart.title, partial(draw, chart=chart, looks=styles(runs))


def _across(wide: float) -> int:
    return max(1, round(wide / 1.75))


def _curves(runs: Runs, found: Sequence[Chart], wide: float) -> "Figure":
    rows: dict[tuple[str, str], list[Panel]] = {}
    for chart in found:
        row = (chart.title.partition(", ")[0], chart.y)
        rows.setdefault(row, []).append(_panel(panels.curve, chart, runs))
    drawn, longest = list(rows.values()), max(map(len, rows.values()), default=1)
    beside = _across(wide) // longest
    if beside:  # short rows side by side
        drawn = [[panel for row in drawn[i : i + beside] for panel in row] for i in range(0, len(drawn), beside)]
    return _figure(runs, drawn, wide, longest * beside or _across(wide), 1.35)


def _bars(runs: Runs, found: Sequence[Bars], wide: float) -> "Figure":
    rows: dict[tuple[Any, ...], list[Panel]] = {}
    spans: dict[str, tuple[float, float]] = {}
    for name in dict.fromkeys(bar.panel for one in found for bar in one.bars):
        ends = [
            end for one in found for b in one.bars for end in (b.low, b.value, b.high) if b.panel == name and end == end
        ]
        margin = 0.05 * (max(ends) - min(ends) or 1.0)
        spans[name] = (min(ends) - margin, max(ends) + margin) if found[0].reference is None else (-0.04, 1.04)
    for one in found:
        by_panel = one.by_panel()
        for name, shown in by_panel.items():
            draw = partial(panels.bars, shown=shown, span=spans[name], reference=one.reference, looks=styles(runs))
            # Panels of one statistic share their rows' names where these are the same; else those of one level do.
            key = (one.title,) if len(by_panel) > 1 else tuple(bar.row for bar in shown)
            rows.setdefault(key, []).append((f"{one.title}, {name}", draw))
    drawn = list(rows.values())
    labels = 0.055 * max((len(bar.row) for one in found for bar in one.bars), default=0)
    across = max(1, int((wide - labels) / 0.8))
    heights = [0.15 * max(len(panel[1].keywords["shown"]) for panel in row) + 0.1 for row in drawn]  # type: ignore[attr-defined]
    _, note = seeds_shown(runs, list(styles(runs)))
    return _figure(None, drawn, wide, across, heights, below=f"{note}; bars: 95 % intervals", share=True)


def _figure(
    runs: Runs | None,
    rows: Sequence[Sequence[Panel]],
    wide: float,
    columns: int,
    height: float | Sequence[float],
    note: str = "",
    title: str = "",
    below: str = "",
    share: bool = False,
) -> "Figure":
    """Lay panels out in rows; a row that is longer than `columns` goes on below.

    Args:
        runs: of a legend below the panels, which says how many there are.
        rows: of panels. What all their titles say is said once, above the figure.
        wide: the figure's width, in inches.
        columns: how many panels a row has at most.
        height: of the panels of each row, in inches, without titles and ticks.
        note: what the legend says besides. Without `runs` and a note there is no legend.
        title: of the figure, instead of what all panels' titles say.
        below: a line under the panels.
        share: the panels of a row have the same names on their y axes, which are written once.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not any(rows):
        raise InputError(
            "these runs have nothing to draw here: no ticket, mask or measurement of this kind is in the table"
        )
    heights = [height] * len(rows) if isinstance(height, float | int) else list(height)
    columns = min(columns, max(len(row) for row in rows))
    lines = [
        (row[i : i + columns], h) for row, h in zip(rows, heights, strict=True) for i in range(0, len(row), columns)
    ]
    parts = [name.split(", ") for row in rows for name, _ in row]
    common = [part for part in parts[0] if all(part in other for other in parts)] if not title else []
    with matplotlib.rc_context(PAPER):  # type: ignore[arg-type]
        room = 0.3  # inches of ticks and titles
        figure = Figure(figsize=(wide, sum(h + room for _, h in lines)), layout="constrained")
        axes = figure.subplots(len(lines), columns, squeeze=False, height_ratios=[h for _, h in lines])
        for places, (drawn, _) in zip(axes, lines, strict=True):
            before = None
            for axis, (name, draw) in zip(places, drawn, strict=False):
                draw(axis)
                own = ", ".join(part for part in name.split(", ") if part not in common)
                axis.set_title(_wrapped(own, int(wide / columns * 15)), linespacing=0.9)
                if share and axis is not places[0]:
                    axis.tick_params(labelleft=False)
                label = axis.get_ylabel()
                if label == before:
                    axis.set_ylabel("")
                before = label
            for axis in places[len(drawn) :]:
                axis.set_visible(False)
        figure.align_ylabels()
        more = max(_clear_repeated(list(axes[:, i])) for i in range(columns))
        if title or common:
            figure.suptitle(title or ", ".join(common), fontsize=8)
            more += 0.15
        if below:
            figure.supxlabel(below, fontsize=8)
            more += 0.17
        if runs is not None or note:
            more += 0.17 * _legend(figure, runs, wide, note)
        figure.set_figheight(figure.get_figheight() + more)
    return figure


def _clear_repeated(column: Sequence[Any]) -> float:
    """Remove a label of an x axis that the panel below repeats, and ticks' names too; returns the inches that the others take."""
    inches = 0.0
    shown = [axis for axis in column if axis.get_visible()]
    for axis, lower in zip(shown, [*shown[1:], None], strict=True):
        names = [tick.get_text() for tick in axis.get_xticklabels()]
        if lower and axis.get_xlabel() == lower.get_xlabel():
            axis.set_xlabel("")
        turned = max(
            (len(n) for n, t in zip(names, axis.get_xticklabels(), strict=True) if t.get_rotation()), default=0
        )
        inches += 0.035 * turned + 0.17 * bool(axis.get_xlabel())
    return inches


def _wrapped(name: str, width: int) -> str:
    """Break a title at its commas so that it fits."""
    lines = [""]
    for part in name.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= width or not lines[-1] else [*lines, part]
    return ",\n".join(lines)


def _legend(figure: "Figure", runs: Runs | None, wide: float, note: str) -> int:
    """Put a legend below the panels, with the number of seeds; returns how many lines it takes."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        handles |= {name: handle for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    names, seeds = seeds_shown(runs, list(handles)) if runs else (list(handles), "")
    across = max(1, min(len(names), int(wide / (0.062 * max(map(len, names)) + 0.5))))
    figure.legend(
        list(handles.values()),
        names,
        loc="outside lower center",
        ncols=across,
        title="; ".join(filter(None, (seeds, note))),
        columnspacing=1.2,
        handletextpad=0.5,
        labelspacing=0.3,
    )
    return math.ceil(len(names) / across) + 1


def seeds_shown(runs: Runs, labels: Sequence[str]) -> tuple[list[str], str]:
    """Return the labels, with n where it differs from what most have, and what most have: `n = 11 seeds`."""
    counts: dict[str, set[int]] = {name: set() for name in labels}
    for task, c, metric in runs.values:
        if metric == RETURN and c.label in counts:
            counts[c.label].add(len(runs.last(task, c)))
    every = [n for some in counts.values() for n in some]
    if not every:
        return list(labels), ""
    most = max(sorted(set(every)), key=every.count)
    named = [
        f"{name} (n = {' to '.join(map(str, sorted({min(n), max(n)})))})" if n and n != {most} else name
        for name, n in counts.items()
    ]
    return named, f"n = {numbers.seeds(most)}"
