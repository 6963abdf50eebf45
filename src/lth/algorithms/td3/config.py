"""The settings and networks of TD3."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ...settings import Counted, Layers, Rate
from ..architecture import AgentConfig, Head, Network, Spaces

if TYPE_CHECKING:
    from ..base import Algorithm

Scale = Annotated[float, Field(ge=0, le=10)]


class TD3Config(AgentConfig):
    """`td3.*`: twin delayed DDPG. The defaults are those of the paper's code and of SBX, except for normalization."""

    NAME: ClassVar[str] = "TD3"
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
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    """The Polyak averaging coefficient of the target networks."""
    policy_delay: Counted = 2
    """Updates between gradient steps of the actor."""
    exploration_noise: Scale = 0.1
    """Standard deviation of Gaussian exploration noise; actions are in [-1, 1]."""
    target_noise: Scale = 0.2
    """Standard deviation of the noise on target actions (target policy smoothing)."""
    target_noise_clip: Scale = 0.5
    """The target noise is clipped to plus or minus this value."""

    def describe(self, spaces: Spaces) -> dict[str, Network]:
        """Describe the actor, whose output is squashed by tanh, and the twin critics."""
        delay, rates = self.policy_delay, (self.actor_learning_rate, self.critic_learning_rate)
        both, twins = ("observations", "actions"), ("q1", "q2")
        return {
            "actor": Network(
                ("observations",), self.actor_hidden, spaces.action_dim, rates[0], target=True, period=delay
            ),
            "critic": Network(both, self.critic_hidden, 1, rates[1], twins, self.critic_layer_norm, target=True),
        }

    def head(self, spaces: Spaces) -> Head:
        """Return tanh of the output."""
        return Head(spaces.action_dim, "tanh")

    def passes(self) -> dict[str, float]:
        """Return the passes: both targets at s' 1; the critic loss 3; the actor loss 3 and 2 every `policy_delay` updates."""
        return {"actor": 1.0 + 3.0 / self.policy_delay, "critic": 4.0 + 2.0 / self.policy_delay}

    def implementation(self) -> "type[Algorithm]":
        """Return the Algorithm class; imports JAX."""
        from .algorithm import TD3

        return TD3
