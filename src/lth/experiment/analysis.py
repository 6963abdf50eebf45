"""What is recorded of each run besides its results: `analysis.csv`, tidy rows of network, layer, metric, value."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..algorithms.base import Agent
from ..algorithms.tickets import masks_of
from ..analysis.paths import layers, networks_of, weights_read
from ..analysis.stability import Stability
from ..analysis.units import Units, hidden_units, spread_batch
from ..types import Mask

READS = "reads"
"""The metric of an input: `reads[3]`, the effective weights of the first layer that stand at input 3."""


class AnalysisRow(NamedTuple):
    """One number about a run; `layer` is empty for what concerns the whole network (docs/analysis.md)."""

    network: str
    layer: str
    metric: str
    value: float


def mask_rows(masks: dict[str, Mask]) -> list[AnalysisRow]:
    """Count kept and effective weights of each layer and network, constant and unheard units, and what each input feeds."""
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
    """Return `mask_rows` of the masks under which an agent trains, and its dead and dormant units on its replay buffer."""
    rows = mask_rows(masks_of(agent.state))
    if agent.replay_buffer is None:
        return rows
    for network, found in hidden_units(agent, spread_batch(agent.replay_buffer)).items():
        for name, some in _whole_and_parts(found):
            rows.append(AnalysisRow(network, name, "dead_units", sum(int(units.dead.sum()) for units in some)))
            rows.append(AnalysisRow(network, name, "dormant_units", sum(int(units.dormant.sum()) for units in some)))
    return rows


def _whole_and_parts(found: dict[str, Units]) -> Iterator[tuple[str, Sequence[Units]]]:
    yield "", list(found.values())
    for name, units in found.items():
        yield name, [units]


def stability_rows(found: dict[str, Stability]) -> list[AnalysisRow]:
    """Lay out how stable each network's ranking was."""
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
