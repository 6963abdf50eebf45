"""Publish a study from its saved blocks: docs/study/CONFIG.md with all tables, and CONFIG.svg with a dot for each run.

    python benchmarks/study_page.py configs/study/main.yaml

Everything is computed from the rows that `study.py save` wrote; docs/report.md has the formulas. While blocks are missing, the page
describes what is there and tests nothing.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from study import STUDY, Block, blocks, saved_rows

from src.lth.api import conclude, planned_runs, read_config
from src.lth.experiment.plan import Plan
from src.lth.experiment.tidy import TidyRow
from src.lth.files import write_whole
from src.lth.reporting.families import Comparison, Families, Verdict, families
from src.lth.reporting.figures import against_sparsity, save
from src.lth.reporting.scores import DENSE_AGENT, Condition, Estimate, Runs, results
from src.lth.reporting.tickets import costs, overlaps, tickets
from src.lth.reporting.views import RETURN, SUCCESS, names_rewind

AT_END = "evaluation/success_at_end"
TITLES = {"main": "SAC on five tasks", "rewinding": "Rewinding", "td3": "TD3", "dqn": "DQN"}
Key = tuple[object, ...]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a Markdown table; empty if there are no rows."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines, ""] if lines else []


def by_task(columns: Sequence[str], cells: Iterable[tuple[Key, str, str]]) -> list[str]:
    """Return a Markdown table of cells, each with the key of its row and the task (or "all tasks") of its column."""
    rows: dict[Key, dict[str, str]] = {}
    for key, task, cell in cells:
        rows.setdefault(key, {})[task] = cell
    tasks = list(dict.fromkeys(task for row in rows.values() for task in row))
    return table([*columns, *tasks], [[*key, *(row.get(task, "") for task in tasks)] for key, row in rows.items()])


def number(value: float, digits: int = 2) -> str:
    """Return a number, or nothing for NaN."""
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def between(value: float, low: float, high: float, digits: int = 2) -> str:
    """Return a value with its interval, if it has one."""
    bounds = "" if math.isnan(low) or math.isnan(high) else f" [{number(low, digits)}, {number(high, digits)}]"
    return number(value, digits) + bounds


def shown(found: Estimate | None, digits: int = 2) -> str:
    """Return an estimate, or nothing."""
    return between(*found, digits) if found else ""


def keyed(runs: Runs, condition: Condition) -> tuple[str, str]:
    """Return the key of a condition's row: its name, with the rewind point if these differ, and its sparsity."""
    rewinds = names_rewind(rewind for rewind, _ in runs.levels())
    back = f", rewound to step {condition.rewind}" if rewinds and condition.rewind else ""
    return condition.label + back, condition.sparsity


def aggregates(runs: Runs) -> Iterator[str]:
    """The score, return and success of each condition, by task."""
    found = results(runs)
    columns = ("condition", "sparsity")
    yield "### Scores (IQM)\n"
    yield from by_task(columns, [(keyed(runs, r.condition), r.scope, shown(r.score)) for r in found])
    yield "### Returns (IQM)\n"
    yield from by_task(columns, [(keyed(runs, r.condition), r.scope, shown(r.returns, 0)) for r in found if r.returns])
    if rows := [(keyed(runs, r.condition), r.scope, shown(r.success)) for r in found if r.success]:
        yield "### Success rates (mean)\n"
        yield from by_task(columns, rows)
    counts = (f"{task} {len(runs.last(task, DENSE_AGENT))}" for task in runs.tasks)
    yield f"Runs of each condition: {', '.join(counts)}.\n"


def verdicts(runs: Runs, found: Iterable[Verdict]) -> list[str]:
    """Each condition beside the dense agents: the verdict, and the seeds that are within the margin."""
    cells = [
        ((metric_name(v.metric), *keyed(runs, v.condition)), v.scope, f"{v.verdict} ({v.within} of {v.seeds})")
        for v in found
    ]
    return by_task(("of", "condition", "sparsity"), cells)


def metric_name(metric: str) -> str:
    """Name what is compared."""
    return "return" if metric == RETURN else "success"


def comparisons(runs: Runs, found: Iterable[Comparison]) -> list[str]:
    """Differences of scores with intervals, seeds on which the first is above, and p-values corrected within their family."""
    cells = []
    for c in found:
        first, second = keyed(runs, c.first), keyed(runs, c.second)
        p = f"; p = {c.corrected:.3f}" if c.corrected == c.corrected else ""
        key = metric_name(c.metric), f"{first[0]} - {second[0]}", c.first.sparsity or "both"
        cells.append((key, c.scope, f"{between(c.difference, c.low, c.high)}; {c.wins} of {c.seeds}{p}"))
    return by_task(("of", "difference", "sparsity"), cells)


def success(runs: Runs) -> Iterator[str]:
    """Success at any step and at the last of an episode, by environment steps."""
    for task in runs.tasks:
        rows, times = [], []
        for condition in runs.conditions:
            times, anywhere = runs.curve(task, condition, SUCCESS)
            if anywhere.size:
                of_end = dict(zip(*_means(runs, task, condition, AT_END), strict=True))
                means = zip(times, anywhere.mean(axis=1), strict=True)
                cells = [f"{mean:.2f} / {number(of_end.get(t, math.nan))}".removesuffix(" / ") for t, mean in means]
                rows.append((*keyed(runs, condition), anywhere.shape[1], *cells))
        if rows:
            yield f"### {task}\n"
            yield from table(("condition", "sparsity", "runs", *(f"{t:,}" for t in times)), rows)


