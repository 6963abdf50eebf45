"""The controls of `pruning.controls`: further rows of the results, which tickets have to beat (docs/protocols.md).

A control is a row of CONTROLS: data that says what is trained, with at most one function that changes a ticket's start or a
dense agent's settings. A config can name another as `package.module:name` (docs/recipes.md). Imports no JAX.
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
"""(algorithm, rewound state, masks by network, PRNG key by network) -> the state from which the control trains."""


class Control(NamedTuple):
    """A condition that tickets are compared with: what is trained, under which mask, from which start. An entry of `CONTROLS`."""

    each: Literal["method", "sparsity", "rewind"] = "method"
    """How often it is run: once for each ticket, or once for all methods at a sparsity or at a rewind point."""
    mask: Literal["ticket", "inverted", "random-erk", "none"] = "ticket"
    """Which mask it trains under."""
    start: Start | None = None
    """What it starts from, where that is not the rewound state under the masks."""
    agent: Callable[[AgentConfig, Spaces, Mapping[str, float], Sequence[str]], AgentConfig] | None = None
    """It is a dense agent with these settings: (settings, spaces, sparsity by network, pruning.exclude) -> settings."""
    fresh_noise: bool = False
    """Whether it trains with other random numbers than the dense agent did."""


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
    """Return the settings of a dense agent with at most as many parameters a network as a ticket's; hidden layers scaled alike.

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
            f"the control small-dense changes the settings {', '.join(missing)}, which {agent.NAME} does not have; leave the "
            "control out, or name the settings so (docs/recipes.md)"
        )
    return agent.model_copy(update=hidden)


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
    """Return a row of `CONTROLS`, or a Control of the user's own, `package.module:name`.

    Raises:
        InputError: there is none; or its module is not imported yet, and `load` is False.
    """
    return lookup(CONTROLS, name, "control", Control, load)
