"""The field's statistics (Agarwal et al. 2021, https://arxiv.org/abs/2108.13264), and the test that decides.

Scores are one array for each task, (..., runs) float; tasks may differ in their number of runs. Aggregates reduce the last
axis, so that they take resamples as they take data; a score that is NaN makes them NaN. Bootstrap intervals describe: on few seeds
they call equal things different far too often. What differs is decided by exact sign-flip tests of paired differences and their
corrections: `closed_test`, `fixed_sequence` and `max_t_test`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import special  # scipy.stats takes a second to import, which every command would wait for

from .errors import InputError
from .types import ArrayLike

Scores: TypeAlias = Sequence[np.ndarray]
"""One array of runs for each task."""

RESAMPLES = 2000
CONFIDENCE = 0.95
LEVEL = 0.05
"""Conditions are called different where the corrected p is at most this."""
MOST_EXACT = 36
"""Pairs up to which all flips of signs are counted, 2^36 of them; beyond, so many are drawn:"""
FLIPS = 100_000
MOST_SUBSETS, SUBSETS = 20, 200_000
"""The same for the subsets of an interval."""
MOST_FLIPPED = 14
"""Seeds up to which all flips are made for many comparisons together."""
ROUNDING = 1e-9
"""A subset of differences whose sum is at most this share of the sum of their sizes counts as 0."""
MOST_LEVELS = 8
FEWEST = 5
"""Seeds below which nothing is tested: 2^-5 is the first p of a one-sided test below LEVEL."""


def iqm(scores: Scores) -> np.ndarray:
    """Return the interquartile mean over runs x tasks: of all runs together, without the lowest and highest quarter.

    Of n runs int(n / 4) are left out at each end, so below four runs it is the mean.

    >>> float(iqm([np.array([0.0, 1.0, 2.0, 9.0])]))
    1.5

    Args:
        scores: one array (..., runs) for each task.
    """
    together = _together(scores)
    cut = together.shape[-1] // 4
    if np.isnan(together).any():  # sorted they come last, and would be left out with the highest
        together = np.where(np.isnan(together).any(axis=-1, keepdims=True), np.nan, together)
    middle = np.partition(together, (cut, together.shape[-1] - cut - 1), axis=-1)
    means: np.ndarray = np.mean(middle[..., cut : together.shape[-1] - cut], axis=-1)
    return means


def mean(scores: Scores) -> np.ndarray:
    """Return the mean over tasks of each task's mean over runs.

    >>> float(mean([np.array([0.0, 2.0]), np.array([4.0])]))
    2.5

    Args:
        scores: one array (..., runs) for each task.
    """
    means: np.ndarray = np.mean(_task_means(scores), axis=-1)
    return means


def median(scores: Scores) -> np.ndarray:
    """Return the median over tasks of each task's mean over runs; with one task that is its mean.

    >>> float(median([np.array([0.0, 2.0]), np.array([4.0]), np.array([9.0])]))
    4.0

    Args:
        scores: one array (..., runs) for each task.
    """
    medians: np.ndarray = np.median(_task_means(scores), axis=-1)
    return medians


def optimality_gap(scores: Scores, target: float = 1.0) -> np.ndarray:
    """Return by how much runs x tasks fall short of the target on average; what exceeds it makes up for nothing.

    >>> float(optimality_gap([np.array([0.5, 3.0])]))
    0.25

    Args:
        scores: one array (..., runs) for each task.
        target: the score that counts as reached.
    """
    gaps: np.ndarray = np.mean([np.mean(np.maximum(target - s, 0.0), axis=-1) for s in scores], axis=0)
    return gaps


def profile(scores: Scores, thresholds: ArrayLike) -> np.ndarray:
    """Return the share of runs with a score above each threshold, (..., thresholds): the mean over tasks.

    >>> profile([np.array([0.2, 0.9, 1.1])], [0.0, 0.5, 1.0]).round(2).tolist()
    [1.0, 0.67, 0.33]

    Args:
        scores: one array (..., runs) for each task.
        thresholds: the scores at which shares are taken, (thresholds,).
    """
    thresholds = np.asarray(thresholds, np.float64)
    shares = []
    for s in scores:
        runs = np.asarray(s, np.float64)[..., None]
        shares.append(np.mean(np.where(np.isnan(runs), np.nan, runs > thresholds), axis=-2))
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
        better = (a > b) + 0.5 * (a == b)
        found.append(np.mean(np.where(np.isnan(a) | np.isnan(b), np.nan, better), axis=(-2, -1)))
    return np.asarray(np.mean(found, axis=0))


def interval(
    statistic: Callable[..., np.ndarray], *groups: Scores, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[Any, Any]:
    """Return a 95 % percentile interval of `statistic(*groups)` by the stratified bootstrap.

    Runs are drawn with replacement within each task (and group) and never across, so one task is resampled like
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


