"""Write and read what a run is and what it measured: its spec, metrics, analysis and times, and its masks as NumPy arrays.

Loads no JAX, so that status, tables and report start at once; `store` has the agents. `journal` names the files.
Only `CLOCK_FILES` depend on time, so all other files are reproducible to the byte.
"""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..algorithms.architecture import Spaces
from ..config import LAST_RUN
from ..errors import InputError
from ..files import csv_bytes, load_pickle, load_tensors, read_json, read_rows, write_whole
from ..pruning.names import check_mask_values, nested_leaves
from ..types import Mask
from .journal import (
    ATTEMPTS,
    CONNECTIVITY,
    FAILURES,
    LOCK,
    METRICS,
    PROGRESS,
    SPEC,
    TIMINGS,
    VERIFIED,
    MetricRow,
    check_spec,
    checkpoint_file,
    record_finished,
)
from .provenance import provenance
from .question import QUESTION_FILE
from .spec import SPEC_VERSION, DenseSpec, MaskSpec, Spec, TicketSpec, parse_spec

ANALYSIS = "analysis.csv"
PROVENANCE = "provenance.json"
EVENTS = "events"
TABLE_MEMORY = ".tidy.json"
CLOCK_FILES = (QUESTION_FILE, LAST_RUN, TIMINGS, ATTEMPTS, FAILURES, PROGRESS, LOCK, VERIFIED, EVENTS, TABLE_MEMORY)
"""Files that depend on time, on the command or on interruptions; all others are reproducible to the byte."""


READS = "reads"
"""The metric of an input: `reads[3]` is the number of effective first-layer weights of input 3."""
SCORES = "scores_"
"""The prefix of histogram metrics: `scores_kept[-2.4]` counts the kept weights with a score of 10^-2.4 to 10^-2.2."""


class AnalysisRow(NamedTuple):
    """An analysis result of a run; `layer` is empty for the whole network (docs/analysis.md)."""

    network: str
    layer: str
    metric: str
    value: float


class LineRow(NamedTuple):
    """A measurement at a point of the line between two agents: `alpha` 0 is the first agent, 1 the second."""

    alpha: float
    metric: str  # return, success, <network>_loss
    value: float


RECREATE = "To recreate the run, delete the folder '{}' and run the same command again."


def open_run(root: Path, spec: Spec) -> Path:
    """Create a run's directory, write its spec, and return the directory.

    Raises:
        InputError: the directory contains another run, or is not writable.
    """
    run = root / spec.path
    if (run / SPEC).exists():
        check_spec(run, spec)
    for partial in run.glob(".*.partial"):  # left by a killed process
        partial.unlink(missing_ok=True)
    _write_json(run / SPEC, {"spec_version": SPEC_VERSION, **spec.model_dump(mode="json")})
    _write_json(run / PROVENANCE, provenance())
    return run


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode(), checksum=False)


def check_whose(path: Path, what: str, found: Any, spec: Spec) -> None:
    """Raise InputError unless a file names `spec` as its run (`found` is the hash in it)."""
    if found != spec.sha256:
        whose = f"belongs to the run {str(found)[:8]}" if found else "does not name its run"
        raise InputError(
            f"the {what} '{path}' {whose}, but the one of {spec.title()} ({spec.sha256[:8]}) is needed. It may have been copied "
            f"from another folder. {RECREATE.format(path.parent)}"
        )


def read_kernels(root: Path, spec: DenseSpec | TicketSpec, network: str, spaces: Spaces) -> dict[str, np.ndarray]:
    """Read the trained kernels (inputs, outputs) of one network of a finished run on a task with these spaces, by layer.

    Raises:
        InputError: the checkpoint is missing, damaged, or belongs to another run.
    """
    path = checkpoint_file(root / spec.path)
    arrays, metadata = load_tensors(path, "the checkpoint")
    about = metadata.get("about")
    check_whose(path, "checkpoint", about.get("spec") if isinstance(about, dict) else None, spec)
    found = {}
    for layer, shape in spec.dense.agent.networks(spaces)[network].kernels(spaces).items():
        name = f"{network}_params/{layer}/kernel"
        kernel = arrays.get(name)
        if kernel is None or kernel.shape != shape or kernel.dtype != np.float32 or not np.isfinite(kernel).all():
            raise InputError(
                f"the checkpoint '{path}' has no array {name!r} of finite float32 and shape {shape}. {RECREATE.format(path.parent)}"
            )
        found[layer] = kernel
    return found


