"""Text from outside (exceptions, paths, names, revisions) on its way to a terminal, a page or a file."""

import io
import os
import re
import shutil
import sys
import textwrap
from typing import Any, TextIO

# Control characters but for line feeds and tabs, and halves of surrogate pairs, which no encoding has.
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: Any) -> str:
    r"""Write out what a terminal would obey and an encoder would refuse.

    >>> plain("\x1b[31mred\x07 \udc80")
    '\\x1b[31mred\\x07 \\udc80'
    """
    return _ODD.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def say(text: Any, stream: TextIO | None = None) -> None:
    """Print text, made plain, to standard output or `stream`; on a terminal long lines are wrapped between words."""
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


def make_streams_forgiving() -> None:
    """Write out what the terminal's encoding does not have (as under PYTHONIOENCODING=ascii), instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> None:
    """Send what is still printed nowhere: nobody reads it any more, and the interpreter's last flush would complain."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stream of a test, or of a notebook, which has no descriptor
        pass


class LastingOutput:
    """Standard output that goes on when its reader has gone (`lth run | head -1`); `closed_early` says that it has."""

    def __init__(self) -> None:
        self.closed_early = False

    def write(self, text: str) -> int:
        """Write, or note that nobody reads any more."""
        if not self.closed_early:
            try:
                return sys.stdout.write(text)
            except BrokenPipeError:
                self._leave()
        return len(text)

    def flush(self) -> None:
        """Flush, or note that nobody reads any more."""
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
