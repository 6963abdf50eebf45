"""All runs of a config, side by side, each after those that it needs; finished runs are skipped."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import InputError
from . import journal
from .attempt import is_made
from .plan import Plan
from .spec import DenseSpec, Spec
from .status import Display, Outcome
from .trainer import RunOptions, options_of
from .workers import LocalPool

if TYPE_CHECKING:
    from .cluster import RayPool

MAX_KILLS = 50
"""A run whose process is killed so often without having come further is given up."""


def run_plan(
    plan: Plan, display: Display, whole: bool = True, ended: Callable[[Outcome], None] = lambda outcome: None
) -> list[Outcome]:
    """Make all runs of a plan that are not there yet, `config.workers` at a time.

    A run whose training fails is tried again as often as `config.retries` says, and then does not stop the others, except
    those that need it. With `whole` the plan is all of a config, and the output directory is locked for this command alone.
    `ended` is called with the outcome of each run: first of those that were there before.

    Raises:
        InputError: the folder cannot be written, or another command is at work in it; what was finished stays.
    """
    with journal.locked(plan.root / journal.LOCK, shared=not whole) as have:
        if not have:
            raise InputError(
                f"another `lth run` is at work in {plan.root}. Wait for it, or give this one an output_dir of its own. "
                "(Several may share a folder if each is given its part by --only.)"
            )
        if whole:
            for partial in plan.root.glob(".*.partial"):  # of a command that was killed
                partial.unlink(missing_ok=True)
        return _run_all(plan, options_of(plan.config), display, ended)


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
            made_before = is_made(plan.root, spec, options)
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
            if news:  # not after every step: to compare hundreds of specs takes a while
                news = False
                for spec in [spec for spec in waiting if lost & set(spec.needs())]:
                    waiting.remove(spec)
                    end(Outcome(spec, "skipped", 0.0, "a run that it depends on failed"))
                    news = True
                for spec in [spec for spec in waiting if made.issuperset(spec.needs())][: pool.free]:
                    waiting.remove(spec)
                    running.add(spec)
                    display.begin(spec)
                    pool.start(spec)
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
                if event.kind == "failed" and "traceback" not in event.data:  # its process could not say so itself
                    line = {"time": journal.now(), "message": message, "traceback": ""}
                    journal.append_line(plan.root / event.spec.path / journal.FAILURES, line)
                if event.kind == "unwritable":
                    raise InputError(f"{event.spec.title()}: {message}")
                if event.kind == "unusable":  # it would be again
                    end(Outcome(event.spec, "failed", event.data["seconds"], message))
                    continue
                count, most = (kills, MAX_KILLS) if event.kind == "killed" else (failures, plan.config.retries)
                count[event.spec] += 1
                if count[event.spec] > most:
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
