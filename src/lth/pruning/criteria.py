"""How a weight is scored. The weights with the lowest scores are pruned.

A criterion is a function of one array of weights and one of gradients (|dL/dw|, averaged over batches) that returns
scores of the same shape, none of them negative; a new one is a function and a row in `CRITERIA`.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ..types import Array


def magnitude(weights: Array, gradients: Array | None) -> Array:
    """|w| (Han et al. 2015, https://arxiv.org/abs/1506.02626); needs no gradients."""
    del gradients
    return jnp.abs(weights)


def gradient(weights: Array, gradients: Array | None) -> Array:
    """|dL/dw|: the weights to which the loss is least sensitive are pruned, however large they are."""
    del weights
    assert gradients is not None
    return jnp.abs(gradients)


def taylor(weights: Array, gradients: Array | None) -> Array:
    """|w dL/dw|: the first-order change of the loss when w is set to zero (Molchanov et al. 2017, eq. 7, applied to
    single weights as in Lee et al. 2018, SNIP, eq. 5: https://arxiv.org/abs/1611.06440, https://arxiv.org/abs/1810.02340).
    """
    assert gradients is not None
    return jnp.abs(weights * gradients)


CRITERIA: dict[str, Callable[[Array, Array | None], Array]] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "taylor": taylor,
}
