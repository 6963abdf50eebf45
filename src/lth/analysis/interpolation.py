"""Linear mode connectivity: what lies on the straight line between two agents (Frankle et al. 2020,
https://arxiv.org/abs/1912.05671).

The whole agent is interpolated: actor, critics, target critics, the logarithm of the temperature, and the observation
normaliser's mean and variance. Both ends are so the agents themselves, each with the normaliser that its first layer was
trained behind; the normaliser of either one, or of the dense parent, would make at least one end another agent than the
one that was trained, and add a barrier that the weights do not have.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ..config import SACConfig
from ..errors import InputError
from ..sac.agent import SACState, functions, prepare_batch
from ..sac.losses import actor_loss, critic_loss
from ..types import Array, Batch

_LINEAR = ("actor_params", "critic_params", "target_critic_params", "log_alpha")


def interpolate(one: SACState, other: SACState, alpha: float) -> SACState:
    """Return the agent at (1 - alpha) one + alpha other; its optimisers and counters are those of `one`.

    Where only one of two tickets keeps a weight, the other's is 0.
    """
    if alpha in (0.0, 1.0):
        return other if alpha else one

    def between(a: Any, b: Any) -> Any:
        return jax.tree.map(lambda x, y: ((1.0 - alpha) * x + alpha * y).astype(x.dtype), a, b)

    state = one._replace(**{name: between(getattr(one, name), getattr(other, name)) for name in _LINEAR})
    mine, theirs = one.normalizer, other.normalizer
    return state._replace(
        normalizer=mine._replace(mean=between(mine.mean, theirs.mean), variance=between(mine.variance, theirs.variance))
    )


def losses(config: SACConfig, state: SACState, batch: Batch, noise: Array) -> dict[str, float]:
    """Return `critic_loss` and `actor_loss` of an agent on a raw batch; `noise` (2, n, action_dim) as in training.

    They are the losses that training minimises, with the agent's own targets: the critics' is how far the agent's values are
    from what its own policy, target critics and temperature say they should be.
    """
    q, pi = _losses(config, batch.actions.shape[1])(state._replace(key=None), batch, noise)
    return {"critic_loss": float(q), "actor_loss": float(pi)}


@functools.cache
def _losses(config: SACConfig, action_dim: int) -> Callable[[SACState, Batch, Array], tuple[jax.Array, jax.Array]]:
    fns = functions(config, action_dim)

    def both(state: SACState, batch: Batch, noise: Array) -> tuple[jax.Array, jax.Array]:
        batch = prepare_batch(config, state.normalizer, batch)
        q, _ = critic_loss(
            state.critic_params,
            state.target_critic_params,
            state.actor_params,
            state.log_alpha,
            batch,
            noise[0],
            fns.actor_apply,
            fns.critic_apply,
            config.discount,
        )
        pi, _ = actor_loss(
            state.actor_params, state.critic_params, state.log_alpha, batch, noise[1], fns.actor_apply, fns.critic_apply
        )
        return q, pi

    return jax.jit(both)


def barrier(alphas: Sequence[float], values: Sequence[float], higher_is_better: bool) -> float:
    """Return the largest amount by which a value on the line is worse than on the straight line between its ends.

    max over alpha of v(alpha) - ((1 - alpha) v(0) + alpha v(1)) for a loss, and of the negative for a return; never below 0.
    (Entezari et al. 2022, https://arxiv.org/abs/2110.06296; Frankle et al. take the mean of the ends instead of the line.)

    >>> barrier([0.0, 0.5, 1.0], [10.0, 4.0, 20.0], higher_is_better=True)
    11.0
    >>> barrier([0.0, 0.5, 1.0], [10.0, 4.0, 20.0], higher_is_better=False)
    0.0

    Raises:
        InputError: 0 or 1 is not among the alphas.
    """
    if not {0.0, 1.0} <= {*map(float, alphas)}:
        raise InputError(
            f"the line goes from alpha 0 to 1, and both ends are needed; these are {[*map(float, alphas)]}"
        )
    order = np.argsort(alphas)
    at, value = np.asarray(alphas, float)[order], np.asarray(values, float)[order]
    rise = value - ((1.0 - at) * value[0] + at * value[-1])
    return max(float(np.max(-rise if higher_is_better else rise)), 0.0) + 0.0  # and no -0.0
