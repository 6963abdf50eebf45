"""What leaves and layers are called, and which leaves are weights by their names. Does not import JAX."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, nearest
from ..types import Array

WEIGHTS = ("kernel", "weight", "w")
"""The names of a layer's matrix or convolution kernel in Flax, Equinox, PyTorch and Haiku."""
NO_LAYER = re.compile(r"norm|embed|(?:^|_)emb(?:$|_|\d)", re.IGNORECASE)
"""What the names of norms and embeddings contain, whose `weight` is no layer's."""


def layer_of(name: str) -> str:
    """Return the layer of a leaf: its name without a last part from `WEIGHTS`.

    >>> layer_of("q1/layer_0/kernel"), layer_of("cell/weight_ih"), layer_of("w")
    ('q1/layer_0', 'cell/weight_ih', 'w')
    """
    layer, _, own = name.rpartition("/")
    return layer if layer and own in WEIGHTS else name


def is_weight(name: str, leaf: Array) -> bool:
    """Return whether a leaf is named like a weight: `kernel`, or `weight...` or `w` with at least two axes.

    Biases, norms and embeddings do not count. The `weight` of an Equinox norm or embedding is recognized by `norm`, `embed` or
    `emb` in the part before it.
    """
    *layers, own = name.split("/")
    if own == "kernel":
        return True
    named = own.startswith("weight") or own == "w"
    return named and np.ndim(leaf) >= 2 and not (layers and NO_LAYER.search(layers[-1]))


def by_name(leaves: Iterable[tuple[str, Array]]) -> dict[str, Array]:
    """Return leaves by name, in their order.

    Raises:
        InputError: two leaves have the same name, such as the key "a/b" and the key "b" in "a".
    """
    found: dict[str, Array] = {}
    for name, leaf in leaves:
        if name in found:
            raise InputError(f"two leaves have the same path {name!r}; rename one of them")
        found[name] = leaf
    return found


def nested_leaves(tree: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays in nested dicts by name, in the order in which JAX has them.

    Raises:
        InputError: two leaves have the same name.
    """

    def walk(tree: Mapping[str, Any], above: str) -> Iterator[tuple[str, Array]]:
        for key in sorted(tree):
            value, name = tree[key], f"{above}{key}"
            yield from walk(value, f"{name}/") if isinstance(value, Mapping) else [(name, value)]

    return by_name(walk(tree, ""))


def check_mask_values(leaves: Mapping[str, Array], what: str) -> None:
    """Raise InputError unless every value of a mask is 0 or 1; names the leaf, the position and the value."""
    for name, leaf in leaves.items():
        values = np.asarray(leaf)
        wrong = np.argwhere((values != 0) & (values != 1))
        if len(wrong):
            where = tuple(int(i) for i in wrong[0])
            raise InputError(
                f"{what} is not a mask: its leaf {name!r} holds {values[where]} at {where}, and only 0 (pruned) "
                "and 1 (kept) are allowed. Are these scores or weights?"
            )


def holds_layer(layer: str, name: str) -> bool:
    """Return whether `name` is one or more consecutive parts of a layer's path, joined by slashes."""
    return f"/{name.strip('/')}/" in f"/{layer}/"


def check_layer_names(names: Sequence[str] | Mapping[str, Any], layers: Sequence[str], what: str, where: str) -> None:
    """Raise InputError unless each name is one or more consecutive parts of some layer's path."""
    for name in names:
        if not any(holds_layer(layer, name) for layer in layers):
            known = sorted({part for layer in layers for part in (layer, *layer.split("/"))})
            raise InputError(f"unknown layer {name!r} in {what}; the layers {where} are {known}{nearest(name, known)}")
