"""The losses of TD3 (Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477), algorithm 1.

Training and saliency both use these losses. Batches have normalized observations and scaled rewards.
`actor_apply(params, observations)` returns (n, action_dim) before the tanh, `critic_apply(params, observations,
actions)` returns (2, n).
"""

import jax
import jax.numpy as jnp

from ...shapes import Float32
from ...types import Array, Batch, Params
from ..networks import Apply


def critic_loss(
    critic_params: Params,
    target_critic_params: Params,
    target_actor_params: Params,
    batch: Batch,
    noise: Float32[Array, "n action_dim"],
    actor_apply: Apply,
    critic_apply: Apply,
    discount: float,
    target_noise: float,
    noise_clip: float,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Return half the mean squared error to the target (eq. 10 and 14), summed over both critics, and the mean action value.

    The target is r + discount * (1 - terminated) * min Q_target(s', a'), where a' is the target actor's action plus the
    standard normal `noise` (n, action_dim), scaled by `target_noise` and clipped to +-`noise_clip`, clipped to [-1, 1].
    """
    smoothing = jnp.clip(noise * target_noise, -noise_clip, noise_clip)
    next_actions = jnp.tanh(actor_apply(target_actor_params, batch.next_observations))
    next_actions = jnp.clip(next_actions + smoothing, -1.0, 1.0)
    next_values = jnp.min(critic_apply(target_critic_params, batch.next_observations, next_actions), axis=0)
    target = jax.lax.stop_gradient(batch.rewards + discount * (1.0 - batch.terminated) * next_values)
    values = critic_apply(critic_params, batch.observations, batch.actions)
    return 0.5 * jnp.sum(jnp.mean((values - target[None]) ** 2, axis=1)), jnp.mean(values)


def actor_loss(
    actor_params: Params, critic_params: Params, batch: Batch, actor_apply: Apply, critic_apply: Apply
) -> jax.Array:
    """Return the negative mean action value of the actor's actions.

    The value is the minimum over both critics, as in SBX; the paper's algorithm 1 uses the first critic.
    """
    actions = jnp.tanh(actor_apply(actor_params, batch.observations))
    return -jnp.mean(jnp.min(critic_apply(critic_params, batch.observations, actions), axis=0))
