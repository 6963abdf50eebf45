"""Structured sparsity: N:M patterns, and pruned neurons that `shrink` removes from the network.

A chain is a list of (kernel, bias) in the order in which a network of dense layers applies them: kernels (inputs, outputs),
biases (outputs,), with one activation between layers and none after the last.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Mask, Params
from .allocation import check_sparsity, pruned_count
from .chains import is_chain, put_back, read_chain
from .layers import Prunable, StackAxes, layers, named_leaves
from .masks import check_same_structure
from .prune import check_finite

Chain = Sequence[tuple[Array, Array]]


def n_of_m_mask(
    params: Params,
    n: int,
    m: int,
    scores: Params | None = None,
    axis: int | None = None,
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
) -> Mask:
    """Keep the `n` highest-scoring weights in every group of `m` consecutive weights. Ties: the earlier stays.

    A layer whose axis length is not a multiple of `m` stays dense; a warning names it.

    >>> n_of_m_mask({"w": jnp.array([[4.0], [-3.0], [1.0], [2.0]])}, 2, 4)["w"].ravel().tolist()
    [1.0, 1.0, 0.0, 0.0]

    Args:
        params: the weights.
        n: the number of weights kept in each group, from 0 to m.
        m: the size of a group.
        scores: a tree like `params`; None: |w|.
        axis: the axis along which groups lie. None: the inputs of a unit, as `layers` finds them (for the output projection of
            an attention layer, heads and features together; for a convolution, its channels).
        exclude: layers that stay dense; each entry is any part of a layer's path.
        prunable: see `prune`.
        stack_axes: see `prune`.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned.

    Raises:
        InputError: n, m or the axis is not an integer, or not 0 <= n <= m; a layer does not have the axis; the scores do not
            fit, are complex or NaN; a weight is not finite; or an error of `layers`.
    """
    for name, value in (("n", n), ("m", m), *([] if axis is None else [("axis", axis)])):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InputError(f"{name} is {value!r}, but must be an integer")
    if not 0 <= n <= m or m < 1:
        raise InputError(f"cannot keep {n} of {m} weights; n must be from 0 to m, as in 2 of 4")
    rows = layers(params, exclude, prunable, stack_axes)
    leaves = named_leaves(params)
    if scores is not None:
        check_same_structure(scores, params, "the scores' tree", "the parameters'")
    scored = [*leaves.values()] if scores is None else jax.tree.leaves(scores)
    mask, uneven = [], []
    for (name, leaf), score, row in zip(leaves.items(), scored, rows, strict=True):
        if row.prunable:
            check_finite(leaf, f"parameters: {name!r}")
        kept = np.ones(leaf.shape, leaf.dtype)
        axes = row.input_axes if axis is None else (axis,)
        if row.prunable and not all(-leaf.ndim <= a < leaf.ndim for a in axes or (leaf.ndim,)):
            raise InputError(f"{name!r} has {leaf.ndim} axes and no {'input axis' if axis is None else f'axis {axis}'}")
        along = math.prod(leaf.shape[a] for a in axes) if row.prunable else 0
        if row.prunable and along % m:
            uneven.append(f"{row.layer} ({along})")
        elif row.prunable:
            ends = range(-len(axes), 0)
            last = np.moveaxis(_real(score, f"of {name!r}") if scores is not None else _sizes(score), axes, ends)
            ranks = np.argsort(np.argsort(-last.reshape(-1, m), axis=1, kind="stable"), axis=1, kind="stable")
            kept = np.moveaxis((ranks < n).reshape(last.shape), ends, axes).astype(leaf.dtype)
        mask.append(jnp.asarray(kept))
    if uneven:
        warnings.warn(
            f"{n} of {m}: the inputs of {', '.join(uneven)} are not a multiple of {m}; left dense", stacklevel=2
        )
    return jax.tree.unflatten(jax.tree.structure(params), mask)


def neuron_masks(chain: Chain, sparsity: float, scores: Sequence[Array] | None = None) -> list[tuple[Array, Array]]:
    """Return masks that prune the hidden units with the lowest scores, `round(sparsity * units)` of each hidden layer.

    A pruned unit loses its inputs, its bias and its outputs. At least one unit of each layer stays.

    >>> chain = [(jnp.array([[1.0, 0.1]]), jnp.zeros(2)), (jnp.ones((2, 1)), jnp.zeros(1))]
    >>> [kernel.tolist() for kernel, _ in neuron_masks(chain, 0.5)]
    [[[1.0, 0.0]], [[1.0], [0.0]]]

    Args:
        chain: (kernel (inputs, outputs), bias (outputs,)) of each dense layer, in the order in which they are applied.
        sparsity: the fraction of the hidden units to remove, in [0, 1].
        scores: a score for each weight, an array like each kernel; a unit's score is the sum over its inputs, ties: the earlier
            stays. None: |w| (Li et al. 2017, https://arxiv.org/abs/1608.08710).

    Returns:
        Masks like the chain, 1 kept and 0 pruned.

    Raises:
        InputError: the chain's shapes do not fit each other, the sparsity is outside [0, 1], the scores do not fit, are complex
            or NaN, or a weight is not finite.
    """
    check_chain(chain)
    check_sparsity(sparsity)
    for i, (kernel, _) in enumerate(chain):
        check_finite(kernel, f"the kernel of layer {i}")
    if scores is not None:
        shapes, fitting = [np.shape(score) for score in scores], [np.shape(kernel) for kernel, _ in chain]
        # The last layer has no hidden units, so its scores are not read.
        if len(shapes) not in (len(chain) - 1, len(chain)) or shapes[: len(chain) - 1] != fitting[:-1]:
            raise InputError(
                f"the scores have the shapes {shapes}, but the kernels {fitting}; give a score for each weight: one array like "
                "each kernel"
            )
    masks = [(np.ones(np.shape(kernel), np.float32), np.ones(np.shape(bias), np.float32)) for kernel, bias in chain]
    for i, (kernel, _) in enumerate(chain[:-1]):
        of_weights = _sizes(kernel) if scores is None else _real(scores[i], f"of layer {i}")
        units = _real(of_weights.sum(axis=0), f"of the units of layer {i}")
        gone = np.argsort(-units, kind="stable")[units.size - min(pruned_count(units.size, sparsity), units.size - 1) :]
        masks[i][0][:, gone], masks[i][1][gone], masks[i + 1][0][gone] = 0, 0, 0
    return [(jnp.asarray(kernel), jnp.asarray(bias)) for kernel, bias in masks]


def shrink(params: Any, activation: Callable[[Array], Array] = jax.nn.relu, order: Sequence[str] | None = None) -> Any:
    """Remove unused units and return a smaller network with the same outputs, if `activation` is the network's.

    A hidden unit without inputs (its column is 0) is a constant, and is folded into the biases of the next layer. A unit without
    outputs (its row in the next kernel is 0) is removed. At least one unit per layer stays. Sums are in float64, so that outputs
    differ only by rounding. Complex weights stay complex.

    >>> small = shrink([(jnp.array([[0.0, 2.0]]), jnp.array([3.0, 0.0])), (jnp.array([[10.0], [1.0]]), jnp.array([0.5]))])
    >>> [kernel.tolist() for kernel, _ in small], small[1][1].tolist()
    ([[[2.0]], [[1.0]]], [30.5])

    Args:
        params: a chain, or the parameters of a network of dense layers from Flax, Equinox, Haiku or NNX.
        activation: the activation between layers, which the parameters do not tell. For any but ReLU it must be given, as in
            `activation=jnp.tanh`; with a wrong one, the smaller network is another function.
        order: the layer names in the order in which they are applied; needed only for parameters that are not a chain and whose
            order does not follow from the numbers in their names or from their shapes. A chain is in order.

    Returns:
        A chain, or a tree like `params` with smaller arrays.

    Raises:
        InputError: the shapes of the layers do not fit each other, `params` is not a chain of dense layers, or `order` is given
            with a chain.
    """
    if is_chain(params, order):
        return _shrunk(params, activation)
    reading = read_chain(params, order)
    return put_back(params, reading, _shrunk(reading.chain, activation))


def _real(scores: Array, whose: str) -> np.ndarray:
    """Return scores that can be ranked, as float64.

    Raises:
        InputError: they are complex or NaN.
    """
    found = np.asarray(scores)
    if np.iscomplexobj(found):
        raise InputError(
            f"the scores {whose} are complex and have no order; pass real ones, such as their absolute values"
        )
    wide = found.astype(np.float64)
    if np.isnan(wide).any():
        raise InputError(f"the scores {whose} are NaN; check how they were computed")
    return wide


def _sizes(weights: Array) -> np.ndarray:
    """Return |w| as float64. Of the lowest int8, -128, int8 has none."""
    sizes: np.ndarray = np.abs(_wide(weights))
    return sizes


def _wide(values: Array) -> np.ndarray:
    """Return values as float64, or as complex128 if they are complex."""
    return np.asarray(values, np.complex128 if np.iscomplexobj(values) else np.float64)


def _shrunk(chain: Chain, activation: Callable[[Array], Array]) -> list[tuple[Array, Array]]:
    check_chain(chain)
    dtypes = [(jnp.asarray(kernel).dtype, jnp.asarray(bias).dtype) for kernel, bias in chain]
    layers = [(_wide(kernel), _wide(bias)) for kernel, bias in chain]

    def keep(i: int, units: Array) -> None:
        kernel, bias = layers[i]
        if not units.any():  # one unit stays, which is not read, so it need not read anything
            units = np.arange(units.size) == 0
            kernel = np.zeros_like(kernel)
        layers[i] = kernel[:, units], bias[units]
        layers[i + 1] = layers[i + 1][0][units], layers[i + 1][1]

    for i in range(
        len(layers) - 1
    ):  # constants, from inputs to outputs: a unit with only constant inputs is a constant too
        (kernel, bias), (following, next_bias) = layers[i], layers[i + 1]
        constant = ~kernel.any(axis=0)
        if constant.any():
            single = jnp.complex64 if np.iscomplexobj(bias) else jnp.float32
            values = _wide(activation(jnp.asarray(bias, jnp.promote_types(jnp.result_type(*dtypes[i]), single))))[
                constant
            ]
            cleared = following.copy()
            cleared[constant] = 0.0
            layers[i + 1] = cleared, next_bias + values @ following[constant]
        keep(i, ~constant)
    for i in reversed(range(len(layers) - 1)):  # unread units, from outputs to inputs
        keep(i, layers[i + 1][0].any(axis=1))

    def narrow(values: np.ndarray, dtype: Any) -> Array:
        # A complex constant makes a real bias complex.
        return jnp.asarray(values, jnp.promote_types(dtype, jnp.complex64) if np.iscomplexobj(values) else dtype)

    return [
        (narrow(kernel, of_kernel), narrow(bias, of_bias))
        for (kernel, bias), (of_kernel, of_bias) in zip(layers, dtypes, strict=True)
    ]


def check_chain(chain: Chain) -> None:
    """Raise InputError unless the shapes of consecutive layers of a chain fit."""
    for i, (kernel, bias) in enumerate(chain):
        if np.ndim(kernel) != 2 or np.shape(bias) != np.shape(kernel)[1:]:
            raise InputError(
                f"layer {i} of the chain has a kernel of shape {np.shape(kernel)} and a bias of shape {np.shape(bias)}; "
                "expected (inputs, outputs) and (outputs,). Equinox stores transposed weights: transpose them."
            )
        if i and np.shape(kernel)[0] != np.shape(chain[i - 1][1])[0]:
            raise InputError(
                f"layer {i} of the chain takes {np.shape(kernel)[0]} inputs, but layer {i - 1} has {np.shape(chain[i - 1][1])[0]} "
                "outputs; list the layers in the order in which the network applies them"
            )
