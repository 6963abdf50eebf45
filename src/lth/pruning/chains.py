"""A network's parameters, as its library has them, read as a chain of dense layers; and such a chain put back.

A chain is a list of (kernel, bias) in the order in which the network applies them: kernels (inputs, outputs), biases (outputs,).
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Params
from .layers import is_matrix, layers, named_leaves

MOST_ORDERS = 8
"""Of more layers, whose names do not tell their order, not every order is tried."""


class Reading(NamedTuple):
    """How a tree of parameters is read as a chain."""

    chain: list[tuple[Array, Array]]
    names: list[tuple[str, str]]
    """The leaves of each layer, kernel and bias; the latter empty where there is none."""
    output_first: list[bool]
    """Whether a kernel is (outputs, inputs) in the tree, as in Equinox and PyTorch."""


def read_chain(params: Params, order: Sequence[str] | None = None) -> Reading:
    """Read parameters as a chain of dense layers.

    Args:
        params: as Flax, Equinox, Haiku or NNX have them, or any pytree of one matrix, and one vector beside it, for each layer.
        order: the layers' names in the order in which they are applied. None: the order of the numbers in their names; where the
            shapes do not fit each other so, the only order in which they do.

    Raises:
        InputError: a leaf belongs to no dense layer, a name is no layer's, or the order is not clear.
    """
    leaves = named_leaves(params)
    rows = [row for row in layers(params, prunable=is_matrix) if row.prunable]
    found: dict[str, tuple[str, str, bool]] = {}
    used: set[str] = set()
    for row in rows:
        if row.stack_axes or row.window_axes or len(row.shape) != 2:
            raise InputError(
                f"{row.path!r} {row.shape} is not the matrix of a dense layer, and a chain has no other layers"
            )
        parent = row.path.rpartition("/")[0]
        beside = [n for n, leaf in leaves.items() if n.rpartition("/")[0] == parent and np.ndim(leaf) == 1]
        output_first = row.input_axes == (1,)
        outputs = row.shape[0 if output_first else 1]
        bias = next((n for n in beside if np.shape(leaves[n]) == (outputs,)), "")
        found[row.layer] = (row.path, bias, output_first)
        used |= {row.path, bias}
    if other := [name for name in leaves if name not in used]:
        raise InputError(
            f"{', '.join(map(repr, other[:4]))}: a chain has dense layers alone, a matrix and a bias each, and no norms, "
            "embeddings or other parameters; take the part of the tree that is one"
        )
    names = _ordered(found, leaves, order)
    chain = []
    for name in names:
        kernel, bias, output_first = found[name]
        matrix = jnp.asarray(leaves[kernel]).T if output_first else jnp.asarray(leaves[kernel])
        chain.append((matrix, jnp.asarray(leaves[bias]) if bias else jnp.zeros(matrix.shape[1], matrix.dtype)))
    return Reading(chain, [found[name][:2] for name in names], [found[name][2] for name in names])


def put_back(params: Params, reading: Reading, chain: Sequence[tuple[Array, Array]]) -> Params:
    """Return a tree like `params` with the layers of another chain.

    Raises:
        InputError: a layer has a bias that is not 0, and the tree has no place for it.
    """
    new: dict[str, Any] = {}
    for (kernel, bias), output_first, layer in zip(reading.names, reading.output_first, chain, strict=True):
        new[kernel] = layer[0].T if output_first else layer[0]
        if bias:
            new[bias] = layer[1]
        elif np.asarray(layer[1]).any():
            raise InputError(f"the layer of {kernel!r} has no bias, and constants of the layer before would go into it")
    leaves = [new[name] for name in named_leaves(params)]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _ordered(
    found: dict[str, tuple[str, str, bool]], leaves: dict[str, Array], order: Sequence[str] | None
) -> list[str]:
    def shape(name: str) -> tuple[int, int]:
        kernel, _, output_first = found[name]
        a, b = np.shape(leaves[kernel])
        return (b, a) if output_first else (a, b)

    def fits(names: Sequence[str]) -> bool:
        return all(shape(one)[1] == shape(next_one)[0] for one, next_one in itertools.pairwise(names))

    listed = ", ".join(f"{name} {shape(name)}" for name in found)
    if order is not None:
        if sorted(order) != sorted(found):
            raise InputError(f"order names {', '.join(order)}, and the layers are {listed}")
        if not fits(order):
            raise InputError(
                f"in the order {', '.join(order)} a layer does not take what the one before gives: {listed}"
            )
        return list(order)
    natural = sorted(found, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    if fits(natural):
        return natural
    orders = [o for o in itertools.permutations(natural) if fits(o)] if len(natural) <= MOST_ORDERS else []
    if len(orders) != 1:
        raise InputError(f"the order of the layers is not clear: {listed}. Give it as order=[names, ...]")
    return list(orders[0])
