"""Brax's tasks as JAX functions: `brax:halfcheetah`, or `brax:halfcheetah:spring` for another of its physics backends."""

import warnings
from typing import Any

import jax

from ..algorithms.architecture import Spaces
from ..errors import InputError, UnknownTask, brief, nearest
from .on_device import DeviceEnv

BACKENDS = ("generalized", "spring", "positional", "mjx")
"""Brax's physics backends; the first is its tasks' default."""
EPISODE_STEPS = 1000
"""The length of an episode: the default of Brax's own `create` and of its trainers, which truncate; its tasks do not."""


def _brax(task: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of jaxopt, which Brax imports
            from brax import envs
    except Exception as error:  # it may not import beside the installed JAX
        raise UnknownTask(
            f"the task {task!r} needs the package brax ({type(error).__name__}: {error}): pip install 'lth[brax]'"
        ) from error
    return envs


def brax_env(task: str) -> DeviceEnv:
    """Create a task by name, without Brax's wrappers. Actions in [-1, 1] are given to the task as they are, as Brax's trainers do.

    Raises:
        InputError: the task or its backend is unknown, or Brax is not installed or cannot create it.
    """
    envs = _brax(task)
    name, colon, backend = task.removeprefix("brax:").partition(":")
    known = [f"brax:{name}" for name in envs._envs]
    if f"brax:{name}" not in known:
        raise UnknownTask(
            f"unknown Brax task {task!r}{nearest(f'brax:{name}', known) or '.'} The tasks are {', '.join(known)}; a backend "
            "may follow, as in 'brax:halfcheetah:spring'."
        )
    backend = backend if colon else BACKENDS[0]
    if backend not in BACKENDS:
        raise UnknownTask(
            f"unknown backend in the Brax task {task!r}{nearest(backend, BACKENDS) or '.'} The backends are {', '.join(BACKENDS)}."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Brax System, pip", UserWarning)  # that it is no longer maintained
            env = envs.get_environment(name, backend=backend)
        first = jax.eval_shape(env.reset, jax.random.key(0))
        (observation_dim,) = first.obs.shape
    except Exception as error:  # not every task supports every backend
        raise InputError(f"Brax cannot create {task!r}: {type(error).__name__}: {brief(error)}") from error

    def reset(key: jax.Array) -> tuple[Any, jax.Array]:
        state = env.reset(key)
        return state, state.obs

    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
        after = env.step(state, action)
        return after, after.obs, after.reward, after.done > 0

    return DeviceEnv(Spaces(observation_dim, env.action_size), reset, step, EPISODE_STEPS)
