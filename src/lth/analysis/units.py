"""Dead and dormant hidden units on transitions of the agent's replay buffer."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ..algorithms.base import Agent, AgentState, Algorithm
from ..algorithms.networks import module_of
from ..errors import InputError
from ..replay import ReplayBuffer, take_rows, unpack_rows
from ..types import Batch
from .paths import layer_order, networks_of

TRANSITIONS = 2048
"""The number of transitions used."""
TAU = 0.025
"""A unit is dormant if its normalized activity is at most this (Sokar et al. 2023)."""


class Units(NamedTuple):
    """The hidden units of one layer on a batch."""

    active: np.ndarray  # (units,) float: the share of transitions on which the unit's output is above zero
    activity: np.ndarray  # (units,) float: its mean output, divided by the mean over the units of the layer

    @property
    def dead(self) -> np.ndarray:
        """Whether each unit is zero on every transition, (units,) bool."""
        return np.asarray(self.active == 0.0)

    @property
    def dormant(self) -> np.ndarray:
        """Whether each unit is TAU-dormant, (units,) bool; dead units are dormant too."""
        return np.asarray(self.activity <= TAU)


def spread_batch(buffer: ReplayBuffer, transitions: int = TRANSITIONS) -> Batch:
    """Return evenly spaced transitions of a replay buffer, at most all; deterministic.

    Raises:
        InputError: the buffer is empty.
    """
    size = len(buffer)
    if size == 0:
        raise InputError("the replay buffer is empty; train the agent first")
    n = min(size, transitions)
    rows = np.asarray(_take_rows(buffer.state, (np.arange(n, dtype=np.int64) * size // n).astype(np.int32)))
    return unpack_rows(rows, buffer.observation_dim)


_take_rows = jax.jit(take_rows)


def hidden_units(agent: Agent, batch: Batch) -> dict[str, dict[str, Units]]:
    """Measure the activity of the hidden units of an agent's networks on raw transitions.

    The score of unit i is E|h_i| / mean_k E|h_k| over the units k of its layer (Sokar et al. 2023, eq. 1,
    https://arxiv.org/abs/2302.12902); h is the output of the ReLU. In a layer that is zero throughout all scores are 0.
    Networks that read actions are given those of the transitions.

    >>> agent, replay_buffer, _ = lth.load(run)  # doctest: +SKIP
    >>> int(hidden_units(agent, replay_buffer.sample(2048))["actor"]["layer_0"].dead.sum())  # doctest: +SKIP

    Args:
        agent: an agent of any algorithm.
        batch: raw transitions, as a replay buffer stores them.

    Returns:
        `Units` by network and layer: `found["actor"]["layer_0"]`.
    """
    outputs = _relu_outputs(agent.algorithm)(agent.state, batch)
    return {
        name: {layer: units_of(np.asarray(values)) for layer, values in found.items()}
        for name, found in outputs.items()
    }


@functools.cache
def _relu_outputs(algorithm: Algorithm) -> Callable[[AgentState, Batch], dict[str, dict[str, jax.Array]]]:
    """Compile a function that returns the ReLU outputs of each hidden layer, (n, units), by network and layer."""

    def outputs(state: AgentState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
        batch = algorithm.prepare(state.normalizer, batch)
        found: dict[str, dict[str, jax.Array]] = {}
        for name, about in algorithm.networks.items():
            inputs = [getattr(batch, field) for field in about.inputs]
            _, seen = module_of(about).apply(
                {"params": state.params[name]}, *inputs, capture_intermediates=True, mutable=["intermediates"]
            )
            found[name] = {
                prefix + layer: jax.nn.relu(network.get(f"norm_{i}", network[layer])["__call__"][0])
                for prefix, network in networks_of(seen["intermediates"]).items()
                for i, layer in enumerate(layer_order(network)[:-1])
            }
        return found

    return jax.jit(outputs)


def units_of(outputs: np.ndarray) -> Units:
    """Describe the units of a layer from its ReLU outputs, (n, units).

    >>> import numpy as np
    >>> found = units_of(np.array([[0.0, 1.0, 0.02], [0.0, 3.0, 0.02]]))
    >>> found.dead.tolist(), found.dormant.tolist(), found.active.tolist()
    ([True, False, False], [True, False, False], [0.0, 1.0, 1.0])
    """
    mean = np.abs(outputs).mean(axis=0, dtype=np.float64)
    whole = mean.mean()
    return Units((outputs > 0).mean(axis=0), mean / whole if whole > 0 else mean)
