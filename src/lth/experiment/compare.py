"""Linear mode connectivity: evaluate agents on the line between the weights of two trained agents."""

import contextlib
import time
from pathlib import Path

import numpy as np

from .. import envs
from ..algorithms.acting import policy_of
from ..algorithms.base import Agent
from ..analysis.interpolation import interpolate, losses
from ..analysis.units import spread_batch
from ..precision import in_float32
from ..training import evaluate
from . import records, store
from .journal import is_finished
from .spec import ConnectivitySpec

_NOISE = 0


@in_float32
def connect(root: Path, spec: ConnectivitySpec) -> Path:
    """Measure interpolated agents: the return on evaluation episodes, and the losses on the dense parent's transitions.

    All points share the episodes, the transitions, and the action noise in the losses. Takes seconds; the result is written at
    the end.

    Raises:
        InputError: an agent is missing or invalid.
        TrainingError: the environment raised an exception.
    """
    run = root / spec.path
    if is_finished(root, spec):
        return run
    started = time.perf_counter()
    config, one = spec.dense.agent, store.read_agent(root, spec.one).state
    other = store.read_agent(root, spec.other).state
    batch = spread_batch(store.load_replay_buffer(root / spec.dense.path, spec=spec.dense))
    algorithm = Agent(config, one).algorithm
    noise_shape = algorithm.noise_shape(batch.actions.shape[0])
    noise = np.random.default_rng(_NOISE).standard_normal(noise_shape, np.float32)
    rows = []
    with contextlib.closing(envs.make(spec.dense.task, spec.dense.seed, envs.EVALUATE)) as env:
        for alpha in np.linspace(0.0, 1.0, spec.points).tolist():
            state = interpolate(one, other, alpha)
            result = evaluate(policy_of(Agent(config, state)), env, spec.episodes)
            values = {"return": result.return_mean}
            if result.success_rate is not None:
                values["success"] = result.success_rate
            values |= losses(algorithm, state, batch, noise)
            rows += [records.LineRow(alpha, metric, value) for metric, value in values.items()]
    records.open_run(root, spec)
    records.save_timings(run, {"total": time.perf_counter() - started})
    records.save_line(root, spec, rows)
    return run
