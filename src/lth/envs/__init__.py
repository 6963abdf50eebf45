"""Create environments by task name. Simulators are imported only when one of their tasks is created.

`suites` is the table of suites, `gym`, `metaworld` and `brax` create their environments, `on_device` has those that are JAX
functions, and `observations` names observation entries.
"""

import contextlib
import functools
import signal
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..algorithms.architecture import AgentConfig, Spaces
from ..errors import InputError, UnknownTask
from .suites import suite_of

__all__ = [
    "EVALUATE",
    "TRAIN",
    "Interface",
    "UnknownTask",
    "check_task",
    "interface_of",
    "make",
    "make_own",
    "make_vector",
    "spaces_of",
    "task_interface",
    "task_spaces",
    "to_environment",
    "to_own_units",
]

TRAIN, EVALUATE = 0, 1


def make(task: str, seed: int = 0, split: int = TRAIN, render: bool = False, step_timeout: float | None = None) -> Any:
    """Create an environment with flat float32 observations, and actions in [-1, 1] or discrete actions counted from 0.

    `reset(seed=s)` determines everything that follows. Meta-World's 50 training goals are derived from `seed`. With
    `split=EVALUATE`, goals are derived from a seed that all runs share, and are checked to differ from the training goals.

    With `step_timeout`, a step or reset that takes longer (in seconds) ends the process by SIGALRM, because an environment that
    hangs may never return to Python. Use it only in supervised worker processes.

    Raises:
        InputError: the task is unknown (names the nearest), or its spaces are not supported.
    """
    import gymnasium

    env = make_own(task, seed, split, render)
    with warnings.catch_warnings():
        # Raised for any float64 bounds; the networks are always float32.
        warnings.filterwarnings("ignore", ".*precision lowered by casting")
        if isinstance(env.action_space, gymnasium.spaces.Discrete):
            env = _from_zero(env)
        else:
            one = env.action_space.dtype.type(1.0)
            env = gymnasium.wrappers.RescaleAction(_clipped(env), -one, one)
        box = env.observation_space
        space = gymnasium.spaces.Box(_bound(box.low), _bound(box.high), dtype=np.float32)
        env = gymnasium.wrappers.TransformObservation(env, np.float32, space)
    return env if step_timeout is None else _timed(env, step_timeout)


def make_own(task: str, seed: int = 0, split: int = TRAIN, render: bool = False) -> Any:
    """Create an environment without wrappers: observations and actions in the environment's units and dtypes.

    Raises:
        InputError: see `make`.
    """
    suite, name = suite_of(task)
    env = suite.make(name, seed, split == EVALUATE, "rgb_array" if render else None)
    _check_spaces(task, env)
    return env


def make_vector(task: str, seed: int, num_envs: int, step_timeout: float | None = None) -> Any:
    """Create parallel training environments.

    A finished episode is reset within the same step, and `info["final_obs"]` has its last observation. (By default Gymnasium 1.x
    resets in the next step.)
    """
    return _Vector([make(task, seed, step_timeout=step_timeout) for _ in range(num_envs)])


class _Vector:
    """Like Gymnasium's SyncVectorEnv with AutoresetMode.SAME_STEP, without an array for each entry of `info`."""

    def __init__(self, envs: list[Any]):
        self.envs = envs
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset environment i with `seed + i`."""
        return np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(self.envs)]), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step each environment. If an episode ends, `info["final_obs"]` has its last observation."""
        n = len(self.envs)
        info: dict[str, Any] = {}
        observations = np.empty((n, *self.observation_space.shape), self.observation_space.dtype)
        rewards, terminated, truncated = np.empty(n), np.empty(n, bool), np.empty(n, bool)
        for i, env in enumerate(self.envs):
            observations[i], rewards[i], terminated[i], truncated[i], _ = env.step(actions[i])
            if terminated[i] or truncated[i]:
                info.setdefault("final_obs", [None] * n)[i] = observations[i].copy()
                observations[i], _ = env.reset()
        return observations, rewards, terminated, truncated, info

    def close(self) -> None:
        """Close all environments."""
        for env in self.envs:
            env.close()


