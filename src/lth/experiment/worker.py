"""The worker process: executes runs one after another. Reads and writes JSON lines.

`workers.py` starts it with its number of threads in the environment. It imports JAX and compiles once, and ends with its parent
process.
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
    """Read one line per job: the specs of its runs, the output directory and the options.

    The command line has the numbers of two file descriptors: one to read lines from, one to write events to. Standard input is
    /dev/null, and standard output is the log.
    """
    with contextlib.suppress(
        OSError, AttributeError
    ):  # Linux only; elsewhere the process ends when it next writes to the pipe
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # SIGINT ends the process, so a KeyboardInterrupt in a run was raised by an environment and counts as its failure.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Child processes of an environment must not inherit the pipes, or they would keep them open.
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

    from .attempt import attempt_all
    from .options import RunOptions

    for line in jobs:
        asked = json.loads(line)
        attempt_all(Path(asked["root"]), asked["specs"], RunOptions(**asked["options"]), tell)


if __name__ == "__main__":
    main()
