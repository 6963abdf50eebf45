"""Which weights of a network are kept, laid out for the kernel; and the way between parameters and kept weights alone."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..pruning.layers import path_name
from ..pruning.masks import check_same_structure
from ..types import Mask, Params


class Layout(NamedTuple):
    """What of a pattern decides the shapes of arrays: masks with equal counts share one compilation."""

    sizes: tuple[int, ...]  # the network's widths from input to output; those of an ensemble's members are added up
    kept: int  # weights and biases together


class Pattern(NamedTuple):
    """The kept weights of a multilayer perceptron, or of an ensemble of them on the same input.

    They are held in one vector theta, (kept,) float32: first the weights that have a path to an output, layer by layer, unit
    by unit, in the order of a unit's inputs; then the biases of such units; then all others, whose gradient is zero. An
    ensemble is one network: its first layers side by side, the others block-diagonal.
    """

    layout: Layout
    table: np.ndarray  # int32, what kernel.h reads; its length follows from the layout
    places: np.ndarray  # (kept,) int32: where each stands among all parameters, ravelled one leaf after the other
    shapes: tuple[tuple[int, ...], ...]  # of the leaves
    treedef: Any

    def __repr__(self) -> str:
        total = sum(int(np.prod(shape)) for shape in self.shapes)
        return f"Pattern({'-'.join(map(str, self.layout.sizes))}, {self.layout.kept} of {total} parameters kept)"


def make_pattern(mask: Mask) -> Pattern:
    """Make the pattern of a mask.

    Args:
        mask: dense layers `{"layer_0": {"kernel": (inputs, outputs), "bias": (outputs,)}, ..., "output": ...}`, applied in
            this order with ReLU between them, or a dict of such networks with one input (an ensemble). Zero is pruned,
            in kernels and biases; anything else is kept.

    Raises:
        InputError: the mask is not that of such a network; says what is in the way, as `obstacle` does.
    """
    if reason := obstacle(mask):
        raise InputError(f"no sparse pattern can be made: {reason}")
    leaves, treedef = jax.tree_util.tree_flatten_with_path(mask)
    sizes = [np.size(leaf) for _, leaf in leaves]
    place = {  # of each parameter; -1 where it is pruned
        path_name(path): np.where(np.asarray(leaf) != 0, np.arange(start, start + size).reshape(np.shape(leaf)), -1)
        for (path, leaf), start, size in zip(leaves, _offsets(sizes)[:-1], sizes, strict=True)
    }
    kernels, biases = [], []  # of the ensemble, (inputs, outputs) and (outputs,)
    for level, names in enumerate(zip(*_networks(mask), strict=True)):
        blocks = [place[f"{name}/kernel"] for name in names]
        kernels.append(_block_diagonal(blocks) if level else np.concatenate(blocks, axis=1))
        biases.append(np.concatenate([place[f"{name}/bias"] for name in names]))

    alive: list[Any] = [np.ones(kernels[-1].shape[1], bool)]  # units from which kept weights lead to an output
    for kernel in kernels[:0:-1]:
        alive.insert(0, (kernel[:, alive[0]] >= 0).any(axis=1))
    alive.insert(0, np.ones(kernels[0].shape[0], bool))
    kernels = [k[np.ix_(before, after)] for k, (before, after) in zip(kernels, pairwise(alive), strict=True)]
    biases = [bias[after] for bias, after in zip(biases, alive[1:], strict=True)]

    used = np.concatenate([*(k.T[k.T >= 0] for k in kernels), *(bias[bias >= 0] for bias in biases)])
    everything = np.concatenate([p[p >= 0] for p in place.values()])
    places = np.concatenate([used, np.setdiff1d(everything, used)]).astype(np.int32)
    theta = np.full(sum(sizes) + 1, -1)  # from places among all parameters to places in theta; -1 stays -1
    theta[places] = np.arange(len(places))

    layout = Layout((kernels[0].shape[0], *(len(lives) for lives in alive[1:])), len(places))
    weights = sum(int((k >= 0).sum()) for k in kernels)
    parts: list[Any] = [[len(kernels), weights, len(places)], *(k.shape for k in kernels)]
    first = 0
    for kernel, bias in zip(kernels, biases, strict=True):
        parts += [first + _offsets((kernel >= 0).sum(axis=0)), theta[bias], first + _offsets((kernel >= 0).sum(axis=1))]
        first += int((kernel >= 0).sum())
    parts += [np.nonzero(k.T >= 0)[1] for k in kernels]  # the input of each weight, by units
    parts += [np.nonzero(k >= 0)[1] for k in kernels]  # the unit of each weight, by inputs
    parts += [theta[k[k >= 0]] for k in kernels]  # and its place
    table = np.zeros(_table_length(layout), np.int32)
    table[: sum(map(len, parts))] = np.concatenate(parts)
    return Pattern(layout, table, places, tuple(np.shape(leaf) for _, leaf in leaves), treedef)


def obstacle(mask: Mask) -> str:
    """Say why a network cannot be computed sparsely, or nothing if it can."""
    names = sorted(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(mask))
    networks = list(_networks(mask)) if isinstance(mask, dict) else []
    wanted = sorted(f"{layer}/{part}" for network in networks for layer in network for part in ("kernel", "bias"))
    if not networks or names != wanted or len({len(network) for network in networks}) > 1:
        odd = sorted(set(names) ^ set(wanted))
        return (
            "it is not made of dense layers layer_0, layer_1, ..., output alone, with ReLU between them, each with kernel "
            f"and bias ({', '.join(odd[:3]) or 'networks of unlike depth'})"
        )
    shapes = {path_name(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    for network in networks:
        for before, layer in pairwise((networks[0][0], *network)):
            kernel, bias = shapes[f"{layer}/kernel"], shapes[f"{layer}/bias"]
            if len(kernel) != 2 or len(bias) != 1:
                return (
                    f"{layer} has a kernel {kernel} and a bias {bias}, and should have (inputs, outputs) and (outputs,)"
                )
            inputs = shapes[f"{before}/kernel"][0 if layer == network[0] else 1]
            if kernel != (inputs, *bias):
                return f"{layer} has a kernel {kernel} and a bias {bias}, and {inputs} inputs"
    return ""


def _networks(mask: Mask) -> Iterator[list[str]]:
    """Yield the paths of each member's layers, from input to output."""
    for prefix, network in [("", mask)] if "output" in mask else [(f"{name}/", mask[name]) for name in sorted(mask)]:
        if isinstance(network, dict):
            yield [f"{prefix}{name}" for name in (*(f"layer_{i}" for i in range(len(network) - 1)), "output")]


