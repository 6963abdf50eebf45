"""Gradients of an agent over its replay buffer, and masks made from them: the functions of docs/saliency-pruning.md.

    from lth.gradient_pruning import compute_gradients_from_batch, prune_kernels_by_gradient_saliency

The gradients are those of the losses that training minimises (`lth.sac.losses`): the critics' loss by the critics'
parameters, the actor's loss by the actor's.
"""

import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .config import SACConfig
from .errors import InputError
from .pruning.gradients import accumulate
from .pruning.layers import named_leaves
from .pruning.prune import CHECKS, prune
from .replay import ReplayBuffer, sample_rows, unpack_rows
from .sac.agent import SACState, functions, prepare_batch
from .sac.losses import actor_loss, critic_loss
from .types import AgentLike, Batch, Mask, Params

_KEY_STREAM = 0x6C7468  # a stream of the agent's key that training never draws from


def network_loss(
    config: SACConfig, state: SACState, params: dict[str, Params], batch: Batch, key: jax.Array, normalize_obs: bool
) -> jax.Array:
    """Return the actor's loss plus the critics' on one raw batch, whose gradient by `params["actor"]` is that of the actor's
    alone, and by `params["critic"]` that of the critics'. Pure.
    """
    fns = functions(config, batch.actions.shape[1])
    batch = prepare_batch(config, state.normalizer, batch, normalize_obs)
    noise = jax.random.normal(key, (2, *batch.actions.shape))
    fixed = jax.lax.stop_gradient(params)
    q_loss, _ = critic_loss(
        params["critic"],
        state.target_critic_params,
        fixed["actor"],
        state.log_alpha,
        batch,
        noise[0],
        fns.actor_apply,
        fns.critic_apply,
        config.discount,
    )
    pi_loss, _ = actor_loss(
        params["actor"], fixed["critic"], state.log_alpha, batch, noise[1], fns.actor_apply, fns.critic_apply
    )
    return q_loss + pi_loss


def networks(state: SACState) -> dict[str, Params]:
    """Return the parameters of both networks as one tree."""
    return {"actor": state.actor_params, "critic": state.critic_params}


def synaptic_flow(params: Params, _: Any = None) -> jax.Array:
    """Return R, what flows out of our networks where each input is 1: the sum of 1^T (prod W) 1 over their chains of layers
    (Tanaka et al. 2020, section 6), biases and norms left out. `params` is a network, or several in a dict.
    """
    if "output" not in params:
        return sum((synaptic_flow(params[name]) for name in sorted(params)), jnp.zeros(()))
    hidden = sorted((name for name in params if name.startswith("layer_")), key=lambda name: int(name[6:]))
    flow = jnp.ones(params[hidden[0] if hidden else "output"]["kernel"].shape[0])
    for name in (*hidden, "output"):
        flow = flow @ params[name]["kernel"]
    return jnp.sum(flow)


@functools.cache
def _batch_gradients(config: SACConfig, normalize_obs: bool) -> Callable[..., tuple[Params, Params]]:
    def gradients(state: SACState, batch: Batch, key: jax.Array) -> tuple[Params, Params]:
        grads = jax.grad(lambda params: network_loss(config, state, params, batch, key, normalize_obs))(networks(state))
        return grads["actor"], grads["critic"]

    return jax.jit(gradients)


def _saliency_key(agent: AgentLike, key: jax.Array | None) -> jax.Array:
    return jax.random.fold_in(agent.state.key, _KEY_STREAM) if key is None else key


def compute_gradients_from_batch(
    agent: AgentLike, batch: Batch, normalize_obs: bool = True, key: jax.Array | None = None
) -> tuple[Params, Params]:
    """Return the gradients of the actor's and of the critics' loss on one batch, signed, shaped like the parameters.

    Args:
        agent: anything with `.config` and `.state`, such as `lth.load(run).agent`.
        batch: raw transitions, as `replay_buffer.sample(256)` returns them.
        normalize_obs: normalise the observations as the agent does. (An agent trained without that never does.)
        key: for the actions that the losses sample; none: one derived from the agent's state, which is not advanced.

    Raises:
        InputError: the batch does not fit the agent.
    """
    batch = Batch(*(jnp.asarray(field, jnp.float32) for field in batch))
    observation_dim = agent.state.normalizer.mean.shape[0]
    action_dim = agent.state.actor_params["output"]["bias"].shape[0] // 2
    n = batch.observations.shape[0]
    want = Batch((n, observation_dim), (n, action_dim), (n,), (n, observation_dim), (n,))
    for name, field, shape in zip(Batch._fields, batch, want, strict=True):
        if field.shape != shape:
            raise InputError(f"the batch's {name} have shape {field.shape}, the agent needs {shape}")
    return _batch_gradients(agent.config, normalize_obs)(agent.state, batch, _saliency_key(agent, key))


