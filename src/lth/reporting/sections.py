"""The report's sections: what is said of the numbers, the dots of each seed, and the tables."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from ..analysis.overlap import LEAST_SHARED
from . import dots
from .answer import Answer, claim
from .families import NOT_JUDGED, Families, Verdict, main_scope
from .html import anchor, figure, fold, items, note, table, text
from .numbers import bounds, number, p_value, percent, quantity, rewound, rounded, share
from .savings import Saving, saved
from .scores import ALL_TASKS, Condition, Estimate, Result, Runs
from .styles import CARD, Style
from .tickets import barriers, costs, gradient_masks, overlaps, tickets
from .views import RETURN, SUCCESS, names_rewind

MOST_OPEN, MOST_PRINTED = 12, 60
"""Rows of a table up to which it is not folded on the screen, and shown on paper."""
BY = {RETURN: "return", SUCCESS: "success"}


def _level(condition: Condition) -> dict[str, str]:
    return {"pruned": percent(condition.sparsity) if condition.sparsity else "", "rewound to": condition.rewind}


# --- the first screen ------------------------------------------------------------------------------------------------


def answer_section(said: Answer, runs: Runs, found: Families, looks: Mapping[str, Style]) -> str:
    """Return the first screen: the headline, a grid of verdicts, and a dot for each seed."""
    scopes = [(metric, *main_scope(runs, metric)) for metric in _metrics(found)]
    grids = "".join(grid(runs, found, scope, metric, looks) for metric, scope, _ in scopes)
    shown = [dots.panels(runs, found, scope, tasks, metric) for metric, scope, tasks in scopes]
    by_level = [panel for level in zip_longest(*shown) for panel in level if panel]  # return and success side by side
    return f"""<div class="headline">{"".join(map(_stated, said.headline))}</div>
{note(text(said.question))}
{"".join(map(_warning, said.notes))}
<div class="verdicts">{grids}</div>
<div class="panels">{"".join(_panel(panel, looks, len(runs.tasks) > 1) for panel in by_level)}</div>
{_legend(found)}"""


def _stated(sentence: str) -> str:
    """Return a sentence of the headline; what it rests on, at its end, in small print."""
    head, bracket, evidence = sentence.rpartition(" (")
    if bracket and evidence.endswith("seeds)."):
        return f"<p>{text(head)} <small>({text(evidence)}</small></p>"
    return f"<p>{text(sentence)}</p>"


def _warning(sentence: str) -> str:
    words = re.sub("`([^`]+)`", r"<code>\1</code>", text(sentence))
    return f'<p class="warn">{words}</p>'


def _metrics(found: Families) -> list[str]:
    return [metric for metric in (RETURN, SUCCESS) if any(v.metric == metric for v in found.verdicts)] or [RETURN]


def _legend(found: Families) -> str:
    within = share(found.margin)
    return note(
        f"{dots.SHAPES['winning']} winning: shown to be less than {within} of dense below the dense agent of the same seed. "
        f"{dots.SHAPES['worse']} worse: shown to be more than that below. {dots.SHAPES['undecided']} undecided: neither, which "
        f"is not equal. Counts are seeds within {within}. One-sided tests at 5 %."
    )


def grid(runs: Runs, found: Families, scope: str, metric: str, looks: Mapping[str, Style]) -> str:
    """Return the verdicts of a metric on a task or over all, methods by sparsity: a table for each rewind point."""
    here = found.judged(scope, metric)
    rewinds = list(dict.fromkeys(c.rewind for c in here))
    where = f" on {scope}" if scope != ALL_TASKS and len(runs.tasks) > 1 else ""
    made = []
    for rewind in rewinds:
        sparsities = [sparsity for r, sparsity in runs.levels() if r == rewind]
        mine = sorted((c for c in here if c.rewind == rewind), key=lambda c: not c.is_ticket)
        rows = []
        for method, control in dict.fromkeys((c.method, c.control) for c in mine):
            whole = here.get(Condition(method, control, "", rewind))  # what is pruned nowhere
            each = [here.get(Condition(method, control, sparsity, rewind)) for sparsity in sparsities]
            cells = _cell(whole, len(sparsities)) if whole else "".join(map(_cell, each))
            label = mine[0]._replace(method=method, control=control).label
            rows.append(f"<tr><th scope=row><span>{swatch(looks[label])}{text(label)}</span></th>{cells}</tr>")
        back = f", {rewound(rewind)}" if names_rewind(rewinds) else ""
        caption = f"Does a ticket match dense by {BY[metric]}{where}{back}?"
        name = anchor(f"grid-{BY[metric]}-{scope}-{rewind}")
        head = "".join(f"<th scope=col>{text(percent(sparsity))}</th>" for sparsity in sparsities)
        made.append(
            f'<div class="scroll"><table class="grid{" tall" * (len(sparsities) > 2)}" data-name="{name}">'
            f"<caption>{text(caption)}</caption><thead><tr><th scope=col>pruned</th>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    return "".join(made)


def _cell(v: Verdict | None, span: int = 1) -> str:
    wide = f" colspan={span}" if span > 1 else ""
    if v is None:
        return f"<td{wide}>&ndash;</td>"
    shape = f'<span aria-hidden="true">{dots.SHAPES[v.verdict]}</span> ' if v.verdict in dots.SHAPES else ""
    counted = f"<small>{v.within} of {v.seeds}</small>" if v.verdict != NOT_JUDGED else ""
    return f'<td{wide} class="v {v.verdict.split()[0]}">{shape}{v.verdict}{counted}</td>'


def swatch(style: Style) -> str:
    """Return a series' marker as a small picture."""
    fill = CARD if style.hollow else style.paint
    return (
        '<svg class="swatch" width="12" height="12" viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path d="M0 0{style.outline(4)}" fill="{fill}" stroke="{style.paint}" stroke-width="1.4"/></svg>'
    )


