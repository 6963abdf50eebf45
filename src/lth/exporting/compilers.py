"""Compile the C policy on this machine to check and time it, and measure its size for a microcontroller."""

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError, InputError
from .network import Network

STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
CORTEX_M4 = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-Os"]
LIMIT = 120.0
"""The time limit for a compiler, in seconds."""

_TIMER = """
#define _POSIX_C_SOURCE 199309L
#include <time.h>
#include "policy.h"
double lth_seconds(const float *observations, int n, int calls);
double lth_seconds(const float *observations, int n, int calls)
{
    static volatile float sink;
    struct timespec a, b;
    int i;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (i = 0; i < calls; i++) {
        %s
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    (void)sink;
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}
"""
_CALL = "const float *x = observations + (i %% n) * POLICY_OBSERVATIONS; "
_CONTINUOUS = _CALL.replace("%%", "%") + "float action[POLICY_ACTIONS]; policy_act(x, action); sink = action[0];"
_DISCRETE = _CALL.replace("%%", "%") + "sink = (float)policy_act(x);"


class Compiled(NamedTuple):
    """A C policy loaded into this process."""

    act: Callable[[np.ndarray], np.ndarray]
    """Returns actions for observations (n, observation_dim)."""
    seconds: Callable[[np.ndarray], float]
    """Returns the seconds per call, cycling through observations (n, observation_dim)."""


def compiler() -> list[str]:
    """Return the command of the C compiler.

    Raises:
        InputError: no compiler was found.
    """
    found = shlex.split(os.environ.get("CC", "")) or [
        shutil.which("gcc") or shutil.which("clang") or shutil.which("cc") or ""
    ]
    if not shutil.which(found[0]):
        raise InputError(
            "there is no C compiler, which is needed to check the C policy. Install gcc, set CC to a compiler, or export another "
            "format: --to onnx, --to numpy"
        )
    return found


@contextlib.contextmanager
def compiled(program: Mapping[str, str], network: Network, flags: tuple[str, ...] = ("-O3",)) -> Iterator[Compiled]:
    """Compile a C policy with strict warnings, and load it.

    Raises:
        InputError: there is no C compiler, or what it compiles does not run on this machine.
        ExportError: compilation failed.
    """
    discrete = network.squash == "argmax"
    with tempfile.TemporaryDirectory(prefix="lth-export-") as name:
        folder = Path(name)
        write_sources(program, folder)
        (folder / "timer.c").write_text(_TIMER % (_DISCRETE if discrete else _CONTINUOUS))
        library = folder / "policy.so"
        sources = [str(folder / "policy.c"), str(folder / "timer.c")]
        _run([*compiler(), *STRICT, *flags, "-fPIC", "-shared", *sources, "-o", str(library), "-lm"])
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise InputError(
                f"the C policy, compiled by {shlex.join(compiler())}, does not load here ({error}). If CC compiles for another "
                "machine, unset it: the program is checked on this one. If the folder of temporary files is mounted without "
                "permission to execute, set TMPDIR to another"
            ) from None
        pointer = ctypes.POINTER(ctypes.c_float)
        loaded.policy_act.argtypes = [pointer] if discrete else [pointer, pointer]
        loaded.policy_act.restype = ctypes.c_int if discrete else None
        loaded.lth_seconds.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
        loaded.lth_seconds.restype = ctypes.c_double

        def act(observations: np.ndarray) -> np.ndarray:
            rows = np.ascontiguousarray(observations, np.float32)
            if discrete:
                return np.array([loaded.policy_act(row.ctypes.data_as(pointer)) for row in rows], np.int64)
            actions = np.empty((len(rows), network.actions), np.float32)
            for row, action in zip(rows, actions, strict=True):
                loaded.policy_act(row.ctypes.data_as(pointer), action.ctypes.data_as(pointer))
            return actions

        def seconds(observations: np.ndarray) -> float:
            rows = np.ascontiguousarray(observations, np.float32)

            def of(calls: int) -> float:
                return float(loaded.lth_seconds(rows.ctypes.data_as(pointer), len(rows), calls)) / calls

            calls = int(np.clip(2e-3 / max(of(50), 1e-9), 50, 100_000))
            return min(of(calls) for _ in range(9))

        try:
            yield Compiled(act, seconds)
        finally:
            _close(loaded)


def cortex_m4_bytes(program: Mapping[str, str]) -> int | None:
    """Return the bytes of .text and .rodata of a policy compiled for a Cortex-M4F with -Os; None without a cross compiler.

    C library functions (only the square root of layer normalization) are not included.
    """
    gcc, size = shutil.which("arm-none-eabi-gcc"), shutil.which("arm-none-eabi-size")
    if not gcc or not size:
        return None
    with tempfile.TemporaryDirectory(prefix="lth-export-") as name:
        folder = Path(name)
        write_sources(program, folder)
        made = folder / "policy.o"
        _run([gcc, *STRICT, *CORTEX_M4, "-c", str(folder / "policy.c"), "-o", str(made)])
        lines = _run([size, "-A", str(made)]).splitlines()
    sections = [line.split() for line in lines if line.startswith((".text", ".rodata"))]
    return sum(int(section[1]) for section in sections)


def write_sources(program: Mapping[str, str], folder: Path) -> None:
    """Write the header and the source to a folder."""
    for path in ("src/policy.h", "src/policy.c"):
        (folder / Path(path).name).write_text(program[path])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{shlex.join(command)} failed: {error}") from None
    if done.returncode:
        raise ExportError(f"{shlex.join(command[:1])} could not compile the C policy: {done.stderr.strip()[-800:]}")
    return done.stdout


def _close(library: Any) -> None:
    """Unload a library, so that its file can be deleted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
