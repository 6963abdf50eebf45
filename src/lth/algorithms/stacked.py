"""Many agents in one compiled call: their states stacked along a leading axis.

Runs of one batch train in lockstep, so the counters of steps and of mask schedules are the same number for all. These are not
stacked: a choice that hangs on them, such as TD3's delayed policy update or a change of masks, stays a branch that is computed only
when it is due. Of stacked counters, JAX would compute both sides at every update.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..replay import ReplayState
from ..types import Array
from .base import AgentState, Algorithm, normalize
from .learner import Draws, stored, updated

AGENTS = "agents"
"""The name of the leading axis."""
_COUNTERS = ("env_steps", "grad_steps")
_SCHEDULE_COUNTERS = ("step", "every", "until", "at")


class Form(NamedTuple):
    """The tree structure of one agent's state, without its key, and which leaves all agents of a batch share."""

    treedef: Any
    shared: tuple[bool, ...]

    def split(self, state: AgentState) -> "Stacked":
        """Return the leaves of a state by kind."""
        leaves = jax.tree.leaves(state)
        return Stacked(
            [leaf for leaf, is_shared in zip(leaves, self.shared, strict=True) if not is_shared],
            [leaf for leaf, is_shared in zip(leaves, self.shared, strict=True) if is_shared],
        )

    def join(self, stacked: "Stacked") -> AgentState:
        """Undo `split`."""
        own, shared = iter(stacked.own), iter(stacked.shared)
        leaves = [next(shared if is_shared else own) for is_shared in self.shared]
        state: AgentState = self.treedef.unflatten(leaves)
        return state


class Stacked(NamedTuple):
    """The states of many agents."""

    own: list[jax.Array]
    """Leaves with a leading axis of agents."""
    shared: list[jax.Array]
    """Counters, equal for all agents."""


def form_of(state: AgentState) -> Form:
    """Return the form of a state. States of equal forms whose counters and shapes agree can be stacked."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(state._replace(key=None))
    return Form(treedef, tuple(_is_counter(path) for path, _ in paths))


def _is_counter(path: tuple[Any, ...]) -> bool:
    names = [entry.name for entry in path if isinstance(entry, jax.tree_util.GetAttrKey)]
    return names[0] in _COUNTERS or ("schedule" in names and names[-1] in _SCHEDULE_COUNTERS)


def signature(state: AgentState) -> Any:
    """Return a hashable value that is equal for states that can be stacked."""
    form = form_of(state)
    own, shared = form.split(state._replace(key=None))
    counters = tuple((leaf.shape, np.asarray(leaf).tobytes()) for leaf in shared)
    return form, tuple((leaf.shape, str(leaf.dtype)) for leaf in own), counters


def stack(states: Sequence[AgentState]) -> Stacked:
    """Stack copies of states of one `signature`; their keys are left out."""
    form = form_of(states[0])
    parts = [form.split(state._replace(key=None)) for state in states]
    own = [jnp.stack(leaves) for leaves in zip(*(part.own for part in parts), strict=True)]
    return Stacked(own, [jnp.copy(leaf) for leaf in parts[0].shared])


@functools.partial(jax.jit, static_argnums=0)
def _pick(form: Form, stacked: Stacked, i: jax.Array) -> AgentState:
    # Copied, because the shared leaves are donated to the next call.
    return form.join(Stacked([leaf[i] for leaf in stacked.own], [jnp.copy(leaf) for leaf in stacked.shared]))


def pick(form: Form, stacked: Stacked, i: int, key: jax.Array | None) -> AgentState:
    """Return the state of agent i, with its key."""
    state: AgentState = _pick(form, stacked, np.int32(i))
    return state._replace(key=key)


def over_agents(function: Callable[..., Any], form: Form) -> Callable[..., Any]:
    """Map a function of one agent over stacked agents.

    Args:
        function: (state, *more) -> (state, *results), where the results are of one agent.
        form: of the states.

    Returns:
        A function of (stacked, *more), where everything in `more` has a leading axis of agents. Within `function`, that axis is
        named AGENTS.
    """

    def one(own: list[Array], shared: list[Array], *more: Any) -> Any:
        state, *results = function(form.join(Stacked(own, shared)), *more)
        after = form.split(state)
        return after.own, after.shared, tuple(results)

    def many(stacked: Stacked, *more: Any) -> Any:
        axes = (0, None, *[0] * len(more))
        own, shared, results = jax.vmap(one, in_axes=axes, out_axes=(0, None, 0), axis_name=AGENTS)(*stacked, *more)
        return Stacked(own, shared), *results

    return many


def actions_of(algorithm: Algorithm, state: AgentState, observations: Array, noise: Array | None) -> jax.Array:
    """Choose an agent's actions on the device, (n, action_width) float32, for raw observations (n, observation_dim)."""
    if algorithm.config.normalize_obs:
        observations = normalize(state.normalizer, observations)
    output = algorithm.applies()[algorithm.policy](state.params[algorithm.policy], observations)
    try:
        chosen = algorithm.act(output, noise)
    except jax.errors.JAXTypeError as error:  # a NumPy function, float(), or `if` on an array
        raise InputError(
            f"{type(algorithm).__qualname__}.act needs the values of arrays, as NumPy's functions do, so it cannot be compiled in "
            "a batch of runs. Take functions from `lth.types.namespace_of(output)`, as in `xp.tanh(output)`, or set executor: local"
        ) from error
    return jnp.asarray(chosen, jnp.float32)


