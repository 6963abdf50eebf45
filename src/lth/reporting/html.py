"""Small pieces of HTML that the report's sections are made of."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

from ..text import plain


def text(words: Any) -> str:
    """Escape what is no HTML."""
    return html.escape(plain(words), quote=True)


def anchor(title: str) -> str:
    """Return the name by which a section can be linked to."""
    return title.lower().replace(" ", "-")


def note(words: str) -> str:
    """Return a paragraph in small print; `words` is HTML."""
    return f'<p class="note">{words}</p>'


def charts(section: str, words: str) -> str:
    """Make the place where page.js draws a section's charts."""
    return f'{note(words)}\n<div class="charts" data-section="{section}"></div>'


def table(name: str, words: int, rows: Iterable[Mapping[str, str]], optional: Iterable[str] = ()) -> str:
    """Lay out rows, which map columns to text; the first `words` columns are words, not numbers.

    Columns in `optional` are left out where they are empty throughout.
    """
    rows = list(rows)
    header = [c for c in (rows[0] if rows else ()) if c not in optional or any(row[c] for row in rows)]

    def line(tag: str, cells: Iterable[str]) -> str:
        parts = (f"<{tag}{' class=t' if i < words else ''}>{text(c)}</{tag}>" for i, c in enumerate(cells))
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(line("td", [row[column] for column in header]) for row in rows)
    return (
        f'<div class="scroll"><table data-name="{name}"><thead>{line("th", header)}</thead>\n<tbody>\n{body}\n</tbody>'
        "</table></div>"
    )
