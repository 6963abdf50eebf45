"""Gradients of an agent over its replay buffer, and masks made from them: the functions of docs/saliency-pruning.md.

    from lth.gradient_pruning import compute_gradients_from_batch, prune_kernels_by_gradient_saliency

The gradients are those of the losses that training minimises (`lth.sac.losses`): the critics' loss by the critics'
parameters, the actor's loss by the actor's.
"""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .config import SACConfig
from .errors import InputError, nearest
from .pruning.allocation import check_sparsity, counts_by_layer, not_below
from .pruning.criteria import CRITERIA
from .pruning.masks import check_mask_values, check_same_structure, path_name, prunable_leaves, prune_lowest
from .replay import ReplayBuffer, sample_rows, unpack_rows
from .sac.agent import SACState, functions, prepare_batch
from .sac.losses import actor_loss, critic_loss
from .types import AgentLike, Batch, Mask, Params

_KEY_STREAM = 0x6C7468  # a stream of the agent's key that training never draws from

CHECKS = (
    "Check that (1) the dense model's checkpoint is valid: `lth eval` its run; (2) the replay buffer has valid data; "
    "(3) fewer batches help: reduce pruning.num_gradient_batches."
)


def network_gradients(
    config: SACConfig, state: SACState, batch: Batch, key: jax.Array, normalize_obs: bool = True
) -> tuple[Params, Params]:
    """Return dL/dw of the actor's and of the critics' loss on one raw batch. Pure."""
    action_dim = batch.actions.shape[1]
    fns = functions(config, action_dim)
    batch = prepare_batch(config, state.normalizer, batch, normalize_obs)
    noise = jax.random.normal(key, (2, *batch.actions.shape))
    critic_grads, _ = jax.grad(critic_loss, has_aux=True)(
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
    actor_grads, _ = jax.grad(actor_loss, has_aux=True)(
        state.actor_params, state.critic_params, state.log_alpha, batch, noise[1], fns.actor_apply, fns.critic_apply
    )
    return actor_grads, critic_grads


@functools.cache
def _batch_gradients(config: SACConfig, normalize_obs: bool) -> Callable[..., tuple[Params, Params]]:
    return jax.jit(lambda state, batch, key: network_gradients(config, state, batch, key, normalize_obs))


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
def gradient_accumulator(config: SACConfig, observation_dim: int, batch_size: int, normalize_obs: bool) -> Any:
    """Compile the accumulation over a number of batches that is an argument: one program for 10 batches and for 1000.

    The call takes (state, replay, key, num_batches) and returns the two trees of mean |dL/dw|, and for each leaf of
    the two trees, in tree order, the first batch in which its gradient was not finite (num_batches: none). With `first`
    and `step` only batches first, first + step, ... are taken.
    """

    def accumulate(
        state: SACState, replay: Any, key: jax.Array, num_batches: jax.Array, first: Any = 0, step: Any = 1
    ) -> tuple[Any, jax.Array]:
        def one_batch(number: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            sums, first_bad = carry
            i = first + number * step
            index_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
            batch = unpack_rows(sample_rows(replay, index_key, batch_size), observation_dim)
            grads = network_gradients(config, state, batch, noise_key, normalize_obs)
            finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)])
            first_bad = jnp.where(finite, first_bad, jnp.minimum(first_bad, i))
            return jax.tree.map(lambda s, g: s + jnp.abs(g), sums, grads), first_bad

        zeros = jax.tree.map(jnp.zeros_like, (state.actor_params, state.critic_params))
        none_bad = jnp.broadcast_to(num_batches, (len(jax.tree.leaves(zeros)),))
        count = (num_batches - first + step - 1) // step
        sums, first_bad = jax.lax.fori_loop(0, count, one_batch, (zeros, none_bad))
        return jax.tree.map(lambda s: s / count.astype(s.dtype), sums), first_bad

    return jax.jit(accumulate)


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
    return _accumulate(agent, replay_buffer, num_batches, batch_size, normalize_obs, key)


def gradient_halves(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
) -> tuple[tuple[Params, Params], tuple[Params, Params]]:
    """Return what `accumulate_gradient_statistics` returns, of the even and of the odd ones among the same batches.

    How far the two agree says how far the statistics depend on the draw of the batches (`lth.analysis.stability`).

    Raises:
        InputError: as `accumulate_gradient_statistics`; or num_batches is 1.
    """
    if num_batches == 1:
        raise InputError("num_batches is 1, and cannot be halved")
    even, odd = (
        _accumulate(agent, replay_buffer, num_batches, batch_size, normalize_obs, key, half, 2) for half in (0, 1)
    )
    return even, odd


def _accumulate(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int,
    batch_size: int,
    normalize_obs: bool,
    key: jax.Array | None,
    start: int = 0,
    step: int = 1,
) -> tuple[Params, Params]:
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
    accumulate = gradient_accumulator(agent.config, observation_dim, int(batch_size), normalize_obs)
    n = jnp.asarray(num_batches, jnp.int32)
    (actor_grads, critic_grads), first_bad = accumulate(
        agent.state, replay_buffer.state, _saliency_key(agent, key), n, start, step
    )
    bad = np.asarray(first_bad)
    if (bad < num_batches).any():
        trees = {"actor": actor_grads, "critic": critic_grads}
        names = [
            (network, path_name(path))
            for network, tree in trees.items()
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        ]
        # NaN spreads from one network's weights to the other's gradients: the network that it comes from is named.
        params = {
            "actor": agent.state.actor_params,
            "critic": (agent.state.critic_params, agent.state.target_critic_params),
        }
        sick = [
            n for n, tree in params.items() if not all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))
        ]
        first = [i for i in range(len(names)) if bad[i] == bad.min()]
        network, layer = names[next((i for i in first if names[i][0] in sick), first[0])]
        raise InputError(
            f"NaN gradients: those of the {network} are not finite, first in batch {int(bad.min())} of {num_batches} "
            f"(layer {layer!r}). {CHECKS}"
        )
    return actor_grads, critic_grads


