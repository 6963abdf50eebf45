"""The suites of tasks: which tasks are whose, how their environments are made, and what their observations are called.

A task of a suite outside of lth is named `package.module:suite/task`, where `suite` is a Suite in that module (docs/recipes.md).
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import InputError, UnknownTask


def _unnamed(task: str) -> list[str]:
    return []


class Suite(NamedTuple):
    """How the environments of a suite of tasks are made. An entry of `SUITES`."""

    make: Callable[[str, int, bool, str | None], Any]
    """(task, seed, held_out, render_mode) -> a `gymnasium.Env` with a flat Box observation; its action is a bounded Box or
    Discrete. `reset(seed=s)` determines all that follows. `held_out`: with the goals that agents are evaluated on, where a task
    has several. Raises InputError where there is no such task."""
    names: Callable[[], list[str]] = list
    """The names of its tasks, for "did you mean"; they may be many."""
    observations: Callable[[str], list[str]] = _unnamed
    """What the numbers of a task's observation are called, in order; empty where that is not known."""
    owns: Callable[[str], bool] = lambda task: True
    """Whether a task is one of its tasks, by its name; asked of the suites in the table alone."""


def _is_metaworld(task: str) -> bool:
    return task.endswith("-v3") and task == task.lower() and not {"/", ":"} & set(task)


def _make_metaworld(task: str, seed: int, held_out: bool, render_mode: str | None) -> Any:
    try:
        from .metaworld import make_metaworld
    except Exception as error:  # MuJoCo's rendering backend fails in ways of its own
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


SUITES: dict[str, Suite] = {
    "metaworld": Suite(_make_metaworld, _metaworld_names, _metaworld_observations, _is_metaworld),
    "gymnasium": Suite(_make_gymnasium, _gymnasium_names, _gymnasium_observations),
}
"""The first suite that owns a task makes it."""


def suite_of(task: str) -> tuple[Suite, str]:
    """Return the suite of a task, and the task's name within it.

    >>> suite_of("drawer-close-v3")[0] is SUITES["metaworld"], suite_of("HalfCheetah-v5")[0] is SUITES["gymnasium"]
    (True, True)

    Raises:
        InputError: the module that the task names cannot be imported.
    """
    module, colon, rest = task.partition(":")
    name, slash, own = rest.partition("/")
    if colon and slash:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:  # whatever the module's own code raises
            raise UnknownTask(
                f"the task {task!r} cannot be made: {type(error).__name__}: {error}. A module in the working folder is found with "
                "PYTHONPATH=."
            ) from error
        if isinstance(found, Suite):
            return found, own
    return next(suite for suite in SUITES.values() if suite.owns(task)), task


def task_names() -> list[str]:
    """Return the names of all suites' tasks."""
    return [name for suite in SUITES.values() for name in suite.names()]


def unit_of(task: str, name: str) -> str | None:
    """Return the SI unit of an observation of this name; None where the task is not one of those that are known here."""
    from .observations import unit

    if not task:
        return None
    suite, own = suite_of(task)
    return unit(name) if suite in SUITES.values() and name in suite.observations(own) else None


def observation_names(task: str, observation_dim: int) -> list[str]:
    """Name each number of a task's observation; `obs[i]` where the task, or a version of it of this length, is not known.

    >>> observation_names("Pendulum-v1", 3)
    ['cos(angle)', 'sin(angle)', 'angular velocity']
    >>> observation_names("my:Task-v0", 2)
    ['obs[0]', 'obs[1]']
    """
    suite, name = suite_of(task)
    known = suite.observations(name)
    return known if len(known) == observation_dim else [f"obs[{i}]" for i in range(observation_dim)]
