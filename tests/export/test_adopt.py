"""Agents of Stable-Baselines3 and SBX as dense runs: the same actions, the same transitions, and tickets that go on from them."""

import copy

import gymnasium
import numpy as np
import pytest
import yaml
from helpers.models import make, needs_sbx

import lth

pytestmark = needs_sbx

CASES = [
    ("stable_baselines3", "SAC", "Pendulum-v1"),
    ("stable_baselines3", "TD3", "Pendulum-v1"),
    ("stable_baselines3", "DQN", "CartPole-v1"),
    ("sbx", "SAC", "Pendulum-v1"),
]


def trained(library, algorithm, task, **settings):
    model = make(library, algorithm, task, normalized=False, **settings)
    first = copy.deepcopy(model) if library == "stable_baselines3" else None
    model.learn(60)
    return model, first


@pytest.mark.parametrize(("library", "algorithm", "task"), CASES)
def test_an_adopted_agent_is_the_model(library, algorithm, task, tmp_path):
    model, first = trained(library, algorithm, task)
    found = lth.adopt(model, task, initial=first, output_dir=tmp_path)
    agent, buffer, masks = lth.load(found.run)
    space = gymnasium.make(task).observation_space
    seen = np.random.default_rng(0).normal(0, 1, (50, space.shape[0])).astype(np.float32)
    own, _ = model.predict(seen, deterministic=True)
    assert np.allclose(agent.act(seen), own, atol=2e-5)
    assert len(buffer) == 60
    assert (np.asarray(buffer.state.rows[:60, : space.shape[0]]) == model.replay_buffer.observations[:60, 0]).all()
    assert {lth.compute_sparsity(mask) for mask in masks.values()} == {0.0}
    config = yaml.safe_load(found.config.read_text())
    assert config["pruning"] == {"rewind_steps": [0 if first else "none"]}
    if first:
        start = lth.load(found.run, 0).agent
        assert np.allclose(start.act(seen), first.predict(seen, deterministic=True)[0], atol=2e-5)
    with pytest.raises(lth.InputError, match="do not fit the observations|discrete actions|continuous actions"):  # noqa: RUF043
        lth.adopt(model, "MountainCarContinuous-v0", output_dir=tmp_path / "other")


def test_tickets_are_made_of_an_adopted_agent(tmp_path):
    model, first = trained("stable_baselines3", "TD3", "Pendulum-v1")
    found = lth.adopt(model, "Pendulum-v1", initial=first, output_dir=tmp_path)
    words = ("pruning.methods=[magnitude]", "pruning.sparsity=0.7", "pruning.controls=[]", "report.random_episodes=5")
    made = lth.run(found.config, *words)
    assert [(outcome.spec.stage, outcome.status) for outcome in made.outcomes] == [
        ("dense", "kept"),
        ("mask", "done"),
        ("ticket", "done"),
    ]
    assert [(row.method, row.sparsity) for row in made.table] == [("magnitude", "0.7")]
    changed = lth.run(found.config, *words, "evaluation.last_episodes=7")
    assert "adopted with other settings" in changed.failed[0].message
    assert "evaluation.last_episodes is 50 in the folder, but 7 in the config" in changed.failed[0].message
    (found.run / "checkpoint.safetensors").unlink()
    again = lth.run(found.config, *words)
    assert again.failed[0].status == "failed"
    assert "adopted agent, which lth does not train" in again.failed[0].message


def test_what_cannot_be_adopted(tmp_path):
    with pytest.raises(lth.InputError, match="PPO has no replay buffer"):
        lth.adopt(make("stable_baselines3", "PPO", "Pendulum-v1"), "Pendulum-v1", output_dir=tmp_path)
    with pytest.raises(lth.InputError, match="is untrained"):
        lth.adopt(make("stable_baselines3", "TD3", "Pendulum-v1"), "Pendulum-v1", output_dir=tmp_path)
    model, _ = trained("stable_baselines3", "TD3", "Pendulum-v1", policy_kwargs={"net_arch": [8], "n_critics": 3})
    with pytest.raises(lth.InputError, match="3 critics cannot be adopted"):
        lth.adopt(model, "Pendulum-v1", output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_has_the_study_of_one_model(tmp_path):
    model, _ = trained("stable_baselines3", "TD3", "Pendulum-v1")
    found = lth.adopt(model, "Pendulum-v1", output_dir=tmp_path)
    text = found.config.read_text().replace("pruning:", "workers: 1\npruning:")
    found.config.write_text(text)
    assert lth.adopt(model, "Pendulum-v1", output_dir=tmp_path) == found  # it stays as it was edited
    lth.prune_agent(model, 0.75, allocation="layer")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(lth.InputError, match=r"config.yaml' is the config of another study.*output_dir="):
        lth.adopt(model, "Pendulum-v1", output_dir=tmp_path)
    assert found.config.read_text() == text
    assert sorted(tmp_path.rglob("*")) == before
    notes = lth.adopt(model, "Pendulum-v1", output_dir=tmp_path / "pruned").notes
    assert set(notes) > set(found.notes)
    assert "144 of 192 weights of the actor (75.0 %)" in " ".join(notes)


def test_what_cannot_follow_is_said(tmp_path):
    from stable_baselines3.common.noise import NormalActionNoise

    noise = NormalActionNoise(np.zeros(1), 0.3 * np.ones(1))
    model = make("stable_baselines3", "TD3", "Pendulum-v1", action_noise=noise, learning_rate=lambda left: 1e-3 * left)
    model.learn(60)
    found = lth.adopt(model, "Pendulum-v1", output_dir=tmp_path)
    text = " ".join(found.notes)
    assert "the learning rate is constant at its initial value" in text
    assert "VecNormalize's 2.0" in text
    assert "rewards are not normalized" in text
    assert yaml.safe_load(found.config.read_text())["td3"]["exploration_noise"] == pytest.approx(0.3)
    agent = lth.load(found.run).agent
    assert agent.config.normalize_obs
