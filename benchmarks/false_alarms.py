"""Measure the false-alarm rate and the power of the report's tests on simulated studies.

    python benchmarks/false_alarms.py [--json] [--studies 1000] [--power]

Each study is a tidy table (random policy, dense agents, three tickets and a control at three sparsities) that
`lth.reporting.families` analyzes like a real study. Nulls: returns are Gaussian; or 20 % of all runs, including dense agents, fail
and score like the random policy. The null of "winning" is that tickets are exactly the margin below dense.
"""

import argparse
import json
from collections.abc import Iterator
from math import sqrt

import numpy as np

from lth import stats
from lth.experiment.tidy import TidyRow
from lth.reporting.families import WINNING, WORSE, Families, families
from lth.reporting.scores import Runs

METHODS, LEVELS, MARGIN = ("magnitude", "gradient", "taylor"), ("0.9", "0.95", "0.98"), 0.1
SPREAD = 0.2


def study(rng: np.random.Generator, seeds: int, dying: float, shift: dict[tuple[str, str], float]) -> list[TidyRow]:
    """Make the tidy rows of one study; `shift` is added to the scores of a method at a sparsity."""

    def scores(by: float = 0.0) -> np.ndarray:
        alive = rng.random(seeds) >= dying
        return np.where(alive, rng.normal(1.0, SPREAD, seeds), rng.normal(0.0, SPREAD, seeds)) + by

    def rows(method: str, sparsity: str, rewind: str, values: np.ndarray) -> Iterator[TidyRow]:
        for seed, value in enumerate(values):
            if method == "dense":
                yield TidyRow("task", seed, method, "", "", "", "", 0, "evaluation/return", 0.0)
            yield TidyRow("task", seed, method, "", sparsity, rewind, "", 1, "evaluation/return", float(value))

    zero = [("random_policy/return", 0.0), ("random_policy/return_error", 0.0)]
    found = [TidyRow("task", 0, "random-policy", "", "", "", "", 0, metric, value) for metric, value in zero]
    found += rows("dense", "", "", scores())
    for level in LEVELS:
        for method in (*METHODS, "shuffled"):
            found += rows(method, level, "0", scores(shift.get((method, level), 0.0)))
    return found


def alarms(found: Families) -> dict[str, bool]:
    """Return the families that rejected a null hypothesis."""
    asked = found.primary  # None if the dense agents failed by chance
    by_method = {c.first.method for c in found.controls if c.differs}
    return {
        "primary": asked is not None and any(c.differs for c in (asked.overall, *asked.levels)),
        "winning (a method)": any(v.verdict == WINNING and v.condition.method == "taylor" for v in found.verdicts),
        "worse (a method)": any(v.verdict == WORSE and v.condition.method == "taylor" for v in found.verdicts),
        "controls (a method)": "taylor" in by_method,
        "exploratory": any(c.differs for c in found.exploratory),
    }


def rates(seeds: int, dying: float, studies: int) -> dict[str, float]:
    """Return the share of null studies in which each family rejected a null hypothesis."""
    rng = np.random.default_rng(0)
    at_margin = {(m, level): -MARGIN * (1.0 - dying) for m in METHODS for level in LEVELS}
    counts: dict[str, int] = {}
    for _ in range(studies):
        for shift, kinds in (({}, ("primary", "controls", "exploratory")), (at_margin, ("winning", "worse"))):
            seen = alarms(families(Runs(study(rng, seeds, dying, shift)), ("taylor", "magnitude"), MARGIN))
            for family, alarm in seen.items():
                if family.split()[0] in kinds:
                    counts[family] = counts.get(family, 0) + alarm
    return {family: count / studies for family, count in counts.items()}


def power(seeds: int, effect: float, studies: int) -> dict[str, float]:
    """Return the power to find Taylor ahead of magnitude at two of three sparsities by `effect` standard deviations.

    The standard deviation is that of the paired difference. `before` is the procedure that the report had: Holm's correction over
    all 27 comparisons of such a page.
    """
    rng = np.random.default_rng(1)
    shift = {("taylor", level): effect * SPREAD * sqrt(2.0) for level in LEVELS[1:]}
    overall = level = before = 0
    for _ in range(studies):
        rows = study(rng, seeds, 0.0, shift)
        runs = Runs(rows)
        found = families(runs, ("taylor", "magnitude"), MARGIN).primary
        if found is None:
            continue
        overall += found.overall.differs
        level += found.levels[1].differs
        p = [c.p for c in found.levels]
        before += min(p) * 27 <= stats.LEVEL if seeds >= stats.FEWEST else False
    return {"primary": overall / studies, "primary, one level": level / studies, "before": before / studies}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--power", action="store_true", help="power instead of false alarms")
    arguments = parser.parse_args()
    found = []
    if arguments.power:
        for seeds in (5, 8, 11):
            for effect in (0.5, 1.0, 1.5, 2.0):
                found.append({"seeds": seeds, "effect_sd": effect, **power(seeds, effect, arguments.studies)})
    else:
        for dying in (0.0, 0.2):
            for seeds in (3, 5, 10):
                found.append({"dying": dying, "seeds": seeds, **rates(seeds, dying, arguments.studies)})
    if arguments.json:
        print(json.dumps(found))
    else:
        for row in found:
            print("  ".join(f"{k} {v:g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()
