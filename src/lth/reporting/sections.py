"""The report's sections: what is said of the numbers, and the tables."""

from collections.abc import Iterator, Sequence

from ..analysis.stability import LEAST_SHARED
from .answer import Answer, bounds, claim, number, p_value
from .families import NOT_JUDGED, Families
from .html import note, table, text
from .scores import Condition, Estimate, Result, Runs, percent
from .tickets import barriers, costs, gradient_masks, overlaps, tickets


def _level(condition: Condition) -> dict[str, str]:
    return {"pruned": percent(condition.sparsity) if condition.sparsity else "", "rewound to": condition.rewind}


def answer_section(said: Answer) -> str:
    """Return the answer: the headline, what was asked, what is decided; what is not in a fold."""
    parts = ['<div class="headline">', *(f"<p>{text(s)}</p>" for s in said.headline), "</div>"]
    parts += [note(text(s)) for s in (said.question, *said.notes)]
    if said.decided:
        parts.append("<ul>" + "".join(f"<li><b>{text(s)}</b></li>" for s in said.decided) + "</ul>")
    if said.undecided:
        items = "".join(f"<li>{text(s)}</li>" for s in said.undecided)
        parts.append(
            f"<details><summary>{len(said.undecided)} undecided comparisons</summary>"
            f"<p>Undecided is not equal.</p><ul>{items}</ul></details>"
        )
    return "\n".join(parts)


def verdicts_section(found: Families) -> str:
    """Return the table of conditions beside dense."""
    rows = (
        {
            "task": v.scope,
            "by": v.metric.removeprefix("evaluation/"),
            "runs of": v.condition.label,
            **_level(v.condition),
        }
        | {"verdict": v.verdict, "within the margin": f"{v.within} of {v.seeds}" if v.verdict != NOT_JUDGED else ""}
        | {"difference": bounds(Estimate(v.difference, v.low, v.high)) if v.difference == v.difference else ""}
        | {"p winning": _p(v.winning_p), "p worse": _p(v.worse_p)}
        for v in found.verdicts
    )
    return note(
        f"Score minus the dense agent's of the same seed, its mean and one-sided 95 % bounds. Winning: above -{found.margin:g}; "
        f"worse: below it."
    ) + table("verdicts", 5, rows)


def _p(p: float) -> str:
    return p_value(p) if p == p else ""


def results_section(found: Sequence[Result]) -> str:
    """Return the table of aggregates."""

    def cell(estimate: Estimate | None, digits: int = 2) -> str:
        return "" if estimate is None else bounds(estimate, digits)

    rows = (
        {"task": r.scope, "runs of": r.condition.label, **_level(r.condition), "runs": str(r.runs)}
        | {"score (IQM)": cell(r.score), "mean": cell(r.mean), "median": cell(r.median), "optimality gap": cell(r.gap)}
        | {"return (IQM)": cell(r.returns, 1), "success (mean)": cell(r.success)}
        for r in found
    )
    words = "Aggregates over runs (and tasks) with their 95 % intervals."
    return note(words) + table("results", 4, rows, optional=("median", "success (mean)"))


def comparisons_section(found: Families) -> str:
    """Return the table of comparisons."""
    asked = [found.primary.overall, *found.primary.levels] if found.primary else []
    rows = [
        {"family": c.family, "task": c.scope, "by": c.metric.removeprefix("evaluation/"), **_level(c.first)}
        | {"first": c.first.label, "second": c.second.label, "first above": f"{c.wins} of {c.seeds}"}
        | {"difference": bounds(Estimate(c.difference, c.low, c.high)), "p": _p(c.p), "corrected p": _p(c.corrected)}
        | {"decided": "yes" if c.differs else "no"}
        for c in (*asked, *found.controls, *found.exploratory)
    ]
    words = (
        "Every test besides those of the verdicts. The difference is of scores, its mean over seeds, with the interval that "
        "inverts the test. Undecided is not equal."
    )
    return note(words) + table("comparisons", 7, rows) if rows else ""


