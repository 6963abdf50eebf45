"""What the tests say, in sentences: the headline, what is decided, and what is not. One statistic a sentence, the tested one."""

from collections.abc import Mapping, Sequence
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
from .numbers import names, number, p_value, percent, rewound, rounded, seeds, sentence, share
from .scores import ALL_TASKS, Condition, Runs, level_name
from .tickets import MaskCost
from .views import RETURN, SUCCESS, names_rewind

CLAIMED_SECONDS = 30.0
"""What docs/saliency-pruning.md expects a mask with 100 batches to add for each task and seed."""
MOST_LEVELS = 3
"""Sparsities up to which the headline has a sentence for each; beyond, it has one for each group of methods."""


class Answer(NamedTuple):
    """What a report says first."""

    headline: list[str]
    """The answer: the primary question, then each sparsity."""
    question: str
    """What was asked, and whether it was asked before the first run."""
    decided: list[str]
    """Differences that the tests show, over all tasks together (or on the only one)."""
    decided_on_tasks: list[str]
    """The same for single tasks, where there are several."""
    undecided: list[str]
    """Comparisons in which they show none; undecided is not equal."""
    untested: list[str]
    """Comparisons of too few seeds for a test."""
    notes: list[str]
    """What limits all of it: dense agents that failed, untrained networks that do as well as trained ones."""
    levels: list[str]
    """The primary question at each sparsity, where there are several: what is seen, and what its closed procedure decides."""


def evidence(c: Comparison, p: float) -> str:
    """Write what a comparison rests on: `95.3 % interval 0.02 to 0.31, p = 0.008`."""
    digits = digits_of(c)
    interval = f"{100 * c.confidence:.3g} % interval {number(c.low, digits)} to {number(c.high, digits)}"
    return f"{interval}, {'p' if c.p == p else 'corrected p'} = {p_value(p)}"


def digits_of(c: Comparison) -> int:
    """Return the digits that a difference is written with: two, three where its interval is narrow."""
    return 3 if c.high - c.low < 0.1 else 2


def answer(runs: Runs, found: Families, declared: Declared) -> Answer:
    """Put the tests of a report in words.

    Args:
        runs: the runs of a tidy table.
        found: the tests of `families`.
        declared: what is known of the question.

    Returns:
        The headline, the question, what is decided and what is not.

    >>> answer(runs, families(runs, ("taylor", "magnitude"), 0.1), declared).headline  # doctest: +SKIP
    """
    _, tasks = main_scope(runs)
    headline = [_primary(runs, found)] if found.primary else []
    headline += _verdicts(runs, found)
    if not headline:
        headline = ["No ticket has finished beside a dense agent of the same seed."]
    others = [*found.levels, *found.controls, *found.exploratory]
    decided = [c for c in others if c.differs]
    main = [c for c in decided if _is_main(runs, c)]
    return Answer(
        headline,
        _question(found, declared),
        [_compared(runs, c) for c in main],
        [_compared(runs, c) for c in decided if c not in main],
        [_compared(runs, c) for c in others if c.tested and not c.differs],
        [_compared(runs, c) for c in others if not c.tested],
        _notes(runs, tasks),
        [_at_level(runs, c) for c in found.levels] if len(found.levels) > 1 else [],
    )


def _is_main(runs: Runs, c: Comparison) -> bool:
    return c.scope == main_scope(runs, c.metric)[0]


def _where(runs: Runs, metric: str) -> str:
    """Name the tasks of the main statements, where a report has several: ` on drawer-close-v3`, ` over 3 tasks`."""
    scope, tasks = main_scope(runs, metric)
    if scope == ALL_TASKS:
        return f" over {len(tasks)} tasks"
    return f" on {scope}" if len(runs.tasks) > 1 else ""


def _among(runs: Runs, metric: str) -> str:
    """Name the tasks of the main statements where others have no part in them."""
    _, tasks = main_scope(runs, metric)
    return _where(runs, metric) if len(tasks) < len(runs.tasks) and runs.have_scores(tasks, metric) else ""


