"""Run in float32 regardless of `jax_enable_x64`, so that files are identical and readable in both modes.

On GPUs and TPUs, JAX rounds the factors of float32 matrix products to fewer bits (TensorFloat-32, bfloat16) by default. Here they
are float32, unless the user chose otherwise with JAX_DEFAULT_MATMUL_PRECISION.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

Given = ParamSpec("Given")
Found = TypeVar("Found")


def in_float32(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Decorate a function to run with `jax_enable_x64` off, and float32 matrix products."""

    @functools.wraps(function)
    def call(*arguments: Given.args, **named: Given.kwargs) -> Found:
        with jax.enable_x64(False), _products():
            return function(*arguments, **named)

    return call


def matmul_precision() -> str:
    """Return the precision of matrix products: the user's, or float32."""
    return str(_chosen() or "float32")


def _chosen() -> Any:
    config: Any = jax.config
    return config.jax_default_matmul_precision


def _products() -> Any:
    # On a CPU they are float32 by default; the context is left out there, because it costs a compilation.
    if _chosen() is not None or jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")
