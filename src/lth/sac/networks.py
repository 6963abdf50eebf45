"""The actor and the twin critics."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

LOG_STD_RANGE = (-20.0, 2.0)


class MLP(nn.Module):
    """Dense layers `layer_0`, `layer_1`, ... with ReLU between them, then a linear layer `output`."""

    hidden_sizes: Sequence[int]
    output_dim: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (n, input_dim) float32 to (n, output_dim)."""
        for i, size in enumerate(self.hidden_sizes):
            x = nn.Dense(size, name=f"layer_{i}")(x)
            if self.layer_norm:
                x = nn.LayerNorm(name=f"norm_{i}")(x)
            x = nn.relu(x)
        return nn.Dense(self.output_dim, name="output")(x)


def gaussian(output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split the actor's last layer, (n, 2 * action_dim), into mean and log_std, the latter clipped to [-20, 2]."""
    mean, log_std = jnp.split(output, 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


class Actor(nn.Module):
    """A Gaussian before the tanh: its mean and the logarithm of its standard deviation, (n, action_dim) each."""

    hidden_sizes: Sequence[int]
    action_dim: int

    def setup(self) -> None:
        """Share one network between mean and log_std, side by side in its output layer."""
        self.mlp = MLP(self.hidden_sizes, 2 * self.action_dim)
        nn.share_scope(self, self.mlp)

    def __call__(self, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map normalised observations (n, observation_dim) to mean and log_std, the latter clipped to [-20, 2]."""
        return gaussian(self.mlp(observations))


class TwinCritic(nn.Module):
    """Two independent action-value networks, `q1` and `q2`."""

    hidden_sizes: Sequence[int]
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Map normalised observations and actions in [-1, 1] to action values of shape (2, n)."""
        x = jnp.concatenate([observations, actions], axis=-1)
        values = [MLP(self.hidden_sizes, 1, self.layer_norm, name=name)(x) for name in ("q1", "q2")]
        return jnp.stack([value[:, 0] for value in values])
