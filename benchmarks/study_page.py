"""Publish a study from its saved blocks: docs/study/CONFIG.md with all tables, and CONFIG.svg with a dot for each run.

    python benchmarks/study_page.py configs/study/main.yaml

Everything is computed from the rows that `study.py save` wrote; docs/report.md has the formulas. While blocks are missing, the page
describes what is there and tests nothing.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from textwrap import fill

from study import STUDY, Block, blocks, file_of, saved_rows

from src.lth.api import conclude, planned_runs, read_config
from src.lth.config import Config
from src.lth.experiment.plan import Plan
from src.lth.experiment.tidy import TidyRow
from src.lth.files import write_whole
from src.lth.reporting.answer import Answer
from src.lth.reporting.families import (
    UNDECIDED,
    WINNING,
    WORSE,
    Comparison,
    Families,
    Primary,
    Verdict,
    families,
    main_scope,
)
from src.lth.reporting.figures import against_sparsity, save
from src.lth.reporting.numbers import names, percent, share
from src.lth.reporting.scores import DENSE_AGENT, Condition, Estimate, Runs, results, shares
from src.lth.reporting.tickets import CostRow, costs, overlaps, tickets
from src.lth.reporting.views import RETURN, SUCCESS, names_rewind

AT_END = "evaluation/success_at_end"
TITLES = {"main": "SAC on five tasks", "rewinding": "Rewinding", "td3": "TD3", "dqn": "DQN"}
MAIN = "main"
INTERVALS = "Intervals are not corrected, so one may leave out 0 where p is above 0.05."
CONTROLS = {
    "shuffled (control)": "as many weights of each layer as the magnitude mask, chosen at random, with the same "
    "initial weights. Beside magnitude it asks whether the choice matters; beside another method the layer budget differs too",
    "random-erk": "as many weights in total, chosen at random, with the layer budget of ERK and the same initial "
    "weights. Neither the mask nor the layer budget is the ticket's",
    "small-dense": "a narrow dense network with at most as many parameters, without a mask. It asks whether only their "
    "number matters",
}
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


def wrapped(text: str) -> str:
    """Wrap each line of a text; what follows a bullet is indented."""
    return "\n".join(fill(line, 140, subsequent_indent="  " * line.startswith("- ")) for line in text.split("\n"))


def number(value: float, digits: int = 2) -> str:
    """Return a number, or nothing for NaN."""
    return "" if math.isnan(value) else f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: -0.0 becomes 0.0


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
    """Each condition beside the dense agents: the verdict, the difference, and the seeds that are within the margin."""
    cells = []
    for v in found:
        cell = f"{v.verdict}; {between(v.difference, v.low, v.high)}; {v.within} of {v.seeds}"
        cells.append(((metric_name(v.metric), *keyed(runs, v.condition)), v.scope, cell))
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
        curves = {c: (_means(runs, task, c, SUCCESS), _means(runs, task, c, AT_END)) for c in runs.conditions}
        times = sorted({time for (_, anywhere), _ in curves.values() for time in anywhere})
        rows = []
        for condition, ((count, anywhere), (recorded, at_end)) in curves.items():
            # Rewound tickets are first evaluated at their rewind point.
            pairs = [(number(anywhere.get(t, math.nan)), number(at_end.get(t, math.nan))) for t in times]
            cells = [" / ".join(filter(None, pair)) for pair in pairs]
            rows.append((*keyed(runs, condition), f"{count} ({recorded})" if recorded < count else count, *cells))
        if times:
            yield f"### {task}\n"
            yield from table(("condition", "sparsity", "runs", *(f"{t:,}" for t in times)), rows)


def _means(runs: Runs, task: str, condition: Condition, metric: str) -> tuple[int, dict[int, float]]:
    """Return how many runs recorded a metric, and its means by environment steps."""
    times, values = runs.curve(task, condition, metric)
    if not values.size:
        return 0, {}
    return values.shape[1], dict(zip(times, values.mean(axis=1).tolist(), strict=True))


def stability(runs: Runs) -> list[str]:
    """How alike the rankings of two halves of the gradient batches are."""
    cells = [
        (
            (*_mask(t.condition), t.network),
            t.task,
            f"{number(t.spearman)}; {number(t.shared)} ({number(t.shared_by_chance)})",
        )
        for t in tickets(runs)
        if not math.isnan(t.shared) and t.condition.rewind == first_rewind(runs)
    ]
    return by_task(("method", "sparsity", "network"), cells)


def first_rewind(runs: Runs) -> str:
    """Return the first rewind point: tickets of the others share its masks."""
    return runs.levels()[0][0]


def layers(runs: Runs) -> Iterator[str]:
    """The share of each pruned layer that masks keep, and of each network; critics of one kind are averaged."""
    shown = [c for c in runs.conditions if c.rewind == first_rewind(runs) and c.control != "small-dense"]
    cells = []
    for task in runs.tasks:
        for condition in shown:
            kept: dict[str, list[float]] = {}
            for layer, part in shares(runs, task, condition, "kept").items():
                if "/" in layer and not layer.endswith("/output"):
                    kept.setdefault(re.sub(r"/q\d+/", "/", layer), []).append(part)
            cells += [((*_mask(condition), layer), task, f"{100 * mean(some):.3g}") for layer, some in kept.items()]
    yield "### Each layer, %\n"
    yield from by_task(("mask", "sparsity", "layer"), cells)
    yield "### Each network with its output layer, %: kept; on a path from an input to an output\n"
    whole = [
        (
            (*_mask(t.condition), t.network),
            t.task,
            f"{number(100 - 100 * t.sparsity, 1)}; {number(100 - 100 * t.effective_sparsity, 1)}",
        )
        for t in tickets(runs)
        if t.condition in shown
    ]
    yield from by_task(("mask", "sparsity", "network"), whole)


def _mask(condition: Condition) -> tuple[str, str]:
    return condition.label, condition.sparsity


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
    yield "Matrix products with the kept weights, of the run's training alone. Tickets and `shuffled` also need a dense agent.\n"
    dense = {c.task: c.flops for c in found if c.condition.label == "dense"}
    flops = [(c, f"{c.flops / 1e12:#.3g} ({c.flops / dense.get(c.task, math.nan):.2f})") for c in found]
    yield from by_task(columns, [(keyed(runs, c.condition), c.task, cell) for c, cell in flops])
    yield "### Seconds of a run\n"
    yield "Medians over seeds. The cores were shared, and runs were paused: do not compare conditions by them.\n"
    trained = [(c, seconds(runs, c, "train")) for c in found]
    yield from by_task(columns, [(keyed(runs, c.condition), c.task, number(median(took), 0)) for c, took in trained])
    first = first_rewind(runs)
    masks = [(c, seconds(runs, c, "mask")) for c in found if c.condition.rewind == first]
    yield "### Seconds on the mask\n"
    yield "Medians over seeds. The first mask of a process includes loading the checkpoint and compiling.\n"
    yield from by_task(
        ("mask", "sparsity"), [(_mask(c.condition), c.task, number(median(t))) for c, t in masks if any(t)]
    )
    later = sum(sum(took) for c, took in trained if c.condition.rewind not in ("", first)) / 3600
    hours = sum(sum(took) for _, took in (*trained, *masks)) / 3600
    new = f", {later:.1f} of them for tickets with a later rewind point; the other runs are also those of [main.md](main.md)"
    yield (
        wrapped(
            f"The wall times of all runs add up to {hours:.1f} hours, two runs at a time on 2 cores{new if later else ''}."
        )
        + "\n"
    )


def seconds(runs: Runs, row: CostRow, what: str) -> list[float]:
    """Return the seconds of each run of a condition: to `train`, or for its `mask`."""
    return [*runs.last(row.task, row.condition, f"cost/{what}_seconds").values()]


def tests(runs: Runs, found: Families, confirmatory: bool) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield the sections of the tests: title, what its numbers are, and lines."""
    asked = found.primary
    cell = "Mean difference of scores with its {} % interval; seeds on which the first is above; corrected p."
    yield (
        "Primary question" if confirmatory else "The primary question, of these runs",
        "Two-sided sign-flip test over seeds of the mean over tasks and sparsities; then each sparsity in a closed procedure. "
        f"{cell.format(95)} {INTERVALS}",
        comparisons(runs, [asked.overall, *asked.levels] if asked else []),
    )
    yield (
        "Between tasks",
        "The same difference on each task, as a description: mean over seeds; seeds on which the first is above.",
        between_tasks(runs, asked),
    )
    yield (
        "Between rewind points",
        "A description, not a test: mean difference of scores over seeds; seeds on which the later rewind point is above.",
        between_rewinds(runs),
    )
    yield (
        "Winning",
        f"Against the dense agent of the same seed, with a margin of {share(found.margin)}, one-sided at 5 %: *winning*, the mean "
        "difference is shown to be above -margin; *worse*, shown to be below it; *undecided*, neither. Each method starts at its "
        "lowest sparsity for winning and at its highest for worse, and the next is tested only if that is decided. Nothing is "
        "corrected across methods, tasks, or return and success. Verdict; mean difference of scores with its 90 % interval, whose "
        "ends are one-sided 95 % bounds; seeds within the margin.",
        verdicts(runs, found.verdicts),
    )
    kinds = dict.fromkeys(c.second.label for c in found.controls)
    yield (
        "Controls",
        "One-sided: is the ticket better? A control that is better than a ticket is not tested. p is corrected over the controls "
        "and sparsities of a method, for each column, and for return and success apart. "
        f"{cell.format(90)} {INTERVALS}\n\n"
        + "\n".join(f"- {kind}: {CONTROLS[kind]}" for kind in kinds)
        + "\n\nNo control keeps a mask and changes its initial weights, so nothing here says whether these matter.",
        comparisons(runs, found.controls),
    )
    yield (
        "Exploratory",
        f"Two-sided. p is corrected over the rows of a column, for return and success apart. {cell.format(95)} {INTERVALS}",
        comparisons(runs, [as_asked(runs, c, found.question) for c in found.exploratory]),
    )


