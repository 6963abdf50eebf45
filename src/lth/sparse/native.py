"""The native kernel, loaded into XLA: the installed one, or one that is compiled on first use and cached.

Wheels contain kernels where there was a compiler (build_backend.py). Any kernel is checked when it is loaded: its file must be
undamaged, its symbols must resolve, and XLA must accept its version of the FFI. One that does not fit is compiled again.
"""

import ctypes
import functools
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from . import compiling
from .compiling import OTHERS, SWITCH
from .compiling import TARGETS as TARGETS
from .compiling import Unavailable as Unavailable

CACHE = "LTH_CACHE"
"""The environment variable for the cache folder; the default is $XDG_CACHE_HOME/lth or ~/.cache/lth."""
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AVX2 = {"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"}


def load() -> ctypes.CDLL:
    """Return the kernel's library, registered with XLA; compiles it if no installed or cached kernel fits.

    Raises:
        Unavailable: the kernel is not available.
    """
    compiling.instruction_sets()  # raises if the kernel was disabled after it was loaded
    result = _load()
    if isinstance(result, str):
        raise Unavailable(result)
    return result


@functools.cache
def _load() -> ctypes.CDLL | str:
    try:
        if jax.default_backend() != "cpu":
            raise Unavailable(f"JAX runs on {jax.default_backend()}")
        return _first_that_fits()
    except Unavailable as error:
        return str(error)


def _first_that_fits() -> ctypes.CDLL:
    refused = ""
    try:
        for find in (installed_files, cached_files):  # the cache is not touched if the installed kernel fits
            for file in find():
                try:
                    return _register(file)
                except Unavailable as error:
                    refused = f"the native kernel '{file}' does not fit ({error})"
        file = _compile(cache_folder())
        library = _register(file)
    except Unavailable as error:
        raise Unavailable(f"{refused}, and {error}" if refused else str(error)) from None
    if refused:
        warnings.warn(f"{refused}, so it was compiled again, to '{file}'", stacklevel=4)
    return library


def _compile(folder: Path) -> Path:
    try:
        return compiling.compile_kernel(folder, instruction_set(), jax.ffi.include_dir())
    except OSError as error:  # the file system is full or read-only
        raise Unavailable(f"it cannot be compiled in '{folder}' ({error}); set {CACHE} to another folder") from None


def _register(file: Path) -> ctypes.CDLL:
    """Load a kernel and register it with XLA.

    Raises:
        Unavailable: its file is damaged, a system library is too old for it, or XLA refuses its version of the FFI.
    """
    try:
        if not compiling.is_intact(file):
            raise Unavailable("its file is damaged")
        library = ctypes.CDLL(str(file))
        for name in (*TARGETS, *OTHERS):
            getattr(library, name)
        for name in TARGETS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except (OSError, AttributeError, jax.errors.JaxRuntimeError) as error:
        raise Unavailable(str(error)) from None
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
    known = compiling.instruction_sets()
    if known == ("aarch64",):
        return "aarch64"
    wanted = os.environ.get(SWITCH) or "1"
    if wanted not in ("1", *known):
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


def installed_files() -> list[Path]:
    """Return the installed kernels for this processor: one, or none in a checkout or a wheel without kernels."""
    return compiling.kernel_files(Path(__file__).parent, instruction_set())


def cached_files() -> list[Path]:
    """Return the cached kernels for this processor; a damaged file is replaced by a new kernel of the same name."""
    return compiling.kernel_files(cache_folder(), instruction_set())


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
