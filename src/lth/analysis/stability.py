"""The stability of a ranking of weights against the draw of the batches."""

from typing import NamedTuple

import jax
import numpy as np

from ..pruning.criteria import criterion_named
from ..pruning.layers import named_leaves
from ..pruning.names import is_weight
from ..pruning.prune import scores_by
from ..types import Array, Mask, Params
from .overlap import LEAST_SHARED, compare


class Stability(NamedTuple):
    """The agreement of the rankings from two halves of the batches, over all candidate weights of one network."""

    spearman: float  # rank correlation of the scores, in [-1, 1]; NaN if all scores of a half are equal
    shared: float  # the share of one half's kept weights that the other half also keeps, in [0, 1]
    expected: float  # the share by chance, given the numbers of candidates and of kept weights in each layer

    @property
    def stable(self) -> bool:
        """Whether at least LEAST_SHARED of the kept weights are the same."""
        return self.shared >= LEAST_SHARED


def rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation of two arrays of the same size; ties have their mean rank. NaN for constants and
    for fewer than two elements.

    >>> round(rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0]), 3)
    0.8
    """
    ranks = [_ranks(np.ravel(np.asarray(x))) for x in (a, b)]
    if len(ranks[0]) < 2:
        return float("nan")
    first, second = (r - r.mean() for r in ranks)
    scale = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / scale) if scale > 0 else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    # `scipy.stats.rankdata`, without the second that importing scipy.stats takes.
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True, equal_nan=False)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return np.where(np.isnan(values).any(), np.nan, ranks)


def stability(
    params: Params,
    gradients: tuple[Params, Params],
    masks: tuple[Mask, Mask],
    method: str,
    candidates: Mask | None = None,
) -> Stability:
    """Compare the scores and masks that two halves of the gradient batches give one network.

    >>> found = stability(params, (even, odd), (mask_of_even, mask_of_odd), "taylor")  # doctest: +SKIP
    >>> found.spearman, found.shared, found.expected  # doctest: +SKIP

    Args:
        params: the weights that are scored.
        gradients: what the criterion needs, from each half.
        masks: the mask that each half gave.
        method: a criterion that needs gradients.
        candidates: a mask of the weights that could be pruned; None: all kernels.

    Returns:
        The rank correlation of the scores, the share of kept weights in common, and that share by chance.
    """
    weights, score = _kernels(params), scores_by(criterion_named(method).score)
    if candidates is None:
        candidates = jax.tree.map(np.ones_like, params)
    chosen = [np.asarray(mask) != 0 for mask in _kernels(candidates)]
    scores = [
        np.concatenate([np.asarray(s)[c] for s, c in zip(score(weights, _kernels(half)), chosen, strict=True)])
        for half in gradients
    ]
    kept_by = [[np.asarray(leaf) != 0 for leaf in _kernels(mask)] for mask in masks]
    counts = [
        (int(c.sum()), *(int((m & c).sum()) for m in (one, other, one & other)))
        for c, one, other in zip(chosen, *kept_by, strict=True)
        if c.any() and not (one.all() and other.all())
    ]
    if not counts:  # nothing was pruned
        return Stability(rank_correlation(*scores), 1.0, 1.0)
    total = compare("", tuple(counts))
    kept = max(total.kept, 1)
    return Stability(rank_correlation(*scores), total.shared / kept if total.kept else 1.0, total.expected / kept)


def _kernels(tree: Params) -> list[Array]:
    return [leaf for name, leaf in named_leaves(tree).items() if is_weight(name, leaf)]
