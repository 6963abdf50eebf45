"""`lth flash`: return versus flash size for the runs of a grid: dense agents, tickets by method and sparsity, and int8."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..experiment import records
from ..experiment.journal import is_finished
from ..experiment.plan import Plan, Row
from ..files import csv_bytes, write_whole
from . import c
from .c_tables import table_bytes
from .check import returns
from .compilers import cortex_m4_bytes
from .fold import fold, quantize
from .network import Network, run
from .subjects import of_run

CSV = "flash.csv"
DENSE = "dense"


class FlashRow(NamedTuple):
    """One run's policy as a C program."""

    task: str
    seed: int
    method: str
    """`dense`, or the method or control of a ticket: `taylor`, `taylor + reinit`."""
    sparsity: str
    weights: str
    """`float32` or `int8`."""
    bytes: int
    measured: str
    """`cortex-m4`: code and constants, compiled with -Os; `constants`: without a cross compiler."""
    multiply_adds: int
    not_needed: int
    """The number of observations that do not affect the actions."""
    episodes: int
    value: float
    """The mean return: for float32 of the run's last evaluation, for int8 of the same episodes with the rounded weights."""


def measure(plan: Plan, episodes: int | None = None, told: Callable[[str], None] = lambda line: None) -> list[FlashRow]:
    """Export the finished runs of a grid, and return their sizes and returns; writes nothing.

    Args:
        plan: the plan of the grid.
        episodes: evaluation episodes for the rounded weights; None: as many as in the last evaluation.
        told: called with one line per run.

    Raises:
        InputError: no run is finished, or a file is damaged.
    """
    rows: list[FlashRow] = []
    seen = set()
    for row in plan.rows:
        for method, sparsity, spec in ((DENSE, "", row.dense), (_method(row), row.sparsity, row.run)):
            if spec not in seen and is_finished(plan.root, spec):
                seen.add(spec)
                rows += _rows(plan.root / spec.path, method, sparsity, episodes or spec.dense.evaluation.last_episodes)
                told(f"{spec.title()}: {rows[-2].bytes:,} bytes, int8 {rows[-1].bytes:,}")
    if not rows:
        raise InputError(
            f"no run of this config is finished in '{plan.root}'; run `lth run` with the same arguments first"
        )
    return rows


def save_table(root: Path, rows: Sequence[FlashRow]) -> Path:
    """Write `flash.csv`."""
    write_whole(root / CSV, csv_bytes((*FlashRow._fields[:-1], "return"), rows), checksum=False)
    return root / CSV


def _method(row: Row) -> str:
    return " + ".join(filter(None, (row.method, row.control)))


def _rows(folder: Path, method: str, sparsity: str, episodes: int) -> list[FlashRow]:
    subject = of_run(folder)
    spec = records.spec_of(folder).dense
    network = fold(subject.network, subject.interface.observation_low, subject.interface.observation_high)
    rounded = quantize(network)
    needed = len(network.reads) if network.layers[0].kernel.any() else 0
    driven = returns(subject, lambda x: run(rounded, x), episodes)
    assert driven is not None
    last = records.last_evaluation(folder)["evaluation/return"]
    found = []
    measures = (("float32", network, spec.evaluation.last_episodes, last), ("int8", rounded, episodes, driven.mean))
    for weights, policy, count, value in measures:
        size, measured = _bytes(policy, subject.observations, subject.actions)
        unneeded = network.observation_dim - needed
        found.append(
            FlashRow(
                spec.task,
                spec.seed,
                method,
                sparsity,
                weights,
                size,
                measured,
                policy.multiply_adds,
                unneeded,
                count,
                value,
            )
        )
    return found


def _bytes(network: Network, observations: Sequence[str], actions: Sequence[str]) -> tuple[int, str]:
    found = cortex_m4_bytes(c.emit(network, "", observations, actions))
    return (table_bytes(network), "constants") if found is None else (found, "cortex-m4")
