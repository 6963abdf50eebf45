"""Train on kept weights only: the same state, losses and optimizers, on packed vectors.

A ticket is packed at the start of a training segment and unpacked at its end. Files, saliency and evaluation use whole matrices.
"""

import functools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..pruning.masks import MaskedState
from ..pruning.schedules import PruneAt
from ..sparse import Pattern, make_pattern, pack, unpack
from ..sparse.mlp import native_mlp
from ..sparse.pattern import Layout
from .base import AgentState, Algorithm
from .networks import Apply

Patterns: TypeAlias = dict[str, Pattern]
"""The kept weights of each network of a packed state."""
Layouts: TypeAlias = tuple[tuple[str, Layout], ...]
"""The hashable part of patterns that determines array shapes."""


def patterns_of(state: AgentState) -> Patterns:
    """Return the patterns of a state's masks.

    With a pruning schedule, arrays have room for up to twice the kept weights, so that most mask changes need no new compilation.

    Raises:
        InputError: a network is not supported by the kernel (see `sparse.unsupported_reason`).
    """
    found = {}
    for name, params in state.params.items():
        opt, room = state.opts[name], 0
        if isinstance(opt.schedule, PruneAt):
            kept = sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(opt.mask))
            room = sum(leaf.size for leaf in jax.tree.leaves(params))
            while room // 2 >= kept > 0:
                room //= 2
        found[name] = make_pattern(opt.mask, room=room)
    return found


def layouts_of(patterns: Patterns) -> Layouts:
    """Return the layouts of patterns."""
    return tuple((name, patterns[name].layout) for name in sorted(patterns))


def packed_applies(algorithm: Algorithm, layouts: Layouts, tables: dict[str, jax.Array]) -> dict[str, Apply]:
    """Return the networks as functions of packed vectors."""
    return {name: _apply(layout, tables[name], bool(algorithm.networks[name].members)) for name, layout in layouts}


def _apply(layout: Layout, table: jax.Array, ensemble: bool) -> Apply:
    network = functools.partial(native_mlp, layout, table)
    return (lambda theta, *x: network(theta, *x).T) if ensemble else network


def pack_state(patterns: Patterns, state: AgentState) -> AgentState:
    """Replace each network's parameters, targets and moments by vectors of the kept weights, and drop the masks."""
    packed: AgentState = _pack(_statics(patterns), _places(patterns), state._replace(key=None))
    return packed._replace(key=state.key)


def unpack_state(patterns: Patterns, state: AgentState, like: AgentState) -> AgentState:
    """Undo `pack_state`, with the masks of `like`. Pruned weights are 0.0, in targets and moments too."""
    whole: AgentState = _unpack(_statics(patterns), _places(patterns), state._replace(key=None))
    opts = {n: opt._replace(mask=like.opts[n].mask) if n in patterns else opt for n, opt in whole.opts.items()}
    return whole._replace(key=state.key, opts=opts)


def _statics(patterns: Patterns) -> Any:
    """Return the patterns without their arrays, which are hashable."""
    bare: dict[str, Any] = {"table": None, "places": None}
    return tuple((name, pattern._replace(**bare)) for name, pattern in sorted(patterns.items()))


def _places(patterns: Patterns) -> dict[str, np.ndarray]:
    return {name: pattern.places for name, pattern in patterns.items()}


@functools.partial(jax.jit, static_argnums=0)
def _pack(statics: Any, places: dict[str, jax.Array], state: AgentState) -> AgentState:
    patterns = {name: pattern._replace(places=places[name]) for name, pattern in statics}

    def packed(pattern: Pattern, opt: MaskedState) -> MaskedState:
        def moments(node: Any) -> bool:
            return bool(jax.tree.structure(node) == pattern.treedef)

        inner = jax.tree.map(lambda node: pack(pattern, node) if moments(node) else node, opt.inner, is_leaf=moments)
        return opt._replace(mask=None, inner=inner)

    return state._replace(
        params={name: pack(patterns[name], tree) for name, tree in state.params.items()},
        targets={name: pack(patterns[name], tree) for name, tree in state.targets.items()},
        opts={name: packed(patterns[name], opt) if name in patterns else opt for name, opt in state.opts.items()},
    )


@functools.partial(jax.jit, static_argnums=0)
def _unpack(statics: Any, places: dict[str, jax.Array], state: AgentState) -> AgentState:
    patterns = {name: pattern._replace(places=places[name]) for name, pattern in statics}

    def unpacked(pattern: Pattern, opt: MaskedState) -> MaskedState:
        # Counters are scalars; all other arrays of a packed optimizer state are vectors of kept weights.
        return opt._replace(
            inner=jax.tree.map(lambda leaf: unpack(pattern, leaf) if jnp.ndim(leaf) else leaf, opt.inner)
        )

    return state._replace(
        params={name: unpack(patterns[name], theta) for name, theta in state.params.items()},
        targets={name: unpack(patterns[name], theta) for name, theta in state.targets.items()},
        opts={name: unpacked(patterns[name], opt) if name in patterns else opt for name, opt in state.opts.items()},
    )


def updates_until_change(state: AgentState) -> float:
    """Return a lower bound on the number of updates before a mask changes; infinity without a pending schedule.

    It is a lower bound because a network takes at most one step per update.
    """
    schedules = [state.opts[name].schedule for name in state.params if state.opts[name].schedule is not None]
    left = [(s.next_change(), int(s.step)) for s in schedules]
    return min((change - step - 1 for change, step in left if change is not None), default=math.inf)
