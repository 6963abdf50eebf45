"""The one function that most people need: parameters in, mask out."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Mask, Params
from .allocation import check_sparsity, counts_by_round, not_below
from .criteria import Criterion, criterion_named
from .gradients import Loss, gatherer
from .layers import Layers, Prunable, StackAxes, layers, named_leaves, pieces, warn_of_doubts
from .masks import (
    apply_mask,
    check_mask_values,
    check_same_structure,
    emptied_layers,
    prune_lowest,
    pruned_by_layer,
)

CHECKS = (
    "Check that (1) the dense model's checkpoint is valid: `lth eval` its run; (2) the replay buffer has valid data; "
    "(3) fewer batches help: reduce pruning.num_gradient_batches."
)


def prune(
    params: Params,
    sparsity: float,
    criterion: str = "magnitude",
    *,
    loss: Loss | None = None,
    batches: Any = None,
    gradients: Params | None = None,
    key: jax.Array | None = None,
    allocation: str | Mapping[str, float] = "global",
    exclude: Sequence[str] = (),
    prev_mask: Mask | None = None,
    rounds: int | None = None,
    invert: bool = False,
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
    collapse: Literal["warn", "error", "allow"] = "warn",
) -> Mask:
    """Make a mask that prunes the least important weights of any network.

    Of n prunable weights exactly `max(round(sparsity * n), already pruned)` are pruned; ties: the larger |w| stays, then
    the earlier in tree order. Runs under `jit` and `vmap` too, where values cannot be checked.

    >>> import jax.numpy as jnp
    >>> params = [(jnp.array([[3.0, -1.0], [0.5, 2.0]]), jnp.zeros(2))]
    >>> prune(params, 0.5)[0][0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> loss = lambda params, x: jnp.sum(x @ params[0][0])
    >>> prune(params, 0.5, "taylor", loss=loss, batches=[jnp.array([1.0, 10.0])])[0][0].tolist()
    [[0.0, 0.0], [1.0, 1.0]]

    Args:
        params: a pytree of arrays: nested dicts, Flax linen's params, nnx.state(model, nnx.Param), an Equinox module's
            eqx.filter(model, eqx.is_inexact_array).
        sparsity: the fraction of prunable weights to remove, in [0, 1].
        criterion: a row of `CRITERIA`, or a Criterion of your own as `package.module:name`.
        loss: (params, batch) -> scalar, where the criterion needs gradients. For synflow: the sum of the network's
            outputs.
        batches: an iterable of pytrees, or anything with `sample(batch_size)` (100 batches of 256 are drawn). For
            synflow: one input of ones.
        gradients: instead of loss and batches, what the criterion needs of them, as `gradient_statistic` returns it.
        key: for the criterion random.
        allocation: "global", "layer" (the same share of each), "erk" (`erk_counts`), a function of your own as
            `package.module:name`, or {layer: sparsity}, where layers that are not named have `sparsity`.
        exclude: layers that stay dense, by any part of their path.
        prev_mask: an earlier mask; what is pruned there stays pruned.
        rounds: prune in so many rounds of equal shares, scoring what is left each time; the criterion's own if None.
        invert: prune the most important instead, as a control.
        prunable: (name, leaf) -> bool, what may be pruned; by default matrices and convolution kernels (`layers`).
        stack_axes: which axes of a leaf count stacked layers (of `nn.scan`, `vmap`, an ensemble), where `layers` does not find
            them: 0, (0, 1), or {layer: 0}; `()` is none. Each layer of a stack is counted by itself.
        collapse: what to do about a layer that the mask leaves without a weight, by name: warn, raise, or nothing.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned; all ones for biases, norms and
        excluded layers.

    Raises:
        InputError: the criterion is unknown or lacks what it needs; the sparsity is outside [0, 1]; a tree does not fit
            (naming the leaf and both shapes); weights, gradients or scores are not finite (naming the leaf); prev_mask
            holds other values than 0 and 1; a layer collapses and `collapse` is "error".
    """
    row = criterion_named(criterion)
    check_sparsity(sparsity)
    rows = layers(params, exclude, prunable, stack_axes)
    warn_of_doubts(rows)
    each, names = [r.each for r, _ in pieces(rows)], [r.layer for r, _ in pieces(rows)]
    rounds = row.rounds if rounds is None else rounds
    if isinstance(rounds, bool) or not isinstance(rounds, int | np.integer) or rounds < 1:
        raise InputError(f"rounds is {rounds!r}, and has to be a whole number of at least 1")
    statistic = _source(criterion, row, params, loss, batches, gradients, key, rows)
    _check_finite(params, "parameters", rows)
    if prev_mask is not None:
        check_same_structure(prev_mask, params, "prev_mask", "the parameters'")
        if not _traced(prev_mask):
            check_mask_values(prev_mask, "prev_mask")
    mask, pruned = prev_mask, _pruned(prev_mask, rows)
    for counts in counts_by_round(allocation, each, sparsity, int(rounds), names):
        left = params if mask is None else apply_mask(params, mask)
        scores = scores_by(row.score)(left, statistic(left))
        _check_scores(scores, criterion, rows, rising=row.statistic == "flow")
        if isinstance(counts, list) and isinstance(allocation, str):
            if pruned is None:
                raise InputError(
                    f"how many weights each layer loses by the allocation {allocation} depends on what prev_mask prunes already, "
                    "so prev_mask cannot be traced: give it as an array from outside of jit and vmap, or allocation='global'"
                )
            counts = pruned = not_below(counts, pruned)
        mask = prune_lowest(jax.tree.map(jnp.negative, scores) if invert else scores, params, rows, counts, mask)
    if collapse != "allow" and not _traced(mask):
        check_collapse(mask, collapse, exclude, prunable, stack_axes)
    return mask


def _pruned(mask: Mask | None, rows: Layers) -> list[int] | None:
    """Count what is pruned of each layer that can be; None where the mask is traced."""
    if mask is None:
        return [0] * len(list(pieces(rows)))
    return None if _traced(mask) else pruned_by_layer(mask, rows)


def check_collapse(
    mask: Mask,
    collapse: Literal["warn", "error"] = "warn",
    exclude: Sequence[str] = (),
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
    what: str = "the mask",
    whose: str = "",
) -> None:
    """Warn of layers that a mask leaves without a weight, or raise InputError: nothing passes through them any more."""
    if emptied := emptied_layers(mask, exclude, prunable, stack_axes):
        text = (
            f"{what}: no weight is left in {whose}{', '.join(emptied)}: all that comes out of such a layer is its bias. `exclude` "
            "keeps a layer dense; a lower sparsity, or the allocation layer or erk, empties fewer."
        )
        if collapse == "error":
            raise InputError(text)
        warnings.warn(text, stacklevel=3)


def _source(
    criterion: str,
    row: Criterion,
    params: Params,
    loss: Loss | None,
    batches: Any,
    gradients: Params | None,
    key: jax.Array | None,
    rows: Layers,
) -> Callable[[Params], Params]:
    """Return the function that gathers what a criterion needs at some parameters."""
    if row.statistic is None:
        return lambda left: left
    if row.statistic == "uniform":
        if key is None:
            raise InputError(f"method {criterion!r} needs a key, as jax.random.key(0): the same key, the same mask")
        return lambda left: random_scores(left, key)
    if gradients is not None:
        check_same_structure(gradients, params, "the gradients' tree", "the parameters'")
        _check_finite(gradients, "gradients", rows)
        return lambda left: gradients
    if loss is None or batches is None:
        raise InputError(
            f"method {criterion!r} needs gradients: give `loss` and `batches`, or `gradients`, which `gradient_statistic(..., "
            f"{row.statistic!r})` computes, and for an agent of lth `lth.gradient_statistics`"
        )
    return gatherer(loss, batches, row.statistic)


def random_scores(params: Params, key: jax.Array) -> Params:
    """Draw a score for each weight, uniform in [0, 1)."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten(_uniform(key, tuple(jnp.shape(leaf) for leaf in leaves)))


@functools.partial(jax.jit, static_argnums=1)
def _uniform(key: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    keys = jax.random.split(key, len(shapes))
    return [jax.random.uniform(k, shape) for k, shape in zip(keys, shapes, strict=True)]


@functools.cache
def scores_by(score: Callable[..., Any]) -> Callable[[Params, Params], Params]:
    """Compile a criterion over whole trees. Products of half precision overflow, so they are taken in float32 at least."""

    def wide(leaf: Any) -> jax.Array:
        return jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    return jax.jit(lambda params, statistic: jax.tree.map(lambda w, s: score(wide(w), wide(s)), params, statistic))


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def _check_finite(tree: Params, what: str, rows: Layers) -> None:
    for (name, leaf), row in zip(named_leaves(tree).items(), rows, strict=True):
        if row.prunable and not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise InputError(f"{'NaN ' if what == 'gradients' else ''}{what}: {name!r} holds NaN or infinity. {CHECKS}")


def _check_scores(scores: Params, criterion: str, rows: Layers, rising: bool) -> None:
    for (name, leaf), row in zip(named_leaves(scores).items(), rows, strict=True):
        if not row.prunable or isinstance(leaf, jax.core.Tracer):
            continue
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            raise InputError(f"the {criterion} scores of {name!r} are NaN or overflow; scale the loss down")
        if rising and (values < 0).any():
            raise InputError(
                f"{criterion}: the loss falls where |w| of {name!r} grows, so it is no flow. It has to be the sum of the "
                "network's outputs on an input of ones, without norms, tanh or a minus sign."
            )
