"""The plan: all runs of a config, and the rows of its results."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..algorithms.architecture import Spaces
from ..algorithms.controls import Control, control_named
from ..config import CONTROL_METHODS, SCHEDULED_METHODS, Config, Sparsity
from ..errors import InputError
from .build import dense_spec, mask_spec, scheduled_spec, ticket_spec
from .spec import INVERTED, ConnectivitySpec, DenseSpec, MaskSpec, Spec, TicketSpec
from .tasks import spaces_of_task


class Row(NamedTuple):
    """One row of the results for one seed, and its run."""

    method: str  # empty if a control applies to all methods
    control: str  # empty for a ticket
    sparsity: str  # empty if nothing is pruned
    rewind: str
    run: DenseSpec | TicketSpec
    dense: DenseSpec  # the baseline


def label(method: str, control: str) -> str:
    """Name a row for people: `taylor`, `random (control)`, `taylor + reinit`, `random-erk`."""
    return f"{method} (control)" if method in CONTROL_METHODS else " + ".join(filter(None, (method, control)))


def names_rewind(rewinds: Iterable[str]) -> bool:
    """Return whether titles name the rewind point: where there are several, and where the only one is not the initial weights."""
    return {*rewinds} != {"0"}


@dataclass(frozen=True)
class Plan:
    """All runs of a config. Does not depend on files on disk."""

    config: Config
    specs: tuple[Spec, ...]
    """All runs without duplicates, each after its dependencies."""
    rows: tuple[Row, ...]
    """The rows of the results, ordered by seed."""
    comparisons: tuple[ConnectivitySpec, ...]
    """The comparisons of `analysis.connectivity`."""
    broken: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Tasks that cannot be used, with the reason; their runs fail immediately."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Warnings about the tasks, shown before training starts."""

    @property
    def root(self) -> Path:
        """The output directory."""
        return self.config.output_dir

    def only(self, pattern: str) -> "Plan":
        """Return the runs whose paths match or contain a pattern, and their dependencies.

        Raises:
            InputError: no path matches.
        """
        paths = {spec: str(spec.path) for spec in self.specs}
        wanted = {spec for spec, path in paths.items() if fnmatchcase(path, pattern) or pattern in path}
        if not wanted:
            raise InputError(
                f"--only '{pattern}' matches no run. Paths look like {paths[self.specs[-1]]!r}; list them with `lth status --paths`"
            )
        for spec in reversed(self.specs):
            if spec in wanted:
                wanted.update(spec.needs())
        return Plan(self.config, tuple(spec for spec in self.specs if spec in wanted), (), (), self.broken, self.notes)