def _primary(runs: Runs, found: Families) -> str:
    assert found.primary
    c = found.primary.overall
    first, second = c.first.method, c.second.method
    where, mean = _where(runs, RETURN), _averaged(found.primary.levels)
    if not c.tested:
        return sentence(
            f"{first} scores above {second} on {c.wins} of {seeds(c.seeds)}{where}; the mean difference is {number(c.difference)}; "
            f"fewer than {stats.FEWEST} seeds give no test."
        )
    shown = f"({evidence(c, c.corrected)}, {seeds(c.seeds)})"
    if not c.differs:
        return sentence(f"{first} against {second} is undecided{where}: {first} scores {_distance(c)}{mean} {shown}.")
    better, worse = (first, second) if c.difference > 0 else (second, first)
    size = number(abs(c.difference), digits_of(c))
    return sentence(f"{better} tickets do better than {worse} tickets{where}, by {size} of dense{mean} {shown}.")


def _averaged(levels: Sequence[Comparison]) -> str:
    """Name what the primary question averages over: ` on average over 2 sparsities and 3 rewind points`."""
    counts = [len({c.first.sparsity for c in levels}), len({c.first.rewind for c in levels})]
    whats = [f"{n} {what}" for n, what in zip(counts, ("sparsities", "rewind points"), strict=True) if n > 1]
    return f" on average over {names(whats)}" if whats else ""


def _at_level(runs: Runs, c: Comparison) -> str:
    if not c.tested:
        return _compared(runs, c)
    seen = f"{c.first.method} is {_distance(c)} than {c.second.method}, above on {c.wins} of {seeds(c.seeds)}"
    decided = "decided" if c.differs else "undecided"
    return f"{_place(runs, c)}: {seen} ({decided}, corrected p = {p_value(c.corrected)})."


def _distance(c: Comparison) -> str:
    """Write a difference: `0.12 higher`, `less than 0.01 lower`."""
    digits = digits_of(c)
    size = number(abs(c.difference), digits)
    small = f"less than {10.0**-digits:g}" if c.difference and not float(size) else size
    return f"{small} {'lower' if c.difference < 0 else 'higher'}"


def _verdicts(runs: Runs, found: Families) -> list[str]:
    """Describe how the tickets of each sparsity compare with dense; of many sparsities, how each group of methods does.

    What holds by return and by success alike is said once.
    """
    shown = {metric: _main_verdicts(runs, found, metric) for metric in (RETURN, SUCCESS)}
    same_tasks = main_scope(runs, RETURN) == main_scope(runs, SUCCESS)
    judged = all(v.verdict not in (TOO_FEW, NOT_JUDGED) for some in shown.values() for v in some)
    many = judged and len(runs.levels()) > MOST_LEVELS
    rewinds = list(dict.fromkeys(rewind for rewind, _ in runs.levels()))
    lines: dict[tuple[str, str, str], list[str]] = {}  # metrics, tasks, what is said -> the levels that it is said of
    for rewind in rewinds:
        for sparsity in [""] if many else [s for r, s in reversed(runs.levels()) if r == rewind]:
            here = {
                metric: [v for v in some if v.condition.rewind == rewind and (many or v.condition.sparsity == sparsity)]
                for metric, some in shown.items()
            }
            same = same_tasks and [_said_of(v) for v in here[RETURN]] == [_said_of(v) for v in here[SUCCESS]]
            said = {"by return and by success": [RETURN, SUCCESS]} if same else {"": [RETURN], "by success": [SUCCESS]}
            name = level_name(runs, rewind, sparsity).replace(" pruned", "", 1)
            if many:
                name = rewound(rewind) if names_rewind(rewinds) else ""
            for by, metrics in said.items():
                some = here[metrics[0]]
                if some:
                    text = _by_method(some) if many else _level(runs, some, found, _beaten(runs, found, metrics))
                    lines.setdefault((by, _among(runs, metrics[0]), text), []).append(name)
    return [_line(some, *said) for said, some in lines.items()]


def _said_of(v: Verdict) -> tuple[object, ...]:
    """Return what the headline says of a verdict, without the metric: of too few seeds it gives the counts."""
    return (v.condition, v.verdict, *((v.within, v.seeds) if v.verdict == TOO_FEW else ()))


