"""Record the software and hardware of a run."""

import functools
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .. import envs


def provenance() -> dict[str, Any]:
    """Return versions, the git revision of lth (None where it is not a checkout), processor and devices."""
    import flax
    import jax
    import optax

    from .. import __version__
    from ..precision import matmul_precision

    versions = {"lth": __version__, "jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}
    versions |= {"numpy": np.__version__, "python": platform.python_version(), **envs.versions()}
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "machine": platform.machine(),
        "matmul_precision": matmul_precision(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
    }


@functools.cache
def _git_revision() -> str | None:
    here = Path(__file__)
    try:
        # Fails unless the revision has this file: an installed lth may lie in an environment within another project's checkout.
        command = ["git", "-C", str(here.parent), "rev-parse", "HEAD", f"HEAD:./{here.name}"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return found.stdout.split()[0]
    except (OSError, subprocess.SubprocessError):
        return None
