"""Pruning of what people really have: other optimisers, shared layers, integers, half precision, losses that change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lth
from lth.analysis.overlap import overlap
from lth.pruning.allocation import PATHS, counts_by_round, not_below, pruned_count
from lth.pruning.masks import pruned_counts
from lth.pruning.schedules import prune_at, rigl, sparse_evolution
from lth.pruning.structure import n_of_m_mask, neuron_masks


def network(n=8):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        name: {"w": jax.random.normal(key, (n, n)), "b": jnp.zeros(n)} for name, key in zip("ac", keys, strict=True)
    }


OPTIMISERS = {
    "adam": optax.adam(0.1),
    "adafactor": optax.adafactor(0.1),
    "masked": optax.masked(optax.adam(0.1), lambda p: jax.tree.map(lambda leaf: leaf.ndim > 1, p)),
    "parts": optax.multi_transform(
        {"w": optax.adam(0.1), "b": optax.sgd(0.1, momentum=0.9)},
        lambda p: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, p),
    ),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(0.1, momentum=0.9)),
}


def numbers(mask):
    return [pruned for pruned, _ in pruned_counts(mask).values()]


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("n", [8, 160])  # adafactor keeps sums over rows and columns from 128 on
@pytest.mark.parametrize("name", OPTIMISERS)
def test_whatever_the_optimiser_remembers_of_pruned_weights_is_zero(name, n, scheduled):
    params = network(n)
    tx = lth.keep_pruned_at_zero(OPTIMISERS[name])
    state = tx.init(params)
    if scheduled:
        state = state._replace(schedule=rigl(params, every=2, until=100))
    else:
        state = lth.set_mask(state, jax.tree.map(jnp.ones_like, params), params)
    grads = jax.tree.map(lambda p: jnp.cos(7 * p), params)
    for _ in range(2):  # so that there are moments
        before = state.inner
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    mask = lth.prune(params, 0.5, "magnitude")
    kept = state.mask if scheduled else jax.tree.map(lambda m: m != 0, mask)
    state = lth.set_mask(state, mask, params) if not scheduled else state
    assert shapes(state.inner) == shapes(before)
    found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.inner):
        layer = next((layer for layer in "ac" if jax.tree_util.DictKey(layer) in path), None)
        if path[-1] == jax.tree_util.DictKey("w") and leaf.shape == (n, n):
            assert bool((leaf[~kept[layer]["w"]] == 0).all())
            found += 1
    assert found == {"adam": 4, "adafactor": 0 if n > 128 else 2, "masked": 4, "parts": 4, "chain": 4}[name]
    for _ in range(2):
        updates, state = jax.jit(tx.update)(grads, state, lth.apply_mask(params, state.mask))
        params = optax.apply_updates(lth.apply_mask(params, state.mask), updates)
    assert jax.tree.all(jax.tree.map(lambda p, m: bool((p[~m] == 0).all()), params, state.mask))


def test_a_bare_matrix_is_a_network_too():
    w = jnp.arange(16.0).reshape(4, 4)
    tx = lth.keep_pruned_at_zero(optax.adam(0.1))
    state = lth.set_mask(tx.init(w), lth.prune(w, 0.5), w)
    assert state.inner[0].count.shape == ()
    updates, state = tx.update(w, state._replace(schedule=prune_at(w, 0.75, [1])), w)
    assert int(state.mask.sum()) == 4
    assert bool(((w + updates)[~state.mask] == 0).all())


def test_each_named_sparsity_has_its_own_path():
    params = {"a": {"w": jnp.ones((10, 10))}, "b": {"w": jnp.ones((10, 10))}}
    schedule = prune_at(params, 0.5, at=[1, 2, 3], allocation={"b": 0.9})
    wanted = [
        [pruned_count(100, s) for s in pair]
        for pair in zip(PATHS["cubic"](0.5, 3), PATHS["cubic"](0.9, 3), strict=True)
    ]
    assert schedule.counts.tolist() == wanted == [[35, 63], [48, 87], [50, 90]]


def test_iterative_synflow_is_the_same_by_name_as_by_layer():
    keys = jax.random.split(jax.random.key(3), 2)
    params = {name: {"w": jax.random.normal(key, (20, 20))} for name, key in zip("ab", keys, strict=True)}
    given = {"loss": lambda p, x: jnp.sum(x @ p["a"]["w"] @ p["b"]["w"]), "batches": [jnp.ones((1, 20))]}
    by_layer = lth.prune(params, 0.9, "synflow", allocation="layer", **given)
    by_name = lth.prune(params, 0.5, "synflow", allocation={"a": 0.9, "b": 0.9}, **given)
    at_once = lth.prune(params, 0.9, "synflow", allocation="layer", rounds=1, **given)
    assert numbers(by_name) == numbers(by_layer) == numbers(at_once) == [360, 360]
    differing = [int((by_layer["b"]["w"] != other["b"]["w"]).sum()) for other in (by_name, at_once)]
    assert 3 * differing[0] < differing[1]  # counts of a round may differ by one: rounded together, or each


def test_a_named_sparsity_holds_whatever_was_pruned_before():
    params = {name: {"w": jax.random.normal(jax.random.key(i), (10, 10))} for i, name in enumerate("ab")}
    before = lth.prune(params, 0.0, allocation={"b": 0.9})
    mask = lth.prune(params, 0.5, allocation={"b": 0.5}, prev_mask=before)
    assert pruned_counts(mask) == {"a": (50, 100), "b": (90, 100)}


def one_by_one(counts, already):
    """What `not_below` is defined by."""
    counts, total = [max(pair) for pair in zip(counts, already, strict=True)], sum(counts)
    while sum(counts) > max(total, sum(already)):
        i = max(range(len(counts)), key=lambda i: counts[i] - already[i])
        counts[i] -= 1
    return counts


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6))
def test_counts_are_raised_to_what_is_pruned_already(pairs):
    counts, already = [list(side) for side in zip(*pairs, strict=True)]
    assert not_below(counts, already) == one_by_one(counts, already)


def test_millions_of_weights_are_moved_at_once():
    assert not_below([10**9] * 3, [2 * 10**9, 0, 1]) == [2 * 10**9, 5 * 10**8 - 1, 5 * 10**8 + 1]


@pytest.mark.parametrize("allocation", ["layer", "erk", {"a": 0.25}])
def test_rounds_and_layers_under_jit_and_vmap(allocation):
    params = network()
    plain = lth.prune(params, 0.7, allocation=allocation, rounds=3)
    jitted = jax.jit(lambda p: lth.prune(p, 0.7, allocation=allocation, rounds=3))(params)
    many = jax.vmap(lambda p: lth.prune(p, 0.7, allocation=allocation, rounds=3))(
        jax.tree.map(lambda x: x[None], params)
    )
    for other in (jitted, jax.tree.map(lambda x: x[0], many)):
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), plain, other))
    assert sum(n for n, _ in pruned_counts(plain).values()) == sum(
        counts_by_round(allocation, [(8, 8)] * 2, 0.7, 3, "ac")[-1]
    )


def test_a_traced_mask_has_no_counts():
    params = network()
    with pytest.raises(lth.InputError, match="needs the values of prev_mask"):
        jax.jit(lambda p, m: lth.prune(p, 0.7, allocation="layer", prev_mask=m))(params, lth.prune(params, 0.2))


class Agent:
    target = jnp.array([[1.0, 10.0]])

    def loss(self, params, batch):
        return jnp.sum(params["w"] * self.target * batch)


def test_a_loss_may_read_what_changes_between_calls():
    agent, params, batches = Agent(), {"w": jnp.ones((1, 2))}, [jnp.ones(1)]
    assert lth.prune(params, 0.5, "taylor", loss=agent.loss, batches=batches)["w"].tolist() == [[0.0, 1.0]]
    agent.target = jnp.array([[10.0, 1.0]])
    assert lth.prune(params, 0.5, "taylor", loss=agent.loss, batches=batches)["w"].tolist() == [[1.0, 0.0]]
    assert lth.gradient_statistic(agent.loss, params, batches)["w"].tolist() == [[10.0, 1.0]]


def test_a_key_given_to_set_stays_the_users():
    params = network()
    tx = lth.keep_pruned_at_zero(optax.adam(0.1))
    for key in (jax.random.key(3), jax.random.key(3, impl="rbg"), jax.random.PRNGKey(3)):
        state = tx.init(params)._replace(schedule=sparse_evolution(params, 1, 10, key))
        state = lth.set_mask(state, lth.prune(params, 0.5), params)
        before = jax.tree.map(jnp.copy, params)
        _, state = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))(before, state)
        assert int(state.mask["a"]["w"].sum() + state.mask["c"]["w"].sum()) == 64
        jax.random.uniform(key)


def test_layers_of_several_weights_are_counted_whole():
    params = {"a": {"kernel": jnp.ones((2, 2)), "w": 3 * jnp.ones((2, 8))}}
    mask = lth.prune(params, 0.2)
    assert pruned_counts(mask) == {"a": (4, 20)}
    assert lth.compute_sparsity(mask) == 0.2
    whole, part = overlap(mask, mask)
    assert (whole.weights, whole.kept, whole.shared) == (part.weights, part.kept, part.shared) == (20, 16, 16)


def test_integers_are_inverted_like_floats():
    for values in ([[1, 2, 3, 4]], [[1, 2, 0, 4]], [[-8, 2, 0, 4]]):
        for dtype in (np.int8, np.int32):
            mask = lth.prune({"kernel": np.array(values, dtype)}, 0.5, invert=True)["kernel"]
            assert (
                mask.tolist()
                == lth.prune({"kernel": np.array(values, np.float32)}, 0.5, invert=True)["kernel"].tolist()
            )
    with pytest.raises(lth.InputError, match="gradients need floats"):
        lth.gradient_statistic(lambda p, x: jnp.sum(p["w"] * x), {"w": jnp.ones((2, 2), int)}, [jnp.ones(2)])


def test_the_lowest_integer_is_a_large_weight():
    lowest = np.array([[-128], [1], [2], [3]], np.int8)  # its absolute value is no int8
    assert n_of_m_mask({"w": lowest}, 2, 4)["w"].ravel().tolist() == [1, 0, 0, 1]
    units = neuron_masks([(lowest.T, np.zeros(4)), (np.ones((4, 1)), np.zeros(1))], 0.5)
    assert units[0][1].tolist() == [1, 0, 0, 1]
    ties = functools.partial(lth.prune, sparsity=0.5, criterion="gradient", gradients={"w": np.ones((4, 1))})
    for make in (ties, jax.jit(ties)):
        assert make({"w": lowest})["w"].ravel().tolist() == [1, 0, 0, 1]


def test_scores_of_half_precision_do_not_overflow():
    params = {"w": jnp.array([[100.0, 200.0, 400.0, 1.0]], jnp.float16)}
    gradients = {"w": jnp.array([[3000.0, 2000.0, 500.0, 1.0]], jnp.float16)}
    assert lth.prune(params, 0.5, "taylor", gradients=gradients)["w"].tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_half_precision_do_not_stop_growing(dtype):
    params, many = {"w": jnp.ones((1, 3), dtype)}, [jnp.array([1.0, 1.25, 0.5], dtype)] * 1000
    found = lth.gradient_statistic(lambda p, x: jnp.sum(p["w"] * x), params, many)["w"]
    assert found.dtype == jnp.float32
    assert found.tolist() == [[1.0, 1.25, 0.5]]
    small = [jnp.full((1, 3), 1e-4, dtype)]
    squares = lth.gradient_statistic(lambda p, x: jnp.sum(p["w"] * x), params, small, "mean_square")["w"]
    np.testing.assert_allclose(squares, float(small[0][0, 0]) ** 2, rtol=1e-6)


def test_update_numbers_may_be_whole_floats():
    assert prune_at(network(), 0.5, np.linspace(100, 300, 3)).at.tolist() == [100, 200, 300]


def test_types_of_one_pool_may_differ():
    script = """
