"""Agents of Stable-Baselines3 and SBX, pruned, trained on under their masks, and exported. Needs the extra `bench`."""

import shutil

import gymnasium
import jax
import numpy as np
import pytest
from helpers.models import libraries, make, needs_sbx

import lth
from lth.exporting.build import build
from lth.exporting.models import of_model
from lth.libraries.models import kind_of
from lth.pruning.layers import layers, split

pytestmark = needs_sbx

MODELS = [
    ("stable_baselines3", "SAC", "Pendulum-v1"),
    ("stable_baselines3", "TD3", "Pendulum-v1"),
    ("stable_baselines3", "DQN", "CartPole-v1"),
    ("stable_baselines3", "PPO", "Pendulum-v1"),
    ("sbx", "TD3", "Pendulum-v1"),
    ("sbx", "PPO", "CartPole-v1"),
]
"""SBX compiles for seconds, and its SAC under masks is in test_sbx_masks.py."""


@pytest.fixture(scope="module", params=MODELS, ids=lambda m: f"{m[0]}-{m[1]}-{m[2]}")
def pruned(request):
    """A model that learned a little, was pruned, and learned on: it, its masks, its weights when they were put on."""
    library, algorithm, task = request.param
    model = make(library, algorithm, task)
    model.learn(48)
    masks = lth.prune_agent(model, 0.6, allocation="erk")
    before = weights(model)
    model.learn(32, reset_num_timesteps=False)
    return model, masks, before


def weights(model):
    from lth.libraries import sb3_masks, sbx_masks

    kind = kind_of(model)
    found = (sbx_masks if kind.library == "sbx" else sb3_masks).networks_of(model, kind)
    return jax.tree.map(np.array, found)


def test_masks_hold_while_the_model_learns(pruned):
    model, masks, before = pruned
    after = weights(model)
    assert set(masks) == ({"q"} if type(model).__name__ == "DQN" else {"actor", "critic"})
    for network, mask in masks.items():
        assert lth.compute_sparsity(mask) == pytest.approx(0.6, abs=0.02)
        leaves = [jax.tree.leaves(tree) for tree in (mask, before[network], after[network])]
        for kept, _, new in zip(*leaves, strict=True):
            assert (new[np.asarray(kept) == 0] == 0.0).all()
        moved = [
            (new != old)[np.asarray(kept) == 1].mean() for kept, old, new in zip(*leaves, strict=True) if new.ndim > 1
        ]
        assert np.mean(moved) > 0.3  # and it learned


def test_targets_and_moments_of_pruned_weights_are_zero(pruned):
    model, masks, _ = pruned
    policy = model.policy
    for network, mask in masks.items():
        kept = [np.asarray(leaf) for leaf in jax.tree.leaves(mask)]
        if kind_of(model).library == "sbx":
            state = {
                "actor": "actor_state",
                "critic": "vf_state" if type(model).__name__ == "PPO" else "qf_state",
                "q": "qf_state",
            }
            state = getattr(policy, state[network])
            trees = [getattr(state, "target_params", state.params)]
            like = jax.tree.structure(state.params)
            is_one = lambda part, like=like: jax.tree.structure(part) == like  # noqa: E731
            trees += [part for part in jax.tree.leaves(state.opt_state, is_leaf=is_one) if is_one(part)]
            for tree in trees:
                assert all((np.asarray(x)[k == 0] == 0).all() for x, k in zip(jax.tree.leaves(tree), kept, strict=True))
            assert len(trees) >= 3
        else:
            owner = {"actor": "actor_target", "critic": "critic_target", "q": "q_net_target"}[network]
            target = getattr(policy, owner, None)
            for name, parameter in [] if target is None else target.named_parameters():
                node = mask
                for key in name.split("."):
                    node = node[key]
                assert (parameter.detach().numpy()[np.asarray(node) == 0] == 0).all()


def test_stacked_critics_are_counted_one_by_one():
    model = make("sbx", "TD3", "Pendulum-v1")
    mask = lth.prune_agent(model, 0.5)["critic"]
    stacked = [row for row in layers(mask) if row.prunable]
    assert all(row.copies == 2 for row in stacked)
    leaves = dict(zip([row.path for row in layers(mask)], jax.tree.leaves(mask), strict=True))
    kept = [[np.asarray(one) for one in split(leaves[row.path], row.stack_axes)] for row in stacked]
    assert any((one != other).any() for one, other in kept)


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_pruned_model_is_exported_with_its_normalizer(pruned):
    model, _, _ = pruned
    subject = of_model(model)
    assert np.isfinite(subject.network.clip)  # VecNormalize is in the program
    raw = np.stack([subject.interface.observation_low, subject.interface.observation_high]).clip(-50, 50)
    rows = np.random.default_rng(0).uniform(*raw, (40, raw.shape[1])).astype(np.float32)
    made = build(subject._replace(examples=rows), ("c", "numpy"), False, 0, False)  # rows that VecNormalize clips
    assert max(row.deviation for row in made.rows) < 1e-5
    assert made.contract["sparsity"]["policy"] > 0.4
    assert made.contract["sizes"]["multiply_adds"] < 0.6 * made.contract["sizes"]["multiply_adds_dense"]
    assert (
        made.contract["algorithm"]
        == f"{type(model).__name__} of {'SBX' if kind_of(model).library == 'sbx' else 'Stable-Baselines3'}"
    )


