"""The agent over its kept weights alone: the same state, losses and optimizers, on packed vectors.

A ticket is packed when a training segment starts and unpacked when it ends; files, saliency and evaluation know whole
matrices only.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ..pruning.masks import MaskedState
from ..sparse import Pattern, make_pattern, pack, unpack
from ..sparse.mlp import native_mlp
from ..sparse.pattern import Layout
from .base import AgentState, Algorithm
from .networks import Apply

Patterns: TypeAlias = dict[str, Pattern]
"""Which weights each network of a packed state keeps."""
Layouts: TypeAlias = tuple[tuple[str, Layout], ...]
"""What of the patterns decides the shapes of arrays, hashable."""


def patterns_of(state: AgentState) -> Patterns:
    """Return the patterns of a state's masks.

    Raises:
        InputError: one of the networks cannot be computed sparsely (`sparse.obstacle` says so beforehand).
    """
    return {name: make_pattern(state.opts[name].mask) for name in state.params}


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
    """Replace each network's parameters, targets and moments by the vector of those that are kept, and drop the masks."""

    def packed(pattern: Pattern, opt: MaskedState) -> MaskedState:
        def moments(node: Any) -> bool:
            return bool(jax.tree.structure(node) == pattern.treedef)

        inner = jax.tree.map(lambda node: pack(pattern, node) if moments(node) else node, opt.inner, is_leaf=moments)
        return MaskedState(None, inner)

    return state._replace(
        params={name: pack(patterns[name], tree) for name, tree in state.params.items()},
        targets={name: pack(patterns[name], tree) for name, tree in state.targets.items()},
        opts={name: packed(patterns[name], opt) if name in patterns else opt for name, opt in state.opts.items()},
    )


def unpack_state(patterns: Patterns, state: AgentState, like: AgentState) -> AgentState:
    """Undo `pack_state`; the masks are those of `like`. What is pruned is 0.0, in targets and moments too."""

    def unpacked(pattern: Pattern, opt: MaskedState, mask: Any) -> MaskedState:
        # A counter is a scalar; all else in an optimizer's packed state is a vector of the kept weights.
        inner = jax.tree.map(lambda leaf: unpack(pattern, leaf) if jnp.ndim(leaf) else leaf, opt.inner)
        return MaskedState(mask, inner)

    return state._replace(
        params={name: unpack(patterns[name], theta) for name, theta in state.params.items()},
        targets={name: unpack(patterns[name], theta) for name, theta in state.targets.items()},
        opts={
            name: unpacked(patterns[name], opt, like.opts[name].mask) if name in patterns else opt
            for name, opt in state.opts.items()
        },
    )
