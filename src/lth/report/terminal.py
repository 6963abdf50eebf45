"""What `lth run` and `lth eval` print."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..config import CONTROLS
from ..experiment.runner import Cost, Outcome
from ..experiment.spec import DenseSpec, MaskSpec, Spec, TicketSpec
from .tables import TableRow


def _train_steps(spec: Spec) -> int:
    if isinstance(spec, DenseSpec):
        return spec.training.env_steps
    return spec.dense.training.env_steps - spec.rewind_steps if isinstance(spec, TicketSpec) else 0


class GridDisplay:
    """Live bars on a terminal; elsewhere one plain line a finished run."""

    def __init__(self, console: Console, specs: Sequence[Spec]):
        self._console = console
        self._total_runs = len(specs)
        self._ended = 0
        self._kept = 0
        self._latest: dict[str, float] = {}
        self._started = time.monotonic()
        self._remaining = sum(_train_steps(spec) for spec in specs)
        self._trained = 0
        self._done_here = 0
        self._progress: Progress | None = None
        self._whole: TaskID | None = None
        self._current: TaskID | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<38.38}"),
                BarColumn(bar_width=12),
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
        self._latest = {}
        self._done_here = 0
        if self._progress:
            self._current = self._progress.add_task(spec.title(), total=max(_train_steps(spec), 1), note="")

    def step(self, spec: Spec, env_steps: int, metrics: dict[str, float]) -> None:
        """A run has come to an environment step."""
        self._latest |= metrics
        start = spec.rewind_steps if isinstance(spec, TicketSpec) else 0
        self._trained += env_steps - start - self._done_here
        self._done_here = env_steps - start
        if self._progress and self._current is not None and self._whole is not None:
            self._progress.update(self._current, completed=self._done_here, note=self._scores())
            self._progress.update(self._whole, completed=self._trained, note=self._time_left())

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""
        self._ended += 1
        if self._progress and self._current is not None:
            self._progress.remove_task(self._current)
            self._current = None
        if outcome.status == "kept":
            self._kept += 1
            self._remaining -= _train_steps(outcome.spec)
            if self._progress and self._whole is not None:
                self._progress.update(self._whole, total=max(self._remaining, 1))
            return
        head = f"[{self._ended}/{self._total_runs}] {outcome.spec.title()}"
        if outcome.status in ("failed", "skipped"):
            self._console.print(
                f"{head}: {outcome.status}: {outcome.message}", style="red", highlight=False, soft_wrap=True
            )
            return
        left = self._time_left()
        text = f"{head}{': ' if self._scores() else ''}{self._scores()} ({outcome.seconds:.1f} s{f'; {left}' if left else ''})"
        self._console.print(text, highlight=False, soft_wrap=True)

    def _scores(self) -> str:
        names = {"evaluation/return": "return", "evaluation/success": "success"}
        return ", ".join(f"{names[name]} {self._latest[name]:.4g}" for name in names if name in self._latest)

    def _time_left(self) -> str:
        if not self._trained or self._trained >= self._remaining:
            return ""
        seconds = (time.monotonic() - self._started) / self._trained * (self._remaining - self._trained)
        return f"about {_duration(seconds)} left"


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
    with_success = any(row.ticket_success is not None for row in rows)
    if with_success:
        for name in ("dense success", "ticket success"):
            table.add_column(name, justify="right")
    last = None
    for row in rows:
        if last not in (None, (row.task, row.sparsity)):
            table.add_section()
        last = (row.task, row.sparsity)
        method = f"{row.method} (control)" if row.method in CONTROLS else row.method
        cells = [row.task, method, row.sparsity]
        cells += [_spread(row.dense_return, row.dense_return_sd), _spread(row.ticket_return, row.ticket_return_sd)]
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


def costs_table(costs: Sequence[Cost]) -> Table:
    """Lay out what `lth run` would do."""
    table = Table(title="what lth run would do", title_justify="left")
    table.add_column("run")
    table.add_column("state")
    for name in ("env steps", "updates", "disk MB", "time"):
        table.add_column(name, justify="right")
    for cost in costs:
        mask = isinstance(cost.spec, MaskSpec)
        table.add_row(
            cost.spec.title(),
            "finished" if cost.finished else "to do",
            "" if mask else f"{cost.env_steps:,}",
            "" if mask else f"{cost.updates:,}",
            f"{cost.megabytes:.1f}",
            "" if mask or cost.seconds is None else _duration(cost.seconds),
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
    )
