"""The report's charts as matplotlib figures in a paper's style; and how a series looks, here and on the page.

runs = Runs(read_tidy(Path("results/quickstart/tidy.csv")))
against_sparsity(runs).savefig("sparsity.pdf")
"""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..experiment.tidy import DENSE
from ..files import write_whole
from . import charts
from .charts import Chart, Picture, Point
from .scores import Runs

PLOT_FILE = "returns.png"
PAPER = {
    "font.family": "serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "lth",
}


class Style(NamedTuple):
    """How a series is drawn. Colour is never alone: markers and dashes differ too, and controls are hollow."""

    color: str
    marker: str  # matplotlib's name
    symbol: str  # Observable Plot's
    dash: tuple[int, ...]  # on, off, ... in points; empty: a whole line
    hollow: bool


# Okabe and Ito's palette, told apart without colour vision.
_COLORS = {
    DENSE: "#56B4E9",
    "magnitude": "#0072B2",
    "gradient": "#E69F00",
    "taylor": "#009E73",
    "random": "#888888",
    "shuffled": "#CC79A7",
    "retrained": "#56B4E9",
    "random-erk": "#888888",
    "small-dense": "#D55E00",
}
_MARKERS = (
    ("o", "circle", ()),
    ("s", "square", (6, 2)),
    ("D", "diamond", (2, 2)),
    ("^", "triangle", (6, 2, 2, 2)),
    ("*", "star", (8, 3)),
    ("P", "cross", (1, 2)),
    ("v", "triangle2", (4, 2, 1, 2)),
    ("X", "times", (3, 1)),
    ("d", "diamond2", (5, 1, 1, 1)),
    ("p", "wye", (2, 4)),
    ("h", "square2", (9, 2, 2, 2)),
    ("8", "asterisk", (1, 4)),
)


def styles(runs: Runs) -> dict[str, Style]:
    """Return the look of each series by its label, in the order in which they are listed."""
    found: dict[str, Style] = {}
    for condition in runs.conditions:
        color = _COLORS.get(condition.method or condition.control, "#D55E00")
        marker, symbol, dash = _MARKERS[len(found) % len(_MARKERS)]
        hollow = condition.method != DENSE and not condition.is_ticket
        found.setdefault(condition.label, Style(color, marker, symbol, dash, hollow))
    return found


def learning_curves(runs: Runs) -> Any:
    """Draw the IQM of returns by environment step with 95 % bands, a panel for each task and level.

    >>> learning_curves(runs).savefig("curves.pdf")  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.

    Returns:
        A matplotlib figure.
    """
    return _panels(runs, charts.curves(runs), _curve)


def against_sparsity(runs: Runs) -> Any:
    """Draw the IQM of the last returns by sparsity with 95 % intervals and the dense agents' band, a panel for each task.

    >>> against_sparsity(runs).savefig("sparsity.pdf")  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.

    Returns:
        A matplotlib figure.
    """
    return _panels(runs, charts.against_sparsity(runs), _sparsity)


def profiles(runs: Runs) -> Any:
    """Draw the performance profiles, a panel for each level.

    >>> profiles(runs).savefig("profiles.pdf")  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.

    Returns:
        A matplotlib figure.
    """
    return _panels(runs, charts.profiles(runs), _curve)


def masks(runs: Runs) -> Any:
    """Draw what the masks kept of each layer and of each observation's weights, a panel for each picture.

    >>> masks(runs).savefig("masks.pdf")  # doctest: +SKIP

    Args:
        runs: the tidy rows of finished runs, `Runs(read_tidy(path))`.

    Returns:
        A matplotlib figure.

    Raises:
        ValueError: the runs have no masks.
    """
    found = charts.pictures(runs)
    if not found:
        raise ValueError("these runs have no masks")
    return _panels(runs, found, _picture, wide=max(len({c.series for c in p.cells}) for p in found) > 6)


