"""Small pieces of HTML that the report's sections are made of."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..text import plain


def text(words: Any) -> str:
    """Escape what is no HTML; no line ends between a number and its per cent sign."""
    return html.escape(plain(words), quote=True).replace(" %", "\u00a0%")


def anchor(title: str) -> str:
    """Return the name by which something can be linked to, or saved.

    >>> anchor("Return against sparsity: drawer-close-v3, 95 % pruned")
    'return-against-sparsity-drawer-close-v3-95-pruned'
    """
    return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-")


def note(words: str) -> str:
    """Return a paragraph in small print; `words` is HTML."""
    return f'<p class="note">{words}</p>'


def items(sentences: Iterable[str], tag: str = "") -> str:
    """Return a list of sentences, each within a tag."""
    opened, closed = (f"<{tag}>", f"</{tag}>") if tag else ("", "")
    return "<ul>" + "".join(f"<li>{opened}{text(s)}{closed}</li>" for s in sentences) + "</ul>"


def fold(summary: str, body: str, kind: str = "", opened: bool = False) -> str:
    """Return what is shown on demand; `body` is HTML. The kind `printed` is shown on paper in any case.

    What follows `: ` in the summary of the kind `data` is read aloud and not shown, since it repeats the title above it.
    """
    words = text(summary)
    if kind == "data":
        words = re.sub(r"^(.*?)(: .*)$", r"\1<span class=aloud>\2</span>", words)
    about = f' class="{kind}"' if kind else ""
    return f"<details{about}{' open' * opened}><summary>{words}</summary>{body}</details>"


def figure(title: str, finding: str, body: str, data: str = "", whole: str = "") -> str:
    """Return a static picture with its title and what it shows; page.js adds its buttons. `body` and `data` are HTML.

    The `whole` title, where the page shows a shorter one, is that of a saved file.
    """
    return (
        f'<figure data-title="{text(whole or title)}"><figcaption><b>{text(title)}</b> {text(finding)}</figcaption>'
        f'<div class="picture">{body}</div>{data}</figure>'
    )


def table(name: str, words: int, caption: str, rows: Iterable[Mapping[str, str]], optional: Iterable[str] = ()) -> str:
    """Lay out rows, which map columns to text; the first `words` columns are words, not numbers.

    Columns that are the same in all of several rows are left out and said in the caption, a column of words also where some rows
    have none (dense agents have no sparsity). Those in `optional` are left out where they are empty throughout.
    """
    rows = list(rows)
    header = [c for c in (rows[0] if rows else ()) if c not in optional or any(row[c] for row in rows)]
    numbers = [c for i, c in enumerate(rows[0]) if i >= words] if rows else []
    same = {}
    for column in header:
        values = {row[column] for row in rows} - ({""} if column not in numbers else set())
        if len(rows) > 1 and len(values) <= 1:
            same[column] = next(iter(values), "")
    header = [c for c in header if c not in same]
    said = "; ".join(f"{c}: {value}" for c, value in same.items() if value)
    caption += f" Throughout: {said}." if said else ""
    kinds = {c: "" if c in numbers else " class=t" for c in header}
    heads = "".join(f"<th scope=col{kinds[c]}>{text(c)}</th>" for c in header)

    def line(row: Mapping[str, str]) -> str:
        cells = [f"<td{kinds[c]}>{text(row[c])}</td>" for c in header]
        if header and header[0] not in numbers:  # a first column of words names the row
            cells[0] = f"<th scope=row class=t>{text(row[header[0]])}</th>"
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(map(line, rows))
    return (
        f'<div class="scroll"><table class="sortable" data-name="{name}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
