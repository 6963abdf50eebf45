"""The base of every group of settings, and the kinds of number that settings hold. Imports no JAX."""

import contextlib
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
        """Refuse true and false where a number is meant, which pydantic would read as 1.0 and 0.0; and text that is no text."""
        if isinstance(value, bool) and not _admits_boolean(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("it is a truth value, and another kind of value is needed")
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str) and plain(text) != text:
                raise ValueError(f"{plain(text)!r} holds a control character, or half of a surrogate pair")
        return value


def _admits_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_admits_boolean(part) for part in get_args(annotation))


def _whole(value: Any) -> Any:
    """Read 1e4 as the whole number that it is; YAML takes it for text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def not_boolean(value: Any) -> Any:
    """Refuse true and false, which pydantic would read as 1.0 and 0.0."""
    if isinstance(value, bool):
        raise ValueError("a sparsity is a number from 0 to 1, not a truth value")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[Whole, Field(strict=True, gt=0, le=10**12)]
Few = Annotated[Whole, Field(strict=True, gt=0, le=4096)]
"""Processes, threads, environments, rounds: more cannot be meant."""
Rate = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, BeforeValidator(not_boolean), Field(ge=0, le=1)]
Layers = Annotated[tuple[Annotated[int, Field(strict=True, gt=0, le=2**16)], ...], Field(max_length=32)]
