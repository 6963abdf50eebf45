"""Environments: resets that repeat, spaces as SAC needs them, no transition across a reset, and Meta-World's goals."""

import functools
import itertools
import subprocess
import sys
import types
from typing import ClassVar

import gymnasium
import jax
import numpy as np
import pytest

from lth import envs
from lth.algorithms.acting import policy_of
from lth.algorithms.architecture import Spaces
from lth.algorithms.base import Agent
from lth.config import SACConfig, TrainingConfig
from lth.envs.metaworld import HELD_OUT_SEED, task_names
from lth.envs.suites import SUITES, suite_of
from lth.errors import InputError, TrainingError
from lth.replay import init_replay, unpack_rows
from lth.training import evaluate, train

# ---------------------------------------------------------------------------------------------------------------------
# Environments made for these tests.


class Counter(gymnasium.Env):
    """Sees (episode, step, whether this episode terminates, its length); episodes are numbered across environments.

    Every third episode is truncated, every third terminates, and every third does both at once.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_mode = None
    numbers: ClassVar = itertools.count(1)

    def __init__(self, render_mode=None):
        self.episode = self.steps = self.length = 0

    def see(self):
        return np.array([self.episode, self.steps, self.episode % 3 != 0, self.length], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = next(self.numbers), 0
        self.length = int(self.np_random.integers(1, 7))
        return self.see(), {}

    def step(self, action):
        self.steps += 1
        end = self.steps == self.length
        return self.see(), float(self.steps), end and self.episode % 3 != 0, end and self.episode % 3 != 1, {}


class Scripted(gymnasium.Env):
    """Four steps that pay 1, 2, 3 and 4 times a number drawn at reset; success is known at some of them."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float64)
    action_space = gymnasium.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32))
    render_mode = None

    def __init__(self, successes, render_mode=None):
        self.successes, self.number, self.steps, self.got = successes, 0.0, 0, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.steps = float(self.np_random.uniform()), 0
        return np.array([self.number, 0.1], np.float64), {}

    def step(self, action):
        self.got, success = np.array(action), self.successes[self.steps]
        self.steps += 1
        info = {} if success is None else {"success": success}
        return np.array([self.number, 0.1]), self.steps * self.number, False, self.steps == 4, info


class Shaped(gymnasium.Env):
    """Nothing but its spaces."""

    render_mode = None

    def __init__(self, observation, action, render_mode=None):
        self.observation_space, self.action_space = observation, action


SUCCESSES = {
    "Never": (0.0, 0.0, 0.0, 0.0),
    "Between": (0.0, 1.0, 0.0, 0.0),
    "AtTheEnd": (False, False, False, True),
    "Undefined": (None, None, None, None),
    "Once": (None, 1.0, None, None),
}
gymnasium.register("Counter-v0", entry_point=Counter)
for name, successes in SUCCESSES.items():
    gymnasium.register(f"Scripted{name}-v0", entry_point=functools.partial(Scripted, successes))

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
UNSUPPORTED = {
    "ImageObservation-v0": (gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8), BOX),
    "DictObservation-v0": (gymnasium.spaces.Dict({"a": BOX}), BOX),
    "EmptyObservation-v0": (gymnasium.spaces.Box(-1.0, 1.0, (0,), np.float32), BOX),
    "UnboundedAction-v0": (BOX, gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)),
    "MatrixAction-v0": (BOX, gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32)),
    "LargestDoubleAction-v0": (BOX, gymnasium.spaces.Box(-1e300, 1e300, (2,), np.float64)),
}
THREE = {"DiscreteAction-v0": (BOX, gymnasium.spaces.Discrete(3))}
DISCRETE = [*THREE, "CartPole-v1"]
for name, spaces in {**UNSUPPORTED, **THREE}.items():
    gymnasium.register(name, entry_point=functools.partial(Shaped, *spaces), disable_env_checker=True)


def episode(env, seed, steps=30):
    """Take a fixed sequence of actions after `reset(seed)`; return the bytes of all that came back."""
    rng = np.random.default_rng(7)
    observation, _ = env.reset(seed=seed)
    got = [observation.tobytes()]
    for _ in range(steps):
        action = rng.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        got += [observation.tobytes(), np.float64(reward).tobytes(), bool(terminated), bool(truncated)]
        if terminated or truncated:
            observation, _ = env.reset()  # what follows is determined too
            got.append(observation.tobytes())
    return got


