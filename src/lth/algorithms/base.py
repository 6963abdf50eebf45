"""The base of all algorithms: the agent state keyed by network, its initialization, and its optimizers.

Algorithms do not depend on pruning: the optimizer states keep a ticket's pruned weights at zero.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import InputError
from ..pruning.masks import MaskedState, apply_mask, keep_pruned_at_zero
from ..replay import ReplayBuffer
from ..types import Array, ArrayLike, Batch, Params
from .architecture import AgentConfig, Network, Spaces
from .networks import Apply, apply_of, module_of

OBSERVATION_CLIP = 10.0


class Normalizer(NamedTuple):
    """The running mean and variance of observations, (observation_dim,) each, and their number, at most MOST_SEEN."""

    mean: jax.Array
    variance: jax.Array
    seen: jax.Array


MOST_SEEN = 2.0**20
"""The weight of earlier observations in a normalizer. In float32, more of them would hide the next: 2**24 + 1 is 2**24."""


class AgentState(NamedTuple):
    """The complete training state of an agent, which a checkpoint stores."""

    params: dict[str, Params]
    """The parameters by network: what can be pruned."""
    targets: dict[str, Params]
    """The target networks, by network."""
    values: dict[str, jax.Array]
    """Other learned values, such as the temperature."""
    opts: dict[str, Any]
    """A MaskedState for each network, and an optimizer state for each learned value."""
    normalizer: Normalizer
    """The running mean and variance of observations."""
    key: jax.Array | None
    """Constant during training; saliency draws its batches with it."""
    env_steps: jax.Array
    """Environment steps so far, int32."""
    grad_steps: jax.Array
    """Gradient steps so far, int32."""

    @property
    def actor_params(self) -> Params:
        """The actor's parameters, if the algorithm has one (docs/saliency-pruning.md)."""
        return _named(self.params, "actor")

    @property
    def critic_params(self) -> Params:
        """The critics' parameters, if the algorithm has any (docs/saliency-pruning.md)."""
        return _named(self.params, "critic")


def _named(params: Mapping[str, Params], network: str) -> Params:
    if network not in params:
        raise InputError(
            f"this agent has no network {network!r}; it has {', '.join(params)}. Use `state.params[name]`, and "
            "`lth.gradient_statistics(agent, replay_buffer)` for gradients by network"
        )
    return params[network]