def _panel(panel: dots.Panel, looks: Mapping[str, Style], several: bool) -> str:
    whole = panel.title if panel.scope == ALL_TASKS else f"{panel.scope}, {panel.title}"
    title = whole if several else panel.title
    name = anchor(f"dots-{whole}")
    return figure(title, dots.finding(panel), dots.draw(panel, looks, name), _seeds(panel, whole), whole)


def _seeds(panel: dots.Panel, title: str) -> str:
    """The numbers behind a panel: a row for each condition, a column for each seed."""
    seeds = sorted({seed for row in panel.rows for seed in row.values})
    rows = [
        {"runs of": row.condition.label}
        | {f"seed {seed}": number(row.values[seed], panel.digits) if seed in row.values else "" for seed in seeds}
        | {"mean": number(row.mean, panel.digits)}
        for row in panel.rows
    ]
    caption = f"{'Scores' if panel.scored else 'Values'} by seed: {title}."
    return fold(f"Data: {title}", table(anchor(f"seeds-{title}"), 1, caption, rows), "data")


# --- what is compared ------------------------------------------------------------------------------------------------


def differences_section(said: Answer) -> str:
    """Return which comparisons are decided, and in a fold those that are not."""
    parts = [
        note(
            "Differences are of scores: 0 is the random policy, 1 is dense. The interval inverts the test whose p stands beside "
            "it; p is corrected within its family. Undecided is not equal."
        )
    ]
    if said.decided:
        parts.append(items(said.decided, "b"))
    else:
        tested = said.undecided or said.decided_on_tasks
        parts.append(f"<p>{'No difference between two methods is decided.' if tested else 'Nothing is tested.'}</p>")
    if said.decided_on_tasks:
        summary = f"{_count(said.decided_on_tasks, 'decided')} on single tasks"
        parts.append(_long(summary, len(said.decided_on_tasks), items(said.decided_on_tasks, "b")))
    for sentences, what in ((said.undecided, "undecided"), (said.untested, "untested")):
        if sentences:
            kind = "printed" if len(sentences) <= MOST_PRINTED else ""
            parts.append(fold(_count(sentences, what), items(sentences), kind))
    return "\n".join(parts)


def _count(sentences: Sequence[str], what: str) -> str:
    return f"{len(sentences)} {what} comparison{'s' * (len(sentences) > 1)}"


def tasks_section(runs: Runs, found: Families, looks: Mapping[str, Style]) -> str:
    """Return the grid and the dots of each task, where there are several."""
    if len(runs.tasks) < 2:
        return ""
    parts = []
    for task in runs.tasks:
        # What is left out is on the first screen.
        metrics = [m for m in _metrics(found) if found.judged(task, m) and main_scope(runs, m)[0] != task]
        shown = [panel for m in metrics for panel in dots.panels(runs, found, task, [task], m)]
        grids = "".join(grid(runs, found, task, m, looks) for m in metrics)
        seeds = f'<div class="panels">{"".join(_panel(panel, looks, True) for panel in shown)}</div>'
        if shown:
            parts.append(f'<h3>{text(task)}</h3><div class="verdicts">{grids}</div>')
            parts.append(fold(f"Seeds on {task}: {len(shown)} charts", seeds, "printed"))
    return "".join(parts)


