"""Random numbers on the device, drawn as from a `numpy.random.Generator`."""

from typing import Any

import jax
import jax.numpy as jnp


class DeviceGenerator:
    """The methods of a `numpy.random.Generator` that algorithms use, on a JAX key; may be used in compiled functions.

    >>> DeviceGenerator(jax.random.key(0)).standard_normal((2, 3)).shape
    (2, 3)
    """

    def __init__(self, key: jax.Array):
        self._key = key

    def _next(self) -> jax.Array:
        keys = jax.random.split(self._key)
        self._key = keys[0]
        found: jax.Array = keys[1]
        return found

    def random(self, size: tuple[int, ...]) -> jax.Array:
        """Draw float32 numbers in [0, 1)."""
        return jax.random.uniform(self._next(), size)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> jax.Array:
        """Draw float32 numbers in [low, high)."""
        return jax.random.uniform(self._next(), size, minval=low, maxval=high)

    def integers(self, low: Any, high: Any, size: tuple[int, ...], dtype: Any = jnp.int32) -> jax.Array:
        """Draw integers from low to high - 1."""
        return jax.random.randint(self._next(), size, low, high, dtype)

    def standard_normal(self, size: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Draw standard normal numbers."""
        return jax.random.normal(self._next(), size, dtype)
