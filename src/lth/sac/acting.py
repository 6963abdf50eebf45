"""The policy outside of JAX, whose dispatch alone takes several times as long as one observation needs."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..config import SACConfig
from ..sparse.native import one_example
from .agent import OBSERVATION_CLIP, Agent, Patterns, flat_policy
from .networks import LOG_STD_RANGE


class Policy(NamedTuple):
    """What acting needs, on views into the vector of `flat_policy`."""

    mean: np.ndarray  # (observation_dim,)
    scale: np.ndarray  # (observation_dim,)
    network: Callable[[np.ndarray], np.ndarray]  # (n, observation_dim) normalised -> (n, 2 * action_dim)
    clip: float  # normalised observations are clipped to [-clip, clip]


Reader = Callable[[np.ndarray], Policy]


def policy_reader(config: SACConfig, observation_dim: int, action_dim: int, patterns: Patterns | None = None) -> Reader:
    """Return what makes a Policy of the vector of `flat_policy`, copying nothing; with `patterns` that of a packed state."""
    clip = OBSERVATION_CLIP if config.normalize_obs else np.inf
    network = (
        _dense_network([observation_dim, *config.actor_hidden, 2 * action_dim])
        if patterns is None
        else _sparse_network(one_example(patterns.actor.table), 2 * action_dim)
    )

    def read(flat: np.ndarray) -> Policy:
        mean, scale, weights = np.split(flat, (observation_dim, 2 * observation_dim))
        return Policy(mean, scale, network(weights), clip)

    return read


def _dense_network(sizes: list[int]) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def of(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        layers, at = [], 0
        for rows, columns in pairwise(sizes):
            kernel = weights[at : at + rows * columns].reshape(rows, columns)
            at += rows * columns
            layers.append((kernel, weights[at : at + columns]))
            at += columns

        def network(x: np.ndarray) -> np.ndarray:
            for kernel, bias in layers[:-1]:
                x = np.maximum(x @ kernel + bias, 0.0)
            kernel, bias = layers[-1]
            return np.asarray(x @ kernel + bias)

        return network

    return of


def _sparse_network(
    one: Callable[..., None], outputs: int
) -> Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def of(theta: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        def network(x: np.ndarray) -> np.ndarray:
            y = np.empty((len(x), outputs), np.float32)
            for row, out in zip(np.ascontiguousarray(x), y, strict=True):
                one(theta, row, out)
            return y

        return network

    return of


def policy_of(agent: Agent) -> Policy:
    """Return an agent's policy, with whole matrices."""
    flat = np.asarray(flat_policy(agent.config, agent.state))
    return policy_reader(agent.config, agent.observation_dim, agent.action_dim)(flat)


def act(policy: Policy, observations: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    """Choose actions in [-1, 1], (n, action_dim) float32, for raw observations (n, observation_dim).

    With standard normal `noise` (n, action_dim) they are sampled; without, they are the tanh of the mean.
    """
    x = (observations.astype(np.float32) - policy.mean) * policy.scale
    x = policy.network(np.minimum(np.maximum(x, -policy.clip), policy.clip))
    action_dim = x.shape[1] // 2
    if noise is None:
        return np.tanh(x[:, :action_dim])
    return np.tanh(x[:, :action_dim] + np.exp(np.clip(x[:, action_dim:], *LOG_STD_RANGE)) * noise.astype(np.float32))