def _means(runs: Runs, task: str, condition: Condition, metric: str) -> tuple[list[int], list[float]]:
    times, values = runs.curve(task, condition, metric)
    return times, list(values.mean(axis=1)) if values.size else []


def stability(runs: Runs) -> list[str]:
    """How alike the rankings of two halves of the gradient batches are."""
    cells = [
        (
            (*keyed(runs, t.condition), t.network),
            t.task,
            f"{number(t.spearman)}; {number(t.shared)} ({number(t.shared_by_chance)})",
        )
        for t in tickets(runs)
        if not math.isnan(t.shared)
    ]
    return by_task(("condition", "sparsity", "network"), cells)


def overlap(runs: Runs) -> list[str]:
    """How much the masks of two methods, or of two seeds, have in common."""
    cells = [
        ((o.method, o.other, o.sparsity, o.network), o.task, f"{number(o.jaccard)} ({number(o.by_chance)})")
        for o in overlaps(runs)
    ]
    return by_task(("method", "with", "sparsity", "network"), cells)


def cost(runs: Runs) -> Iterator[str]:
    """FLOPs, seconds of training and seconds of making the mask, by condition."""
    found = costs(runs)
    columns = ("condition", "sparsity")
    yield "### FLOPs of a run, 10^12 (share of the dense agent's)\n"
    dense = {c.task: c.flops for c in found if c.condition.label == "dense"}
    flops = [(c, f"{c.flops / 1e12:.1f} ({c.flops / dense.get(c.task, math.nan):.2f})") for c in found]
    yield from by_task(columns, [(keyed(runs, c.condition), c.task, cell) for c, cell in flops])
    yield "### Seconds of a run\n"
    yield from by_task(columns, [(keyed(runs, c.condition), c.task, number(c.train_seconds, 0)) for c in found])
    masks = [(c, median(runs.last(c.task, c.condition, "cost/mask_seconds").values())) for c in found]
    yield "### Seconds on the mask\n"
    yield "Medians over seeds. The first mask of a process includes loading the checkpoint and compiling.\n"
    yield from by_task(columns, [(keyed(runs, c.condition), c.task, number(took)) for c, took in masks if took])
    hours = sum(c.runs * (c.train_seconds + c.mask_seconds) for c in found) / 3600
    yield f"All runs together took {hours:.1f} hours of one core.\n"


def tests(runs: Runs, found: Families) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield the sections of the tests: title, what its numbers are, and lines."""
    asked = found.primary
    cell = "Difference of scores with a 95 % interval; seeds on which the first is above; corrected p."
    yield (
        "Primary question",
        f"Two-sided sign-flip test over seeds; each sparsity only if it rejects. {cell}",
        comparisons(runs, [asked.overall, *asked.levels] if asked else []),
    )
    yield "Winning", "Verdict (seeds within the margin).", verdicts(runs, found.verdicts)
    yield (
        "Controls",
        f"One-sided, corrected within the family of each method. {cell}",
        comparisons(runs, found.controls),
    )
    yield "Exploratory", f"Two-sided, all corrected together. {cell}", comparisons(runs, found.exploratory)


def descriptions(runs: Runs) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield the sections that test nothing."""
    yield (
        "Conditions",
        "0 is a uniform random policy and 1 the mean dense agent; 95 % bootstrap intervals over seeds.",
        aggregates(runs),
    )
    yield (
        "Success by environment steps",
        "Mean share of evaluation episodes with success at any step / at the last step (of the seeds that recorded it).",
        success(runs),
    )
    yield (
        "Stability of rankings",
        "Of two halves of the gradient batches: Spearman's correlation of scores; the share of kept weights that both masks\n"
        "keep (by chance).",
        stability(runs),
    )
    yield "Overlap of masks", "Jaccard index (by chance), the mean over seeds.", overlap(runs)
    yield "Cost", "FLOPs of what the runs computed; seconds of a shared machine, pauses included.", cost(runs)


def page(plan: Plan, rows: Sequence[TidyRow], missing: Sequence[Block], figure: str) -> str:
    """Return the page."""
    runs, config = Runs(rows), plan.config
    lines = [
        f"# Results: {TITLES[figure.removesuffix('.svg')]}",
        "Made by benchmarks/study_page.py from the saved blocks; [design.md](design.md) says what was planned.",
        "",
    ]
    if missing:
        total = len(blocks(plan))
        lines += [
            f"**In progress:** {total - len(missing)} of {total} blocks (a task and a seed each) are there. Nothing is tested "
            "before all are, and nothing here is a result yet.",
            "",
        ]
    else:
        lines += [*(f"- {line}" for line in conclude(config, list(rows)).headline), ""]
    lines += [f"![A dot for each run, by sparsity]({figure})", ""]
    tested = [] if missing else tests(runs, families(runs, config.primary, config.report.margin))
    for title, note, body in (*tested, *descriptions(runs)):
        if written := list(body):
            lines += [f"## {title}", note, "", *written]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for `lth run`")
    options = parser.parse_args()
    plan = planned_runs(read_config(options.config, *options.overrides))
    rows, missing = saved_rows(options.config, plan)
    if not rows:
        raise SystemExit("no block is saved yet")
    figure = f"{options.config.stem}.svg"
    save(against_sparsity(Runs(rows), width="page"), STUDY / figure)
    write_whole(STUDY / f"{options.config.stem}.md", page(plan, rows, missing, figure).encode(), checksum=False)


main()
