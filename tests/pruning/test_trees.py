"""Networks of any library: what is pruned of them, by what name, and that they go on working."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.trees import on_host

import lth
from lth.pruning.layers import layer_names, layers
from lth.pruning.masks import pruned_counts
from lth.pruning.names import is_weight


def trains_sparse(params, loss, mask):
    """Take three updates under a mask; return the parameters, whose pruned weights are 0.0."""
    tx = lth.keep_pruned_at_zero(optax.adam(1e-2))
    params = lth.apply_mask(params, mask)
    state = lth.set_mask(jax.jit(tx.init)(params), mask, params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    for leaf, kept in zip(*map(jax.tree.leaves, on_host((params, mask))), strict=True):
        assert bool(((leaf == 0) | (kept != 0)).all())
    return params


class Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 4)(tokens)
        x = nn.Conv(3, (3,))(x)
        x = nn.LayerNorm()(x)
        x = nn.MultiHeadDotProductAttention(num_heads=1, qkv_features=2)(x, x)
        return nn.Dense(2, name="head")(x)


def test_flax_linen():
    model, tokens = Linen(), jnp.arange(6)[None] % 7
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    attention = [f"MultiHeadDotProductAttention_0/{name}" for name in ("key", "out", "query", "value")]
    assert layer_names(params) == ["Conv_0", *attention, "head"]
    mask = lth.prune(params, 0.5, exclude=["head"])
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert pruned_counts(mask)["head"] == (0, 6)
    assert (mask["Embed_0"]["embedding"] == 1).all()
    assert (mask["MultiHeadDotProductAttention_0"]["key"]["bias"] == 1).all()
    trains_sparse(params, lambda p: jnp.sum(model.apply({"params": p}, tokens) ** 2), mask)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.blocks[1](nnx.relu(self.norm(self.blocks[0](x))))


def test_flax_nnx():
    model = Nnx(nnx.Rngs(0))
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    assert layer_names(state) == ["blocks/0", "blocks/1"]
    mask = lth.prune(state, 0.5, exclude=["blocks/1"])
    assert pruned_counts(mask) == {"blocks/0": (6, 12), "blocks/1": (0, 8)}
    sparse = trains_sparse(state, lambda s: jnp.sum(nnx.merge(graph, s, rest)(jnp.ones((1, 3))) ** 2), mask)
    nnx.update(model, sparse)
    assert int((model.blocks[0].kernel[...] == 0).sum()) == 6
    with pytest.raises(lth.InputError, match=r"not a numeric array.*nnx.state\(model, nnx.Param\)"):
        lth.prune(nnx.state(model), 0.5)


def test_equinox():
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed: pip install -e '.[dev]'")
    keys = jax.random.split(jax.random.key(0), 4)
    model = {
        "mlp": eqx.nn.MLP(3, 2, 4, 1, key=keys[0]),
        "conv": eqx.nn.Conv1d(2, 3, 2, key=keys[1]),
        "cell": eqx.nn.GRUCell(2, 2, key=keys[2]),
        "norm": eqx.nn.LayerNorm((2, 3)),
        "embedding": eqx.nn.Embedding(5, 3, key=keys[3]),
    }
    params, static = eqx.partition(model, eqx.is_inexact_array)
    layers = ["cell/weight_ih", "cell/weight_hh", "conv", "mlp/layers/0", "mlp/layers/1"]
    assert layer_names(params) == layers
    mask = lth.prune(params, 0.5, allocation="layer", exclude=["mlp/layers/1"])
    assert pruned_counts(mask)["mlp/layers/0"] == (6, 12)
    assert pruned_counts(mask)["mlp/layers/1"] == (0, 8)

    def loss(params):
        model = eqx.combine(params, static)
        return jnp.sum(model["mlp"](jnp.ones(3)) ** 2)

    trains_sparse(params, loss, mask)
    with pytest.raises(lth.InputError, match=r"'mlp/activation' is not a numeric array.*eqx.filter"):
        lth.prune(model, 0.5)


def test_plain_trees():
    pairs = [(np.ones((3, 4)), np.ones(4)), (np.ones((4, 2)), np.ones(2))]
    assert [row.path for row in layers(pairs) if row.prunable] == ["0/0", "1/0"]
    by_number = {"W1": np.ones((3, 4)), "b1": np.ones((1, 4)), "log_scale": np.ones((1, 2))}
    assert [row.path for row in layers(by_number) if row.prunable] == ["W1"]
    haiku = {"linear": {"w": np.ones((3, 4)), "b": np.ones(4)}, "logstd": np.ones((1, 2))}
    assert layer_names(haiku) == ["linear"]
    assert layer_names({"b": {"w": np.ones((2, 2))}, "scale_net": {"w": np.ones((2, 2))}}) == ["b", "scale_net"]
    told_apart = {"norm1": {"weight": np.ones((2, 2))}, "patch_embedding": {"linear": {"weight": np.ones((2, 2))}}}
    assert layer_names(told_apart) == ["patch_embedding/linear"]
    with pytest.raises(lth.InputError, match="nothing to prune"):
        lth.prune({"a": np.ones(3)}, 0.5)


def test_what_is_prunable_is_a_predicate():
    params = {"a": {"kernel": np.ones((2, 2))}, "b": {"kernel": np.ones((2, 2)), "gate": np.ones((2, 2))}}
    mask = lth.prune(
        params, 0.5, allocation="layer", prunable=lambda name, leaf: is_weight(name, leaf) or name == "b/gate"
    )
    assert int(sum((leaf == 0).sum() for leaf in jax.tree.leaves(mask))) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask = lth.prune(params, 0.5, prunable=lambda name, leaf: name == "b/gate")
    assert int((mask["b"]["gate"] == 0).sum()) == 2
    with pytest.raises(lth.InputError, match="`prunable` accepts"):
        lth.prune(params, 0.5, prunable=lambda name, leaf: False)


def test_the_predicate_sees_parameters_only():
    params = {"a": {"w": np.ones((2, 2), np.float32)}, "b": {"w": np.full((2, 2), 0.5, np.float32)}}
    choices = (
        lambda name, leaf: leaf.dtype == np.float32 and leaf.ndim == 2,
        lambda name, leaf: leaf.max() < 1.0,  # of a mask no leaf is
    )
    assert [lth.compute_sparsity(lth.prune(params, 0.25, prunable=choose)) for choose in choices] == [0.25, 0.125]
    with pytest.raises(lth.InputError, match="no weight is left in b,"):
        lth.prune(params, 1.0, prunable=choices[1], collapse="error")
