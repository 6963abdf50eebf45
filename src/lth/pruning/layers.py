"""What of a pytree can be pruned, and what its layers are called.

Any pytree of arrays will do: dicts of arrays, Flax linen's parameters, the state of a Flax NNX module, an Equinox module
without what is no array. A leaf is named by its path, `q1/layer_0/kernel`; its layer is what comes before the weight's own
name, `q1/layer_0`, so that people can say which layers to leave out.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Params
from .names import check_layer_names, holds_layer

Prunable = Callable[[str, Array], bool]
"""Says of a leaf, by its name and its value, whether it may be pruned."""

WEIGHTS = ("kernel", "weight", "w")
"""What Flax, Equinox and PyTorch, and Haiku call the matrix or convolution kernel of a layer."""
_NO_WEIGHT = re.compile(r"^b\d*$|bias|scale|offset|norm|embed", re.IGNORECASE)
_NO_LAYER = re.compile(r"norm|embed", re.IGNORECASE)


def path_name(path: Sequence[Any]) -> str:
    """Name a leaf by its path: `layer_0/kernel`. The `.value` in which Flax NNX keeps each array is left out."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def layer_of(name: str) -> str:
    """Name the layer of a leaf: its name without a last part that says only that these are the weights.

    >>> layer_of("q1/layer_0/kernel"), layer_of("cell/weight_ih"), layer_of("w")
    ('q1/layer_0', 'cell/weight_ih', 'w')
    """
    layer, _, own = name.rpartition("/")
    return layer if layer and own in WEIGHTS else name


def is_weight(name: str, leaf: Array) -> bool:
    """Say whether a leaf is named as weights are: `kernel`; or `weight...` or `w`, if it has two axes or more.

    Biases, norms and embeddings are none: an Equinox norm's or embedding's `weight` is told by its layer's name, that is
    by `norm` or `embed` in the part before.
    """
    *layers, own = name.split("/")
    if own == "kernel":
        return True
    named = own.startswith("weight") or own == "w"
    return named and np.ndim(leaf) >= 2 and not (layers and _NO_LAYER.search(layers[-1]))


def is_matrix(name: str, leaf: Array) -> bool:
    """Say whether a leaf has two axes or more and a name that is no bias's, norm's or embedding's."""
    *layers, own = name.split("/")
    none = _NO_WEIGHT.search(own) or (layers and _NO_LAYER.search(layers[-1]))
    return np.ndim(leaf) >= 2 and not none and not jnp.issubdtype(leaf.dtype, jnp.integer)


def named_leaves(tree: Params) -> dict[str, Array]:
    """Return the leaves by name, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def prunable_names(params: Params, prunable: Prunable | None = None) -> list[str]:
    """Name the leaves that may be pruned: those that `prunable` says, or all that are named as weights are.

    Where none is named so, as in a list of (matrix, bias) pairs, it is the matrices.

    Raises:
        InputError: there is none, or a leaf is no array of numbers.
    """
    leaves = named_leaves(params)
    for name, leaf in leaves.items():
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
            raise InputError(
                f"the leaf {name!r} is no array of numbers but {type(leaf).__name__}. Of an Equinox module take "
                "eqx.filter(model, eqx.is_inexact_array), of a Flax NNX module nnx.state(model, nnx.Param)."
            )
    for rule in (prunable,) if prunable else (is_weight, is_matrix):
        if found := [name for name, leaf in leaves.items() if rule(name, leaf)]:
            return found
    wanted = "that `prunable` admits" if prunable else "named 'kernel', 'weight' or 'w', nor any other matrix"
    raise InputError(
        f"there is nothing to prune: the parameters have no leaf {wanted}. Their leaves are {list(leaves)[:8]}"
    )


def layer_names(params: Params, prunable: Prunable | None = None) -> list[str]:
    """Return the names of the layers that can be pruned."""
    return [layer_of(name) for name in prunable_names(params, prunable)]


def prunable_leaves(params: Params, exclude: Sequence[str] = (), prunable: Prunable | None = None) -> list[bool]:
    """Say of each leaf of `params`, in tree order, whether it may be pruned: not where `exclude` names its layer.

    Raises:
        InputError: `params` has nothing to prune, or a name in `exclude` is no layer's.
    """
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    names = prunable_names(params, prunable)
    check_layer_names(exclude, [layer_of(name) for name in names], "pruning.exclude", "here")
    return [n in names and not any(holds_layer(layer_of(n), e) for e in exclude) for n in named_leaves(params)]
