"""What is written down beforehand: the question, and the random policy that scores start at."""

import csv
import json
import os

import gymnasium
import numpy as np
import pytest
from helpers.grids import make_grid, tidy_rows
from helpers.small import SMALL

import lth
from lth import envs
from lth.config import parse_config
from lth.errors import InputError, TrainingError
from lth.experiment.plan import plan
from lth.experiment.question import declare_question, declared_question
from lth.experiment.random_policy import (
    measure_in_a_process,
    measure_random_policy,
    random_policy_file,
    read_random_policy,
)
from lth.training import EVALUATION_SEED, run_episodes


def config_of(tmp_path, **more):
    return parse_config({**SMALL, "output_dir": str(tmp_path), **more})


def test_the_question_is_kept_as_it_was_first_asked(tmp_path):
    config = config_of(tmp_path, report={"margin": 0.2})
    assert not declared_question(tmp_path, config).confirmatory  # not asked yet
    declare_question(config)
    first = (tmp_path / "question.json").read_bytes()
    asked = declared_question(tmp_path, config)
    assert asked.confirmatory
    assert json.loads(first)["question"]["primary"] == ["taylor", "magnitude"]
    changed = config_of(tmp_path, report={"margin": 0.1}, seeds=[0, 1, 2, 3, 4])
    declare_question(changed)
    assert (tmp_path / "question.json").read_bytes() == first
    now = declared_question(tmp_path, changed)
    assert not now.confirmatory
    assert now.changes == ("margin was 0.2 and is 0.1", "seeds was 0 and is 5 seeds")


def test_other_rounds_are_another_question(tmp_path):
    def config(**more):  # each round is a sparsity that the question is asked of
        return config_of(tmp_path, pruning={**SMALL["pruning"], **more})

    declare_question(config(rounds=2))
    assert declared_question(tmp_path, config(rounds=2)).confirmatory
    assert declared_question(tmp_path, config(rounds=3)).changes == ("rounds was 2 and is 3",)
    path = tmp_path / "question.json"
    known = json.loads(path.read_text())
    del known["question"]["rounds"]  # as an earlier version wrote it
    path.write_text(json.dumps(known))
    assert declared_question(tmp_path, config(rounds=3)).confirmatory


def test_a_question_after_the_first_run_is_exploratory(tmp_path):
    run = tmp_path / "Pendulum-v1" / "seed0" / "dense-0"
    run.mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    declare_question(config_of(tmp_path))
    asked = declared_question(tmp_path, config_of(tmp_path))
    assert asked.late
    assert not asked.confirmatory


@pytest.mark.parametrize("text", ["", "[]", "{", '{"time": 1}', '{"time": 1, "after_first_run": 0, "question": 3}'])
def test_a_damaged_question_is_none(tmp_path, text):
    (tmp_path / "question.json").write_text(text)
    assert not declared_question(tmp_path, config_of(tmp_path)).confirmatory


def test_the_question_changes_no_run(tmp_path):
    runs = [spec.sha256 for spec in plan(config_of(tmp_path)).specs]
    other = config_of(tmp_path, report={"primary": ["gradient", "magnitude"], "margin": 0.3})
    assert [spec.sha256 for spec in plan(other).specs] == runs
    assert other.primary == ("gradient", "magnitude")