@pytest.mark.parametrize(
    "task",
    [
        *("Pendulum-v1", "InvertedPendulum-v5", "HalfCheetah-v5", "drawer-close-v3", "reach-v3", "pick-place-v3"),
        *("LunarLanderContinuous-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3"),
    ],
)
def test_reset_with_a_seed_determines_all_that_follows(task):
    if "Lander" in task or "Walker" in task:
        pytest.importorskip("Box2D", reason="needs Box2D: pip install 'lth[box2d]'")
    env = envs.make(task, seed=1)
    fresh = episode(env, seed=3)
    assert episode(env, seed=3) == fresh  # after an episode cut short
    other = episode(env, seed=4, steps=200)
    assert other[0] != fresh[0]
    env.reset()
    env.step(np.ones(env.action_space.shape, np.float32))  # abandoned after one step
    assert episode(env, seed=3) == fresh
    another = envs.make(task, seed=1)
    assert episode(another, seed=3) == fresh
    env.close()
    another.close()


@pytest.mark.parametrize(
    "task", ["Pendulum-v1", "InvertedPendulum-v5", "HalfCheetah-v5", "reach-v3", "ScriptedNever-v0"]
)
def test_observations_are_float32_and_actions_in_one_range(task):
    env = envs.make(task)
    observation, _ = env.reset(seed=0)
    after, reward, *_ = env.step(env.action_space.high)
    assert env.observation_space.dtype == observation.dtype == after.dtype == np.float32
    assert np.isfinite(after).all()
    assert np.isfinite(reward)
    assert observation.shape == env.observation_space.shape == (envs.spaces_of(env).observation_dim,)
    assert env.action_space.dtype == np.float32
    assert (env.action_space.low == -1.0).all()
    assert (env.action_space.high == 1.0).all()
    vector = envs.make_vector(task, 0, 2)
    observations, _ = vector.reset(seed=0)
    assert observations.dtype == np.float32
    assert observations.shape == (2, envs.spaces_of(env).observation_dim)
    assert envs.spaces_of(vector) == envs.spaces_of(env)
    env.close()
    vector.close()


def test_actions_reach_the_ends_of_the_true_space():
    pendulum = envs.make("Pendulum-v1")
    pendulum.reset(seed=0)
    for action, torque in [(1.0, 2.0), (-1.0, -2.0), (0.25, 0.5)]:
        pendulum.step(np.array([action], np.float32))
        assert pendulum.unwrapped.last_u == pytest.approx(torque, abs=1e-6)
    cart = envs.make("InvertedPendulum-v5")
    cart.reset(seed=0)
    for action in (1.0, -1.0):
        cart.step(np.array([action], np.float32))
        assert cart.unwrapped.data.ctrl == pytest.approx([3.0 * action])
    lopsided = envs.make("ScriptedNever-v0")
    lopsided.reset(seed=0)
    for action, true in [([-1.0, -1.0], [-1.0, 0.0]), ([1.0, 1.0], [3.0, 10.0]), ([0.0, -0.5], [1.0, 2.5])]:
        lopsided.step(np.array(action, np.float32))
        np.testing.assert_allclose(lopsided.unwrapped.got, true, atol=1e-6)
        lopsided.reset()
    cart.close()


def test_actions_in_float32_are_within_bounds_of_float64():
    """The float32 next to 0.1 is above it, and environments may assert that actions are in their space."""
    space = gymnasium.spaces.Box(np.array([-0.1, -1.1, -np.inf]), np.array([0.3, 0.1, 1e300]), dtype=np.float64)
    env = types.SimpleNamespace(observation_space=Counter.observation_space, action_space=space, unwrapped=None)
    found = envs.interface_of(env)
    assert (found.action_low.dtype, found.action_high.dtype) == (np.float32, np.float32)
    assert (found.action_low >= space.low).all()
    assert (found.action_high[:2] <= space.high[:2]).all()
    np.testing.assert_allclose(found.action_high[:2], [0.3, 0.1], rtol=1e-6)
    assert (found.action_low[2], found.action_high[2]) == (-np.inf, np.inf)
    exact = gymnasium.spaces.Box(-0.4, 0.4, (3,), np.float32)  # a bound in float32 is itself
    assert (
        envs.interface_of(types.SimpleNamespace(**{**vars(env), "action_space": exact})).action_high == exact.high
    ).all()


