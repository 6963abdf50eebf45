"""How a series looks, everywhere: one table of colors, markers and dashes for the figures, the page and its static pictures.

A method keeps its color, dash and marker on every page; a control of a method has the method's color and dash and the control's
own marker, hollow. Colour is never alone: no two series of a page share both marker and dash. Every color has a contrast
of at least 3 to the background that it is drawn on (WCAG 2.2, 1.4.11; a test).
"""

import math
import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from ..config import CONTROL_METHODS
from ..experiment.tidy import DENSE
from .scores import Condition, Runs

BACKGROUNDS = {"light": ("#ffffff", "#f7f7f5"), "dark": ("#151719", "#1e2124")}
"""The page's background and its cards', in either scheme; figures are drawn on white."""

LINE, SOFT, CARD = "var(--line,#d9d9d9)", "var(--soft,#5b5b5b)", "var(--card,#fff)"
"""Of the page: lines behind values, soft text, and what is around them."""

Polygon = tuple[tuple[float, float], ...]
"""Corners within the unit circle, y upward; empty: a circle of radius 0.85."""


class Style(NamedTuple):
    """How a series is drawn."""

    name: str  # of its color: letters and dashes, as in the CSS variable `--c-<name>`
    color: str  # #rrggbb, on a light background
    dark: str  # #rrggbb, on a dark background
    marker: Polygon  # matplotlib takes it as it is; empty: "o"
    dash: tuple[int, ...]  # on, off, ... in points; empty: a whole line
    hollow: bool  # controls

    def outline(self, radius: float) -> str:
        """Return the marker as an SVG path in relative steps, to follow a move to its middle: `M10 20` + outline(4)."""
        if not self.marker:
            r = f"{0.85 * radius:.3g}"
            return f"m-{r} 0a{r} {r} 0 1 0 {1.7 * radius:.3g} 0a{r} {r} 0 1 0-{1.7 * radius:.3g} 0z"
        at, steps = (0.0, 0.0), []
        for x, y in self.marker:
            here = (round(radius * x, 1), round(-radius * y, 1))
            steps.append(f"{here[0] - at[0]:.1f} {here[1] - at[1]:.1f}".replace(".0", "").replace("-0 ", "0 "))
            at = here
        return f"m{'l'.join(steps)}z"

    @property
    def paint(self) -> str:
        """The color for an SVG attribute: the page's variable, or the light color where there is none."""
        return f"var(--c-{self.name},{self.color})"


def _regular(corners: int, turned: float = 0.0, inner: float = 1.0) -> Polygon:
    """A regular polygon with a corner on top; with `inner`, a star whose notches have that radius."""
    points = corners if inner == 1.0 else 2 * corners
    radii = [1.0 if inner == 1.0 or i % 2 == 0 else inner for i in range(points)]
    angles = [math.radians(turned + 90 + 360 * i / points) for i in range(points)]
    return tuple((round(r * math.cos(a), 3), round(r * math.sin(a), 3)) for r, a in zip(radii, angles, strict=True))


def _turned(polygon: Polygon, degrees: float) -> Polygon:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple((round(x * c - y * s, 3), round(x * s + y * c, 3)) for x, y in polygon)


_PLUS: Polygon = tuple(
    (x / 3, y / 3)
    for x, y in (
        (-1, 3),
        (1, 3),
        (1, 1),
        (3, 1),
        (3, -1),
        (1, -1),
        (1, -3),
        (-1, -3),
        (-1, -1),
        (-3, -1),
        (-3, 1),
        (-1, 1),
    )
)
_HOURGLASS: Polygon = ((-0.85, 0.9), (0.85, 0.9), (-0.85, -0.9), (0.85, -0.9))
_CHEVRON: Polygon = ((0.0, 0.9), (0.95, 0.0), (0.95, -0.8), (0.0, 0.1), (-0.95, -0.8), (-0.95, 0.0))

MARKERS: dict[str, Polygon] = {
    "circle": (),
    "square": _regular(4, 45),
    "diamond": _regular(4),
    "up": _regular(3),
    "down": _regular(3, 180),
    "left": _regular(3, 90),
    "right": _regular(3, -90),
    "plus": _PLUS,
    "times": _turned(_PLUS, 45),
    "star": _regular(5, 0, 0.42),
    "spark": _regular(4, 0, 0.35),
    "slim": tuple((round(0.55 * x, 3), y) for x, y in _regular(4)),
    "pentagon": _regular(5),
    "hexagon": _regular(6),
    "hourglass": _HOURGLASS,
    "bowtie": _turned(_HOURGLASS, 90),
    "chevron": _CHEVRON,
    "hook": _turned(_CHEVRON, 180),
    "burst": _regular(6, 0, 0.5),
    "tripod": _regular(3, 0, 0.25),
}
"""Markers by name: their corners."""

_DASHES = (
    (6, 2),
    (2, 2),
    (6, 2, 2, 2),
    (8, 3),
    (1, 2),
    (4, 2, 1, 2),
    (3, 1),
    (5, 1, 1, 1),
    (2, 4),
    (9, 2, 2, 2),
    (1, 4),
    (4, 4),
)

