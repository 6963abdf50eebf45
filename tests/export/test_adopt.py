"""Agents of Stable-Baselines3 and SBX as dense runs: the same actions, the same transitions, and tickets that go on from them."""

import copy
import importlib
import re

import gymnasium
import numpy as np
import pytest
import yaml
from helpers.models import make, needs_sbx

import lth
from lth.config import load_config
from lth.experiment.backend import resolve_backend
from lth.experiment.plan import plan
from lth.experiment.start import rewound_buffer

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


def count(monkeypatch, owner, name):
    calls, own = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: (calls.append(1), own(*given))[1])
    return calls


@pytest.mark.parametrize(
    ("library", "n_envs", "train_freq", "gradient_steps"),
    [
        ("stable_baselines3", 1, 4, 2),
        ("stable_baselines3", 1, 4, -1),
        ("stable_baselines3", 2, 1, 1),
        ("stable_baselines3", 2, 2, -1),
        ("sbx", 2, 2, -1),
    ],
)
def test_tickets_learn_and_move_targets_as_often_as_the_model(
    library, n_envs, train_freq, gradient_steps, tmp_path, monkeypatch
):
    how = {"train_freq": train_freq, "gradient_steps": gradient_steps, "target_update_interval": 12}
    model = make(library, "DQN", "CartPole-v1", False, n_envs, learning_starts=0, **how)
    module = importlib.import_module(f"{library}.dqn.dqn")
    # Stable-Baselines3 calls it twice: for the weights, and for the statistics of norms.
    owner, name, twice = (module.DQN, "soft_update", 1) if library == "sbx" else (module, "polyak_update", 2)
    moves = count(monkeypatch, owner, name)
    model.learn(48)
    config = yaml.safe_load(lth.adopt(model, "CartPole-v1", output_dir=tmp_path).config.read_text())
    moved = len(moves) // twice
    assert moved == 4
    assert config["training"]["updates_per_step"] == model._n_updates / 48
    assert config["dqn"]["target_every"] == model._n_updates // moved


@pytest.mark.parametrize("rewound", ["fine-tuned", "rewound with the trained buffer"])
def test_tickets_start_with_what_the_model_s_buffer_has(rewound, tmp_path):
    """One with 3 environments has whole rows of them, and a loaded model has lost what came before."""
    first = make("stable_baselines3", "TD3", "Pendulum-v1", False, 3, buffer_size=50)
    model = copy.deepcopy(first)
    model.learn(60)
    found = lth.adopt(model, "Pendulum-v1", initial=None if rewound == "fine-tuned" else first, output_dir=tmp_path)
    config, _ = resolve_backend(load_config(found.config, ["pruning.rewound=[optimizer]"]))
    (spec,) = {row.run for row in plan(config).rows if row.method == "magnitude"}
    buffer = rewound_buffer(tmp_path, spec, lth.load(found.run).agent.state)
    assert (len(buffer), buffer.capacity, len(buffer.state.rows)) == (48, 50, 50)


def test_what_cannot_be_adopted(tmp_path):
    with pytest.raises(lth.InputError, match="PPO has no replay buffer"):
        lth.adopt(make("stable_baselines3", "PPO", "Pendulum-v1"), "Pendulum-v1", output_dir=tmp_path)
    with pytest.raises(lth.InputError, match="is untrained"):
        lth.adopt(make("stable_baselines3", "TD3", "Pendulum-v1"), "Pendulum-v1", output_dir=tmp_path)
    model, _ = trained("stable_baselines3", "TD3", "Pendulum-v1", policy_kwargs={"net_arch": [8], "n_critics": 3})
    with pytest.raises(lth.InputError, match="3 critics cannot be adopted"):
        lth.adopt(model, "Pendulum-v1", output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_belongs_to_another_model_is_refused(tmp_path):
    model, first = trained("stable_baselines3", "TD3", "Pendulum-v1")
    other, _ = trained("stable_baselines3", "DQN", "CartPole-v1")
    for how, message in (
        ({"initial": model}, "initial has the weights of the trained model"),
        ({"initial": other}, "initial is an agent of DQN of Stable-Baselines3, but the model of TD3"),
        ({"initial": "first.zip"}, "type str is not a model"),
        ({"replay_buffer": "buffer.pkl"}, "replay_buffer is of type str.*model.load_replay_buffer"),
        # 60 rows of 4 observations are 80 of 3, of which the last 60 would be taken.
        (
            {"replay_buffer": other.replay_buffer},
            r"the replay buffer has observations Box\(.*\(4,\).*but the model Box",
        ),
        ({"replay_buffer": first.replay_buffer}, "replay buffer is empty"),
    ):
        with pytest.raises(lth.InputError, match=message):
            lth.adopt(model, "Pendulum-v1", output_dir=tmp_path, **how)
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


def test_settings_that_lth_lacks_are_said(tmp_path):
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    noises = {kind: kind(np.zeros(1), 0.3 * np.ones(1)) for kind in (NormalActionNoise, OrnsteinUhlenbeckActionNoise)}
    how = {"action_noise": noises[NormalActionNoise], "target_update_interval": 3}
    model = make("stable_baselines3", "SAC", "Pendulum-v1", False, **how)
    model.learn(30)
    text = " ".join(lth.adopt(model, "Pendulum-v1", output_dir=tmp_path / "sac").notes)
    assert "targets are moved at every update, not at one in 3 (the model's target_update_interval)" in text
    assert "without the model's action noise" in text
    said = {
        None: (0.1, "because the model explores without noise"),
        noises[NormalActionNoise]: (0.3, ""),  # of several environments, which have copies of it
        noises[OrnsteinUhlenbeckActionNoise]: (0.3, "of the sigma of the model's OrnsteinUhlenbeckActionNoise"),
    }
    for i, (noise, (size, words)) in enumerate(said.items()):
        model = make("stable_baselines3", "TD3", "Pendulum-v1", False, 2, action_noise=noise)
        model.learn(30)
        found = lth.adopt(model, "Pendulum-v1", output_dir=tmp_path / str(i))
        text = " ".join(found.notes)
        assert words in text
        assert "the lower of both critics, not the first" in text
        assert ("noise" in text) == bool(words)
        assert yaml.safe_load(found.config.read_text())["td3"]["exploration_noise"] == pytest.approx(size)


@pytest.mark.parametrize(
    ("library", "how", "note"),
    [
        (
            "stable_baselines3",
            {"optimizer_kwargs": {"weight_decay": 0.5}},
            r"not with the model's Adam\(weight_decay=0.5\)",
        ),
        ("sbx", {"optimizer_class": "adamw"}, r"not with the model's adamw\(\)"),
        ("sbx", {"dropout_rate": 0.1}, "have no dropout, but the model's have, of 0.1"),
        ("sbx", {}, None),
    ],
    ids=str,
)
def test_another_optimizer_or_dropout_is_said(library, how, note):
    import optax

    from lth.libraries.models import kind_of
    from lth.libraries.settings import settings_of
    from lth.libraries.weights import networks_of

    how = {name: getattr(optax, value) if name == "optimizer_class" else value for name, value in how.items()}
    resets = {"param_resets": [9]} if library == "sbx" else {}
    model = make(library, "SAC", "Pendulum-v1", False, policy_kwargs={"net_arch": [4], **how}, **resets)
    model.num_timesteps = 60
    kind = kind_of(model)
    _, notes = settings_of(model, kind, networks_of(model, kind)[0])
    assert re.search(note or "^the weights of tickets are not reset", " ".join(notes))
    assert len(notes) == (note is not None) + (library == "sbx")
