"""The policy in NumPy, because JAX dispatch takes several times as long as one forward pass."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from .. import envs
from ..errors import InputError
from ..sparse.native import one_example
from ..types import ArrayLike
from .architecture import AgentConfig
from .base import OBSERVATION_CLIP, Agent, Algorithm
from .learner import flat_policy
from .packed import Patterns


class Policy(NamedTuple):
    """The policy as views into the vector of `flat_policy`."""

    mean: np.ndarray  # (observation_dim,)
    scale: np.ndarray  # (observation_dim,)
    network: Callable[[np.ndarray], np.ndarray]  # (n, observation_dim) normalized -> (n, outputs)
    clip: float  # normalized observations are clipped to [-clip, clip]
    head: Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # (network output, noise) -> actions


Reader = Callable[[np.ndarray], Policy]


def policy_reader(algorithm: Algorithm, patterns: Patterns | None = None) -> Reader:
    """Return a function from the vector of `flat_policy` to a Policy, without copies; with `patterns`, for a packed state."""
    observation_dim, network = algorithm.spaces.observation_dim, algorithm.networks[algorithm.policy]
    clip = OBSERVATION_CLIP if algorithm.config.normalize_obs else np.inf
    of = (
        _dense_network([observation_dim, *network.hidden, network.outputs], network.layer_norm)
        if patterns is None
        else _sparse_network(one_example(patterns[algorithm.policy].table, observation_dim, network.outputs))
    )

    def read(flat: np.ndarray) -> Policy:
        mean, scale, weights = np.split(flat, (observation_dim, 2 * observation_dim))
        return Policy(mean, scale, of(weights), clip, algorithm.act)

    return read


def _dense_network(sizes: list[int], layer_norm: bool) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def of(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        layers: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]] = []
        at = 0

        def take(*shape: int) -> np.ndarray:
            nonlocal at
            size = int(np.prod(shape))
            at += size
            return weights[at - size : at].reshape(shape)

        for i in range(1, len(sizes)):
            kernel, bias = take(sizes[i - 1], sizes[i]), take(sizes[i])
            normed = layer_norm and i < len(sizes) - 1
            layers.append((kernel, bias, take(sizes[i]), take(sizes[i])) if normed else (kernel, bias, None, None))

        def network(x: np.ndarray) -> np.ndarray:
            for kernel, bias, scale, shift in layers[:-1]:
                x = x @ kernel + bias
                if scale is not None:  # as Flax's LayerNorm
                    centred = x - x.mean(axis=1, keepdims=True)
                    x = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(1e-6)) * scale + shift
                x = np.maximum(x, 0.0)
            kernel, bias, _, _ = layers[-1]
            return np.asarray(x @ kernel + bias)

        return network

    return of


def _sparse_network(one: Callable[..., Any]) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def of(theta: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        forward = one(theta)
        return lambda x: np.stack([forward(row).copy() for row in x]) if len(x) > 1 else forward(x[0])[None]

    return of


def policy_of(agent: Agent) -> Policy:
    """Return an agent's policy with whole matrices."""
    algorithm = agent.algorithm
    return policy_reader(algorithm)(np.asarray(flat_policy(algorithm, agent.state)))


def act(policy: Policy, observations: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """Choose actions, (n, action_width) float32, for raw observations (n, observation_dim).

    Continuous actions are in [-1, 1]; discrete actions are indices. With `noise` from the algorithm's `explore`, they explore;
    without, they are the deterministic actions that evaluations use.
    """
    x = (observations.astype(np.float32) - policy.mean) * policy.scale
    return policy.head(policy.network(np.minimum(np.maximum(x, -policy.clip), policy.clip)), noise)


class _Acting(NamedTuple):
    """The cached parts of an agent for `choose`."""

    config: AgentConfig
    read: list[Any]  # the arrays that `policy` was made of
    policy: Policy
    algorithm: Algorithm


_last: list[
    _Acting
] = []  # the agent that acted last, cached because reading the weights takes 100 times as long as acting


def choose(agent: Agent, observation: ArrayLike, rng: np.random.Generator | None = None) -> np.ndarray:
    """Choose an agent's action for one observation or a batch: `Agent.act`."""
    acting = _last[0] if _last else None
    # The arrays and not the state, whose dicts a caller may have changed.
    read = jax.tree.leaves((agent.state.params[agent.config.POLICY], agent.state.normalizer))
    if acting is None or acting.config is not agent.config or not _same(acting.read, read):
        acting = _Acting(agent.config, read, policy_of(agent), agent.algorithm)
        _last[:] = [acting]
    spaces, given = acting.algorithm.spaces, np.asarray(observation)
    single = given.ndim == 1
    check_observations(given, spaces.observation_dim)
    batch = given[None] if single else given
    noise = None if rng is None else acting.algorithm.explore(rng, len(batch), 1.0)
    if not agent.task:
        raise InputError(
            "the agent's task is unknown, so its action bounds are unknown too. Use `lth.load(run).agent`, or set it: "
            "agent._replace(task='Pendulum-v1')."
        )
    actions = envs.to_own_units(envs.task_interface(agent.task), act(acting.policy, batch, noise))
    chosen: np.ndarray = actions[0] if single else actions
    return chosen


def _same(some: list[Any], others: list[Any]) -> bool:
    """Return whether two lists hold the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def check_observations(given: np.ndarray, observation_dim: int) -> None:
    """Raise InputError unless the observations are numbers that float32 can hold, (observation_dim,) or (n, observation_dim)."""
    if given.ndim not in (1, 2) or given.shape[-1] != observation_dim or given.dtype.kind not in "fiub":
        raise InputError(
            f"`act` needs observations of shape ({observation_dim},) or (n, {observation_dim}), but got {given.dtype} of shape "
            f"{given.shape}"
        )
    with np.errstate(over="ignore"):  # becomes infinite, which is reported below
        finite = np.isfinite(given.astype(np.float32))
    if not finite.all():
        row, at = np.argwhere(~finite.reshape(-1, observation_dim))[0]
        value = given.reshape(-1, observation_dim)[row, at]
        what = "too large for float32" if np.isfinite(value) else "not finite"
        raise InputError(f"the observation is {what} at index {at}: {value}")
