"""File formats: each file is written whole or not at all, has a SHA-256 beside it, and can run no code when read.

Checkpoints are safetensors. What other people's programs read and write (masks, replay buffers) are plain dicts of NumPy
arrays in .pkl; `pickles.py` reads them without unpickling anything.
"""

import csv
import hashlib
import io
import json
import os
import pickle
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import InputError, UnwritableError, brief
from .pickles import read_pickle

_METADATA_KEY = "lth"


def write_whole(path: Path, data: bytes, checksum: bool = True) -> None:
    """Write a file beside its place and move it there, after its SHA-256 (in `path` + `.sha256`, as sha256sum reads it).

    The checksum goes first, so that a process that is killed in between leaves no file that looks cut short.

    Raises:
        UnwritableError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if checksum:
            _replace(checksum_path(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())
        _replace(path, data)
    except OSError as error:
        raise UnwritableError(
            f"{path} cannot be written: {error.strerror or error}. Is the disk full, or the folder read-only?"
        ) from error


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file that ends in the SHA-256 of what comes before: of one that is written again and again, since between two files
    a process can be killed.

    Raises:
        UnwritableError: as `write_whole`.
    """
    write_whole(path, data + hashlib.sha256(data).digest(), checksum=False)


def read_sealed(path: Path, what: str) -> bytes:
    """Read a file of `write_sealed`, without its end.

    Raises:
        InputError: the file is missing or unreadable, or was altered or cut short.
    """
    data = read_whole(path, what)
    content, seal = data[:-32], data[-32:]
    if hashlib.sha256(content).digest() != seal:
        raise InputError(f"{what} {path} was altered or cut short: it does not end in its own SHA-256. Delete it.")
    return content


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def checksum_path(path: Path) -> Path:
    """Return where the SHA-256 of a file lies."""
    return path.with_name(path.name + ".sha256")


def read_whole(path: Path, what: str, needs_checksum: bool = False) -> bytes:
    """Read a file and compare it with the SHA-256 beside it, if there is one.

    Raises:
        InputError: the file is missing or unreadable, was altered or cut short, or has no checksum and needs one.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would be waited for
            raise InputError(f"{what} {path} is {'a directory' if path.is_dir() else 'a pipe or a device'}, not a file")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no {what} at {path}") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    try:
        if checksum_path(path).exists() and not checksum_path(path).is_file():
            raise ValueError("it is no file")
        words = checksum_path(path).read_text().split()
    except FileNotFoundError:
        if needs_checksum:
            raise InputError(
                f"{what} {path} has no checksum beside it ({checksum_path(path).name}), so it may be incomplete. "
                "Copy both files, or make it again."
            ) from None
        return data
    except (OSError, ValueError) as error:
        raise InputError(f"the checksum {checksum_path(path)} cannot be read: {error}") from error
    if not words or words[0] != hashlib.sha256(data).hexdigest():
        on_purpose = f" (If you changed it on purpose, delete {checksum_path(path).name}.)"
        raise InputError(
            f"{what} {path} was altered or cut short: its {len(data)} bytes do not have the SHA-256 that "
            f"{checksum_path(path).name} recorded. "
            "Copy it again, or delete its folder and run the same command to make it anew."
            + ("" if needs_checksum else on_purpose)
        )
    return data


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is none, or no file.
        OSError: it cannot be read.
    """
    return parse_json(read_text(path))


_DEEPEST = 50
"""Levels of JSON that are read. Nothing of lth has ten, and far more would exhaust the stack of whatever walks them later."""


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not valid JSON, or is nested too deeply.
    """
    too_deep = ValueError("it is nested too deeply")
    try:
        value = json.loads(text)
    except RecursionError:
        raise too_deep from None
    level = [value]
    for _ in range(_DEEPEST):
        inner = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        level = [child for children in inner for child in children]
    if level:
        raise too_deep
    return value


def read_text(path: Path) -> str:
    """Read a text file, whatever bytes are in it.

    Raises:
        ValueError: it is no file: a pipe or a device would be waited for.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    return path.read_text(errors="replace")


def dump_pickle(tree: Mapping[str, Any]) -> bytes:
    """Return the bytes that `pickle.dump(tree, file)` writes of nested dicts of NumPy arrays."""
    return pickle.dumps(tree)


def load_pickle(path: Path, what: str) -> dict[str, Any]:
    """Read a pickle of nested dicts (with str keys) of NumPy arrays, and nothing else.

    Raises:
        InputError: the file is missing, altered, cut short, no pickle, or holds or would run anything else.
    """
    data = read_whole(path, what)
    try:
        return read_pickle(data)
    except InputError as error:
        raise InputError(
            f"{what} {path} is refused: {error}, and only dicts of NumPy arrays of numbers are read, because a pickle can "
            "run any program. Whoever made the file can save it as numpy.asarray(...) of each array."
        ) from None
    except Exception as error:
        raise InputError(
            f"{what} {path} is no readable pickle ({type(error).__name__}: {brief(error)}). Was it cut short?"
        ) from None


def dump_tensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of named arrays with one JSON object as its metadata.

    The metadata is one string under one key, because several keys would be written in random order; and every array is
    copied to C order, because safetensors writes non-contiguous ones wrongly without a word.
    """
    import safetensors.numpy  # here, since pruning works without

    plain = {name: np.array(array, order="C") for name, array in arrays.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    return safetensors.numpy.save(plain, {_METADATA_KEY: text})


def load_tensors(
    path: Path, what: str, needs_checksum: bool = True, sealed: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `dump_tensors`, or with `sealed` one that `write_sealed` wrote; returns the arrays and the metadata.

    Raises:
        InputError: the file is missing, altered, cut short, without its checksum, or not of this format.
    """
    import safetensors.numpy

    data = read_sealed(path, what) if sealed else read_whole(path, what, needs_checksum)
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = parse_json(header["__metadata__"][_METADATA_KEY])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} {path} is no checkpoint of lth ({type(error).__name__}: {brief(error)}). Is it another program's file?"
        ) from None
    if not isinstance(metadata, dict):
        raise InputError(f"{what} {path} is no checkpoint of lth: its metadata is no JSON object")
    return arrays, metadata


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Lay rows out as CSV; floats keep all their digits, so they can be read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)  # None is empty
    return text.getvalue().encode()


Row = TypeVar("Row", bound=tuple[Any, ...])


def read_rows(path: Path, what: str, row: type[Row], advice: str) -> list[Row]:
    """Read a CSV file as named tuples, whose annotations (str, int, float) say what the columns of these names hold.

    Raises:
        InputError: it is missing or unreadable, or a column is missing; ends with `advice`.
    """
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        with path.open(newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            columns = [(header.index(name), kind) for name, kind in row.__annotations__.items()]
            return [row._make(kind(line[i]) for i, kind in columns) for line in lines if line]  # type: ignore[attr-defined]
    except (OSError, csv.Error, IndexError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read ({brief(error)}). {advice}") from None
