"""Meta-World v3 tasks with seeded goals: 50 training goals and 50 held-out evaluation goals."""

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import metaworld
import numpy as np

from ..errors import InputError, UnknownTask, nearest
from .fast_metaworld import faster

HELD_OUT_SEED = 2**31 - 1
"""The benchmark seed of the evaluation goals, which all runs share."""


def task_names() -> list[str]:
    """Return the names of the 50 tasks."""
    return sorted(metaworld.env_dict.ALL_V3_ENVIRONMENTS)


class GoalEnv(gymnasium.Env):
    """A Meta-World task that draws one of its 50 goals at each reset, from a seeded generator.

    Held-out goals are not drawn: `reset(seed=s)` uses goal s modulo 50, so that 50 consecutive seeds cover all 50 goals.

    (The registered environments ignore `reset(seed=...)`.) The goal is part of the observation. Episodes are truncated at
    Meta-World's horizon of 500 steps, and `info["success"]` is 1.0 at each step that meets the success condition.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012  (Gymnasium's interface)

    def __init__(self, task: str, seed: int, held_out: bool, render_mode: str | None = None):
        goals = _goals_of(task, HELD_OUT_SEED if held_out else seed)
        if held_out:
            _check_disjoint(goals, _goals_of(task, seed), task)
        benchmark_class = metaworld.env_dict.ALL_V3_ENVIRONMENTS[task]
        self._env = faster(benchmark_class)(render_mode=render_mode)
        self._goals, self._held_out = goals, held_out
        self._steps = 0
        self.render_mode = render_mode
        self._env.set_task(goals[0])
        # Meta-World's own Box depends on the goal.
        shape = self._env.observation_space.shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float64)
        self.action_space = self._env.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode on one of the goals; a seed determines all following goals."""
        super().reset(seed=seed)
        count = len(self._goals)
        goal = int(self.np_random.integers(count)) if seed is None or not self._held_out else seed % count
        self._env.set_task(self._goals[goal])
        self._steps = 0
        first: tuple[np.ndarray, dict[str, Any]] = self._env.reset()
        return first

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step. Tasks never terminate; episodes are truncated after 500 steps."""
        observation, reward, _, _, info = self._env.step(action)
        self._steps += 1
        return observation, float(reward), False, self._steps >= self._env.max_path_length, info

    def render(self) -> Any:
        """Return the frame rendered by Meta-World."""
        return self._env.render()

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def make_metaworld(task: str, seed: int, held_out: bool, render_mode: str | None = None) -> GoalEnv:
    """Create a task by name.

    Raises:
        InputError: the task is unknown.
    """
    if task not in task_names():
        raise UnknownTask(
            f"unknown Meta-World task {task!r}{nearest(task, task_names()) or '.'} "
            f"The {len(task_names())} tasks have names such as 'drawer-close-v3'."
        )
    return GoalEnv(task, seed, held_out, render_mode)


@functools.cache
def _goals_of(task: str, seed: int) -> tuple[Any, ...]:
    # Cached, because Meta-World resets an environment 50 times, which takes as long as thousands of steps.
    return tuple(metaworld.MT1(task, seed=seed).train_tasks)


def _goal(task: Any) -> bytes:
    import pickle

    return np.asarray(pickle.loads(task.data)["rand_vec"]).tobytes()


def _check_disjoint(held_out: Sequence[Any], training: Sequence[Any], task: str) -> None:
    if {_goal(t) for t in held_out} & {_goal(t) for t in training}:
        raise InputError(f"{task}: a held-out evaluation goal is also a training goal of this seed; use another seed")
