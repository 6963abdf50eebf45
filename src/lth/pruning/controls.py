"""Control masks that ignore what the network learned."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Mask, Params
from .layers import StackAxes, layers
from .masks import check_same_structure, prune_lowest, pruned_by_layer
from .prune import check_key, prune, random_scores


def random_mask(
    params: Params,
    target_sparsity: float,
    key: jax.Array,
    exclude: Sequence[str] = (),
    allocation: str = "layer",
    stack_axes: StackAxes | None = None,
) -> Mask:
    """Return a mask that prunes random weights, `round(s * n)` of all n in total.

    >>> import jax
    >>> mask = random_mask({"a": {"kernel": np.ones((4, 4))}, "b": {"kernel": np.ones((4, 2))}}, 0.5, jax.random.key(0))
    >>> int(mask["a"]["kernel"].sum()), int(mask["b"]["kernel"].sum())
    (8, 4)

    Args:
        params: a pytree of arrays; only shapes and names are read.
        target_sparsity: the fraction of prunable weights to remove, in [0, 1].
        key: a JAX key; the same key gives the same mask.
        exclude: layers that stay dense, by any part of their path.
        allocation: "layer" (the same fraction of each), "global" or "erk".
        stack_axes: as for `prune`.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned.

    Raises:
        InputError: as `prune`.
    """
    how: dict[str, Any] = {"allocation": allocation, "exclude": exclude, "stack_axes": stack_axes, "collapse": "allow"}
    return prune(jax.tree.map(_blank, params), target_sparsity, "random", key=key, **how)


def _blank(leaf: Any) -> Any:
    """Return zeros of a leaf's shape and dtype; what is not numeric as it is, for `prune` to refuse by name."""
    dtype = getattr(leaf, "dtype", jax.dtypes.prng_key)
    return leaf if jnp.issubdtype(dtype, jax.dtypes.extended) else np.zeros(leaf.shape, dtype)


def shuffled_mask(
    mask: Mask, params: Params, key: jax.Array, exclude: Sequence[str] = (), stack_axes: StackAxes | None = None
) -> Mask:
    """Return a mask that prunes as many weights of each layer as `mask` does, at random positions.

    Compared with the mask itself it separates which weights are kept from how many each layer keeps (Frankle et al. 2021,
    https://arxiv.org/abs/2009.08576).

    >>> import jax
    >>> params = {"kernel": np.ones((2, 4))}
    >>> mask = {"kernel": np.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])}
    >>> int(shuffled_mask(mask, params, jax.random.key(0))["kernel"].sum())
    3

    Args:
        mask: the mask whose counts are kept, 1 kept and 0 pruned.
        params: the parameters that it belongs to; shapes, dtypes and names are read, and |w| where random numbers are equal.
        key: a JAX key; the same key gives the same mask.
        exclude: layers that stay dense, by any part of their path.
        stack_axes: as for `prune`.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned.

    Raises:
        InputError: the mask does not have the structure and shapes of `params`, the key is not a JAX key, or as `layers`.
    """
    rows = layers(params, exclude, stack_axes=stack_axes)
    check_same_structure(mask, params, "the mask", "the parameters'")
    scores = random_scores(params, check_key(key, "shuffled_mask"))
    return prune_lowest(scores, params, rows, pruned_by_layer(mask, rows))


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
