"""Create environments registered with Gymnasium."""

import os
import sys
from typing import Any

import gymnasium

from ..errors import InputError, UnknownTask, nearest

RENDERING = "Check MUJOCO_GL in the environment: without a screen, set it to egl or unset it."


def make_gymnasium(task: str, render_mode: str | None) -> Any:
    """Create a registered environment.

    Raises:
        InputError: it does not exist, or its code raised an exception.
    """
    known = list(gymnasium.registry)
    try:
        # Not every environment accepts a render_mode.
        more: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        env = gymnasium.make(task, **more)
        if env.spec is not None and env.spec.id != task.split(":")[-1]:
            raise UnknownTask(
                f"the task {task!r} has no version; name {env.spec.id!r}, so that the task does not change"
            )
        return _in_new_worlds(env)
    except InputError:
        raise
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.NamespaceNotFound, gymnasium.error.NameNotFound):
        from .suites import task_names

        hint = nearest(task, task_names())
    except ImportError as error:
        raise UnknownTask(
            f"the task {task!r} cannot be created: {type(error).__name__}: {error}. For a module in the working "
            "directory, set PYTHONPATH=."
        ) from error
    except Exception as error:  # the environment's code may raise anything
        versions = sorted(name for name in known if name.split("-v")[0] == task.split("-v")[0] and name != task)
        others = f" Other versions: {', '.join(versions)}." if versions else ""
        backend = f" {RENDERING}" if "MUJOCO_GL" in os.environ else ""
        # Gymnasium's own errors are about the name, such as an unknown version.
        kind = UnknownTask if isinstance(error, gymnasium.error.Error) else InputError
        raise kind(f"the task {task!r} cannot be created: {type(error).__name__}: {error}.{others}{backend}") from error
    raise UnknownTask(
        f"unknown task {task!r}{hint or '.'} Tasks are Gymnasium ids, such as 'HalfCheetah-v5', Meta-World v3 names, such as "
        "'drawer-close-v3', and Brax tasks, such as 'brax:halfcheetah'."
    )


def _in_new_worlds(env: Any) -> Any:
    """Start each episode of Gymnasium's BipedalWalker in a new Box2D world.

    Its own reset empties the last world and reuses it, after which episodes of one seed differ from those in a new world. Gymnasium
    makes a new world for LunarLander, because of the same fault (its issue 728).
    """
    module: Any = sys.modules.get("gymnasium.envs.box2d.bipedal_walker")
    if module is None or not isinstance(env.unwrapped, module.BipedalWalker):
        return env

    class InNewWorlds(gymnasium.Wrapper):
        def reset(self, **how: Any) -> Any:
            walker: Any = self.env.unwrapped
            walker._destroy()
            walker.world = type(walker.world)(gravity=walker.world.gravity)
            return self.env.reset(**how)

    return InNewWorlds(env)
