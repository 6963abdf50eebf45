"""The settings of SAC and the shapes of its networks."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ...settings import Layers, Rate
from ..architecture import AgentConfig, Network, Spaces

if TYPE_CHECKING:
    from ..base import Algorithm


class SACConfig(AgentConfig):
    """`sac.*`: soft actor-critic. The defaults are those of the paper and of Stable-Baselines3, but for normalisation."""

    NAME: ClassVar[str] = "SAC"
    NETWORKS: ClassVar[tuple[str, ...]] = ("actor", "critic")
    POLICY: ClassVar[str] = "actor"

    actor_hidden: Layers = (256, 256)
    """Sizes of the actor's hidden layers."""
    critic_hidden: Layers = (256, 256)
    """Sizes of each critic's hidden layers."""
    critic_layer_norm: bool = False
    """Layer normalisation after each hidden layer of the critics."""
    actor_learning_rate: Rate = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: Rate = 3e-4
    """Adam's learning rate for the critics."""
    alpha_learning_rate: Rate = 3e-4
    """Adam's learning rate for the logarithm of the temperature."""
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """How far the target critics move towards the critics at each update (Polyak averaging)."""
    initial_alpha: Rate = 1.0
    """The temperature at the start; it is learned from there."""
    target_entropy: Annotated[float, Field(ge=-1e30, le=1e30)] | None = None
    """The entropy that the temperature aims at, in nats; null: minus the number of action dimensions."""
    temperature_loss: Literal["log_alpha", "alpha"] = "log_alpha"
    """What the temperature's loss is linear in: its logarithm, as in SBX and Stable-Baselines3, or alpha, as in the paper."""

    def describe(self, spaces: Spaces) -> dict[str, Network]:
        """The actor's last layer holds the mean and the logarithm of the standard deviation side by side."""
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
        """Return the spaces that belong to an actor with so many outputs."""
        return Spaces(observation_dim, outputs // 2)

    def passes(self) -> dict[str, float]:
        """The actor at s' and, differentiated, at s: 1 + 3. The critics: targets 1, their loss 3, the actor's loss 2."""
        return {"actor": 4.0, "critic": 6.0}

    def implementation(self) -> "type[Algorithm]":
        """Return the Algorithm class; imports JAX."""
        from .algorithm import SAC

        return SAC
