"""A policy as data: the observations it reads, the normalizer, dense layers, and the output transform.

Everything is NumPy float32. `run` is the reference for all exported programs.
"""

from typing import Literal, NamedTuple

import numpy as np

from ..errors import InputError, brief
from ..types import ArrayLike

Activation = Literal["relu", "tanh"]
Squash = Literal["tanh", "clip", "none", "argmax"]
NORM_EPSILON = 1e-6
"""Flax's epsilon in layer normalization."""
UNKNOWN = "Check how it was computed"


class Layer(NamedTuple):
    """A dense layer with optional layer normalization."""

    kernel: np.ndarray
    """(inputs, outputs) float32."""
    bias: np.ndarray
    """(outputs,) float32."""
    norm: tuple[np.ndarray, np.ndarray] | None = None
    """The scale and the shift of layer normalization, (outputs,) each."""
    scales: np.ndarray | None = None
    """(outputs,) float32 for a quantized layer, whose kernel is these scales times integers from -127 to 127."""

    @property
    def weights(self) -> int:
        """The number of nonzero weights."""
        return int(np.count_nonzero(self.kernel))


def numbers(what: str, values: ArrayLike, hint: str = UNKNOWN) -> np.ndarray:
    """Return finite real numbers as float32, in which all programs compute.

    Args:
        what: the name of the argument or of the array, for the message.
        values: a number, an array, or nested lists.
        hint: what to do if they are not finite.

    Raises:
        InputError: they are not numbers, or are complex, NaN or infinite.
    """
    try:
        given = np.asarray(values)
    except (TypeError, ValueError) as error:  # nested lists of different lengths
        raise InputError(f"{what}: not an array of numbers: {brief(error)}") from None
    if given.dtype.kind not in "biufV":  # V: bfloat16 and narrower floats
        raise InputError(
            f"{what}: exported programs compute with real numbers, but these are {given.dtype}; pass an array of floats"
        )
    with np.errstate(over="ignore"):
        found = given.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        where = f" at {at}" if at else ""
        raise InputError(f"{what}: {given[at]}{where} is not finite in float32. {hint}")
    return found


def dense(i: int, kernel: ArrayLike, bias: ArrayLike) -> Layer:
    """Return dense layer `i` of a network.

    Raises:
        InputError: the kernel or the bias is not an array of finite real numbers.
    """
    hint = "If training diverged, export an earlier checkpoint"
    return Layer(numbers(f"the kernel of layer {i}", kernel, hint), numbers(f"the bias of layer {i}", bias, hint))


class Network(NamedTuple):
    """A deterministic policy from observations to actions, both in the environment's units."""

    observation_dim: int
    """The length of an observation."""
    reads: np.ndarray
    """(n,) the indices of the observations that are used, ascending."""
    mean: np.ndarray
    """(n,) float32: subtracted from these observations."""
    scale: np.ndarray
    """(n,) float32: then multiplied with them."""
    clip: float
    """Then they are clipped to [-clip, clip]; infinite: no clipping."""
    layers: tuple[Layer, ...]
    activation: Activation
    """Applied after every layer except the last."""
    squash: Squash
    """tanh: tanh scaled to [low, high]; clip: clipped to [low, high]; none: outputs are actions; argmax: index of the largest."""
    low: np.ndarray
    """(actions,) float32; empty for argmax."""
    high: np.ndarray
    first_action: int = 0
    """For argmax: the index of the first action."""

    @property
    def normalizes(self) -> bool:
        """Whether observations are transformed before the first layer."""
        return bool(np.isfinite(self.clip) or self.mean.any() or (self.scale != 1).any())

    @property
    def actions(self) -> int:
        """The length of an action, or the number of discrete actions."""
        return len(self.layers[-1].bias)

    @property
    def multiply_adds(self) -> int:
        """The number of multiply-adds per call with nonzero weights only."""
        return sum(layer.weights for layer in self.layers)

    @property
    def dense_multiply_adds(self) -> int:
        """The number of multiply-adds per call with whole matrices."""
        return sum(layer.kernel.size for layer in self.layers)


def outputs(network: Network, observations: np.ndarray) -> np.ndarray:
    """Return the last layer's outputs (n, actions) float32 for raw observations (n, observation_dim)."""
    x = np.asarray(observations, np.float32)[:, network.reads]
    if network.normalizes:
        x = np.clip((x - network.mean) * network.scale, -network.clip, network.clip)
    for layer in network.layers[:-1]:
        x = x @ layer.kernel + layer.bias
        if layer.norm is not None:
            x = x - x.mean(axis=1, keepdims=True)
            deviation = np.sqrt((x**2).mean(axis=1, keepdims=True) + np.float32(NORM_EPSILON))
            x = x / deviation * layer.norm[0] + layer.norm[1]
        x = np.maximum(x, 0.0) if network.activation == "relu" else np.tanh(x)
    return np.asarray(x @ network.layers[-1].kernel + network.layers[-1].bias)


def run(network: Network, observations: np.ndarray) -> np.ndarray:
    """Return actions in the environment's units for raw observations (n, observation_dim).

    Returns:
        (n, actions) float32; for argmax (n,) int64.
    """
    return finish(network, outputs(network, observations))


def finish(network: Network, found: np.ndarray) -> np.ndarray:
    """Convert the last layer's outputs (n, actions) to actions."""
    if network.squash == "argmax":
        chosen: np.ndarray = np.argmax(found, axis=1) + network.first_action
        return chosen
    if network.squash == "tanh":
        half, middle = halves(network)
        found = np.tanh(found) * half + middle
    return found if network.squash == "none" else np.clip(found, network.low, network.high)


def halves(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Return half the range of each action and its middle, (actions,) float32 each."""
    low, high = network.low, network.high
    return (high - low) * np.float32(0.5), (high + low) * np.float32(0.5)


def units(network: Network) -> np.ndarray:
    """Return the unit in which a difference of each action counts: max(half its range, 1), (actions,); empty without bounds."""
    found: np.ndarray = np.maximum(halves(network)[0], np.float32(1))
    return found
