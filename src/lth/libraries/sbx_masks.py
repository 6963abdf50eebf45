"""Masks on a model of SBX, within its optimizers, whose states keep their structure."""

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
    """Return the weights of each network, as SBX has them."""
    return {network: getattr(model.policy, name).params for network, name in _STATES[kind.algorithm].items()}


def set_masks(model: Any, kind: Kind, masks: Mapping[str, Mask]) -> None:
    """Put masks on a model: pruned weights, their targets and their moments become 0.0, and stay so in `model.learn`.

    Raises:
        InputError: `param_resets` would undo them.
    """
    if getattr(model, "param_resets", None):
        raise InputError("the model has param_resets, which would draw all weights anew and forget the masks")
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
    """Return an optimizer that neither sees nor changes what is pruned; its state is that of `tx`."""
    kept = jax.tree.map(lambda leaf: jnp.asarray(leaf) != 0, mask)

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        # Not a product: a gradient that is not finite times 0 would not be 0.
        updates, state = tx.update(_where(kept, gradients), state, params)
        return _where(kept, updates), state

    return optax.GradientTransformation(tx.init, update)


def _where(kept: Any, tree: Any) -> Any:
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), kept, tree)
