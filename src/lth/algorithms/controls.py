"""The controls of the setting `pruning.controls`, which tickets are compared with (docs/protocols.md).

A control is an entry of CONTROLS: data that describes what is trained, with at most one function that changes a ticket's initial
state or a dense agent's settings. A config can name a custom control as `package.module:name` (docs/recipes.md). Does not import
JAX.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import InputError
from ..pruning.names import holds_layer
from ..registry import lookup
from .architecture import AgentConfig, Network, Spaces

if TYPE_CHECKING:
    from ..types import Mask
    from .base import AgentState, Algorithm

Start = Callable[["Algorithm", "AgentState", dict[str, "Mask"], dict[str, Any]], "AgentState"]
"""(algorithm, rewound state, masks by network, PRNG key by network) -> the control's initial state."""


class Control(NamedTuple):
    """An entry of `CONTROLS`."""

    each: Literal["method", "sparsity", "rewind"] = "method"
    """How often it runs: once per ticket, or once for all methods per sparsity or per rewind point."""
    mask: Literal["ticket", "inverted", "random-erk", "none"] = "ticket"
    """The mask that it trains with."""
    start: Start | None = None
    """Its initial state, if it is not the rewound state with the masks."""
    agent: Callable[[AgentConfig, Spaces, Mapping[str, float], Sequence[str]], AgentConfig] | None = None
    """If set, it is a dense agent: (settings, spaces, sparsity by network, pruning.exclude) -> its settings."""
    fresh_noise: bool = False
    """Whether it trains with other random numbers than the dense agent."""


def _shuffled(
    algorithm: "Algorithm", state: "AgentState", masks: dict[str, "Mask"], keys: dict[str, Any]
) -> "AgentState":
    """Keep as many weights of each layer, at random positions."""
    from ..pruning.controls import shuffled_mask
    from .tickets import make_ticket

    return make_ticket(state, {name: shuffled_mask(masks[name], state.params[name], keys[name]) for name in masks})


def _reinitialized(
    algorithm: "Algorithm", state: "AgentState", masks: dict[str, "Mask"], keys: dict[str, Any]
) -> "AgentState":
    """Draw new initial weights, with new optimizer states and targets."""
    from .tickets import make_ticket

    fresh = algorithm.init(keys[algorithm.policy])
    opts = {**state.opts, **{name: fresh.opts[name] for name in state.params}}
    return make_ticket(state._replace(params=fresh.params, targets=fresh.targets, opts=opts), masks)


def _permuted(
    algorithm: "Algorithm", state: "AgentState", masks: dict[str, "Mask"], keys: dict[str, Any]
) -> "AgentState":
    """Permute the kept weights within each layer."""
    from .tickets import make_ticket, permuted_ticket

    return permuted_ticket(make_ticket(state, masks), keys)


def small_dense(
    agent: AgentConfig, spaces: Spaces, sparsity: Mapping[str, float], exclude: Sequence[str]
) -> AgentConfig:
    """Return the settings of a smaller dense agent. All hidden layers of a network are scaled alike, and no network has more
    parameters than the ticket's.

    Raises:
        InputError: the algorithm has no setting `<network>_hidden` for one of its networks.
    """
    hidden = {
        f"{name}_hidden": _fit(name, network, spaces, sparsity[name], exclude)
        for name, network in agent.networks(spaces).items()
    }
    missing = sorted(hidden.keys() - type(agent).model_fields.keys())
    if missing:
        raise InputError(
            f"the control small-dense needs the settings {', '.join(missing)}, which {agent.NAME} does not have; remove the "
            "control, or add these settings (docs/recipes.md)"
        )
    return agent.model_copy(update=hidden)


def _fit(name: str, network: Network, spaces: Spaces, share: float, exclude: Sequence[str]) -> tuple[int, ...]:
    """Return the widest hidden layers for which the network has at most as many parameters as the pruned network."""
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


CONTROLS: dict[str, Control] = {
    "reinit": Control(start=_reinitialized),
    "shuffled": Control(start=_shuffled),
    "permuted": Control(start=_permuted),
    "inverted": Control(mask="inverted"),
    "random-erk": Control(each="sparsity", mask="random-erk"),
    "small-dense": Control(each="sparsity", mask="none", agent=small_dense),
    "retrained": Control(each="rewind", mask="none", fresh_noise=True),
}


def control_named(name: str, load: bool = True) -> Control:
    """Return an entry of `CONTROLS`, or the custom Control at `package.module:name`.

    Raises:
        InputError: the name is unknown, or its module is not imported and `load` is False.
    """
    return lookup(CONTROLS, name, "control", Control, load)
