"""lth: find, test and ship winning lottery tickets in deep reinforcement learning.

Public names are loaded on first use, so that `import lth` is fast and the command line can set the number of threads before
JAX is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from . import sbx, sparse, stats
    from .algorithms.base import Agent
    from .algorithms.tickets import make_ticket
    from .api import report, run
    from .errors import ExportError, InputError, TrainingError
    from .experiment.store import Run, load
    from .exporting.mlp import export_mlp
    from .exporting.write import export
    from .gradient_pruning import (
        accumulate_gradient_statistics,
        compute_gradients_from_batch,
        prune_kernels_by_gradient_saliency,
        prune_kernels_by_magnitude,
    )
    from .libraries.adopt import adopt
    from .libraries.prune import prune_agent
    from .mask_files import load_mask, save_mask
    from .pruning.controls import random_mask, shuffled_mask
    from .pruning.gradients import gradient_statistic
    from .pruning.layers import layers
    from .pruning.masks import apply_mask, compute_sparsity, keep_pruned_at_zero, set_mask
    from .pruning.prune import prune
    from .pruning.structure import shrink
    from .replay import ReplayBuffer
    from .saliency import gradient_statistics

_HOMES = {
    "ExportError": "errors",
    "InputError": "errors",
    "TrainingError": "errors",
    "Run": "experiment.store",
    "load": "experiment.store",
    "export": "exporting.write",
    "export_mlp": "exporting.mlp",
    "adopt": "libraries.adopt",
    "prune_agent": "libraries.prune",
    "shrink": "pruning.structure",
    "load_mask": "mask_files",
    "save_mask": "mask_files",
    "layers": "pruning.layers",
    "accumulate_gradient_statistics": "gradient_pruning",
    "compute_gradients_from_batch": "gradient_pruning",
    "prune_kernels_by_gradient_saliency": "gradient_pruning",
    "prune_kernels_by_magnitude": "gradient_pruning",
    "random_mask": "pruning.controls",
    "shuffled_mask": "pruning.controls",
    "gradient_statistic": "pruning.gradients",
    "gradient_statistics": "saliency",
    "apply_mask": "pruning.masks",
    "compute_sparsity": "pruning.masks",
    "keep_pruned_at_zero": "pruning.masks",
    "set_mask": "pruning.masks",
    "prune": "pruning.prune",
    "ReplayBuffer": "replay",
    "Agent": "algorithms.base",
    "make_ticket": "algorithms.tickets",
    "report": "api",
    "run": "api",
}

__all__ = [
    "Agent",
    "ExportError",
    "InputError",
    "ReplayBuffer",
    "Run",
    "TrainingError",
    "accumulate_gradient_statistics",
    "adopt",
    "apply_mask",
    "compute_gradients_from_batch",
    "compute_sparsity",
    "export",
    "export_mlp",
    "gradient_statistic",
    "gradient_statistics",
    "keep_pruned_at_zero",
    "layers",
    "load",
    "load_mask",
    "make_ticket",
    "prune",
    "prune_agent",
    "prune_kernels_by_gradient_saliency",
    "prune_kernels_by_magnitude",
    "random_mask",
    "report",
    "run",
    "save_mask",
    "sbx",
    "set_mask",
    "shrink",
    "shuffled_mask",
    "sparse",
    "stats",
]

_MODULES = ("sbx", "sparse", "stats")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        try:
            home = importlib.import_module(f".{_HOMES[name]}", __name__)
        except ModuleNotFoundError as error:
            if (error.name or __name__).split(".")[0] == __name__:
                raise
            raise ModuleNotFoundError(
                f"lth.{name} needs {error.name}, which is not installed; `pip install lth` installs everything that lth needs",
                name=error.name,
            ) from error
        return getattr(home, name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'lth' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
