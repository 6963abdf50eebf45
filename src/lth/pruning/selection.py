"""Select weights by rank: the lowest scores among candidates, exactly as many as asked for, also if scores are tied.

Floats are compared as integers of the same bits, which have the same order. Unless JAX traces, NumPy selects. In a compiled
function the same elements are found without sorting.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..shapes import Bool, Int32
from ..types import Array, namespace_of

_ROW = 256


def _ordered_bits(x: Array) -> Array:
    """Map floats to unsigned integers in the same order (IEEE 754), with -0.0 equal to 0.0."""
    library = namespace_of(x)
    unsigned = np.uint32 if x.dtype.itemsize == 4 else np.uint64
    bits, sign = x.view(unsigned), unsigned(1 << (x.dtype.itemsize * 8 - 1))
    if library is np and not (bits >= sign).any():
        return bits  # no sign is set, as in most scores
    # Compare bits: float comparisons may flush subnormal numbers to zero.
    bits = library.where(bits == sign, unsigned(0), bits)
    return library.where((bits & sign) != 0, ~bits, bits | sign)


def traced(*trees: Any) -> bool:
    """Return whether JAX traces any leaf of some trees, so that its values are not known."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _in_one_type(leaves: Sequence[Array]) -> list[Array]:
    """Cast floats to the widest type among them, at least float32, so that their bits compare; this is exact."""
    widest = jnp.result_type(jnp.float32, *leaves)
    return [leaf.astype(widest) for leaf in leaves]


def lowest(
    scores: Sequence[Array],
    weights: Sequence[Array],
    among: Sequence[Bool[Array, "..."]],
    groups: Sequence[int],
    counts: Int32[Array, " groups"],
) -> list[Bool[Array, "..."]]:
    """Mark exactly `counts[g]` elements with the lowest scores among the candidates of each group g of leaves.

    Ties: the smaller |w| is marked first, then the later element. Traceable; all counts share one compilation. Unless JAX traces,
    NumPy selects: it compiles nothing, and finds a rank in fewer passes.

    Args:
        scores: arrays of floats. NaN ranks above infinity, or below minus infinity if its sign is set.
        weights: arrays of the same shapes; pass `scores` itself if |w| is the score.
        among: bool arrays of the same shapes that mark the candidates.
        groups: the group of each leaf, counted from 0.
        counts: (number of groups,) int32, each at most the group's number of candidates.

    Returns:
        A bool array for each leaf, NumPy's unless JAX traces.
    """
    if traced(scores, weights, among, counts):
        return _lowest_traced(scores, weights, among, groups, counts)
    marks: list[Array] = [None] * len(groups)
    for group, count in enumerate(np.asarray(counts).tolist()):
        of_group = [i for i, g in enumerate(groups) if g == group]
        found = _lowest_of(
            [scores[i] for i in of_group], [weights[i] for i in of_group], [among[i] for i in of_group], count
        )
        for i, marked in zip(of_group, found, strict=True):
            marks[i] = marked
    return marks


def _lowest_of(
    scores: Sequence[Array], weights: Sequence[Array], among: Sequence[Array], count: int
) -> list[Bool[np.ndarray, "..."]]:
    """Mark `count` elements of one group."""

    def flat(leaves: Sequence[Array]) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    def place(keys: np.ndarray, few: int) -> np.unsignedinteger[Any]:
        """Return the few-th lowest key."""
        found: np.unsignedinteger[Any] = np.partition(keys, few - 1)[few - 1]
        return found

    candidates = flat(among)
    if not count:
        marked = np.zeros_like(candidates)
    else:
        keys = _ordered_bits(flat(_in_one_type(scores)))
        threshold = place(keys if candidates.all() else keys[candidates], count)
        marked = candidates & (keys < threshold)
        tied = np.flatnonzero(candidates & (keys == threshold))
        missing = count - int(np.count_nonzero(marked))
        if missing < len(tied):
            sizes = _ordered_bits(np.abs(flat(_in_one_type(weights))[tied]))
            threshold = place(sizes, missing)
            marked[tied[sizes < threshold]] = True
            missing -= int(np.count_nonzero(sizes < threshold))
            tied = tied[sizes == threshold]
        marked[tied[len(tied) - missing :]] = True
    ends = np.cumsum([leaf.size for leaf in scores])[:-1]
    return [part.reshape(leaf.shape) for part, leaf in zip(np.split(marked, ends), scores, strict=True)]


