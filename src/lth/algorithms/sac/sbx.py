"""Masks for a SAC agent of SBX (https://github.com/araffin/sbx), which keeps training with them.

    masks = prune_sbx(model, 0.9, "taylor")
    set_masks(model, masks)
    model.learn(50_000, reset_num_timesteps=False)

`model` is an `sbx.SAC` with dense layers and flat observations. Only its parameters and optimizers change.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import InputError
from ...pruning.criteria import CriterionName, criterion_named
from ...pruning.gradients import gradient_statistic
from ...pruning.layers import named_leaves
from ...pruning.masks import MaskedState, check_same_structure
from ...pruning.prune import prune
from ...pruning.sbx import MaskedUpdate, put_masks
from ...types import Batch, Mask, Params
from .losses import actor_loss, critic_loss

_STATES = {"actor": "actor_state", "critic": "qf_state"}


def prune_sbx(
    model: Any,
    sparsity: float | Mapping[str, float],
    criterion: CriterionName | str = "magnitude",
    *,
    num_batches: int = 100,
    batch_size: int = 256,
    seed: int = 0,
    pool: bool = False,
    prev_mask: Mapping[str, Mask] | None = None,
    **how: Any,
) -> dict[str, Mask]:
    """Make masks for an SBX agent's actor and critics, `{"actor": ..., "critic": ...}`. The agent is not changed.

    Gradients are those of SBX's actor and critic losses over batches of its replay buffer. Weights that are already pruned stay
    pruned.

    >>> masks = lth.sbx.prune_sbx(model, 0.9, "taylor")  # doctest: +SKIP

    Args:
        model: an `sbx.SAC`.
        sparsity: of both networks, or {"actor": a, "critic": c}.
        criterion: a key of `CRITERIA`, or a custom Criterion as `package.module:name`.
        num_batches: the number of batches for gradients.
        batch_size: transitions per batch, drawn with replacement.
        seed: the seed of the batches, and of the criterion random.
        pool: prune both networks jointly to one sparsity.
        prev_mask: earlier masks, `{"actor": ..., "critic": ...}`; None: those under which the agent learns (`masks_of`).
        how: further arguments of `prune`: allocation, exclude, rounds, invert, collapse.

    Returns:
        Masks like the parameters of the actor and of the critics, 1 kept and 0 pruned.

    Raises:
        InputError: see `prune`; or the replay buffer is empty or of an unsupported kind.
    """
    params = {"actor": model.policy.actor_state.params, "critic": model.policy.qf_state.params}
    if isinstance(sparsity, Mapping):
        _check_networks(sparsity, "sparsity")
    if prev_mask is not None:
        _check_networks(prev_mask, "prev_mask")
    row = criterion_named(criterion)
    gathered: dict[str, Any] = {"actor": None, "critic": None}
    if row.takes_gradients:
        batches = _batches(model, num_batches, batch_size, seed)
        gathered = gradient_statistic(_loss(model), params, batches, str(row.statistic))
    given = {"loss": _flow, "batches": [np.ones(())], **how}
    before, key = masks_of(model) if prev_mask is None else dict(prev_mask), jax.random.key(seed)
    if pool:
        if isinstance(sparsity, Mapping):
            raise InputError("pool=True needs one sparsity for both networks; pass a number")
        gradients = gathered if gathered["actor"] is not None else None
        return dict(prune(params, sparsity, criterion, gradients=gradients, key=key, prev_mask=before, **given))
    masks = {}
    for i, (network, tree) in enumerate(params.items()):
        share = sparsity[network] if isinstance(sparsity, Mapping) else sparsity
        its_key, its_gradients = jax.random.fold_in(key, i), gathered[network]
        masks[network] = prune(
            tree, share, criterion, gradients=its_gradients, key=its_key, prev_mask=before[network], **given
        )
    return masks


def masks_of(model: Any) -> dict[str, Mask]:
    """Return the masks under which an SBX agent learns, `{"actor": ..., "critic": ...}`; all ones if none was set.

    >>> lth.compute_sparsity(lth.sbx.masks_of(model)["actor"])  # doctest: +SKIP

    Args:
        model: an `sbx.SAC`.
    """

    def mask_of(state: Any) -> Mask:
        if isinstance(state.tx.update, MaskedUpdate):
            kept = state.tx.update.kept
        elif isinstance(state.opt_state.inner_state, MaskedState):  # of a model that lth 0.2 masked
            kept = state.opt_state.inner_state.mask
        else:
            return jax.tree.map(jnp.ones_like, state.params)
        return jax.tree.map(lambda m, p: m.astype(p.dtype), kept, state.params)

    return {network: mask_of(getattr(model.policy, name)) for network, name in _STATES.items()}


def set_masks(model: Any, masks: Mapping[str, Mask]) -> None:
    """Put masks on an SBX agent: pruned weights, their targets and their moments become 0.0, and stay so in `model.learn`.

    >>> lth.sbx.set_masks(model, masks)  # doctest: +SKIP
    >>> model.learn(50_000, reset_num_timesteps=False)  # doctest: +SKIP

    Args:
        model: an `sbx.SAC`, which is changed in place.
        masks: one for each network, `{"actor": ..., "critic": ...}`, as `prune_sbx` returns them.

    Raises:
        InputError: a mask is missing or does not fit its network, or `param_resets` would undo it.
    """
    _check_networks(masks, "masks")
    for network, name in _STATES.items():
        params = getattr(model.policy, name).params
        check_same_structure(masks[network], params, f"the {network}'s mask", f"the {network}'s")
    put_masks(model, masks, _STATES)


def _check_networks(given: Any, what: str) -> None:
    """Raise InputError unless there is a value for the actor and for the critic."""
    if not isinstance(given, Mapping) or set(given) != {"actor", "critic"}:
        found = ", ".join(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
        raise InputError(
            f'{what} must have an entry for each network, {{"actor": ..., "critic": ...}}, but has {found or "none"}'
        )


def _loss(model: Any) -> Any:
    """Return the sum of SBX's losses; its gradient with respect to each network is that of the network's own loss."""
    policy, key = model.policy, jax.random.key_data(jax.random.key(0))
    actor, critic = policy.actor_state.apply_fn, policy.qf_state.apply_fn
    target = policy.qf_state.target_params
    log_alpha = jnp.log(model.ent_coef_state.apply_fn({"params": model.ent_coef_state.params}))

    def actor_apply(params: Params, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        gaussian = actor(params, observations).distribution
        return gaussian.loc, jnp.log(gaussian.stddev())

    def critic_apply(params: Params, observations: jax.Array, actions: jax.Array) -> jax.Array:
        values: jax.Array = critic(params, observations, actions, rngs={"dropout": key})[..., 0]
        return values

    def loss(params: dict[str, Params], drawn: tuple[Batch, jax.Array]) -> jax.Array:
        (batch, noise), fixed = drawn, jax.lax.stop_gradient(params)
        applies = actor_apply, critic_apply
        q_loss, _ = critic_loss(
            params["critic"], target, fixed["actor"], log_alpha, batch, noise[0], *applies, model.gamma
        )
        pi_loss, _ = actor_loss(params["actor"], fixed["critic"], log_alpha, batch, noise[1], *applies)
        return q_loss + pi_loss

    return loss


def _batches(model: Any, num_batches: int, batch_size: int, seed: int) -> list[tuple[Batch, np.ndarray]]:
    """Draw batches from the replay buffer, and the noise for the actions that the losses sample."""
    buffer, normalizer = model.replay_buffer, model._vec_normalize_env
    if isinstance(buffer.observations, dict) or model.n_steps > 1 or buffer.optimize_memory_usage:
        raise InputError(
            "gradients need a replay buffer of single steps: no dict observations, n_steps=1, "
            "optimize_memory_usage=False"
        )
    size = buffer.size()
    if size == 0:
        raise InputError("the model's replay buffer is empty; call model.learn or model.load_replay_buffer first")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num_batches):
        at = rng.integers(0, size, batch_size), rng.integers(0, buffer.n_envs, batch_size)
        batch = Batch(
            buffer._normalize_obs(buffer.observations[at], normalizer).reshape(batch_size, -1),
            buffer.actions[at],
            buffer._normalize_reward(buffer.rewards[at], normalizer),
            buffer._normalize_obs(buffer.next_observations[at], normalizer).reshape(batch_size, -1),
            buffer.dones[at] * (1 - buffer.timeouts[at]),
        )
        noise = rng.standard_normal((2, *batch.actions.shape), np.float32)
        found.append((Batch(*(np.asarray(field, np.float32) for field in batch)), noise))
    return found


def _flow(params: Params, _: Any) -> jax.Array:
    """Return the synaptic flow of SBX's networks for inputs of 1 (`saliency.synaptic_flow`)."""
    leaves = named_leaves(params).items()
    # By length first: Dense_10 comes after Dense_9.
    kernels = sorted(((n, leaf) for n, leaf in leaves if n.endswith("/kernel")), key=lambda one: (len(one[0]), one[0]))
    if any("Dense_" not in name.split("/")[-2] or "Simba" in name for name, _ in kernels):
        raise InputError("synflow needs chains of dense layers, which this policy does not have; use another criterion")
    total = jnp.zeros(())
    actor = [leaf for _, leaf in kernels if leaf.ndim == 2]
    critics = [leaf for _, leaf in kernels if leaf.ndim == 3]  # (number of critics, inputs, outputs)
    if actor:
        flow = functools.reduce(jnp.matmul, actor[:-2], jnp.ones((1, actor[0].shape[-2])))
        total += jnp.sum(flow @ actor[-2]) + jnp.sum(flow @ actor[-1])  # mean and log_std
    if critics:
        total += jnp.sum(functools.reduce(jnp.matmul, critics, jnp.ones((1, critics[0].shape[-2]))))
    return total
