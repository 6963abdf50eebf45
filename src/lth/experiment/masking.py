"""Make masks from a trained agent: score every weight and keep the highest-scoring weights of each network."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..algorithms.architecture import AgentConfig, Spaces
from ..algorithms.base import Agent
from ..algorithms.tickets import masks_of
from ..analysis.scores import Bin, score_histogram, threshold
from ..analysis.stability import Stability, stability
from ..config import CONTROL_METHODS
from ..errors import InputError
from ..precision import in_float32
from ..pruning.controls import shuffled_mask
from ..pruning.criteria import criterion_named
from ..pruning.layers import layer_names, layers, named_leaves
from ..pruning.masks import apply_mask
from ..pruning.names import check_layer_names, holds_layer
from ..pruning.prune import prune, scores_by
from ..replay import ReplayBuffer
from ..saliency import gradient_halves, gradient_statistics, synaptic_flow
from ..types import Mask
from .spec import INVERTED, Allocation, MaskSpec, takes_gradients


def create_masks(agent: Agent, buffer: Callable[[], ReplayBuffer], spec: MaskSpec) -> dict[str, Mask]:
    """Make the mask of each network from a trained agent. `buffer` is called only if the method uses gradients.

    Weights that are already pruned stay pruned. Random masks depend on the run's seed, the method and the network, but not on
    the sparsity of other networks.
    """
    return select_masks(agent, spec, gather_statistics(agent, buffer, spec))


def gather_statistics(agent: Agent, buffer: Callable[[], ReplayBuffer], spec: MaskSpec) -> dict[str, Any]:
    """Return what the criterion needs of the replay buffer's batches, by network; empty where it takes no gradients."""
    if not takes_gradients(spec.method):
        return {}
    sizes = (spec.num_gradient_batches, spec.gradient_batch_size)
    return gradient_statistics(agent, buffer(), *sizes, statistic=_statistic(spec))


def _statistic(spec: MaskSpec) -> str:
    statistic = criterion_named(spec.criterion, load=False).statistic
    assert statistic
    return statistic


def saliency_stability(agent: Agent, buffer: ReplayBuffer, spec: MaskSpec) -> dict[str, Stability]:
    """Make a mask from each half of the gradient batches, and measure their agreement for each network."""
    sizes = (spec.num_gradient_batches, spec.gradient_batch_size)
    gathered = gradient_halves(agent, buffer, *sizes, statistic=_statistic(spec))
    masks = [select_masks(agent, spec, half) for half in gathered]
    return {
        network: stability(
            agent.state.params[network],
            (gathered[0][network], gathered[1][network]),
            (masks[0][network], masks[1][network]),
            spec.criterion,
            candidates,
        )
        for network, candidates in _candidates(agent, spec).items()
    }


def _candidates(agent: Agent, spec: MaskSpec) -> dict[str, Mask]:
    """Mark the weights of each network that can be pruned. Excluded and already pruned weights are not candidates."""
    exclude, _ = named_layers(agent.config, spec.exclude, spec.allocation)
    found: dict[str, Mask] = {}
    for network, before in masks_of(agent.state).items():
        treedef: Any
        leaves, treedef = jax.tree.flatten(before)
        rows = layers(before, exclude[network])
        found[network] = treedef.unflatten([np.asarray(m) * row.prunable for m, row in zip(leaves, rows, strict=True)])
    return found


class Scores(NamedTuple):
    """How the scores of one network's weights are distributed."""

    bins: list[Bin]
    threshold: float | None  # log10 |score|; None where a higher score is pruned than one that is kept


def score_histograms(
    agent: Agent, spec: MaskSpec, gathered: Mapping[str, Any], masks: Mapping[str, Mask]
) -> dict[str, Scores]:
    """Count the weights that could be pruned by their score, by network.

    Empty where a mask does not come from one ranking: scores that are drawn, of weights taken in many rounds, or inverted.

    Args:
        agent: the agent that the mask is made from.
        spec: the mask's.
        gathered: what `gather_statistics` returned.
        masks: the masks that were made.
    """
    if spec.method in CONTROL_METHODS or spec.method.startswith(INVERTED):
        return {}
    row = criterion_named(spec.criterion, load=False)
    if row.rounds > 1 or row.statistic == "flow":
        return {}
    found, before = {}, masks_of(agent.state)
    for network, candidates in _candidates(agent, spec).items():
        weights = named_leaves(apply_mask(agent.state.params[network], before[network]))
        statistics = named_leaves(gathered[network]) if gathered else weights
        kept = named_leaves(masks[network])
        chosen = {n: np.asarray(leaf) != 0 for n, leaf in named_leaves(candidates).items()}
        scored = scores_by(row.score)(weights, statistics)
        scores = [np.asarray(scored[n])[chosen[n]] for n in weights]
        stays = [(np.asarray(kept[n]) != 0)[c] for n, c in chosen.items()]
        if any(len(s) for s in scores):
            found[network] = Scores(score_histogram(scores, stays), threshold(scores, stays))
    return found


