"""The process that makes runs, one after the other: JSON lines in, JSON lines out.

It is started by `workers.py` with its number of threads in the environment, imports JAX and compiles once, and dies with
the process that started it.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read one line for each run: its spec, the output directory, and how it is made."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the next line to the pipe ends it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The pipe is for messages: what environments print goes to the log.
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(message: dict[str, object]) -> None:
        try:
            print(json.dumps(message), file=pipe, flush=True)
        except BrokenPipeError:
            os._exit(1)

    from ..registry import load_entries
    from .attempt import attempt
    from .spec import parse_spec
    from .trainer import RunOptions

    for line in sys.stdin:
        asked = json.loads(line)
        load_entries(asked["spec"])
        rewind_points, checkpoint_every, tensorboard = asked["options"]
        found = attempt(
            Path(asked["root"]),
            parse_spec(asked["spec"]),
            RunOptions(tuple(rewind_points), checkpoint_every, tensorboard),
            lambda env_steps, metrics: tell({"kind": "step", "env_steps": env_steps, "metrics": metrics}),
        )
        tell(found)


if __name__ == "__main__":
    main()
