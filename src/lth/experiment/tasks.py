"""The tasks of an experiment: checked before anything is trained, with what was found kept in the output directory."""

import contextlib
import json
from pathlib import Path

from .. import envs
from ..algorithms.architecture import Spaces
from ..config import Config
from ..errors import InputError
from ..files import write_whole

TASKS = "tasks.json"


def check_tasks(config: Config) -> dict[str, Spaces]:
    """Make each task's environment once and return its spaces.

    Raises:
        InputError: a task is unknown or not supported, or has actions that the algorithm does not take.
    """
    tasks = (*config.tasks, *config.pruning.transfer_from)
    return {task: envs.check_task(task, config.agent_config) for task in tasks}


def record_tasks(root: Path, spaces: dict[str, Spaces]) -> None:
    """Keep what `check_tasks` found in the output directory, so that enumerating its runs starts no simulator."""
    known = _recorded(root)
    if not spaces.items() <= known.items():
        with contextlib.suppress(OSError, InputError):  # a folder that cannot be written is reported by the runs
            fields = {task: found._asdict() for task, found in sorted((known | spaces).items())}
            write_whole(root / TASKS, (json.dumps(fields, indent=1) + "\n").encode(), checksum=False)


def spaces_of_task(root: Path, task: str) -> Spaces:
    """Return the spaces of a task: as `check_tasks` left them in the output directory, or else by making its environment.

    Raises:
        InputError: there is no such task.
    """
    return _recorded(root).get(task) or envs.task_spaces(task)


def _recorded(root: Path) -> dict[str, Spaces]:
    try:
        fields = json.loads((root / TASKS).read_text())
        found = {str(task): Spaces(**spaces) for task, spaces in fields.items()}
        if all(
            type(value) is kind
            for spaces in found.values()
            for value, kind in zip(spaces, (int, int, bool), strict=True)
        ):
            return found
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        pass
    return {}  # the file is no more than a memory: without it the environments are made
