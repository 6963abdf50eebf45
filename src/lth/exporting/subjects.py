"""The subject of an export: an agent or a run, as a policy with its environment and metadata."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import envs
from ..algorithms.architecture import algorithm_key
from ..algorithms.base import OBSERVATION_CLIP, Agent, observation_scale
from ..algorithms.learner import layer_order
from ..envs.suites import observation_names
from ..errors import InputError
from ..experiment import records, store
from ..experiment.provenance import provenance
from ..experiment.spec import TicketSpec
from ..pruning.masks import compute_sparsity
from .network import Layer, Network, dense, numbers


class Subject(NamedTuple):
    """A policy to export."""

    network: Network
    """The complete network before folding."""
    act: Callable[[np.ndarray], np.ndarray]
    """The agent's deterministic actions for observations (n, observation_dim), both in the environment's units."""
    make_env: Callable[[], Any] | None
    """Creates an environment in its own units; None if unknown."""
    interface: envs.Interface
    observations: list[str]
    """The name of each observation."""
    actions: list[str]
    """The name of each action."""
    title: str
    about: dict[str, Any]
    """Provenance for the contract."""
    examples: np.ndarray | None = None
    """Observations on which programs are compared; None: recorded in the environment, or random without one."""
    cause: str = ""
    """The likely cause of a difference between the network and `act`, for the error."""


def of_run(run: Path) -> Subject:
    """Read a run's agent for export.

    Raises:
        InputError: the run does not exist, or it has no agent that can be exported.
    """
    spec = records.spec_of(run)
    agent, _, masks = store.load(run)
    mask = getattr(spec, "mask", None)
    control = spec.control if isinstance(spec, TicketSpec) else ""
    method = getattr(getattr(spec, "schedule", None) or mask, "method", "") or "dense"
    about = {
        "run": spec.title(),
        "method": f"{method}, {control}" if control else method,
        "spec": spec.sha256,
        "sparsity": {name: round(compute_sparsity(mask), 4) for name, mask in masks.items()},
    }
    return of_agent(agent, about, spec.seed)


def of_agent(agent: Agent, about: dict[str, Any] | None = None, seed: int = 0) -> Subject:
    """Describe an agent for export.

    Args:
        agent: an agent with a known task.
        about: provenance for the contract.
        seed: the seed of the evaluation environments.

    Raises:
        InputError: the agent's task is unknown, or its algorithm's settings do not define `head`, or a weight is not finite.
    """
    if not agent.task:
        raise InputError(
            "the agent's task is unknown, so the units of its actions are unknown too. Export a run, lth.load(run).agent, or "
            "agent._replace(task='Pendulum-v1')"
        )
    task, interface = agent.task, envs.task_interface(agent.task)
    network = network_of(agent, interface)
    params = agent.state.params[agent.config.POLICY]
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
    zeros = sum(int((np.asarray(k) == 0).sum()) for k in kernels) / sum(k.size for k in kernels)
    given = {"run": "", "method": "", "spec": "", "sparsity": {agent.config.POLICY: round(zeros, 4)}, **(about or {})}
    return Subject(
        network=network,
        act=agent.act,
        make_env=lambda: envs.make_own(task, seed, envs.EVALUATE),
        interface=interface,
        observations=observation_names(task, network.observation_dim),
        actions=list(interface.actions) or [f"action {i + interface.first_action}" for i in range(network.actions)],
        title=given["run"] or f"{task} {agent.config.NAME}",
        about={"task": task, "algorithm": algorithm_key(agent.config), **given, "versions": provenance()["versions"]},
    )


def network_of(agent: Agent, interface: envs.Interface) -> Network:
    """Return an agent's policy as data.

    Raises:
        InputError: its algorithm's settings do not define `head`, or a weight is not finite.
    """
    algorithm, normalizer = agent.algorithm, agent.state.normalizer
    head = algorithm.config.head(algorithm.spaces)
    if head is None:
        raise InputError(
            f"the algorithm {algorithm_key(agent.config)} cannot be exported: define the method `head` of its settings, which "
            "describes how network outputs become actions (docs/export.md)"
        )
    params = jax.tree.map(np.asarray, agent.state.params[algorithm.policy])
    layers: list[Layer] = []
    for name in layer_order(algorithm):
        layer = params[name]
        if name.startswith("norm_"):
            scale, shift = (numbers(f"the {part} of {name}", layer[part]) for part in ("scale", "bias"))
            layers[-1] = layers[-1]._replace(norm=(scale, shift))
        else:
            layers.append(dense(len(layers), layer["kernel"], layer["bias"]))
    last = layers[-1]
    layers[-1] = last._replace(kernel=last.kernel[:, : head.outputs], bias=last.bias[: head.outputs])
    n = algorithm.spaces.observation_dim
    normalized = algorithm.config.normalize_obs
    return Network(
        observation_dim=n,
        reads=np.arange(n),
        mean=np.asarray(normalizer.mean) if normalized else np.zeros(n, np.float32),
        scale=np.asarray(observation_scale(normalizer)) if normalized else np.ones(n, np.float32),
        clip=OBSERVATION_CLIP if normalized else np.inf,
        layers=tuple(layers),
        activation="relu",
        squash=head.squash,
        low=interface.action_low,
        high=interface.action_high,
        first_action=interface.first_action,
    )
