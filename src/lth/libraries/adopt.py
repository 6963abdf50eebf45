"""`lth.adopt`: import a trained agent of Stable-Baselines3 or SBX as a finished dense run for `lth run`."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from .. import envs
from ..algorithms.acting import policy_of
from ..algorithms.architecture import Spaces
from ..algorithms.base import Agent, AgentState, Algorithm, Normalizer
from ..config import NO_YAML, parse_config, replay_capacity
from ..errors import InputError
from ..experiment import records, store
from ..experiment.backend import resolve_backend
from ..experiment.build import dense_spec
from ..experiment.journal import is_finished
from ..experiment.measurements import agent_rows
from ..experiment.trainer import evaluation_metrics
from ..files import read_text, write_whole
from ..precision import in_float32
from ..replay import ReplayBuffer
from ..training import evaluate, metric_rows
from ..types import Params
from .models import Kind, kind_of
from .settings import settings_of
from .weights import networks_of


class Adopted(NamedTuple):
    """The result of `adopt`."""

    config: Path
    """The config file for `lth run`."""
    run: Path
    """The directory of the dense run."""
    notes: list[str]
    """Differences between the training of tickets and of the model, and how many weights of the model are zero."""


@in_float32
def adopt(
    model: Any,
    task: str,
    *,
    replay_buffer: Any = None,
    initial: Any = None,
    output_dir: str | Path = "results/adopted",
    seed: int = 0,
) -> Adopted:
    """Write an agent of Stable-Baselines3 or SBX as a finished dense run, with a config for `lth run` to train its tickets.

    >>> first = copy.deepcopy(model)  # doctest: +SKIP
    >>> model.learn(50_000)  # doctest: +SKIP
    >>> lth.adopt(model, "Pendulum-v1", initial=first)  # doctest: +SKIP
    >>> lth.run("results/adopted/config.yaml")  # doctest: +SKIP

    Tickets train in lth's loop with the model's settings; `notes` lists settings that lth does not support. With `initial`, tickets
    are rewound to its weights; without it, they are fine-tuned from the trained weights. Adam's moments are not imported.

    Args:
        model: an agent of SAC, TD3 or DQN with MlpPolicy and ReLU, after `learn`.
        task: the task that it was trained on: a Gymnasium id or a Meta-World task.
        replay_buffer: the replay buffer that it was trained with; None: the model's own.
        initial: the model before `learn`: a deep copy, or a saved and loaded model.
        output_dir: the folder for the run and config.yaml, one for each model. A config.yaml of the same model is left as it is.
        seed: the seed in the name of the run.

    Returns:
        `config`, the file for `lth run`; `run`, the directory of the dense run; and `notes`.

    Raises:
        InputError: the model is not supported, does not fit the task, or is untrained; `initial` is another kind of model, or has
            the trained weights; the replay buffer cannot be read, or is of other spaces; or `output_dir` has the config.yaml of
            another study.
    """
    kind = kind_of(model)
    if kind.algorithm == "PPO":
        raise InputError("PPO has no replay buffer and cannot be adopted; prune it in place with `lth.prune_agent`")
    networks, targets = networks_of(model, kind)
    sections, notes = settings_of(model, kind, networks)
    start = _start(initial, model, kind, networks) if initial is not None else None
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((networks, targets, start)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    sections["training"]["adopted"] = digest.hexdigest()
    tree = {
        "tasks": [task],
        "seeds": [seed],
        "algorithm": kind.algorithm.lower(),
        "output_dir": str(output_dir),
        **sections,
        "pruning": {"rewind_steps": [0 if start else "none"]},
    }
    asked = parse_config(tree)
    path = Path(output_dir) / "config.yaml"
    _check_config(path, tree)
    notes += _zeros(networks)
    spaces = envs.task_spaces(task)
    algorithm = asked.agent_config.build(spaces, task)
    _check_fits(algorithm, networks, task)
    state = _state(algorithm, model, kind, networks, targets)
    first = algorithm.init(jax.random.key(seed))
    if start:
        _check_fits(algorithm, start[0], task)
        first = first._replace(params=_arrays(start[0]), targets=_arrays(start[1]))
    buffer = _buffer(model, replay_buffer, replay_capacity(asked.agent_config, asked.training), spaces)
    config, _ = resolve_backend(asked)  # use the backend recorded in the folder; the first thing that is written
    spec = dense_spec(config, task, seed)
    root = config.output_dir
    rows: list[tuple[int, str, float]] = []
    env = envs.make(task, seed, envs.EVALUATE)
    for at, known in ((0, first), (int(state.env_steps), state)):
        result = evaluate(
            policy_of(Agent(spec.agent, known)), env, spec.evaluation.episodes_at(at, spec.training.env_steps)
        )
        rows += metric_rows(at, evaluation_metrics(result))
    env.close()
    if not is_finished(root, spec):
        run = records.open_run(root, spec)
        if start:
            store.save_agent(run, spec, first, 0)
        store.save_replay_buffer(run, spec, buffer)
        records.save_metrics(run, rows)
        records.save_analysis(run, agent_rows(Agent(spec.agent, state, buffer)))
        records.save_timings(run, {"total": 0.0})
        store.finish_agent(root, spec, state)
    if not path.exists():
        text = "# Written by lth.adopt. `lth run` with this file makes masks, tickets, controls and tables.\n"
        write_whole(path, (text + yaml.safe_dump(tree, sort_keys=False)).encode(), checksum=False)
    return Adopted(path, root / spec.path, notes)


def _start(
    initial: Any, model: Any, kind: Kind, networks: dict[str, Params]
) -> tuple[dict[str, Params], dict[str, Params]]:
    """Return the networks and targets of the model before it learned."""
    if kind_of(initial) != kind:
        raise InputError(f"initial is an agent of {kind_of(initial).name}, but the model of {kind.name}")
    start = networks_of(initial, kind)
    pairs = zip(jax.tree.leaves(start[0]), jax.tree.leaves(networks), strict=False)
    if model._n_updates and all(np.array_equal(one, other) for one, other in pairs):
        raise InputError(
            "initial has the weights of the trained model, so that tickets would not be rewound; pass copy.deepcopy(model) made "
            "before model.learn, or leave out initial to fine-tune"
        )
    return start


def _check_config(path: Path, tree: dict[str, Any]) -> None:
    """Check that a config in the way is of the same agent, whatever else was set in it."""
    if not path.exists():
        return
    try:
        there = yaml.safe_load(read_text(path))
    except (OSError, *NO_YAML):
        there = None
    known = there if isinstance(there, dict) else {}
    differs = [key for key in tree if key not in ("output_dir", "pruning") and known.get(key) != tree[key]]
    if differs:
        raise InputError(
            f"'{path}' is the config of another study ({', '.join(differs)} differ), which is not overwritten; pass another folder "
            "as output_dir=..., or move that file"
        )


def _zeros(networks: dict[str, Params]) -> list[str]:
    """Return a note on the weights that are zero, if the model was pruned before."""
    found = []
    for name, params in networks.items():
        kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if np.ndim(leaf) > 1]
        total = sum(kernel.size for kernel in kernels)
        zeros = total - sum(int(np.count_nonzero(kernel)) for kernel in kernels)
        if zeros:
            found.append(f"{zeros:,} of {total:,} weights of the {name} ({100 * zeros / total:.1f} %)")
    if not found:
        return []
    return [
        f"the model was pruned before it was adopted: {' and '.join(found)} are zero. The dense agent has these zeros, and the "
        "sparsity of masks is counted over all weights"
    ]


def _check_fits(algorithm: Algorithm, networks: Any, task: str) -> None:
    wanted = jax.eval_shape(lambda: algorithm.init(jax.random.key(0))).params
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (networks, wanted)]
    if shapes[0] != shapes[1]:
        raise InputError(f"the model's networks do not fit the observations and actions of {task!r}; check the task")


def _arrays(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def _state(algorithm: Algorithm, model: Any, kind: Kind, networks: Any, targets: Any) -> AgentState:
    state = algorithm.init(jax.random.key(0))
    steps, updates = (jnp.asarray(int(n), jnp.int32) for n in (model.num_timesteps, model._n_updates))
    state = state._replace(params=_arrays(networks), targets=_arrays(targets), env_steps=steps, grad_steps=updates)
    if kind.algorithm == "SAC":
        state = state._replace(values={"log_alpha": jnp.asarray(_log_alpha(model, kind), jnp.float32)})
    wrapper = model.get_vec_normalize_env()
    if wrapper is not None and wrapper.norm_obs:
        seen = wrapper.obs_rms
        state = state._replace(
            normalizer=Normalizer(*(jnp.asarray(x, jnp.float32) for x in (seen.mean, seen.var, seen.count)))
        )
    return state


def _kind_of_space(space: Any) -> tuple[Any, ...]:
    return type(space).__name__, space.shape, getattr(space, "n", None)


def _log_alpha(model: Any, kind: Kind) -> float:
    if kind.library == "sbx":
        return float(np.log(model.ent_coef_state.apply_fn({"params": model.ent_coef_state.params})))
    if model.log_ent_coef is not None:
        return float(model.log_ent_coef.detach().cpu().numpy().reshape(-1)[0])
    return float(np.log(model.ent_coef_tensor.item()))


def _buffer(model: Any, given: Any, capacity: int, spaces: Spaces) -> ReplayBuffer:
    """Return the latest transitions of a replay buffer, up to lth's capacity, in chronological order."""
    source = model.replay_buffer if given is None else given
    if source is not None and not all(hasattr(source, name) for name in ("observation_space", "next_observations")):
        raise InputError(
            f"replay_buffer is of type {type(source).__name__}, but must be a replay buffer of Stable-Baselines3; to read a file, "
            "call model.load_replay_buffer(file) and leave out replay_buffer"
        )
    if source is None or source.size() == 0:
        raise InputError(
            "the model's replay buffer is empty; pass a saved one as replay_buffer=..., or call model.learn first"
        )
    if isinstance(source.observations, dict) or source.optimize_memory_usage or getattr(model, "n_steps", 1) > 1:
        raise InputError(
            "the replay buffer must contain single steps of flat observations, without optimize_memory_usage"
        )
    for what in ("observation", "action"):
        there, wanted = (getattr(owner, f"{what}_space") for owner in (source, model))
        if _kind_of_space(there) != _kind_of_space(wanted):
            raise InputError(
                f"the replay buffer has {what}s {there}, but the model {wanted}; pass the buffer that it was trained with"
            )
    count = source.size()
    order = np.roll(np.arange(count), -source.pos) if source.full else np.arange(count)

    def field(array: Any, width: int | None) -> np.ndarray:
        rows = np.asarray(array)[order]
        return rows.reshape(-1) if width is None else rows.reshape(-1, width)

    ended = field(source.dones, None) * (1 - field(source.timeouts, None))
    actions = field(source.actions, spaces.action_width)
    data = {
        "observations": field(source.observations, spaces.observation_dim),
        "actions": actions.astype(np.int32) if spaces.discrete else np.clip(actions, -1, 1),
        "rewards": field(source.rewards, None),
        "next_observations": field(source.next_observations, spaces.observation_dim),
        "terminated": ended,
    }
    data = {
        name: np.asarray(rows[-capacity:], None if name == "actions" else np.float32) for name, rows in data.items()
    }
    size = len(data["rewards"])
    scalars = {"capacity": capacity, "position": size % capacity}
    return ReplayBuffer.load(
        {**data, **{name: np.array(n, np.int64) for name, n in scalars.items()}}, "the model's replay buffer"
    )
