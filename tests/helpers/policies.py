"""Made-up policies of every kind that can be exported, and their exact answers."""

import itertools

import numpy as np

from lth.envs import Interface
from lth.exporting.network import NORM_EPSILON, Layer, Network
from lth.exporting.subjects import Subject


def network(
    sizes=(6, 20, 18, 3), density=0.3, squash="tanh", activation="relu", norm=False, clip=10.0, normal=True, seed=0
):
    """Return a random policy with whole numbers of pruned weights, a dead unit and an unread observation in it."""
    rng = np.random.default_rng(seed)
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        kernel = rng.normal(0, 1.5 / np.sqrt(max(a * density, 1)), (a, b)) * (rng.random((a, b)) < density)
        if i == 0:
            kernel[2:3] = 0.0  # nothing reads observation 2
        if len(sizes) > 2 and i < len(sizes) - 2:
            kernel[:, 1] = 0.0  # a unit that is constant
        normed = norm and i < len(sizes) - 2
        extra = (rng.normal(1, 0.1, b).astype(np.float32), rng.normal(0, 0.1, b).astype(np.float32)) if normed else None
        layers.append(Layer(kernel.astype(np.float32), rng.normal(0, 0.3, b).astype(np.float32), extra))
    n, m = sizes[0], sizes[-1]
    bounded = squash in ("tanh", "clip")
    return Network(
        observation_dim=n,
        reads=np.arange(n),
        mean=(rng.normal(0, 1, n) if normal else np.zeros(n)).astype(np.float32),
        scale=(rng.uniform(0.5, 2, n) if normal else np.ones(n)).astype(np.float32),
        clip=clip if normal else np.inf,
        layers=tuple(layers),
        activation=activation,
        squash=squash,
        low=(rng.uniform(-3, -1, m) if bounded else np.zeros(0)).astype(np.float32),
        high=(rng.uniform(0.5, 4, m) if bounded else np.zeros(0)).astype(np.float32),
        first_action=2 if squash == "argmax" else 0,
    )


CASES = {
    "tanh": network(),
    "dense": network(density=1.0),
    "many inputs": network((400, 40, 20, 8, 2), 0.9),
    "no layer but one, nothing normalized": network((5, 2), 0.5, normal=False),
    "argmax": network(squash="argmax"),
    "argmax with layer norm": network(squash="argmax", norm=True),
    "layer norm of whole matrices": network(norm=True, density=1.0),
    "clip, tanh units": network(squash="clip", activation="tanh"),
    "no bounds": network(squash="none", activation="tanh", normal=False),
    "constant": network(density=0.0),
}


def exact(policy, observations):
    """Return the outputs of the last layer in float64, written without lth."""
    x = np.clip((observations[:, policy.reads] - policy.mean) * policy.scale.astype(float), -policy.clip, policy.clip)
    for i, layer in enumerate(policy.layers):
        x = x @ layer.kernel.astype(float) + layer.bias
        if layer.norm is not None:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + NORM_EPSILON)
            x = x * layer.norm[0] + layer.norm[1]
        if i < len(policy.layers) - 1:
            x = np.maximum(x, 0) if policy.activation == "relu" else np.tanh(x)
    return x


def exact_actions(policy, observations):
    """Return the actions in float64."""
    x, low, high = exact(policy, observations), policy.low.astype(float), policy.high.astype(float)
    if policy.squash == "argmax":
        return x.argmax(1) + policy.first_action
    return {
        "none": lambda: x,
        "clip": lambda: np.clip(x, low, high),
        "tanh": lambda: low + (np.tanh(x) + 1) / 2 * (high - low),
    }[policy.squash]()


def observations(policy, n=50, seed=1):
    """Draw observations, some so far out that they are clipped."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (n, policy.observation_dim)) * rng.choice([1.0, 30.0], (n, 1), p=[0.8, 0.2])).astype(
        np.float32
    )


def subject(policy, act=None, low=-np.inf, high=np.inf):
    """Return a made-up policy as something to export, without an environment."""
    n, m = policy.observation_dim, policy.actions
    interface = Interface(np.full(n, low, np.float32), np.full(n, high, np.float32), policy.low, policy.high)
    act = act or (
        lambda seen: exact_actions(policy, seen).astype(np.int64 if policy.squash == "argmax" else np.float32)
    )
    names = [f"sensor {i}" for i in range(n)], [f"motor {i}" for i in range(m)]
    return Subject(policy, act, None, interface, *names, "made up */ \\ policy", {"task": ""})
