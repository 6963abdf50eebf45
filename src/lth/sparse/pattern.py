"""Sparsity patterns: the kept weights of a network in the kernel's layout, and conversion to and from packed vectors."""

import functools
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
from . import native


class Layout(NamedTuple):
    """The part of a pattern that determines array shapes. Masks with equal layouts share one compilation."""

    sizes: tuple[int, ...]  # the network's widths from input to output, summed over the members of an ensemble
    kept: int  # parameters: weights, biases, and the scales and shifts of layer normalization
    members: int = 1
    normed: bool = False  # layer normalization after each hidden layer

    @property
    def kept_rows(self) -> int:
        """The number of activation rows that a block of examples stores for a backward pass (`kept_rows` of kernel.h)."""
        hidden = self.sizes[1:-1]
        return sum(hidden) * (2 if self.normed else 1) + (self.members * len(hidden) if self.normed else 0)


class Pattern(NamedTuple):
    """The kept weights of a multilayer perceptron, or of an ensemble of them with the same input.

    They are stored in one vector theta, (kept,) float32: first the weights with a path to an output, layer by layer, unit by unit,
    in the order of a unit's inputs; then the biases of such units; then all others, whose gradient is zero. An ensemble is one
    network with concatenated first layers and block-diagonal further layers.
    """

    layout: Layout
    """What decides the shapes of arrays: masks with equal counts share one compilation."""
    table: np.ndarray
    """The input of kernel.h, int32; its length follows from the layout."""
    places: np.ndarray
    """(kept,) int32: the index of each kept weight in the concatenation of all raveled leaves; padding is beyond the end."""
    shapes: tuple[tuple[int, ...], ...]
    """The shapes of the mask's leaves."""
    treedef: Any
    """The structure of the mask."""

    def __repr__(self) -> str:
        total = sum(int(np.prod(shape)) for shape in self.shapes)
        return f"Pattern({'-'.join(map(str, self.layout.sizes))}, {self.layout.kept} of {total} parameters kept)"


DENSE_FROM = {"x86-64-v4": 0.6, "x86-64-v3": 0.6, "aarch64": 0.6}
"""The density from which the kernel computes a block as a dense product, by instruction set (docs/performance.md). It is a
constant rather than measured at run time, so that the same seed gives the same bytes."""
_FEWEST_UNITS = 4  # the minimum units of a dense block: smaller tiles have no advantage over single rows


