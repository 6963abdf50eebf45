"""The training loop, and evaluation.

Training is divided into segments. Each segment resets its environments with a seed derived from the run's seed and the segment
number, so a segment is a pure function of (agent state, replay buffer, number). Training that is interrupted between two segments
and resumed gives the same bytes as uninterrupted training. An episode cut off by the end of a segment counts as truncated: its
last transition is bootstrapped, and its return is not reported.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import envs
from ..algorithms.acting import Policy, act, policy_reader
from ..algorithms.architecture import algorithm_key
from ..algorithms.base import AgentState, Algorithm
from ..algorithms.learner import Draws, draw, flat_policy, learner, stored
from ..algorithms.packed import pack_state, patterns_of, unpack_state, updates_until_change
from ..config import TrainingConfig, updates_before
from ..errors import InputError, TrainingError
from ..replay import ReplayState, pack_rows
from ..types import Batch

EVALUATION_SEED = 1_000_000
"""Evaluation episode i is reset with this seed + i in every run, so that all runs are evaluated on the same episodes."""

LONGEST_EPISODE = 100_000

TELL_EVERY = 1.0
"""Seconds between two calls of `train`'s `tell`."""

ENVIRONMENTS, ACTIONS, UPDATES = 0, 1, 2
"""Streams of random numbers."""


class Evaluation(NamedTuple):
    """Undiscounted returns of whole episodes and, if the task defines it, success (0 or 1) at any step and at the last of each."""

    returns: list[float]
    successes: list[float] | None
    successes_at_end: list[float] | None = None

    @property
    def return_mean(self) -> float:
        """The mean return."""
        return float(np.mean(self.returns))

    @property
    def success_rate(self) -> float | None:
        """The share of episodes that succeeded at any step, or None."""
        return None if self.successes is None else float(np.mean(self.successes))

    @property
    def success_rate_at_end(self) -> float | None:
        """The share of episodes that succeeded at their last step, or None."""
        return None if self.successes_at_end is None else float(np.mean(self.successes_at_end))


class Job(NamedTuple):
    """An agent to train: the arguments of `train`."""

    algorithm: Algorithm
    training: TrainingConfig
    task: str
    seed: int
    state: AgentState
    replay: ReplayState
    until: int
    fresh_noise: bool = False
    native: bool = False
    step_timeout: float | None = None
    tell: Callable[[int], None] | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """The state after one segment: the input of the next segment, and the metrics of this one."""

    state: AgentState
    read_replay: Callable[[], ReplayState]
    env_steps: int
    metrics: dict[str, float]  # of the last update, and train/return of finished episodes
    seconds: float

    @property
    def replay(self) -> ReplayState:
        """The replay buffer; in a batch it is copied out of it, at each access."""
        return self.read_replay()


def evaluate(policy: Policy, env: Any, episodes: int, frames: Callable[[], None] | None = None) -> Evaluation:
    """Run whole episodes with the policy's deterministic actions.

    See `run_episodes` for arguments, errors and the definition of success.
    """
    return run_episodes(lambda observation: act(policy, observation), env, episodes, frames)


