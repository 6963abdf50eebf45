"""How many threads the numerical libraries use, which has to be said before they are imported.

A 256 x 256 matrix product of XLA's CPU backend differs in its last bits between 1 and 2 threads. So where XLA trains, the number is
part of what a run is (`training.threads`); where the native kernel does, it alone uses more than one, and no byte depends on them.
"""

import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config

_VARIABLES = ("NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment in which XLA (which reads NPROC) and the BLAS of NumPy use so many threads."""
    return dict.fromkeys(_VARIABLES, str(threads))


def library_threads(config: "Config") -> int:
    """Return how many threads XLA and NumPy's BLAS use in a config's runs, whose backend is resolved or will be the native one."""
    return config.training.threads if config.training.backend == "dense" else 1


def set_threads(threads: int) -> None:
    """Limit XLA (which reads NPROC) and the BLAS of NumPy to `threads`; warn where JAX was imported before."""
    wanted = str(threads)
    if "jax" in sys.modules and os.environ.get("NPROC") != wanted:
        warnings.warn(
            f"training.threads is {threads}, but JAX was imported before it could be set, so results may differ in "
            f"their last bits from those of `lth run`. Set NPROC={threads} in the environment before Python starts.",
            stacklevel=2,
        )
        return
    os.environ.update(thread_variables(threads))
