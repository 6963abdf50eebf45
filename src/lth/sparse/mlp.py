"""A sparse multilayer perceptron as a differentiable function of its kept weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, nearest
from ..types import Params
from . import native
from .pattern import Layout, Pattern, unpack

_NOTHING, _SIGNS, _VALUES = range(3)  # enum Keep of kernel.h


def sparse_mlp(pattern: Pattern, backend: str = "native") -> Callable[..., jax.Array]:
    """Return the network of a pattern as a function of its packed weights and its input.

    >>> network = sparse_mlp(make_pattern(mask))  # doctest: +SKIP
    >>> y = network(pack(pattern, params), x)  # doctest: +SKIP

    Args:
        pattern: the sparsity pattern.
        backend: `native` computes with the kept weights only; `dense` unpacks them and multiplies whole matrices.

    Returns:
        A function (theta (kept,) float32, *x) -> (n, outputs) float32, where the arrays x, (n, width) float32 each, are
        concatenated to the network's input. It supports one reverse-mode differentiation. The native backend computes only the
        requested gradients.

    Raises:
        native.Unavailable: the native backend is not available.
        InputError: the backend is unknown; or, when the function is called, shapes or dtypes do not fit.
    """
    if backend not in ("native", "dense"):
        raise InputError(
            f"unknown backend {backend!r}; choose from native, dense{nearest(backend, ('native', 'dense'))}"
        )
    if backend == "dense":
        return lambda theta, *x: _dense(unpack(pattern, theta), jnp.concatenate(x, axis=1))
    native.load()  # load now, so that a missing kernel is reported here and not during tracing
    return functools.partial(native_mlp, pattern.layout, jnp.asarray(pattern.table))


def _dense(params: Params, x: jax.Array) -> jax.Array:
    if "output" not in params:
        return jnp.concatenate([_dense(params[name], x) for name in sorted(params)], axis=1)
    for i in range(sum(name.startswith("layer_") for name in params)):
        x = x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
        if norm := params.get(f"norm_{i}"):
            x = jax.nn.standardize(x, axis=1, epsilon=1e-6) * norm["scale"] + norm["bias"]
        x = jax.nn.relu(x)
    return jnp.asarray(x @ params["output"]["kernel"] + params["output"]["bias"])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def native_mlp(layout: Layout, table: jax.Array, theta: jax.Array, *x: jax.Array) -> jax.Array:
    """Compute `sparse_mlp` with the pattern's table as an argument, so that all masks with one layout share a compilation."""
    return _forward(layout, table, theta, _whole(layout, theta, x), _NOTHING)[0]


def _whole(layout: Layout, theta: Any, x: tuple[Any, ...]) -> jax.Array:
    # The kernel does not check array lengths, so check them here.
    shapes = [jnp.shape(part) for part in x]
    fits = all(len(shape) == 2 for shape in shapes) and len({shape[0] for shape in shapes}) == 1
    fits = fits and sum(shape[1] for shape in shapes) == layout.sizes[0] and jnp.shape(theta) == (layout.kept,)
    types = {str(jnp.result_type(array)) for array in (theta, *x)}
    if not fits or types != {"float32"}:
        raise InputError(
            f"this sparse network needs theta ({layout.kept},) and inputs (n, ...) with a total width of {layout.sizes[0]}, all "
            f"float32, but got {jnp.shape(theta)} and {', '.join(map(str, shapes))} of {', '.join(sorted(types))}"
        )
    return jnp.concatenate(x, axis=1)


def _forward(layout: Layout, table: Any, theta: Any, x: jax.Array, keep: int) -> tuple[jax.Array, jax.Array]:
    native.load()
    bytes_a_row = (0, native.sign_bytes(), native.lanes() * 4)[keep]
    shapes = (
        jax.ShapeDtypeStruct((x.shape[0], layout.sizes[-1]), jnp.float32),
        jax.ShapeDtypeStruct((-(-x.shape[0] // native.lanes()) * layout.kept_rows * bytes_a_row,), jnp.uint8),
    )
    call = jax.ffi.ffi_call(native.TARGETS[0], shapes, vmap_method="sequential")
    y, kept = call(x, theta, table, keep=np.int64(keep))
    return y, kept


@jax.tree_util.register_static
class _Static(tuple[Any, ...]):
    """Static values, passed from the forward rule to the backward rule."""


def _forward_rule(layout: Layout, table: Any, theta: Any, *x: Any) -> Any:
    wanted = _Static((theta.perturbed, *((part.value.shape[1], part.perturbed) for part in x)))
    by_input = any(part.perturbed for part in x)
    keep = _VALUES if theta.perturbed or (by_input and layout.normed) else _SIGNS if by_input else _NOTHING
    whole = _whole(layout, theta.value, tuple(part.value for part in x))
    y, kept = _forward(layout, table.value, theta.value, whole, keep)
    return y, (table.value, theta.value, whole, kept, wanted)


def _backward_rule(layout: Layout, residuals: Any, dy: Any) -> Any:
    table, theta, x, kept, (by_theta, *parts) = residuals
    if isinstance(dy, jax.custom_derivatives.SymbolicZero):
        return (None,) * (2 + len(parts))
    ends = np.cumsum([0, *(width for width, _ in parts)])
    places = [(int(a), int(b)) if by else None for (_, by), a, b in zip(parts, ends[:-1], ends[1:], strict=True)]
    begin = min((place[0] for place in places if place), default=0)
    end = max((place[1] for place in places if place), default=0)
    shapes = (
        jax.ShapeDtypeStruct((x.shape[0], end - begin), jnp.float32),
        jax.ShapeDtypeStruct(theta.shape if by_theta else (0,), jnp.float32),
    )
    call = jax.ffi.ffi_call(native.TARGETS[1], shapes, vmap_method="sequential")
    keep = _VALUES if by_theta or layout.normed else _SIGNS
    dx, dtheta = call(dy, x, theta, table, kept, keep=np.int64(keep), begin=np.int64(begin))
    dparts = (dx[:, place[0] - begin : place[1] - begin] if place else None for place in places)
    return None, dtheta if by_theta else None, *dparts


native_mlp.defvjp(_forward_rule, _backward_rule, symbolic_zeros=True)