def make_pattern(mask: Mask, instruction_set: str | None = None, room: int = 0) -> Pattern:
    """Return the layout of the weights that a mask keeps, which `pack`, `unpack` and `sparse_mlp` take.

    >>> mask = {"output": {"kernel": np.array([[1.0], [0.0]]), "bias": np.ones(1)}}
    >>> make_pattern(mask, "x86-64-v3")
    Pattern(2-1, 2 of 3 parameters kept)

    Args:
        mask: dense layers `{"layer_0": {"kernel": (inputs, outputs), "bias": (outputs,)}, ..., "output": ...}`, applied in
            this order with ReLU between them, and with layer normalization `"norm_0": {"scale": (outputs,), "bias": (outputs,)},
            ...` before the ReLUs; or a dict of such networks with the same input (an ensemble). Zero is pruned; all other values
            are kept.
        room: reserve space for at least this many kept parameters, so that masks with fewer share a compilation. The padding is 0
            and stays 0.
        instruction_set: a key of `DENSE_FROM`, which determines the dense blocks; None is this processor's.

    Returns:
        The layout of the kept weights, which `pack`, `unpack` and `sparse_mlp` take.

    Raises:
        InputError: the mask is not that of a supported network; gives the reason of `unsupported_reason`.
        native.Unavailable: no instruction set is given, and the kernel does not support this processor.
    """
    if reason := unsupported_reason(mask):
        raise InputError(f"no sparse pattern can be made: {reason}")
    dense_from = DENSE_FROM[instruction_set or native.instruction_set()]
    leaves, treedef = jax.tree_util.tree_flatten_with_path(mask)
    sizes = [np.size(leaf) for _, leaf in leaves]
    place = {  # the index of each parameter; -1 if it is pruned
        path_name(path): np.where(np.asarray(leaf) != 0, np.arange(start, start + size).reshape(np.shape(leaf)), -1)
        for (path, leaf), start, size in zip(leaves, _offsets(sizes)[:-1], sizes, strict=True)
    }
    networks = list(_networks(mask))
    normed = bool(_norms(networks[0], place))
    kernels, biases, norms = [], [], []  # of the ensemble: (inputs, outputs), (outputs,), a pair of (outputs,)
    widths = []  # of each member, layer by layer
    for level, names in enumerate(zip(*networks, strict=True)):
        blocks = [place[f"{name}/kernel"] for name in names]
        widths.append([block.shape[1] for block in blocks])
        kernels.append(_block_diagonal(blocks) if level else np.concatenate(blocks, axis=1))
        biases.append(np.concatenate([place[f"{name}/bias"] for name in names]))
        if normed and level + 1 < len(networks[0]):
            both = (np.concatenate([place[f"{_norm_of(name)}/{part}"] for name in names]) for part in ("scale", "bias"))
            norms.append(tuple(both))

    # Units with a path to an output. In a normalized layer, all units affect its mean.
    alive: list[Any] = [np.ones(kernels[-1].shape[1], bool)]
    for kernel in kernels[:0:-1]:
        alive.insert(0, np.ones(kernel.shape[0], bool) if normed else (kernel[:, alive[0]] >= 0).any(axis=1))
    alive.insert(0, np.ones(kernels[0].shape[0], bool))
    bounds = [  # of the members among these units, layer by layer, input first
        np.concatenate([[0], np.cumsum([part.sum() for part in np.split(lives, np.cumsum(counts)[:-1])])])
        for lives, counts in zip(alive[1:], widths, strict=True)
    ]
    kernels = [k[np.ix_(before, after)] for k, (before, after) in zip(kernels, pairwise(alive), strict=True)]
    biases = [bias[after] for bias, after in zip(biases, alive[1:], strict=True)]

    used = np.concatenate(
        [
            *(k.T[k.T >= 0] for k in kernels),
            *(bias[bias >= 0] for bias in biases),
            *(part[part >= 0] for both in norms for part in both),
        ]
    )
    everything = np.concatenate([p[p >= 0] for p in place.values()])
    places = np.concatenate([used, np.setdiff1d(everything, used)]).astype(np.int32)
    theta = np.full(sum(sizes) + 1, -1)  # index among all parameters -> index in theta; -1 stays -1
    theta[places] = np.arange(len(places))

    beyond = max(room - len(places), 0)
    places = np.concatenate([places, sum(sizes) + np.arange(beyond)]).astype(np.int32)
    layout = Layout((kernels[0].shape[0], *map(len, alive[1:])), len(places), len(networks), normed)
    weights = sum(int((k >= 0).sum()) for k in kernels)
    parts: list[Any] = [[len(kernels), weights, len(places), int(normed)]]
    first = 0
    for level, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        parts_of_layer = _blocks(kernel, bounds[level - 1] if level else None, bounds[level], dense_from)
        groups = len(networks) if level < len(norms) else 0
        parts += [[*kernel.shape, len(parts_of_layer), groups]]
        parts += [first + _offsets((kernel >= 0).sum(axis=0)), theta[bias], first + _offsets((kernel >= 0).sum(axis=1))]
        if groups:
            parts += [bounds[level], *(theta[part] for part in norms[level])]
        parts += parts_of_layer
        first += int((kernel >= 0).sum())
    parts += [np.nonzero(k.T >= 0)[1] for k in kernels]  # the input of each weight, by units
    parts += [np.nonzero(k >= 0)[1] for k in kernels]  # the unit of each weight, by inputs
    parts += [theta[k[k >= 0]] for k in kernels]  # its index in theta
    table = np.zeros(_table_length(layout), np.int32)
    table[: sum(map(len, parts))] = np.concatenate(parts)
    return Pattern(layout, table, places, tuple(np.shape(leaf) for _, leaf in leaves), treedef)


