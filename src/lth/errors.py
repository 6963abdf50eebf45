"""The two kinds of failure that a person meets: an input that cannot be used, and a training run that went wrong."""


class InputError(ValueError):
    """What the user gave cannot be used: the message says what, where, the likely cause, and what to do next.

    The command line prints the message without a traceback and ends with exit status 2.
    """


class UnwritableError(InputError):
    """A folder cannot be written: the disk is full, or it is read-only. No other run there would fare better."""


class UnknownTask(InputError):
    """There is no such task, or its module cannot be imported."""


class TrainingError(RuntimeError):
    """A training run could not go on, as when a loss stops being finite."""


class ExportError(TrainingError):
    """An exported program does not choose the agent's actions, so it was not written."""


def brief(error: Exception, most: int = 300) -> str:
    """Return what an error says, cut to `most` characters: errors of parsers may quote a whole file.

    >>> brief(ValueError("no such number: " + 1000 * "9"), most=20)
    'no such number: 9999...'
    """
    said = str(error)
    return said if len(said) <= most else f"{said[:most]}..."


def nearest(word: str, known: object) -> str:
    """Return `"; did you mean 'x'?"` for the closest of the known words, or an empty string if none is close.

    >>> nearest("taylr", ["magnitude", "taylor"])
    "; did you mean 'taylor'?"
    >>> nearest("zzz", ["magnitude", "taylor"])
    ''
    """
    import difflib

    close = difflib.get_close_matches(word, [str(k) for k in known], n=1)  # type: ignore[attr-defined]
    return f"; did you mean {close[0]!r}?" if close else ""
