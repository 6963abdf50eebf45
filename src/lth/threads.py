"""Set the number of threads of the numerical libraries. Must be called before these libraries are imported.

A 256 x 256 matrix product of XLA's CPU backend differs in its last bits between 1 and 2 threads. With the dense backend, the
number of threads is therefore part of a run's identity (`training.threads`). With the native backend, only the kernel uses more
than one thread, and results do not depend on the number.
"""

import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config

_VARIABLES = ("NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def thread_variables(threads: int) -> dict[str, str]:
    """Return environment variables that limit XLA (which reads NPROC) and NumPy's BLAS to `threads`, and XLA to the memory of a
    GPU that it needs.
    """
    preallocate = os.environ.get(_PREALLOCATE, "false")  # several processes share a GPU
    return {**dict.fromkeys(_VARIABLES, str(threads)), _PREALLOCATE: preallocate}


def library_threads(config: "Config") -> int:
    """Return the number of threads of XLA and NumPy's BLAS; an unresolved backend counts as native."""
    return config.training.threads if config.training.backend == "dense" or config.batch_size else 1


def set_threads(threads: int) -> None:
    """Limit XLA (which reads NPROC) and NumPy's BLAS to `threads`; warn if JAX is already imported."""
    wanted = str(threads)
    if "jax" in sys.modules and os.environ.get("NPROC") != wanted:
        warnings.warn(
            f"training.threads={threads} has no effect because JAX is already imported, so results may differ from `lth run` in "
            f"the last bits. Set NPROC={threads} in the environment before Python starts.",
            stacklevel=2,
        )
        return
    os.environ.update(thread_variables(threads))
