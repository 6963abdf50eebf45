"""What the command line does, from Python: `lth.run` and `lth.report`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .algorithms.architecture import Spaces
from .config import Config, check_output_dir, load_config, parse_config
from .errors import InputError, TrainingError
from .experiment.backend import record_batch, recorded, resolve_backend, resolve_batch
from .experiment.build import allocation_of
from .experiment.last_run import record_config
from .experiment.plan import Plan, plan
from .experiment.question import declare_question
from .experiment.spec import Spec
from .experiment.status import Display, Outcome, State, states
from .experiment.tasks import check_tasks, record_tasks

if TYPE_CHECKING:
    from .experiment.costs import Estimate
    from .experiment.tidy import TidyRow
    from .reporting.answer import Answer
    from .reporting.power import Needed
    from .reporting.views import TableRow


class Results(NamedTuple):
    """What `run` made."""

    outcomes: list[Outcome]
    """The outcome of each run: `spec`, `status` (done, kept, failed, skipped), `seconds`, `message`."""
    tidy: "list[TidyRow]"
    """All that the finished runs measured, as in tidy.csv; empty with `only`."""
    table: "list[TableRow]"
    """The rows of table.csv: each method, control and sparsity beside the dense agents, over seeds; empty with `only`, or while no
    ticket is finished."""
    files: list[Path]
    """The files that were written into the output directory."""

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed, or were skipped because a run that they depend on failed."""
        return [outcome for outcome in self.outcomes if outcome.status in ("failed", "skipped")]


def read_config(config: Config | str | Path | Mapping[str, Any] | None = None, *overrides: str) -> Config:
    """Return a config from a file, an output directory (its last run's), nested dicts, or as it is; None is `config.yaml` here.

    Raises:
        InputError: `config` or an override is of another type; a key is unknown or a value cannot be used; `output_dir` is not a
            folder; or overrides are given for something else than a file.
    """
    for override in overrides:
        if not isinstance(override, str):
            raise InputError(f"an override is {override!r}, but must be 'key=value'; pass several as several arguments")
    if config is None or isinstance(config, str | Path):
        return load_config(None if config is None else Path(config), overrides)
    if not isinstance(config, Config | Mapping):
        raise InputError(
            f"the config is of type {type(config).__name__}, but must be a file, an output directory, nested dicts or a Config"
        )
    if overrides:
        raise InputError("overrides such as 'seeds=[0, 1]' go with a config file; change the config itself instead")
    if not isinstance(config, Config):
        return parse_config(dict(config))
    check_output_dir(config)
    return config


def check_config(config: Config) -> tuple[Plan, dict[str, Spaces]]:
    """Check a config as far as that is possible before anything is trained, and write nothing.

    Returns:
        Its plan, with the backend that its output directory has settled on, if any; and the spaces of its tasks. Tasks that
        cannot be trained on are in `Plan.broken`.

    Raises:
        InputError: a task, a layer's name or a schedule cannot be used; or a package that the config needs is not installed.
    """
    from .experiment.costs import bytes_in_batch, check_memory
    from .experiment.masking import named_layers
    from .experiment.start import check_schedules
    from .experiment.trackers import trackers_of

    trackers_of(config)
    named_layers(config.agent_config, config.pruning.exclude, allocation_of(config))
    spaces, broken, notes = check_tasks(config)
    usable = {task: found for task, found in spaces.items() if task not in broken}
    check_memory(config, usable)
    sized = resolve_batch(config, bytes_in_batch(config, usable))
    found = plan(sized if sized.batch_size else recorded(config), spaces.__getitem__, broken, notes)
    check_schedules(found)
    return found, spaces


def prepare(config: Config) -> tuple[Plan, str]:
    """Check a config and resolve its backend; returns its plan, and a line that says how tickets are computed.

    Raises:
        InputError: as `check_config`; or `training.backend=native`, and there is no native kernel.
    """
    found, spaces = check_config(config)
    resolved, line = resolve_backend(found.config if config.batch_size else config)
    record_batch(config, resolved)
    record_tasks(config.output_dir, {task: known for task, known in spaces.items() if task not in found.broken})
    record_config(config)
    return found if resolved == found.config else plan(resolved, spaces.__getitem__, found.broken, found.notes), line