def select_masks(agent: Agent, spec: MaskSpec, gathered: Mapping[str, Any]) -> dict[str, Mask]:
    """Make the masks from gradient statistics by network; empty if the criterion needs none."""
    params = agent.state.params
    before: dict[str, Any] = masks_of(agent.state) if spec.previous else dict.fromkeys(params)
    shuffled = spec.method == "shuffled"
    criterion = "magnitude" if shuffled else spec.criterion
    keys = {network: named_key(spec.dense.seed, f"{spec.method}/{network}") for network in params}
    exclude, allocation = named_layers(agent.config, spec.exclude, spec.allocation)
    if criterion == "random":
        allocation = {network: "layer" if spec.allocation == "global" else allocation[network] for network in params}
    pruned = functools.partial(
        prune,
        criterion=criterion,
        loss=synaptic_flow,
        batches=[np.ones((), np.float32)],
        invert=spec.method.startswith(INVERTED),
        collapse="allow",
    )
    masks: dict[str, Mask]
    if spec.pool == "together":
        by_layer = {f"{n}/{name}": s for n, a in allocation.items() if not isinstance(a, str) for name, s in a.items()}
        masks = pruned(
            params,
            next(iter(spec.sparsity.networks.values())),
            gradients=dict(gathered) or None,
            allocation=by_layer or spec.allocation,  # type: ignore[arg-type]
            exclude=[f"{network}/{name}" for network in params for name in exclude[network]],
            prev_mask=before if spec.previous else None,
        )
    else:
        masks = {
            network: pruned(
                tree,
                spec.sparsity[network],
                gradients=gathered.get(network),
                key=keys[network],
                allocation=allocation[network],
                exclude=exclude[network],
                prev_mask=before[network],
            )
            for network, tree in params.items()
        }
    if shuffled:
        masks = {n: shuffled_mask(masks[n], tree, keys[n], exclude[n]) for n, tree in params.items()}
    return masks


def named_key(seed: int, name: str) -> jax.Array:
    """Return a random key that depends on a run's seed and on what is drawn, by name."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


@in_float32
def named_layers(
    agent: AgentConfig, exclude: Sequence[str], allocation: Allocation = "global"
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Return for each network the full names of its excluded layers, and its allocation by full layer names.

    A given name is any part of a layer's path, including its network: `layer_0`, `q1/output`, `q/layer_1`.

    Raises:
        InputError: a layer name is unknown (lists the layers), or all layers of a share above 0 are excluded.
    """
    algorithm = agent.build(Spaces(1, 1, agent.DISCRETE))
    state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0)))
    there = {network: layer_names(params) for network, params in state.params.items()}
    where = f"of {' or '.join(there)}"
    every = [f"{network}/{layer}" for network, names in there.items() for layer in names]
    check_layer_names(exclude, every, "pruning.exclude", where)
    dense = {n: [x for x in names if any(holds_layer(f"{n}/{x}", e) for e in exclude)] for n, names in there.items()}
    if isinstance(allocation, str):
        return dense, dict.fromkeys(there, allocation)
    shares = dict(allocation)
    check_layer_names(shares, every, "pruning.allocation", where)
    pruned = [name for name in every if not any(holds_layer(name, e) for e in exclude)]
    for name, share in shares.items():
        if share and not any(holds_layer(layer, name) for layer in pruned):
            raise InputError(
                f"pruning.allocation sets {name!r} to {share:g}, but pruning.exclude keeps it dense; remove it from one of them"
            )
    named: dict[str, Any] = {}
    for network, names in there.items():
        fitting = {x: [name for name in shares if holds_layer(f"{network}/{x}", name)] for x in names}
        named[network] = {
            x: shares[max(found, key=len)] for x, found in fitting.items() if found and x not in dense[network]
        }
    return dense, named
