"""`lth plan`: how many seeds it takes to decide an effect, from pilot runs where there are some."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from .. import stats
from .families import main_scope
from .numbers import share
from .scores import DENSE_AGENT, Condition, Runs

ASSUMED = (0.05, 0.1, 0.2, 0.4)
"""Standard deviations over seeds that are tried where there are no pilot runs, as shares of dense."""
FEWEST_PILOTS = 3
SURE = 0.8
"""The confidence of the range of a standard deviation that pilot runs give."""


class Needed(NamedTuple):
    """The seeds that a test takes; None where more than 1,000 would be needed."""

    what: str
    effect: float
    spread: float
    """The standard deviation over seeds of the paired difference of scores."""
    pilots: int
    """Seeds that it was taken from; 0 where it is assumed."""
    seeds: int | None
    fewest: int | None
    """With the lower and the upper end of the 80 % range of the standard deviation."""
    most: int | None
    why: str = ""
    """Why the spread is assumed although there are pilot runs."""


def seeds_needed(
    runs: Runs | None, question: Sequence[str] | None, margin: float, effect: float, power: float
) -> list[Needed]:
    """Return the seeds that the primary question takes, and those that it takes to call a ticket as good as dense a winner.

    Args:
        runs: pilot runs, or None.
        question: the two methods of the primary question, or None.
        margin: of winning; the ticket is taken to be as good as dense.
        effect: the difference that the primary question is to find, as a share of dense.
        power: the probability of finding it.
    """
    found = []
    tests = [(f"{question[0]} against {question[1]}", effect, False)] if question else []
    tests.append((f"a ticket within {share(margin)} of dense", margin, True))
    for what, size, greater in tests:
        pilots, why = _pilots(runs, question if not greater else None) if runs else ([], "")
        for spread, low, high, pilot_seeds in pilots or [(sd, sd, sd, 0) for sd in ASSUMED]:
            needed, fewest, most = (stats.seeds_needed(size, sd, power, greater) for sd in (spread, low, high))
            found.append(Needed(what, size, spread, pilot_seeds, needed, fewest, most, why))
    return found


def _pilots(runs: Runs, question: Sequence[str] | None) -> tuple[list[tuple[float, float, float, int]], str]:
    """Return the standard deviation of a test's differences with its range; of tickets beside dense that of the median ticket.

    Where the pilot runs give none, return why.
    """
    scope, tasks = main_scope(runs)
    if not scope or not runs.have_scores(tasks):
        return [], "the pilot runs have no scores: dense learned too little, or the random policy was not measured"
    if question:
        found = []
        for rewind, sparsity in runs.levels():
            first, second = (Condition(method, "", sparsity, rewind) for method in question)
            if runs.has(tasks, first) and runs.has(tasks, second):  # the levels that the question is tested at
                found.append(runs.differences(tasks, first, second))
        seeds = set.intersection(*map(set, found)) if found else set()
        samples = [[float(np.mean([d[seed] for d in found])) for seed in sorted(seeds)]]
    else:
        tickets = [c for c in runs.conditions if c.is_ticket]
        samples = [[*runs.differences(tasks, c, DENSE_AGENT).values()] for c in tickets]
    most = max(map(len, samples), default=0)
    if most < FEWEST_PILOTS:
        return [], f"the pilot runs have {most} seeds to compare, and a spread takes {FEWEST_PILOTS}"
    samples = [d for d in samples if len(d) >= FEWEST_PILOTS]
    one = sorted(samples, key=lambda d: float(np.std(d, ddof=1)))[len(samples) // 2]
    spread, free = float(np.std(one, ddof=1)), len(one) - 1
    tails = special.chdtri(free, [(1 - SURE) / 2, (1 + SURE) / 2])  # of chi-squared; upper tails
    low, high = (spread * float(np.sqrt(free / tail)) for tail in tails)
    return [(spread, low, high, len(one))], ""