@functools.cache
def gradient_accumulator(
    config: SACConfig, observation_dim: int, batch_size: int, normalize_obs: bool, statistic: str = "mean_abs"
) -> Any:
    """Compile the accumulation over a number of batches that is an argument: one program for 10 batches and for 1000.

    The call takes (state, replay, key, num_batches) and returns the tree {"actor": ..., "critic": ...} of a statistic of
    the gradients, and for each of its leaves, in tree order, the first batch in which it was not finite (num_batches:
    none). With `first` and `step` only batches first, first + step, ... are taken.
    """

    def gather(
        state: SACState, replay: Any, key: jax.Array, num_batches: jax.Array, first: Any = 0, step: Any = 1
    ) -> tuple[Any, jax.Array]:
        def draw(number: jax.Array) -> tuple[Batch, jax.Array]:
            i = first + number * step
            index_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
            return unpack_rows(sample_rows(replay, index_key, batch_size), observation_dim), noise_key

        def loss(params: dict[str, Params], drawn: tuple[Batch, jax.Array]) -> jax.Array:
            return network_loss(config, state, params, *drawn, normalize_obs)

        count = (num_batches - first + step - 1) // step
        found, first_bad = accumulate(loss, networks(state), draw, count, statistic)
        return found, jnp.where(first_bad < count, first + first_bad * step, num_batches)

    return jax.jit(gather)


def accumulate_gradient_statistics(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
) -> tuple[Params, Params]:
    """Return the mean of |dL/dw| over batches of the replay buffer, for the actor and for the critics.

    `sum_i |grad_i| / N`, in one compiled loop that leaves one gradient-shaped tree a network. Deterministic: without
    a key, one derived from the agent's state is used, and the state is not advanced.

    Args:
        agent: anything with `.config` and `.state`, such as `lth.load(run).agent`.
        replay_buffer: a ReplayBuffer; it stores raw observations.
        num_batches: N, at least 1.
        batch_size: transitions in each batch, drawn with replacement, at least 1.
        normalize_obs: normalise observations as the agent does.
        key: a JAX key for the batches and for the actions that the losses sample.

    Raises:
        InputError: there is no replay buffer, it is empty or does not fit the agent, or a gradient is not finite
            (naming the network, the layer and the first bad batch).
    """
    return agent_statistic(agent, replay_buffer, "mean_abs", num_batches, batch_size, normalize_obs, key)


def gradient_halves(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
    statistic: str = "mean_abs",
) -> tuple[tuple[Params, Params], tuple[Params, Params]]:
    """Return what `agent_statistic` returns, of the even and of the odd ones among the same batches.

    How far the two agree says how far the statistics depend on the draw of the batches (`lth.analysis.stability`).

    Raises:
        InputError: as `accumulate_gradient_statistics`; or num_batches is 1.
    """
    if num_batches == 1:
        raise InputError("num_batches is 1, and cannot be halved")
    even, odd = (
        agent_statistic(agent, replay_buffer, statistic, num_batches, batch_size, normalize_obs, key, half, 2)
        for half in (0, 1)
    )
    return even, odd


