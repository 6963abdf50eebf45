"""What `lth run` shows while runs are made, and `lth status` of them. Imports no JAX."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..config import Config
from ..experiment.spec import Spec
from ..experiment.status import Display, Outcome, State
from ..text import plain


class PlainConsole(Console):
    """A console to which brackets, colons and control characters in text are text: no markup, no emoji, no escapes."""

    def __init__(self, **how: Any):
        super().__init__(markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """Turn a string into text."""
        return super().render_str(plain(text), **how)


class GridDisplay(Display):
    """Live bars on a terminal, one for each run that is being made; elsewhere one plain line a finished run."""

    def __init__(self, console: Console, specs: Sequence[Spec]):
        self._console = console
        self._total_runs = len(specs)
        self._ended = 0
        self._started = time.monotonic()
        self._remaining = sum(spec.env_steps for spec in specs)
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
                TextColumn("{task.description:<44.44}", markup=False),
                BarColumn(bar_width=10),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False),
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
            self._bars[spec] = self._progress.add_task(spec.title(), total=max(spec.env_steps, 1), note="")

    def step(self, spec: Spec, env_steps: int, metrics: dict[str, float]) -> None:
        """A run has come to an environment step."""
        done = env_steps - spec.start
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
            self._remaining -= spec.env_steps
            if self._progress and self._whole is not None:
                self._progress.update(self._whole, total=max(self._remaining, 1))
            return
        head = f"[{self._ended}/{self._total_runs}] {spec.title()}"
        if outcome.status in ("failed", "skipped"):
            self._console.print(
                f"{head}: {outcome.status}: {outcome.message}", style="red", highlight=False, soft_wrap=True
            )
            return
        self._steps[spec] = spec.env_steps
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
        return f"about {duration((time.monotonic() - self._started) / trained * left)} left"


def duration(seconds: float) -> str:
    """Write a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_table(states: Sequence[State]) -> Table:
    """Lay out what is being made and what failed."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("run", "state", "env steps", "return", "note"):
        table.add_column(name, overflow="fold")
    for state in states:
        if state.state in ("running", "failed", "interrupted"):
            metrics, last = state.progress.get("metrics"), state.progress.get("time")
            value = metrics.get("evaluation/return") if isinstance(metrics, dict) else None
            alive = ""
            if state.state == "running" and isinstance(last, int | float):
                alive = f"last sign of life {duration(max(time.time() - last, 0.0))} ago"
            table.add_row(
                state.spec.title(),
                state.state,
                f"{state.env_steps:,} of {state.total_steps:,}"
                if state.state == "running" and state.total_steps
                else "",
                f"{value:.4g}" if isinstance(value, int | float) else "",
                "; ".join(filter(None, (alive, state.message))),
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
            f"; about {duration(steps * rates[len(rates) // 2] / config.workers)} left with workers={config.workers}"
        )
    return text