def _main_verdicts(runs: Runs, found: Families, metric: str) -> list[Verdict]:
    here = found.judged(main_scope(runs, metric)[0], metric)
    return [v for c, v in here.items() if c.sparsity and not c.control]


def _line(levels: Sequence[str], by: str, where: str, text: str) -> str:
    head = (", ".join(filter(None, (names(levels), by))) + where).strip()
    return f"{sentence(head)}: {text}." if head else f"{sentence(text)}."


_SAID = {
    WINNING: ("matches dense", "match dense"),
    UNDECIDED: ("is undecided against dense", "are undecided against dense"),
    WORSE: ("is worse than dense", "are worse than dense"),
    TOO_FEW: ("has too few seeds", "have too few seeds"),
}


def _level(runs: Runs, here: Sequence[Verdict], found: Families, shown: Mapping[Condition, Sequence[str]]) -> str:
    """Name the conditions of a level match dense and which are worse, and what tickets are `shown` to beat."""
    if all(v.verdict == NOT_JUDGED for v in here):
        task = main_scope(runs, here[0].metric)[1][0]
        if runs.reference(task, here[0].metric).measured:
            return "the dense agents learned too little for tickets to be judged"
        return "no ticket is judged, because the random policy was not measured"
    if all(v.verdict == TOO_FEW for v in here):
        counts = names(f"{v.condition.label} {v.within} of {v.seeds}" for v in here)
        return f"seeds within {share(found.margin)} of dense: {counts}"
    tickets = [v.condition.label for v in here if v.condition.is_ticket]
    beaten = {v.condition: tuple(shown.get(v.condition, ())) for v in here}
    if len({v.verdict for v in here}) == 1 and len(here) > 1:
        every = f"every method {_SAID[here[0].verdict][0]}" + ", controls included" * (len(here) > len(tickets))
        winners = [(some, others) for some, others in _alike(here, beaten) if others]
        return "; ".join([every, *(f"{names(some)} {_beat(some, others)}" for some, others in winners)])
    of_tickets: list[str] = []
    of_controls: list[str] = []
    for verdict, said in _SAID.items():
        for some, others in _alike([v for v in here if v.verdict == verdict], beaten):
            who = names(some)
            if some == tickets and len(some) > 1:
                who = "both methods" if len(some) == 2 else f"all {len(some)} methods"
            part = f"{who} {said[len(some) > 1]}{f' and {_beat(some, others)}' if others else ''}"
            (of_tickets if {*some} & {*tickets} else of_controls).append(part)
    return "; ".join(of_tickets + of_controls)


def _alike(
    some: Sequence[Verdict], beaten: Mapping[Condition, tuple[str, ...]]
) -> list[tuple[list[str], tuple[str, ...]]]:
    """Put those together that beat the same others."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for v in some:
        groups.setdefault(beaten[v.condition], []).append(v.condition.label)
    return [(labels, others) for others, labels in groups.items()]


def _beat(some: Sequence[str], others: Sequence[str]) -> str:
    return f"beat{'s' * (len(some) == 1)} {names(others)}"


def _beaten(runs: Runs, found: Families, metrics: Sequence[str]) -> dict[Condition, list[str]]:
    """Name what each ticket is shown to be better than by all of the metrics; its own controls by the control's name alone."""
    won: dict[tuple[Condition, Condition], set[str]] = {}
    for c in (*found.levels, *found.exploratory, *found.controls):
        if c.differs and _is_main(runs, c):
            won.setdefault((c.first, c.second) if c.difference > 0 else (c.second, c.first), set()).add(c.metric)
    shown: dict[Condition, list[str]] = {}
    for (better, worse), by in won.items():
        if better.is_ticket and by >= {*metrics}:
            own = worse.control and worse.method == better.method
            shown.setdefault(better, []).append(f"its {worse.control} control" if own else worse.label)
    return shown


