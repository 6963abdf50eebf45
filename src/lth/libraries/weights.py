"""Convert the weights of a Stable-Baselines3 or SBX model to the layout of lth's agents."""

from typing import Any

import numpy as np

from ..errors import InputError
from ..types import Params
from .models import Kind, acting_network

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""(kernel (inputs, outputs), bias (outputs,)) of each layer, in order."""


def networks_of(model: Any, kind: Kind) -> tuple[dict[str, Params], dict[str, Params]]:
    """Return the networks and targets by lth's names, as Flax parameters.

    Raises:
        InputError: lth does not support a network: other activations than ReLU, not two critics, normalized layers.
    """
    if acting_network(model).activation != "relu":
        raise InputError(f"{kind.name} with tanh units cannot be adopted: lth's networks use ReLU")
    read = _Sbx(model, kind) if kind.library == "sbx" else _Torch(model, kind)
    if kind.algorithm == "DQN":
        return {"q": _named(read.actor(False))}, {"q": _named(read.actor(True))}
    networks = {"actor": _named(read.actor(False)), "critic": _twins(read.critics(False), kind)}
    targets = {"critic": _twins(read.critics(True), kind)}
    if kind.algorithm == "TD3":
        targets["actor"] = _named(read.actor(True))
    return networks, targets


def hidden_of(params: Params) -> tuple[int, ...]:
    """Return the sizes of a network's hidden layers; for twins, of the first."""
    tree: Any = params.get("q1", params)
    return tuple(tree[f"layer_{i}"]["bias"].shape[0] for i in range(len(tree) - 1))


def _named(pairs: Pairs) -> Params:
    names = [*(f"layer_{i}" for i in range(len(pairs) - 1)), "output"]
    return {name: {"kernel": k, "bias": b} for name, (k, b) in zip(names, pairs, strict=True)}


def _twins(members: list[Pairs], kind: Kind) -> Params:
    if len(members) != 2:
        raise InputError(f"{kind.name} with {len(members)} critics cannot be adopted: lth uses two")
    return {f"q{i + 1}": _named(pairs) for i, pairs in enumerate(members)}


class _Torch:
    """A model of Stable-Baselines3."""

    def __init__(self, model: Any, kind: Kind):
        self.policy, self.kind = model.policy, kind

    def actor(self, target: bool) -> Pairs:
        policy = self.policy
        if self.kind.algorithm == "DQN":
            return self._linear((policy.q_net_target if target else policy.q_net).q_net)
        if self.kind.algorithm == "TD3":
            return self._linear((policy.actor_target if target else policy.actor).mu)
        mean, deviation = (self._linear([part])[0] for part in (policy.actor.mu, policy.actor.log_std))
        both = np.concatenate([mean[0], deviation[0]], axis=1), np.concatenate([mean[1], deviation[1]])
        return [*self._linear(policy.actor.latent_pi), both]

    def critics(self, target: bool) -> list[Pairs]:
        critic = self.policy.critic_target if target else self.policy.critic
        return [self._linear(network) for network in critic.q_networks]

    def _linear(self, parts: Any) -> Pairs:
        found: Pairs = []
        for part in parts:
            name = type(part).__name__
            if name == "Linear":
                weight, bias = (x.detach().cpu().numpy().astype(np.float32) for x in (part.weight, part.bias))
                found.append((weight.T.copy(), bias.copy()))
            elif name not in ("ReLU", "Tanh", "Flatten"):
                raise InputError(
                    f"{self.kind.name} with a layer {name} cannot be adopted: lth's networks have dense layers"
                )
        return found


class _Sbx:
    """A model of SBX."""

    def __init__(self, model: Any, kind: Kind):
        self.policy, self.kind = model.policy, kind

    def actor(self, target: bool) -> Pairs:
        state = self.policy.qf_state if self.kind.algorithm == "DQN" else self.policy.actor_state
        pairs = self._dense(state.target_params if target else state.params)
        if self.kind.algorithm != "SAC":
            return pairs
        *body, (mean, mean_bias), (deviation, deviation_bias) = pairs
        both = np.concatenate([mean, deviation], axis=1), np.concatenate([mean_bias, deviation_bias])
        return [*body, both]

    def critics(self, target: bool) -> list[Pairs]:
        state = self.policy.qf_state
        stacked = self._dense(state.target_params if target else state.params)
        return [[(k[i], b[i]) for k, b in stacked] for i in range(stacked[0][0].shape[0])]

    def _dense(self, tree: Any) -> Pairs:
        while "Dense_0" not in tree:
            (tree,) = tree.values()
        names = sorted(tree, key=lambda name: (len(name), name))
        if names != [f"Dense_{i}" for i in range(len(names))]:
            raise InputError(
                f"{self.kind.name} with layers {', '.join(names)} cannot be adopted: lth's networks have dense layers"
            )
        return [(np.asarray(tree[name]["kernel"]), np.asarray(tree[name]["bias"])) for name in names]
