"""Make masks by score, and keep pruned weights at zero in any optax optimizer.

Weights are selected by rank (`selection`), not by comparison with a threshold, so the pruned count is exact even if scores are
tied.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import InputError, nearest
from ..types import Array, Mask, Params
from .layers import Layer, Layers, Prunable, StackAxes, join, layers, named_leaves, path_name, split
from .selection import prune_to


def prune_lowest(
    scores: Params, params: Params, rows: Sequence[Layer], count: int | Sequence[int], prev_mask: Mask | None = None
) -> Mask:
    """Prune the `count` weights with the lowest scores. Ties: the larger |w| stays, then the earlier in tree order.

    Args:
        scores: a pytree like `params`, of floats without NaN; only prunable leaves are read.
        params: the weights.
        rows: the result of `layers`.
        count: the number of weights to prune from all prunable leaves together (global), or one number per prunable layer,
            counting each layer of a stack separately.
        prev_mask: weights pruned in it stay pruned; if it prunes more than `count`, no more are pruned.

    Returns:
        A mask with the structure, shapes and dtypes of `params`; where not prunable that of `prev_mask`, or ones.
    """
    leaves: list[Any]
    treedef: Any
    leaves, treedef = jax.tree.flatten(jax.tree.map(_known, params))
    score_leaves = [_known(leaf) for leaf in treedef.flatten_up_to(scores)]
    if prev_mask is None:
        before = [np.ones(leaf.shape, bool) for leaf in leaves]
    else:
        before = [_known(leaf).astype(bool) for leaf in treedef.flatten_up_to(prev_mask)]
    chosen = [i for i, row in enumerate(rows) if row.prunable]
    together = isinstance(count, int)
    axes = {i: () if together else rows[i].stack_axes for i in chosen}
    parts = [[piece for i in chosen for piece in split(tree[i], axes[i])] for tree in (score_leaves, leaves, before)]
    groups = (0,) * len(parts[0]) if together else tuple(range(len(parts[0])))
    scored, weights, left = parts
    counts = np.array([count] if together else count, np.int32)
    found = prune_to(scored, weights, left, groups, counts) if chosen else []
    mask = [kept.astype(leaf.dtype) for kept, leaf in zip(before, leaves, strict=True)]
    rest = (stays.astype(leaf.dtype) for stays, leaf in zip(found, weights, strict=True))
    for i in chosen:
        mask[i] = join([next(rest) for _ in range(rows[i].copies if axes[i] else 1)], axes[i], rows[i].shape)
    return treedef.unflatten([jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in mask])


def _known(leaf: Any) -> Array:
    """Return a leaf as an array of NumPy unless JAX traces it, in the dtype that JAX would give it (float64 to float32).

    JAX compiles whatever it computes, once for each shape.
    """
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    array = np.asarray(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def apply_mask(params: Params, mask: Mask) -> Params:
    """Return the parameters with pruned weights set to exactly 0.0.

    By selection, not multiplication: NaN * 0 would be NaN, and -1 * 0 is -0.0.

    >>> apply_mask({"w": jnp.array([1.0, jnp.nan])}, {"w": jnp.array([1.0, 0.0])})["w"].tolist()
    [1.0, 0.0]

    Args:
        params: a pytree of arrays.
        mask: a tree with the same structure and shapes, 1 kept and 0 pruned.

    Returns:
        A tree like `params`, with the same dtypes.

    Raises:
        InputError: the mask does not have the structure or shapes of `params` (naming the first leaf that differs).
    """
    structures: list[Any] = [jax.tree.structure(tree) for tree in (mask, params)]
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (mask, params)]
    if structures[0] != structures[1] or shapes[0] != shapes[1]:
        check_same_structure(mask, params, "the mask", "the parameters'")
    return _masked(mask, params)


# One program for a tree, as wherever trees are changed outside of jit: eager JAX compiles one for each operation and shape.
@functools.partial(jax.jit, inline=True)
def _masked(mask: Mask, params: Params) -> Params:
    return jax.tree.map(lambda m, p: jnp.where(jnp.asarray(m).astype(bool), p, jnp.zeros_like(p)), mask, params)


@jax.jit
def _kept(leaves: list[Array]) -> list[jax.Array]:
    return [leaf != 0 for leaf in leaves]


def pruned_counts(
    mask: Mask, exclude: Sequence[str] = (), prunable: Prunable | None = None, stack_axes: StackAxes | None = None
) -> dict[str, tuple[int, int]]:
    """Return (pruned weights, all weights) of each prunable layer by name, counting each layer of a stack separately."""
    known = jax.tree.map(np.asarray, mask)
    # Integers are not weights, but may be a mask. Beside floats they are what they were among the parameters.
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(known)):
        known = jax.tree.map(lambda leaf: leaf.astype(bool), known)
    return _counts(mask, layers(known, exclude, prunable, stack_axes))


def _counts(mask: Mask, rows: Layers) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for row, leaf in zip(rows, jax.tree.leaves(mask), strict=True):
        if row.prunable:
            for name, piece in zip(row.names, split(np.asarray(leaf), row.stack_axes), strict=True):
                pruned, size = counts.get(name, (0, 0))
                counts[name] = pruned + int(np.sum(piece == 0)), size + piece.size
    return counts


def pruned_by_layer(mask: Mask, rows: Sequence[Layer]) -> list[int]:
    """Count the pruned weights of each prunable layer, counting each layer of a stack separately."""
    leaves = [(row, np.asarray(leaf)) for row, leaf in zip(rows, jax.tree.leaves(mask), strict=True) if row.prunable]
    return [int(np.sum(piece == 0)) for row, leaf in leaves for piece in split(leaf, row.stack_axes)]


def compute_sparsity(mask: Mask, exclude: Sequence[str] = ()) -> float:
    """Return the fraction of prunable weights that a mask removes, in [0, 1]; biases and norms are not counted.

    >>> import jax.numpy as jnp
    >>> compute_sparsity({"layer": {"kernel": jnp.array([[1., 0.], [0., 0.]]), "bias": jnp.ones(2)}})
    0.75

    Args:
        mask: a mask of one network, 1 kept and 0 pruned.
        exclude: layers that are left out of the count, by any part of their path.
    """
    counts = pruned_counts(mask, exclude).values()
    total = sum(size for _, size in counts)
    return sum(pruned for pruned, _ in counts) / total if total else 0.0


def sparsity_text(mask: Mask, exclude: Sequence[str] = ()) -> str:
    """Format a mask's sparsity with four decimals; if layers are excluded, for the prunable weights and for all kernels.

    >>> kernels = {"a": {"kernel": np.array([[0.0], [1.0]])}, "b": {"kernel": np.array([[1.0]])}}
    >>> sparsity_text(kernels), sparsity_text(kernels, ["b"])
    ('0.3333', '0.5000 of the prunable weights (0.3333 of all kernels)')
    """
    of_all = f"{compute_sparsity(mask):.4f}"
    return (
        f"{compute_sparsity(mask, exclude):.4f} of the prunable weights ({of_all} of all kernels)"
        if exclude
        else of_all
    )


def emptied_layers(mask: Mask, rows: Layers | None = None) -> list[str]:
    """Return the names of layers whose weights are all pruned, counting each layer of a stack separately.

    `rows` are the parameters' (`layers`); None: those of the mask itself.
    """
    counts = pruned_counts(mask) if rows is None else _counts(mask, rows)
    return [name for name, (pruned, size) in counts.items() if pruned == size > 0]


class Schedule(Protocol):
    """Changes a mask during training: a pytree of arrays that counts the updates (see `schedules`)."""

    @property
    def instead_of_a_step(self) -> bool: ...

    def counted(self) -> "Schedule": ...

    def due(self) -> jax.Array: ...

    def next_change(self) -> int | None: ...

    def change(self, mask: Mask, params: Params, gradients: Params) -> Mask: ...


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Unset:
    """Marks a state of `keep_pruned_at_zero` on which `set_mask` was not called. Part of the tree structure; holds no array."""


class MaskedState(NamedTuple):
    """The state of `keep_pruned_at_zero`: the mask (a pytree of bool arrays), the inner state, and an optional schedule that
    changes the mask during training.
    """

    # None: the parameters hold kept weights only, so nothing is masked, and a schedule only counts updates.
    mask: Mask | None
    inner: optax.OptState
    schedule: Any = None
    unset: Unset | None = None


def keep_pruned_at_zero(
    inner: optax.GradientTransformation | optax.MultiSteps,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that it never sees, and never moves, a pruned weight.

    The mask is part of the state and not of the code, so one compilation serves all masks, a mask of ones included. It is
    applied to the gradients, so that moments and clipping see the kept weights only, and to the updates. Whatever else `update`
    is given (`value`, `grad`, `value_fn`, ...) is passed on to the inner optimizer.

    With a schedule in the state (`tx.init(params)._replace(schedule=...)`, see `schedules`) the mask changes at the schedule's
    updates: weights pruned then become 0.0 together with their optimizer state, and weights that grow start from 0.0. Nothing
    may change the updates after this transformation then: it has to be the outermost, or the last in `optax.chain`.

    >>> params, mask = {"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[1.0, 0.0]])}
    >>> tx = keep_pruned_at_zero(optax.sgd(0.5))
    >>> params = apply_mask(params, mask)
    >>> state = set_mask(tx.init(params), mask, params)
    >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, state, params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.5, 0.0]]

    Args:
        inner: any optax optimizer.

    Returns:
        An optax transformation whose state is a `MaskedState` around the inner state.

    Raises:
        InputError: there is a schedule, and `update` is called without `params`.

    Warns:
        UserWarning: an update finds neither a mask set by `set_mask` nor a schedule, so nothing is held at zero.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> MaskedState:
        ones = jax.tree.map(lambda p: jnp.ones(p.shape, bool), params)
        return MaskedState(ones, inner.init(params), unset=Unset())

    def update(
        updates: Params, state: MaskedState, params: Params | None = None, **extra: Any
    ) -> tuple[Params, MaskedState]:
        if state.mask is None:
            stepped, inner_state = inner.update(updates, state.inner, params, **extra)
            schedule = None if state.schedule is None else state.schedule.counted()
            return stepped, state._replace(inner=inner_state, schedule=schedule)
        if state.unset is not None and state.schedule is None:
            warnings.warn(
                "no mask was set, so keep_pruned_at_zero keeps no weight at zero: call "
                "state = lth.set_mask(tx.init(params), mask, params) (for a dense network, set a mask of ones)",
                stacklevel=2,
            )

        def step() -> tuple[Params, MaskedState]:
            stepped, inner_state = inner.update(apply_mask(updates, state.mask), state.inner, params, **extra)
            return apply_mask(stepped, state.mask), state._replace(inner=inner_state)

        if state.schedule is None:
            return step()
        if params is None:
            raise InputError("a schedule needs the parameters: call tx.update(grads, state, params)")
        state = state._replace(schedule=state.schedule.counted())

        def change() -> tuple[Params, MaskedState]:
            still = jax.tree.map(jnp.zeros_like, updates), state
            stepped, after = still if state.schedule.instead_of_a_step else step()
            mask = state.schedule.change(state.mask, optax.apply_updates(params, stepped), updates)
            stepped = jax.tree.map(lambda m, u, p: jnp.where(m, u, -p), mask, stepped, params)
            return stepped, _with_mask(after, mask, params)

        def wide(branch: Callable[[], tuple[Params, MaskedState]]) -> Callable[[], tuple[Params, MaskedState]]:
            """Return updates that can hold -p exactly, whatever the dtype of the gradients."""

            def call() -> tuple[Params, MaskedState]:
                stepped, after = branch()
                return jax.tree.map(lambda u, p: u.astype(jnp.result_type(u, p)), stepped, params), after

            return call

        changed: tuple[Params, MaskedState] = jax.lax.cond(state.schedule.due(), wide(change), wide(step))
        return changed

    return optax.GradientTransformationExtraArgs(init, update)


def set_mask(state: Any, mask: Mask, params: Params) -> Any:
    """Return an optimizer state that holds a mask, with the optimizer state of pruned weights set to zero.

    The state of `keep_pruned_at_zero` is found wherever it is nested: in optax.chain, MultiSteps, inject_hyperparams,
    multi_transform, masked, apply_if_finite, ... Masked is every array of the inner state whose path ends in a parameter's path
    and whose shape is that parameter's, such as Adam's two moments. Counters are not, nor Adafactor's sums over rows and columns.

    >>> params = {"w": jnp.ones((1, 2))}
    >>> state = set_mask(keep_pruned_at_zero(optax.adam(1e-3)).init(params), {"w": jnp.array([[1.0, 0.0]])}, params)
    >>> state.mask["w"].tolist()
    [[True, False]]

    Args:
        state: an optimizer's state, as its `init` or `update` returns it.
        mask: a tree like `params`, 1 kept and 0 pruned.
        params: the parameters that the optimizer updates.

    Returns:
        A state like the one given. Pass the parameters through `apply_mask` too.

    Raises:
        InputError: there is no `keep_pruned_at_zero` in the optimizer; or a pruned weight is updated by another part of the
            optimizer; or the mask or the state does not fit the parameters.
    """
    check_same_structure(mask, params, "the mask", "the parameters'")

    def found(node: Any) -> bool:
        return isinstance(node, MaskedState)

    states = [node for node in jax.tree.leaves(state, is_leaf=found) if found(node)]
    if not states:
        raise InputError(
            "the optimizer state contains no state of lth.keep_pruned_at_zero, so the mask cannot be set. Wrap the optimizer: "
            f"tx = lth.keep_pruned_at_zero(optax.adam(1e-3)).{_instead(state)}"
        )
    shapes = {path: jnp.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for s in states:
        for path, leaf in jax.tree_util.tree_leaves_with_path(s.mask):
            if shapes.get(path) != jnp.shape(leaf):
                raise InputError(
                    f"the optimizer state is not that of these parameters: it has a leaf {path_name(path)!r} of shape "
                    f"{jnp.shape(leaf)}, and they have {shapes.get(path, 'none of this name')}. Make it by tx.init(params). If a "
                    "transformation such as optax.flatten changes the parameters, keep_pruned_at_zero has to be outside of it."
                )
    held = {path for s in states for path in _paths(params if s.mask is None else s.mask)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(mask):
        if path not in held and not isinstance(leaf, jax.core.Tracer) and (np.asarray(leaf) == 0).any():
            raise InputError(
                f"the mask prunes {path_name(path)!r}, but no keep_pruned_at_zero in this optimizer holds that leaf (as in one "
                "part of multi_transform), so it would not stay pruned. Wrap that part too, or the whole optimizer."
            )
    return jax.tree.map(
        lambda n: _with_mask(n, mask, params)._replace(unset=None) if found(n) else n, state, is_leaf=found
    )


def _instead(state: Any) -> str:
    """Return a hint about `opt_state` if the given state is a train state."""
    if hasattr(state, "opt_state"):
        return " (For a train state use state.replace(opt_state=lth.set_mask(state.opt_state, mask, state.params)).)"
    return ""


def _paths(tree: Any) -> list[tuple[Any, ...]]:
    return [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _with_mask(state: MaskedState, mask: Mask, params: Params) -> MaskedState:
    """Set the mask of one state, which may hold only a part of the parameters."""
    kept = dict(zip(_paths(params), _kept(jax.tree.leaves(mask)), strict=True))
    like = params if state.mask is None else state.mask
    treedef: Any
    found, treedef = jax.tree_util.tree_flatten_with_path(state.inner)
    leaves, own = [leaf for _, leaf in found], {}
    for i, (path, leaf) in enumerate(found):
        ends = (path[j:] for j in range(len(path) + 1))
        bits = next((kept[end] for end in ends if end in kept), None)
        if bits is not None and bits.shape == jnp.shape(leaf):
            own[i] = bits
    for i, leaf in apply_mask({i: leaves[i] for i in own}, own).items():
        leaves[i] = leaf
    own_mask = jax.tree_util.tree_map_with_path(lambda path, _: kept[path], like)
    return state._replace(mask=own_mask, inner=treedef.unflatten(leaves))


def check_same_leaves(tree: Any, params: Params, what: str, like: str = "the network's") -> None:
    """Raise InputError unless the leaves of `tree` and `params` have the same names and shapes; names the first that differs."""
    have, want = ({name: jnp.shape(leaf) for name, leaf in named_leaves(t).items()} for t in (tree, params))
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


def check_same_structure(tree: Any, params: Params, what: str, like: str = "the network's") -> None:
    """Raise InputError unless `tree` has the same leaves, shapes and containers as `params`."""
    check_same_leaves(tree, params, what, like)
    structure: Any = jax.tree.structure(tree)
    if structure != jax.tree.structure(params):
        raise InputError(f"{what} has a different tree structure than {like}: {structure}")
