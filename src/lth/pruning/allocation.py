"""Set how many weights are pruned from each layer in each round."""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from ..errors import InputError
from ..registry import lookup
from .names import check_layer_names, holds_layer


def pruned_count(size: int, sparsity: float, already_pruned: int = 0) -> int:
    """Return how many of `size` weights are pruned: `max(round(sparsity * size), already_pruned)`. All counts follow this rule.

    >>> pruned_count(10, 0.2), pruned_count(10, 0.25), pruned_count(10, 0.2, already_pruned=5)
    (2, 2, 5)

    Args:
        size: the number of prunable weights.
        sparsity: the fraction to remove, in [0, 1]. `round` is Python's, to even at a half.
        already_pruned: how many are pruned before, and stay so.

    Raises:
        InputError: `sparsity` is not a number in [0, 1].
    """
    sparsity = check_sparsity(sparsity)
    return max(round(sparsity * size), already_pruned)


def uniform_counts(sizes: Sequence[int], sparsity: float) -> list[int]:
    """Return how many weights each layer loses when all layers have the same sparsity.

    The counts add up to exactly `pruned_count(sum(sizes), sparsity)`: each layer gets the integer part of `sparsity * size`,
    and the remainder goes to the layers with the largest fractional parts, earlier layers first.

    >>> uniform_counts([10, 10, 5], 0.5)
    [5, 5, 2]
    >>> uniform_counts([3, 3, 3], 0.5)
    [2, 1, 1]
    """
    sparsity = check_sparsity(sparsity)
    exact = [sparsity * size for size in sizes]
    counts = [min(math.floor(share), size) for share, size in zip(exact, sizes, strict=True)]
    missing = pruned_count(sum(sizes), sparsity) - sum(counts)
    by_remainder = sorted(range(len(sizes)), key=lambda i: (counts[i] - exact[i], i))
    for i in [i for i in by_remainder if counts[i] < sizes[i]][:missing]:
        counts[i] += 1
    return counts


def erk_counts(shapes: Sequence[Sequence[int]], sparsity: float) -> list[int]:
    """Return how many weights each layer loses under Erdős-Rényi-Kernel (Evci et al. 2020, https://arxiv.org/abs/1911.11134).

    A layer keeps a share proportional to sum(shape) / prod(shape), so narrow layers stay denser. A layer whose share exceeds
    its size keeps all its weights, and the other layers split the rest. Counts add up to exactly
    `pruned_count(total, sparsity)`, rounded as in `uniform_counts`.

    >>> erk_counts([(10, 100), (100, 100), (100, 1)], 0.8)
    [248, 8632, 0]
    """
    sizes, widths = [math.prod(shape) for shape in shapes], [sum(shape) or 1 for shape in shapes]
    to_keep = sum(sizes) - pruned_count(sum(sizes), sparsity)
    whole: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in whole]
        budget = to_keep - sum(sizes[i] for i in whole)
        total = sum(widths[i] for i in free)
        keep = {i: budget * widths[i] / total for i in free}
        over = {i for i in free if keep[i] > sizes[i]}
        if not over:
            break
        whole |= over
    counts = [0 if i in whole else sizes[i] - math.ceil(keep[i]) for i in range(len(sizes))]
    missing = sum(sizes) - to_keep - sum(counts)
    by_remainder = sorted(free, key=lambda i: (keep[i] - math.ceil(keep[i]), i))
    for i in [i for i in by_remainder if counts[i] < sizes[i]][:missing]:
        counts[i] += 1
    return counts


def not_below(counts: Sequence[int], already_pruned: Sequence[int]) -> list[int]:
    """Raise each layer's count to at least its already pruned weights, and lower other layers so that the total is unchanged.

    Needed because counts rounded to a fixed total can fall by one in a layer while the sparsity rises.

    >>> not_below([50, 12], [49, 13])
    [49, 13]
    """
    spare = [max(count - before, 0) for count, before in zip(counts, already_pruned, strict=True)]
    left = max(sum(counts) - sum(already_pruned), 0)
    # Layers with the most to spare give first: all down to one level, and the first few one more.
    low, high = 0, max(spare, default=0)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sum(min(s, middle) for s in spare) >= left else (middle + 1, high)
    missing = sum(min(s, low) for s in spare) - left
    lowered = [min(s, low) for s in spare]
    for i in [i for i, s in enumerate(lowered) if s == low][:missing]:
        lowered[i] -= 1
    return [before + s for before, s in zip(already_pruned, lowered, strict=True)]


def counts_by_layer(
    allocation: str | Mapping[str, float],
    shapes: Sequence[Sequence[int]],
    sparsity: float,
    layers: Sequence[str] = (),
) -> list[int] | int:
    """Return how many weights are pruned: one number for all layers (`global`), or one per layer (`layer`, `erk`, a mapping).

    A mapping gives sparsities by layer name, any part of a layer's path (`output`, `q1/output`). Layers without an entry get
    `sparsity`; if several names match a layer, the longest is used.

    >>> counts_by_layer({"output": 0.5, "q1/output": 0.0}, [(4, 4), (4, 1), (4, 1)], 0.75, ["q1/x", "q1/output", "q2/output"])
    [12, 0, 2]

    Raises:
        InputError: the allocation or a layer name is unknown.
    """
    return counts_by_round(allocation, shapes, sparsity, 1, layers)[0]


