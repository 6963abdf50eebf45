"""All settings with their defaults and documentation, and parsing of config files and `key=value` overrides.

Does not import JAX, because the number of threads must be read from the config before JAX is imported.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from .algorithms.architecture import AgentConfig, config_class
from .algorithms.controls import control_named
from .algorithms.dqn.config import DQNConfig
from .algorithms.sac.config import SACConfig
from .algorithms.td3.config import TD3Config
from .errors import InputError, nearest
from .pruning.allocation import ALLOCATIONS
from .pruning.criteria import CRITERIA, criterion_named
from .registry import lookup
from .settings import Counted, Few, Folder, Fraction, Positive, Settings, Whole, fraction, whole

CONTROL_METHODS = ("random", "shuffled")
"""Control methods that ignore what the network learned."""
SALIENCY_METHODS = tuple(name for name in CRITERIA if name not in CONTROL_METHODS)
SCHEDULED_METHODS = ("gradual", "set", "rigl")
"""Methods that change the mask during training (`pruning.schedules`)."""
DEFAULT_METHODS = ("magnitude", "gradient", "taylor")
METHODS = tuple(dict.fromkeys(DEFAULT_METHODS + CONTROL_METHODS + SALIENCY_METHODS + SCHEDULED_METHODS))
PRIMARY = ("taylor", "magnitude")
"""The question of docs/saliency-pruning.md."""
CONNECTIVITY = ("parent", "methods", "rounds", "noise")
"""The comparisons of `analysis.connectivity`."""
REWOUND = ("optimizer", "normalizer", "temperature", "replay_buffer")
"""State that can be rewound together with the weights."""
DEFAULT_BATCH = 32
"""The size of a batch with `executor: batched`, unless `batch` is set."""
LAST_RUN = "last-run.yaml"
"""The settings of the last `lth run` in an output directory."""


# PyYAML also raises ValueError and OverflowError for invalid dates and numbers, RecursionError for deep nesting.
NO_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError)
_MOST_BYTES, _MOST_VALUES = 1_000_000, 100_000


class _Loader(yaml.SafeLoader):
    """Rejects what YAML silently reads as something else: duplicate keys (it keeps the last), octal and base-60 numbers."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:  # as written: later, the keys merged by << are among them
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name != "<<" and name in seen:
                raise InputError(f"duplicate key {name!r} in line {key.start_mark.line + 1}; remove one")
            seen.add(name)
        return node

    def construct_number(self, node: Any) -> Any:
        whole, text = node.tag.endswith(":int"), str(self.construct_scalar(node))
        value = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        if ":" in text:
            why = f"a colon means base 60; write {value}, or a range of seeds as 0-9 or range(10)"
        elif whole and re.fullmatch(r"[-+]?0[0-9_]+", text):
            why = f"a leading 0 means octal; write {int(text.replace('_', ''))}"
        else:
            return value
        where = f"{text!r} in line {node.start_mark.line + 1}"
        raise InputError(f"{where} would be read as {value}, because in YAML {why}. Text goes in quotes")


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def _read_text(text: str, source: str) -> Any:
    """Read YAML.

    Raises:
        InputError: it is not valid, holds what YAML would read as something else, or is immense.
    """
    try:
        tree = yaml.load(text, _Loader)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except NO_YAML as error:
        raise InputError(f"{source} is not valid YAML: {error}") from None
    left, stack = _MOST_VALUES, [tree]
    while stack:
        node = stack.pop()
        left -= 1
        if left < 0:  # aliases (&a [*b, *b, ...]) expand to any size
            raise InputError(f"{source} has more than {_MOST_VALUES} values; check its aliases (*name)")
        stack.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
    return tree


def _check_multiple(name: str, value: int, what: str, of: int) -> None:
    if value % of:
        nearby = _nearest_multiple(value, of)
        raise ValueError(f"{name} is {value}, but must be a multiple of {what} ({of}); the nearest is {nearby}")


def _nearest_multiple(value: int, of: int, at_least: int = 1) -> int:
    return max(math.floor(value / of + 0.5), at_least) * of