def plan(
    config: Config,
    spaces: Callable[[str], Spaces] | None = None,
    broken: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Enumerate the runs of a config. Starts no simulator if the output directory records the tasks.

    Args:
        config: the experiment, with `training.backend` from `backend.recorded` or `backend.resolve_backend`.
        spaces: returns the spaces of a task, for controls that change the sizes of networks.
        broken: tasks that cannot be used, with the reason.
        notes: warnings about the tasks.

    Raises:
        InputError: a control does not fit the algorithm.
    """
    specs: dict[Spec, None] = {}
    rows: list[Row] = []
    comparisons: list[ConnectivitySpec] = []

    def add(spec: Spec) -> None:
        if spec not in specs:
            for needed in spec.needs():
                add(needed)
            specs[spec] = None

    spaces = functools.cache(spaces or functools.partial(spaces_of_task, config.output_dir))
    for task in config.tasks:
        for seed in config.seeds:
            dense = dense_spec(config, task, seed)
            add(dense)
            compared: list[ConnectivitySpec] = []
            for rewind in config.pruning.rewind_steps:
                cell = _Cell(config, dense, rewind, spaces)
                found = list(cell.rows())
                compared += cell.comparisons(found)
                rows += found
                for row in found:
                    add(row.run)
            for comparison in compared:
                add(comparison)
            comparisons += compared
    return Plan(config, tuple(specs), tuple(rows), tuple(comparisons), broken or {}, tuple(notes))


def sparsity_paths(config: Config) -> list[list[Sparsity]]:
    """Return, for each target, the sparsities after each round: after k rounds of rate p, 1 - (1 - p)^k."""
    pruning = config.pruning
    rounds = range(1, pruning.rounds + 1)
    if pruning.rate is not None:
        reached = [1.0 - (1.0 - pruning.rate) ** k for k in rounds]
        return [[Sparsity.alike(s, config.agent_config.NETWORKS) for s in reached]]

    def after(target: float, k: int) -> float:
        return target if k == pruning.rounds else 1.0 - (1.0 - target) ** (k / pruning.rounds)

    return [
        [Sparsity(**{name: after(target, k) for name, target in s.networks.items()}) for k in rounds]
        for s in pruning.sparsity
    ]


class _Cell:
    """One task, seed and rewind point."""

    def __init__(
        self, config: Config, dense: DenseSpec, rewind: int | Literal["none"], spaces: Callable[[str], Spaces]
    ):
        self.config, self.pruning, self.dense, self.rewind, self.spaces = config, config.pruning, dense, rewind, spaces
        sources = [source for source in self.pruning.transfer_from if source != dense.task]
        self.sources = [dense_spec(config, source, dense.seed) for source in sources]
        self.paths = sparsity_paths(config)
        prefixes = {(path[i].label(), tuple(path[: i + 1])) for path in self.paths for i in range(len(path))}
        reached = Counter(label for label, _ in prefixes)
        self.twice = {label for label, count in reached.items() if count > 1}
        """Sparsities that are reached on several paths, with different earlier rounds."""
        self.controls = {name: control_named(name) for name in self.pruning.controls}

    def rows(self) -> Iterator[Row]:
        for name in self._controls("rewind"):
            yield self._row("", self._ticket(None, name), name)
        for path in self.paths:
            for method in self.pruning.methods:
                yield from self._method_rows(method, path)
            for name, control in self._controls("sparsity").items():
                yield self._row("", self._control_run("", control, name, path), name, path[-1])

    def _controls(self, each: str) -> dict[str, Control]:
        return {name: control for name, control in self.controls.items() if control.each == each}

    def _row(
        self, method: str, run: DenseSpec | TicketSpec, control: str = "", sparsity: Sparsity | None = None
    ) -> Row:
        return Row(method, control, sparsity.label() if sparsity else "", str(self.rewind), run, self.dense)

    def _method_rows(self, method: str, path: list[Sparsity]) -> Iterator[Row]:
        """Yield a method's tickets, one per round, its controls, and its masks from other tasks."""
        if method in SCHEDULED_METHODS:
            ticket = scheduled_spec(self.config, self.dense, method, path[-1], self.rewind)
            yield self._row(method, ticket, sparsity=path[-1])
            return
        chain = self._masks(self.dense, method, path)
        for i, mask in enumerate(chain, 1):
            row = self._row(method, self._ticket(mask), sparsity=mask.sparsity)
            # 0.9 on the path to 0.99 is a different ticket than the target 0.9.
            between = i < len(chain) and mask.sparsity.label() in self.twice
            yield row._replace(sparsity=f"{row.sparsity} (round {i} of {len(chain)})") if between else row
        if method not in CONTROL_METHODS:
            for name, control in self._controls("method").items():
                yield self._row(method, self._control_run(method, control, name, path), name, path[-1])
        for source in self.sources:
            mask = self._masks(source, method, path)[-1]
            for weights in ("target", "source"):
                if self.pruning.transfer_weights in (weights, "both"):
                    theirs = source if weights == "source" else None
                    mismatch = self.pruning.transfer_mismatch
                    run = self._ticket(mask, weights=theirs, mismatch=mismatch)
                    label = f"from {source.task}{' with its weights' if theirs else ''}"
                    yield self._row(method, run, label, mask.sparsity)

    def _ticket(self, mask: MaskSpec | None, control: str = "", **more: Any) -> TicketSpec:
        return ticket_spec(self.config, self.dense, mask, self.rewind, control, **more)

    def _masks(self, dense: DenseSpec, method: str, path: list[Sparsity]) -> list[MaskSpec]:
        """Return the mask of each round, made from the ticket of the previous round. Control methods use one round."""
        if method in CONTROL_METHODS:
            return [mask_spec(self.config, dense, method, path[-1])]
        masks: list[MaskSpec] = []
        for sparsity in path:
            previous = ticket_spec(self.config, dense, masks[-1], self.rewind) if masks else None
            masks.append(mask_spec(self.config, dense, method, sparsity, previous))
        return masks

    def _control_run(self, method: str, control: Control, name: str, path: list[Sparsity]) -> DenseSpec | TicketSpec:
        """Return the run of a control for a method or a sparsity."""
        sparsity = path[-1]
        if control.agent:
            exclude = self.pruning.exclude
            agent = control.agent(self.dense.agent, self.spaces(self.dense.task), sparsity.networks, exclude)
            # Trained here even if the dense agent was adopted.
            training = self.dense.training.model_copy(update={"adopted": None})
            update = {"agent": agent, "training": training, "role": f"{name} {sparsity.label()}"}
            return self.dense.model_copy(update=update)
        mask: MaskSpec | None = None
        if control.mask == "random-erk":
            mask = mask_spec(self.config, self.dense, "random", sparsity, allocation="erk")
        elif control.mask != "none":
            scored_by = INVERTED + method if control.mask == "inverted" else method
            mask = self._masks(self.dense, scored_by, path)[-1]
        return self._ticket(mask, name if control.start or control.fresh_noise else "")

    def comparisons(self, rows: list[Row]) -> Iterator[ConnectivitySpec]:
        """Yield the comparisons of `analysis.connectivity`: between tickets, without controls."""
        asked, dense = self.config.analysis, self.dense

        def compare(kind: str, one: DenseSpec | TicketSpec, other: TicketSpec) -> ConnectivitySpec:
            sizes = {"points": asked.connectivity_points, "episodes": asked.connectivity_episodes}
            return ConnectivitySpec(dense=dense, kind=kind, one=one, other=other, **sizes)  # type: ignore[arg-type]

        groups: dict[str, list[tuple[Row, TicketSpec]]] = {}
        for row in rows if asked.connectivity else ():
            if not row.control and isinstance(row.run, TicketSpec):
                groups.setdefault(row.sparsity, []).append((row, row.run))
        if groups and "noise" in asked.connectivity:
            yield compare("noise", dense, self._ticket(None, "retrained"))
        for found in groups.values():
            for i, (row, ticket) in enumerate(found):
                mask = ticket.mask
                if "parent" in asked.connectivity:
                    yield compare("parent", dense, ticket)
                if "rounds" in asked.connectivity and isinstance(mask, MaskSpec) and mask.previous:
                    yield compare("rounds", mask.previous, ticket)
                if "noise" in asked.connectivity and row.method not in CONTROL_METHODS:
                    yield compare("noise", ticket, ticket.model_copy(update={"control": "retrained"}))
                if "methods" in asked.connectivity:
                    for _, before in found[:i]:
                        yield compare("methods", before, ticket)
