"""Convert the settings of a Stable-Baselines3 or SBX model to lth's, with notes on unsupported settings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..types import Params
from .models import Kind
from .weights import hidden_of

SEGMENTS = 10
"""The approximate number of evaluations of an adopted run's tickets."""
LONGEST_SEGMENT = 5000
OBSERVATION_CLIP = 10.0


def settings_of(model: Any, kind: Kind, networks: Mapping[str, Params]) -> tuple[dict[str, Any], list[str]]:
    """Return the config sections for a model, and notes on how the training of its tickets differs.

    Raises:
        InputError: the model is untrained.
    """
    notes: list[str] = []
    agent = {"sac": _sac, "td3": _td3, "dqn": _dqn}[kind.algorithm.lower()](model, kind, networks, notes)
    agent |= {"discount": float(model.gamma), "buffer_size": int(model.buffer_size), "tau": float(model.tau)}
    wrapper = model.get_vec_normalize_env()
    agent["normalize_obs"] = bool(wrapper is not None and wrapper.norm_obs)
    if agent["normalize_obs"] and wrapper.clip_obs != OBSERVATION_CLIP:
        notes.append(f"observations are clipped to 10 standard deviations, not to VecNormalize's {wrapper.clip_obs}")
    if wrapper is not None and wrapper.norm_reward:
        notes.append("rewards are not normalized, unlike in VecNormalize")
    optimizer, how = _name(model.policy.optimizer_class), model.policy.optimizer_kwargs
    if optimizer.lower() != "adam" or how:
        given = ", ".join(f"{name}={value}" for name, value in how.items())
        notes.append(f"tickets train with Adam and its default settings, not with the model's {optimizer}({given})")
    if dropout := getattr(model.policy, "dropout_rate", 0):
        notes.append(f"the critics of tickets have no dropout, but the model's have, of {dropout:g}")
    if getattr(model, "param_resets", None):
        notes.append("the weights of tickets are not reset in training, unlike the model's (param_resets)")
    return {kind.algorithm.lower(): agent, **_training(model, notes)}, notes


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def _training(model: Any, notes: list[str]) -> dict[str, Any]:
    steps = int(model.num_timesteps)
    if steps < 2:
        raise InputError("the model is untrained; call model.learn first")
    if model.n_envs > 1:
        notes.append(f"tickets train in one environment, not in {model.n_envs} parallel ones")
    if _by_episode(model):
        notes.append("updates are made after each step, not after each episode")
    updates, env_steps = _updates(model)
    segment = max(1, min(LONGEST_SEGMENT, steps // SEGMENTS))
    return {
        "training": {
            "env_steps": steps,
            "start_steps": min(int(model.learning_starts), steps - 1),
            "batch_size": int(model.batch_size),
            "updates_per_step": updates / env_steps,
            "segment_steps": segment,
        },
        "evaluation": {"every": segment * max(1, steps // (SEGMENTS * segment))},
    }


def _by_episode(model: Any) -> bool:
    return bool(getattr(getattr(model.train_freq, "unit", None), "value", "step") == "episode")


def _updates(model: Any) -> tuple[int, int]:
    """Return the updates that a model makes at a time, and the environment steps of all its environments between two such times."""
    frequency = getattr(model.train_freq, "frequency", model.train_freq)
    each = frequency[0] if isinstance(frequency, tuple) else int(frequency)
    env_steps = (1 if _by_episode(model) else each) * model.n_envs
    # -1 means as many as environment steps, in all environments together.
    return env_steps if model.gradient_steps < 0 else int(model.gradient_steps), env_steps


def _rate(model: Any, notes: list[str], rate: Any = None) -> float:
    rate = model.learning_rate if rate is None else rate
    if callable(rate):
        notes.append("the learning rate is constant at its initial value, but the model uses a schedule")
        return float(rate(1.0))
    return float(rate)


def _pair(model: Any, networks: Mapping[str, Params], notes: list[str]) -> dict[str, Any]:
    return {
        "actor_hidden": list(hidden_of(networks["actor"])),
        "critic_hidden": list(hidden_of(networks["critic"])),
        "actor_learning_rate": _rate(model, notes),
        "critic_learning_rate": _rate(model, notes, getattr(model, "initial_qf_learning_rate", None)),
    }


def _sac(model: Any, kind: Kind, networks: Mapping[str, Params], notes: list[str]) -> dict[str, Any]:
    given = model.ent_coef_init if kind.library == "sbx" else model.ent_coef
    found = {**_pair(model, networks, notes), "alpha_learning_rate": _rate(model, [])}
    if isinstance(given, str):
        _, _, start = given.partition("_")
        found["initial_alpha"] = float(start or 1.0)
    else:
        notes.append(f"the temperature is learned, starting at {given}, but the model keeps it fixed")
        found["initial_alpha"] = float(given)
    for name, what in (("target_update_interval", "targets are moved"), ("policy_delay", "the actor takes a step")):
        if (every := int(getattr(model, name, 1))) > 1:
            notes.append(f"{what} at every update, not at one in {every} (the model's {name})")
    if model.action_noise is not None:
        notes.append("tickets explore by their policy alone, without the model's action noise")
    target = model.target_entropy
    return {**found, **({} if isinstance(target, str) else {"target_entropy": float(target)})}


def _td3(model: Any, kind: Kind, networks: Mapping[str, Params], notes: list[str]) -> dict[str, Any]:
    given = getattr(
        model.action_noise, "base_noise", model.action_noise
    )  # several environments have copies of one noise
    noise = getattr(given, "_sigma", None)
    if noise is None:
        why = "explores without noise" if given is None else f"has a {type(given).__name__}, whose size is not known"
        notes.append(f"tickets explore with Gaussian noise of 0.1, because the model {why}")
    elif type(given).__name__ != "NormalActionNoise":
        notes.append(
            f"tickets explore with independent Gaussian noise of the sigma of the model's {type(given).__name__}"
        )
    if kind.library != "sbx":
        notes.append(
            "unlike in Stable-Baselines3, targets are moved at every update, not only with the actor, and the actor maximizes the "
            "lower of both critics, not the first"
        )
    return {
        **_pair(model, networks, notes),
        "policy_delay": int(model.policy_delay),
        "target_noise": float(model.target_policy_noise),
        "target_noise_clip": float(model.target_noise_clip),
        "exploration_noise": 0.1 if noise is None else float(np.mean(noise)),
    }


def _dqn(model: Any, kind: Kind, networks: Mapping[str, Params], notes: list[str]) -> dict[str, Any]:
    updates, env_steps = _updates(model)
    # Counted in steps of all environments at once; SBX has divided it by their number already.
    interval = int(model.target_update_interval)
    interval = interval if kind.library == "sbx" else max(interval // model.n_envs, 1)
    norm = getattr(model, "max_grad_norm", None)
    return {
        "q_hidden": list(hidden_of(networks["q"])),
        "q_learning_rate": _rate(model, notes),
        "double": False,
        "target_every": max(1, interval * model.n_envs * updates // env_steps),
        "max_grad_norm": None if norm is None or kind.library == "sbx" else float(norm),
        "exploration_initial": float(model.exploration_initial_eps),
        "exploration_final": float(model.exploration_final_eps),
        "exploration_fraction": float(model.exploration_fraction),
    }
