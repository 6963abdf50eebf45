"""How numbers are written for people, with no digit that says nothing; and rewind points, lists and sentences."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..text import rounded as rounded

if TYPE_CHECKING:
    from .scores import Estimate


def number(value: float, digits: int = 2) -> str:
    """Write a number with so many digits behind the point, without a sign on zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def bounds(estimate: "Estimate", digits: int = 2) -> str:
    """Write an estimate with its interval: `0.97 [0.91, 1.02]`; without one where one run gives none."""
    value = number(estimate.value, digits)
    if estimate.low != estimate.low:
        return value
    return f"{value} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def quantity(value: float) -> str:
    """Write a measured number with three digits, and thousands set apart.

    >>> quantity(-1229.6), quantity(0.9517), quantity(-0.0)
    ('-1,230', '0.952', '0')
    """
    return rounded(value, 3, ",")


def p_value(p: float) -> str:
    """Write a p: three digits behind the point, or one that is not zero; nothing for NaN."""
    if p != p:
        return ""
    return f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.001 else f"{p:.1g}"


def share(value: float) -> str:
    """Write a share in per cent: `10 %`."""
    return f"{round(100 * value, 4):g} %"


def percent(sparsity: str) -> str:
    """Write a sparsity's label in per cent where it is one number: as many digits as tell what is left to three.

    >>> percent("0.95"), percent("0.864279"), percent("0.9975"), percent("one 0.9, other 0.5")
    ('95 %', '86.4 %', '99.75 %', 'one 0.9, other 0.5')
    """
    try:
        value = float(sparsity)
    except ValueError:
        return sparsity
    left = 100.0 * (1.0 - value)
    return f"{round(100.0 * value, 2 - math.floor(math.log10(left)) if left > 0 else 0):g} %"


def rewound(rewind: str) -> str:
    """Name a rewind point: `rewound to step 2000`, `fine-tuned`."""
    return "fine-tuned" if rewind == "none" else f"rewound to step {rewind}"


def short(value: float) -> str:
    """Write a number of steps or bytes in short: `10k`."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def names(some: Iterable[str]) -> str:
    """Join names: `a, b and c`."""
    *first, last = some
    return f"{', '.join(first)} and {last}" if first else last


def seeds(count: int) -> str:
    """Write a number of seeds."""
    return f"{count} seed{'s' * (count != 1)}"


def sentence(text: str) -> str:
    """Begin with a capital."""
    return text[:1].upper() + text[1:]