def run_episodes(
    choose: Callable[[np.ndarray], np.ndarray], env: Any, episodes: int, frames: Callable[[], None] | None = None
) -> Evaluation:
    """Run whole evaluation episodes. An episode succeeds if any step does, as Meta-World defines it; the last step is kept beside.

    Args:
        choose: observation (1, observation_dim) float32 -> action (1, action_width) float32.
        env: an environment from `envs.make`.
        episodes: the number of episodes; all runs use the same ones.
        frames: called before each step and after the last, to record frames.

    Raises:
        InputError: an episode does not end.
        TrainingError: the environment raised an exception.
    """
    returns, successes, at_end = [], [], []
    spaces = envs.spaces_of(env)
    for episode in range(episodes):
        try:
            observation, _ = env.reset(seed=EVALUATION_SEED + episode)
        except Exception as error:  # the environment's code may raise anything
            raise _raised(error, "during an evaluation") from error
        total, success, last, done, steps = 0.0, None, 0.0, False, 0
        while not done:
            steps += 1
            if steps > LONGEST_EPISODE:
                raise InputError(
                    f"an evaluation episode did not end after {LONGEST_EPISODE} steps. Register the task with max_episode_steps."
                )
            if frames:
                frames()
            action = envs.to_environment(spaces, choose(observation[None]))[0]
            try:
                observation, reward, terminated, truncated, info = env.step(action)
            except Exception as error:
                raise _raised(error, "during an evaluation") from error
            total += float(reward)
            done, last = terminated or truncated, 0.0
            for name in ("success", "is_success"):
                if name in info:
                    last = float(info[name])
                    success = max(success or 0.0, last)
        check_return(total, episode)
        returns.append(total)
        successes.append(success)
        at_end.append(last)
    if frames:
        frames()
    known = [s for s in successes if s is not None]
    return Evaluation(returns, known, at_end) if len(known) == episodes else Evaluation(returns, None)


def _raised(error: Exception, when: str) -> TrainingError:
    """Return the TrainingError for an exception that the environment raised."""
    return TrainingError(f"the environment raised {type(error).__name__} {when}: {error}")


def check_return(total: float, episode: int) -> None:
    """Raise TrainingError if the return of an evaluation episode is not finite."""
    if not math.isfinite(total):
        raise TrainingError(
            f"the return of evaluation episode {episode} is {total}: the environment returned a reward that is not finite"
        )


def segment_seed(seed: int, segment: int, stream: int, *, fresh_noise: bool = False) -> np.random.SeedSequence:
    """Derive the seed of one segment's environments, actions or updates."""
    return np.random.SeedSequence([seed, segment, stream, *([1] if fresh_noise else [])])


