"""What a ticket is: exact on networks made by hand, and against brute force on any."""

import itertools
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.grids import tidy_rows
from helpers.small import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st

import lth
from lth import envs
from lth.algorithms.architecture import Spaces
from lth.algorithms.base import Agent
from lth.algorithms.learner import update
from lth.algorithms.networks import module_of
from lth.algorithms.sac.algorithm import gaussian_of
from lth.analysis.barriers import barrier
from lth.analysis.interpolation import interpolate, losses
from lth.analysis.overlap import compare, overlap, shared_by_chance
from lth.analysis.paths import effective_sparsity, layers, weights_read
from lth.analysis.scores import threshold
from lth.analysis.stability import rank_correlation, stability
from lth.analysis.units import TAU, hidden_units, spread_batch, units_of
from lth.cli import main
from lth.config import CONNECTIVITY, SACConfig, parse_config
from lth.envs.suites import observation_names
from lth.errors import InputError
from lth.experiment import attempt, journal, lottery, records
from lth.experiment.compare import connect
from lth.experiment.plan import plan
from lth.experiment.spec import ConnectivitySpec, MaskSpec, parse_spec
from lth.experiment.tidy import TidyRow, mask_pairs
from lth.files import read_rows
from lth.pruning.layers import named_leaves
from lth.pruning.masks import compute_sparsity
from lth.replay import ReplayBuffer, init_replay, insert, pack_rows
from lth.reporting.terminal import unstable_note
from lth.reporting.views import (
    LayerRow,
    barrier_rows,
    input_rows,
    layer_rows,
    line_rows,
    overlap_rows,
    save_tables,
    unstable_masks,
)
from lth.saliency import gradient_halves
from lth.types import Batch


def tree(*kernels, norm=()):
    """Return a network's tree of kernels and biases, with layer normalisation after some hidden layers."""
    names = [*(f"layer_{i}" for i in range(len(kernels) - 1)), "output"]
    found = {
        name: {"kernel": np.array(k, np.float32), "bias": np.ones(np.shape(k)[1], np.float32)}
        for name, k in zip(names, kernels, strict=True)
    }
    for i in norm:
        width = np.shape(kernels[i])[1]
        found[f"norm_{i}"] = {"scale": np.ones(width, np.float32), "bias": np.ones(width, np.float32)}
    return found


BY_HAND = tree(
    # unit 0 reads inputs 0 and 1, unit 1 nothing, unit 2 input 1, unit 3 input 2
    [[1, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]],
    # unit 0 reads units 0 and 1, unit 1 reads unit 1 alone, unit 2 reads unit 2
    [[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]],
    # units 0 and 1 are heard, unit 2 is not
    [[1], [1], [0]],
)


def test_paths_of_a_network_made_by_hand():
    first, second, last = layers(BY_HAND)
    assert [layer.name for layer in (first, second, last)] == ["layer_0", "layer_1", "output"]
    assert first.fed.tolist() == [True] * 3
    assert first.constant.tolist() == [False, True, False, False]
    assert first.heard.tolist() == [True, True, False, False]
    assert first.effective.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert second.fed.tolist() == [True, False, True, True]
    assert second.constant.tolist() == [False, True, False]
    assert second.heard.tolist() == [True, True, False]
    assert second.effective.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert last.effective.tolist() == [[1], [0], [0]]
    assert compute_sparsity(BY_HAND) == 1 - 10 / 27
    assert effective_sparsity(BY_HAND) == 1 - 4 / 27
    assert {name: read.tolist() for name, read in weights_read(BY_HAND).items()} == {"layer_0": [1, 1, 0]}


def test_layer_normalisation_mixes_the_units_of_its_layer():
    kernels = ([[1, 0], [0, 0]], [[0], [1]])
    assert [layer.effective.sum() for layer in layers(tree(*kernels))] == [0, 0]
    first, last = layers(tree(*kernels, norm=(0,)))
    assert first.heard.tolist() == [True, True]
    assert first.effective.tolist() == [[1, 0], [0, 0]]
    assert last.effective.tolist() == [[0], [1]]
    # Of a single unit it makes a constant.
    assert [layer.effective.sum() for layer in layers(tree([[1]], [[1]], norm=(0,)))] == [0, 0]


def test_layers_come_in_their_order_and_the_critics_have_two_networks():
    deep = tree(*[[[1.0]]] * 12)
    assert [layer.name for layer in layers(deep)] == [*(f"layer_{i}" for i in range(11)), "output"]
    critics = {"q1": BY_HAND, "q2": tree([[1], [0], [0]], [[1]])}
    assert [layer.name for layer in layers(critics)] == [
        *("q1/layer_0", "q1/layer_1", "q1/output", "q2/layer_0", "q2/output")
    ]
    assert effective_sparsity(critics) == 1 - (4 + 2) / (27 + 4)
    assert {name: r.tolist() for name, r in weights_read(critics).items()} == {
        "q1/layer_0": [1, 1, 0],
        "q2/layer_0": [1, 0, 0],
    }
    assert effective_sparsity(tree([[1, 0]])) == 0.5
    with pytest.raises(InputError, match="should have"):
        layers({"layer_1": BY_HAND["layer_1"], "output": BY_HAND["output"]})


def drawn_mask(shapes, seed, density, norm=()):
    """Return a network's mask whose kernels keep weights at random."""
    rng = np.random.default_rng(seed)
    return tree(*[rng.random(shape) < density for shape in shapes], norm=norm)


drawn = {"seed": st.integers(0, 2**32 - 1), "density": st.floats(0.05, 0.95)}


