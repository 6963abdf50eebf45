"""Environments that are JAX functions: they can be vectorized, scanned and compiled together with acting and learning.

A suite gives them as `Suite.on_device`. `device_env` returns those of a task, and `HostEnv` is the same task in Gymnasium's
interface, for everything that steps environments one at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from ..algorithms.architecture import Spaces
from ..errors import InputError, brief
from ..precision import in_float32
from .suites import suite_of


class DeviceEnv(NamedTuple):
    """An environment as two pure JAX functions, which work under `jit`, `vmap` and `scan`.

    A state is a pytree of arrays. Its structure, shapes and dtypes are the same after `reset` and after every `step`.
    """

    spaces: Spaces
    """The sizes of its observations and actions."""
    reset: Callable[[jax.Array], tuple[Any, jax.Array]]
    """key -> (state, observation). The key is a typed JAX key, of shape (); the observation is (observation_dim,) float32."""
    step: Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array, jax.Array]]
    """(state, action) -> (state, observation, reward, terminated). The action is (action_dim,) float32 in [-1, 1], or an int32 of
    shape () for discrete actions, counted from 0; the reward is a float32 of shape (), and terminated a bool of shape ()."""
    episode_steps: int
    """The caller truncates an episode after this many steps."""


def device_env(task: str) -> DeviceEnv | None:
    """Return a task as JAX functions, the same ones at each call; None if its suite does not have them.

    >>> device_env("Pendulum-v1") is None
    True

    Args:
        task: a task as in a config, such as `brax:halfcheetah` or `package.module:suite/task`.

    Raises:
        InputError: the task is unknown, or its functions do not meet the description of `DeviceEnv`.
    """
    suite, name = suite_of(task)
    return suite.on_device and prepare(suite.on_device, name)


@functools.cache
@in_float32
def prepare(on_device: Callable[[str], DeviceEnv], task: str) -> DeviceEnv:
    """Create a task of a suite, check its functions by tracing them, and compile each when it is first called.

    The functions returned cast what the task's own return to the dtypes of `DeviceEnv` and of the first state, where that loses
    nothing, and to strong types.

    Args:
        on_device: `Suite.on_device`.
        task: the name of the task within the suite.

    Raises:
        InputError: the task is unknown, or its functions do not meet the description of `DeviceEnv`.
    """
    env = on_device(task)
    if not isinstance(env.episode_steps, int) or env.episode_steps < 1:
        raise InputError(
            f"the task {task!r} has episode_steps={env.episode_steps!r}, but needs an integer of at least 1"
        )
    observation = jax.ShapeDtypeStruct((env.spaces.observation_dim,), jnp.float32)
    number, flag = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.bool)

    @jax.jit
    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        state, first = env.reset(key)
        return jax.tree.map(_strong, state), _cast("reset's observation", first, observation)

    @jax.jit
    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        before = jax.tree.map(jax.typeof, state)  # first, because Brax changes the dicts in it
        after, seen, reward, terminated = env.step(state, action)
        found, wanted = str(jax.tree.structure(after)), str(jax.tree.structure(before))
        if found != wanted:
            raise InputError(f"step's state has the structure {found}, but reset's has {wanted}")
        return (
            jax.tree.map_with_path(
                lambda path, *leaves: _cast(f"step's state{jax.tree_util.keystr(path)}", *leaves), after, before
            ),
            _cast("step's observation", seen, observation),
            _cast("the reward", reward, number),
            _cast("terminated", terminated, flag),
        )

    try:
        state, _ = jax.eval_shape(reset, _key())
        jax.eval_shape(step, state, _action(env.spaces))
    except Exception as error:  # the task's code may raise anything
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        raise InputError(f"the task {task!r} cannot be compiled: {kind}{brief(error)}") from error
    return env._replace(reset=reset, step=step)


def _strong(leaf: Any) -> jax.Array:
    return jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype)


def _cast(what: str, found: Any, wanted: Any) -> jax.Array:
    array = jnp.asarray(found)
    if array.shape != wanted.shape or (
        array.dtype != wanted.dtype and jnp.promote_types(array.dtype, wanted.dtype) != wanted.dtype
    ):
        raise InputError(f"{what} is {array.dtype}{list(array.shape)}, but must be {wanted.dtype}{list(wanted.shape)}")
    return jax.lax.convert_element_type(array, wanted.dtype)


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _action(spaces: Spaces) -> jax.ShapeDtypeStruct:
    shape, dtype = ((), jnp.int32) if spaces.discrete else ((spaces.action_dim,), jnp.float32)
    return jax.ShapeDtypeStruct(shape, dtype)


class HostEnv(gymnasium.Env[np.ndarray, Any]):
    """A `DeviceEnv` in Gymnasium's interface, which steps one environment at a time.

    Observations are (observation_dim,) float32 without bounds; actions are a Box of [-1, 1] or Discrete. `reset(seed=s)` determines
    everything that follows. Episodes are truncated after `episode_steps`. Rendering is not supported.

    The functions are compiled when the first of a task's environments in this process is created, not in its first step.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's interface)

    def __init__(self, env: DeviceEnv):
        spaces = env.spaces
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (spaces.observation_dim,), np.float32)
        self.action_space = (
            gymnasium.spaces.Discrete(spaces.action_dim)
            if spaces.discrete
            else gymnasium.spaces.Box(-1.0, 1.0, (spaces.action_dim,), np.float32)
        )
        self._env, self._action = env, _action(spaces)
        self._reset, self._step = _compiled(env)
        self._seed, self._episode, self._steps = -1, 0, 0
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: the first of a seed, or the next one of the last seed. Seeds are used modulo 2**32."""
        super().reset(seed=seed)
        self._episode, self._steps = self._episode + 1, 0
        if seed is not None or self._state is None:
            self._seed = int(self.np_random.integers(2**32)) if seed is None else seed % 2**32
            self._episode = 0
        self._state, observation = self._reset(np.uint32(self._seed), np.uint32(self._episode))
        return np.array(observation), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step with an action (action_dim,) in [-1, 1], or the index of a discrete action."""
        given = np.asarray(action, self._action.dtype).reshape(self._action.shape)
        self._state, observation, reward, terminated = self._step(self._state, given)
        self._steps += 1
        return np.array(observation), float(reward), bool(terminated), self._steps >= self._env.episode_steps, {}


@functools.cache
@in_float32
def _compiled(env: DeviceEnv) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile (seed, episode) -> (state, observation), and the step."""

    def reset(seed: jax.Array, episode: jax.Array) -> tuple[Any, jax.Array]:
        return env.reset(episode_key(seed, episode))

    number = jax.ShapeDtypeStruct((), jnp.uint32)
    state, _ = jax.eval_shape(reset, number, number)
    step = jax.jit(env.step).lower(state, _action(env.spaces)).compile()
    return jax.jit(reset).lower(number, number).compile(), step


def episode_key(seed: jax.Array, episode: jax.Array | int = 0) -> jax.Array:
    """Return the key with which `HostEnv` resets for an episode of a seed, a uint32."""
    return jax.random.fold_in(jax.random.key(seed), episode)
