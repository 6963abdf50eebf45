"""The loss of DQN, used by both training and saliency."""

import jax
import jax.numpy as jnp
import optax

from ...shapes import Float32
from ...types import Batch, Params
from ..networks import Apply


def q_loss(
    params: Params, target_params: Params, batch: Batch, q_apply: Apply, discount: float, double: bool
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Return the mean Huber loss to the target (Mnih et al. 2015), and the mean value of the actions taken.

    The target is r + discount * (1 - terminated) * Q_target(s', a'), where a' maximizes Q_target(s', .), or with `double`
    Q(s', .) (van Hasselt et al. 2016, eq. 4). `q_apply(params, observations)` returns (n, actions); the actions of the batch are
    integers (n, 1).
    """
    next_values = q_apply(target_params, batch.next_observations)
    if double:
        chosen = jnp.argmax(q_apply(jax.lax.stop_gradient(params), batch.next_observations), axis=1)
        best = jnp.take_along_axis(next_values, chosen[:, None], axis=1)[:, 0]
    else:
        best = jnp.max(next_values, axis=1)
    target = jax.lax.stop_gradient(batch.rewards + discount * (1.0 - batch.terminated) * best)
    taken = batch.actions.astype(jnp.int32)
    values = jnp.take_along_axis(q_apply(params, batch.observations), taken, axis=1)[:, 0]
    return jnp.mean(optax.huber_loss(values, target)), jnp.mean(values)
