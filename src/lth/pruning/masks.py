"""Which weights are pruned, exactly; and an optimiser that keeps them at zero.

The k lowest-ranked weights are found by rank and never by comparing with a threshold, so the count is exact whatever
ties there are. Scores are floats, and the order of floats is the order of their bits read as integers; the k-th
lowest is therefore found bit by bit, in one pass over the scores for each bit, without sorting them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import InputError, nearest
from ..types import Mask, Params


def path_name(path: Sequence[Any]) -> str:
    """Name a leaf by its path: `layer_0/kernel`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def layer_names(params: Params) -> list[str]:
    """Return the names of the layers that can be pruned: the paths of the kernels without their last part."""
    return [
        path_name(path[:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
        if path_name(path[-1:]) == "kernel"
    ]


def is_prunable(path: Sequence[Any], exclude: Sequence[str] = ()) -> bool:
    """Say whether the leaf at `path` may be pruned: it is a kernel, and no layer named in `exclude` holds it.

    A layer is named by any part of its path (`output`), or by several joined by slashes (`q1/output`).
    """
    if path_name(path[-1:]) != "kernel":
        return False
    return not any(holds_layer(path_name(path[:-1]), name) for name in exclude)


def holds_layer(layer: str, name: str) -> bool:
    """Say whether `name` is a part of a layer's path, or several joined by slashes."""
    return f"/{name.strip('/')}/" in f"/{layer}/"


def prunable_leaves(params: Params, exclude: Sequence[str] = ()) -> list[bool]:
    """Say of each leaf of `params`, in tree order, whether it may be pruned.

    Raises:
        InputError: `params` has no kernel, or a name in `exclude` is no layer's.
    """
    if isinstance(exclude, str):
        exclude = (exclude,)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    kernels = [path for path in paths if is_prunable(path)]
    if not kernels:
        raise InputError(
            "there is nothing to prune: the parameters have no leaf named 'kernel'. Their leaves are "
            f"{[path_name(path) for path in paths][:8]}"
        )
    names = sorted({part for name in layer_names(params) for part in (name, *name.split("/"))})
    for name in exclude:
        if all(is_prunable(path, (name,)) for path in kernels):
            raise InputError(
                f"pruning.exclude names {name!r}, which is no layer here; layers: {names}{nearest(name, names)}"
            )
    return [is_prunable(path, exclude) for path in paths]


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Map floats to unsigned integers of the same order (IEEE 754), with -0.0 equal to 0.0."""
    if x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)  # exact for bfloat16 and float16
    unsigned = jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint64
    bits = jax.lax.bitcast_convert_type(x, unsigned)
    sign = jnp.array(1, unsigned) << (x.dtype.itemsize * 8 - 1)
    # Compared as bits, because the processor takes subnormal numbers for zero in float comparisons.
    bits = jnp.where(bits == sign, jnp.zeros_like(bits), bits)
    return jnp.where((bits & sign) != 0, ~bits, bits | sign)


def _lowest(keys: jax.Array, among: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Among the marked elements find those with the `count` lowest keys, as far as the keys decide it.

    Returns the elements below the count-th lowest key, the elements tied at it, and how many of the tied are needed.
    """
    bits = keys.dtype.itemsize * 8
    one = jnp.array(1, keys.dtype)

    # The largest v with fewer than `count` marked keys below it is the count-th lowest key.
    def try_bit(i: jax.Array, v: jax.Array) -> jax.Array:
        candidate = v | (one << (bits - 1 - i).astype(keys.dtype))
        return jnp.where(jnp.sum(among & (keys < candidate), dtype=jnp.int32) < count, candidate, v)

    threshold = jax.lax.fori_loop(0, bits, try_bit, jnp.array(0, keys.dtype))
    below = among & (keys < threshold)
    return below, among & (keys == threshold), count - jnp.sum(below, dtype=jnp.int32)


@jax.jit
def _select(scores: jax.Array, weights: jax.Array, kept_before: jax.Array, count: jax.Array) -> jax.Array:
    """Return which of the flat weights are kept when `count` are pruned (at least those pruned before)."""
    count = jnp.maximum(count, jnp.sum(~kept_before, dtype=jnp.int32))
    needed = count - jnp.sum(~kept_before, dtype=jnp.int32)
    pruned, tied, needed = _lowest(_ordered_bits(scores), kept_before, needed)
    smaller, tied, needed = _lowest(_ordered_bits(jnp.abs(weights)), tied, needed)
    from_the_end = jnp.cumsum(tied[::-1], dtype=jnp.int32)[::-1]
    last = tied & (from_the_end <= needed)
    return kept_before & ~(pruned | smaller | last)


def prune_lowest(
    scores: Params, params: Params, prunable: Sequence[bool], count: int | Sequence[int], prev_mask: Mask | None = None
) -> Mask:
    """Prune the `count` weights with the lowest scores; ties: the larger |w| stays, then the earlier in tree order.

    Args:
        scores: a pytree like `params`, of floats without NaN; only prunable leaves are read.
        params: the weights.
        prunable: one flag a leaf, in tree order, as from `prunable_leaves`.
        count: how many weights to prune of all prunable leaves together (global), or one number for each prunable
            leaf (layer by layer).
        prev_mask: what is pruned there stays pruned; where more is pruned than `count` says, its count is kept.

    Returns:
        A mask with the structure, shapes and dtypes of `params`, all ones where not prunable.
    """
    # The pieces are cut and put together in NumPy: each eager operation of JAX is compiled anew for each shape.
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(jax.tree.map(_canonical, params))
    score_leaves = [_canonical(leaf) for leaf in treedef.flatten_up_to(scores)]
    kept_before = [np.ones(leaf.shape, bool) for leaf in leaves]
    if prev_mask is not None:
        kept_before = [np.asarray(m) != 0 for m in treedef.flatten_up_to(prev_mask)]
    chosen = [i for i, flag in enumerate(prunable) if flag]
    groups = [chosen] if isinstance(count, int) else [[i] for i in chosen]
    counts = [count] if isinstance(count, int) else list(count)
    mask = [np.ones(leaf.shape, leaf.dtype) for leaf in leaves]
    for group, group_count in zip(groups, counts, strict=True):
        if not group:
            continue
        kept = np.asarray(
            _select(
                np.concatenate([score_leaves[i].ravel() for i in group]),
                np.concatenate([leaves[i].ravel() for i in group]),
                np.concatenate([kept_before[i].ravel() for i in group]),
                np.int32(group_count),
            )
        )
        offset = 0
        for i in group:
            size = leaves[i].size
            mask[i] = kept[offset : offset + size].reshape(leaves[i].shape).astype(leaves[i].dtype)
            offset += size
    return treedef.unflatten([jnp.asarray(leaf) for leaf in mask])


def _canonical(leaf: Any) -> np.ndarray:
    """Return a leaf as NumPy array, in the type that JAX would give it (float32 for float64)."""
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def apply_mask(params: Params, mask: Mask) -> Params:
    """Set the pruned weights to exactly 0.0. By selection, not multiplication: NaN * 0 would be NaN, -1 * 0 is -0.0."""
    return jax.tree.map(lambda m, p: jnp.where(jnp.asarray(m) != 0, p, jnp.zeros_like(p)), mask, params)


def pruned_counts(mask: Mask, exclude: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Return, for each prunable layer by name, how many weights are pruned and how many there are."""
    counts = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        if is_prunable(path, exclude):
            counts[path_name(path[:-1])] = (int(np.sum(np.asarray(leaf) == 0)), leaf.size)
    return counts


def compute_sparsity(mask: Mask, exclude: Sequence[str] = ()) -> float:
    """Return the fraction of prunable weights that a mask removes, in [0, 1]; biases and norms are not counted.

    >>> import jax.numpy as jnp
    >>> compute_sparsity({"layer": {"kernel": jnp.array([[1., 0.], [0., 0.]]), "bias": jnp.ones(2)}})
    0.75
    """
    prunable_leaves(mask, exclude)
    counts = pruned_counts(mask, exclude).values()
    total = sum(size for _, size in counts)
    return sum(pruned for pruned, _ in counts) / total if total else 0.0


def emptied_layers(mask: Mask) -> list[str]:
    """Name the layers that a mask leaves without a single weight."""
    return [name for name, (pruned, size) in pruned_counts(mask).items() if pruned == size]


class MaskedState(NamedTuple):
    """The state of `keep_pruned_at_zero`: which weights are kept (a pytree of bool arrays), and the inner state."""

    mask: Mask | None  # None: all that there are, because the pruned ones are not among the parameters
    inner: optax.OptState


def keep_pruned_at_zero(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wrap an optimiser so that it never sees, and never moves, a pruned weight.

    The mask lives in the state and not in the code, so one compilation serves all masks, dense training (a mask of
    ones, the state that `init` returns) included. It is applied on the way in, so that moments and clipping see the
    kept weights only, and on the way out.
    """

    def init(params: Params) -> MaskedState:
        return MaskedState(jax.tree.map(lambda p: jnp.ones(p.shape, bool), params), inner.init(params))

    def update(updates: Params, state: MaskedState, params: Params | None = None) -> tuple[Params, MaskedState]:
        if state.mask is None:
            updates, inner_state = inner.update(updates, state.inner, params)
            return updates, MaskedState(None, inner_state)
        updates, inner_state = inner.update(apply_mask(updates, state.mask), state.inner, params)
        return apply_mask(updates, state.mask), MaskedState(state.mask, inner_state)

    return optax.GradientTransformation(init, update)


def set_mask(state: MaskedState, mask: Mask, params: Params) -> MaskedState:
    """Put a mask into the state of `keep_pruned_at_zero` and zero the pruned weights' share of the inner state.

    Every part of the inner state with the structure of `params` (Adam's two moments) is masked; counters are not.
    """
    kept = jax.tree.map(lambda m: jnp.asarray(m) != 0, mask)
    masked = map_like(jax.tree.structure(params), lambda moments: apply_mask(moments, kept), state.inner)
    return MaskedState(kept, masked)


def map_like(treedef: Any, change: Callable[[Any], Any], tree: Any) -> Any:
    """Change those parts of a tree that have a structure, such as an optimiser's moments, and leave the rest as it is."""

    def like(node: Any) -> bool:
        return bool(jax.tree.structure(node) == treedef)

    return jax.tree.map(lambda node: change(node) if like(node) else node, tree, is_leaf=like)


def check_same_structure(tree: Any, params: Params, what: str, like: str = "the network's") -> None:
    """Raise InputError unless `tree` has the leaves and shapes of `params`, naming the first leaf that differs."""
    have = {path_name(p): jnp.shape(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    want = {path_name(p): jnp.shape(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for name in want:
        if name not in have:
            raise InputError(f"{what} has no leaf {name!r}{nearest(name, have)} (it has {sorted(have)[:8]})")
        if have[name] != want[name]:
            raise InputError(
                f"{what} does not fit: its leaf {name!r} has shape {have[name]}, {like} has shape {want[name]}. "
                "Was it made for a network of another size, or for another task?"
            )
    extra = [name for name in have if name not in want]
    if extra:
        raise InputError(f"{what} has a leaf {extra[0]!r} that is not among {like} leaves")
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(params):
        raise InputError(f"{what} is another kind of tree than {like}: {structure}")


def check_mask_values(mask: Mask, what: str) -> None:
    """Raise InputError unless every value of a mask is 0 or 1, naming the leaf, the position and the value."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        values = np.asarray(leaf)
        wrong = np.argwhere((values != 0) & (values != 1))
        if len(wrong):
            where = tuple(int(i) for i in wrong[0])
            raise InputError(
                f"{what} is not a mask: its leaf {path_name(path)!r} holds {values[where]} at {where}, and only 0 (pruned) "
                "and 1 (kept) are allowed. Are these scores or weights?"
            )
