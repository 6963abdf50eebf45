"""One attempt at a run: under the run's lock, recorded, and with its failure caught."""

import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import store
from .spec import Spec
from .stages import How, Progress, is_made, run_stage


def attempt(root: Path, spec: Spec, how: How, progress: Progress) -> dict[str, Any]:
    """Make a run and say what became of it, as plain data that can go through a pipe.

    Two processes that want the same run take turns; the second finds it finished.

    Returns:
        `kind` is "done", "failed" (training could not go on: `message`, `traceback`), or "unusable" (something that the
        user has to mend: `message`); `seconds` is how long it took.
    """
    run = store.directory(root, spec)
    started = time.monotonic()

    def result(kind: str, **more: str) -> dict[str, Any]:
        return {"kind": kind, "seconds": time.monotonic() - started, **more}

    def tell(env_steps: int, metrics: dict[str, float]) -> None:
        seconds = time.monotonic() - started
        store.save_progress(run, {"env_steps": env_steps, "metrics": metrics, "seconds": seconds, "time": time.time()})
        progress(env_steps, metrics)

    about = {"time": store.now(), "host": socket.gethostname(), "pid": os.getpid()}
    try:
        with store.locked(run / store.LOCK, wait=True):
            if is_made(root, spec, how):
                store.tidy(run)
                return result("done")
            store.append_line(run / store.ATTEMPTS, about)
            try:
                run_stage(root, spec, how._replace(progress=tell))
            except InputError:
                raise
            except Exception as error:  # whatever training, or an environment's own code, raises
                told = "".join(traceback.format_exception(error))
                message = str(error) or type(error).__name__
                store.append_line(run / store.FAILURES, {**about, "message": message, "traceback": told})
                return result("failed", message=message, traceback=told)
            finally:
                (run / store.PROGRESS).unlink(missing_ok=True)
    except InputError as error:
        return result("unusable", message=str(error))
    return result("done")
