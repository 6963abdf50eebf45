"""Trees of arrays, looked at without compiling."""

import jax
import jax.numpy as jnp
import numpy as np


def on_host(tree):
    """Return a tree with NumPy's arrays in place of JAX's, which compile a program for each operation and shape; keys stay."""

    def host(leaf):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key else np.asarray(leaf)

    return jax.tree.map(host, tree)


@jax.jit
def copied(tree):
    """Return a copy that the original's donation does not take away."""
    return jax.tree.map(jnp.copy, tree)