def _by_method(here: Sequence[Verdict]) -> str:
    """Say up to which sparsity methods match dense, and from which on they are worse."""
    groups: dict[str, list[str]] = {}
    for condition in dict.fromkeys(v.condition._replace(sparsity="") for v in here):
        mine = {v.condition.sparsity: v.verdict for v in here if v.condition._replace(sparsity="") == condition}
        wins, loses = ([s for s, verdict in mine.items() if verdict == one] for one in (WINNING, WORSE))
        if len(mine) > 1 and len(wins) == len(mine):
            said = "match dense at every sparsity"
        elif len(mine) > 1 and len(loses) == len(mine):
            said = "are worse at every sparsity"
        else:
            parts = [f"match dense {'up to' if len(mine) > 1 else 'at'} {percent(wins[-1])}"] if wins else []
            parts += (
                [f"are worse {f'from {percent(loses[0])} on' if len(mine) > 1 else f'at {percent(loses[0])}'}"]
                if loses
                else []
            )
            said = " and ".join(parts) or "are undecided throughout"
        groups.setdefault(said, []).append(condition.label)
    return "; ".join(f"{names(some)} {said if len(some) > 1 else _singular(said)}" for said, some in groups.items())


def _singular(said: str) -> str:
    return said.replace("match ", "matches ").replace("are ", "is ")


def _question(found: Families, declared: Declared) -> str:
    if not found.question:
        return "No primary question was asked."
    first, second = found.question
    asked = f"Primary question: do {first} tickets score higher or lower than {second} tickets?"
    if not found.primary:
        asked += " No task has scores of both, so it is not tested."
    if declared.confirmatory:
        when = f"Declared on {declared.time[:10]}, before the first run."
    elif declared.changes:
        when = f"Exploratory: changed since it was declared ({'; '.join(declared.changes)})."
    elif declared.time:
        when = f"Exploratory: declared on {declared.time[:10]}, after the first run."
    else:
        when = "Exploratory: not declared before the first run."
    return f"{asked} {when}"


def _place(runs: Runs, c: Comparison) -> str:
    """Name where a comparison was made: `95 %, drawer-close-v3, success`."""
    parts = [level_name(runs, c.first.rewind, c.first.sparsity).replace(" pruned", "", 1)]
    parts += [c.scope] if c.scope != ALL_TASKS and len(runs.tasks) > 1 else []
    parts += ["success"] if c.metric == SUCCESS else []
    return ", ".join(parts)


def _compared(runs: Runs, c: Comparison) -> str:
    c = _turned(c) if c.differs and c.difference < 0 else c
    if not c.tested:
        above = f"above {c.second.label} on {c.wins} of {seeds(c.seeds)}; mean difference {number(c.difference)}"
        return f"{_place(runs, c)}: {c.first.label} is {above}."
    family = {"primary": "; primary question", "exploratory": "; exploratory"}.get(c.family, "")
    return f"{_place(runs, c)}: {c.first.label} scores {_distance(c)} than {c.second.label} ({evidence(c, c.corrected)}{family})."


def _turned(c: Comparison) -> Comparison:
    return c._replace(first=c.second, second=c.first, difference=-c.difference, low=-c.high, high=-c.low)


def _notes(runs: Runs, tasks: Sequence[str]) -> list[str]:
    said = []
    for reference in runs.references.values():
        task, random = reference.task, f"{rounded(reference.random, 4)} ± {rounded(reference.random_error, 2)}"
        if not reference.measured:
            said.append(f"{task}: the random policy was not measured, so there are no scores; `lth run` measures it.")
        elif not reference.usable:
            said.append(
                f"{task}: the dense agents learned too little (a random policy returns {random}, the dense agents "
                f"{rounded(reference.dense, 4)} with a standard deviation of {rounded(reference.spread, 2)} over seeds), so its "
                "returns have no scores and no ticket is judged. Train longer, or choose other settings."
            )
        elif reference.overlaps:
            before, after = (
                f"{rounded(min(some), 4)} to {rounded(max(some), 4)}"
                for some in (reference.untrained, reference.trained)
            )
            said.append(
                f"{task}: untrained networks overlap with trained ones. Before training, the networks of "
                f"{seeds(reference.seeds)} return {before}; trained, {after}."
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
