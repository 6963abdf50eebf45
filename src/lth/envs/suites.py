"""Task suites: which tasks belong to a suite, how their environments are created, and the names of their observations.

A task of a custom suite is named `package.module:suite/task`, where `suite` is a Suite in that module (docs/recipes.md).
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError, UnknownTask

if TYPE_CHECKING:
    from .on_device import DeviceEnv


def _unnamed(task: str) -> list[str]:
    return []


class Suite(NamedTuple):
    """An entry of `SUITES`."""

    make: Callable[[str, int, bool, str | None], Any]
    """(task, seed, held_out, render_mode) -> a `gymnasium.Env` with a flat Box observation and a bounded Box or Discrete action.
    `reset(seed=s)` determines everything that follows. `held_out`: use the evaluation goals, if a task has several. Raises
    InputError if the task is unknown."""
    names: Callable[[], list[str]] = list
    """The names of its tasks, for suggestions."""
    observations: Callable[[str], list[str]] = _unnamed
    """The names of a task's observation entries, in order; empty if unknown."""
    owns: Callable[[str], bool] = lambda task: True
    """Whether a task name belongs to this suite; used only for suites in the table."""
    on_device: "Callable[[str], DeviceEnv] | None" = None
    """The name of a task within the suite -> the task as JAX functions (`lth.envs.on_device.DeviceEnv`), if its environments are
    written in JAX. Raises InputError if the task is unknown."""


def device_suite(
    on_device: "Callable[[str], DeviceEnv]",
    names: Callable[[], list[str]] = list,
    observations: Callable[[str], list[str]] = _unnamed,
    owns: Callable[[str], bool] = lambda task: True,
) -> Suite:
    """Return a suite of environments written in JAX: `make` creates Gymnasium environments (`HostEnv`) from the same functions.

    >>> toys = device_suite(lambda task: ..., names=lambda: ["reach"])  # docs/recipes.md has a whole suite
    >>> toys.names()
    ['reach']

    Args:
        on_device: the name of a task -> a `lth.envs.on_device.DeviceEnv`; called once per task. Raises InputError if the task is
            unknown.
        names: the names of its tasks, for suggestions.
        observations: the names of a task's observation entries, in order; empty if unknown.
        owns: whether a task name belongs to this suite; used only for suites in the table.
    """
    return Suite(functools.partial(_make_from, on_device), names, observations, owns, on_device)


def _make_from(
    on_device: "Callable[[str], DeviceEnv]", task: str, seed: int, held_out: bool, render_mode: str | None
) -> Any:
    from .on_device import HostEnv, prepare

    if render_mode is not None:
        raise InputError(f"the task {task!r} cannot be rendered: its suite does not support rendering")
    return HostEnv(prepare(on_device, task))


def _is_metaworld(task: str) -> bool:
    return task.endswith("-v3") and task == task.lower() and not {"/", ":"} & set(task)


def _make_metaworld(task: str, seed: int, held_out: bool, render_mode: str | None) -> Any:
    try:
        from .metaworld import make_metaworld
    except Exception as error:  # MuJoCo's rendering backends raise various errors
        from .gym import RENDERING

        raise InputError(f"Meta-World cannot be loaded: {type(error).__name__}: {error}. {RENDERING}") from error
    return make_metaworld(task, seed, held_out, render_mode)


def _metaworld_names() -> list[str]:
    from .metaworld import task_names

    return task_names()


def _metaworld_observations(task: str) -> list[str]:
    from .observations import metaworld_observations

    return metaworld_observations()


def _make_gymnasium(task: str, seed: int, held_out: bool, render_mode: str | None) -> Any:
    from .gym import make_gymnasium

    return make_gymnasium(task, render_mode)


def _gymnasium_names() -> list[str]:
    import gymnasium

    return list(gymnasium.registry)


def _gymnasium_observations(task: str) -> list[str]:
    from .observations import gymnasium_observations

    return gymnasium_observations(task)


_BRAX = (
    *("ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "inverted_double_pendulum", "inverted_pendulum"),
    *("pusher", "reacher", "walker2d"),
)
"""Those that are suggested. Brax's swimmer calls functions that JAX no longer has."""


def _brax_names() -> list[str]:
    return [f"brax:{name}" for name in _BRAX] if importlib.util.find_spec("brax") else []


def _brax_on_device(task: str) -> "DeviceEnv":
    from .brax import brax_env

    return brax_env(task)


SUITES: dict[str, Suite] = {
    "metaworld": Suite(_make_metaworld, _metaworld_names, _metaworld_observations, _is_metaworld),
    "brax": device_suite(_brax_on_device, _brax_names, owns=lambda task: task.startswith("brax:")),
    "gymnasium": Suite(_make_gymnasium, _gymnasium_names, _gymnasium_observations),
}
"""The first suite that owns a task creates it."""


def suite_of(task: str) -> tuple[Suite, str]:
    """Return the suite of a task, and the task's name within it.

    >>> suite_of("drawer-close-v3")[0] is SUITES["metaworld"], suite_of("HalfCheetah-v5")[0] is SUITES["gymnasium"]
    (True, True)

    Raises:
        InputError: the module named in the task cannot be imported.
    """
    module, colon, rest = task.partition(":")
    name, slash, own = rest.partition("/")
    if colon and slash:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:  # the module's code may raise anything
            raise UnknownTask(
                f"the task {task!r} cannot be created: {type(error).__name__}: {error}. For a module in the "
                "working directory, set PYTHONPATH=."
            ) from error
        if isinstance(found, Suite):
            return found, own
    return next(suite for suite in SUITES.values() if suite.owns(task)), task


def task_names() -> list[str]:
    """Return the names of all suites' tasks."""
    return [name for suite in SUITES.values() for name in suite.names()]


def unit_of(task: str, name: str) -> str | None:
    """Return the SI unit of an observation by name; None if the task or the name is unknown."""
    from .observations import unit

    if not task:
        return None
    suite, own = suite_of(task)
    return unit(name) if suite in SUITES.values() and name in suite.observations(own) else None


def observation_names(task: str, observation_dim: int) -> list[str]:
    """Return the name of each observation entry of a task; `obs[i]` if the task, or its observation length, is unknown.

    >>> observation_names("Pendulum-v1", 3)
    ['cos(angle)', 'sin(angle)', 'angular velocity']
    >>> observation_names("my:Task-v0", 2)
    ['obs[0]', 'obs[1]']
    """
    suite, name = suite_of(task)
    known = suite.observations(name)
    return known if len(known) == observation_dim else [f"obs[{i}]" for i in range(observation_dim)]
