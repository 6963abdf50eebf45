"""TD3's update, in the order of SBX: critics, targets, and at every `policy_delay`-th update the actor.

The paper updates the targets only together with the actor; here, as in SBX, they are updated every time.
"""

import functools
from typing import Any

import jax
import numpy as np

from ...pruning.masks import MaskedState
from ...types import Array, Batch, Params, namespace_of
from ..base import AgentState, Algorithm, moved_target, pruned_target
from ..networks import Apply
from .config import TD3Config
from .losses import actor_loss, critic_loss


class TD3(Algorithm):
    """Twin delayed DDPG. `noise` (n, action_dim) smooths the target policy."""

    config: TD3Config

    def losses(
        self, state: AgentState, params: dict[str, Params], batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> dict[str, jax.Array]:
        """Return the critic loss and the actor loss, for every batch."""
        fixed = jax.lax.stop_gradient(params)
        q_loss, _ = self._critic_loss(state, apply)(params["critic"], batch, noise)
        pi_loss = actor_loss(params["actor"], fixed["critic"], batch, apply["actor"], apply["critic"])
        return {"critic": q_loss, "actor": pi_loss}

    def _critic_loss(self, state: AgentState, apply: dict[str, Apply]) -> Apply:
        c = self.config

        def loss(params: Params, batch: Batch, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
            return critic_loss(
                params,
                state.targets["critic"],
                state.targets["actor"],
                batch,
                noise,
                apply["actor"],
                apply["critic"],
                c.discount,
                c.target_noise,
                c.target_noise_clip,
            )

        return loss  # type: ignore[return-value]

    def update(
        self, state: AgentState, batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        """Take one gradient step: critics, targets, and the actor if it is due."""
        c = self.config
        critic = self._critic_loss(state, apply)
        (q_loss, q_mean), grads = jax.value_and_grad(critic, has_aux=True)(state.params["critic"], batch, noise)
        critic_params, critic_opt = self.descend(state, "critic", grads)
        targets = {
            "actor": moved_target(state.params["actor"], state.targets["actor"], state.opts["actor"], c.tau),
            "critic": moved_target(critic_params, state.targets["critic"], critic_opt, c.tau),
        }
        actor = functools.partial(
            actor_loss,
            critic_params=critic_params,
            batch=batch,
            actor_apply=apply["actor"],
            critic_apply=apply["critic"],
        )

        def step() -> tuple[Params, MaskedState, Params]:
            params, opt = self.descend(state, "actor", jax.grad(actor)(state.params["actor"]))
            return params, opt, pruned_target(targets["actor"], opt)

        def wait() -> tuple[Params, MaskedState, Params]:
            return state.params["actor"], state.opts["actor"], targets["actor"]

        due = (state.grad_steps + 1) % c.policy_delay == 0
        actor_params, actor_opt, targets["actor"] = jax.lax.cond(due, step, wait)
        state = state._replace(
            params={"actor": actor_params, "critic": critic_params},
            targets=targets,
            opts={"actor": actor_opt, "critic": critic_opt},
            grad_steps=state.grad_steps + 1,
        )
        return state, {"critic_loss": q_loss, "q_mean": q_mean}

    def noise_shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of the noise for the target actions."""
        return n, self.spaces.action_dim

    def act(self, output: Array, noise: Array | None) -> Array:
        """Return tanh of the output, plus exploration noise clipped to [-1, 1]."""
        xp = namespace_of(output)
        action = xp.tanh(output)
        if noise is None:
            return action
        action = xp.clip(action + np.float32(self.config.exploration_noise) * noise, -1.0, 1.0)
        return action.astype(np.float32)

    def explore(self, rng: Any, n: int, progress: Any) -> Array:
        """Draw standard normal noise, (n, action_dim)."""
        return rng.standard_normal((n, self.spaces.action_dim), np.float32)