def verdicts_section(found: Families) -> str:
    """Return the table of conditions beside dense."""
    rows = [
        {"task": v.scope, "by": BY[v.metric], "runs of": v.condition.label, **_level(v.condition)}
        | {"verdict": v.verdict, "within the margin": f"{v.within} of {v.seeds}" if v.verdict != NOT_JUDGED else ""}
        | {"difference": bounds(Estimate(v.difference, v.low, v.high)) if v.difference == v.difference else ""}
        | {"p winning": p_value(v.winning_p), "p worse": p_value(v.worse_p)}
        for v in found.verdicts
    ]
    caption = (
        f"Tickets beside dense: score minus the dense agent's of the same seed, its mean and one-sided 95 % bounds. Winning: "
        f"above -{found.margin:g}; worse: below it."
    )
    return _long_table("Tickets beside dense: {} verdicts", "verdicts", 6, caption, rows)


def _long(summary: str, rows: int, body: str) -> str:
    """Fold what is long; on paper it is shown up to MOST_PRINTED rows."""
    return fold(summary, body, "printed" if rows <= MOST_PRINTED else "", opened=rows <= MOST_OPEN)


def _long_table(
    summary: str, name: str, words: int, caption: str, rows: Sequence[Mapping[str, str]], optional: Sequence[str] = ()
) -> str:
    """Fold a table (`html.table`) that is long, if it has rows; `{}` in the summary stands for how many."""
    return _long(summary.format(len(rows)), len(rows), table(name, words, caption, rows, optional)) if rows else ""


def results_section(found: Sequence[Result]) -> str:
    """Return the table of aggregates."""

    def cell(estimate: Estimate | None, digits: int = 2) -> str:
        return "" if estimate is None else bounds(estimate, digits)

    rows = [
        {"task": r.scope, "runs of": r.condition.label, **_level(r.condition), "runs": str(r.runs)}
        | {"score (IQM)": cell(r.score), "mean": cell(r.mean), "median": cell(r.median), "optimality gap": cell(r.gap)}
        | {"return (IQM)": cell(r.returns, 1), "success (mean)": cell(r.success)}
        for r in found
    ]
    caption = "Aggregates over runs (and tasks) with their 95 % bootstrap intervals, which describe and decide nothing."
    return _long_table("Aggregates: {} rows", "results", 4, caption, rows, optional=("median", "success (mean)"))


def comparisons_section(found: Families) -> str:
    """Return the table of comparisons."""
    asked = [found.primary.overall, *found.primary.levels] if found.primary else []
    rows = [
        {"family": c.family, "task": c.scope, "by": BY[c.metric], **_level(c.first)}
        | {"first": c.first.label, "second": c.second.label, "first above": f"{c.wins} of {c.seeds}"}
        | {
            "difference": bounds(Estimate(c.difference, c.low, c.high)),
            "p": p_value(c.p),
            "corrected p": p_value(c.corrected),
        }
        | {"decided": "yes" if c.differs else "no"}
        for c in (*asked, *found.controls, *found.exploratory)
    ]
    caption = (
        "Every other test. The difference is of scores, its mean over seeds, with the interval that inverts the test. Where pruned "
        "is empty, it is the mean over all sparsities."
    )
    return _long_table("Other tests: {} comparisons", "comparisons", 7, caption, rows)


# --- what it takes ---------------------------------------------------------------------------------------------------


def _known(value: float) -> str:
    return quantity(value) if value == value else ""


def savings_section(runs: Runs, found: Families, some: list[Saving]) -> str:
    """Return what tickets save, in sentences and a table."""
    if not some:
        return ""
    rows = [
        {"task": s.task, "pruned": percent(s.sparsity), "rewound to": s.rewind, "runs": str(s.runs)}
        | {"seconds": _known(s.seconds), "seconds, dense": _known(s.dense_seconds)}
        | {"times as fast": rounded(s.times, 2) if s.times == s.times else ""}
        | {"FLOPs of dense": f"{rounded(100 * s.flops / s.dense_flops, 2)} %"}
        | {"bytes": f"{s.bytes:,.0f}" if s.bytes == s.bytes else ""}
        | {"bytes, dense": f"{s.dense_bytes:,.0f}" if s.dense_bytes == s.dense_bytes else ""}
        for s in some
    ]
    caption = (
        "Training of tickets beside dense: means over methods and seeds, controls left out. Seconds are wall time with "
        "evaluations, without start-up and compilation; empty where a run has not recorded these apart. FLOPs are those of the "
        "kept weights. Bytes are the exported policy's."
    )
    lead = "".join(f"<p class=lead>{text(s)}</p>" for s in saved(runs, found, some))
    words = "A ticket needs its dense agent first: time is saved where a mask is trained again, bytes wherever it runs."
    return lead + note(words) + table("savings", 3, caption, rows, optional=("bytes", "bytes, dense"))


