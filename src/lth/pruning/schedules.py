"""Masks that change during training, as data in the state of `keep_pruned_at_zero`.

    tx = keep_pruned_at_zero(optax.adam(3e-4))
    state = set_mask(tx.init(params), mask, params)._replace(schedule=rigl(params, every=100, until=75_000))

Each schedule is a pytree of arrays, so all schedules of one type share a compilation, work under `jit`, `vmap` and `scan`, and
are saved with the optimizer state. Leaves that are not prunable, such as biases, are unchanged.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, nearest
from ..types import Array, Mask, Params
from .allocation import PATHS, AllocationName, PathName, counts_by_round, not_below
from .layers import Layers, Prunable, StackAxes, join, layers, pieces, split, warn_of_doubts
from .prune import check_key
from .selection import lowest, prune_to


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Stacks:
    """The stack axes of each leaf; part of a schedule's tree structure, because shapes depend on them."""

    axes: tuple[tuple[int, ...], ...] = ()  # one entry per leaf; empty: no stacks

    def _pairs(self, leaves: Sequence[Array]) -> list[tuple[Array, tuple[int, ...]]]:
        return list(zip(leaves, self.axes or [()] * len(leaves), strict=True))

    def copies(self, leaves: Sequence[Array]) -> list[int]:
        """Count the layers of each leaf."""
        return [math.prod(leaf.shape[axis] for axis in axes) for leaf, axes in self._pairs(leaves)]

    def split(self, leaves: Sequence[Array]) -> list[Array]:
        """Return the layers of all leaves, each layer of a stack separately."""
        return [piece for leaf, axes in self._pairs(leaves) for piece in split(leaf, axes)]

    def join(self, found: Sequence[Array], leaves: Sequence[Array]) -> list[Array]:
        """Undo `split`; `leaves` have the original shapes."""
        rest = iter(found)
        taken = [[next(rest) for _ in range(n)] for n in self.copies(leaves)]
        return [join(some, axes, leaf.shape) for some, (leaf, axes) in zip(taken, self._pairs(leaves), strict=True)]

    def of_each(self, values: Array, leaves: Sequence[Array]) -> list[Array]:
        """Repeat each leaf's value for each of its layers."""
        return [values[i] for i, copies in enumerate(self.copies(leaves)) for _ in range(copies)]


class PruneAt(NamedTuple):
    """Prune the smallest |w| after the updates `at`: one-shot, iterative or gradual, depending on `at` and `counts`."""

    step: Array  # () int32: updates so far
    at: Array  # (m,) int32
    counts: Array  # int32: pruned weights in total, (m, 1), or per layer, (m, layers)
    prunable: Array  # (leaves,) bool
    stacks: Stacks = Stacks()

    @property
    def instead_of_a_step(self) -> bool:
        """False: the optimizer steps, then the mask changes."""
        return False

    def counted(self) -> "PruneAt":
        """Count one more update."""
        return self._replace(step=self.step + 1)

    def due(self) -> jax.Array:
        """Return whether the mask changes at this update."""
        return jnp.any(self.at == self.step)

    def next_change(self) -> int | None:
        """Return the number of the next update that changes the mask, or None. Not traceable."""
        later = np.asarray(self.at)[np.asarray(self.at) > int(self.step)]
        return int(later.min()) if later.size else None

    def change(self, mask: Mask, params: Params, gradients: Params) -> Mask:
        """Return the next mask; pruned weights stay pruned."""
        del gradients
        counts = self.counts[jnp.argmax(self.at == self.step)]
        leaves, sizes = jax.tree.leaves(mask), [jnp.abs(leaf) for leaf in jax.tree.leaves(params)]
        among = self.stacks.split([leaf | ~self.prunable[i] for i, leaf in enumerate(leaves)])
        # NaN ranks above all numbers, and so above a weight that became NaN only if that counts as infinite.
        finite = [jnp.nan_to_num(leaf, nan=jnp.inf, posinf=jnp.inf) for leaf in sizes]
        protected = self.stacks.split([jnp.where(self.prunable[i], leaf, jnp.nan) for i, leaf in enumerate(finite)])
        groups = [0] * len(among) if counts.shape[0] == 1 else range(len(among))
        stays = self.stacks.join(prune_to(protected, protected, among, groups, counts), leaves)
        return jax.tree.map(jnp.logical_and, mask, jax.tree.unflatten(jax.tree.structure(mask), stays))


