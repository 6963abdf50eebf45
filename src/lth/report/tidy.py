"""The tidy table: one row for each run, moment and metric. Whatever a report says is computed from it alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..analysis.paths import layers, weights_read
from ..config import GRADIENT_METHODS, Config
from ..envs.observations import observation_names
from ..errors import InputError
from ..experiment import store
from ..experiment.spec import DenseSpec, MaskSpec, Row, TicketSpec, run_path
from ..experiment.spec import rows as grid_rows
from ..files import write_whole
from ..sac.agent import masks_of
from ..sac.checkpoint import load_agent
from ..training import total_updates

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
    seen = set()
    root = config.output_dir
    for row in grid_rows(config):
        dense = Row(DENSE, "", "", "", row.dense, row.dense)
        for one in (dense, row):
            if one not in seen and all(store.is_finished(root, spec) for spec in {one.dense, one.run}):
                found += _rows_of(root, one)
            seen.add(one)
    if not any(row.method != DENSE for row in found):
        raise InputError(
            f"there is nothing to report: no ticket of this config is finished in {root}. `lth run` with the same config makes "
            "them, `lth status` says how far it is."
        )
    return found


def _rows_of(root: Path, row: Row) -> Iterator[TidyRow]:
    run = store.directory(root, row.run)
    end = row.dense.training.env_steps
    about = (row.dense.task, row.dense.seed, row.method, row.control, row.sparsity, row.rewind, str(run_path(row.run)))
    for env_steps, metric, value in store.evaluations(run):
        yield TidyRow(*about, env_steps, metric, value)
    measured = _mask_metrics(run, row.dense.task)
    for metric, value in {**_costs(root, row.run, measured), **measured}.items():
        yield TidyRow(*about, end, metric, value)


def _mask_metrics(run: Path, task: str) -> dict[str, float]:
    """Count the weights of each layer, those kept and those on a path; and of each observation's, those on a path."""
    _, state, _ = load_agent(store.checkpoint_file(run))
    found: dict[str, float] = {}
    masks = masks_of(state)
    for network, mask in masks.items():
        for layer in layers(mask):
            name = f"{network}/{layer.name}"
            found[f"weights/{name}"] = layer.kept.size
            found[f"kept/{name}"] = int(layer.kept.sum())
            found[f"effective/{name}"] = int(layer.effective.sum())
    read = weights_read(masks["actor"])["layer_0" if state.actor_params.keys() > {"output"} else "output"]
    for name, count in zip(observation_names(task, len(read)), read, strict=True):
        found[f"read/actor/{name}"] = int(count)
    return found


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
    for name, kind in (("cost/flops", "kept/"), ("cost/flops_dense", "weights/")):
        actor, critics = (
            2.0 * sum(v for k, v in measured.items() if k.startswith(kind + network))
            for network in ("actor/", "critic/")
        )
        # An update passes forward through the actor at s' and s, the target critics, the critics at (s, a) and at (s, pi(s));
        # backward through a network is twice a forward pass, or once where only its inputs' gradient is needed (the critics in
        # the actor's loss). So 2 + 2 for the actor, 1 + 1 + 1 + 2 + 1 for the critics; and acting is a forward pass.
        found[name] = updates * dense.training.batch_size * (4.0 * actor + 6.0 * critics) + env_steps * actor
    if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec):
        mask = spec.mask
        found["cost/mask_seconds"] = store.read_timings(store.directory(root, mask)).get("total", 0.0)
        if mask.criterion in GRADIENT_METHODS:
            found["cost/gradient_batches"] = mask.num_gradient_batches
        if mask.previous:
            before = store.directory(root, mask.previous)
            earlier = _costs(root, mask.previous, _mask_metrics(before, dense.task))
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
