"""Linear mode connectivity between two agents (Frankle et al. 2020, https://arxiv.org/abs/1912.05671).

The whole agent is interpolated: its networks, their targets, other learned values (SAC's log temperature), and the mean and
variance of the observation normalizer. So both ends are the trained agents, each with the normalizer that it was trained with. A
shared normalizer would change at least one of the ends and add a barrier that the weights do not have.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ..algorithms.base import AgentState, Algorithm
from ..types import Array, Batch


def interpolate(one: AgentState, other: AgentState, alpha: float) -> AgentState:
    """Return the agent at (1 - alpha) one + alpha other; its optimizers and counters are those of `one`, at alpha 1 of `other`.

    Where only one of two tickets keeps a weight, the other's is 0.

    >>> one, other = (lth.load(run).agent.state for run in (dense, ticket))  # doctest: +SKIP
    >>> middle = interpolate(one, other, 0.5)  # doctest: +SKIP

    Args:
        one: the state at alpha 0.
        other: the state at alpha 1, of the same algorithm and sizes.
        alpha: where on the line, in [0, 1].
    """
    if alpha in (0.0, 1.0):
        return other if alpha else one

    def between(a: Any, b: Any) -> Any:
        return jax.tree.map(lambda x, y: ((1.0 - alpha) * x + alpha * y).astype(x.dtype), a, b)

    linear = ("params", "targets", "values")
    state = one._replace(**{name: between(getattr(one, name), getattr(other, name)) for name in linear})
    mine, theirs = one.normalizer, other.normalizer
    return state._replace(
        normalizer=mine._replace(mean=between(mine.mean, theirs.mean), variance=between(mine.variance, theirs.variance))
    )


def losses(algorithm: Algorithm, state: AgentState, batch: Batch, noise: Array) -> dict[str, float]:
    """Return each network's training loss on a raw batch as `<network>_loss`, the policy's last.

    `noise` has the shape of `Algorithm.noise_shape`. The losses use the interpolated agent's own targets and policy.
    """
    found = _losses(algorithm)(state._replace(key=None), batch, noise)
    order = sorted(found, key=lambda name: name == algorithm.policy)
    return {f"{name}_loss": float(found[name]) for name in order}


@functools.cache
def _losses(algorithm: Algorithm) -> Callable[[AgentState, Batch, Array], dict[str, jax.Array]]:
    def of(state: AgentState, batch: Batch, noise: Array) -> dict[str, jax.Array]:
        batch = algorithm.prepare(state.normalizer, batch)
        return algorithm.losses(state, state.params, batch, noise, algorithm.applies())

    return jax.jit(of)
