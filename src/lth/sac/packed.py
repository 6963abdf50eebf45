"""The agent over its kept weights alone: the same state, losses and optimisers, on packed vectors.

A ticket is packed when a training segment starts and unpacked when it ends; files, saliency and evaluation know whole
matrices only.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..pruning.masks import MaskedState
from ..sparse import Pattern, make_pattern, pack, unpack
from .agent import Patterns, SACState


def patterns_of(state: SACState) -> Patterns:
    """Return the patterns of a state's masks.

    Raises:
        InputError: one of the networks cannot be computed sparsely (`sparse.obstacle` says so beforehand).
    """
    return Patterns(make_pattern(state.actor_opt.mask), make_pattern(state.critic_opt.mask))


def pack_state(patterns: Patterns, state: SACState) -> SACState:
    """Replace each network's parameters, targets and moments by the vector of those that are kept, and drop the masks."""

    def packed(pattern: Pattern, opt: MaskedState) -> MaskedState:
        def moments(node: Any) -> bool:
            return bool(jax.tree.structure(node) == pattern.treedef)

        inner = jax.tree.map(lambda node: pack(pattern, node) if moments(node) else node, opt.inner, is_leaf=moments)
        return MaskedState(None, inner)

    return state._replace(
        actor_params=pack(patterns.actor, state.actor_params),
        critic_params=pack(patterns.critic, state.critic_params),
        target_critic_params=pack(patterns.critic, state.target_critic_params),
        actor_opt=packed(patterns.actor, state.actor_opt),
        critic_opt=packed(patterns.critic, state.critic_opt),
    )


def unpack_state(patterns: Patterns, state: SACState, like: SACState) -> SACState:
    """Undo `pack_state`; the masks are those of `like`. What is pruned is 0.0, in targets and moments too."""

    def unpacked(pattern: Pattern, opt: MaskedState, mask: Any) -> MaskedState:
        # A counter is a scalar; all else in an optimiser's packed state is a vector of the kept weights.
        inner = jax.tree.map(lambda leaf: unpack(pattern, leaf) if jnp.ndim(leaf) else leaf, opt.inner)
        return MaskedState(mask, inner)

    return state._replace(
        actor_params=unpack(patterns.actor, state.actor_params),
        critic_params=unpack(patterns.critic, state.critic_params),
        target_critic_params=unpack(patterns.critic, state.target_critic_params),
        actor_opt=unpacked(patterns.actor, state.actor_opt, like.actor_opt.mask),
        critic_opt=unpacked(patterns.critic, state.critic_opt, like.critic_opt.mask),
    )
