"""The compiled call that stores transitions and updates the networks."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..replay import ReplayState, insert, take_rows, unpack_rows
from ..types import Array, Batch
from .base import AgentState, Algorithm, observation_scale, update_normalizer
from .networks import Apply
from .packed import Layouts, Patterns, layouts_of, packed_applies


def update(
    algorithm: Algorithm, state: AgentState, batch: Batch, noise: Array, apply: dict[str, Apply] | None = None
) -> tuple[AgentState, dict[str, jax.Array]]:
    """Take one gradient step on a raw batch; `noise` is standard normal, of the shape `algorithm.noise_shape(n)`.

    `apply` replaces the networks of whole matrices, for packed states.
    """
    batch = algorithm.prepare(state.normalizer, batch)
    return algorithm.update(state, batch, noise, apply or algorithm.applies())


@functools.partial(jax.jit, static_argnums=0, inline=True)
def flat_policy(algorithm: Algorithm, state: AgentState) -> jax.Array:
    """Return the policy as one float32 vector: the normalizer's mean and scale, then each layer's kernel and bias.

    The array is new, so that the host can read it while the state is donated to the next call. For a packed network, its vector
    replaces the layers.
    """
    n, params = state.normalizer, state.params[algorithm.policy]
    scale = observation_scale(n)
    head = [n.mean, scale] if algorithm.config.normalize_obs else [jnp.zeros_like(n.mean), jnp.ones_like(scale)]
    if isinstance(params, jax.Array):
        return jnp.concatenate([*head, params])
    layers = [params[name] for name in layer_order(algorithm)]
    parts = [x.ravel() for layer in layers for part in _PARTS if part in layer for x in (layer[part],)]
    return jnp.concatenate([*head, *parts])


_PARTS = ("kernel", "scale", "bias")


def layer_order(algorithm: Algorithm) -> list[str]:
    """Return the names of the policy network's layers, including norms, from input to output."""
    network = algorithm.networks[algorithm.policy]
    norms = ["norm_{}"] if network.layer_norm else []
    hidden = [name.format(i) for i in range(len(network.hidden)) for name in ("layer_{}", *norms)]
    return [*hidden, "output"]


class Draws(NamedTuple):
    """The random numbers of several updates."""

    indices: Array  # (updates, batch_size) int32: rows of the replay buffer, uniform with replacement
    noise: Array  # (updates, *noise_shape(batch_size)) float32, standard normal


def draw(algorithm: Algorithm, rng: Any, updates: int, batch_size: int, size: Any) -> Draws:
    """Draw the random numbers for updates on a replay buffer with `size` transitions.

    Drawn on the host, by a `numpy.random.Generator`, because threefry and the inverse error function take a tenth of an update in
    XLA on a CPU; by a `DeviceGenerator` where the environments live on the device.
    """
    return Draws(
        rng.integers(0, size, (updates, batch_size), np.int32),
        rng.standard_normal((updates, *algorithm.noise_shape(batch_size)), np.float32),
    )


Learner = Callable[
    [AgentState, ReplayState, np.ndarray, Draws], tuple[AgentState, ReplayState, jax.Array, dict[str, jax.Array]]
]


def learner(algorithm: Algorithm, patterns: Patterns | None = None) -> Learner:
    """Compile the training step: insert transitions, update the normalizer, then sample and update for each row of `Draws`.

    The function takes (state, replay, rows, draws), with rows (n, width) from `pack_rows`, and donates state and replay. It returns
    the new state and replay, the policy as one vector, and the metrics of the last update. With `patterns`, the state is packed.
    """
    tables = None if patterns is None else {name: jax.device_put(pattern.table) for name, pattern in patterns.items()}
    compiled = _learner(algorithm, None if patterns is None else layouts_of(patterns))

    def call(
        state: AgentState, replay: ReplayState, rows: np.ndarray, draws: Draws
    ) -> tuple[AgentState, ReplayState, jax.Array, dict[str, jax.Array]]:
        # The key is not passed: dispatch is slower with a typed key among the arguments.
        key = state.key
        state, replay, policy, metrics = compiled(state._replace(key=None), replay, rows, draws, tables)
        return state._replace(key=key), replay, policy, metrics

    return call


@functools.cache
def _learner(algorithm: Algorithm, layouts: Layouts | None) -> Callable[..., Any]:
    def learn(
        state: AgentState, replay: ReplayState, rows: jax.Array, draws: Draws, tables: dict[str, jax.Array] | None
    ) -> tuple[AgentState, ReplayState, jax.Array, dict[str, jax.Array]]:
        state, replay = stored(algorithm, state, replay, rows)
        apply = packed_applies(algorithm, layouts, tables) if layouts and tables else None
        state, metrics = updated(algorithm, state, replay, draws, apply)
        return state, replay, flat_policy(algorithm, state), metrics

    return jax.jit(learn, donate_argnums=(0, 1))


def stored(algorithm: Algorithm, state: AgentState, replay: ReplayState, rows: Array) -> tuple[AgentState, ReplayState]:
    """Store transitions, (n, width) from `pack_rows`: in the replay buffer and in the normalizer's statistics."""
    observations = rows[:, : algorithm.spaces.observation_dim]
    state = state._replace(
        normalizer=update_normalizer(state.normalizer, observations), env_steps=state.env_steps + rows.shape[0]
    )
    return state, insert(replay, rows)


def updated(
    algorithm: Algorithm,
    state: AgentState,
    replay: ReplayState,
    draws: Draws,
    apply: dict[str, Apply] | None = None,
) -> tuple[AgentState, dict[str, jax.Array]]:
    """Update the networks once for each row of `Draws`; also returns the metrics of the last update, none without any."""

    def step(state: AgentState, draw: Draws) -> tuple[AgentState, dict[str, jax.Array]]:
        batch = unpack_rows(take_rows(replay, draw.indices), algorithm.spaces.observation_dim)
        return update(algorithm, state, batch, draw.noise, apply)

    if draws.indices.shape[0] == 0:
        return state, {}
    if draws.indices.shape[0] == 1:
        return step(state, Draws(draws.indices[0], draws.noise[0]))
    state, many = jax.lax.scan(step, state, draws)
    return state, {name: values[-1] for name, values in many.items()}
