"""The implementation of scripts/. For each task and seed of a config, they make the same runs as `lth run`."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from . import envs
from .algorithms.base import Agent
from .config import Config, Sparsity
from .errors import InputError
from .experiment import lottery, records, store
from .experiment.backend import resolve_backend
from .experiment.build import dense_spec, mask_spec, ticket_spec
from .experiment.journal import MASK, MASK_GRADIENT, is_finished
from .experiment.masking import create_masks, named_layers
from .experiment.options import options_of
from .experiment.spec import FileMask, MaskSpec
from .experiment.start import load_dense, no_mask
from .files import checksum_path
from .pruning.masks import sparsity_text
from .pruning.prune import check_collapse
from .replay import ReplayBuffer
from .text import rounded
from .types import Mask


def _say(text: str) -> None:
    print(text, flush=True)


def _tasks(config: Config) -> Iterator[tuple[str, int]]:
    for task in config.tasks:
        envs.check_task(task, config.agent_config)
    for task in config.tasks:
        for seed in config.seeds:
            yield task, seed


def _last(run: Path) -> str:
    names = {"evaluation/return": "return", "evaluation/success": "success"}
    return ", ".join(
        f"{names[name]} {rounded(value, 4)}" for name, value in sorted(records.last_evaluation(run).items())
    )


def dense_agents(config: Config) -> Iterator[tuple[Path, Agent]]:
    """Train each dense agent of a config that is not finished; yield its directory and the agent with its buffer."""
    for task, seed in _tasks(config):
        spec = dense_spec(config, task, seed)
        _say(f"{spec.title()}: {'already finished' if is_finished(config.output_dir, spec) else 'training'}")
        run = lottery.train_dense(config.output_dir, spec, options_of(config))
        _say(f"{spec.title()}: {_last(run)} -> {run}")
        yield run, store.load(run).agent


def save_replay_buffer(run: Path, buffer: ReplayBuffer) -> None:
    """Write `replay_buffer.pkl` with its checksum. Writing it again does not change its bytes."""
    store.save_replay_buffer(run, records.spec_of(run).dense, buffer)


def layers_to_exclude(config: Config) -> tuple[list[str], list[str]]:
    """Return the layers of `pruning.exclude` in the actor and in the critics, for `_02_create_mask.py`.

    Raises:
        InputError: the algorithm does not have an actor and critics.
    """
    if not config.agent_config.has_pair():
        raise InputError(
            f"_02_create_mask.py prunes an actor and critics, but {config.agent_config.NAME} has the networks "
            f"{', '.join(config.agent_config.NETWORKS)}. Use `lth run` or _02b_create_mask_gradient.py."
        )
    exclude, _ = named_layers(config.agent_config, config.pruning.exclude)
    return exclude["actor"], exclude["critic"]


def dense_runs(config: Config) -> Iterator[tuple[Path, Agent, ReplayBuffer | None, Sparsity]]:
    """Yield each finished dense run with its agent and replay buffer, once for each sparsity."""
    for task, seed in _tasks(config):
        spec = dense_spec(config, task, seed)
        run = config.output_dir / spec.path
        load_dense(config.output_dir, spec)
        agent = store.load(run).agent
        for sparsity in config.pruning.sparsity:
            yield run, agent, agent.replay_buffer, sparsity


def save_mask(config: Config, run: Path, sparsity: Sparsity, actor_mask: Mask, critic_mask: Mask) -> None:
    """Write the masks of `_02_create_mask.py` as mask.pkl, in the folder of the magnitude mask or of a custom mask."""
    dense = records.spec_of(run).dense
    spec = mask_spec(config, dense_spec(config, dense.task, dense.seed), "magnitude", sparsity)
    masks = {"actor": actor_mask, "critic": critic_mask}
    path = save_edited_mask(config.output_dir, spec, masks)
    _say(f"{dense.task} seed {dense.seed}: sparsity {_sparsities(spec, masks)} -> {path}")


def _sparsities(spec: MaskSpec, masks: dict[str, Mask]) -> str:
    exclude, _ = named_layers(spec.dense.agent, spec.exclude, spec.allocation)
    return ", ".join(f"{network} {sparsity_text(mask, exclude[network])}" for network, mask in masks.items())


def save_edited_mask(root: Path, spec: MaskSpec, masks: dict[str, Mask]) -> Path:
    """Write the mask.pkl of `_02_create_mask.py`: in the run's folder if it is the magnitude mask, else in a separate folder.

    Option 2 of docs/saliency-pruning.md is to edit the script so that it makes other masks. Those must not be stored where
    `lth run` expects magnitude masks. The separate folder holds the masks of the script's last run, or does not exist.
    """
    magnitude = create_masks(load_dense(root, spec.dense), lambda: ReplayBuffer.load({}), spec)
    pairs = zip(jax.tree.leaves(masks), jax.tree.leaves(magnitude), strict=True)
    same = all(np.array_equal(a, b) for a, b in pairs)
    custom = edited_mask_file(root, spec)
    for network, mask in masks.items():
        check_collapse(mask, what=spec.title(), whose=f"the {network}'s ")
    if not same:
        return store.save_mask(custom.parent, custom.name, masks)
    for file in (custom, checksum_path(custom)):
        file.unlink(missing_ok=True)
    if custom.parent.is_dir() and not any(custom.parent.iterdir()):
        custom.parent.rmdir()
    records.open_run(root, spec)
    return store.finish_mask(root, spec, masks)


def edited_mask_file(root: Path, spec: MaskSpec) -> Path:
    """Return the path of the mask.pkl of an edited `_02_create_mask.py`."""
    run = root / spec.path
    return run.with_name(run.name.replace(f"mask-{spec.method}", "mask-custom", 1)) / MASK


def create_gradient_masks(config: Config) -> int:
    """Make the masks of `_02b_create_mask_gradient.py`."""
    for task, seed in _tasks(config):
        for sparsity in config.pruning.sparsity:
            spec = mask_spec(config, dense_spec(config, task, seed), config.pruning.gradient_method, sparsity)
            run = lottery.make_mask(config.output_dir, spec, MASK_GRADIENT)
            path = run / MASK_GRADIENT
            _say(f"{spec.title()}: sparsity {_sparsities(spec, store.load_mask(path))} -> {path}")
    return 0


def train_tickets(config: Config, mask: str | None) -> int:
    """Train the tickets of `_03_train_ticket.py` with `mask.pkl`, `mask_gradient.pkl`, or any mask file."""
    tickets: list[tuple[str, int, Path, MaskSpec | FileMask]] = []
    for task, seed in _tasks(config):
        if mask in (None, MASK, MASK_GRADIENT):
            for sparsity in config.pruning.sparsity:
                tickets.append((task, seed, *_named_mask(config, task, seed, mask or MASK, sparsity)))
        else:
            tickets.append((task, seed, Path(mask), store.file_mask(Path(mask), "file")))
    return _train(config, tickets)


def _named_mask(
    config: Config, task: str, seed: int, name: str, sparsity: Sparsity
) -> tuple[Path, MaskSpec | FileMask]:
    method = "magnitude" if name == MASK else config.pruning.gradient_method
    spec = mask_spec(config, dense_spec(config, task, seed), method, sparsity)
    edited = edited_mask_file(config.output_dir, spec)
    if name == MASK and edited.exists():
        return edited, store.file_mask(edited, "custom")
    file = (config.output_dir / spec.path) / name
    if not file.exists():
        raise InputError(no_mask(file, spec))
    return file, spec


def _train(config: Config, tickets: list[tuple[str, int, Path, MaskSpec | FileMask]]) -> int:
    """Train tickets (task, seed, mask file, mask). All mask files exist."""
    _say(resolve_backend(config)[1])
    root, options = config.output_dir, options_of(config)
    for task, seed, file, mask in tickets:
        spec = ticket_spec(config, dense_spec(config, task, seed), mask)
        _say(f"{spec.title()}: {'already finished' if is_finished(root, spec) else f'training with the mask {file}'}")
        load_dense(root, spec.dense)  # must exist; rewind points that it did not keep are made again
        dense = lottery.train_dense(root, spec.dense, options)
        run = lottery.train_ticket(root, spec, file, options)
        _say(f"{spec.title()}: {_last(run)} (dense: {_last(dense)}) -> {run}")
    return 0


def transfer_tickets(config: Config, source: str | None, target: str | None, mask: str | None) -> int:
    """Train the tickets of `_04_transfer.py`: the target's initial weights with the source's mask, for each seed."""
    source = source or config.tasks[0]
    targets = [target] if target else [task for task in config.tasks if task != source]
    if not targets:
        raise InputError("no target task: name two in the config's `tasks`, or use --target TASK")
    if mask not in (None, MASK, MASK_GRADIENT):
        raise InputError(
            f"--mask '{mask}': must be mask.pkl or mask_gradient.pkl; only _03_train_ticket.py accepts other files"
        )
    for task in (source, *targets):
        envs.check_task(task, config.agent_config)
    return _train(
        config,
        [
            (task, seed, *_named_mask(config, source, seed, mask or MASK, sparsity))
            for task in targets
            for seed in config.seeds
            for sparsity in config.pruning.sparsity
        ],
    )
