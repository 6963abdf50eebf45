"""Simplify a network without changing its actions: remove unused units, fold constants, drop unused observations."""

import jax
import jax.numpy as jnp
import numpy as np

from ..pruning.structure import shrink
from .network import Layer, Network

FLOAT = np.finfo(np.float32)
MOST_SHIFTED = 10.0
"""The normalizer is folded into the first layer only if all means are within this many standard deviations of 0, to avoid
cancellation of large numbers."""


def fold(network: Network, low: np.ndarray | None = None, high: np.ndarray | None = None) -> Network:
    """Return a smaller network that computes the same actions.

    Removes units that are not read and units without inputs, which are folded into the next layer's biases (see `lth.shrink`).
    Drops observations that no unit reads. If observations within their bounds are never clipped, folds the normalizer into the
    first layer. Sorts hidden units by their number of inputs, so that loops over them are predictable. Layers with layer
    normalization keep all units, because each affects the mean and variance.

    Args:
        network: a policy.
        low: the lower bound of each observation, (observation_dim,); None: unbounded.
        high: the upper bound.
    """
    if not any(layer.norm for layer in network.layers):
        activation = jax.nn.relu if network.activation == "relu" else jnp.tanh
        chain = shrink([(layer.kernel, layer.bias) for layer in network.layers], activation)
        layers = [Layer(np.asarray(kernel), np.asarray(bias)) for kernel, bias in chain]
    else:
        layers = list(network.layers)
    read = layers[0].kernel.any(axis=1)
    if not read.any():  # a constant policy; keep one input, because tables must not be empty
        read = np.arange(read.size) == 0
    layers[0] = layers[0]._replace(kernel=layers[0].kernel[read])
    network = network._replace(
        reads=network.reads[read], mean=network.mean[read], scale=network.scale[read], layers=tuple(layers)
    )
    if low is not None and high is not None and _never_clips(network, low, high):
        network = _folded_normalizer(network)
    return _ordered(network)


def unread(network: Network, kept: Network) -> list[int]:
    """Return the indices of observations of `network` that do not affect the actions, given its folded version `kept`."""
    used = kept.reads[kept.layers[0].kernel.any(axis=1)]
    dropped: list[int] = np.setdiff1d(np.arange(network.observation_dim), used).tolist()
    return dropped


def _never_clips(network: Network, low: np.ndarray, high: np.ndarray) -> bool:
    """Return whether observations within their bounds are never clipped and folding the normalizer loses no precision."""
    low, high = low[network.reads].astype(np.float64), high[network.reads].astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return False
    ends = np.stack([(low - network.mean) * network.scale, (high - network.mean) * network.scale])
    shifted = np.abs(network.mean * network.scale)
    return bool(np.abs(ends).max() <= network.clip and shifted.max() <= MOST_SHIFTED)


def _folded_normalizer(network: Network) -> Network:
    first = network.layers[0]
    kernel = first.kernel.astype(np.float64) * network.scale[:, None].astype(np.float64)
    bias = first.bias - network.mean.astype(np.float64) @ kernel
    first = first._replace(kernel=kernel.astype(np.float32), bias=bias.astype(np.float32))
    n = len(network.reads)
    return network._replace(
        mean=np.zeros(n, np.float32),
        scale=np.ones(n, np.float32),
        clip=np.inf,
        layers=(first, *network.layers[1:]),
    )


def _ordered(network: Network) -> Network:
    layers = list(network.layers)
    for i in range(len(layers) - 1):
        layer = layers[i]
        order = np.argsort(-np.count_nonzero(layer.kernel, axis=0), kind="stable")
        norm = layer.norm and (layer.norm[0][order], layer.norm[1][order])
        layers[i] = Layer(layer.kernel[:, order], layer.bias[order], norm)
        layers[i + 1] = layers[i + 1]._replace(kernel=layers[i + 1].kernel[order])
    return network._replace(layers=tuple(layers))


def quantize(network: Network) -> Network:
    """Return a network whose weights are integers from -127 to 127 times one scale per unit.

    The scale is the unit's largest weight divided by 127, but at least the smallest normal float32; biases and activations stay
    float32. Weights rounded to 0 are pruned.
    """

    def quantized(layer: Layer) -> Layer:
        largest = np.abs(layer.kernel).max(axis=0)
        # Below the normal numbers a scale loses bits, so that integers exceed 127; above, 127 scales are infinite.
        top = np.nextafter(FLOAT.max / np.float32(127), np.float32(0))
        scale = np.clip(largest / np.float32(127), FLOAT.tiny, top)
        scales = np.where(largest > 0, scale, np.float32(1)).astype(np.float32)
        whole = np.rint(layer.kernel / scales)
        return layer._replace(kernel=(whole * scales).astype(np.float32), scales=scales)

    return network._replace(layers=tuple(quantized(layer) for layer in network.layers))
