"""Read a Stable-Baselines3 or SBX model: its library, algorithm, acting network and environment.

Everything is read from the model object, so that neither library is imported.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError

LIBRARIES = {"stable_baselines3": "Stable-Baselines3", "sbx": "SBX", "sb3_contrib": "SB3-Contrib"}
ALGORITHMS = ("SAC", "TD3", "DQN", "PPO")
SQUASH = {"SAC": "tanh", "TD3": "tanh", "DQN": "argmax"}
RECORDERS = ("stable_baselines3.common.monitor:Monitor",)
"""Wrappers that leave observations and actions as they are, and that Gymnasium cannot create again. Both libraries put a Monitor
around every environment."""
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
_MODULES = {"ReLU": "relu", "Tanh": "tanh"}


class Kind(NamedTuple):
    """The library and algorithm of a model."""

    library: str
    """`sbx` or `stable_baselines3`."""
    algorithm: str
    """SAC, TD3, DQN or PPO."""

    @property
    def name(self) -> str:
        """The display name."""
        return f"{self.algorithm} of {LIBRARIES[self.library]}"


class ActingNetwork(NamedTuple):
    """The network that acts, as arrays."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    """(kernel (inputs, outputs), bias (outputs,)) float32, in order."""
    activation: str
    squash: str
    """tanh, clip or argmax."""


def is_model(model: Any) -> bool:
    """Return whether an object is a model of one of LIBRARIES."""
    return _class(model) is not None


def kind_of(model: Any) -> Kind:
    """Return the library and algorithm of a model.

    Raises:
        InputError: the algorithm is not supported, or the policy is not a multilayer perceptron on flat observations.
    """
    found = _class(model)
    if found is None:
        raise InputError(f"an object of type {type(model).__name__} is not a model of Stable-Baselines3 or SBX")
    library, algorithm = found.__module__.split(".")[0], found.__name__
    name = f"{algorithm} of {LIBRARIES[library]}"
    nearest = "Supported: SAC, TD3, DQN and PPO with MlpPolicy; `lth.export_mlp` and `lth.prune` accept any chain of dense layers"
    if algorithm not in ALGORITHMS or library not in ("sbx", "stable_baselines3"):
        raise InputError(f"{name} is not supported. {nearest}")
    space = model.observation_space
    if type(space).__name__ != "Box" or len(space.shape) != 1:
        raise InputError(f"{name} with observations {space} is not supported: they must be a flat Box. {nearest}")
    if getattr(model, "use_sde", False):
        raise InputError(f"{name} with use_sde=True is not supported, because it changes the network. {nearest}")
    return Kind(library, algorithm)


def _class(model: Any) -> type | None:
    """Return the library's class of a model, which may be a base class of the model's class."""
    for found in type(model).__mro__:
        if found.__module__.split(".")[0] in LIBRARIES:
            return found if hasattr(model, "policy") else None
    return None


def acting_network(model: Any) -> ActingNetwork:
    """Return the network of the deterministic policy.

    Raises:
        InputError: see `kind_of`; or the network has other layers than dense layers with ReLU or tanh (names the layer).
    """
    kind = kind_of(model)
    layers, activation = (_sbx_network if kind.library == "sbx" else _torch_network)(model, kind)
    discrete = not hasattr(model.action_space, "low")
    squash = SQUASH.get(kind.algorithm, "argmax" if discrete else "clip")
    if discrete and type(model.action_space).__name__ != "Discrete":
        raise InputError(
            f"{kind.name} with actions {model.action_space} is not supported: they must be Box or Discrete"
        )
    return ActingNetwork(layers, activation, squash)


def _sbx_network(model: Any, kind: Kind) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    policy = model.policy
    state = policy.qf_state if kind.algorithm == "DQN" else policy.actor_state
    tree = dict(state.params.get("params", state.params))
    tree.pop("log_std", None)
    names = sorted(tree, key=lambda name: (len(name), name))
    for i, name in enumerate(names):
        if name != f"Dense_{i}":
            raise InputError(f"{kind.name} with a layer {name!r} is not supported: the policy must be MlpPolicy")
    if kind.algorithm == "SAC":
        names = names[:-1]  # the last is the standard deviation
    arrays = [(np.asarray(tree[name]["kernel"]), np.asarray(tree[name]["bias"])) for name in names]
    return arrays, _activation_of(policy.activation_fn, kind)


def _activation_of(function: Callable[[Any], Any], kind: Kind) -> str:
    at = np.array([-2.0, -0.5, 0.0, 0.5, 2.0], np.float32)
    values = np.asarray(function(at))
    for name, known in _ACTIVATIONS.items():
        if np.allclose(values, known(at), atol=1e-6):
            return name
    raise InputError(
        f"{kind.name} with the activation {getattr(function, '__name__', function)} is not supported; use relu or tanh"
    )


def _torch_network(model: Any, kind: Kind) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    arrays, activations = [], []
    for part in _torch_modules(model, kind):
        name = type(part).__name__
        if name == "Linear":
            bias = part.bias if part.bias is not None else part.weight[:, 0] * 0
            arrays.append((_array(part.weight).T.copy(), _array(bias)))
        elif name in _MODULES:
            activations.append(_MODULES[name])
        else:
            raise InputError(f"{kind.name} with a layer {name} is not supported: the policy must be MlpPolicy")
    if kind.algorithm == "TD3" and activations:
        activations = activations[:-1]  # the last one squashes the action
    if len(activations) != len(arrays) - 1 or len({*activations}) > 1:
        raise InputError(
            f"{kind.name} with activations {activations} is not supported: use one activation between all layers"
        )
    return arrays, activations[0] if activations else "relu"


def _torch_modules(model: Any, kind: Kind) -> Sequence[Any]:
    policy = model.policy
    if kind.algorithm == "SAC":
        owner, parts = policy.actor, [*policy.actor.latent_pi, policy.actor.mu]
    elif kind.algorithm == "TD3":
        owner, parts = policy.actor, [*policy.actor.mu]
    elif kind.algorithm == "DQN":
        owner, parts = policy.q_net, [*policy.q_net.q_net]
    else:
        owner, parts = policy, [*policy.mlp_extractor.policy_net, policy.action_net]
    extractor = type(owner.features_extractor).__name__
    if extractor != "FlattenExtractor":
        raise InputError(f"{kind.name} with a {extractor} is not supported: the policy must be MlpPolicy")
    return parts


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().numpy(), np.float32)


def normalizer_of(model: Any) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Return mean, scale and clip of the model's VecNormalize; None if observations are not normalized."""
    wrapper = model.get_vec_normalize_env()
    if wrapper is None or not wrapper.norm_obs:
        return None
    statistics = wrapper.obs_rms
    scale = 1.0 / np.sqrt(statistics.var + wrapper.epsilon)
    return statistics.mean.astype(np.float32), scale.astype(np.float32), float(wrapper.clip_obs)