def costs_section(runs: Runs) -> str:
    """Return what runs took: steps, seconds and FLOPs."""
    spent = costs(runs)
    rows = [
        {"task": c.task, "runs of": c.condition.label, **_level(c.condition), "runs": str(c.runs)}
        | {"env steps": f"{c.env_steps:,.0f}", "updates": f"{c.updates:,.0f}"}
        | {"seconds to train": number(c.train_seconds, 1), "seconds on masks": number(c.mask_seconds, 2)}
        | {"GFLOPs dense": f"{c.flops_dense / 1e9:,.1f}", "GFLOPs sparse": f"{c.flops / 1e9:,.1f}"}
        | {"ratio": number(c.flops / c.flops_dense, 3)}
        for c in spent
    ]
    steps = sum(c.runs * c.env_steps for c in spent)
    hours = sum(c.runs * (c.train_seconds + c.mask_seconds) for c in spent) / 3600
    caption = (
        "Means over the runs of a row; rounds of iterative pruning are counted in. Seconds are wall time, compilation and "
        "evaluations included. FLOPs are those of training's matrix products: of all weights, and of the kept ones, which the "
        "native kernel computes."
    )
    return (
        f"<p>{text(claim(gradient_masks(runs)))}</p>"
        f"<p>In all, {sum(c.runs for c in spent)} runs of {steps:,.0f} environment steps took {hours:.2f} hours of wall time "
        "(summed over workers).</p>"
    ) + _long_table("Cost of each condition: {} rows", "costs", 4, caption, rows)


# --- what the tickets are --------------------------------------------------------------------------------------------


def tickets_section(runs: Runs) -> str:
    """Return what the tickets are: tables of networks, overlaps and barriers."""
    return _networks(runs) + _overlaps(runs) + _barriers(runs)


def _share(value: float) -> str:
    return "" if value != value else number(value, 3)


def _networks(runs: Runs) -> str:
    found = tickets(runs)
    measured = ["sparsity", "effective sparsity", "dead units", "dormant units"]
    measured += ["rank correlation", "shared", "shared by chance"]
    rows = [
        {"task": t.task, "runs of": t.condition.label, **_level(t.condition), "network": t.network}
        | dict(zip(measured, map(_share, t[3:]), strict=True))
        for t in found
    ]
    unstable = [t for t in found if t.shared < LEAST_SHARED]
    names = dict.fromkeys(f"{t.condition.label} ({t.task}, {_level(t.condition)['pruned']})" for t in unstable)
    warning = ""
    if names:
        warning = (
            f'<p class="warn">Unstable: two halves of the gradient batches share less than {share(LEAST_SHARED)} of the '
            f"weights kept by {text(', '.join(names))}, so these masks depend on the draw. Raise pruning.num_gradient_batches."
            "</p>"
        )
    caption = (
        "Networks, means over seeds. Effective sparsity counts weights on no path from an input to an output as pruned; dead "
        "units put out zero on all transitions that were looked at, dormant ones next to nothing. Where gradients were taken: how "
        "well the rankings of two halves of the batches agree."
    )
    return warning + _long_table("Networks: {} rows", "tickets", 5, caption, rows, optional=measured)


def _overlaps(runs: Runs) -> str:
    rows = [
        {"task": s.task, "pruned": percent(s.sparsity), "mask of": s.method, "and of": s.other, "network": s.network}
        | {"pairs": str(s.pairs), "Jaccard index": _share(s.jaccard), "by chance": _share(s.by_chance)}
        for s in overlaps(runs)
        if s.differ_in in ("task", "round")  # the rest is in the heat maps
    ]
    caption = (
        "Masks of different tasks or rounds: the weights that both keep, as a share of those that either keeps, and the mean "
        "by chance, of masks with as many weights in each layer."
    )
    return _long_table("Overlap of masks: {} rows", "overlaps", 5, caption, rows)


def _barriers(runs: Runs) -> str:
    rows = [
        {"task": b.task, "line to": b.condition.label, **_level(b.condition), "from": b.other, "metric": b.metric}
        | {"seeds": str(b.seeds), "at its start": rounded(b.at_other, 4), "at its end": rounded(b.at_run, 4)}
        | {"barrier": rounded(b.barrier, 4)}
        for b in barriers(runs)
    ]
    caption = (
        "Between agents: along the straight line between the weights of two agents, how much worse than its ends a metric "
        "gets at the worst. Near 0, the two lie in one valley. Means over seeds."
    )
    return _long_table("Between agents: {} lines", "barriers", 6, caption, rows)
