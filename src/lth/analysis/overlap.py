"""The overlap of two masks, compared with chance.

Chance means that each layer keeps the same number of weights at random positions, independent of the other mask. The number of
shared weights is then hypergeometric in each layer, and independent between layers.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..pruning.names import is_weight, layer_of
from ..types import Array, Mask

CONFIDENCE = 0.95
LEAST_SHARED = 0.8
"""A mask is unstable if the masks of two halves of the batches share less than this fraction of the kept weights."""


class Overlap(NamedTuple):
    """The overlap of two masks in one layer, or (`layer` empty) in all layers that at least one mask prunes.

    `low` and `high` are the bounds of the number of shared weights by chance, with 95 % probability and at most 2.5 % on each side.
    """

    layer: str
    weights: int
    kept: int  # by the first mask
    kept_other: int
    shared: int  # kept by both
    expected: float  # by chance
    low: int
    high: int
    z: float  # (shared - expected) / standard deviation by chance; 0.0 if the standard deviation is 0
    jaccard: float  # shared / kept by either; 1.0 if neither keeps any
    expected_jaccard: float  # its mean by chance


def overlap(mask: Mask, other: Mask) -> list[Overlap]:
    """Compare two masks of one network: what they share, beside what masks with the same counts in each layer share by chance.

    Layers are matched by name. Left out are layers whose shapes differ (masks of different tasks) and layers that both masks keep
    whole.

    >>> import numpy as np
    >>> one, two = ({"output": {"kernel": np.array([row])}} for row in ([1, 1, 0, 0], [1, 0, 1, 0]))
    >>> total = overlap(one, two)[0]
    >>> total.shared, total.expected, total.z, round(total.jaccard, 3)
    (1, 1.0, 0.0, 0.333)

    Args:
        mask: a mask of one network.
        other: another mask of the same kind of network.

    Returns:
        The total over layers first, with an empty `layer`, then each layer; empty if no layer is left.
    """
    from ..pruning.layers import named_leaves  # loads JAX, which counting does not need

    counts = shared_counts(kernels(named_leaves(mask)), kernels(named_leaves(other)))
    if not counts:
        return []
    return [compare("", tuple(one for some in counts.values() for one in some)), *_layers(counts)]


Counts = tuple[int, int, int, int]
"""Counts for one array: weights, kept by the first mask, kept by the second, kept by both."""


def _layers(counts: Mapping[str, Sequence[Counts]]) -> list[Overlap]:
    return [compare(layer, tuple(some)) for layer, some in counts.items()]


class Kept(NamedTuple):
    """The kept weights of an array, one bit each."""

    shape: tuple[int, ...]
    bits: np.ndarray
    kept: int


def kernels(leaves: Mapping[str, Array]) -> dict[str, Kept]:
    """Return the kept weights of each weight array by name, of a mask's leaves by name."""
    found = {}
    for name, leaf in leaves.items():
        if is_weight(name, leaf):
            kept = np.asarray(leaf) != 0
            found[name] = Kept(kept.shape, np.packbits(kept), int(np.count_nonzero(kept)))
    return found


def shared_counts(mask: Mapping[str, Kept], other: Mapping[str, Kept]) -> dict[str, list[Counts]]:
    """Count the weights that two masks keep, by layer; the masks are given as results of `kernels`.

    Arrays are matched by name. Layers with different shapes, and layers that both masks keep entirely, are omitted.
    """
    counts: dict[str, list[Counts]] = {}
    for name, a in mask.items():
        b = other.get(name)
        if b is not None and a.shape == b.shape:
            both = int(np.bitwise_count(a.bits & b.bits).sum())
            counts.setdefault(layer_of(name), []).append((math.prod(a.shape), a.kept, b.kept, both))
    return {layer: some for layer, some in counts.items() if any(min(c[1:3]) < c[0] for c in some)}


@functools.lru_cache(maxsize=1 << 18)
def compare(layer: str, counts: tuple[Counts, ...]) -> Overlap:
    """Compare several arrays together."""
    weights, kept, kept_other, shared = (sum(column) for column in zip(*counts, strict=True))
    start, probabilities = 0, np.ones(1)
    expected = variance = 0.0
    for i, (n, a, b, _) in enumerate(counts):
        at, more = shared_by_chance(n, a, b)
        start, probabilities = start + at, np.convolve(probabilities, more) if i else more
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


@functools.lru_cache(maxsize=8)
def _log_factorials(up_to: int) -> np.ndarray:
    from scipy.special import gammaln

    return np.asarray(gammaln(np.arange(up_to + 1) + 1))


@functools.lru_cache(maxsize=4096)
def shared_by_chance(weights: int, kept: int, kept_other: int) -> tuple[int, np.ndarray]:
    """Return k and the probabilities of k, k + 1, ... shared weights; probabilities below about 1e-30 are omitted.

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
    log = _log_factorials(1 << n.bit_length())

    def log_choose(m: int, first: int, last: int) -> np.ndarray:
        """Return log C(m, k) for k from `first` to `last`."""
        return np.asarray(log[m] - log[first : last + 1] - log[m - last : m - first + 1][::-1])

    logs = log_choose(a, lowest, highest) + log_choose(n - a, b - highest, b - lowest)[::-1] - log_choose(n, b, b)
    probabilities = np.exp(logs)
    return lowest, probabilities / probabilities.sum()
