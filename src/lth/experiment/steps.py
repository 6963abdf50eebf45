"""Runs as generators that ask for what takes long, so that one run and a batch of runs are the same code.

A run yields a request: an `Evaluate`, a `Job` to train, whose answer is its first segment, or NEXT for the next one. `Stage` makes
a function of such a generator that runs it alone; `run_together` runs several, and answers the same requests of all at once.
"""

import functools
import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, NamedTuple, ParamSpec, TypeAlias, TypeVar

import jax
import numpy as np

from .. import envs
from ..algorithms.acting import policy_of, policy_reader
from ..algorithms.base import Agent, Algorithm
from ..algorithms.learner import flat_policy
from ..algorithms.stacked import form_of
from ..envs.on_device import device_env
from ..envs.pool import cores, die_with_parent
from ..precision import in_float32
from ..training import Evaluation, Job, Segment, evaluate, train
from ..training.lockstep import Lockstep, batch_key
from ..training.on_device import DeviceLockstep, evaluate_on_device

Given = ParamSpec("Given")
Found = TypeVar("Found")

NEXT = "next"
"""The request for the next segment of the job."""


class Evaluate(NamedTuple):
    """The request to evaluate an agent; the answer is an `Evaluated`."""

    agent: Agent
    """With its task."""
    seed: int
    episodes: int
    step_timeout: float | None = None
    places: int | None = None
    """The size of the batch, if it is evaluated in one."""


class Evaluated(NamedTuple):
    """The evaluation, and the seconds that it took, divided among the runs that were evaluated together."""

    evaluation: Evaluation
    seconds: float


Request: TypeAlias = Evaluate | Job | str
Steps: TypeAlias = Generator[Request, Any, Found]


class Stage(Generic[Given, Found]):
    """A stage of an experiment: called, it makes its run alone; `steps` has the same arguments and returns the generator."""

    def __init__(self, steps: Callable[Given, Steps[Found]]):
        self.steps = steps
        functools.update_wrapper(self, steps)

    def __call__(self, *arguments: Given.args, **named: Given.kwargs) -> Found:
        """Make the run alone: return what its generator returns, and raise what it raises."""
        found: list[Found] = []
        run_together([self.steps(*arguments, **named)], lambda i, result: found.append(result))
        return found[0]


@in_float32
def run_together(runs: Sequence[Steps[Found]], ended: Callable[[int, Found], None]) -> None:
    """Run several runs to their ends; `ended` is called with the number of each and what it returned.

    Jobs that ask for a batch (`training.batch`) train together if they fit, and are evaluated together.
    """
    requests: dict[int, Request] = {}
    evaluator = _Evaluator()

    def answer(i: int, found: Any) -> None:
        steps = runs[i]
        requests.pop(i, None)
        try:
            requests[i] = steps.throw(found) if isinstance(found, BaseException) else steps.send(found)
        except StopIteration as done:
            ended(i, done.value)

    def evaluate_all() -> None:
        while asked := {i: request for i, request in requests.items() if isinstance(request, Evaluate)}:
            for i, found in evaluator.answers(asked):
                answer(i, found)

    try:
        for i in range(len(runs)):
            answer(i, None)
        evaluate_all()
        while jobs := {i: request for i, request in requests.items() if isinstance(request, Job)}:
            training = dict(enumerate(_group(jobs)))
            trainer = _Trainer([jobs[i] for i in training.values()])
            for i in training.values():
                del requests[i]  # they hold the replay buffers
            del jobs
            try:
                while training:
                    for j, found in trainer.advance(list(training)):
                        answer(training[j], found)
                    evaluate_all()
                    for j in [j for j, i in training.items() if requests.get(i) != NEXT]:
                        del training[j]
                        trainer.drop(j)
            finally:
                trainer.close()
    finally:
        evaluator.close()


def _group(jobs: Mapping[int, Job]) -> list[int]:
    """Choose the jobs that train next: a job alone, or a batch of jobs that fit together."""
    i, first = next(iter(jobs.items()))
    size = first.training.batch
    if size is None:
        return [i]
    key = batch_key(first)
    return [j for j, job in jobs.items() if job.training.batch and batch_key(job) == key][:size]


