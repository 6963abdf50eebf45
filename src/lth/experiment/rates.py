"""How long runs take: as finished runs of the same kind took; before there are any, from rates that were measured once.

Imports no JAX.
"""

import contextlib
import functools
import statistics
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

from ..algorithms.architecture import AgentConfig, Spaces
from ..envs.suites import SUITES
from ..errors import InputError
from .journal import is_finished, read_timings
from .plan import Plan
from .spec import ConnectivitySpec, DenseSpec, MaskSpec, Spec, TicketSpec, takes_gradients

# Measured by benchmarks/rates.py in processor time of one thread.
PROCESSOR = "one core of an AMD EPYC (Zen 4)"
UPDATE_MS = {"dense": 0.36, "native": 0.14}
"""Milliseconds of an update besides its arithmetic, by backend."""
XLA_GFLOPS = 83.0
"""GFLOP/s of an update on XLA, which computes with all weights."""
NATIVE_GFLOPS = {0.0: 94.0, 0.5: 125.0, 0.8: 356.0, 0.9: 601.0, 0.95: 943.0, 0.98: 1716.0, 0.99: 2944.0}
"""The dense agent's GFLOP over the seconds that the native kernel takes for a ticket's update, by sparsity."""
STEP_US = {"metaworld": 128.0, "mujoco": 146.0, "classic": 12.0}
"""Microseconds of one step of an environment."""
LOOP_US = 110.0
"""Microseconds of one step of the training loop besides: acting, drawing random numbers, storing the transition."""
COMPILE_SECONDS = 1.4
"""Seconds until the first update of a run has returned."""


class Kind(NamedTuple):
    """What decides how long a run takes. Runs of one kind take equally long."""

    stage: str  # dense, mask, ticket, connectivity
    task: str
    backend: str  # native, dense (XLA) or batched; of a mask empty
    sparsity: str  # of a mask empty: its method decides
    method: str  # of a mask, a schedule, or a comparison; of a smaller dense agent its role
    env_steps: int


class Times(NamedTuple):
    """How long the runs of a plan take."""

    seconds: dict[Kind, float]
    """Of one run, by its kind, one run at a time on one core."""
    measured: int
    """How many finished runs of the folder they come from; 0: none."""
    source: str
    """Where the rates come from, as part of a sentence: `from 12 finished runs in this folder`."""

    def of(self, spec: Spec) -> float:
        """Return the seconds that a run of the plan takes."""
        return self.seconds[kind_of(spec)]


def finished_runs(plan: Plan) -> set[Spec]:
    """Return the runs of a plan that are finished; those with a damaged file are not."""
    found = set()
    for spec in plan.specs:
        with contextlib.suppress(InputError):
            if is_finished(plan.root, spec):
                found.add(spec)
    return found


def estimate_times(plan: Plan, spaces: Mapping[str, Spaces], finished: Collection[Spec] | None = None) -> Times:
    """Estimate how long each kind of run of a plan takes: from finished runs in its folder, as far as there are any.

    A kind of which no run is finished is computed from the committed rates, scaled as the finished runs' times are to these.

    Args:
        plan: the runs.
        spaces: of its tasks; a task that is missing is taken to have one observation and one action.
        finished: its finished runs, which are looked for on the disk if None.
    """
    rates = Rates(spaces)
    for spec in finished_runs(plan) if finished is None else finished:
        rates.add(spec, read_timings(plan.root / spec.path).get("total", 0.0))
    return rates.times(plan.specs)


def wall_seconds(runs: Iterable[tuple[float, int]], workers: int) -> float:
    """Return how long runs take side by side: an even share, and no less than the longest.

    >>> wall_seconds([(10.0, 4)], 2), wall_seconds([(30.0, 1), (2.0, 3)], 2), wall_seconds([], 2)
    (20.0, 30.0, 0.0)

    Args:
        runs: seconds of one run, and how many runs take as long.
        workers: runs made at a time.
    """
    total, longest = 0.0, 0.0
    for seconds, count in runs:
        total += seconds * count
        longest = max(longest, seconds if count else 0.0)
    return max(total / workers, longest)


