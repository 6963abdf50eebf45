"""Processes that tests look into and kill."""

import contextlib
import os
import signal
import subprocess
import time


def workers_of(process):
    """Return the live children of a process."""
    found = subprocess.run(["pgrep", "-r", "DRS", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def kill(*pids):
    """End processes at once, if they are there still."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(process, found):
    """Look very often whether something is found that is no longer there a moment later."""
    until = time.monotonic() + 120
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
