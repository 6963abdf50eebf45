"""`lth.prune_agent`: masks for an agent of Stable-Baselines3 or SBX, which keeps training with them."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..pruning.criteria import CriterionName, criterion_named
from ..pruning.layers import layers
from ..pruning.prune import prune
from ..types import Mask, Params
from . import sb3_masks, sbx_masks
from .models import Kind, kind_of


def prune_agent(
    model: Any,
    sparsity: float | Mapping[str, float],
    criterion: CriterionName | str = "magnitude",
    *,
    seed: int = 0,
    **how: Any,
) -> dict[str, Mask]:
    """Prune an agent of Stable-Baselines3 or SBX in place. `model.learn` then trains with the masks, and `lth.export` exports it.

    >>> masks = lth.prune_agent(model, 0.9)  # doctest: +SKIP
    >>> model.learn(50_000, reset_num_timesteps=False)  # doctest: +SKIP

    Pruned weights, their targets and their optimizer moments become 0.0 and stay 0.0. Weights that are already 0.0 stay pruned.
    Saving or copying a Stable-Baselines3 model loses the masks: its zeros would be trained again. Call this function again, on the
    loaded model or the copy, to restore them.

    Args:
        model: an agent of SAC, TD3, DQN or PPO with MlpPolicy.
        sparsity: the share of pruned weights in each network; or by network: {"actor": a, "critic": c}, {"q": s} for DQN.
            Stacked critics are counted separately.
        criterion: "magnitude" or "random"; for SAC of SBX, any criterion of `lth.prune`.
        seed: the seed of "random", and of the batches of criteria that need gradients.
        how: further arguments of `lth.prune`: allocation, exclude, invert.

    Returns:
        The masks by network, in the library's layout: 1 kept, 0 pruned.

    Raises:
        InputError: the model is not supported (names its kind), the criterion needs gradients that are not available for it, or
            an error of `lth.prune`.
    """
    kind = kind_of(model)
    by_weights = criterion_named(criterion).statistic in (None, "uniform")
    library: ModuleType = sbx_masks if kind.library == "sbx" else sb3_masks
    networks = library.networks_of(model, kind)
    if isinstance(sparsity, Mapping) and set(sparsity) != set(networks):
        raise InputError(
            f"sparsity names {', '.join(sparsity)}, but the networks of {kind.name} are {', '.join(networks)}"
        )
    if not by_weights:
        masks = _by_gradients(model, kind, networks, sparsity, criterion, seed, how)
    else:
        key = jax.random.key(seed)
        masks = {
            name: prune(
                jax.tree.map(jnp.asarray, params),
                sparsity[name] if isinstance(sparsity, Mapping) else sparsity,
                criterion,
                key=jax.random.fold_in(key, i),
                prev_mask=_kept(params),
                **how,
            )
            for i, (name, params) in enumerate(networks.items())
        }
    library.set_masks(model, kind, masks)
    return masks


def _by_gradients(
    model: Any,
    kind: Kind,
    networks: Mapping[str, Params],
    sparsity: float | Mapping[str, float],
    criterion: str,
    seed: int,
    how: Mapping[str, Any],
) -> dict[str, Mask]:
    if kind != Kind("sbx", "SAC"):
        raise InputError(
            f"the criterion {criterion!r} needs gradients, which are supported only for SAC of SBX, not for {kind.name}. Use "
            "'magnitude' or 'random', or call `lth.adopt` and make masks by any criterion with `lth run`"
        )
    from ..algorithms.sac.sbx import prune_sbx

    before = {name: _kept(params) for name, params in networks.items()}
    return prune_sbx(model, sparsity, criterion, seed=seed, prev_mask=before, **how)


def _kept(params: Params) -> Mask:
    """Return a mask that prunes the prunable weights that are 0.0."""
    rows = {row.path: row.prunable for row in layers(params)}
    leaves = [
        np.asarray(leaf) != 0 if prunable else np.ones(np.shape(leaf), bool)
        for leaf, prunable in zip(jax.tree.leaves(params), rows.values(), strict=True)
    ]
    return jax.tree.unflatten(
        jax.tree.structure(params),
        [jnp.asarray(k, jnp.result_type(x)) for k, x in zip(leaves, jax.tree.leaves(params), strict=True)],
    )
