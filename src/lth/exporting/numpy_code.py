"""Write a policy as an .npz file and a short Python file that needs only NumPy."""

import io
from typing import Any

import numpy as np

from .network import NORM_EPSILON, Network, halves

PROGRAM = f'''"""{{title}}

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
        raise ValueError(f"an observation has {{{{OBSERVATION_DIM}}}} numbers, not shape {{{{x.shape}}}}")
    x = x[..., _P["reads"]]
    if "mean" in _P:
        x = np.clip((x - _P["mean"]) * _P["scale"], -_P["clip"], _P["clip"])
    for i in range(_LAYERS):
        x = x @ _P[f"kernel_{{{{i}}}}"] + _P[f"bias_{{{{i}}}}"]
        if f"norm_scale_{{{{i}}}}" in _P:
            x = x - x.mean(axis=-1, keepdims=True)
            x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + np.float32({NORM_EPSILON}))
            x = x * _P[f"norm_scale_{{{{i}}}}"] + _P[f"norm_shift_{{{{i}}}}"]
        if i < _LAYERS - 1:
            x = {{activation}}
    return {{ending}}
'''

_ACTIVATIONS = {"relu": "np.maximum(x, 0.0)", "tanh": "np.tanh(x)"}
_ENDINGS = {
    "tanh": 'np.clip(np.tanh(x) * _P["half"] + _P["middle"], _P["low"], _P["high"])',
    "clip": 'np.clip(x, _P["low"], _P["high"])',
    "none": "x",
    "argmax": 'np.argmax(x, axis=-1) + _P["first_action"]',
}


def emit(network: Network, title: str) -> dict[str, bytes]:
    """Return `policy.npz` and `policy.py` for a policy, by name."""
    title = title.encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")
    code = PROGRAM.format(
        title=f"{title}.", activation=_ACTIVATIONS[network.activation], ending=_ENDINGS[network.squash]
    )
    file = io.BytesIO()
    np.savez_compressed(file, **_arrays(network))
    return {"policy.npz": file.getvalue(), "policy.py": code.encode()}


def _arrays(network: Network) -> dict[str, Any]:
    found: dict[str, Any] = {
        "observation_dim": np.int64(network.observation_dim),
        "reads": network.reads.astype(np.int64),
    }
    if network.normalizes:
        found |= {"mean": network.mean, "scale": network.scale, "clip": np.float32(network.clip)}
    for i, layer in enumerate(network.layers):
        found |= {f"kernel_{i}": layer.kernel, f"bias_{i}": layer.bias}
        if layer.norm is not None:
            found |= {f"norm_scale_{i}": layer.norm[0], f"norm_shift_{i}": layer.norm[1]}
    if network.squash in ("tanh", "clip"):
        found |= {"low": network.low, "high": network.high}
    if network.squash == "tanh":
        found |= dict(zip(("half", "middle"), halves(network), strict=True))
    if network.squash == "argmax":
        found["first_action"] = np.int64(network.first_action)
    return found


def load(files: dict[str, bytes], folder: Any) -> Any:
    """Write the files to a folder and return their `act` function."""
    import runpy

    for name, data in files.items():
        (folder / name).write_bytes(data)
    return runpy.run_path(str(folder / "policy.py"))["act"]
