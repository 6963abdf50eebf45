"""TD3 and DQN learn the known values and policies of the probe environments, and train as segments say."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.probes import beginning, best_actions, last, segments

from lth import envs
from lth.algorithms.architecture import Spaces
from lth.algorithms.base import Agent, normalize
from lth.config import DQNConfig, TD3Config, TrainingConfig
from lth.errors import InputError
from lth.replay import unpack_rows

TD3 = TD3Config(
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    discount=0.5,
    tau=0.05,
    exploration_noise=0.3,
)
DQN = DQNConfig(q_hidden=(32, 32), q_learning_rate=3e-3, discount=0.5, target_every=20)
SHORT = TrainingConfig(env_steps=1500, start_steps=300, batch_size=64, segment_steps=500)
TOLERANCE = 0.05
EVERYWHERE = [-0.9, -0.5, 0.0, 0.5, 0.9]


def td3_values(state, observations, actions):
    seen = normalize(state.normalizer, jnp.asarray(observations, jnp.float32)[:, None])
    critic = TD3.build(Spaces(1, 1)).applies()["critic"]
    return np.asarray(critic(state.params["critic"], seen, jnp.asarray(actions, jnp.float32)[:, None]))


def dqn_values(state, observations):
    seen = normalize(state.normalizer, jnp.asarray(observations, jnp.float32)[:, None])
    return np.asarray(DQN.build(Spaces(1, 2, True)).applies()["q"](state.params["q"], seen))


@pytest.mark.parametrize(
    ("task", "observations", "actions", "expected"),
    [
        ("ProbeConstant-v0", [0.7] * 5, EVERYWHERE, [1.0] * 5),
        ("ProbeTwoSteps-v0", [0.0, 0.0, 1.0, 1.0], [-0.5, 0.5, -0.5, 0.5], [0.5, 0.5, 1.0, 1.0]),
        ("ProbeActionMatters-v0", [0.7] * 4, [0.0, 0.3, 0.5, 0.9], [0.75, 0.96, 1.0, 0.84]),
        # a time limit does not end the task: 1 + 0.5 + 0.25 + ... = 2
        ("ProbeForever-v0", [0.7] * 5, EVERYWHERE, [2.0] * 5),
    ],
)
def test_td3_learns_the_known_values(task, observations, actions, expected):
    values = td3_values(last(TD3, SHORT, task).state, observations, actions)
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("task", "observations", "expected"),
    [("ProbeActionMatters-v0", [0.7], [0.5]), ("ProbeBothMatter-v0", [-1.0, 1.0], [-0.5, 0.5])],
)
def test_td3_learns_the_known_policy(task, observations, expected):
    segment = last(TD3, SHORT, task)
    np.testing.assert_allclose(best_actions(TD3, segment.state, observations), expected, atol=0.1)


def test_td3s_actor_and_its_moments_move_at_every_second_update():
    training = TrainingConfig(env_steps=120, start_steps=99, batch_size=16, segment_steps=10)
    found = segments(TD3, training, "ProbeWandering-v0")
    for segment in found:
        updates = max(segment.env_steps - 99, 0)
        assert int(segment.state.grad_steps) == updates
        assert int(segment.state.opts["critic"].inner[0].count) == updates
        assert int(segment.state.opts["actor"].inner[0].count) == updates // 2


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    ("task", "observations", "expected"),
    [
        ("DiscreteConstant-v0", [0.7], [[1.0, 1.0]]),
        # discount 0.5: the start is worth half of the end
        ("DiscreteTwoSteps-v0", [0.0, 1.0], [[0.5, 0.5], [1.0, 1.0]]),
        ("DiscreteActionMatters-v0", [0.7], [[0.0, 1.0]]),
        ("DiscreteBothMatter-v0", [-1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]]),
        ("DiscreteForever-v0", [0.7], [[2.0, 2.0]]),
    ],
)
def test_dqn_learns_the_known_values_and_policy(task, observations, expected, double):
    config = DQN.model_copy(update={"double": double})
    state = last(config, SHORT, task).state
    np.testing.assert_allclose(dqn_values(state, observations), expected, atol=TOLERANCE)
    for row, action in zip(expected, best_actions(config, state, observations), strict=True):
        assert row[int(action)] == max(row)


def test_epsilon_falls_as_the_schedule_says():
    config = DQN.model_copy(update={"exploration_initial": 0.9, "exploration_final": 0.1, "exploration_fraction": 0.5})
    algorithm = config.build(Spaces(1, 5, True))
    assert [algorithm.epsilon(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.9, 0.5, 0.1, 0.1])
    drawn = algorithm.explore(np.random.default_rng(0), 40_000, 0.25)
    explored = drawn[drawn >= 0]
    assert len(explored) / 40_000 == pytest.approx(0.5, abs=0.01)
    assert [float(np.mean(explored == a)) for a in range(5)] == pytest.approx([0.2] * 5, abs=0.015)
    output = np.eye(5, dtype=np.float32)[np.arange(40_000) % 5]
    acted = algorithm.act(output, drawn)
    assert (acted[drawn < 0] == (np.arange(40_000) % 5)[:, None][drawn < 0]).all()
    assert (acted[drawn >= 0] == explored).all()


def test_dqn_without_exploration_takes_the_greedy_action_after_the_random_start():
    quiet = {"exploration_initial": 0.0, "exploration_final": 0.0, "q_learning_rate": 1e-30}
    config = DQN.model_copy(update=quiet)
    training = TrainingConfig(env_steps=400, start_steps=200, batch_size=16, segment_steps=400)
    segment = last(config, training, "DiscreteWandering-v0")
    rows = unpack_rows(segment.replay.rows[: int(segment.replay.size)], 1)
    assert set(np.unique(rows.actions[:200])) == {0.0, 1.0}
    # The normalizer moves on, so compare with the untrained network on the observations that it saw.
    start, _ = beginning(config, training, "DiscreteWandering-v0")
    chosen = best_actions(config, start._replace(normalizer=segment.state.normalizer), rows.observations[200:, 0])
    assert np.mean(chosen == rows.actions[200:, 0]) > 0.97


@pytest.mark.parametrize(
    ("config", "task"), [(TD3, "ProbeWandering-v0"), (DQN, "DiscreteWandering-v0")], ids=["td3", "dqn"]
)
def test_training_goes_on_from_a_segment_to_the_same_bytes(config, task):
    training = TrainingConfig(env_steps=360, start_steps=100, batch_size=16, segment_steps=60, num_envs=2)
    whole = segments(config, training, task)
    resumed = segments(config, training, task, start=(whole[2].state, whole[2].replay))
    for one, other in zip(whole[3:], resumed, strict=True):
        for name in ("params", "targets", "opts", "grad_steps"):
            a, b = getattr(one.state, name), getattr(other.state, name)
            assert [x.tobytes() for x in _leaves(a)] == [x.tobytes() for x in _leaves(b)], name
        assert one.metrics == other.metrics


def _leaves(tree):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_the_edge_hands_discrete_actions_over_as_the_environment_counts_them():
    env = envs.make("DiscreteConstant-v0")
    assert envs.spaces_of(env) == Spaces(1, 2, True)
    env.reset(seed=0)
    for action in (0, 1):
        env.step(envs.to_environment(Spaces(1, 2, True), np.array([[action]], np.float32))[0])
    vector = envs.make_vector("DiscreteConstant-v0", 0, 3)
    assert envs.spaces_of(vector) == Spaces(1, 2, True)
    vector.reset(seed=0)
    vector.step(envs.to_environment(Spaces(1, 2, True), np.zeros((3, 1), np.float32)))
    vector.close()
    envs.check_task("DiscreteConstant-v0", DQN)
    with pytest.raises(InputError, match="which TD3 does not support"):
        envs.check_task("DiscreteConstant-v0", TD3)


@pytest.mark.parametrize("task", ["CartPole-v1", "Acrobot-v1", "LunarLander-v3"])
def test_dqn_trains_on_the_tasks_that_the_docs_name(task):
    if task == "LunarLander-v3":
        pytest.importorskip("Box2D", reason="Box2D is not installed: pip install -e '.[box2d]'")
    training = TrainingConfig(env_steps=300, start_steps=100, batch_size=16, segment_steps=300)
    segment = last(DQN, training, task)
    spaces = envs.task_spaces(task)
    rows = unpack_rows(segment.replay.rows, spaces.observation_dim)
    assert set(np.unique(rows.actions)) == set(range(spaces.action_dim))
    assert int(segment.state.grad_steps) == 200
    assert np.isfinite(segment.metrics["train/q_loss"])


def test_agents_say_what_they_are():
    state, _ = beginning(DQN, SHORT, "DiscreteConstant-v0")
    assert repr(Agent(DQN, state)) == "Agent(DQN, observation_dim=1, action_dim=2, env_steps=0, replay_buffer=None)"
