"""Every setting, with its default and its meaning; and how a config file and `key=value` become one.

Imports no JAX: the number of threads has to be read from the config before JAX starts.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from .algorithms import DQNConfig, SACConfig, TD3Config
from .algorithms.architecture import AgentConfig, config_class
from .algorithms.controls import control_named
from .errors import InputError, nearest
from .pruning.allocation import ALLOCATIONS
from .pruning.criteria import CRITERIA, criterion_named
from .registry import lookup
from .settings import Few, Fraction, Positive, Settings, Whole, not_boolean

CONTROL_METHODS = ("random", "shuffled")
"""Methods that ignore what the network learned."""
SALIENCY_METHODS = tuple(name for name in CRITERIA if name not in CONTROL_METHODS)
SCHEDULED_METHODS = ("gradual", "set", "rigl")
"""Methods that change the mask while the ticket trains (`pruning.schedules`)."""
DEFAULT_METHODS = ("magnitude", "gradient", "taylor")
METHODS = tuple(dict.fromkeys(DEFAULT_METHODS + CONTROL_METHODS + SALIENCY_METHODS + SCHEDULED_METHODS))
PRIMARY = ("taylor", "magnitude")
"""The question of docs/saliency-pruning.md."""
CONNECTIVITY = ("parent", "methods", "rounds", "noise")
"""Which agents `analysis.connectivity` can compare."""
REWOUND = ("optimizer", "normalizer", "temperature", "replay_buffer")
"""What can be put back beside the weights."""


# What yaml.safe_load raises besides: of an impossible date or number, and of very deep nesting.
_NO_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name != "<<" and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class TrainingConfig(Settings):
    """`training.*`: the loop."""

    env_steps: Positive = 100_000
    """Environment steps of a dense run; a ticket trains what remains of them after its rewind point."""
    start_steps: Annotated[Whole, Field(strict=True, ge=0, le=10**12)] = 5_000
    """Steps with uniformly random actions before learning starts."""
    num_envs: Few = 1
    """Environments stepped side by side."""
    batch_size: Positive = 256
    """Transitions in each update, drawn uniformly with replacement."""
    updates_per_step: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Updates for each environment step; 0.5 is one every second step."""
    segment_steps: Positive = 5_000
    """Training is a row of segments of so many environment steps. Each starts by resetting the environments."""
    threads: Few = 1
    """Cores that a run uses. No result of the native backend depends on it; those of the dense one repeat at a fixed number."""
    checkpoint_every: Positive = 10
    """A run can be taken up again at every so many segments. Changes no result."""
    step_timeout: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """End a run whose environment takes longer than so many seconds for one step or reset; null: wait. Changes no result."""
    adopted: str | None = None
    """The SHA-256 of the weights of dense agents that `lth.adopt` wrote, and that are not trained here. It is not set by hand."""
    backend: Literal["auto", "native", "dense"] = "auto"
    """What computes the updates: `native` is a compiled kernel that skips the work of pruned weights, `dense` is XLA, which
    multiplies by masked matrices, and `auto` is native wherever it is available (docs/sparse.md)."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainingConfig":
        if self.segment_steps % self.num_envs:
            raise ValueError(
                f"segment_steps is {self.segment_steps}, which is no multiple of num_envs, {self.num_envs}; "
                f"the nearest is {_nearest_multiple(self.segment_steps, self.num_envs)}"
            )
        if self.env_steps % self.num_envs:
            raise ValueError(
                f"env_steps is {self.env_steps}, which is no multiple of num_envs, {self.num_envs}; "
                f"the nearest is {_nearest_multiple(self.env_steps, self.num_envs)}"
            )
        if self.start_steps >= self.env_steps:
            raise ValueError(
                f"start_steps is {self.start_steps}, so none of the {self.env_steps} env_steps would learn"
            )
        return self


class EvaluationConfig(Settings):
    """`evaluation.*`: the deterministic policy on episodes of its own."""

    every: Positive = 10_000
    """Evaluate after each so many environment steps (a multiple of `training.segment_steps`), and at the end."""
    episodes: Positive = 10
    """Episodes of an evaluation during training, the same ones in every run."""
    last_episodes: Positive = 50
    """Episodes of the last evaluation, which results are taken from: those of the others, and more. Meta-World has 50 held-out
    goals, one for each."""

    def episodes_at(self, env_steps: int, of: int) -> int:
        """Return how many episodes the evaluation at an environment step has, in a run of `of` steps."""
        return self.last_episodes if env_steps >= of else self.episodes


class Sparsity(Settings):
    """The fraction of prunable weights that each network loses, by the network's name: `Sparsity(q=0.9)`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Fraction] = Field(init=False)

    @property
    def networks(self) -> dict[str, float]:
        """The fractions by network, sorted by name."""
        return dict(sorted((self.__pydantic_extra__ or {}).items()))

    def __getitem__(self, network: str) -> float:
        return self.networks[network]

    def __hash__(self) -> int:
        return hash(tuple(self.networks.items()))

    @property
    def same(self) -> float | None:
        """The fraction of all networks together, or None where they differ."""
        values = set(self.networks.values())
        return values.pop() if len(values) == 1 else None

    def label(self) -> str:
        """Name it as in directories and tables: `0.8`, or `<network>0.9-<other>0.5`."""
        if self.same is not None:
            return f"{self.same:g}"
        return "-".join(f"{network}{value:g}" for network, value in self.networks.items())

    @classmethod
    def alike(cls, value: Any, networks: Sequence[str]) -> "Sparsity":
        """Return the same sparsity for all networks."""
        return cls(**dict.fromkeys(networks, value))


