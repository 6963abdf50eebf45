"""The analysis of each run: `analysis.csv` with tidy rows of network, layer, metric, value."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..algorithms.base import Agent
from ..algorithms.tickets import masks_of
from ..analysis.paths import layers, networks_of, weights_read
from ..analysis.stability import Stability
from ..analysis.units import hidden_units, spread_batch
from ..precision import in_float32
from ..replay import ReplayBuffer
from ..types import Mask
from . import store
from .journal import last_file, replay_file
from .masking import Scores, gather_statistics, saliency_stability, score_histograms
from .records import READS, SCORES, AnalysisRow
from .spec import DenseSpec, MaskSpec, TicketSpec, takes_gradients
from .start import load_source


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
def measure_again(root: Path, spec: DenseSpec | MaskSpec | TicketSpec) -> list[AnalysisRow]:
    """Return the analysis of a finished run from its files, for runs of earlier versions.

    Raises:
        InputError: the run does not exist, or a file was altered.
    """
    run = root / spec.path
    if not isinstance(spec, MaskSpec):
        return agent_rows(store.load(run).agent)
    agent, source = load_source(root, spec), root / (spec.previous or spec.dense).path
    masks, buffer = store.load_mask(last_file(root, spec)), functools.partial(store.load_replay_buffer, source)
    if replay_file(source).exists() or not takes_gradients(spec.method):
        return rows_of_mask(masks, agent, buffer, spec, gather_statistics(agent, buffer, spec))
    return mask_rows(masks)
