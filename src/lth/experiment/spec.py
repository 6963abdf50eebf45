"""The frozen description of one run, and the name that follows from it.

spec -> canonical JSON -> SHA-256 -> directory. Fields at their default are left out of the hash, so a new field does not
orphan old runs; a default therefore never changes unless SPEC_VERSION, which is hashed, is raised.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..config import GRADIENT_METHODS, Config, EvaluationConfig, SACConfig, Sparsity, TrainingConfig

SPEC_VERSION = 1


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DenseSpec(_Spec):
    """A dense agent."""

    stage: Literal["dense"] = "dense"
    task: str
    seed: int
    training: TrainingConfig
    sac: SACConfig
    evaluation: EvaluationConfig

    def title(self) -> str:
        """Say in a few words which run this is."""
        return f"{self.task} seed {self.seed} dense"


class MaskSpec(_Spec):
    """A mask made from a dense agent by a method. What does not bear on the method is left at its default."""

    stage: Literal["mask"] = "mask"
    dense: DenseSpec
    method: str
    sparsity: Sparsity
    exclude: tuple[str, ...] = ()
    num_gradient_batches: int = 100
    gradient_batch_size: int = 256

    def title(self) -> str:
        """Say in a few words which mask this is."""
        return f"{self.dense.task} seed {self.dense.seed} mask {self.method} {self.sparsity.label()}"


class FileMask(_Spec):
    """A mask that somebody else made: the file's content, and the sparsities that were counted in it."""

    stage: Literal["file"] = "file"
    method: str
    """`file`, or `custom` for what an edited _02_create_mask.py wrote."""
    sha256: str
    sparsity: Sparsity


class TicketSpec(_Spec):
    """A ticket: the dense agent whose start it is put back to, and the mask it trains under."""

    stage: Literal["ticket"] = "ticket"
    dense: DenseSpec
    mask: MaskSpec | FileMask
    rewind_steps: int = 0
    backend: str = "dense"

    def mask_task(self) -> str | None:
        """Name the task on which the mask was found, if that was another one."""
        if isinstance(self.mask, MaskSpec) and self.mask.dense.task != self.dense.task:
            return self.mask.dense.task
        return None

    def title(self) -> str:
        """Say in a few words which run this is."""
        source = f" from {self.mask_task()}" if self.mask_task() else ""
        return f"{self.dense.task} seed {self.dense.seed} {self.mask.method} {self.mask.sparsity.label()}{source}"


Spec = DenseSpec | MaskSpec | TicketSpec


def spec_hash(spec: Spec) -> str:
    """Return the SHA-256 of a spec's canonical JSON, in hexadecimal."""
    fields = spec.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(
        {"spec_version": SPEC_VERSION, "stage": spec.stage, **fields}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def run_path(spec: Spec) -> Path:
    """Return a run's directory below the output directory: `<task>/seed<k>/<stage>-<method>-<sparsity>-<hash8>`."""
    dense = spec if isinstance(spec, DenseSpec) else spec.dense
    parts: list[str] = [spec.stage]
    if isinstance(spec, MaskSpec):
        parts += [spec.method, spec.sparsity.label()]
    elif isinstance(spec, TicketSpec):
        parts += [spec.mask.method, spec.mask.sparsity.label()]
        parts += [f"from-{_folder(spec.mask_task() or '')}"] if spec.mask_task() else []
        parts += [f"rewind{spec.rewind_steps}"] if spec.rewind_steps else []
    return Path(_folder(dense.task)) / f"seed{dense.seed}" / "-".join([*parts, spec_hash(spec)[:8]])


def _folder(task: str) -> str:
    return task.replace("/", "_").replace(":", "_")


def dense_spec(config: Config, task: str, seed: int) -> DenseSpec:
    """Describe the dense run of a config for one task and seed."""
    training = config.training.model_copy(update={"backend": "auto"})  # concerns tickets alone
    return DenseSpec(task=task, seed=seed, training=training, sac=config.sac, evaluation=config.evaluation)


def mask_spec(config: Config, task: str, seed: int, method: str, sparsity: Sparsity) -> MaskSpec:
    """Describe a mask of a config; how gradients are taken is part of it only where the method takes any."""
    dense = dense_spec(config, task, seed)
    pruning = config.pruning
    spec = MaskSpec(dense=dense, method=method, sparsity=sparsity, exclude=tuple(sorted(pruning.exclude)))
    if method not in GRADIENT_METHODS:
        return spec
    return spec.model_copy(
        update={
            "num_gradient_batches": pruning.num_gradient_batches,
            "gradient_batch_size": pruning.gradient_batch_size,
        }
    )


def ticket_spec(config: Config, task: str, seed: int, mask: MaskSpec | FileMask) -> TicketSpec:
    """Describe the ticket that a config trains under a mask."""
    return TicketSpec(dense=dense_spec(config, task, seed), mask=mask, rewind_steps=config.pruning.rewind_steps)


def grid(config: Config) -> Iterator[Spec]:
    """Yield all runs of `lth run`, each after those that it needs."""
    for task in config.tasks:
        for seed in config.seeds:
            yield dense_spec(config, task, seed)
            for sparsity in config.pruning.sparsity:
                for method in config.pruning.methods:
                    mask = mask_spec(config, task, seed, method, sparsity)
                    yield mask
                    yield ticket_spec(config, task, seed, mask)
