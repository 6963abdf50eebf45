"""What the tickets of a grid are: tables of their layers, inputs, overlaps, stability and lines between them.

Functions return rows, and `save_analysis` writes them; docs/analysis.md says what each number means. Runs are named by their
path below the output directory, as in `runs.csv`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ..analysis.interpolation import barrier
from ..analysis.overlap import overlap
from ..analysis.stability import LEAST_SHARED
from ..config import Config
from ..envs.observations import observation_names
from ..experiment import store
from ..experiment.analysis import READS
from ..experiment.spec import ConnectivitySpec, DenseSpec, MaskSpec, TicketSpec, comparisons, grid, run_path
from ..experiment.stages import analyze
from ..files import write_whole

LAYERS_FILE = "layers.csv"
INPUTS_FILE = "inputs.csv"
OVERLAP_FILE = "overlap.csv"
LINES_FILE = "lines.csv"
BARRIERS_FILE = "barriers.csv"
TABLES = (LAYERS_FILE, INPUTS_FILE, OVERLAP_FILE, LINES_FILE, BARRIERS_FILE)


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


class LinePointRow(NamedTuple):
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


def _finished(config: Config) -> list[DenseSpec | MaskSpec | TicketSpec]:
    return [
        spec
        for spec in grid(config)
        if not isinstance(spec, ConnectivitySpec) and store.last_file(config.output_dir, spec).exists()
    ]


def analysis_rows(config: Config) -> tuple[list[LayerRow], list[InputRow]]:
    """Collect what is recorded of a config's finished runs; runs of earlier versions are analysed now.

    Raises:
        InputError: a file was altered or cannot be read.
    """
    rows: list[LayerRow] = []
    inputs: list[InputRow] = []
    for spec in _finished(config):
        run = str(run_path(spec))
        found = analyze(config.output_dir, spec)
        dense = spec if isinstance(spec, DenseSpec) else spec.dense
        dim = sum(row.network == dense.agent.POLICY and row.metric.startswith(f"{READS}[") for row in found)
        observations = observation_names(dense.task, dim)
        for row in found:
            if not row.metric.startswith(f"{READS}["):
                rows.append(LayerRow(run, *row))
                continue
            i = int(row.metric.removeprefix(f"{READS}[").removesuffix("]"))
            name = observations[i] if i < dim else f"action[{i - dim}]"
            inputs.append(InputRow(run, row.network, row.layer, i, name, int(row.value)))
    return rows, inputs


def overlap_rows(config: Config) -> list[OverlapRow]:
    """Compare the finished masks of a config that differ in one thing only: method, seed, task, or round.

    Raises:
        InputError: a mask was altered or cannot be read.
    """
    specs = [spec for spec in _finished(config) if isinstance(spec, MaskSpec)]
    # Truth values, a quarter of the memory: there may be hundreds.
    masks = {
        spec: jax.tree.map(lambda m: np.asarray(m) != 0, store.load_mask(store.last_file(config.output_dir, spec)))
        for spec in specs
    }
    rows = []
    for what, one, other in _pairs(specs):
        for network, mask in masks[one].items():
            rows += [
                OverlapRow(str(run_path(one)), str(run_path(other)), what, network, *found)
                for found in overlap(mask, masks[other][network])
            ]
    return rows


def _pairs(specs: Sequence[MaskSpec]) -> Iterator[tuple[str, MaskSpec, MaskSpec]]:
    """Yield the masks that differ in one thing only, with what it is."""
    for what in ("method", "seed", "task"):
        groups: dict[str, list[MaskSpec]] = {}
        for spec in specs:
            values = {
                "task": spec.dense.task,
                "seed": spec.dense.seed,
                # A method's way to allocate is part of it.
                "method": (spec.method, spec.allocation),
                "sparsity": spec.sparsity.label(),
                "rewind": spec.previous.rewind_steps if spec.previous else "",
                "round": spec.round,
            }
            del values[what]
            groups.setdefault(repr(values), []).append(spec)
        for group in groups.values():
            yield from ((what, *pair) for pair in combinations(group, 2))
    finished = set(specs)
    for spec in specs:
        before = spec.previous.mask if spec.previous else None
        while isinstance(before, MaskSpec):
            if before in finished:
                yield "round", before, spec
            before = before.previous.mask if before.previous else None


def connectivity_rows(config: Config) -> tuple[list[LinePointRow], list[BarrierRow]]:
    """Collect a config's finished comparisons, and their barriers.

    Raises:
        InputError: a file cannot be read.
    """
    rows: list[LinePointRow] = []
    barriers: list[BarrierRow] = []
    for spec in comparisons(config):
        if not store.is_finished(config.output_dir, spec):
            continue
        head = (str(run_path(spec)), spec.kind, str(run_path(spec.one)), str(run_path(spec.other)))
        line = store.read_line(store.directory(config.output_dir, spec))
        rows += [LinePointRow(*head, *row) for row in line]
        for metric in dict.fromkeys(row.metric for row in line):
            points = [(row.alpha, row.value) for row in line if row.metric == metric]
            alphas, values = zip(*points, strict=True)
            height = barrier(alphas, values, higher_is_better=not metric.endswith("_loss"))
            barriers.append(BarrierRow(*head, metric, dict(points)[0.0], dict(points)[1.0], height))
    return rows, barriers


def unstable_masks(rows: Iterable[LayerRow]) -> list[str]:
    """Say which masks depend on the draw of their gradient batches more than docs/analysis.md takes for sound."""
    return [
        f"{row.run}: two halves of its gradient batches agree on {row.value:.0%} of the weights that the {row.network} keeps; "
        f"below {LEAST_SHARED:.0%} the mask is a matter of the draw. Raise pruning.num_gradient_batches."
        for row in rows
        if row.metric == "saliency_shared" and row.value < LEAST_SHARED
    ]


def save_analysis(config: Config) -> tuple[list[Path], list[str]]:
    """Write layers.csv, inputs.csv, overlap.csv, and, where lines were asked for, lines.csv and barriers.csv.

    Returns:
        The files, and what `unstable_masks` says.

    Raises:
        InputError: a file was altered, cannot be read or cannot be written.
    """
    rows, inputs = analysis_rows(config)
    points, barriers = connectivity_rows(config)
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[object]]]] = [
        (LAYERS_FILE, LayerRow._fields, rows),
        (INPUTS_FILE, InputRow._fields, inputs),
        (OVERLAP_FILE, OverlapRow._fields, overlap_rows(config)),
    ]
    if points:
        tables += [
            (LINES_FILE, LinePointRow._fields, points),
            (BARRIERS_FILE, BarrierRow._fields, barriers),
        ]
    for name, header, table in tables:
        write_whole(config.output_dir / name, store.csv_bytes(header, table), checksum=False)
    return [config.output_dir / name for name, _, _ in tables], unstable_masks(rows)