def _timed(env: Any, seconds: float) -> Any:
    import gymnasium

    def limited(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return call(*arguments, **named)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    class Timed(gymnasium.Wrapper):
        def step(self, action: Any) -> Any:
            return limited(self.env.step, action)

        def reset(self, **how: Any) -> Any:
            return limited(self.env.reset, **how)

    return Timed(env)


def _from_zero(env: Any) -> Any:
    """Count discrete actions from 0."""
    import gymnasium

    start = int(env.action_space.start)
    if start == 0:
        return env
    space = gymnasium.spaces.Discrete(int(env.action_space.n))
    return gymnasium.wrappers.TransformAction(env, lambda action: action + start, space)


def _clipped(env: Any) -> Any:
    """Clip actions to the bounds, in their dtype: a rescaled -1 may be one ulp below the lower bound."""
    import gymnasium

    space = env.action_space
    low, high = space.low, space.high
    return gymnasium.wrappers.TransformAction(
        env, lambda action: np.minimum(np.maximum(action, low), high).astype(space.dtype), space
    )


def spaces_of(env: Any) -> Spaces:
    """Return the spaces of an environment, or of parallel environments."""
    from gymnasium.spaces import Discrete

    single = getattr(env, "single_action_space", env.action_space)
    discrete = isinstance(single, Discrete)
    return Spaces(int(env.observation_space.shape[-1]), int(single.n if discrete else single.shape[0]), discrete)


def to_environment(spaces: Spaces, actions: np.ndarray) -> np.ndarray:
    """Convert actions (n, action_width) float32 for an environment: discrete actions become integers (n,)."""
    return actions[:, 0].astype(np.int64) if spaces.discrete else actions


class Interface(NamedTuple):
    """The observations and actions of an environment, in its own units."""

    observation_low: np.ndarray
    """The bounds of each observation, (observation_dim,) float32; infinite if unbounded."""
    observation_high: np.ndarray
    action_low: np.ndarray
    """The bounds of each action, (action_dim,) float32; empty for discrete actions."""
    action_high: np.ndarray
    first_action: int = 0
    """The index of the first discrete action."""
    dt: float | None = None
    """Seconds between two actions; None if unknown."""
    actions: tuple[str, ...] = ()
    """The names of its actions, from MuJoCo's actuators; empty if unknown."""


def interface_of(env: Any) -> Interface:
    """Describe an environment of `make_own`, or any environment with flat Box observations."""
    box, space = env.observation_space, env.action_space
    continuous = hasattr(space, "low")
    return Interface(
        _bound(box.low),
        _bound(box.high),
        _within(space.low if continuous else (), np.inf),
        _within(space.high if continuous else (), -np.inf),
        0 if continuous else int(space.start),
        _dt(env),
        _actuators(env),
    )


def _actuators(env: Any) -> tuple[str, ...]:
    model: Any = getattr(env.unwrapped, "model", None)
    count, actions = getattr(model, "nu", 0), getattr(env.action_space, "shape", None)
    names = tuple(str(model.actuator(i).name) for i in range(count)) if actions == (count,) else ()
    return names if all(names) else ()


def _bound(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # a bound beyond float32 counts as infinite
        return np.asarray(values, np.float64).ravel().astype(np.float32)


def _within(values: Any, inward: float) -> np.ndarray:
    """Return bounds of actions as `_bound`, but rounded inward: the nearest float32 may be outside of a float64 bound."""
    found, exact = _bound(values), np.asarray(values, np.float64).ravel()
    outside = np.isfinite(found) & (found < exact if inward > 0 else found > exact)
    return np.where(outside, np.nextafter(found, np.float32(inward)), found)


def _dt(env: Any) -> float | None:
    inner = env.unwrapped
    for owner in (inner, getattr(inner, "_env", None)):
        for name in ("dt", "tau"):  # MuJoCo's and Pendulum's name, and CartPole's
            value = getattr(owner, name, None)
            if isinstance(value, int | float) and value > 0:
                return float(value)
    return None


@functools.cache
def task_interface(task: str) -> Interface:
    """Create a task's environment, and describe it in its own units.

    Raises:
        InputError: the task is unknown.
    """
    env = make_own(task)
    try:
        return interface_of(env)
    finally:
        env.close()


def to_own_units(interface: Interface, actions: np.ndarray) -> np.ndarray:
    """Convert actions to the units of an environment.

    Args:
        interface: the description of the environment.
        actions: (n, action_dim) float32 in [-1, 1], or (n, 1) discrete actions counted from 0.

    Returns:
        (n, action_dim) float32 within the bounds, or (n,) int64.
    """
    low, high = interface.action_low, interface.action_high
    if not low.size:
        numbers: np.ndarray = actions[:, 0].astype(np.int64) + interface.first_action
        return numbers
    half, middle = (high - low) * np.float32(0.5), (high + low) * np.float32(0.5)
    clipped: np.ndarray = np.clip(actions * half + middle, low, high)
    return clipped


@functools.cache
def task_spaces(task: str) -> Spaces:
    """Create a task's environment, and return its spaces.

    Raises:
        InputError: the task is unknown.
    """
    env = make(task)
    try:
        return spaces_of(env)
    finally:
        env.close()


def check_task(task: str, config: AgentConfig) -> Spaces:
    """Return the spaces of a task.

    Raises:
        InputError: the task is unknown or not supported, or the algorithm does not support its actions.
    """
    spaces = task_spaces(task)
    config.check_actions(spaces, task)
    return spaces


def _check_spaces(task: str, env: Any) -> None:
    from gymnasium.spaces import Box, Discrete

    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, Box) or len(observation.shape) != 1 or not observation.shape[0]:
        raise InputError(
            f"the task {task!r} has the observation space {observation}, but only a flat Box is supported. "
            "Register a flattened version of it, with gymnasium.wrappers.FlattenObservation, under another name."
        )
    if isinstance(action, Discrete):
        return
    if not isinstance(action, Box) or len(action.shape) != 1 or not action.shape[0] or action.dtype.kind != "f":
        raise InputError(
            f"the task {task!r} has the action space {action}, but only Discrete or a flat Box of floats is supported"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        bounded = np.isfinite(_bound(action.high) - _bound(action.low)).all()  # the largest floats count as unbounded
    if not bounded:
        raise InputError(f"the task {task!r} has an unbounded action space {action}, but finite bounds are needed")
    if not (action.low < action.high).all():
        raise InputError(f"the task {task!r} has an empty action space {action}")


def versions() -> dict[str, str]:
    """Return the versions of the installed simulators."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("gymnasium", "mujoco", "metaworld", "brax"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
