"""Read a library's parameter tree as a chain of dense layers, and write a chain back into such a tree.

A chain is a list of (kernel, bias) in the order in which the network applies them: kernels (inputs, outputs), biases (outputs,).
"""

import functools
import itertools
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Params
from .layers import is_matrix, layers, named_leaves

MOST_ORDERS = 8
"""The largest number of layers for which all orders are tried if the names do not determine the order."""

MOST_STEPS = 10_000
"""The largest number of steps in the search for a second order in which the layers fit."""

_NUMBER = re.compile(r"[\W_]*\d+")
_LAST = re.compile(r"(?:^|[/_])(?:out|outputs?|head|last|final|logits|readout)$", re.IGNORECASE)
"""Names of last layers."""


class Reading(NamedTuple):
    """A parameter tree read as a chain."""

    chain: list[tuple[Array, Array]]
    names: list[tuple[str, str]]
    """The leaf names of each layer: (kernel, bias); the bias is empty if there is none."""
    output_first: list[bool]
    """Whether a kernel is (outputs, inputs) in the tree, as in Equinox and PyTorch."""


def is_chain(params: Params, order: Sequence[str] | None = None) -> bool:
    """Return whether parameters are a chain already, a list of pairs.

    Raises:
        InputError: they are, but layer names are given in `order`, and a chain has none.
    """
    pairs = isinstance(params, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in params
    )
    if pairs and order is not None:
        raise InputError(
            f"order is {order!r}, but params is a list of (kernel, bias), whose layers have no names and are applied in the "
            "order of the list; sort the list, and leave out order"
        )
    return pairs


def read_chain(params: Params, order: Sequence[str] | None = None) -> Reading:
    """Read parameters as a chain of dense layers.

    Args:
        params: parameters from Flax, Equinox, Haiku or NNX, or any pytree with one matrix and at most one vector per layer.
        order: the layer names in the order in which they are applied. None: the order of the numbers in their names, then of
            the alphabet; if the shapes do not fit in that order, the only order in which they do.

    Raises:
        InputError: a leaf does not belong to a dense layer, a layer name is unknown, or the order is ambiguous.

    Warns:
        UserWarning: only the alphabet decides between orders in which the shapes fit.
    """
    leaves = named_leaves(params)
    rows = [row for row in layers(params, prunable=is_matrix) if row.prunable]
    found: dict[str, tuple[str, str, bool]] = {}
    used: set[str] = set()
    for row in rows:
        if row.stack_axes or row.window_axes or len(row.shape) != 2:
            raise InputError(
                f"{row.path!r} {row.shape} is not the kernel of a dense layer; a chain has only dense layers"
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
            f"{', '.join(map(repr, other[:4]))}: a chain has only dense layers with a kernel and a bias, no norms, "
            "embeddings or other parameters; pass only the dense part of the tree"
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
        InputError: a layer has a nonzero bias, but the tree has no bias there.
    """
    new: dict[str, Any] = {}
    for (kernel, bias), output_first, layer in zip(reading.names, reading.output_first, chain, strict=True):
        new[kernel] = layer[0].T if output_first else layer[0]
        if bias:
            new[bias] = layer[1]
        elif np.asarray(layer[1]).any():
            raise InputError(
                f"the layer of {kernel!r} has no bias, but constants of the previous layer must be added to one"
            )
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
            raise InputError(f"order is {', '.join(order)}, but the layers are {listed}")
        if not fits(order):
            raise InputError(f"in the order {', '.join(order)}, the shapes of consecutive layers do not fit: {listed}")
        return list(order)
    natural = sorted(found, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    if fits(natural):
        if _by_alphabet(natural, lambda one, next_one: fits((one, next_one))):
            warnings.warn(
                f"the order of the layers is assumed to be that of the alphabet, {', '.join(natural)}: their names do not tell it, "
                "and their shapes fit in other orders too. Pass order=[name, ...]; in a wrong order they compute another function",
                stacklevel=4,
            )
        return natural
    orders = [o for o in itertools.permutations(natural) if fits(o)] if len(natural) <= MOST_ORDERS else []
    if len(orders) != 1:
        raise InputError(f"the order of the layers is ambiguous: {listed}. Pass order=[name, ...]")
    return list(orders[0])


def _by_alphabet(natural: Sequence[str], follows: Callable[[str, str], bool]) -> bool:
    """Return whether layers may be in another order than `natural`, with numbered names in order and a name like `output` last.

    Also True where this takes longer to find out than `MOST_STEPS`.
    """
    kinds: dict[str, list[str]] = {}
    for name in natural:
        kinds.setdefault(_NUMBER.sub("", name), []).append(name)
    last = [name for name in natural if _LAST.search(name)]

    @functools.cache
    def ways(left: tuple[tuple[str, ...], ...], before: str | None) -> int:
        """Count the orders in which the layers that are left, by kind, fit after `before`; more than 1 is "many"."""
        found = int(not left) if ways.cache_info().misses < MOST_STEPS else 2
        for i, (name, *rest) in enumerate(left):
            early = last == [name] and (rest or len(left) > 1)
            if found < 2 and not early and (before is None or follows(before, name)):
                found += ways((*left[:i], *([tuple(rest)] if rest else []), *left[i + 1 :]), name)
        return found

    orders = ways(tuple(map(tuple, kinds.values())), None)
    return orders > 1 or (orders == 1 and len(last) == 1 and natural[-1] != last[0])
