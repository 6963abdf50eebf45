"""The process that makes runs, one after the other: JSON lines in, JSON lines out.

It is started by `workers.py` with its number of threads in the environment, imports JAX and compiles once, and dies with
the process that started it.
"""

import contextlib
import ctypes
import functools
import json
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def main() -> None:
    """Read one line for each run: its spec, the output directory, and how it is made.

    The command line has the numbers of two descriptors: where the lines come from, and where news goes. Standard input is
    /dev/null, standard output the log.
    """
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the next line to the pipe ends it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Not Python's KeyboardInterrupt: one that reaches the run was raised by an environment, and is its failure.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Both are this process's alone: a child that an environment starts, or forks, must not hold the driver's pipes open.
    descriptors = [int(word) for word in sys.argv[1:3]]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=functools.partial(_close, descriptors))
    jobs, pipe = os.fdopen(descriptors[0]), os.fdopen(descriptors[1], "w")

    def tell(message: dict[str, object]) -> None:
        try:
            print(json.dumps(message), file=pipe, flush=True)
        except BrokenPipeError:
            os._exit(1)

    from ..registry import load_entries
    from .attempt import attempt
    from .spec import parse_spec
    from .trainer import RunOptions

    for line in jobs:
        asked = json.loads(line)
        load_entries(asked["spec"])
        rewind_points, *how = asked["options"]
        found = attempt(
            Path(asked["root"]),
            parse_spec(asked["spec"]),
            RunOptions(tuple(rewind_points), *how),
            lambda env_steps, metrics: tell({"kind": "step", "env_steps": env_steps, "metrics": metrics}),
        )
        tell(found)


if __name__ == "__main__":
    main()
