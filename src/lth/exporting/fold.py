"""A smaller network with the same actions: units without a path removed, constants folded, observations dropped."""

import jax
import jax.numpy as jnp
import numpy as np

from ..pruning.structure import shrink
from .network import Layer, Network

MOST_SHIFTED = 10.0
"""A normalizer is folded into the first layer only where no mean is further from 0 than this many deviations, since the
difference that it takes would otherwise be one of large numbers."""


def fold(network: Network, low: np.ndarray | None = None, high: np.ndarray | None = None) -> Network:
    """Return a network that computes the same actions with less.

    Units that nothing reads and units that read nothing are removed, the latter into the next layer's biases (as `lth.shrink`).
    Observations that no unit reads are dropped. Where no observation within its bounds can be clipped, the normalizer is folded
    into the first layer. Hidden units are put in order of how many inputs they have, so that a loop over them is predictable.
    A layer with layer normalization keeps its units, since each of them takes part in its mean and variance.

    Args:
        network: a policy.
        low: the least that each observation can be, (observation_dim,); None: they have no bounds.
        high: the most.
    """
    if not any(layer.norm for layer in network.layers):
        activation = jax.nn.relu if network.activation == "relu" else jnp.tanh
        chain = shrink([(layer.kernel, layer.bias) for layer in network.layers], activation)
        layers = [Layer(np.asarray(kernel), np.asarray(bias)) for kernel, bias in chain]
    else:
        layers = list(network.layers)
    read = layers[0].kernel.any(axis=1)
    if not read.any():  # a constant policy; programs with empty tables are none
        read = np.arange(read.size) == 0
    layers[0] = layers[0]._replace(kernel=layers[0].kernel[read])
    network = network._replace(
        reads=network.reads[read], mean=network.mean[read], scale=network.scale[read], layers=tuple(layers)
    )
    if low is not None and high is not None and _never_clips(network, low, high):
        network = _folded_normalizer(network)
    return _ordered(network)


def unread(network: Network, kept: Network) -> list[int]:
    """Return the indices of the observations of `network` that do not bear on the actions, by what was `kept` of it."""
    used = kept.reads[kept.layers[0].kernel.any(axis=1)]
    return [i for i in range(network.observation_dim) if i not in set(used.tolist())]


def _never_clips(network: Network, low: np.ndarray, high: np.ndarray) -> bool:
    """Return whether no observation within its bounds is clipped, and the normalizer can be folded without loss of precision."""
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
    """Return a network whose weights are whole numbers from -127 to 127 times one scale for each unit.

    The scale is the unit's largest weight over 127; biases and activations stay float32. Weights that become 0 are pruned.
    """

    def quantized(layer: Layer) -> Layer:
        largest = np.abs(layer.kernel).max(axis=0)
        scales = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
        whole = np.rint(layer.kernel / scales)
        return layer._replace(kernel=(whole * scales).astype(np.float32), scales=scales)

    return network._replace(layers=tuple(quantized(layer) for layer in network.layers))