# name: light, dark, marker, dash. The first four and the controls' are what most pages show: Okabe and Ito's hues, darker.
_METHODS: dict[str, tuple[str, str, str, tuple[int, ...]]] = {
    DENSE: ("#1a1a1a", "#f2f2f2", "circle", ()),
    "magnitude": ("#0072b2", "#56b4e9", "square", (6, 2)),
    "gradient": ("#b35900", "#f0a030", "diamond", (2, 2)),
    "taylor": ("#00795a", "#2cc295", "up", (6, 2, 2, 2)),
    "random": ("#6b6b6b", "#a8a8a8", "times", (1, 2)),
    "shuffled": ("#a8438a", "#e08cc4", "plus", (4, 2, 1, 2)),
    "fisher": ("#7a5c00", "#d9b93b", "pentagon", (8, 3)),
    "snip": ("#c0392b", "#ff8a75", "left", (3, 1)),
    "grasp": ("#5b4fc4", "#a79bff", "right", (5, 1, 1, 1)),
    "synflow": ("#00788a", "#4fcbdd", "hexagon", (2, 4)),
    "gradual": ("#8a5a44", "#d2a78f", "star", (9, 2, 2, 2)),
    "set": ("#4f7a00", "#a5d14a", "spark", (1, 4)),
    "rigl": ("#b0306a", "#ff86b3", "slim", (4, 4)),
}
_CONTROLS: dict[str, tuple[str, str, str, tuple[int, ...]]] = {
    "reinit": ("#6b6b6b", "#a8a8a8", "down", (6, 4)),
    "shuffled": ("#a8438a", "#e08cc4", "plus", (4, 2, 1, 2)),
    "permuted": ("#6b6b6b", "#a8a8a8", "hourglass", (6, 4)),
    "inverted": ("#6b6b6b", "#a8a8a8", "bowtie", (6, 4)),
    "random-erk": ("#5f6b2f", "#b7c470", "burst", (3, 3)),
    "small-dense": ("#9a3b2f", "#f59a8c", "circle", (7, 3)),
    "retrained": ("#46535f", "#b7c4cf", "chevron", (10, 3)),
}
_OTHERS = (("#3d6a9e", "#8db8e8"), ("#8c4a9e", "#cf9be0"), ("#8a6d3b", "#d8bc8a"), ("#2f7d4f", "#7fd0a0"))
_OTHER_MARKERS = ("tripod", "hook", "burst", "bowtie", "hourglass", "chevron")


def style(method: str, control: str = "") -> Style:
    """Return the look of a condition: always the same for the same names, on every page.

    >>> style("taylor").color == style("taylor", "reinit").color, style("taylor", "reinit").hollow
    (True, True)
    """
    key = method or control
    light, dark, marker, dash = _METHODS.get(key) or _CONTROLS.get(key) or _unknown(key)
    if method and control:
        marker = (_CONTROLS.get(control) or _unknown(control))[2]
    hollow = method in CONTROL_METHODS or bool(control)
    return Style(_slug(key), light, dark, MARKERS[marker], dash, hollow)


def style_of(label: str) -> Style:
    """Return the look of a condition by its label, such as `taylor + reinit` or `random (control)`.

    >>> style_of("random (control)") == style("random")
    True
    """
    method, _, control = label.removesuffix(" (control)").partition(" + ")
    only_control = method in _CONTROLS and method not in _METHODS  # of all methods, such as small-dense
    return style("", method) if only_control else style(method, control)


def _unknown(name: str) -> tuple[str, str, str, tuple[int, ...]]:
    """Of a criterion or control of the user's own, or masks from another task: drawn from the name, so that it stays the same."""
    number = zlib.crc32(name.encode())
    light, dark = _OTHERS[number % len(_OTHERS)]
    return light, dark, _OTHER_MARKERS[number // 7 % len(_OTHER_MARKERS)], _DASHES[number // 64 % len(_DASHES)]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-") or "other"


POSITIVE, NEGATIVE = style("magnitude"), style("gradient")
"""Whose colors a graph's weights have, by their sign."""


def styles(runs: Runs) -> dict[str, Style]:
    """Return the look of each series by its label, in the order in which they are listed."""
    return looks(runs.conditions)


def looks(conditions: Iterable[Condition]) -> dict[str, Style]:
    """Return the look of each condition by its label. Where two names of users' own would look the same, the later moves on."""
    found: dict[str, Style] = {}
    for condition in conditions:
        if condition.label in found:
            continue
        one = style(condition.method, condition.control)
        taken = {(s.marker, s.dash) for s in found.values()}
        for dash in _DASHES:
            if (one.marker, one.dash) not in taken:
                break
            one = one._replace(dash=dash)
        found[condition.label] = one
    return found


def css(found: dict[str, Style]) -> str:
    """Return the CSS variables of the series' colors, for light and dark; paper is light whatever the screen is."""
    names = {s.name: s for s in found.values()}
    light, dark = ("".join(f"--c-{n}:{getattr(s, which)};" for n, s in names.items()) for which in ("color", "dark"))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def ink_on(share: float) -> str:
    """Return the color of text on a square of the color map cividis."""
    return "white" if share < 0.5 else "black"


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, #rrggbb, from 1 to 21 (WCAG 2.2).

    >>> contrast("#000000", "#ffffff")
    21.0
    """

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
