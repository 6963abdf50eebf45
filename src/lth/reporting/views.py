"""The tables of `lth run`: what the tidy table says, laid out in columns.

Every function takes tidy rows and returns rows; `save_tables` writes them as CSV. docs/report.md and docs/analysis.md say what
each number means.
"""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..analysis.barriers import line_barriers
from ..analysis.overlap import LEAST_SHARED, compare
from ..experiment.journal import RETURN as RETURN
from ..experiment.journal import SUCCESS as SUCCESS
from ..experiment.plan import label as label
from ..experiment.plan import names_rewind as names_rewind
from ..experiment.records import READS, SCORES
from ..experiment.tidy import DENSE, TidyRow
from ..files import csv_bytes, write_whole
from .numbers import share

TABLE_FILE = "table.csv"
RUNS_FILE = "runs.csv"
LAYERS_FILE = "layers.csv"
INPUTS_FILE = "inputs.csv"
OVERLAP_FILE = "overlap.csv"
LINES_FILE = "lines.csv"
BARRIERS_FILE = "barriers.csv"

_NO_LAYER = (
    "evaluation",
    "random_policy",
    "train",
    "cost",
    "overlap",
    "overlap_by_chance",
    "shared",
    "line",
    "barrier",
    "value_one",
    "value_other",
)
"""What metrics that are not about a network or a layer begin with."""


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


class LayerRow(NamedTuple):
    """One number about a run; `layer` is empty for what concerns the whole network."""

    run: str
    network: str
    layer: str
    metric: str
    value: float


class InputRow(NamedTuple):
    """One input of a network: how many effective weights of its first layer stand there; with none it is not read."""

    run: str
    network: str
    layer: str
    input: int
    name: str
    weights: int


class OverlapRow(NamedTuple):
    """What two masks share in a layer, or in all layers that either prunes (`layer` empty), and what chance gives.

    `differ_in` is what tells the masks apart: method, seed, task, or round (of iterative pruning).
    """

    run: str
    other_run: str
    differ_in: str
    network: str
    layer: str
    weights: int
    kept: int
    kept_other: int
    shared: int
    expected: float
    low: int
    high: int
    z: float
    jaccard: float
    expected_jaccard: float


class LineRow(NamedTuple):
    """One number at a point of the line between two agents."""

    run: str  # the comparison
    kind: str  # parent, methods, rounds, noise
    one: str
    other: str
    alpha: float
    metric: str
    value: float


class BarrierRow(NamedTuple):
    """How much worse the line between two agents is than the straight line between its ends, at its worst."""

    run: str
    kind: str
    one: str
    other: str
    metric: str
    value_one: float
    value_other: float
    barrier: float


def run_rows(rows: Iterable[TidyRow]) -> list[RunRow]:
    """Return each result beside its dense agent's. The last evaluation is what counts, never the best."""
    last: dict[tuple[Any, ...], dict[str, tuple[int, float, str]]] = {}
    for row in rows:
        if row.metric in (RETURN, SUCCESS):
            metrics = last.setdefault(row[:6], {})
            if row.metric not in metrics or metrics[row.metric][0] <= row.env_steps:
                metrics[row.metric] = (row.env_steps, row.value, row.run)
    found = []
    for key, ticket in last.items():
        if key[2] == DENSE:
            continue
        dense = last[*key[:2], DENSE, "", "", ""]
        values = [side.get(metric, (0, None))[1] for metric in (RETURN, SUCCESS) for side in (dense, ticket)]
        found.append(RunRow._make((*key, *values, dense[RETURN][2], ticket[RETURN][2])))
    return found


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


def layer_rows(rows: Iterable[TidyRow]) -> list[LayerRow]:
    """Return what is known of each network and layer, each run once. A mask's stability is shown at the mask alone."""
    found: dict[tuple[str, str], LayerRow] = {}
    for row in rows:
        metric, _, rest = row.metric.partition("/")
        copied = metric.startswith("saliency") and not _is_mask(row.run)
        if metric in _NO_LAYER or metric.startswith((READS, SCORES)) or copied:
            continue
        network, _, layer = rest.partition("/")
        found.setdefault((row.run, row.metric), LayerRow(row.run, network, layer, metric, row.value))
    return list(found.values())


def _is_mask(run: str) -> bool:
    return Path(run).name.startswith("mask-")