class RandomNumbers:
    """The random numbers of one run in one segment, all derived from its seed: resets, exploration and batches.

    Args:
        algorithm: the agent's algorithm.
        training: the settings of the loop.
        seed_of: `segment_seed` of the run and the segment, by stream.
        capacity: of the replay buffer.
        missing: environment steps whose transitions are not in the replay buffer, as in fine-tuning.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        training: TrainingConfig,
        seed_of: Callable[[int], np.random.SeedSequence],
        capacity: int,
        missing: int,
    ):
        self._algorithm, self._training, self._capacity, self._missing = algorithm, training, capacity, missing
        self._actions, self._updates = (np.random.default_rng(seed_of(stream)) for stream in (ACTIONS, UPDATES))
        self.reset_seed = int(seed_of(ENVIRONMENTS).generate_state(1)[0] >> 2)

    def noise(self, env_steps: int) -> np.ndarray:
        """Draw uniform actions before `start_steps`, and later the noise of exploring actions, for all environments."""
        training = self._training
        if env_steps < training.start_steps:
            actions: np.ndarray = self._algorithm.random_actions(self._actions, training.num_envs)
            return actions
        noise: np.ndarray = self._algorithm.explore(self._actions, training.num_envs, env_steps / training.env_steps)
        return noise

    def draws(self, env_steps: int) -> Draws:
        """Draw the numbers of the updates that follow the environment step, of which there may be none."""
        size = min(env_steps + self._training.num_envs - self._missing, self._capacity)
        due = updates_due(self._training, env_steps)
        return draw(self._algorithm, self._updates, due, self._training.batch_size, size)


def updates_due(training: TrainingConfig, env_steps: int) -> int:
    """Return the number of updates after a step of all environments."""
    return updates_before(training, env_steps + training.num_envs) - updates_before(training, env_steps)


_store = jax.jit(stored, static_argnums=0, donate_argnums=(1, 2))


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def train(
    algorithm: Algorithm,
    training: TrainingConfig,
    task: str,
    seed: int,
    state: AgentState,
    replay: ReplayState,
    until: int,
    fresh_noise: bool = False,
    native: bool = False,
    step_timeout: float | None = None,
    tell: Callable[[int], None] | None = None,
) -> Generator[Segment, None, None]:
    """Train from `state` to environment step `until`, segment by segment.

    Args:
        algorithm: the agent's algorithm.
        training: the settings of the loop.
        task: the name of the environment.
        seed: the run's seed.
        state: the agent's state between two segments; copied, not consumed.
        replay: its replay buffer, with capacity min(buffer_size, training.env_steps); copied too.
        until: an environment step, at most `training.env_steps`.
        fresh_noise: use other random numbers for resets, exploration and batches than the seed's standard run.
        native: compute updates with the native kernel, which skips pruned weights.
        step_timeout: time limit in seconds for an environment step or reset; exceeding it ends the process (`envs.make`).
        tell: called with the environment step about once a second within a segment; changes no result.

    Yields:
        A Segment after each segment. Its state and replay buffer are valid until the next one is requested.

    Raises:
        TrainingError: a loss is not finite, or the environment raised an exception.
    """
    state, replay = _copy((state, replay))
    env_steps = int(state.env_steps)
    vector = envs.make_vector(task, seed, training.num_envs, step_timeout)
    try:
        while env_steps < until:
            number = env_steps // training.segment_steps
            end = min((number + 1) * training.segment_steps, until)
            started = time.perf_counter()
            seed_of = functools.partial(segment_seed, seed, number, fresh_noise=fresh_noise)
            state, replay, metrics = _train_segment(
                algorithm, training, vector, seed_of, state, replay, env_steps, end, native, tell
            )
            env_steps = end
            seconds = time.perf_counter() - started
            yield Segment(state, lambda replay=replay: replay, env_steps, metrics, seconds)  # type: ignore[misc]
    finally:
        vector.close()


def _train_segment(
    algorithm: Algorithm,
    training: TrainingConfig,
    vector: Any,
    seed_of: Callable[[int], np.random.SeedSequence],
    state: AgentState,
    replay: ReplayState,
    env_steps: int,
    end: int,
    native: bool,
    tell: Callable[[int], None] | None,
) -> tuple[AgentState, ReplayState, dict[str, float]]:
    spaces, num_envs = algorithm.spaces, training.num_envs
    numbers = RandomNumbers(algorithm, training, seed_of, replay.rows.shape[0], env_steps - int(replay.size))
    try:
        observations, _ = vector.reset(seed=numbers.reset_seed)
    except Exception as error:  # the environment's code may raise anything
        raise _raised(error, f"at step {env_steps}") from error
    like, patterns, free = state, None, math.inf  # `free`: updates until a mask may change
    if native:
        patterns, free = patterns_of(state), updates_until_change(state)
        state = pack_state(patterns, state)
    learn, read_policy = learner(algorithm, patterns), policy_reader(algorithm, patterns)
    policy = read_policy(np.asarray(flat_policy(algorithm, state)))
    pending: list[np.ndarray] = []
    metrics: dict[str, jax.Array] = {}
    running_return, finished_returns = np.zeros(num_envs), []

    noise, draws = numbers.noise(env_steps), numbers.draws(env_steps)
    told = time.monotonic()
    while env_steps < end:
        if pending and env_steps - num_envs < training.start_steps <= env_steps:
            # The policy acts for the first time, with the normalizer's statistics up to now.
            state, replay = _store(algorithm, state, replay, np.concatenate(pending))
            pending, policy = [], read_policy(np.asarray(flat_policy(algorithm, state)))
        actions = noise if env_steps < training.start_steps else act(policy, observations, noise)
        try:
            after, rewards, terminated, truncated, info = vector.step(envs.to_environment(spaces, actions))
        except Exception as error:
            raise _raised(error, f"at step {env_steps}") from error
        next_observations = after
        done = terminated | truncated
        ended = done.any()
        if ended:
            # `after` is the first observation of the next episode; the transition needs the final observation.
            next_observations = after.copy()
            for i in np.flatnonzero(done):
                next_observations[i] = info["final_obs"][i]
        rows = pack_rows(Batch(observations, actions, rewards, next_observations, terminated))
        flat = None
        if not len(draws.indices):
            pending.append(rows)
        else:
            if pending:
                state, replay = _store(algorithm, state, replay, np.concatenate(pending))
                pending = []
            due = len(draws.indices)
            if due > free:
                free = updates_until_change(state)
            free -= due
            if patterns is None or free >= 0:
                state, replay, flat, metrics = learn(state, replay, rows, draws)
            else:  # a mask may change: do a dense update, then build the kernel's new pattern
                whole = unpack_state(patterns, state, like)
                like, replay, _, metrics = learner(algorithm)(whole, replay, rows, draws)
                patterns, free = patterns_of(like), updates_until_change(like)
                state = pack_state(patterns, like)
                learn, read_policy = learner(algorithm, patterns), policy_reader(algorithm, patterns)
                flat = flat_policy(algorithm, state)

        check_rows(rows, observations, actions, env_steps, algorithm)
        observations = after
        running_return += rewards
        if ended:
            finished_returns.extend(running_return[done])
            running_return[done] = 0.0
        env_steps += num_envs
        if tell and env_steps < end and time.monotonic() - told >= TELL_EVERY:
            tell(env_steps)
            told = time.monotonic()
        # Drawn while the device computes.
        noise, draws = numbers.noise(env_steps), numbers.draws(env_steps)
        if flat is not None:
            policy = read_policy(np.asarray(flat))
    if pending:
        state, replay = _store(algorithm, state, replay, np.concatenate(pending))

    values = segment_metrics(metrics, finished_returns, env_steps, algorithm)
    return state if patterns is None else unpack_state(patterns, state, like), replay, values


def segment_metrics(
    metrics: Mapping[str, Any], finished_returns: Sequence[float], env_steps: int, algorithm: Algorithm
) -> dict[str, float]:
    """Return the metrics of a segment: of its last update, and the mean return of its finished episodes.

    Raises:
        TrainingError: a metric of the update is not finite.
    """
    values = {f"train/{name}": float(value) for name, value in metrics.items()}
    check_finite(values, env_steps, algorithm)
    if len(finished_returns):
        values["train/return"] = float(np.mean(finished_returns))
    return values


def _diverged(algorithm: Algorithm) -> str:
    name = algorithm_key(algorithm.config)
    name = "agent" if ":" in name else name
    return f"learning diverged. Lower {name}.*_learning_rate or {name}.reward_scale, or set {name}.max_grad_norm."


def check_rows(
    rows: np.ndarray, observations: np.ndarray, actions: np.ndarray, env_steps: int, algorithm: Algorithm
) -> None:
    """Raise TrainingError if a transition is not finite; says whether the policy or the environment is the cause."""
    if np.isfinite(rows).all():
        return
    by_policy = bool(np.isfinite(observations).all() and not np.isfinite(actions).all())
    raise not_finite(by_policy, f"{'by' if by_policy else 'at'} environment step {env_steps}", algorithm)


def not_finite(by_policy: bool, when: str, algorithm: Algorithm) -> TrainingError:
    """Return the error that a transition is not finite."""
    if by_policy:
        return TrainingError(f"the policy's actions became NaN or infinite {when}: {_diverged(algorithm)}")
    return TrainingError(f"the environment returned NaN or infinite observations or rewards {when}")


def check_finite(values: Mapping[str, float], env_steps: int, algorithm: Algorithm) -> None:
    """Raise TrainingError if a metric is not finite."""
    bad = sorted(name for name, value in values.items() if not math.isfinite(value))
    if bad:
        raise TrainingError(
            f"{', '.join(bad)} became NaN or infinite by environment step {env_steps}: {_diverged(algorithm)}"
        )


def metric_rows(env_steps: int, metrics: dict[str, float]) -> Sequence[tuple[int, str, float]]:
    """Return metrics as tidy rows (env_steps, metric, value), sorted by name."""
    return [(env_steps, name, metrics[name]) for name in sorted(metrics)]