def prune_kernels_by_gradient_saliency(
    params: Params,
    gradients: Params,
    target_sparsity: float,
    method: str = "taylor",
    prev_mask: Mask | None = None,
    exclude: Sequence[str] = (),
    allocation: str = "global",
    invert: bool = False,
) -> Mask:
    """Make a mask that prunes the kernels' least salient weights, by default globally over one network.

    Of n prunable weights exactly `max(round(target_sparsity * n), already pruned)` are pruned; ties: the larger |w|
    stays, then the earlier in tree order.

    >>> import jax.numpy as jnp
    >>> params = {"layer": {"kernel": jnp.array([[3., -2., 1.]]), "bias": jnp.array([0., 0., 0.])}}
    >>> grads = {"layer": {"kernel": jnp.array([[0.1, 1., 1.]]), "bias": jnp.array([9., 9., 9.])}}
    >>> prune_kernels_by_gradient_saliency(params, grads, 1 / 3)["layer"]["kernel"].tolist()
    [[0.0, 1.0, 1.0]]

    Args:
        params: the parameters of one network; leaves named `kernel` can be pruned.
        gradients: a tree like `params`: |dL/dw| from `accumulate_gradient_statistics`, or signed gradients. Not read
            by `method="magnitude"`, where None is allowed.
        target_sparsity: the fraction of prunable weights to remove, in [0, 1].
        method: "taylor" (|w dL/dw|, Molchanov et al. 2017), "gradient" (|dL/dw|) or "magnitude" (|w|).
        prev_mask: an earlier mask; what is pruned there stays pruned.
        exclude: layers that stay dense, by any part of their path.
        allocation: "global", "layer" (the same share of each) or "erk" (`erk_counts`).
        invert: prune the most salient instead, as a control.

    Returns:
        A mask with the structure, shapes and dtypes of `params`: 1 kept, 0 pruned; all ones for biases, norms and
        excluded layers.

    Raises:
        InputError: the method is unknown; the sparsity is outside [0, 1]; a tree does not fit (naming the leaf and
            both shapes); scores are not finite (naming the leaf); prev_mask holds other values than 0 and 1.
    """
    if method not in CRITERIA:
        raise InputError(
            f"there is no pruning method {method!r}; there are {', '.join(CRITERIA)}{nearest(method, CRITERIA)}"
        )
    check_sparsity(target_sparsity)
    prunable = prunable_leaves(params, exclude)
    if method == "magnitude":
        scores = _scores(method)(params, None)
    else:
        if gradients is None:
            raise InputError(f"method {method!r} needs gradients; `accumulate_gradient_statistics` computes them")
        check_same_structure(gradients, params, "the gradients' tree", "the parameters'")
        _check_finite(gradients, "gradients", prunable)
        scores = _scores(method)(params, gradients)
    _check_finite(params, "parameters", prunable)
    if prev_mask is not None:
        check_same_structure(prev_mask, params, "prev_mask", "the parameters'")
        check_mask_values(prev_mask, "prev_mask")
    shapes = [jnp.shape(leaf) for leaf, flag in zip(jax.tree.leaves(params), prunable, strict=True) if flag]
    counts = counts_by_layer(allocation, shapes, target_sparsity)
    if prev_mask is not None and not isinstance(counts, int):
        before = zip(jax.tree.leaves(prev_mask), prunable, strict=True)
        counts = not_below(counts, [int(np.sum(np.asarray(leaf) == 0)) for leaf, flag in before if flag])
    if invert:
        scores = jax.tree.map(jnp.negative, scores)
    return prune_lowest(scores, params, prunable, counts, prev_mask)


@functools.cache
def _scores(method: str) -> Callable[[Params, Params | None], Params]:
    """Compile a criterion over whole trees."""
    criterion = CRITERIA[method]

    def scores(params: Params, gradients: Params | None) -> Params:
        if gradients is None:
            return jax.tree.map(lambda w: criterion(w, None), params)
        return jax.tree.map(criterion, params, gradients)

    return jax.jit(scores)


def prune_kernels_by_magnitude(
    params: Params, target_sparsity: float, prev_mask: Mask | None = None, exclude: Sequence[str] = ()
) -> Mask:
    """Make a mask that prunes the kernels' smallest |w|, globally over one network.

    Equal to `prune_kernels_by_gradient_saliency(..., method="magnitude")`, whose rules, result and errors it shares.
    """
    return prune_kernels_by_gradient_saliency(params, None, target_sparsity, "magnitude", prev_mask, exclude)


def _check_finite(tree: Params, what: str, prunable: Sequence[bool]) -> None:
    for (path, leaf), flag in zip(jax.tree_util.tree_leaves_with_path(tree), prunable, strict=True):
        if flag and not np.isfinite(np.asarray(leaf)).all():
            raise InputError(
                f"{'NaN ' if what == 'gradients' else ''}{what}: {path_name(path)!r} holds NaN or infinity. {CHECKS}"
            )