def _panels(runs: Runs, shown: Sequence[Any], draw: Callable[..., None], wide: bool = False) -> Any:
    import matplotlib
    from matplotlib.figure import Figure

    columns = max(1, min(len(shown), 2 if wide else 3))
    rows = max(1, math.ceil(len(shown) / columns))
    looks = styles(runs)
    with matplotlib.rc_context(PAPER):  # type: ignore[arg-type]
        width = (3.4 if wide else 2.8) * columns + 0.6
        figure = Figure(figsize=(width + 1.2 * (columns == 1), 2.4 * rows + 0.5), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, chart in zip(axes, shown, strict=False):
            draw(axis, chart, looks)
            axis.set_title(chart.title, fontsize=7)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        handles: dict[str, Any] = {}
        for axis in figure.axes:
            handles |= {name: handle for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
        if handles:
            place: Any = "outside right upper" if columns == 1 else "outside lower center"
            across = 1 if columns == 1 else int(width / 1.4)
            figure.legend(list(handles.values()), list(handles), loc=place, ncols=across)
    return figure


def _series(chart: Chart) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in chart.points:
        found.setdefault(point.series, []).append(point)
    return found


def _look(style: Style) -> dict[str, Any]:
    face = "none" if style.hollow else style.color
    return {
        "color": style.color,
        "marker": style.marker,
        "mfc": face,
        "linestyle": (0, style.dash) if style.dash else "-",
    }


def _curve(axis: Any, chart: Chart, looks: dict[str, Style]) -> None:
    step = chart.kind == "profile"
    for name, points in _series(chart).items():
        x, y, low, high = (
            [p.x for p in points],
            [p.y for p in points],
            [p.low for p in points],
            [p.high for p in points],
        )
        look = _look(looks[name]) | {"marker": "" if step else looks[name].marker}
        axis.fill_between(x, low, high, color=looks[name].color, alpha=0.15, lw=0, step="post" if step else None)
        axis.plot(
            x, y, label=name, markevery=max(1, len(x) // 6), drawstyle="steps-post" if step else "default", **look
        )
    axis.set_xlabel(chart.x)
    axis.set_ylabel(chart.y)


def _sparsity(axis: Any, chart: Chart, looks: dict[str, Style]) -> None:
    found = _series(chart)
    for j, (name, points) in enumerate(found.items()):
        color = looks[name].color
        if name == DENSE:
            ends = [-0.5, *[p.x for p in points], len(chart.ticks) - 0.5]
            axis.fill_between(ends, points[0].low, points[0].high, color=color, alpha=0.25, lw=0)
            axis.plot(ends, [points[0].y] * len(ends), color=color, label=name)
            continue
        x = [p.x + dodge(j, len(found)) for p in points]
        axis.vlines(x, [p.low for p in points], [p.high for p in points], color=color, lw=1)
        axis.plot(x, [p.y for p in points], label=name, **_look(looks[name]))
    axis.set_xticks(range(len(chart.ticks)), chart.ticks)
    axis.set_xlim(-0.5, len(chart.ticks) - 0.5)
    axis.set_xlabel(chart.x)
    axis.set_ylabel(chart.y)


def dodge(place: int, of: int) -> float:
    """Return how far a series stands beside its tick, so that none hides another."""
    return (place - (of - 1) / 2) * 0.5 / max(of, 1)


def _picture(axis: Any, picture: Picture, looks: dict[str, Style]) -> None:
    del looks
    columns = list(dict.fromkeys(c.series for c in picture.cells))
    rows = list(dict.fromkeys(c.row for c in picture.cells))
    shares = [[math.nan] * len(columns) for _ in rows]
    for cell in picture.cells:
        shares[rows.index(cell.row)][columns.index(cell.series)] = cell.share
    axis.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axis.set_yticks(range(len(rows)), rows, fontsize=min(7, 160 / len(rows)))
    axis.grid(False)
    if len(rows) <= 12:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share == share:
                    axis.text(j, i, f"{share:.2f}", ha="center", va="center", fontsize=6, color="kw"[share < 0.5])


def save_plot(root: Path, runs: Runs) -> Path:
    """Write `returns.png`: return against sparsity."""
    data = io.BytesIO()
    against_sparsity(runs).savefig(data, format="png", dpi=150, metadata={"Software": None})
    write_whole(root / PLOT_FILE, data.getvalue(), checksum=False)
    return root / PLOT_FILE
