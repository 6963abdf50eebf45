"""The agent: its state, and the compiled call that stores new transitions and learns.

The agent knows nothing of pruning: what keeps a ticket's pruned weights at zero is the state of its optimisers.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..config import SACConfig
from ..pruning.controls import permute_kept
from ..pruning.masks import MaskedState, apply_mask, check_same_structure, keep_pruned_at_zero, set_mask
from ..replay import ReplayBuffer, ReplayState, insert, take_rows, unpack_rows
from ..sparse import Pattern
from ..sparse.mlp import native_mlp
from ..sparse.pattern import Layout
from ..types import Array, Batch, Mask, Params
from .losses import actor_loss, critic_loss, temperature_loss
from .networks import Actor, TwinCritic, gaussian

OBSERVATION_CLIP = 10.0


class Normalizer(NamedTuple):
    """The running mean and variance of the observations, (observation_dim,) each, and how many were seen."""

    mean: jax.Array
    variance: jax.Array
    seen: jax.Array


class SACState(NamedTuple):
    """Everything that training needs and a checkpoint holds."""

    actor_params: Params
    critic_params: Params
    target_critic_params: Params
    log_alpha: jax.Array
    actor_opt: MaskedState
    critic_opt: MaskedState
    alpha_opt: optax.OptState
    normalizer: Normalizer
    key: jax.Array | None  # the agent's own, which training leaves as it is; saliency draws its batches by it
    env_steps: jax.Array  # int32
    grad_steps: jax.Array  # int32


class Agent(NamedTuple):
    """A trained agent: configuration, state and, where it was kept, the replay buffer it learned from."""

    config: SACConfig
    state: SACState
    replay_buffer: ReplayBuffer | None = None

    @property
    def observation_dim(self) -> int:
        """The length of one observation."""
        return int(self.state.normalizer.mean.shape[0])

    @property
    def action_dim(self) -> int:
        """The length of one action."""
        return int(self.state.actor_params["output"]["bias"].shape[0]) // 2

    def __repr__(self) -> str:
        sizes = f"observation_dim={self.observation_dim}, action_dim={self.action_dim}"
        return f"Agent({sizes}, env_steps={int(self.state.env_steps)}, replay_buffer={self.replay_buffer})"


class Functions(NamedTuple):
    """The networks of one configuration as pure functions, and their optimisers."""

    actor_apply: Callable[..., tuple[jax.Array, jax.Array]]
    critic_apply: Callable[..., jax.Array]
    actor_tx: optax.GradientTransformation
    critic_tx: optax.GradientTransformation
    alpha_tx: optax.GradientTransformation


@functools.cache
def functions(config: SACConfig, action_dim: int) -> Functions:
    """Return the networks' apply functions (params without the outer 'params' key) and the optimisers."""
    actor = Actor(config.actor_hidden, action_dim)
    critic = TwinCritic(config.critic_hidden, config.critic_layer_norm)

    def optimiser(learning_rate: float) -> optax.GradientTransformation:
        adam = optax.adam(learning_rate)
        clipped = (
            adam if config.max_grad_norm is None else optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)
        )
        return keep_pruned_at_zero(clipped)

    return Functions(
        lambda params, observations: actor.apply({"params": params}, observations),
        lambda params, observations, actions: critic.apply({"params": params}, observations, actions),
        optimiser(config.actor_learning_rate),
        optimiser(config.critic_learning_rate),
        optax.adam(config.alpha_learning_rate),
    )


class Patterns(NamedTuple):
    """Which weights each network of a packed state keeps."""

    actor: Pattern
    critic: Pattern


def packed_functions(
    config: SACConfig, action_dim: int, layouts: tuple[Layout, Layout], tables: tuple[jax.Array, jax.Array]
) -> Functions:
    """Return the networks as functions of packed vectors, and the same optimisers."""
    actor, critic = (functools.partial(native_mlp, *pair) for pair in zip(layouts, tables, strict=True))
    return functions(config, action_dim)._replace(
        actor_apply=lambda theta, observations: gaussian(actor(theta, observations)),
        critic_apply=lambda theta, observations, actions: critic(theta, observations, actions).T,
    )


def init_state(config: SACConfig, key: jax.Array, observation_dim: int, action_dim: int) -> SACState:
    """Make the state of an untrained agent. The target critics start equal to the critics."""
    return _init_state(config, observation_dim, action_dim)(key)


