"""How the runs of a grid are computed: `training.backend=auto` is resolved once for an output directory, and kept there."""

import contextlib
import json
import warnings
from typing import NamedTuple

from ..config import Config
from ..errors import InputError
from ..files import read_json, write_whole
from .spec import DenseSpec

BACKEND = "backend.json"


class Backend(NamedTuple):
    """Whether the native kernel can be used, and why (not), in a few words."""

    native: bool
    reason: str


def resolve_backend(config: Config) -> tuple[Config, str]:
    """Replace `training.backend=auto` by `native`, or by `dense` where there is no native kernel; also returns a line that says so.

    What was found first is kept in the output directory, because the backend is part of a run's identity: a grid stays one
    grid when a compiler comes or goes.

    Raises:
        InputError: `training.backend=native`, and there is no native kernel.
    """
    wanted = config.training.backend
    if wanted == "dense":
        return config, "Runs train on XLA, tickets under masks (training.backend=dense)."
    found = _recorded(config) if wanted == "auto" else None
    if found is None:
        found = _probe()
        if wanted == "native" and not found.native:
            raise InputError(
                f"training.backend=native, but there is no native kernel: {found.reason}. With training.backend=auto or dense "
                "runs train on XLA, with the same results up to rounding."
            )
        if wanted == "auto":
            with contextlib.suppress(OSError, InputError):  # a folder that cannot be written is said by the runs
                config.output_dir.mkdir(parents=True, exist_ok=True)
                write_whole(config.output_dir / BACKEND, json.dumps(found._asdict()).encode() + b"\n", checksum=False)
    if not found.native:
        line = f"Runs train on XLA, tickets under masks: there is no native kernel, because {found.reason}."
        return _with_backend(config, "dense"), line
    return _with_backend(config, "native"), f"Runs train on the native kernel ({found.reason})."


def recorded(config: Config) -> Config:
    """Return a config with the backend that its output directory has settled on, if it has; builds and writes nothing."""
    found = _recorded(config) if config.training.backend == "auto" else None
    return config if found is None else _with_backend(config, "native" if found.native else "dense")


def _with_backend(config: Config, backend: str) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"backend": backend})})


def _recorded(config: Config) -> Backend | None:
    file = config.output_dir / BACKEND
    try:
        return Backend(**read_json(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}). It says how this folder's tickets are computed; remove it to have that found out "
            "again, or set training.backend"
        ) from None


def _probe() -> Backend:
    from ..sparse import native

    try:
        native.load()
    except native.Unavailable as error:
        return Backend(False, str(error))
    return Backend(True, f"{native.instruction_set()}, float32")


def use_kernel(spec: DenseSpec, threads: int = 1) -> bool:
    """Return whether the native kernel computes a dense run and its tickets, here; it then uses so many threads."""
    from ..sparse import native

    if spec.training.backend == "dense":
        return False
    found = _probe()
    if found.native:
        native.set_threads(threads)
        return True
    warnings.warn(
        f"{spec.title()}: this machine has no native kernel ({found.reason}), so XLA trains this run and its tickets: same results "
        "up to rounding, slower, not bit-identical",
        stacklevel=2,
    )
    return False
