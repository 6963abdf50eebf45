"""The tidy table: one row for each run, moment and metric. Whatever a report says is computed from it alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import GRADIENT_METHODS, Config
from ..envs.observations import observation_names
from ..errors import InputError
from ..experiment import store
from ..experiment.analysis import READS, AnalysisRow
from ..experiment.spec import DenseSpec, MaskSpec, Row, TicketSpec, comparisons, grid, run_path
from ..experiment.spec import rows as grid_rows
from ..experiment.stages import analyze
from ..files import write_whole
from ..training import total_updates
from .analysis import connectivity_rows, overlap_rows

TIDY_FILE = "tidy.csv"
DENSE = "dense"
"""The method of a dense agent's rows, whose control, sparsity and rewind point are empty."""


class TidyRow(NamedTuple):
    """One number. docs/report.md lists the metrics; `run` is the folder below the output directory."""

    task: str
    seed: int
    method: str  # as in runs.csv; `dense`
    control: str
    sparsity: str
    rewind: str
    run: str
    env_steps: int
    metric: str
    value: float


def tidy_rows(config: Config) -> list[TidyRow]:
    """Collect what a config's finished runs measured: evaluations, costs, and what their masks keep.

    Raises:
        InputError: none is finished; or a file is damaged.
    """
    found: list[TidyRow] = []
    root = config.output_dir
    finished = {spec for spec in grid(config) if store.is_finished(root, spec)}
    seen = set()
    for row in grid_rows(config):
        for one in (Row(DENSE, "", "", "", row.dense, row.dense), row):
            if one not in seen and {one.dense, one.run} <= finished:
                found += _rows_of(root, one)
            seen.add(one)
    if not any(row.method != DENSE for row in found):
        raise InputError(
            f"there is nothing to report: no ticket of this config is finished in {root}. `lth run` with the same config makes "
            "them, `lth status` says how far it is."
        )
    return [*found, *_overlaps(config), *_barriers(config)]


def _rows_of(root: Path, row: Row) -> Iterator[TidyRow]:
    run = store.directory(root, row.run)
    end = row.dense.training.env_steps
    about = (row.dense.task, row.dense.seed, row.method, row.control, row.sparsity, row.rewind, str(run_path(row.run)))
    for env_steps, metric, value in store.evaluations(run):
        yield TidyRow(*about, env_steps, metric, value)
    measured = _analysis(root, row.run)
    for metric, value in {**_costs(root, row.run, measured), **measured}.items():
        yield TidyRow(*about, end, metric, value)


def _analysis(root: Path, spec: DenseSpec | TicketSpec) -> dict[str, float]:
    """Return a run's analysis (docs/analysis.md) as `<metric>/<network>/<layer>`, and how stable its mask's ranking was."""
    rows = analyze(root, spec)
    found = {_metric(row): row.value for row in rows if not row.metric.startswith(READS)}
    dense = spec if isinstance(spec, DenseSpec) else spec.dense
    policy = dense.agent.POLICY
    read = [row.value for row in rows if row.network == policy and row.metric.startswith(READS)]
    names = observation_names(dense.task, len(read))
    found |= {f"{READS}/{policy}/{n}": v for n, v in zip(names, read, strict=True)}
    if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec) and not spec.control:
        found |= {_metric(row): row.value for row in analyze(root, spec.mask) if row.metric.startswith("saliency")}
    return found


def _metric(row: AnalysisRow) -> str:
    return "/".join(filter(None, (row.metric, row.network, row.layer)))


def _overlaps(config: Config) -> Iterator[TidyRow]:
    """What the masks of two methods (seeds, tasks, rounds) share: the Jaccard index, and what chance gives on average."""
    masks = {str(run_path(spec)): spec for spec in grid(config) if isinstance(spec, MaskSpec)}
    for row in overlap_rows(config):
        if row.layer:
            continue
        one, other = masks[row.run], masks[row.other_run]
        name = {
            "method": other.method,
            "seed": f"seed {other.dense.seed}",
            "task": other.dense.task,
            "round": f"round {other.round}",
        }[row.differ_in]
        about = (one.dense.task, one.dense.seed, one.method, "", one.sparsity.label(), "", row.run)
        for kind, value in (("overlap", row.jaccard), ("overlap_by_chance", row.expected_jaccard)):
            yield TidyRow(*about, one.dense.training.env_steps, f"{kind}/{row.network}/{row.differ_in}/{name}", value)