def input_rows(rows: Iterable[TidyRow]) -> list[InputRow]:
    """Return what each network reads of each input: observations by their names, then actions."""
    first: dict[tuple[str, str], str] = {}  # the first layer of a run's network
    named: dict[str, dict[str, int]] = {}  # what a run's policy reads, by name
    found: dict[tuple[str, str], InputRow] = {}
    for row in rows:
        metric, _, rest = row.metric.partition("/")
        network, _, layer = rest.partition("/")
        if metric == "weights" and layer:
            first.setdefault((row.run, network), layer)
        elif metric == READS:  # the policy's, whose inputs are named
            names = named.setdefault(row.run, {})
            i = names.setdefault(layer, len(names))
            policy = InputRow(row.run, network, first[row.run, network], i, layer, int(row.value))
            found.setdefault((row.run, row.metric), policy)
        elif metric.startswith(READS):
            i, known = int(metric.removeprefix(f"{READS}[").removesuffix("]")), [*named[row.run]]
            name = known[i] if i < len(known) else f"action[{i - len(known)}]"
            found.setdefault((row.run, row.metric), InputRow(row.run, network, layer, i, name, int(row.value)))
    return list(found.values())


def overlap_rows(rows: Iterable[TidyRow]) -> list[OverlapRow]:
    """Compare masks layer by layer and in total with what chance gives, from what they keep and what they share."""
    counts: dict[tuple[str, str], int] = {}
    by_hash: dict[str, str] = {}
    pairs: dict[tuple[str, ...], dict[str, int]] = {}
    for row in rows:
        metric, _, rest = row.metric.partition("/")
        if metric in ("weights", "kept") and _is_mask(row.run):
            counts[row.run, row.metric] = int(row.value)
            by_hash[row.run[-8:]] = row.run
        elif metric == "shared":
            differ_in, other, network, layer = rest.split("/", 3)
            pairs.setdefault((row.run, other, differ_in, network), {})[layer] = int(row.value)
    found = []
    for (run, other, differ_in, network), shared in pairs.items():
        other_run = by_hash[other]

        def of(layer: str, both: int, ends: tuple[str, str] = (run, other_run), network: str = network) -> Any:
            kept, kept_other = (counts[end, f"kept/{network}/{layer}"] for end in ends)
            return counts[ends[0], f"weights/{network}/{layer}"], kept, kept_other, both

        layers = {layer: of(layer, both) for layer, both in shared.items()}
        compared = [compare("", tuple(layers.values())), *(compare(layer, (one,)) for layer, one in layers.items())]
        found += [OverlapRow(run, other_run, differ_in, network, *one) for one in compared]
    return found


def line_rows(rows: Iterable[TidyRow]) -> list[LineRow]:
    """Return the points of the lines between agents."""
    rows = list(rows)
    by_hash = {row.run[-8:]: row.run for row in rows}
    found = []
    for row in rows:
        if row.metric.startswith("line/"):
            _, kind, one, other, alpha, metric = row.metric.split("/", 5)
            found.append(LineRow(row.run, kind, by_hash[one], by_hash[other], float(alpha), metric, row.value))
    return found


def barrier_rows(lines: Iterable[LineRow]) -> list[BarrierRow]:
    """Return the barrier of each metric on each line, beside its values at both ends."""
    groups: dict[tuple[str, str, str, str], list[LineRow]] = {}
    for line in lines:
        groups.setdefault(line[:4], []).append(line)
    return [
        BarrierRow(*key, metric, at_one, at_other, height)
        for key, points in groups.items()
        for metric, height, at_one, at_other in line_barriers(point[4:] for point in points)
    ]


def unstable_masks(rows: Iterable[TidyRow]) -> list[str]:
    """Return a sentence for each mask that depends on the draw of its gradient batches too much (docs/analysis.md)."""
    return [
        f"{row.run}: two halves of its gradient batches agree on {share(round(row.value, 2))} of the weights that the "
        f"{row.metric.partition('/')[2]} keeps; below {share(LEAST_SHARED)} agreement the mask depends on which batches were "
        "drawn. Raise pruning.num_gradient_batches."
        for row in rows
        if row.metric.startswith("saliency_shared/") and _is_mask(row.run) and row.value < LEAST_SHARED
    ]


def save_tables(root: Path, rows: Sequence[TidyRow]) -> list[Path]:
    """Write the tables as CSV, those of lines only where there are any; returns their paths."""
    runs, lines = run_rows(rows), line_rows(rows)
    tables: list[tuple[str, type[Any], Sequence[Any]]] = [
        (TABLE_FILE, TableRow, summarize(runs)),
        (RUNS_FILE, RunRow, runs),
        (LAYERS_FILE, LayerRow, layer_rows(rows)),
        (INPUTS_FILE, InputRow, input_rows(rows)),
        (OVERLAP_FILE, OverlapRow, overlap_rows(rows)),
    ]
    if lines:
        tables += [(LINES_FILE, LineRow, lines), (BARRIERS_FILE, BarrierRow, barrier_rows(lines))]
    for name, columns, table in tables:
        write_whole(root / name, csv_bytes(columns._fields, table), checksum=False)
    return [root / name for name, _, _ in tables]
