"""Read a pickle of dicts of NumPy arrays without unpickling it.

A pickle is a program. `pickle.Unpickler` runs it, and even an unpickler restricted to NumPy can be made to crash or to exhaust
memory. Dicts of arrays need two dozen instructions. This module executes them on plain values and rejects all others.
"""

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import InputError

_MOST_ENTRIES = 100_000
_DEEPEST = 100
"""The maximum depth of dicts; JAX fails on depths of a few thousand."""
_MOST_STEPS = 200_000
"""The maximum number of pickle operations. An array takes about twenty, so this allows ten thousand arrays in about a second."""
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Dtype:
    """The dtype of an array in a pickle."""

    def __init__(self, arguments: tuple[Any, ...]):
        self._text, self._order = arguments[0], "="

    def build(self, state: Any) -> None:
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        known = isinstance(self._text, str) and re.fullmatch("b1|[iu][1248]|f[248]", self._text)
        if not known or self._order not in ("<", ">", "=", "|"):
            raise InputError(f"it contains an array of the non-numeric type {_short(self._text)}")
        found: np.dtype[Any] = np.dtype(self._text).newbyteorder(self._order)
        return found


class _Array:
    """An array in a pickle: its bytes, dtype, shape and order, from any pickle protocol."""

    def __init__(self, *parts: Any):
        self._parts = parts
        self._array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(fortran, int) or fortran not in (0, 1):  # NumPy takes 1 for True
            raise InputError("it contains an array in neither C nor Fortran order")
        self._parts = data, dtype, shape, "F" if fortran else "C"

    def array(self, budget: "_Budget") -> np.ndarray:
        if self._array is None:
            self._array = self._make(budget, *self._parts)
        return self._array

    @staticmethod
    def _make(
        budget: "_Budget", data: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C"
    ) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
            raise InputError("it contains an array that does not hold numbers")
        fine = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and 0 <= n < 2**48 for n in shape)
        kind = dtype.dtype()
        if not fine or math.prod(shape) * kind.itemsize != len(data):
            raise InputError(f"it contains an array of shape {_short(shape)} in {len(data)} bytes of {kind.name}")
        if kind.kind == "b" and max(data, default=0) > 1:
            raise InputError("it contains a boolean array with values other than 0 and 1")
        budget.spend(len(data))
        flat = np.frombuffer(data, kind)
        return np.array(flat.reshape(shape, order=order), kind.newbyteorder("="), order="C")


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError("it contains bytes in an unsupported encoding")
    return text.encode("latin1")


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise InputError("it calls bytes with arguments")
    return b""


# Everything that a pickled dict of NumPy arrays calls, for NumPy 1 and 2 and pickle protocols 0 to 5.
_ADMITTED: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "numpy.ndarray": lambda arguments: _Array(),
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    **{
        f"numpy.{core}.{name}": make
        for core in ("core", "_core")
        for name, make in {
            "multiarray._reconstruct": lambda arguments: _Array(),  # BUILD sets the real shape and dtype
            "multiarray.scalar": lambda arguments: _Array(arguments[1], arguments[0], ()),
            "numeric._frombuffer": lambda arguments: _Array(*arguments),
        }.items()
    },
}


def read_pickle(data: bytes) -> dict[str, Any]:
    """Return the nested dicts of arrays in a pickle. NumPy scalars become arrays of shape ().

    Raises:
        InputError: the pickle contains or calls anything else. The message completes a sentence about the file.
        Exception: the data is not a pickle, or is truncated.
    """
    tree = _carry_out(data)
    if not isinstance(tree, dict):
        raise InputError(f"it contains a {type(tree).__name__.strip('_')} instead of a dict")
    return _arrays(tree, "", 1, _Budget(_MOST_ENTRIES, len(data) + _MOST_ENTRIES))


def _carry_out(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def pop(count: int) -> tuple[Any, ...]:
        if len(stack) < count:
            raise ValueError("its stack is empty")
        items = tuple(stack[len(stack) - count :])
        del stack[len(stack) - count :]
        return items

    def put(items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise InputError(f"its key {_short(key)} is not a string")
            stack[-1][key] = value

    for steps, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if steps >= _MOST_STEPS:
            raise InputError(f"it has more than {_MOST_STEPS:,} operations")
        if name == "PROTO" and argument not in range(6):
            raise ValueError(f"its protocol is {argument}")
        if name in ("PROTO", "FRAME"):
            continue
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(pop(int(name[-1])))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "DICT":
            items = since_mark()
            stack.append({})
            put(items)
        elif name == "EMPTY_LIST":
            stack.append([])  # rejected later, with a message that names the type
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "APPEND":
            stack[-1].extend(pop(1))
        elif name == "APPENDS":
            items = since_mark()
            stack[-1].extend(items)
        elif name == "SETITEM":
            put(list(pop(2)))
        elif name == "SETITEMS":
            put(since_mark())
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, function = str(argument).split(" ", 1) if name == "GLOBAL" else pop(2)
            if not isinstance(module, str) or not isinstance(function, str):  # not printed: nested tuples may be huge
                raise InputError("it calls a function whose name is not a string")
            if f"{module}.{function}" not in _ADMITTED:
                raise InputError(f"it calls {_short(f'{module}.{function}', quote=False)}")
            stack.append(_ADMITTED[f"{module}.{function}"])
        elif name == "REDUCE":
            function, arguments = pop(2)
            if not callable(function) or not isinstance(arguments, tuple):
                raise InputError("it calls something that is not an allowed function")
            stack.append(function(arguments))
        elif name == "BUILD":
            (state,) = pop(1)
            if not isinstance(stack[-1], _Dtype | _Array):
                raise InputError("it modifies something that is not an array")
            stack[-1].build(state)
        elif name == "STOP":
            return pop(1)[0]
        else:
            raise InputError(f"it uses the pickle instruction {name}")
    raise ValueError("it has no end")


def _short(value: Any, quote: bool = True) -> str:
    """Format a value for a message; large values are abbreviated."""
    if isinstance(value, str):
        return f"{value[:60]!r}" if quote else value[:120]

    def small(value: Any) -> bool:
        return (isinstance(value, int) and abs(value) < 10**18) or (isinstance(value, str | bytes) and len(value) < 60)

    few = isinstance(value, tuple) and len(value) <= 8 and all(small(part) for part in value)
    return repr(value) if few or small(value) else f"of type {type(value).__name__.strip('_')}"


class _Budget:
    """The remaining entries and bytes, because shared dicts and arrays could expand without limit."""

    def __init__(self, entries: int, size: int):
        self.entries, self.bytes = entries, size

    def spend(self, size: int) -> None:
        self.entries -= 1
        self.bytes -= size
        if self.entries < 0 or self.bytes < 0:
            raise InputError("it expands to more entries than a file of its size can contain")


def _arrays(tree: dict[str, Any], where: str, depth: int, budget: _Budget) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise InputError(f"it has more than {_DEEPEST} levels of nested dicts")
    arrays: dict[str, Any] = {}
    for key, value in tree.items():
        budget.spend(0)
        if isinstance(value, dict):
            arrays[key] = _arrays(value, f"in {_short(key)} ", depth + 1, budget)
        elif isinstance(value, _Array):
            try:
                arrays[key] = value.array(budget)
            except InputError as error:
                raise InputError(f"its entry {_short(key)} {where}cannot be read: {error}") from None
        else:
            raise InputError(f"its entry {_short(key)} {where}is a {type(value).__name__}")
    return arrays
