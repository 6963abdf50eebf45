"""Execute all runs of a config in parallel, each after its dependencies. Finished runs are skipped."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import InputError
from . import journal
from .batches import jobs_of
from .options import RunOptions, options_of
from .plan import Plan
from .random_policy import measure_in_a_process, random_policy_file
from .spec import DenseSpec, Spec
from .status import Display, Outcome
from .workers import LocalPool

if TYPE_CHECKING:
    from .cluster import RayPool

MAX_KILLS = 50
"""The number of kills without progress after which a run fails."""


def run_plan(
    plan: Plan, display: Display, whole: bool = True, ended: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Execute all unfinished runs of a plan, `config.workers` at a time.

    A failed run is retried up to `config.retries` times. If it still fails, only the runs that depend on it are skipped. With
    `whole` the plan covers all of a config, and the output directory is locked exclusively. `ended` is called with the outcome of
    each run, first for runs that were already finished.

    Raises:
        InputError: the folder is not writable, or another command uses it. Finished runs are kept.
    """
    with journal.locked(plan.root / journal.LOCK, shared=not whole) as have:
        if not have:
            raise InputError(
                f"another `lth run` is using '{plan.root}'. Wait for it to finish, or set another output_dir. "
                "(Several commands may share a folder if each uses --only.)"
            )
        if whole:
            for partial in plan.root.glob(".*.partial"):  # left by a killed command
                partial.unlink(missing_ok=True)
        options = options_of(plan.config)
        outcomes = _run_all(plan, options, display, ended)
        if all(outcome.status in ("done", "kept") for outcome in outcomes):
            # Runs measure it beside their training, so it is only missing here if all were finished before.
            for task in dict.fromkeys(spec.task for spec in plan.specs):
                if not random_policy_file(plan.root, task).exists():
                    measure_in_a_process(plan.root, task, options.random_episodes, options.step_timeout)
        return outcomes


def _run_all(plan: Plan, options: RunOptions, display: Display, ended: Callable[[Outcome], None]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    made: set[Spec] = set()
    lost: set[Spec] = set()

    def end(outcome: Outcome) -> None:
        outcomes.append(outcome)
        (made if outcome.status in ("done", "kept") else lost).add(outcome.spec)
        display.end(outcome)
        ended(outcome)

    waiting = []
    for spec in plan.specs:
        try:
            made_before = journal.is_made(plan.root, spec, options.rewind_points)
        except InputError as error:
            end(Outcome(spec, "failed", 0.0, str(error)))
            continue
        if made_before:
            journal.remove_leftovers(plan.root / spec.path)
            end(Outcome(spec, "kept", journal.read_timings(plan.root / spec.path).get("total", 0.0)))
        elif spec.task in plan.broken and isinstance(spec, DenseSpec):
            end(Outcome(spec, "failed", 0.0, plan.broken[spec.task]))
        else:
            waiting.append(spec)
    if not waiting:
        return outcomes
    failures: Counter[Spec] = Counter()
    kills: Counter[Spec] = Counter()
    furthest: Counter[Spec] = Counter()
    running: set[Spec] = set()
    pool = _pool(plan, options)
    try:
        news = True
        while waiting or running:
            if news:  # not after every step, because comparing hundreds of specs takes time
                news = False
                for spec in [spec for spec in waiting if lost & set(spec.needs())]:
                    waiting.remove(spec)
                    end(Outcome(spec, "skipped", 0.0, "a run that it depends on failed"))
                    news = True
                ready = [spec for spec in waiting if made.issuperset(spec.needs())]
                for job in jobs_of(ready, plan, idle=not running)[: pool.free]:
                    for spec in job:
                        waiting.remove(spec)
                        running.add(spec)
                        display.begin(spec)
                    pool.start(job)
            if not running:
                continue
            for event in pool.events():
                if event.kind == "step":
                    if event.data["env_steps"] > furthest[event.spec]:
                        furthest[event.spec] = event.data["env_steps"]
                        kills[event.spec] = 0
                    display.step(event.spec, event.data["env_steps"], event.data["metrics"])
                    continue
                news = True
                running.discard(event.spec)
                if event.kind == "done":
                    end(Outcome(event.spec, "done", event.data["seconds"]))
                    continue
                message = event.data["message"]
                if event.kind == "unwritable":
                    raise InputError(f"{event.spec.title()}: {message}")
                ends = event.kind == "unusable"  # a retry would fail too
                if not ends:
                    count, most = (kills, MAX_KILLS) if event.kind == "killed" else (failures, plan.config.retries)
                    count[event.spec] += 1
                    ends = count[event.spec] > most
                if "traceback" not in event.data and (
                    ends or event.kind == "failed"
                ):  # the attempt has not recorded it
                    line = {"time": journal.now(), "message": message, "traceback": ""}
                    journal.append_line(plan.root / event.spec.path / journal.FAILURES, line)
                if ends:
                    end(Outcome(event.spec, "failed", event.data.get("seconds", 0.0), message))
                else:
                    waiting.insert(0, event.spec)
                    display.note(event.spec, f"{message}; retrying")
    finally:
        pool.close()
    return outcomes


def _pool(plan: Plan, options: RunOptions) -> "LocalPool | RayPool":
    if plan.config.executor == "ray":
        from .cluster import RayPool

        return RayPool(plan.config, options)
    return LocalPool(plan.config, options)
