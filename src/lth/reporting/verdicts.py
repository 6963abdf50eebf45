"""What the comparisons say, in sentences; and never more than the test carries."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import stats
from ..config import CONTROL_METHODS
from ..experiment.tidy import DENSE
from .comparisons import Comparison
from .scores import ALL_TASKS, Condition, Estimate, Result, Runs, level_name
from .tickets import MaskCost

CLAIMED_SECONDS = 30.0
"""What docs/saliency-pruning.md expects a mask with 100 batches to add for each task and seed."""


class Verdict(NamedTuple):
    """What is said of one level on one task, or on all."""

    scope: str
    title: str
    sentences: list[str]


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


def p_value(p: float) -> str:
    """Write a p: three digits behind the point, or the power of ten."""
    return f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.001 else f"{p:.0e}"


def _seeds(comparisons: Sequence[Comparison]) -> str:
    counts = sorted({c.pairs // c.tasks for c in comparisons})
    return f"{counts[0]} seed{'s' * (counts != [1])}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def headline(runs: Runs, comparisons: Sequence[Comparison]) -> list[str]:
    """Say what the whole report can and cannot conclude."""
    said = []
    for reference in runs.references.values():
        if not reference.usable:
            said.append(
                f"On {reference.task} the dense agents learned nothing to speak of (return {reference.untrained:.4g} untrained, "
                f"{reference.dense:.4g} trained, spread over seeds {reference.spread:.2g}): tickets cannot be judged there, and "
                "its returns are shown without scores. Train longer, or choose other settings."
            )
    if not comparisons:
        return [*said, "There is nothing to compare."]
    different = [c for c in comparisons if c.differs]
    many = len(comparisons)
    # The most that the comparison with the most pairs could reach.
    pairs, tasks = max((c.pairs, c.tasks) for c in comparisons)
    fewest = next(n for n in range(1, 100) if stats.smallest_p(n) * many <= stats.LEVEL or n > stats.MOST_EXACT)
    if pairs < fewest:
        over = f" on each of {tasks} tasks" if tasks > 1 else ""
        said.append(
            f"{_seeds(comparisons)}{over} cannot show any difference here: the smallest p that the exact paired test can give "
            f"for {pairs} pair{'s' * (pairs > 1)} is {p_value(stats.smallest_p(pairs))}, and with {many} "
            f"comparison{'s' * (many > 1)} it takes at least {-(-fewest // tasks)} seeds before one could be called different. "
            "What follows describes these runs, and proves nothing about the methods."
        )
    elif different:
        said.append(
            f"{len(different)} of {many} comparisons differ by more than chance explains (exact paired sign-flip test, "
            f"Holm's correction over all {many}, 5 %). The others are undecided, which is not the same as equal."
        )
    else:
        said.append(
            f"None of {many} comparisons differs by more than chance explains (exact paired sign-flip test, Holm's correction "
            f"over all {many}, 5 %). That is not the same as equal: a difference may be there that {_seeds(comparisons)} do not "
            "show."
        )
    if any(1 < c.pairs // c.tasks < 5 for c in comparisons):
        said.append(
            "With fewer than 5 seeds intervals are too narrow to be taken at their word: 95 % intervals of 3 seeds leave out the "
            "truth about one time in four."
        )
    return said


def verdicts(runs: Runs, results: Sequence[Result], comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Say what came out, level by level: what each reaches of dense, then what can be told apart and what cannot."""
    said = []
    for scope in runs.scopes():
        for rewind, sparsity in runs.levels():
            here = runs.at(rewind, sparsity)
            shown = {r.condition: r for r in results if r.scope == scope and r.condition in here}
            if not any(r.score for r in shown.values()):
                continue
            place = f"over {len(runs.scored)} tasks" if scope == ALL_TASKS else f"on {scope}"
            name = level_name(runs, rewind, sparsity)
            sentences = [_reach(f"At {name.replace(' pruned', '', 1)} {place}", list(shown.values()))]
            of_level = [c for c in comparisons if c.scope == scope and c.first in shown]
            sentences += [_between(c) for c in of_level if c.first.is_ticket and c.second.is_ticket]
            others = [c for c in of_level if not (c.first.is_ticket and c.second.is_ticket)]
            sentences += [_different(c) for c in others if c.differs]
            sentences += _undecided([c for c in others if not c.differs])
            said.append(Verdict(scope, f"{scope}, {name}", sentences))
    return said


def _name(condition: Condition) -> str:
    if condition.method == DENSE:
        return "dense agent"
    if condition.method in CONTROL_METHODS and not condition.control:
        return f"{condition.method} control"
    return f"{condition.label} ticket" if condition.is_ticket else f"{condition.label} control"


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _reach(place: str, results: Iterable[Result]) -> str:
    tickets: list[str] = []
    controls: list[str] = []
    for result in results:
        if result.score:
            name = _name(result.condition)
            ticket = result.condition.is_ticket
            (tickets if ticket else controls).append(
                f"{name + 's' if ticket and not tickets else result.condition.label if ticket else 'the ' + name} "
                f"{'' if tickets or not ticket else 'reach '}{bounds(result.score)}{' of dense' if ticket and not tickets else ''}"
            )
    parts = [", ".join(tickets)] if tickets else []
    parts += (
        [f"{controls[0].replace('control ', 'control reaches ', 1)}{''.join(', ' + c for c in controls[1:])}"]
        if controls
        else []
    )
    return f"{place}, {'; '.join(parts)}."


def _between(comparison: Comparison) -> str:
    first, second, likely = comparison.first.label, comparison.second.label, comparison.probability
    if likely.value < 0.5:
        first, second, likely = second, first, Estimate(1 - likely.value, 1 - likely.high, 1 - likely.low)
    text = f"{_a(first).capitalize()} run beats {_a(second)} run with probability {bounds(likely)}; "
    if comparison.differs:
        better = comparison.first if comparison.difference.value > 0 else comparison.second
        return f"{text}{better.label} does better (corrected p = {p_value(comparison.corrected)})."
    return f"{text}{_seeds([comparison])} cannot separate these (p = {p_value(comparison.p)}){_more(comparison)}."


def _more(comparison: Comparison) -> str:
    if comparison.pairs < 2:
        return "; one seed shows no spread, so how many would is not known"
    if comparison.seeds_needed is None:
        return "; it would take more than 1,000" if comparison.difference.value else "; they came out the same"
    return f"; about {comparison.seeds_needed} would"


def _different(comparison: Comparison) -> str:
    better = comparison.difference.value > 0
    first, second = _name(comparison.first), _name(comparison.second)
    return (
        f"{_a(first).capitalize()} does {'better' if better else 'worse'} than {_a(second)}: "
        f"{number(abs(comparison.difference.value))} {'more' if better else 'less'} of dense "
        f"(corrected p = {p_value(comparison.corrected)})."
    )


def _undecided(comparisons: Sequence[Comparison]) -> list[str]:
    """One sentence for all pairs of one ticket that cannot be told apart."""
    said = []
    for first in dict.fromkeys(c.first for c in comparisons):
        mine = [c for c in comparisons if c.first == first]
        parts = []
        for c in mine:
            needed = f" (about {c.seeds_needed} would)" if c.seeds_needed else ""
            parts.append(f"the {_name(c.second)}{needed}")
        last = f" or {parts[-1]}" if len(parts) > 1 else ""
        said.append(f"{_seeds(mine)} cannot separate {_a(_name(first))} from {', '.join(parts[:-1] or parts)}{last}.")
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
