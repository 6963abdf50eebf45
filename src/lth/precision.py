"""Runs are float32 whatever `jax_enable_x64` says, so that their files are the same and can be read under both."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

Given = ParamSpec("Given")
Found = TypeVar("Found")


def in_float32(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Call a function with JAX's default of 32 bits; what is outside of it keeps its own."""

    @functools.wraps(function)
    def call(*arguments: Given.args, **named: Given.kwargs) -> Found:
        with jax.enable_x64(False):
            return function(*arguments, **named)

    return call