def run(
    config: Config | str | Path | Mapping[str, Any] | None = None,
    *overrides: str,
    only: str | None = None,
    display: Display | None = None,
) -> Results:
    """Train dense agents, make masks, train tickets, and write the tables: `lth run` from Python. Finished runs are skipped.

    >>> results = run("config.yaml", "seeds=[0, 1]")  # doctest: +SKIP
    >>> [(row.method, row.sparsity, row.ticket_return) for row in results.table]  # doctest: +SKIP

    Args:
        config: a file, an output directory, nested dicts, or a Config; None is `config.yaml` of the working directory.
        overrides: `key=value`, on top of a file.
        only: make the runs whose path matches this pattern or contains it, and those that they need; write no tables.
        display: what is told of the runs while they are made; nothing if None.

    Returns:
        `outcomes` (how each run ended), `tidy` (all measurements), `table` (the rows of table.csv), `files`, and `failed`.

    Raises:
        InputError: something has to be mended first; what was finished stays. Runs that fail do not raise: `Results.failed`.
    """
    found, _ = prepare(read_config(config, *overrides))
    return run_plan(found, only, display)


def run_plan(planned: Plan, only: str | None = None, display: Display | None = None) -> Results:
    """Make the runs of a plan, and write the tables."""
    from .experiment import runner
    from .experiment.tidy import TIDY_FILE, LiveTable
    from .reporting.figures import save_plot
    from .reporting.scores import Runs
    from .reporting.views import run_rows, save_tables, summarize

    declare_question(planned.config)
    if only is not None:
        return Results(runner.run_plan(planned.only(only), display or Display(), whole=False), [], [], [])
    table = LiveTable(planned)
    outcomes = runner.run_plan(planned, display or Display(), ended=table.add)
    rows = table.end()
    results = run_rows(rows)
    if not results:
        return Results(outcomes, rows, [], [planned.root / TIDY_FILE])
    files = [planned.root / TIDY_FILE, *save_tables(planned.root, rows), *save_plot(planned.root, Runs(rows))]
    return Results(outcomes, rows, summarize(results), files)


def report(config: Config | str | Path | Mapping[str, Any] | None = None, *overrides: str) -> Path:
    """Write `report.html` and `tidy.csv` into the output directory, as `lth report` does.

    >>> report("config.yaml", "seeds=[0, 1]")  # doctest: +SKIP
    PosixPath('results/quickstart/report.html')

    Args:
        config: a file, an output directory, nested dicts, or a Config; None is `config.yaml` of the working directory.
        overrides: `key=value`, on top of a file.

    Returns:
        The path of the page.

    Raises:
        InputError: no ticket is finished, or a file is damaged.
    """
    from .experiment.tidy import Collector, update_table
    from .files import write_whole
    from .reporting.page import REPORT_FILE, page

    found = planned_runs(read_config(config, *overrides))
    finished = [spec for spec in found.specs if _is_whole(found.root, spec)]
    there = set(finished)
    if not any({row.run, row.dense} <= there for row in found.rows):
        raise InputError(
            f"there is nothing to report: no ticket of this config is finished in {found.root}. `lth run` with the same config "
            "makes them, `lth status` says how far it is."
        )
    collector = Collector(found)
    rows = update_table(collector, finished)
    path = found.root / REPORT_FILE
    readable = [spec for spec in finished if spec not in collector.left_out]
    write_whole(path, page(found, rows, readable).encode(), checksum=False)
    return path


def _is_whole(root: Path, spec: Spec) -> bool:
    """Return whether a run is finished; warn of one whose files are damaged."""
    from .experiment.journal import is_finished

    try:
        return is_finished(root, spec)
    except InputError as error:
        warnings.warn(f"{spec.title()} is left out: {error}", stacklevel=2)
        return False


def planned_runs(config: Config) -> Plan:
    """Return the plan of a config as its output directory knows it; nothing is built, checked or written."""
    return plan(recorded(config))


def dry_run(config: Config, only: str | None = None) -> "tuple[Plan, Estimate]":
    """Return the plan of a config, or with `only` a part of it as in `run`, and what its runs would cost; nothing is written.

    Raises:
        InputError: the config cannot be used, or `only` matches no run.
        TrainingError: a task cannot be trained on.
    """
    from .experiment.costs import estimate

    found, spaces = check_config(config)
    if found.broken:
        raise TrainingError("; ".join(found.broken.values()))
    part = found if only is None else found.only(only)
    return part, estimate(part, spaces)


