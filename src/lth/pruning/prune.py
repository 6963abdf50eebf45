"""`prune`: make a mask for the parameters of any network."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..types import Array, Mask, Params
from .allocation import AllocationName, check_sparsity, counts_by_round, not_below
from .criteria import Criterion, CriterionName, criterion_named, magnitude
from .gradients import Loss, gatherer
from .layers import Layers, Prunable, StackAxes, layers, named_leaves, pieces, warn_of_doubts
from .masks import (
    apply_mask,
    check_same_structure,
    emptied_layers,
    prune_lowest,
    pruned_by_layer,
)
from .names import check_mask_values
from .selection import traced

CHECKS = (
    "Check that (1) the dense model's checkpoint is valid: `lth eval` its run; (2) the replay buffer has valid data; "
    "(3) fewer batches help: reduce pruning.num_gradient_batches."
)


def prune(
    params: Params,
    sparsity: float,
    criterion: CriterionName | str = "magnitude",
    *,
    loss: Loss | None = None,
    batches: Any = None,
    gradients: Params | None = None,
    key: jax.Array | None = None,
    allocation: AllocationName | str | Mapping[str, float] = "global",
    exclude: Sequence[str] = (),
    prev_mask: Mask | None = None,
    rounds: int | None = None,
    invert: bool = False,
    prunable: Prunable | None = None,
    stack_axes: StackAxes | None = None,
    collapse: Literal["warn", "error", "allow"] = "warn",
) -> Mask:
    """Make a mask that prunes the least important weights of any network.

    Exactly `max(round(sparsity * n), already pruned)` of n prunable weights are pruned. Ties: the larger |w| stays, then the
    earlier in tree order. Also runs under `jit` and `vmap`, where values are not checked.

    >>> import jax.numpy as jnp
    >>> params = [(jnp.array([[3.0, -1.0], [0.5, 2.0]]), jnp.zeros(2))]
    >>> prune(params, 0.5)[0][0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> loss = lambda params, x: jnp.sum(x @ params[0][0])
    >>> prune(params, 0.5, "taylor", loss=loss, batches=[jnp.array([1.0, 10.0])])[0][0].tolist()
    [[0.0, 0.0], [1.0, 1.0]]

    Args:
        params: a pytree of arrays: nested dicts, Flax linen params, nnx.state(model, nnx.Param), or for an Equinox module
            eqx.filter(model, eqx.is_inexact_array).
        sparsity: the fraction of prunable weights to remove, in [0, 1].
        criterion: a key of `CRITERIA`, or a custom Criterion as `package.module:name`.
        loss: (params, batch) -> scalar, for criteria that need gradients. For synflow: the sum of the network's outputs.
        batches: an iterable of pytrees, or an object with `sample(batch_size)`, from which 100 batches of 256 are drawn. For
            synflow: one input of ones.
        gradients: the statistic that the criterion needs, as returned by `gradient_statistic`; replaces `loss` and `batches`.
        key: the random key for the criterion random.
        allocation: "global", "layer" (the same sparsity in each layer), "erk" (`erk_counts`), a custom function as
            `package.module:name`, or {layer: sparsity}; layers without an entry get `sparsity`.
        exclude: layers that stay dense; each entry is any part of a layer's path.
        prev_mask: an earlier mask; weights pruned in it stay pruned.
        rounds: the number of pruning rounds. Each round prunes the same share of the remaining weights, with new scores. None: the
            criterion's default.
        invert: prune the most important weights instead, as a control.
        prunable: (name, leaf) -> bool, whether a leaf may be pruned; by default matrices and convolution kernels (`layers`).
        stack_axes: the axes of a leaf that index stacked layers (`nn.scan`, `vmap`, an ensemble), if `layers` does not recognize
            them: 0, (0, 1), or {layer: 0}; `()` means none. Each layer of a stack is counted separately.
        collapse: what to do if a layer loses all its weights: "warn", "error" or "allow".

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned. For biases, norms and excluded layers it is
        that of `prev_mask`, or all ones.

    Raises:
        InputError: the criterion is unknown or lacks an argument; the sparsity is outside [0, 1]; a tree does not fit
            (names the leaf and both shapes); weights, gradients or scores are not finite (names the leaf); prev_mask
            holds values other than 0 and 1; a layer loses all its weights and `collapse` is "error".
    """
    if collapse not in (known := ("warn", "error", "allow")):
        raise InputError(f"unknown collapse {collapse!r}; choose from {', '.join(known)}")
    row = criterion_named(criterion)
    check_sparsity(sparsity)
    rows = layers(params, exclude, prunable, stack_axes)
    warn_of_doubts(rows)
    each, names = [r.each for r, _ in pieces(rows)], [r.layer for r, _ in pieces(rows)]
    rounds = row.rounds if rounds is None else rounds
    if isinstance(rounds, bool) or not isinstance(rounds, int | np.integer) or rounds < 1:
        raise InputError(f"rounds is {rounds!r}, but must be an integer of at least 1")
    statistic = _source(criterion, row, params, loss, batches, gradients, key, rows)
    _check_finite(params, "parameters", rows)
    if prev_mask is not None:
        check_same_structure(prev_mask, params, "prev_mask", "the parameters'")
        if not traced(prev_mask):
            check_mask_values(named_leaves(prev_mask), "prev_mask")
    mask, pruned = prev_mask, _pruned(prev_mask, rows)
    for counts in counts_by_round(allocation, each, sparsity, int(rounds), names):
        left = params if mask is None else apply_mask(params, mask)
        scores = scores_by(row.score)(left, statistic(left))
        _check_scores(scores, criterion, rows, rising=row.statistic == "flow")
        if isinstance(counts, list) and isinstance(allocation, str):
            if pruned is None:
                raise InputError(
                    f"the allocation {allocation!r} needs the values of prev_mask, which are unknown while it is traced: pass it "
                    "as a concrete array from outside jit and vmap, or use allocation='global'"
                )
            counts = pruned = not_below(counts, pruned)
        mask = prune_lowest(jax.tree.map(jnp.negative, scores) if invert else scores, params, rows, counts, mask)
    if collapse != "allow" and not traced(mask):
        check_collapse(mask, collapse, rows)
    return mask


def _pruned(mask: Mask | None, rows: Layers) -> list[int] | None:
    """Count the pruned weights of each prunable layer; None if the mask is traced."""
    if mask is None:
        return [0] * len(list(pieces(rows)))
    return None if traced(mask) else pruned_by_layer(mask, rows)


def check_collapse(
    mask: Mask,
    collapse: Literal["warn", "error"] = "warn",
    rows: Layers | None = None,
    what: str = "the mask",
    whose: str = "",
) -> None:
    """Warn, or raise InputError, if a mask prunes all weights of a layer, so that no signal passes through it.

    `rows` are those of the parameters, from which a custom `prunable` chose; None: those of the mask itself.
    """
    if emptied := emptied_layers(mask, rows):
        text = (
            f"{what}: no weight is left in {whose}{', '.join(emptied)}, so only the bias passes through. Use `exclude` to keep a "
            "layer dense, a lower sparsity, or the allocation layer or erk."
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
    """Return a function of the parameters that computes the criterion's statistic."""
    if row.statistic is None:
        return lambda left: left
    if row.statistic == "uniform":
        random = check_key(key, f"method {criterion!r}")
        return lambda left: random_scores(left, random)
    if gradients is not None:
        check_same_structure(gradients, params, "the gradients' tree", "the parameters'")
        _check_finite(gradients, "gradients", rows)
        return lambda left: gradients
    if loss is None or batches is None:
        flow = "the sum of the network's outputs as `loss`, and `batches=[ones]` (docs/criteria/synflow.md)"
        raise InputError(
            f"method {criterion!r} needs gradients: pass {flow if row.statistic == 'flow' else '`loss` and `batches`'}, or pass "
            f"`gradients` from `gradient_statistic(..., {row.statistic!r})` (for an lth agent: `lth.gradient_statistics`)"
        )
    return gatherer(loss, batches, row.statistic)


def check_key(key: Any, what: str) -> jax.Array:
    """Return `key`; raise InputError unless it is a JAX key, typed or of raw uint32."""
    if not jnp.issubdtype(getattr(key, "dtype", int), jax.dtypes.prng_key) and not np.ndim(key):
        raise InputError(f"{what} needs a random key, such as key=jax.random.key(0), but key is {key!r}")
    given: jax.Array = key
    return given


def random_scores(params: Params, key: jax.Array) -> Params:
    """Draw a random score for each weight, uniform in [0, 1)."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten(_uniform(key, tuple(jnp.shape(leaf) for leaf in leaves)))


@functools.partial(jax.jit, static_argnums=1)
def _uniform(key: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    keys = jax.random.split(key, len(shapes))
    return [jax.random.uniform(k, shape) for k, shape in zip(keys, shapes, strict=True)]


@functools.cache
def scores_by(score: Callable[..., Any]) -> Callable[[Params, Params], Params]:
    """Compile a criterion over whole trees. Half-precision products overflow, so scores are computed in at least float32.

    Magnitudes are taken by NumPy unless JAX traces: they are the same, and nothing has to be compiled.
    """

    def wide(leaf: Any, library: Any = jnp) -> Array:
        return library.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))

    @jax.jit
    def compiled(params: Params, statistic: Params) -> Params:
        return jax.tree.map(lambda w, s: score(wide(w), wide(s)), params, statistic)

    def found(params: Params, statistic: Params) -> Params:
        if score is magnitude and not traced(params) and not any(map(np.iscomplexobj, jax.tree.leaves(params))):
            return jax.tree.map(lambda w: magnitude(wide(w, np), None), params)
        return compiled(params, statistic)

    return found


def _check_finite(tree: Params, what: str, rows: Layers) -> None:
    for (name, leaf), row in zip(named_leaves(tree).items(), rows, strict=True):
        try:
            jnp.promote_types(leaf.dtype, jnp.float32)
        except ValueError:
            raise InputError(
                f"{what}: {name!r} is {leaf.dtype}, in which nothing can be computed; cast it to bfloat16"
            ) from None
        if row.prunable:
            check_finite(leaf, f"{'NaN ' if what == 'gradients' else ''}{what}: {name!r}")


def check_finite(values: Array, what: str) -> None:
    """Raise InputError if an array holds NaN or infinity; traced arrays pass."""
    if not isinstance(values, jax.core.Tracer) and not np.isfinite(np.asarray(values)).all():
        raise InputError(f"{what} holds NaN or infinity. {CHECKS}")


def _check_scores(scores: Params, criterion: str, rows: Layers, rising: bool) -> None:
    leaves = named_leaves(scores)
    for row in rows:
        if not row.prunable:
            continue
        leaf, whose = leaves.get(row.path), f"the {criterion} scores of {row.path!r}"
        if leaf is None or np.shape(leaf) != row.shape:
            found = "None" if leaf is None else f"an array of shape {np.shape(leaf)}"
            raise InputError(
                f"{whose} are {found}, but the weights have shape {row.shape}; the criterion must return a score for each weight"
            )
        if jnp.iscomplexobj(leaf):
            raise InputError(
                f"{whose} are {leaf.dtype} and have no order; the criterion must return real ones, such as their absolute values"
            )
        if isinstance(leaf, jax.core.Tracer):
            continue
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            raise InputError(f"{whose} are NaN or overflow; scale the loss down")
        if rising and (values < 0).any():
            raise InputError(
                f"{criterion}: the scores of {row.path!r} are negative. The loss must be the sum of the network's outputs on an "
                "input of ones, without normalization, tanh or a minus sign."
            )