def test_the_documents_question_is_asked_where_both_methods_are_there(tmp_path):
    assert config_of(tmp_path).primary == ("taylor", "magnitude")
    some = {**SMALL["pruning"], "methods": ["magnitude", "random"]}
    assert config_of(tmp_path, pruning=some).primary is None
    assert config_of(tmp_path, report={"primary": None}).primary is None


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({"primary": ["taylor", "magnitud"]}, "did you mean 'magnitude'"),
        ({"primary": ["taylor", "taylor"]}, "with itself"),
        ({"primary": ["taylor"]}, "report.primary"),
        ({"margin": 0}, "greater than 0"),
        ({"margin": True}, "report.margin"),
        ({"margn": 0.1}, "did you mean 'margin'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(tmp_path, report, words):
    with pytest.raises(InputError, match=words):
        config_of(tmp_path, report=report)


def test_the_random_policy_is_measured_once(tmp_path):
    measure_random_policy(tmp_path, "CartPole-v1")
    path = random_policy_file(tmp_path, "CartPole-v1")
    first = path.read_bytes()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    returns = [float(row["total_return"]) for row in rows]
    found = read_random_policy(tmp_path, "CartPole-v1")
    assert len(rows) == 200 == found["random_policy/episodes"]
    assert found["random_policy/return"] == pytest.approx(np.mean(returns))
    assert found["random_policy/return_error"] == pytest.approx(np.std(returns, ddof=1) / np.sqrt(200))
    assert 20 < found["random_policy/return"] < 24  # as Gymnasium's documentation of CartPole leads to expect
    assert "random_policy/success" not in found
    path.unlink()
    measure_random_policy(tmp_path, "CartPole-v1")
    assert path.read_bytes() == first
    path.write_bytes(b"kept")
    measure_random_policy(tmp_path, "CartPole-v1")
    assert path.read_bytes() == b"kept"
    with pytest.raises(InputError, match="random policy's episodes"):
        read_random_policy(tmp_path, "CartPole-v1")


def test_a_finished_grid_that_lacks_the_random_policy_gets_it(tmp_path):
    training = {"env_steps": 400, "start_steps": 100, "segment_steps": 200, "backend": "dense"}
    tree = {**SMALL, "training": training, "report": {"random_episodes": 3}}
    config = make_grid({**tree, "pruning": {"methods": ["magnitude"], "sparsity": [0.9]}}, tmp_path)
    path = random_policy_file(tmp_path, "Pendulum-v1")
    path.unlink()
    made = lth.run(config)
    assert {outcome.status for outcome in made.outcomes} == {"kept"}
    assert read_random_policy(tmp_path, "Pendulum-v1")["random_policy/episodes"] == 3
    assert [row.value for row in tidy_rows(config) if row.metric == "random_policy/episodes"] == [3.0]
    assert "random-policy," in (tmp_path / "tidy.csv").read_text()


def test_a_step_that_hangs_ends_only_the_process_that_measures(tmp_path, monkeypatch):
    (tmp_path / "hanging.py").write_text(
        "import time, gymnasium, numpy as np\n"
        "class Hangs(gymnasium.Env):\n"
        "    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))\n"
        "    def reset(self, *, seed=None, options=None): return np.zeros(2, np.float32), {}\n"
        "    def step(self, action): time.sleep(600)\n"
        "gymnasium.register('Hangs-v0', Hangs)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    measure_in_a_process(tmp_path, "hanging:Hangs-v0", episodes=1, step_timeout=0.3)
    assert not random_policy_file(tmp_path, "hanging:Hangs-v0").exists()
    measure_in_a_process(tmp_path, "CartPole-v1", episodes=2)
    assert read_random_policy(tmp_path, "CartPole-v1")["random_policy/episodes"] == 2


def test_an_environment_that_raises_is_closed(tmp_path, monkeypatch):
    closed = []

    class Raises(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            raise RuntimeError("the simulator is lost")

        def close(self):
            closed.append(self)

    monkeypatch.setitem(gymnasium.registry, "Raises-v0", gymnasium.envs.registration.EnvSpec("Raises-v0", Raises))
    with pytest.raises(TrainingError, match="the simulator is lost"):
        measure_random_policy(tmp_path, "Raises-v0")
    assert closed


def test_fifty_evaluation_episodes_of_metaworld_are_its_fifty_goals():
    env = envs.make("drawer-close-v3", 0, envs.EVALUATE)
    goals = {env.reset(seed=EVALUATION_SEED + i)[0][-3:].tobytes() for i in range(50)}
    assert len(goals) == 50
    env.reset(seed=EVALUATION_SEED + 3)
    first = env.step(np.zeros(4, np.float32))[0]
    env.reset(seed=EVALUATION_SEED + 53)
    assert np.array_equal(first, env.step(np.zeros(4, np.float32))[0])  # and start again from the first
    train = envs.make("drawer-close-v3", 0, envs.TRAIN)
    assert not goals & {train.reset(seed=i)[0][-3:].tobytes() for i in range(20)}


def test_the_last_evaluation_has_more_episodes():
    evaluation = parse_config({**SMALL, "evaluation": {"every": 200}}).evaluation
    assert [evaluation.episodes_at(steps, 600) for steps in (0, 200, 600)] == [10, 10, 50]


def test_the_first_episodes_are_the_same_however_many_there_are():
    env = envs.make("CartPole-v1", 0, envs.EVALUATE)

    def always_left(observation):
        return np.zeros((1, 1), np.float32)

    assert run_episodes(always_left, env, 8).returns[:3] == run_episodes(always_left, env, 3).returns