def _next_multiple(step: int, every: int, until: int) -> int | None:
    number = (step // every + 1) * every
    return number if number < until else None


def _replaced(mask: Mask, params: Params, growth: list[Array], share: Array, prunable: Array, stacks: Stacks) -> Mask:
    """In each layer, drop the given share of kept weights with the smallest |w|, and grow as many with the highest growth scores.

    A dropped weight may grow back at once, and then keeps its value; so a dense layer is unchanged.
    """
    leaves = jax.tree.leaves(mask)
    kept, sizes = stacks.split(leaves), stacks.split([jnp.abs(leaf) for leaf in jax.tree.leaves(params)])
    each, allowed = range(len(kept)), stacks.of_each(prunable, leaves)
    among = jnp.stack([jnp.where(allowed[i], jnp.sum(leaf, dtype=jnp.int32), 0) for i, leaf in enumerate(kept)])
    # 2.9999998 is a rounded 3.
    counts = jnp.minimum(jnp.floor(share * among * (1 + 1e-6)).astype(jnp.int32), among)
    gone = lowest(sizes, sizes, kept, each, counts)
    kept = [k & ~g for k, g in zip(kept, gone, strict=True)]
    empty, growth = [~leaf for leaf in kept], stacks.split(growth)
    still_empty = jnp.stack([jnp.sum(leaf, dtype=jnp.int32) for leaf in empty]) - counts
    stays_out = lowest(growth, growth, empty, each, still_empty)
    return jax.tree.unflatten(jax.tree.structure(mask), stacks.join([~leaf for leaf in stays_out], leaves))


class Set(NamedTuple):
    """Sparse evolutionary training (Mocanu et al. 2018, https://arxiv.org/abs/1707.04780): grows random weights."""

    step: Array  # () int32: updates so far
    every: Array  # () int32: updates between changes of the mask
    until: Array  # () int32: no changes from this update on
    fraction: Array  # () float32: the share of each layer's kept weights that is replaced
    prunable: Array  # (leaves,) bool
    key: Array  # (2,) uint32, a threefry key
    stacks: Stacks = Stacks()

    @property
    def instead_of_a_step(self) -> bool:
        """False: the optimizer steps, then the mask changes."""
        return False

    def counted(self) -> "Set":
        """Count one more update."""
        return self._replace(step=self.step + 1)

    def due(self) -> jax.Array:
        """Return whether the mask changes at this update."""
        return jnp.asarray((self.step % self.every == 0) & (self.step < self.until))

    def next_change(self) -> int | None:
        """Return the number of the next update that changes the mask, or None. Not traceable."""
        return _next_multiple(int(self.step), int(self.every), int(self.until))

    def change(self, mask: Mask, params: Params, gradients: Params) -> Mask:
        """Return the next mask, with the same number of weights in each layer."""
        del gradients
        leaves = jax.tree.leaves(mask)
        key = jax.random.fold_in(jax.random.wrap_key_data(self.key, impl="threefry2x32"), self.step)
        keys = jax.random.split(key, len(leaves))
        growth = [jax.random.uniform(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
        return _replaced(mask, params, growth, self.fraction, self.prunable, self.stacks)


class RigL(NamedTuple):
    """Rigging the lottery (Evci et al. 2020, algorithm 1, https://arxiv.org/abs/1911.11134): grows the weights with the largest
    |dL/dw| on the current batch; the replaced share decays as fraction / 2 (1 + cos(pi step / until)).
    """

    step: Array  # () int32: updates so far
    every: Array  # () int32: updates between changes of the mask; a change replaces the optimizer step
    until: Array  # () int32: no changes from this update on
    fraction: Array  # () float32
    prunable: Array  # (leaves,) bool
    stacks: Stacks = Stacks()

    @property
    def instead_of_a_step(self) -> bool:
        """True: an update that changes the mask does not step the optimizer (algorithm 1)."""
        return True

    def counted(self) -> "RigL":
        """Count one more update."""
        return self._replace(step=self.step + 1)

    def due(self) -> jax.Array:
        """Return whether the mask changes at this update."""
        return jnp.asarray((self.step % self.every == 0) & (self.step < self.until))

    def next_change(self) -> int | None:
        """Return the number of the next update that changes the mask, or None. Not traceable."""
        return _next_multiple(int(self.step), int(self.every), int(self.until))

    def change(self, mask: Mask, params: Params, gradients: Params) -> Mask:
        """Return the next mask, with the same number of weights in each layer."""
        share = self.fraction / 2 * (1 + jnp.cos(jnp.pi * self.step / self.until))
        growth = [jnp.abs(leaf) for leaf in jax.tree.leaves(gradients)]
        return _replaced(mask, params, growth, share, self.prunable, self.stacks)


KINDS = (PruneAt, Set, RigL)
_ZERO = np.int32(0)


def prune_at(
    params: Params,
    sparsity: float,
    at: Sequence[int],
    path: PathName = "cubic",
    allocation: AllocationName | str | Mapping[str, float] = "global",
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
) -> PruneAt:
    """Return a schedule that prunes the smallest |w| after the updates `at`, on a path to the sparsity.

    One update is one-shot pruning; path "geometric" is iterative pruning without rewinding; "cubic" is gradual pruning.

    >>> params = {"a": {"kernel": np.ones((10, 10), np.float32)}}
    >>> prune_at(params, 0.5, at=range(100, 500, 100)).counts.tolist()
    [[29], [44], [49], [50]]

    Args:
        params: the parameters that are trained; only shapes and names are read.
        sparsity: the fraction of prunable weights that is gone after the last of the updates, in [0, 1].
        at: the numbers of the updates after which the mask changes, rising, from 1.
        path: how the sparsity rises: "cubic" (Zhu & Gupta 2017), or "geometric" (the same share of what is left each time).
        allocation: as for `prune`.
        exclude: layers that stay as they are, by any part of their path.
        prunable: (name, leaf) -> bool, what may be pruned, as for `prune`.
        stack_axes: as for `prune`.

    Returns:
        A pytree for the `schedule` of `keep_pruned_at_zero`'s state.

    Raises:
        InputError: as `prune`; the path is unknown; `at` is not rising from 1 or more.
    """
    if path not in PATHS:
        raise InputError(f"unknown path {path!r}; choose from {', '.join(PATHS)}{nearest(path, PATHS)}")
    steps = np.asarray(list(at) if isinstance(at, Iterable) else at)
    if not _increasing(steps):
        raise InputError(
            f"`at` is {steps.tolist()!r:.60}, but must be increasing update numbers, integers of at least 1"
        )
    table = layers(params, exclude, prunable, stack_axes)
    warn_of_doubts(table)
    shapes, names = [row.each for row, _ in pieces(table)], [row.layer for row, _ in pieces(table)]
    rows: list[list[int]] = []
    for counts in counts_by_round(allocation, shapes, sparsity, len(steps), names, path):
        if isinstance(counts, int):
            rows.append([counts])
        else:
            rows.append(not_below(counts, rows[-1]) if rows and isinstance(allocation, str) else counts)
    chosen = [True] if isinstance(counts, int) else [row.prunable for row in table for _ in range(row.copies)]
    by_layer = np.zeros((len(rows), len(chosen)), np.int32)
    by_layer[:, chosen] = rows
    return _on_device(PruneAt(_ZERO, steps.astype(np.int32), by_layer, *_leaves(table)))


def sparse_evolution(
    params: Params,
    every: int,
    until: int,
    key: jax.Array,
    fraction: float = 0.3,
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
) -> Set:
    """Return a schedule for SET (Mocanu et al. 2018): drop the smallest |w| of each layer, grow as many at random.

    Start from a random mask, best with `allocation="erk"`. Counts by layer stay the same.

    >>> params = {"a": {"kernel": np.ones((10, 10), np.float32)}}
    >>> sparse_evolution(params, every=100, until=1000, key=jax.random.key(0)).next_change()
    100

    Args:
        params: the parameters that are trained; only shapes and names are read.
        every: the mask changes after each `every` updates.
        until: the mask no longer changes from this update on.
        key: a JAX key, from which the growth positions are drawn.
        fraction: the share of each layer's kept weights that is replaced each time, between 0 and 1.
        exclude: layers that stay as they are, by any part of their path.
        prunable: (name, leaf) -> bool, what may be pruned, as for `prune`.
        stack_axes: as for `prune`.

    Returns:
        A pytree for the `schedule` of `keep_pruned_at_zero`'s state.

    Raises:
        InputError: a number is out of its range, the key is not a JAX key, or as `layers`.
    """
    table = layers(params, exclude, prunable, stack_axes)
    warn_of_doubts(table)
    flags, stacks = _leaves(table)
    check_key(key, "sparse_evolution")
    drawn = jax.random.bits(key, (2,), jnp.uint32)
    return _on_device(Set(_ZERO, *_numbers(every, until, fraction), flags, drawn, stacks))


def rigl(
    params: Params,
    every: int,
    until: int,
    fraction: float = 0.3,
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
) -> RigL:
    """Return a schedule for RigL (Evci et al. 2020): drop the smallest |w| of each layer, grow where |dL/dw| is largest.

    Start from a random mask, best with `allocation="erk"`. Counts by layer stay the same. The gradients that
    `keep_pruned_at_zero` is given must be dense, as jax.grad's are.

    >>> params = {"a": {"kernel": np.ones((10, 10), np.float32)}}
    >>> rigl(params, every=100, until=1000).next_change()
    100

    Args:
        params: the parameters that are trained; only shapes and names are read.
        every: the mask changes in place of each `every`-th update.
        until: the mask no longer changes from this update on.
        fraction: the share of each layer's kept weights that is replaced at first, between 0 and 1; it falls to 0 as a cosine.
        exclude: layers that stay as they are, by any part of their path.
        prunable: (name, leaf) -> bool, what may be pruned, as for `prune`.
        stack_axes: as for `prune`.

    Returns:
        A pytree for the `schedule` of `keep_pruned_at_zero`'s state.

    Raises:
        InputError: a number is out of its range, or as `layers`.
    """
    table = layers(params, exclude, prunable, stack_axes)
    warn_of_doubts(table)
    return _on_device(RigL(_ZERO, *_numbers(every, until, fraction), *_leaves(table)))


def _leaves(rows: Layers) -> tuple[Array, Stacks]:
    """Return whether each leaf is prunable, (leaves,) bool, and the stack axes of each leaf."""
    axes = tuple(row.stack_axes for row in rows)
    return np.array([row.prunable for row in rows]), Stacks(axes if any(axes) else ())


def _increasing(steps: np.ndarray) -> bool:
    """Return whether an array holds increasing whole numbers from 1, of which int32 can hold the last."""
    if steps.ndim != 1 or not steps.size or steps.dtype.kind not in "iuf":
        return False
    wide = steps.astype(np.float64)
    whole = bool((wide == np.floor(wide)).all())
    return whole and bool((np.diff(wide, prepend=0.0) >= 1).all()) and bool(wide[-1] < 2**31)


Kind = TypeVar("Kind", PruneAt, Set, RigL)


def _on_device(schedule: Kind) -> Kind:
    arrays: Kind = jax.device_put(schedule)
    return arrays


def _numbers(every: int, until: int, fraction: float) -> tuple[Array, Array, Array]:
    whole = all(isinstance(number, int | np.integer) for number in (every, until))
    whole = whole and np.ndim(fraction) == 0 and np.asarray(fraction).dtype.kind in "iuf"
    if not whole or not (0 < every < 2**31 and 0 < until < 2**31 and 0 < fraction < 1):
        raise InputError(
            f"every={every!r}, until={until!r}, fraction={fraction!r}: every and until must be update counts of at least 1, and "
            "fraction must be between 0 and 1"
        )
    return np.int32(every), np.int32(until), np.float32(fraction)
