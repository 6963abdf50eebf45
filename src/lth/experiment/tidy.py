"""The tidy table: one row for each run, moment and metric. Tables, figures and the report are views of it, and of nothing else.

It is written as runs finish. `Collector` remembers what it has read, so that the table of a large grid is brought up to date
in the time that the new runs take.
"""

import contextlib
import hashlib
import math
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from ..analysis.barriers import line_barriers
from ..analysis.overlap import Kept, compare, kernels, shared_counts
from ..envs.suites import observation_names
from ..errors import InputError
from ..files import csv_bytes, read_json, read_rows, write_whole
from ..pruning.names import layer_of, nested_leaves
from . import records
from .costs import spent
from .journal import METRICS, TIMINGS, file_stamp, is_finished, last_file, write_quick
from .plan import Plan, Row
from .random_policy import random_policy_file, read_random_policy
from .records import READS, AnalysisRow, measured
from .spec import ConnectivitySpec, DenseSpec, FileMask, MaskSpec, ScheduleSpec, Spec, TicketSpec, allocation_words
from .status import Outcome

TIDY_FILE = "tidy.csv"
_VERSION = 4
"""To be raised where the rows of a run change."""
DENSE = "dense"
"""The method of a dense agent's rows, whose control, sparsity and rewind point are empty."""
RANDOM_POLICY = "random-policy"
"""The method of the rows about the uniform random policy, which belong to a task and have seed 0."""


class TidyRow(NamedTuple):
    """One number. docs/report.md lists the metrics; `run` is the folder below the output directory."""

    task: str
    seed: int
    method: str  # as in runs.csv; `dense`
    control: str
    sparsity: str
    rewind: str
    run: str
    env_steps: int
    metric: str
    value: float


Numbers = list[tuple[int, str, float]]
"""(env_steps, metric, value)"""