def spec_of(run: Path) -> Spec:
    """Return a run's specification.

    Raises:
        InputError: the run does not exist.
    """
    if not (run / SPEC).exists():
        raise InputError(no_run(run, run / SPEC))
    try:
        fields = dict(read_json(run / SPEC))
        version = fields.pop("spec_version")
        if version != SPEC_VERSION:
            raise ValueError(f"its version is {version}, but this lth reads version {SPEC_VERSION}")
        return parse_spec(fields)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"'{run / SPEC}' is not a valid run specification: {error}") from None


def no_run(run: Path, path: Path) -> str:
    """Return a message why a folder is not a loadable run, with runs below it."""
    if run.is_file():
        return f"'{run}' is a file; a run is a directory such as results/Pendulum-v1/seed0/dense-0a1b2c3d"
    if (run / CONNECTIVITY).exists():
        return f"'{run}' is a comparison of two agents and contains no agent; its {SPEC} names both."
    if (run / SPEC).exists() and any(run.glob("mask*.pkl")):
        return f"'{run}' is a mask and contains no agent. Read the mask with `lth.load_mask`; tickets are in sibling folders."
    if (run / SPEC).exists():
        kept = sorted(file.name for file in run.glob("*.safetensors")) or "none"
        return f"'{run}' has no {path.name} (checkpoints: {kept}). If the run was interrupted, run the same command to resume."
    below = sorted(str(file.parent) for file in run.glob(f"**/{SPEC}"))[:5] if run.is_dir() else []
    return f"there is no run at '{run}'" + (f"; runs below it: {', '.join(below)}" if below else "")


def read_provenance(run: Path) -> dict[str, Any]:
    """Return the recorded software and hardware of a run; empty if the file is missing or damaged."""
    try:
        found = read_json(run / PROVENANCE)
        texts = [*found["versions"].values(), *found["devices"], found["git_revision"] or "", found["machine"]]
        return found if all(isinstance(text, str) for text in texts) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save_metrics(run: Path, rows: Iterable[tuple[int, str, float]]) -> None:
    """Write tidy metrics: env_steps, metric, value."""
    write_whole(run / METRICS, csv_bytes(MetricRow._fields, rows), checksum=False)


def _metrics(run: Path) -> tuple[list[MetricRow], list[MetricRow]]:
    """Read the metrics of a run; returns those of its evaluations, and all.

    Raises:
        InputError: they are missing or unreadable, or have no evaluation, or one that is not finite.
    """
    rows = read_rows(run / METRICS, "the metrics", MetricRow, RECREATE.format(run))
    found = [row for row in rows if row.metric.startswith("evaluation/")]
    if not found:
        raise InputError(f"'{run / METRICS}' contains no evaluation. {RECREATE.format(run)}")
    if not all(math.isfinite(row.value) for row in found):
        raise InputError(f"'{run / METRICS}' contains an evaluation that is not finite. {RECREATE.format(run)}")
    return found, rows


def metrics_of(root: Path, spec: DenseSpec | TicketSpec) -> list[MetricRow]:
    """Return the evaluation metrics of a finished run, then its training metrics at the same steps.

    The training metrics (`train/...`: losses, Q values, SAC's temperature and entropy) are of the last update before an
    evaluation. Values that are not finite, and the return of exploring episodes, are left out.

    Raises:
        InputError: they are missing or unreadable, have no evaluation at the end of the run, or one that is not finite.
    """
    run, end = root / spec.path, spec.dense.training.env_steps
    found, rows = _metrics(run)
    if max(row.env_steps for row in found) != end or any(row.env_steps < spec.start for row in found):
        raise InputError(
            f"'{run / METRICS}' belongs to another run: the last evaluation should be at step {end}. {RECREATE.format(run)}"
        )
    times = {row.env_steps for row in found}
    learning = (row for row in rows if row.metric.startswith("train/") and row.metric != "train/return")
    return found + [row for row in learning if row.env_steps in times and math.isfinite(row.value)]


