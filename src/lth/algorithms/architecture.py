"""Networks as data, for pruning, packing, costs and tables. Does not import JAX."""

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from ..errors import InputError
from ..registry import lookup
from ..settings import Positive, Rate, Settings

if TYPE_CHECKING:
    from .base import Algorithm


class Spaces(NamedTuple):
    """The observation and action sizes of an environment."""

    observation_dim: int
    """The length of an observation."""
    action_dim: int
    """The length of continuous actions, or the number of discrete actions."""
    discrete: bool = False
    """Whether actions are discrete."""

    @property
    def action_width(self) -> int:
        """Return the width of an action in a batch and in the replay buffer; a discrete action is one integer."""
        return 1 if self.discrete else self.action_dim

    def random_actions(self, rng: Any, n: int) -> Any:
        """Draw uniform actions, (n, action_width) float32: in [-1, 1], or indices of discrete actions."""
        if self.discrete:
            return rng.integers(0, self.action_dim, (n, 1)).astype(np.float32)
        return rng.uniform(-1.0, 1.0, (n, self.action_dim)).astype(np.float32)


class Head(NamedTuple):
    """The map from the policy network's output to the deterministic action, as data: `Algorithm.act` without noise."""

    outputs: int
    """The number of outputs used, counted from the first."""
    squash: Literal["tanh", "argmax"]
    """tanh gives an action in [-1, 1]; argmax gives the index of the largest output."""


class Network(NamedTuple):
    """One multilayer perceptron with ReLU, or several (`members`) on the same input with one output each."""

    inputs: tuple[str, ...]
    """The fields of a Batch that it reads, concatenated."""
    hidden: tuple[int, ...]
    """The sizes of the hidden layers."""
    outputs: int
    """The number of outputs."""
    learning_rate: float
    """Adam's learning rate."""
    members: tuple[str, ...] = ()
    """The names of an ensemble's members; empty: one network."""
    layer_norm: bool = False
    """Whether each hidden layer has layer normalization."""
    target: bool = False
    """Whether it has a target network."""
    period: int = 1
    """It takes a gradient step at every `period`-th update of the agent."""
    decay_steps: int | None = None
    """Steps over which the learning rate decays linearly to 0."""

    @property
    def copies(self) -> int:
        """Return the number of perceptrons."""
        return max(len(self.members), 1)

    def input_width(self, spaces: Spaces) -> int:
        """Return the length of its input."""
        width = {"observations": spaces.observation_dim, "actions": spaces.action_width}
        return sum(width[name] for name in self.inputs)

    def kernels(self, spaces: Spaces) -> dict[str, tuple[int, int]]:
        """Return the shapes (inputs, outputs) of its dense layers by name: `layer_0`, or `q1/layer_0` of a member."""
        sizes = (self.input_width(spaces), *self.hidden, self.outputs)
        names = [*(f"layer_{i}" for i in range(len(self.hidden))), "output"]
        prefixes = [f"{member}/" for member in self.members] or [""]
        return {p + name: shape for p in prefixes for name, shape in zip(names, pairwise(sizes), strict=True)}

    def parameters(self, spaces: Spaces) -> int:
        """Count its weights and biases, without layer normalization.

        >>> Network(("observations",), (4,), 2, 1e-3).parameters(Spaces(3, 1))
        26
        """
        return sum(a * b + b for a, b in self.kernels(spaces).values())


