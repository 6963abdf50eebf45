"""Control masks that ignore what the network learned."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..types import Mask, Params
from .layers import StackAxes, layers
from .masks import prune_lowest, pruned_by_layer
from .prune import prune, random_scores


def random_mask(
    params: Params,
    target_sparsity: float,
    key: jax.Array,
    exclude: Sequence[str] = (),
    allocation: str = "layer",
    stack_axes: StackAxes | None = None,
) -> Mask:
    """Prune random weights: `round(s * n)` of all n weights, by default the same fraction of each layer.

    Raises:
        InputError: see `prune_kernels_by_magnitude`.
    """
    how: dict[str, Any] = {"allocation": allocation, "exclude": exclude, "stack_axes": stack_axes, "collapse": "allow"}
    return prune(params, target_sparsity, "random", key=key, **how)


def shuffled_mask(
    mask: Mask, params: Params, key: jax.Array, exclude: Sequence[str] = (), stack_axes: StackAxes | None = None
) -> Mask:
    """Prune as many weights of each layer as `mask`, at random positions.

    Compared with `mask`, this separates the choice of weights from the sparsity of each layer (Frankle et al. 2021,
    https://arxiv.org/abs/2009.08576).
    """
    rows = layers(params, exclude, stack_axes=stack_axes)
    return prune_lowest(random_scores(params, key), params, rows, pruned_by_layer(mask, rows))


def permute_kept(trees: Sequence[Params], mask: Mask, key: jax.Array) -> list[Params]:
    """Permute the kept weights within each layer, in the same way in all trees (weights, targets, moments).

    Compared with the ticket, this separates the mask from the values of the kept weights. Biases and unpruned layers are
    unchanged.
    """
    treedef: Any
    masks, treedef = jax.tree.flatten(mask)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    orders = [rng.permutation(int(np.sum(np.asarray(m) != 0))) for m in masks]

    def permute(tree: Params) -> Params:
        moved = []
        for leaf, kept, order in zip(treedef.flatten_up_to(tree), masks, orders, strict=True):
            values, places = np.array(leaf), np.asarray(kept) != 0
            if not places.all():
                values[places] = values[places][order]
            moved.append(values)
        return treedef.unflatten(moved)

    return [permute(tree) for tree in trees]
