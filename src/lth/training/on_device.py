"""Train several agents in one program with environments that live on the device: a whole segment is one compiled call.

Each agent has its own environments, seeds and replay buffer. Random numbers come from keys that are derived from the run's seed and
the segment, by stream, as the Generators of `training` are.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..algorithms.base import AgentState, Algorithm
from ..algorithms.learner import Draws, draw, stored, updated
from ..algorithms.randomness import DeviceGenerator
from ..algorithms.stacked import AGENTS, Form, Stacked, actions_of, form_of, over_agents, pick, stack
from ..config import TrainingConfig
from ..envs.on_device import DeviceEnv, device_env, episode_key
from ..errors import TrainingError
from ..replay import ReplayState
from ..types import Array
from . import (
    ACTIONS,
    ENVIRONMENTS,
    EVALUATION_SEED,
    UPDATES,
    Evaluation,
    Job,
    Segment,
    check_return,
    not_finite,
    segment_metrics,
    segment_seed,
    updates_due,
)


class DeviceLockstep:
    """Jobs of one `batch_key` that train together; see `Lockstep`."""

    def __init__(self, jobs: Sequence[Job], size: int):
        here = [*jobs, *[jobs[0]] * (size - len(jobs))]
        one = jobs[0]
        env = device_env(one.task)
        assert env
        self._env, self._algorithm, self._training, self._until = env, one.algorithm, one.training, one.until
        self._form = form_of(one.state)
        self._stacked = stack([job.state for job in here])
        self._replays: ReplayState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(job.replay for job in here))
        self._seeds = [(job.seed, job.fresh_noise) for job in here]
        self._keys = {j: job.state.key for j, job in enumerate(jobs)}
        self._env_steps = int(one.state.env_steps)

    def advance(self) -> Iterator[tuple[int, Segment | TrainingError]]:
        """Train one segment; yields (i, segment) of each job, or (i, error) of a job that failed, which ends it."""
        training, env_steps = self._training, self._env_steps
        number = env_steps // training.segment_steps
        end = min((number + 1) * training.segment_steps, self._until)
        started = time.perf_counter()
        seeds = np.array([_key_data(seed, number, fresh) for seed, fresh in self._seeds], np.uint32)
        due = np.array([updates_due(training, t) for t in range(env_steps, end, training.num_envs)], np.int32)
        compiled = _segment(self._algorithm, self._env, training, self._form)
        self._stacked, self._replays, told = compiled(self._stacked, self._replays, seeds, due)
        found = {name: np.asarray(values) for name, values in told.items()}
        self._env_steps = end
        seconds = (time.perf_counter() - started) / max(len(self._keys), 1)
        for j in list(self._keys):
            own = {name: values[j] for name, values in found.items()}
            total, count, finite, by_policy = (own.pop(name) for name in ("total", "count", "finite", "by_policy"))
            try:
                if not finite:
                    raise not_finite(bool(by_policy), f"by environment step {end}", self._algorithm)
                metrics = segment_metrics(own if due.any() else {}, [], end, self._algorithm)
            except TrainingError as error:
                self.drop(j)
                yield j, error
                continue
            if count:
                metrics["train/return"] = float(total / count)
            state = pick(self._form, self._stacked, j, self._keys[j])
            yield j, Segment(state, functools.partial(self._replay, j), end, metrics, seconds)

    def _replay(self, place: int) -> ReplayState:
        found: ReplayState = jax.tree.map(lambda leaf: leaf[place], self._replays)
        return found

    def drop(self, i: int) -> None:
        """Leave the place of job i empty."""
        self._keys.pop(i, None)

    def close(self) -> None:
        """Do nothing: there are no processes."""


def _key_data(seed: int, number: int, fresh_noise: bool) -> list[np.ndarray]:
    streams = (ENVIRONMENTS, ACTIONS, UPDATES)
    return [segment_seed(seed, number, stream, fresh_noise=fresh_noise).generate_state(2) for stream in streams]


@functools.cache
def _segment(algorithm: Algorithm, env: DeviceEnv, training: TrainingConfig, form: Form) -> Callable[..., Any]:
    """Compile: (stacked, replays, key data (agents, 3, 2), updates due after each step (steps,)) -> the same, and what was seen."""
    n, spaces = training.num_envs, algorithm.spaces

    def explore(state: AgentState, observations: Array, key: jax.Array) -> jax.Array:
        def random() -> jax.Array:
            return jnp.asarray(algorithm.random_actions(DeviceGenerator(key), n), jnp.float32)

        def policy() -> jax.Array:
            noise = algorithm.explore(DeviceGenerator(key), n, state.env_steps / training.env_steps)
            return actions_of(algorithm, state, observations, noise)

        chosen: jax.Array = jax.lax.cond(state.env_steps < training.start_steps, random, policy)
        return chosen

    def learn(state: AgentState, replay: ReplayState, key: jax.Array, due: jax.Array, metrics: Any) -> Any:
        def one(k: jax.Array, carry: Any) -> Any:
            state, _ = carry
            rng = DeviceGenerator(jax.random.fold_in(key, k))
            return updated(algorithm, state, replay, draw(algorithm, rng, 1, training.batch_size, replay.size))

        return jax.lax.fori_loop(0, due, one, (state, metrics))

    def segment(due: Array, state: AgentState, replay: ReplayState, seeds: Array) -> Any:
        keys = jax.random.wrap_key_data(seeds, impl="threefry2x32")
        of_envs, of_actions, of_updates = keys[0], keys[1], keys[2]

        def reset(t: Any) -> Any:
            return jax.vmap(env.reset)(jax.random.split(jax.random.fold_in(of_envs, t), n))

        def step(carry: Any, now: Any) -> Any:
            state, replay, worlds, observations, length, returns, seen, metrics = carry
            t, due = now
            actions = explore(state, observations, jax.random.fold_in(of_actions, t))
            given = actions[:, 0].astype(jnp.int32) if spaces.discrete else actions
            worlds, after, rewards, terminated = jax.vmap(env.step)(worlds, given)
            columns = (observations, actions, rewards[:, None], after, terminated[:, None])
            rows = jnp.concatenate([column.astype(jnp.float32) for column in columns], axis=1)
            state, replay = stored(algorithm, state, replay, rows)
            state, metrics = learn(state, replay, jax.random.fold_in(of_updates, t), due, metrics)
            length, returns = length + 1, returns + rewards
            done = terminated | (length >= env.episode_steps)
            seen = {
                "total": seen["total"] + jnp.sum(jnp.where(done, returns, 0.0)),
                "count": seen["count"] + jnp.sum(done, dtype=jnp.int32),
                "finite": seen["finite"] & jnp.isfinite(rows).all(),
                "by_policy": seen["by_policy"]
                | (seen["finite"] & jnp.isfinite(observations).all() & ~jnp.isfinite(actions).all()),
            }

            def restart() -> Any:
                def chosen(fresh: jax.Array, old: jax.Array) -> jax.Array:
                    return jnp.where(done.reshape(n, *[1] * (old.ndim - 1)), fresh, old)

                return jax.tree.map(chosen, reset(t + 1), (worlds, after))

            # Resets are computed only at steps at which an episode of any agent ends.
            anywhere = jax.lax.pmax(done.any(), AGENTS)
            worlds, observations = jax.lax.cond(anywhere, restart, lambda: (worlds, after))
            length, returns = jnp.where(done, 0, length), jnp.where(done, 0.0, returns)
            return (state, replay, worlds, observations, length, returns, seen, metrics), None

        shapes = jax.eval_shape(lambda: learn_once(state, replay))
        metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        seen = {
            "total": jnp.float32(0),
            "count": jnp.int32(0),
            "finite": jnp.bool_(True),
            "by_policy": jnp.bool_(False),
        }
        begun = (state, replay, *reset(0), jnp.zeros(n, jnp.int32), jnp.zeros(n, jnp.float32), seen, metrics)
        times = jnp.arange(due.shape[0])
        (state, replay, *_, seen, metrics), _ = jax.lax.scan(step, begun, (times, due))
        return state, replay, {**seen, **metrics}

    def learn_once(state: AgentState, replay: ReplayState) -> Any:
        zeros = Draws(
            jnp.zeros((1, training.batch_size), jnp.int32),
            jnp.zeros((1, *algorithm.noise_shape(training.batch_size)), jnp.float32),
        )
        return updated(algorithm, state, replay, zeros)[1]

    def many(stacked: Any, replays: Any, seeds: Array, due: Array) -> Any:
        return over_agents(functools.partial(segment, due), form)(stacked, replays, seeds)

    return jax.jit(many, donate_argnums=(0, 1))


def evaluate_on_device(
    algorithm: Algorithm, task: str, states: Sequence[AgentState], episodes: int, places: int
) -> list[Evaluation | TrainingError]:
    """Evaluate agents with their deterministic actions, all episodes of all agents at once.

    Args:
        algorithm: of all agents.
        task: which has a `DeviceEnv`.
        states: of the agents, at most `places`.
        episodes: for each; all runs use the same ones.
        places: the size of the batch.

    Returns:
        For each agent its evaluation, or the error that a return is not finite.
    """
    env = device_env(task)
    assert env
    stacked = stack([*states, *[states[0]] * (places - len(states))])
    found = np.asarray(_evaluation(algorithm, env, form_of(states[0]), episodes)(stacked))
    return [_evaluation_of(returns) for returns in found[: len(states)]]


def _evaluation_of(returns: np.ndarray) -> Evaluation | TrainingError:
    try:
        for episode, total in enumerate(returns):
            check_return(float(total), episode)
    except TrainingError as error:
        return error
    return Evaluation(returns.astype(np.float64).tolist(), None)


@functools.cache
def _evaluation(algorithm: Algorithm, env: DeviceEnv, form: Form, episodes: int) -> Callable[..., jax.Array]:
    def one(state: AgentState) -> tuple[AgentState, jax.Array]:
        seeds = EVALUATION_SEED + jnp.arange(episodes, dtype=jnp.uint32)
        worlds, observations = jax.vmap(lambda seed: env.reset(episode_key(seed)))(seeds)

        def going(carry: Any) -> jax.Array:
            alive, t = carry[3], carry[4]
            found: jax.Array = jax.lax.pmax(alive.any(), AGENTS) & (t < env.episode_steps)
            return found

        def step(carry: Any) -> Any:
            worlds, observations, returns, alive, t = carry
            actions = actions_of(algorithm, state, observations, None)
            given = actions[:, 0].astype(jnp.int32) if algorithm.spaces.discrete else actions
            worlds, observations, rewards, terminated = jax.vmap(env.step)(worlds, given)
            return worlds, observations, returns + jnp.where(alive, rewards, 0.0), alive & ~terminated, t + 1

        begun = (worlds, observations, jnp.zeros(episodes, jnp.float32), jnp.ones(episodes, bool), jnp.int32(0))
        ended: Any = jax.lax.while_loop(going, step, begun)
        return state, ended[2]

    mapped = over_agents(one, form)

    def many(stacked: Stacked) -> jax.Array:
        returns: jax.Array = mapped(stacked)[1]
        return returns

    return jax.jit(many)