def counts_by_round(
    allocation: str | Mapping[str, float],
    shapes: Sequence[Sequence[int]],
    sparsity: float,
    rounds: int,
    layers: Sequence[str] = (),
    path: str = "geometric",
) -> list[list[int] | int]:
    """Return `counts_by_layer` for each round of one of `PATHS`. Each sparsity in a mapping follows its own path.

    >>> counts_by_round({"b": 0.75}, [(4, 4), (4, 4)], 0.0, 2, ["a", "b"])
    [[0, 8], [0, 12]]
    """
    sizes, way = [math.prod(shape) for shape in shapes], PATHS[path]
    sparsity = check_sparsity(sparsity)
    if not isinstance(allocation, Mapping):
        return [_counts(allocation, shapes, target) for target in way(sparsity, rounds)]
    check_layer_names(allocation, layers, "the allocation", "here")
    fitting = [[name for name in allocation if holds_layer(layer, name)] for layer in layers]
    shares = [check_sparsity(allocation[max(names, key=len)]) if names else sparsity for names in fitting]
    targets = zip(*(way(share, rounds) for share in shares), strict=True)
    return [[pruned_count(size, share) for size, share in zip(sizes, now, strict=True)] for now in targets]


def _counts(allocation: str, shapes: Sequence[Sequence[int]], sparsity: float) -> list[int] | int:
    """Return the counts of one of ALLOCATIONS, or the checked counts of a custom allocation.

    Raises:
        InputError: the allocation is unknown, or its counts are not numbers that add up to `pruned_count`.
    """
    counts = lookup(ALLOCATIONS, allocation, "allocation", also=", {layer: sparsity}")(shapes, sparsity)
    if allocation in ALLOCATIONS:
        return counts
    sizes = [math.prod(shape) for shape in shapes]
    want = pruned_count(sum(sizes), sparsity)
    if isinstance(counts, Iterable):
        counts = [int(count) for count in counts]
        fits = len(counts) == len(sizes) and all(0 <= n <= size for n, size in zip(counts, sizes, strict=True))
        fits = fits and sum(counts) == want
    else:
        fits = isinstance(counts, numbers.Integral) and counts == want
    if not fits:
        raise InputError(
            f"the allocation {allocation!r} returned the counts {counts} for layers of {sizes} weights; it must return the number "
            f"of weights that each layer loses, {want} in total (`lth.pruning.allocation.pruned_count`), or that total alone"
        )
    return counts if isinstance(counts, list) else want


def _global(shapes: Sequence[Sequence[int]], sparsity: float) -> int:
    return pruned_count(sum(math.prod(shape) for shape in shapes), sparsity)


def _layer(shapes: Sequence[Sequence[int]], sparsity: float) -> list[int]:
    return uniform_counts([math.prod(shape) for shape in shapes], sparsity)


Allocation = Callable[[Sequence[Sequence[int]], float], list[int] | int]
"""(shapes, sparsity) -> how many weights each layer loses, or one number for all layers together."""

AllocationName = Literal["global", "layer", "erk"]
"""The names of `ALLOCATIONS`, for editors to complete."""
ALLOCATIONS: dict[str, Allocation] = {"global": _global, "layer": _layer, "erk": erk_counts}
"""Allocations by name. A config can name a custom allocation as `package.module:function`."""


def geometric(sparsity: float, rounds: int) -> list[float]:
    """Prune the same share of the remaining weights in each round: sparsity 1 - (1 - s)^(k/n) after round k (Frankle & Carbin
    2019; the exponential schedule of Tanaka et al. 2020).

    >>> [round(s, 6) for s in geometric(0.75, 2)]
    [0.5, 0.75]
    """
    return [*(1.0 - (1.0 - sparsity) ** (k / rounds) for k in range(1, rounds)), sparsity]


def cubic(sparsity: float, rounds: int) -> list[float]:
    """Prune fast at first, then slowly: sparsity s (1 - (1 - k/n)^3) after round k (Zhu & Gupta 2017, eq. 1,
    https://arxiv.org/abs/1710.01878).

    >>> cubic(0.5, 2)
    [0.4375, 0.5]
    """
    return [*(sparsity * (1.0 - (1.0 - k / rounds) ** 3) for k in range(1, rounds)), sparsity]


PathName = Literal["geometric", "cubic"]
PATHS = {"geometric": geometric, "cubic": cubic}
"""Sparsity paths over a number of rounds; with one round, each is one-shot."""


def check_sparsity(sparsity: float) -> float:
    """Return a sparsity as a Python float: NumPy's float16 and float32 overflow, or round, when multiplied by a size.

    Raises:
        InputError: it is not a number in [0, 1].
    """
    number = isinstance(sparsity, numbers.Real) and not isinstance(sparsity, bool)
    if not number or not 0.0 <= sparsity <= 1.0:
        raise InputError(
            f"sparsity is {sparsity!r}, but must be the fraction of weights to remove, from 0 to 1 (0.8 prunes 80 % of the weights)"
        )
    return float(sparsity)
