"""How numbers are written for people: no digit that says nothing."""

from .scores import Estimate


def number(value: float, digits: int = 2) -> str:
    """Write a number with so many digits behind the point, without a sign on zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def bounds(estimate: Estimate, digits: int = 2) -> str:
    """Write an estimate with its interval: `0.97 [0.91, 1.02]`; without one where one run gives none."""
    value = number(estimate.value, digits)
    if estimate.low != estimate.low:
        return value
    return f"{value} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def quantity(value: float) -> str:
    """Write a measured number with three digits.

    >>> quantity(-1229.6), quantity(0.9517), quantity(-0.0)
    ('-1,230', '0.952', '0')
    """
    short = float(f"{value:.3g}") + 0.0
    return f"{short:,.0f}" if abs(short) >= 100 else f"{short:g}"


def p_value(p: float) -> str:
    """Write a p: three digits behind the point, or one that is not zero; nothing for NaN."""
    if p != p:
        return ""
    return f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.001 else f"{p:.1g}"


def share(value: float) -> str:
    """Write a share in per cent: `10 %`."""
    return f"{round(100 * value, 4):g} %"
