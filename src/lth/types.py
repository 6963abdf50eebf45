"""Types that the modules share."""

from typing import Any, NamedTuple, Protocol, TypeAlias

from .shapes import Float32

Array: TypeAlias = Any
"""A jax.Array or a numpy.ndarray."""


def namespace_of(array: Array) -> Any:
    """Return the functions for an array: `numpy` or `jax.numpy`.

    >>> import numpy
    >>> namespace_of(numpy.ones(2)) is numpy
    True

    Args:
        array: a NumPy or JAX array of any shape and dtype, also while JAX traces a function.
    """
    return array.__array_namespace__()


ArrayLike: TypeAlias = Any
"""A number, a sequence of numbers, or an array. `numpy.typing.ArrayLike` would fill half a screen of `help` for each argument."""
Params: TypeAlias = Any
"""A pytree of arrays: the parameters of one network."""
Mask: TypeAlias = Any
"""A pytree with the structure, shapes and dtypes of the parameters; 1 is kept, 0 is pruned. Leaves that cannot be pruned are all
ones."""


class Batch(NamedTuple):
    """Transitions, one per row, before observations are normalized and rewards are scaled.

    `terminated` is 1.0 if the task ended (no bootstrapping) and 0.0 otherwise, including at time limits.
    """

    observations: Float32[Array, "n observation_dim"]
    """Before the step."""
    actions: Float32[Array, "n action_dim"]
    """In [-1, 1]; or (n, 1), the indices of discrete actions."""
    rewards: Float32[Array, " n"]
    """Of the step."""
    next_observations: Float32[Array, "n observation_dim"]
    """After the step, before a reset."""
    terminated: Float32[Array, " n"]
    """1.0 or 0.0, as above."""


class AgentLike(Protocol):
    """The attributes of an agent that the gradient functions need."""

    @property
    def config(self) -> Any: ...

    @property
    def state(self) -> Any: ...