class Rates:
    """What finished runs took by kind, and from these and the committed rates what any run takes."""

    def __init__(self, spaces: Mapping[str, Spaces] | None = None):
        self._spaces = spaces or {}
        self._took: dict[Kind, list[float]] = {}
        self._model: dict[Kind, float] = {}
        self._seconds: dict[Kind, float] = {}  # of what was asked since the last run was added

    def add(self, spec: Spec, seconds: float) -> None:
        """Take in a finished run; one without a time (an adopted agent) is passed over."""
        if seconds > 0:
            kind = kind_of(spec)
            self._took.setdefault(kind, []).append(seconds)
            self._modelled(kind, spec)
            self._seconds.clear()

    def has(self, stage: str) -> bool:
        """Return whether a run of a stage was added."""
        return any(kind.stage == stage for kind in self._took)

    def seconds(self, spec: Spec) -> float:
        """Return how long a run takes on one core."""
        kind = kind_of(spec)
        if kind not in self._seconds:
            took = self._took.get(kind)
            self._seconds[kind] = statistics.median(took) if took else self._modelled(kind, spec) * self._scale(kind)
        return self._seconds[kind]

    def times(self, specs: Iterable[Spec]) -> Times:
        """Return the estimate for the kinds of some runs, with its source."""
        kinds = {kind_of(spec): spec for spec in specs}
        measured = sum(map(len, self._took.values()))
        rest = [kind for kind in kinds if kind not in self._took]
        kernel = " with the native kernel" if any(kind.backend == "native" for kind in rest) else ""
        source = f"from rates measured on {PROCESSOR}{kernel}"
        if measured:
            folder = f"from {measured} finished run{'s' * (measured > 1)} in this folder"
            source = f"{folder}, for other kinds of runs scaled {source}" if rest else folder
        return Times({kind: self.seconds(spec) for kind, spec in kinds.items()}, measured, source)

    def _modelled(self, kind: Kind, spec: Spec) -> float:
        if kind not in self._model:
            self._model[kind] = modelled_seconds(spec, self._spaces.get(spec.task, Spaces(1, 1)))
        return self._model[kind]

    def _scale(self, kind: Kind) -> float:
        """How much longer the runs that are most alike took than by the committed rates."""
        trained = [k for k in self._took if k.stage in ("dense", "ticket")]
        for alike in (
            [k for k in self._took if (k.stage, k.task) == (kind.stage, kind.task)],
            [k for k in self._took if k.stage == kind.stage],
            [k for k in trained if k.task == kind.task],
            trained,
        ):
            if alike:
                took = sum(statistics.median(self._took[k]) for k in alike)
                return took / sum(self._model[k] for k in alike)
        return 1.0


def kind_of(spec: Spec) -> Kind:
    """Return the kind of a run."""
    backend = spec.dense.training.backend
    if isinstance(spec, DenseSpec):
        return Kind("dense", spec.task, backend, "", spec.role, spec.env_steps)
    if isinstance(spec, MaskSpec):
        return Kind("mask", spec.task, "", "", spec.method, 0)
    if isinstance(spec, ConnectivitySpec):
        return Kind("connectivity", spec.task, "", "", spec.kind, 0)
    named = spec.schedule or spec.mask
    method = spec.schedule.method if spec.schedule else ""
    return Kind("ticket", spec.task, backend, named.sparsity.label() if named else "", method, spec.env_steps)


def update_flops(agent: AgentConfig, spaces: Spaces, batch_size: int) -> dict[str, float]:
    """Return the floating-point operations of one update of a dense agent by network."""
    networks = agent.networks(spaces)
    return {n: 2.0 * p * networks[n].parameters(spaces) * batch_size for n, p in agent.passes().items()}


def modelled_seconds(spec: Spec, spaces: Spaces) -> float:
    """Return how long a run takes on `PROCESSOR`, by the committed rates."""
    agent, training, evaluation = spec.dense.agent, spec.dense.training, spec.dense.evaluation
    simulate, episode = _environment(spec.task)
    if isinstance(spec, MaskSpec):
        batches = 2 * spec.num_gradient_batches if takes_gradients(spec.method) else 0  # again by halves
        weights = sum(network.parameters(spaces) for network in agent.networks(spaces).values())
        return 0.1 + batches * spec.gradient_batch_size * 6.0 * weights / (XLA_GFLOPS * 1e9)
    if isinstance(spec, ConnectivitySpec):
        return COMPILE_SECONDS + spec.points * spec.episodes * episode * simulate
    named = (spec.schedule or spec.mask) if isinstance(spec, TicketSpec) else None
    sparsity = named.sparsity.networks if named else {}
    # Batches have no rates: on a CPU one takes as long as its runs one after the other.
    xla = training.backend != "native"
    update = UPDATE_MS["dense" if xla else "native"] / 1e3
    for network, flops in update_flops(agent, spaces, training.batch_size).items():
        gflops = XLA_GFLOPS if xla else _native_gflops(sparsity.get(network, 0.0))
        update += flops / (gflops * 1e9)
    evaluations = 2 + (training.env_steps - 1) // evaluation.every - spec.start // evaluation.every
    evaluated = ((evaluations - 1) * evaluation.episodes + evaluation.last_episodes) * episode
    steps = spec.env_steps * (simulate + LOOP_US / 1e6) + evaluated * (simulate + LOOP_US / 2e6)
    return COMPILE_SECONDS + steps + spec.updates * update


def _native_gflops(sparsity: float) -> float:
    """Interpolate the rate of the native kernel: linear in the sparsity between those that were measured."""
    for (low, at_low), (high, at_high) in pairwise(NATIVE_GFLOPS.items()):
        if sparsity <= high:
            return at_low + (at_high - at_low) * (sparsity - low) / (high - low)
    return at_high


@functools.cache
def _environment(task: str) -> tuple[float, int]:
    """Return the seconds of a task's step, and the steps of an episode; of an unknown task those of MuJoCo's."""
    if SUITES["metaworld"].owns(task):
        return STEP_US["metaworld"] / 1e6, 500
    import gymnasium

    known = None if ":" in task else gymnasium.registry.get(task)
    simulator = "classic" if known and ".mujoco" not in str(known.entry_point) else "mujoco"
    return STEP_US[simulator] / 1e6, (known.max_episode_steps if known else None) or 1000