def last_evaluation(run: Path) -> dict[str, float]:
    """Return the metrics of a run's last evaluation by name: `evaluation/return`, and where success is defined the two of it.

    Raises:
        InputError: the metrics are missing or unreadable, have no evaluation, or one that is not finite.
    """
    found, _ = _metrics(run)
    end = max(env_steps for env_steps, _, _ in found)
    return {metric: value for env_steps, metric, value in found if env_steps == end}


def save_analysis(run: Path, rows: Iterable[AnalysisRow]) -> None:
    """Write the analysis of a run."""
    write_whole(run / ANALYSIS, csv_bytes(AnalysisRow._fields, rows), checksum=False)


def read_analysis(run: Path) -> list[AnalysisRow]:
    """Read a file of `save_analysis`.

    Raises:
        InputError: it is missing or unreadable.
    """
    return read_rows(run / ANALYSIS, "the analysis", AnalysisRow, "Delete it to recreate it.")


def measured(root: Path, spec: DenseSpec | MaskSpec | TicketSpec) -> list[AnalysisRow]:
    """Return the rows of a finished run's `analysis.csv`, which is created now for runs of earlier versions.

    Raises:
        InputError: the run does not exist, a file was altered, or the rows are inconsistent.
    """
    run = root / spec.path
    if not (run / ANALYSIS).exists():
        from .measurements import measure_again

        save_analysis(run, measure_again(root, spec))
    rows = read_analysis(run)
    if wrong := _inconsistency(rows, spec.dense.agent.NETWORKS):
        raise InputError(f"the analysis '{run / ANALYSIS}' is damaged ({wrong}). Delete it to recreate it.")
    return rows


def _inconsistency(rows: Sequence[AnalysisRow], networks: Sequence[str]) -> str:
    """Return the first inconsistency of an analysis (a number that is not finite, or wrong sums), or an empty string."""
    for row in rows:
        if not math.isfinite(row.value):
            return f"{row.metric} of {row.network} {row.layer} is not finite"
    found = {(row.metric, row.network, row.layer): row.value for row in rows}
    for network in networks:
        layers = [row.layer for row in rows if (row.metric, row.network) == ("weights", network) and row.layer]
        for layer in ("", *layers):
            kept, weights = found.get(("kept", network, layer), -1), found.get(("weights", network, layer), 0)
            if not 0 <= kept <= weights or weights < 1:
                return f"{network} {layer} keeps {kept:g} of {weights:g} weights"
        for metric in ("kept", "weights"):
            if sum(found[metric, network, layer] for layer in layers) != found[metric, network, ""]:
                return f"{metric} of the layers of {network} do not add up"
    return ""


def save_line(root: Path, spec: Spec, rows: Iterable[LineRow]) -> None:
    """Write a comparison; the file marks it as finished."""
    write_whole(root / spec.path / CONNECTIVITY, csv_bytes(LineRow._fields, rows))
    record_finished(root, spec)


def read_line(run: Path) -> list[LineRow]:
    """Read a comparison.

    Raises:
        InputError: it is missing or unreadable.
    """
    return read_rows(run / CONNECTIVITY, "the comparison", LineRow, RECREATE.format(run))


def save_timings(run: Path, timings: dict[str, float]) -> None:
    """Write seconds by name."""
    _write_json(run / TIMINGS, {name: round(seconds, 3) for name, seconds in timings.items()})


def read_mask(path: str | Path, networks: Collection[str] = ()) -> dict[str, Mask]:
    """Read masks by network as NumPy arrays, from lth or any other program; with `networks`, of exactly these.

    Raises:
        InputError: the file is missing, altered or malicious; it is not a mask; or it has other networks.
    """
    path = Path(path)
    tree = load_pickle(path, "the mask")
    fits = tree and (not networks or set(tree) == set(networks))
    if not fits or not all(isinstance(name, str) and isinstance(value, dict) for name, value in tree.items()):
        wanted = f"each of {', '.join(sorted(networks))}" if networks else "each network"
        raise InputError(
            f"the mask '{path}' has the keys {sorted(map(str, tree))}, but needs a dict of arrays for {wanted}"
        )
    for network, mask in tree.items():
        check_mask_values(nested_leaves(mask), f"the {network}'s part of {path}")
    return tree
