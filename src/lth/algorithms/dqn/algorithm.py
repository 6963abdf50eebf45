"""DQN's update and its epsilon-greedy policy."""

from typing import Any

import jax
import numpy as np

from ...types import Array, Batch, Params, namespace_of
from ..base import AgentState, Algorithm, moved_target, pruned_target
from ..networks import Apply
from .config import DQNConfig
from .losses import q_loss


class DQN(Algorithm):
    """Deep Q-networks. Its updates take no noise."""

    config: DQNConfig

    def losses(
        self, state: AgentState, params: dict[str, Params], batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> dict[str, jax.Array]:
        """Return the Huber loss."""
        loss, _ = q_loss(params["q"], state.targets["q"], batch, apply["q"], self.config.discount, self.config.double)
        return {"q": loss}

    def update(
        self, state: AgentState, batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        """Take one gradient step; update the target if it is due."""
        c = self.config
        (loss, q_mean), grads = jax.value_and_grad(q_loss, has_aux=True)(
            state.params["q"], state.targets["q"], batch, apply["q"], c.discount, c.double
        )
        params, opt = self.descend(state, "q", grads)
        due = (state.grad_steps + 1) % c.target_every == 0
        target = jax.lax.cond(
            due,
            lambda: moved_target(params, state.targets["q"], opt, c.tau),
            lambda: pruned_target(state.targets["q"], opt),
        )
        state = state._replace(
            params={"q": params}, targets={"q": target}, opts={"q": opt}, grad_steps=state.grad_steps + 1
        )
        return state, {"q_loss": loss, "q_mean": q_mean}

    def noise_shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of no noise."""
        return (0,)

    def epsilon(self, progress: Any) -> Any:
        """Return the share of random actions when `progress` in [0, 1] of the environment steps are done."""
        c = self.config
        done = progress / c.exploration_fraction
        done = min(done, 1.0) if isinstance(done, float) else done.clip(max=1.0)
        return c.exploration_initial + done * (c.exploration_final - c.exploration_initial)

    def act(self, output: Array, noise: Array | None) -> Array:
        """Return the greedy action, (n, 1), or the random action from `noise` where it is not negative."""
        xp = namespace_of(output)
        best = xp.argmax(output, axis=1)[:, None].astype(np.float32)
        return best if noise is None else xp.where(noise < 0, best, noise)

    def explore(self, rng: Any, n: int, progress: Any) -> Array:
        """Draw for each environment a random action with probability epsilon, else -1; (n, 1) float32."""
        explores = rng.random((n, 1)) < self.epsilon(progress)
        return namespace_of(explores).where(explores, self.random_actions(rng, n), np.float32(-1.0))
