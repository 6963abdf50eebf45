"""The base class of all settings, and their number types. Does not import JAX."""

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from .text import plain


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown keys, NaN and infinity, and whose docstrings document its fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans in number fields, which pydantic would read as 1.0 and 0.0, and strings with control characters."""
        if isinstance(value, bool) and not _admits_boolean(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("a boolean is not allowed here")
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and plain(text) != text:
                raise ValueError(f"{plain(text)!r} contains a control character or a lone surrogate")
        return value


def _admits_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_admits_boolean(part) for part in get_args(annotation))


def whole(value: Any) -> Any:
    """Convert integral floats to int, including 1e4, which YAML reads as a string."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _from_home(value: Any) -> Any:
    """Expand `~` and `~user` at the start of a path, as a shell does where it sees them."""
    if not isinstance(value, str | Path):
        return value
    path = os.path.expanduser(value)  # noqa: PTH111  (Path drops the ./ of ./~, which is a folder named ~)
    if path.startswith("~"):
        raise ValueError(
            f"{path!r} begins with ~, but there is no such home folder; for a folder of that name write ./{path}"
        )
    return path


def fraction(value: Any) -> Any:
    """Check that a value is a number from 0 to 1; suggest 0.95 for 95."""
    if isinstance(value, bool):  # within lists and mappings, where `_meant` does not look
        raise ValueError("expected a number from 0 to 1, not a boolean")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("expected a number from 0 to 1") from None
    if not 0 <= number <= 1:
        hint = f"; did you mean {number / 100:g}?" if 2 <= number <= 100 else ""
        raise ValueError(f"expected a fraction from 0 to 1{hint}")
    return value


Whole = Annotated[int, BeforeValidator(whole)]
Positive = Annotated[Whole, Field(strict=True, gt=0, le=10**12)]
Counted = Annotated[Whole, Field(strict=True, gt=0, lt=2**31)]
"""A number of steps or updates, which training counts in int32."""
Few = Annotated[Whole, Field(strict=True, gt=0, le=4096)]
"""A number of processes, threads or environments; the limit catches typos."""
Rate = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, BeforeValidator(fraction), Field(ge=0, le=1)]
Folder = Annotated[Path, BeforeValidator(_from_home)]
"""The type of every path in a config: `~` at its start is the home folder."""
Layers = Annotated[tuple[Annotated[int, Field(strict=True, gt=0, le=2**16)], ...], Field(max_length=32)]