def _sparsity(value: Any, info: ValidationInfo) -> Any:
    """Read one number for all networks, or a number for each by name; the networks are the algorithm's."""
    networks: Sequence[str] = (info.context or {}).get("networks", SACConfig.NETWORKS)
    if isinstance(value, Sparsity):
        value = value.networks
    if not isinstance(value, Mapping):
        return dict.fromkeys(networks, value) if isinstance(value, int | float | str) else value
    for name in value:
        if name not in networks:
            raise ValueError(
                f"unknown network {name!r}; the algorithm has {', '.join(networks)}{nearest(str(name), networks)}"
            )
    for name in networks:
        if name not in value:
            raise ValueError(f"no sparsity for the network {name!r}; give one for each of {', '.join(networks)}")
    return value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _check_distinct(values: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    if not values:
        raise ValueError(f"{what} is empty; name at least one")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{what} names {value!r} more than once")
    return values


def _rewind_points(value: Any) -> Any:
    return tuple("none" if item is None else item for item in _as_list(value))


RewindStep = Annotated[Whole, Field(strict=True, ge=0, le=10**12)] | Literal["none"]


def _known_allocation(value: Any) -> Any:
    if isinstance(value, str):
        lookup(ALLOCATIONS, value, "allocation", also=", {layer: sparsity}")
    return value


class PruningConfig(Settings):
    """`pruning.*`: the masks."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """The masks that `lth run` compares: magnitude, gradient, taylor, fisher, snip, grasp, synflow; the controls random and
    shuffled; those that change in training: gradual, set, rigl; and criteria of your own, `package.module:name`."""
    sparsity: Annotated[
        tuple[Annotated[Sparsity, BeforeValidator(_sparsity)], ...], BeforeValidator(_as_list), Field(default=0.8)
    ]
    """One number for every network, a number for each by name (SAC and TD3: actor, critic; DQN: q), or a list of these."""
    exclude: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Layers that stay dense, by any part of their path: `output`, `q1/layer_0`, `actor/layer_0`."""
    gradient_method: str = "taylor"
    """What `_02b_create_mask_gradient.py` scores by."""
    num_gradient_batches: Positive = 100
    """Batches over which gradients are averaged, where the method takes any; more are more stable."""
    gradient_batch_size: Positive = 256
    """Transitions in each of them."""
    allocation: Annotated[str | dict[str, Fraction], BeforeValidator(_known_allocation)] = "global"
    """Which layers lose how much: decided by the scores of all layers together (`global`), the same share of each (`layer`),
    `erk`, a function of your own (`package.module:name`), or `{layer: sparsity}`, where layers that are not named have
    `sparsity`."""
    pool: Literal["apart", "together"] = "apart"
    """Whether each network loses `sparsity` of its own weights, or all networks together lose it of all."""
    rounds: Annotated[Whole, Field(strict=True, gt=0, le=1000)] = 1
    """Iterative pruning: so many times prune, rewind and train, on the way to each `sparsity`. 1 is one-shot."""
    rate: Annotated[float, BeforeValidator(not_boolean), Field(gt=0, lt=1)] | None = None
    """Instead of `sparsity`: each round prunes this share of what is left, so that 1 - (1 - rate)^rounds are pruned."""
    rewind_steps: Annotated[tuple[RewindStep, ...], BeforeValidator(_rewind_points)] = (0,)
    """The environment steps to which tickets are put back: multiples of `training.segment_steps`; `none`: fine-tuning."""
    rewound: tuple[str, ...] = REWOUND
    """What is put back with the weights: optimizer, normalizer, temperature, replay_buffer. The rest is the trained agent's."""
    controls: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Further rows (docs/protocols.md): reinit, shuffled, permuted, inverted, random-erk, small-dense, retrained, and controls of
    your own, `package.module:name`."""
    mask_every: Positive = 1000
    """gradual, set and rigl change the mask after each so many updates."""
    mask_until: Annotated[float, BeforeValidator(not_boolean), Field(gt=0, le=1)] = 0.75
    """They do so up to this share of the ticket's updates, and train under the last mask from there."""
    mask_fraction: Annotated[float, BeforeValidator(not_boolean), Field(gt=0, lt=1)] = 0.3
    """set and rigl replace this share of each layer's kept weights (rigl: at first, falling to 0 as a cosine)."""
    transfer_from: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Tasks whose masks are tried on each of `tasks` too."""
    transfer_weights: Literal["target", "source", "both"] = "target"
    """Whose weights are put under a mask of another task."""
    transfer_mismatch: Literal["error", "dense"] = "error"
    """Where a layer has another shape on the other task: stop, or leave that layer dense (with the target's weights)."""

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, value: Any) -> Any:
        value = _as_list(value)
        for method in value:
            if not isinstance(method, str) or (":" not in method and method not in METHODS):
                raise ValueError(
                    f"unknown method {method!r}; choose from {', '.join(METHODS)}, or name a criterion of your own as "
                    f"package.module:name{nearest(str(method), METHODS)}"
                )
            if ":" in method:
                criterion_named(method)
        return value

    @field_validator("gradient_method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        if value != "magnitude" and not criterion_named(value).takes_gradients:
            known = ("magnitude", *(name for name, criterion in CRITERIA.items() if criterion.takes_gradients))
            raise ValueError(f"{value!r} takes no gradients; choose from {', '.join(known)}{nearest(value, known)}")
        return value

    @field_validator("controls")
    @classmethod
    def _known_controls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for control in value:
            control_named(control)
        return value

    @model_validator(mode="after")
    def _distinct(self) -> "PruningConfig":
        for part in self.rewound:
            if part not in REWOUND:
                raise ValueError(f"{part!r} is none of rewound; there are {', '.join(REWOUND)}{nearest(part, REWOUND)}")
        for name, values in (("controls", self.controls), ("rewound", self.rewound)):
            if values:
                _check_distinct(values, name)
        _check_distinct(self.rewind_steps, "rewind_steps")
        if self.transfer_from:
            _check_distinct(self.transfer_from, "transfer_from")
        if self.rate is not None and "sparsity" in self.model_fields_set:
            raise ValueError("rate and sparsity are two ways to say the same; give one of them")
        if self.pool == "together" and any(s.same is None for s in self.sparsity):
            raise ValueError("pool is together, so there is one sparsity for all networks; give a number")
        by_total = {"random-erk", "small-dense"} & set(self.controls)
        if by_total and (self.pool == "together" or isinstance(self.allocation, dict)):
            raise ValueError(
                f"{', '.join(sorted(by_total))}: matched to the sparsity of each network, which pool: together and an "
                "allocation by layers' names leave open; leave these controls out"
            )
        _check_distinct(self.methods, "methods")
        _check_distinct(tuple(s.label() for s in self.sparsity), "sparsity")
        return self


class AnalysisConfig(Settings):
    """`analysis.*`: what is measured besides (docs/analysis.md)."""

    connectivity: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Compare agents along the line between their weights: parent, methods, rounds, noise (trains every ticket once more)."""
    connectivity_points: Annotated[Whole, Field(strict=True, ge=3, le=1001)] = 11
    """Points of the line at which agents are measured, both ends among them."""
    connectivity_episodes: Positive = 5
    """Episodes of the evaluation at each point, the same ones at all."""

    @field_validator("connectivity")
    @classmethod
    def _known_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in CONNECTIVITY:
                raise ValueError(
                    f"{kind!r} is none of the comparisons; there are {', '.join(CONNECTIVITY)}{nearest(kind, CONNECTIVITY)}"
                )
        return _check_distinct(value, "connectivity") if value else value


class ReportConfig(Settings):
    """`report.*`: the question that a study answers (docs/report.md). It is recorded before the first run, and changes none."""

    primary: tuple[str, str] | None = PRIMARY
    """The two methods of the primary question: does the first train to a higher score than the second? null: none. The default
    is asked where `pruning.methods` has both."""
    margin: Annotated[float, BeforeValidator(not_boolean), Field(gt=0, lt=1)] = 0.1
    """A ticket wins where its score is less than this below the dense agent's; scores are 0 for a random policy, 1 for dense."""
    random_episodes: Annotated[Whole, Field(strict=True, ge=2, le=100_000)] = 200
    """Episodes of the random policy, made once for each task of an output directory."""


class RayConfig(Settings):
    """`ray.*`: a cluster, where `executor` is ray (the extra `ray`)."""

    address: str = "local"
    """A running cluster (`auto`, `ray://host:10001`), or `local`: one on this machine, for this command."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that Ray reserves for a run."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray reserves for a run; 0.25 lets four share one."""


class Config(Settings):
    """A whole experiment."""

    tasks: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ("Pendulum-v1",)
    """Gymnasium ids (`HalfCheetah-v5`) and Meta-World v3 names (`drawer-close-v3`)."""
    seeds: Annotated[tuple[Annotated[int, Field(strict=True, ge=0, lt=2**31)], ...], BeforeValidator(_as_list)] = (0, 1)
    """Every run is made once for each seed: its initial weights, environments and actions follow from it."""
    output_dir: Path = Path("results")
    """Where everything is written (docs/files.md)."""
    training: TrainingConfig = TrainingConfig()
    """The loop."""
    algorithm: str = "sac"
    """What trains the agent: sac, td3, dqn (discrete actions), or `package.module:ClassName`, one of your own."""
    sac: SACConfig = SACConfig()
    """The agent, with `algorithm: sac`."""
    td3: TD3Config = TD3Config()
    """The agent, with `algorithm: td3`."""
    dqn: DQNConfig = DQNConfig()
    """The agent, with `algorithm: dqn`."""
    agent: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies it)
    """The settings of an algorithm of your own (docs/recipes.md)."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """The evaluations."""
    pruning: PruningConfig = Field(default={}, validate_default=True)  # validated with the algorithm's networks
    """The masks."""
    analysis: AnalysisConfig = AnalysisConfig()
    """What is measured besides."""
    report: ReportConfig = ReportConfig()
    """The question."""
    workers: Few = 1
    """Runs made side by side, each in a process of its own on `training.threads` cores. Changes no result."""
    executor: Literal["local", "ray"] = "local"
    """Where runs are made: by processes of this machine, or on a Ray cluster."""
    ray: RayConfig = RayConfig()
    """The cluster."""
    retries: Annotated[Whole, Field(strict=True, ge=0, le=100)] = 1
    """How often a run that failed is tried again. A process that was killed from outside does not count."""
    tensorboard: bool = False
    """Write TensorBoard event files too (the extra `tensorboard`)."""

    @property
    def primary(self) -> tuple[str, str] | None:
        """The methods of the primary question, or None where it cannot be asked."""
        asked = self.report.primary
        return asked if asked and set(asked) <= set(self.pruning.methods) else None

    @property
    def agent_config(self) -> AgentConfig:
        """The settings of the algorithm that is used."""
        cls = config_class(self.algorithm)
        if self.algorithm in type(self).model_fields:
            found: AgentConfig = getattr(self, self.algorithm)
            return found
        return cls.model_validate(self.agent)

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.agent and self.algorithm in type(self).model_fields:
            raise ValueError(
                f"agent holds the settings of an algorithm of your own, and algorithm is {self.algorithm}: its settings are "
                f"{self.algorithm}.*, as in {self.algorithm}.{next(iter(self.agent))}"
            )
        for sparsity in self.pruning.sparsity:
            if set(sparsity.networks) != set(self.agent_config.NETWORKS):
                raise ValueError(
                    f"pruning.sparsity names the networks {', '.join(sparsity.networks)}, and {self.algorithm} has "
                    f"{', '.join(self.agent_config.NETWORKS)}; `lth.config.parse_config` reads one number for all"
                )
        if self.training.step_timeout is not None and self.executor == "ray":
            raise ValueError(
                "training.step_timeout ends processes of this machine, and executor is ray; set one of the two"
            )
        for method in self.report.primary or ():
            if method not in self.pruning.methods and "primary" in self.report.model_fields_set:
                raise ValueError(
                    f"report.primary names {method!r}, which is not one of pruning.methods: "
                    f"{', '.join(self.pruning.methods)}{nearest(method, self.pruning.methods)}"
                )
        if self.report.primary and self.report.primary[0] == self.report.primary[1]:
            raise ValueError(f"report.primary compares {self.report.primary[0]!r} with itself; name two methods")
        _check_distinct(self.tasks, "tasks")
        _check_distinct(self.seeds, "seeds")
        segment = self.training.segment_steps
        for rewind in self.pruning.rewind_steps:
            if rewind == "none" or (rewind % segment == 0 and rewind < self.training.env_steps):
                continue
            largest = (self.training.env_steps - 1) // segment * segment
            closest = min(_nearest_multiple(rewind, segment, at_least=0), largest)
            raise ValueError(
                f"pruning.rewind_steps is {rewind}, but a ticket starts at a multiple of training.segment_steps "
                f"({segment}) below training.env_steps ({self.training.env_steps}); the nearest is {closest}"
            )
        if self.evaluation.every % segment:
            raise ValueError(
                f"evaluation.every is {self.evaluation.every}, but evaluations lie between segments, so it must be a "
                f"multiple of training.segment_steps ({segment}); the nearest is "
                f"{_nearest_multiple(self.evaluation.every, segment)}"
            )
        return self


def updates_before(training: TrainingConfig, env_steps: int) -> int:
    """Return how many updates are due by an environment step."""
    return math.floor(max(env_steps - training.start_steps, 0) * training.updates_per_step + 1e-9)


def evaluation_due(training: TrainingConfig, every: int, env_steps: int) -> bool:
    """Return whether the agent is evaluated at an environment step: at multiples of `every`, and at the end."""
    return env_steps % every == 0 or env_steps == training.env_steps


def replay_capacity(config: AgentConfig, training: TrainingConfig) -> int:
    """Return how many transitions a run's replay buffer has room for."""
    return min(config.buffer_size, training.env_steps)


def total_updates(training: TrainingConfig, from_step: int = 0) -> int:
    """Return how many updates a run makes from an environment step to its end."""
    return updates_before(training, training.env_steps) - updates_before(training, from_step)


def _nearest_multiple(value: int, of: int, at_least: int = 1) -> int:
    return max(math.floor(value / of + 0.5), at_least) * of


def read_tree(path: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Read a YAML config and apply `key=value` overrides (`training.env_steps=5000`; the value is YAML).

    Without a path, `config.yaml` of the working directory is read; without one there, overrides stand beside the defaults.

    Returns:
        Nested dicts, whose settings are not checked yet, and what to call them in messages.

    Raises:
        InputError: the file cannot be read, or an override is not `key=value`.
    """
    if path is None:
        usual = Path("config.yaml")
        if not usual.is_file() and not overrides:
            raise InputError(
                f"there is no config.yaml in {Path.cwd()}. `lth init` writes one; or name a config (lth run my.yaml), or settings, "
                "beside which all else is at its default (lth run tasks=Pendulum-v1)"
            )
        path = usual if usual.is_file() else None
    tree = {} if path is None else _read_yaml(path)
    for override in overrides:
        _apply_override(tree, override)
    return tree, " with ".join(filter(None, [str(path or "the defaults"), " ".join(overrides)]))


_MOST_BYTES, _MOST_VALUES = 1_000_000, 100_000


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a config file is needed, such as {path / 'config.yaml'}")
    if not path.is_file():
        raise InputError(f"{path} is no file" if path.exists() else f"there is no config file {path}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, and is no config")
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        _check_size(tree, path)
    except InputError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the config {path} cannot be read: {error}") from error
    except _NO_YAML as error:
        raise InputError(f"the config {path} is no YAML: {error}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise InputError(f"the config {path} holds a {type(tree).__name__}, not keys and values")
    return tree


def _check_size(tree: Any, path: Path) -> None:
    """Refuse a tree that aliases have made immense (`&a [*b, *b, ...]`): few bytes, and endless to walk through."""
    left, stack = _MOST_VALUES, [tree]
    while stack:
        node = stack.pop()
        left -= 1
        if left < 0:
            raise InputError(
                f"the config {path} has more than {_MOST_VALUES} values, and is none: do its aliases (*name) multiply?"
            )
        stack.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config with `key=value` overrides; without a path `config.yaml` of the working directory.

    Raises:
        InputError: the file or a setting cannot be used; names the file, the key, and the nearest valid one.
    """
    return parse_config(*read_tree(path, overrides))


def parse_config(tree: Any, source: str = "the config") -> Config:
    """Turn nested dicts into a Config.

    Raises:
        InputError: a key is unknown (naming the nearest valid one) or a value cannot be used.
    """
    name = tree.get("algorithm", "sac") if isinstance(tree, dict) else "sac"
    try:
        if not isinstance(name, str):
            raise InputError(f"one name is needed, such as sac, and this is {name!r}")
        networks = config_class(name, load=True).NETWORKS
    except InputError as error:
        raise InputError(f"{source}: algorithm: {error}") from None
    try:
        return Config.model_validate(tree, context={"networks": networks})
    except pydantic.ValidationError as error:
        raise InputError("\n".join(_explain(e, source) for e in error.errors())) from None
    except RecursionError:
        raise InputError(f"{source} is nested too deeply") from None


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{override!r} is neither a config file nor key=value, as in training.env_steps=5000")
    try:
        value = yaml.safe_load(text)
    except _NO_YAML as error:
        raise InputError(f"the value of {override[:200]!r} is no YAML: {error}") from None
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            # pruning.sparsity.<network>=0.9 over a sparsity that is a plain number
            child = node[parent] = {}
        node = child
    node[last] = value


def _explain(error: Any, source: str) -> str:
    # pydantic's location has the key's path, with the names of union members, which are not keys. An unknown key comes last.
    unknown = error["loc"][-1:] if error["type"] == "extra_forbidden" else ()
    above = error["loc"][: len(error["loc"]) - len(unknown)]
    location = [*(str(part) for part in above if not re.search(r"[\[(]", str(part))), *map(str, unknown)]
    key = ".".join(location)
    if unknown:
        section: Any = Config
        for part in location[:-1]:
            annotation = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else None
            section = (
                annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else PruningConfig
            )
        known = list(section.model_fields)
        return f"{source}: unknown key {key!r}{nearest(location[-1], known) or '; there are ' + ', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    given = f" (it is {_short(error['input'])})" if not isinstance(error["input"], dict | BaseModel) else ""
    return f"{source}: {key + ': ' if key else ''}{message[0].lower() + message[1:]}{given}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