def sign_flip_test(differences: ArrayLike, greater: bool = False) -> float:
    """Return the p of paired differences, (pairs,), under the hypothesis that each is as likely as its negative.

    The share of the 2^n ways to flip their signs whose |sum| (or sum, where `greater` asks for one side) is at least the
    observed one. Flipping a subset of the differences keeps the sum or raises it where the sum of the subset is at most 0, so such
    subsets are counted, all of them, by halves: each is one of 2^(n/2) of the first half with one of the second. So n pairs give
    no p below 2^(1 - n), one-sided 2^-n. Beyond MOST_EXACT pairs, FLIPS flips are drawn from a fixed seed and the observed one is
    counted with them. Whole numbers are summed exactly; others are tied within ROUNDING.

    >>> sign_flip_test([1.0, 2.0, 3.0]), sign_flip_test([1.0, 2.0, 3.0], greater=True)
    (0.25, 0.125)

    Args:
        differences: paired differences, (pairs,).
        greater: test whether they are above 0, not whether they differ from it.

    Raises:
        InputError: a difference is not finite.
    """
    d = _finite(differences)
    if d.size == 0:
        return 1.0
    if not greater and d.sum() < 0:
        d = -d
    size = np.abs(d)
    if (d != np.rint(d)).any() or size.sum() >= 2.0**53:
        # Each difference, lowered by this share of its size, ties the subsets that it is in, and no others.
        d = d - ROUNDING * size
    if d.size > MOST_EXACT:
        kept = 1.0 * _drawn_signs(d.size)
        reached = (1.0 - kept) @ d <= 0.0
        if not greater:
            reached |= kept @ d <= 0.0
        return float((np.sum(reached) + 1) / (FLIPS + 1))
    first, second = _subset_sums(d[: d.size // 2]), np.sort(_subset_sums(d[d.size // 2 :]))
    counted = np.sum(np.searchsorted(second, -first, side="right"))
    # The other side's flips are the complements of these subsets; a subset and its complement both count only if all flips do.
    return float(min((1 if greater else 2) * counted / 2.0**d.size, 1.0))


def sign_flip_interval(differences: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return the interval of the mean difference that inverts `sign_flip_test`, and its exact confidence.

    A shift is inside where the two-sided test of the differences less that shift does not reject it at 1 - confidence. Its ends
    are the k-th smallest and largest of the means of all 2^n - 1 nonempty subsets of the pairs, with k the whole part of
    (1 - confidence) / 2 * 2^n (Hartigan 1969, Using subsample values as typical values). Where k would be 0, as with 5 pairs at
    95 %, it is 1, and the confidence is that of the widest interval that there is, 1 - 2 / 2^n. Beyond MOST_SUBSETS pairs,
    SUBSETS subsets are drawn from a fixed seed.

    >>> sign_flip_interval([1.0, 2.0, 3.0])
    (1.0, 3.0, 0.75)

    Args:
        differences: paired differences, (pairs,), at least one.
        confidence: in (0, 1).

    Returns:
        The lower end, the upper end, and the exact confidence.

    Raises:
        InputError: a difference is not finite, or there is none.
    """
    d = _finite(differences)
    if d.size == 0:
        raise InputError("an interval needs at least one difference")
    if d.size <= MOST_SUBSETS:
        means, ways = _subset_sums(d)[1:] / _subset_sums(np.ones(d.size))[1:], 2.0**d.size
    else:
        chosen = np.random.default_rng(0).integers(0, 2, (SUBSETS, d.size), dtype=np.int8).astype(np.float64)
        chosen = chosen[chosen.any(axis=1)]
        means = (chosen @ d) / chosen.sum(axis=1)
        ways = means.size + 1.0
    means.sort()
    k = max(int((1.0 - confidence) / 2.0 * ways + 1e-9), 1)
    return float(means[k - 1]), float(means[-k]), 1.0 - 2.0 * k / ways


def closed_test(levels: ArrayLike) -> tuple[float, list[float]]:
    """Test the mean over levels, then each level, so that any false alarm among all of it has at most the level's chance.

    The closed procedure of Marcus, Peritz and Gabriel (1976): a level's p is the largest of the two-sided sign-flip tests of all
    sets of levels that it is in, of each seed's mean over the set. The set of all levels is among them, so no level can be
    decided where the mean over all is not. Beyond MOST_LEVELS levels their p is the larger of the overall one and of `max_t_test`,
    which keeps the same promise.

    >>> overall, levels = closed_test([[1.0, 0.1], [2.0, -0.1], [1.5, 0.2]])
    >>> overall, levels
    (0.25, [0.25, 0.75])

    Args:
        levels: differences, (seeds, levels); signs are flipped by seed.

    Returns:
        The p of the mean over all levels, and the p of each level.
    """
    d = np.asarray(levels, np.float64)
    count, overall = d.shape[1], sign_flip_test(d.mean(axis=1))
    if count > MOST_LEVELS:
        return overall, [max(overall, p) for p in max_t_test(d)]
    found = [0.0] * count
    for subset in range(1, 2**count):
        members = [i for i in range(count) if subset >> i & 1]
        p = sign_flip_test(d[:, members].mean(axis=1))
        for i in members:
            found[i] = max(found[i], p)
    return overall, found


def fixed_sequence(p: Sequence[float]) -> list[float]:
    """Return the p values of hypotheses that are tested one after the other, as long as each is rejected.

    The order is fixed beforehand, and the chance of any false alarm is at most the level, without a correction (Maurer, Hothorn
    and Lehmacher 1995).

    >>> fixed_sequence([0.01, 0.2, 0.02])
    [0.01, 0.2, 0.2]

    Args:
        p: the p values in the fixed order.
    """
    return [float(value) for value in np.maximum.accumulate(np.asarray(p, np.float64))] if len(p) else []


def max_t_test(differences: ArrayLike, greater: bool = False) -> list[float]:
    """Correct the sign-flip tests of many comparisons by the distribution of the largest statistic (Westfall and Young 1993).

    The statistic of a comparison is sum(d) / sqrt(sum(d^2)), whose absolute value counts unless `greater` asks for one side. All
    signs of a seed are flipped together, so the dependence between comparisons is kept; step-down, so that what was rejected no
    longer counts. The smallest p is 2^(1 - n) (one-sided 2^-n) however many comparisons there are.

    >>> max_t_test([[1.0, 0.1], [2.0, -0.1], [1.5, 0.2]])
    [0.25, 0.75]

    Args:
        differences: (seeds, comparisons).
        greater: test whether the differences are above 0, not whether they are different from it.

    Returns:
        The corrected p of each comparison.

    Raises:
        InputError: a difference is not finite.
    """
    d = _finite(differences)
    seeds, count = d.shape
    if not count or not seeds:
        return [1.0] * count
    if seeds <= MOST_FLIPPED:
        flips = 1.0 - 2.0 * ((np.arange(2**seeds)[:, None] >> np.arange(seeds)) & 1)
    else:
        flips = np.concatenate([np.ones((1, seeds)), 2.0 * _drawn_signs(seeds) - 1.0])
    # A power of two changes no digit, and keeps the squares of tiny and huge differences apart from 0 and infinity.
    d = np.ldexp(d, -np.frexp(np.max(np.abs(d), axis=0))[1])
    size = np.sqrt(np.sum(d * d, axis=0))
    scaled = np.divide(d, size, out=np.zeros_like(d), where=size > 0)
    statistics = flips @ scaled
    if not greater:
        np.abs(statistics, out=statistics)
    observed = statistics[0].copy()
    order = np.argsort(-observed, kind="stable")
    # The largest statistic among this comparison and all less extreme ones, flip by flip.
    largest = np.maximum.accumulate(statistics[:, order[::-1]], axis=1)[:, ::-1]
    p = np.mean(largest >= observed[order] - 1e-9, axis=0)
    found = np.empty(count)
    found[order] = np.maximum.accumulate(p)
    return [float(value) for value in found]


def _finite(differences: ArrayLike) -> np.ndarray:
    d = np.asarray(differences, np.float64)
    if not np.isfinite(d).all():
        raise InputError("a difference is NaN or infinite, so no test can be made: one of the runs was lost")
    return d


def _drawn_signs(pairs: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (FLIPS, pairs), dtype=np.int8)


def _subset_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


def smallest_p(pairs: int) -> float:
    """Return the smallest p that `sign_flip_test` can give for so many pairs.

    >>> smallest_p(5)
    0.0625

    Args:
        pairs: the number of pairs.
    """
    return min(2.0 ** (1 - pairs), 1.0) if pairs <= MOST_EXACT else 1.0 / (FLIPS + 1)


def seeds_needed(
    effect: float, spread: float, power: float = 0.8, greater: bool = False, most: int = 1000
) -> int | None:
    """Return how many seeds it takes to decide a mean difference of `effect` with a probability of `power`.

    The power is that of the t test at LEVEL, two-sided unless `greater` asks for one side, which the sign-flip test comes close to;
    the smallest possible p has to be within LEVEL too, and there are at least FEWEST seeds.

    >>> seeds_needed(0.2, 0.2), seeds_needed(0.2, 0.2, greater=True)
    (10, 8)

    Args:
        effect: the true mean difference, above 0.
        spread: the standard deviation of the difference over seeds, in the same units.
        power: in (0, 1).
        greater: whether the test is one-sided.
        most: the largest number that is tried.

    Returns:
        None where more than `most` would be needed.
    """
    side = LEVEL if greater else LEVEL / 2
    fewest = next(n for n in range(FEWEST, 100) if 2.0**-n <= side)

    def enough(n: int) -> bool:
        if spread <= 1e-9 * effect:
            return True
        critical, shift = special.stdtrit(n - 1, 1 - side), effect / spread * np.sqrt(n)
        # SciPy's noncentral t loses all digits far from its middle, where the power is 1.
        return bool(shift > critical + 10.0 or 1 - special.nctdtr(n - 1, shift, critical) >= power)

    low, high = fewest, most
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