class TrainingConfig(Settings):
    """`training.*`: the training loop."""

    env_steps: Counted = 100_000
    """Environment steps of a dense run. A ticket trains from its rewind point to the same step."""
    start_steps: Annotated[Whole, Field(strict=True, ge=0, le=10**12)] = 5_000
    """Environment steps with uniformly random actions before learning starts."""
    num_envs: Few = 1
    """Number of parallel environments."""
    batch_size: Positive = 256
    """Transitions per update, sampled uniformly with replacement."""
    updates_per_step: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Updates per environment step; 0.5 is one update every second step."""
    segment_steps: Positive = 5_000
    """Environment steps per training segment. Each segment starts by resetting the environments."""
    threads: Few = 1
    """CPU threads per run. Results of the native backend do not depend on it; those of the dense backend do in the last bits."""
    checkpoint_every: Positive = 10
    """Segments between resume points of an interrupted run. Does not affect results."""
    step_timeout: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Time limit in seconds for one environment step or reset; a run that exceeds it fails. null: no limit. Does not affect
    results."""
    adopted: str | None = None
    """The SHA-256 of the weights of agents imported by `lth.adopt`. Set automatically."""
    backend: Literal["auto", "native", "dense", "batched"] = "auto"
    """The backend for updates: `native` is a compiled kernel that skips pruned weights, `dense` is XLA with masked matrices,
    `batched` is XLA for many runs at once (set by `batch`), and `auto` is native if available (docs/sparse.md)."""
    batch: Few | None = None
    """The number of places of a batch. Set automatically from `batch`."""

    @model_validator(mode="after")
    def _fits(self) -> "TrainingConfig":
        _check_multiple("segment_steps", self.segment_steps, "num_envs", self.num_envs)
        _check_multiple("env_steps", self.env_steps, "num_envs", self.num_envs)
        if self.start_steps >= self.env_steps:
            raise ValueError(
                f"start_steps is {self.start_steps}, but must be less than env_steps ({self.env_steps}), or nothing is learned"
            )
        if (updates := updates_before(self, self.env_steps)) >= 2**31:
            raise ValueError(
                f"updates_per_step is {self.updates_per_step:g}, which makes {updates:,} updates in a run, but at most "
                f"{2**31 - 1:,} can be counted; lower it"
            )
        return self


def updates_before(training: TrainingConfig, env_steps: int) -> int:
    """Return the number of updates due by an environment step."""
    return math.floor(max(env_steps - training.start_steps, 0) * training.updates_per_step + 1e-9)


class EvaluationConfig(Settings):
    """`evaluation.*`: evaluation of the deterministic policy on separate episodes."""

    every: Positive = 10_000
    """Environment steps between evaluations (a multiple of `training.segment_steps`); the last is at the end of training."""
    episodes: Positive = 10
    """Episodes per evaluation during training. All runs use the same episodes."""
    last_episodes: Positive = 50
    """Episodes of the last evaluation, which gives the results. They include the episodes of earlier evaluations. Meta-World has 50
    held-out goals, one per episode."""

    def episodes_at(self, env_steps: int, of: int) -> int:
        """Return the number of episodes of the evaluation at an environment step in a run of `of` steps."""
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
        """The fraction that all networks share, or None if they differ."""
        values = set(self.networks.values())
        return values.pop() if len(values) == 1 else None

    def label(self) -> str:
        """Return the label for directories and tables: `0.8`, or `<network>0.9-<other>0.5`."""
        if self.same is not None:
            return f"{self.same:g}"
        return "-".join(f"{network}{value:g}" for network, value in self.networks.items())

    @classmethod
    def alike(cls, value: Any, networks: Sequence[str]) -> "Sparsity":
        """Return the same sparsity for all networks."""
        return cls(**dict.fromkeys(networks, value))


