"""Linear mode connectivity between two agents (Frankle et al. 2020, https://arxiv.org/abs/1912.05671).

The whole agent is interpolated: its networks, their targets, other learned values (SAC's log temperature), and the mean and
variance of the observation normalizer. So both ends are the trained agents, each with the normalizer that it was trained with. A
shared normalizer would change at least one of the ends and add a barrier that the weights do not have.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from ..algorithms.base import AgentState, Algorithm
from ..errors import InputError
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


def barrier(alphas: Sequence[float], values: Sequence[float], higher_is_better: bool) -> float:
    """Return the largest amount by which a value on the line is worse than on the straight line between its ends; at least 0.

    For a loss it is max over alpha of v(alpha) - ((1 - alpha) v(0) + alpha v(1)), for a return the same with the sign changed
    (Entezari et al. 2022, https://arxiv.org/abs/2110.06296; Frankle et al. use the mean of the ends instead of the line).

    >>> barrier([0.0, 0.5, 1.0], [10.0, 4.0, 20.0], higher_is_better=True)
    11.0
    >>> barrier([0.0, 0.5, 1.0], [10.0, 4.0, 20.0], higher_is_better=False)
    0.0

    Args:
        alphas: where on the line, in [0, 1]; 0 and 1 are among them.
        values: the value at each alpha.
        higher_is_better: True for a return, False for a loss.

    Raises:
        InputError: 0 or 1 is not among the alphas.
    """
    if not {0.0, 1.0} <= {*map(float, alphas)}:
        raise InputError(f"the alphas must contain 0 and 1, but are {[*map(float, alphas)]}")
    order = np.argsort(alphas)
    at, value = np.asarray(alphas, float)[order], np.asarray(values, float)[order]
    rise = value - ((1.0 - at) * value[0] + at * value[-1])
    return max(float(np.max(-rise if higher_is_better else rise)), 0.0) + 0.0  # and no -0.0


def line_barriers(points: Iterable[tuple[float, str, float]]) -> list[tuple[str, float, float, float]]:
    """Return for each metric of (alpha, metric, value) its barrier, its value at alpha 0 and its value at alpha 1.

    Lower is better for metrics that end in `_loss`, higher for others.

    >>> line_barriers([(0.0, "return", 10.0), (0.5, "return", 4.0), (1.0, "return", 20.0)])
    [('return', 11.0, 10.0, 20.0)]
    """
    lines: dict[str, dict[float, float]] = {}
    for alpha, metric, value in points:
        lines.setdefault(metric, {})[alpha] = value
    return [
        (metric, barrier([*line], [*line.values()], not metric.endswith("_loss")), line[0.0], line[1.0])
        for metric, line in lines.items()
    ]
