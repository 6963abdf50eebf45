"""The plot of an experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import CONTROLS
from .tables import RunRow

PLOT_FILE = "returns.png"

# Okabe and Ito's palette, told apart without colour vision; controls are drawn hollow besides.
_STYLE = {
    "magnitude": ("#0072B2", "o"),
    "gradient": ("#E69F00", "s"),
    "taylor": ("#009E73", "D"),
    "random": ("#000000", "v"),
    "shuffled": ("#CC79A7", "^"),
}


def plot_returns(rows: Sequence[RunRow]) -> Any:
    """Draw each ticket's last return by sparsity and method, a panel a task, the dense agents' range as a band.

    Returns a matplotlib Figure; a dot is a seed, a dash the mean over seeds.
    """
    from matplotlib.figure import Figure

    # Tickets by sparsity; the controls, and further rewind points, are in the table.
    rows = [row for row in rows if not row.control and row.rewind == rows[0].rewind] or list(rows)
    tasks = list(dict.fromkeys(row.task for row in rows))
    sparsities = list(dict.fromkeys(row.sparsity for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(
        figsize=(1.8 + max(3.6, 0.55 * len(methods) * len(sparsities)) * len(tasks), 4.2), layout="constrained"
    )
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        dense = sorted({(row.seed, row.dense_return) for row in rows if row.task == task})
        values = [value for _, value in dense]
        mean = sum(values) / len(values)
        label = f"dense (range of {len(values)} seeds)" if len(values) > 1 else "dense (1 seed)"
        axis.axhspan(min(values), max(values), color="#56B4E9", alpha=0.25, lw=0)
        axis.axhline(mean, color="#56B4E9", lw=1.5, label=label)
        for i, sparsity in enumerate(sparsities):
            for j, method in enumerate(methods):
                x = i + (j - (len(methods) - 1) / 2) * 0.8 / len(methods)
                y = [r.ticket_return for r in rows if (r.task, r.sparsity, r.method) == (task, sparsity, method)]
                if not y:
                    continue
                color, marker = _STYLE.get(method, ("#D55E00", "P"))
                face = "none" if method in CONTROLS else color
                name = f"{method} (control)" if method in CONTROLS else method
                axis.plot([x - 0.05, x + 0.05], [sum(y) / len(y)] * 2, color=color, lw=2)
                axis.plot([x] * len(y), y, marker, mfc=face, mec=color, ms=6, label=name if i == 0 else None)
        axis.set_xticks(range(len(sparsities)), [_percent(s) for s in sparsities])
        axis.set_xlim(-0.6, len(sparsities) - 0.4)
        axis.set_xlabel("prunable weights pruned (dot: a seed, dash: mean)")
        axis.set_title(task)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("return at the last evaluation")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _percent(label: str) -> str:
    try:
        return f"{100 * float(label):g} %"
    except ValueError:
        return label


def save_plot(root: Path, rows: Sequence[RunRow]) -> Path:
    """Write `returns.png`."""
    import io

    from ..files import write_whole

    data = io.BytesIO()
    plot_returns(rows).savefig(data, format="png", dpi=150, metadata={"Software": None})
    write_whole(root / PLOT_FILE, data.getvalue(), checksum=False)
    return root / PLOT_FILE
