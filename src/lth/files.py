"""File formats: each file is written whole or not at all, has a SHA-256 beside it, and can run no code when read.

Checkpoints are safetensors. What other people's programs read and write (masks, replay buffers) are plain dicts of NumPy
arrays in .pkl; they are read here by an unpickler that admits nothing else.
"""

import hashlib
import io
import json
import math
import os
import pickle
import pickletools
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from .errors import InputError

_METADATA_KEY = "lth"

_LARGEST_MEMO = 1_000_000
_MOST_ARRAYS = 100_000


def write_whole(path: Path, data: bytes, checksum: bool = True) -> None:
    """Write a file beside its place and move it there, then its SHA-256 (in `path` + `.sha256`, as sha256sum reads it).

    Raises:
        InputError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
        if checksum:
            _replace(checksum_path(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}. Is the disk full, or the folder read-only?"
        ) from error


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
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no {what} at {path}") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    try:
        words = checksum_path(path).read_text().split()
    except FileNotFoundError:
        if needs_checksum:
            raise InputError(
                f"{what} {path} has no checksum beside it ({checksum_path(path).name}), so it may be incomplete. "
                "Copy both files, or make it again."
            ) from None
        return data
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the checksum {checksum_path(path)} cannot be read: {error}") from error
    if not words or words[0] != hashlib.sha256(data).hexdigest():
        raise InputError(
            f"{what} {path} was altered or cut short: its {len(data)} bytes do not have the SHA-256 recorded beside it. "
            f"Copy it again, or delete its folder and run the same command to make it anew. (If you changed it on "
            f"purpose, delete {checksum_path(path).name}.)"
        )
    return data


def dump_pickle(tree: Mapping[str, Any]) -> bytes:
    """Return the bytes that `pickle.dump(tree, file)` writes of nested dicts of NumPy arrays."""
    return pickle.dumps(tree)


class _Dtype:
    """Stands for numpy.dtype while a pickle is read."""

    __slots__ = ("_order", "_text")

    def __init__(self, text: str, align: bool = False, copy: bool = False):
        del align, copy
        self._text, self._order = text, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if not re.fullmatch("b1|[iu][1248]|f[248]", self._text) or self._order not in "<>=|":
            raise InputError(f"it holds an array of type {self._text!r}, which is no number's")
        return np.dtype(self._text).newbyteorder(self._order)  # type: ignore[arg-type]


class _Array:
    """Stands for an array while a pickle is read: NumPy's own reader trusts what it reads, and crashes on less."""

    __slots__ = ("_state",)
    _state: tuple[Any, ...]

    def __init__(self, *arguments: Any):
        del arguments  # numpy's _reconstruct: the class, a shape of 0, a type; __setstate__ says the real ones

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self._state = data, dtype, shape, "F" if fortran else "C"

    def array(self) -> np.ndarray:
        data, dtype, shape, order = self._state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
            raise InputError("it holds an array that is not made of numbers")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise InputError(f"it holds an array of shape {shape!r}")
        size = math.prod(shape)
        if len(data) != size * dtype.dtype().itemsize:
            raise InputError(f"it holds an array of shape {shape} in {len(data)} bytes")
        flat = np.frombuffer(data, dtype.dtype(), size)
        array = flat.reshape(shape, order="F" if order == "F" else "C")
        return np.array(array.astype(array.dtype.newbyteorder("="), copy=False), order="C")


class _Buffer(_Array):
    """Stands for an array in protocol 5, and for a single number (numpy's scalar) of any protocol."""

    __slots__ = ()

    def __init__(self, *arguments: Any):
        if len(arguments) == 2:
            dtype, data = arguments
            self._state = data, dtype, (), "C"
        else:
            self._state = arguments


class _Bytes:
    """Stands for _codecs.encode and for bytes(), which protocols before 3 write bytes with."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> Any:
        if encoding != "latin1":
            raise InputError(f"it holds bytes as {encoding!r}")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise InputError("it changes what it is read by")


# All that a pickled dict of NumPy arrays asks for, by the names of NumPy 1 and 2 and of pickle protocols 2 to 5.
_ADMITTED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
    ("__builtin__", "bytes"): _Bytes,
    ("builtins", "bytes"): _Bytes,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Buffer),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
}
_REFUSED = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise InputError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]


def load_pickle(path: Path, what: str) -> dict[str, Any]:
    """Read a pickle of nested dicts (with str keys) of NumPy arrays, and nothing else.

    Raises:
        InputError: the file is missing, altered, cut short, no pickle, or holds or would run anything else.
    """
    data = read_whole(path, what)
    try:
        _check_opcodes(data)
        tree = _Unpickler(io.BytesIO(data)).load()
        if not isinstance(tree, dict):
            raise InputError(f"it holds a {type(tree).__name__}")
        return _plain(tree, "", [0])
    except InputError as error:
        raise InputError(
            f"{what} {path} is refused: {error}, and only dicts of NumPy arrays of numbers are read, because a pickle can "
            "run any program. Whoever made the file can save it as numpy.asarray(...) of each array."
        ) from None
    except Exception as error:
        raise InputError(
            f"{what} {path} is no readable pickle ({type(error).__name__}: {error}). Was it cut short?"
        ) from None


def _check_opcodes(data: bytes) -> None:
    # pickletools reads a pickle without running it; a huge memo index would have the C unpickler fill the memory.
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _REFUSED:
            raise InputError(f"it uses the pickle instruction {opcode.name}")
        if "PUT" in opcode.name and isinstance(argument, int) and argument > _LARGEST_MEMO:
            raise InputError("its memo index is out of all proportion")


def _plain(tree: dict[Any, Any], where: str, seen: list[int]) -> dict[str, Any]:
    """Turn the stand-ins into arrays; `seen` counts them, so that dicts within dicts cannot multiply without end."""
    plain: dict[str, Any] = {}
    for key, value in tree.items():
        seen[0] += 1
        if seen[0] > _MOST_ARRAYS:
            raise InputError(f"it holds more than {_MOST_ARRAYS} entries")
        if not isinstance(key, str):
            raise InputError(f"its key {key!r} {where}is no text")
        if isinstance(value, dict):
            plain[key] = _plain(value, f"in {key!r} ", seen)
        elif isinstance(value, _Array):
            plain[key] = value.array()
        else:
            raise InputError(f"its entry {key!r} {where}is a {type(value).__name__}")
    return plain


def dump_tensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of named arrays with one JSON object as its metadata.

    The metadata is one string under one key, because several keys would be written in random order; and every array is
    copied to C order, because safetensors writes non-contiguous ones wrongly without a word.
    """
    plain = {name: np.array(array, order="C") for name, array in arrays.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    return safetensors.numpy.save(plain, {_METADATA_KEY: text})


def load_tensors(path: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `dump_tensors`; returns the arrays and the metadata.

    Raises:
        InputError: the file is missing, altered, cut short, without its checksum, or not of this format.
    """
    data = read_whole(path, what, needs_checksum=True)
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = json.loads(header["__metadata__"][_METADATA_KEY])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{what} {path} is no checkpoint of lth ({type(error).__name__}: {error}). Is it another program's file?"
        ) from None
    if not isinstance(metadata, dict):
        raise InputError(f"{what} {path} is no checkpoint of lth: its metadata is no JSON object")
    return arrays, metadata
