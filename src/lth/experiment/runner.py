"""All runs of a config, one after the other; what is finished is not done again."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from ..config import Config
from ..errors import TrainingError
from . import store
from .spec import DenseSpec, MaskSpec, Spec, TicketSpec, grid
from .stages import run_stage


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

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""


def run_grid(config: Config, display: Display) -> list[Outcome]:
    """Make all runs of a config that are not there yet.

    A run whose training fails does not stop the others, except those that need it.

    Raises:
        InputError: something the user has to mend; what was finished stays.
    """
    outcomes: list[Outcome] = []
    failed: set[Spec] = set()
    for spec in grid(config):
        needs: set[Spec] = set() if isinstance(spec, DenseSpec) else {spec.dense}
        if isinstance(spec, TicketSpec) and isinstance(spec.mask, MaskSpec):
            needs.add(spec.mask)
        if needs & failed:
            failed.add(spec)
            outcome = Outcome(spec, "skipped", 0.0, "what it starts from failed")
        else:
            outcome = _run_one(config, spec, display)
            if outcome.status == "failed":
                failed.add(spec)
        outcomes.append(outcome)
        display.end(outcome)
    return outcomes


def _run_one(config: Config, spec: Spec, display: Display) -> Outcome:
    started = time.perf_counter()
    if store.is_finished(config.output_dir, spec):
        return Outcome(spec, "kept", 0.0)
    display.begin(spec)
    try:
        run_stage(
            config.output_dir,
            spec,
            config.pruning.rewind_steps,
            lambda env_steps, metrics: display.step(spec, env_steps, metrics),
        )
    except TrainingError as error:
        return Outcome(spec, "failed", time.perf_counter() - started, str(error))
    return Outcome(spec, "done", time.perf_counter() - started)


class Cost(NamedTuple):
    """What a run takes; masks take no environment steps."""

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
    from ..sac.agent import init_state
    from ..training import replay_capacity, total_updates

    specs = list(grid(config))
    measured = _seconds_per_step(config.output_dir, specs)
    sizes = {}
    for task in config.tasks:
        observation_dim, action_dim = envs.dimensions(envs.make(task))
        state = jax.eval_shape(lambda o=observation_dim, a=action_dim: init_state(config.sac, jax.random.key(0), o, a))
        leaves = jax.tree.leaves(state)
        kernels = [x.size for x in jax.tree.leaves((state.actor_params, state.critic_params))]
        row = 4 * (2 * observation_dim + action_dim + 2)
        sizes[task] = (sum(int(np.prod(x.shape)) * min(x.dtype.itemsize, 4) for x in leaves), 4 * sum(kernels), row)
    found = []
    for spec in specs:
        task = spec.task if isinstance(spec, DenseSpec) else spec.dense.task
        checkpoint, mask, row = sizes[task]
        training = config.training
        start = spec.rewind_steps if isinstance(spec, TicketSpec) else 0
        trains = not isinstance(spec, MaskSpec)
        steps = training.env_steps - start if trains else 0
        size = 2 * checkpoint + row * replay_capacity(config.sac, training) if trains else mask
        seconds = None if measured is None else measured * steps
        found.append(
            Cost(
                spec,
                store.is_finished(config.output_dir, spec),
                steps,
                total_updates(training, start) if trains else 0,
                size / 1e6,
                seconds,
            )
        )
    return found


def _seconds_per_step(root: Path, specs: Sequence[Spec]) -> float | None:
    rates = []
    for spec in specs:
        if isinstance(spec, MaskSpec) or not store.is_finished(root, spec):
            continue
        total = store.read_timings(store.directory(root, spec)).get("total")
        steps = (spec.training if isinstance(spec, DenseSpec) else spec.dense.training).env_steps
        if total:
            rates.append(total / (steps - (spec.rewind_steps if isinstance(spec, TicketSpec) else 0)))
    return sorted(rates)[len(rates) // 2] if rates else None
