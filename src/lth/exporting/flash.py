"""`lth flash`: return versus flash size for the runs of a grid: dense agents, tickets by method and sparsity, and int8."""

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..experiment import store
from ..experiment.journal import is_finished
from ..experiment.plan import Plan, Row
from ..files import csv_bytes, write_whole
from . import c
from .c_tables import table_bytes
from .check import returns
from .compilers import cortex_m4_bytes
from .fold import fold, quantize
from .network import Network, run
from .subjects import of_run

CSV, FIGURE = "flash.csv", "flash.png"
DENSE = "dense"
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#888888", "#D55E00", "#56B4E9", "#000000")
_MARKERS = "os^Dv<>P"


class FlashRow(NamedTuple):
    """One run's policy as a C program."""

    task: str
    seed: int
    method: str
    """`dense`, or the method or control of a ticket."""
    sparsity: str
    weights: str
    """`float32` or `int8`."""
    bytes: int
    measured: str
    """`cortex-m4`: code and constants, compiled with -Os; `constants`: without a cross compiler."""
    multiply_adds: int
    not_needed: int
    """The number of observations that do not affect the actions."""
    episodes: int
    value: float
    """The mean return: for float32 of the run's last evaluation, for int8 of the same episodes with the rounded weights."""


def save(plan: Plan, episodes: int | None = None, told: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Write flash.csv and flash.png for the finished runs of a grid into its output directory; returns their paths.

    Args:
        plan: the plan of the grid.
        episodes: evaluation episodes for the rounded weights; None: as many as in the last evaluation.
        told: called with one line per run.

    Raises:
        InputError: no run is finished, or a file is damaged.
    """
    rows: list[FlashRow] = []
    seen = set()
    for row in plan.rows:
        for method, sparsity, spec in ((DENSE, "", row.dense), (_method(row), row.sparsity, row.run)):
            if spec not in seen and is_finished(plan.root, spec):
                seen.add(spec)
                rows += _rows(plan.root / spec.path, method, sparsity, episodes or spec.dense.evaluation.last_episodes)
                told(f"{spec.title()}: {rows[-2].bytes:,} bytes, int8 {rows[-1].bytes:,}")
    if not rows:
        raise InputError(
            f"no run of this config is finished in '{plan.root}'; run `lth run` with the same arguments first"
        )
    table, figure = plan.root / CSV, plan.root / FIGURE
    write_whole(table, csv_bytes((*FlashRow._fields[:-1], "return"), rows), checksum=False)
    write_whole(figure, picture(rows), checksum=False)
    return [table, figure]


def _method(row: Row) -> str:
    return " ".join(filter(None, (row.method, row.control))) or DENSE


def _rows(folder: Path, method: str, sparsity: str, episodes: int) -> list[FlashRow]:
    subject = of_run(folder)
    spec = store.dense_spec_of(folder)
    network = fold(subject.network, subject.interface.observation_low, subject.interface.observation_high)
    rounded = quantize(network)
    needed = len(network.reads) if network.layers[0].kernel.any() else 0
    driven = returns(subject, lambda x: run(rounded, x), episodes)
    assert driven is not None
    last = store.last_evaluation(folder)["evaluation/return"]
    found = []
    measures = (("float32", network, spec.evaluation.last_episodes, last), ("int8", rounded, episodes, driven.mean))
    for weights, policy, count, value in measures:
        size, measured = _bytes(policy, subject.observations, subject.actions)
        unneeded = network.observation_dim - needed
        found.append(
            FlashRow(
                spec.task,
                spec.seed,
                method,
                sparsity,
                weights,
                size,
                measured,
                policy.multiply_adds,
                unneeded,
                count,
                value,
            )
        )
    return found


def _bytes(network: Network, observations: Sequence[str], actions: Sequence[str]) -> tuple[int, str]:
    found = cortex_m4_bytes(c.emit(network, "", observations, actions))
    return (table_bytes(network), "constants") if found is None else (found, "cortex-m4")


def picture(rows: Sequence[FlashRow]) -> bytes:
    """Plot rows as a PNG: one panel per task, one line per method over its sparsities, int8 hollow; means over seeds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    tasks = list(dict.fromkeys(row.task for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(4.6 * len(tasks) + 1.4, 3.6), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for i, method in enumerate(methods):
            for weights in ("float32", "int8"):
                points = _means([r for r in rows if (r.task, r.method, r.weights) == (task, method, weights)])
                whole = weights == "float32"
                axes.plot(
                    [x for x, _ in points],
                    [y for _, y in points],
                    color=_COLORS[i % len(_COLORS)],
                    marker=_MARKERS[i % len(_MARKERS)],
                    markersize=5,
                    linewidth=1.2 if whole else 0.8,
                    linestyle="-" if whole else ":",
                    markerfacecolor=None if whole else "white",
                    label=method if whole else f"{method}, int8",
                )
        axes.set(xscale="log", xlabel=f"bytes of flash ({rows[0].measured})", ylabel="return", title=task)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    data = io.BytesIO()
    figure.savefig(data, dpi=150, format="png", metadata={"Software": None})
    return data.getvalue()


def _means(rows: Sequence[FlashRow]) -> list[tuple[float, float]]:
    by_sparsity: dict[str, list[FlashRow]] = {}
    for row in rows:
        by_sparsity.setdefault(row.sparsity, []).append(row)
    means = [(statistics.fmean(r.bytes for r in g), statistics.fmean(r.value for r in g)) for g in by_sparsity.values()]
    return sorted(means)
