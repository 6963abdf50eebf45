"""How a criterion's scores are distributed over the weights that could be pruned, and where the mask cuts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DECADE = 5
"""Bins in a factor of ten. Their edges are the same for every mask, so counts of several masks can be added."""


class Bin(NamedTuple):
    """The weights whose |score| is in [10^low, 10^(low + 1 / DECADE)); `low` is -inf for scores of zero."""

    low: float
    pruned: int
    kept: int


def score_histogram(scores: Sequence[np.ndarray], kept: Sequence[np.ndarray]) -> list[Bin]:
    """Count pruned and kept weights by |score|, lowest bin first; bins without weights are left out.

    >>> score_histogram([np.array([0.0, 0.011, 5.0])], [np.array([False, False, True])])
    [Bin(low=-inf, pruned=1, kept=0), Bin(low=-2.0, pruned=1, kept=0), Bin(low=0.6, pruned=0, kept=1)]

    Args:
        scores: finite scores, in arrays of any shapes.
        kept: of the same shapes, bool.
    """
    size = np.abs(np.concatenate([np.ravel(s) for s in scores]).astype(np.float64))
    stays = np.concatenate([np.ravel(k) for k in kept])
    place = np.floor(np.log10(size, out=np.full(size.shape, -np.inf), where=size > 0) * DECADE)
    found = []
    for low in np.unique(place):
        here = place == low
        n = int(np.count_nonzero(stays & here))
        found.append(Bin(round(float(low) / DECADE, 6), int(np.count_nonzero(here)) - n, n))
    return found


def threshold(scores: Sequence[np.ndarray], kept: Sequence[np.ndarray]) -> float | None:
    """Return log10 of the lowest |score| that is kept, where no higher one is pruned; else None, as with a share for each layer.

    >>> threshold([np.array([0.1, 1.0, 10.0])], [np.array([False, True, True])])
    0.0
    """
    size = np.abs(np.concatenate([np.ravel(s) for s in scores]).astype(np.float64))
    stays = np.concatenate([np.ravel(k) for k in kept])
    if stays.all() or not stays.any() or size[~stays].max() > size[stays].min() or size[stays].min() == 0:
        return None
    return math.log10(size[stays].min())
