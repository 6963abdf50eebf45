"""The RL algorithms, one folder each. This table is the only list of them.

`architecture` describes networks as data, `base` has the agent state and shared code, `learner` the compiled update, `acting` the
policy in NumPy. `tickets` applies masks to a state, `packed` computes with the kept weights only, and `checkpoint` reads and
writes files. Importing this package does not import JAX.
"""

from .architecture import AgentConfig
from .dqn.config import DQNConfig
from .sac.config import SACConfig
from .td3.config import TD3Config

ALGORITHMS: dict[str, type[AgentConfig]] = {"sac": SACConfig, "td3": TD3Config, "dqn": DQNConfig}
