"""What the tests say, in sentences: the headline, what is decided, and what is not. One statistic a sentence, the tested one."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import stats
from ..experiment.question import Declared
from .families import (
    NOT_JUDGED,
    TOO_FEW,
    UNDECIDED,
    WINNING,
    WORSE,
    Comparison,
    Families,
    Verdict,
    main_scope,
)
from .scores import ALL_TASKS, Estimate, Runs, level_name
from .tickets import MaskCost
from .views import RETURN, SUCCESS, label

CLAIMED_SECONDS = 30.0
"""What docs/saliency-pruning.md expects a mask with 100 batches to add for each task and seed."""


class Answer(NamedTuple):
    """What a report says first."""

    headline: list[str]
    """The answer: the primary question, then each sparsity."""
    question: str
    """What was asked, and whether it was asked before the first run."""
    decided: list[str]
    """Differences that the tests carry, besides the headline's."""
    undecided: list[str]
    """Comparisons that they do not; undecided is not equal."""
    notes: list[str]
    """What limits all of it: dense agents that failed, untrained networks that do as well as trained ones."""


def number(value: float, digits: int = 2) -> str:
    """Write a number with so many digits behind the point, without a sign on zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def bounds(estimate: Estimate, digits: int = 2) -> str:
    """Write an estimate with its interval: `0.97 [0.91, 1.02]`; without one where one run gives none."""
    value = number(estimate.value, digits)
    if estimate.low != estimate.low:
        return value
    return f"{value} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def signed(value: float, digits: int = 2) -> str:
    """Write a difference with its sign: `+0.12`."""
    text = number(value, digits)
    return text if text.startswith("-") or not float(text) else f"+{text}"


def p_value(p: float) -> str:
    """Write a p: three digits behind the point, or the power of ten."""
    return f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.001 else f"{p:.0e}"


def names(some: Iterable[str]) -> str:
    """Join names: `a, b and c`."""
    *first, last = some
    return f"{', '.join(first)} and {last}" if first else last


def between(c: Comparison) -> str:
    """Write the interval of a comparison: `95 % interval 0.02 to 0.31`; empty below FEWEST seeds."""
    if c.low != c.low:
        return ""
    return f"{100 * c.confidence:.3g} % interval {number(c.low)} to {number(c.high)}"


def seeds(count: int) -> str:
    """Write a number of seeds."""
    return f"{count} seed{'s' * (count != 1)}"


def answer(runs: Runs, found: Families, declared: Declared) -> Answer:
    """Put the tests of a report in words."""
    scope, tasks = main_scope(runs)
    headline = []
    if found.primary:
        headline.append(_primary(found))
    headline += _levels(runs, found, scope, RETURN)
    if any(v.metric == SUCCESS for v in found.verdicts):
        success_scope, _ = main_scope(runs, SUCCESS)
        headline += [
            f"By success: {line[0].lower()}{line[1:]}" for line in _levels(runs, found, success_scope, SUCCESS)
        ]
    if not headline:
        headline = ["No ticket is finished that a dense agent of the same seed stands beside."]
    others = [*(found.primary.levels if found.primary else ()), *found.controls, *found.exploratory]
    tested = [c for c in others if c.corrected == c.corrected]
    return Answer(
        headline,
        _question(found, declared),
        [_decided(runs, c) for c in tested if c.differs],
        [_undecided(runs, c) for c in tested if not c.differs],
        _notes(runs, tasks),
    )


def _primary(found: Families) -> str:
    assert found.primary
    c = found.primary.overall
    first, second = c.first.method, c.second.method
    place = "" if c.scope == ALL_TASKS else f" on {c.scope}"
    over = len(found.primary.levels)
    mean = f", on average over {over} sparsities" if over > 1 else ""
    if c.corrected != c.corrected:
        return _sentence(
            f"{first} against {second}{place}: {first} is above on {c.wins} of {seeds(c.seeds)}, by {signed(c.difference)} "
            f"of dense on average; fewer than {stats.FEWEST} seeds give no test."
        )
    evidence = f"{between(c)}, p = {p_value(c.p)}, {seeds(c.seeds)}"
    if not c.differs:
        return (
            f"Whether {first} tickets differ from {second} tickets{place} is undecided: the difference is "
            f"{signed(c.difference)} of dense{mean} ({evidence})."
        )
    better, worse = (first, second) if c.difference > 0 else (second, first)
    return _sentence(
        f"{better} tickets do better than {worse} tickets{place}, by {number(abs(c.difference))} of dense{mean} ({evidence})."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _levels(runs: Runs, found: Families, scope: str, metric: str) -> list[str]:
    lines = []
    for rewind, sparsity in reversed(runs.levels()):
        here = [
            v
            for v in found.verdicts
            if (v.scope, v.metric) == (scope, metric)
            and (v.condition.rewind, v.condition.sparsity) == (rewind, sparsity)
            and not v.condition.control
        ]
        if here:
            name = level_name(runs, rewind, sparsity).replace(" pruned", "", 1)
            lines.append(f"At {name}, {_level(here, found.margin)}.")
    return lines


def _level(here: Sequence[Verdict], margin: float) -> str:
    tickets = [v for v in here if v.condition.is_ticket]
    if all(v.verdict == NOT_JUDGED for v in here):
        return "the dense agents learned too little for tickets to be judged"
    if all(v.verdict == TOO_FEW for v in here):
        counts = ", ".join(f"{label(v.condition.method, '')} {v.within} of {v.seeds}" for v in here)
        return f"seeds within {margin:.0%} of dense: {counts}"
    within = f"within {margin:.0%}"
    parts = []
    for verdict, one, several in (
        (WINNING, f"matches dense ({within})", f"match dense ({within})"),
        (WORSE, "is worse than dense", "are worse than dense"),
        (UNDECIDED, "is undecided", "are undecided"),
        (TOO_FEW, "has too few seeds", "have too few seeds"),
    ):
        some = [v.condition.label for v in here if v.verdict == verdict]
        if not some:
            continue
        if len(some) == len(here) > 1:
            parts.append(
                f"every method {one}, controls included" if len(here) > len(tickets) else f"every ticket {one}"
            )
        elif len(tickets) > 1 and [v.condition.label for v in tickets] == some:
            parts.append(f"all {len(some)} methods {several}")
        else:
            parts.append(f"{names(some)} {one if len(some) == 1 else several}")
    return "; ".join(parts)


def _question(found: Families, declared: Declared) -> str:
    asked = "No primary question was asked."
    if found.primary:
        c = found.primary.overall
        asked = f"Question: do {c.first.method} tickets do better or worse than {c.second.method} tickets?"
    margin = f" A ticket wins within {found.margin:.0%} of dense."
    if declared.confirmatory:
        return f"{asked}{margin} Declared on {declared.time[:10]}, before the first run."
    if declared.changes:
        return f"{asked}{margin} Exploratory: changed since it was declared ({'; '.join(declared.changes)})."
    if declared.time:
        return f"{asked}{margin} Exploratory: declared on {declared.time[:10]}, after the first run."
    return f"{asked}{margin} Exploratory: it was not declared before the first run."


def _place(runs: Runs, c: Comparison) -> str:
    """Name where a comparison was made: `95 %, drawer-close-v3, success`."""
    parts = [level_name(runs, c.first.rewind, c.first.sparsity).replace(" pruned", "", 1)]
    parts += [c.scope] if c.scope != main_scope(runs, c.metric)[0] else []
    parts += ["success"] if c.metric == SUCCESS else []
    return ", ".join(parts)


def _decided(runs: Runs, c: Comparison) -> str:
    better, worse = (c.first, c.second) if c.difference > 0 else (c.second, c.first)
    return (
        f"{_place(runs, c)}: {better.label} is better than {worse.label} by {number(abs(c.difference))} of dense "
        f"(corrected p = {p_value(c.corrected)}, {c.family})."
    )


def _undecided(runs: Runs, c: Comparison) -> str:
    return (
        f"{_place(runs, c)}: {c.first.label} and {c.second.label} differ by {signed(c.difference)} of dense "
        f"({between(c)}; corrected p = {p_value(c.corrected)}, {c.family})."
    )


def _notes(runs: Runs, tasks: Sequence[str]) -> list[str]:
    said = []
    for reference in runs.references.values():
        task, random = reference.task, f"{reference.random:.4g} ± {reference.random_error:.2g}"
        if reference.random != reference.random:
            said.append(f"{task}: the random policy was not measured, so there are no scores; `lth run` measures it.")
        elif not reference.usable:
            said.append(
                f"{task}: the dense agents learned too little (a random policy returns {random}, the dense agents "
                f"{reference.dense:.4g} with a standard deviation of {reference.spread:.2g} over seeds), so its returns have no "
                "scores and no ticket is judged. Train longer, or choose other settings."
            )
        elif reference.overlaps:
            said.append(
                f"{task}: untrained networks overlap with trained ones. Before training, the networks of "
                f"{seeds(reference.seeds)} return {min(reference.untrained):.4g} to {max(reference.untrained):.4g}; trained, "
                f"{min(reference.trained):.4g} to {max(reference.trained):.4g}."
            )
    fewest = min((len(runs.last(task, c)) for task in tasks for c in runs.conditions if runs.has([task], c)), default=0)
    if fewest < stats.FEWEST:
        said.append(
            f"With fewer than {stats.FEWEST} seeds there are counts and differences, but no intervals and no tests. "
            "`lth plan` says how many seeds an effect takes."
        )
    return said


def claim(cost: MaskCost | None) -> str:
    """Check what docs/saliency-pruning.md expects masks with gradients to cost."""
    if cost is None:
        return "No mask of this grid took gradients."
    batches = " or ".join(map(str, cost.batches))
    if cost.task_and_seed <= CLAIMED_SECONDS:
        holds = "so the claim holds"
    elif cost.median <= CLAIMED_SECONDS:
        holds = "so the claim holds for one mask, and not for all those of a task and seed together"
    else:
        holds = "so the claim does not hold here"
    return (
        f"docs/saliency-pruning.md expects a mask with gradients over 100 batches to add about {CLAIMED_SECONDS:.0f} s per task "
        f"and seed. Here {cost.masks} such masks with {batches} batches took {number(cost.median)} s each (median; at most "
        f"{number(cost.largest)} s), and all those of a task and seed together {number(cost.task_and_seed)} s (median), {holds}."
    )
