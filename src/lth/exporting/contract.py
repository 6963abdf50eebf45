"""The contract of an exported policy: names, units and bounds for its users, and measurements."""

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..envs.suites import unit_of
from .c_tables import buffer_sizes, table_bytes
from .check import Returns
from .network import Layer, Network
from .subjects import Subject

FORMAT = "lth-policy-1"


class Row(NamedTuple):
    """A row of the table: the agent, or one exported program."""

    name: str
    bytes: int
    """The agent: its acting network's dense parameters. C: constants and code on a Cortex-M4 if a cross compiler is installed, else
    constants. ONNX: the file, its metadata included. NumPy: policy.npz."""
    multiply_adds: int
    microseconds: float
    """The time of one call with one observation, on one thread of this machine."""
    deviation: float
    """The difference from the agent's actions on the recorded rollout."""
    returns: Returns | None


def contract(
    subject: Subject, network: Network, unread: Sequence[int], rows: Sequence[Row], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of `policy.json` as plain values; unknown and unbounded values are null."""
    interface, discrete = subject.interface, network.squash == "argmax"
    dropped = set(unread)
    observations = [
        {
            "index": i,
            "name": name,
            "unit": unit_of(str(subject.about.get("task", "")), name),
            "low": low,
            "high": high,
            "needed": i not in dropped,
        }
        for i, (name, low, high) in enumerate(
            zip(
                subject.observations,
                _numbers(interface.observation_low),
                _numbers(interface.observation_high),
                strict=True,
            )
        )
    ]
    if discrete:
        actions = [{"index": i + network.first_action, "name": name} for i, name in enumerate(subject.actions)]
    else:
        bounds = [_numbers(b) if len(b) else [None] * network.actions for b in (network.low, network.high)]
        actions = [
            {"index": i, "name": name, "unit": None, "low": low, "high": high}
            for i, (name, low, high) in enumerate(zip(subject.actions, *bounds, strict=True))
        ]
    agent = next((row.returns for row in rows if row.returns), None)
    return {
        "format": FORMAT,
        "title": subject.title,
        **subject.about,
        "network": fingerprint(subject.network),
        "observations": observations,
        "not_needed": [subject.observations[i] for i in unread],
        "actions": actions,
        "discrete": discrete,
        "dt": interface.dt,
        "return": _returns(agent),
        "sizes": dict(sizes),
        "times_us": {row.name: round(row.microseconds, 3) for row in rows},
        "processor": processor(),
        "checked": {
            row.name: {
                "bytes": row.bytes,
                "multiply_adds": row.multiply_adds,
                "deviation": row.deviation,
                "return": _returns(row.returns),
            }
            for row in rows
        },
    }


def sizes_of(whole: Network, network: Network, cortex_m4: int | None) -> dict[str, Any]:
    """Return the size of a policy and of the same network without pruning."""
    dense = dense_of(whole)
    return {
        "multiply_adds": network.multiply_adds,
        "multiply_adds_dense": dense.dense_multiply_adds,
        "constants_bytes": table_bytes(network),
        "constants_bytes_dense": table_bytes(dense),
        "flash_bytes_cortex_m4": cortex_m4,
        "ram_bytes": 4 * sum(buffer_sizes(network)),
        "ram_bytes_dense": 4 * sum(buffer_sizes(dense)),
        "layers": [list(layer.kernel.shape) for layer in network.layers],
        "layers_dense": [list(layer.kernel.shape) for layer in dense.layers],
        "weights": [layer.weights for layer in network.layers],
    }


def dense_of(network: Network) -> Network:
    """Return a network of the same shape without zeros: pruned weights are tiny instead."""

    def filled(layer: Layer) -> Layer:
        return layer._replace(kernel=np.where(layer.kernel == 0, np.float32(1e-30), layer.kernel))

    return network._replace(layers=tuple(filled(layer) for layer in network.layers))


def processor() -> str:
    """Return the name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def fingerprint(network: Network) -> str:
    """Return the SHA-256 of a network: its weights, normalizer and output transform."""
    found = hashlib.sha256(str(jax.tree.structure(network)).encode())
    for leaf in jax.tree.leaves(network):
        array = np.asarray(leaf)
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def digest(data: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def _returns(found: Returns | None) -> dict[str, Any] | None:
    if found is None:
        return None
    error = None if math.isnan(found.error) else round(found.error, 4)
    return {"mean": round(found.mean, 4), "standard_error": error, "episodes": found.episodes, "success": found.success}


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
