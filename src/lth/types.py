"""The nouns that the modules share."""

from typing import Any, NamedTuple, Protocol, TypeAlias

Array: TypeAlias = Any
"""A jax.Array or a numpy.ndarray."""
Params: TypeAlias = Any
"""A pytree of arrays: the parameters of one network."""
Mask: TypeAlias = Any
"""A pytree with the structure, shapes and dtypes of the parameters; 1 is kept, 0 is pruned. What cannot be pruned is all ones."""


class Batch(NamedTuple):
    """Transitions, one a row; raw, that is before observations are normalised and rewards scaled.

    `terminated` is 1.0 where the task itself ended (nothing more to gain) and 0.0 otherwise, time limits included.
    """

    observations: Array
    """(n, observation_dim) float32."""
    actions: Array
    """(n, action_dim) float32 in [-1, 1]; or (n, 1), the numbers of discrete actions."""
    rewards: Array
    """(n,) float32."""
    next_observations: Array
    """(n, observation_dim) float32."""
    terminated: Array
    """(n,) float32."""


class AgentLike(Protocol):
    """What the gradient functions need of an agent."""

    @property
    def config(self) -> Any: ...

    @property
    def state(self) -> Any: ...
