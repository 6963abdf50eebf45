"""Pruning criteria: score each weight; the weights with the lowest scores are pruned.

A criterion is a function of one array of weights and one array of a statistic (a key of `gradients.STATISTICS`), and returns
scores of the same shape. Scores of complex weights are real. A config can name a custom criterion as `package.module:name`
(docs/recipes.md). docs/criteria/ gives formulas, sources and failure cases. Does not import JAX.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from ..registry import lookup
from ..types import Array


def magnitude(weights: Array, _: Array) -> Array:
    """|w| (Han et al. 2015, https://arxiv.org/abs/1506.02626)."""
    return abs(weights)


def gradient(_: Array, gradients: Array) -> Array:
    """|dL/dw|: prunes the weights to which the loss is least sensitive, regardless of their magnitude."""
    return abs(gradients)


def taylor(weights: Array, gradients: Array) -> Array:
    """|w dL/dw|: the first-order change of the loss when w is set to zero (Molchanov et al. 2017, eq. 7, applied to
    single weights as in Lee et al. 2018, SNIP, eq. 5: https://arxiv.org/abs/1611.06440, https://arxiv.org/abs/1810.02340).
    """
    return abs(weights * gradients)


def squared_taylor(weights: Array, squares: Array) -> Array:
    """w^2 E[(dL/dw)^2], the first-order importance of Molchanov et al. 2019 (https://arxiv.org/abs/1906.10771): the squared
    first-order change, and the second-order change under the empirical Fisher matrix's diagonal, but for the factor 1/2.
    """
    return abs(weights) * abs(weights) * abs(squares)


def grasp(weights: Array, hessian_gradients: Array) -> Array:
    """w (H g): half the first-order decrease of the gradient's squared norm when w is set to zero. Signed.

    This is -S(-w) of Wang et al. 2020 (https://arxiv.org/abs/2002.07376), who remove the weights with the highest S.
    """
    return (weights * hessian_gradients).real


def synflow(weights: Array, flow: Array) -> Array:
    """|w| dR/d|w|, the synaptic flow through a weight (Tanaka et al. 2020, section 6, https://arxiv.org/abs/2006.05467)."""
    return abs(weights) * flow.real


def random_scores(_: Array, uniform: Array) -> Array:
    """A random number for each weight: a control without information."""
    return uniform


class Criterion(NamedTuple):
    """An entry of `CRITERIA`."""

    score: Callable[[Array, Array], Array]
    """(weights, statistic of their gradients) -> scores, three arrays of one shape."""
    statistic: str | None
    """A key of `gradients.STATISTICS`; "uniform": drawn from a random key; None: only the weights."""
    rounds: int = 1
    """Pruning rounds to the target sparsity; each scores the remaining weights again."""

    @property
    def takes_gradients(self) -> bool:
        """Whether it needs batches from the replay buffer; synflow needs only an input of ones."""
        return self.statistic not in (None, "uniform", "flow")


CriterionName = Literal["magnitude", "gradient", "taylor", "fisher", "snip", "grasp", "synflow", "random"]
"""The names of `CRITERIA`, for editors to complete."""
CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, None),
    "gradient": Criterion(gradient, "mean_abs"),
    "taylor": Criterion(taylor, "mean_abs"),
    "fisher": Criterion(squared_taylor, "mean_square"),
    "snip": Criterion(taylor, "mean"),
    "grasp": Criterion(grasp, "hessian_gradient"),
    "synflow": Criterion(synflow, "flow", rounds=100),
    "random": Criterion(random_scores, "uniform"),
}


def criterion_named(name: str, load: bool = True) -> Criterion:
    """Return an entry of `CRITERIA`, or the custom Criterion at `package.module:name`.

    Raises:
        InputError: the name is unknown, or its module is not imported and `load` is False.
    """
    return lookup(CRITERIA, name, "criterion", Criterion, load)
