"""The frozen description of one run, and the name that follows from it.

spec -> canonical JSON -> SHA-256 -> directory. Fields at their default are left out of the hash, so a new field does not
orphan old runs; a default therefore never changes unless SPEC_VERSION, which is hashed, is raised.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ..algorithms.architecture import AgentConfig, Network, Spaces, algorithm_key, config_class
from ..config import (
    CONTROLS,
    GRADIENT_METHODS,
    MATCHED_CONTROLS,
    REWOUND,
    SCHEDULED_METHODS,
    Config,
    EvaluationConfig,
    Sparsity,
    TrainingConfig,
)
from ..errors import InputError
from ..pruning.layers import holds_layer

SPEC_VERSION = 1

BREAK_EVEN = 0.5
"""The sparsity from which on the native kernel is faster than masked dense products (docs/performance.md)."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DenseSpec(_Spec):
    """A dense agent."""

    stage: Literal["dense"] = "dense"
    task: str
    seed: int
    training: TrainingConfig
    agent: SerializeAsAny[AgentConfig]
    """Written under the name of its algorithm: `"sac": {...}`."""
    evaluation: EvaluationConfig

    @model_validator(mode="before")
    @classmethod
    def _agent_by_name(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "agent" in fields:
            return fields
        names = [name for name in fields if name not in cls.model_fields]
        if len(names) != 1:
            raise ValueError(f"it needs one algorithm, and has {', '.join(names) or 'none'}")
        (name,) = names
        agent = config_class(name).model_validate(fields[name])
        return {**{key: value for key, value in fields.items() if key != name}, "agent": agent}

    @model_serializer(mode="wrap")
    def _by_name(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dict(handler(self))
        fields[algorithm_key(self.agent)] = fields.pop("agent")
        return fields

    def title(self) -> str:
        """Say in a few words which run this is."""
        return f"{self.task} seed {self.seed} dense"


INVERTED = "inverted-"
"""Before a method's name: its scores are turned round, so that it prunes what it would keep."""


class MaskSpec(_Spec):
    """A mask made from a dense agent by a method. What does not bear on the method is left at its default."""

    stage: Literal["mask"] = "mask"
    dense: DenseSpec
    method: str
    sparsity: Sparsity
    exclude: tuple[str, ...] = ()
    num_gradient_batches: int = 100
    gradient_batch_size: int = 256
    allocation: str | tuple[tuple[str, float], ...] = "global"
    """Or sparsities by layers' names."""
    pool: str = "apart"
    previous: "TicketSpec | None" = None
    """Iterative pruning: the ticket of the round before, which is scored in the place of the dense agent."""

    @property
    def criterion(self) -> str:
        """The method by whose scores weights are told apart."""
        return self.method.removeprefix(INVERTED)

    @property
    def round(self) -> int:
        """Which round of iterative pruning made it, from 1."""
        before = self.previous.mask if self.previous else None
        return 1 + (before.round if isinstance(before, MaskSpec) else 0)

    def title(self) -> str:
        """Say in a few words which mask this is."""
        return " ".join([f"{self.dense.task} seed {self.dense.seed} mask", *self.words()])

    def words(self) -> list[str]:
        """Name the mask, in titles and directories: taylor 0.8; random erk 0.9; magnitude 0.488 round3."""
        words = [self.method, *allocation_words(self.allocation), *(["pooled"] if self.pool == "together" else [])]
        return [*words, self.sparsity.label(), *([f"round{self.round}"] if self.previous else [])]


def allocation_words(allocation: str | tuple[tuple[str, float], ...]) -> list[str]:
    """Name an allocation, in titles and directories: the default needs no word."""
    if isinstance(allocation, str):
        return [allocation] if allocation != "global" else []
    return ["by", "layer"]


class ScheduleSpec(_Spec):
    """What changes the masks while a ticket trains (`pruning.schedules`)."""

    method: Literal["gradual", "set", "rigl"]
    sparsity: Sparsity
    every: int
    """Updates between two changes."""
    until: float
    """The share of the ticket's updates up to which they change."""
    fraction: float = 0.0
    """set and rigl: how much of each layer is replaced."""
    allocation: str | tuple[tuple[str, float], ...] = "global"
    exclude: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Name it, in titles and directories."""
        return [self.method, *allocation_words(self.allocation), self.sparsity.label()]


class FileMask(_Spec):
    """A mask that somebody else made: the file's content, and the sparsities that were counted in it."""

    stage: Literal["file"] = "file"
    method: str
    """`file`, or `custom` for what an edited _02_create_mask.py wrote."""
    sha256: str
    sparsity: Sparsity

    def words(self) -> list[str]:
        """Name it, in titles and directories."""
        return [self.method, self.sparsity.label()]


class TicketSpec(_Spec):
    """A ticket, or a control: the dense agent whose start it is put back to, and the mask it trains under."""

    stage: Literal["ticket"] = "ticket"
    dense: DenseSpec
    mask: MaskSpec | FileMask | None
    """None: nothing is pruned at the start (the control `retrained` of the dense agent, and gradual pruning)."""
    schedule: ScheduleSpec | None = None
    rewind_steps: int | Literal["none"] = 0
    backend: Literal["dense", "native"] = "dense"
    rewound: tuple[str, ...] = REWOUND
    control: Literal["", "reinit", "shuffled", "permuted", "retrained"] = ""
    weights: DenseSpec | None = None
    """Whose start it is put back to, where that is another task's agent."""
    mismatch: Literal["error", "dense"] = "error"

    @property
    def start(self) -> int:
        """The environment step that training starts from; fine-tuning leaves out the random steps."""
        if self.rewind_steps != "none":
            return self.rewind_steps
        training = self.dense.training
        return training.start_steps // training.num_envs * training.num_envs

    def mask_task(self) -> str | None:
        """Name the task on which the mask was found, if that was another one."""
        if isinstance(self.mask, MaskSpec) and self.mask.dense.task != self.dense.task:
            return self.mask.dense.task
        return None

    def title(self) -> str:
        """Say in a few words which run this is."""
        return " ".join([f"{self.dense.task} seed {self.dense.seed}", *self.words()])

    def words(self) -> list[str]:
        """Name it, in titles and directories."""
        named = self.schedule or self.mask
        words = named.words() if named else []
        words += [self.control] if self.control else []
        words += ["from", folder_name(self.mask_task() or "")] if self.mask_task() else []
        words += ["with weights"] if self.weights else []
        if self.rewind_steps == "none":
            return [*words, "finetune"]
        return [*words, *([f"rewind{self.rewind_steps}"] if self.rewind_steps else [])]

    def needs(self) -> list["Spec"]:
        """Return the runs that have to be there first."""
        needs: list[Spec] = [self.dense, *([self.weights] if self.weights else [])]
        return [*needs, *([self.mask] if isinstance(self.mask, MaskSpec) else [])]


class ConnectivitySpec(_Spec):
    """A comparison of two trained agents along the straight line between their weights."""

    stage: Literal["connectivity"] = "connectivity"
    dense: DenseSpec
    """Whose replay buffer the losses are taken on."""
    kind: Literal["parent", "methods", "rounds", "noise"]
    one: DenseSpec | TicketSpec
    other: TicketSpec
    points: int = 11
    episodes: int = 5

    def title(self) -> str:
        """Say in a few words which comparison this is."""
        return " ".join([f"{self.dense.task} seed {self.dense.seed} connectivity", *self.words()])

    def words(self) -> list[str]:
        """Name it, in titles and directories; of three kinds the one side follows from the other."""
        one = self.one.words() if self.kind == "methods" and isinstance(self.one, TicketSpec) else []
        return [self.kind, *one, *self.other.words()]


MaskSpec.model_rebuild()
Spec = DenseSpec | MaskSpec | TicketSpec | ConnectivitySpec


def spec_hash(spec: Spec) -> str:
    """Return the SHA-256 of a spec's canonical JSON, in hexadecimal."""
    fields = spec.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(
        {"spec_version": SPEC_VERSION, "stage": spec.stage, **fields}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def run_path(spec: Spec) -> Path:
    """Return a run's directory below the output directory: `<task>/seed<k>/<stage>-<method>-<sparsity>-<hash8>`."""
    dense = spec if isinstance(spec, DenseSpec) else spec.dense
    parts: list[str] = [spec.stage]
    if not isinstance(spec, DenseSpec):
        parts += spec.words()
    return (
        Path(folder_name(dense.task)) / f"seed{dense.seed}" / "-".join([*parts, spec_hash(spec)[:8]]).replace(" ", "-")
    )


def folder_name(task: str) -> str:
    """Return a task's name as part of a path."""
    return task.replace("/", "_").replace(":", "_")


def needs(spec: Spec) -> list[Spec]:
    """Return the runs that have to be there before a run can be made."""
    if isinstance(spec, DenseSpec):
        return []
    if isinstance(spec, TicketSpec):
        return spec.needs()
    if isinstance(spec, ConnectivitySpec):
        return list(dict.fromkeys([spec.dense, spec.one, spec.other]))
    return [spec.previous or spec.dense]


def training_steps(spec: Spec) -> int:
    """Return how many environment steps a run trains for; masks and comparisons do not."""
    if isinstance(spec, DenseSpec):
        return spec.training.env_steps
    return spec.dense.training.env_steps - spec.start if isinstance(spec, TicketSpec) else 0


def parse_spec(fields: dict[str, Any]) -> Spec:
    """Read a spec back from what `model_dump` returned.

    Raises:
        ValueError: these are not the fields of a spec.
    """
    kinds: dict[Any, Any] = {
        "dense": DenseSpec,
        "mask": MaskSpec,
        "ticket": TicketSpec,
        "connectivity": ConnectivitySpec,
    }
    if fields.get("stage") not in kinds:
        raise ValueError(f"its stage is {fields.get('stage')!r}")
    spec: Spec = kinds[fields["stage"]].model_validate(fields)
    return spec


def dense_spec(config: Config, task: str, seed: int) -> DenseSpec:
    """Describe the dense run of a config for one task and seed."""
    plain = TrainingConfig.model_fields
    # These concern tickets alone, or no result at all.
    update = {name: plain[name].default for name in ("backend", "checkpoint_every")}
    training = config.training.model_copy(update=update)
    return DenseSpec(task=task, seed=seed, training=training, agent=config.agent_config, evaluation=config.evaluation)


def mask_spec(
    config: Config,
    task: str,
    seed: int,
    method: str,
    sparsity: Sparsity,
    previous: TicketSpec | None = None,
    allocation: str | tuple[tuple[str, float], ...] | None = None,
) -> MaskSpec:
    """Describe a mask of a config; how gradients are taken is part of it only where the method takes any."""
    spec = MaskSpec(
        dense=dense_spec(config, task, seed),
        method=method,
        sparsity=sparsity,
        exclude=tuple(sorted(config.pruning.exclude)),
        previous=previous,
    )
    if spec.criterion != "random":
        spec = spec.model_copy(update={"allocation": allocation or allocation_of(config), "pool": config.pruning.pool})
    elif allocation:
        spec = spec.model_copy(update={"allocation": allocation})
    if spec.criterion not in GRADIENT_METHODS:
        return spec
    names = ("num_gradient_batches", "gradient_batch_size")
    return spec.model_copy(update={name: getattr(config.pruning, name) for name in names})


def allocation_of(config: Config) -> str | tuple[tuple[str, float], ...]:
    """Return a config's allocation as a spec holds it, which can be hashed."""
    allocation = config.pruning.allocation
    return allocation if isinstance(allocation, str) else tuple(sorted(allocation.items()))


def scheduled_spec(
    config: Config, task: str, seed: int, method: str, sparsity: Sparsity, rewind_steps: int | Literal["none"]
) -> TicketSpec:
    """Describe a ticket whose masks change in training: gradual from a dense start, set and rigl from a random ERK mask."""
    pruning, allocation, start = config.pruning, allocation_of(config), None
    if method != "gradual":
        allocation = "erk" if allocation == "global" else allocation
        start = mask_spec(config, task, seed, "random", sparsity, allocation=allocation)
    schedule = ScheduleSpec(
        method=method,  # type: ignore[arg-type]
        sparsity=sparsity,
        every=pruning.mask_every,
        until=pruning.mask_until,
        fraction=0.0 if method == "gradual" else pruning.mask_fraction,
        allocation=allocation,
        exclude=tuple(sorted(pruning.exclude)),
    )
    # The kernel's pattern is fixed, so what changes its mask is computed densely.
    update = {"schedule": schedule, "backend": "dense"}
    return ticket_spec(config, task, seed, start, rewind_steps).model_copy(update=update)


def ticket_spec(
    config: Config,
    task: str,
    seed: int,
    mask: MaskSpec | FileMask | None,
    rewind_steps: int | Literal["none"] | None = None,
    control: str = "",
) -> TicketSpec:
    """Describe the ticket that a config trains under a mask, from its first rewind point if none is named."""
    pruning = config.pruning
    rewind = pruning.rewind_steps[0] if rewind_steps is None else rewind_steps
    return TicketSpec(
        dense=dense_spec(config, task, seed),
        mask=mask,
        rewind_steps=rewind,
        backend=_backend(config, mask.sparsity if mask else None),
        rewound=REWOUND if rewind == "none" else tuple(part for part in REWOUND if part in pruning.rewound),
        control=control,  # type: ignore[arg-type]
    )


def _backend(config: Config, sparsity: Sparsity | None) -> Literal["dense", "native"]:
    wanted = config.training.backend
    networks = config.agent_config.networks()
    if sparsity is None or wanted == "dense" or any(network.layer_norm for network in networks.values()):
        return "dense"
    # A network's members count each: they are most of the work.
    copies = {name: network.copies for name, network in networks.items()}
    pays = sum(copies[name] * sparsity[name] for name in copies) / sum(copies.values()) >= BREAK_EVEN
    return "native" if wanted == "native" or pays else "dense"


class Row(NamedTuple):
    """One row of the results for one seed: what is asked for, and the run that answers."""

    method: str  # empty where a control serves all methods
    control: str  # empty for a ticket
    sparsity: str  # empty where nothing is pruned
    rewind: str
    run: DenseSpec | TicketSpec
    dense: DenseSpec  # what it is judged against


def sparsities(config: Config) -> list[list[Sparsity]]:
    """Return the sparsities to reach, each with those of the rounds before: after k rounds of rate p, 1 - (1 - p)^k."""
    pruning = config.pruning
    rounds = range(1, pruning.rounds + 1)
    if pruning.rate is not None:
        reached = [1.0 - (1.0 - pruning.rate) ** k for k in rounds]
        return [[Sparsity.alike(s, config.agent_config.NETWORKS) for s in reached]]

    def after(target: float, k: int) -> float:
        return target if k == pruning.rounds else 1.0 - (1.0 - target) ** (k / pruning.rounds)

    return [
        [Sparsity(**{name: after(target, k) for name, target in s.networks.items()}) for k in rounds]
        for s in pruning.sparsity
    ]


def rows(config: Config) -> Iterator[Row]:
    """Yield every row of the results, seed by seed."""
    pruning = config.pruning
    for task in config.tasks:
        for seed in config.seeds:
            dense = dense_spec(config, task, seed)
            for rewind in pruning.rewind_steps:
                if "retrained" in pruning.controls:
                    run = ticket_spec(config, task, seed, None, rewind, "retrained")
                    yield Row("", "retrained", "", str(rewind), run, dense)
                for path in sparsities(config):
                    yield from _rows(config, dense, rewind, path)


def _rows(config: Config, dense: DenseSpec, rewind: Any, path: list[Sparsity]) -> Iterator[Row]:
    pruning, task, seed = config.pruning, dense.task, dense.seed

    def row(mask: MaskSpec, method: str, control: str = "", **more: Any) -> Row:
        sort = control if control in ("reinit", "shuffled", "permuted") else ""
        spec = ticket_spec(config, task, seed, mask, rewind, sort).model_copy(update=more)
        return Row(method, control or _transfer_label(spec), mask.sparsity.label(), str(rewind), spec, dense)

    for method in pruning.methods:
        if method in SCHEDULED_METHODS:
            spec = scheduled_spec(config, task, seed, method, path[-1], rewind)
            yield Row(method, "", path[-1].label(), str(rewind), spec, dense)
            continue
        chain = iterated(config, task, seed, method, path, rewind)
        for mask in chain:
            yield row(mask, method)
        for control in pruning.controls:
            if control in MATCHED_CONTROLS and method not in ("random", "shuffled"):
                mask = chain[-1]
                if control == "inverted":
                    mask = iterated(config, task, seed, INVERTED + method, path, rewind)[-1]
                yield row(mask, method, control)
        for source in pruning.transfer_from:
            if source == task:
                continue
            mask = iterated(config, source, seed, method, path, rewind)[-1]
            for weights in ("target", "source"):
                if pruning.transfer_weights in (weights, "both"):
                    theirs = dense_spec(config, source, seed) if weights == "source" else None
                    yield row(mask, method, weights=theirs, mismatch=pruning.transfer_mismatch)
    if "random-erk" in pruning.controls:
        yield row(mask_spec(config, task, seed, "random", path[-1], allocation="erk"), "", "random-erk")
    if "small-dense" in pruning.controls:
        yield Row("", "small-dense", path[-1].label(), str(rewind), small_dense(config, dense, path[-1]), dense)


def _transfer_label(spec: TicketSpec) -> str:
    source = spec.mask_task()
    return f"from {source}{' with its weights' if spec.weights else ''}" if source else ""


def iterated(config: Config, task: str, seed: int, method: str, path: list[Sparsity], rewind: Any) -> list[MaskSpec]:
    """Return the mask of each round, each made from the ticket of the round before. Controls are made in one."""
    if method in ("random", "shuffled"):
        return [mask_spec(config, task, seed, method, path[-1])]
    masks: list[MaskSpec] = []
    for sparsity in path:
        previous = ticket_spec(config, task, seed, masks[-1], rewind) if masks else None
        masks.append(mask_spec(config, task, seed, method, sparsity, previous))
    return masks


def small_dense(config: Config, dense: DenseSpec, sparsity: Sparsity) -> DenseSpec:
    """Describe the dense agent whose networks have at most as many parameters as a ticket's, hidden layers scaled alike."""
    from .. import envs

    spaces, exclude = envs.task_spaces(dense.task), config.pruning.exclude
    hidden = {
        f"{name}_hidden": _fit(name, network, spaces, sparsity[name], exclude)
        for name, network in dense.agent.networks(spaces).items()
    }
    missing = sorted(hidden.keys() - type(dense.agent).model_fields.keys())
    if missing:
        raise InputError(
            f"the control small-dense changes the settings {', '.join(missing)}, which {dense.agent.NAME} does not have; leave the "
            "control out, or name the settings so (docs/recipes.md)"
        )
    return dense.model_copy(update={"agent": dense.agent.model_copy(update=hidden)})


def _fit(name: str, network: Network, spaces: Spaces, share: float, exclude: Sequence[str]) -> tuple[int, ...]:
    """Return the widest hidden layers whose network has no more parameters than one that loses a share of its weights."""
    kernels = network.kernels(spaces)
    prunable = sum(
        a * b for layer, (a, b) in kernels.items() if not any(holds_layer(f"{name}/{layer}", e) for e in exclude)
    )
    budget = network.parameters(spaces) - round(share * prunable)
    sizes = network.hidden
    best = tuple(1 for _ in sizes)
    for width in range(1, max(sizes, default=0) + 1):
        tried = tuple(max(1, size * width // max(sizes)) for size in sizes)
        if network._replace(hidden=tried).parameters(spaces) <= budget:
            best = tried
    return best


def comparisons(config: Config) -> Iterator[ConnectivitySpec]:
    """Yield the comparisons that `analysis.connectivity` asks for; between tickets, never of controls."""
    asked = config.analysis

    def compare(dense: DenseSpec, kind: str, one: DenseSpec | TicketSpec, other: TicketSpec) -> ConnectivitySpec:
        return ConnectivitySpec(
            dense=dense,
            kind=kind,  # type: ignore[arg-type]
            one=one,
            other=other,
            points=asked.connectivity_points,
            episodes=asked.connectivity_episodes,
        )

    groups: dict[Any, list[tuple[Row, TicketSpec]]] = {}
    for row in rows(config) if asked.connectivity else ():
        if not row.control and isinstance(row.run, TicketSpec):
            groups.setdefault((row.dense, row.rewind, row.sparsity), []).append((row, row.run))
    restarted: set[Any] = set()
    for (dense, rewind, _), found in groups.items():
        if "noise" in asked.connectivity and (dense, rewind) not in restarted:
            restarted.add((dense, rewind))
            again = ticket_spec(config, dense.task, dense.seed, None, found[0][1].rewind_steps, "retrained")
            yield compare(dense, "noise", dense, again)
        for i, (row, ticket) in enumerate(found):
            mask = ticket.mask
            if "parent" in asked.connectivity:
                yield compare(dense, "parent", dense, ticket)
            if "rounds" in asked.connectivity and isinstance(mask, MaskSpec) and mask.previous:
                yield compare(dense, "rounds", mask.previous, ticket)
            if "noise" in asked.connectivity and row.method not in CONTROLS:
                yield compare(dense, "noise", ticket, ticket.model_copy(update={"control": "retrained"}))
            if "methods" in asked.connectivity:
                for _, before in found[:i]:
                    yield compare(dense, "methods", before, ticket)


def grid(config: Config) -> list[Spec]:
    """Return all runs of `lth run`, each once and after those that it needs."""
    found: dict[Spec, None] = {}

    def add(spec: Spec) -> None:
        if spec not in found:
            for needed in needs(spec):
                add(needed)
            found[spec] = None

    for task in config.tasks:
        for seed in config.seeds:
            add(dense_spec(config, task, seed))
            part = config.model_copy(update={"tasks": (task,), "seeds": (seed,)})
            for row in rows(part):
                add(row.dense)
                add(row.run)
            for comparison in comparisons(part):
                add(comparison)
    return list(found)
