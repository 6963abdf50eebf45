"""Gymnasium's registered environments."""

import os
from typing import Any

import gymnasium

from ..errors import InputError, UnknownTask, nearest

RENDERING = "Is MUJOCO_GL in the environment one that works here? Without a screen that is egl, or no setting at all."


def make_gymnasium(task: str, render_mode: str | None) -> Any:
    """Make a registered environment.

    Raises:
        InputError: there is none, or its own code raised.
    """
    known = list(gymnasium.registry)
    try:
        # Not every environment takes a render_mode, and none needs one.
        env = gymnasium.make(task, **({} if render_mode is None else {"render_mode": render_mode}))
        if env.spec is not None and env.spec.id != task.split(":")[-1]:
            raise UnknownTask(
                f"the task {task!r} has no version, and is {env.spec.id!r} here: name that, so that it stays the same"
            )
        return env
    except InputError:
        raise
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.NamespaceNotFound, gymnasium.error.NameNotFound):
        from .suites import task_names

        hint = nearest(task, task_names())
    except ImportError as error:
        raise UnknownTask(
            f"the task {task!r} cannot be made: {type(error).__name__}: {error}. A module in the working folder is found with "
            "PYTHONPATH=."
        ) from error
    except Exception as error:  # whatever the environment's own code raises
        versions = sorted(name for name in known if name.split("-v")[0] == task.split("-v")[0] and name != task)
        others = f" Other versions of it: {', '.join(versions)}." if versions else ""
        backend = f" {RENDERING}" if "MUJOCO_GL" in os.environ else ""
        # Gymnasium's own errors are about the name, such as a version that there is not.
        kind = UnknownTask if isinstance(error, gymnasium.error.Error) else InputError
        raise kind(f"the task {task!r} cannot be made: {type(error).__name__}: {error}.{others}{backend}") from error
    raise UnknownTask(
        f"there is no task {task!r}{hint or '.'} Tasks are Gymnasium ids, such as 'HalfCheetah-v5', and Meta-World v3 names, "
        "such as 'drawer-close-v3'."
    )
