"""What `lth run` and `lth eval` print."""

import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..config import Config
from ..experiment import store
from ..experiment.runner import Cost, Outcome
from ..experiment.spec import DenseSpec, Spec, TicketSpec, training_steps
from ..experiment.status import State
from .tables import TableRow, label


class GridDisplay:
    """Live bars on a terminal, one for each run that is being made; elsewhere one plain line a finished run."""

    def __init__(self, console: Console, specs: Sequence[Spec]):
        self._console = console
        self._total_runs = len(specs)
        self._ended = 0
        self._started = time.monotonic()
        self._remaining = sum(training_steps(spec) for spec in specs)
        self._steps: dict[Spec, int] = {}
        self._first: dict[
            Spec, tuple[int, float]
        ] = {}  # steps and time of the first news: a resumed run has some before
        self._metrics: dict[Spec, dict[str, float]] = {}
        self._bars: dict[Spec, TaskID] = {}
        self._progress: Progress | None = None
        self._whole: TaskID | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<44.44}"),
                BarColumn(bar_width=10),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )

    def __enter__(self) -> "GridDisplay":
        if self._progress:
            self._whole = self._progress.add_task("all runs", total=max(self._remaining, 1), note="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def begin(self, spec: Spec) -> None:
        """A run starts."""
        if self._progress and spec not in self._bars:
            self._bars[spec] = self._progress.add_task(spec.title(), total=max(training_steps(spec), 1), note="")

    def step(self, spec: Spec, env_steps: int, metrics: dict[str, float]) -> None:
        """A run has come to an environment step."""
        start = spec.start if isinstance(spec, TicketSpec) else 0
        done = env_steps - start
        first, since = self._first.setdefault(spec, (done, time.monotonic()))
        self._steps[spec] = done
        self._metrics[spec] = metrics
        if self._progress and spec in self._bars:
            seconds = time.monotonic() - since
            rate = f", {(done - first) / seconds:.0f} steps/s" if done > first and seconds else ""
            self._progress.update(self._bars[spec], completed=done, note=f"{self._scores(spec)}{rate}")
            assert self._whole is not None
            self._progress.update(self._whole, completed=sum(self._steps.values()), note=self._time_left())

    def note(self, spec: Spec, text: str) -> None:
        """Something happened that does not end the run."""
        self._first.pop(spec, None)
        self._console.print(f"{spec.title()}: {text}", style="yellow", highlight=False, soft_wrap=True)

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""
        self._ended += 1
        spec = outcome.spec
        if self._progress and spec in self._bars:
            self._progress.remove_task(self._bars.pop(spec))
        if outcome.status == "kept":
            self._remaining -= training_steps(spec)
            if self._progress and self._whole is not None:
                self._progress.update(self._whole, total=max(self._remaining, 1))
            return
        head = f"[{self._ended}/{self._total_runs}] {spec.title()}"
        if outcome.status in ("failed", "skipped"):
            self._console.print(
                f"{head}: {outcome.status}: {outcome.message}", style="red", highlight=False, soft_wrap=True
            )
            return
        self._steps[spec] = training_steps(spec)
        scores, left = self._scores(spec), self._time_left()
        text = f"{head}{': ' if scores else ''}{scores} ({outcome.seconds:.1f} s{f'; {left}' if left else ''})"
        self._console.print(text, highlight=False, soft_wrap=True)

    def _scores(self, spec: Spec) -> str:
        names = {"evaluation/return": "return", "evaluation/success": "success"}
        latest = self._metrics.get(spec, {})
        return ", ".join(f"{names[name]} {latest[name]:.4g}" for name in names if name in latest)

    def _time_left(self) -> str:
        trained = sum(self._steps.values()) - sum(first for first, _ in self._first.values())
        left = self._remaining - sum(self._steps.values())
        if trained <= 0 or left <= 0:
            return ""
        return f"about {_duration((time.monotonic() - self._started) / trained * left)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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


def costs_table(costs: Sequence[Cost]) -> Table:
    """Lay out what `lth run` would do."""
    table = Table(title="what lth run would do", title_justify="left")
    table.add_column("run")
    table.add_column("state")
    for name in ("env steps", "updates", "disk MB", "time"):
        table.add_column(name, justify="right")
    for cost in costs:
        trains = cost.env_steps > 0
        table.add_row(
            cost.spec.title(),
            "finished" if cost.finished else "to do",
            f"{cost.env_steps:,}" if trains else "",
            f"{cost.updates:,}" if trains else "",
            f"{cost.megabytes:.1f}",
            _duration(cost.seconds) if trains and cost.seconds is not None else "",
        )
    return table


def costs_summary(costs: Sequence[Cost]) -> str:
    """Say what is to do, in total."""
    todo = [cost for cost in costs if not cost.finished]
    known = all(cost.seconds is not None for cost in todo)
    seconds = _duration(sum(cost.seconds or 0.0 for cost in todo)) if known else "not known until one run has finished"
    return (
        f"{len(todo)} of {len(costs)} runs to do: {sum(c.env_steps for c in todo):,} environment steps, "
        f"{sum(c.updates for c in todo):,} updates, {sum(c.megabytes for c in todo):,.0f} MB; time: {seconds}"
        f"{' for one worker' if known else ''}"
    )


def growth(config: Config, costs: Sequence[Cost]) -> str:
    """Say what one more seed, task or sparsity would cost: a grid grows with the product of all three."""
    runs = [cost for cost in costs if cost.env_steps]
    steps = sum(cost.env_steps for cost in runs)
    cells = len(config.tasks) * len(config.seeds)
    dense = sum(cost.env_steps for cost in runs if isinstance(cost.spec, DenseSpec))
    levels = 1 if config.pruning.rate is not None else len(config.pruning.sparsity)
    return (
        f"{len(runs)} training runs, {steps:,} environment steps in all. One more seed on each task: "
        f"{steps // len(config.seeds):,}; one more task: {steps // len(config.tasks):,}; one more sparsity: about "
        f"{(steps - min(dense, steps)) // levels:,} ({cells} dense agents are shared by all tickets of their task and seed)."
    )


def status_table(states: Sequence[State]) -> Table:
    """Lay out what is being made and what failed."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("run", "state", "env steps", "return", "note"):
        table.add_column(name, overflow="fold")
    for state in states:
        if state.state in ("running", "failed", "interrupted"):
            value = state.progress.get("metrics", {}).get("evaluation/return")
            table.add_row(
                state.spec.title(),
                state.state,
                f"{state.env_steps:,} of {state.total_steps:,}"
                if state.state == "running" and state.total_steps
                else "",
                "" if value is None else f"{value:.4g}",
                state.message,
            )
    return table


def status_summary(config: Config, states: Sequence[State]) -> str:
    """Count the runs of a grid by their state, with the disk that they take and how long is left."""
    counts = Counter(state.state for state in states)
    names = ("finished", "running", "failed", "interrupted", "to do")
    disk = sum(state.megabytes for state in states)
    left = [state for state in states if state.state != "finished"]
    rates = sorted(state.seconds / state.total_steps for state in states if state.seconds and state.total_steps)
    text = f"{len(states)} runs: " + ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
    text += f"; {disk:,.1f} MB on disk"
    if left and rates:
        steps = sum(state.total_steps - state.env_steps for state in left)
        text += (
            f"; about {_duration(steps * rates[len(rates) // 2] / config.workers)} left with workers={config.workers}"
        )
    return text


def describe(run: Path) -> str:
    """Say all that is known of one run: its settings, what it was made with, timings, attempts and files.

    Raises:
        InputError: there is no run.
    """
    import yaml

    found = store.describe(run)

    def block(title: str, value: Any) -> str:
        return (
            f"{title}:\n" + textwrap.indent(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), "  ").rstrip()
        )

    return "\n".join(block(title, value) for title, value in found.items() if value)
