"""The field's statistics (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264), and the test that decides.

Scores are one array for each task, (..., runs) float; tasks may differ in their number of runs. Aggregates reduce the last
axis, so that they take resamples as they take data. Intervals describe: percentile intervals on few seeds call equal
things different far too often. Whether two conditions differ is decided by `sign_flip_test` and `holm`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from .errors import InputError

Scores: TypeAlias = Sequence[np.ndarray]
"""One array of runs for each task."""

RESAMPLES = 2000
CONFIDENCE = 0.95
LEVEL = 0.05
"""Conditions are called different where the corrected p is at most this."""
POWER = 0.8
MOST_EXACT = 36
"""Pairs up to which all flips of signs are counted, 2^36 of them; beyond, so many are drawn:"""
FLIPS = 100_000


def iqm(scores: Scores) -> np.ndarray:
    """Return the interquartile mean over runs x tasks: of all runs together, without the lowest and highest quarter.

    Of n runs int(n / 4) are left out at each end, so below four runs it is the mean.

    >>> float(iqm([np.array([0.0, 1.0, 2.0, 9.0])]))
    1.5

    Args:
        scores: one array (..., runs) for each task.
    """
    return np.asarray(stats.trim_mean(_together(scores), 0.25, axis=-1))


def mean(scores: Scores) -> np.ndarray:
    """Return the mean over tasks of each task's mean over runs.

    >>> float(mean([np.array([0.0, 2.0]), np.array([4.0])]))
    2.5

    Args:
        scores: one array (..., runs) for each task.
    """
    return np.mean(_task_means(scores), axis=-1)


def median(scores: Scores) -> np.ndarray:
    """Return the median over tasks of each task's mean over runs; with one task that is its mean.

    >>> float(median([np.array([0.0, 2.0]), np.array([4.0]), np.array([9.0])]))
    4.0

    Args:
        scores: one array (..., runs) for each task.
    """
    return np.median(_task_means(scores), axis=-1)


def optimality_gap(scores: Scores, target: float = 1.0) -> np.ndarray:
    """Return by how much runs x tasks fall short of the target on average; what exceeds it makes up for nothing.

    >>> float(optimality_gap([np.array([0.5, 3.0])]))
    0.25

    Args:
        scores: one array (..., runs) for each task.
        target: the score that counts as reached.
    """
    return np.mean([np.mean(np.maximum(target - s, 0.0), axis=-1) for s in scores], axis=0)


def profile(scores: Scores, thresholds: Any) -> np.ndarray:
    """Return the share of runs with a score above each threshold, (..., thresholds): the mean over tasks.

    >>> profile([np.array([0.2, 0.9, 1.1])], [0.0, 0.5, 1.0]).round(2).tolist()
    [1.0, 0.67, 0.33]

    Args:
        scores: one array (..., runs) for each task.
        thresholds: the scores at which shares are taken, (thresholds,).
    """
    thresholds = np.asarray(thresholds, np.float64)
    shares = [np.mean(np.asarray(s)[..., None] > thresholds, axis=-2) for s in scores]
    return np.asarray(np.mean(shares, axis=0))


def probability_of_improvement(scores: Scores, others: Scores) -> np.ndarray:
    """Return the probability that a run of the first beats one of the second on the same task, a tie counting half.

    The mean over tasks of the Mann-Whitney statistic U / (runs x runs).

    >>> float(probability_of_improvement([np.array([1.0, 3.0])], [np.array([2.0, 3.0])]))
    0.375

    Args:
        scores: one array (..., runs) for each task.
        others: the same of the second condition, for the same tasks.
    """
    found = []
    for mine, theirs in zip(scores, others, strict=True):
        a, b = np.asarray(mine)[..., :, None], np.asarray(theirs)[..., None, :]
        found.append(np.mean((a > b) + 0.5 * (a == b), axis=(-2, -1)))
    return np.asarray(np.mean(found, axis=0))


def interval(
    statistic: Callable[..., np.ndarray], *groups: Scores, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[Any, Any]:
    """Return a 95 % percentile interval of `statistic(*groups)` by the stratified bootstrap.

    Runs are drawn anew, with replacement, within each task (and group) and never across, so one task is resampled like
    many. Indices come from `rng.integers(0, runs, (resamples, runs))`, task after task. NaN where no task has two runs.

    >>> low, high = interval(iqm, [np.array([1.0, 2.0, 3.0, 4.0])], rng=np.random.default_rng(0))
    >>> float(low), float(high)
    (1.0, 4.0)

    Args:
        statistic: of one or more groups of scores, reducing the last axis.
        groups: scores of shape (runs,), or (times, runs), whose columns are then drawn together.
        rng: where chance comes from.
        resamples: how many.

    Returns:
        Lower and upper bound: numbers, or arrays of what else the statistic returns.
    """
    drawn = []
    for scores in groups:
        again = []
        for s in scores:
            s = np.asarray(s, np.float64)
            indices = rng.integers(0, s.shape[-1], (resamples, s.shape[-1]))
            # (..., runs) -> (resamples, ..., runs)
            again.append(np.moveaxis(s[..., indices], -2, 0))
        drawn.append(again)
    values = np.asarray(statistic(*drawn))
    if all(np.shape(s)[-1] < 2 for scores in groups for s in scores):
        values = np.full_like(values, np.nan)
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(values, [tail, 100.0 - tail], axis=0)
    return low, high


def sign_flip_test(differences: Any) -> float:
    """Return the two-sided p of paired differences, (pairs,), under the hypothesis that each is as likely as its negative.

    The share of the 2^n ways to flip their signs whose |sum| is at least the observed one. All are counted, by halves:
    each sum is one of 2^(n/2) sums of the first half plus one of the second. So n pairs give no p below 2^(1 - n). Beyond
    MOST_EXACT pairs, FLIPS flips are drawn from a fixed seed and the observed one is counted with them.

    >>> sign_flip_test([1.0, 2.0, 3.0])
    0.25

    Args:
        differences: (pairs,).

    Raises:
        InputError: a difference is not finite.
    """
    d = np.asarray(differences, np.float64)
    if d.size == 0:
        return 1.0
    if not np.isfinite(d).all():
        raise InputError("a difference is NaN or infinite, so no test can be made: one of the runs was lost")
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums that differ only by rounding are tied
    if d.size > MOST_EXACT:
        signs = np.random.default_rng(0).integers(0, 2, (FLIPS, d.size), dtype=np.int8)
        sums = (2.0 * signs - 1.0) @ d
        return float((np.sum(np.abs(sums) >= least) + 1) / (FLIPS + 1))
    first, second = _signed_sums(d[: d.size // 2]), np.sort(_signed_sums(d[d.size // 2 :]))
    above = second.size - np.searchsorted(second, least - first, side="left")
    below = np.searchsorted(second, -least - first, side="right")
    return float(min(np.sum(above + below) / 2.0**d.size, 1.0))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def smallest_p(pairs: int) -> float:
    """Return the smallest p that `sign_flip_test` can give for so many pairs.

    >>> smallest_p(5)
    0.0625

    Args:
        pairs: the number of pairs.
    """
    return min(2.0 ** (1 - pairs), 1.0) if pairs <= MOST_EXACT else 1.0 / (FLIPS + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for being many (Holm 1979): at LEVEL, the chance of any false alarm among them is at most LEVEL.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Args:
        p: the p value of each test.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min((len(p) - rank) * float(p[i]), 1.0))
        corrected[i] = largest
    return corrected


def pairs_needed(differences: Any, comparisons: int = 1, most: int = 1000) -> int | None:
    """Return how many pairs it takes to call such differences different with a probability of POWER.

    Takes mean and standard deviation of the differences for the true ones, and the level for the first step of Holm's
    correction, LEVEL / comparisons; the power is that of the t test, which the sign-flip test comes close to, and the
    smallest possible p has to be within the level. None: more than `most`, or no difference is seen, or there is one pair.

    >>> pairs_needed([1.0, 2.0, 3.0, 2.5], comparisons=10)
    9

    Args:
        differences: the paired differences seen, (pairs,).
        comparisons: how many comparisons are corrected for together.
        most: the largest number that is tried.
    """
    d = np.asarray(differences, np.float64)
    level = LEVEL / comparisons
    if smallest_p(MOST_EXACT + 1) > level:  # more pairs than are counted can never do
        most = min(most, MOST_EXACT)
    fewest = next((n for n in range(1, most) if smallest_p(n) <= level), None)
    if d.size < 2 or d.mean() == 0.0 or fewest is None:
        return None
    spread = d.std(ddof=1)
    if spread <= 1e-9 * abs(d.mean()):
        return fewest

    def enough(n: int) -> bool:
        critical, shift = stats.t.isf(level / 2, n - 1), abs(d.mean()) / spread * np.sqrt(n)
        return bool(stats.nct.sf(critical, n - 1, shift) >= POWER)

    low, high = max(fewest, 2), most
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _together(scores: Scores) -> np.ndarray:
    return np.concatenate([np.asarray(s, np.float64) for s in scores], axis=-1)


def _task_means(scores: Scores) -> np.ndarray:
    return np.stack([np.mean(s, axis=-1) for s in scores], axis=-1)
