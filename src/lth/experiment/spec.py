"""The immutable specification of a run, and its directory name.

spec -> canonical JSON -> SHA-256 -> directory. Fields at their default are omitted from the hash, so that a new field does not
orphan old runs. A default therefore never changes unless SPEC_VERSION, which is hashed, is raised. plan.py enumerates the runs of
a config.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ..algorithms.architecture import AgentConfig, algorithm_key, config_class
from ..config import (
    CONTROL_METHODS,
    REWOUND,
    EvaluationConfig,
    Sparsity,
    TrainingConfig,
    replay_capacity,
    total_updates,
)
from ..pruning.criteria import CRITERIA, criterion_named

SPEC_VERSION = 4


class Sizes(NamedTuple):
    """Sizes in bytes of a run's files."""

    checkpoint: int
    mask: int
    transition: int


class Cost(NamedTuple):
    """The cost of a run. Masks and comparisons do not train."""

    env_steps: int = 0
    updates: int = 0
    megabytes: float = 0.0


class _Part(BaseModel):
    """A hashed part of a spec. Two parts are equal if their canonical JSON is equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @functools.cached_property
    def _parts(self) -> dict[str, str]:
        """The canonical JSON of each field that is not at its default. Shared parts are serialized once."""
        parts = {name: value for name, value in self if isinstance(value, _Part)}
        plain = self.model_dump(mode="json", exclude_defaults=True, exclude=set(parts))
        return {name: _dump(value) for name, value in plain.items()} | {n: part.text for n, part in parts.items()}

    @functools.cached_property
    def text(self) -> str:
        """Its canonical JSON."""
        return _join(self._parts)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self.text == other.text)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy with changes; cached properties are dropped."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _join(parts: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{_dump(name)}:{parts[name]}" for name in sorted(parts)) + "}"


class _Spec(_Part):
    """The base class of run specs."""

    if TYPE_CHECKING:  # all subclasses have these as a field or a property

        @property
        def stage(self) -> Any: ...
        @property
        def dense(self) -> Any: ...
        @property
        def task(self) -> Any: ...
        @property
        def seed(self) -> Any: ...

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of its canonical JSON, in hexadecimal."""
        text = _join(self._parts | {"spec_version": str(SPEC_VERSION), "stage": _dump(self.stage)})
        return hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def path(self) -> Path:
        """Its directory below the output directory: `<task>/seed<k>/<stage>-<words>-<hash8>`."""
        name = "-".join([self.stage, *self.words(), self.sha256[:8]]).replace(" ", "-")
        return Path(folder_name(self.task), f"seed{self.seed}", folder_name(name))

    def words(self) -> list[str]:
        """Return the words that identify the run among those of its task and seed, for titles and directories."""
        return []

    @property
    def start(self) -> int:
        """The environment step at which its training starts."""
        return 0

    @property
    def env_steps(self) -> int:
        """The number of environment steps that it trains for."""
        return 0

    @property
    def updates(self) -> int:
        """The number of its updates."""
        return total_updates(self.dense.training, self.start) if self.env_steps else 0

    def cost(self, sizes: Sizes) -> Cost:
        """Return the cost of the run, given the file sizes of its agent."""
        return Cost()


class _Trained(_Spec):
    """A run that trains an agent. It saves its initial state, its final state and its replay buffer."""

    def cost(self, sizes: Sizes) -> Cost:
        """Return the cost of the run, given the file sizes of its agent."""
        rows = replay_capacity(self.dense.agent, self.dense.training)
        return Cost(self.env_steps, self.updates, (2 * sizes.checkpoint + sizes.transition * rows) / 1e6)


class _OfDense(_Spec):
    """A run that belongs to a dense agent."""

    @property
    def task(self) -> str:
        """The task of its dense agent."""
        return str(self.dense.task)

    @property
    def seed(self) -> int:
        """The seed of its dense agent."""
        return int(self.dense.seed)

    def title(self) -> str:
        """Return a short title of the run."""
        kind = [] if self.stage == "ticket" else [self.stage]
        return " ".join([f"{self.task} seed {self.seed}", *kind, *self.words()])