def as_asked(runs: Runs, c: Comparison, question: tuple[str, str] | None) -> Comparison:
    """Turn a comparison of the methods of the primary question into its direction."""
    if question != (c.second.method, c.first.method):
        return c
    differences = runs.differences(runs.scopes(c.metric)[c.scope], c.second, c.first, c.metric).values()
    above = sum(d > 0 for d in differences)
    return c._replace(first=c.second, second=c.first, wins=above, difference=-c.difference, low=-c.high, high=-c.low)


def between_tasks(runs: Runs, asked: Primary | None) -> list[str]:
    """The difference of the primary question on each task, if there are several: over all levels, and at each."""
    if not asked or len(runs.tasks) < 2:
        return []
    cells = []
    for task in runs.tasks:
        at = [runs.differences([task], c.first, c.second) for c in asked.levels] if runs.have_scores([task]) else []
        all_levels = {seed: mean(one[seed] for one in at) for seed in at[0]} if at else {}
        for name, found in zip(("both", *(c.first.sparsity for c in asked.levels)), (all_levels, *at), strict=False):
            if found:
                key = f"{asked.overall.first.label} - {asked.overall.second.label}", name
                cells.append((key, task, described(found)))
    return by_task(("difference", "sparsity"), cells)


def between_rewinds(runs: Runs) -> list[str]:
    """Each condition rewound to a later step minus the same to the first."""
    first = first_rewind(runs)
    cells = []
    for metric in (RETURN, SUCCESS):
        for task in runs.tasks:
            for c in runs.conditions:
                if c.rewind in ("", first) or not runs.have_scores([task], metric):
                    continue
                found = runs.differences([task], c, c._replace(rewind=first), metric)
                name = f"{c.label}: step {c.rewind} - step {first}"
                cells.append(((metric_name(metric), name, c.sparsity), task, described(found)))
    return by_task(("of", "difference", "sparsity"), cells)


