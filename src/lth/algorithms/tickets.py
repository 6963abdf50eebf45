"""Apply masks to an agent's state: tickets, and controls that permute weights."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from ..errors import InputError
from ..precision import in_float32
from ..pruning.controls import permute_kept
from ..pruning.masks import apply_mask, check_same_structure, set_mask
from ..types import Mask
from .architecture import Network
from .base import AgentState


@in_float32
def make_ticket(state: AgentState, masks: Mapping[str, Mask]) -> AgentState:
    """Put masks on an agent's state: pruned weights, their targets and their Adam moments become 0.0 and stay so in training.

    >>> agent, _, _ = lth.load(run)  # doctest: +SKIP
    >>> masks = {name: lth.prune(params, 0.9) for name, params in agent.state.params.items()}  # doctest: +SKIP
    >>> state = make_ticket(agent.state, masks)  # doctest: +SKIP

    Args:
        state: an agent's state.
        masks: one for each network, `{"actor": ..., "critic": ...}`.

    Returns:
        The state under the masks; the one given is left as it is.

    Raises:
        InputError: a network has no mask, or a mask does not fit its network (naming the leaf and both shapes).
    """
    if not isinstance(masks, Mapping) or set(masks) != set(state.params):
        given = sorted(masks) if isinstance(masks, Mapping) else type(masks).__name__
        raise InputError(f"make_ticket needs a dict with one mask for each of {sorted(state.params)}, but got {given}")
    for name, params in state.params.items():
        check_same_structure(masks[name], params, f"the {name}'s mask", f"the {name}'s")
    return state._replace(
        params={name: apply_mask(params, masks[name]) for name, params in state.params.items()},
        targets={name: apply_mask(target, masks[name]) for name, target in state.targets.items()},
        opts={
            name: set_mask(opt, masks[name], state.params[name]) if name in masks else opt
            for name, opt in state.opts.items()
        },
    )


def permuted_ticket(state: AgentState, keys: Mapping[str, jax.Array]) -> AgentState:
    """Permute a ticket's kept weights within each layer, with their targets and moments (`permute_kept`); one key per network."""
    params, targets, opts = dict(state.params), dict(state.targets), dict(state.opts)
    for name, tree in state.params.items():
        treedef: Any = jax.tree.structure(tree)

        def like_params(node: Any, treedef: Any = treedef) -> bool:
            return bool(jax.tree.structure(node) == treedef)

        inner: Any
        nodes, inner = jax.tree.flatten(opts[name].inner, is_leaf=like_params)
        moments = [i for i, node in enumerate(nodes) if like_params(node)]
        own = [tree, *([targets[name]] if name in targets else [])]
        moved = permute_kept([*own, *(nodes[i] for i in moments)], opts[name].mask, keys[name])
        moved = jax.device_put(moved)
        for i, node in zip(moments, moved[len(own) :], strict=True):
            nodes[i] = node
        params[name] = moved[0]
        if name in targets:
            targets[name] = moved[1]
        opts[name] = opts[name]._replace(inner=inner.unflatten(nodes))
    return state._replace(params=params, targets=targets, opts=opts)


def align_learning_rates(state: AgentState, networks: Mapping[str, Network]) -> AgentState:
    """Set the step count of every learning-rate schedule to the state's `grad_steps`.

    An optimizer state that was reinitialized, or taken from the end of training, has a different count.
    """

    def is_count(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    opts = dict(state.opts)
    for name, network in networks.items():
        count = state.grad_steps // network.period

        def placed(node: Any, count: jax.Array = count) -> Any:
            return node._replace(count=count.astype(node.count.dtype)) if is_count(node) else node

        opts[name] = opts[name]._replace(inner=jax.tree.map(placed, opts[name].inner, is_leaf=is_count))
    return state._replace(opts=opts)


def masks_of(state: AgentState) -> dict[str, Mask]:
    """Return the masks of a state by network; all ones for a dense agent."""
    masks: dict[str, Mask] = _in_types_of({name: state.opts[name].mask for name in state.params}, state.params)
    return masks


@jax.jit
def _in_types_of(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)
