"""Check an export: compare its actions with the agent's on recorded observations, and measure its return."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError, InputError
from ..training import EVALUATION_SEED, LONGEST_EPISODE
from .network import Network, outputs, units
from .subjects import Subject

Act = Callable[[np.ndarray], np.ndarray]
"""Observations (n, observation_dim) float32 -> actions, both in the environment's units."""
TOLERANCE = 1e-5
"""The largest allowed difference of an action, in units of max(half its range, 1)."""
STEPS = 200


class Returns(NamedTuple):
    """The returns of episodes."""

    mean: float
    error: float
    """The standard error of the mean; NaN for one episode."""
    episodes: int
    success: float | None = None
    """The share of successful episodes; None if the task does not define success."""


def record(subject: Subject, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Run evaluation episodes, and return the observations (steps, observation_dim) float32 and the agent's actions.

    Without an environment, observations are drawn from a standard normal distribution, clipped to their bounds.
    """
    if subject.examples is not None:
        return subject.examples, subject.act(subject.examples)
    if subject.make_env is None:
        drawn = np.random.default_rng(0).standard_normal((steps, subject.network.observation_dim))
        drawn = np.clip(drawn, subject.interface.observation_low, subject.interface.observation_high).astype(np.float32)
        return drawn, subject.act(drawn)
    env = subject.make_env()
    seen: list[np.ndarray] = []
    try:
        episode = 0
        observation, _ = env.reset(seed=EVALUATION_SEED)
        while len(seen) < steps:
            seen.append(np.asarray(observation, np.float32).ravel())
            action = subject.act(seen[-1][None])[0]
            observation, _, terminated, truncated, _ = env.step(for_environment(env, action))
            if terminated or truncated:
                episode += 1
                observation, _ = env.reset(seed=EVALUATION_SEED + episode)
    finally:
        env.close()
    observations = np.stack(seen)
    return observations, subject.act(observations)


def for_environment(env: Any, action: Any) -> Any:
    """Return an action in the dtype of an environment's action space."""
    space = env.action_space
    return np.asarray(action).astype(space.dtype) if hasattr(space, "low") else int(action)


def deviation(network: Network, observations: np.ndarray, actions: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of actions from the expected ones.

    For continuous actions, it is in units of max(half their range, 1), or of max(|expected|, 1) without bounds. For discrete
    actions, it is the difference between the network's values of the expected and the chosen action, in units of max(largest
    value, 1), because actions with equal values may both be chosen.
    """
    if network.squash == "argmax":
        values = outputs(network, observations).astype(np.float64)
        rows = np.arange(len(values))
        chosen, wanted = (values[rows, np.asarray(a) - network.first_action] for a in (actions, expected))
        return float(np.max(np.abs(wanted - chosen) / np.maximum(np.abs(values).max(axis=1), 1.0)))
    scale = units(network) if len(network.low) else np.maximum(np.abs(expected), 1.0)
    gap = np.abs(np.asarray(actions, np.float64) - expected) / scale
    return float(gap.max()) if np.isfinite(gap).all() else math.inf


def tolerance_of(network: Network) -> float:
    """Return the allowed difference of the action with the smallest range: TOLERANCE times max(half the range, 1)."""
    return TOLERANCE * float(units(network).min()) if len(network.low) else TOLERANCE


def decided(network: Network, observations: np.ndarray) -> np.ndarray:
    """Return whether the best discrete action exceeds all others by more than `deviation` allows, (n,) bool.

    Elsewhere a program whose rounding differs may choose another action.
    """
    values = np.sort(outputs(network, observations).astype(np.float64), axis=1)
    if values.shape[1] == 1:
        return np.ones(len(values), bool)
    gap: np.ndarray = (values[:, -1] - values[:, -2]) / np.maximum(np.abs(values).max(axis=1), 1.0)
    return gap > TOLERANCE


def check(
    name: str, network: Network, act: Act, observations: np.ndarray, expected: np.ndarray, cause: str = ""
) -> float:
    """Compare a program's actions with the expected ones; returns the deviation.

    Args:
        name: the program.
        network: what it computes.
        act: the program.
        observations: (n, observation_dim) float32.
        expected: the actions that it must choose.
        cause: a sentence about the likely cause of a difference, for the error.

    Raises:
        ExportError: they differ by more than TOLERANCE.
    """
    found = deviation(network, observations, act(observations), expected)
    if not found <= TOLERANCE:
        precision = (
            "very large observations or weights exceed the precision of float32; if yours are not, please report this."
        )
        raise ExportError(
            f"the {name} policy differs from the agent by {found:.2g} on {len(observations)} recorded observations, but at most "
            f"{TOLERANCE:g} is allowed, so nothing was written. "
            + (f"{cause} Otherwise, {precision}" if cause else precision.capitalize())
        )
    return found


def returns(subject: Subject, act: Act, episodes: int) -> Returns | None:
    """Run evaluation episodes in the environment's units; None without an environment or for 0 episodes.

    Raises:
        InputError: an episode does not end, or a reward is not finite.
    """
    if subject.make_env is None or episodes < 1:
        return None
    env, totals, successes = subject.make_env(), [], []
    try:
        for episode in range(episodes):
            observation, _ = env.reset(seed=EVALUATION_SEED + episode)
            total, success, done, steps = 0.0, None, False, 0
            while not done:
                steps += 1
                if steps > LONGEST_EPISODE:
                    raise InputError(
                        f"an episode did not end after {LONGEST_EPISODE} steps; --episodes 0 skips this measurement"
                    )
                action = act(np.asarray(observation, np.float32).reshape(1, -1))[0]
                observation, reward, terminated, truncated, info = env.step(for_environment(env, action))
                total, done = total + float(reward), terminated or truncated
                if not math.isfinite(total):
                    raise InputError(
                        f"the environment's reward is {float(reward)} at step {steps} of an episode, so that there is no return; "
                        "--episodes 0 skips this measurement"
                    )
                for key in ("success", "is_success"):
                    if key in info:
                        success = max(success or 0.0, float(info[key]))
            totals.append(total)
            successes.append(success)
    finally:
        env.close()
    error = float(np.std(totals, ddof=1) / math.sqrt(episodes)) if episodes > 1 else math.nan
    known = [s for s in successes if s is not None]
    return Returns(float(np.mean(totals)), error, episodes, float(np.mean(known)) if len(known) == episodes else None)


def seconds_of(act: Act, observations: np.ndarray, calls: int = 200) -> float:
    """Return the seconds per call with one observation: the minimum over several rounds."""
    one = [observations[i % len(observations)][None] for i in range(calls)]
    act(one[0])
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        for observation in one:
            act(observation)
        best = min(best, (time.perf_counter() - started) / calls)
    return best