class _Trainer:
    """Trains a job alone, or several in lockstep."""

    def __init__(self, jobs: list[Job]):
        self._jobs = jobs
        self._alone: Generator[Segment, None, None] | None = None
        self._together: Lockstep | DeviceLockstep | None = None

    def advance(self, training: Sequence[int]) -> Iterator[tuple[int, Segment | BaseException]]:
        """Train one segment; yields for each job its segment, or the error that ends it."""
        left = list(training)
        try:
            if self._jobs:
                size = self._jobs[0].training.batch
                if size is None:
                    self._alone = train(*self._jobs[0])
                else:
                    on_device = device_env(self._jobs[0].task)
                    self._together = (DeviceLockstep if on_device else Lockstep)(self._jobs, size)
                self._jobs = []
            for j, found in self._together.advance() if self._together else [(0, next(self._alone))]:  # type: ignore[arg-type]
                left.remove(j)
                yield j, found
        except GeneratorExit:
            raise
        except BaseException as error:  # the environment's code may raise anything
            for j in left:
                yield j, error

    def drop(self, j: int) -> None:
        """Leave the place of a job empty."""
        if self._together:
            self._together.drop(j)

    def close(self) -> None:
        """Close the environments."""
        for trainer in (self._alone, self._together):
            if trainer:
                trainer.close()


class _Evaluator:
    """Evaluates one agent in this process, and several in other processes."""

    def __init__(self) -> None:
        self._env: tuple[Any, Any] | None = None
        self._pool: ProcessPoolExecutor | None = None

    def answers(self, asked: Mapping[int, Evaluate]) -> list[tuple[int, Evaluated | BaseException]]:
        """Evaluate the agents of all requests."""
        began = time.perf_counter()
        found: dict[int, Evaluation | BaseException] = {}
        here: dict[int, Evaluate] = {}
        there: dict[Any, list[int]] = {}
        for i, request in asked.items():
            if request.places and device_env(request.agent.task):
                key = (request.agent.algorithm, request.agent.task, request.episodes, request.places)
                there.setdefault((*key, form_of(request.agent.state)), []).append(i)
            else:
                here[i] = request
        for (algorithm, task, episodes, places, _), group in there.items():
            for part in (group[k : k + places] for k in range(0, len(group), places)):
                states = [asked[i].agent.state for i in part]
                together = evaluate_on_device(algorithm, task, states, episodes, places)
                found |= dict(zip(part, together, strict=True))
        if len(here) == 1:
            found |= {i: _caught(functools.partial(self._here, request)) for i, request in here.items()}
        elif here:
            self._pool = self._pool or ProcessPoolExecutor(
                cores(), multiprocessing.get_context("spawn"), _begin_evaluating
            )
            futures = {i: self._pool.submit(evaluate_on_host, *_on_host(request)) for i, request in here.items()}
            found |= {i: _caught(future.result) for i, future in futures.items()}
            if any(isinstance(failed, BrokenProcessPool) for failed in found.values()):  # a process of it was ended
                self._pool = None
        seconds = (time.perf_counter() - began) / len(asked)
        return [(i, Evaluated(e, seconds) if isinstance(e, Evaluation) else e) for i, e in found.items()]

    def _here(self, request: Evaluate) -> Evaluation:
        key = (request.agent.task, request.seed, request.step_timeout)
        if self._env is None or self._env[0] != key:
            self.close_environment()
            env = envs.make(key[0], request.seed, envs.EVALUATE, step_timeout=request.step_timeout)
            self._env = (key, env)
        return evaluate(policy_of(request.agent), self._env[1], request.episodes)

    def close_environment(self) -> None:
        """Close the environment of this process."""
        if self._env:
            self._env[1].close()
            self._env = None

    def close(self) -> None:
        """End the processes."""
        self.close_environment()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def _caught(call: Callable[[], Evaluation]) -> Evaluation | BaseException:
    try:
        return call()
    except BaseException as error:  # the environment's code may raise anything
        return error


def _begin_evaluating() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    jax.config.update("jax_platforms", "cpu")  # the device is the parent's


def _on_host(request: Evaluate) -> tuple[Algorithm, np.ndarray, str, int, int]:
    agent = request.agent
    flat = np.asarray(flat_policy(agent.algorithm, agent.state))
    return agent.algorithm, flat, agent.task, request.seed, request.episodes


def evaluate_on_host(algorithm: Algorithm, flat: np.ndarray, task: str, seed: int, episodes: int) -> Evaluation:
    """Evaluate an agent, in a process that has no device."""
    env = envs.make(task, seed, envs.EVALUATE)
    try:
        return evaluate(policy_reader(algorithm)(flat), env, episodes)
    finally:
        env.close()