class AgentConfig(Settings):
    """The base class of algorithm settings. Does not import JAX.

    A subclass names its networks in NETWORKS and describes them in `describe`. By convention, the setting `<network>_hidden`
    has the sizes of a network's hidden layers; the control small-dense changes only these.
    """

    NAME: ClassVar[str] = ""
    """The display name of the algorithm."""
    NETWORKS: ClassVar[tuple[str, ...]]
    """The networks that can be pruned, in the order in which they are initialized."""
    POLICY: ClassVar[str]
    """The network that acts."""
    DISCRETE: ClassVar[bool] = False
    """Whether actions are discrete."""

    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """The discount factor, gamma."""
    reward_scale: Rate = 1.0
    """Rewards are multiplied by this in the losses; stored and reported rewards are raw."""
    normalize_obs: bool = True
    """Normalize observations by their running mean and variance, clipped to [-10, 10]."""
    max_grad_norm: Rate | None = None
    """Clip each network's gradient to this global norm; null: no clipping."""
    buffer_size: Positive = 1_000_000
    """The capacity of the replay buffer in transitions (at most `training.env_steps`)."""

    def networks(self, spaces: Spaces | None = None) -> dict[str, Network]:
        """Describe the networks by name; without `spaces`, for an environment with one observation and one action."""
        return self.describe(spaces or Spaces(1, 1, self.DISCRETE))

    def describe(self, spaces: Spaces) -> dict[str, Network]:
        """Describe the networks by name."""
        raise NotImplementedError

    def spaces(self, observation_dim: int, outputs: int) -> Spaces:
        """Return the spaces for a policy network with `outputs` outputs."""
        return Spaces(observation_dim, outputs, self.DISCRETE)

    def head(self, spaces: Spaces) -> Head | None:
        """Return the algorithm's `act` without noise as data, for `lth.export`; None if it cannot be exported."""
        del spaces
        return None

    @classmethod
    def has_pair(cls) -> bool:
        """Return whether the networks are an actor and critics, as in docs/saliency-pruning.md."""
        return set(cls.NETWORKS) == {"actor", "critic"}

    def passes(self) -> dict[str, float]:
        """Return the cost of one update by network, in forward passes of the batch through the whole network.

        A backward pass counts as two, or as one if only the input gradient is needed.
        """
        raise NotImplementedError

    def implementation(self) -> "type[Algorithm]":
        """Return the Algorithm class; imports JAX."""
        raise NotImplementedError

    def build(self, spaces: Spaces, task: str = "") -> "Algorithm":
        """Return the algorithm for an environment.

        Raises:
            InputError: it does not support the action space; names the algorithms that do.
        """
        self.check_actions(spaces, task)
        return self.implementation()(self, spaces)

    def check_actions(self, spaces: Spaces, task: str = "") -> None:
        """Raise InputError if the algorithm does not support an environment's actions; names the algorithms that do."""
        if spaces.discrete == self.DISCRETE:
            return
        from . import ALGORITHMS

        able = [f"algorithm={name}" for name, other in ALGORITHMS.items() if spaces.discrete == other.DISCRETE]
        kind = "discrete" if spaces.discrete else "continuous"
        whose = f"the task {task!r}" if task else "the environment"
        raise InputError(f"{whose} has {kind} actions, which {self.NAME} does not support. Use {' or '.join(able)}.")


def algorithm_key(config: AgentConfig) -> str:
    """Return the name of a config's algorithm: a key of ALGORITHMS, or `package.module:ClassName`."""
    from . import ALGORITHMS

    for name, known in ALGORITHMS.items():
        if type(config) is known:
            return name
    return f"{type(config).__module__}:{type(config).__qualname__}"


def config_class(name: str, load: bool = False) -> type[AgentConfig]:
    """Return the settings class of an algorithm by name.

    `package.module:ClassName` names a custom class. Its module is imported only with `load`, which is set for names given by the
    user, never for names read from files.

    Raises:
        InputError: the algorithm is unknown, or its module is not imported or cannot be imported.
    """
    from . import ALGORITHMS

    found = lookup(ALGORITHMS, name, "algorithm", type, load)
    if not issubclass(found, AgentConfig):
        module, _, attribute = name.partition(":")
        raise InputError(f"the algorithm {name!r}: {module} has no AgentConfig class {attribute!r}")
    missing = [word for word in ("NETWORKS", "POLICY") if not hasattr(found, word)]
    if missing:
        raise InputError(
            f"the algorithm {name!r} does not set {' and '.join(missing)} (docs/recipes.md has an example)"
        )
    return found
