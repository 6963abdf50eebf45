"""Masks for a Stable-Baselines3 model. Hooks on its parameters keep pruned weights at zero in `model.learn`.

PyTorch is not imported: all tensors are created from tensors of the model.
"""

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..types import Mask, Params
from .models import Kind

_TARGETS = {"actor": "actor_target", "critic": "critic_target", "q": "q_net_target"}
_hooks: "weakref.WeakKeyDictionary[Any, list[Any]]" = weakref.WeakKeyDictionary()
"""The hooks on each model's parameters, so that new masks can replace them."""


def networks_of(model: Any, kind: Kind) -> dict[str, Params]:
    """Return copies of each network's weights, as nested dicts by PyTorch module names."""
    found: dict[str, Params] = {}
    for network, name, parameter in _parameters(model.policy, kind):
        *path, own = name.split(".")
        node = found.setdefault(network, {})
        for key in path:
            node = node.setdefault(key, {})
        node[own] = parameter.detach().cpu().numpy().copy()
    return found


def set_masks(model: Any, kind: Kind, masks: Mapping[str, Mask]) -> None:
    """Apply masks to a model: pruned weights, their targets and their moments become 0.0 and stay 0.0 in `model.learn`."""
    policy = model.policy
    for hook in _hooks.pop(model, []):
        hook.remove()
    hooks = []
    for network, name, parameter in _parameters(policy, kind):
        kept: Any = masks[network]
        for key in name.split("."):
            kept = kept[key]
        if np.all(np.asarray(kept) != 0):
            continue
        mask = parameter.data.new_tensor(np.asarray(kept, np.float32).tolist())
        parameter.data.mul_(mask)
        # Zero gradients and zero moments give zero updates, for any constants of Adam or RMSprop.
        hooks.append(parameter.register_hook(lambda gradient, mask=mask: gradient * mask))
        for optimizer in _optimizers(policy):
            for value in optimizer.state.get(parameter, {}).values():
                if getattr(value, "shape", None) == parameter.shape:
                    value.mul_(mask)
        target = getattr(policy, _TARGETS.get(network, ""), None)
        if target is not None:
            dict(target.named_parameters())[name].data.mul_(mask)
    _hooks[model] = hooks


def _optimizers(policy: Any) -> list[Any]:
    owners = [policy, getattr(policy, "actor", None), getattr(policy, "critic", None)]
    return [owner.optimizer for owner in owners if getattr(owner, "optimizer", None) is not None]


def _parameters(policy: Any, kind: Kind) -> Iterator[tuple[str, str, Any]]:
    """Yield the matrices and biases of a policy: (network, name within it, parameter)."""
    if kind.algorithm == "PPO":
        parts = {
            "actor": ("mlp_extractor.policy_net.", "action_net."),
            "critic": ("mlp_extractor.value_net.", "value_net."),
        }
        for network, prefixes in parts.items():
            yield from ((network, n, p) for n, p in policy.named_parameters() if n.startswith(prefixes))
        return
    modules = {"q": policy.q_net} if kind.algorithm == "DQN" else {"actor": policy.actor, "critic": policy.critic}
    for network, module in modules.items():
        yield from ((network, n, p) for n, p in module.named_parameters())