def costs_section(runs: Runs) -> str:
    """Return what runs took: steps, seconds and FLOPs."""
    spent = costs(runs)
    rows = (
        {"task": c.task, "runs of": c.condition.label, **_level(c.condition), "runs": str(c.runs)}
        | {"env steps": f"{c.env_steps:,.0f}", "updates": f"{c.updates:,.0f}"}
        | {"seconds to train": number(c.train_seconds, 1), "seconds on masks": number(c.mask_seconds, 2)}
        | {"GFLOPs dense": f"{c.flops_dense / 1e9:,.1f}", "GFLOPs sparse": f"{c.flops / 1e9:,.1f}"}
        | {"ratio": number(c.flops / c.flops_dense, 3)}
        for c in spent
    )
    steps = sum(c.runs * c.env_steps for c in spent)
    hours = sum(c.runs * (c.train_seconds + c.mask_seconds) for c in spent) / 3600
    words = (
        "Means over the runs of a row. A ticket needs its dense agent besides, once for all tickets of a task and seed; "
        "rounds of iterative pruning are counted in. Seconds are wall time, compilation and evaluations included. FLOPs are "
        "those of training's matrix products: dense, and what is left where every pruned weight is skipped, as the native "
        "backend does; the dense one computes them all, whatever is pruned."
    )
    return (
        f"<p>{text(claim(gradient_masks(runs)))}</p>"
        f"<p>In all, {sum(c.runs for c in spent)} runs of {steps:,.0f} environment steps took {hours:.2f} hours of wall time "
        "(summed over workers).</p>"
    ) + (note(words) + table("costs", 4, rows))


def tickets_section(runs: Runs) -> str:
    """Return what the tickets are: tables of networks, overlaps and barriers."""
    return "".join([*_networks(runs), *_overlaps(runs), *_barriers(runs)])


def _share(value: float) -> str:
    return "" if value != value else number(value, 3)


def _networks(runs: Runs) -> Iterator[str]:
    found = tickets(runs)
    measured = ["sparsity", "effective sparsity", "dead units", "dormant units"]
    measured += ["rank correlation", "shared", "shared by chance"]
    rows = [
        {"task": t.task, "runs of": t.condition.label, **_level(t.condition), "network": t.network}
        | dict(zip(measured, map(_share, t[3:]), strict=True))
        for t in found
    ]
    yield note(
        "Means over seeds. Effective sparsity counts weights on no path from an input to an output as pruned; dead units put out "
        "zero on all transitions that were looked at, dormant ones next to nothing. Where gradients were taken: how well the "
        "rankings of two halves of the batches agree (docs/analysis.md)."
    )
    yield table("tickets", 5, rows, optional=measured)
    unstable = [t for t in found if t.shared < LEAST_SHARED]
    names = dict.fromkeys(f"{t.condition.label} ({t.task}, {_level(t.condition)['pruned']})" for t in unstable)
    if names:
        yield (
            f'<div class="headline"><p>Unstable: two halves of the gradient batches share less than {LEAST_SHARED:.0%} of the '
            f"weights kept by {text(', '.join(names))}, so these masks depend on the draw. Raise pruning.num_gradient_batches."
            "</p></div>"
        )


def _overlaps(runs: Runs) -> Iterator[str]:
    rows = [
        {"task": s.task, "pruned": percent(s.sparsity), "mask of": s.method, "and of": s.other, "network": s.network}
        | {"pairs": str(s.pairs), "Jaccard index": _share(s.jaccard), "by chance": _share(s.by_chance)}
        for s in overlaps(runs)
    ]
    if rows:
        yield "<h3>Overlap of masks</h3>" + note(
            "The weights that both masks keep, as a share of those that either keeps; and the mean by chance, of masks with "
            "as many weights in each layer."
        )
        yield table("overlaps", 5, rows)


def _barriers(runs: Runs) -> Iterator[str]:
    rows = [
        {"task": b.task, "line to": b.condition.label, **_level(b.condition), "from": b.other, "metric": b.metric}
        | {"seeds": str(b.seeds), "at its start": f"{b.at_other:.4g}", "at its end": f"{b.at_run:.4g}"}
        | {"barrier": f"{b.barrier:.4g}"}
        for b in barriers(runs)
    ]
    if rows:
        yield "<h3>Between agents</h3>" + note(
            "Along the straight line between the weights of two agents: how much worse than its ends a metric gets at the worst "
            "(docs/analysis.md). Near 0, the two lie in one valley. Means over seeds."
        )
        yield table("barriers", 6, rows)
