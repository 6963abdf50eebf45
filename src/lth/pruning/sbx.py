"""Masks on a model of SBX, inside its optimizers, whose state keeps its structure. SBX is not imported."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..errors import InputError
from ..types import Mask, Params
from .masks import MaskedState, apply_mask, set_mask


# Compared by identity, as the functions of optax are: SBX's train states hash it.
@dataclasses.dataclass(frozen=True, eq=False)
class MaskedUpdate:
    """The `update` of an optimizer that ignores pruned weights. Its state is that of the inner optimizer.

    `keep_pruned_at_zero` has the mask in its state instead, where SBX would not find the learning rate that it sets.
    """

    inner: optax.GradientTransformation
    kept: Any
    """The mask, a tree of boolean arrays like the parameters."""

    def __call__(self, gradients: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        """Return updates that are 0.0 where a weight is pruned, and the next state."""
        updates, state = self.inner.update(apply_mask(gradients, self.kept), state, params)
        return apply_mask(updates, self.kept), state


def put_masks(model: Any, masks: Mapping[str, Mask], states: Mapping[str, str]) -> None:
    """Put masks on the networks of an SBX model of any algorithm, inside its optimizers, whose state keeps its structure.

    Args:
        model: a model of SBX, which is changed in place.
        masks: one for each network; each replaces the network's earlier one.
        states: the name of each network's train state in the policy.

    Raises:
        InputError: the model uses `param_resets`, which would drop the masks.
    """
    if getattr(model, "param_resets", None):
        raise InputError(
            "the model uses param_resets, which would reinitialize all weights and drop the masks; set param_resets=None"
        )
    for network, name in states.items():
        state, mask = getattr(model.policy, name), masks[network]
        structure = jax.tree.structure(state.params)

        def is_like(part: Any, structure: Any = structure) -> bool:
            return bool(jax.tree.structure(part) == structure)

        def masked(part: Any, mask: Mask = mask, is_like: Callable[[Any], bool] = is_like) -> Any:
            return apply_mask(part, mask) if is_like(part) else part

        opt_state = jax.tree.map(masked, state.opt_state, is_leaf=is_like)
        # The mask of a keep_pruned_at_zero in the model's own optimizer would stay in force.
        if any(map(_is_masked, jax.tree.leaves(opt_state, is_leaf=_is_masked))):
            opt_state = set_mask(opt_state, mask, state.params)
        own = state.tx.update.inner if isinstance(state.tx.update, MaskedUpdate) else state.tx
        kept = jax.tree.map(lambda leaf: jnp.asarray(leaf) != 0, mask)
        changes = {
            "params": apply_mask(state.params, mask),
            "opt_state": opt_state,
            "tx": optax.GradientTransformation(own.init, MaskedUpdate(own, kept)),
        }
        if hasattr(state, "target_params"):
            changes["target_params"] = apply_mask(state.target_params, mask)
        setattr(model.policy, name, state.replace(**changes))


def _is_masked(part: Any) -> bool:
    return isinstance(part, MaskedState)