@functools.cache
def _init_state(config: SACConfig, observation_dim: int, action_dim: int) -> Callable[[jax.Array], SACState]:
    fns = functions(config, action_dim)

    def init(key: jax.Array) -> SACState:
        actor_key, critic_key, key = jax.random.split(key, 3)
        observations, actions = jnp.zeros((1, observation_dim)), jnp.zeros((1, action_dim))
        actor_params = Actor(config.actor_hidden, action_dim).init(actor_key, observations)["params"]
        critic = TwinCritic(config.critic_hidden, config.critic_layer_norm)
        critic_params = critic.init(critic_key, observations, actions)["params"]
        log_alpha = jnp.log(jnp.float32(config.initial_alpha))
        return SACState(
            actor_params=actor_params,
            critic_params=critic_params,
            # A copy: training donates the state, and one buffer cannot be donated twice.
            target_critic_params=jax.tree.map(jnp.copy, critic_params),
            log_alpha=log_alpha,
            actor_opt=fns.actor_tx.init(actor_params),
            critic_opt=fns.critic_tx.init(critic_params),
            alpha_opt=fns.alpha_tx.init(log_alpha),
            normalizer=Normalizer(jnp.zeros(observation_dim), jnp.ones(observation_dim), jnp.zeros(())),
            key=key,
            env_steps=jnp.zeros((), jnp.int32),
            grad_steps=jnp.zeros((), jnp.int32),
        )

    return jax.jit(init)


def update_normalizer(normalizer: Normalizer, observations: jax.Array) -> Normalizer:
    """Merge a batch (n, observation_dim) into the running mean and variance (Chan et al. 1979)."""
    n = observations.shape[0]
    seen = normalizer.seen + n
    mean = jnp.mean(observations, axis=0)
    delta = mean - normalizer.mean
    squares = normalizer.variance * normalizer.seen + jnp.sum((observations - mean) ** 2, axis=0)
    squares = squares + delta**2 * normalizer.seen * n / seen
    return Normalizer(normalizer.mean + delta * (n / seen), squares / seen, seen)


def observation_scale(normalizer: Normalizer) -> jax.Array:
    """Return what centred observations are multiplied by, (observation_dim,)."""
    return jax.lax.rsqrt(normalizer.variance + 1e-8)


def normalize(normalizer: Normalizer, observations: jax.Array) -> jax.Array:
    """Centre, scale and clip observations (n, observation_dim) to [-10, 10]."""
    scaled = (observations - normalizer.mean) * observation_scale(normalizer)
    return jnp.clip(scaled, -OBSERVATION_CLIP, OBSERVATION_CLIP)


def prepare_batch(config: SACConfig, normalizer: Normalizer, batch: Batch, normalize_obs: bool = True) -> Batch:
    """Turn raw transitions into what the losses take: observations normalised, rewards scaled."""
    if config.normalize_obs and normalize_obs:
        batch = batch._replace(
            observations=normalize(normalizer, batch.observations),
            next_observations=normalize(normalizer, batch.next_observations),
        )
    return batch._replace(rewards=batch.rewards * config.reward_scale)


def target_entropy(config: SACConfig, action_dim: int) -> float:
    """Return the entropy that the temperature aims at, in nats (appendix D: minus the number of action dimensions)."""
    return -float(action_dim) if config.target_entropy is None else config.target_entropy


