"""N of M, whole neurons, and the network that is left of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lth
from lth.pruning.structure import n_of_m_mask, neuron_masks, shrink


def chain_of(sizes, seed=0):
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(sizes)
    return [(rng.normal(size=s).astype(np.float32), rng.normal(size=s[1]).astype(np.float32)) for s in pairs]


def run(chain, x, activation=lambda x: np.maximum(x, 0)):
    for kernel, bias in chain[:-1]:
        x = activation(x @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64))
    return x @ np.asarray(chain[-1][0], np.float64) + np.asarray(chain[-1][1], np.float64)


def masked(chain, masks):
    return [(k * np.asarray(mk), b * np.asarray(mb)) for (k, b), (mk, mb) in zip(chain, masks, strict=True)]


@pytest.mark.parametrize(("n", "m"), [(0, 2), (1, 4), (2, 4), (4, 4)])
def test_n_of_every_m(n, m):
    params = {"a": {"kernel": chain_of((8, 6))[0][0], "bias": np.ones(6)}, "b": {"kernel": np.ones((4, 3), np.float32)}}
    mask = n_of_m_mask(params, n, m)
    for name in ("a", "b"):
        groups = np.asarray(mask[name]["kernel"]).T.reshape(-1, m)
        assert (groups.sum(axis=1) == n).all()
    best = np.sort(np.abs(params["a"]["kernel"].T.reshape(-1, m)), axis=1)[:, m - n :].sum()
    assert (np.abs(params["a"]["kernel"]) * np.asarray(mask["a"]["kernel"])).sum() == pytest.approx(best, rel=1e-6)
    assert np.asarray(mask["b"]["kernel"])[:, 0].tolist() == ([1.0] * n + [0.0] * (m - n)) * (4 // m)  # ties
    assert (np.asarray(mask["a"]["bias"]) == 1).all()


def test_what_does_not_divide_is_said_and_left_dense():
    params = {"value": {"kernel": np.ones((6, 1), np.float32)}, "body": {"kernel": np.ones((8, 2), np.float32)}}
    with pytest.warns(UserWarning, match=r"2 of 4: the inputs of value \(6\) are not a multiple of 4; left dense"):
        mask = n_of_m_mask(params, 2, 4)
    assert (np.asarray(mask["value"]["kernel"]) == 1).all()
    assert np.asarray(mask["body"]["kernel"]).sum() == 8
    other = n_of_m_mask({"w": np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)}, 2, 4, axis=1)
    assert np.asarray(other["w"]).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(lth.InputError, match="5 of 4"):
        n_of_m_mask(params, 5, 4)


def test_neurons_lose_inputs_bias_and_outputs():
    chain = chain_of((3, 4, 2))
    chain[0][0][:, [1, 3]] *= 0.01
    masks = neuron_masks(chain, 0.5)
    np.testing.assert_array_equal(masks[0][0], np.tile([1, 0, 1, 0], (3, 1)))
    np.testing.assert_array_equal(masks[0][1], [1, 0, 1, 0])
    np.testing.assert_array_equal(masks[1][0], np.tile([[1], [0], [1], [0]], (1, 2)))
    np.testing.assert_array_equal(masks[1][1], [1, 1])
    assert [k.shape for k, _ in shrink(masked(chain, masks))] == [(3, 2), (2, 2)]
    by_score = neuron_masks(chain, 0.25, [np.ones((3, 4)) * [3, 2, 1, 4], None])
    np.testing.assert_array_equal(by_score[0][1], [1, 1, 0, 1])
    assert [int(b.sum()) for _, b in neuron_masks(chain, 1.0)] == [1, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_the_smaller_network_computes_the_same(seed, density, sizes):
    chain, rng = chain_of(sizes, seed), np.random.default_rng(seed)
    chain = [(np.where(rng.random(k.shape) < density**2, k, 0), b) for k, b in chain]
    small = shrink(chain)
    x = rng.normal(size=(7, sizes[0]))
    np.testing.assert_allclose(run(small, x), run(chain, x), atol=1e-6, rtol=1e-6)
    hidden = [kernel.shape[1] for kernel, _ in small[:-1]]
    assert all(width <= size for width, size in zip(hidden, sizes[1:-1], strict=True))
    for (kernel, _), (following, _) in itertools.pairwise(small):  # nothing is left to remove
        assert kernel.shape[1] == 1 or (np.asarray(following).any(axis=1)).all()


def test_constants_are_folded_through_several_layers_and_activations():
    kernel = np.zeros((2, 3), np.float32)
    kernel[0, 0] = 1.0
    first = (kernel, np.array([0.1, 0.5, -2.0], np.float32))
    second = (np.array([[0, 1], [2, 0], [3, 0]], np.float32), np.array([0.2, 0.0], np.float32))
    chain = [first, second, (np.array([[1.0], [1.0]], np.float32), np.zeros(1, np.float32))]
    small = shrink(chain, activation=jnp.tanh)
    assert [k.shape for k, _ in small] == [(2, 1), (1, 1), (1, 1)]
    x = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(run(small, x, np.tanh), run(chain, x, np.tanh), atol=1e-6)


def test_constants_of_double_precision_are_folded_in_it():
    with jax.enable_x64(True):
        chain = [(jnp.asarray(k, jnp.float64), jnp.asarray(b, jnp.float64) + 1e-9) for k, b in chain_of((3, 4, 2))]
        chain[0] = (chain[0][0].at[:, :2].set(0.0), chain[0][1])
        small = shrink(chain, activation=jnp.tanh)
    assert [kernel.dtype for kernel, _ in small] == [np.float64] * 2
    x = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(run(small, x, np.tanh), run(chain, x, np.tanh), rtol=1e-14)


def test_a_sac_actor_shrinks_to_a_narrower_actor():
    from lth.algorithms.architecture import Spaces
    from lth.algorithms.learner import layer_order
    from lth.algorithms.sac.algorithm import gaussian_of
    from lth.config import SACConfig

    config, spaces = SACConfig(actor_hidden=(16, 12), critic_hidden=(4,)), Spaces(3, 1)
    algorithm = config.build(spaces)
    params = algorithm.init(jax.random.key(0)).params["actor"]
    chain = [(params[name]["kernel"], params[name]["bias"] + 0.1) for name in layer_order(algorithm)]
    pruned = masked(chain, neuron_masks(chain, 0.75))
    small = shrink(pruned)
    narrow = config.model_copy(update={"actor_hidden": tuple(kernel.shape[1] for kernel, _ in small[:-1])})
    assert narrow.actor_hidden == (4, 3)
    x = jax.random.normal(jax.random.key(1), (9, 3))
    both = [
        gaussian_of(a.applies()["actor"])(
            {n: {"kernel": k, "bias": b} for n, (k, b) in zip(layer_order(a), layers, strict=True)}, x
        )
        for a, layers in ((algorithm, pruned), (narrow.build(spaces), small))
    ]
    for old, new in zip(*both, strict=True):
        np.testing.assert_allclose(old, new, atol=1e-6)


def test_a_chain_that_is_none_is_refused():
    chain = chain_of((3, 4, 2))
    with pytest.raises(lth.InputError, match="layer 1 of the chain takes 3 inputs, but layer 0 has 2"):
        shrink([chain[1], chain[0]])
    with pytest.raises(lth.InputError, match="transpose"):
        neuron_masks([(chain[0][0].T, chain[0][1])], 0.5)


def test_complex_networks_are_scored_by_absolute_values_and_shrink_without_loss():
    rng = np.random.default_rng(0)
    chain = [
        ((k + 1j * rng.normal(size=k.shape)).astype(np.complex64), b * (1 + 2j)) for k, b in chain_of((3, 6, 5, 2))
    ]
    masks = neuron_masks(chain, 0.5)
    lowest = np.argsort(np.abs(chain[0][0]).sum(axis=0))[:3]
    assert set(np.flatnonzero(np.asarray(masks[0][1]) == 0)) == set(lowest)
    pruned = masked(chain, masks)
    pruned[1][0][:, 0] = 0.0  # a unit that is a complex constant, for the next layer's real bias
    pruned[2] = (pruned[2][0], pruned[2][1].real.astype(np.float32))
    small = shrink(pruned, jnp.tanh)
    assert small[0][0].shape == (3, 3)
    assert all(leaf.dtype == np.complex64 for pair in small for leaf in pair)
    x = rng.normal(size=(4, 3))
    outputs = []
    for layers in (pruned, small):
        y = x
        for i, (kernel, bias) in enumerate(layers):
            y = y @ np.asarray(kernel) + np.asarray(bias)
            y = np.tanh(y) if i < 2 else y
        outputs.append(y)
    np.testing.assert_allclose(*outputs, rtol=1e-4)


CHAIN = chain_of((2, 3, 1))
GROUP = {"w": np.ones((4, 1), np.float32)}
NAN = {"w": np.array([[1.0], [np.nan], [2.0], [3.0]], np.float32)}
REFUSED = {
    "no scores": (neuron_masks, (CHAIN, 0.5, []), r"shapes \[\], but the kernels \[\(2, 3\), \(3, 1\)\]"),
    "scores of another shape": (
        neuron_masks,
        (CHAIN, 0.5, [np.ones((3, 2)), None]),
        r"scores have the shapes \[\(3, 2\)",
    ),
    "scores of NaN": (neuron_masks, (CHAIN, 0.5, [np.full((2, 3), np.nan)]), "scores of layer 0 are NaN"),
    "complex scores": (neuron_masks, (CHAIN, 0.5, [np.full((2, 3), 1j)]), "scores of layer 0 are complex"),
    "weights of NaN": (
        neuron_masks,
        ([(CHAIN[0][0] * np.nan, CHAIN[0][1]), CHAIN[1]], 0.5),
        "kernel of layer 0 holds NaN",
    ),
    "n of m in floats": (n_of_m_mask, (GROUP, 2.0, 4.0), "n is 2.0, but must be an integer"),
    "m in floats": (n_of_m_mask, (GROUP, 2, 4.0), "m is 4.0, but must be an integer"),
    "an axis in floats": (n_of_m_mask, (GROUP, 2, 4, None, 0.0), "axis is 0.0, but must be an integer"),
    "NaN among n of m": (n_of_m_mask, (NAN, 2, 4), "'w' holds NaN"),
    "scores of NaN among n of m": (n_of_m_mask, (GROUP, 2, 4, NAN), "scores of 'w' are NaN"),
    "an order of a chain": (shrink, (CHAIN, jax.nn.relu, ["a", "b"]), "order is .*layers have no names"),
}


@pytest.mark.parametrize(("function", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_ranked_is_refused(function, arguments, message):
    with pytest.raises(lth.InputError, match=message):
        function(*arguments)
