"""Save and load a complete agent as one safetensors file."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from ..errors import InputError, TrainingError, nearest
from ..files import dump_tensors, load_tensors
from ..pruning.schedules import KINDS
from . import ALGORITHMS
from .architecture import AgentConfig, Spaces, algorithm_key, config_class
from .base import Agent, AgentState, algorithm_of

_FORMAT = re.compile(r"lth-(.+)-1")
_NEVER_NEGATIVE = ("env_steps", "grad_steps", "normalizer/variance", "normalizer/seen")
_ON_DISK = {"params": "{}_params", "targets": "target_{}_params", "values": "{}", "opts": "{}_opt"}
"""The names in a file of state parts that are keyed by name: `critic_params/q1/...`, `log_alpha`."""


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _named_leaves(state: AgentState) -> dict[str, Any]:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        field, *rest = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if field in _ON_DISK:
            field, rest = _ON_DISK[field].format(rest[0]), rest[1:]
        found["/".join([field, *rest])] = leaf
    return found


def dump_agent(
    config: AgentConfig, state: AgentState, about: dict[str, Any], more: Mapping[str, np.ndarray] | None = None
) -> bytes:
    """Return a checkpoint: every array of the state (and `more`), with the configuration and `about` as its metadata.

    Raises:
        TrainingError: a number of the state is NaN or infinite.
    """
    arrays = {n: np.asarray(jax.random.key_data(x) if _is_key(x) else x) for n, x in _named_leaves(state).items()}
    for leaf, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            hint = (
                " Its observations are too large for float32: scale them down." if leaf.startswith("normalizer") else ""
            )
            raise TrainingError(
                f"{leaf} of the agent became NaN or infinite, so it cannot be saved: learning diverged.{hint}"
            )
    spaces, name = algorithm_of(Agent(config, state)).spaces, algorithm_key(config)
    sizes = {"observation_dim": spaces.observation_dim, "action_dim": spaces.action_dim}
    settings = {name: config.model_dump(mode="json")}
    return dump_tensors({**arrays, **(more or {})}, {"format": f"lth-{name}-1", **settings, **sizes, "about": about})


def _scheduled(template: AgentState, arrays: Mapping[str, np.ndarray]) -> AgentState:
    """Add schedules to a template for the arrays that describe one."""
    for network in template.params:
        prefix = f"{_ON_DISK['opts'].format(network)}/schedule/"
        found = {name.removeprefix(prefix): leaf for name, leaf in arrays.items() if name.startswith(prefix)}
        for kind in KINDS:
            if {*kind._fields} - {"stacks"} == found.keys():  # agent networks have no stacks
                shapes: dict[str, Any] = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in found.items()}
                schedule = kind(**shapes)
                opt = template.opts[network]._replace(schedule=schedule)
                template = template._replace(opts={**template.opts, network: opt})
    return template


def load_agent(path: Path) -> tuple[AgentConfig, AgentState, dict[str, Any]]:
    """Read a checkpoint of `dump_agent`: configuration, state, and `about`.

    Raises:
        InputError: the file is missing, altered, truncated or in another format; an array is missing, has the wrong
            shape or dtype (names both), or contains NaN or infinity.
    """
    config, state, about, more = load_agent_and_more(path)
    if more:
        raise InputError(
            f"the checkpoint '{path}' has an unexpected array {min(more)!r}, which does not fit its configuration"
        )
    return config, state, about


def load_agent_and_more(
    path: Path, sealed: bool = False
) -> tuple[AgentConfig, AgentState, dict[str, Any], dict[str, np.ndarray]]:
    """Read a checkpoint of `dump_agent`, including arrays outside of the state; for `sealed` see `load_tensors`.

    Raises:
        InputError: see `load_agent`.
    """
    what = "the checkpoint"
    arrays, metadata = load_tensors(path, what, sealed=sealed)
    form = _FORMAT.fullmatch(str(metadata.get("format")))
    if not form:
        known = ", ".join(f"'lth-{name}-1'" for name in ALGORITHMS)
        raise InputError(f"{what} '{path}' has format {metadata.get('format')!r}; this version of lth reads {known}")
    try:
        config = config_class(form[1]).model_validate(metadata[form[1]])
        sizes = [metadata["observation_dim"], metadata["action_dim"]]
        about = metadata["about"]
        if not isinstance(about, dict):
            raise ValueError("its 'about' is not a JSON object")
        if not all(type(size) is int and 0 < size < 10**6 for size in sizes):
            raise ValueError(f"its sizes are {sizes}")
    except InputError as error:
        raise InputError(f"{what} '{path}': {error}") from None
    except (KeyError, ValueError, pydantic.ValidationError) as error:
        raise InputError(f"{what} '{path}' has invalid metadata: {type(error).__name__}: {error}") from None
    algorithm = config.build(Spaces(sizes[0], sizes[1], config.DISCRETE))
    template = _scheduled(jax.eval_shape(lambda: algorithm.init(jax.random.key(0))), arrays)
    leaves = []
    for name, leaf in _named_leaves(template).items():
        if name not in arrays:
            raise InputError(f"{what} '{path}' has no array {name!r}{nearest(name, arrays)}")
        want = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        have = arrays.pop(name)
        if have.shape != want.shape or have.dtype != want.dtype:
            raise InputError(
                f"{what} '{path}': array {name!r} is {have.dtype}{list(have.shape)}, but its network needs "
                f"{want.dtype}{list(want.shape)}"
            )
        if name in _NEVER_NEGATIVE and (have < 0).any():
            raise InputError(f"{what} '{path}': array {name!r} contains a negative number")
        if have.dtype == bool and (have.view(np.uint8) > 1).any():
            raise InputError(f"{what} '{path}': boolean array {name!r} has values other than 0 and 1")
        if have.dtype.kind == "f" and not np.isfinite(have).all():
            raise InputError(
                f"{what} '{path}': array {name!r} contains NaN or infinity, so the training that wrote it failed"
            )
        have = jax.device_put(have)
        leaves.append(jax.random.wrap_key_data(have) if _is_key(leaf) else have)
    return config, jax.tree.unflatten(jax.tree.structure(template), leaves), about, arrays
