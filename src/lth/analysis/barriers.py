"""How much worse agents are on the line between two agents than at its ends. Does not import JAX."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import InputError


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