class Collector:
    """What the finished runs of a plan measured, as rows."""

    def __init__(self, plan: Plan):
        self.plan, self.root = plan, plan.root
        self._numbers: dict[tuple[Spec, bool], Numbers] = {}
        self._masks: dict[Spec, dict[str, dict[str, Kept]]] = {}
        self._shared: dict[tuple[Spec, Spec], Numbers] = {}
        self._order = list(_in_order(plan))
        self.left_out: dict[Spec, str] = {}
        self._names = {row.run: row for row in plan.rows if not row.control}

    def rows(self, finished: Sequence[Spec] | None = None) -> list[TidyRow]:
        """Return the table of the finished runs, which are looked for on the disk where they are not given.

        The order is that of the plan: runs, then what two masks share, then lines between agents. Runs of which a file is damaged
        are in `left_out`, with what is wrong.
        """
        if finished is None:
            finished = [spec for spec in self.plan.specs if is_finished(self.root, spec)]
        there = set(finished)
        found: list[TidyRow] = []
        self.left_out = {}

        @contextlib.contextmanager
        def unless_damaged(spec: Spec) -> Iterator[None]:
            try:
                yield
            except InputError as error:  # one run's file does not keep the others' from being read
                self.left_out[spec] = str(error)
                there.discard(spec)

        for task in dict.fromkeys(spec.task for spec in finished):
            found += self._random_policy(task)
        for spec, row in self._order:
            if spec in there and (row is None or row.dense in there):
                about = (row.method, row.control, row.sparsity, row.rewind) if row else condition_of(spec)
                with unless_damaged(spec):
                    found += _laid_out(spec, about, self._measured(spec, row is not None))
        masks = [spec for spec in self.plan.specs if isinstance(spec, MaskSpec) and spec in there]
        for mask in masks:
            with unless_damaged(mask):
                self._kept(mask)
        found += self._overlaps([mask for mask in masks if mask in there])
        for comparison in self.plan.comparisons:
            if there.issuperset((comparison, *comparison.needs())):  # a line is between agents that the table has
                with unless_damaged(comparison):
                    found += self._line(comparison)
        return found

    def _random_policy(self, task: str) -> Iterator[TidyRow]:
        path = random_policy_file(self.root, task).parent.relative_to(self.root)
        for metric, value in read_random_policy(self.root, task).items():
            yield TidyRow(task, 0, RANDOM_POLICY, "", "", "", str(path), 0, metric, value)

    def _measured(self, spec: DenseSpec | MaskSpec | TicketSpec, is_result: bool) -> Numbers:
        """What a run measured: of one that is a row of the results evaluations and costs too."""
        if (spec, is_result) not in self._numbers:
            end, analysis = spec.dense.training.env_steps, self._analysis(spec)
            numbers: Numbers = []
            if is_result and not isinstance(spec, MaskSpec):
                numbers += records.metrics_of(self.root, spec)
                analysis = self._costs(spec, analysis) | analysis
                if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec) and not spec.control:
                    analysis |= {k: v for k, v in self._analysis(spec.mask).items() if k.startswith("saliency")}
            self._numbers[spec, is_result] = [*numbers, *((end, metric, value) for metric, value in analysis.items())]
        return self._numbers[spec, is_result]

    def _analysis(self, spec: DenseSpec | MaskSpec | TicketSpec) -> dict[str, float]:
        """A run's analysis (docs/analysis.md) as `<metric>/<network>/<layer>`; what the policy reads by the inputs' names."""
        rows = measured(self.root, spec)
        found = {metric_name(row): row.value for row in rows if not row.metric.startswith(READS)}
        policy = spec.dense.agent.POLICY
        reads = [row for row in rows if row.metric.startswith(READS)]
        named = [row.value for row in reads if row.network == policy]
        names = observation_names(spec.task, len(named))
        found |= {f"{READS}/{policy}/{name}": value for name, value in zip(names, named, strict=True)}
        return found | {metric_name(row): row.value for row in reads if row.network != policy}

    def _costs(self, spec: DenseSpec | TicketSpec, analysis: Mapping[str, float]) -> dict[str, float]:
        """What a run took besides its dense agent: with its mask, and all earlier rounds of iterative pruning."""
        kept, weights = (
            {n: analysis[f"{kind}/{n}"] for n in spec.dense.agent.NETWORKS} for kind in ("kept", "weights")
        )
        found = spent(self.plan, spec, kept, weights)
        if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec) and spec.mask.previous:
            before = spec.mask.previous
            earlier = self._costs(before, self._analysis(before))
            found = {name: value + earlier[name] for name, value in found.items() if name in earlier}
        return found

    def _overlaps(self, specs: Sequence[MaskSpec]) -> Iterator[TidyRow]:
        """What the masks of two methods (seeds, tasks, rounds) share: in each layer, and the Jaccard index beside chance's."""
        for differ_in, one, other in mask_pairs(specs):
            if (one, other) not in self._shared:
                self._shared[one, other] = list(self._compared(differ_in, one, other))
            yield from _laid_out(one, condition_of(one), self._shared[one, other])

    def _compared(self, differ_in: str, one: MaskSpec, other: MaskSpec) -> Iterator[tuple[int, str, float]]:
        end = one.dense.training.env_steps
        name = {"method": _method_of(other), "seed": f"seed {other.seed}", "task": other.task}
        others = self._kept(other)
        for network, mask in self._kept(one).items():
            counts = shared_counts(mask, others[network])
            if not counts:
                continue
            total = compare("", tuple(count for some in counts.values() for count in some))
            rest = f"{network}/{differ_in}/{name.get(differ_in, f'round {other.round}')}"
            yield end, f"overlap/{rest}", total.jaccard
            yield end, f"overlap_by_chance/{rest}", total.expected_jaccard
            for layer, some in counts.items():
                yield end, f"shared/{differ_in}/{other.sha256[:8]}/{network}/{layer}", sum(count[3] for count in some)

    def _kept(self, spec: MaskSpec) -> dict[str, dict[str, Kept]]:
        """A mask as bits: there may be thousands.

        Raises:
            InputError: it cannot be read, or does not keep as many weights of each layer as its analysis says.
        """
        if spec not in self._masks:
            path, analysis = last_file(self.root, spec), self._analysis(spec)
            found = {network: kernels(nested_leaves(mask)) for network, mask in records.read_mask(path).items()}
            counted: Counter[str] = Counter()
            for network, arrays in found.items():
                for name, one in arrays.items():
                    layer = f"{network}/{layer_of(name)}"
                    counted.update({f"weights/{layer}": math.prod(one.shape), f"kept/{layer}": one.kept})
            by_layer = (name for name in analysis if name.startswith(("weights/", "kept/")) and name.count("/") > 1)
            if counted != {name: analysis[name] for name in by_layer}:
                raise InputError(f"the mask {path} does not keep the weights that {records.ANALYSIS} beside it counts.")
            self._masks[spec] = found
        return self._masks[spec]

    def _line(self, spec: ConnectivitySpec) -> list[TidyRow]:
        """What lies on the line between two agents (docs/analysis.md): barriers, the values at both ends, and each point."""
        points = records.read_line(self.root / spec.path)
        # Of a ticket and the same ticket with other noise, the first is the one that the results are of.
        run, other = (spec.one, "other noise") if spec.kind == "noise" else (spec.other, DENSE)
        if spec.kind in ("methods", "rounds") and isinstance(spec.one, TicketSpec):
            before = spec.one.mask
            if isinstance(before, MaskSpec):
                other = before.method if spec.kind == "methods" else f"round {before.round}"
        row = self._names.get(run)
        about = (row.method, "", row.sparsity, row.rewind) if row else (DENSE, "", "", "")
        end = spec.dense.training.env_steps
        barriers = [
            (end, f"{kind}/{spec.kind}/{other}/{metric}", value)
            for metric, *values in line_barriers(points)
            for kind, value in zip(("barrier", "value_one", "value_other"), values, strict=True)
        ]
        ends = f"{spec.one.sha256[:8]}/{spec.other.sha256[:8]}"
        line = [(end, f"line/{spec.kind}/{ends}/{point.alpha!r}/{point.metric}", point.value) for point in points]
        return [*_laid_out(run, about, barriers), *_laid_out(spec, ("", "", "", ""), line)]


