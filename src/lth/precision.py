"""Run in float32 regardless of `jax_enable_x64`, so that files are identical and readable in both modes."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

Given = ParamSpec("Given")
Found = TypeVar("Found")


def in_float32(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Decorate a function to run with `jax_enable_x64` off."""

    @functools.wraps(function)
    def call(*arguments: Given.args, **named: Given.kwargs) -> Found:
        with jax.enable_x64(False):
            return function(*arguments, **named)

    return call