@dataclasses.dataclass(frozen=True)
class Algorithm(abc.ABC):
    """An algorithm for one environment: a hashable value that is the static argument of every compiled call.

    A subclass implements learning (`losses`, `update`) and acting (`act`, `explore`); `config` describes its networks. `losses` and
    `update` take batches from `prepare`: observations are normalized, rewards are scaled.
    """

    config: AgentConfig
    spaces: Spaces

    @property
    def networks(self) -> dict[str, Network]:
        """The networks by name."""
        return self.config.networks(self.spaces)

    @property
    def policy(self) -> str:
        """The name of the network that acts."""
        return self.config.POLICY

    @abc.abstractmethod
    def losses(
        self, state: AgentState, params: dict[str, Params], batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> dict[str, jax.Array]:
        """Return the training loss of each network on a prepared batch.

        The gradient of their sum with respect to `params[name]` is the gradient of that network's loss alone. Targets and other
        learned values are taken from `state`. `noise` has the shape of `noise_shape`.
        """

    @abc.abstractmethod
    def update(
        self, state: AgentState, batch: Batch, noise: Array, apply: dict[str, Apply]
    ) -> tuple[AgentState, dict[str, jax.Array]]:
        """Take one gradient step on a prepared batch and count it; also returns the metrics of the step."""

    @abc.abstractmethod
    def noise_shape(self, n: int) -> tuple[int, ...]:
        """Return the shape of the standard normal noise for an update on n transitions."""

    @abc.abstractmethod
    def act(self, output: Array, noise: Array | None) -> Array:
        """Return actions (n, action_width) float32 for the policy network's output (n, outputs).

        Without noise, returns the deterministic actions that evaluations use; `noise` comes from `explore`. The arrays are NumPy's,
        or JAX's in batches of runs: take functions from `namespace_of(output)`, as in `xp.tanh(output)`.
        """

    @abc.abstractmethod
    def explore(self, rng: Any, n: int, progress: Any) -> Array:
        """Draw exploration noise for `act` in n environments; `progress` in [0, 1] is the share of environment steps done.

        `rng` is a `numpy.random.Generator`, or `randomness.DeviceGenerator` for environments on the device, which has its methods
        `random`, `uniform`, `integers` and `standard_normal`.
        """

    def random_actions(self, rng: Any, n: int) -> Array:
        """Draw uniform actions, (n, action_width) float32."""
        return self.spaces.random_actions(rng, n)

    def initial_values(self) -> dict[str, tuple[str, jax.Array, optax.GradientTransformation]]:
        """Return the learned values that are not networks: name -> (optimizer name, initial value, optimizer)."""
        return {}

    def optimizer(self, network: str) -> optax.GradientTransformation:
        """Return the optimizer of a network."""
        about = self.networks[network]
        rate: Any = about.learning_rate
        if about.decay_steps is not None:
            rate = optax.linear_schedule(rate, 0.0, about.decay_steps)
        adam = optax.adam(rate)
        norm = self.config.max_grad_norm
        return keep_pruned_at_zero(adam if norm is None else optax.chain(optax.clip_by_global_norm(norm), adam))

    def applies(self) -> dict[str, Apply]:
        """Return the networks as pure functions of whole matrices, by name."""
        return _applies(self)

    def init(self, key: jax.Array) -> AgentState:
        """Return the state of an untrained agent. Targets start equal to their networks."""
        return _init(self)(key)

    def prepare(self, normalizer: Normalizer, batch: Batch, normalize_obs: bool = True) -> Batch:
        """Normalize observations and scale rewards of raw transitions."""
        if self.config.normalize_obs and normalize_obs:
            batch = batch._replace(
                observations=normalize(normalizer, batch.observations),
                next_observations=normalize(normalizer, batch.next_observations),
            )
        return batch._replace(rewards=batch.rewards * self.config.reward_scale)

    def descend(self, state: AgentState, network: str, gradients: Params) -> tuple[Params, MaskedState]:
        """Take one optimizer step; returns the network's parameters and its optimizer's state."""
        updates, opt = self.optimizer(network).update(gradients, state.opts[network], state.params[network])
        return optax.apply_updates(state.params[network], updates), opt


@functools.cache
def _applies(algorithm: Algorithm) -> dict[str, Apply]:
    return {name: apply_of(network) for name, network in algorithm.networks.items()}


@functools.cache
def _init(algorithm: Algorithm) -> Callable[[jax.Array], AgentState]:
    networks = algorithm.networks

    def init(key: jax.Array) -> AgentState:
        *keys, key = jax.random.split(key, len(networks) + 1)
        params = {}
        for (name, network), its_key in zip(networks.items(), keys, strict=True):
            inputs = jnp.zeros((1, network.input_width(algorithm.spaces)))
            params[name] = module_of(network).init(its_key, inputs)["params"]
        learned = algorithm.initial_values()
        observation_dim = algorithm.spaces.observation_dim
        return AgentState(
            params=params,
            # Copied, because training donates the state and a buffer cannot be donated twice.
            targets={name: jax.tree.map(jnp.copy, params[name]) for name, n in networks.items() if n.target},
            values={name: value for name, (_, value, _) in learned.items()},
            opts={
                # Dense by design: no warning about a missing mask.
                **{name: algorithm.optimizer(name).init(params[name])._replace(unset=None) for name in networks},
                **{opt: tx.init(value) for opt, value, tx in learned.values()},
            },
            normalizer=Normalizer(jnp.zeros(observation_dim), jnp.ones(observation_dim), jnp.zeros(())),
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            grad_steps=jnp.zeros((), jnp.int32),
        )

    return jax.jit(init)


def update_normalizer(normalizer: Normalizer, observations: jax.Array) -> Normalizer:
    """Merge a batch (n, observation_dim) into the running mean and variance (Chan et al. 1979).

    Once MOST_SEEN observations are in, they decay exponentially.
    """
    n = observations.shape[0]
    seen = normalizer.seen + n
    mean = jnp.mean(observations, axis=0)
    delta = mean - normalizer.mean
    squares = normalizer.variance * normalizer.seen + jnp.sum((observations - mean[None]) ** 2, axis=0)
    squares = squares + delta**2 * normalizer.seen * n / seen
    return Normalizer(normalizer.mean + delta * (n / seen), squares / seen, jnp.minimum(seen, MOST_SEEN))


def observation_scale(normalizer: Normalizer) -> jax.Array:
    """Return the factors for centered observations, (observation_dim,)."""
    return jax.lax.rsqrt(normalizer.variance + 1e-8)


def normalize(normalizer: Normalizer, observations: jax.Array) -> jax.Array:
    """Center and scale observations (n, observation_dim), and clip them to [-10, 10]."""
    scaled = (observations - normalizer.mean[None]) * observation_scale(normalizer)[None]
    return jnp.clip(scaled, -OBSERVATION_CLIP, OBSERVATION_CLIP)


def moved_target(params: Params, target: Params, opt: MaskedState, tau: float) -> Params:
    """Return a target moved towards its network by `tau` (Polyak averaging); what is pruned there stays exactly 0.0.

    >>> params = {"w": jnp.ones((1, 2))}
    >>> opt = keep_pruned_at_zero(optax.sgd(1.0)).init(params)
    >>> moved_target(params, {"w": jnp.zeros((1, 2))}, opt, 0.25)["w"].tolist()
    [[0.25, 0.25]]

    Args:
        params: the network's parameters.
        target: a tree like `params`.
        opt: the state of the network's optimizer, which holds the mask.
        tau: the share that is moved, in [0, 1]; 1.0 copies the network.
    """
    return pruned_target(optax.incremental_update(params, target, tau), opt)


def pruned_target(target: Params, opt: MaskedState) -> Params:
    """Return a target without newly pruned weights of a schedule; with a fixed mask, they are already 0.0."""
    return target if opt.schedule is None or opt.mask is None else apply_mask(target, opt.mask)


class Agent(NamedTuple):
    """A trained agent: its configuration, its state and, if available, its replay buffer."""

    config: AgentConfig
    """The settings."""
    state: AgentState
    """Networks, targets, optimizers and counters."""
    replay_buffer: ReplayBuffer | None = None
    """What it learned from; None where that was deleted."""
    task: str = ""
    """The task it was trained on, which defines the units of its actions; empty if unknown."""

    def act(self, observation: ArrayLike, rng: np.random.Generator | None = None) -> np.ndarray:
        """Choose an action, in the environment's units.

        >>> import lth
        >>> agent = lth.load("results/quickstart/Pendulum-v1/seed0/dense-05d4c8ff").agent  # doctest: +SKIP
        >>> agent.act(observation)  # doctest: +SKIP
        array([1.8], dtype=float32)

        Args:
            observation: a raw observation of the environment, (observation_dim,), or a batch (n, observation_dim).
            rng: explore as at the end of training, with this generator. None: the deterministic action that evaluations use.

        Returns:
            The action within the environment's bounds, (action_dim,) float32, or (n, action_dim) for a batch. For discrete
            actions, one int64, or (n,) int64.

        Raises:
            InputError: the observation has the wrong length or is not finite in float32, or the agent's task is unknown.
        """
        from .acting import choose

        return choose(self, observation, rng)

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that trained it."""
        return algorithm_of(self)

    @property
    def observation_dim(self) -> int:
        """The length of one observation."""
        return self.algorithm.spaces.observation_dim

    @property
    def action_dim(self) -> int:
        """The length of one action, or the number of discrete actions."""
        return self.algorithm.spaces.action_dim

    def __repr__(self) -> str:
        sizes = f"observation_dim={self.observation_dim}, action_dim={self.action_dim}"
        name = f"{self.config.NAME}, " if self.config.NAME != "SAC" else ""
        return f"Agent({name}{sizes}, env_steps={int(self.state.env_steps)}, replay_buffer={self.replay_buffer})"


def algorithm_of(agent: Any) -> Algorithm:
    """Return the algorithm of an object with `.config` and `.state`."""
    bias = agent.state.params[agent.config.POLICY]["output"]["bias"]
    spaces = agent.config.spaces(int(agent.state.normalizer.mean.shape[0]), int(bias.shape[0]))
    algorithm: Algorithm = agent.config.build(spaces)
    return algorithm
