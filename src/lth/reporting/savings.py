"""What a ticket saves beside its dense agent: seconds and FLOPs of training, bytes of the exported policy."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .families import WINNING, Families
from .numbers import percent, quantity, rewound, rounded, sentence
from .scores import ALL_TASKS, DENSE_AGENT, Condition, Runs, ascending
from .views import RETURN

LEAST_TIMES = 1.1
"""How many times as fast a ticket has to be for that to be called a saving."""


class Saving(NamedTuple):
    """The tickets of one level on one task, controls left out: means over methods and seeds, beside the dense agents'."""

    task: str
    rewind: str
    sparsity: str
    runs: int
    env_steps: float
    dense_env_steps: float
    seconds: float  # without start-up and compilation; NaN where a run has not recorded these apart
    dense_seconds: float
    flops: float
    dense_flops: float
    bytes: float  # NaN where they are not known
    dense_bytes: float

    @property
    def times(self) -> float:
        """How many times as fast as dense; NaN where that is not known."""
        return self.dense_seconds / self.seconds if self.seconds > 0 else np.nan


def savings(runs: Runs, sizes: Mapping[tuple[str, Condition], float] | None = None) -> list[Saving]:
    """Average what tickets and dense agents took.

    Args:
        runs: the runs.
        sizes: bytes of the exported policies, by task and condition.
    """
    sizes = sizes or {}
    found = []
    for task in runs.tasks:
        for rewind, sparsity in runs.levels():
            tickets = [c for c in runs.at(rewind, sparsity) if c.is_ticket and runs.has([task], c)]
            if not tickets or not runs.has([task], DENSE_AGENT):
                continue
            kept = [sizes[task, c] for c in tickets if (task, c) in sizes]
            found.append(
                Saving(
                    task,
                    rewind,
                    sparsity,
                    runs=sum(len(runs.last(task, c)) for c in tickets),
                    env_steps=_cost(runs, task, tickets, "env_steps"),
                    dense_env_steps=_cost(runs, task, [DENSE_AGENT], "env_steps"),
                    seconds=_seconds(runs, task, tickets),
                    dense_seconds=_seconds(runs, task, [DENSE_AGENT]),
                    flops=_cost(runs, task, tickets, "flops"),
                    dense_flops=_cost(runs, task, [DENSE_AGENT], "flops"),
                    bytes=float(np.mean(kept)) if kept else np.nan,
                    dense_bytes=sizes.get((task, DENSE_AGENT), np.nan),
                )
            )
    return found


def _cost(runs: Runs, task: str, conditions: Sequence[Condition], name: str) -> float:
    """Return the mean of a cost over all runs of some conditions."""
    return float(np.mean([v for c in conditions for v in runs.last(task, c, f"cost/{name}").values()]))


def _seconds(runs: Runs, task: str, conditions: Sequence[Condition]) -> float:
    """Return the mean seconds of training, without what only the first run of its kind in a process has to wait for."""
    return float(
        np.mean(
            [
                seconds - runs.last(task, c, "cost/start_seconds").get(seed, np.nan)
                for c in conditions
                for seed, seconds in runs.last(task, c, "cost/train_seconds").items()
            ]
        )
    )


def saved(runs: Runs, found: Families, some: list[Saving]) -> list[str]:
    """Say for each task what its sparsest winning tickets save; where none is winning, what its sparsest do."""
    said = []
    for task in runs.tasks:
        here = [s for s in some if s.task == task]
        winning = {
            (v.condition.rewind, v.condition.sparsity)
            for v in found.verdicts
            if v.verdict == WINNING and v.condition.is_ticket and v.metric == RETURN and v.scope in (task, ALL_TASKS)
        }
        shown = [s for s in here if (s.rewind, s.sparsity) in winning] or here
        if shown:
            sparsest = sorted(shown, key=lambda s: ascending(s.sparsity))[-1]
            said.append(_saved(runs, sparsest, len(runs.tasks) > 1))
    return said


def _saved(runs: Runs, s: Saving, several: bool) -> str:
    at = f" ({rewound(s.rewind)})" if len({rewind for rewind, _ in runs.levels()}) > 1 else ""
    ticket = f"{'on ' + s.task + ' ' if several else ''}a {percent(s.sparsity)} ticket{at}"
    times = s.times
    took, dense = quantity(s.seconds), quantity(s.dense_seconds)
    if times != times:
        text = f"{ticket} and dense are not compared by seconds, since not every run has its compilation recorded apart"
    elif times >= LEAST_TIMES:
        text = f"{ticket} trained in {took} s where dense took {dense} s ({rounded(times, 2)} times faster)"
    else:
        text = f"{ticket} trained in {took} s, dense in {dense} s: no time was saved"
    text += ", start-up and compilation left out" * (times == times)
    if round(s.env_steps) != round(s.dense_env_steps):
        text += f"; it trained for {s.env_steps:,.0f} environment steps, dense for {s.dense_env_steps:,.0f}"
    if s.bytes == s.bytes and s.dense_bytes == s.dense_bytes:
        smaller = f"{rounded(s.dense_bytes / s.bytes, 2, ',')} times smaller"
        text += f". Exported it takes {_bytes(s.bytes)}, dense {_bytes(s.dense_bytes)} ({smaller})"
    return f"{sentence(text)}."


def _bytes(count: float) -> str:
    return f"{quantity(count / 1000)} kB" if count >= 1000 else f"{count:.0f} bytes"
