"""Effective weights: kept weights on a path from an input of the network to an output.

A kept weight is *effective* if a path of kept weights leads from an input of the network through it to an output (Vysogorets &
Kempe 2023, "Connectivity Matters", https://arxiv.org/abs/2107.02306, where all others are "inactivated"). There are two kinds of
other weights. A weight without a path to an output has no influence, and its gradient is zero. A weight without a path from an
input starts at a unit whose output is *constant*, and the next layer's bias could replace it. Biases are not counted.

Layer normalization mixes the units of a layer, so if an input reaches one unit it reaches all, and if one unit has a path to an
output all do. It makes a layer with a single unit constant.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..types import Mask


class Layer(NamedTuple):
    """A masked dense layer; all arrays are boolean."""

    name: str  # its path: `layer_0`, `q1/output`
    kept: np.ndarray  # (inputs, outputs): the weights that the mask keeps
    fed: np.ndarray  # (inputs,): whether an input of the layer depends on an input of the network
    heard: np.ndarray  # (outputs,): whether an output of the layer has a path to an output of the network

    @property
    def effective(self) -> np.ndarray:
        """The kept weights on a path from an input to an output, (inputs, outputs)."""
        return np.asarray(self.kept & self.fed[:, None] & self.heard[None, :])

    @property
    def constant(self) -> np.ndarray:
        """Whether each output of the layer is independent of the network's inputs, (outputs,)."""
        return ~(self.kept & self.fed[:, None]).any(axis=0)  # type: ignore[no-any-return]


def networks_of(tree: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Split a tree into single networks by the prefix of their layer names: "", or q1/ and q2/ for an ensemble."""
    if "output" in tree:
        return {"": tree}
    return {f"{name}/": tree[name] for name in sorted(tree) if isinstance(tree[name], Mapping)}


def layer_order(network: Mapping[str, Any]) -> list[str]:
    """Return the names of a network's dense layers from its inputs to its outputs.

    Raises:
        InputError: its layers are not `layer_0`, `layer_1`, ... and `output`.
    """
    hidden = [f"layer_{i}" for i in range(sum(name.startswith("layer_") for name in network))]
    order = [*hidden, "output"]
    if any(name not in network for name in order):
        raise InputError(f"this network has the layers {sorted(network)}, but should have {order}")
    return order


def layers(mask: Mask) -> list[Layer]:
    """Find the effective weights of a mask. Returns each network's layers from input to output.

    >>> import numpy as np
    >>> kernels = {"layer_0": [[1, 0], [0, 0]], "output": [[1], [1]]}
    >>> found = layers({name: {"kernel": np.array(kernel)} for name, kernel in kernels.items()})
    >>> [layer.effective.astype(int).tolist() for layer in found]  # the second hidden unit is constant
    [[[1, 0], [0, 0]], [[1], [0]]]

    Raises:
        InputError: the tree is not a network of lth.
    """
    return [layer for prefix, network in networks_of(mask).items() for layer in _follow(prefix, network)]


def _follow(prefix: str, network: Mapping[str, Any]) -> list[Layer]:
    order = layer_order(network)
    kept = [np.asarray(network[name]["kernel"]) != 0 for name in order]
    mixed = [f"norm_{i}" in network for i in range(len(order) - 1)]
    fed = [np.ones(kept[0].shape[0], bool)]
    for weights, norm in zip(kept[:-1], mixed, strict=True):
        reached = (weights & fed[-1][:, None]).any(axis=0)
        fed.append(np.full(len(reached), reached.any() and len(reached) > 1) if norm else reached)
    heard = [np.ones(kept[-1].shape[1], bool)]
    for weights, norm in zip(kept[:0:-1], mixed[::-1], strict=True):
        reaching = (weights & heard[0][None, :]).any(axis=1)
        heard.insert(0, np.full(len(reaching), reaching.any() and len(reaching) > 1) if norm else reaching)
    return [Layer(prefix + name, *parts) for name, *parts in zip(order, kept, fed, heard, strict=True)]


def effective_sparsity(mask: Mask) -> float:
    """Return the fraction of a network's weights that lie on no path from an input to an output.

    It is at least `compute_sparsity` of the mask; the difference is what was kept in vain.

    >>> import numpy as np
    >>> kernels = {"layer_0": [[1, 0], [0, 0]], "output": [[1], [1]]}
    >>> round(effective_sparsity({name: {"kernel": np.array(k)} for name, k in kernels.items()}), 3)  # of 6, 3 are kept
    0.667

    Args:
        mask: the mask of a network with layers `layer_0`, `layer_1`, ..., `output`, or of an ensemble of such networks.

    Raises:
        InputError: the tree is not that of such a network.
    """
    found = layers(mask)
    return 1.0 - sum(int(layer.effective.sum()) for layer in found) / sum(layer.kept.size for layer in found)


def weights_read(mask: Mask) -> dict[str, np.ndarray]:
    """Count the effective weights that a network's first layer has at each of its inputs.

    An input with none cannot change any output. Networks that read actions read observations first.

    >>> import numpy as np
    >>> kernels = {"layer_0": [[1, 0], [0, 0]], "output": [[1], [1]]}
    >>> {name: w.tolist() for name, w in weights_read({n: {"kernel": np.array(k)} for n, k in kernels.items()}).items()}
    {'layer_0': [1, 0]}

    Args:
        mask: as for `effective_sparsity`.

    Returns:
        The counts, (inputs,) int, by the first layer's name; for an ensemble one entry a member.

    Raises:
        InputError: the tree is not that of such a network.
    """
    firsts = [_follow(prefix, network)[0] for prefix, network in networks_of(mask).items()]
    return {layer.name: layer.effective.sum(axis=1) for layer in firsts}
