"""Flax modules for `architecture.Network`."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..types import Params
from .architecture import Network


class MLP(nn.Module):
    """Dense layers `layer_0`, `layer_1`, ... with ReLU between them, then a linear layer `output`."""

    hidden_sizes: Sequence[int]
    output_dim: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Map arrays (n, width) float32, concatenated, to (n, output_dim)."""
        x = side_by_side(inputs)
        for i, size in enumerate(self.hidden_sizes):
            x = nn.Dense(size, name=f"layer_{i}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(name=f"norm_{i}")(x)
            x = nn.relu(x)
        return nn.Dense(self.output_dim, name="output")(x)


class Ensemble(nn.Module):
    """Independent networks with one output each, such as the twin critics `q1` and `q2`."""

    members: Sequence[str]
    hidden_sizes: Sequence[int]
    layer_norm: bool = False

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """Map arrays (n, width) float32, concatenated, to (members, n)."""
        x = side_by_side(inputs)
        values = [MLP(self.hidden_sizes, 1, self.layer_norm, name=name)(x) for name in self.members]
        return jnp.stack([value[:, 0] for value in values])


def side_by_side(inputs: Sequence[jax.Array]) -> jax.Array:
    """Concatenate arrays (n, width) along the last axis."""
    return jnp.concatenate(inputs, axis=-1) if len(inputs) > 1 else inputs[0]


def module_of(network: Network) -> nn.Module:
    """Return the Flax module of a network."""
    if network.members:
        return Ensemble(network.members, network.hidden, network.layer_norm)
    return MLP(network.hidden, network.outputs, network.layer_norm)


Apply = Callable[..., jax.Array]
"""(params, *inputs) -> (n, outputs), or (members, n) for an ensemble; params without Flax's outer key."""


def apply_of(network: Network) -> Apply:
    """Return a network as a pure function."""
    module = module_of(network)

    def apply(params: Params, *inputs: jax.Array) -> jax.Array:
        outputs: Any = module.apply({"params": params}, *inputs)  # without mutable variables an array alone
        return jnp.asarray(outputs)

    return apply
