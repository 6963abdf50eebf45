"""Small models of Stable-Baselines3 and SBX."""

import importlib.util
import warnings

import gymnasium
import pytest

needs_sbx = pytest.mark.skipif(
    not importlib.util.find_spec("sbx"), reason="SBX is not installed: pip install -e '.[bench]'"
)
"""Looked for and not imported, which takes each process that collects tests two seconds."""


def libraries():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their dependencies warn on import
        import sbx
        import stable_baselines3

    return {"sbx": sbx, "stable_baselines3": stable_baselines3}


def make(library, algorithm, task, normalized=True, n_envs=1, **settings):
    found = libraries()
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = DummyVecEnv([lambda: gymnasium.make(task)] * n_envs)
    if normalized:
        env = VecNormalize(env, clip_obs=2.0)
    how = {"n_steps": 32, "batch_size": 16} if algorithm == "PPO" else {"learning_starts": 20, "batch_size": 16}
    if algorithm == "DQN":
        how |= {"train_freq": 1, "target_update_interval": 20}
    how = {"policy_kwargs": {"net_arch": [12, 12]}, "device": "cpu", "seed": 1, **how, **settings}
    return getattr(found[library], algorithm)("MlpPolicy", env, **how)
