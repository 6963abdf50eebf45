"""Text for people: external text (exceptions, paths, names, revisions) escaped for a terminal, a page or a file; numbers."""

import io
import os
import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

# Control characters except line feeds and tabs, and lone surrogates, which cannot be encoded.
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: Any) -> str:
    r"""Escape control characters and lone surrogates.

    >>> plain("\x1b[31mred\x07 \udc80")
    '\\x1b[31mred\\x07 \\udc80'
    """
    return _ODD.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(text: Any, stream: TextIO | None = None) -> None:
    """Print escaped text to standard output or `stream`; on a terminal long lines are wrapped between words."""
    stream, text = stream or sys.stdout, plain(text)
    if stream.isatty():
        text = wrapped(text, shutil.get_terminal_size().columns)
    print(text, file=stream, flush=True)


def wrapped(text: str, width: int) -> str:
    r"""Wrap lines longer than `width` between words, indented as they were; words, such as paths, are left whole.

    >>> wrapped("error: a/long/path.csv is\n  damaged", 16)
    'error:\na/long/path.csv\nis\n  damaged'
    """
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        folded = textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, expand_tabs=False
        )
        lines += folded if len(line) > width else [line]
    return "\n".join(lines)


def rounded(value: float, digits: int, thousands: str = "") -> str:
    """Write a number with so many digits that say something; a large one in full, where `:.2g` would write 1.9e+02.

    >>> rounded(187.9, 2), rounded(-1142.3, 4), rounded(-153.24, 4), rounded(0.0518, 2)
    ('190', '-1142', '-153.2', '0.052')
    """
    short = float(f"{value:.{digits}g}") + 0.0
    return f"{short:{thousands}.0f}" if abs(short) >= 10 ** (digits - 1) else f"{short:g}"


def make_streams_forgiving() -> None:
    """Escape characters that the terminal's encoding lacks (as under PYTHONIOENCODING=ascii) instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> None:
    """Redirect standard output to /dev/null after its reader closed it, so that the interpreter's last flush does not fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # streams of tests and notebooks have no descriptor
        pass


class LastingOutput:
    """Standard output that ignores a closed pipe (`lth run | head -1`); `closed_early` tells whether it was closed."""

    def __init__(self) -> None:
        self.closed_early = False

    def write(self, text: str) -> int:
        """Write, unless the reader closed the pipe."""
        if not self.closed_early:
            try:
                return sys.stdout.write(text)
            except BrokenPipeError:
                self._leave()
        return len(text)

    def flush(self) -> None:
        """Flush, unless the reader closed the pipe."""
        if not self.closed_early:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                self._leave()

    def _leave(self) -> None:
        self.closed_early = True
        close_output()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)