def _in_order(plan: Plan) -> Iterator[tuple[DenseSpec | MaskSpec | TicketSpec, Row | None]]:
    """Yield the results' rows, dense agents' first, and between them the plan's other runs, where the plan has them."""
    rows = dict.fromkeys(one for row in plan.rows for one in (Row(DENSE, "", "", "", row.dense, row.dense), row))
    results = {row.run for row in rows}
    place = {spec: i for i, spec in enumerate(plan.specs)}
    others = deque(spec for spec in plan.specs if spec not in results and not isinstance(spec, ConnectivitySpec))
    for row in rows:
        while others and place[others[0]] < place[row.run]:
            yield others.popleft(), None
        yield row.run, row
    yield from ((spec, None) for spec in others)


def _laid_out(spec: Spec, about: tuple[str, str, str, str], numbers: Numbers) -> Iterator[TidyRow]:
    run = str(spec.path)
    # Counts too are floats, as in the table that is read back.
    return (TidyRow(spec.task, spec.seed, *about, run, step, metric, float(v)) for step, metric, v in numbers)


def condition_of(spec: DenseSpec | MaskSpec | TicketSpec) -> tuple[str, str, str, str]:
    """Method, control, sparsity and rewind point of a run that is not itself a row of the results."""
    if isinstance(spec, DenseSpec):
        return DENSE, "", "", ""
    if isinstance(spec, MaskSpec):
        rewind = str(spec.previous.rewind_steps) if spec.previous else ""
        return _method_of(spec), "", spec.sparsity.label(), rewind
    named = spec.schedule or spec.mask
    method, sparsity = (_method_of(named), named.sparsity.label()) if named else ("", "")
    return method, spec.control, sparsity, str(spec.rewind_steps)


def _method_of(named: MaskSpec | ScheduleSpec | FileMask) -> str:
    """Return a mask's method. A random mask with another allocation is named apart from the method's: `random-erk`."""
    words = allocation_words(named.allocation) if isinstance(named, MaskSpec) and named.method == "random" else []
    return "-".join([named.method, *words])


def metric_name(row: AnalysisRow) -> str:
    """Name a number of a run's analysis: `kept/<network>/<layer>`."""
    return "/".join(filter(None, (row.metric, row.network, row.layer)))