def update(
    config: SACConfig, state: SACState, batch: Batch, noise: Array, fns: Functions | None = None
) -> tuple[SACState, dict[str, jax.Array]]:
    """One gradient step on a raw batch, in the paper's order (algorithm 1): critics, actor, temperature, targets.

    `noise` (2, n, action_dim) is standard normal, for the next actions of the target and for those of the actor's loss.
    `fns` are the networks that the state's parameters belong to, if not those of `functions`.
    """
    action_dim = batch.actions.shape[1]
    fns = fns or functions(config, action_dim)
    batch = prepare_batch(config, state.normalizer, batch)

    (q_loss, q_mean), grads = jax.value_and_grad(critic_loss, has_aux=True)(
        state.critic_params,
        state.target_critic_params,
        state.actor_params,
        state.log_alpha,
        batch,
        noise[0],
        fns.actor_apply,
        fns.critic_apply,
        config.discount,
    )
    updates, critic_opt = fns.critic_tx.update(grads, state.critic_opt, state.critic_params)
    critic_params = optax.apply_updates(state.critic_params, updates)

    (pi_loss, log_prob), grads = jax.value_and_grad(actor_loss, has_aux=True)(
        state.actor_params, critic_params, state.log_alpha, batch, noise[1], fns.actor_apply, fns.critic_apply
    )
    updates, actor_opt = fns.actor_tx.update(grads, state.actor_opt, state.actor_params)
    actor_params = optax.apply_updates(state.actor_params, updates)

    targets = optax.incremental_update(critic_params, state.target_critic_params, config.tau)
    if critic_opt.schedule is not None:
        targets = apply_mask(targets, critic_opt.mask)  # where the mask stays as it is, they are 0.0 already

    grad = jax.grad(temperature_loss)(state.log_alpha, log_prob, target_entropy(config, action_dim))
    updates, alpha_opt = fns.alpha_tx.update(grad, state.alpha_opt)
    log_alpha = optax.apply_updates(state.log_alpha, updates)

    state = state._replace(
        actor_params=actor_params,
        critic_params=critic_params,
        target_critic_params=targets,
        log_alpha=log_alpha,
        actor_opt=actor_opt,
        critic_opt=critic_opt,
        alpha_opt=alpha_opt,
        grad_steps=state.grad_steps + 1,
    )
    metrics = {
        "critic_loss": q_loss,
        "actor_loss": pi_loss,
        "alpha": jnp.exp(log_alpha),
        "entropy": -log_prob,
        "q_mean": q_mean,
    }
    return state, metrics


def flat_policy(config: SACConfig, state: SACState) -> jax.Array:
    """Lay out what acting needs as one float32 vector: the normaliser's mean and scale, then each layer's kernel and bias.

    A fresh array, so that the host can look at it while the state itself is donated to the next call. Of a packed actor
    its one vector stands in the place of the layers.
    """
    n = state.normalizer
    scale = observation_scale(n)
    head = [n.mean, scale] if config.normalize_obs else [jnp.zeros_like(n.mean), jnp.ones_like(scale)]
    if isinstance(state.actor_params, jax.Array):
        return jnp.concatenate([*head, state.actor_params])
    layers = [state.actor_params[name] for name in layer_order(config)]
    return jnp.concatenate([*head, *(x.ravel() for layer in layers for x in (layer["kernel"], layer["bias"]))])


def layer_order(config: SACConfig) -> list[str]:
    """Return the names of the actor's layers from the observation to the action."""
    return [*(f"layer_{i}" for i in range(len(config.actor_hidden))), "output"]


class Draws(NamedTuple):
    """What chance decides in a number of updates."""

    indices: np.ndarray  # (updates, batch_size) int32: rows of the replay buffer, uniform with replacement
    noise: np.ndarray  # (updates, 2, batch_size, action_dim) float32, standard normal


def draw(rng: np.random.Generator, updates: int, batch_size: int, size: int, action_dim: int) -> Draws:
    """Draw for updates on a replay buffer that holds `size` transitions.

    On the host, because threefry and the inverse error function take XLA a tenth of a whole update on a CPU.
    """
    return Draws(
        rng.integers(0, size, (updates, batch_size), np.int32),
        rng.standard_normal((updates, 2, batch_size, action_dim), np.float32),
    )


Learner = Callable[
    [SACState, ReplayState, np.ndarray, Draws], tuple[SACState, ReplayState, jax.Array, dict[str, jax.Array]]
]


def learner(config: SACConfig, observation_dim: int, patterns: Patterns | None = None) -> Learner:
    """Compile the hot call: insert transitions, update the normaliser, then gather and learn for each row of `Draws`.

    The call takes (state, replay, rows, draws) with rows (n, width) as from `pack_rows`, donates the first two, and returns
    both anew with the policy as one vector and the metrics of the last update. With `patterns` the state is a packed one.
    """
    tables = None if patterns is None else tuple(jnp.asarray(pattern.table) for pattern in patterns)
    compiled = _learner(config, observation_dim, patterns and (patterns.actor.layout, patterns.critic.layout))

    def call(
        state: SACState, replay: ReplayState, rows: np.ndarray, draws: Draws
    ) -> tuple[SACState, ReplayState, jax.Array, dict[str, jax.Array]]:
        # The key stays behind: dispatch is slower with a typed key among the arguments.
        key = state.key
        state, replay, policy, metrics = compiled(state._replace(key=None), replay, rows, draws, tables)
        return state._replace(key=key), replay, policy, metrics

    return call


