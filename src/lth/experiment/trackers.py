"""Log metrics to TensorBoard, Weights & Biases and trackio, in addition to metrics.csv. Does not affect results.

Steps are environment steps, and metrics have the names of the tidy table. A resumed run logs its last steps again, with the same
values, because a run is a pure function of its spec.
"""

import contextlib
import importlib
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..errors import InputError
from . import records
from .spec import DenseSpec, TicketSpec
from .tidy import condition_of

Log = Callable[[int, dict[str, float]], None]
"""Called with the environment step and metrics by name."""


class Tracker(NamedTuple):
    """The open log of one run."""

    log: Log
    finish: Callable[[bool], object]
    """Flush and close the log. The argument is True if training failed."""


def _tensorboard(package: Any, root: Path, spec: DenseSpec | TicketSpec) -> Tracker:
    writer = package.SummaryWriter(str(root / spec.path / records.EVENTS))

    def log(env_steps: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, env_steps)
        writer.flush()

    return Tracker(log, lambda failed: writer.close())


def _wandb(package: Any, root: Path, spec: DenseSpec | TicketSpec) -> Tracker:
    run = package.init(
        **_described(root, spec, "WANDB_PROJECT"),
        id=spec.sha256[:16],
        dir=os.environ.get("WANDB_DIR", root),
        reinit="create_new",
        # W&B must not print between progress bars, nor capture the output that other runs of this process share.
        settings=package.Settings(silent=True, console="off"),
    )
    return Tracker(lambda env_steps, metrics: run.log(metrics, step=env_steps), lambda failed: run.finish(int(failed)))


def _trackio(package: Any, root: Path, spec: DenseSpec | TicketSpec) -> Tracker:
    run = package.init(**_described(root, spec, "TRACKIO_PROJECT"), embed=False)
    return Tracker(lambda env_steps, metrics: run.log(metrics, step=env_steps), lambda failed: run.finish())


def _described(root: Path, spec: DenseSpec | TicketSpec, project: str) -> dict[str, Any]:
    """Return the arguments that `init` of W&B and trackio share. The name ends in the spec's hash; trackio resumes by name."""
    columns = zip(("method", "control", "sparsity", "rewind"), condition_of(spec), strict=True)
    return {
        "project": os.environ.get(project) or re.sub(r"[^\w.-]+", "-", root.absolute().name)[-100:],
        "name": str(spec.path),
        "group": spec.task,
        "config": {"task": spec.task, "seed": spec.seed, **dict(columns), "spec": spec.model_dump(mode="json")},
        "resume": "allow",
    }


TRACKERS: dict[str, tuple[str, Callable[[Any, Path, DenseSpec | TicketSpec], Tracker]]] = {
    "tensorboard": ("tensorboardX", _tensorboard),
    "wandb": ("wandb", _wandb),
    "trackio": ("trackio", _trackio),
}
"""The package and the function that opens a log, by the key in the config, which is also the name of the extra."""


def trackers_of(config: Config) -> tuple[str, ...]:
    """Return the keys of `TRACKERS` that a config enables.

    Raises:
        InputError: a package is not installed.
    """
    chosen = tuple(name for name in TRACKERS if getattr(config, name))
    for name in chosen:
        package = TRACKERS[name][0]
        try:
            installed = importlib.util.find_spec(package) is not None
        except ValueError:  # sys.modules has None in its place
            installed = False
        if not installed:
            raise InputError(f"{name}=true needs the package {package}: pip install 'lth[{name}]'")
    return chosen


def _opened(name: str, root: Path, spec: DenseSpec | TicketSpec) -> Tracker:
    package, tracker_of = TRACKERS[name]
    return tracker_of(importlib.import_module(package), root, spec)


@contextlib.contextmanager
def logged(names: Sequence[str], root: Path, spec: DenseSpec | TicketSpec) -> Iterator[Log]:
    """Open the logs of a run and close them at the end. If a log fails, training continues without it.

    Args:
        names: keys of `TRACKERS`.
        root: the output directory.
        spec: the run.

    Warns:
        UserWarning: a log failed; once per log.
    """
    running: dict[str, Tracker] = {}

    def or_warn(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:  # whatever the package, its server or the network raises
            running.pop(name, None)
            warnings.warn(
                f"{name} failed, so {spec.title()} is no longer logged there: {type(error).__name__}: {error}. Training "
                "continues; metrics.csv contains every metric.",
                stacklevel=2,
            )

    for name in names:
        if tracker := or_warn(name, _opened, name, root, spec):
            running[name] = tracker

    def log(env_steps: int, metrics: dict[str, float]) -> None:
        for name, tracker in list(running.items()):
            or_warn(name, tracker.log, env_steps, metrics)

    failed = True
    try:
        yield log
        failed = False
    finally:
        for name, tracker in list(running.items()):
            or_warn(name, tracker.finish, failed)
