"""Check a task before training, in a separate process with a time limit.

Checks the constructor, the spaces, both bounds of every action, and the types and shapes of everything that `reset` and `step`
return, and measures the length of an episode.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ..algorithms.architecture import Spaces
from ..errors import InputError, brief

LIMIT = 120.0
"""The time limit for checking a task, in seconds."""
_EPISODE_STEPS, _EPISODE_SECONDS = 10_000, 10.0
_POLL_SECONDS = 0.1
_MOST_CHOICES = 64  # the number of discrete actions that are tried


class Probed(NamedTuple):
    """The result of checking a task."""

    spaces: Spaces | None
    episode_steps: int | None
    """The length of an episode with constant actions; None if it did not end."""
    fault: str = ""
    """The problem with the task; empty if there is none."""
    unknown: bool = False
    """Whether the task does not exist or cannot be found, most likely because of a typo."""


def probe(tasks: Iterable[str], limit: float = LIMIT) -> dict[str, Probed]:
    """Check tasks in parallel, one per processor at a time."""
    tasks = list(dict.fromkeys(tasks))
    stopped = threading.Event()
    with ThreadPoolExecutor(max(1, min(len(tasks), os.cpu_count() or 1))) as pool:
        try:
            return dict(zip(tasks, pool.map(lambda task: _probe_one(task, limit, stopped), tasks), strict=True))
        finally:
            stopped.set()  # after Ctrl-C too, which the pool would meet by waiting for tasks that hang


def _probe_one(task: str, limit: float, stopped: threading.Event) -> Probed:
    until = time.monotonic() + limit
    process = subprocess.Popen(
        [sys.executable, "-m", "lth.envs.probe", task],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while True:
            try:
                said, complaints = process.communicate(timeout=_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if stopped.is_set() or time.monotonic() >= until:
                    return Probed(None, None, f"it could not be created, reset and stepped within {limit:.0f} seconds")
    finally:
        # Kill its child processes too.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()
    try:
        spaces, *rest = json.loads(said)
        return Probed(Spaces(*spaces) if spaces else None, *rest)
    except (ValueError, TypeError):
        status = process.returncode
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        last = " | ".join(complaints.decode(errors="replace").strip().splitlines()[-3:])
        return Probed(None, None, f"its process ended {how}: {last or 'no output'}")


def look(task: str) -> Probed:
    """Check a task in this process."""
    from . import UnknownTask, make

    env: Any = None
    try:
        env = make(task)
        return _look(env)
    except UnknownTask as error:
        return Probed(None, None, str(error), unknown=True)
    except (InputError, _Fault) as error:
        return Probed(None, None, str(error))
    except Exception as error:  # the environment's code may raise anything
        doing = "making it" if env is None else "using what it returned"
        return Probed(None, None, f"{doing} raised {type(error).__name__}: {brief(error)}")
    finally:
        with contextlib.suppress(Exception):
            env.close()


class _Fault(Exception):
    """A problem with the environment."""


def _look(env: Any) -> Probed:
    from . import spaces_of

    spaces = spaces_of(env)
    _check_reset(_call(env, "reset", seed=0), spaces)
    for action, words in _actions(spaces):
        found = _call(env, "step", action, words=words)
        if _check_step(found, spaces, words):
            _check_reset(_call(env, "reset", seed=1), spaces)
    _check_reset(_call(env, "reset", seed=2), spaces)
    still, _ = next(iter(_actions(spaces)))
    until, steps = time.monotonic() + _EPISODE_SECONDS, 0
    while steps < _EPISODE_STEPS and time.monotonic() < until:
        steps += 1
        if _check_step(_call(env, "step", still, words=f"step {steps} of an episode"), spaces, f"step {steps}"):
            return Probed(spaces, steps)
    return Probed(spaces, None)


def _actions(spaces: Spaces) -> list[tuple[Any, str]]:
    """Return actions to try in an environment of `make`: first the middle of the bounds, then both bounds of each dimension."""
    if spaces.discrete:
        return [(np.int64(i), f"action {i}") for i in range(min(spaces.action_dim, _MOST_CHOICES))]
    ends = np.eye(spaces.action_dim, dtype=np.float32)
    found: list[tuple[Any, str]] = [(np.zeros(spaces.action_dim, np.float32), "the action in the middle of its bounds")]
    for i in range(spaces.action_dim):
        found += [(ends[i], f"the upper bound of action {i}"), (-ends[i], f"the lower bound of action {i}")]
    return found


def _call(env: Any, name: str, *arguments: Any, words: str = "", **named: Any) -> Any:
    try:
        return getattr(env, name)(*arguments, **named)
    except Exception as error:  # the environment's code may raise anything
        raise _Fault(f"{name}{f' with {words}' if words else ''} raised {type(error).__name__}: {error}") from None


def _check_reset(found: Any, spaces: Spaces) -> None:
    if not (isinstance(found, tuple) and len(found) == 2):
        raise _Fault(f"reset returned {_kind(found)}, but must return (observation, info)")
    _check_observation(found[0], spaces, "reset")
    if not isinstance(found[1], dict):
        raise _Fault(f"reset returned an info of type {_kind(found[1])}, but it must be a dict")


def _check_step(found: Any, spaces: Spaces, words: str) -> bool:
    """Check the result of a step; returns whether the episode ended."""
    where = f"step with {words}"
    if not (isinstance(found, tuple) and len(found) == 5):
        raise _Fault(
            f"{where} returned {_kind(found)}, but must return (observation, reward, terminated, truncated, info)"
        )
    observation, reward, terminated, truncated, info = found
    _check_observation(observation, spaces, where)
    if np.ndim(reward) or not isinstance(reward, int | float | np.number | np.ndarray) or np.iscomplexobj(reward):
        raise _Fault(f"{where} returned a reward of type {_kind(reward)}, but it must be one number: float(reward)")
    if not np.isfinite(float(reward)):
        raise _Fault(f"{where} returned the reward {reward}, which is not finite")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if np.ndim(flag) or not isinstance(flag, bool | np.bool_ | int | np.integer):
            raise _Fault(f"{where} returned a `{name}` of type {_kind(flag)}, but it must be True or False")
    if not isinstance(info, dict):
        raise _Fault(f"{where} returned an info of type {_kind(info)}, but it must be a dict")
    for name in ("success", "is_success"):
        if name in info and (np.ndim(info[name]) or not np.isfinite(float(info[name]))):
            raise _Fault(
                f"{where} returned info[{name!r}] of type {_kind(info[name])}, but it must be True, False or a number"
            )
    return bool(terminated or truncated)


def _check_observation(observation: Any, spaces: Spaces, where: str) -> None:
    array = np.asarray(observation)
    if array.shape != (spaces.observation_dim,) or array.dtype.kind not in "fiub":
        raise _Fault(
            f"{where} returned an observation of type {_kind(observation)}, but its observation space has {spaces.observation_dim} "
            "numbers"
        )
    if not np.isfinite(array).all():
        raise _Fault(
            f"{where} returned an observation with NaN or infinity at index {int(np.argmin(np.isfinite(array)))}"
        )


def _kind(value: Any) -> str:
    shape = f" of shape {np.shape(value)}" if isinstance(value, np.ndarray) else ""
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__module__.replace('builtins', '')}.{type(value).__qualname__}{shape}{size}".lstrip(".")


def main() -> None:
    """Check the task named on the command line, and print the result as one line of JSON."""
    from .pool import die_with_parent

    die_with_parent()  # which enforces the time limit
    pipe = os.fdopen(os.dup(1), "w")  # output of environments is redirected to standard error
    os.dup2(2, 1)
    found = look(sys.argv[1])
    print(json.dumps([found.spaces and list(found.spaces), *found[1:]]), file=pipe, flush=True)
    os._exit(0)  # even if the environment left threads running


if __name__ == "__main__":
    main()
