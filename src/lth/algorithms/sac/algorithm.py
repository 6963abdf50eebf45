"""SAC's update, in the order of the paper (Haarnoja et al. 2018, algorithm 1), and its policy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...types import Array, Batch, Params, namespace_of
from ..base import AgentState, Algorithm, moved_target
from ..networks import Apply
from .config import SACConfig
from .losses import LOG_STD_RANGE, ActorApply, actor_loss, critic_loss, gaussian, temperature_loss


class SAC(Algorithm):
    """Soft actor-critic. `noise` (2, n, action_dim) is for the next actions of the target and for the actor's loss."""

    config: SACConfig

    @property
    def target_entropy(self) -> float:
        """The target entropy of the temperature, in nats (appendix D: minus the number of action dimensions)."""
        wanted: float | None = self.config.target_entropy
        return -float(self.spaces.action_dim) if wanted is None else wanted

    def initial_values(self) -> dict[str, Any]:
        """Return the logarithm of the temperature, which is learned."""
        start = jnp.log(jnp.float32(self.config.initial_alpha))
        return {"log_alpha": ("alpha", start, optax.adam(self.config.alpha_learning_rate))}

    def losses(
        self, state: AgentState, params: dict[str, Params], batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> dict[str, jax.Array]:
        """Return J_Q and J_pi (eq. 5 and 7)."""
        fixed, actor, critic = jax.lax.stop_gradient(params), gaussian_of(apply["actor"]), apply["critic"]
        q_loss, _ = critic_loss(
            params["critic"],
            state.targets["critic"],
            fixed["actor"],
            state.values["log_alpha"],
            batch,
            noise[0],
            actor,
            critic,
            self.config.discount,
        )
        pi_loss, _ = actor_loss(
            params["actor"], fixed["critic"], state.values["log_alpha"], batch, noise[1], actor, critic
        )
        return {"critic": q_loss, "actor": pi_loss}

    def update(
        self, state: AgentState, batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        """Take one gradient step: critics, actor, temperature, targets."""
        actor, critic = gaussian_of(apply["actor"]), apply["critic"]
        log_alpha = state.values["log_alpha"]
        (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(
            state.params["critic"],
            state.targets["critic"],
            state.params["actor"],
            log_alpha,
            batch,
            noise[0],
            actor,
            critic,
            self.config.discount,
        )
        critic_params, critic_opt = self.descend(state, "critic", grads)

        (pi_loss, log_prob), grads = jax.value_and_grad(actor_loss, has_aux=True)(
            state.params["actor"], critic_params, log_alpha, batch, noise[1], actor, critic
        )
        actor_params, actor_opt = self.descend(state, "actor", grads)

        target = moved_target(critic_params, state.targets["critic"], critic_opt, self.config.tau)

        grad = jax.grad(temperature_loss)(log_alpha, log_prob, self.target_entropy, self.config.temperature_loss)
        ((_, _, tx),) = self.initial_values().values()
        updates, alpha_opt = tx.update(grad, state.opts["alpha"])
        log_alpha = optax.apply_updates(log_alpha, updates)

        state = state._replace(
            params={"actor": actor_params, "critic": critic_params},
            targets={"critic": target},
            values={"log_alpha": log_alpha},
            opts={"actor": actor_opt, "critic": critic_opt, "alpha": alpha_opt},
            grad_steps=state.grad_steps + 1,
        )
        metrics = {
            "critic_loss": q_loss,
            "actor_loss": pi_loss,
            "alpha": jnp.exp(log_alpha),
            "entropy": -log_prob,
            "q_mean": q_mean,
        }
        return state, metrics

    def noise_shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of the noise for the actions at s' and at s."""
        return 2, n, self.spaces.action_dim

    def act(self, output: Array, noise: Array | None) -> Array:
        """Sample actions from the squashed Gaussian, or return the tanh of the mean."""
        xp, dim = namespace_of(output), self.spaces.action_dim
        before = output[:, :dim]
        if noise is not None:
            before = before + xp.exp(xp.clip(output[:, dim:], *LOG_STD_RANGE)) * noise.astype(np.float32)
        return xp.tanh(before)

    def explore(self, rng: Any, n: int, progress: Any) -> Array:
        """Draw standard normal noise, (n, action_dim)."""
        return rng.standard_normal((n, self.spaces.action_dim), np.float32)


def gaussian_of(apply: Apply) -> ActorApply:
    """Return the actor as a function that returns mean and log_std."""
    return lambda params, observations: gaussian(apply(params, observations))
