"""What `lth run` shows while runs are made. Imports no JAX."""

import re
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from ..algorithms.architecture import Spaces
from ..experiment.journal import RETURN, SUCCESS
from ..experiment.plan import Plan
from ..experiment.rates import Kind, Rates, kind_of, wall_seconds
from ..experiment.spec import ConnectivitySpec, MaskSpec, Spec, TicketSpec
from ..experiment.status import Display, Outcome
from ..text import plain, wrapped
from .numbers import percent, rounded


class PlainConsole(Console):
    """A console to which brackets, colons and control characters in text are text: no markup, no emoji, no escapes."""

    def __init__(self, **how: Any):
        super().__init__(markup=False, emoji=False, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """Turn a string into text."""
        return super().render_str(plain(text), **how)

    def on_broken_pipe(self) -> None:
        """Leave it to the command what to do: rich would end the process with status 1."""
        raise BrokenPipeError

    def say(self, text: str, style: str | None = None) -> None:
        """Print sentences: on a terminal wrapped between words, elsewhere one line a paragraph."""
        text = plain(text)
        self.print(
            wrapped(text, self.width) if self.is_terminal else text, style=style, highlight=False, soft_wrap=True
        )


def plain_table(title: str | None = None) -> Table:
    """Return an empty table with a line below its head, and no other."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))


@dataclass
class _Running:
    """A run that is being made."""

    begun: float
    """All times are of time.monotonic()."""
    at_first: int | None = None
    """Environment steps that were done at the first news: a resumed run has some."""
    done: int = 0
    stepped: tuple[int, float] | None = None
    """Steps and time of the first news after that, by when everything is compiled."""
    newest: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class GridDisplay(Display):
    """A bar for each run that is being made, on a terminal; and a line for each that ended.

    The masks of a task and seed share a line, printed once all are made.
    """

    def __init__(self, console: PlainConsole, plan: Plan, spaces: Mapping[str, Spaces] | None = None):
        self._console, self._workers = console, plan.config.workers
        self._shared, self._abbreviated = shared_words(plan.specs), abbreviated(plan.config.tasks)
        self._rates = Rates(spaces)
        self._total_runs, self._ended = len(plan.specs), 0
        self._running: dict[Spec, _Running] = {}
        self._left: Counter[Kind] = Counter()  # runs that have not ended
        self._made: Counter[Kind] = Counter()  # runs that this command made
        self._examples: dict[Kind, Spec] = {}
        self._masks_left: Counter[tuple[str, int]] = Counter()
        self._masks: dict[tuple[str, int], list[Outcome]] = {}
        for spec in plan.specs:
            kind = kind_of(spec)
            self._left[kind] += 1
            self._examples.setdefault(kind, spec)
            self._masks_left[spec.task, spec.seed] += isinstance(spec, MaskSpec)
        self._began = time.monotonic()
        # The bars are drawn by a thread, which holds locks of the console: nothing is printed while this one is held.
        self._lock = threading.Lock()
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(get_renderable=lambda: _Bars(self.rows()), console=console, transient=True)

    def __enter__(self) -> "GridDisplay":
        self._began = time.monotonic()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def begin(self, spec: Spec) -> None:
        """A run starts."""
        with self._lock:
            self._running[spec] = _Running(time.monotonic())

    def step(self, spec: Spec, env_steps: int, metrics: dict[str, float]) -> None:
        """A run has come to an environment step."""
        now = time.monotonic()
        with self._lock:
            run = self._running.setdefault(spec, _Running(now))
            run.done, run.newest, run.metrics = env_steps - spec.start, now, metrics
            if run.at_first is None:
                run.at_first = run.done
            elif run.stepped is None and run.done > run.at_first:
                run.stepped = (run.done, now)

    def note(self, spec: Spec, text: str) -> None:
        """Something happened that does not end the run."""
        with self._lock:
            self._running.pop(spec, None)
        self._console.say(f"{run_name(spec)}: {text}", "yellow")

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""
        spec = outcome.spec
        with self._lock:
            run = self._running.pop(spec, None)
            self._ended += 1
            self._left[kind_of(spec)] -= 1
            self._made[kind_of(spec)] += outcome.status == "done"
            resumed = run is not None and bool(run.at_first)
            if outcome.status == "kept" or (outcome.status == "done" and not resumed):
                self._rates.add(spec, outcome.seconds)
        if outcome.status in ("failed", "skipped"):
            self._console.say(f"{self._count()} {run_name(spec)}: {outcome.status}: {outcome.message}", "red")
        if isinstance(spec, MaskSpec):
            self._end_mask(spec, outcome)
        elif outcome.status == "done":
            scores = _scores(run.metrics if run else {})
            self._say_done(f"{run_name(spec)}{': ' if scores else ''}{scores}", outcome.seconds)

    def _end_mask(self, spec: MaskSpec, outcome: Outcome) -> None:
        cell = (spec.task, spec.seed)
        self._masks_left[cell] -= 1
        if outcome.status == "done":
            self._masks.setdefault(cell, []).append(outcome)
        if not self._masks_left[cell] and (made := self._masks.pop(cell, [])):
            title = f"{spec.task} seed {spec.seed}: {len(made)} masks" if len(made) > 1 else run_name(made[0].spec)
            self._say_done(title, sum(outcome.seconds for outcome in made))

    def _say_done(self, text: str, seconds: float) -> None:
        with self._lock:
            left = "" if self._live else self._time_left()  # on a terminal it is beside the bars
        self._console.say(f"{self._count()} {text} ({seconds:.1f} s{'; ' * bool(left)}{left})")

    def _count(self) -> str:
        return f"[{self._ended}/{self._total_runs}]"

    def _time_left(self) -> str:
        """Return how long the remaining runs take: `estimating` until a kind of training has been timed, nothing at the end."""
        left = +self._left
        if not left:
            return ""
        if not all(self._rates.has(stage) for stage in {kind.stage for kind in left} & {"dense", "ticket"}):
            return "estimating"
        waiting = left - Counter(kind_of(spec) for spec in self._running)
        runs = [(self._seconds(kind), count) for kind, count in waiting.items()]
        runs += [(self._seconds(kind_of(spec)) * (1.0 - (self._share(spec) or 0.0)), 1) for spec in self._running]
        return f"about {duration(wall_seconds(runs, self._workers))} left"

    def _seconds(self, kind: Kind) -> float:
        return self._rates.seconds(self._examples[kind])

    def _share(self, spec: Spec) -> float | None:
        """How much of a running run is done; None before its first step, and of one that takes none."""
        run = self._running[spec]
        return min(run.done / spec.env_steps, 1.0) if spec.env_steps and (run.stepped or run.done) else None

    def _whole_share(self) -> float:
        """How much of the time that all runs take is over."""
        made = sum(self._seconds(kind) * count for kind, count in self._made.items())
        made += sum(self._seconds(kind_of(spec)) * (self._share(spec) or 0.0) for spec in self._running)
        total = sum(self._seconds(kind) * count for kind, count in (self._made + self._left).items())
        return made / total if total else 1.0

    def rows(self) -> list["BarRow"]:
        """Return what the bars show: of all runs, and of each that is being made."""
        with self._lock:
            now = time.monotonic()
            name = f"{self._ended} of {self._total_runs} runs"
            rows = [BarRow(name, name, self._whole_share(), now - self._began, [self._time_left()])]
            for spec, run in self._running.items():
                name = short_title(spec, self._shared)
                shorter = short_title(spec, self._shared, self._abbreviated)
                rows.append(BarRow(name, shorter, self._share(spec), now - run.begun, _notes(spec, run)))
            return rows


class BarRow(NamedTuple):
    """One bar."""

    name: str
    shorter: str
    share: float | None  # None where it is not known
    seconds: float
    notes: list[str]  # what matters most first


def _notes(spec: Spec, run: _Running) -> list[str]:
    if isinstance(spec, MaskSpec):
        return ["making the mask"]
    if isinstance(spec, ConnectivitySpec):
        return ["evaluating"]
    if run.stepped is None:
        return ["starting" if run.at_first is None else "compiling"]
    notes = [_scores(run.metrics)]
    done, since = run.stepped
    if run.newest > since and run.done > done:
        notes.append(f"{(run.done - done) / (run.newest - since):.0f} steps/s")
    return notes


def _scores(metrics: Mapping[str, float]) -> str:
    names = {RETURN: "return", SUCCESS: "success"}
    return ", ".join(f"{names[name]} {rounded(metrics[name], 4)}" for name in names if name in metrics)


class _Bars:
    """The bars, laid out for the console's size when they are drawn."""

    def __init__(self, rows: list[BarRow]):
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = max(options.size.height - 3, 2)
        rows, hidden = self._rows[:shown], len(self._rows[shown:])
        # What is left beside the percentage, the time, a space between each two columns, and the ^C that a terminal echoes.
        room = max(options.max_width - len("100 %") - len("0:00:00") - 4 - len("^C"), 40)
        bar = min(max(room // 4, 12), 40)
        most = room - bar - len("return -1234.5")
        fit = all(len(row.name) <= most for row in rows)
        names = [row.name if fit else shorten(row.shorter, most) for row in rows]
        name = max(map(len, names))
        note = room - name - bar
        table = Table.grid(
            *(Column(width=width, no_wrap=True) for width in (name, bar, 5, 7, note)), padding=(0, 1, 0, 0)
        )
        for row, title in zip(rows, names, strict=True):
            minutes, seconds = divmod(int(row.seconds), 60)
            table.add_row(
                plain(title),
                ProgressBar(total=None if row.share is None else 1.0, completed=row.share or 0.0, width=bar),
                "" if row.share is None else f"{100 * row.share:3.0f} %",
                f"{minutes // 60}:{minutes % 60:02}:{seconds:02}",
                fitting(row.notes, note),
            )
        yield table
        if hidden:
            yield Text(f"and {hidden} more")


def run_name(spec: Spec) -> str:
    """Name a run as the results do: `Ant-v5 seed 0 random-erk 55.3 %`, where its title has `random erk 0.552786`."""
    words = spec.title().replace(" random erk ", " random-erk ").split(" ")
    return " ".join(percent(word) if re.fullmatch(r"0\.\d+", word) else word for word in words)


def shared_words(specs: Sequence[Spec]) -> set[str]:
    """Return what the titles of all runs have in common: the task, the seed, the tickets' rewind point."""
    tickets = [spec for spec in specs if isinstance(spec, TicketSpec)]
    tasks, seeds = {spec.task for spec in specs}, {f"seed {spec.seed}" for spec in specs}
    rewinds = {"finetune" if spec.rewind_steps == "none" else f"rewind{spec.rewind_steps}" for spec in tickets}
    return {word for words in (tasks, seeds, rewinds) if len(words) == 1 for word in words}


def short_title(spec: Spec, shared: Container[str], tasks: Mapping[str, str] | None = None) -> str:
    """Return the title of a run without `mask` and without what all runs share.

    Args:
        spec: the run.
        shared: of `shared_words`.
        tasks: what tasks are called instead, if they are.
    """
    seed = f"seed {spec.seed}"
    words = run_name(spec).partition(seed)[2].split()[isinstance(spec, MaskSpec) :]
    found = [word for word in (spec.task, seed, *words) if word not in shared]
    return " ".join((tasks or {}).get(word, word) for word in found) or run_name(spec)


def abbreviated(tasks: Sequence[str], least: int = 4) -> dict[str, str]:
    """Return the shortest beginning of each task's name that no other has, of at least `least` characters.

    >>> abbreviated(["drawer-close-v3", "drawer-open-v3", "Ant-v5"])
    {'drawer-close-v3': 'drawer-c…', 'drawer-open-v3': 'drawer-o…', 'Ant-v5': 'Ant-…'}
    """
    found = {}
    for task in tasks:
        others = [other for other in tasks if other != task]
        length = next(
            (n for n in range(least, len(task)) if not any(o.startswith(task[:n]) for o in others)), len(task)
        )
        found[task] = f"{task[:length]}…" if length < len(task) - 1 else task
    return found


def shorten(text: str, width: int) -> str:
    """Leave out the middle of a text that is too long; the end, which tells names apart, keeps most of the room.

    >>> shorten("drawer-close-v3 seed 10 magnitude 95 %", 28)
    'drawer-cl… 10 magnitude 95 %'
    """
    if len(text) <= width:
        return text
    head = max((width - 1) // 3, 1)
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def fitting(parts: Iterable[str], width: int) -> str:
    """Join as many of the first parts as fit with commas.

    >>> fitting(["return -153.2", "812 steps/s"], 26), fitting(["return -153.2", "812 steps/s"], 20)
    ('return -153.2, 812 steps/s', 'return -153.2')
    """
    found = ""
    for part in filter(None, parts):
        longer = f"{found}, {part}" if found else part
        if found and len(longer) > width:
            break
        found = longer
    return found


def duration(seconds: float) -> str:
    """Write a time in seconds, minutes or hours.

    >>> duration(42), duration(600), duration(8100)
    ('42 s', '10 min', '2.2 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
