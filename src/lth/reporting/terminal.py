"""What the commands print: tables and their summaries."""

import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from ..config import Config
from ..experiment.costs import Estimate, Planned
from ..experiment.rates import wall_seconds
from ..experiment.spec import Cost, DenseSpec, MaskSpec, Spec
from .answer import Answer
from .display import duration, plain_table, run_name
from .power import Needed
from .progress import level_title
from .views import TableRow, label, names_rewind


def results_table(rows: Sequence[TableRow]) -> Table:
    """Lay the results out for a terminal: mean ± sample standard deviation over seeds, of the last evaluation.

    The rows of a task, sparsity and rewind point stand together, under the dense agents of their seeds.
    """
    seeds = sorted({row.seeds for row in rows})
    title = f"last evaluation, mean ± sd over {' or '.join(map(str, seeds))} seed{'s' * (seeds != [1])}"
    table = plain_table(title)
    with_rewind = names_rewind(row.rewind for row in rows)
    with_success = any(row.ticket_success is not None for row in rows)
    table.add_column("", no_wrap=True)
    for name in (*(["seeds"] if len(seeds) > 1 else []), "return", *(["success"] if with_success else [])):
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, count: int, *spreads: str) -> None:
        table.add_row(f"  {name}", *([str(count)] if len(seeds) > 1 else []), *spreads[: 1 + with_success])

    groups: dict[str, list[TableRow]] = {}
    for row in rows:
        groups.setdefault(level_title(row.task, row.sparsity, row.rewind if with_rewind else ""), []).append(row)
    for group, some in groups.items():
        table.add_section()
        table.add_row(group)
        most = max(some, key=lambda row: row.seeds)
        dense = _spread(most.dense_return, most.dense_return_sd), _spread(most.dense_success, most.dense_success_sd, 2)
        add("dense", most.seeds, *dense)
        for row in some:
            ticket = (
                _spread(row.ticket_return, row.ticket_return_sd),
                _spread(row.ticket_success, row.ticket_success_sd, 2),
            )
            add(label(row.method, row.control), row.seeds, *ticket)
    return table


def _spread(mean: float | None, sd: float | None, digits: int | None = None) -> str:
    if mean is None:
        return ""
    if digits is None:
        digits = 1 if max(abs(mean), sd or 0.0) < 1000 else 0
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def conclusion(said: Answer) -> list[str]:
    """Return the answer of a grid as lines: the headline, its question also by sparsity, what was asked, and what limits it."""
    first, *rest = said.headline
    return [first, *said.levels, *rest, *([said.question] if said.question else []), *said.notes]


def needed_table(needed: Sequence[Needed], power: float) -> Table:
    """Lay out how many seeds tests take."""
    title = f"Seeds to decide with a probability of {power:g}"
    table = plain_table(title)
    table.add_column("test")
    for name in ("difference", "sd over seeds", "seeds", "80 % range"):
        table.add_column(name, justify="right")

    def count(seeds: int | None) -> str:
        return f"{seeds}" if seeds else "> 1,000"

    for one in needed:
        spread = f"{one.spread:.2f}" + (f" ({one.pilots} pilot seeds)" if one.pilots else " (assumed)")
        between = f"{count(one.fewest)} to {count(one.most)}" if one.pilots else ""
        table.add_row(one.what, f"{one.effect:g}", spread, count(one.seeds), between)
    return table


def assumed_notes(needed: Sequence[Needed]) -> list[str]:
    """Return a line for each reason why pilot runs were not used, with the tests that it holds for."""
    whats: dict[str, dict[str, None]] = {}
    for one in needed:
        if one.why:
            whats.setdefault(one.why, {})[one.what] = None
    return [f"The spread is assumed ({'; '.join(some)}): {why}." for why, some in whats.items()]


def unstable_note(sentences: Sequence[str], most: int = 4) -> str:
    """Show a few of what `unstable_masks` says, and count the rest."""
    rest = [f"(and {len(sentences) - most} more: saliency_shared in layers.csv)"] if len(sentences) > most else []
    return "\n".join([*sentences[:most], *rest])


def planned_summary(estimate: Estimate, workers: int) -> str:
    """Return the total of the planned runs, their time, and the source of the estimate."""
    todo = [one for one in estimate.runs if not one.finished]
    counted = f"{len(todo)} of {len(estimate.runs)} runs to do"
    if not todo:
        return f"{counted}."
    cost, seconds = total(todo), sum(one.seconds for one in todo)
    together = wall_seconds(((one.seconds, 1) for one in todo), workers)
    time = f"about {duration(together)}" + (f" with workers={workers}" if workers > 1 else "")
    alone = f" ({duration(seconds)} one at a time)" if workers > 1 else ""
    return (
        f"{counted}: {time}{alone}, {cost.env_steps:,} environment steps, {cost.updates:,} updates, "
        f"{cost.megabytes:,.0f} MB of disk. Times are estimated {estimate.times.source}."
    )


def planned_table(estimate: Estimate, each: bool = False) -> Table:
    """Lay out what `lth run` would do: each kind of run of a task over its seeds, the masks together; with `each` every run.

    Steps, disk and time are of the runs that are not finished; with `each` of every run.
    """
    groups: dict[str, dict[str, list[Planned]]] = {}
    for one in estimate.runs:
        title = run_name(one.spec) if each else _without_seed(one.spec)
        groups.setdefault(one.spec.task, {}).setdefault(title, []).append(one)
    started = any(one.finished for one in estimate.runs)
    table = plain_table("Planned runs")
    table.add_column("run", overflow="fold")
    if each:
        table.add_column("state")
    else:
        table.add_column("runs", justify="right")
        if started:
            table.add_column("to do", justify="right")
    for name in ("env steps", "disk MB", "time"):
        table.add_column(name, justify="right")
    for task, titles in groups.items():
        if not each:
            table.add_section()
            table.add_row(task)
        for title, group in titles.items():
            todo = [one for one in group if not one.finished]
            counts = [f"{len(group)}", *([f"{len(todo)}"] if started else [])]
            about = ["to do" if todo else "finished"] if each else counts
            some = group if each else todo
            cost = total(some)
            amounts = [f"{cost.env_steps:,}" if cost.env_steps else "", f"{cost.megabytes:,.1f}"]
            table.add_row(title if each else f"  {title}", *about, *amounts, duration(sum(one.seconds for one in some)))
    return table


def _without_seed(spec: Spec) -> str:
    if isinstance(spec, MaskSpec):
        return "masks"
    return run_name(spec).partition(f" seed {spec.seed} ")[2] or run_name(spec)


def total(planned: Iterable[Planned]) -> Cost:
    """Add up costs."""
    costs = [one.cost for one in planned]
    return Cost(sum(c.env_steps for c in costs), sum(c.updates for c in costs), math.fsum(c.megabytes for c in costs))


def growth(config: Config, planned: Sequence[Planned]) -> str:
    """Return what one more seed, task or sparsity costs: a grid grows with the product of all three."""
    dense = [one for one in planned if isinstance(one.spec, DenseSpec)]
    levels = 1 if config.pruning.rate is not None else len(config.pruning.sparsity)

    def amount(share: int, without: Sequence[Planned] = ()) -> str:
        steps = (total(planned).env_steps - total(without).env_steps) // share
        seconds = (sum(one.seconds for one in planned) - sum(one.seconds for one in without)) / share
        return f"{steps:,} environment steps ({duration(seconds)})"

    return (
        f"One more seed costs {amount(len(config.seeds))}; one more task {amount(len(config.tasks))}; one more sparsity about "
        f"{amount(levels, dense)}. Times are for one worker."
    )