import jax, jax.numpy as jnp, lth
jax.config.update("jax_enable_x64", True)
params = {"a": {"w": jnp.full((2, 2), 100.0, jnp.float32)}, "b": {"w": jnp.full((2, 2), 1e-3, jnp.float64)}}
mask = lth.prune(params, 0.5)
assert (int(mask["a"]["w"].sum()), int(mask["b"]["w"].sum())) == (4, 0), mask
"""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", script], check=True)


def test_rigl_replaces_the_share_that_the_formula_says():
    params = {"w": jnp.arange(1.0, 25.0).reshape(4, 6)}
    state = lth.set_mask(lth.keep_pruned_at_zero(optax.sgd(0.1)).init(params), lth.prune(params, 0.5), params)
    schedule = rigl(params, every=1, until=10, fraction=0.5)._replace(step=jnp.int32(5))
    mask = schedule.change(state.mask, params, {"w": jnp.flip(params["w"])})
    assert int((mask["w"] & ~state.mask["w"]).sum()) == 3  # 12 kept, and cos(pi / 2) = 0: 0.5 / 2 x 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: lth.prune(p, 0.5, rounds=2.5), "rounds is 2.5"),
        (lambda p: lth.prune(p, 0.5, None), "the criterion is None"),
        (lambda p: lth.prune(p, 0.5, allocation=None), "the allocation is None"),
        (lambda p: lth.prune(p, 0.5, exclude=None), "exclude is None"),
        (lambda p: lth.prune(p, 0.5, collapse="foo"), "unknown collapse 'foo'"),
        (lambda p: lth.prune(p, 0.5, "random", key=0), "key is 0"),
        (lambda p: lth.prune(p, 0.5, "synflow"), "the sum of the network's outputs"),
        (lambda p: lth.prune(jax.tree.map(lambda w: w.astype(jnp.float8_e4m3fn), p), 0.5), "float8_e4m3fn"),
        (lambda p: lth.prune(jax.tree.map(lambda w: w.astype(jnp.int4), p), 0.5), "int4"),
        (lambda p: lth.gradient_statistic(lambda q, x: x, p, [jnp.ones(2)]), r"the loss has shape \(2,\)"),
        (lambda p: lth.gradient_statistic(3.0, p, [jnp.ones(2)]), "the loss is 3.0"),
        (lambda p: lth.gradient_statistic(lambda q, x: (1.0, {"a": x}), p, [jnp.ones(2)]), "loss returned tuple"),
        (lambda p: lth.gradient_statistic(lambda q, x: None, p, [jnp.ones(2)]), "loss returned NoneType"),
        (lambda p: lth.gradient_statistic(lambda q, x: 3, p, [jnp.ones(2)]), "the loss is int"),
        (lambda p: lth.gradient_statistic(lambda q, x: 3j, p, [jnp.ones(2)]), "the loss is complex"),
        (lambda p: lth.gradient_statistic(lambda q, x: 0.0, p, 3), "`batches` is 3"),
        (lambda p: lth.gradient_statistic(lambda q, x: 0.0, p, [jnp.ones(2)], num_batches=2.5), "num_batches is 2.5"),
        (lambda p: lth.prune(p, 0.5, allocation={"a": 2.0}), "sparsity is 2.0"),
        (lambda p: rigl(p, every=2.7, until=10), "every=2.7"),
        (lambda p: rigl(p, every=2, until=10, fraction="0.3"), "fraction='0.3'"),
        (lambda p: prune_at(p, 0.5, [1.5, 2.7]), r"`at` is \[1.5, 2.7\]"),
        (lambda p: prune_at(p, 0.5, [1.0, float("nan")]), "`at` is .*nan"),
        (lambda p: prune_at(p, 0.5, np.array([3, 2], np.uint8)), "increasing"),
        (lambda p: prune_at(p, 0.5, np.ones((2, 2), int)), "increasing"),
        (lambda p: prune_at(p, 0.5, "12"), "`at` is .*'1'"),
        (lambda p: prune_at(p, 0.5, 5), "`at` is 5"),
        (lambda p: sparse_evolution(p, 1, 10, 0), "sparse_evolution needs a random key.* is 0"),
        (lambda p: sparse_evolution(p, 1, 10, None), "needs a random key"),
        (lambda p: n_of_m_mask({"kernel": jnp.ones(4)}, 2, 4), "no input axis"),
        (lambda p: n_of_m_mask(p, 2, 4, axis=3), "no axis 3"),
        (lambda p: n_of_m_mask(p, 2, 4, scores={"a": jnp.ones((2, 2))}), "scores' tree has no leaf"),
        (lambda p: neuron_masks([(jnp.ones((2, 2)), jnp.ones(2))], 5.0), "sparsity is 5.0"),
        (lambda p: lth.gradient_statistic(lambda q, x: 0.0, p, {"x": jnp.ones(2)}), "as a list"),
        (
            lambda p: lth.gradient_statistic(lambda q, x: 0.0, p, [{"x": jnp.ones(2)}, {"y": jnp.ones(2)}]),
            "a different tree structure than batch 0",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(lth.InputError, match=message):
        call(network())