def _blocks(kernel: np.ndarray, inputs: Any, units: Any, dense_from: float) -> list[list[int]]:
    """Return (unit, unit_end, input, input_end, dense) for each block; the first layer (`inputs` None) has one block per member."""
    bounds = [(0, kernel.shape[1], 0, kernel.shape[0])]
    if inputs is not None:
        bounds = [(*unit, *input_) for unit, input_ in zip(pairwise(units), pairwise(inputs), strict=True)]
    blocks = []
    for unit, unit_end, input_, input_end in bounds:
        kept = kernel[input_:input_end, unit:unit_end] >= 0
        dense = unit_end - unit >= _FEWEST_UNITS and kept.size > 0 and float(kept.mean()) >= dense_from
        blocks.append([int(unit), int(unit_end), int(input_), int(input_end), int(dense)])
    return blocks


def unsupported_reason(mask: Mask) -> str:
    """Return why the kernel cannot compute a network; an empty string if it can.

    >>> unsupported_reason({"output": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}})
    ''
    >>> unsupported_reason({"output": {"kernel": np.ones((3, 2)), "bias": np.ones(4)}})
    'output has a kernel (3, 2) and a bias (4,), but 3 inputs'

    Args:
        mask: as for `make_pattern`; only names and shapes are read.
    """
    if odd := [key for key in _keys(mask) if not isinstance(key, str)]:
        return f"its layers and their parts must have strings as names, but there is the key {odd[0]!r}"
    shapes = {path_name(path): np.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(mask)}
    names = sorted(shapes)
    networks = list(_networks(mask)) if isinstance(mask, dict) else []
    wanted = [f"{layer}/{part}" for network in networks for layer in network for part in ("kernel", "bias")]
    if networks and (norms := [norm for network in networks for norm in _norms(network, shapes)]):
        wanted += [f"{norm}/{part}" for norm in norms for part in ("scale", "bias")]
    uneven = len({(len(network), len(_norms(network, shapes))) for network in networks}) > 1
    if not networks or names != sorted(wanted) or uneven:
        odd = sorted(set(names) ^ set(wanted))
        return (
            "it must consist of dense layers layer_0, layer_1, ..., output with kernel and bias, and optionally norm_0, norm_1, "
            f"... before each ReLU ({', '.join(odd[:3]) or 'networks of different depth'})"
        )
    for network in networks:
        for before, layer in pairwise((networks[0][0], *network)):
            kernel, bias = shapes[f"{layer}/kernel"], shapes[f"{layer}/bias"]
            if len(kernel) != 2 or len(bias) != 1:
                return (
                    f"{layer} has a kernel {kernel} and a bias {bias}, but should have (inputs, outputs) and (outputs,)"
                )
            inputs = shapes[f"{before}/kernel"][0 if layer == network[0] else 1]
            if kernel != (inputs, *bias):
                return f"{layer} has a kernel {kernel} and a bias {bias}, but {inputs} inputs"
        for layer, norm in zip(network, _norms(network, shapes), strict=False):
            scale, shift = shapes[f"{norm}/scale"], shapes[f"{norm}/bias"]
            if not scale == shift == shapes[f"{layer}/bias"]:
                return (
                    f"{norm} has a scale {scale} and a bias {shift}, but {layer} has {shapes[f'{layer}/bias'][0]} units"
                )
    return ""


def _keys(tree: Any) -> Iterator[Any]:
    """Yield the keys of nested dicts."""
    if isinstance(tree, dict):
        for key, node in tree.items():
            yield key
            yield from _keys(node)


