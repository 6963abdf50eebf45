"""What came out, as rows."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import CONTROLS, Config
from ..experiment import store
from ..experiment.spec import rows as grid_rows
from ..experiment.spec import run_path
from ..files import write_whole

TABLE_FILE = "table.csv"
RUNS_FILE = "runs.csv"


def label(method: str, control: str) -> str:
    """Name what was done, for people: `taylor`, `random (control)`, `taylor + reinit`, `random-erk`."""
    return f"{method} (control)" if method in CONTROLS else " + ".join(filter(None, (method, control)))


class RunRow(NamedTuple):
    """One ticket or control beside the dense agent of the same task and seed, at their last evaluations.

    `method` is empty where a control serves all methods, `control` for a ticket, `sparsity` where nothing is pruned;
    `rewind` is the environment step that weights were put back to, or `none`.
    """

    task: str
    seed: int
    method: str
    control: str
    sparsity: str
    rewind: str
    dense_return: float
    ticket_return: float
    dense_success: float | None
    ticket_success: float | None
    dense_run: str
    ticket_run: str


class TableRow(NamedTuple):
    """One method and sparsity on one task: mean and sample standard deviation over seeds (none for one seed)."""

    task: str
    method: str
    control: str
    sparsity: str
    rewind: str
    seeds: int
    dense_return: float
    dense_return_sd: float | None
    ticket_return: float
    ticket_return_sd: float | None
    dense_success: float | None
    dense_success_sd: float | None
    ticket_success: float | None
    ticket_success_sd: float | None


def run_rows(config: Config) -> list[RunRow]:
    """Collect a config's finished tickets. The last evaluation is what counts, never the best."""
    rows = []
    root = config.output_dir
    for row in grid_rows(config):
        if not (store.is_finished(root, row.run) and store.is_finished(root, row.dense)):
            continue
        dense = store.last_evaluation(store.directory(root, row.dense))
        ticket = store.last_evaluation(store.directory(root, row.run))
        rows.append(
            RunRow(
                row.dense.task,
                row.dense.seed,
                row.method,
                row.control,
                row.sparsity,
                row.rewind,
                dense["evaluation/return"],
                ticket["evaluation/return"],
                dense.get("evaluation/success"),
                ticket.get("evaluation/success"),
                str(run_path(row.dense)),
                str(run_path(row.run)),
            )
        )
    return rows


def summarize(rows: Iterable[RunRow]) -> list[TableRow]:
    """Average over seeds, in the order in which the rows come."""
    groups: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.rewind, row.sparsity, row.method, row.control), []).append(row)
    return [
        TableRow(
            task,
            method,
            control,
            sparsity,
            rewind,
            len(group),
            *_mean_sd([row.dense_return for row in group]),  # type: ignore[arg-type]
            *_mean_sd([row.ticket_return for row in group]),  # type: ignore[arg-type]
            *_mean_sd([row.dense_success for row in group]),
            *_mean_sd([row.ticket_success for row in group]),
        )
        for (task, rewind, sparsity, method, control), group in groups.items()
    ]


def _mean_sd(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def save_tables(root: Path, rows: Sequence[RunRow]) -> tuple[Path, Path]:
    """Write `table.csv` (a row for each task, sparsity and method) and `runs.csv` (a row for each ticket)."""
    table, runs = root / TABLE_FILE, root / RUNS_FILE
    write_whole(table, store.csv_bytes(TableRow._fields, summarize(rows)), checksum=False)
    write_whole(runs, store.csv_bytes(RunRow._fields, rows), checksum=False)
    return table, runs
