"""What the commands print: tables and their summaries."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..config import Config
from ..errors import InputError
from ..experiment import journal, store
from ..experiment.costs import Planned
from ..experiment.spec import Cost, DenseSpec, parse_spec
from ..files import read_json
from .display import duration
from .views import TableRow, label


def results_table(rows: Sequence[TableRow]) -> Table:
    """Lay the results out for a terminal: mean ± sample standard deviation over seeds, of the last evaluation."""
    seeds = sorted({row.seeds for row in rows})
    title = f"return at the last evaluation, mean ± sd over {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("task", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for name in ("sparsity", "dense", "ticket"):
        table.add_column(name, justify="right")
    with_rewind = len({row.rewind for row in rows}) > 1
    if with_rewind:
        table.add_column("rewound to", justify="right")
    with_success = any(row.ticket_success is not None for row in rows)
    if with_success:
        for name in ("dense success", "ticket success"):
            table.add_column(name, justify="right")
    last = None
    for row in rows:
        if last not in (None, (row.task, row.rewind, row.sparsity)):
            table.add_section()
        last = (row.task, row.rewind, row.sparsity)
        cells = [row.task, label(row.method, row.control), row.sparsity]
        cells += [_spread(row.dense_return, row.dense_return_sd), _spread(row.ticket_return, row.ticket_return_sd)]
        if with_rewind:
            cells.append(row.rewind)
        if with_success:
            cells += [
                _spread(row.dense_success, row.dense_success_sd, 2),
                _spread(row.ticket_success, row.ticket_success_sd, 2),
            ]
        table.add_row(*cells)
    return table


def _spread(mean: float | None, sd: float | None, digits: int | None = None) -> str:
    if mean is None:
        return ""
    if digits is None:
        digits = 1 if abs(mean) < 1000 else 0
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def how_to_read(rows: Sequence[TableRow]) -> str:
    """Say what a table of so few seeds does and does not show."""
    seeds = min(row.seeds for row in rows)
    text = "A ticket is judged against 'dense' and against the controls. "
    if seeds > 1:
        text += f"With {seeds} seeds the spread is shown but nothing is tested: differences of its size mean nothing."
    else:
        text += "One seed shows no spread, so no difference means anything yet: `seeds=[0,1,2,3,4]` goes on from here."
    if any(row.method == "shuffled" for row in rows):
        text += (
            " 'shuffled' keeps as many weights of each layer as magnitude does, at random positions: where it does as well "
            "as a method, that method's choice of weights explains nothing beyond its layer sizes."
        )
    return text


def unstable_note(sentences: Sequence[str], most: int = 4) -> str:
    """Show a few of what `unstable_masks` says, and count the rest."""
    rest = [f"(and {len(sentences) - most} more: saliency_shared in layers.csv)"] if len(sentences) > most else []
    return "\n".join([*sentences[:most], *rest])


MOST_LISTED = 200
"""Runs that a dry run lists one by one; of more it lists what they have in common."""


def costs_table(planned: Sequence[Planned]) -> Table:
    """Lay out what `lth run` would do: each run, or where there are many each kind of run of a task, over its seeds."""
    groups: dict[str, list[Planned]] = {}
    for one in planned:
        title = one.spec.title()
        if len(planned) > MOST_LISTED:
            title = title.replace(f" seed {one.spec.seed} ", " ", 1)
        groups.setdefault(title, []).append(one)
    several = len(groups) < len(planned)
    table = Table(title="what lth run would do", title_justify="left")
    table.add_column("runs" if several else "run")
    table.add_column("state")
    for name in ("env steps", "updates", "disk MB", "time"):
        table.add_column(name, justify="right")
    for title, group in groups.items():
        cost, left = total(group), sum(not one.finished for one in group)
        state = f"{left} of {len(group)} to do" if several else "to do" if left else "finished"
        seconds = [one.seconds for one in group]
        known = cost.env_steps and None not in seconds
        table.add_row(
            title,
            state,
            f"{cost.env_steps:,}" if cost.env_steps else "",
            f"{cost.updates:,}" if cost.env_steps else "",
            f"{cost.megabytes:.1f}",
            duration(sum(seconds)) if known else "",  # type: ignore[arg-type]
        )
    return table


def total(planned: Iterable[Planned]) -> Cost:
    """Add up costs."""
    costs = [one.cost for one in planned]
    return Cost(sum(c.env_steps for c in costs), sum(c.updates for c in costs), math.fsum(c.megabytes for c in costs))


def costs_summary(planned: Sequence[Planned]) -> str:
    """Say what is to do, in total."""
    todo = [one for one in planned if not one.finished]
    cost, seconds = total(todo), [one.seconds for one in todo]
    time, workers = "not known until one run has finished", ""
    if None not in seconds:
        time, workers = duration(sum(seconds)), " for one worker"  # type: ignore[arg-type]
    return (
        f"{len(todo)} of {len(planned)} runs to do: {cost.env_steps:,} environment steps, {cost.updates:,} updates, "
        f"{cost.megabytes:,.0f} MB; time: {time}{workers}"
    )


def growth(config: Config, planned: Sequence[Planned]) -> str:
    """Say what one more seed, task or sparsity would cost: a grid grows with the product of all three."""
    runs = [one for one in planned if one.cost.env_steps]
    steps = total(runs).env_steps
    cells = len(config.tasks) * len(config.seeds)
    dense = total(one for one in runs if isinstance(one.spec, DenseSpec)).env_steps
    levels = 1 if config.pruning.rate is not None else len(config.pruning.sparsity)
    return (
        f"{len(runs)} training runs, {steps:,} environment steps in all. One more seed on each task: "
        f"{steps // len(config.seeds):,}; one more task: {steps // len(config.tasks):,}; one more sparsity: about "
        f"{(steps - min(dense, steps)) // levels:,} ({cells} dense agents are shared by all tickets of their task and seed)."
    )


def describe(run: Path) -> str:
    """Say all that is known of one run: its settings, what it was made with, timings, attempts and files.

    Raises:
        InputError: there is no run.
    """
    import yaml

    if not (run / journal.SPEC).exists():
        raise InputError(store.no_run(run, run / journal.SPEC))
    try:
        spec = dict(read_json(run / journal.SPEC))
        title = parse_spec({k: v for k, v in spec.items() if k != "spec_version"}).title()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{run / journal.SPEC} is no description of a run: {error}") from None
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    found = {
        "run": {"folder": str(run), "title": title},
        "settings": spec,
        "made with": store.read_provenance(run) or f"not known: {store.PROVENANCE} is missing or damaged",
        "seconds": journal.read_timings(run),
        "progress": journal.read_progress(run),
        "attempts": journal.read_lines(run / journal.ATTEMPTS),
        "failures": journal.read_lines(run / journal.FAILURES),
        "files": {str(file.relative_to(run)): f"{file.stat().st_size:,} bytes" for file in files},
    }

    def block(title: str, value: Any) -> str:
        return (
            f"{title}:\n" + textwrap.indent(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), "  ").rstrip()
        )

    return "\n".join(block(title, value) for title, value in found.items() if value)
