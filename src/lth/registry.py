"""Look up entries by name in a table, or custom entries by `package.module:attribute`. Does not import JAX."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from .errors import InputError, nearest

Entry = TypeVar("Entry")


def lookup(
    table: Mapping[str, Entry], name: str, what: str, kind: type | None = None, load: bool = True, also: str = ""
) -> Entry:
    """Return the entry of a table, or the object at `package.module:attribute`.

    Args:
        table: the built-in entries by name.
        name: a key of the table, or `package.module:attribute`.
        what: the kind of entry for messages, such as "criterion".
        kind: the required class of a custom object; None for any callable.
        load: import the module. Pass False if the name was read from a file, so that files cannot trigger imports.
        also: further valid names, for the message.

    Raises:
        InputError: the name is not a string; the entry is unknown; its module is not imported or cannot be imported; or the object
            has the wrong type.
    """
    if not isinstance(name, str):
        raise InputError(
            f"the {what} is {name!r}, but must be a name: {', '.join(table)}{also}, or package.module:attribute"
        )
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(
            f"unknown {what} {name!r}; choose from {', '.join(table)}{also}, or name a custom one as "
            f"package.module:attribute{nearest(name, table)}"
        )
    found = getattr(imported(module, name, what, load), attribute, None)
    fits = callable(found) if kind is None else isinstance(found, kind)
    if not fits:
        wanted = "callable" if kind is None else f"instance of {kind.__module__}.{kind.__qualname__}"
        raise InputError(f"the {what} {name!r}: {module} has no {wanted} {attribute!r} (docs/recipes.md)")
    return found  # type: ignore[return-value]


def imported(module: str, name: str, what: str, load: bool = True) -> Any:
    """Return the module of a custom entry.

    Raises:
        InputError: it cannot be imported, or `load` is False and it is not imported yet.
    """
    if module not in sys.modules and not load:
        raise InputError(f"the {what} {name!r} is a custom entry: run `import {module}` first")
    try:
        return importlib.import_module(module)
    except Exception as error:  # the module's code may raise anything
        raise InputError(
            f"the {what} {name!r} cannot be imported: {type(error).__name__}: {error}. For a module in the working "
            "directory, set PYTHONPATH=."
        ) from error


_NAMED = ("method", "allocation", "control")
"""Fields of a spec whose values can name a custom entry; an algorithm is a key."""


def load_entries(fields: Any) -> None:
    """Import the modules that a spec names. Call only with specs from lth's own processes, never from files.

    Raises:
        InputError: a module cannot be imported.
    """
    for name in _names(fields):
        imported(name.partition(":")[0], name, "entry")


def _names(fields: Any) -> Iterator[str]:
    if isinstance(fields, Mapping):
        for key, value in fields.items():
            if ":" in str(key):
                yield str(key)
            if key in _NAMED and isinstance(value, str) and ":" in value:
                yield value.removeprefix("inverted-")
            yield from _names(value)
    elif isinstance(fields, list | tuple):
        for value in fields:
            yield from _names(value)
