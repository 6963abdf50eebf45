"""Environments that are JAX functions: Gymnasium's dynamics, one program for many, and Gymnasium's interface."""

import importlib.util
import sys
import warnings
from pathlib import Path

import device_suite
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env
from helpers.small import SMALL

from lth import envs
from lth.algorithms.architecture import Spaces
from lth.cli import main
from lth.envs.on_device import DeviceEnv, HostEnv, device_env, prepare
from lth.envs.probe import look
from lth.envs.suites import SUITES, observation_names, suite_of
from lth.errors import InputError, UnknownTask

PENDULUM, CARTPOLE = "device_suite:suite/pendulum", "device_suite:suite/cartpole"
needs_brax = pytest.mark.skipif(not importlib.util.find_spec("brax"), reason="pip install 'lth[brax]'")
TASKS = [PENDULUM, CARTPOLE, pytest.param("brax:fast", marks=needs_brax)]


def actions_of(spaces, steps, seed=0):
    """Return random actions of a DeviceEnv, one row a step."""
    rows = spaces.random_actions(np.random.default_rng(seed), steps)
    return rows[:, 0].astype(np.int32) if spaces.discrete else rows


def episode(env, actions, **how):
    """Return the bytes of what an environment returns, from a reset on, with resets without a seed after episodes."""
    got = [env.reset(**how)[0].tobytes()]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        got.append((observation.tobytes(), reward, terminated, truncated))
        if terminated or truncated:
            got.append(env.reset()[0].tobytes())
    return got


# ---------------------------------------------------------------------------------------------------------------------
# The functions.


@pytest.mark.parametrize(("task", "name"), [(PENDULUM, "Pendulum-v1"), (CARTPOLE, "CartPole-v1")])
def test_the_tasks_of_these_tests_move_as_those_of_gymnasium_do(task, name):
    env, theirs = device_env(task), gymnasium.make(name)
    for seed in range(3):
        theirs.reset(seed=seed)
        state = jnp.asarray(theirs.unwrapped.state, jnp.float32)
        for action in actions_of(env.spaces, 60, seed):
            state, observation, reward, terminated = env.step(state, action)
            want, want_reward, want_terminated, *_ = theirs.step(int(action) if env.spaces.discrete else 2.0 * action)
            np.testing.assert_allclose(state, theirs.unwrapped.state, atol=1e-4)
            np.testing.assert_allclose(observation, want, atol=1e-4)
            np.testing.assert_allclose(reward, want_reward, atol=1e-4)
            assert bool(terminated) == want_terminated
            if want_terminated:
                break
        assert env.spaces.discrete == bool(terminated)
    assert env.episode_steps == theirs.spec.max_episode_steps


@pytest.mark.parametrize("task", TASKS)
def test_states_keep_their_types_so_that_many_environments_are_one_scan(task):
    env = device_env(task)
    actions = jnp.stack([actions_of(env.spaces, 40, seed) for seed in range(3)], axis=1)

    def step(state, action):
        after, observation, reward, terminated = jax.vmap(env.step)(state, action)
        first, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 3))

        def fresh(new, old):
            return jnp.where(terminated.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(fresh, first, after), (observation, reward, terminated)

    keys = jax.random.split(jax.random.key(0), 3)
    state, first = jax.jit(jax.vmap(env.reset))(keys)
    after, (observations, rewards, terminated) = jax.jit(lambda *a: jax.lax.scan(step, *a))(state, actions)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert first.shape == (3, env.spaces.observation_dim)
    assert observations.shape == (40, 3, env.spaces.observation_dim)
    assert (first.dtype, observations.dtype, rewards.dtype, terminated.dtype) == (*3 * [np.float32], np.bool)
    assert rewards.shape == terminated.shape == (40, 3)
    alone, observation = env.reset(keys[2])
    np.testing.assert_allclose(first[2], observation, atol=1e-6)
    for t in range(5):
        alone, observation, reward, _ = env.step(alone, actions[t, 2])
        np.testing.assert_allclose(observations[t, 2], observation, atol=1e-5)
        np.testing.assert_allclose(rewards[t, 2], reward, atol=1e-5)


def test_a_task_has_the_same_functions_each_time():
    assert device_env(PENDULUM) is device_env(PENDULUM)
    assert device_env("Pendulum-v1") is device_env("reach-v3") is None


def test_python_numbers_and_keys_in_a_state_become_arrays_of_one_type():
    def step(state, action):
        key, count, total = state
        return (jax.random.split(key)[0], count + 1, total * 2), jnp.zeros(2, jnp.int32), 1, False

    given = DeviceEnv(Spaces(2, 1), lambda key: ((key, 0, 1.0), jnp.zeros(2)), step, 5)
    env = prepare(lambda task: given, "counts")
    state, _ = env.reset(jax.random.key(0))
    after, observation, reward, terminated = env.step(state, jnp.zeros(1))
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert not any(leaf.weak_type for leaf in (*state[1:], observation, reward, terminated))
    assert (observation.dtype, reward.dtype, terminated.dtype) == (np.float32, np.float32, np.bool)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            lambda s, a: ({"n": s["n"] + 1.0}, jnp.zeros(2), 1.0, False),
            "step's state['n'] is float32[], but must be int32[]",
        ),
        (
            lambda s, a: ({"m": s["n"]}, jnp.zeros(2), 1.0, False),
            "PyTreeDef({'m': *}), but reset's has PyTreeDef({'n': *})",
        ),
        (lambda s, a: (s, jnp.zeros(3), 1.0, False), "step's observation is float32[3], but must be float32[2]"),
        (lambda s, a: (s, jnp.zeros(2), jnp.ones(1), False), "the reward is float32[1], but must be float32[]"),
        (lambda s, a: (s, jnp.zeros(2), 1.0, 0.0), "terminated is float32[], but must be bool[]"),
        (lambda s, a: (s, jnp.zeros(2), 1.0), "ValueError: not enough values to unpack"),
        (lambda s, a: (s, jnp.zeros(2), 1.0 if a[0] > 0 else 0.0, False), "TracerBoolConversionError"),
    ],
)
def test_functions_that_cannot_be_one_program_are_errors_that_say_where(step, says):
    given = DeviceEnv(Spaces(2, 1), lambda key: ({"n": 0}, jnp.zeros(2)), step, 5)
    with pytest.raises(InputError) as raised:
        prepare(lambda task: given, "mine")
    assert str(raised.value).startswith("the task 'mine' cannot be compiled: ")
    assert says in str(raised.value)