def _barriers(config: Config) -> Iterator[TidyRow]:
    """What lies on the line from another agent to a run (docs/analysis.md): the metric at both ends, and the barrier."""
    names = {row.run: row for row in grid_rows(config) if not row.control}
    specs = {str(run_path(spec)): spec for spec in comparisons(config)}
    for found in connectivity_rows(config)[1]:
        spec = specs[found.run]
        # Of a ticket and the same ticket with other noise, the first is the one that the results are of.
        run, other = (spec.one, "other noise") if spec.kind == "noise" else (spec.other, "dense")
        if (
            spec.kind in ("methods", "rounds")
            and isinstance(spec.one, TicketSpec)
            and isinstance(spec.one.mask, MaskSpec)
        ):
            other = spec.one.mask.method if spec.kind == "methods" else f"round {spec.one.mask.round}"
        row = names.get(run, Row(DENSE, "", "", "", spec.dense, spec.dense))
        about = (row.dense.task, row.dense.seed, row.method, "", row.sparsity, row.rewind, str(run_path(run)))
        for kind in ("barrier", "value_one", "value_other"):
            metric = f"{kind}/{spec.kind}/{other}/{found.metric}"
            yield TidyRow(*about, row.dense.training.env_steps, metric, getattr(found, kind))


def _costs(root: Path, spec: DenseSpec | TicketSpec, measured: dict[str, float]) -> dict[str, float]:
    """Return what a run took besides its dense agent: with its mask, and all earlier rounds of iterative pruning."""
    dense = spec if isinstance(spec, DenseSpec) else spec.dense
    start = spec.start if isinstance(spec, TicketSpec) else 0
    env_steps, updates = dense.training.env_steps - start, total_updates(dense.training, start)
    found = {
        "cost/env_steps": env_steps,
        "cost/updates": updates,
        "cost/train_seconds": store.read_timings(store.directory(root, spec)).get("total", 0.0),
        "cost/mask_seconds": 0.0,
        "cost/gradient_batches": 0,
    }
    for name, kind in (("cost/flops", "kept"), ("cost/flops_dense", "weights")):
        # Two operations a weight in a forward pass; acting is one.
        passes = {n: times * 2.0 * measured[f"{kind}/{n}"] for n, times in dense.agent.passes().items()}
        acting = 2.0 * measured[f"{kind}/{dense.agent.POLICY}"]
        found[name] = updates * dense.training.batch_size * sum(passes.values()) + env_steps * acting
    if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec):
        mask = spec.mask
        found["cost/mask_seconds"] = store.read_timings(store.directory(root, mask)).get("total", 0.0)
        if mask.criterion in GRADIENT_METHODS:
            found["cost/gradient_batches"] = mask.num_gradient_batches
        if mask.previous:
            earlier = _costs(root, mask.previous, _analysis(root, mask.previous))
            found = {name: value + earlier[name] for name, value in found.items()}
    return found


def save_tidy(root: Path, rows: Sequence[TidyRow]) -> Path:
    """Write `tidy.csv`."""
    write_whole(root / TIDY_FILE, store.csv_bytes(TidyRow._fields, rows), checksum=False)
    return root / TIDY_FILE


def read_tidy(path: Path) -> list[TidyRow]:
    """Read a file of `save_tidy`.

    Raises:
        InputError: it is missing or unreadable.
    """
    try:
        found = []
        for row in store.read_csv(path, "the tidy table"):
            task, seed, method, control, sparsity, rewind, run, env_steps, metric, value = (
                row[name] for name in TidyRow._fields
            )
            about = (method, control, sparsity, rewind, run)
            found.append(TidyRow(task, int(seed), *about, int(env_steps), metric, float(value)))
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no tidy table ({error}); `lth report` writes one") from None