def _norm_of(layer: str) -> str:
    """Return the path of a hidden layer's normalization."""
    return "norm_".join(layer.rsplit("layer_", 1))


def _norms(network: list[str], paths: Any) -> list[str]:
    """Return the paths of a network's normalizations: one per hidden layer, or none."""
    norms = [_norm_of(layer) for layer in network[:-1]]
    return norms if any(f"{norm}/scale" in paths for norm in norms) else []


def _networks(mask: Mask) -> Iterator[list[str]]:
    """Yield the layer paths of each member, from input to output."""
    for prefix, network in [("", mask)] if "output" in mask else [(f"{name}/", mask[name]) for name in sorted(mask)]:
        if isinstance(network, dict):
            hidden = sum(name.startswith("layer_") for name in network)
            yield [f"{prefix}{name}" for name in (*(f"layer_{i}" for i in range(hidden)), "output")]


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
    # An upper bound: every unit has a path to an output.
    members, normed = layout.members, layout.normed
    hidden = sum((members + 1) + 2 * width for width in layout.sizes[1:-1]) if normed else 0
    layers = sum(4 + (after + 1) + after + (before + 1) + 5 * members for before, after in pairwise(layout.sizes))
    return 4 + layers + hidden + 3 * layout.kept


def pack(pattern: Pattern, params: Params) -> jax.Array:
    """Return the kept weights of `params` as one vector theta, (kept,) float32, in the order of the pattern.

    >>> mask = {"output": {"kernel": np.array([[1.0], [0.0]]), "bias": np.ones(1)}}
    >>> params = {"output": {"kernel": np.array([[2.0], [3.0]]), "bias": np.array([4.0])}}
    >>> pack(make_pattern(mask, "x86-64-v3"), params).tolist()
    [2.0, 4.0]

    Args:
        pattern: which weights are kept.
        params: a tree of the mask's structure and shapes.

    Raises:
        InputError: `params` does not have the structure or shapes of the mask.
    """
    if (
        jax.tree.structure(params) != pattern.treedef
        or tuple(map(jnp.shape, jax.tree.leaves(params))) != pattern.shapes
    ):
        like = pattern.treedef.unflatten([np.empty(shape) for shape in pattern.shapes])
        check_same_structure(params, like, "the tree to be packed", "the pattern's")
    theta: jax.Array = _gather(jax.tree.leaves(params), pattern.places)
    return theta


@functools.partial(jax.jit, inline=True)  # outside of a compiled function, one program and not one for each leaf
def _gather(leaves: list[jax.Array], places: jax.Array) -> jax.Array:
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    return flat.at[places].get(mode="fill", fill_value=0, unique_indices=True)


def unpack(pattern: Pattern, theta: jax.Array) -> Params:
    """Return the parameters of a vector of kept weights, with 0.0 where a weight is pruned. The inverse of `pack`.

    >>> pattern = make_pattern({"output": {"kernel": np.array([[1.0], [0.0]]), "bias": np.ones(1)}}, "x86-64-v3")
    >>> unpack(pattern, jnp.array([2.0, 4.0]))["output"]["kernel"].tolist()
    [[2.0], [0.0]]

    Args:
        pattern: which weights are kept.
        theta: (kept,) float32.

    Raises:
        InputError: theta is not a vector of as many weights as the pattern keeps.
    """
    if jnp.shape(theta) != (pattern.layout.kept,):
        raise InputError(f"theta has shape {jnp.shape(theta)}, but the pattern keeps {pattern.layout.kept} weights")
    return pattern.treedef.unflatten(_scatter(theta, pattern.places, pattern.shapes))


@functools.partial(jax.jit, static_argnums=2, inline=True)
def _scatter(theta: jax.Array, places: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = jnp.zeros(sum(sizes), theta.dtype).at[places].set(theta, mode="drop", unique_indices=True)
    pieces = jnp.split(flat, np.cumsum(sizes)[:-1])
    return [p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True)]