def mask_pairs(specs: Sequence[MaskSpec]) -> Iterator[tuple[str, MaskSpec, MaskSpec]]:
    """Yield the masks that differ in one thing only (method, seed, task, or round of iterative pruning), with what it is."""
    for what in ("method", "seed", "task"):
        groups: dict[tuple[object, ...], list[MaskSpec]] = {}
        for spec in specs:
            values: dict[str, object] = {
                "task": spec.task,
                "seed": spec.seed,
                # A method's way to allocate is part of it.
                "method": (spec.method, spec.allocation),
                "sparsity": spec.sparsity.label(),
                "rewind": spec.previous.rewind_steps if spec.previous else "",
                "round": spec.round,
            }
            del values[what]
            groups.setdefault(tuple(values.values()), []).append(spec)
        for group in groups.values():
            yield from ((what, *pair) for pair in combinations(group, 2))
    finished = set(specs)
    for spec in specs:
        before = spec.previous.mask if spec.previous else None
        while isinstance(before, MaskSpec):
            if before in finished:
                yield "round", before, spec
            before = before.previous.mask if before.previous else None


class LiveTable:
    """The table of a grid that is being made, written as runs finish: as often as that takes a small part of the time."""

    SHARE = 0.02
    """Of the time that may be spent on it."""

    def __init__(self, plan: Plan):
        self._collector = Collector(plan)
        self._finished: list[Spec] = []
        self._next = 0.0

    def add(self, outcome: Outcome) -> None:
        """Take in a run that has ended. Runs that were there before are no reason to write."""
        if outcome.status not in ("done", "kept"):
            return
        self._finished.append(outcome.spec)
        began = time.monotonic()
        if outcome.status == "done" and began >= self._next:
            with contextlib.suppress(InputError):  # whatever is wrong is said when all runs have ended
                save_tidy(self._collector.root, self.rows())
            self._next = time.monotonic() + (time.monotonic() - began) / self.SHARE

    def rows(self) -> list[TidyRow]:
        """Return the table of what is finished."""
        return self._collector.rows(self._finished)

    def end(self) -> list[TidyRow]:
        """Write the table of the finished runs and return its rows."""
        return update_table(self._collector, self._finished)


def update_table(collector: Collector, finished: Sequence[Spec]) -> list[TidyRow]:
    """Write `tidy.csv` and return its rows.

    If neither the plan nor any file behind the table has changed since it was written, it is read back instead. Runs of which a
    file is damaged are left out, with a warning.

    Raises:
        InputError: the folder cannot be written.
    """
    root, fingerprint = collector.root, _fingerprint(collector.plan, finished)
    with contextlib.suppress(OSError, ValueError, InputError):
        if read_json(root / records.TABLE_MEMORY) == [fingerprint, file_stamp(root / TIDY_FILE)]:
            return read_tidy(root / TIDY_FILE)
    rows = collector.rows(finished)
    path = save_tidy(root, rows)
    for spec, message in collector.left_out.items():
        warnings.warn(f"{spec.title()} is left out of the tables: {message}", stacklevel=2)
    if collector.left_out:
        return rows
    write_quick(root / records.TABLE_MEMORY, [fingerprint, file_stamp(path)])
    return rows


def _fingerprint(plan: Plan, finished: Sequence[Spec]) -> str:
    """Hash what determines the table: the plan, and the size and modification time of each file it is made from."""
    names = (METRICS, records.ANALYSIS, TIMINGS)
    files = {spec: [last_file(plan.root, spec), *(plan.root / spec.path / name for name in names)] for spec in finished}
    stamps = [(spec.sha256, *map(file_stamp, paths)) for spec, paths in files.items()]
    rows = [(*row[:4], row.run.sha256, row.dense.sha256) for row in plan.rows]
    order = [spec.sha256 for spec in plan.specs]
    zeros = [file_stamp(random_policy_file(plan.root, task)) for task in dict.fromkeys(spec.task for spec in finished)]
    return hashlib.sha256(
        repr((_VERSION, TidyRow._fields, order, rows, zeros, sorted(stamps, key=str))).encode()
    ).hexdigest()


def save_tidy(root: Path, rows: Sequence[TidyRow]) -> Path:
    """Write `tidy.csv`."""
    write_whole(root / TIDY_FILE, csv_bytes(TidyRow._fields, rows), checksum=False)
    return root / TIDY_FILE


def read_tidy(path: Path) -> list[TidyRow]:
    """Read a file of `save_tidy`.

    >>> rows = read_tidy(Path("results/quickstart/tidy.csv"))  # doctest: +SKIP

    Args:
        path: the file, as `lth run` and `lth report` write it.

    Returns:
        A TidyRow for each number.

    Raises:
        InputError: it is missing or unreadable.
    """
    return read_rows(path, "the tidy table", TidyRow, "`lth report` writes it again.")
