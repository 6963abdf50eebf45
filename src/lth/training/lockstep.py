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
import numpy as np

from ..algorithms.learner import Draws
from ..algorithms.stacked import Agents, signature
from ..envs.on_device import device_env
from ..envs.pool import Place, Pool
from ..errors import InputError, TrainingError
from ..replay import pack_rows
from ..types import Batch
from . import TELL_EVERY, Job, RandomNumbers, Segment, check_rows, segment_metrics, segment_seed


def batch_key(job: Job) -> Any:
    """Return a hashable value that is equal for jobs that can train together."""
    steps = (job.until, int(job.replay.size), job.replay.rows.shape)
    simulated = job.task if device_env(job.task) else None  # on the device the task is part of the program
    return job.algorithm, job.training, steps, simulated, signature(job.state)


def agents_in_call(size: int, platform: str | None = None) -> int:
    """Return how many agents of a batch of `size` one compiled call updates on this platform (default: of JAX).

    Half of them, so that the environments of the others step meanwhile. On a CPU one: the stacked states of several leave the
    caches between two operations, which is slower.
    """
    return 1 if (platform or jax.default_backend()) == "cpu" else -(-size // 2)


class Lockstep:
    """Jobs of one `batch_key` that train together, segment by segment.

    Args:
        jobs: at most `size` of them.
        size: the number of places. Results depend on it in their last bits, and not on the number of jobs.
        together: how many places one compiled call updates; `agents_in_call` by default.
    """

    def __init__(self, jobs: Sequence[Job], size: int, together: int | None = None):
        together = together or agents_in_call(size)
        places: list[Place | None] = [Place(job.task, job.seed) for job in jobs]
        places += [None] * (-len(jobs) % together)
        self._pool = Pool(places, jobs[0].training.num_envs, jobs[0].algorithm.spaces)
        self._parts = [_Part(jobs, slice(i, i + together), self._pool) for i in range(0, len(places), together)]
        self._training, self._until, self._tells = jobs[0].training, jobs[0].until, [job.tell for job in jobs]
        self._env_steps = int(jobs[0].state.env_steps)

    def advance(self) -> Iterator[tuple[int, Segment | InputError | TrainingError]]:
        """Train one segment; yields (i, segment) of each job, or (i, error) of a job that failed, which ends it.

        Segments are valid until the next call.
        """
        number = self._env_steps // self._training.segment_steps
        end = min((number + 1) * self._training.segment_steps, self._until)
        started = time.perf_counter()
        self._train(number, end)
        self._env_steps = end
        seconds = (time.perf_counter() - started) / max(sum(len(part.active) for part in self._parts), 1)
        for part in self._parts:
            yield from part.results(end, seconds)

    def _train(self, number: int, end: int) -> None:
        parts, env_steps = self._parts, self._env_steps
        seeds = {i: seed for part in parts for i, seed in part.begin(number, env_steps).items()}
        observations, failures = self._pool.reset(seeds)
        for part in parts:
            part.reset(observations, failures, env_steps)
        for part in parts:
            part.start()
        told = time.monotonic()
        while env_steps < end:
            for i, part in enumerate(parts):
                part.finish(env_steps, last=env_steps + self._training.num_envs >= end)
                # The environments of other parts step while the device updates this one.
                parts[(i + 1) % len(parts)].start()
            env_steps += self._training.num_envs
            if env_steps < end and time.monotonic() - told >= TELL_EVERY:
                told = time.monotonic()
                for tell in self._tells:
                    if tell:
                        tell(env_steps)

    def drop(self, i: int) -> None:
        """Leave the place of job i empty."""
        for part in self._parts:
            part.drop(i)

    def close(self) -> None:
        """End the processes of the environments."""
        self._pool.close()


@dataclasses.dataclass
class _Run:
    """One job of a part, in its place."""

    job: int  # also its place in the batch
    place: int  # in the part
    seed: int
    fresh_noise: bool
    key: jax.Array | None
    numbers: Any = None  # RandomNumbers of the segment
    returns: Any = None  # (num_envs,) so far
    finished: list[float] = dataclasses.field(default_factory=list)


class _Part:
    """The jobs at `where`, which one call updates; the environments of other parts step meanwhile."""

    def __init__(self, jobs: Sequence[Job], where: slice, pool: Pool):
        here = list(jobs[where])
        self.algorithm, self.training = here[0].algorithm, here[0].training
        self.runs = [_Run(where.start + i, i, job.seed, job.fresh_noise, job.state.key) for i, job in enumerate(here)]
        self.places = where.stop - where.start
        here += [here[0]] * (self.places - len(here))
        self._begun, self._stored = int(here[0].state.env_steps), int(here[0].replay.size)
        self._capacity = int(here[0].replay.rows.shape[0])
        self.agents = Agents(self.algorithm, [job.state for job in here], [job.replay for job in here])
        self.active = list(self.runs)
        self.failed: dict[int, InputError | TrainingError] = {}
        self._where, self._pool = where, pool
        self._stepping = False
        self._actions: Any = None  # of the next step, perhaps still being computed
        self._metrics: dict[str, Any] = {}

    def begin(self, number: int, env_steps: int) -> dict[int, int]:
        """Begin a segment; returns the seeds of the environments by job."""
        missing = env_steps - min(self._stored + env_steps - self._begun, self._capacity)
        for run in self.active:
            seed_of = functools.partial(segment_seed, run.seed, number, fresh_noise=run.fresh_noise)
            run.numbers = RandomNumbers(self.algorithm, self.training, seed_of, self._capacity, missing)
            run.returns, run.finished = np.zeros(self.training.num_envs), []
        return {run.job: run.numbers.reset_seed for run in self.active}

    def reset(self, observations: np.ndarray, failures: dict[int, str], env_steps: int) -> None:
        """Choose the first actions of a segment, for the observations of all jobs."""
        self._observations = observations[self._where]
        self._failures(failures, env_steps)
        self._metrics = {}
        self._pending: list[np.ndarray] = []
        if not self.active:
            return
        noise, self._draws = self._noise(env_steps), self._draw(env_steps)
        if env_steps < self.training.start_steps:
            self._actions = noise
        else:
            self._actions = self.agents.actions(self._observations, noise)

    def start(self) -> None:
        """Begin a step of the environments, if its actions were asked for."""
        if self._actions is not None and self.active:
            self._taken = np.asarray(self._actions)
            self._pool.start(self._where, self._taken)
            self._stepping = True
        self._actions = None

    def finish(self, env_steps: int, last: bool) -> None:
        """Wait for the environments, and have the device store the transitions, learn, and choose the next actions."""
        if not self._stepping:  # all runs failed
            return
        found, failures = self._pool.finish(self._where)
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
            chosen, metrics = self.agents.step(rows, self._draws, *acting)
            self._actions = chosen if acting else noise
            self._metrics = metrics or self._metrics
        else:  # as in `train`, the policy's statistics of observations change with its weights
            self._actions = self.agents.actions(*acting)
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
            state = self.agents.state(run.place, run.key)
            replay = functools.partial(self.agents.replay, run.place)
            yield run.job, Segment(state, replay, env_steps, values, seconds)

    def drop(self, job: int) -> None:
        """Leave the place of a job empty."""
        self.runs = [run for run in self.runs if run.job != job]
        self.active = [run for run in self.active if run.job != job]

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
        self._pool.drop(run.job)

    def _failures(self, told: dict[int, str], env_steps: int) -> None:
        for run in list(self.active):
            if run.job in told:
                kind, _, rest = told[run.job].partition(": ")
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
