"""Train an agent to the end of its budget: segments, evaluations, resume points and saved files."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import envs
from ..algorithms.base import Agent, AgentState
from ..algorithms.tickets import masks_of
from ..errors import InputError
from ..replay import ReplayBuffer, ReplayState
from ..training import Evaluation, Job, metric_rows
from . import records, store
from .backend import use_kernel
from .compilation import compile_seconds
from .journal import MASK, missing_points
from .measurements import agent_rows
from .options import RunOptions
from .spec import DenseSpec, TicketSpec
from .start import initial_agent
from .steps import NEXT, Evaluate, Steps
from .trackers import logged

_NO_ROWS = ReplayState(*(np.zeros(shape, np.int32) for shape in ((0, 0), (), ())))  # type: ignore[arg-type]
"""A run's replay buffer while its training holds it."""


def _taken(buffer: ReplayBuffer) -> ReplayState:
    """Take a run's rows out of its replay buffer, for the training that holds them from now on."""
    rows, buffer.state = buffer.state, _NO_ROWS
    return rows


def train_to_end(
    root: Path,
    spec: DenseSpec | TicketSpec,
    agent: Agent,
    options: RunOptions,
    started: float,
    keep: Sequence[int] = (),
    fresh_noise: bool = False,
) -> Steps[None]:
    """Train an agent, or resume an interrupted run, to the end of the budget, and write the run's files.

    Args:
        root: the output directory.
        spec: the run, whose directory exists.
        agent: the agent at the start of the run, with its replay buffer.
        options: options that do not affect results.
        started: `time.perf_counter()` at the start of the run.
        keep: environment steps at which the agent and its replay buffer are saved.
        fresh_noise: use other random numbers than the dense agent of the seed.

    Raises:
        InputError: the resume file is damaged.
        TrainingError: training failed.
    """
    buffer, run, dense = agent.replay_buffer, root / spec.path, spec.dense
    training = dense.training
    assert buffer is not None
    with logged(options.trackers, root, spec) as log:
        state = agent.state
        seconds = {"start": time.perf_counter() - started, "train": 0.0, "evaluate": 0.0, "save": 0.0}
        compiled = -compile_seconds()  # of other runs in this process
        rows: list[tuple[int, str, float]] = []
        latest: dict[str, float] = {}

        def add(env_steps: int, metrics: dict[str, float]) -> None:
            latest.update(metrics)
            rows.extend(metric_rows(env_steps, metrics))
            log(env_steps, metrics)

        def evaluate_now(state: AgentState) -> Steps[None]:
            episodes = dense.evaluation.episodes_at(int(state.env_steps), training.env_steps)
            evaluated = Agent(dense.agent, state, None, spec.task)
            result = yield Evaluate(evaluated, spec.seed, episodes, options.step_timeout, training.batch)
            seconds["evaluate"] += result.seconds
            add(int(state.env_steps), evaluation_metrics(result.evaluation))

        resume = store.load_resume(run, spec)
        if resume:
            state, buffer.state, rows = resume.state, resume.replay, resume.rows
            latest |= {name: value for _, name, value in rows}
            seconds = {name: seconds[name] + resume.seconds.get(name, 0.0) for name in seconds}
            compiled += resume.seconds.get("compile", 0.0)
            del resume
        else:
            yield from evaluate_now(state)
        env_steps, until, number = int(state.env_steps), training.env_steps, 0
        options.progress(env_steps, latest)
        native = use_kernel(dense, options.threads)
        how = (fresh_noise, native, options.step_timeout, lambda env_steps: options.progress(env_steps, latest))
        about = (agent.algorithm, training, spec.task, spec.seed)
        segment = yield Job(*about, state, _taken(buffer), until, *how)  # not kept, because it holds the replay buffer
        while True:
            number += 1
            state, env_steps = segment.state, segment.env_steps
            seconds["train"] += segment.seconds
            add(env_steps, segment.metrics)
            kept, resumable, ended = env_steps in keep, number % options.checkpoint_every == 0, env_steps >= until
            if env_steps % dense.evaluation.every == 0 or ended:
                yield from evaluate_now(state)
            began = time.perf_counter()
            if kept or resumable or ended:
                buffer.state = segment.replay
            if kept:
                save_point(run, dense, state, buffer, env_steps)
            if resumable and not ended:
                timings = {**seconds, "compile": compiled + compile_seconds()}
                store.save_resume(run, spec, store.Resume(state, buffer.state, rows, timings))
            seconds["save"] += time.perf_counter() - began
            options.progress(env_steps, latest)
            if ended:
                break
            buffer.state = _NO_ROWS
            segment = yield NEXT
        began = time.perf_counter()
        if any(state.opts[name].schedule is not None for name in state.params):
            store.save_mask(run, MASK, masks_of(state))
        store.save_replay_buffer(run, spec, buffer)
        records.save_metrics(run, rows)
        records.save_analysis(run, agent_rows(Agent(dense.agent, state, buffer)))
        seconds["save"] += time.perf_counter() - began
        # The runs of a batch compile together: these seconds are of no single run.
        own = {} if training.batch else {"compile": compiled + compile_seconds()}
        records.save_timings(run, {**seconds, **own, "total": sum(seconds.values())})
        store.finish_agent(root, spec, state)


def keep_points(root: Path, spec: DenseSpec, options: RunOptions) -> Steps[Path]:
    """Save missing rewind points of a finished dense run by training it again up to these points, with identical results."""
    run = root / spec.path
    points = missing_points(run, options.rewind_points)
    if not points:
        return run
    if spec.training.adopted:
        raise InputError(
            f"{spec.title()} is an adopted agent without saved states at steps {', '.join(map(str, points))}; set "
            "pruning.rewind_steps to [none], or to [0] if `initial` was passed to `lth.adopt`"
        )
    agent = initial_agent(spec, envs.task_spaces(spec.task))
    buffer = agent.replay_buffer
    assert buffer is not None
    native = use_kernel(spec, options.threads)
    about = (agent.algorithm, spec.training, spec.task, spec.seed, agent.state)
    # The job is not kept, because it holds the replay buffer.
    segment = yield Job(*about, _taken(buffer), points[-1], native=native, step_timeout=options.step_timeout)
    while True:
        options.progress(segment.env_steps, segment.metrics)
        if segment.env_steps in points:
            buffer.state = segment.replay
            save_point(run, spec, segment.state, buffer, segment.env_steps)
            buffer.state = _NO_ROWS
        if segment.env_steps >= points[-1]:
            return run
        segment = yield NEXT


def save_point(run: Path, spec: DenseSpec, state: AgentState, buffer: ReplayBuffer, env_steps: int) -> None:
    """Write the agent and its replay buffer at a rewind point."""
    store.save_replay_buffer(run, spec, buffer, env_steps)
    store.save_agent(run, spec, state, env_steps)


def evaluation_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics of an evaluation by name."""
    metrics = {"evaluation/return": evaluation.return_mean}
    for name, rate in (("success", evaluation.success_rate), ("success_at_end", evaluation.success_rate_at_end)):
        if rate is not None:
            metrics[f"evaluation/{name}"] = rate
    return metrics
