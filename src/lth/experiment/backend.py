"""Choose the backend of a grid: `training.backend=auto` is resolved once per output directory, and recorded there."""

import json
import os
import warnings
from typing import NamedTuple

from ..config import Config
from ..errors import InputError
from ..files import read_json, write_note
from .spec import DenseSpec

BACKEND = "backend.json"
BATCH = "batch.json"
"""The size that each asked size of batches was given in this folder."""
MEMORY_SHARE = 0.8
"""The share of the device's memory that a batch may take."""


class Backend(NamedTuple):
    """Whether the native kernel is available, and a short reason."""

    native: bool
    reason: str


def resolve_backend(config: Config) -> tuple[Config, str]:
    """Replace `training.backend=auto` by `native`, or by `dense` if the native kernel is not available; also returns a message.

    The first choice is recorded in the output directory, because the backend is part of a run's identity: a grid must not change
    when a compiler is installed or removed.

    Raises:
        InputError: `training.backend=native`, but the native kernel is not available.
    """
    wanted = config.training.backend
    if config.batch_size:
        return config, f"Runs train on XLA, {config.batch_size} at a time in one program."
    if wanted == "dense":
        return config, "Runs train on XLA with masked weights (training.backend=dense)."
    found = _recorded(config) if wanted == "auto" else None
    if found is None:
        found = _probe()
        if wanted == "native" and not found.native:
            raise InputError(
                f"training.backend=native, but the native kernel is not available: {found.reason}. Set training.backend=auto or "
                "dense to train on XLA, with the same results up to rounding."
            )
        if wanted == "auto":
            write_note(config.output_dir / BACKEND, json.dumps(found._asdict()) + "\n")
    if not found.native:
        line = f"Runs train on XLA with masked weights: the native kernel is not available, because {found.reason}."
        return _with_backend(config, "dense"), line
    return _with_backend(config, "native"), f"Runs train on the native kernel ({found.reason})."


def recorded(config: Config) -> Config:
    """Return a config with the backend recorded in its output directory, if any; builds and writes nothing."""
    if config.batch_size:
        return _with_places(config, _recorded_places(config).get(str(config.batch_size)))
    found = _recorded(config) if config.training.backend == "auto" else None
    return config if found is None else _with_backend(config, "native" if found.native else "dense")


def resolve_batch(config: Config, bytes_each: int) -> Config:
    """Halve the size of batches until `bytes_each` for each run fit into the memory of the device.

    The output directory's recorded size wins, because the size is part of a run's identity.
    """
    places = config.batch_size
    if places is None:
        return config
    known = _recorded_places(config).get(str(places))
    if known:
        return _with_places(config, known)
    have = MEMORY_SHARE * device_memory()
    while places > 1 and places * bytes_each > have:
        places = -(-places // 2)
    return _with_places(config, places)


def record_batch(asked: Config, resolved: Config) -> None:
    """Record the size of batches in the output directory."""
    if asked.batch_size is None:
        return
    known = _recorded_places(asked) | {str(asked.batch_size): resolved.batch_size}
    write_note(asked.output_dir / BATCH, json.dumps(known) + "\n")


def _recorded_places(config: Config) -> dict[str, int]:
    try:
        found = read_json(config.output_dir / BATCH)
        if all(type(places) is int and places > 0 for places in found.values()):
            return dict(found)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        pass
    raise InputError(
        f"'{config.output_dir / BATCH}', which records the size of batches in this folder, cannot be read; delete it to have the "
        "size chosen again"
    )


def _with_places(config: Config, places: int | None) -> Config:
    return config if places in (None, config.batch_size) else config.model_copy(update={"batch": places})


def device_memory() -> int:
    """Return the bytes of memory of the device that JAX computes on; for a CPU, of the machine."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


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
            f"'{file}', which records the backend of this folder, cannot be read ({error}); delete it to detect the backend again, "
            "or set training.backend"
        ) from None


def _probe() -> Backend:
    from ..sparse import native

    try:
        native.load()
    except native.Unavailable as error:
        return Backend(False, str(error))
    return Backend(True, f"{native.instruction_set()}, float32")


def use_kernel(spec: DenseSpec, threads: int = 1) -> bool:
    """Return whether the native kernel trains a dense run and its tickets on this machine; if so, set its number of threads."""
    from ..sparse import native

    if spec.training.backend != "native":
        return False
    found = _probe()
    if found.native:
        native.set_threads(threads)
        return True
    warnings.warn(
        f"{spec.title()}: the native kernel is not available on this machine ({found.reason}), so XLA trains this run and its "
        "tickets: same results up to rounding, slower, not bit-identical",
        stacklevel=2,
    )
    return False
