"""The native kernel: built on first use, cached, and loaded into XLA.

The name of a cached file contains hashes of its inputs (source, flags, jaxlib) and of its content. So stale files are not found,
and damaged files are detected before they are loaded; the kernel is then rebuilt. Concurrent builds are safe, because files are
moved into place atomically. The compiler is not part of the name, so a machine without one can use a kernel built elsewhere.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jaxlib
import numpy as np

SOURCES = ("vectors.h", "threads.h", "kernel.h", "mlp.cc")
TARGETS = ("lth_sparse_mlp_forward", "lth_sparse_mlp_backward")
OTHERS = ("lth_sparse_mlp_one", "lth_sparse_threads")
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
CACHE = "LTH_CACHE"
"""The environment variable for the cache folder; the default is $XDG_CACHE_HOME/lth or ~/.cache/lth."""
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AVX2 = {"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"}


class Unavailable(Exception):
    """The kernel is not available; the message gives the reason."""


def load() -> ctypes.CDLL:
    """Return the kernel's library, registered with XLA; builds it if it is not cached.

    Raises:
        Unavailable: the kernel is not available.
    """
    if os.environ.get(SWITCH) == "0":
        raise Unavailable(f"{SWITCH}=0 in the environment")
    result = _load()
    if isinstance(result, str):
        raise Unavailable(result)
    return result


@functools.cache
def _load() -> ctypes.CDLL | str:
    try:
        if jax.default_backend() != "cpu":
            raise Unavailable(f"JAX runs on {jax.default_backend()}")
        file = cached_file() or _build()
        library = ctypes.CDLL(str(file))
        for name in (*TARGETS, *OTHERS):
            getattr(library, name)
    except (Unavailable, OSError, AttributeError) as error:
        return str(error)
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    library.lth_sparse_mlp_one.argtypes = [ctypes.c_void_p] * 4
    library.lth_sparse_mlp_one.restype = None
    library.lth_sparse_threads.argtypes = [ctypes.c_int]
    library.lth_sparse_threads.restype = None
    return library


@functools.cache
def instruction_set() -> str:
    """Return the target instruction set: x86-64-v4 (AVX-512), x86-64-v3 (AVX2), or aarch64.

    Raises:
        Unavailable: the system or processor is not supported.
    """
    if (platform.system(), platform.machine()) == ("Linux", "aarch64"):
        return "aarch64"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable(
            f"it supports only Linux on x86-64 and aarch64, and this is {platform.system()} on {platform.machine()}"
        )
    wanted = os.environ.get(SWITCH) or "1"
    if wanted not in ("1", "x86-64-v3", "x86-64-v4"):
        raise Unavailable(f"{SWITCH}={wanted} in the environment; choose from 0, 1, x86-64-v3, x86-64-v4")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    has = set(next((line.split(":")[1].split() for line in lines if line.startswith("flags")), []))
    if has >= _AVX512 | _AVX2 and wanted != "x86-64-v3":
        return "x86-64-v4"
    if has >= _AVX2 and wanted != "x86-64-v4":
        return "x86-64-v3"
    raise Unavailable(f"this processor has no {'AVX-512' if wanted == 'x86-64-v4' else 'AVX2'}")


def lanes() -> int:
    """Return the number of examples that the kernel processes at a time, LANES of kernel.h."""
    return {"x86-64-v4": 64, "x86-64-v3": 32, "aarch64": 16}[instruction_set()]


def sign_bytes() -> int:
    """Return the number of bytes that store the signs of one unit for a block of examples."""
    return {"x86-64-v4": 8, "x86-64-v3": 4, "aarch64": 4}[instruction_set()]


def set_threads(threads: int) -> None:
    """Set the number of kernel threads, including the calling thread. Does not affect results.

    Raises:
        Unavailable: the kernel is not available.
    """
    load().lth_sparse_threads(threads)


def _flags() -> list[str]:
    """Return the compiler flags. Not -ffast-math, because GCC then flushes subnormal numbers to zero in the whole process."""
    march = {"aarch64": "armv8-a"}.get(instruction_set(), instruction_set())
    return ["-std=c++17", "-O3", f"-march={march}", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread", "-w"]


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


def _key() -> str:
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in SOURCES)
    made_from = [*_flags(), jaxlib.__version__, instruction_set()]
    return hashlib.sha256(sources + "\0".join(made_from).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return the cache folder, which is created if necessary and writable only by the user.

    Raises:
        Unavailable: it cannot be created, or other users can write to it.
    """
    folder = Path(os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lth")
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"its cache '{folder}' cannot be created ({error}); set {CACHE} to another folder") from None
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise Unavailable(
            f"other users can write to its cache '{folder}'; run `chmod 700` on it, or set {CACHE} to another folder"
        )
    return folder


def cached_file() -> Path | None:
    """Return the kernel's file in the cache, or None if there is no undamaged file."""
    for file in sorted(cache_folder().glob(f"kernel-{_key()}-*.so")):
        if file.stem.endswith(_digest(file.read_bytes())):
            return file
    return None  # damaged files are kept, because another process may just have replaced them


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _build() -> Path:
    folder = cache_folder()
    source = Path(__file__).parent / "mlp.cc"
    for left in folder.glob("build-*"):  # left by a killed process
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * COMPILER_LIMIT:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as place:
        built = Path(place) / "kernel.so"
        command = [*compiler(), *_flags(), "-isystem", jax.ffi.include_dir(), str(source), "-o", str(built)]
        status, complaints = _run_compiler(command)
        if status or not built.exists():
            said = complaints.strip()[:200] or f"the compiler printed nothing and exited with status {status}"
            first = next((line for line in complaints.splitlines() if "error" in line), said)
            raise Unavailable(f"compilation failed: {first}; the command was {shlex.join(command)}")
        content = built.read_bytes()
        if missing := [name for name in (*TARGETS, *OTHERS) if name.encode() not in content]:
            raise Unavailable(f"the compiled file has no symbol {missing[0]}; the command was {shlex.join(command)}")
        file = folder / f"kernel-{_key()}-{_digest(content)}.so"
        built.replace(file)
    return file


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


def one_example(
    table: np.ndarray, inputs: int, outputs: int
) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return a function from packed weights (kept,) to a network for one input: (inputs,) -> (outputs,), all float32.

    `table` is the table of a pattern. Each call overwrites the previous output. Addresses are looked up once, because a lookup
    takes as long as the network.
    """
    call = load().lth_sparse_mlp_one
    x, y = np.empty(inputs, np.float32), np.empty(outputs, np.float32)
    table_at, x_at, y_at = (array.ctypes.data for array in (table, x, y))

    def of(theta: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        theta_at = theta.ctypes.data

        def forward(example: np.ndarray) -> np.ndarray:
            x[:] = example
            call(table_at, theta_at, x_at, y_at)
            return y

        forward.alive = (table, theta)  # type: ignore[attr-defined]
        return forward

    return of
