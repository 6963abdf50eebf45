"""How far a ranking of weights depends on the batches from which it was computed."""

from typing import NamedTuple

import jax
import numpy as np

from ..pruning.criteria import criterion_named
from ..pruning.layers import is_weight, named_leaves
from ..pruning.prune import scores_by
from ..types import Array, Mask, Params
from .overlap import overlap

LEAST_SHARED = 0.8
"""Below this share of kept weights in common between two halves of the batches a mask is called unstable."""


class Stability(NamedTuple):
    """How well the rankings of two halves of the batches agree, over all weights of one network that could be pruned."""

    spearman: float  # rank correlation of the scores, in [-1, 1]; NaN if the scores of a half are all equal
    shared: float  # share of the weights that one half's mask keeps which the other's keeps too, in [0, 1]
    expected: float  # the share by chance, given how many weights of each layer the two masks keep

    @property
    def stable(self) -> bool:
        """Whether at least LEAST_SHARED of the kept weights are the same."""
        return self.shared >= LEAST_SHARED


def rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation of two arrays of the same size; ties have their mean rank. NaN for constants.

    >>> round(rank_correlation([1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0]), 3)
    0.8
    """
    ranks = [_ranks(np.ravel(np.asarray(x))) for x in (a, b)]
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
    """Compare the scores and masks that two halves of the batches give one network.

    Args:
        params: the weights that are scored.
        gradients: what the criterion needs of each half, as from `gradient_halves`.
        masks: the mask that was made from each half.
        method: a criterion that needs gradients.
        candidates: a mask of the weights that could be pruned; none: all kernels.
    """
    weights, score = _kernels(params), scores_by(criterion_named(method).score)
    if candidates is None:
        candidates = jax.tree.map(np.ones_like, params)
    chosen = [np.asarray(mask) != 0 for mask in _kernels(candidates)]
    scores = [
        np.concatenate([np.asarray(s)[c] for s, c in zip(score(weights, _kernels(half)), chosen, strict=True)])
        for half in gradients
    ]
    found = overlap(*masks)
    if not found:  # nothing was pruned
        return Stability(rank_correlation(*scores), 1.0, 1.0)
    total = found[0]
    kept = max(total.kept, 1)
    return Stability(rank_correlation(*scores), total.shared / kept if total.kept else 1.0, total.expected / kept)


def _kernels(tree: Params) -> list[Array]:
    return [leaf for name, leaf in named_leaves(tree).items() if is_weight(name, leaf)]
