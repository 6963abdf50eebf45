"""What each leaf is taken for: stacks counted layer by layer, fan-ins of attention, what is prunable and why."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.drawn import examples
from hypothesis import given
from hypothesis import strategies as st

import lth
from lth.errors import InputError
from lth.pruning.layers import named_leaves
from lth.pruning.masks import pruned_counts
from lth.pruning.names import nested_leaves
from lth.pruning.schedules import prune_at, rigl, sparse_evolution
from lth.pruning.structure import n_of_m_mask


class Block(nn.Module):
    width: int = 8
    bias: bool = True

    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(self.width, use_bias=self.bias)(x), None


class Scanned(nn.Module):
    length: int = 4
    bias: bool = True

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.length)
        x, _ = scan(8, self.bias)(x, None)
        return nn.Dense(2, name="head")(x)


def of(rows, path):
    (row,) = [row for row in rows if row.path == path]
    return row


def unrolled(params, axes):
    """The same network written out layer by layer, in the same order."""
    rows = lth.layers(params, stack_axes=axes)
    found = []
    for row, leaf in zip(rows, jax.tree.leaves(params), strict=True):
        if row.prunable:
            front = np.moveaxis(np.asarray(leaf), row.stack_axes, range(len(row.stack_axes)))
            count = int(np.prod([row.shape[axis] for axis in row.stack_axes], dtype=int))
            found += list(front.reshape(count, *front.shape[len(row.stack_axes) :]))
    return [{"kernel": jnp.asarray(leaf)} for leaf in found]


def kinds():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 5)
    x = jnp.ones((1, 8))
    scanned = Scanned().init(keys[0], x)["params"]
    seeds = jax.vmap(lambda key: Scanned(3).init(key, x)["params"])(keys[:2])
    ensemble = eqx.filter_vmap(lambda key: eqx.nn.MLP(3, 2, 4, 1, key=key))(keys)
    vmapped = nnx.vmap(lambda key: nnx.Linear(3, 4, rngs=nnx.Rngs(key)))(keys)
    raw = {"body": {"w": jax.random.normal(keys[1], (3, 4, 4))}, "head": {"w": jnp.ones((4, 2))}}
    last = {"body": {"w": jax.random.normal(keys[1], (5, 4, 3))}}
    return {
        "linen scan": (scanned, None),
        "linen scan without biases": (Scanned(bias=False).init(keys[0], x)["params"], None),
        "seeds of a scan": (seeds, None),
        "equinox ensemble": (eqx.filter(ensemble, eqx.is_inexact_array), None),
        "nnx vmap": (nnx.state(vmapped, nnx.Param), None),
        "given": (raw, {"body": 0}),
        "the last axis": (last, -1),
    }


@pytest.fixture(scope="module")
def stacked():
    return kinds()


KINDS = (
    "linen scan",
    "linen scan without biases",
    "seeds of a scan",
    "equinox ensemble",
    "nnx vmap",
    "given",
    "the last axis",
)


@pytest.mark.parametrize("allocation", ["global", "layer", "erk"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_loses_what_the_network_written_out_loses(stacked, kind, allocation):
    params, axes = stacked[kind]
    written_out = unrolled(params, axes)
    mask = lth.prune(params, 0.7, allocation=allocation, stack_axes=axes, collapse="allow")
    plain = lth.prune(written_out, 0.7, allocation=allocation, collapse="allow")
    counts = list(pruned_counts(mask, stack_axes=axes).values())
    assert counts == list(pruned_counts(plain).values())
    assert sum(pruned for pruned, _ in counts) == round(0.7 * sum(size for _, size in counts))
    kept = unrolled(mask, axes)
    assert all(bool((a["kernel"] == b["kernel"]).all()) for a, b in zip(kept, plain, strict=True))


def test_a_layer_of_a_stack_that_collapses_is_named():
    small = jnp.concatenate([jnp.ones((3, 8, 8)), jnp.full((1, 8, 8), 1e-3)])
    params = {"body": {"kernel": small, "bias": jnp.zeros((4, 8))}}
    with pytest.warns(UserWarning, match=r"no weight is left in body\[3\], "):
        lth.prune(params, 0.25)
    with pytest.raises(lth.InputError, match=r"body\[3\]"):
        lth.prune(params, 0.25, collapse="error")
    mask = lth.prune(params, 0.25, allocation="layer")
    assert (mask["body"]["kernel"] == 0).sum((1, 2)).tolist() == [16] * 4


def test_what_may_be_a_stack_is_said():
    params = {"body": {"kernel": jnp.arange(256.0).reshape(4, 8, 8) + 1}}
    with pytest.warns(UserWarning, match="stack_axes=0"):
        lth.prune(params, 0.5, collapse="allow")
    for axes in (0, ()):
        lth.prune(params, 0.5, stack_axes=axes, collapse="allow")  # nothing is assumed
    lth.prune(
        {"Conv_0": {"kernel": jnp.ones((3, 4, 5))}, "c": {"kernel": jnp.ones((3, 3, 4, 5)), "bias": jnp.ones(5)}}, 0.5
    )
    odd = {"body": {"kernel": jnp.arange(512.0).reshape(8, 8, 8), "bias": jnp.ones((8, 8))}}
    with pytest.warns(UserWarning, match="assumed to be 8 stacked layers"):
        lth.prune(odd, 0.5, collapse="allow")


@pytest.mark.parametrize(
    ("axes", "words"), [(3, "out of range"), ((0, 1), "fewer than two axes"), ({"haed": 0}, "'head'")]
)
def test_axes_that_are_none(axes, words):
    params = {"head": {"kernel": jnp.ones((2, 3, 4))}}
    with pytest.raises(lth.InputError, match=words):
        lth.prune(params, 0.5, stack_axes=axes)
    mixed = {"body": {"w": jnp.ones((4, 3, 3))}, "head": {"w": jnp.ones((3, 2))}}
    with pytest.raises(lth.InputError, match="fewer than two axes of 'head'"):
        lth.prune(mixed, 0.5, stack_axes=0)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_has_the_fan_in_of_its_library(bias):
    model = nn.MultiHeadDotProductAttention(num_heads=4, qkv_features=32, use_bias=bias)
    params = model.init(jax.random.key(0), jnp.ones((1, 2, 16)))["params"]
    rows = lth.layers(params)
    for name in ("query", "key", "value"):
        assert (of(rows, f"{name}/kernel").inputs, of(rows, f"{name}/kernel").outputs) == (16, 32)
        assert of(rows, f"{name}/kernel").each == (16, 32)
    assert (of(rows, "out/kernel").inputs, of(rows, "out/kernel").each) == (32, (32, 16))
    flat = {name: {"kernel": params[name]["kernel"].reshape(of(rows, f"{name}/kernel").each)} for name in params}
    for allocation in ("erk", "layer"):
        mask, as_matrices = (lth.prune(tree, 0.8, allocation=allocation, collapse="allow") for tree in (params, flat))
        assert pruned_counts(mask) == pruned_counts(as_matrices)
    two_of_four = n_of_m_mask(params, 2, 4)
    assert (two_of_four["query"]["kernel"].reshape(4, 4, 32).sum(1) == 2).all()  # of every four inputs
    assert (two_of_four["out"]["kernel"].reshape(8, 4, 16).sum(1) == 2).all()


def test_equinox_tells_what_its_leaves_are():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 4)
    model = {
        "emb": eqx.nn.Embedding(5, 4, key=keys[0]),
        "table": eqx.nn.Embedding(5, 4, key=keys[0]),
        "scaled": eqx.nn.LayerNorm((2, 4)),
        "conv": eqx.nn.Conv2d(4, 6, 3, key=keys[1]),
        "line": eqx.nn.Linear(4, 6, key=keys[2]),
    }
    params = eqx.filter(model, eqx.is_inexact_array)
    rows = lth.layers(params)
    assert [row.path for row in rows if row.prunable] == ["conv/weight", "line/weight"]
    assert {of(rows, f"{name}/weight").why for name in ("emb", "table")} == {"an embedding's"}
    assert of(rows, "scaled/weight").why == "a norm's"
    assert (of(rows, "conv/weight").inputs, of(rows, "conv/weight").outputs) == (36, 6)
    assert (of(rows, "line/weight").inputs, of(rows, "line/weight").outputs) == (4, 6)
    assert (n_of_m_mask(params, 2, 4)["line"].weight.sum(1) == 2).all()
    assert (n_of_m_mask(params, 2, 4)["conv"].weight.sum(1) == 2).all()


def test_matrices_that_stay_dense_by_their_names_are_said():
    params = {"proj": {"kernel": jnp.ones((4, 4))}, "q": jnp.ones((4, 4)), "logstd": jnp.ones((1, 3))}
    with pytest.warns(UserWarning, match=r"left dense: 'q' \(4, 4\)"):
        mask = lth.prune(params, 0.5)
    assert (mask["q"] == 1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lth.prune(params, 0.5, prunable=lambda name, leaf: name != "logstd", collapse="allow")


def test_the_table():
    text = str(lth.layers(Scanned().init(jax.random.key(0), jnp.ones((1, 8)))["params"], exclude=["head"]))
    lines = text.splitlines()
    assert len(lines) == 1 + 4 + 1
    assert lines[-1] == "256 of 306 weights can be pruned"
    assert "4 (axis 0)" in text
    assert "no: excluded" in text


def test_odd_trees():
    empty = {"a": {"kernel": jnp.zeros((0, 3))}, "b": {"kernel": jnp.ones((2, 2))}}
    lth.prune(empty, 0.25)  # nothing is left of a layer that had nothing: no warning
    with pytest.raises(lth.InputError, match="two leaves have the same path 'a/b'"):
        lth.prune({"a/b": jnp.ones((2, 2)), "a": {"b": jnp.ones((2, 2))}}, 0.5)


@pytest.mark.parametrize("make", [rigl, sparse_evolution, prune_at])
def test_schedules_count_each_layer_of_a_stack(make):
    params = {"body": {"w": jax.random.normal(jax.random.key(1), (3, 6, 6))}, "head": {"w": jnp.ones((6, 2))}}
    how = {"stack_axes": {"body": 0}}
    start = lth.prune(params, 0.5, "random", key=jax.random.key(0), allocation="layer", **how)
    if make is prune_at:
        schedule, start = prune_at(params, 0.5, [2], allocation="layer", **how), jax.tree.map(jnp.ones_like, params)
    else:
        schedule = make(params, 2, 100, *([jax.random.key(2)] if make is sparse_evolution else []), **how)
    tx = lth.keep_pruned_at_zero(optax.sgd(0.1, momentum=0.9))
    params = lth.apply_mask(params, start)
    state = lth.set_mask(tx.init(params), start, params)._replace(schedule=schedule)
    for step in range(1, 4):
        grads = jax.tree.map(lambda p, n=step: jnp.sin(n + 7 * p), params)
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    assert (state.mask["body"]["w"] == 0).sum((1, 2)).tolist() == [18] * 3
    moved = (state.mask["body"]["w"] != (start["body"]["w"] != 0)).any((1, 2))
    assert bool(moved.all())


@examples(8, full=25)
@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=3),
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([0.0, 0.3, 0.77, 1.0]),
    st.sampled_from(["global", "layer", "erk"]),
)
def test_counts_are_exact_for_any_stack(shape, copies, sparsity, allocation):
    rng = np.random.default_rng(0)
    params = {
        "a": {"w": rng.normal(size=(*copies, *shape)).astype(np.float32)},
        "b": {"w": np.ones((3, 2), np.float32)},
    }
    axes = {"a": tuple(range(len(copies))), "b": ()}
    mask = lth.prune(params, sparsity, allocation=allocation, stack_axes=axes, collapse="allow")
    counts = pruned_counts(mask, stack_axes=axes)
    assert sum(pruned for pruned, _ in counts.values()) == round(sparsity * sum(size for _, size in counts.values()))
    assert len(counts) == int(np.prod(copies)) + 1


def test_complex_weights_are_scored_by_every_criterion():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3)), jnp.complex64)}
    as_real = {"w": jnp.stack([params["w"].real, params["w"].imag])}

    def loss(params, x):
        return jnp.sum(jnp.abs(x @ params["w"]) ** 2)

    def loss_of_parts(parts, x):
        return loss({"w": parts["w"][0] + 1j * parts["w"][1]}, x)

    batches = [jnp.asarray(rng.normal(size=(5, 4)), jnp.complex64) for _ in range(2)]
    for criterion in ("magnitude", "gradient", "taylor", "snip", "fisher", "grasp", "random"):
        mask = lth.prune(params, 0.5, criterion, loss=loss, batches=batches, key=jax.random.key(0))
        assert int((mask["w"] == 0).sum()) == 6
    # What grasp scores is what it scores of the real and the imaginary part, added.
    both, parts = (
        lth.gradient_statistic(fn, p, batches, "hessian_gradient")["w"]
        for fn, p in ((loss, params), (loss_of_parts, as_real))
    )
    np.testing.assert_allclose((params["w"] * both).real, (as_real["w"] * parts).sum(0), rtol=1e-4)


def test_nested_dicts_have_the_leaves_that_jax_finds():
    tree = {
        "q": {f"layer_{i}": {"kernel": np.full((1, 1), i), "bias": np.zeros(1)} for i in range(12)},
        "A": np.ones(2),
    }
    found = nested_leaves(tree)
    assert [*found] == [*named_leaves(tree)]
    assert all(found[name] is leaf for name, leaf in named_leaves(tree).items())
    with pytest.raises(InputError, match="'a/b'"):
        nested_leaves({"a/b": np.ones(1), "a": {"b": np.ones(1)}})
