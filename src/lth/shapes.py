"""Shapes and dtypes in annotations, in jaxtyping's notation: `Float32[jax.Array, "n action_dim"]`.

Type checkers read the array's type, and editors show the shape. At run time an annotation is the array's type
alone, so lth does not need jaxtyping. The tests replace these names by jaxtyping's, and check every call (tests/helpers/shapes.py).
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Bool", "Float32", "Int32", "Shaped"]

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float32
    from typing import Annotated as Int32
    from typing import Annotated as Shaped
else:

    class _Annotated:
        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float32 = Int32 = Shaped = _Annotated
