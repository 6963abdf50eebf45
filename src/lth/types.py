"""Types that the modules share."""

from typing import Any, NamedTuple, Protocol, TypeAlias

Array: TypeAlias = Any
"""A jax.Array or a numpy.ndarray."""
Params: TypeAlias = Any
"""A pytree of arrays: the parameters of one network."""
Mask: TypeAlias = Any
"""A pytree with the structure, shapes and dtypes of the parameters; 1 is kept, 0 is pruned. Leaves that cannot be pruned are all
ones."""


class Batch(NamedTuple):
    """Transitions, one per row, before observations are normalized and rewards are scaled.

    `terminated` is 1.0 if the task ended (no bootstrapping) and 0.0 otherwise, including at time limits.
    """

    observations: Array
    """(n, observation_dim) float32."""
    actions: Array
    """(n, action_dim) float32 in [-1, 1]; or (n, 1), the indices of discrete actions."""
    rewards: Array
    """(n,) float32."""
    next_observations: Array
    """(n, observation_dim) float32."""
    terminated: Array
    """(n,) float32."""


class AgentLike(Protocol):
    """The attributes of an agent that the gradient functions need."""

    @property
    def config(self) -> Any: ...

    @property
    def state(self) -> Any: ...
