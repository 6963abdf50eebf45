"""Environments of a few steps whose values and best policies are known; and short training runs on them."""

import dataclasses
import functools
from typing import ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from lth import envs
from lth.algorithms.acting import act, policy_of
from lth.algorithms.base import Agent
from lth.config import replay_capacity
from lth.replay import init_replay
from lth.training import train


class Probe(gymnasium.Env):
    """One observation, one action; a subclass says what is seen, what is paid, and when it ends."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_mode = None

    def __init__(self, render_mode=None):
        self.seen = 0.7
        self.steps = 0

    def start(self):
        """Return the observation of a new episode."""
        return 0.7

    def outcome(self, action):
        """Return reward and whether the task ended; may change what is seen."""
        raise NotImplementedError

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.seen = self.start()
        return np.array([self.seen], np.float32), {}

    def step(self, action):
        self.steps += 1
        reward, terminated = self.outcome(float(action[0]))
        return np.array([self.seen], np.float32), reward, terminated, False, {}


class Constant(Probe):
    """One step that pays 1."""

    def outcome(self, action):
        return 1.0, True


class FollowsObservation(Probe):
    """One step that pays the observation, -1 or 1."""

    def start(self):
        return float(self.np_random.choice([-1.0, 1.0]))

    def outcome(self, action):
        return self.seen, True


class TwoSteps(Probe):
    """Two steps, seen as 0 and 1, of which the second pays 1."""

    def start(self):
        return 0.0

    def outcome(self, action):
        self.seen = 1.0
        return float(self.steps == 2), self.steps == 2


class ActionMatters(Probe):
    """One step that pays 1 for the action 0.5, and less by the square of the distance."""

    def outcome(self, action):
        return 1.0 - (action - 0.5) ** 2, True


class BothMatter(FollowsObservation):
    """One step that pays most, 1, for half of the observation as action."""

    def outcome(self, action):
        return 1.0 - (action - 0.5 * self.seen) ** 2, True


class Forever(Probe):
    """Pays 1 at each step and never ends by itself."""

    def outcome(self, action):
        return 1.0, False


class Wandering(FollowsObservation):
    """Seven steps to places at random, paying the place times the action."""

    def outcome(self, action):
        self.seen = float(self.np_random.uniform(-1.0, 1.0))
        return self.seen * action, self.steps == 7


class Broken(Probe):
    """Gives one bad number in its third episode: at its start, or as reward or observation of its fifth step."""

    episodes: ClassVar[int] = 0
    bad_start: ClassVar[float] = 1.0
    bad_reward: ClassVar[float] = 1.0
    bad_observation: ClassVar[float] = 1.0

    def start(self):
        self.episodes += 1
        return self.bad_start if self.episodes == 3 else 1.0

    def outcome(self, action):
        bad = self.episodes == 3 and self.steps == 5
        self.seen = self.bad_observation if bad else 1.0
        return self.bad_reward if bad else 1.0, self.steps == 20


class NanReward(Broken):
    bad_reward = float("nan")


class InfiniteReward(Broken):
    bad_reward = float("-inf")


class NanObservation(Broken):
    bad_observation = float("nan")


class NanStart(Broken):
    bad_start = float("nan")


class Discrete(Probe):
    """The same with two actions, counted from 3: 3 stands for -0.5 and 4 for 0.5."""

    action_space = gymnasium.spaces.Discrete(2, start=3)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step([action - 3.5])


class DiscreteConstant(Discrete, Constant):
    pass


class DiscreteTwoSteps(Discrete, TwoSteps):
    pass


class DiscreteActionMatters(Discrete, ActionMatters):
    pass


class DiscreteBothMatter(Discrete, BothMatter):
    pass


class DiscreteForever(Discrete, Forever):
    pass


class DiscreteWandering(Discrete, Wandering):
    pass


PROBES = {
    "DiscreteConstant-v0": (DiscreteConstant, None),
    "DiscreteTwoSteps-v0": (DiscreteTwoSteps, None),
    "DiscreteActionMatters-v0": (DiscreteActionMatters, None),
    "DiscreteBothMatter-v0": (DiscreteBothMatter, None),
    "DiscreteForever-v0": (DiscreteForever, 3),
    "DiscreteWandering-v0": (DiscreteWandering, None),
    "ProbeConstant-v0": (Constant, None),
    "ProbeFollowsObservation-v0": (FollowsObservation, None),
    "ProbeTwoSteps-v0": (TwoSteps, None),
    "ProbeActionMatters-v0": (ActionMatters, None),
    "ProbeBothMatter-v0": (BothMatter, None),
    "ProbeForever-v0": (Forever, 3),
    "ProbeWandering-v0": (Wandering, None),
    "ProbeTerminatedAtTheLimit-v0": (Constant, 1),
    "ProbeNanReward-v0": (NanReward, None),
    "ProbeInfiniteReward-v0": (InfiniteReward, None),
    "ProbeNanObservation-v0": (NanObservation, None),
    "ProbeNanStart-v0": (NanStart, None),
}
for name, (probe, limit) in PROBES.items():
    gymnasium.register(name, entry_point=probe, max_episode_steps=limit, disable_env_checker=True)


def beginning(config, training, task, seed=0):
    """Return the untrained state and the empty replay buffer."""
    env = envs.make(task)
    spaces = envs.spaces_of(env)
    env.close()
    state = config.build(spaces).init(jax.random.key(seed))
    return state, init_replay(replay_capacity(config, training), spaces.observation_dim, spaces.action_width)


def segments(config, training, task, seed=0, start=None, until=None):
    """Train and return each segment, its arrays copied to the host so that they outlive the next one."""
    state, replay = start or beginning(config, training, task, seed)
    algorithm = Agent(config, state).algorithm
    return [
        dataclasses.replace(
            segment, state=on_host(segment.state), read_replay=functools.partial(as_it_is, on_host(segment.replay))
        )
        for segment in train(algorithm, training, task, seed, state, replay, until or training.env_steps)
    ]


def as_it_is(value):
    return value


def last(config, training, task, seed=0, start=None, until=None):
    return segments(config, training, task, seed, start, until)[-1]


def on_host(tree):
    def copy(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jnp.copy(leaf) if is_key else np.array(leaf)

    return jax.tree.map(copy, tree)


def best_actions(config, state, observations):
    return act(policy_of(Agent(config, state)), np.asarray(observations, np.float32)[:, None])[:, 0]
