"""What came out, as rows."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import Config
from ..experiment import store
from ..experiment.spec import MaskSpec, TicketSpec, grid, run_path
from ..files import write_whole

TABLE_FILE = "table.csv"
RUNS_FILE = "runs.csv"


class RunRow(NamedTuple):
    """One ticket beside the dense agent of the same task and seed, at their last evaluations."""

    task: str
    seed: int
    method: str
    sparsity: str
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
    sparsity: str
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
    for spec in grid(config):
        if not isinstance(spec, TicketSpec) or not isinstance(spec.mask, MaskSpec):
            continue
        if not (store.is_finished(root, spec) and store.is_finished(root, spec.dense)):
            continue
        dense = store.last_evaluation(store.directory(root, spec.dense))
        ticket = store.last_evaluation(store.directory(root, spec))
        rows.append(
            RunRow(
                spec.dense.task,
                spec.dense.seed,
                spec.mask.method,
                spec.mask.sparsity.label(),
                dense["evaluation/return"],
                ticket["evaluation/return"],
                dense.get("evaluation/success"),
                ticket.get("evaluation/success"),
                str(run_path(spec.dense)),
                str(run_path(spec)),
            )
        )
    return rows


def summarize(rows: Iterable[RunRow]) -> list[TableRow]:
    """Average over seeds, in the order in which the rows come."""
    groups: dict[tuple[str, str, str], list[RunRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.sparsity, row.method), []).append(row)
    return [
        TableRow(
            task,
            method,
            sparsity,
            len(group),
            *_mean_sd([row.dense_return for row in group]),  # type: ignore[arg-type]
            *_mean_sd([row.ticket_return for row in group]),  # type: ignore[arg-type]
            *_mean_sd([row.dense_success for row in group]),
            *_mean_sd([row.ticket_success for row in group]),
        )
        for (task, sparsity, method), group in groups.items()
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