@pytest.mark.parametrize("num_envs", [1, 3])
def test_no_transition_crosses_a_reset(num_envs, monkeypatch):
    monkeypatch.setattr("lth.training.TELL_EVERY", 0.0)
    config = SACConfig(actor_hidden=(4,), critic_hidden=(4,))
    training = TrainingConfig(env_steps=600, start_steps=450, batch_size=8, segment_steps=150, num_envs=num_envs)
    algorithm = config.build(Spaces(4, 1))
    state = algorithm.init(jax.random.key(0))
    returns, told = [], []
    for segment in train(algorithm, training, "Counter-v0", 0, state, init_replay(600, 4, 1), 600, tell=told.append):
        replay = jax.tree.map(np.array, segment.replay)
        returns.append(segment.metrics["train/return"])
    assert int(replay.size) == 600
    assert told == [
        step for step in range(num_envs, 600, num_envs) if step % 150
    ]  # between segments their caller tells
    # One row for each environment and step, so each environment's own are `num_envs` apart.
    finished, kinds = [], set()
    for i in range(num_envs):
        batch = unpack_rows(replay.rows[i::num_envs], 4)
        episodes, steps, terminates, length = batch.observations.T
        next_episodes, next_steps, _, next_length = batch.next_observations.T
        assert (episodes > 0).all()
        assert (next_episodes == episodes).all()
        assert (next_steps == steps + 1).all()
        assert (next_length == length).all()
        assert (next_steps <= length).all()
        assert (batch.rewards == next_steps).all()
        at_end = next_steps == length
        np.testing.assert_array_equal(batch.terminated, at_end & (terminates == 1))
        kinds |= set(episodes[at_end] % 3)
        # Nothing is left out either: an episode's steps follow one another from 0, until it or its segment ends.
        segment_ends = np.arange(1, len(steps) + 1) % (150 // num_envs) == 0
        goes_on = ~(at_end | segment_ends)
        assert steps[0] == 0
        np.testing.assert_array_equal(episodes[1:] == episodes[:-1], goes_on[:-1])
        np.testing.assert_array_equal(steps[1:], np.where(goes_on, steps + 1, 0)[:-1])
        finished.append([n * (n + 1) / 2 for n in length[at_end]])  # these paid 1 + 2 + ... + n
    assert kinds == {0, 1, 2}  # truncated, terminated, both
    # Each segment reports the mean of the whole episodes in it.
    if num_envs == 1:
        ends = np.flatnonzero(at_end) // 150
        expected = [np.mean(np.array(finished[0])[ends == k]) for k in range(4)]
        np.testing.assert_allclose(returns, expected)


def test_a_vector_of_environments_starts_from_different_seeds_and_hands_over_last_observations():
    vector = envs.make_vector("reach-v3", 0, 2)
    observations, _ = vector.reset(seed=5)
    again, _ = vector.reset(seed=5)
    np.testing.assert_array_equal(observations, again)
    goals = observations[:, -3:]
    assert (goals[0] != goals[1]).any()
    for step in range(1, 501):
        observations, _, terminated, truncated, info = vector.step(np.zeros((2, 4), np.float32))
        assert not terminated.any()
        assert truncated.tolist() == [step == 500] * 2
    np.testing.assert_array_equal([o[-3:] for o in info["final_obs"]], goals)
    assert (observations[:, -3:] != goals).any(axis=1).all()
    vector.close()


# ---------------------------------------------------------------------------------------------------------------------
# Meta-World.


def starts(env, seeds):
    """Return the first observations, as bytes, of the episodes of these seeds."""
    return [env.reset(seed=seed)[0].tobytes() for seed in seeds]


def test_goals_of_training_differ_by_seed_and_those_of_evaluation_do_not():
    seeds = range(60)
    training = [set(starts(envs.make("reach-v3", seed), seeds)) for seed in (0, 1)]
    evaluation = [starts(envs.make("reach-v3", seed, envs.EVALUATE), seeds) for seed in (0, 1, 2)]
    for goals in (*training, set(evaluation[0])):
        assert 30 < len(goals) <= 50
    assert not training[0] & training[1]
    assert evaluation[0] == evaluation[1] == evaluation[2]
    assert not set(evaluation[0]) & (training[0] | training[1])
    # The same seed has the same goals.
    assert set(starts(envs.make("reach-v3", 1), seeds)) == training[1]


def test_the_evaluation_seed_cannot_be_trained_on():
    with pytest.raises(InputError, match="held-out evaluation goal is also a training goal"):
        envs.make("reach-v3", HELD_OUT_SEED, envs.EVALUATE)


@pytest.mark.parametrize("task", ["reach-v3", "drawer-close-v3", "pick-place-v3"])
def test_the_goal_is_in_the_observation_and_changes_between_resets(task):
    env = envs.make(task)
    goals = []
    env.reset(seed=0)
    for _ in range(8):
        observation, _ = env.reset()
        after, *_ = env.step(np.zeros(4, np.float32))
        assert observation.shape == (39,)
        assert (observation[-3:] != 0.0).all()
        np.testing.assert_array_equal(observation[-3:], after[-3:])
        goals.append(observation[-3:].tobytes())
    assert len(set(goals)) > 4
    env.close()


def test_metaworld_episodes_end_at_500_steps_and_say_whether_they_succeed():
    env = envs.make("drawer-close-v3")
    for seed in (0, 1):
        env.reset(seed=seed)
        for step in range(1, 501):
            _, reward, terminated, truncated, info = env.step(np.zeros(4, np.float32))
            assert isinstance(reward, float)
            assert info["success"] in (0.0, 1.0)
            assert terminated is False
            assert truncated == (step == 500)
    env.close()


@pytest.mark.full  # benchmarks/metaworld_steps.py compares all of them; a few are in test_fast_metaworld.py
def test_all_fifty_tasks_are_made_by_name_and_step():
    assert len(task_names()) == 50
    for task in task_names():
        assert suite_of(task) == (SUITES["metaworld"], task)
        env = envs.make(task)
        assert envs.spaces_of(env) == Spaces(39, 4), task
        observation, _ = env.reset(seed=0)
        after, reward, terminated, truncated, info = env.step(np.full(4, 0.5, np.float32))
        assert np.isfinite(observation).all(), task
        assert np.isfinite(after).all(), task
        assert (after != observation).any(), task
        assert np.isfinite(reward), task
        assert not terminated, task
        assert not truncated, task
        assert info["success"] in (0.0, 1.0), task
        env.close()


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation.


def a_policy(observation_dim, action_dim):
    config = SACConfig(actor_hidden=(4,), critic_hidden=(4,))
    return policy_of(Agent(config, config.build(Spaces(observation_dim, action_dim)).init(jax.random.key(0))))


@pytest.mark.parametrize(
    ("kind", "successes"),
    [("Never", [0.0] * 3), ("Between", [1.0] * 3), ("AtTheEnd", [1.0] * 3), ("Undefined", None), ("Once", [1.0] * 3)],
)
def test_success_is_success_at_any_step_where_the_task_defines_it(kind, successes):
    env = envs.make(f"Scripted{kind}-v0")
    result = evaluate(a_policy(2, 2), env, 3)
    assert result.successes == successes
    assert result.success_rate == (successes[0] if successes else None)
    assert result.success_rate_at_end == (float(kind == "AtTheEnd") if successes else None)


def test_evaluation_is_of_whole_episodes_that_are_the_same_each_time():
    env = envs.make("ScriptedNever-v0")
    frames = []
    first = evaluate(a_policy(2, 2), env, 3)
    second = evaluate(a_policy(2, 2), env, 4)
    filmed = evaluate(a_policy(2, 2), env, 1, lambda: frames.append(env.unwrapped.steps))
    assert second.returns[:3] == first.returns
    assert filmed.returns == first.returns[:1]
    assert len(set(second.returns)) == 4
    assert first.return_mean == np.mean(first.returns)
    assert frames == [0, 1, 2, 3, 4]
    numbers = []
    for i in range(3):
        env.reset(seed=1_000_000 + i)
        numbers.append(env.unwrapped.number)
    np.testing.assert_allclose(first.returns, 10.0 * np.array(numbers))  # 1 + 2 + 3 + 4


def test_what_raises_is_named():
    env = envs.make("helpers.odd:RaisesAtReset-v0")
    with pytest.raises(TrainingError, match=r"^the environment raised RuntimeError during an evaluation: no start$"):
        evaluate(a_policy(2, 2), env, 1)
    config = SACConfig(actor_hidden=(4,), critic_hidden=(4,))
    training = TrainingConfig(env_steps=20, start_steps=10, segment_steps=10)
    algorithm = config.build(Spaces(2, 2))
    state = algorithm.init(jax.random.key(0))
    with pytest.raises(TrainingError, match=r"^the environment raised RuntimeError at step 0: no start$"):
        next(train(algorithm, training, "helpers.odd:RaisesAtReset-v0", 0, state, init_replay(20, 2, 2), 20))

    def head(output, noise):
        raise KeyError("of the policy")

    with pytest.raises(KeyError, match="of the policy"):  # not blamed on the environment
        evaluate(a_policy(2, 2)._replace(head=head), envs.make("ScriptedNever-v0"), 1)


def test_evaluation_of_real_tasks():
    pendulum = evaluate(a_policy(3, 1), envs.make("Pendulum-v1", split=envs.EVALUATE), 2)
    assert pendulum.successes is None
    assert pendulum.success_rate is None
    assert -2000.0 < pendulum.return_mean < 0.0
    drawer = envs.make("drawer-close-v3", split=envs.EVALUATE)
    result = evaluate(a_policy(39, 4), drawer, 2)
    assert set(result.successes) <= {0.0, 1.0}
    assert len(result.returns) == 2
    assert result == evaluate(a_policy(39, 4), drawer, 2)
    drawer.close()


# ---------------------------------------------------------------------------------------------------------------------
# What is refused.


@pytest.mark.parametrize(
    ("task", "nearest"),
    [
        ("HalfCheeta-v5", "HalfCheetah-v5"),
        ("HalfCheetah-v9", "HalfCheetah-v5"),
        ("pendulum-v1", "Pendulum-v1"),
        ("drawer-clos-v3", "drawer-close-v3"),
        ("drawer-close-v2", "drawer-close-v3"),
        ("drawer-close", "drawer-close-v3"),
        ("Reach-v3", "reach-v3"),
    ],
)
def test_unknown_tasks_name_the_nearest(task, nearest):
    for split in (envs.TRAIN, envs.EVALUATE):
        with pytest.raises(InputError) as raised:
            envs.make(task, split=split)
        assert repr(task) in str(raised.value)
        assert f"did you mean {nearest!r}?" in str(raised.value)
    with pytest.raises(InputError, match="did you mean"):
        envs.check_task(task, SACConfig())


@pytest.mark.parametrize("task", ["qqqqqqqq", "qqqqqqqq-v3", "qqqqqqqq/qqqqqqqq-v1", ""])
def test_unknown_tasks_with_nothing_near_say_what_there_is(task):
    with pytest.raises(InputError) as raised:
        envs.make(task)
    message = str(raised.value)
    assert repr(task) in message
    assert "did you mean" not in message
    if task:
        assert "'drawer-close-v3'" in message
        assert f"{task!r} T" not in message  # a sentence ends before the next begins


@pytest.mark.parametrize("task", [*UNSUPPORTED, *DISCRETE])
def test_unsupported_spaces_are_refused_by_name(task):
    # Discrete actions are not refused by themselves, but by SAC, before and when its agent is made.
    refusals = [lambda: envs.check_task(task, SACConfig())]
    if task in DISCRETE:
        refusals.append(lambda: SACConfig().build(envs.task_spaces(task), task))
    else:
        refusals.append(lambda: envs.make(task))
    for refusal in refusals:
        with pytest.raises(InputError) as raised:
            refusal()
        assert repr(task) in str(raised.value)
        assert "observation space" in str(raised.value) if "Observation" in task else "action" in str(raised.value)


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("jax", "flax", "optax", "mujoco", "metaworld", "gymnasium", "matplotlib")
    program = (
        "import sys, lth; lth.InputError; from lth import envs, config, threads; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
    one = subprocess.run(
        [sys.executable, "-c", f"import sys, lth; print([name for name in {heavy} if name in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert one.stdout.strip() == "[]"