@pytest.mark.parametrize("steps", [0, None, 5.0])
def test_episodes_without_a_length_are_errors(steps):
    given = DeviceEnv(Spaces(2, 1), lambda key: (0, jnp.zeros(2)), lambda s, a: (s, jnp.zeros(2), 1.0, False), steps)
    with pytest.raises(InputError, match=r"the task 'mine' has episode_steps=.*, but needs an integer of at least 1"):
        prepare(lambda task: given, "mine")


def test_a_first_observation_of_another_length_is_an_error():
    given = DeviceEnv(Spaces(2, 1), lambda key: (0, jnp.zeros(3)), lambda s, a: (s, jnp.zeros(2), 1.0, False), 5)
    with pytest.raises(InputError, match=r"reset's observation is float32\[3\], but must be float32\[2\]"):
        prepare(lambda task: given, "mine")


# ---------------------------------------------------------------------------------------------------------------------
# Gymnasium's interface.


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_s_checker_accepts_it(task):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(minimum|maximum) value is -?infinity|.*alternative render modes")
        check_env(HostEnv(device_env(task)))


@pytest.mark.parametrize("task", [PENDULUM, CARTPOLE])
def test_a_seed_determines_all_that_follows(task):
    env, actions = envs.make(task), actions_of(envs.task_spaces(task), 250)
    fresh = episode(env, actions, seed=3)
    assert episode(env, actions, seed=3) == fresh
    assert episode(envs.make(task, seed=9), actions, seed=3) == fresh
    assert len({env.reset(seed=seed)[0].tobytes() for seed in range(20)}) == 20
    env.reset(seed=3)
    assert len({fresh[0], *(env.reset()[0].tobytes() for _ in range(20))}) == 21  # and its episodes differ
    assert episode(env, actions, seed=3) == fresh
    assert env.reset(seed=2**32 - 1)[0].tobytes() != env.reset(seed=2**31 - 1)[0].tobytes()


def test_without_any_seed_environments_differ():
    assert envs.make(PENDULUM).reset()[0].tobytes() != envs.make(PENDULUM).reset()[0].tobytes()


def test_it_returns_what_the_functions_return():
    host, env = HostEnv(device_env(CARTPOLE)), device_env(CARTPOLE)
    observation, _ = host.reset(seed=7)
    host.reset()
    for number in range(3):
        observation, _ = host.reset() if number else host.reset(seed=7)
        state, want = env.reset(jax.random.fold_in(jax.random.key(7), number))
        np.testing.assert_array_equal(observation, want)
        for action in (1, 0, 0):
            observation, reward, terminated, truncated, info = host.step(action)
            state, want, *_ = env.step(state, action)
            np.testing.assert_allclose(observation, want, atol=1e-6)
            assert (reward, terminated, truncated, info) == (1.0, False, False, {})


def test_episodes_are_truncated_at_their_length_and_terminate_where_the_task_does():
    pendulum = envs.make(PENDULUM)
    for _ in range(2):
        pendulum.reset(seed=0)
        ends = [pendulum.step(np.zeros(1, np.float32))[2:4] for _ in range(200)]
        assert ends == 199 * [(False, False)] + [(False, True)]
    cartpole = envs.make(CARTPOLE)
    cartpole.reset(seed=0)
    ends = [cartpole.step(1)[2:4] for _ in range(12)]
    assert (False, False) in ends
    assert ends[-1] == (True, False)


