"""Describe agents of Stable-Baselines3 and SBX for export."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import numpy as np

from .. import __version__, envs
from ..envs.suites import observation_names
from ..errors import InputError, brief
from ..libraries.models import (
    acting_network,
    actions_of,
    environment_spec,
    kind_of,
    normalizer_of,
    recorded_observations,
)
from .check import STEPS
from .network import Activation, Network, Squash, dense
from .subjects import Subject


def of_model(model: Any, env: Callable[[], Any] | None = None) -> Subject:
    """Describe an agent of Stable-Baselines3 or SBX for export.

    Args:
        model: an agent of SAC, TD3, DQN or PPO with MlpPolicy. The statistics of a VecNormalize wrapper are included.
        env: creates its environment, in its own units; None: the model's environment is created again, if it has a Gymnasium id.

    Raises:
        InputError: the model is not supported, a weight is not finite, its environment cannot be created again or learned to
            normalize, or their spaces differ.
    """
    kind, found = kind_of(model), acting_network(model)
    spec = environment_spec(model)
    make_env = env or (None if spec is None else _maker(spec))
    interface = _interface(model, make_env)
    n, discrete = model.observation_space.shape[0], found.squash == "argmax"
    normalizer = normalizer_of(model) or (np.zeros(n, np.float32), np.ones(n, np.float32), np.inf)
    network = Network(
        observation_dim=n,
        reads=np.arange(n),
        mean=normalizer[0],
        scale=normalizer[1],
        clip=normalizer[2],
        layers=tuple(dense(i, k, b) for i, (k, b) in enumerate(found.layers)),
        activation=cast(Activation, found.activation),
        squash=cast(Squash, found.squash),
        low=interface.action_low,
        high=interface.action_high,
        first_action=interface.first_action,
    )
    kernels = [layer.kernel for layer in network.layers]
    zeros = sum(int((k == 0).sum()) for k in kernels) / sum(k.size for k in kernels)
    task = "" if spec is None else str(spec.id)
    return Subject(
        network=network,
        act=actions_of(model),
        make_env=make_env,
        interface=interface,
        observations=observation_names(task, n) if task else [f"obs[{i}]" for i in range(n)],
        actions=list(interface.actions)
        or [f"action {i + interface.first_action * discrete}" for i in range(network.actions)],
        title=f"{task} {kind.name}".strip(),
        about={
            "task": task,
            "algorithm": kind.name,
            "method": "",
            "sparsity": {"policy": round(zeros, 4)},
            "versions": _versions(),
        },
        examples=recorded_observations(model, STEPS) if make_env is None else None,
    )


def _maker(spec: Any) -> Callable[[], Any]:
    if any(wrapper.name == "NormalizeObservation" for wrapper in spec.additional_wrappers):
        raise InputError(
            f"the model's environment {spec.id!r} has the wrapper NormalizeObservation, whose statistics are not in the model, so "
            "that what is exported would see other observations. Train with VecNormalize, whose statistics are exported, or pass "
            "env=lambda: ... that normalizes with the statistics of training"
        )

    def make() -> Any:
        import gymnasium

        try:
            return gymnasium.make(spec)
        except Exception as error:  # wrappers and environments raise various errors
            raise InputError(
                f"the model's environment {spec.id!r} cannot be created again ({type(error).__name__}: {brief(error)}); pass a "
                "function that creates it, with its wrappers, as env=lambda: ..."
            ) from error

    return make


def _interface(model: Any, make_env: Callable[[], Any] | None) -> envs.Interface:
    class Spaces:
        observation_space, action_space, unwrapped = model.observation_space, model.action_space, None

    if make_env is None:
        return envs.interface_of(Spaces)
    env = make_env()
    try:
        shapes = [(s.shape, getattr(s, "n", None)) for e in (env, model) for s in (e.observation_space, e.action_space)]
        if shapes[:2] != shapes[2:] or _bounds(env.action_space) != _bounds(model.action_space):
            raise InputError(
                f"the environment has {env.observation_space} and {env.action_space}, but the model has {model.observation_space} "
                f"and {model.action_space}; pass the model's environment as env=lambda: ..."
            )
        return envs.interface_of(env)
    finally:
        env.close()


def _bounds(space: Any) -> list[Any]:
    return np.asarray([space.low, space.high], np.float32).tolist() if hasattr(space, "low") else []


def _versions() -> dict[str, str]:
    found = {"lth": __version__, "numpy": np.__version__}
    for name in ("stable_baselines3", "sbx-rl", "torch", "jax", "gymnasium", "mujoco"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