def _sparsity(value: Any, info: ValidationInfo) -> Any:
    """Read one number for all networks of the algorithm, or a mapping from network names to numbers."""
    networks: Sequence[str] = (info.context or {}).get("networks", SACConfig.NETWORKS)
    if isinstance(value, Sparsity):
        value = value.networks
    if not isinstance(value, Mapping):
        if not isinstance(value, int | float | str):
            return value
        return dict.fromkeys(networks, fraction(value))  # checked here, so that one mistake gives one error
    for name in value:
        if name not in networks:
            raise ValueError(
                f"unknown network {name!r}; the algorithm has {', '.join(networks)}{nearest(str(name), networks)}"
            )
    for name in networks:
        if name not in value:
            raise ValueError(
                f"the sparsity of the network {name!r} is missing; set one for each of {', '.join(networks)}"
            )
    return value


def _as_list(value: Any) -> Any:
    # Brackets: `range(5, 10)` and the layer `body[0, 1]` are one value.
    if isinstance(value, str) and "," in value and not set("([") & set(value):
        raise ValueError(f"{_short(value)} is one value; write several as a list, [{_short(value)[1:-1]}]")
    return value if isinstance(value, list | tuple) else [value]


def _seeds(value: Any) -> Any:
    """Read `0-9`, `range(10)` and `range(5, 10)` as seeds."""
    seeds: list[Any] = []
    for item in _as_list(value):
        text = item.strip() if isinstance(item, str) else ""
        if found := re.fullmatch(r"(\d{1,10})-(\d{1,10})", text):
            first, end = int(found[1]), int(found[2]) + 1
        elif found := re.fullmatch(r"range\((?:(\d{1,10}), *)?(\d{1,10})\)", text):
            first, end = int(found[1] or 0), int(found[2])
        else:
            seeds.append(item)
            continue
        if not first < end <= first + _MOST_VALUES:
            raise ValueError(f"{item!r} must contain 1 to {_MOST_VALUES} seeds, as in 0-9 or range(10)")
        seeds += range(first, end)
    return seeds


def _check_distinct(values: tuple[Any, ...], what: str, may_be_empty: bool = False) -> None:
    if not values and not may_be_empty:
        raise ValueError(f"{what} is empty; give at least one")
    value, count = Counter(values).most_common(1)[0] if values else (None, 0)
    if count > 1:
        raise ValueError(f"{what} contains {value!r} more than once")


def _rewind_points(value: Any) -> Any:
    return tuple("none" if item is None else item for item in _as_list(value))


def _rewind_step(value: Any) -> Any:
    """Check a rewind point here, so that one mistake gives one error and not one for each member of the union."""
    step = whole(value)
    if step != "none" and (type(step) is not int or not 0 <= step <= 10**12):
        raise ValueError("expected a number of environment steps, or none")
    return step


RewindStep = Annotated[int | Literal["none"], BeforeValidator(_rewind_step)]


def _known_allocation(value: Any) -> Any:
    if not isinstance(value, str | Mapping) or not all(isinstance(layer, str) for layer in value):
        raise ValueError(f"expected {', '.join(ALLOCATIONS)}, package.module:name, or {{layer: sparsity}}")
    if isinstance(value, str):
        lookup(ALLOCATIONS, value, "allocation", also=", {layer: sparsity}")
    for layer, share in value.items() if isinstance(value, Mapping) else ():
        try:
            fraction(share)
        except ValueError as error:
            raise ValueError(f"layer {layer!r}: {error} (got {_short(share)})") from None
    return value