@pytest.mark.parametrize(("algorithm", "task"), [("SAC", "Pendulum-v1"), ("DQN", "CartPole-v1")])
def test_the_other_models_of_sbx_are_exported(algorithm, task):
    model = make("sbx", algorithm, task, normalized=False)
    masks = lth.prune_agent(model, 0.5)
    made = build(of_model(model), ("numpy",), False, 1, False)
    assert made.rows[1].returns.mean == pytest.approx(made.rows[0].returns.mean, rel=1e-4)
    assert {lth.compute_sparsity(mask) > 0.49 for mask in masks.values()} == {True}


def test_a_second_pruning_goes_on_from_the_first():
    model = make("stable_baselines3", "TD3", "Pendulum-v1")
    first = lth.prune_agent(model, 0.5)
    second = lth.prune_agent(model, {"actor": 0.8, "critic": 0.5})
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (np.asarray(after) <= np.asarray(before)).all()
    assert lth.compute_sparsity(second["actor"]) == pytest.approx(0.8, abs=0.01)


def test_a_second_pruning_by_gradients_goes_on_from_the_first():
    model = make("sbx", "SAC", "Pendulum-v1", normalized=False)
    model.learn(25)
    first = lth.prune_agent(model, 0.5)
    assert lth.compute_sparsity(lth.sbx.masks_of(model)["actor"]) == 0.5
    second = lth.prune_agent(model, 0.75, "gradient")  # not by |w|, so that it could bring weights back
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (np.asarray(after) <= np.asarray(before)).all()
    for one, other in zip(jax.tree.leaves(second), jax.tree.leaves(lth.sbx.masks_of(model)), strict=True):
        assert (np.asarray(one) == np.asarray(other)).all()
    third = lth.prune_agent(model, 0.8, "synflow")  # by the gradients of a flow, for which no batches are drawn
    assert [lth.compute_sparsity(mask) for mask in third.values()] == pytest.approx([0.8, 0.8], abs=0.002)


class Doubled(gymnasium.ObservationWrapper):
    """Does not record its arguments, so that Gymnasium cannot create it again."""

    def observation(self, observation):
        return 2 * observation


@pytest.mark.parametrize("library", ["stable_baselines3", "sbx"])
def test_a_model_that_made_its_own_environment_is_exported(library, tmp_path):
    model = libraries()[library].PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, device="cpu")
    made = lth.export(model, tmp_path, "numpy", episodes=1)
    assert made.rows[1].returns == made.rows[0].returns
    assert made.contract["task"] == "CartPole-v1"


def test_an_environment_that_cannot_be_created_again(tmp_path):
    make_env = lambda: Doubled(gymnasium.make("Pendulum-v1"))  # noqa: E731
    model = libraries()["stable_baselines3"].SAC("MlpPolicy", make_env(), device="cpu")
    with pytest.raises(lth.InputError, match=r"'Pendulum-v1' cannot be created again.*Doubled.*env=lambda"):
        lth.export(model, tmp_path, "numpy", episodes=0)
    lth.export(model, tmp_path, "numpy", episodes=0, env=make_env)
    assert np.abs(np.load(tmp_path / "rollout.npz")["observation"]).max() > 1.5


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_an_environment_with_other_bounds_of_actions(algorithm, tmp_path):
    env = gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), -1, 1)
    model = getattr(libraries()["stable_baselines3"], algorithm)("MlpPolicy", env, device="cpu")
    with pytest.raises(lth.InputError, match=r"has .*Box\(-2.0, 2.0.* but the model has .*Box\(-1.0, 1.0"):
        lth.export(model, tmp_path, "numpy", episodes=0, env=lambda: gymnasium.make("Pendulum-v1"))
    lth.export(model, tmp_path, "numpy", episodes=0)


def test_an_environment_that_learned_to_normalize(tmp_path):
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))
    model = libraries()["stable_baselines3"].SAC("MlpPolicy", env, device="cpu")
    with pytest.raises(lth.InputError, match=r"NormalizeObservation.*VecNormalize"):
        lth.export(model, tmp_path, "numpy", episodes=0)
    lth.export(model, tmp_path, "numpy", episodes=0, env=lambda: env)


def test_what_is_refused_by_name():
    sb3, sbx = libraries()["stable_baselines3"], libraries()["sbx"]
    with pytest.raises(
        lth.InputError, match=r"A2C of Stable-Baselines3 is not supported\. Supported: SAC, TD3, DQN and PPO"
    ):
        lth.export(sb3.A2C("MlpPolicy", "CartPole-v1", device="cpu"))
    with pytest.raises(lth.InputError, match=r"SAC of SBX with a layer 'LayerNorm_0'"):
        lth.export(sbx.SAC("SimbaPolicy", "Pendulum-v1"))
    with pytest.raises(lth.InputError, match="use_sde=True"):
        lth.export(make("stable_baselines3", "SAC", "Pendulum-v1", use_sde=True))
    model = make("stable_baselines3", "TD3", "Pendulum-v1")
    for criterion in ("taylor", "synflow"):
        with pytest.raises(
            lth.InputError, match=f"'{criterion}' needs gradients, which are supported only for SAC of SBX"
        ):
            lth.prune_agent(model, 0.5, criterion)
    with pytest.raises(lth.InputError, match="sparsity names q, but the networks"):
        lth.prune_agent(model, {"q": 0.5})
    with pytest.raises(lth.InputError, match="type int is not a model"):
        lth.prune_agent(3, 0.5)
    torch_gelu = {"policy_kwargs": {"net_arch": [8], "activation_fn": __import__("torch").nn.GELU}}
    with pytest.raises(lth.InputError, match="a layer GELU is not supported"):
        lth.export(make("stable_baselines3", "TD3", "Pendulum-v1", **torch_gelu))