@settings(deadline=None)
@given(widths=st.lists(st.integers(1, 4), min_size=2, max_size=5), **drawn)
def test_effective_weights_are_those_on_a_path_by_walking_them_all(widths, seed, density):
    mask = drawn_mask(list(itertools.pairwise(widths)), seed, density)
    found = layers(mask)
    walked = [np.zeros(layer.kept.shape, bool) for layer in found]
    for path in itertools.product(*map(range, widths)):
        steps = list(itertools.pairwise(path))
        if all(layer.kept[step] for layer, step in zip(found, steps, strict=True)):
            for on_path, step in zip(walked, steps, strict=True):
                on_path[step] = True
    assert [w.tolist() for w in walked] == [layer.effective.tolist() for layer in found]
    assert effective_sparsity(mask) == 1 - sum(w.sum() for w in walked) / sum(w.size for w in walked)


SHAPES = [(3, 4), (4, 3), (3, 2)]


def positive(weights, x, upto=None):
    """A network all of whose units are active and whose slopes do not cancel, weights being positive."""
    for w in weights[:upto]:
        x = jax.nn.relu(x @ w + 1.0)
    return x if upto else x.sum()


@jax.jit
def derivatives(weights):
    """Return how the slope, the output and each hidden layer's slope depend on the weights and on the inputs."""
    x = jnp.ones(3)
    slope = jax.grad(lambda w: jax.grad(positive, argnums=1)(w, x).sum())(weights)
    hidden = [jax.jacobian(lambda x, i=i: positive(weights, x, i))(x).sum(axis=1) for i in (1, 2)]
    return slope, jax.grad(positive)(weights, x), hidden


@settings(deadline=None)
@given(**drawn)
def test_autodiff_finds_the_same_weights(seed, density):
    mask = drawn_mask(SHAPES, seed, density)
    rng = np.random.default_rng(seed)
    found = layers(mask)
    weights = [jnp.asarray(layer.kept * rng.uniform(0.5, 1.0, layer.kept.shape), jnp.float32) for layer in found]
    slopes, outputs, hidden = derivatives(weights)
    for layer, slope, output in zip(found, slopes, outputs, strict=True):
        assert ((np.asarray(slope) != 0) & layer.kept).tolist() == layer.effective.tolist()
        assert ((np.asarray(output) != 0) & layer.kept).tolist() == (layer.kept & layer.heard).tolist()
    assert [(np.asarray(h) == 0).tolist() for h in hidden] == [layer.constant.tolist() for layer in found[:-1]]


def forward(params, x, norm=()):
    """The network in float64; returns what comes out of each layer."""
    outputs = []
    for i in range(len(SHAPES)):
        layer = params[f"layer_{i}" if i < len(SHAPES) - 1 else "output"]
        x = x @ layer["kernel"] + layer["bias"]
        if i in norm:
            scaled = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-6)
            x = scaled * params[f"norm_{i}"]["scale"] + params[f"norm_{i}"]["bias"]
        if i < len(SHAPES) - 1:
            x = np.maximum(x, 0.0)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("norm", [(), (0, 1)])
@settings(deadline=None)
@given(**drawn)
def test_the_rest_can_be_cut_out_if_biases_take_over_what_is_constant(norm, seed, density):
    mask = drawn_mask(SHAPES, seed, density, norm)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda m: m * rng.normal(size=m.shape), mask)
    x = rng.normal(size=(30, 3))
    want = forward(params, x, norm)
    cut = jax.tree.map(np.array, params)
    arriving = x
    for layer, outputs in zip(layers(mask), want, strict=True):
        constant = ~layer.fed
        assert (np.ptp(arriving[:, constant], axis=0) == 0).all()
        cut[layer.name]["bias"] += arriving[0, constant] @ params[layer.name]["kernel"][constant]
        cut[layer.name]["kernel"][constant] = 0.0
        if not (norm and layer.name != "output"):
            cut[layer.name]["bias"][~layer.heard] = rng.normal(size=(~layer.heard).sum())
        cut[layer.name]["kernel"] *= layer.effective
        arriving = outputs
    np.testing.assert_allclose(forward(cut, x, norm)[-1], want[-1], atol=1e-9)


def test_layer_normalisation_is_where_the_critics_have_it():
    critic = module_of(SACConfig(critic_hidden=(4, 3), critic_layer_norm=True).networks(Spaces(2, 1))["critic"])
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(5, 2)), rng.normal(size=(5, 1))
    params = jax.jit(critic.init)(jax.random.key(0), observations, actions)["params"]
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    values = jax.jit(critic.apply)({"params": params}, observations, actions)
    for q, network in enumerate(("q1", "q2")):
        assert layers(params)[3 * q].name == f"{network}/layer_0"
        by_hand = forward({**params[network]}, np.concatenate([observations, actions], axis=1), norm=(0, 1))
        shapes = [layer.kept.shape for layer in layers(params[network])]
        assert shapes == [(3, 4), (4, 3), (3, 1)]
        np.testing.assert_allclose(values[q], by_hand[-1][:, 0], atol=1e-5)


# Units


def agent_of(actor_params, observations, normalize=False):
    """Return an agent with these actor weights, whose replay buffer holds the observations."""
    n, d = observations.shape
    config = SACConfig(actor_hidden=(3,), critic_hidden=(2,), normalize_obs=normalize)
    state = config.build(Spaces(d, 1)).init(jax.random.key(0))
    if actor_params is not None:
        state = state._replace(params={**state.params, "actor": jax.device_put(actor_params)})
    batch = Batch(observations, np.zeros((n, 1)), np.zeros(n), observations, np.zeros(n))
    buffer = ReplayBuffer(jax.jit(insert)(init_replay(n, d, 1), pack_rows(batch)), d)
    return Agent(config, state, buffer)


