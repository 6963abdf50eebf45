"""Masks for an SBX model, inside its optimizers, whose state structure does not change."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..errors import InputError
from ..pruning.masks import apply_mask
from ..types import Mask, Params
from .models import Kind

_STATES = {
    "SAC": {"actor": "actor_state", "critic": "qf_state"},
    "TD3": {"actor": "actor_state", "critic": "qf_state"},
    "DQN": {"q": "qf_state"},
    "PPO": {"actor": "actor_state", "critic": "vf_state"},
}


def networks_of(model: Any, kind: Kind) -> dict[str, Params]:
    """Return the weights of each network in SBX's layout."""
    return {network: getattr(model.policy, name).params for network, name in _STATES[kind.algorithm].items()}


def set_masks(model: Any, kind: Kind, masks: Mapping[str, Mask]) -> None:
    """Apply masks to a model: pruned weights, their targets and their moments become 0.0 and stay 0.0 in `model.learn`.

    Raises:
        InputError: the model uses `param_resets`, which would drop the masks.
    """
    if getattr(model, "param_resets", None):
        raise InputError(
            "the model uses param_resets, which would reinitialize all weights and drop the masks; set param_resets=None"
        )
    for network, name in _STATES[kind.algorithm].items():
        state, mask = getattr(model.policy, name), masks[network]
        structure = jax.tree.structure(state.params)

        def is_like(part: Any, structure: Any = structure) -> bool:
            return bool(jax.tree.structure(part) == structure)

        def masked(part: Any, mask: Mask = mask, is_like: Callable[[Any], bool] = is_like) -> Any:
            return apply_mask(part, mask) if is_like(part) else part

        changes = {
            "params": apply_mask(state.params, mask),
            "opt_state": jax.tree.map(masked, state.opt_state, is_leaf=is_like),
            "tx": _under(state.tx, mask),
        }
        if hasattr(state, "target_params"):
            changes["target_params"] = apply_mask(state.target_params, mask)
        setattr(model.policy, name, state.replace(**changes))


def _under(tx: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformation:
    """Return an optimizer that ignores pruned weights; its state is that of `tx`."""
    kept = jax.tree.map(lambda leaf: jnp.asarray(leaf) != 0, mask)

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        # Select instead of multiplying: a gradient that is not finite times 0 is not 0.
        updates, state = tx.update(_where(kept, gradients), state, params)
        return _where(kept, updates), state

    update.mask = kept  # type: ignore[attr-defined]  # read by `lth.sbx.masks_of`
    return optax.GradientTransformation(tx.init, update)


def _where(kept: Any, tree: Any) -> Any:
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), kept, tree)
