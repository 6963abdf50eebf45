"""Attempt a run: lock it, execute its stage, and record the outcome."""

import contextlib
import functools
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, TrainingError, UnwritableError
from ..registry import load_entries
from . import journal
from .compare import connect
from .lottery import make_mask, train_dense, train_ticket
from .options import Progress, RunOptions
from .random_policy import measure_random_policy
from .spec import ConnectivitySpec, DenseSpec, MaskSpec, Spec, parse_spec
from .steps import Stage, Steps, run_together


@Stage
def attempt(root: Path, spec: Spec, options: RunOptions, progress: Progress) -> Steps[dict[str, Any]]:
    """Execute a run and return the outcome as plain data that can be sent through a pipe.

    If two processes attempt the same run, the second waits and finds it finished.

    Returns:
        `kind` is "done", "failed" (training failed: `message`, `traceback`), "unusable" (an input is invalid and must be fixed:
        `message`), or "unwritable" (the folder is not writable: `message`); `seconds` is the elapsed time.
    """
    run = root / spec.path
    started = time.monotonic()

    def result(kind: str, **more: str) -> dict[str, Any]:
        return {"kind": kind, "seconds": time.monotonic() - started, **more}

    def tell(env_steps: int, metrics: dict[str, float]) -> None:
        seconds = time.monotonic() - started
        about = {"env_steps": env_steps, "metrics": metrics, "seconds": seconds, "time": time.time()}
        journal.write_quick(run / journal.PROGRESS, about)
        progress(env_steps, metrics)

    about = {"time": journal.now(), "host": socket.gethostname(), "pid": os.getpid()}
    try:
        with journal.locked(run / journal.LOCK, wait=True):
            if journal.is_made(root, spec, options.rewind_points):
                journal.remove_leftovers(run)
                return result("done")
            journal.append_line(run / journal.ATTEMPTS, about)
            try:
                yield from make.steps(root, spec, options._replace(progress=tell))
            except InputError:
                raise
            except (Exception, KeyboardInterrupt, SystemExit) as error:  # the environment's code may raise anything
                told = "".join(traceback.format_exception(error))
                message = str(error) or type(error).__name__
                journal.append_line(run / journal.FAILURES, {**about, "message": message, "traceback": told})
                return result("failed", message=message, traceback=told)
            finally:
                (run / journal.PROGRESS).unlink(missing_ok=True)
    except UnwritableError as error:
        return result("unwritable", message=str(error))
    except InputError as error:
        return result("unusable", message=str(error))
    return result("done")


def attempt_all(
    root: Path, specs: Sequence[dict[str, Any]], options: RunOptions, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Execute the runs of a job; several train together.

    Args:
        root: the output directory.
        specs: of the runs, as plain data from lth's own processes; modules that they name are imported.
        options: options that do not affect results.
        tell: called with events, of which `run` is the number of the run: `kind` is "step", or as `attempt` returns it at the end.
    """
    load_entries(specs)

    def progress(run: int, env_steps: int, metrics: dict[str, float]) -> None:
        tell({"run": run, "kind": "step", "env_steps": env_steps, "metrics": metrics})

    runs = [
        attempt.steps(root, parse_spec(fields), options, functools.partial(progress, i))
        for i, fields in enumerate(specs)
    ]
    run_together(runs, lambda i, found: tell({"run": i, **found}))


@Stage
def make(root: Path, spec: Spec, options: RunOptions) -> Steps[Path]:
    """Execute a run unless it is finished; returns its directory.

    Raises:
        InputError: an input is missing or invalid.
        TrainingError: training failed.
    """
    if isinstance(spec, MaskSpec):
        return make_mask(root, spec)
    if isinstance(spec, ConnectivitySpec):
        return connect(root, spec)
    with contextlib.suppress(TrainingError):  # the training below reports what is wrong with the environment
        measure_random_policy(root, spec.task, options.random_episodes, options.step_timeout)
    if isinstance(spec, DenseSpec):
        return (yield from train_dense.steps(root, spec, options))
    return (yield from train_ticket.steps(root, spec, options=options))
