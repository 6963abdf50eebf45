"""Publish a study from its saved blocks: docs/study/CONFIG.md with all tables, and CONFIG.svg with a dot for each run.

    python benchmarks/study_page.py configs/study/main.yaml

Everything is computed from the rows that `study.py save` wrote; docs/report.md has the formulas. With blocks missing, the page
says how many.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from study import STUDY, Block, saved_rows

from src.lth.api import conclude, planned_runs, read_config
from src.lth.config import Config
from src.lth.experiment.tidy import TidyRow
from src.lth.files import write_whole
from src.lth.reporting.families import Comparison, Families, families
from src.lth.reporting.figures import against_sparsity, save
from src.lth.reporting.scores import Condition, Estimate, Runs, results
from src.lth.reporting.tickets import costs, overlaps, tickets
from src.lth.reporting.views import RETURN, SUCCESS

AT_END = "evaluation/success_at_end"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a Markdown table; empty if there are no rows."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines, ""] if lines else []


def number(value: float, digits: int = 2) -> str:
    """Return a number, or nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def between(value: float, low: float, high: float, digits: int = 2) -> str:
    """Return a value with its interval, if it has one."""
    bounds = "" if math.isnan(low) or math.isnan(high) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return number(value, digits) + bounds


def shown(found: Estimate | None, digits: int = 2) -> str:
    """Return an estimate, or nothing."""
    return between(*found, digits) if found else ""


def aggregates(runs: Runs, tested: Families) -> Iterator[str]:
    """The score, return and success of each condition, and whether it wins."""
    said = {(v.scope, v.condition): v for v in tested.verdicts if v.metric == RETURN}
    found = results(runs)
    for scope in runs.scopes():
        yield f"### {scope}\n"
        rows = []
        for row in found:
            if row.scope == scope:
                verdict = said.get((scope, row.condition))
                judged = (verdict.verdict, f"{verdict.within} of {verdict.seeds}") if verdict else ("", "")
                cells = (shown(row.score), shown(row.returns, 0), shown(row.success))
                rows.append((row.condition.label, row.condition.sparsity, row.runs, *cells, *judged))
        yield from table(
            (
                "condition",
                "sparsity",
                "runs",
                "score (IQM)",
                "return (IQM)",
                "success",
                "verdict",
                "seeds within the margin",
            ),
            rows,
        )


def comparisons(found: Iterable[Comparison]) -> list[str]:
    """Differences of scores with intervals, and p-values corrected within their family."""
    rows = [
        (
            c.scope,
            "return" if c.metric == RETURN else "success",
            f"{c.first.label} - {c.second.label}",
            c.first.sparsity or "all",
            f"{c.wins} of {c.seeds}",
            between(c.difference, c.low, c.high),
            number(c.corrected, 3),
        )
        for c in found
    ]
    return table(("scope", "of", "difference", "sparsity", "seeds above", "difference of scores", "p, corrected"), rows)


def success(runs: Runs) -> Iterator[str]:
    """Success at any step and at the last of an episode, by environment steps."""
    for task in runs.tasks:
        rows, steps = [], []
        for condition in runs.conditions:
            steps, anywhere = runs.curve(task, condition, SUCCESS)
            if anywhere.size:
                of_end = dict(zip(*_means(runs, task, condition, AT_END), strict=True))
                cells = [
                    f"{m:.2f} / {number(of_end.get(t, math.nan))}"
                    for t, m in zip(steps, anywhere.mean(axis=1), strict=True)
                ]
                rows.append((condition.label, condition.sparsity, anywhere.shape[1], *cells))
        if rows:
            yield f"### {task}\n"
            yield from table(("condition", "sparsity", "runs", *(f"{t:,}" for t in steps)), rows)


def _means(runs: Runs, task: str, condition: Condition, metric: str) -> tuple[list[int], list[float]]:
    steps, values = runs.curve(task, condition, metric)
    return steps, list(values.mean(axis=1)) if values.size else []


