"""The analysis of each run: `analysis.csv` with tidy rows of network, layer, metric, value."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.base import Agent
from ..algorithms.tickets import masks_of
from ..analysis.paths import layers, networks_of, weights_read
from ..analysis.stability import Stability
from ..analysis.units import hidden_units, spread_batch
from ..errors import InputError
from ..precision import in_float32
from ..replay import ReplayBuffer
from ..types import Mask
from . import store
from .journal import last_file, replay_file
from .masking import Scores, gather_statistics, saliency_stability, score_histograms
from .spec import DenseSpec, MaskSpec, TicketSpec, takes_gradients
from .start import load_source
from .store import AnalysisRow

READS = "reads"
"""The metric of an input: `reads[3]` is the number of effective first-layer weights of input 3."""
SCORES = "scores_"
"""The prefix of histogram metrics: `scores_kept[-2.4]` counts the kept weights with a score of 10^-2.4 to 10^-2.2."""


def mask_rows(masks: dict[str, Mask]) -> list[AnalysisRow]:
    """Count kept and effective weights, constant and unheard units, for each layer and network, and the weights of each input."""
    rows: list[AnalysisRow] = []
    for network, mask in masks.items():
        found = layers(mask)
        last = {f"{prefix}output" for prefix in networks_of(mask)}
        hidden = [layer for layer in found if layer.name not in last]
        parts = [("", found), *((layer.name, [layer]) for layer in found)]
        for name, some in parts:
            weights = sum(layer.kept.size for layer in some)
            kept = sum(int(layer.kept.sum()) for layer in some)
            effective = sum(int(layer.effective.sum()) for layer in some)
            values = {
                "weights": weights,
                "kept": kept,
                "sparsity": 1.0 - kept / weights,
                "effective": effective,
                "effective_sparsity": 1.0 - effective / weights,
            }
            within = [layer for layer in some if layer in hidden] if name else hidden
            if name not in last:
                values["units"] = sum(len(layer.heard) for layer in within)
                values["constant_units"] = sum(int(layer.constant.sum()) for layer in within)
                values["unheard_units"] = sum(int((~layer.heard).sum()) for layer in within)
            rows += [AnalysisRow(network, name, metric, value) for metric, value in values.items()]
        for name, counts in weights_read(mask).items():
            rows += [AnalysisRow(network, name, f"{READS}[{i}]", int(count)) for i, count in enumerate(counts)]
    return rows


def agent_rows(agent: Agent) -> list[AnalysisRow]:
    """Return `mask_rows` of an agent's masks, and its dead and dormant units on its replay buffer."""
    rows = mask_rows(masks_of(agent.state))
    if agent.replay_buffer is None:
        return rows
    for network, found in hidden_units(agent, spread_batch(agent.replay_buffer)).items():
        for name, some in [("", list(found.values())), *((name, [units]) for name, units in found.items())]:
            rows.append(AnalysisRow(network, name, "dead_units", sum(int(units.dead.sum()) for units in some)))
            rows.append(AnalysisRow(network, name, "dormant_units", sum(int(units.dormant.sum()) for units in some)))
    return rows


def stability_rows(found: dict[str, Stability]) -> list[AnalysisRow]:
    """Return the stability of each network's ranking as rows."""
    return [
        AnalysisRow(network, "", metric, value)
        for network, result in found.items()
        for metric, value in (
            ("saliency_spearman", result.spearman),
            ("saliency_shared", result.shared),
            ("saliency_shared_by_chance", result.expected),
        )
        if not np.isnan(value)
    ]


def score_rows(found: dict[str, Scores]) -> list[AnalysisRow]:
    """Lay out how many weights with such scores each network keeps and loses, and where it cuts."""
    rows = []
    for network, scores in found.items():
        for low, pruned, kept in scores.bins:
            for name, count in (("pruned", pruned), ("kept", kept)):
                if count:
                    rows.append(AnalysisRow(network, "", f"{SCORES}{name}[{low:.1f}]", count))
        if scores.threshold is not None:
            rows.append(AnalysisRow(network, "", "score_threshold", scores.threshold))
    return rows


def rows_of_mask(
    masks: dict[str, Mask],
    agent: Agent,
    buffer: Callable[[], ReplayBuffer],
    spec: MaskSpec,
    gathered: Mapping[str, Any],
) -> list[AnalysisRow]:
    """Return `mask_rows`, the score histograms, and the stability of the ranking if the method uses gradients.

    Args:
        masks: the masks by network.
        agent: the agent that they were made from.
        buffer: returns its replay buffer; called only if the method uses gradients.
        spec: the spec of the mask.
        gathered: the result of `gather_statistics`.
    """
    rows = mask_rows(masks) + score_rows(score_histograms(agent, spec, gathered, masks))
    if takes_gradients(spec.method) and spec.num_gradient_batches > 1:
        rows += stability_rows(saliency_stability(agent, buffer(), spec))
    return rows


@in_float32
def measured(root: Path, spec: DenseSpec | MaskSpec | TicketSpec) -> list[AnalysisRow]:
    """Return the rows of a finished run's `analysis.csv`, which is created now for runs of earlier versions.

    Raises:
        InputError: the run does not exist, a file was altered, or the rows are inconsistent.
    """
    run = root / spec.path
    if not (run / store.ANALYSIS).exists():
        if isinstance(spec, MaskSpec):
            agent, source = load_source(root, spec), root / (spec.previous or spec.dense).path
            masks, buffer = store.load_mask(last_file(root, spec)), functools.partial(store.load_replay_buffer, source)
            rows = mask_rows(masks)
            if replay_file(source).exists() or not takes_gradients(spec.method):
                rows = rows_of_mask(masks, agent, buffer, spec, gather_statistics(agent, buffer, spec))
        else:
            rows = agent_rows(store.load(run).agent)
        store.save_analysis(run, rows)
    rows = store.read_analysis(run)
    if wrong := _inconsistency(rows, spec.dense.agent.NETWORKS):
        raise InputError(f"the analysis '{run / store.ANALYSIS}' is damaged ({wrong}). Delete it to recreate it.")
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
