"""The functions of docs/saliency-pruning.md, under the names used there.

    from lth.gradient_pruning import compute_gradients_from_batch, prune_kernels_by_gradient_saliency

`saliency` computes the gradients and `pruning` makes the masks. The agents of that document have an actor and critics, so these
functions return a pair. `lth.gradient_statistics` returns {network: tree} for any algorithm.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .errors import InputError
from .pruning.criteria import CriterionName
from .pruning.prune import prune
from .replay import ReplayBuffer
from .types import AgentLike, Batch, Mask, Params


def _check_actor_critic(agent: AgentLike, function: str) -> None:
    if not agent.config.has_pair():
        networks = ", ".join(agent.config.NETWORKS)
        raise InputError(
            f"{function} needs an actor and critics, but this {agent.config.NAME} agent has the networks {networks}. "
            "`lth.gradient_statistics(agent, replay_buffer)` returns {network: tree} for any algorithm."
        )


def _pair(found: dict[str, Any]) -> tuple[Params, Params]:
    return found["actor"], found["critic"]


def compute_gradients_from_batch(
    agent: AgentLike, batch: Batch, normalize_obs: bool = True, key: jax.Array | None = None
) -> tuple[Params, Params]:
    """Return the signed gradients of the actor loss and of the critic loss on one batch, shaped like the parameters.

    >>> agent, replay_buffer, _ = lth.load(run)  # doctest: +SKIP
    >>> actor_grads, critic_grads = compute_gradients_from_batch(agent, replay_buffer.sample(256))  # doctest: +SKIP

    Args:
        agent: an object with `.config` and `.state`, such as `lth.load(run).agent`.
        batch: raw transitions, as returned by `replay_buffer.sample(256)`.
        normalize_obs: normalize observations as the agent does. No effect on agents trained without normalization.
        key: a JAX key for the actions that the losses sample. None: derived from the agent's state, which is not advanced.

    Raises:
        InputError: the batch does not fit the agent, or the agent does not have an actor and critics.
    """
    from .saliency import batch_gradients  # needs Flax and pydantic, and pruning does not

    _check_actor_critic(agent, "compute_gradients_from_batch")
    return _pair(batch_gradients(agent, batch, normalize_obs, key))


def accumulate_gradient_statistics(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
) -> tuple[Params, Params]:
    """Return the mean of |dL/dw| over batches of the replay buffer, for the actor and for the critics.

    See `lth.gradient_statistics`, which accepts any algorithm.

    >>> agent, replay_buffer, _ = lth.load(run)  # doctest: +SKIP
    >>> actor_grads, critic_grads = accumulate_gradient_statistics(agent, replay_buffer)  # doctest: +SKIP

    Args:
        agent: an object with `.config` and `.state`, such as `lth.load(run).agent`.
        replay_buffer: a ReplayBuffer, which stores raw observations.
        num_batches: N, at least 1.
        batch_size: transitions per batch, drawn with replacement, at least 1.
        normalize_obs: normalize observations as the agent does.
        key: a JAX key for the batches and for the actions that the losses sample.

    Raises:
        InputError: see `lth.gradient_statistics`; or the agent does not have an actor and critics.
    """
    from .saliency import gradient_statistics

    _check_actor_critic(agent, "accumulate_gradient_statistics")
    return _pair(gradient_statistics(agent, replay_buffer, num_batches, batch_size, normalize_obs, key))


def prune_kernels_by_gradient_saliency(
    params: Params,
    gradients: Params,
    target_sparsity: float,
    method: CriterionName | str = "taylor",
    prev_mask: Mask | None = None,
    exclude: Sequence[str] = (),
    allocation: str | Mapping[str, float] = "global",
    invert: bool = False,
) -> Mask:
    """Make a mask that prunes the least salient kernel weights of one network, by default globally. This is `lth.prune` with
    precomputed gradients.

    Exactly `max(round(target_sparsity * n), already pruned)` of n prunable weights are pruned. Ties: the larger |w| stays,
    then the earlier in tree order.

    >>> import jax.numpy as jnp
    >>> params = {"layer": {"kernel": jnp.array([[3., -2., 1.]]), "bias": jnp.array([0., 0., 0.])}}
    >>> grads = {"layer": {"kernel": jnp.array([[0.1, 1., 1.]]), "bias": jnp.array([9., 9., 9.])}}
    >>> prune_kernels_by_gradient_saliency(params, grads, 1 / 3)["layer"]["kernel"].tolist()
    [[0.0, 1.0, 1.0]]

    Args:
        params: the parameters of one network.
        gradients: a tree like `params`: the method's statistic from `lth.gradient_statistics`, or signed gradients.
            `method="magnitude"` ignores it and accepts None.
        target_sparsity: the fraction of prunable weights to remove, in [0, 1].
        method: "taylor" (|w dL/dw|, Molchanov et al. 2017), "gradient" (|dL/dw|), "magnitude" (|w|), or another key of
            `lth.pruning.criteria.CRITERIA`.
        prev_mask: an earlier mask; weights pruned in it stay pruned.
        exclude: layers that stay dense; each entry is any part of a layer's path.
        allocation: "global", "layer" (the same sparsity in each layer), "erk" (`erk_counts`), or {layer: sparsity}.
        invert: prune the most salient weights instead, as a control.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned; all ones for biases, norms and
        excluded layers.

    Raises:
        InputError: the method is unknown; the sparsity is outside [0, 1]; a tree does not fit (names the leaf and
            both shapes); scores are not finite (names the leaf); prev_mask holds values other than 0 and 1.
    """
    return prune(
        params,
        target_sparsity,
        method,
        gradients=gradients,
        allocation=allocation,
        exclude=exclude,
        prev_mask=prev_mask,
        invert=invert,
        collapse="allow",
    )


def prune_kernels_by_magnitude(
    params: Params, target_sparsity: float, prev_mask: Mask | None = None, exclude: Sequence[str] = ()
) -> Mask:
    """Return a mask that prunes the kernels' smallest |w|, globally over one network.

    Equal to `prune_kernels_by_gradient_saliency(..., method="magnitude")`.

    >>> import jax.numpy as jnp
    >>> params = {"layer": {"kernel": jnp.array([[3.0, -2.0, 1.0]]), "bias": jnp.zeros(3)}}
    >>> prune_kernels_by_magnitude(params, 1 / 3)["layer"]["kernel"].tolist()
    [[1.0, 1.0, 0.0]]

    Args:
        params: the parameters of one network.
        target_sparsity: the fraction of prunable weights to remove, in [0, 1].
        prev_mask: an earlier mask; what is pruned there stays pruned.
        exclude: layers that stay dense, by any part of their path.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned; all ones for biases, norms and
        excluded layers.

    Raises:
        InputError: as `prune_kernels_by_gradient_saliency`.
    """
    return prune_kernels_by_gradient_saliency(params, None, target_sparsity, "magnitude", prev_mask, exclude)
