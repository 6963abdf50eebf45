"""Train several agents in one program, in lockstep: one compiled call updates all of them.

Each agent has its own environments, seeds and replay buffer, and learns what it would learn alone, up to rounding. A batch has a
fixed number of places. Those that are empty, or whose run failed, are computed too, so that no result depends on how many of the
others there are.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..algorithms.learner import Draws
from ..algorithms.stacked import Form, Stacked, form_of, pick, signature, stack, stacked_actions, stacked_step
from ..config import TrainingConfig
from ..envs.on_device import device_env
from ..envs.pool import Place, Pool
from ..errors import InputError, TrainingError
from ..replay import ReplayState, pack_rows
from ..types import Batch
from . import TELL_EVERY, Job, RandomNumbers, Segment, check_rows, segment_metrics, segment_seed


def batch_key(job: Job) -> Any:
    """Return a hashable value that is equal for jobs that can train together."""
    steps = (job.until, int(job.replay.size), job.replay.rows.shape)
    simulated = job.task if device_env(job.task) else None  # on the device the task is part of the program
    return job.algorithm, job.training, steps, simulated, signature(job.state)


class Lockstep:
    """Jobs of one `batch_key` that train together, segment by segment.

    Args:
        jobs: at most `size` of them.
        size: the number of places. Results depend on it in their last bits, and not on the number of jobs.
    """

    def __init__(self, jobs: Sequence[Job], size: int):
        places: list[int | None] = [*range(len(jobs)), *[None] * (size + size % 2 - len(jobs))]
        parts = [places[:1]] if size == 1 else [places[: len(places) // 2], places[len(places) // 2 :]]
        self._halves = [_Half(jobs, part) for part in parts if any(place is not None for place in part)]
        self._training, self._until, self._tells = jobs[0].training, jobs[0].until, [job.tell for job in jobs]
        self._env_steps = int(jobs[0].state.env_steps)

    def advance(self) -> Iterator[tuple[int, Segment | InputError | TrainingError]]:
        """Train one segment; yields (i, segment) of each job, or (i, error) of a job that failed, which ends it.

        Segments are valid until the next call.
        """
        number = self._env_steps // self._training.segment_steps
        end = min((number + 1) * self._training.segment_steps, self._until)
        started = time.perf_counter()
        _train_segment(self._halves, self._training, number, self._env_steps, end, self._tells)
        self._env_steps = end
        seconds = (time.perf_counter() - started) / max(sum(len(half.active) for half in self._halves), 1)
        for half in self._halves:
            yield from half.results(end, seconds)

    def drop(self, i: int) -> None:
        """Leave the place of job i empty."""
        for half in self._halves:
            half.drop(i)

    def close(self) -> None:
        """End the processes of the environments."""
        for half in self._halves:
            half.pool.close()


def _train_segment(
    halves: Sequence["_Half"],
    training: TrainingConfig,
    number: int,
    env_steps: int,
    end: int,
    tells: Sequence[Any],
) -> None:
    for half in halves:
        half.reset(number, env_steps)
        half.start()
    told = time.monotonic()
    while env_steps < end:
        for i, half in enumerate(halves):
            half.finish(env_steps, last=env_steps + training.num_envs >= end)
            # The environments of one half step while the device updates the other.
            halves[(i + 1) % len(halves)].start()
        env_steps += training.num_envs
        if env_steps < end and time.monotonic() - told >= TELL_EVERY:
            told = time.monotonic()
            for tell in tells:
                if tell:
                    tell(env_steps)


@dataclasses.dataclass
class _Run:
    """One job of a half, in its place."""

    job: int
    place: int
    seed: int
    fresh_noise: bool
    key: jax.Array | None
    numbers: Any = None  # RandomNumbers of the segment
    returns: Any = None  # (num_envs,) so far
    finished: list[float] = dataclasses.field(default_factory=list)


class _Half:
    """The half of a batch that steps its environments while the other half learns."""

    def __init__(self, jobs: Sequence[Job], places: Sequence[int | None]):
        one = jobs[next(place for place in places if place is not None)]
        self.algorithm, self.training = one.algorithm, one.training
        self.form: Form = form_of(one.state)
        here = [one if place is None else jobs[place] for place in places]
        self.stacked: Stacked = stack([job.state for job in here])
        self.replays: ReplayState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(job.replay for job in here))
        self.runs = [
            _Run(j, i, jobs[j].seed, jobs[j].fresh_noise, jobs[j].state.key)
            for i, j in enumerate(places)
            if j is not None
        ]
        self.active = list(self.runs)
        self.failed: dict[int, InputError | TrainingError] = {}
        self.places = len(places)
        self.pool = Pool(
            [None if place is None else Place(jobs[place].task, jobs[place].seed) for place in places],
            self.training.num_envs,
            self.algorithm.spaces,
        )
        self._stepping = False
        self._actions: Any = None  # of the next step, perhaps still being computed
        self._metrics: dict[str, Any] = {}

    def reset(self, number: int, env_steps: int) -> None:
        """Begin a segment."""
        missing, capacity = env_steps - int(self.replays.size[0]), int(self.replays.rows.shape[1])
        for run in self.active:
            seed_of = functools.partial(segment_seed, run.seed, number, fresh_noise=run.fresh_noise)
            run.numbers = RandomNumbers(self.algorithm, self.training, seed_of, capacity, missing)
            run.returns, run.finished = np.zeros(self.training.num_envs), []
        seeds, active = [0] * self.places, [False] * self.places
        for run in self.active:
            seeds[run.place], active[run.place] = run.numbers.reset_seed, True
        self._observations, failures = self.pool.reset(seeds, active)
        self._failures(failures, env_steps)
        self._metrics = {}
        self._pending: list[np.ndarray] = []
        if not self.active:
            return
        noise, self._draws = self._noise(env_steps), self._draw(env_steps)
        if env_steps < self.training.start_steps:
            self._actions = noise
        else:
            act = stacked_actions(self.algorithm, self.form)
            self._actions = act(self.stacked, self._observations, noise)

    def start(self) -> None:
        """Begin a step of the environments, if its actions were asked for."""
        if self._actions is not None and self.active:
            self._taken = np.asarray(self._actions)
            self.pool.start(self._taken)
            self._stepping = True
        self._actions = None

    def finish(self, env_steps: int, last: bool) -> None:
        """Wait for the environments, and have the device store the transitions, learn, and choose the next actions."""
        if not self._stepping:  # all runs failed
            return
        found, failures = self.pool.finish()
        self._stepping = False
        done = found.terminated | found.truncated
        after = np.where(done[..., None], found.final, found.observations)
        flat = (self._observations, self._taken, found.rewards, after, found.terminated)
        rows = pack_rows(Batch(*(part.reshape(-1, *part.shape[2:]) for part in flat)))
        rows = rows.reshape(self.places, self.training.num_envs, -1)
        self._failures(failures, env_steps)
        if not np.isfinite(rows).all():
            self._check(rows, env_steps)
        following = env_steps + self.training.num_envs
        acting: tuple[Any, ...] = ()
        if not self.active:
            return
        noise = None if last else self._noise(following)
        if noise is not None and following >= self.training.start_steps:
            acting = found.observations, noise
        self._pending.append(rows)
        if self._draws.indices.shape[1] or last or env_steps < self.training.start_steps:
            rows, self._pending = np.concatenate(self._pending, axis=1), []
            step = stacked_step(self.algorithm, self.form)(self.stacked, self.replays, rows, self._draws, *acting)
            self.stacked, self.replays = step.stacked, step.replays
            self._actions = step.actions if acting else noise
            self._metrics = step.metrics or self._metrics
        else:  # as in `train`, the policy's statistics of observations change with its weights
            self._actions = stacked_actions(self.algorithm, self.form)(self.stacked, *acting)
        self._observations = found.observations
        for run in self.active:
            run.returns += found.rewards[run.place]
            ended = done[run.place]
            if ended.any():
                run.finished.extend(run.returns[ended])
                run.returns[ended] = 0.0
        if not last:
            self._draws = self._draw(following)  # while the device computes

    def results(self, env_steps: int, seconds: float) -> Iterator[tuple[int, Segment | InputError | TrainingError]]:
        """Yield the segment of each run, or why it failed."""
        metrics = {name: np.asarray(values) for name, values in self._metrics.items()}
        for run in list(self.runs):
            if run.job not in self.failed:
                try:
                    own = {name: values[run.place] for name, values in metrics.items()}
                    values = segment_metrics(own, run.finished, env_steps, self.algorithm)
                except TrainingError as error:
                    self._fail(run, error)
            if run.job in self.failed:
                self.runs.remove(run)
                yield run.job, self.failed[run.job]
                continue
            state = pick(self.form, self.stacked, run.place, run.key)
            yield run.job, Segment(state, functools.partial(self._replay, run.place), env_steps, values, seconds)

    def drop(self, job: int) -> None:
        """Leave the place of a job empty."""
        self.runs = [run for run in self.runs if run.job != job]
        self.active = [run for run in self.active if run.job != job]

    def _replay(self, place: int) -> ReplayState:
        found: ReplayState = jax.tree.map(lambda leaf: leaf[place], self.replays)
        return found

    def _noise(self, env_steps: int) -> np.ndarray:
        drawn = {run.place: run.numbers.noise(env_steps) for run in self.active}
        return self._whole(drawn)

    def _draw(self, env_steps: int) -> Draws:
        drawn = {run.place: run.numbers.draws(env_steps) for run in self.active}
        return Draws(
            self._whole({place: draws.indices for place, draws in drawn.items()}),
            self._whole({place: draws.noise for place, draws in drawn.items()}),
        )

    def _whole(self, parts: dict[int, np.ndarray]) -> np.ndarray:
        """Return arrays by place as one array, zero in the empty places."""
        like = next(iter(parts.values())) if parts else np.zeros(())
        whole = np.zeros((self.places, *like.shape), like.dtype)
        for place, part in parts.items():
            whole[place] = part
        return whole

    def _fail(self, run: _Run, error: InputError | TrainingError) -> None:
        self.failed[run.job] = error
        self.active.remove(run)
        self.pool.drop(run.place)

    def _failures(self, told: dict[int, str], env_steps: int) -> None:
        for run in list(self.active):
            if run.place in told:
                kind, _, rest = told[run.place].partition(": ")
                message, _, where = rest.partition("\n")
                error: InputError | TrainingError = InputError(message)  # as when the task cannot be created
                if kind != "InputError":
                    error = TrainingError(f"the environment raised {kind} at step {env_steps}: {message}")
                error.add_note(where)
                self._fail(run, error)

    def _check(self, rows: np.ndarray, env_steps: int) -> None:
        for run in list(self.active):
            i = run.place
            try:
                check_rows(rows[i], self._observations[i], self._taken[i], env_steps, self.algorithm)
            except TrainingError as error:
                self._fail(run, error)
