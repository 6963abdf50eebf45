"""What runs cost: estimated before they are made, and counted afterwards."""

import functools
import math
import os
from collections.abc import Mapping
from typing import NamedTuple

from ..algorithms.architecture import AgentConfig, Spaces
from ..config import Config, replay_capacity
from ..errors import InputError
from ..pruning.allocation import cubic
from .journal import read_timings
from .plan import Plan
from .rates import Times, estimate_times, finished_runs
from .spec import Cost, DenseSpec, MaskSpec, Sizes, Spec, TicketSpec, takes_gradients


class Planned(NamedTuple):
    """One run of a dry run."""

    spec: Spec
    finished: bool
    cost: Cost
    seconds: float  # on one core


class Estimate(NamedTuple):
    """What the runs of a plan take."""

    runs: list[Planned]
    times: Times


def estimate(plan: Plan, spaces: Mapping[str, Spaces]) -> Estimate:
    """Estimate what each run of a plan takes, without making any.

    Args:
        plan: the runs.
        spaces: of each task in them.
    """
    finished = finished_runs(plan)
    times = estimate_times(plan, spaces, finished)
    costs = [spec.cost(sizes(spec.dense.agent, spaces[spec.task])) for spec in plan.specs]
    runs = [Planned(spec, spec in finished, cost, times.of(spec)) for spec, cost in zip(plan.specs, costs, strict=True)]
    return Estimate(runs, times)


@functools.cache
def sizes(agent: AgentConfig, spaces: Spaces) -> Sizes:
    """Return how many bytes an agent's checkpoint, mask and transition take, without making the agent."""
    import jax

    with jax.enable_x64(False):
        state = jax.eval_shape(agent.build(spaces).init, jax.random.key(0))
    checkpoint = sum(math.prod(x.shape) * min(x.dtype.itemsize, 4) for x in jax.tree.leaves(state))
    mask = 4 * sum(x.size for x in jax.tree.leaves(state.params))
    return Sizes(checkpoint, mask, 4 * (2 * spaces.observation_dim + spaces.action_width + 2))


def check_memory(config: Config, spaces: Mapping[str, Spaces]) -> None:
    """Raise InputError where this machine has not the memory for `workers` runs at a time.

    A run holds its agent's state and its replay buffer twice: while a segment trains, the state before it is kept.
    """
    if config.batch_size or config.executor == "ray":
        return  # `backend.resolve_batch` splits the batches; a cluster has other machines
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    agent, rows = config.agent_config, replay_capacity(config.agent_config, config.training)
    for task, found in spaces.items():
        parts = sizes(agent, found)
        state, replay = 2 * parts.checkpoint, 2 * parts.transition * rows
        if config.workers * (state + replay) > have:
            raise InputError(
                f"a run of {task} needs about {(state + replay) / 1e9:,.1f} GB of memory ({state / 1e9:,.1f} for the agent, "
                f"{replay / 1e9:,.1f} for {rows:,} transitions), {config.workers} at a time (workers), and this machine has "
                f"{have / 1e9:,.1f} GB. Lower workers, {config.algorithm}.buffer_size or the networks' sizes."
            )


def bytes_in_batch(config: Config, spaces: Mapping[str, Spaces]) -> int:
    """Return the memory in bytes that one run of a batch takes, at most: its state three times, for gradients and updates; its
    replay buffer twice, when the batch is put together; and the activations of an update.
    """
    agent, rows = config.agent_config, replay_capacity(config.agent_config, config.training)
    most = 0
    for found in spaces.values():
        parts = sizes(agent, found)
        widths = sum(network.copies * sum(network.hidden) for network in agent.networks(found).values())
        most = max(most, 3 * parts.checkpoint + 2 * parts.transition * rows + 16 * widths * config.training.batch_size)
    return most


def flops(spec: DenseSpec | TicketSpec, weights: Mapping[str, float]) -> float:
    """Count the floating-point operations of a run's training: of all its updates, and of acting.

    Two operations a weight in a forward pass; an update takes `AgentConfig.passes` of a batch, acting one of an observation.

    Args:
        spec: a run that trains.
        weights: how many weights each network computes with.
    """
    agent, batch_size = spec.dense.agent, spec.dense.training.batch_size
    passes = sum(times * 2.0 * weights[network] for network, times in agent.passes().items())
    return spec.updates * batch_size * passes + spec.env_steps * 2.0 * weights[agent.POLICY]


def _while_training(
    spec: DenseSpec | TicketSpec, kept: Mapping[str, float], weights: Mapping[str, float]
) -> Mapping[str, float]:
    """Return how many weights each network computed with, on the mean over a run's updates: gradual pruning starts dense."""
    schedule = spec.schedule if isinstance(spec, TicketSpec) else None
    if schedule is None or schedule.method != "gradual" or not spec.updates:
        return kept
    changes = max(round(schedule.until * spec.updates) // schedule.every, 1)
    means = {}
    for network, target in schedule.sparsity.networks.items():
        after = [0.0, *cubic(target, changes)]  # from update k * every on, the last until the end
        spans = [schedule.every] * changes + [spec.updates - schedule.every * changes]
        sparsity = sum(s * span for s, span in zip(after, spans, strict=True)) / spec.updates
        # The count of the last mask is exact; layers that are excluded are in `weights`, and stay.
        share = sparsity / target if target else 0.0
        means[network] = weights[network] - (weights[network] - kept[network]) * share
    return means


def spent(
    plan: Plan, spec: DenseSpec | TicketSpec, kept: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """Return what a run took besides its dense agent and earlier rounds, by metric: steps, updates, seconds, FLOPs.

    Args:
        plan: whose output directory holds the run.
        spec: a run that trains.
        kept: how many weights each network keeps.
        weights: how many it has.
    """
    timings = read_timings(plan.root / spec.path)
    found: dict[str, float] = {
        "cost/env_steps": spec.env_steps,
        "cost/updates": spec.updates,
        "cost/train_seconds": timings.get("total", 0.0),
        "cost/mask_seconds": 0.0,
        "cost/gradient_batches": 0,
        "cost/flops": flops(spec, _while_training(spec, kept, weights)),
        "cost/flops_dense": flops(spec, weights),
    }
    if {"start", "compile"} <= timings.keys():
        found["cost/start_seconds"] = timings["start"] + timings["compile"]
    if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec):
        found["cost/mask_seconds"] = read_timings(plan.root / spec.mask.path).get("total", 0.0)
        if takes_gradients(spec.mask.method):
            found["cost/gradient_batches"] = spec.mask.num_gradient_batches
    return found