def test_dead_and_dormant_units_by_hand():
    params = tree([[1, -1, 0.01], [0, 0, 0]], [[1, 1]] * 3)
    params["layer_0"]["bias"][:] = 0.0
    observations = np.array([[1, 0], [2, 0], [3, 0], [0, 5]], np.float32)
    agent = agent_of(params, observations)
    units = hidden_units(agent, spread_batch(agent.replay_buffer))["actor"]["layer_0"]
    assert units.dead.tolist() == [False, True, False]
    assert units.active.tolist() == [0.75, 0.0, 0.75]
    np.testing.assert_allclose(units.activity, [3 / 1.01, 0.0, 0.03 / 1.01], rtol=1e-6)
    assert TAU == 0.025
    assert units.dormant.tolist() == [False, True, False]  # 0.0297 is just above
    params["layer_0"]["kernel"][0, 2] = 0.005
    agent = agent_of(params, observations)
    assert hidden_units(agent, spread_batch(agent.replay_buffer))["actor"]["layer_0"].dormant.tolist() == [0, 1, 1]


def test_a_layer_that_is_zero_throughout_is_dead_and_dormant():
    found = units_of(np.zeros((4, 3)))
    assert found.dead.all()
    assert found.dormant.all()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_units_are_those_of_the_networks_themselves(layer_norm):
    config = SACConfig(actor_hidden=(6, 5), critic_hidden=(7, 4), critic_layer_norm=layer_norm)
    algorithm = config.build(Spaces(3, 2))
    state = algorithm.init(jax.random.key(1))
    rng = np.random.default_rng(0)
    n = 64
    batch = Batch(
        rng.normal(size=(n, 3)).astype(np.float32),
        np.tanh(rng.normal(size=(n, 2))).astype(np.float32),
        np.zeros(n, np.float32),
        np.zeros((n, 3), np.float32),
        np.zeros(n, np.float32),
    )
    found = hidden_units(Agent(config, state), batch)
    assert {name: list(units) for name, units in found.items()} == {
        "actor": ["layer_0", "layer_1"],
        "critic": ["q1/layer_0", "q1/layer_1", "q2/layer_0", "q2/layer_1"],
    }
    # A dead unit can be cut out without a trace, and a live one cannot.
    policy = gaussian_of(algorithm.applies()["actor"])
    actor = jax.jit(lambda params: policy(params, batch.observations / np.sqrt(1 + 1e-8))[0])
    whole = actor(state.params["actor"])
    for unit in range(6):
        cut = jax.tree.map(np.array, state.params["actor"])
        cut["layer_1"]["kernel"][unit] = 0.0
        assert np.array_equal(whole, actor(cut)) == bool(found["actor"]["layer_0"].dead[unit])
    if layer_norm:
        # Normalised units are about half active: before the normalisation they would not be so.
        shares = [units.active.mean() for units in found["critic"].values()]
        assert all(0.3 < share < 0.7 for share in shares)


