"""The tasks of an experiment: checked before anything is trained, with what was found kept in the output directory."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

from ..algorithms.architecture import Spaces
from ..config import Config
from ..envs.probe import probe
from ..errors import InputError
from ..files import read_json, write_whole

TASKS = "tasks.json"


PLACEHOLDER = Spaces(1, 1)
"""Stands for the spaces of a task that cannot be made, so that its runs can be enumerated and reported as failed."""


class Checked(NamedTuple):
    """What was found of the tasks of a config."""

    spaces: dict[str, Spaces]
    broken: dict[str, str]
    """What is wrong with those that cannot be trained on."""
    notes: list[str]
    """What a person should know before training begins."""


def check_tasks(config: Config) -> Checked:
    """Look at each task that the output directory has not seen, in a process of its own.

    Raises:
        InputError: a task is unknown, or has actions that the algorithm does not take.
    """
    tasks = dict.fromkeys((*config.tasks, *config.pruning.transfer_from))
    found = {task: spaces for task, spaces in recorded_spaces(config.output_dir).items() if task in tasks}
    broken: dict[str, str] = {}
    notes: list[str] = []
    for task, probed in probe(task for task in tasks if task not in found).items():
        if probed.unknown:
            raise InputError(probed.fault)
        if probed.spaces is None:
            broken[task] = f"the task {task!r} cannot be trained on: {probed.fault}"
            continue
        found[task] = probed.spaces
        training, steps = config.training, probed.episode_steps
        if steps is not None and training.segment_steps // training.num_envs < steps < training.env_steps:
            notes.append(
                f"an episode of {task} has {steps} steps, but training.segment_steps={training.segment_steps} gives each of "
                f"{training.num_envs} environments {training.segment_steps // training.num_envs} before all start anew, so such an "
                f"episode never ends in training. Set it to {steps * training.num_envs} or more."
            )
    for task, spaces in found.items():
        config.agent_config.check_actions(spaces, task)
    return Checked({task: found.get(task, PLACEHOLDER) for task in tasks}, broken, notes)


def record_tasks(root: Path, spaces: dict[str, Spaces]) -> None:
    """Keep what `check_tasks` found in the output directory, so that enumerating its runs starts no simulator."""
    known = recorded_spaces(root)
    if not spaces.items() <= known.items():
        with contextlib.suppress(OSError, InputError):  # a folder that cannot be written is reported by the runs
            fields = {task: found._asdict() for task, found in sorted((known | spaces).items())}
            write_whole(root / TASKS, (json.dumps(fields, indent=1) + "\n").encode(), checksum=False)


def spaces_of_task(root: Path, task: str) -> Spaces:
    """Return the spaces of a task: as `check_tasks` left them in the output directory, or else by making its environment.

    Raises:
        InputError: there is no such task.
    """
    from .. import envs

    return recorded_spaces(root).get(task) or envs.task_spaces(task)


def recorded_spaces(root: Path) -> dict[str, Spaces]:
    """Return the spaces of the tasks that an output directory has seen; empty if it has seen none."""
    try:
        fields = read_json(root / TASKS)
        found = {str(task): Spaces(**spaces) for task, spaces in fields.items()}
        if all(map(_possible, found.values())):
            return found
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return {}  # the file is no more than a memory: without it the environments are made


def _possible(spaces: Spaces) -> bool:
    """Return whether these can be the spaces of an environment, with sizes that arrays can have."""
    kinds = [type(value) for value in spaces] == [int, int, bool]
    return kinds and all(1 <= size <= 10_000_000 for size in spaces[:2])
