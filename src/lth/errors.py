"""The errors that users see: `InputError` for invalid input, `TrainingError` for a failed training run."""


class InputError(ValueError):
    """Invalid user input. The message states what is wrong, where, the likely cause, and what to do next.

    The command line prints the message without a traceback and exits with status 2.
    """


class UnwritableError(InputError):
    """A folder is not writable: the disk is full, or it is read-only. Other runs in the folder would fail too."""


FIX_FOLDER = "Check the free disk space and the permissions of the folder."


class UnknownTask(InputError):
    """The task does not exist, or its module cannot be imported."""


class TrainingError(RuntimeError):
    """A training run failed, for example because a loss is not finite."""


class ExportError(TrainingError):
    """An exported program does not reproduce the agent's actions, so it was not written."""


def brief(error: Exception, most: int = 300) -> str:
    """Return an error's message, cut to `most` characters, because parser errors may quote a whole file.

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