def stability(runs: Runs) -> list[str]:
    """How alike the rankings of two halves of the gradient batches are."""
    rows = [
        (
            t.task,
            t.condition.label,
            t.condition.sparsity,
            t.network,
            *map(number, (t.spearman, t.shared, t.shared_by_chance)),
        )
        for t in tickets(runs)
        if not math.isnan(t.shared)
    ]
    return table(("task", "condition", "sparsity", "network", "Spearman", "shared", "by chance"), rows)


def overlap(runs: Runs) -> list[str]:
    """How much the masks of two methods, or of two seeds, have in common."""
    rows = [
        (o.task, o.sparsity, o.method, o.other, o.network, number(o.jaccard), number(o.by_chance))
        for o in overlaps(runs)
    ]
    return table(("task", "sparsity", "method", "with", "network", "Jaccard index", "by chance"), rows)


def cost(runs: Runs) -> Iterator[str]:
    """FLOPs and seconds by condition."""
    found = costs(runs)
    rows = [
        (
            *(c.task, c.condition.label, c.condition.sparsity, c.runs),
            *(f"{c.flops / 1e12:.1f}", number(c.flops / c.flops_dense), f"{c.train_seconds:.0f}"),
        )
        for c in found
    ]
    columns = ("task", "condition", "sparsity", "runs", "10^12 FLOPs a run", "of a dense agent's", "seconds a run")
    yield from table(columns, rows)
    yield f"All runs together trained for {sum(c.runs * c.train_seconds for c in found) / 3600:.1f} hours.\n"


def sections(runs: Runs, tested: Families) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Return each section's title, what its numbers are, and its lines."""
    asked = tested.primary
    yield (
        "Primary question",
        "Two-sided sign-flip test over seeds; each sparsity only if it rejects.",
        comparisons([asked.overall, *asked.levels] if asked else []),
    )
    yield "Conditions", "IQM over runs, with a 95 % bootstrap interval.", aggregates(runs, tested)
    yield "Controls", "One-sided, corrected within the family of each method.", comparisons(tested.controls)
    yield "Exploratory", "Two-sided, all corrected together.", comparisons(tested.exploratory)
    yield (
        "Success by environment steps",
        "Share of evaluation episodes with success at any step / at the last step.",
        success(runs),
    )
    yield (
        "Stability of rankings",
        "Of two halves of the gradient batches: Spearman's correlation of scores, and the share of kept weights that both\n"
        "masks keep.",
        stability(runs),
    )
    yield "Overlap of masks", "The mean over seeds, or over pairs of seeds.", overlap(runs)
    yield (
        "Cost",
        "FLOPs of training by what the runs computed; seconds are those of a shared machine.",
        cost(runs),
    )


def page(config: Config, rows: Sequence[TidyRow], missing: Sequence[Block], figure: str) -> str:
    """Return the page."""
    runs = Runs(rows)
    lines = [
        f"# Results: {figure.removesuffix('.svg')}",
        "Made by benchmarks/study_page.py from the saved blocks; [design.md](design.md) says what was planned.",
        "",
    ]
    if missing:
        lines += [f"**Not finished:** {len(missing)} blocks are missing, so nothing here is a result yet.", ""]
    said = conclude(config, list(rows)).headline
    lines += [*(f"- {line}" for line in said), "", f"![Each run by sparsity]({figure})", ""]
    for title, note, body in sections(runs, families(runs, config.primary, config.report.margin)):
        if written := list(body):
            lines += [f"## {title}", note, "", *written]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for `lth run`")
    options = parser.parse_args()
    config = read_config(options.config, *options.overrides)
    rows, missing = saved_rows(options.config, planned_runs(config))
    if not rows:
        raise SystemExit("no block is saved yet")
    figure = f"{options.config.stem}.svg"
    save(against_sparsity(Runs(rows), width="page"), STUDY / figure)
    write_whole(STUDY / f"{options.config.stem}.md", page(config, rows, missing, figure).encode(), checksum=False)


main()
