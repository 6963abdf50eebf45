"""Where static pictures stand on the page: a table of sections, titles, captions and the functions that draw them."""

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from ..experiment.plan import Plan
from ..experiment.spec import Spec
from .html import anchor, figure, note, text
from .images import mask_images
from .scores import Runs

WHAT_TICKETS_ARE = "What the tickets are"
"""The section that has tables besides."""


class Source(NamedTuple):
    """What pictures are drawn from."""

    plan: Plan
    finished: Container[Spec]
    runs: Runs


class Drawn(NamedTuple):
    """One picture: its title, what it shows in a sentence (or nothing), and the SVG or HTML."""

    title: str
    finding: str
    body: str


class View(NamedTuple):
    """A row of the table."""

    section: str  # sections stand in the order in which they first occur
    title: str
    caption: str  # how to read it
    draw: Callable[[Source], Sequence[Drawn]]  # none where these runs have nothing to show


def _masks(source: Source) -> list[Drawn]:
    return [Drawn(*one) for one in mask_images(source.plan, source.finished)]


VIEWS: tuple[View, ...] = (
    View(
        WHAT_TICKETS_ARE,
        "Masks, weight by weight",
        "Of the first seed. A dot is a weight that is kept; rows are inputs, columns are units; the first layer on top.",
        _masks,
    ),
)


def place(source: Source) -> dict[str, str]:
    """Draw all views, as HTML by section."""
    found: dict[str, str] = {}
    for view in VIEWS:
        drawn = view.draw(source)
        if drawn:
            figures = "".join(figure(one.title, one.finding, one.body) for one in drawn)
            head = f'<h3 id="{anchor(view.title)}">{text(view.title)}</h3>{note(text(view.caption))}'
            found[view.section] = found.get(view.section, "") + f'{head}<div class="pictures">{figures}</div>'
    return found