def test_the_batch_is_spread_over_the_whole_buffer():
    observations = np.arange(10, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    buffer = agent_of(None, observations).replay_buffer
    assert np.asarray(spread_batch(buffer, 5).observations)[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert np.asarray(spread_batch(buffer, 100).observations)[:, 0].tolist() == list(range(10))
    with pytest.raises(InputError, match="empty"):
        spread_batch(ReplayBuffer(init_replay(4, 2, 1), 2))


# Overlap


def test_overlap_by_hand():
    one = tree([[1, 1, 0], [0, 0, 1]], [[1], [0], [1]])
    other = tree([[1, 0, 0], [0, 1, 1]], [[1], [1], [0]])
    total, first, last = overlap(one, other)
    assert (first.layer, first.weights, first.kept, first.kept_other, first.shared) == ("layer_0", 6, 3, 3, 2)
    assert (last.layer, last.weights, last.kept, last.kept_other, last.shared) == ("output", 3, 2, 2, 1)
    assert first.expected == 1.5
    # C(3, s) C(3, 3 - s) / C(6, 3) = 1, 9, 9, 1 of 20
    assert (first.low, first.high) == (0, 3)
    assert first.z == pytest.approx((2 - 1.5) / math.sqrt(0.45))
    assert first.jaccard == 2 / 4
    assert first.expected_jaccard == pytest.approx((0 + 9 * 1 / 5 + 9 * 2 / 4 + 1) / 20)
    # Of 3 weights two each are kept: one in common with probability 2/3, two with 1/3.
    assert last.expected == pytest.approx(4 / 3)
    assert last.expected_jaccard == pytest.approx(2 / 3 * 1 / 3 + 1 / 3)
    assert (last.low, last.high) == (1, 2)
    assert (total.layer, total.weights, total.shared, total.kept, total.kept_other) == ("", 9, 3, 5, 5)
    assert total.expected == pytest.approx(1.5 + 4 / 3)
    assert total.z == pytest.approx((3 - 1.5 - 4 / 3) / math.sqrt(0.45 + 2 / 9))
    sums = dict.fromkeys(range(6), 0.0)
    for (a, p), (b, q) in itertools.product(enumerate([1, 9, 9, 1]), ((1, 2), (2, 1))):
        sums[a + b] += p / 20 * q / 3
    assert total.expected_jaccard == pytest.approx(sum(p * s / (10 - s) for s, p in sums.items()))


def test_overlap_of_a_mask_with_itself_and_of_what_says_nothing():
    one = tree([[1, 1, 0], [0, 0, 1]], [[1], [1], [1]])
    found = overlap(one, one)
    assert [o.layer for o in found] == ["", "layer_0"]  # the output layer, which both keep whole, says nothing
    assert found[0].jaccard == 1.0
    assert found[0].shared == found[0].kept == 3
    whole = tree([[1, 1]])
    assert overlap(whole, whole) == []
    assert overlap(tree([[1, 0]]), tree([[1], [0]])) == []
    empty = tree([[0, 0]])
    assert overlap(empty, empty)[0].jaccard == 1.0
    assert overlap(empty, empty)[0].expected_jaccard == 1.0
    assert overlap(empty, whole)[0].jaccard == 0.0


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.data())
def test_chance_is_hypergeometric(n, data):
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    start, probabilities = shared_by_chance(n, a, b)
    exact = [
        math.comb(a, s) * math.comb(n - a, b - s) / math.comb(n, b) for s in range(max(0, a + b - n), min(a, b) + 1)
    ]
    assert start == max(0, a + b - n)
    np.testing.assert_allclose(probabilities, exact, rtol=1e-9, atol=1e-15)
    found = compare("x", ((n, a, b, start),))
    below = np.cumsum(exact)
    assert sum(p for s, p in enumerate(exact, start) if s < found.low) <= 0.025 + 1e-9
    assert below[found.low - start] > 0.025 - 1e-9
    assert sum(p for s, p in enumerate(exact, start) if s > found.high) <= 0.025 + 1e-9


def test_random_masks_overlap_as_chance_says_and_large_ones_take_no_time():
    rng = np.random.default_rng(0)
    zs, inside = [], 0
    for _ in range(300):
        trees = []
        for _ in range(2):
            kernels = []
            for shape, kept in (((30, 40), 120), ((40, 20), 300)):
                flat = np.zeros(math.prod(shape))
                flat[rng.choice(flat.size, kept, replace=False)] = 1
                kernels.append(flat.reshape(shape))
            trees.append(tree(*kernels))
        total = overlap(*trees)[0]
        zs.append(total.z)
        inside += total.low <= total.shared <= total.high
    assert abs(np.mean(zs)) < 4 / math.sqrt(300)
    assert 0.85 < np.std(zs) < 1.15
    assert inside / 300 > 0.92
    large = compare(
        "",
        (
            (65536, 6554, 6554, 655),
            (65536, 3277, 3277, 164),
        ),
    )
    assert large.low < large.expected < large.high
    assert large.expected == pytest.approx(6554**2 / 65536 + 3277**2 / 65536)


# Stability of rankings


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_rank_correlation_is_spearmans_with_ties(values, random):
    import scipy.stats

    other = [random.randint(0, 5) for _ in values]
    found = rank_correlation(np.array(values, float), np.array(other, float))
    if len(set(values)) == 1 or len(set(other)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(values, other).statistic)


def test_stability_by_hand():
    import scipy.stats

    params = tree([[1.0, 2.0, 3.0, 4.0]], [[1.0]] * 4)
    gradients = [tree([scores], [[0.0]] * 4) for scores in ([4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 2.0, 3.0])]
    masks = tree([[1, 1, 0, 0]], [[1]] * 4), tree([[1, 0, 0, 1]], [[1]] * 4)
    candidates = tree([[1, 1, 1, 1]], [[0]] * 4)
    found = stability(params, tuple(gradients), masks, "gradient", candidates)
    # Ranks 4 3 2 1 and 4 1 2 3: 1 - 6 * 8 / (4 * 15)
    assert found.spearman == pytest.approx(0.2)
    assert (found.shared, found.expected, found.stable) == (0.5, 0.5, False)
    # Times the weights: 4 6 6 4 and 4 2 6 12
    taylor = stability(params, tuple(gradients), masks, "taylor", candidates)
    assert taylor.spearman == pytest.approx(scipy.stats.spearmanr([4, 6, 6, 4], [4, 2, 6, 12]).statistic)
    same = stability(params, (gradients[0],) * 2, (masks[0],) * 2, "taylor", candidates)
    assert (same.spearman, same.shared, same.stable) == (pytest.approx(1.0), 1.0, True)
    whole = jax.tree.map(np.ones_like, params)
    assert stability(params, tuple(gradients), (whole, whole), "taylor", candidates).shared == 1.0


def test_stability_by_chance_is_among_the_candidates():
    params = tree([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]], [[1.0]] * 8)
    masks = [tree([row], [[1]] * 8) for row in ([1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0, 0])]
    left = tree([[1, 1, 1, 1, 0, 0, 0, 0]], [[0]] * 8)  # a round has pruned the other half before
    found = stability(params, (params, params), (masks[0], masks[1]), "gradient", left)
    assert (found.shared, found.expected) == (0.5, 0.5)
    none = stability(params, (params, params), (masks[0], masks[1]), "gradient", jax.tree.map(np.zeros_like, params))
    assert math.isnan(none.spearman)
    assert (none.shared, none.expected) == (1.0, 1.0)


# Lines between agents


def test_the_line_between_two_agents():
    config = SACConfig(actor_hidden=(4,), critic_hidden=(4,))
    one, other = (config.build(Spaces(3, 1)).init(jax.random.key(k)) for k in (0, 1))
    other = other._replace(
        normalizer=other.normalizer._replace(mean=jnp.array([1.0, 2.0, 3.0]), variance=jnp.array([5.0, 1.0, 1.0])),
        values={"log_alpha": jnp.float32(2.0)},
    )
    assert interpolate(one, other, 0.0) is one
    assert interpolate(one, other, 1.0) is other
    state = interpolate(one, other, 0.25)
    assert state.normalizer.mean.tolist() == [0.25, 0.5, 0.75]
    assert state.normalizer.variance.tolist() == [2.0, 1.0, 1.0]
    assert float(state.values["log_alpha"]) == 0.5
    for field, name in (("params", "actor"), ("params", "critic"), ("targets", "critic")):
        trees = (getattr(x, field)[name] for x in (one, other, state))
        for a, b, c in zip(*map(jax.tree.leaves, trees), strict=True):
            assert c.dtype == a.dtype
            np.testing.assert_allclose(c, 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-7)


def test_losses_are_those_that_training_reports(dense):
    run = lth.load(dense[1])
    algorithm, state = run.agent.algorithm, run.agent.state
    batch = spread_batch(run.replay_buffer, 64)
    noise = np.random.default_rng(0).standard_normal((2, *batch.actions.shape), np.float32)
    found = losses(algorithm, state, batch, noise)
    _, metrics = jax.jit(update, static_argnums=0)(algorithm, state._replace(key=None), batch, noise)
    assert found["critic_loss"] == pytest.approx(float(metrics["critic_loss"]), rel=1e-5)
    # Training takes the actor's loss after the critics' step, which is small.
    assert found["actor_loss"] == pytest.approx(float(metrics["actor_loss"]), rel=0.05)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=9))