def _act(algorithm: Algorithm, state: AgentState, observations: Array, noise: Array) -> tuple[AgentState, jax.Array]:
    return state, actions_of(algorithm, state, observations, noise)


def _step(
    algorithm: Algorithm, state: AgentState, replay: ReplayState, rows: Array, draws: Draws, *acting: Array
) -> tuple[AgentState, ReplayState, jax.Array | None, dict[str, jax.Array]]:
    state, replay = stored(algorithm, state, replay, rows)
    state, metrics = updated(algorithm, state, replay, draws)
    return state, replay, actions_of(algorithm, state, *acting) if acting else None, metrics


@functools.cache
def _compiled(algorithm: Algorithm, form: Form | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compile `_act` and `_step`: of stacked agents or, without a form, of one, whose state and buffer have no axis of agents."""
    act, step = functools.partial(_act, algorithm), functools.partial(_step, algorithm)
    if form:
        acting = over_agents(act, form)
        return jax.jit(lambda *given: acting(*given)[1]), jax.jit(over_agents(step, form), donate_argnums=(0, 1))
    first, several = (functools.partial(jax.tree.map, take) for take in (lambda x: x[0], lambda x: x[None]))

    def act_alone(state: AgentState, *host: Any) -> Any:
        return several(act(state, *first(host))[1])

    def step_alone(state: AgentState, replay: ReplayState, *host: Any) -> Any:
        state, replay, *found = step(state, replay, *first(host))
        return state, replay, *several(found)

    return jax.jit(act_alone), jax.jit(step_alone, donate_argnums=(0, 1))


class Agents:
    """Agents that one call updates, with their replay buffers.

    The states of several are stacked. One agent keeps its arrays as they are: a leading axis of 1 would have XLA copy them at every
    update.

    Args:
        algorithm: of all.
        states: of one `signature`. They and the buffers are copied.
        replays: of the same size.
    """

    def __init__(self, algorithm: Algorithm, states: Sequence[AgentState], replays: Sequence[ReplayState]):
        self._form = form_of(states[0]) if len(states) > 1 else None
        self._act, self._step = _compiled(algorithm, self._form)
        self._states: Any
        self._replays: ReplayState
        if self._form:
            self._states = stack(states)
            self._replays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *replays)
        else:
            self._states, self._replays = jax.tree.map(jnp.copy, (states[0]._replace(key=None), replays[0]))

    def actions(self, observations: Array, noise: Array) -> jax.Array:
        """Choose actions, (agents, n, action_width), for observations (agents, n, observation_dim)."""
        chosen: jax.Array = self._act(self._states, observations, noise)
        return chosen

    def step(self, rows: Array, draws: Draws, *acting: Array) -> tuple[jax.Array | None, dict[str, jax.Array]]:
        """Store transitions and update; everything has a leading axis of agents.

        Args:
            rows: (agents, n, width) from `pack_rows`.
            draws: of the updates.
            *acting: observations and noise for the next actions; or nothing, then none are chosen.

        Returns:
            The actions (agents, n, action_width), and the metrics (agents,) of the last update, none without one.
        """
        self._states, self._replays, actions, metrics = self._step(self._states, self._replays, rows, draws, *acting)
        return actions, metrics

    def state(self, i: int, key: jax.Array | None) -> AgentState:
        """Return a copy of agent i's state, with this key."""
        if self._form:
            return pick(self._form, self._states, i, key)
        alone: AgentState = jax.tree.map(jnp.copy, self._states)
        return alone._replace(key=key)

    def replay(self, i: int) -> ReplayState:
        """Return agent i's replay buffer, valid until the next step."""
        found: ReplayState = jax.tree.map(lambda leaf: leaf[i], self._replays) if self._form else self._replays
        return found
