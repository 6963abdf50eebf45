"""Masks for an SBX model of any algorithm."""

from collections.abc import Mapping
from typing import Any

from ..pruning.sbx import put_masks
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
    put_masks(model, masks, _STATES[kind.algorithm])
