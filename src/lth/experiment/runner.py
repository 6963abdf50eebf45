"""All runs of a config, side by side, each after those that it needs; what is finished is not done again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from ..config import Config
from ..errors import InputError
from . import store
from .spec import DenseSpec, MaskSpec, Spec, TicketSpec, grid, needs, run_path, training_steps
from .stages import How, how_of, is_made
from .workers import Event, LocalPool

MOST_KILLS = 50
"""A run whose process is killed so often without having come further is given up."""


class Outcome(NamedTuple):
    """How one run came out."""

    spec: Spec
    status: Literal["done", "kept", "failed", "skipped"]  # kept: it was there already; skipped: what it needs failed
    seconds: float
    message: str = ""


class Display(Protocol):
    """What is told of a grid while it runs."""

    def begin(self, spec: Spec) -> None:
        """A run starts."""

    def step(self, spec: Spec, env_steps: int, metrics: dict[str, float]) -> None:
        """A run has come to an environment step."""

    def note(self, spec: Spec, text: str) -> None:
        """Something happened that does not end the run: it is tried again."""

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""


class Pool(Protocol):
    """Where runs are made."""

    @property
    def free(self) -> int:
        """How many runs could start now."""

    def start(self, spec: Spec) -> None:
        """Start a run."""

    def events(self) -> Iterator[Event]:
        """Wait a moment for news, and yield them."""

    def close(self) -> None:
        """Stop."""


def chosen(config: Config, only: str | None = None) -> list[Spec]:
    """Return the runs of a config; with `only` those whose path is so, or holds it, and all that they need.

    Raises:
        InputError: no run is so.
    """
    specs = grid(config)
    if only is None:
        return specs
    paths = {spec: str(run_path(spec)) for spec in specs}
    wanted = {spec for spec in specs if fnmatchcase(paths[spec], only) or only in paths[spec]}
    if not wanted:
        raise InputError(
            f"--only {only}: no run is so. Their paths are like {paths[specs[-1]]!r}; `lth status` lists them"
        )
    for spec in reversed(specs):
        if spec in wanted:
            wanted.update(needs(spec))
    return [spec for spec in specs if spec in wanted]


def run_grid(config: Config, display: Display, only: str | None = None) -> list[Outcome]:
    """Make all runs of a config that are not there yet, `config.workers` at a time.

    A run whose training fails is tried again as often as `config.retries` says, and then does not stop the others, except
    those that need it.

    Raises:
        InputError: something the user has to mend; what was finished stays.
    """
    specs, how = chosen(config, only), how_of(config)
    lock = config.output_dir / store.LOCK
    with store.locked(lock, shared=only is not None) as have:
        if not have:
            raise InputError(
                f"another `lth run` is at work in {config.output_dir}. Wait for it, or give this one an output_dir of its own. "
                "(Several may share a folder if each is given its part by --only.)"
            )
        if only is None:
            for partial in config.output_dir.glob(".*.partial"):  # of a command that was killed
                partial.unlink(missing_ok=True)
        return _run_all(config, specs, how, display)


def _run_all(config: Config, specs: Sequence[Spec], how: How, display: Display) -> list[Outcome]:
    outcomes: list[Outcome] = []
    made: set[Spec] = set()
    lost: set[Spec] = set()

    def end(outcome: Outcome) -> None:
        outcomes.append(outcome)
        (made if outcome.status in ("done", "kept") else lost).add(outcome.spec)
        display.end(outcome)

    waiting = []
    for spec in specs:
        if is_made(config.output_dir, spec, how):
            store.tidy(store.directory(config.output_dir, spec))
            end(Outcome(spec, "kept", 0.0))
        else:
            waiting.append(spec)
    if not waiting:
        return outcomes
    failures: Counter[Spec] = Counter()
    kills: Counter[Spec] = Counter()
    furthest: Counter[Spec] = Counter()
    running: set[Spec] = set()
    pool: Pool = _pool(config, how)
    try:
        news = True
        while waiting or running:
            if news:  # not after every step: to compare hundreds of specs takes a while
                news = False
                for spec in [spec for spec in waiting if lost & set(needs(spec))]:
                    waiting.remove(spec)
                    end(Outcome(spec, "skipped", 0.0, "what it starts from failed"))
                    news = True
                for spec in [spec for spec in waiting if made.issuperset(needs(spec))][: pool.free]:
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
                    run = store.directory(config.output_dir, event.spec)
                    store.append_line(run / store.FAILURES, {"time": store.now(), "message": message, "traceback": ""})
                if event.kind == "unusable":
                    raise InputError(f"{event.spec.title()}: {message}")
                count, most = (kills, MOST_KILLS) if event.kind == "killed" else (failures, config.retries)
                count[event.spec] += 1
                if count[event.spec] > most:
                    end(Outcome(event.spec, "failed", event.data.get("seconds", 0.0), message))
                else:
                    waiting.insert(0, event.spec)
                    display.note(event.spec, f"{message}; it is started again")
    finally:
        pool.close()
    return outcomes


def _pool(config: Config, how: How) -> Pool:
    if config.executor == "ray":
        from .cluster import RayPool

        return RayPool(config, how)
    return LocalPool(config, how)


class Cost(NamedTuple):
    """What a run takes; masks and comparisons train for no environment steps."""

    spec: Spec
    finished: bool
    env_steps: int
    updates: int
    megabytes: float
    seconds: float | None  # from finished runs of the same settings, if there are any


def costs(config: Config) -> list[Cost]:
    """Estimate what each run of a config takes, without running any."""
    import jax
    import numpy as np

    from .. import envs
    from ..training import replay_capacity, total_updates

    specs = grid(config)
    measured = _seconds_per_step(config.output_dir, specs)
    sizes = {}
    for task in dict.fromkeys((*config.tasks, *config.pruning.transfer_from)):
        spaces = envs.task_spaces(task)
        algorithm = config.agent_config.build(spaces, task)
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        leaves = jax.tree.leaves(state)
        kernels = [x.size for x in jax.tree.leaves(state.params)]
        row = 4 * (2 * spaces.observation_dim + spaces.action_width + 2)
        sizes[task] = (sum(int(np.prod(x.shape)) * min(x.dtype.itemsize, 4) for x in leaves), 4 * sum(kernels), row)
    found = []
    for spec in specs:
        task = spec.task if isinstance(spec, DenseSpec) else spec.dense.task
        checkpoint, mask, row = sizes[task]
        training = config.training
        start = spec.start if isinstance(spec, TicketSpec) else 0
        steps = training_steps(spec)
        size = 2 * checkpoint + row * replay_capacity(config.agent_config, training) if steps else 0
        size = mask if isinstance(spec, MaskSpec) else size
        seconds = None if measured is None else measured * steps
        found.append(
            Cost(
                spec,
                store.is_finished(config.output_dir, spec),
                steps,
                total_updates(training, start) if steps else 0,
                size / 1e6,
                seconds,
            )
        )
    return found


def _seconds_per_step(root: Path, specs: Sequence[Spec]) -> float | None:
    rates = []
    for spec in specs:
        steps = training_steps(spec)
        if not steps or not store.is_finished(root, spec):
            continue
        if total := store.read_timings(store.directory(root, spec)).get("total"):
            rates.append(total / steps)
    return sorted(rates)[len(rates) // 2] if rates else None