def described(differences: dict[int, float]) -> str:
    """Return the mean of differences by seed, and on how many they are above 0."""
    above = sum(d > 0 for d in differences.values())
    return f"{number(mean(differences.values()))}; {above} of {len(differences)}"


def descriptions(runs: Runs, config: Config) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Yield the sections that test nothing."""
    yield (
        "Conditions",
        "Last evaluations. A score of 0 is a uniform random policy, 1 the mean dense agent. IQM is the interquartile mean, "
        "over all tasks that of their runs together. Tests compare means. Intervals are 95 % bootstrap intervals over seeds.",
        aggregates(runs),
    )
    yield (
        "Success by environment steps",
        "Mean share of episodes with success at any step / at the last step. An evaluation has "
        f"{config.evaluation.episodes} episodes, the last one {config.evaluation.last_episodes}. "
        "In parentheses: the runs that recorded the last step, if not all did; the two shares are then of different runs.",
        success(runs),
    )
    yield (
        "Layer budgets",
        "The share of weights that masks keep, the mean over seeds. Output layers are not pruned, and sparsity does not "
        "count them. Of `shuffled`, the layer budget is that of magnitude.",
        layers(runs),
    )
    yield (
        "Stability of rankings",
        "Of two halves of the gradient batches: Spearman's correlation of the weights' scores; the share of kept "
        "weights that both masks keep (by chance). Means over seeds.",
        stability(runs),
    )
    yield "Overlap of masks", "Jaccard index (by chance), the mean over seeds.", overlap(runs)
    yield "Cost", "What a run took.", cost(runs)


def answer(runs: Runs, found: Families, said: Answer) -> tuple[list[str], list[str]]:
    """Return the answer (the primary question, conditions beside dense, tickets beside their controls), and each sparsity."""
    question, *by_sparsity = said.headline
    points = [" ".join([question, *said.levels])]
    scope, tasks = main_scope(runs)
    judged = [v for v in found.verdicts if (v.scope, v.metric) == (scope, RETURN)]
    controls = [c for c in found.controls if (c.scope, c.metric) == (scope, RETURN) and c.tested]
    over = f"By return over {len(tasks)} tasks" if len(tasks) > 1 else f"By return on {scope}"
    if controls:
        said_of = {f"within {share(found.margin)} of dense": WINNING, "worse than that": WORSE, "undecided": UNDECIDED}
        parts = (
            f"{name}: {listed(runs, [v.condition for v in judged if v.verdict == kind])}"
            for name, kind in said_of.items()
        )
        points.append(f"{over}, {'; '.join(parts)}.")
        better = [f"{listed(runs, [c.first])} than {c.second.label}" for c in controls if c.differs]
        shown = (
            f"shown to be better than a control: {names(better)}"
            if better
            else "no ticket is shown to be better than a control"
        )
        below = sum(c.difference < 0 for c in controls)
        points.append(
            f"{over}, {shown}; in {below} of {len(controls)} comparisons the mean of the ticket is below that of the control."
        )
    return points, by_sparsity


def listed(runs: Runs, conditions: Iterable[Condition]) -> str:
    """Name conditions with their sparsities: `magnitude at 90 % and 95 %, and taylor at 95 %`."""
    rewinds = names_rewind(rewind for rewind, _ in runs.levels())
    found: dict[str, list[str]] = {}
    for condition in conditions:
        back = f" (rewound to step {condition.rewind})" if rewinds else ""
        name = condition.label.removesuffix(" (control)") + back
        found.setdefault(name, []).append(percent(condition.sparsity))
    return ", ".join(f"{name} at {names(some)}" for name, some in found.items()) or "none"


def made_with(config: Path, plan: Plan) -> list[str]:
    """What the saved blocks were made with: revisions, processors and versions, each with the number of blocks."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("revision", "processor", "versions")}
    for block in blocks(plan):
        path = file_of(config, block, ".json")
        if path.exists():
            known = json.loads(path.read_text())
            counts["revision"][" and ".join(revision[:7] for revision in known["revision"])] += 1
            counts["processor"][known["processor"]] += 1
            counts["versions"][", ".join(f"{name} {version}" for name, version in known["versions"].items())] += 1
    return [
        f"- {name}: {'; '.join(f'{text} ({n} blocks)' for text, n in some.items())}" for name, some in counts.items()
    ]


