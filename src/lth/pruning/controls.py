"""Masks that ignore what the network learned: what a ticket has to beat."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..types import Mask, Params
from .allocation import uniform_counts
from .masks import prunable_leaves, prune_lowest


def _random_scores(params: Params, key: jax.Array) -> Params:
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return treedef.unflatten([jax.random.uniform(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])


def random_mask(params: Params, target_sparsity: float, key: jax.Array, exclude: Sequence[str] = ()) -> Mask:
    """Prune random weights, the same fraction of every layer (uniform by layer), `round(s * n)` of all n in total.

    Raises:
        InputError: as `prune_kernels_by_magnitude`.
    """
    prunable = prunable_leaves(params, exclude)
    sizes = [leaf.size for leaf, flag in zip(jax.tree.leaves(params), prunable, strict=True) if flag]
    return prune_lowest(_random_scores(params, key), params, prunable, uniform_counts(sizes, target_sparsity))


def shuffled_mask(mask: Mask, params: Params, key: jax.Array, exclude: Sequence[str] = ()) -> Mask:
    """Prune as many weights of each layer as `mask` does, at random positions.

    Against the mask itself it tells choosing weights from choosing how much each layer keeps (Frankle et al. 2021,
    https://arxiv.org/abs/2009.08576).
    """
    prunable = prunable_leaves(params, exclude)
    leaves = zip(jax.tree.leaves(mask), prunable, strict=True)
    counts = [int(np.sum(np.asarray(leaf) == 0)) for leaf, flag in leaves if flag]
    return prune_lowest(_random_scores(params, key), params, prunable, counts)
