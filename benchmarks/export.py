"""Compare exported policies by flash size on a Cortex-M4 and time per call: sparse and dense C, ONNX Runtime and NumPy.

    python benchmarks/export.py [--json] [--repeats 5]

Uses untrained SAC actors of HalfCheetah-v5 (2 x 256) and of the quickstart (Pendulum-v1, 2 x 128), with 95 % of the prunable
weights pruned (Erdos-Renyi-kernel). Dense C is generated for the same network with all weights kept, and compiled with the same
flags (-O3; -Os for the Cortex-M4). Needs gcc, `lth[export]` and, for flash sizes, arm-none-eabi-gcc.
"""

from common import arguments, report

parser = arguments(__doc__.splitlines()[0])
parser.add_argument("--repeats", type=int, default=5)
options = parser.parse_args()

import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from src.lth import envs
from src.lth.algorithms.base import Agent
from src.lth.algorithms.tickets import make_ticket
from src.lth.config import SACConfig
from src.lth.exporting import c, numpy_code, onnx
from src.lth.exporting.check import seconds_of
from src.lth.exporting.compilers import compiled, cortex_m4_bytes
from src.lth.exporting.contract import dense_of, processor
from src.lth.exporting.fold import fold, quantize
from src.lth.exporting.subjects import of_agent
from src.lth.pruning.controls import random_mask

SPARSITY = 0.95


def ticket(task: str, width: int) -> Agent:
    """Return an untrained ticket of a task."""
    config = SACConfig(actor_hidden=(width, width), critic_hidden=(width, width))
    state = config.build(envs.task_spaces(task)).init(jax.random.key(0))
    masks = {name: random_mask(p, SPARSITY, jax.random.key(1), ("output",), "erk") for name, p in state.params.items()}
    return Agent(config, make_ticket(state, masks), task=task)


def measure(name: str, task: str, width: int) -> dict[str, Any]:
    """Measure one actor; keys begin with `name`."""
    subject = of_agent(ticket(task, width))
    low, high = subject.interface.observation_low, subject.interface.observation_high
    sparse, dense = fold(subject.network, low, high), fold(dense_of(subject.network), low, high)
    networks = {"sparse": sparse, "dense": dense, "int8": quantize(sparse)}
    programs = {k: c.emit(n, k, subject.observations, subject.actions) for k, n in networks.items()}
    flash = {k: cortex_m4_bytes(p) for k, p in programs.items()}
    seen = np.random.default_rng(0).normal(size=(256, sparse.observation_dim)).astype(np.float32)
    seen = np.clip(seen, low, high)
    with (
        tempfile.TemporaryDirectory() as folder,
        compiled(programs["sparse"], sparse) as c_sparse,
        compiled(programs["dense"], dense) as c_dense,
        compiled(programs["int8"], networks["int8"]) as c_int8,
    ):
        sessions = {k: onnx.session(onnx.emit(n, {})) for k, n in (("", sparse), ("_dense", dense))}
        act = numpy_code.load(numpy_code.emit(sparse, name), Path(folder))
        sides = {
            "c_sparse": lambda: c_sparse.seconds(seen),
            "c_dense": lambda: c_dense.seconds(seen),
            "c_int8": lambda: c_int8.seconds(seen),
            "onnxruntime": lambda: seconds_of(sessions[""], seen),
            "onnxruntime_dense": lambda: seconds_of(sessions["_dense"], seen),
            "numpy": lambda: seconds_of(act, seen),
            "agent": lambda: seconds_of(subject.act, seen),
        }
        rounds = [{side: call() for side, call in sides.items()} for _ in range(options.repeats)]
    us = {side: 1e6 * statistics.median(r[side] for r in rounds) for side in sides}
    found: dict[str, Any] = {f"us_{side}": round(value, 3) for side, value in us.items()}
    found |= {f"flash_{k}": v for k, v in flash.items()}
    if flash["dense"]:
        found["flash_ratio"] = round(flash["sparse"] / flash["dense"], 4)
        found["flash_ratio_int8"] = round(flash["int8"] / flash["dense"], 4)
    found |= {
        "multiply_adds": sparse.multiply_adds,
        "multiply_adds_dense": dense.dense_multiply_adds,
        "c_sparse_vs_c_dense": round(us["c_dense"] / us["c_sparse"], 2),
        "c_sparse_vs_onnxruntime": round(us["onnxruntime"] / us["c_sparse"], 2),
        "c_sparse_vs_onnxruntime_dense": round(us["onnxruntime_dense"] / us["c_sparse"], 2),
    }
    return {f"{name}_{key}": value for key, value in found.items()}


def main() -> None:
    found = {"processor": processor(), "sparsity": SPARSITY}
    found |= measure("halfcheetah", "HalfCheetah-v5", 256)
    found |= measure("quickstart", "Pendulum-v1", 128)
    report(found, options.json)


main()
