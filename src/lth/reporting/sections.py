"""The report's sections: what is said of the numbers, and the tables."""

from collections.abc import Iterator, Sequence

from ..analysis.stability import LEAST_SHARED
from .comparisons import Comparison
from .html import note, table, text
from .scores import Condition, Estimate, Result, Runs, percent
from .tickets import barriers, costs, gradient_masks, overlaps, tickets
from .verdicts import bounds, claim, headline, number, p_value, verdicts


def _level(condition: Condition) -> dict[str, str]:
    return {"pruned": percent(condition.sparsity) if condition.sparsity else "", "rewound to": condition.rewind}


def verdicts_section(runs: Runs, found: Sequence[Result], compared: Sequence[Comparison]) -> str:
    """Return the verdicts: over all tasks first, then a fold for each task."""
    parts = ['<div class="headline">', *(f"<p>{text(s)}</p>" for s in headline(runs, compared)), "</div>"]
    parts.append(
        note(
            "&ldquo;Of dense&rdquo; is the share of what dense agents gained in training: 0 is the untrained agent, 1 the "
            "mean dense agent. In brackets: 95 % intervals over seeds. How many seeds would do is a rough guide, taken from "
            "the differences seen here."
        )
    )
    said: dict[str, list[str]] = {}
    for verdict in verdicts(runs, found, compared):
        first, *more = verdict.sentences
        html = f'<h3>{text(verdict.title)}</h3><p class="reach">{text(first)}</p>'
        html += "<ul>" + "".join(f"<li>{text(s)}</li>" for s in more) + "</ul>" if more else ""
        said.setdefault(verdict.scope, []).append(html)
    for i, (scope, texts) in enumerate(said.items()):
        body = "\n".join(texts)
        parts.append(f"<details><summary>{text(scope)} alone</summary>{body}</details>" if i else body)
    return "\n".join(parts)


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


def comparisons_section(compared: Sequence[Comparison]) -> str:
    """Return the table of comparisons."""
    if not compared:
        return ""
    rows = (
        {"task": c.scope, **_level(c.first), "first": c.first.label, "second": c.second.label, "pairs": str(c.pairs)}
        | {"difference": bounds(c.difference), "P(first better)": bounds(c.probability)}
        | {"p": p_value(c.p), "corrected p": p_value(c.corrected)}
        | {"seeds needed": "" if c.seeds_needed is None else str(c.seeds_needed)}
        | {"verdict": "different" if c.differs else "undecided"}
        for c in compared
    )
    return note(
        f"Every comparison that this page makes, {len(compared)} in all: tickets with each other, with the dense agents and with "
        "their controls. The difference is of scores, its mean over pairs of the same task and seed. Undecided is not equal."
    ) + table("comparisons", 5, rows)


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
