"""How a weight is scored. The weights with the lowest scores are pruned.

A criterion is a function of one array of weights and one of what was gathered about them, and returns scores of the same
shape; what it needs gathered is a row of `gradients.STATISTICS`. A config can name another as `package.module:name`
(docs/recipes.md). Formulas, sources, and when each misleads: docs/criteria/. Scores of complex weights are real. Imports no JAX.
"""

from collections.abc import Callable
from typing import NamedTuple

from ..registry import lookup
from ..types import Array


def magnitude(weights: Array, _: Array) -> Array:
    """|w| (Han et al. 2015, https://arxiv.org/abs/1506.02626)."""
    return abs(weights)


def gradient(_: Array, gradients: Array) -> Array:
    """|dL/dw|: the weights to which the loss is least sensitive are pruned, however large they are."""
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
    """w (H g): how much less the gradient's squared norm becomes, to first order and halved, when w is set to zero.

    Minus S(-w) of Wang et al. 2020 (https://arxiv.org/abs/2002.07376), who remove the highest S. Signed.
    """
    return (weights * hessian_gradients).real


def synflow(weights: Array, flow: Array) -> Array:
    """|w| dR/d|w|, the synaptic flow through a weight (Tanaka et al. 2020, section 6, https://arxiv.org/abs/2006.05467)."""
    return abs(weights) * flow.real


def drawn(_: Array, uniform: Array) -> Array:
    """What was drawn for the weight: no information at all, the control that a criterion has to beat."""
    return uniform


class Criterion(NamedTuple):
    """How weights are scored; the weights with the lowest scores are pruned. An entry of `CRITERIA`."""

    score: Callable[[Array, Array], Array]
    """(weights, statistic of their gradients) -> scores, three arrays of one shape."""
    statistic: str | None
    """A row of `gradients.STATISTICS`; "uniform": drawn from a key; None: the weights are enough."""
    rounds: int = 1
    """Rounds on the way to the sparsity, each scoring what the one before left."""

    @property
    def takes_gradients(self) -> bool:
        """Whether it needs batches of the replay buffer; synaptic flow needs only an input of ones."""
        return self.statistic not in (None, "uniform", "flow")


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion(magnitude, None),
    "gradient": Criterion(gradient, "mean_abs"),
    "taylor": Criterion(taylor, "mean_abs"),
    "fisher": Criterion(squared_taylor, "mean_square"),
    "snip": Criterion(taylor, "mean"),
    "grasp": Criterion(grasp, "hessian_gradient"),
    "synflow": Criterion(synflow, "flow", rounds=100),
    "random": Criterion(drawn, "uniform"),
}


def criterion_named(name: str, load: bool = True) -> Criterion:
    """Return a row of `CRITERIA`, or a Criterion of the user's own, `package.module:name`.

    Raises:
        InputError: there is none; or its module is not imported yet, and `load` is False.
    """
    return lookup(CRITERIA, name, "criterion", Criterion, load)
