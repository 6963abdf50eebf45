"""Gradients of an agent's losses over batches of its replay buffer, for each network.

The losses are the training losses (`Algorithm.losses`), so each network's gradient is the one that its optimizer receives.
"""

import functools
import numbers
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .algorithms.base import AgentState, Algorithm, algorithm_of
from .errors import InputError, nearest
from .precision import in_float32
from .pruning.gradients import STATISTICS, accumulate
from .pruning.layers import named_leaves
from .pruning.prune import CHECKS
from .replay import ReplayBuffer, sample_rows, unpack_rows
from .types import AgentLike, Batch, Params

_KEY_STREAM = 0x6C7468  # a stream of the agent's key that training does not use


def network_loss(
    algorithm: Algorithm,
    state: AgentState,
    params: dict[str, Params],
    batch: Batch,
    key: jax.Array,
    normalize_obs: bool = True,
) -> jax.Array:
    """Return the sum of all networks' losses on one raw batch. Pure.

    The gradient with respect to `params[name]` is that of the loss of network `name` alone.
    """
    batch = algorithm.prepare(state.normalizer, batch, normalize_obs)
    noise = jax.random.normal(key, algorithm.noise_shape(batch.actions.shape[0]))
    losses = algorithm.losses(state, params, batch, noise, algorithm.applies())
    return functools.reduce(operator.add, losses.values())


def synaptic_flow(params: Params, _: Any = None) -> jax.Array:
    """Return the synaptic flow R of lth's networks for inputs of 1: the sum of 1^T (prod W) 1 over their chains of layers,
    without biases and norms (Tanaka et al. 2020, section 6). `params` is one network, or a dict of networks.
    """
    if "output" not in params:
        return sum((synaptic_flow(params[name]) for name in sorted(params)), jnp.zeros(()))
    hidden = sorted((name for name in params if name.startswith("layer_")), key=lambda name: int(name[6:]))
    flow = jnp.ones(params[hidden[0] if hidden else "output"]["kernel"].shape[0])
    for name in (*hidden, "output"):
        flow = flow @ params[name]["kernel"]
    return jnp.sum(flow)


@functools.cache
def _batch_gradients(algorithm: Algorithm, normalize_obs: bool) -> Callable[..., dict[str, Params]]:
    def gradients(state: AgentState, batch: Batch, key: jax.Array) -> dict[str, Params]:
        by_params = jax.grad(lambda params: network_loss(algorithm, state, params, batch, key, normalize_obs))
        found: dict[str, Params] = by_params(state.params)
        return found

    return jax.jit(gradients)


def _saliency_key(agent: AgentLike, key: jax.Array | None) -> jax.Array:
    return jax.random.fold_in(agent.state.key, _KEY_STREAM) if key is None else key


@in_float32
def batch_gradients(
    agent: AgentLike, batch: Batch, normalize_obs: bool = True, key: jax.Array | None = None
) -> dict[str, Params]:
    """Return the signed gradients of each network's loss on one raw batch, `{network: tree}`, shaped like the parameters.

    Raises:
        InputError: the batch does not fit the agent.
    """
    algorithm = algorithm_of(agent)
    batch = Batch(*(jnp.asarray(field, jnp.float32) for field in batch))
    observation_dim, action_width = algorithm.spaces.observation_dim, algorithm.spaces.action_width
    n = batch.observations.shape[0]
    want = Batch((n, observation_dim), (n, action_width), (n,), (n, observation_dim), (n,))
    for name, field, shape in zip(Batch._fields, batch, want, strict=True):
        if field.shape != shape:
            raise InputError(f"the batch's {name} has shape {field.shape}, but the agent needs {shape}")
    if algorithm.spaces.discrete:
        _check_choices(np.asarray(batch.actions), algorithm.spaces.action_dim, "the batch holds")
    return _batch_gradients(algorithm, normalize_obs)(agent.state, batch, _saliency_key(agent, key))


def _check_choices(actions: np.ndarray, choices: int, what: str) -> None:
    """Raise InputError unless discrete actions are integers from 0 to choices - 1."""
    wrong = ~np.isin(actions, np.arange(choices))
    if wrong.any():
        raise InputError(
            f"{what} the action {actions[wrong][0]:g}, but the agent has {choices} actions (0 to {choices - 1}). Does it belong to "
            "another task?"
        )


@functools.cache
def gradient_accumulator(
    algorithm: Algorithm, batch_size: int, normalize_obs: bool, statistic: str = "mean_abs"
) -> Any:
    """Compile the accumulation. The number of batches is an argument, so 10 and 1000 batches share one compilation.

    The compiled function takes (state, replay, key, num_batches) and returns the tree {network: ...} of a statistic of the
    gradients, and for each leaf, in tree order, the first batch in which it was not finite (num_batches if none). With
    `first` and `step`, only the batches first, first + step, ... are used.
    """
    observation_dim = algorithm.spaces.observation_dim

    def gather(
        state: AgentState, replay: Any, key: jax.Array, num_batches: jax.Array, first: Any = 0, step: Any = 1
    ) -> tuple[Any, jax.Array]:
        def draw(number: jax.Array) -> tuple[Batch, jax.Array]:
            i = first + number * step
            index_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
            return unpack_rows(sample_rows(replay, index_key, batch_size), observation_dim), noise_key

        def loss(params: dict[str, Params], drawn: tuple[Batch, jax.Array]) -> jax.Array:
            return network_loss(algorithm, state, params, *drawn, normalize_obs)

        count = (num_batches - first + step - 1) // step
        found, first_bad = accumulate(loss, state.params, draw, count, statistic)
        return found, jnp.where(first_bad < count, first + first_bad * step, num_batches)

    return jax.jit(gather)


