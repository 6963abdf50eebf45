"""The settings and networks of SAC."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ...settings import Layers, Rate
from ..architecture import AgentConfig, Head, Network, Spaces

if TYPE_CHECKING:
    from ..base import Algorithm


class SACConfig(AgentConfig):
    """`sac.*`: soft actor-critic. The defaults are those of the paper and of Stable-Baselines3, except for normalization."""

    NAME: ClassVar[str] = "SAC"
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    POLICY: ClassVar[str] = "actor"

    actor_hidden: Layers = (256, 256)
    """Sizes of the actor's hidden layers."""
    critic_hidden: Layers = (256, 256)
    """Sizes of each critic's hidden layers."""
    critic_layer_norm: bool = False
    """Layer normalization after each hidden layer of the critics."""
    actor_learning_rate: Rate = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: Rate = 3e-4
    """Adam's learning rate for the critics."""
    alpha_learning_rate: Rate = 3e-4
    """Adam's learning rate for the logarithm of the temperature."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """The Polyak averaging coefficient of the target critics."""
    initial_alpha: Rate = 1.0
    """The initial temperature; it is learned during training."""
    target_entropy: Annotated[float, Field(ge=-1e30, le=1e30)] | None = None
    """The target entropy in nats; null: minus the number of action dimensions."""
    temperature_loss: Literal["log_alpha", "alpha"] = "log_alpha"
    """The temperature loss is linear in log alpha, as in SBX and Stable-Baselines3, or in alpha, as in the paper."""

    def describe(self, spaces: Spaces) -> dict[str, Network]:
        """Describe the networks. The actor's output is the mean and the logarithm of the standard deviation, concatenated."""
        both = ("observations", "actions")
        return {
            "actor": Network(("observations",), self.actor_hidden, 2 * spaces.action_dim, self.actor_learning_rate),
            "critic": Network(
                both,
                self.critic_hidden,
                1,
                self.critic_learning_rate,
                ("q1", "q2"),
                self.critic_layer_norm,
                target=True,
            ),
        }

    def spaces(self, observation_dim: int, outputs: int) -> Spaces:
        """Return the spaces for an actor with `outputs` outputs."""
        return Spaces(observation_dim, outputs // 2)

    def head(self, spaces: Spaces) -> Head:
        """Return tanh of the mean, which is the first half of the output."""
        return Head(spaces.action_dim, "tanh")

    def passes(self) -> dict[str, float]:
        """Return the passes: actor at s' 1, actor loss at s 3; critics: targets 1, their loss 3, the actor loss 2."""
        return {"actor": 4.0, "critic": 6.0}

    def implementation(self) -> "type[Algorithm]":
        """Return the Algorithm class; imports JAX."""
        from .algorithm import SAC

        return SAC
