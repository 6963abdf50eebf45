"""File formats. Writes are atomic, files have a SHA-256 checksum, and reading a file never runs code.

Checkpoints are safetensors. Masks and replay buffers, which other programs also read and write, are plain dicts of NumPy arrays
in .pkl files; `pickles.py` reads them without unpickling.
"""

import contextlib
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

from .errors import FIX_FOLDER, InputError, UnwritableError, brief
from .pickles import read_pickle

_METADATA_KEY = "lth"


def write_whole(path: Path, data: bytes, checksum: bool = True) -> None:
    """Write a file atomically, after its SHA-256 checksum (in `path` + `.sha256`, in the format of sha256sum).

    The checksum is written first, so that a process killed in between leaves no file without a checksum.

    Raises:
        UnwritableError: the folder is not writable, or the disk is full; no partial file is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if checksum:
            _replace(checksum_path(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())
        _replace(path, data)
    except OSError as error:
        raise UnwritableError(f"'{path}' cannot be written: {error.strerror or error}. {FIX_FOLDER}") from error


def write_note(path: Path, text: str) -> None:
    """Write a small text file without a checksum, unless its folder is not writable, which the runs in that folder report."""
    with contextlib.suppress(UnwritableError):
        write_whole(path, text.encode(), checksum=False)


def write_sealed(path: Path, data: bytes) -> None:
    """Write a file that ends with the SHA-256 of its content.

    Used for files that are overwritten repeatedly: a process killed between writing a file and its checksum would leave a mismatch.

    Raises:
        UnwritableError: see `write_whole`.
    """
    write_whole(path, data + hashlib.sha256(data).digest(), checksum=False)


def read_sealed(path: Path, what: str) -> bytes:
    """Read the content of a file of `write_sealed`.

    Raises:
        InputError: the file is missing, unreadable, altered or truncated.
    """
    data = read_whole(path, what)
    content, seal = data[:-32], data[-32:]
    if hashlib.sha256(content).digest() != seal:
        raise InputError(f"{what} '{path}' was altered or truncated: its SHA-256 does not match. Delete it.")
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
    """Return the path of a file's SHA-256 checksum."""
    return path.with_name(path.name + ".sha256")


def read_whole(path: Path, what: str, needs_checksum: bool = False) -> bytes:
    """Read a file and check its SHA-256, if it has a checksum file.

    Raises:
        InputError: the file is missing, unreadable, altered or truncated, or lacks a required checksum.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device could block
            raise InputError(
                f"{what} '{path}' is {'a directory' if path.is_dir() else 'a pipe or a device'}, not a file"
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no {what} at '{path}'") from error
    except OSError as error:
        raise InputError(f"{what} '{path}' cannot be read: {error.strerror or error}") from error
    try:
        if checksum_path(path).exists() and not checksum_path(path).is_file():
            raise ValueError("it is not a regular file")
        words = checksum_path(path).read_text().split()
    except FileNotFoundError:
        if needs_checksum:
            raise InputError(
                f"{what} '{path}' has no checksum file ({checksum_path(path).name}), so it may be incomplete. "
                "Copy both files, or create it again."
            ) from None
        return data
    except (OSError, ValueError) as error:
        raise InputError(f"the checksum '{checksum_path(path)}' cannot be read: {error}") from error
    if not words or words[0] != hashlib.sha256(data).hexdigest():
        on_purpose = f" (If you changed it deliberately, delete {checksum_path(path).name}.)"
        raise InputError(
            f"{what} '{path}' was altered or truncated: its {len(data)} bytes do not match the SHA-256 in "
            f"{checksum_path(path).name}. "
            "Copy it again, or delete its folder and run the same command to recreate it."
            + ("" if needs_checksum else on_purpose)
        )
    return data


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not valid JSON, or not a regular file.
        OSError: it cannot be read.
    """
    return parse_json(read_text(path))


_DEEPEST = 50
"""The maximum depth of JSON. lth's files have fewer than ten levels; deep nesting would overflow the stack of recursive code."""


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
    """Read a text file; undecodable bytes are replaced.

    Raises:
        ValueError: it is not a regular file; reading a pipe or a device could block.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_text(errors="replace")


def dump_pickle(tree: Mapping[str, Any]) -> bytes:
    """Return the pickle of nested dicts of NumPy arrays."""
    return pickle.dumps(tree)


def load_pickle(path: Path, what: str) -> dict[str, Any]:
    """Read a pickle of nested dicts (with str keys) of NumPy arrays; reject any other pickle.

    Raises:
        InputError: the file is missing, altered, truncated, not a pickle, or contains anything else.
    """
    data = read_whole(path, what)
    try:
        return read_pickle(data)
    except InputError as error:
        raise InputError(
            f"{what} '{path}' was rejected: {error}. Pickles can run arbitrary code, so only dicts of numeric NumPy arrays are "
            "read. Save the file again with numpy.asarray(...) of each array."
        ) from None
    except Exception as error:
        raise InputError(
            f"{what} '{path}' is not a readable pickle ({type(error).__name__}: {brief(error)}). It may be truncated."
        ) from None


def dump_tensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of named arrays with one JSON object as its metadata.

    The metadata is one string under one key, because safetensors writes several keys in random order. Every array is copied to
    C order, because safetensors silently writes non-contiguous arrays wrongly.
    """
    import safetensors.numpy  # here, since pruning works without

    plain = {name: np.array(array, order="C") for name, array in arrays.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    return safetensors.numpy.save(plain, {_METADATA_KEY: text})


def load_tensors(
    path: Path, what: str, needs_checksum: bool = True, sealed: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `dump_tensors` (with `sealed`, one written by `write_sealed`); returns the arrays and the metadata.

    Raises:
        InputError: the file is missing, altered, truncated, without its checksum, or in another format.
    """
    import safetensors.numpy

    data = read_sealed(path, what) if sealed else read_whole(path, what, needs_checksum)
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = parse_json(header["__metadata__"][_METADATA_KEY])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{what} '{path}' is not a checkpoint of lth ({type(error).__name__}: {brief(error)}). Check the path."
        ) from None
    if not isinstance(metadata, dict):
        raise InputError(f"{what} '{path}' is not a checkpoint of lth: its metadata is not a JSON object")
    return arrays, metadata


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as CSV. Floats keep all digits, so reading them back is exact."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)  # None is empty
    return text.getvalue().encode()


Row = TypeVar("Row", bound=tuple[Any, ...])


def read_rows(path: Path, what: str, row: type[Row], advice: str) -> list[Row]:
    """Read a CSV file as named tuples, whose annotations (str, int, float) give the types of the columns.

    Raises:
        InputError: it is missing or unreadable, or a column is missing. The message ends with `advice`.
    """
    try:
        if not path.is_file():
            raise ValueError("it does not exist")
        with path.open(newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            columns = [(header.index(name), kind) for name, kind in row.__annotations__.items()]
            return [row._make(kind(line[i]) for i, kind in columns) for line in lines if line]  # type: ignore[attr-defined]
    except (OSError, csv.Error, IndexError, ValueError) as error:
        raise InputError(f"{what} '{path}' cannot be read ({brief(error)}). {advice}") from None
