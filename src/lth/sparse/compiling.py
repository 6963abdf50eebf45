"""Compile the native kernel: on first use (native.py), and for wheels (build_backend.py).

The name of a kernel's file contains hashes of its inputs (source, flags) and of its content. So stale files are not found, and
damaged files are detected before they are loaded. The compiler is not part of the name, so a machine without one can use a kernel
built elsewhere. This file imports only the standard library, because a wheel is built without JAX and lth.
"""

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCES = ("vectors.h", "threads.h", "kernel.h", "mlp.cc")
TARGETS = ("lth_sparse_mlp_forward", "lth_sparse_mlp_backward")
OTHERS = ("lth_sparse_mlp_one", "lth_sparse_threads")
INSTRUCTION_SETS = {"x86_64": ("x86-64-v4", "x86-64-v3"), "aarch64": ("aarch64",)}
"""The instruction sets that the kernel supports on each machine: AVX-512 and AVX2, or NEON."""
COMPILER_LIMIT = 300.0
"""The time limit for the compiler in seconds; it needs about ten."""
_DIE_WITH_PARENT = """import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL; on Linux
except (OSError, AttributeError):
    pass
os.execvp(sys.argv[1], sys.argv[1:])
"""
# A separate program instead of preexec_fn, because JAX is multithreaded and warns about forks.
SWITCH = "LTH_NATIVE"
"""The environment variable that disables the kernel (0), or restricts it to AVX2 on processors with AVX-512 (x86-64-v3)."""


class Unavailable(Exception):
    """The kernel is not available; the message gives the reason."""


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the kernel can be compiled for on this machine.

    Raises:
        Unavailable: the kernel is disabled, or the system or processor is not supported.
    """
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0 in the environment")
    if platform.system() != "Linux" or platform.machine() not in INSTRUCTION_SETS:
        raise Unavailable(
            f"it supports only Linux on x86-64 and aarch64, and this is {platform.system()} on {platform.machine()}"
        )
    return INSTRUCTION_SETS[platform.machine()]


def compiler() -> list[str]:
    """Return the command of the C++ compiler.

    Raises:
        Unavailable: no compiler was found.
    """
    named = os.environ.get("CXX", "")
    try:
        command = shlex.split(named) or [shutil.which("g++") or shutil.which("clang++") or ""]
    except ValueError as error:
        raise Unavailable(f"CXX is {named!r} in the environment, which is not a valid command ({error})") from None
    if not shutil.which(command[0]):
        raise Unavailable(
            f"there is no C++ compiler ({command[0] or 'g++ or clang++'}); install g++, or set CXX to a compiler"
        )
    return command


def kernel_files(folder: Path, instruction_set: str) -> list[Path]:
    """Return the kernels in a folder that were compiled from the current sources with the current flags."""
    return sorted(folder.glob(f"{_stem(instruction_set)}-*.so"))


def is_intact(file: Path) -> bool:
    """Return whether a kernel's content has the hash in its name."""
    return file.stem.endswith(_digest(file.read_bytes()))


def compile_kernel(folder: Path, instruction_set: str, headers: Path | str) -> Path:
    """Compile the kernel. Concurrent calls are safe, because files are moved into place atomically.

    Args:
        folder: the folder for the compiled file.
        instruction_set: one of `instruction_sets()`.
        headers: the folder of XLA's FFI headers, `jax.ffi.include_dir()`.

    Returns:
        The compiled file.

    Raises:
        Unavailable: compilation failed.
    """
    source = Path(__file__).parent / "mlp.cc"
    for left in folder.glob("build-*"):  # left by a killed process
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * COMPILER_LIMIT:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as place:
        built = Path(place) / "kernel.so"
        command = [*compiler(), *_flags(instruction_set), "-isystem", str(headers), str(source), "-o", str(built)]
        status, complaints = _run_compiler(command)
        if status or not built.exists():
            said = complaints.strip()[:200] or f"the compiler printed nothing and exited with status {status}"
            first = next((line for line in complaints.splitlines() if "error" in line), said)
            raise Unavailable(f"compilation failed: {first}; the command was {shlex.join(command)}")
        content = built.read_bytes()
        if missing := [name for name in (*TARGETS, *OTHERS) if name.encode() not in content]:
            raise Unavailable(f"the compiled file has no symbol {missing[0]}; the command was {shlex.join(command)}")
        file = folder / f"{_stem(instruction_set)}-{_digest(content)}.so"
        built.replace(file)
    return file


def _flags(instruction_set: str) -> list[str]:
    """Return the compiler flags. Not -ffast-math, because GCC then flushes subnormal numbers to zero in the whole process."""
    march = {"aarch64": "armv8-a"}.get(instruction_set, instruction_set)
    return ["-std=c++17", "-O3", f"-march={march}", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w"]


def _stem(instruction_set: str) -> str:
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES)
    inputs = hashlib.sha256(sources + "\0".join(_flags(instruction_set)).encode())
    return f"kernel-{instruction_set}-{inputs.hexdigest()[:16]}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _run_compiler(command: list[str]) -> tuple[int, str]:
    """Run a compiler for at most COMPILER_LIMIT seconds, and end all its processes. Returns its exit status and error output."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, complaints = process.communicate(timeout=COMPILER_LIMIT)
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"the compiler did not end within {COMPILER_LIMIT:.0f} seconds: {shlex.join(command)}"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()
    return process.returncode, complaints
