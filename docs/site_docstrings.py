"""Prepare docstrings for the site; mkdocs.yml names this extension of griffe, which reads them.

Doctests become code blocks, and the documented fields of a class become one table, instead of a heading each.
"""

import itertools
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Rewrite docstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the doctests of one object."""
        if obj.docstring:
            obj.docstring.value = fence(obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Move the docstrings of a class's fields and properties into a section of its own docstring."""
        fields = [member for member in cls.members.values() if member.is_attribute and member.docstring]
        fields = [field for field in fields if not field.name.startswith("_")]
        if not fields or not cls.docstring:
            return
        lines = [f"    {field.name}: {' '.join(field.docstring.value.split())}" for field in fields]
        cls.docstring.value = "\n".join([cls.docstring.value.rstrip(), "", "Attributes:", *lines])
        for field in fields:
            field.docstring = None


def fence(text: str) -> str:
    """Put each paragraph that begins with a doctest prompt into a fenced block."""
    lines: list[str] = []
    for blank, paragraph in itertools.groupby(text.split("\n"), key=lambda line: not line.strip()):
        found = [line.replace("  # doctest: +SKIP", "") for line in paragraph]
        code = not blank and found[0].lstrip().startswith(">>>")
        lines += ["```python", *found, "```"] if code else found
    return "\n".join(lines)
