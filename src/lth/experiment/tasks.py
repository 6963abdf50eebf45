"""Check the tasks of an experiment before training, and record their spaces in the output directory."""

import json
from pathlib import Path
from typing import NamedTuple

from ..algorithms.architecture import Spaces
from ..config import Config
from ..envs.probe import probe
from ..errors import InputError
from ..files import read_json, write_note

TASKS = "tasks.json"


PLACEHOLDER = Spaces(1, 1)
"""The placeholder spaces of a broken task, so that its runs can be enumerated and reported as failed."""


class Checked(NamedTuple):
    """The result of checking the tasks of a config."""

    spaces: dict[str, Spaces]
    broken: dict[str, str]
    """Tasks that cannot be used, with the reason."""
    notes: list[str]
    """Warnings, shown before training starts."""


def check_tasks(config: Config) -> Checked:
    """Check each task that the output directory does not record, in a separate process.

    Raises:
        InputError: a task is unknown, or the algorithm does not support its actions.
    """
    tasks = dict.fromkeys((*config.tasks, *config.pruning.transfer_from))
    found = {task: spaces for task, spaces in recorded_spaces(config.output_dir).items() if task in tasks}
    broken: dict[str, str] = {}
    notes: list[str] = []
    for task, probed in probe(task for task in tasks if task not in found).items():
        if probed.unknown:
            raise InputError(probed.fault)
        if probed.spaces is None:
            broken[task] = f"the task {task!r} cannot be used: {probed.fault}"
            continue
        found[task] = probed.spaces
        training, steps = config.training, probed.episode_steps
        if steps is not None and training.segment_steps // training.num_envs < steps < training.env_steps:
            notes.append(
                f"an episode of {task} has {steps} steps, but with training.segment_steps={training.segment_steps} and "
                f"{training.num_envs} environments all episodes are cut off after {training.segment_steps // training.num_envs} "
                f"steps, so none finishes in training. Set training.segment_steps to {steps * training.num_envs} or more."
            )
    for task, spaces in found.items():
        config.agent_config.check_actions(spaces, task)
    return Checked({task: found.get(task, PLACEHOLDER) for task in tasks}, broken, notes)


def record_tasks(root: Path, spaces: dict[str, Spaces]) -> None:
    """Record the result of `check_tasks` in the output directory, so that enumerating its runs starts no simulator."""
    known = recorded_spaces(root)
    if not spaces.items() <= known.items():
        fields = {task: found._asdict() for task, found in sorted((known | spaces).items())}
        write_note(root / TASKS, json.dumps(fields, indent=1) + "\n")


def spaces_of_task(root: Path, task: str) -> Spaces:
    """Return the spaces of a task, recorded in the output directory or else from its environment.

    Raises:
        InputError: the task is unknown.
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
    return {}  # the file is only a cache: without it, environments are created


def _possible(spaces: Spaces) -> bool:
    """Return whether these are valid spaces with plausible sizes."""
    kinds = [type(value) for value in spaces] == [int, int, bool]
    return kinds and all(1 <= size <= 10_000_000 for size in spaces[:2])