def test_barriers(values):
    alphas = np.linspace(0, 1, len(values)).tolist()
    straight = [(1 - a) * values[0] + a * values[-1] for a in alphas]
    worst = max(s - v for s, v in zip(straight, values, strict=True))
    assert barrier(alphas, values, True) == pytest.approx(max(worst, 0.0), abs=1e-9)
    assert barrier(alphas, [-v for v in values], False) == barrier(alphas, values, True)
    assert barrier(alphas[::-1], values[::-1], True) == barrier(alphas, values, True)
    assert barrier(alphas, straight, True) <= 1e-9
    with pytest.raises(InputError, match="must contain 0 and 1"):
        barrier([0.25, 0.5, 0.75], [1.0, 2.0, 3.0], True)


# What a grid records


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A finished grid: two rounds of two methods, and every comparison."""
    config = parse_config(
        {
            **SMALL,
            "output_dir": str(tmp_path_factory.mktemp("analysis")),
            "training": {**SMALL["training"], "env_steps": 400},
            "pruning": {**SMALL["pruning"], "methods": ["magnitude", "taylor"], "rounds": 2, "exclude": ["output"]},
            "analysis": {"connectivity": list(CONNECTIVITY), "connectivity_points": 3, "connectivity_episodes": 2},
        }
    )
    for spec in plan(config).specs:
        attempt.make(config.output_dir, spec, lottery.PLAIN)
    return config


def value_of(rows, network, layer, metric):
    (found,) = [row.value for row in rows if (row.network, row.layer, row.metric) == (network, layer, metric)]
    return found


def test_each_run_records_what_its_mask_and_its_units_are(grown):
    root = grown.output_dir
    for spec in (s for s in plan(grown).specs if not isinstance(s, ConnectivitySpec)):
        rows = records.read_analysis(root / spec.path)
        is_mask = isinstance(spec, MaskSpec)
        run = None if is_mask else lth.load(root / spec.path)
        masks = run.masks if run else lth.load_mask(journal.last_file(root, spec))
        for network, mask in masks.items():
            assert value_of(rows, network, "", "sparsity") == pytest.approx(compute_sparsity(mask), abs=1e-12)
            assert value_of(rows, network, "", "effective_sparsity") == effective_sparsity(mask)
            for layer in layers(mask):
                assert value_of(rows, network, layer.name, "kept") == layer.kept.sum()
                assert value_of(rows, network, layer.name, "effective") == layer.effective.sum()
                if not layer.name.endswith("output"):
                    assert value_of(rows, network, layer.name, "constant_units") == layer.constant.sum()
                    assert value_of(rows, network, layer.name, "unheard_units") == (~layer.heard).sum()
            if run:
                units = hidden_units(run.agent, spread_batch(run.replay_buffer))[network]
                for name, found in units.items():
                    assert value_of(rows, network, name, "dead_units") == found.dead.sum()
                    assert value_of(rows, network, name, "dormant_units") == found.dormant.sum()
                assert value_of(rows, network, "", "dead_units") == sum(u.dead.sum() for u in units.values())
            for name, read in weights_read(mask).items():
                assert [value_of(rows, network, name, f"reads[{i}]") for i in range(len(read))] == read.tolist()
            metrics = {row.metric for row in rows if row.network == network}
            assert ("saliency_shared" in metrics) == (is_mask and spec.method == "taylor")
            if "saliency_shared" in metrics:
                assert value_of(rows, network, "", "saliency_shared_by_chance") < 1
                assert 0 < value_of(rows, network, "", "saliency_shared") <= 1
                assert 0.3 < value_of(rows, network, "", "saliency_spearman") <= 1


def test_stability_is_that_of_the_masks_own_batches_and_candidates(grown):
    import scipy.stats

    (spec,) = [s for s in plan(grown).specs if isinstance(s, MaskSpec) and s.method == "taylor" and s.previous]
    rows = records.read_analysis(grown.output_dir / spec.path)
    agent, buffer, before = lth.load(grown.output_dir / spec.previous.path)
    halves = gradient_halves(agent, buffer, 8, 32)
    params = agent.state.params["actor"]
    made = [
        lth.prune_kernels_by_gradient_saliency(params, half["actor"], 0.8, "taylor", before["actor"], ("output",))
        for half in halves
    ]
    kept = [np.concatenate([np.ravel(m[f"layer_{i}"]["kernel"]) for i in (0, 1)]) for m in made]
    alive = np.concatenate([np.ravel(before["actor"][f"layer_{i}"]["kernel"]) for i in (0, 1)]) == 1
    scores = [
        np.abs(
            np.concatenate([np.ravel(params[n]["kernel"] * half["actor"][n]["kernel"]) for n in ("layer_0", "layer_1")])
        )
        for half in halves
    ]
    spearman = scipy.stats.spearmanr(scores[0][alive], scores[1][alive]).statistic
    assert value_of(rows, "actor", "", "saliency_spearman") == pytest.approx(spearman, abs=1e-6)
    assert value_of(rows, "actor", "", "saliency_shared") == (kept[0] * kept[1]).sum() / kept[0].sum()


def test_the_scores_of_a_mask_are_counted_by_what_it_kept(grown):
    for spec in (s for s in plan(grown).specs if isinstance(s, MaskSpec)):
        run = grown.output_dir / spec.path
        rows, masks = records.read_analysis(run), lth.load_mask(journal.last_file(grown.output_dir, spec))
        agent, buffer, before = lth.load(grown.output_dir / (spec.previous or spec.dense).path)
        gradients = lth.gradient_statistics(agent, buffer, 8, 32) if spec.method == "taylor" else {}
        for network, mask in masks.items():
            pruned, kept = [], []
            for name, leaf in named_leaves(mask).items():
                if name.endswith("kernel") and "output" not in name:  # output layers are excluded
                    score = np.abs(named_leaves(agent.state.params[network])[name])
                    score = score * np.asarray(named_leaves(gradients[network])[name]) if gradients else score
                    candidate, stays = (np.asarray(m) == 1 for m in (named_leaves(before[network])[name], leaf))
                    pruned += np.abs(score[candidate & ~stays]).tolist()
                    kept += np.abs(score[candidate & stays]).tolist()
            for kind, scores in (("pruned", pruned), ("kept", kept)):
                counted = {
                    row.metric[len(f"scores_{kind}[") : -1]: row.value
                    for row in rows
                    if row.network == network and row.metric.startswith(f"scores_{kind}[")
                }
                places = [math.floor(math.log10(s) * 5) / 5 if s else -math.inf for s in scores]
                assert counted == {f"{low:.1f}": places.count(low) for low in set(places)}
            cut = value_of(rows, network, "", "score_threshold")
            assert 10**cut == pytest.approx(min(kept), rel=1e-6)
            assert max(pruned) <= min(kept)


def test_scores_of_no_single_ranking_have_no_threshold():
    scores, kept = [np.array([1.0, 10.0]), np.array([0.1, 0.2])], [np.array([False, True]), np.array([False, True])]
    assert threshold(scores, kept) is None  # a share of each layer: 1.0 goes and 0.2 stays
    assert threshold(scores[1:], kept[1:]) == pytest.approx(math.log10(0.2))
    assert threshold(scores, [np.ones(2, bool)] * 2) is None


def test_a_run_of_an_earlier_version_is_analysed_when_a_table_asks(grown, tmp_path):
    shutil.copytree(grown.output_dir, tmp_path / "old")
    config = grown.model_copy(update={"output_dir": tmp_path / "old"})
    recorded = {path: path.read_bytes() for path in config.output_dir.rglob(records.ANALYSIS)}
    assert len(recorded) == sum(not isinstance(spec, ConnectivitySpec) for spec in plan(config).specs)
    want = tidy_rows(config)
    for path in recorded:
        path.unlink()
    assert tidy_rows(config) == want
    assert {path: path.read_bytes() for path in recorded} == recorded
    # Where the buffers are gone, what needs none is said nonetheless.
    for path in [*recorded, *config.output_dir.rglob(f"{journal.REPLAY_BUFFER}*")]:
        path.unlink()
    rows = tidy_rows(config, all_of_them=True)
    assert input_rows(rows) == input_rows(want)

    def of_the_buffer(row):
        of_scores = row.metric.startswith(("saliency_", "score")) and row.method == "taylor"
        return of_scores or row.metric.startswith(("dead_units", "dormant_units"))

    assert rows == [row for row in want if not of_the_buffer(row)]


def test_the_tables_of_a_grid(grown):
    tidy = tidy_rows(grown)
    rows, inputs = layer_rows(tidy), input_rows(tidy)
    assert not any(row.metric.startswith(("scores_", "train")) for row in rows)
    learned = {(row.metric, row.env_steps) for row in tidy if row.metric.startswith("train/") and row.method == "dense"}
    names = ("actor_loss", "alpha", "critic_loss", "entropy", "q_mean")
    assert learned == {
        (f"train/{name}", 400) for name in names
    }  # at the evaluations alone, the first of them before any
    runs = {row.run for row in rows}
    assert runs == {str(s.path) for s in plan(grown).specs if not isinstance(s, ConnectivitySpec)}
    named = [(row.input, row.name) for row in inputs if row.layer == "q1/layer_0"][:4]
    assert named == [(0, "cos(angle)"), (1, "sin(angle)"), (2, "angular velocity"), (3, "action[0]")]
    found = overlap_rows(tidy)
    masks = [s for s in plan(grown).specs if isinstance(s, MaskSpec)]
    pairs = {(row.differ_in, row.run, row.other_run) for row in found}
    by = {(s.method, s.round): str(s.path) for s in masks}
    assert {(what, *sorted(pair)) for what, *pair in pairs} == {
        *(("method", *sorted((by["magnitude", k], by["taylor", k]))) for k in (1, 2)),
        *(("round", *sorted((by[m, 1], by[m, 2]))) for m in ("magnitude", "taylor")),
    }
    for row in found:
        if row.differ_in == "round":  # what is pruned stays pruned
            assert row.shared == min(row.kept, row.kept_other)
        assert row.layer != "output"
    for row in found:
        if row.layer:  # what is in each layer is what the masks themselves say
            one, other = (lth.load_mask(next((grown.output_dir / run).glob("mask*.pkl"))) for run in row[:2])
            assert row[4:] in {tuple(layer) for layer in overlap(one[row.network], other[row.network])}
    paths = save_tables(grown.output_dir, tidy)
    names = ("table", "runs", "layers", "inputs", "overlap", "lines", "barriers")
    assert [path.name for path in paths] == [f"{name}.csv" for name in names]
    assert read_rows(paths[2], "", LayerRow, "") == rows
    mask = ("t", 0, "taylor", "", "0.8", "", "t/seed0/mask-taylor-0.8-00000000", 400, "saliency_shared/actor")
    assert unstable_masks([TidyRow(*mask, 0.79)])
    assert not unstable_masks([TidyRow(*mask, 0.8)])
    assert unstable_note(list("abc"), most=2) == "a\nb\n(and 1 more: saliency_shared in layers.csv)"
    assert unstable_note(list("ab"), most=2) == "a\nb"


def test_masks_are_compared_that_differ_in_one_thing(tmp_path):
    config = parse_config(
        {
            **SMALL,
            "tasks": ["Pendulum-v1", "InvertedPendulum-v5"],
            "seeds": [0, 1],
            "output_dir": str(tmp_path),
            "pruning": {
                "methods": ["magnitude", "random"],
                "sparsity": [0.5, 0.8],
                "rounds": 2,
                "controls": ["random-erk"],
            },
        }
    )
    specs = [spec for spec in plan(config).specs if isinstance(spec, MaskSpec)]
    by_path = {str(spec.path): spec for spec in specs}
    found = {(what, str(one.path), str(other.path)) for what, one, other in mask_pairs(specs)}
    # magnitude at 0.5 and at 0.8 after each of two rounds, random and random-erk at both: 8 masks a task and seed
    assert len(specs) == 2 * 2 * 8
    count = {what: sum(pair[0] == what for pair in found) for what in ("method", "seed", "task", "round")}
    # At each sparsity: random, random-erk and, in its second round, magnitude; only the randoms are of the same round.
    assert count == {"method": 4 * 2, "seed": 2 * 8, "task": 2 * 8, "round": 4 * 2}
    for what, one, other in found:
        a, b = by_path[one], by_path[other]
        differ = {
            *(["task"] if a.dense.task != b.dense.task else []),
            *(["seed"] if a.dense.seed != b.dense.seed else []),
            *(["method"] if (a.method, a.allocation) != (b.method, b.allocation) else []),
        }
        assert differ == ({what} - {"round"})
        assert (a.sparsity == b.sparsity) == (what != "round")
        if what == "round":
            assert b.previous.mask == a


def test_lines_between_agents_are_stages_of_the_grid(grown, tmp_path):
    root = grown.output_dir
    specs = [s for s in plan(grown).specs if isinstance(s, ConnectivitySpec)]
    kinds = [s.kind for s in specs]
    # Two methods in two rounds: four tickets, two of them with one before; and the dense agent trained again.
    assert {kind: kinds.count(kind) for kind in CONNECTIVITY} == {"parent": 4, "methods": 2, "rounds": 2, "noise": 5}
    assert len({s.path for s in specs}) == len(specs)
    assert [s.stage for s in plan(grown).only("connectivity-parent-magnitude-0.8").specs][-1] == "connectivity"
    for spec in specs:
        assert journal.is_made(root, spec, lottery.PLAIN.rewind_points)
        assert parse_spec(spec.model_dump(mode="json")) == spec
        line = records.read_line(root / spec.path)
        assert [row.alpha for row in line] == [a for a in (0.0, 0.5, 1.0) for _ in range(3)]
        ends = {(row.alpha, row.metric): row.value for row in line}
        for alpha, end in ((0.0, spec.one), (1.0, spec.other)):
            # Two episodes, as in the last evaluations of this grid.
            assert ends[alpha, "return"] == records.last_evaluation(root / end.path)["evaluation/return"]
    rows = line_rows(tidy_rows(grown))
    barriers = barrier_rows(rows)
    assert len(rows) == 9 * len(specs)
    assert len(barriers) == 3 * len(specs)
    assert all(row.barrier >= 0 for row in barriers)


def test_a_line_that_was_interrupted_is_measured_again_to_the_same_bytes(grown, tmp_path, monkeypatch):
    shutil.copytree(grown.output_dir, tmp_path / "copy")
    (spec,) = [
        s for s in plan(grown).specs if isinstance(s, ConnectivitySpec) and s.kind == "rounds" and "taylor" in s.title()
    ]
    run = tmp_path / "copy" / spec.path
    before = (run / journal.CONNECTIVITY).read_bytes()
    modified = (run / journal.CONNECTIVITY).stat().st_mtime_ns
    connect(tmp_path / "copy", spec)
    assert (run / journal.CONNECTIVITY).stat().st_mtime_ns == modified  # what is finished is not done again
    shutil.rmtree(run)
    with monkeypatch.context() as patch:
        patch.setattr(records, "save_line", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            connect(tmp_path / "copy", spec)
    assert not journal.is_finished(tmp_path / "copy", spec)
    connect(tmp_path / "copy", spec)
    assert (run / journal.CONNECTIVITY).read_bytes() == before
    (run / journal.CONNECTIVITY).write_bytes(before[:-5])
    with pytest.raises(InputError, match="altered or truncated"):
        journal.is_finished(tmp_path / "copy", spec)


def test_noise_trains_the_same_start_under_the_same_mask_once_more(grown):
    root = grown.output_dir
    for spec in (s for s in plan(grown).specs if isinstance(s, ConnectivitySpec) and s.kind == "noise"):
        one, other = (lth.load(root / s.path) for s in (spec.one, spec.other))
        starts = [lth.load((root / s.path), 0).agent.state for s in (spec.one, spec.other)]
        for network in ("actor", "critic"):
            assert jax.tree.all(jax.tree.map(np.array_equal, one.masks[network], other.masks[network]))
            before = [state.params[network] for state in starts]
            assert jax.tree.all(jax.tree.map(np.array_equal, *before))
            after = [run.agent.state.params[network] for run in (one, other)]
            assert not jax.tree.all(jax.tree.map(np.array_equal, *after))
            for mask, params in zip((one.masks, other.masks), after, strict=True):
                pruned = jax.tree.map(lambda m, p: not np.any(np.asarray(p)[np.asarray(m) == 0]), mask[network], params)
                assert jax.tree.all(pruned)


def test_without_a_wish_nothing_is_compared():
    config = parse_config(SMALL)
    assert not any(isinstance(spec, ConnectivitySpec) for spec in plan(config).specs)
    with pytest.raises(InputError, match="did you mean 'parent'"):
        parse_config({**SMALL, "analysis": {"connectivity": ["parents"]}})


def test_comparisons_are_listed_by_dry_run_and_status(grown, tmp_path, capsys):
    words = ["seeds=[0]", "pruning.methods=[magnitude]", "analysis.connectivity=parent", f"output_dir={tmp_path}"]
    path = tmp_path / "c.yaml"
    path.write_text("{}")
    assert main(["run", str(path), *words, "--dry-run"]) == 0
    assert "connectivity parent magnitude 80 %" in " ".join(capsys.readouterr().out.split())
    assert main(["status", str(path), *words]) == 0
    assert "4 runs: 4 to do" in " ".join(capsys.readouterr().out.split())


# Names of observations

JOINTS = {
    "HalfCheetah-v5": ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot"),
    "Hopper-v5": ("thigh", "leg", "foot"),
    "Walker2d-v5": ("thigh", "leg", "foot", "left thigh", "left leg", "left foot"),
    "Swimmer-v5": ("rotor 1", "rotor 2"),
    "Ant-v5": tuple(
        f"{leg} {joint}"
        for leg in ("front left", "front right", "back left", "back right")
        for joint in ("hip", "ankle")
    ),
    "Humanoid-v5": (
        *("abdomen z", "abdomen y", "abdomen x", "right hip x", "right hip z", "right hip y", "right knee"),
        *("left hip x", "left hip z", "left hip y", "left knee", "right shoulder 1", "right shoulder 2", "right elbow"),
        *("left shoulder 1", "left shoulder 2", "left elbow"),
    ),
}
IN_THE_MODEL = {
    "HalfCheetah-v5": ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
    "Hopper-v5": ("thigh_joint", "leg_joint", "foot_joint"),
    "Walker2d-v5": (
        *("thigh_joint", "leg_joint", "foot_joint"),
        *("thigh_left_joint", "leg_left_joint", "foot_left_joint"),
    ),
    "Swimmer-v5": ("motor1_rot", "motor2_rot"),
    "Ant-v5": tuple(f"{joint}_{leg}" for leg in (1, 2, 3, 4) for joint in ("hip", "ankle")),
    "Humanoid-v5": tuple(label.replace("shoulder ", "shoulder").replace(" ", "_") for label in JOINTS["Humanoid-v5"]),
}
OTHERS = ["Pendulum-v1", "MountainCarContinuous-v0", "InvertedPendulum-v5", "InvertedDoublePendulum-v5"]
OTHERS += ["Reacher-v5", "Pusher-v5", "HumanoidStandup-v5"]


@pytest.mark.parametrize("task", [*JOINTS, *OTHERS])
def test_names_are_as_many_as_the_task_has_numbers(task):
    names = observation_names(task, envs.task_spaces(task).observation_dim)
    assert len(names) == len(set(names)) == envs.task_spaces(task).observation_dim
    assert not any(name.startswith("obs[") for name in names)


@pytest.mark.parametrize("task", JOINTS)
def test_joints_stand_where_the_simulator_has_them(task):
    env = envs.make(task).unwrapped
    names = observation_names(task, env.observation_space.shape[0])
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    qpos, qvel = rng.normal(size=env.model.nq), rng.normal(size=env.model.nv)
    env.set_state(qpos, np.clip(qvel, -5, 5))
    observation = env._get_obs()
    for label, joint in zip(JOINTS[task], IN_THE_MODEL[task], strict=True):
        found = env.model.joint(joint)
        assert observation[names.index(f"{label} angle")] == env.data.qpos[found.qposadr[0]]
        assert observation[names.index(f"{label} velocity")] == env.data.qvel[found.dofadr[0]]
    root = {"Ant-v5": ("root", 2), "Humanoid-v5": ("root", 2), "Swimmer-v5": None}.get(task, ("rootz", 0))
    if root:
        joint = env.model.joint(root[0])
        assert observation[names.index("height")] == env.data.qpos[joint.qposadr[0] + root[1]]
        assert observation[names.index("z velocity")] == env.data.qvel[joint.dofadr[0] + root[1]]
    if task == "Ant-v5":
        env.data.cfrc_ext[:] = np.arange(14 * 6).reshape(14, 6) / 100
        observation = env._get_obs()
        assert observation[names.index("contact torque x on torso")] == 0.06
        last = env.model.body("aux_4").id
        assert observation[names.index("contact force z on back right leg")] == (6 * last + 5) / 100
    if task == "Humanoid-v5":
        observation = env._get_obs()
        pelvis = env.model.body("pelvis").id
        assert observation[names.index("mass of pelvis")] == env.data.cinert[pelvis][9] == env.model.body_mass[pelvis]
        assert observation[names.index("velocity x of pelvis")] == env.data.cvel[pelvis][3]


def test_metaworlds_observation():
    env = envs.make("drawer-close-v3", 0)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(np.array([0.5, -0.5, 0.5, 1.0], np.float32))
    names = observation_names("drawer-close-v3", 39)
    assert len(names) == len(set(names)) == 39
    inner = env.unwrapped._env

    def value(*wanted):
        return [second[names.index(name)] for name in wanted]

    np.testing.assert_allclose(value("hand x", "hand y", "hand z"), inner.get_endeff_pos(), rtol=1e-6)
    things = inner._get_pos_objects()
    np.testing.assert_allclose(value("object 1 x", "object 1 y", "object 1 z"), things[:3], rtol=1e-6)
    quaternion = [f"object 1 quaternion {part}" for part in "wxyz"]
    np.testing.assert_allclose(value(*quaternion), inner._get_quat_objects()[:4], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(value("goal x", "goal y", "goal z"), inner._target_pos, rtol=1e-6)
    assert value("previous hand y") == [first[names.index("hand y")]]
    assert value("previous gripper opening") == [first[names.index("gripper opening")]]


def test_tasks_that_are_not_known_get_numbers():
    assert observation_names("my_tasks:Hopper-v5", 11) == [f"obs[{i}]" for i in range(11)]
    assert observation_names("Hopper-v5", 12)[0] == "obs[0]"
    assert observation_names("Ant-v4", 27)[26] == "obs[26]"
    assert observation_names("HalfCheetah-v4", 17)[1] == "pitch"
