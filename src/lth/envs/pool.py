"""Environments of many runs, stepped in several processes; what they return lies in memory that the processes share.

Each process has the environments of several runs and steps one after the other. A run whose environment raises is reported and not
stepped further, and so are the runs of a process that ends; the others go on. (Gymnasium's AsyncVectorEnv has one process for each
environment, and ends all of them when one fails.)
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from ..algorithms.architecture import Spaces
from . import make_vector, to_environment

PR_SET_PDEATHSIG = 1


class Place(NamedTuple):
    """One run's environments."""

    task: str
    seed: int


class Stepped(NamedTuple):
    """What the environments of all runs returned; leading axes (runs, environments)."""

    observations: np.ndarray  # (runs, envs, observation_dim) float32, after a reset where an episode ended
    rewards: np.ndarray  # float64
    terminated: np.ndarray  # bool
    truncated: np.ndarray  # bool
    final: np.ndarray  # like observations: the last of each episode that ended


class _Shared(NamedTuple):
    """The memory that the processes share, as raw bytes."""

    shape: tuple[int, int]  # runs, environments
    spaces: Spaces
    actions: Any
    observations: Any
    rewards: Any
    terminated: Any
    truncated: Any
    final: Any

    def actions_array(self) -> np.ndarray:
        return np.frombuffer(self.actions, np.float32).reshape(*self.shape, self.spaces.action_width)

    def stepped(self) -> Stepped:
        sizes = (*self.shape, self.spaces.observation_dim)
        return Stepped(
            np.frombuffer(self.observations, np.float32).reshape(sizes),
            np.frombuffer(self.rewards, np.float64).reshape(self.shape),
            np.frombuffer(self.terminated, bool).reshape(self.shape),
            np.frombuffer(self.truncated, bool).reshape(self.shape),
            np.frombuffer(self.final, np.float32).reshape(sizes),
        )


def _shared(context: Any, runs: int, num_envs: int, spaces: Spaces) -> _Shared:
    def raw(each: int, dtype: Any) -> Any:
        return context.RawArray(ctypes.c_char, max(runs * num_envs * each * np.dtype(dtype).itemsize, 1))

    return _Shared(
        (runs, num_envs),
        spaces,
        raw(spaces.action_width, np.float32),
        raw(spaces.observation_dim, np.float32),
        raw(1, np.float64),
        raw(1, bool),
        raw(1, bool),
        raw(spaces.observation_dim, np.float32),
    )


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that happens; Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent and os.getppid() != parent.pid:  # it ended before
        os._exit(1)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Runs:
    """The environments of several runs, in their process."""

    def __init__(self, places: dict[int, Place], shared: _Shared):
        self._places, self._shared = places, shared
        self._actions, self._data = shared.actions_array(), shared.stepped()
        self._vectors: dict[int, Any] = {}

    def each(self, call: Callable[[int], None], which: Iterable[int]) -> dict[int, str]:
        """Call a method for several runs; returns why it failed, by run."""
        failed = {}
        for i in which:
            try:
                call(i)
            except BaseException as error:  # the environment's code may raise anything
                failed[i] = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        return failed

    def reset(self, i: int, seed: int) -> None:
        place = self._places[i]
        if i not in self._vectors:
            self._vectors[i] = make_vector(place.task, place.seed, self._shared.shape[1])
        self._data.observations[i], _ = self._vectors[i].reset(seed=seed)

    def step(self, i: int) -> None:
        data = self._data
        actions = to_environment(self._shared.spaces, self._actions[i].copy())
        after, rewards, terminated, truncated, info = self._vectors[i].step(actions)
        data.observations[i], data.rewards[i] = after, rewards
        data.terminated[i], data.truncated[i] = terminated, truncated
        for k in np.flatnonzero(terminated | truncated):
            data.final[i, k] = info["final_obs"][k]


def _serve(pipe: Connection, places: dict[int, Place], shared: _Shared) -> None:
    die_with_parent()
    os.register_at_fork(after_in_child=pipe.close)  # a child of an environment must not keep the pipe open
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    runs = _Runs(places, shared)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            what, given = pipe.recv()
            if what == "reset":
                pipe.send(runs.each(lambda i, seeds=given: runs.reset(i, seeds[i]), given))  # type: ignore[misc]
            else:
                pipe.send(runs.each(runs.step, given))


class Pool:
    """The environments of `places`, in `processes` processes that are started at once.

    Parts of the places, as slices, can step at the same time: each process does what it is asked in turn, so parts must be finished
    in the order in which they were started.
    """

    def __init__(self, places: Sequence[Place | None], num_envs: int, spaces: Spaces, processes: int | None = None):
        filled = [i for i, place in enumerate(places) if place is not None]
        count = min(processes or cores(), len(filled))
        context = multiprocessing.get_context("spawn")  # a process that is forked while JAX has threads may hang
        self._shared = _shared(context, len(places), num_envs, spaces)
        self._actions, self._data = self._shared.actions_array(), self._shared.stepped()
        self._runs = [filled[k::count] for k in range(count)]
        self._active: set[int] = set()
        self._asked: dict[int, list[list[int]]] = {}  # runs of each process, by the first place of their part
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for runs in self._runs:
                pipe, theirs = context.Pipe()
                part = {i: place for i in runs if (place := places[i])}
                process = context.Process(target=_serve, args=(theirs, part, self._shared), daemon=True)
                self._pipes.append(pipe)
                process.start()
                self._processes.append(process)
                theirs.close()
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Mapping[int, int]) -> tuple[np.ndarray, dict[int, str]]:
        """Reset the environments of the runs in `seeds`; only these are stepped from now on.

        Returns:
            The observations (places, envs, observation_dim), and why runs failed, by place.
        """
        self._active = set(seeds)
        every = slice(0, len(self._actions))
        self._ask(every, "reset", lambda runs: {i: seeds[i] for i in runs})
        failed = self._answers(every)
        return self._data.observations.copy(), failed

    def start(self, part: slice, actions: np.ndarray) -> None:
        """Begin a step of a part with actions (places of the part, envs, action_width)."""
        self._actions[part] = actions
        self._ask(part, "step", list)

    def finish(self, part: slice) -> tuple[Stepped, dict[int, str]]:
        """Return what the step of a part returned, and why runs failed in it, by place."""
        failed = self._answers(part)
        return Stepped(*(values[part].copy() for values in self._data)), failed

    def drop(self, i: int) -> None:
        """Stop stepping the environments of a run."""
        self._active.discard(i)

    def _ask(self, part: slice, what: str, about: Callable[[list[int]], Any]) -> None:
        asked = [[i for i in runs if i in self._active and part.start <= i < part.stop] for runs in self._runs]
        self._asked[part.start] = asked
        for pipe, runs in zip(self._pipes, asked, strict=True):
            if runs:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # noticed when its answer is read
                    pipe.send((what, about(runs)))

    def _answers(self, part: slice) -> dict[int, str]:
        failed: dict[int, str] = {}
        for pipe, process, runs in zip(self._pipes, self._processes, self._asked[part.start], strict=True):
            if not runs:
                continue
            try:
                failed |= pipe.recv()
            except (EOFError, ConnectionResetError):
                process.join(5)
                process.kill()
                process.join()
                status = process.exitcode or 0
                how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
                failed |= dict.fromkeys(runs, f"ChildProcessError: the process of the environment ended {how}")
        self._active -= failed.keys()
        return failed

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