def batch_summary(asked: Config, planned: Plan, estimate: "Estimate") -> str:
    """Say in how many batches the runs of a plan that are not finished train, and how much memory a batch takes at most."""
    from .experiment.batches import planned_batches
    from .experiment.costs import bytes_in_batch
    from .experiment.tasks import spaces_of_task

    size = planned.config.batch_size
    assert size
    batches = planned_batches([one.spec for one in estimate.runs if not one.finished], planned)
    runs = sum(len(batch) for batch in batches)
    spaces = {task: spaces_of_task(planned.root, task) for task in planned.config.tasks}
    takes = size * bytes_in_batch(planned.config, spaces) / 1e9
    cut = f"; batch={asked.batch_size} does not fit into the memory" if size != asked.batch_size else ""
    each = f"each with {size} places and up to {takes * 1e3:,.0f} MB of memory"
    return f"Batches: {runs} runs train in {len(batches)} batches, {each}{cut}."


class StudyPlan(NamedTuple):
    """What a study takes."""

    needed: "list[Needed]"
    """The seeds of each test."""
    seconds_a_seed: float
    """Of all runs of one seed, one at a time."""
    megabytes_a_seed: float
    source: str
    """What the times are estimated from."""


def plan_study(config: Config, effect: float = 0.2, power: float = 0.8, pilot: Path | None = None) -> StudyPlan:
    """Return how many seeds a config's tests take, and what a seed costs: `lth plan` from Python. Nothing is written.

    Args:
        config: the study.
        effect: the difference of scores that the primary question is to find; 1 is what dense agents gain over a random policy.
        power: the probability of finding it, in (0, 1).
        pilot: an output directory with finished runs, from which the spread over seeds is taken; None: the config's own.

    Raises:
        InputError: effect or power cannot be used, there are no pilot runs in `pilot`, or the config cannot be used.
        TrainingError: a task cannot be trained on.
    """
    from .experiment.tidy import TIDY_FILE
    from .reporting.power import seeds_needed
    from .reporting.scores import Runs

    if not 0 < effect <= 10:
        raise InputError(f"--effect is {effect:g}; give a share of dense above 0, such as 0.2")
    if not 0 < power < 1:
        raise InputError(f"--power is {power:g}; give a probability between 0 and 1, such as 0.8")
    one = config.model_copy(update={"seeds": config.seeds[:1]})
    _, estimated = dry_run(one)
    folder = config.output_dir if pilot is None else pilot
    there = pilot is not None or (folder / TIDY_FILE).exists()
    runs = Runs(last_table(folder)) if there else None
    return StudyPlan(
        seeds_needed(runs, config.primary, config.report.margin, effect, power),
        sum(run.seconds for run in estimated.runs),
        sum(run.cost.megabytes for run in estimated.runs),
        estimated.times.source,
    )


def conclude(config: Config, tidy: "list[TidyRow]") -> "Answer":
    """Return the answer that a report of these results begins with."""
    from .experiment.question import declared_question
    from .reporting.answer import answer
    from .reporting.families import families
    from .reporting.scores import Runs

    runs = Runs(tidy)
    tested = families(runs, config.primary, config.report.margin)
    return answer(runs, tested, declared_question(config.output_dir, config))


def last_table(root: Path) -> "list[TidyRow]":
    """Return the rows of `tidy.csv` in an output directory: all that its last `lth run` measured. Runs and writes nothing.

    Raises:
        InputError: there is no such file, because no ticket is finished, or it is damaged.
    """
    from .experiment.tidy import TIDY_FILE, read_tidy

    if not (root / TIDY_FILE).exists():
        raise InputError(f"{root} has no {TIDY_FILE}, which `lth run` writes when its first run is finished")
    return read_tidy(root / TIDY_FILE)


def status(config: Config | str | Path | Mapping[str, Any] | None = None, *overrides: str) -> list[State]:
    """Return the state of every run of a config: `spec`, `state`, `env_steps`, `total_steps`, `seconds`, `megabytes`."""
    return states(planned_runs(read_config(config, *overrides)))