class _Rows:
    """A layout of leaves as rows of one array: each leaf begins a row, and the last row of a leaf is filled up with zeros.

    With it the size of a program, which is compiled for longer than it runs, hardly depends on the number of leaves.
    """

    def __init__(self, leaves: Sequence[Array], groups: Sequence[int]):
        self.shapes = [leaf.shape for leaf in leaves]
        self.lengths = [-(-leaf.size // _ROW) for leaf in leaves]
        self.group = np.repeat(np.asarray(groups, np.int32), self.lengths)
        """The group of each row."""
        self.from_the_end = np.zeros(len(self.group), np.uint32)
        """The number of each row in its group, counted from the last one."""
        for group in set(groups):
            of_group = np.flatnonzero(self.group == group)
            self.from_the_end[of_group] = np.arange(len(of_group))[::-1]

    def pack(self, leaves: Sequence[Array]) -> jax.Array:
        """Return the leaves as rows."""
        pieces: list[Array] = []
        for leaf, length in zip(leaves, self.lengths, strict=True):
            pieces += [jnp.ravel(leaf), np.zeros(length * _ROW - leaf.size, leaf.dtype)]
        return jnp.concatenate(pieces).reshape(-1, _ROW)

    def unpack(self, rows: jax.Array) -> list[jax.Array]:
        """Undo `pack`."""
        flat, start, leaves = rows.ravel(), 0, []
        for shape, length in zip(self.shapes, self.lengths, strict=True):
            leaves.append(flat[start : start + math.prod(shape)].reshape(shape))
            start += length * _ROW
        return leaves


def _lowest_traced(
    scores: Sequence[Array], weights: Sequence[Array], among: Sequence[Array], groups: Sequence[int], counts: Array
) -> list[jax.Array]:
    """Do what `lowest` does: the count-th lowest key of each group is found bit by bit, in one pass per bit, without sorting."""
    rows = _Rows(scores, groups)
    group = rows.group

    def in_group(marks: jax.Array) -> jax.Array:
        return jnp.zeros(len(counts), jnp.int32).at[group].add(jnp.sum(marks, axis=1, dtype=jnp.int32))

    def select(keys: Array, candidates: jax.Array, few: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the candidates below the few-th lowest key, those tied at it, and how many of these are needed."""
        bits, one = keys.dtype.itemsize * 8, jnp.array(1, keys.dtype)

        # The largest v with fewer than `few` candidates' keys below it is the few-th lowest key.
        def try_bit(i: jax.Array, v: jax.Array) -> jax.Array:
            higher = v | (one << (bits - 1 - i).astype(keys.dtype))
            return jnp.where(in_group(candidates & (keys < higher[group][:, None])) < few, higher, v)

        threshold = jax.lax.fori_loop(0, bits, try_bit, jnp.zeros(few.shape, keys.dtype))[group][:, None]
        below = candidates & (keys < threshold)
        return below, candidates & (keys == threshold), few - in_group(below)

    def bits_of(leaves: Sequence[Array]) -> Array:
        return _ordered_bits(rows.pack(_in_one_type(leaves)))

    below, tied, needed = select(bits_of(scores), rows.pack(among), jnp.asarray(counts))

    def by_weight() -> jax.Array:
        chosen, still_tied, missing = jnp.zeros_like(tied), tied, needed
        if weights is not scores:  # otherwise elements tied by score are tied by weight too
            chosen, still_tied, missing = select(
                bits_of([jnp.abs(leaf) for leaf in _in_one_type(weights)]), tied, needed
            )
        # No two places are the same.
        places = jnp.asarray(rows.from_the_end)[:, None] * _ROW + jnp.arange(_ROW - 1, -1, -1, dtype=jnp.uint32)[None]
        before, last, _ = select(places, still_tied, missing)
        return chosen | before | (last & (missing > 0)[group][:, None])

    # Usually there are no ties: all elements at the threshold are needed.
    return rows.unpack(below | jax.lax.cond(jnp.all(needed == in_group(tied)), lambda: tied, by_weight))


def prune_to(
    scores: Sequence[Array],
    weights: Sequence[Array],
    kept: Sequence[Bool[Array, "..."]],
    groups: Sequence[int],
    counts: Int32[Array, " groups"],
) -> list[Bool[Array, "..."]]:
    """Return bool arrays of the weights that stay when max(`counts`, already pruned) weights of each group are pruned."""
    library: Any = jnp if traced(kept, counts) else np
    pruned = library.stack([library.sum(~library.asarray(leaf), dtype=np.int32) for leaf in kept])
    before = (np.asarray(groups) == np.arange(len(counts))[:, None]).astype(np.int32) @ pruned
    more = lowest(scores, weights, kept, groups, library.maximum(counts, before) - before)
    return [k & ~g for k, g in zip(kept, more, strict=True)]