class PruningConfig(Settings):
    """`pruning.*`: the masks."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """The pruning methods that `lth run` compares: the criteria magnitude, gradient, taylor, fisher, snip, grasp and synflow; the
    controls random and shuffled; gradual, set and rigl, which change the mask during training; and custom criteria as
    `package.module:name`."""
    sparsity: Annotated[
        tuple[Annotated[Sparsity, BeforeValidator(_sparsity)], ...], BeforeValidator(_as_list), Field(default=0.8)
    ]
    """The fraction of prunable weights to remove, from 0 to 1: one number for all networks, a number per network (SAC and TD3:
    actor, critic; DQN: q), or a list of these."""
    exclude: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Layers that stay dense; each entry is any part of a layer's path: `output`, `q1/layer_0`, `actor/layer_0`."""
    gradient_method: str = "taylor"
    """The criterion of `_02b_create_mask_gradient.py`."""
    num_gradient_batches: Positive = 100
    """Batches over which gradients are averaged; more batches give more stable masks."""
    gradient_batch_size: Positive = 256
    """Transitions per gradient batch."""
    allocation: Annotated[str | dict[str, Fraction], BeforeValidator(_known_allocation)] = "global"
    """The sparsity of each layer: set by ranking the scores of all layers together (`global`), the same in each layer (`layer`),
    `erk`, a custom function (`package.module:name`), or `{layer: sparsity}`; layers without an entry get `sparsity`."""
    pool: Literal["apart", "together"] = "apart"
    """`apart` prunes each network to `sparsity`; `together` prunes all networks jointly to `sparsity`."""
    rounds: Annotated[Whole, Field(strict=True, gt=0, le=1000)] = 1
    """Number of rounds of iterative pruning; each round prunes, rewinds and trains. 1 is one-shot pruning."""
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Replaces `sparsity`: each round prunes this share of the remaining weights, 1 - (1 - rate)^rounds in total. A file sets
    one of the two; an override of one replaces the other."""
    rewind_steps: Annotated[tuple[RewindStep, ...], BeforeValidator(_rewind_points)] = (0,)
    """The environment steps to which tickets are rewound (multiples of `training.segment_steps`); `none` is fine-tuning."""
    rewound: tuple[str, ...] = REWOUND
    """The state that is rewound with the weights: optimizer, normalizer, temperature, replay_buffer. State that is not listed
    keeps the trained agent's values."""
    controls: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Additional controls (docs/protocols.md): reinit, shuffled, permuted, inverted, random-erk, small-dense, retrained, and custom
    controls as `package.module:name`."""
    mask_every: Positive = 1000
    """Updates between mask changes of gradual, set and rigl."""
    mask_until: Annotated[float, Field(gt=0, le=1)] = 0.75
    """The share of the ticket's updates after which gradual, set and rigl keep the mask fixed."""
    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share of each layer's kept weights that set and rigl replace (rigl: the initial share; decays as a cosine to 0)."""
    transfer_from: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Source tasks whose masks are also evaluated on each of `tasks`."""
    transfer_weights: Literal["target", "source", "both"] = "target"
    """The initial weights of a transferred ticket: those of the target task, of the source task, or both as separate runs."""
    transfer_mismatch: Literal["error", "dense"] = "error"
    """If a layer's shape differs between the tasks: `error` stops, `dense` leaves that layer dense with the target's weights."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("rate") is not None and tree.get("sparsity", ...) is None:
            return {name: value for name, value in tree.items() if name != "sparsity"}
        return tree

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, value: Any) -> Any:
        value = _as_list(value)
        for method in value:
            if not isinstance(method, str) or (":" not in method and method not in METHODS):
                raise ValueError(
                    f"unknown method {method!r}; choose from {', '.join(METHODS)}, or name a custom criterion as "
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
            raise ValueError(f"{value!r} does not use gradients; choose from {', '.join(known)}{nearest(value, known)}")
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
                raise ValueError(
                    f"unknown entry {part!r} in rewound; choose from {', '.join(REWOUND)}{nearest(part, REWOUND)}"
                )
        _check_distinct(self.controls, "controls", may_be_empty=True)
        _check_distinct(self.rewound, "rewound", may_be_empty=True)
        _check_distinct(self.rewind_steps, "rewind_steps")
        _check_distinct(self.transfer_from, "transfer_from", may_be_empty=True)
        if self.rate is not None and "sparsity" in self.model_fields_set:
            raise ValueError("rate and sparsity both set the final sparsity; remove one, or set it to null")
        if self.pool == "together" and any(s.same is None for s in self.sparsity):
            raise ValueError("pool: together needs one sparsity for all networks; set a number")
        by_total = {"random-erk", "small-dense"} & set(self.controls)
        if by_total and (self.pool == "together" or isinstance(self.allocation, dict)):
            raise ValueError(
                f"{', '.join(sorted(by_total))}: needs a fixed sparsity per network, which pool: together and an allocation by "
                "layer name do not give; remove these controls"
            )
        _check_distinct(self.methods, "methods")
        _check_distinct(tuple(s.label() for s in self.sparsity), "sparsity")
        return self


class AnalysisConfig(Settings):
    """`analysis.*`: additional measurements (docs/analysis.md)."""

    connectivity: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Linear mode connectivity between pairs of agents: parent, methods, rounds, noise (noise trains every ticket twice)."""
    connectivity_points: Annotated[Whole, Field(strict=True, ge=3, le=1001)] = 11
    """Points on the line between two agents, including both ends."""
    connectivity_episodes: Positive = 5
    """Evaluation episodes per point. All points use the same episodes."""

    @field_validator("connectivity")
    @classmethod
    def _known_kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for kind in value:
            if kind not in CONNECTIVITY:
                raise ValueError(
                    f"unknown comparison {kind!r}; choose from {', '.join(CONNECTIVITY)}{nearest(kind, CONNECTIVITY)}"
                )
        _check_distinct(value, "connectivity", may_be_empty=True)
        return value


class ReportConfig(Settings):
    """`report.*`: the primary question of a study (docs/report.md). Recorded before the first run; does not affect results."""

    primary: tuple[str, str] | None = PRIMARY
    """The two methods of the primary question: does the first score higher than the second? null: no question. The default applies
    if `pruning.methods` contains both."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """A ticket is a winning ticket if its score is less than this below the dense agent's. A random policy scores 0, the dense
    agent 1."""
    random_episodes: Annotated[Whole, Field(strict=True, ge=2, le=100_000)] = 200
    """Episodes of the random policy, which is measured once per task and output directory."""


class RayConfig(Settings):
    """`ray.*`: the cluster for `executor: ray` (needs the extra `ray`)."""

    address: str = "local"
    """The address of a running cluster (`auto`, `ray://host:10001`), or `local` to start one on this machine for this command."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that Ray reserves per run."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray reserves per run; 0.25 lets four runs share one GPU."""


class Config(Settings):
    """The configuration of an experiment."""

    tasks: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ("Pendulum-v1",)
    """Gymnasium ids (`HalfCheetah-v5`), Meta-World v3 names (`drawer-close-v3`) and Brax tasks (`brax:halfcheetah`)."""
    seeds: Annotated[tuple[Annotated[int, Field(strict=True, ge=0, lt=2**31)], ...], BeforeValidator(_seeds)] = (0, 1)
    """The seeds; every run is made once per seed. A seed sets initial weights, environments and actions. A single number is one
    seed: `seeds=10` runs seed 10, and `seeds=0-9` or `seeds=range(10)` run ten."""
    output_dir: Folder = Path("results")
    """The output directory (docs/files.md). `~` at its start is the home folder."""
    training: TrainingConfig = TrainingConfig()
    """The training loop."""
    algorithm: str = "sac"
    """The algorithm: sac, td3, dqn (discrete actions), or a custom one as `package.module:ClassName`."""
    sac: SACConfig = SACConfig()
    """The agent, for `algorithm: sac`."""
    td3: TD3Config = TD3Config()
    """The agent, for `algorithm: td3`."""
    dqn: DQNConfig = DQNConfig()
    """The agent, for `algorithm: dqn`."""
    agent: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies it)
    """The settings of a custom algorithm (docs/recipes.md)."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation."""
    pruning: PruningConfig = Field(default={}, validate_default=True)  # validated with the algorithm's networks
    """Pruning."""
    analysis: AnalysisConfig = AnalysisConfig()
    """Additional measurements."""
    report: ReportConfig = ReportConfig()
    """The primary question."""
    workers: Few = 1
    """Number of parallel runs, each in a separate process with `training.threads` threads. Does not affect results."""
    executor: Literal["local", "ray", "batched"] = "local"
    """How runs execute: in processes on this machine; on a Ray cluster; or `batched`, many at once in one program, best on a GPU
    (docs/gpu.md)."""
    batch: Few | None = None
    """The number of runs that train at once in one program; null: one, or 32 with `executor: batched`. Results depend on it in
    their last bits. If the memory is too small, it is halved until it fits."""
    ray: RayConfig = RayConfig()
    """The Ray cluster."""
    retries: Annotated[Whole, Field(strict=True, ge=0, le=100)] = 1
    """Number of times that a failed run is retried. A process killed from outside does not count as a failure."""
    tensorboard: bool = False
    """Also write TensorBoard event files (needs the extra `tensorboard`)."""
    wandb: bool = False
    """Also log to Weights & Biases (needs the extra `wandb`). The project is WANDB_PROJECT, or the name of the output directory."""
    trackio: bool = False
    """Also log to trackio (needs the extra `trackio`). The project is TRACKIO_PROJECT, or the name of the output directory."""

    @property
    def batch_size(self) -> int | None:
        """The number of runs that train together, or None."""
        return self.batch or (DEFAULT_BATCH if self.executor == "batched" else None)

    @property
    def primary(self) -> tuple[str, str] | None:
        """The methods of the primary question, or None if the study does not include both."""
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
                f"agent.* is for custom algorithms, but algorithm is {self.algorithm}; set {self.algorithm}.*, as in "
                f"{self.algorithm}.{next(iter(self.agent))}"
            )
        for sparsity in self.pruning.sparsity:
            if set(sparsity.networks) != set(self.agent_config.NETWORKS):
                raise ValueError(
                    f"pruning.sparsity names the networks {', '.join(sparsity.networks)}, but {self.algorithm} has "
                    f"{', '.join(self.agent_config.NETWORKS)}; name these, or use `lth.config.parse_config` with one number"
                )
        if self.training.step_timeout is not None and (self.executor == "ray" or self.batch_size):
            raise ValueError("training.step_timeout works only with executor: local; remove it, or set executor: local")
        if self.batch_size and self.training.backend in ("native", "dense"):
            raise ValueError(
                f"training.backend={self.training.backend} trains one run at a time; remove it, or batch and executor: batched"
            )
        if not self.batch_size and self.training.backend == "batched":
            raise ValueError("training.backend=batched is set by executor: batched; set that instead")
        if self.training.batch is not None:
            raise ValueError(f"training.batch is set automatically; set batch: {self.training.batch} instead")
        for method in self.report.primary or ():
            if method not in self.pruning.methods and "primary" in self.report.model_fields_set:
                raise ValueError(
                    f"report.primary names {method!r}, which is not in pruning.methods: "
                    f"{', '.join(self.pruning.methods)}{nearest(method, self.pruning.methods)}. Name two of them as "
                    "[first, second], or set report.primary to null for no question"
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
                f"pruning.rewind_steps is {rewind}, but must be a multiple of training.segment_steps "
                f"({segment}) below training.env_steps ({self.training.env_steps}); the nearest is {closest}"
            )
        _check_multiple("evaluation.every", self.evaluation.every, "training.segment_steps", segment)
        return self