class DenseSpec(_Trained):
    """A dense agent."""

    stage: Literal["dense"] = "dense"
    task: str
    seed: int
    training: TrainingConfig
    agent: SerializeAsAny[AgentConfig]
    """Serialized under the name of its algorithm: `"sac": {...}`."""
    evaluation: EvaluationConfig
    role: str = Field(default="dense", exclude=True)
    """Its role in titles: `dense`, or `small-dense 0.9`. Not part of its identity."""

    @model_validator(mode="before")
    @classmethod
    def _agent_by_name(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "agent" in fields:
            return fields
        names = [name for name in fields if name not in cls.model_fields]
        if len(names) != 1:
            raise ValueError(f"expected one algorithm, but got {', '.join(names) or 'none'}")
        (name,) = names
        agent = config_class(name).model_validate(fields[name])
        return {**{key: value for key, value in fields.items() if key != name}, "agent": agent}

    @model_serializer(mode="wrap")
    def _by_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dict(handler(self))
        fields[algorithm_key(self.agent)] = fields.pop("agent")
        return fields

    @property
    def dense(self) -> "DenseSpec":
        """Itself, the dense agent of the run."""
        return self

    @property
    def env_steps(self) -> int:
        """The number of environment steps that it trains for."""
        return self.training.env_steps

    def title(self) -> str:
        """Return a short title of the run."""
        return f"{self.task} seed {self.seed} {self.role}"

    def needs(self) -> list["Spec"]:
        """Return the runs that it depends on."""
        return []


Allocation = str | tuple[tuple[str, float], ...]
"""The allocation: a name, or sparsities by layer name."""

INVERTED = "inverted-"
"""The prefix of a method with negated scores, which prunes the most important weights."""


class MaskSpec(_OfDense):
    """A mask made from a dense agent by a method. Fields that the method does not use keep their defaults."""

    stage: Literal["mask"] = "mask"
    dense: DenseSpec
    method: str
    sparsity: Sparsity
    exclude: tuple[str, ...] = ()
    num_gradient_batches: int = 100
    gradient_batch_size: int = 256
    allocation: Allocation = "global"
    """A name, or sparsities by layer name."""
    pool: str = "apart"
    previous: "TicketSpec | None" = None
    """Iterative pruning: the ticket of the previous round, which is scored instead of the dense agent."""

    @property
    def criterion(self) -> str:
        """The criterion that scores the weights."""
        return self.method.removeprefix(INVERTED)

    @property
    def round(self) -> int:
        """The round of iterative pruning, counted from 1."""
        before = self.previous.mask if self.previous else None
        return 1 + (before.round if isinstance(before, MaskSpec) else 0)

    @property
    def role(self) -> str:
        """Its role."""
        return "mask"

    def needs(self) -> list["Spec"]:
        """Return the run whose weights are scored."""
        return [self.previous or self.dense]

    def cost(self, sizes: Sizes) -> Cost:
        """Return the cost of the run, given the file sizes of its agent."""
        return Cost(megabytes=sizes.mask / 1e6)

    def words(self) -> list[str]:
        """Return the words that identify the mask: taylor 0.8; random erk 0.9; magnitude 0.488 round3."""
        words = [self.method, *allocation_words(self.allocation), *(["pooled"] if self.pool == "together" else [])]
        return [*words, self.sparsity.label(), *([f"round{self.round}"] if self.previous else [])]


def allocation_words(allocation: Allocation) -> list[str]:
    """Return the words for an allocation in titles and directories; none for the default."""
    if isinstance(allocation, str):
        return [allocation] if allocation != "global" else []
    return ["by", "layer"]


class ScheduleSpec(_Part):
    """A schedule that changes the masks during training (`pruning.schedules`)."""

    method: Literal["gradual", "set", "rigl"]
    sparsity: Sparsity
    every: int
    """Updates between changes."""
    until: float
    """The share of the ticket's updates after which the masks are fixed."""
    fraction: float = 0.0
    """set and rigl: the share of each layer's kept weights that is replaced."""
    allocation: Allocation = "global"
    exclude: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Return the words that identify it, for titles and directories."""
        return [self.method, *allocation_words(self.allocation), self.sparsity.label()]


class FileMask(_Part):
    """A mask from a file: the hash of the file and the sparsities counted in it."""

    stage: Literal["file"] = "file"
    method: str
    """`file`, or `custom` for a mask of an edited _02_create_mask.py."""
    sha256: str
    sparsity: Sparsity

    def words(self) -> list[str]:
        """Return the words that identify it, for titles and directories."""
        return [self.method, self.sparsity.label()]


class TicketSpec(_OfDense, _Trained):
    """A ticket or a control: the dense agent that is rewound, and the mask."""

    stage: Literal["ticket"] = "ticket"
    dense: DenseSpec
    mask: MaskSpec | FileMask | None
    """None: nothing is pruned at the start (the control `retrained` of the dense agent, and gradual pruning)."""
    schedule: ScheduleSpec | None = None
    rewind_steps: int | Literal["none"] = 0
    rewound: tuple[str, ...] = REWOUND
    control: str = ""
    """A key of `CONTROLS`, or a custom control."""
    weights: DenseSpec | None = None
    """The agent that provides the initial weights, if it is another task's agent."""
    mismatch: Literal["error", "dense"] = "error"

    @property
    def start(self) -> int:
        """The environment step at which training starts; fine-tuning skips the random steps."""
        if self.rewind_steps != "none":
            return self.rewind_steps
        training = self.dense.training
        return training.start_steps // training.num_envs * training.num_envs

    @property
    def env_steps(self) -> int:
        """The number of environment steps that it trains for: the dense agent's steps from its rewind point."""
        return self.dense.training.env_steps - self.start

    @property
    def role(self) -> str:
        """Its role: `ticket` or `control`."""
        ignorant = isinstance(self.mask, MaskSpec) and self.mask.method in CONTROL_METHODS and not self.schedule
        return "control" if self.control or ignorant else "ticket"

    def mask_task(self) -> str | None:
        """Return the task on which the mask was made, if it is another task."""
        if isinstance(self.mask, MaskSpec) and self.mask.dense.task != self.dense.task:
            return self.mask.dense.task
        return None

    def words(self) -> list[str]:
        """Return the words that identify it, for titles and directories."""
        named = self.schedule or self.mask
        words = named.words() if named else []
        words += [self.control] if self.control else []
        words += ["from", folder_name(self.mask_task() or "")] if self.mask_task() else []
        words += ["with weights"] if self.weights else []
        if self.rewind_steps == "none":
            return [*words, "finetune"]
        return [*words, *([f"rewind{self.rewind_steps}"] if self.rewind_steps else [])]

    def needs(self) -> list["Spec"]:
        """Return the runs that it depends on."""
        needs: list[Spec] = [self.dense, *([self.weights] if self.weights else [])]
        return [*needs, *([self.mask] if isinstance(self.mask, MaskSpec) else [])]


class ConnectivitySpec(_OfDense):
    """Linear mode connectivity between two trained agents."""

    stage: Literal["connectivity"] = "connectivity"
    dense: DenseSpec
    """The dense run whose replay buffer is used for the losses."""
    kind: Literal["parent", "methods", "rounds", "noise"]
    one: DenseSpec | TicketSpec
    other: TicketSpec
    points: int = 11
    episodes: int = 5

    @property
    def role(self) -> str:
        """Its role."""
        return "comparison"

    def needs(self) -> list["Spec"]:
        """Return the runs of both agents, and the dense run whose replay buffer is used."""
        return list(dict.fromkeys([self.dense, self.one, self.other]))

    def words(self) -> list[str]:
        """Return the words that identify it, for titles and directories. For three kinds, the second agent determines the first."""
        one = self.one.words() if self.kind == "methods" and isinstance(self.one, TicketSpec) else []
        return [self.kind, *one, *self.other.words()]


MaskSpec.model_rebuild()
Spec = DenseSpec | MaskSpec | TicketSpec | ConnectivitySpec
_KINDS: dict[Any, type[Spec]] = {
    "dense": DenseSpec,
    "mask": MaskSpec,
    "ticket": TicketSpec,
    "connectivity": ConnectivitySpec,
}


def folder_name(task: str) -> str:
    """Return a task's name as part of a path."""
    return task.replace("/", "_").replace(":", "_")


def parse_spec(fields: dict[str, Any]) -> Spec:
    """Parse a spec from the result of `model_dump`.

    Raises:
        ValueError: the fields are not those of a spec.
    """
    stage = fields.get("stage")
    if stage not in _KINDS:
        raise ValueError(f"its stage {stage!r} is unknown")
    return _KINDS[stage].model_validate(fields)


def takes_gradients(method: str) -> bool:
    """Return whether a method uses gradients over the replay buffer."""
    name = method.removeprefix(INVERTED)
    return (name in CRITERIA or ":" in name) and criterion_named(name, load=False).takes_gradients