@in_float32
def gradient_statistics(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
    statistic: str = "mean_abs",
    first: int = 0,
    step: int = 1,
) -> dict[str, Params]:
    """Return a statistic of the gradients of each network's loss over batches of the replay buffer, `{network: tree}`.

    By default `sum_i |grad_i| / N`, in one compiled loop. Deterministic: without a key, the key is derived from the agent's
    state, which is not advanced.

    >>> grads = gradient_statistics(agent, agent.replay_buffer)  # doctest: +SKIP
    >>> masks = {name: lth.prune(tree, 0.9, "taylor", gradients=grads[name])
    ...          for name, tree in agent.state.params.items()}  # doctest: +SKIP

    Args:
        agent: an object with `.config` and `.state`, such as `lth.load(run).agent`, of any algorithm.
        replay_buffer: a ReplayBuffer, which stores raw observations.
        num_batches: N, at least 1.
        batch_size: transitions per batch, drawn with replacement, at least 1.
        normalize_obs: normalize observations as the agent does.
        key: a JAX key for the batches and for the noise in the losses.
        statistic: a key of `lth.pruning.gradients.STATISTICS`.
        first: use only the batches first, first + step, ...
        step: see `first`.

    Raises:
        InputError: the replay buffer is missing, empty or does not fit the agent, or a gradient is not finite
            (names the network, the layer and the first bad batch).
    """
    if replay_buffer is None or len(replay_buffer) == 0:
        raise InputError(
            "No replay buffer found: the agent has none, or it is empty. `python scripts/_01_train_dense.py` and `lth run` "
            "save it as replay_buffer.pkl next to the checkpoint; load it with `lth.load(run).replay_buffer`."
        )
    for name, value in (("num_batches", num_batches), ("batch_size", batch_size)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise InputError(f"{name} is {value!r}, but must be an integer of at least 1")
    if statistic not in STATISTICS:
        raise InputError(
            f"unknown statistic {statistic!r}; choose from {', '.join(STATISTICS)}{nearest(statistic, STATISTICS)}"
        )
    if not (0 <= first < num_batches and step >= 1):
        raise InputError(f"first={first} and step={step} select none of the {num_batches} batches")
    algorithm = algorithm_of(agent)
    spaces = algorithm.spaces
    if (replay_buffer.observation_dim, replay_buffer.action_dim) != (spaces.observation_dim, spaces.action_width):
        raise InputError(
            f"the replay buffer holds observations of length {replay_buffer.observation_dim} and actions of length "
            f"{replay_buffer.action_dim}, but the agent needs {spaces.observation_dim} and {spaces.action_width}. Does it belong "
            "to another task?"
        )
    if replay_buffer.discrete != spaces.discrete:
        kinds = ("continuous", "discrete")
        raise InputError(
            f"the replay buffer holds {kinds[replay_buffer.discrete]} actions, but the agent needs {kinds[spaces.discrete]} ones. "
            "Does it belong to another task?"
        )
    if spaces.discrete:
        actions = unpack_rows(replay_buffer.state.rows[: len(replay_buffer)], spaces.observation_dim).actions
        _check_choices(np.asarray(actions), spaces.action_dim, "the replay buffer holds")
    gather = gradient_accumulator(algorithm, int(batch_size), normalize_obs, statistic)
    n = np.int32(num_batches)
    grads, first_bad = gather(agent.state, replay_buffer.state, _saliency_key(agent, key), n, first, step)
    bad = np.asarray(first_bad)
    if (bad < num_batches).any():
        names = [(network, name) for network, tree in grads.items() for name in named_leaves(tree)]
        # NaN in one network's weights spreads to other networks' gradients; name the network where it starts.
        state = agent.state
        params = {name: (tree, state.targets.get(name)) for name, tree in state.params.items()}
        sick = [
            n for n, tree in params.items() if not all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(tree))
        ]
        earliest = [i for i in range(len(names)) if bad[i] == bad.min()]
        network, layer = names[next((i for i in earliest if names[i][0] in sick), earliest[0])]
        raise InputError(
            f"NaN gradients: the gradients of the {network} are not finite, first in batch {int(bad.min())} of {num_batches} "
            f"(layer {layer!r}). {CHECKS}"
        )
    return dict(grads)


@in_float32
def gradient_halves(
    agent: AgentLike,
    replay_buffer: ReplayBuffer,
    num_batches: int = 100,
    batch_size: int = 256,
    normalize_obs: bool = True,
    key: jax.Array | None = None,
    statistic: str = "mean_abs",
) -> tuple[dict[str, Params], dict[str, Params]]:
    """Return `gradient_statistics` over the even batches and over the odd batches.

    Their agreement measures how much the statistics depend on the draw of the batches (`lth.analysis.stability`).

    Raises:
        InputError: see `gradient_statistics`; or num_batches is 1.
    """
    if num_batches == 1:
        raise InputError("num_batches is 1, but must be at least 2 to be halved")
    even, odd = (
        gradient_statistics(agent, replay_buffer, num_batches, batch_size, normalize_obs, key, statistic, half, 2)
        for half in (0, 1)
    )
    return even, odd
