"""Networks of any JAX library: read as chains, shrunk in their own layout, and exported against their own apply."""

import itertools
import runpy
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth.pruning.chains import read_chain

SIZES = (5, 16, 12, 3)


def chain_of(seed=0):
    """Return kernels of which most weights are pruned, biases, and a forward pass written out."""
    rng = np.random.default_rng(seed)
    pairs = [
        (rng.normal(size=(a, b)) * (rng.random((a, b)) < 0.2), rng.normal(size=b)) for a, b in itertools.pairwise(SIZES)
    ]
    return [(jnp.asarray(k, jnp.float32), jnp.asarray(b, jnp.float32)) for k, b in pairs]


def flax_tree(chain):
    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in SIZES[1:-1]:
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(SIZES[-1])(x)

    params = {"params": {f"Dense_{i}": {"kernel": k, "bias": b} for i, (k, b) in enumerate(chain)}}
    assert jax.tree.structure(params) == jax.tree.structure(Net().init(jax.random.key(0), X))
    return params, None  # Flax compares the shapes with the module's widths


def haiku_tree(chain):
    names = ["mlp/~/linear_0", "mlp/~/linear_1", "mlp/~/linear_2"]
    return {name: {"w": k, "b": b} for name, (k, b) in zip(names, chain, strict=True)}, None


def equinox_tree(chain):
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 3)
    linear = [eqx.nn.Linear(a, b, key=key) for a, b, key in zip(SIZES, SIZES[1:], keys, strict=False)]
    model = eqx.nn.Sequential([linear[0], eqx.nn.Lambda(jax.nn.relu), linear[1], eqx.nn.Lambda(jax.nn.relu), linear[2]])
    where = lambda m: [x for i in (0, 2, 4) for x in (m.layers[i].weight, m.layers[i].bias)]  # noqa: E731
    model = eqx.tree_at(where, model, [x for k, b in chain for x in (k.T, b)])
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return params, lambda p, x: jax.vmap(eqx.combine(p, static))(x)


def nnx_tree(chain):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden_0 = nnx.Linear(5, 16, rngs=rngs)
            self.hidden_1 = nnx.Linear(16, 12, rngs=rngs)
            self.output = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.output(jax.nn.relu(self.hidden_1(jax.nn.relu(self.hidden_0(x)))))

    model = Net(nnx.Rngs(0))
    graph, state = nnx.split(model, nnx.Param)
    leaves = [x for k, b in chain for x in (b, k)]
    state = jax.tree.unflatten(jax.tree.structure(state), leaves)
    return state, lambda p, x: nnx.merge(graph, p)(x)


LIBRARIES = {"flax": flax_tree, "equinox": equinox_tree, "haiku": haiku_tree, "nnx": nnx_tree}


@pytest.fixture(params=LIBRARIES, ids=str)
def library(request):
    chain = chain_of()
    return (chain, *LIBRARIES[request.param](chain))


def forward(chain, x):
    for kernel, bias in chain[:-1]:
        x = np.maximum(x @ np.asarray(kernel, float) + np.asarray(bias), 0)
    return x @ np.asarray(chain[-1][0], float) + np.asarray(chain[-1][1])


X = np.random.default_rng(5).normal(size=(40, 5)).astype(np.float32)


def test_a_network_is_read_in_its_own_layout_and_shrinks_in_it(library):
    chain, params, apply = library
    read = read_chain(params).chain
    assert all((a == b).all() and (c == d).all() for (a, c), (b, d) in zip(read, chain, strict=True))
    small = lth.shrink(params)
    assert jax.tree.structure(small) == jax.tree.structure(params)
    sizes = [k.shape for k, _ in read_chain(small).chain]
    assert sizes == [k.shape for k, _ in lth.shrink(chain)]
    assert sizes[1][0] < 16
    assert np.allclose(forward(read_chain(small).chain, X), forward(chain, X), atol=1e-5)
    if apply:  # the library's own forward pass takes the smaller arrays
        assert np.allclose(apply(small, X), forward(chain, X), atol=1e-4)


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_network_is_exported_against_its_own_forward_pass(tmp_path):
    chain = chain_of()
    params, apply = equinox_tree(chain)
    std = np.linspace(0.5, 2, 5)
    made = lth.export_mlp(
        params, tmp_path, ("c", "numpy"), squash="tanh", low=-2, high=[1, 2, 3], mean=0.5, std=std, clip=3, apply=apply
    )
    assert [row.name for row in made.rows] == ["agent", "c", "numpy"]
    assert max(row.deviation for row in made.rows) < 1e-5
    act = runpy.run_path(str(tmp_path / "numpy" / "policy.py"))["act"]
    squashed = np.tanh(forward(chain, np.clip((X - 0.5) / std, -3, 3)))
    low, high = np.full(3, -2.0), np.array([1.0, 2.0, 3.0])
    assert np.allclose(act(X), low + (squashed + 1) / 2 * (high - low), atol=1e-5)


def test_a_forward_pass_that_is_another_network_fails_the_check(tmp_path):
    params, apply = equinox_tree(chain_of())
    with pytest.raises(lth.ExportError, match="differs from the agent"):
        lth.export_mlp(params, tmp_path / "x", "numpy", activation="tanh", apply=apply)
    assert not (tmp_path / "x").exists()


def test_the_order_of_layers():
    chain = chain_of()
    named = {"torso": chain[0], "middle": chain[1], "a_head": chain[2]}
    params = {name: {"kernel": k, "bias": b} for name, (k, b) in named.items()}
    assert [names[0] for names in read_chain(params).names] == ["torso/kernel", "middle/kernel", "a_head/kernel"]
    square = {"b": {"kernel": np.eye(4)}, "a": {"kernel": np.ones((4, 4))}}
    assert [names[0] for names in read_chain(square).names] == ["a/kernel", "b/kernel"]
    assert [names[0] for names in read_chain(square, order=["b", "a"]).names] == ["b/kernel", "a/kernel"]
    many = {f"Dense_{i}": {"kernel": np.eye(4)} for i in range(12)}
    assert [names[0] for names in read_chain(many).names] == [f"Dense_{i}/kernel" for i in range(12)]


def test_what_is_no_chain():
    chain = chain_of()
    with pytest.raises(lth.InputError, match="'norm/scale': a chain has only dense layers"):
        lth.shrink({"a": {"kernel": chain[0][0], "bias": chain[0][1]}, "norm": {"scale": np.ones(16)}})
    with pytest.raises(lth.InputError, match=r"order of the layers is ambiguous: a \(5, 16\), b \(5, 16\)"):
        lth.shrink({"a": {"kernel": chain[0][0]}, "b": {"kernel": chain[0][0]}})
    with pytest.raises(lth.InputError, match="order is x, but the layers are a"):
        lth.shrink({"a": {"kernel": chain[0][0]}}, order=["x"])
    constant = {"a": {"kernel": np.zeros((2, 2)), "bias": np.ones(2)}, "b": {"kernel": np.eye(2)}}
    with pytest.raises(lth.InputError, match="has no bias"):
        lth.shrink(constant)
    with pytest.raises(lth.InputError, match="unknown activation 'gelu'"):
        lth.export_mlp(chain, "nowhere", activation="gelu")
