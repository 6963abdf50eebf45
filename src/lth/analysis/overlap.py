"""How much of two masks is the same, against what chance gives.

Chance means: each layer keeps as many weights as it does, at places drawn without regard to the other mask. The number of
weights that both keep is then hypergeometric in each layer, and independent between layers.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from ..pruning.layers import is_weight, layer_of, named_leaves
from ..types import Mask

CONFIDENCE = 0.95


class Overlap(NamedTuple):
    """What two masks share in one layer, or (`layer` empty) in all layers that either prunes.

    `low` and `high` hold the number of shared weights that chance gives with 95 % probability, 2.5 % at most on each side.
    """

    layer: str
    weights: int
    kept: int  # by the one mask
    kept_other: int
    shared: int  # kept by both
    expected: float  # by chance
    low: int
    high: int
    z: float  # (shared - expected) / standard deviation by chance; 0.0 where chance leaves no choice
    jaccard: float  # shared / kept by either; 1.0 where neither keeps any
    expected_jaccard: float  # the mean by chance


def overlap(mask: Mask, other: Mask) -> list[Overlap]:
    """Compare two masks of one network layer by layer, with their total first.

    Layers are matched by name, and left out where their shapes differ (masks of different tasks), or where both masks keep
    everything (excluded layers, of which the masks say nothing). Empty if no layer is left.

    >>> import numpy as np
    >>> one, two = ({"output": {"kernel": np.array([row])}} for row in ([1, 1, 0, 0], [1, 0, 1, 0]))
    >>> total = overlap(one, two)[0]
    >>> total.shared, total.expected, total.z, round(total.jaccard, 3)
    (1, 1.0, 0.0, 0.333)
    """
    first, second = (
        {
            name: np.asarray(leaf).astype(bool, copy=False)
            for name, leaf in named_leaves(tree).items()
            if is_weight(name, leaf)
        }
        for tree in (mask, other)
    )
    counts: dict[str, list[tuple[int, int, int, int]]] = {}
    for name, a in first.items():
        if name in second and a.shape == second[name].shape:
            kept, kept_other = int(np.count_nonzero(a)), int(np.count_nonzero(second[name]))
            both = int(np.count_nonzero(a & second[name]))
            counts.setdefault(layer_of(name), []).append((a.size, kept, kept_other, both))
    counts = {layer: some for layer, some in counts.items() if any(min(c[1:3]) < c[0] for c in some)}
    if not counts:
        return []
    return [
        compare("", [count for some in counts.values() for count in some]),
        *(compare(layer, some) for layer, some in counts.items()),
    ]


def compare(layer: str, counts: list[tuple[int, int, int, int]]) -> Overlap:
    """Compare layers together, given for each (weights, kept by one, kept by the other, kept by both)."""
    weights, kept, kept_other, shared = (sum(column) for column in zip(*counts, strict=True))
    start, probabilities = 0, np.ones(1)
    expected = variance = 0.0
    for n, a, b, _ in counts:
        at, more = shared_by_chance(n, a, b)
        start, probabilities = start + at, np.convolve(probabilities, more)
        expected += a * b / n
        variance += a * b * (n - a) * (n - b) / (n * n * (n - 1)) if n > 1 else 0.0
    values = start + np.arange(len(probabilities))
    below = np.cumsum(probabilities)
    tail = (1.0 - CONFIDENCE) / 2
    low = int(values[np.searchsorted(below, tail, side="right")])
    high = int(values[min(int(np.searchsorted(below, 1.0 - tail)), len(values) - 1)])
    either = kept + kept_other - values
    jaccards = np.divide(values, either, out=np.ones(len(values)), where=either > 0)
    union = kept + kept_other - shared
    return Overlap(
        layer,
        weights,
        kept,
        kept_other,
        shared,
        expected,
        low,
        high,
        (shared - expected) / math.sqrt(variance) if variance > 0 else 0.0,
        shared / union if union else 1.0,
        float(jaccards @ probabilities),
    )


@functools.lru_cache(maxsize=4096)
def shared_by_chance(weights: int, kept: int, kept_other: int) -> tuple[int, np.ndarray]:
    """Return the probabilities of k, k + 1, ... shared weights, and k; those below about 1e-30 are left out.

    P(s) = C(a, s) C(n - a, b - s) / C(n, b) for n weights of which the masks keep a and b.

    >>> start, probabilities = shared_by_chance(4, 2, 2)
    >>> start, probabilities.round(3).tolist()
    (0, [0.167, 0.667, 0.167])
    """
    n, a, b = weights, kept, kept_other
    mean = a * b / n if n else 0.0
    variance = a * b * (n - a) * (n - b) / (n * n * (n - 1)) if n > 1 else 0.0
    reach = 12.0 * math.sqrt(variance) + 40.0
    lowest, highest = max(0, a + b - n, math.floor(mean - reach)), min(a, b, math.ceil(mean + reach))
    s = np.arange(lowest, highest + 1)

    def log_choose(m: int, k: np.ndarray | int) -> np.ndarray:
        return np.asarray(gammaln(m + 1) - gammaln(k + 1) - gammaln(m - np.asarray(k) + 1))

    logs = log_choose(a, s) + log_choose(n - a, b - s) - log_choose(n, b)
    probabilities = np.exp(logs)
    return lowest, probabilities / probabilities.sum()
