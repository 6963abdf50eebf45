"""The losses of SAC, in the order of the paper (Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905).

Training and saliency both use these losses. Batches have normalized observations and scaled rewards. `actor_apply(params,
observations) -> mean, log_std` and `critic_apply(params, observations, actions) -> (2, n)` are arguments, so that packed networks
can replace them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...shapes import Float32
from ...types import Array, Batch, Params

ActorApply = Callable[[Params, jax.Array], tuple[jax.Array, jax.Array]]
CriticApply = Callable[[Params, jax.Array, jax.Array], jax.Array]
LOG_STD_RANGE = (-20.0, 2.0)


def gaussian(
    output: Float32[Array, "n outputs"],
) -> tuple[Float32[jax.Array, "n action_dim"], Float32[jax.Array, "n action_dim"]]:
    """Split the actor's last layer, (n, 2 * action_dim), into mean and log_std, the latter clipped to [-20, 2]."""
    mean, log_std = jnp.split(output, 2, axis=-1)
    return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def sample_action(
    mean: Float32[Array, "n action_dim"],
    log_std: Float32[Array, "n action_dim"],
    noise: Float32[Array, "n action_dim"],
) -> tuple[Float32[jax.Array, "n action_dim"], Float32[jax.Array, " n"]]:
    """Squash a Gaussian sample: a = tanh(mean + exp(log_std) * noise), and log pi(a) (appendix C, eq. 26).

    The correction log(1 - tanh(u)^2) is written 2 (log 2 - |u| - log(1 + exp(-2|u|))), which does not overflow. Shapes:
    (n, action_dim) in; actions (n, action_dim) in [-1, 1] and log-probabilities (n,) out.
    """
    u = mean + jnp.exp(log_std) * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi)
    # Not log1p, which XLA does not vectorize on CPU; the argument is in (1, 2], so only the last bits differ.
    squash = 2.0 * (jnp.log(2.0) - jnp.abs(u) - jnp.log(1.0 + jnp.exp(-2.0 * jnp.abs(u))))
    return jnp.tanh(u), jnp.sum(gaussian - squash, axis=-1)


def critic_loss(
    critic_params: Params,
    target_critic_params: Params,
    actor_params: Params,
    log_alpha: Float32[Array, ""],
    batch: Batch,
    noise: Float32[Array, "n action_dim"],
    actor_apply: ActorApply,
    critic_apply: CriticApply,
    discount: float,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Return J_Q (eq. 5 and 6), summed over both critics, and the mean action value.

    The target is r + discount * (1 - terminated) * (min Q_target(s', a') - alpha log pi(a' | s')), with a' from the current
    policy and `noise` (n, action_dim). Time limits do not count as termination.
    """
    next_actions, next_log_prob = sample_action(*actor_apply(actor_params, batch.next_observations), noise)
    next_values = jnp.min(critic_apply(target_critic_params, batch.next_observations, next_actions), axis=0)
    soft_values = next_values - jnp.exp(log_alpha) * next_log_prob
    target = jax.lax.stop_gradient(batch.rewards + discount * (1.0 - batch.terminated) * soft_values)
    values = critic_apply(critic_params, batch.observations, batch.actions)
    return 0.5 * jnp.sum(jnp.mean((values - target[None]) ** 2, axis=1)), jnp.mean(values)


def actor_loss(
    actor_params: Params,
    critic_params: Params,
    log_alpha: Float32[Array, ""],
    batch: Batch,
    noise: Float32[Array, "n action_dim"],
    actor_apply: ActorApply,
    critic_apply: CriticApply,
) -> tuple[Float32[jax.Array, ""], Float32[jax.Array, ""]]:
    """Return J_pi = E[alpha log pi(a | s) - min Q(s, a)] (eq. 7 and 9), and E[log pi]."""
    actions, log_prob = sample_action(*actor_apply(actor_params, batch.observations), noise)
    values = jnp.min(critic_apply(critic_params, batch.observations, actions), axis=0)
    return jnp.mean(jnp.exp(log_alpha) * log_prob - values), jnp.mean(log_prob)


def temperature_loss(
    log_alpha: Float32[jax.Array, ""], mean_log_prob: Float32[jax.Array, ""], target_entropy: float, by: str
) -> Float32[jax.Array, ""]:
    """Return J_alpha = -x (E[log pi] + target entropy), where x is alpha (eq. 18) or log alpha (SBX, Stable-Baselines3).

    Both are zero at the same entropy. The gradient of the first with respect to log alpha is alpha times that of the second, so it
    vanishes as alpha shrinks.
    """
    factor = jnp.exp(log_alpha) if by == "alpha" else log_alpha
    return -factor * jax.lax.stop_gradient(mean_log_prob + target_entropy)