def agent_statistic(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    statistic: str,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
    first: int = 0,
    step: int = 1,
) -> tuple[Params, Params]:
    """Return a row of `lth.pruning.gradients.STATISTICS` for the actor and for the critics: what a criterion needs.

    Of the batches only first, first + step, ... are taken. Everything else is as for `accumulate_gradient_statistics`,
    which is this with "mean_abs".

    Raises:
        InputError: as `accumulate_gradient_statistics`.
    """
    if replay_buffer is None or len(replay_buffer) == 0:
        raise InputError(
            "No replay buffer found: the agent has none, or it is empty. `python scripts/_01_train_dense.py` and `lth run` "
            "save it as replay_buffer.pkl beside the checkpoint; `lth.load(run).replay_buffer` reads it."
        )
    for name, value in (("num_batches", num_batches), ("batch_size", batch_size)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise InputError(f"{name} is {value!r}, and has to be a whole number of at least 1")
    observation_dim = int(agent.state.normalizer.mean.shape[0])
    action_dim = int(agent.state.actor_params["output"]["bias"].shape[0]) // 2
    if (replay_buffer.observation_dim, replay_buffer.action_dim) != (observation_dim, action_dim):
        raise InputError(
            f"the replay buffer holds observations of length {replay_buffer.observation_dim} and actions of length "
            f"{replay_buffer.action_dim}, the agent takes {observation_dim} and {action_dim}: is it another task's?"
        )
    gather = gradient_accumulator(agent.config, observation_dim, int(batch_size), normalize_obs, statistic)
    n = jnp.asarray(num_batches, jnp.int32)
    grads, first_bad = gather(agent.state, replay_buffer.state, _saliency_key(agent, key), n, first, step)
    bad = np.asarray(first_bad)
    if (bad < num_batches).any():
        names = [(network, name) for network, tree in grads.items() for name in named_leaves(tree)]
        # NaN spreads from one network's weights to the other's gradients: the network that it comes from is named.
        params = {
            "actor": agent.state.actor_params,
            "critic": (agent.state.critic_params, agent.state.target_critic_params),
        }
        sick = [
            n for n, tree in params.items() if not all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))
        ]
        earliest = [i for i in range(len(names)) if bad[i] == bad.min()]
        network, layer = names[next((i for i in earliest if names[i][0] in sick), earliest[0])]
        raise InputError(
            f"NaN gradients: those of the {network} are not finite, first in batch {int(bad.min())} of {num_batches} "
            f"(layer {layer!r}). {CHECKS}"
        )
    return grads["actor"], grads["critic"]


def prune_kernels_by_gradient_saliency(
    params: Params,
    gradients: Params,
    target_sparsity: float,
    method: str = "taylor",
    prev_mask: Mask | None = None,
    exclude: Sequence[str] = (),
    allocation: str | Mapping[str, float] = "global",
    invert: bool = False,
) -> Mask:
    """Make a mask that prunes the kernels' least salient weights, by default globally over one network: `lth.prune` with
    gradients that were gathered before.

    Of n prunable weights exactly `max(round(target_sparsity * n), already pruned)` are pruned; ties: the larger |w|
    stays, then the earlier in tree order.

    >>> import jax.numpy as jnp
    >>> params = {"layer": {"kernel": jnp.array([[3., -2., 1.]]), "bias": jnp.array([0., 0., 0.])}}
    >>> grads = {"layer": {"kernel": jnp.array([[0.1, 1., 1.]]), "bias": jnp.array([9., 9., 9.])}}
    >>> prune_kernels_by_gradient_saliency(params, grads, 1 / 3)["layer"]["kernel"].tolist()
    [[0.0, 1.0, 1.0]]

    Args:
        params: the parameters of one network.
        gradients: a tree like `params`: what `agent_statistic` gathers for the method, or signed
            gradients. Not read by `method="magnitude"`, where None is allowed.
        target_sparsity: the fraction of prunable weights to remove, in [0, 1].
        method: "taylor" (|w dL/dw|, Molchanov et al. 2017), "gradient" (|dL/dw|), "magnitude" (|w|), or another row of
            `lth.pruning.criteria.CRITERIA`.
        prev_mask: an earlier mask; what is pruned there stays pruned.
        exclude: layers that stay dense, by any part of their path.
        allocation: "global", "layer" (the same share of each), "erk" (`erk_counts`), or {layer: sparsity}.
        invert: prune the most salient instead, as a control.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned; all ones for biases, norms and
        excluded layers.

    Raises:
        InputError: the method is unknown; the sparsity is outside [0, 1]; a tree does not fit (naming the leaf and
            both shapes); scores are not finite (naming the leaf); prev_mask holds other values than 0 and 1.
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
    """Make a mask that prunes the kernels' smallest |w|, globally over one network.

    Equal to `prune_kernels_by_gradient_saliency(..., method="magnitude")`, whose rules, result and errors it shares.
    """
    return prune_kernels_by_gradient_saliency(params, None, target_sparsity, "magnitude", prev_mask, exclude)
