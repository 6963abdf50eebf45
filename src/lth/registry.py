"""Tables of named entries, and names of the form `package.module:attribute` for entries outside of lth. Imports no JAX."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from .errors import InputError, nearest

Entry = TypeVar("Entry")


def lookup(
    table: Mapping[str, Entry], name: str, what: str, kind: type | None = None, load: bool = True, also: str = ""
) -> Entry:
    """Return the entry of a table, or the object that `package.module:attribute` names.

    Args:
        table: the entries of lth by name.
        name: a key of the table, or `package.module:attribute`.
        what: what an entry is called in messages, such as "criterion".
        kind: the class that an object from outside must be an instance of; None for any callable.
        load: import the module. Pass False where the name was read from a file, so that no file decides what is imported.
        also: further valid names, for the message.

    Raises:
        InputError: there is no such entry, or its module is not imported, cannot be, or holds something else.
    """
    if name in table:
        return table[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(
            f"unknown {what} {name!r}; choose from {', '.join(table)}{also}, or name your own as "
            f"package.module:attribute{nearest(name, table)}"
        )
    found = getattr(imported(module, name, what, load), attribute, None)
    fits = callable(found) if kind is None else isinstance(found, kind)
    if not fits:
        wanted = "callable" if kind is None else f"instance of {kind.__module__}.{kind.__qualname__}"
        raise InputError(f"the {what} {name!r}: {module} has no {wanted} {attribute!r} (docs/recipes.md)")
    return found  # type: ignore[return-value]


def imported(module: str, name: str, what: str, load: bool = True) -> Any:
    """Return a module that a name refers to.

    Raises:
        InputError: it cannot be imported, or, without `load`, is not imported yet.
    """
    if module not in sys.modules and not load:
        raise InputError(f"the {what} {name!r} is defined outside of lth: `import {module}` first")
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the module's own code raises
        raise InputError(
            f"the {what} {name!r} cannot be imported: {type(error).__name__}: {error}. A module in the working folder is "
            "found with PYTHONPATH=."
        ) from error


_NAMED = ("method", "allocation", "control")
"""Fields of a spec whose values can name an entry from outside; an algorithm is a key."""


def load_entries(fields: Any) -> None:
    """Import the modules that a spec names; only for specs that come from this project's own processes.

    Raises:
        InputError: one cannot be imported.
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
