"""How the tickets of a grid are computed: `training.backend=auto` is resolved once for an output directory, and kept there."""

import contextlib
import json
import warnings
from typing import TYPE_CHECKING, NamedTuple

from ..config import Config
from ..errors import InputError
from ..files import read_json, write_whole
from .build import BREAK_EVEN
from .spec import TicketSpec

if TYPE_CHECKING:
    from ..algorithms.base import AgentState
    from ..algorithms.packed import Patterns

BACKEND = "backend.json"


class Backend(NamedTuple):
    """Whether the native kernel can be used, and why (not), in a few words."""

    native: bool
    reason: str


def resolve_backend(config: Config) -> tuple[Config, str]:
    """Replace `training.backend=auto` by `dense` where there is no native kernel; also returns a line that says so.

    What was found first is kept in the output directory, because the backend is part of a ticket's identity: a grid stays one
    grid when a compiler comes or goes.

    Raises:
        InputError: `training.backend=native`, and there is no native kernel.
    """
    wanted = config.training.backend
    if wanted == "dense":
        return config, "Tickets are computed densely, under masks (training.backend=dense)."
    found = _recorded(config) if wanted == "auto" else None
    if found is None:
        found = _probe()
        if wanted == "native" and not found.native:
            raise InputError(
                f"training.backend=native, but there is no native kernel: {found.reason}. With training.backend=auto or dense "
                "tickets are computed densely, to the same results but for rounding."
            )
        if wanted == "auto":
            with contextlib.suppress(OSError, InputError):  # a folder that cannot be written is said by the runs
                config.output_dir.mkdir(parents=True, exist_ok=True)
                write_whole(config.output_dir / BACKEND, json.dumps(found._asdict()).encode() + b"\n", checksum=False)
    if not found.native:
        line = f"Tickets are computed densely, under masks: there is no native kernel, because {found.reason}."
        return _with_backend(config, "dense"), line
    normed = [name for name, network in config.agent_config.networks().items() if network.layer_norm]
    if normed:
        name = f"{config.algorithm}.{normed[0]}_layer_norm"
        return (
            config,
            f"Tickets are computed densely, under masks: the native kernel has no layer normalization ({name}).",
        )
    where = f" from {BREAK_EVEN:.0%} sparsity on" if wanted == "auto" else ""
    return config, f"Tickets are computed by the native kernel{where} ({found.reason})."


def recorded(config: Config) -> Config:
    """Return a config with the backend that its output directory has settled on, if it has; builds and writes nothing."""
    found = _recorded(config) if config.training.backend == "auto" else None
    return config if found is None or found.native else _with_backend(config, "dense")


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


def patterns(spec: TicketSpec, state: "AgentState") -> "Patterns | None":
    """Return what the native kernel needs for a ticket that it computes, or None where it is computed densely."""
    from ..algorithms.packed import patterns_of

    if spec.backend == "dense":
        return None
    found = _probe()
    if found.native:
        return patterns_of(state)
    warnings.warn(
        f"{spec.title()}: there is no native kernel on this machine ({found.reason}), so this ticket is computed densely: the same "
        "mathematics, more slowly, and other last bits",
        stacklevel=2,
    )
    return None
