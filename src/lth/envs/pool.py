"""Environments of many runs, stepped in several processes with shared memory (Gymnasium's AsyncVectorEnv).

Each process has the environments of several runs and steps one after the other. For AsyncVectorEnv a process is one environment,
whose observation is everything that its runs returned. A run whose environment raises is reported and not stepped further; the
others go on.
"""

import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from ..algorithms.architecture import Spaces
from . import make_vector, to_environment


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


class RunEnvironments(gymnasium.Env[Any, Any]):
    """The environments of several runs, in one process."""

    def __init__(self, places: Sequence[Place | None], num_envs: int, spaces: Spaces):
        shape = (len(places), num_envs)
        box = Box(-np.inf, np.inf, (*shape, spaces.observation_dim), np.float32)
        flags = Box(0, 1, shape, np.uint8)
        self.observation_space = Dict(
            {
                "observations": box,
                "rewards": Box(-np.inf, np.inf, shape, np.float64),
                "terminated": flags,
                "truncated": flags,
                "final": box,
                "failed": Box(0, 1, shape[:1], np.uint8),
            }
        )
        self.action_space = Box(-np.inf, np.inf, (*shape, spaces.action_width), np.float32)
        self.seeds: list[int] = []  # of the next reset, one for each run
        self.active: list[bool] = [place is not None for place in places]
        self.failures: dict[int, str] = {}
        self._places, self._num_envs, self._spaces = places, num_envs, spaces
        self._vectors: list[Any] = [None] * len(places)
        self._data: dict[str, np.ndarray] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environments of each run by its entry in `seeds`."""
        space: Any = self.observation_space
        self._data = {name: np.zeros(part.shape, part.dtype) for name, part in space.items()}
        self._each(self._reset)
        return self._data, {}

    def step(self, action: Any) -> Any:
        """Step the environments of each run."""
        self._each(lambda i: self._step(i, action[i]))
        return self._data, 0.0, False, False, {}

    def _each(self, call: Callable[[int], None]) -> None:
        self._data["failed"][:] = 0
        for i, place in enumerate(self._places):
            if place is None or not self.active[i]:
                continue
            try:
                call(i)
            except BaseException as error:  # the environment's code may raise anything
                self.active[i] = False
                self.failures[i] = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
                self._data["failed"][i] = 1

    def _reset(self, i: int) -> None:
        place = self._places[i]
        assert place
        if self._vectors[i] is None:
            self._vectors[i] = make_vector(place.task, place.seed, self._num_envs)
        self._data["observations"][i], _ = self._vectors[i].reset(seed=self.seeds[i])

    def _step(self, i: int, actions: np.ndarray) -> None:
        data = self._data
        after, rewards, terminated, truncated, info = self._vectors[i].step(to_environment(self._spaces, actions))
        data["observations"][i], data["rewards"][i] = after, rewards
        data["terminated"][i], data["truncated"][i] = terminated, truncated
        for k in np.flatnonzero(terminated | truncated):
            data["final"][i, k] = info["final_obs"][k]

    def told(self) -> dict[int, str]:
        """Return why runs failed, by their place in this process."""
        return self.failures

    def close(self) -> None:
        """Close all environments."""
        for vector in self._vectors:
            if vector is not None:
                vector.close()


class Pool:
    """The environments of `places`, in `processes` processes that are started at once."""

    def __init__(self, places: Sequence[Place | None], num_envs: int, spaces: Spaces, processes: int | None = None):
        self.runs = len(places)
        processes = min(processes or len(os.sched_getaffinity(0)), max(self.runs, 1))
        self._each = -(-self.runs // processes)
        count = -(-self.runs // self._each)
        padded = [*places, *[None] * (count * self._each - self.runs)]
        parts = [padded[i * self._each : (i + 1) * self._each] for i in range(count)]
        makers = [lambda part=part: RunEnvironments(part, num_envs, spaces) for part in parts]
        # A process that is forked while JAX has threads may hang.
        self._vector = gymnasium.vector.AsyncVectorEnv(makers, shared_memory=True, context="spawn")

    def reset(self, seeds: Sequence[int], active: Sequence[bool]) -> np.ndarray:
        """Reset the environments of each active run; returns observations (runs, envs, observation_dim)."""
        self._vector.set_attr("seeds", self._parts(seeds, 0))
        self._vector.set_attr("active", self._parts(active, False))
        data, _ = self._vector.reset()
        found: np.ndarray = self._flat(data["observations"])
        return found

    def start(self, actions: np.ndarray) -> None:
        """Begin a step with actions (runs, envs, action_width)."""
        padded = np.zeros((self._vector.num_envs * self._each, *actions.shape[1:]), np.float32)
        padded[: self.runs] = actions
        self._vector.step_async(padded.reshape(self._vector.num_envs, self._each, *actions.shape[1:]))

    def finish(self) -> tuple[Stepped, dict[int, str]]:
        """Return what the step returned, and why runs failed in it, by run."""
        data, *_ = self._vector.step_wait()
        found = {name: self._flat(part) for name, part in data.items()}
        failed = found.pop("failed")
        flags = {name: found.pop(name).astype(bool) for name in ("terminated", "truncated")}
        return Stepped(**found, **flags), self.failures() if failed.any() else {}

    def failures(self) -> dict[int, str]:
        """Return why runs failed, by run."""
        told = self._vector.call("told")
        return {k * self._each + i: why for k, part in enumerate(told) for i, why in part.items()}

    def _parts(self, values: Sequence[Any], empty: Any) -> list[list[Any]]:
        padded = [*values, *[empty] * (self._vector.num_envs * self._each - self.runs)]
        return [padded[k * self._each : (k + 1) * self._each] for k in range(self._vector.num_envs)]

    def _flat(self, part: np.ndarray) -> np.ndarray:
        return part.reshape(-1, *part.shape[2:])[: self.runs]

    def close(self) -> None:
        """End the processes."""
        self._vector.close(terminate=True)