def actions_of(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that returns the model's deterministic actions for raw observations (n, observation_dim)."""
    wrapper = model.get_vec_normalize_env()

    def act(observations: np.ndarray) -> np.ndarray:
        seen = observations if wrapper is None else wrapper.normalize_obs(observations)
        actions, _ = model.predict(seen, deterministic=True)
        return np.asarray(actions)

    return act


def environment_spec(model: Any) -> Any:
    """Return the Gymnasium spec of a model's environment, without wrappers that only record; None if it has none."""
    env = model.get_env()
    try:
        spec = env.get_attr("spec")[0]
        wrappers = tuple(wrapper for wrapper in spec.additional_wrappers if wrapper.entry_point not in RECORDERS)
    except AttributeError:  # None has no attributes either
        return None
    return replace(spec, additional_wrappers=wrappers)


def recorded_observations(model: Any, n: int) -> np.ndarray | None:
    """Return up to n raw observations of the model's replay buffer, (n, observation_dim); None if it has no buffer."""
    buffer: Any = getattr(model, "replay_buffer", None)
    size = buffer.size() if buffer is not None else 0
    if not size or isinstance(buffer.observations, dict):
        return None
    return np.asarray(buffer.observations[:size, 0][:n], np.float32).reshape(min(size, n), -1)
