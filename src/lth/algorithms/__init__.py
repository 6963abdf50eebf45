"""The algorithms whose networks are pruned. A folder each; this table is the only place that lists them.

`architecture` describes networks as data, `base` is the state and what all algorithms share, `learner` the compiled update,
`acting` the policy in NumPy, `tickets` puts masks on a state, `packed` computes with the kept weights only, `checkpoint` is the
file. Importing this package imports no JAX.
"""

from .architecture import AgentConfig
from .dqn.config import DQNConfig
from .sac.config import SACConfig
from .td3.config import TD3Config

ALGORITHMS: dict[str, type[AgentConfig]] = {"sac": SACConfig, "td3": TD3Config, "dqn": DQNConfig}