@functools.cache
def _learner(config: SACConfig, observation_dim: int, layouts: tuple[Layout, Layout] | None) -> Callable[..., Any]:
    def learn(
        state: SACState, replay: ReplayState, rows: jax.Array, draws: Draws, tables: tuple[jax.Array, jax.Array] | None
    ) -> tuple[SACState, ReplayState, jax.Array, dict[str, jax.Array]]:
        replay = insert(replay, rows)
        state = state._replace(
            normalizer=update_normalizer(state.normalizer, rows[:, :observation_dim]),
            env_steps=state.env_steps + rows.shape[0],
        )
        fns = packed_functions(config, draws.noise.shape[-1], layouts, tables) if layouts and tables else None

        def step(state: SACState, draw: Draws) -> tuple[SACState, dict[str, jax.Array]]:
            batch = unpack_rows(take_rows(replay, draw.indices), observation_dim)
            return update(config, state, batch, draw.noise, fns)

        if draws.indices.shape[0] == 1:
            state, metrics = step(state, Draws(draws.indices[0], draws.noise[0]))
        else:
            state, many = jax.lax.scan(step, state, draws)
            metrics = {name: values[-1] for name, values in many.items()}
        return state, replay, flat_policy(config, state), metrics

    return jax.jit(learn, donate_argnums=(0, 1))


def make_ticket(state: SACState, actor_mask: Mask, critic_mask: Mask) -> SACState:
    """Put masks on a state: pruned weights, their targets and their Adam moments become 0.0 and stay so in training.

    Raises:
        InputError: a mask does not fit its network (naming the leaf and both shapes).
    """
    check_same_structure(actor_mask, state.actor_params, "the actor's mask", "the actor's")
    check_same_structure(critic_mask, state.critic_params, "the critic's mask", "the critic's")
    return state._replace(
        actor_params=apply_mask(state.actor_params, actor_mask),
        critic_params=apply_mask(state.critic_params, critic_mask),
        target_critic_params=apply_mask(state.target_critic_params, critic_mask),
        actor_opt=set_mask(state.actor_opt, actor_mask, state.actor_params),
        critic_opt=set_mask(state.critic_opt, critic_mask, state.critic_params),
    )


def permuted_ticket(state: SACState, actor_key: jax.Array, critic_key: jax.Array) -> SACState:
    """Permute a ticket's kept weights within each layer, with their targets and moments (`permute_kept`)."""

    def moved(name: str, key: jax.Array, more: tuple[str, ...] = ()) -> dict[str, Any]:
        opt, params = getattr(state, f"{name}_opt"), getattr(state, f"{name}_params")
        treedef: Any = jax.tree.structure(params)
        fields = [f"{name}_params", *more]

        def like_params(node: Any) -> bool:
            return jax.tree.structure(node) == treedef

        inner: Any
        nodes, inner = jax.tree.flatten(opt.inner, is_leaf=like_params)
        moments = [i for i, node in enumerate(nodes) if like_params(node)]
        trees = permute_kept([*(getattr(state, f) for f in fields), *(nodes[i] for i in moments)], opt.mask, key)
        trees = jax.tree.map(jnp.asarray, trees)
        for i, tree in zip(moments, trees[len(fields) :], strict=True):
            nodes[i] = tree
        return {**dict(zip(fields, trees, strict=False)), f"{name}_opt": opt._replace(inner=inner.unflatten(nodes))}

    return state._replace(**moved("actor", actor_key), **moved("critic", critic_key, ("target_critic_params",)))


def masks_of(state: SACState) -> dict[str, Mask]:
    """Return the masks under which a state trains, `{"actor": ..., "critic": ...}`; all ones for a dense agent."""

    def like(mask: Mask, params: Params) -> Mask:
        return jax.tree.map(lambda m, p: m.astype(p.dtype), mask, params)

    return {
        "actor": like(state.actor_opt.mask, state.actor_params),
        "critic": like(state.critic_opt.mask, state.critic_params),
    }
