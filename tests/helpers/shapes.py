"""Check every call of a loss, of the replay buffer and of pruning.selection against the shapes and dtypes of its annotations."""

from typing import Annotated, Any

import jaxtyping
from beartype import beartype
from beartype.vale import Is

CHECKED = (
    "lth.replay",
    "lth.pruning.selection",
    "lth.algorithms.sac.losses",
    "lth.algorithms.td3.losses",
    "lth.algorithms.dqn.losses",
)


def install():
    """Check from now on; before any of those modules is imported."""
    import lth.shapes

    for name in lth.shapes.__all__:
        setattr(lth.shapes, name, getattr(jaxtyping, name))
    jaxtyping.install_import_hook(CHECKED, "helpers.shapes.checked")


def checked(function):
    """Wrap a function for jaxtyping, which gives one letter one size throughout a call, NamedTuples' fields included."""
    if hasattr(function, "__annotations__"):
        function.__annotations__ = {name: _with_fields(hint) for name, hint in function.__annotations__.items()}
    return beartype(function)


def _with_fields(hint: Any) -> Any:
    if not (isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")):
        return hint
    shaped = {
        n: of
        for n, of in hint.__annotations__.items()
        if isinstance(of, type) and issubclass(of, jaxtyping.AbstractArray)
    }
    return Annotated[hint, Is[lambda value: all(isinstance(getattr(value, n), of) for n, of in shaped.items())]]
