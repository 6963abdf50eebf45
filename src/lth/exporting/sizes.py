"""How many bytes a mask's policy takes as an exported program, without one: nothing is trained, emitted or compiled."""

import numpy as np

from ..algorithms.architecture import Head, Spaces
from ..analysis.paths import layers
from ..pruning.names import nested_leaves
from ..types import Mask
from .c_tables import table_bytes
from .network import Layer, Network


def mask_bytes(mask: Mask, spaces: Spaces, head: Head, normalizes: bool) -> int:
    """Return the constants of the C program that a ticket under a mask becomes, in float32.

    Units without a path are left out, as `fold` does; a trained weight of exactly 0 is counted. The normalizer is counted where
    there is one, which `lth export` folds into the first layer where observations have bounds (8 bytes an observation).

    Args:
        mask: the policy's.
        spaces: the task's.
        head: how the network's outputs become actions.
        normalizes: whether the agent normalizes observations.
    """
    names = nested_leaves(mask)
    output = np.asarray(mask["output"]["kernel"])[:, : head.outputs]
    found = layers({**mask, "output": {"kernel": output}})
    mixed = [f"norm_{i}/scale" in names for i in range(len(found) - 1)]
    kept: list[Layer] = []
    before = np.ones(found[0].kept.shape[0], bool)
    for i, layer in enumerate(found):
        after = np.ones(layer.kept.shape[1], bool)
        kernel = layer.kept
        if not any(mixed):
            kernel = layer.effective
            after = np.asarray(kernel.any(axis=0)) if i < len(found) - 1 else after
            if not after.any():  # one unit is left where all would go
                after[0] = True
        norm = np.ones(int(after.sum()), np.float32)
        kernel = kernel[before][:, after].astype(np.float32)
        kept.append(Layer(kernel, np.zeros(kernel.shape[1], np.float32), (norm, norm) if [*mixed, False][i] else None))
        before = after
    read = np.asarray(kept[0].kernel.any(axis=1))
    if not read.any():  # a constant policy; programs with empty tables are none
        read[0] = True
    kept[0] = kept[0]._replace(kernel=kept[0].kernel[read])
    n, bounds = int(read.sum()), np.zeros(0 if head.squash == "argmax" else spaces.action_dim, np.float32)
    return table_bytes(
        Network(
            observation_dim=spaces.observation_dim,
            reads=np.flatnonzero(read),
            mean=np.zeros(n, np.float32),
            scale=np.ones(n, np.float32),
            clip=1.0 if normalizes else np.inf,
            layers=tuple(kept),
            activation="relu",
            squash=head.squash,
            low=bounds,
            high=bounds,
        )
    )
