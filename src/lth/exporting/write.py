"""`lth.export`: write an agent or a run as checked programs to a folder."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..algorithms.base import Agent
from ..errors import InputError, nearest
from ..experiment.store import Run
from ..files import write_whole
from ..libraries.models import is_model
from ..precision import in_float32
from .build import Built, build
from .contract import Row, digest
from .folder import (
    POLICY,
    UNFINISHED,
    check_unchanged,
    files_of,
    format_of,
    formats_in,
    interrupted,
    is_same,
    joined,
    read_earlier,
    remove,
)
from .models import of_model
from .programs import PROGRAMS
from .subjects import Subject, of_agent, of_run
from .table import table


class Export(NamedTuple):
    """The result of `export`; prints as a table."""

    folder: Path
    files: list[Path]
    rows: list[Row]
    """The agent, then each program: name, bytes, multiply_adds, microseconds, deviation, returns."""
    not_needed: list[str]
    """The names of observations that do not affect the actions."""
    notes: list[str]
    contract: dict[str, Any]
    """The content of policy.json."""

    def __str__(self) -> str:
        return table(self.rows, self.contract, self.not_needed, self.notes)


@in_float32
def export(
    what: Any,
    out: str | Path | None = None,
    to: str | Sequence[str] = "all",
    quantize: str | None = None,
    episodes: int = 50,
    env: Callable[[], Any] | None = None,
) -> Export:
    """Write a policy as checked programs that map observations to actions, both in the environment's units.

    Each program is first run on 200 recorded observations, and must reproduce the agent's actions to 1e-5; otherwise nothing is
    written. docs/export.md describes the files. A folder holds one policy: other formats of that policy stay, and
    the export of another policy is replaced; `notes` says so.

    >>> print(lth.export("results/quickstart/Pendulum-v1/seed0/ticket-taylor-0.95-..."))  # doctest: +SKIP

    Args:
        what: a run's directory, the result of `lth.load`, or its agent; or an agent of Stable-Baselines3 or SBX.
        out: the output folder; None: `export` in the run's directory, or `export` in the working directory.
        to: "c", "onnx", "numpy", a sequence of these, or "all" formats whose tools are installed.
        quantize: "int8": 8-bit integer weights with one scale per unit in the C program. Its accuracy is measured.
        episodes: evaluation episodes for the agent and each program; 0: none.
        env: for agents of other libraries: creates the environment. None: the model's is created again, if it has a Gymnasium id.

    Returns:
        What was written: `folder`, `files`, `rows` (bytes, microseconds and return of each program), `not_needed`
        (observations that do not matter) and `contract`. It prints as a table.

    Raises:
        InputError: the run or format is unknown; a required compiler or package is missing; the environment of a model cannot be
            created again; `env` is given with a run; or a file in the way was changed or is not of an export. Nothing is written.
        ExportError: a program does not reproduce the agent's actions; nothing is written.
    """
    formats, skip = formats_of(to, quantize)
    if episodes < 0:
        raise InputError(f"episodes is {episodes}, but must be at least 0")
    subject, folder = _subject(what, env)
    return write(
        Path(out) if out is not None else folder, build(subject, formats, quantize is not None, episodes, skip)
    )


def formats_of(to: str | Sequence[str], quantize: str | None) -> tuple[tuple[str, ...], bool]:
    """Return the names of the requested formats, and whether formats with missing tools are skipped.

    Raises:
        InputError: a format is unknown, or quantize is set without the format c.
    """
    names = tuple(PROGRAMS) if to == "all" else (to,) if isinstance(to, str) else tuple(to)
    for name in names:
        if name not in PROGRAMS:
            raise InputError(
                f"unknown format {name!r}; choose from {', '.join(PROGRAMS)}, all{nearest(name, PROGRAMS)}"
            )
    if not names:
        raise InputError(f"no format given; choose from {', '.join(PROGRAMS)}, all")
    if quantize not in (None, "int8"):
        raise InputError(f"unknown quantize {quantize!r}; the only choice is 'int8'")
    if quantize and "c" not in names:
        raise InputError(f"quantize='int8' needs the format c, but to={to!r}")
    return names, to == "all"


def _subject(what: Any, env: Callable[[], Any] | None) -> tuple[Subject, Path]:
    if env is not None and not is_model(what):
        raise InputError(
            "env is for agents of other libraries; that of a run or an agent of lth is its task's. Leave env out"
        )
    if isinstance(what, str | Path):
        return of_run(Path(what)), Path(what) / "export"
    agent = what.agent if isinstance(what, Run) else what
    if isinstance(agent, Agent):
        return of_agent(agent), Path("export")
    if is_model(agent):
        return of_model(agent, env), Path("export")
    raise InputError(f"an object of type {type(what).__name__} cannot be exported; pass a run's directory or an agent")


def write(folder: Path, built: Built) -> Export:
    """Write checked programs, beside those of other formats that an earlier export of the same policy wrote.

    The files of an earlier export of another policy are removed. policy.json lists the files with their SHA-256. Until all are
    written it is marked as unfinished, so that an export that was interrupted can be repeated.

    Raises:
        InputError: the folder is not writable, or a file in the way was changed or is not of an export; nothing is written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file, but --out must be a folder")
    new = {name: digest(data) for name, data in built.files.items()}
    try:
        earlier = read_earlier(folder)
        old, same = files_of(earlier, folder), is_same(earlier, built.contract)
        replaced = {*formats_in(new), *interrupted(earlier, old, folder), ""}
        kept = {
            name: old[name] for name in old if same and format_of(name) not in replaced and (folder / name).exists()
        }
        gone = old.keys() - kept.keys()
        check_unchanged(folder, old, gone | new.keys(), new)
        if gone:
            _write_policy(folder, {**earlier, UNFINISHED: True})
        remove(folder, gone)
    except OSError as error:
        raise InputError(f"'{error.filename or folder}' cannot be written: {error.strerror or error}") from None
    about = joined(earlier, built.contract, formats_in(kept)) if kept else built.contract
    about = {**about, "files": dict(sorted((kept | new).items()))}
    _write_policy(folder, {**about, UNFINISHED: True})
    for name, data in built.files.items():
        write_whole(folder / name, data, checksum=False)
    _write_policy(folder, about)
    notes = list(built.notes)
    if kept:
        notes.append(f"kept from an earlier export of this policy: {', '.join(formats_in(kept))}")
    if earlier and not same:
        notes.append(f"replaced an earlier export, of another policy or with other names: {', '.join(formats_in(old))}")
    return Export(
        folder, [folder / POLICY, *(folder / name for name in sorted(new))], built.rows, built.unread, notes, about
    )


def _write_policy(folder: Path, about: dict[str, Any]) -> None:
    write_whole(folder / POLICY, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode(), checksum=False)