def replay_capacity(config: AgentConfig, training: TrainingConfig) -> int:
    """Return the capacity of a run's replay buffer in transitions."""
    return min(config.buffer_size, training.env_steps)


def total_updates(training: TrainingConfig, from_step: int = 0) -> int:
    """Return the number of updates from an environment step to the end of a run."""
    return updates_before(training, training.env_steps) - updates_before(training, from_step)


def read_tree(path: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Read a YAML config and apply `key=value` overrides (`training.env_steps=5000`; the value is YAML).

    Without a path, reads `config.yaml` in the working directory if it exists; otherwise the overrides apply to the defaults. For an
    output directory, reads the settings of its last `lth run`, with that directory as `output_dir`.

    Returns:
        Nested dicts of unchecked settings, and their source for messages.

    Raises:
        InputError: the file cannot be read, or an override is not `key=value`.
    """
    if path is None:
        usual = Path("config.yaml")
        if not usual.is_file() and not overrides:
            raise InputError(
                f"there is no config.yaml in '{Path.cwd()}'. Create one with `lth init`, name a config (lth run my.yaml), or give "
                "settings (lth run tasks=Pendulum-v1); all others keep their defaults"
            )
        path = usual if usual.is_file() else None
    tree = {} if path is None else _read_folder(path) if path.is_dir() else _read_yaml(path)
    _drop_replaced(tree, overrides)
    for override in overrides:
        _apply_override(tree, override)
    return tree, " with ".join(filter(None, [str(path or "the defaults"), " ".join(overrides)]))


def _read_folder(path: Path) -> dict[str, Any]:
    if not (path / LAST_RUN).exists():
        raise InputError(
            f"{path} is a folder without {LAST_RUN}, which `lth run` writes into its output_dir; name the config file instead"
        )
    given = "./" * (not path.is_absolute()) + str(path)  # a folder whose name begins with ~ is not the home folder
    return {**_read_yaml(path / LAST_RUN), "output_dir": given}


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"'{path}' is not a regular file"
            if path.exists()
            else f"the config file '{path}' does not exist, nor does an output directory of that name"
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"'{path}' has {path.stat().st_size} bytes; a config has at most {_MOST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the config '{path}' cannot be read: {error}") from error
    tree = _read_text(text, f"the config '{path}'")
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise InputError(f"the config '{path}' contains a {type(tree).__name__}, not keys and values")
    return tree


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config with `key=value` overrides; without a path, `config.yaml` in the working directory.

    Raises:
        InputError: the file or a setting is invalid; names the file, the key, and the nearest valid key.
    """
    return parse_config(*read_tree(path, overrides))


def parse_config(tree: Any, source: str = "the config") -> Config:
    """Convert nested dicts to a Config.

    Raises:
        InputError: a key is unknown (names the nearest valid key), a value is invalid, or `output_dir` is not a folder.
    """
    name = tree.get("algorithm", "sac") if isinstance(tree, dict) else "sac"
    try:
        if not isinstance(name, str):
            raise InputError(f"expected one name, such as sac, but got {name!r}")
        networks = config_class(name, load=True).NETWORKS
    except InputError as error:
        raise InputError(f"{source}: algorithm: {error}") from None
    try:
        config = Config.model_validate(tree, context={"networks": networks})
    except pydantic.ValidationError as error:
        raise InputError("\n".join(_explain(e, source) for e in error.errors())) from None
    except RecursionError:
        raise InputError(f"{source} is nested too deeply") from None
    try:
        check_output_dir(config)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return config


def check_output_dir(config: Config) -> None:
    """Raise InputError if `output_dir`, or a folder that it would be made in, is a file."""
    for path in (config.output_dir, *config.output_dir.parents):
        if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112  (however long the path is)
            inside = "" if path == config.output_dir else f"is in '{path}', which "
            raise InputError(f"output_dir '{config.output_dir}' {inside}is a file; choose a folder")


def _pruning(tree: dict[str, Any]) -> dict[str, Any]:
    found = tree.get("pruning")
    return found if isinstance(found, dict) else {}


def _drop_replaced(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Remove `pruning.sparsity` from a file's settings where an override sets `pruning.rate`, and the other way round."""
    asked: dict[str, Any] = {}
    for override in overrides:
        _apply_override(asked, override)
    for name, other in (("rate", "sparsity"), ("sparsity", "rate")):
        if _pruning(asked).get(name) is not None:
            _pruning(tree).pop(other, None)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{override!r} is neither a config file nor key=value, as in training.env_steps=5000")
    value = _read_text(text, f"the value of {override[:200]!r}")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        # A copy, because aliases (*name) are one mapping in several places; a number, as of pruning.sparsity, is replaced.
        node[parent] = dict(child) if isinstance(child, dict) else {}
        node = node[parent]
    node[last] = value


def _explain(error: Any, source: str) -> str:
    # pydantic's location has the key's path mixed with names of union members, which are not keys. An unknown key is last.
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
        return f"{source}: unknown key {key!r}{nearest(location[-1], known) or '; choose from ' + ', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    value = _short(error["input"])
    quoted = isinstance(error["input"], str) and value in message
    given = "" if quoted or isinstance(error["input"], dict | BaseModel) else f" (got {value})"
    return f"{source}: {key + ': ' if key else ''}{message[0].lower() + message[1:]}{given}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
