"""Pendulum-v1 seed 0 taylor 0.95.

    from policy import act
    action = act(observation)  # (observation_dim,) or (n, observation_dim), in the environment's units

Needs NumPy, and policy.npz beside this file.
"""

from pathlib import Path

import numpy as np

_P = dict(np.load(Path(__file__).with_name("policy.npz")))
_LAYERS = sum(name.startswith("kernel_") for name in _P)
OBSERVATION_DIM = int(_P["observation_dim"])


def act(observation):
    """Return the action, float32 or a whole number; a batch of observations gives a batch of actions."""
    x = np.asarray(observation, np.float32)
    if x.shape[-1:] != (OBSERVATION_DIM,):
        raise ValueError(f"an observation has {OBSERVATION_DIM} numbers, not shape {x.shape}")
    x = x[..., _P["reads"]]
    if "mean" in _P:
        x = np.clip((x - _P["mean"]) * _P["scale"], -_P["clip"], _P["clip"])
    for i in range(_LAYERS):
        x = x @ _P[f"kernel_{i}"] + _P[f"bias_{i}"]
        if f"norm_scale_{i}" in _P:
            x = x - x.mean(axis=-1, keepdims=True)
            x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + np.float32(1e-06))
            x = x * _P[f"norm_scale_{i}"] + _P[f"norm_shift_{i}"]
        if i < _LAYERS - 1:
            x = np.maximum(x, 0.0)
    return np.clip(np.tanh(x) * _P["half"] + _P["middle"], _P["low"], _P["high"])