def _offsets(counts: Any) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=int)])


def _block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    whole = np.full(np.sum([block.shape for block in blocks], axis=0), -1)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole


def _table_length(layout: Layout) -> int:
    # As long as it would be if every unit had a path to an output and no bias were kept.
    return 3 + sum(2 + (after + 1) + after + (before + 1) for before, after in pairwise(layout.sizes)) + 3 * layout.kept


def pack(pattern: Pattern, params: Params) -> jax.Array:
    """Gather the kept weights of `params` as the vector theta, (kept,), in the order of the pattern.

    Raises:
        InputError: `params` is not a tree of the mask's shapes.
    """
    if (
        jax.tree.structure(params) != pattern.treedef
        or tuple(map(jnp.shape, jax.tree.leaves(params))) != pattern.shapes
    ):
        like = pattern.treedef.unflatten([np.empty(shape) for shape in pattern.shapes])
        check_same_structure(params, like, "the tree to be packed", "the pattern's")
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])[pattern.places]


def unpack(pattern: Pattern, theta: jax.Array) -> Params:
    """Put the kept weights back in their places; pruned ones are 0.0. The inverse of `pack`.

    Raises:
        InputError: theta is no vector of as many weights as the pattern keeps.
    """
    if jnp.shape(theta) != (pattern.layout.kept,):
        raise InputError(f"theta has shape {jnp.shape(theta)}, and the pattern keeps {pattern.layout.kept} weights")
    sizes = [int(np.prod(shape)) for shape in pattern.shapes]
    flat = jnp.zeros(sum(sizes), theta.dtype).at[pattern.places].set(theta, unique_indices=True)
    pieces = jnp.split(flat, np.cumsum(sizes)[:-1])
    return pattern.treedef.unflatten([p.reshape(shape) for p, shape in zip(pieces, pattern.shapes, strict=True)])