def deviations() -> str:
    """Return the deviations that the design lists."""
    return (STUDY / "design.md").read_text().partition("## Deviations\n")[2].strip()


def page(plan: Plan, rows: Sequence[TidyRow], missing: Sequence[Block], part: str, made: Sequence[str]) -> str:
    """Return the page."""
    runs, config = Runs(rows), plan.config
    lines = [
        f"# Results: {TITLES[part]}",
        wrapped(
            "Made by benchmarks/study_page.py from the saved blocks; [design.md](design.md) says what was planned, and "
            "[report.md](../report.md) has the formulas."
        ),
        "",
    ]
    if part != MAIN:
        lines += [f"Exploratory: the primary question of the design is that of [{TITLES[MAIN]}]({MAIN}.md).", ""]
    tested: Iterable[tuple[str, str, Iterable[str]]] = ()
    if missing:
        total = len(blocks(plan))
        lines += [
            f"**In progress:** {total - len(missing)} of {total} blocks (a task and a seed each) are there. Nothing is tested "
            "before all are, and nothing here is a result yet.",
            "",
        ]
    else:
        found = families(runs, config.primary, config.report.margin)
        lines += ["Differences are of scores: 0 is a uniform random policy, 1 the mean dense agent.", ""]
        main_points, by_sparsity = answer(runs, found, conclude(config, list(rows)))
        lines += [*(wrapped(f"- {line}") for line in main_points), "", "By sparsity:", ""]
        lines += [*(wrapped(f"- {line}") for line in by_sparsity), ""]
        tested = tests(runs, found, part == MAIN)
    lines += [f"![A dot for each run, by sparsity; bars are means with 95 % bootstrap intervals]({part}.svg)", ""]
    for title, note, body in (*tested, *descriptions(runs, config)):
        if written := list(body):
            lines += [f"## {title}", wrapped(note), "", *written]
    lines += ["## Deviations from the design", deviations(), "", "## Made with", *map(wrapped, made), ""]
    lines += ["[How to repeat it](index.md#repeat-or-continue-it).", ""]
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
    part = options.config.stem
    save(against_sparsity(Runs(rows), width="page"), STUDY / f"{part}.svg")
    written = page(plan, rows, missing, part, made_with(options.config, plan))
    write_whole(STUDY / f"{part}.md", written.encode(), checksum=False)


if __name__ == "__main__":
    main()
