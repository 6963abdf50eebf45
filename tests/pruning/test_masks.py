"""Masks are exact: counts with ==, ties, previous masks, everything at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.trees import on_host
from hypothesis import given, settings
from hypothesis import strategies as st

import lth
from lth.pruning.allocation import counts_by_round, pruned_count, uniform_counts
from lth.pruning.masks import apply_mask, emptied_layers, keep_pruned_at_zero, pruned_counts, set_mask
from lth.pruning.schedules import prune_at, rigl
from lth.pruning.selection import lowest

SPARSITIES = st.one_of(st.sampled_from([0.0, 1e-6, 0.5, 0.999, 1.0]), st.floats(0, 1))
# Few distinct values, so that ties, zeros and signed zeros are everywhere.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1e-20, -1e-20, 1e-30, 3.0])
# Few layouts, because each is compiled for; one-element layers among them.
LAYOUTS = st.sampled_from([[(1, 1)], [(3, 4)], [(1, 1), (2, 3)], [(4, 4), (4, 3), (3, 1)], [(5, 2), (2, 5)]])


@st.composite
def trees(draw, values=VALUES):
    """Draw parameters of one to three layers, and as many values again for gradients."""
    params, grads = {}, {}
    for i, (rows, columns) in enumerate(draw(LAYOUTS)):

        def array(*shape):
            flat = draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
            return np.array(flat, np.float32).reshape(shape)

        params[f"layer_{i}"] = {"kernel": array(rows, columns), "bias": array(columns)}
        grads[f"layer_{i}"] = {"kernel": array(rows, columns), "bias": array(columns)}
    return params, grads


def flat_kernels(tree):
    """Lay the kernels out one after the other, in tree order."""
    return np.concatenate([np.asarray(tree[name]["kernel"]).ravel() for name in sorted(tree)])


def expected_kept(scores, weights, sparsity, kept_before=None):
    """Say which weights stay, by sorting in plain Python: the rule, as a reader would write it."""
    kept_before = np.ones(len(scores), bool) if kept_before is None else kept_before
    count = max(round(sparsity * len(scores)), int((~kept_before).sum()))
    order = sorted(
        range(len(scores)), key=lambda i: (kept_before[i], float(scores[i]), abs(float(weights[i])), -i)
    )  # pruned before, then the lowest score, then the smaller |w|, then the later in tree order
    kept = np.ones(len(scores), bool)
    kept[order[:count]] = False
    return kept


def scores_by(method, weights, grads):
    # The product is rounded as float32 rounds it; XLA flushes what is below 1e-38 to zero, and so does this.
    scores = {"magnitude": abs(weights), "gradient": abs(grads), "taylor": abs(weights * grads)}[method]
    return np.where(scores < np.finfo(np.float32).tiny, 0, scores) if method == "taylor" else scores


@settings(max_examples=150, deadline=None)
@given(trees(), SPARSITIES, st.sampled_from(["magnitude", "gradient", "taylor"]))
def test_exactly_the_lowest_are_pruned(tree, sparsity, method):
    params, grads = tree
    mask = lth.prune_kernels_by_gradient_saliency(params, grads, sparsity, method)
    weights = flat_kernels(params)
    kept = expected_kept(scores_by(method, weights, flat_kernels(grads)), weights, sparsity)
    assert flat_kernels(mask).astype(bool).tolist() == kept.tolist()
    assert (flat_kernels(mask) == 0).sum() == round(sparsity * weights.size)


@settings(max_examples=60, deadline=None)
@given(trees(), SPARSITIES, SPARSITIES, st.sampled_from(["magnitude", "gradient", "taylor"]))
def test_what_was_pruned_stays_pruned(tree, first, second, method):
    params, grads = tree
    before = lth.prune_kernels_by_magnitude(params, first)
    mask = lth.prune_kernels_by_gradient_saliency(params, grads, second, method, prev_mask=before)
    weights, kept_before = flat_kernels(params), flat_kernels(before).astype(bool)
    kept = expected_kept(scores_by(method, weights, flat_kernels(grads)), weights, second, kept_before)
    assert flat_kernels(mask).astype(bool).tolist() == kept.tolist()
    assert (flat_kernels(mask) == 0).sum() == max(round(second * weights.size), round(first * weights.size))


SHAPES = [(3, 5), (1, 1), (0, 2), (30, 30), (16, 16)]


@functools.cache
def compiled_lowest(groups, weighted):
    def call(scores, weights, among, counts):
        return lowest(scores, weights if weighted else scores, among, groups, counts)

    return jax.jit(call)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(0, 0, 0, 0, 0), (0, 1, 0, 2, 1)]), st.booleans(), st.integers(1, 300)
)
def test_compiled_functions_select_the_same(seed, groups, weighted, distinct):
    rng = np.random.default_rng(seed)
    values = np.float32([*rng.standard_normal(distinct), 0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45])
    scores, weights = ([rng.choice(values, shape) for shape in SHAPES] for _ in range(2))
    among = [rng.random(shape) < 0.8 for shape in SHAPES]
    most = [
        sum(int(a.sum()) for a, g in zip(among, groups, strict=True) if g == group) for group in range(max(groups) + 1)
    ]
    counts = np.int32([rng.integers(0, n + 1) for n in most])
    found = lowest(scores, weights if weighted else scores, among, groups, counts)
    marked = [
        sum(int(m.sum()) for m, g in zip(found, groups, strict=True) if g == group) for group in range(len(counts))
    ]
    assert marked == counts.tolist()
    for mine, candidates, theirs in zip(
        found, among, compiled_lowest(groups, weighted)(scores, weights, among, counts), strict=True
    ):
        assert not (mine & ~candidates).any()
        assert np.array_equal(mine, theirs)


def test_what_was_pruned_where_nothing_may_be_pruned_stays_so():
    params = {name: {"kernel": jnp.arange(1.0, 5).reshape(2, 2), "bias": jnp.ones(2)} for name in ("body", "head")}
    before = jax.tree.map(jnp.ones_like, params)
    before["head"] = {"kernel": jnp.array([[0.0, 1], [1, 1]]), "bias": jnp.array([0.0, 1])}
    for mask in (
        lth.prune(params, 0.5, prev_mask=before, exclude=["head"]),
        lth.prune(params, 0.5, prev_mask=before, prunable=lambda name, _: name == "body/kernel"),
        jax.jit(lambda p, m: lth.prune(p, 0.5, prev_mask=m, exclude=["head"]))(params, before),
    ):
        assert jax.tree.map(lambda leaf: leaf.tolist(), mask["head"]) == {"kernel": [[0, 1], [1, 1]], "bias": [0, 1]}
        assert int((mask["body"]["kernel"] == 0).sum()) == 2


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (2, 1), (3,), ()])
def test_a_mask_of_another_shape_is_not_stretched(shape):
    with pytest.raises(lth.InputError, match="shape"):
        apply_mask({"w": jnp.ones((2, 3))}, {"w": jnp.ones(shape)})


def test_nothing_but_weights_is_pruned_when_weights_are_nan():
    params = {"w": jnp.array([[jnp.nan, 1.0, 2.0], [3.0, jnp.nan, jnp.inf]]), "b": jnp.ones(3)}
    tx = keep_pruned_at_zero(optax.sgd(0.1))
    state = tx.init(params)._replace(schedule=prune_at(params, 0.9, [1]))
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert state.mask["b"].all()
    assert int(state.mask["w"].sum()) == 1


@pytest.mark.parametrize("schedule", [lambda p: prune_at(p, 0.5, [2]), lambda p: rigl(p, every=2, until=9)])
def test_gradients_of_half_precision_leave_pruned_weights_at_zero(schedule):
    params = {"w": 1.001 * jnp.arange(1.0, 7).reshape(2, 3), "b": jnp.ones(3)}
    params = apply_mask(params, (mask := lth.prune(params, 1 / 3)))
    tx = keep_pruned_at_zero(optax.sgd(0.1))
    state = lth.set_mask(tx.init(params), mask, params)._replace(schedule=schedule(params))
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(lambda p: p.astype(jnp.bfloat16), params), state, params)
        params = optax.apply_updates(params, updates)
    assert not np.asarray(params["w"])[~np.asarray(state.mask["w"])].any()
    assert np.asarray(params["w"])[np.asarray(state.mask["w"])].any()


@settings(max_examples=40, deadline=None)
@given(trees(), SPARSITIES)
def test_magnitude_by_either_name(tree, sparsity):
    params, grads = tree
    by_name = lth.prune_kernels_by_gradient_saliency(params, grads, sparsity, method="magnitude")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, by_name, lth.prune_kernels_by_magnitude(params, sparsity)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_structure_and_dtype_are_the_parameters(dtype):
    params = {
        "a": {"kernel": jnp.ones((3, 2), dtype), "bias": jnp.zeros(2, dtype)},
        "norm": {"scale": jnp.ones(2, dtype)},
    }
    mask = lth.prune_kernels_by_magnitude(params, 0.5)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert jax.tree.map(lambda m: (m.shape, m.dtype), mask) == jax.tree.map(lambda p: (p.shape, p.dtype), params)
    assert (mask["a"]["bias"] == 1).all()
    assert (mask["norm"]["scale"] == 1).all()
    # All tied: the earlier in tree order stay.
    assert mask["a"]["kernel"].ravel().tolist() == [1, 1, 1, 0, 0, 0]


def test_a_large_network_at_every_edge():
    params = {"a": {"kernel": np.random.default_rng(0).normal(size=(311, 173)).astype(np.float32)}}
    n = 311 * 173
    for sparsity in (0.0, 1 / n, 0.1, 0.5, 0.8, 0.9, 0.95, 0.999, 1 - 1 / n, 1.0):
        mask = np.asarray(lth.prune_kernels_by_magnitude(params, sparsity)["a"]["kernel"])
        assert (mask == 0).sum() == round(sparsity * n)
        if 0 < (mask == 0).sum() < n:
            assert np.abs(params["a"]["kernel"])[mask == 0].max() <= np.abs(params["a"]["kernel"])[mask == 1].min()


def test_ninety_per_cent_dead_gradients_do_not_prune_more():
    # Thresholding by comparison prunes 90 % here where 50 % were asked for.
    params = {"a": {"kernel": jnp.arange(1.0, 101.0).reshape(10, 10)}}
    grads = {"a": {"kernel": jnp.zeros(100).at[:10].set(1.0).reshape(10, 10)}}
    mask = lth.prune_kernels_by_gradient_saliency(params, grads, 0.5, "taylor")
    kept = np.flatnonzero(np.asarray(mask["a"]["kernel"]).ravel())
    assert kept.tolist() == [*range(10), *range(60, 100)]


def test_subnormal_weights_are_told_apart():
    params = {"a": {"kernel": np.array([[1.4e-45, 0.0, 4.2e-45, -2.8e-45]], np.float32)}}
    masks = [lth.prune_kernels_by_magnitude(params, k / 4)["a"]["kernel"].ravel().tolist() for k in range(5)]
    assert masks == [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_nested_masks_when_pruning_more():
    rng = np.random.default_rng(1)
    params = {"a": {"kernel": rng.normal(size=(30, 30)).astype(np.float32)}}
    previous = None
    for sparsity in (0.2, 0.5, 0.9, 0.3):
        mask = lth.prune_kernels_by_magnitude(params, sparsity, prev_mask=previous)
        if previous is not None:
            assert (np.asarray(mask["a"]["kernel"]) <= np.asarray(previous["a"]["kernel"])).all()
        previous = mask
    assert lth.compute_sparsity(previous) == 0.9


def test_compute_sparsity_counts_prunable_weights_only():
    mask = {"a": {"kernel": jnp.array([[0.0, 1.0]]), "bias": jnp.zeros(50)}, "b": {"kernel": jnp.zeros((2, 1))}}
    assert lth.compute_sparsity(mask) == 0.75
    assert lth.compute_sparsity(mask, exclude=["b"]) == 0.5


def test_integers_beside_weights_are_not_counted():
    params = {"a": jnp.arange(16.0).reshape(4, 4), "table": jnp.ones((4, 4), int)}
    mask = lth.prune(params, 0.5)
    assert lth.compute_sparsity(mask) == 0.5
    integers = jax.tree.map(lambda leaf: leaf.astype(jnp.int8), mask)
    assert lth.compute_sparsity(integers) == 0.25  # a mask of integers says nothing about its parameters


def test_excluded_layers_are_neither_pruned_nor_counted():
    rng = np.random.default_rng(2)
    params = {
        name: {"layer_0": {"kernel": rng.normal(size=(6, 6))}, "output": {"kernel": rng.normal(size=(6, 1)) * 1e-6}}
        for name in ("q1", "q2")
    }
    mask = lth.prune_kernels_by_magnitude(params, 0.5, exclude=["output"])
    assert pruned_counts(mask)["q1/output"] == (0, 6)
    assert sum(pruned for pruned, _ in pruned_counts(mask).values()) == round(0.5 * 72)
    one = lth.prune_kernels_by_magnitude(params, 0.5, exclude=["q1/output"])
    assert pruned_counts(one)["q1/output"] == (0, 6)
    assert pruned_counts(one)["q2/output"] == (6, 6)
    assert emptied_layers(one) == ["q2/output"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=6), st.floats(0, 1))
def test_uniform_counts_add_up(sizes, sparsity):
    counts = uniform_counts(sizes, sparsity)
    assert sum(counts) == pruned_count(sum(sizes), sparsity)
    assert all(abs(count - sparsity * size) <= 1 for count, size in zip(counts, sizes, strict=True))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("sizes", "share"), [([15, 1], 0.9), ([15, 0], 0.9), ([200_000, 3], 0.5)])
def test_a_numpy_sparsity_counts_like_its_float(kind, sizes, share):
    def counts(sparsity):
        shapes = [(size, 1) for size in sizes]
        layers = counts_by_round({"a": sparsity}, shapes, sparsity, 3, ["a", "b"], "cubic")
        return pruned_count(sum(sizes), sparsity), uniform_counts(sizes, sparsity), layers

    assert counts(kind(share)) == counts(float(kind(share)))


def some_params():
    rng = np.random.default_rng(3)
    return {
        "layer_0": {"kernel": jnp.asarray(rng.normal(size=(11, 40)), jnp.float32), "bias": jnp.ones(40)},
        "layer_1": {"kernel": jnp.asarray(rng.normal(size=(40, 40)) * 0.1, jnp.float32), "bias": jnp.ones(40)},
        "output": {"kernel": jnp.asarray(rng.normal(size=(40, 2)), jnp.float32), "bias": jnp.ones(2)},
    }


def test_random_masks_are_uniform_by_layer_and_seeded():
    params = some_params()
    mask = lth.random_mask(params, 0.9, jax.random.key(0))
    assert sum(pruned for pruned, _ in pruned_counts(mask).values()) == round(0.9 * (440 + 1600 + 80))
    for pruned, size in pruned_counts(mask).values():
        assert abs(pruned - 0.9 * size) <= 1
    again = lth.random_mask(params, 0.9, jax.random.key(0))
    other = lth.random_mask(params, 0.9, jax.random.key(1))
    assert jnp.array_equal(mask["layer_1"]["kernel"], again["layer_1"]["kernel"])
    # Two random masks share what chance gives: of 160 kept of 1600, about 16.
    shared = int(jnp.sum(mask["layer_1"]["kernel"] * other["layer_1"]["kernel"]))
    assert 2 <= shared <= 40


def test_shuffled_masks_keep_the_counts_and_move_the_positions():
    params = some_params()
    magnitude = lth.prune_kernels_by_magnitude(params, 0.9)
    shuffled = lth.shuffled_mask(magnitude, params, jax.random.key(0))
    assert pruned_counts(shuffled) == pruned_counts(magnitude)
    assert pruned_counts(magnitude)["layer_0"][0] / 440 < 0.8 < pruned_counts(magnitude)["layer_1"][0] / 1600
    kept = int(magnitude["layer_0"]["kernel"].sum())
    shared = int(jnp.sum(shuffled["layer_0"]["kernel"] * magnitude["layer_0"]["kernel"]))
    assert shared < 0.7 * kept


def test_a_random_mask_reads_no_values():
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((5, 2))}
    mask = lth.random_mask(params, 0.5, jax.random.key(0))
    for other in (
        jax.tree.map(lambda p: p * jnp.nan, params),
        jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params),
    ):
        same = jax.tree.map(jnp.array_equal, mask, lth.random_mask(other, 0.5, jax.random.key(0)))
        assert jax.tree.all(same)
    with pytest.raises(lth.InputError, match="'b' is not a numeric array"):
        lth.random_mask({**params, "b": jax.random.key(0)}, 0.5, jax.random.key(0))
    with pytest.raises(lth.InputError, match="'b' is not a numeric array"):
        lth.random_mask({**params, "b": 1.0}, 0.5, jax.random.key(0))


@pytest.mark.parametrize("shape", [(2, 2), (8, 8)])
def test_only_a_mask_of_the_network_is_shuffled(shape):
    params, key = {"w": jnp.ones((4, 4))}, jax.random.key(0)
    with pytest.raises(lth.InputError, match=r"the mask does not fit: its leaf 'w' has shape"):
        lth.shuffled_mask({"w": jnp.zeros(shape)}, params, key)
    with pytest.raises(lth.InputError, match="the mask has a leaf 'x'"):
        lth.shuffled_mask({**params, "x": jnp.ones(3)}, params, key)
    with pytest.raises(lth.InputError, match="shuffled_mask needs a random key"):
        lth.shuffled_mask(params, params, 0)


def test_pruned_weights_stay_at_zero_and_the_optimiser_never_sees_them():
    import optax

    params = some_params()
    mask = lth.prune_kernels_by_magnitude(params, 0.9)
    tx = keep_pruned_at_zero(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))
    ones = jax.tree.map(np.ones_like, on_host(params))
    state = set_mask(jax.jit(tx.init)(params), ones, params)
    for _ in range(3):
        _, state = jax.jit(tx.update)(ones, state, params)  # moments everywhere, as before a late rewind
    state = set_mask(state, mask, params)
    sparse = apply_mask(params, mask)
    poisoned = jax.tree.map(lambda m: np.where(m == 0, np.float32(np.nan), np.float32(1e-3)), on_host(mask))

    @jax.jit
    def step(sparse, state):
        updates, state = tx.update(poisoned, state, sparse)
        return optax.apply_updates(sparse, updates), state

    for _ in range(20):
        sparse, state = step(sparse, state)
    moments = [state.inner[1][0].mu, state.inner[1][0].nu]
    for tree in on_host((sparse, *moments)):
        for leaf, m in zip(jax.tree.leaves(tree), jax.tree.leaves(on_host(mask)), strict=True):
            assert bool((leaf[m == 0] == 0.0).all())
            assert bool((leaf[m == 1] != 0.0).all())
            assert not bool(np.signbit(leaf[m == 0]).any())


def test_one_compilation_serves_all_masks():
    import optax

    params = some_params()
    tx = keep_pruned_at_zero(optax.adam(1e-2))
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    for sparsity in (0.0, 0.5, 0.99):
        mask = lth.prune_kernels_by_magnitude(params, sparsity)
        step(apply_mask(params, mask), set_mask(tx.init(params), mask, params))
    assert len(traces) == 1
