"""The settings and network of DQN."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ...settings import Counted, Layers, Rate, Share
from ..architecture import AgentConfig, Head, Network, Spaces

if TYPE_CHECKING:
    from ..base import Algorithm


class DQNConfig(AgentConfig):
    """`dqn.*`: deep Q-networks, for discrete actions."""

    NAME: ClassVar[str] = "DQN"
    NETWORKS: ClassVar[tuple[str, ...]] = ("q",)
    POLICY: ClassVar[str] = "q"
    DISCRETE: ClassVar[bool] = True

    q_hidden: Layers = (256, 256)
    """Sizes of the network's hidden layers."""
    q_layer_norm: bool = False
    """Layer normalization after each hidden layer."""
    q_learning_rate: Rate = 3e-4
    """Adam's learning rate."""
    q_learning_rate_steps: Counted | None = None
    """Updates over which the learning rate decays linearly to 0; null: constant. A ticket starts at its rewind point's rate."""
    double: bool = True
    """Double DQN: the online network chooses the action and the target network values it (van Hasselt et al. 2016, eq. 4)."""
    tau: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The Polyak averaging coefficient of the target network; 1.0 copies the network."""
    target_every: Counted = 250
    """Updates between updates of the target network."""
    exploration_initial: Share = 1.0
    """The share of random actions, epsilon, at environment step 0."""
    exploration_final: Share = 0.05
    """Epsilon at the end of the schedule and after it."""
    exploration_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of `training.env_steps` over which epsilon decays linearly."""

    def describe(self, spaces: Spaces) -> dict[str, Network]:
        """Describe the network that maps an observation to the value of each action."""
        return {
            "q": Network(
                ("observations",),
                self.q_hidden,
                spaces.action_dim,
                self.q_learning_rate,
                layer_norm=self.q_layer_norm,
                target=True,
                decay_steps=self.q_learning_rate_steps,
            )
        }

    def head(self, spaces: Spaces) -> Head:
        """Return the index of the largest value."""
        return Head(spaces.action_dim, "argmax")

    def passes(self) -> dict[str, float]:
        """Return the passes: the target 1, the loss 3, and for double DQN the network at s' 1."""
        return {"q": 5.0 if self.double else 4.0}

    def implementation(self) -> "type[Algorithm]":
        """Return the Algorithm class; imports JAX."""
        from .algorithm import DQN

        return DQN
