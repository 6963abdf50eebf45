"""Format the result of an export as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .contract import Row


def table(rows: Sequence[Row], about: Mapping[str, Any], not_needed: Sequence[str], notes: Sequence[str]) -> str:
    """Return a table of the agent and its programs: bytes, multiply-adds, microseconds, deviation, return."""
    heads = ("", "bytes", "multiply-adds", "us a call", "deviation", "return")
    lines = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = [
        "  ".join(_padded(cell, width, i) for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]
    sizes, total = about["sizes"], len(about["observations"])
    found = [
        f"{about['title']}: {sizes['multiply_adds']:,} multiply-adds a call; dense, {sizes['multiply_adds_dense']:,}.",
        "",
        *text,
        "",
    ]
    episodes = next((row.returns.episodes for row in rows if row.returns), 0)
    if episodes:
        found.append(f"Returns: mean ± standard error over the same {episodes} episodes.")
    flash = sizes["flash_bytes_cortex_m4"]
    if any(row.name.split()[0] == "c" for row in rows):
        found.append(
            "Bytes of C: code and constants on a Cortex-M4, -Os."
            if flash
            else "Bytes of C: its constants (with arm-none-eabi-gcc installed, code and constants on a Cortex-M4)."
        )
    if not_needed:
        found.append(f"{len(not_needed)} of {total} observations are not needed: {', '.join(not_needed)}")
    else:
        found.append(f"All {total} observations are needed.")
    return "\n".join([*found, *notes])


def _cells(row: Row) -> tuple[str, ...]:
    returned = ""
    if row.returns:
        error = "" if math.isnan(row.returns.error) else f" ± {row.returns.error:.1f}"
        success = "" if row.returns.success is None else f", success {row.returns.success:.2f}"
        returned = f"{row.returns.mean:.1f}{error}{success}"
    deviation = "" if row.name == "agent" else f"{row.deviation:.1e}"
    return row.name, f"{row.bytes:,}", f"{row.multiply_adds:,}", f"{row.microseconds:.2f}", deviation, returned


def _padded(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 5) else cell.rjust(width)