@pytest.mark.parametrize(("task", "spaces"), [(PENDULUM, Spaces(3, 1)), (CARTPOLE, Spaces(4, 2, True))])
def test_spaces_names_and_the_check_before_training(task, spaces):
    env = envs.make(task)
    assert envs.spaces_of(env) == envs.task_spaces(task) == device_env(task).spaces == spaces
    assert env.observation_space.dtype == np.float32
    assert np.isinf(env.observation_space.low).all()
    assert env.action_space == (
        gymnasium.spaces.Discrete(2) if spaces.discrete else gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    )
    assert observation_names(task, spaces.observation_dim) == device_suite.OBSERVATIONS[task.partition("/")[2]]
    probed = look(task)
    assert (probed.spaces, probed.fault) == (spaces, "")
    assert probed.episode_steps == 200 or spaces.discrete


def test_rendering_is_refused():
    with pytest.raises(InputError, match="'pendulum' cannot be rendered"):
        envs.make(PENDULUM, render=True)


@pytest.mark.slow
def test_a_run_is_trained_and_evaluated_on_such_a_task(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(device_suite.__file__).parent))  # of the processes that it starts
    config = {**SMALL, "tasks": PENDULUM, "output_dir": str(tmp_path / "results")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", str(tmp_path / "config.yaml"), "--only", "dense"]) == 0, capsys.readouterr().err
    (run,) = (tmp_path / "results" / "device_suite_suite_pendulum" / "seed0").glob("dense-*")
    capsys.readouterr()
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    first = capsys.readouterr().out
    assert first.startswith(f"{PENDULUM}, 2 episodes: return -")
    assert main(["eval", str(run), "--episodes", "2"]) == 0
    assert capsys.readouterr().out == first


# ---------------------------------------------------------------------------------------------------------------------
# Names.


@pytest.mark.parametrize("make", [envs.make, device_env])
def test_unknown_names_name_the_nearest(make):
    with pytest.raises(UnknownTask, match="unknown task 'pendulm'; did you mean 'pendulum'"):
        make("device_suite:suite/pendulm")


def test_the_suite_brax_owns_its_names_alone():
    for task in ("brax:halfcheetah", "brax:halfcheetah:spring", "brax:nothing"):
        assert suite_of(task) == (SUITES["brax"], task)
    for task in ("halfcheetah", "brax-v1", "my_brax:Ant-v5"):
        assert suite_of(task)[0] is SUITES["gymnasium"]


@pytest.mark.parametrize("make", [envs.make, device_env])
def test_without_brax_its_tasks_say_what_to_install(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)  # cannot be imported
    monkeypatch.delitem(sys.modules, "lth.envs.brax", raising=False)
    with pytest.raises(UnknownTask, match=r"'brax:ant:spring' needs the package brax .*pip install 'lth\[brax\]'"):
        make("brax:ant:spring")
    assert SUITES["brax"].names() == []  # and they are not suggested
    assert look("brax:ant:spring").unknown


@needs_brax
@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            "brax:halfchetah",
            "unknown Brax task 'brax:halfchetah'; did you mean 'brax:halfcheetah'? The tasks are brax:ant",
        ),
        ("brax:halfchetah:spring", "did you mean 'brax:halfcheetah'?"),
        ("brax:qqqqqq", "unknown Brax task 'brax:qqqqqq'. The tasks are"),
        ("brax:", "unknown Brax task 'brax:'"),
        ("brax:fast:sprng", "unknown backend in the Brax task 'brax:fast:sprng'; did you mean 'spring'?"),
        ("brax:fast:", "The backends are generalized, spring, positional, mjx."),
        ("brax:swimmer:spring", "Brax cannot create 'brax:swimmer:spring': ValueError: Unsupported backend"),
    ],
)
def test_unknown_brax_tasks_name_the_nearest(task, says):
    with pytest.raises(InputError) as raised:
        envs.make(task)
    assert says in str(raised.value)


@needs_brax
def test_brax_s_names_are_brax_s():
    from brax import envs as theirs

    assert {name.removeprefix("brax:") for name in SUITES["brax"].names()} | {"fast", "swimmer"} == set(theirs._envs)


@needs_brax
def test_brax_s_steps_are_brax_s_own():
    from brax import envs as theirs

    raw = theirs.get_environment("fast")
    env = envs.make("brax:fast")
    observation, _ = env.reset(seed=0)
    state = raw.reset(jax.random.fold_in(jax.random.key(0), 0))
    for action in ([1.0], [-1.0], [0.5]):
        np.testing.assert_allclose(observation, state.obs, atol=1e-7)
        observation, reward, terminated, _, _ = env.step(np.array(action, np.float32))
        state = raw.step(state, jnp.array(action))
        assert reward == pytest.approx(float(state.reward))
        assert terminated is False
    assert device_env("brax:fast").episode_steps == 1000
    assert "brax" in envs.versions()


@needs_brax
def test_brax_s_backends_and_termination():
    env = device_env("brax:inverted_pendulum:spring")
    assert env.spaces == Spaces(4, 1)
    state, _ = env.reset(jax.random.key(0))

    def step(state, _):
        state, _, _, terminated = env.step(state, jnp.ones(1))
        return state, terminated

    _, terminated = jax.jit(lambda state: jax.lax.scan(step, state, length=200))(state)
    assert not terminated[0]
    assert terminated.any()
