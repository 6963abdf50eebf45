"""Gradient statistics for criteria, accumulated over batches in one compiled loop."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, nearest
from ..types import Params
from .layers import named_leaves

Loss = Callable[[Params, Any], jax.Array]
"""(params, batch) -> scalar."""

STATISTICS: dict[str, str] = {
    "mean": "the mean of the batches' gradients, signed",
    "mean_abs": "the mean of their absolute values",
    "mean_square": "the mean of their squares",
    "hessian_gradient": "the mean Hessian times the mean gradient",
    "flow": "the sum of the gradients at |w| in place of w",
}


def accumulate(
    loss: Loss, params: Params, draw: Callable[[jax.Array], Any], num_batches: jax.Array, statistic: str
) -> tuple[Params, jax.Array]:
    """Accumulate one of `STATISTICS` over batches 0 to `num_batches` - 1, where `draw(i)` returns batch i. Pure.

    Returns a tree like `params`, and for each leaf, in tree order, the first batch in which its gradient was not finite
    (`num_batches` if none).
    """

    def total(gradient: Callable[[Any], Params], each: Callable[[jax.Array], jax.Array]) -> tuple[Params, jax.Array]:
        def one(i: jax.Array, carry: tuple[Params, jax.Array]) -> tuple[Params, jax.Array]:
            sums, first_bad = carry
            found = gradient(draw(i))
            finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(found)])
            first_bad = jnp.where(finite, first_bad, jnp.minimum(first_bad, i))
            return jax.tree.map(lambda s, g: s + each(g.astype(s.dtype)), sums, found), first_bad

        # Half-precision sums stop growing after a few hundred batches, and squares underflow.
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
        none_bad = jnp.broadcast_to(num_batches, (len(jax.tree.leaves(params)),))
        totals: tuple[Params, jax.Array] = jax.lax.fori_loop(0, num_batches, one, (zeros, none_bad))
        return totals

    def mean(sums: Params) -> Params:
        return jax.tree.map(lambda s: s / num_batches.astype(s.dtype), sums)

    def scalar(params: Params, batch: Any) -> jax.Array:
        value = loss(params, batch)
        if not jax.tree_util.all_leaves([value]):
            raise InputError(
                f"the loss returned {type(value).__name__}, but must return one number; if it returns other values too, pass "
                "loss=lambda params, batch: loss(params, batch)[0]"
            )
        if jnp.shape(value):
            raise InputError(
                f"the loss has shape {jnp.shape(value)}, but must be one number: use its mean over the batch"
            )
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise InputError(f"the loss is {jnp.result_type(value)}, but must be a real floating-point number")
        return value

    gradient = jax.grad(scalar)
    if statistic == "flow":
        positive = jax.tree.map(jnp.abs, params)
        return total(lambda batch: gradient(positive, batch), lambda g: g)
    each = {"mean_abs": jnp.abs, "mean_square": lambda g: jnp.square(jnp.abs(g))}.get(statistic, lambda g: g)
    sums, first_bad = total(lambda batch: gradient(params, batch), each)
    if statistic == "hessian_gradient":
        # The JAX gradient of a complex weight is the conjugate of the ascent direction.
        direction = jax.tree.map(lambda p, g: jnp.conj(g).astype(p.dtype), params, mean(sums))

        def along(batch: Any) -> Params:
            return jax.jvp(lambda p: gradient(p, batch), (params,), (direction,))[1]

        sums, worse = total(along, each)
        first_bad = jnp.where(jnp.all(first_bad == num_batches), worse, first_bad)
    return mean(sums), first_bad


def gradient_statistic(
    loss: Loss, params: Params, batches: Any, statistic: str = "mean_abs", num_batches: int = 100, batch_size: int = 256
) -> Params:
    """Compute a criterion's gradient statistic for any loss and batches, in one compiled loop.

    >>> import jax.numpy as jnp
    >>> loss = lambda params, batch: jnp.sum(params["w"] * batch)
    >>> params, batches = {"w": jnp.ones((1, 2))}, [jnp.array([1.0, -1.0]), jnp.array([3.0, 1.0])]
    >>> gradient_statistic(loss, params, batches, "mean_abs")["w"].tolist()
    [[2.0, 1.0]]
    >>> gradient_statistic(loss, params, batches, "mean")["w"].tolist()
    [[2.0, 0.0]]

    Args:
        loss: (params, batch) -> scalar.
        params: a pytree of floats.
        batches: an iterable of pytrees of equal shapes, all held in memory at once; or a replay buffer, that is any object with
            `sample(batch_size)`.
        statistic: a key of `STATISTICS`.
        num_batches: the number of batches sampled from a replay buffer.
        batch_size: the size of each sampled batch.

    Returns:
        A tree like `params`, in at least float32.

    Raises:
        InputError: the statistic is unknown; the loss is not a function, or its value is not a real scalar; there are no batches,
            or their shapes differ (names the batch); num_batches or batch_size is not an integer of at least 1; a leaf is not a
            float; a gradient is not finite (names the leaf and the first bad batch).
    """
    return gatherer(loss, batches, statistic, num_batches, batch_size)(params)


def gatherer(
    loss: Loss, batches: Any, statistic: str = "mean_abs", num_batches: int = 100, batch_size: int = 256
) -> Callable[[Params], Params]:
    """Return `gradient_statistic` as a function of the parameters that is compiled once.

    Each gatherer traces the loss again, because the loss may close over values that change between gatherers, such as target
    networks.
    """
    if statistic not in STATISTICS:
        raise InputError(
            f"unknown statistic {statistic!r}; choose from {', '.join(STATISTICS)}{nearest(statistic, STATISTICS)}"
        )
    if not callable(loss):
        raise InputError(f"the loss is {loss!r}, but must be a function of (params, batch)")
    sampled = hasattr(batches, "sample")
    for name, value in (("num_batches", num_batches), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{name} is {value!r}, but must be an integer of at least 1")
    given = None if sampled else _stacked(batches)

    @jax.jit
    def over(params: Params, stack: Any) -> tuple[Params, jax.Array]:
        n = jnp.asarray(jax.tree.leaves(stack)[0].shape[0], jnp.int32)
        return accumulate(loss, params, lambda i: jax.tree.map(lambda leaf: leaf[i], stack), n, statistic)

    def gather(params: Params) -> Params:
        for name, leaf in named_leaves(params).items():
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                raise InputError(f"the leaf {name!r} is {jnp.result_type(leaf)}, but gradients need floats")
        stack = _stacked([batches.sample(batch_size) for _ in range(num_batches)]) if sampled else given
        found, first_bad = over(params, stack)
        if not isinstance(first_bad, jax.core.Tracer):
            n, bad = jax.tree.leaves(stack)[0].shape[0], np.asarray(first_bad)
            if (bad < n).any():
                name = list(named_leaves(params))[int(bad.argmin())]
                raise InputError(
                    f"NaN gradients: the gradient of {name!r} is not finite, first in batch {int(bad.min())} of {n}. Check the "
                    "parameters and that batch, or scale the loss down."
                )
        return found

    return gather


def _stacked(batches: Iterable[Any]) -> Any:
    """Stack batches leaf by leaf along a new first axis."""
    if isinstance(batches, Mapping):
        raise InputError("`batches` is a single mapping; pass one batch as a list: [batch]")
    if not isinstance(batches, Iterable):
        raise InputError(
            f"`batches` is {batches!r}, but must be a list of batches, or have a method `sample(batch_size)`"
        )
    batches = list(batches)
    if not batches or not jax.tree.leaves(batches[0]):
        raise InputError("there are no batches to take gradients over; pass at least one, as a pytree of arrays")
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(batch)] for batch in batches]
    for i, found in enumerate(shapes):
        if found != shapes[0]:
            raise InputError(
                f"batch {i} has arrays of shapes {found}, but batch 0 has {shapes[0]}; all batches must have equal shapes. "
                "If the last batch is shorter, leave it out."
            )
    structures: list[Any] = [jax.tree.structure(batch) for batch in batches]
    for i, structure in enumerate(structures):
        if structure != structures[0]:
            raise InputError(f"batch {i} has a different tree structure than batch 0: {structure}, {structures[0]}")
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(batches[0])):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *batches)
