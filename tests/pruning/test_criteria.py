"""Scores against values computed by hand or by finite differences, and gradients against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth.pruning.criteria import CRITERIA
from lth.pruning.gradients import STATISTICS

# One hidden unit a column: y = relu(x A) B, loss (y - t)^2 / 2.
A, B = np.array([[1.0, -0.5], [0.25, 2.0]]), np.array([[1.5], [-1.0]])
DATA = [(np.array([1.0, 2.0]), np.array([0.5])), (np.array([-3.0, 4.0]), np.array([-20.0]))]


def params():
    return [(jnp.asarray(A, jnp.float32),), (jnp.asarray(B, jnp.float32),)]


def loss(params, batch):
    (a,), (b,) = params
    return 0.5 * jnp.sum((jax.nn.relu(batch[0] @ a) @ b - batch[1]) ** 2)


def by_hand(a, b, x, t):
    """Return the loss' gradients by A and B, as backpropagation writes them."""
    hidden = np.maximum(x @ a, 0)
    error = hidden @ b - t
    return np.outer(x, (b[:, 0] * error) * (x @ a > 0)), np.outer(hidden, error)


def gradients(a=A, b=B):
    return [by_hand(a, b, *data) for data in DATA]


def scores(criterion, loss=loss, batches=DATA):
    row = CRITERIA[criterion]
    statistic = lth.gradient_statistic(loss, params(), batches, row.statistic)
    return [np.asarray(row.score(w, s)) for (w,), (s,) in zip(params(), statistic, strict=True)]


@pytest.mark.parametrize(
    ("criterion", "formula"),
    [
        ("gradient", lambda w, g: np.mean(np.abs(g), axis=0)),
        ("taylor", lambda w, g: np.abs(w) * np.mean(np.abs(g), axis=0)),
        ("snip", lambda w, g: np.abs(w * np.mean(g, axis=0))),
        ("fisher", lambda w, g: w**2 * np.mean(g**2, axis=0)),
    ],
)
def test_first_order_scores_by_hand(criterion, formula):
    for found, w, which in zip(scores(criterion), (A, B), (0, 1), strict=True):
        np.testing.assert_allclose(found, formula(w, np.array([g[which] for g in gradients()])), rtol=1e-5)


def test_the_ways_of_averaging_differ():
    assert not np.allclose(scores("taylor")[1], scores("snip")[1])


def test_grasp_by_finite_differences():
    """w H g is half the derivative of |g|^2 by the logarithm of w, so minus half its first-order change when w goes to 0."""

    def squared_norm(flat):
        a, b = flat[:4].reshape(2, 2), flat[4:].reshape(2, 1)
        means = [np.mean([g[i] for g in gradients(a, b)], axis=0) for i in (0, 1)]
        return sum((m**2).sum() for m in means)

    at, step = np.concatenate([A.ravel(), B.ravel()]), 1e-5
    slopes = [(squared_norm(at + step * e) - squared_norm(at - step * e)) / (2 * step) for e in np.eye(6)]
    found = np.concatenate([s.ravel() for s in scores("grasp")])
    np.testing.assert_allclose(found, at * np.array(slopes) / 2, rtol=1e-4)
    assert (found < 0).any()
    assert (found > 0).any()


def flow(params, ones):
    (a,), (b,) = params
    return jnp.sum(jax.nn.relu(ones @ a) @ b)


def test_synflow_is_the_sum_over_paths_and_is_conserved():
    first, second = scores("synflow", flow, [np.ones(2)])
    paths = np.abs(A)[:, :, None] * np.abs(B)[None]  # of each path the product of its |w|
    np.testing.assert_allclose(first, paths.sum(2), rtol=1e-6)
    np.testing.assert_allclose(second, paths.sum(0), rtol=1e-6)
    np.testing.assert_allclose(first.sum(), second.sum(), rtol=1e-6)  # theorem 1 of the paper


def test_synflow_in_rounds_leaves_paths_where_one_shot_breaks_them():
    rng = np.random.default_rng(0)
    wide = [(rng.normal(size=s).astype(np.float32) * k,) for s, k in (((8, 30), 1.0), ((30, 30), 0.03), ((30, 2), 1.0))]

    def chain(params, x):
        for (w,) in params:
            x = x @ w
        return jnp.sum(x)

    given = {"loss": chain, "batches": [np.ones(8)], "collapse": "allow"}
    kept = lth.prune(wide, 0.99, "synflow", **given)
    assert lth.pruning.masks.emptied_layers(kept) == []
    assert float(chain([(jnp.abs(w) * m,) for (w,), (m,) in zip(wide, kept, strict=True)], jnp.ones(8))) > 0
    assert lth.pruning.masks.emptied_layers(lth.prune(wide, 0.99, collapse="allow")) != []


def test_our_flow_is_the_networks_without_biases_and_clipping():
    from lth.algorithms.architecture import Spaces
    from lth.config import SACConfig
    from lth.saliency import synaptic_flow

    state = SACConfig(actor_hidden=(4, 5), critic_hidden=(3,)).build(Spaces(3, 1)).init(jax.random.key(0))

    def product(layers, names):
        out = np.ones(layers[names[0]]["kernel"].shape[0])
        for name in names:
            out = out @ np.asarray(layers[name]["kernel"])
        return out.sum()

    critics = sum(product(state.params["critic"][q], ["layer_0", "output"]) for q in ("q1", "q2"))
    whole = product(state.params["actor"], ["layer_0", "layer_1", "output"]) + critics
    assert float(synaptic_flow(state.params)) == pytest.approx(whole, rel=1e-5)


def test_statistics_of_a_replay_buffer_are_those_of_its_batches():
    class Buffer:
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def sample(self, batch_size):
            i = self.rng.integers(0, 2, batch_size)
            return np.array([DATA[k][0] for k in i]), np.array([DATA[k][1] for k in i])

    buffer = Buffer()
    batches = [buffer.sample(4) for _ in range(3)]
    assert len(STATISTICS) == 5
    for statistic in ("mean", "mean_square"):
        one, other = (
            lth.gradient_statistic(loss, params(), source, statistic, num_batches=3, batch_size=4)
            for source in (Buffer(), iter(batches))
        )
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))
