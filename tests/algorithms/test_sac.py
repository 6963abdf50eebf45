"""SAC against answers that are known without it: probe environments, closed forms, and a second copy in plain NumPy."""

import pickle
from fractions import Fraction
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.probes import beginning, best_actions, last, segments
from hypothesis import given, settings
from hypothesis import strategies as st

from lth.algorithms.acting import act, policy_of
from lth.algorithms.architecture import Spaces
from lth.algorithms.base import MOST_SEEN, Agent, Normalizer, normalize, update_normalizer
from lth.algorithms.learner import update
from lth.algorithms.sac.algorithm import gaussian_of
from lth.algorithms.sac.losses import sample_action
from lth.config import SACConfig, TrainingConfig
from lth.errors import InputError, TrainingError
from lth.replay import ReplayBuffer, init_replay, insert, pack_rows, sample_rows, unpack_rows
from lth.types import Batch

# ---------------------------------------------------------------------------------------------------------------------


# A temperature so small that the entropy it adds to a target, alpha * discount * H with |H| < 9, is below 0.01.
GREEDY = SACConfig(
    actor_hidden=(32, 32),
    critic_hidden=(32, 32),
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    alpha_learning_rate=1e-3,
    initial_alpha=1e-3,
    target_entropy=-8.0,
    discount=0.5,
    tau=0.05,
)
SHORT = TrainingConfig(env_steps=1500, start_steps=300, batch_size=64, segment_steps=500)
TINY = SACConfig(actor_hidden=(8,), critic_hidden=(8,), actor_learning_rate=1e-2, critic_learning_rate=1e-2)
TOLERANCE = 0.05


def loop(**changes):
    """A short loop. Its sizes stay the same wherever they can, so that little is compiled."""
    return TrainingConfig(**{"env_steps": 240, "start_steps": 100, "batch_size": 16, "segment_steps": 60, **changes})


def same_bytes(a, b):
    """Say whether two pytrees are equal to the bit."""

    def raw(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    a_leaves, a_tree = jax.tree.flatten(a)
    b_leaves, b_tree = jax.tree.flatten(b)
    return a_tree == b_tree and all(
        raw(x).dtype == raw(y).dtype and raw(x).shape == raw(y).shape and raw(x).tobytes() == raw(y).tobytes()
        for x, y in zip(a_leaves, b_leaves, strict=True)
    )


def values_of(config, state, observations, actions):
    """Return both critics' values, (2, n), of raw one-dimensional observations and actions."""
    observations = jnp.asarray(observations, jnp.float32)[:, None]
    if config.normalize_obs:
        observations = normalize(state.normalizer, observations)
    critic_apply = config.build(Spaces(1, 1)).applies()["critic"]
    return np.asarray(critic_apply(state.params["critic"], observations, jnp.asarray(actions, jnp.float32)[:, None]))


def actor_of(config, observation_dim, action_dim):
    """Return the actor as a function of parameters and normalised observations to mean and log_std."""
    return gaussian_of(config.build(Spaces(observation_dim, action_dim)).applies()["actor"])


EVERYWHERE = [-0.9, -0.5, 0.0, 0.5, 0.9]


@pytest.mark.parametrize(
    ("task", "observations", "actions", "expected"),
    [
        ("ProbeConstant-v0", [0.7] * 5, EVERYWHERE, [1.0] * 5),
        ("ProbeFollowsObservation-v0", [-1.0, -1.0, 1.0, 1.0], [-0.5, 0.5, -0.5, 0.5], [-1.0, -1.0, 1.0, 1.0]),
        # discount 0.5: the start is worth half of the end
        ("ProbeTwoSteps-v0", [0.0, 0.0, 1.0, 1.0], [-0.5, 0.5, -0.5, 0.5], [0.5, 0.5, 1.0, 1.0]),
        ("ProbeActionMatters-v0", [0.7] * 4, [-0.5, 0.0, 0.5, 0.9], [0.0, 0.75, 1.0, 0.84]),
        ("ProbeBothMatter-v0", [-1.0, -1.0, 1.0, 1.0], [-0.5, 0.5, -0.5, 0.5], [1.0, 0.0, 0.0, 1.0]),
        # a time limit is no end: 1 + 0.5 + 0.25 + ... = 2 ...
        ("ProbeForever-v0", [0.7] * 5, EVERYWHERE, [2.0] * 5),
        # ... unless the task ends at the same step
        ("ProbeTerminatedAtTheLimit-v0", [0.7] * 5, EVERYWHERE, [1.0] * 5),
    ],
)
def test_probes_have_the_known_action_values(task, observations, actions, expected):
    values = values_of(GREEDY, last(GREEDY, SHORT, task).state, observations, actions)
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("task", "observations", "expected"),
    [("ProbeActionMatters-v0", [0.7], [0.5]), ("ProbeBothMatter-v0", [-1.0, 1.0], [-0.5, 0.5])],
)
def test_probes_teach_the_known_policy(task, observations, expected):
    segment = last(GREEDY, SHORT, task)
    np.testing.assert_allclose(best_actions(GREEDY, segment.state, observations), expected, atol=0.1)
    assert segment.metrics["train/return"] > 0.97  # of the explored actions, so the noise is small too


def test_entropy_is_part_of_the_value():
    # Nothing depends on the action, so the best policy is the most random one. Uniform on (-1, 1) has entropy log 2,
    # and a tanh-Gaussian comes within 0.02 of it: Q = (1 + 0.5 * alpha * log 2) / (1 - 0.5) with alpha = 1.
    config = GREEDY.model_copy(update={"initial_alpha": 1.0, "alpha_learning_rate": 1e-9})
    segment = last(config, SHORT, "ProbeForever-v0")
    assert segment.metrics["train/alpha"] == pytest.approx(1.0, abs=1e-4)
    values = values_of(config, segment.state, [0.7] * 5, EVERYWHERE)
    np.testing.assert_allclose(values, 2.0 + np.log(2.0), atol=0.08)


def test_reward_scale_scales_what_is_learned_and_not_what_is_stored():
    config = GREEDY.model_copy(update={"reward_scale": 0.25, "normalize_obs": False})
    segment = last(config, SHORT, "ProbeConstant-v0")
    np.testing.assert_allclose(values_of(config, segment.state, [0.7] * 5, EVERYWHERE), 0.25, atol=0.02)
    assert (np.asarray(unpack_rows(segment.replay.rows, 1).rewards) == 1.0).all()
    assert segment.metrics["train/return"] == 1.0


def test_layer_norm_sizes_apart_and_two_environments_learn_too():
    config = GREEDY.model_copy(update={"actor_hidden": (16,), "critic_hidden": (32, 24), "critic_layer_norm": True})
    training = SHORT.model_copy(update={"num_envs": 2})
    start = beginning(config, training, "ProbeBothMatter-v0")
    segment = last(config, training, "ProbeBothMatter-v0", start=start)
    values = values_of(config, segment.state, [-1.0, -1.0, 1.0, 1.0], [-0.5, 0.5, -0.5, 0.5])
    np.testing.assert_allclose(values, np.broadcast_to([1.0, 0.0, 0.0, 1.0], values.shape), atol=0.1)
    np.testing.assert_allclose(best_actions(config, segment.state, [-1.0, 1.0]), [-0.5, 0.5], atol=0.1)

    def shapes(params):
        return jax.tree.map(np.shape, params)

    dense = {"layer_0": {"bias": (16,), "kernel": (1, 16)}, "output": {"bias": (2,), "kernel": (16, 2)}}
    assert shapes(segment.state.params["actor"]) == dense
    one = {
        "layer_0": {"bias": (32,), "kernel": (2, 32)},
        "norm_0": {"bias": (32,), "scale": (32,)},
        "layer_1": {"bias": (24,), "kernel": (32, 24)},
        "norm_1": {"bias": (24,), "scale": (24,)},
        "output": {"bias": (1,), "kernel": (24, 1)},
    }
    assert shapes(segment.state.params["critic"]) == {"q1": one, "q2": one}
    critics = segment.state.params["critic"]
    for params in (critics["q1"], critics["q2"]):
        assert (params["norm_1"]["scale"] != 1.0).all()
    assert not same_bytes(critics["q1"], critics["q2"])


# ---------------------------------------------------------------------------------------------------------------------
# The log-probability of a squashed Gaussian.


def log_prob(mean, log_std, noise):
    noise = jnp.asarray(noise, jnp.float32)[:, None]
    ones = jnp.ones_like(noise)
    actions, result = sample_action(mean * ones, log_std * ones, noise)
    return np.asarray(actions, np.float64)[:, 0], np.asarray(result, np.float64)


@pytest.mark.parametrize("log_std", [-4.0, -1.0, 0.0, 0.5])
@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.5, 3.0])
def test_density_integrates_to_one(mean, log_std):
    noise = np.linspace(-8.0, 8.0, 20_001, dtype=np.float32)
    actions, result = log_prob(mean, log_std, noise)
    exact = np.tanh(mean + np.exp(log_std) * noise.astype(np.float64))
    np.testing.assert_allclose(actions, exact, atol=1e-6)
    assert np.trapezoid(np.exp(result), exact) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("log_std", [-20.0, -4.0, -1.0, 0.0])
@pytest.mark.parametrize("mean", [-8.0, -1.0, 0.0, 0.5, 8.0])
def test_density_is_the_derivative_of_the_distribution(mean, log_std):
    noise = np.array([-2.0, -0.5, 0.0, 1.0, 2.5], np.float32)
    std = float(np.exp(log_std))
    _, result = log_prob(mean, log_std, noise)
    if log_std == -20.0:
        # The Gaussian is narrower than float64 resolves around tanh(mean); its density comes from the formula.
        squash = -2.0 * (abs(mean) + np.log1p(np.exp(-2.0 * abs(mean))) - np.log(2.0))
        expected = -0.5 * noise**2 + 20.0 - 0.5 * np.log(2.0 * np.pi) - squash
    else:
        a = np.tanh(mean + std * noise.astype(np.float64))
        h = 1e-3 * min(std, 1.0) * (1.0 - a**2)
        below, above = np.arctanh(a - h), np.arctanh(a + h)
        normal = NormalDist(mean, std)
        expected = [np.log((normal.cdf(y) - normal.cdf(x)) / (2 * d)) for x, y, d in zip(below, above, h, strict=True)]
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_log_probability_and_gradients_are_finite_and_right_at_the_extremes():
    mean, log_std, noise = np.meshgrid([-50.0, -8.0, 0.0, 0.3, 8.0, 50.0], [-20.0, -3.0, 0.0, 2.0], [-4.0, 0.0, 4.0])
    mean, log_std, noise = (x.reshape(-1, 1).astype(np.float32) for x in (mean, log_std, noise))

    def total(mean, log_std):
        return jnp.sum(sample_action(mean, log_std, noise)[1])

    def total_action(mean, log_std):
        return jnp.sum(sample_action(mean, log_std, noise)[0])

    actions, result = sample_action(mean, log_std, noise)
    assert np.isfinite(result).all()
    assert (np.abs(actions) <= 1.0).all()
    by_mean, by_log_std = jax.grad(total, (0, 1))(mean, log_std)
    step = np.exp(log_std) * noise
    np.testing.assert_allclose(by_mean, 2 * np.tanh(mean + step), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_log_std, 2 * np.tanh(mean + step) * step - 1, rtol=1e-4, atol=1e-5)
    for gradient in jax.grad(total_action, (0, 1))(mean, log_std):
        assert np.isfinite(gradient).all()


def test_log_probability_sums_over_the_action_dimensions():
    rng = np.random.default_rng(0)
    mean, log_std, noise = (rng.standard_normal((7, 3)).astype(np.float32) for _ in range(3))
    actions, result = sample_action(mean, log_std, noise)
    assert actions.shape == (7, 3)
    parts = [sample_action(mean[:, [i]], log_std[:, [i]], noise[:, [i]])[1] for i in range(3)]
    np.testing.assert_allclose(result, np.sum(parts, axis=0), rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# One update, against the paper's formulas in float64 NumPy with gradients by finite differences.


def forward(layers, x):
    for i in range(sum(name.startswith("layer_") for name in layers)):
        x = x @ layers[f"layer_{i}"]["kernel"] + layers[f"layer_{i}"]["bias"]
        if f"norm_{i}" in layers:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
            x = x * layers[f"norm_{i}"]["scale"] + layers[f"norm_{i}"]["bias"]
        x = np.maximum(x, 0.0)
    return x @ layers["output"]["kernel"] + layers["output"]["bias"]


def sampled(actor, observations, noise):
    out = forward(actor, observations)
    n = out.shape[1] // 2
    mean, std = out[:, :n], np.exp(np.clip(out[:, n:], -20.0, 2.0))
    u = mean + std * noise
    gaussian = -0.5 * ((u - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
    return np.tanh(u), (gaussian + 2.0 * (np.logaddexp(u, -u) - np.log(2.0))).sum(1)  # 1 - tanh^2 = 1 / cosh^2


def both_values(critic, observations, actions):
    x = np.concatenate([observations, actions], axis=1)
    return forward(critic["q1"], x)[:, 0], forward(critic["q2"], x)[:, 0]


def numeric_gradient(loss, params):
    leaves, treedef = jax.tree.flatten(params)
    gradient = [np.zeros_like(leaf) for leaf in leaves]
    for leaf, out in zip(leaves, gradient, strict=True):
        for at in np.ndindex(leaf.shape):
            kept, h = leaf[at], 1e-6
            leaf[at] = kept + h
            above = loss(treedef.unflatten(leaves))
            leaf[at] = kept - h
            out[at] = (above - loss(treedef.unflatten(leaves))) / (2 * h)
            leaf[at] = kept
    return treedef.unflatten(gradient)


class Adam:
    """Adam as its paper has it, on a pytree."""

    def __init__(self, learning_rate, params, max_norm=None):
        self.learning_rate, self.max_norm, self.steps = learning_rate, max_norm, 0
        self.first = self.second = jax.tree.map(np.zeros_like, params)

    def step(self, params, gradient):
        if self.max_norm is not None:
            norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))
            gradient = jax.tree.map(lambda g: g * min(1.0, self.max_norm / norm), gradient)
        self.steps += 1
        self.first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, self.first, gradient)
        self.second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, self.second, gradient)
        a, b = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        return jax.tree.map(
            lambda p, m, v: p - self.learning_rate * (m / a) / (np.sqrt(v / b) + 1e-8), params, self.first, self.second
        )


def float64(tree):
    return jax.tree.map(lambda leaf: np.array(leaf, np.float64), tree)


def random_state(config, observation_dim, action_dim, seed=0):
    """An untrained state whose biases, norms, targets and normaliser are not at their neutral values."""
    rng = np.random.default_rng(seed)
    state = config.build(Spaces(observation_dim, action_dim)).init(jax.random.key(seed))

    def shake(params):
        return jax.tree.map(lambda p: p + jnp.asarray(0.3 * rng.standard_normal(p.shape), jnp.float32), params)

    return state._replace(
        params={"actor": shake(state.params["actor"]), "critic": shake(state.params["critic"])},
        targets={"critic": shake(state.targets["critic"])},
        normalizer=Normalizer(
            jnp.asarray(rng.standard_normal(observation_dim), jnp.float32),
            jnp.asarray(rng.uniform(0.5, 2.0, observation_dim), jnp.float32),
            jnp.float32(10.0),
        ),
    )


PLAIN = SACConfig(
    actor_hidden=(4,),
    critic_hidden=(5,),
    actor_learning_rate=0.01,
    critic_learning_rate=0.05,
    alpha_learning_rate=0.02,
    discount=0.9,
    tau=0.1,
    initial_alpha=0.3,
    normalize_obs=False,
)
FULL = PLAIN.model_copy(
    update={
        "actor_hidden": (4, 3),
        "critic_hidden": (3, 4),
        "critic_layer_norm": True,
        "normalize_obs": True,
        "reward_scale": 2.5,
        "max_grad_norm": 0.2,
        "target_entropy": 0.7,
        "temperature_loss": "alpha",
    }
)


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "all options"])
def test_update_follows_the_paper(config):
    observation_dim, action_dim, n = 3, 2, 6
    rng = np.random.default_rng(1)
    algorithm = config.build(Spaces(observation_dim, action_dim))
    state = random_state(config, observation_dim, action_dim)
    learn = jax.jit(update, static_argnums=0)

    actor, critic, target = float64((state.params["actor"], state.params["critic"], state.targets["critic"]))
    log_alpha = np.array(np.log(config.initial_alpha))
    actor_adam = Adam(config.actor_learning_rate, actor, config.max_grad_norm)
    critic_adam = Adam(config.critic_learning_rate, critic, config.max_grad_norm)
    alpha_adam = Adam(config.alpha_learning_rate, log_alpha)
    aim = -action_dim if config.target_entropy is None else config.target_entropy
    center, spread = float64((state.normalizer.mean, np.sqrt(state.normalizer.variance)))
    normalizer = state.normalizer

    for i in range(3):
        raw = Batch(
            *(x.astype(np.float32) for x in (rng.standard_normal((n, observation_dim)), rng.uniform(-1, 1, (n, 2)))),
            rng.standard_normal(n).astype(np.float32),
            rng.standard_normal((n, observation_dim)).astype(np.float32),
            np.array([0, 1, 0, 0, 1, 0], np.float32),
        )
        if config.normalize_obs:
            raw.observations[0, 0], raw.next_observations[0, 1] = 100.0, -100.0  # clipped
        noise = rng.standard_normal((2, n, action_dim)).astype(np.float32)
        first_noise, second_noise = float64(noise)

        seen, seen_next = float64((raw.observations, raw.next_observations))
        if config.normalize_obs:
            seen, seen_next = (np.clip((x - center) / spread, -10.0, 10.0) for x in (seen, seen_next))
        alpha = np.exp(log_alpha)

        next_actions, next_log_prob = sampled(actor, seen_next, first_noise)
        next_value = np.minimum(*both_values(target, seen_next, next_actions)) - alpha * next_log_prob
        goal = config.reward_scale * raw.rewards + config.discount * (1.0 - raw.terminated) * next_value

        def critic_loss(critic, seen=seen, raw=raw, goal=goal):
            return sum(0.5 * ((q - goal) ** 2).mean() for q in both_values(critic, seen, raw.actions))

        expected = {
            "critic_loss": critic_loss(critic),
            "q_mean": np.mean(both_values(critic, seen, raw.actions)),
        }
        critic = critic_adam.step(critic, numeric_gradient(critic_loss, critic))

        # From here on with the critics just updated.
        def actor_loss(actor, seen=seen, noise=second_noise, alpha=alpha, critic=critic):
            actions, log_prob = sampled(actor, seen, noise)
            return (alpha * log_prob - np.minimum(*both_values(critic, seen, actions))).mean()

        mean_log_prob = sampled(actor, seen, second_noise)[1].mean()
        expected |= {"actor_loss": actor_loss(actor), "entropy": -mean_log_prob}
        actor = actor_adam.step(actor, numeric_gradient(actor_loss, actor))
        linear_in = alpha if config.temperature_loss == "alpha" else 1.0
        log_alpha = alpha_adam.step(log_alpha, -linear_in * (mean_log_prob + aim))
        expected["alpha"] = np.exp(log_alpha)
        target = jax.tree.map(lambda t, c: (1.0 - config.tau) * t + config.tau * c, target, critic)

        state, metrics = learn(algorithm, state, raw, noise)
        for metric, value in expected.items():
            np.testing.assert_allclose(metrics[metric], value, rtol=1e-4, atol=1e-5, err_msg=metric)
        assert set(metrics) == set(expected)
        for have, want in (
            (state.params["critic"], critic),
            (state.params["actor"], actor),
            (state.targets["critic"], target),
            (state.values["log_alpha"], log_alpha),
        ):
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), have, want)
        assert int(state.grad_steps) == i + 1

    assert same_bytes(state.normalizer, normalizer)
    assert int(state.env_steps) == 0


def test_target_entropy_is_minus_the_action_dimensions_unless_it_is_given():
    spaces = Spaces(5, 3)
    assert SACConfig().build(spaces).target_entropy == -3.0
    assert SACConfig(target_entropy=0.0).build(spaces).target_entropy == 0.0
    assert SACConfig(target_entropy=-8.0).build(spaces).target_entropy == -8.0


def test_target_critics_start_equal_and_the_twins_apart():
    state = TINY.build(Spaces(3, 2)).init(jax.random.key(0))
    assert same_bytes(state.params["critic"], state.targets["critic"])
    kernels = [state.params["critic"][name]["layer_0"]["kernel"] for name in ("q1", "q2")]
    assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).all()


def test_max_grad_norm_bounds_what_huge_rewards_do():
    # After one update Adam's first moment is a tenth of the gradient.
    rng = np.random.default_rng(0)
    raw = Batch(
        *(rng.uniform(-1, 1, (8, d)).astype(np.float32) for d in (3, 2)),
        np.full(8, 1e8, np.float32),
        rng.uniform(-1, 1, (8, 3)).astype(np.float32),
        np.zeros(8, np.float32),
    )

    def moments(config):
        algorithm = config.build(Spaces(3, 2))
        learn = jax.jit(update, static_argnums=0)
        state, metrics = learn(
            algorithm, algorithm.init(jax.random.key(0)), raw, rng.standard_normal((2, 8, 2)).astype(np.float32)
        )
        assert np.isfinite(list(metrics.values())).all()
        norms = []
        for opt in (state.opts["critic"], state.opts["actor"]):
            first = [node.mu for node in jax.tree.leaves(opt.inner, is_leaf=has_moments) if has_moments(node)]
            norms.append(float(np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(first)))))
        return norms

    def has_moments(node):
        return hasattr(node, "mu")

    assert moments(TINY)[0] > 1e6
    critic, actor = moments(TINY.model_copy(update={"max_grad_norm": 0.5}))
    assert critic == pytest.approx(0.05, rel=1e-4)
    assert 0.0 < actor <= 0.05 * (1 + 1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Acting and the normaliser.


@pytest.mark.parametrize("sizes", [(16, 8), ()])
@pytest.mark.parametrize("normalize_obs", [True, False])
def test_numpy_acts_as_the_jax_actor_does(sizes, normalize_obs):
    config = SACConfig(actor_hidden=sizes, critic_hidden=(4,), normalize_obs=normalize_obs)
    observation_dim, action_dim, n = 5, 3, 40
    state = random_state(config, observation_dim, action_dim, seed=3)
    params = dict(state.params["actor"])
    # One log_std beyond the upper end of its range and one far down.
    shift = jnp.zeros(2 * action_dim).at[action_dim].set(6.0).at[action_dim + 1].set(-15.0)
    params["output"] = {"kernel": 0.2 * params["output"]["kernel"], "bias": params["output"]["bias"] + shift}
    state = state._replace(params={**state.params, "actor": params})
    rng = np.random.default_rng(4)
    observations = rng.standard_normal((n, observation_dim)).astype(np.float32)
    observations[::2] *= 30.0  # beyond where normalised observations are clipped
    noise = rng.standard_normal((n, action_dim)).astype(np.float32)

    seen = normalize(state.normalizer, jnp.asarray(observations)) if normalize_obs else jnp.asarray(observations)
    assert np.abs(seen).max() == 10.0 if normalize_obs else np.abs(seen).max() > 20.0
    mean, log_std = actor_of(config, observation_dim, action_dim)(state.params["actor"], seen)
    assert float(log_std.max()) == 2.0
    policy = policy_of(Agent(config, state))

    sampled_actions, mean_actions = act(policy, observations, noise), act(policy, observations)
    np.testing.assert_allclose(sampled_actions, sample_action(mean, log_std, noise)[0], atol=1e-5)
    np.testing.assert_allclose(mean_actions, np.tanh(mean), atol=1e-5)
    assert np.abs(sampled_actions - mean_actions).max() > 0.1
    assert sampled_actions.dtype == mean_actions.dtype == np.float32


def test_policy_of_a_trained_agent_acts_as_its_networks_do():
    segment = last(GREEDY, SHORT, "ProbeBothMatter-v0", until=1000)
    seen = normalize(segment.state.normalizer, jnp.array([[-1.0], [1.0]]))
    mean, _ = actor_of(GREEDY, 1, 1)(segment.state.params["actor"], seen)
    np.testing.assert_allclose(best_actions(GREEDY, segment.state, [-1.0, 1.0]), np.tanh(mean)[:, 0], atol=1e-5)


merge = jax.jit(update_normalizer)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([1, 2, 7]), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.01, 1.0, 1000.0]),
    st.sampled_from([-50.0, 0.0, 3.0]),
)
def test_normalizer_is_the_mean_and_variance_of_all_data(sizes, seed, spread, center):
    rng = np.random.default_rng(seed)
    batches = [(spread * (center + rng.standard_normal((n, 2)))).astype(np.float32) for n in sizes]
    normalizer = Normalizer(jnp.zeros(2), jnp.ones(2), jnp.zeros(()))
    for batch in batches:
        normalizer = merge(normalizer, batch)
    everything = np.concatenate(batches).astype(np.float64)
    largest = np.abs(everything).max()
    np.testing.assert_allclose(normalizer.mean, everything.mean(0), rtol=1e-5, atol=1e-5 * largest)
    np.testing.assert_allclose(normalizer.variance, everything.var(0), rtol=1e-3, atol=1e-8 * largest**2)
    assert float(normalizer.seen) == len(everything)


def test_a_normalizer_goes_on_learning_after_millions_of_observations():
    # Counted in float32, one more than 2**24 is no more, and the variance would only grow.
    @jax.jit
    def merge_all(normalizer, rows):
        return jax.lax.scan(lambda n, row: (update_normalizer(n, row[None]), None), normalizer, rows)[0]

    rows = jax.random.normal(jax.random.key(0), (2**21, 1)) + 3.0
    found = merge_all(Normalizer(jnp.zeros(1), jnp.ones(1), jnp.float32(2**24)), rows)
    assert float(found.seen) == MOST_SEEN
    # After two windows, exp(-2) of the old mean 0 is left.
    left = np.exp(-2.0)
    np.testing.assert_allclose(found.mean, 3.0 * (1.0 - left), rtol=0.01)
    np.testing.assert_allclose(found.variance, 1.0 + 9.0 * left * (1.0 - left), rtol=0.01)


def test_normalizer_in_training_has_seen_every_stored_observation():
    training = loop(num_envs=2)
    segment = last(TINY, training, "ProbeTwoSteps-v0")
    observations = unpack_rows(segment.replay.rows, 1).observations.astype(np.float64)
    assert float(segment.state.normalizer.seen) == 240
    np.testing.assert_allclose(segment.state.normalizer.mean, observations.mean(0), atol=1e-5)
    np.testing.assert_allclose(segment.state.normalizer.variance, observations.var(0), atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The loop.


@pytest.mark.parametrize(
    ("updates_per_step", "num_envs", "start_steps"),
    [(1.0, 1, 100), (0.5, 1, 51), (2.0, 1, 100), (0.3, 2, 51), (1.0, 2, 0)],
)
def test_every_due_update_is_made_and_no_other(updates_per_step, num_envs, start_steps):
    training = loop(start_steps=start_steps, num_envs=num_envs, updates_per_step=updates_per_step)
    done = segments(TINY, training, "ProbeBothMatter-v0")
    assert [segment.env_steps for segment in done] == [60, 120, 180, 240]
    for segment in done:
        due = int(max(segment.env_steps - start_steps, 0) * Fraction(str(updates_per_step)))
        assert int(segment.state.grad_steps) == due
        opts = segment.state.opts
        assert int(opts["alpha"][0].count) == due
        assert int(opts["actor"].inner[0].count) == int(opts["critic"].inner[0].count) == due
        assert int(segment.state.env_steps) == int(segment.replay.size) == segment.env_steps
        assert ("train/critic_loss" in segment.metrics) == (due > 0)


def test_the_first_steps_are_random_and_the_later_ones_the_policys():
    # An actor that does not learn and whose log_std is at the lower end acts as its mean does: 1 in the limit.
    config = TINY.model_copy(update={"actor_learning_rate": 1e-12})
    training = loop()
    state, replay = beginning(config, training, "ProbeConstant-v0")
    params = jax.tree.map(jnp.zeros_like, state.params["actor"])
    params["output"]["bias"] = jnp.array([10.0, -20.0])
    start = (state._replace(params={**state.params, "actor": params}), replay)
    actions = unpack_rows(last(config, training, "ProbeConstant-v0", start=start).replay.rows, 1).actions[:, 0]
    assert (actions[100:] > 0.9999).all()
    assert (np.abs(actions[:100]) < 1.0).all()
    assert actions[:100].min() < -0.5 < 0.5 < actions[:100].max()
    assert len(np.unique(actions[:100])) > 95


@pytest.mark.parametrize("num_envs", [1, 2])
def test_the_same_seed_repeats_to_the_bit_and_another_does_not(num_envs):
    training = loop(num_envs=num_envs)
    start = beginning(TINY, training, "ProbeWandering-v0")
    first = last(TINY, training, "ProbeWandering-v0", seed=5, start=start)
    second = last(TINY, training, "ProbeWandering-v0", seed=5, start=start)  # `train` left its arguments alone
    assert same_bytes((first.state, first.replay), (second.state, second.replay))
    assert first.metrics == second.metrics
    fresh = last(TINY, training, "ProbeWandering-v0", seed=5, start=beginning(TINY, training, "ProbeWandering-v0"))
    assert same_bytes((first.state, first.replay), (fresh.state, fresh.replay))

    other = last(TINY, training, "ProbeWandering-v0", seed=6, start=start)
    assert not same_bytes(first.replay.rows, other.replay.rows)
    assert not same_bytes(first.state.params["actor"], other.state.params["actor"])
    # Neither the environments' seeds nor the actions' are those of the other run.
    mine, others = unpack_rows(first.replay.rows, 1), unpack_rows(other.replay.rows, 1)
    assert (mine.actions[:100] != others.actions[:100]).mean() > 0.9
    assert (mine.observations[:100] != others.observations[:100]).any()


def test_each_segment_has_seeds_of_its_own():
    training = loop(start_steps=150, num_envs=2)
    rows = unpack_rows(last(TINY, training, "ProbeWandering-v0").replay.rows, 1)
    first, second = slice(0, 60), slice(60, 120)
    assert (rows.actions[first] != rows.actions[second]).mean() > 0.9
    assert (rows.observations[first] != rows.observations[second]).any()
    # And so have environments side by side.
    assert (rows.observations[0:120:2] != rows.observations[1:120:2]).any()


@pytest.mark.parametrize(("num_envs", "until", "updates_per_step"), [(1, 120, 1.0), (1, 180, 0.5), (2, 180, 1.0)])
def test_training_in_two_calls_equals_training_in_one(num_envs, until, updates_per_step):
    training = loop(start_steps=151, num_envs=num_envs, updates_per_step=updates_per_step)
    whole = segments(TINY, training, "ProbeWandering-v0", seed=3)
    begun = segments(TINY, training, "ProbeWandering-v0", seed=3, until=until)
    rest = segments(TINY, training, "ProbeWandering-v0", seed=3, start=(begun[-1].state, begun[-1].replay))
    assert [segment.env_steps for segment in begun + rest] == [60, 120, 180, 240]
    for one, two in zip(whole, begun + rest, strict=True):
        assert same_bytes((one.state, one.replay), (two.state, two.replay))
        assert one.metrics == two.metrics
    assert np.abs(whole[-1].replay.rows).max(axis=1).all()  # every row was written


def test_a_small_buffer_keeps_the_newest_transitions():
    # Also where more steps than the buffer holds pass without an update.
    training = loop(start_steps=200, segment_steps=120)
    small, large = (TINY.model_copy(update={"buffer_size": size}) for size in (64, 1000))
    kept = last(small, training, "ProbeBothMatter-v0", until=120).replay
    everything = last(large, training, "ProbeBothMatter-v0", until=120).replay
    assert (kept.rows.shape[0], int(kept.size), int(kept.position)) == (64, 64, 120 % 64)
    assert everything.rows.shape[0] == 240
    np.testing.assert_array_equal(np.roll(kept.rows, -int(kept.position), axis=0), everything.rows[56:120])


@pytest.mark.parametrize(
    "task", ["ProbeNanReward-v0", "ProbeInfiniteReward-v0", "ProbeNanObservation-v0", "ProbeNanStart-v0"]
)
def test_bad_numbers_from_the_environment_are_the_environments_fault(task):
    with pytest.raises(TrainingError, match="environment returned NaN or infinite"):
        segments(TINY, loop(start_steps=20, segment_steps=240), task)


def test_it_is_the_environments_fault_though_the_bad_number_was_overwritten():
    config = TINY.model_copy(update={"buffer_size": 16})
    with pytest.raises(TrainingError, match="environment returned NaN or infinite"):
        segments(config, loop(start_steps=20, segment_steps=240), "ProbeNanReward-v0")


def test_diverging_learning_is_not_the_environments_fault():
    config = TINY.model_copy(update={"critic_learning_rate": 1e20})
    with pytest.raises(TrainingError, match="learning diverged") as raised:
        segments(config, loop(start_steps=20, segment_steps=240), "ProbeBothMatter-v0")
    assert "environment returned" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------------------------
# The replay buffer.

write = jax.jit(insert)


def numbered(start, n):
    """Transitions (observation 2, action 1) that each name their number in every field."""
    i = np.arange(start, start + n, dtype=np.float32)
    return Batch(np.stack([i, i + 0.25], 1), np.sin(i)[:, None], i + 0.5, np.stack([i + 1, i + 1.25], 1), i % 2)


def filled(capacity, total, at_once=3):
    state = init_replay(capacity, 2, 1)
    for start in range(0, total, at_once):
        state = write(state, pack_rows(numbered(start, min(at_once, total - start))))
    return state


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([1, 4, 7]).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=12))))
def test_insert_is_a_ring(case):
    capacity, sizes = case
    state = init_replay(capacity, 2, 1)
    ring, written = np.zeros((capacity, 7), np.float32), 0
    for n in sizes:
        rows = pack_rows(numbered(written, n))
        state = write(state, rows)
        for row in rows:
            ring[written % capacity] = row
            written += 1
        np.testing.assert_array_equal(state.rows, ring)
        assert (int(state.position), int(state.size)) == (written % capacity, min(written, capacity))


def test_rows_pack_and_unpack():
    batch = numbered(3, 4)
    rows = pack_rows(batch)
    assert rows.dtype == np.float32
    assert rows.shape == (4, 7)
    for field, again in zip(batch, unpack_rows(rows, 2), strict=True):
        np.testing.assert_array_equal(np.asarray(field, np.float32), again)


@pytest.mark.parametrize(("total", "held"), [(3, range(3)), (10, range(10)), (25, range(15, 25))])
def test_samples_come_from_the_filled_rows_only_and_evenly(total, held):
    rows = sample_rows(filled(10, total), jax.random.key(0), 3000)
    batch = unpack_rows(np.asarray(rows), 2)
    numbers = batch.observations[:, 0].astype(int)
    values, counts = np.unique(numbers, return_counts=True)
    assert values.tolist() == list(held)
    share = 3000 / len(held)
    assert (np.abs(counts - share) < 5 * np.sqrt(share)).all()
    np.testing.assert_array_equal(batch.rewards, numbers + 0.5)  # rows stay whole
    np.testing.assert_array_equal(batch.next_observations[:, 1], numbers + 1.25)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_no_size_are_refused(batch_size):
    buffer = ReplayBuffer(filled(10, 6), observation_dim=2)
    with pytest.raises(InputError, match=r"batch_size is .*, but must be an integer of at least 1"):
        buffer.sample(batch_size)


@pytest.mark.parametrize("total", [0, 6, 10, 25])
def test_buffer_saves_and_loads(total):
    buffer = ReplayBuffer(filled(10, total), observation_dim=2)
    data = pickle.loads(pickle.dumps(buffer.save()))
    assert {name: (field.dtype, len(field)) for name, field in data.items() if field.ndim} == {
        name: (np.float32, min(total, 10)) for name in Batch._fields
    }
    again = ReplayBuffer.load(data)
    assert (len(again), again.capacity, again.observation_dim, again.action_dim) == (min(total, 10), 10, 2, 1)
    for name, field in again.save().items():
        np.testing.assert_array_equal(field, data[name])
    # It goes on as the first would: the same rows, the same place to write, the same batches.
    assert same_bytes(again.full_state(), buffer.state)
    more = pack_rows(numbered(total, 4))
    assert same_bytes(write(again.full_state(), more), write(buffer.state, more))
    if not total:
        with pytest.raises(InputError, match="empty"):
            again.sample(4)
        return
    batches = [(buffer.sample(16), again.sample(16)) for _ in range(3)]
    for one, two in batches:
        assert same_bytes(one, two)
    assert not same_bytes(batches[0][0], batches[1][0])
    key = jax.random.key(9)
    assert same_bytes(again.sample(16, key), again.sample(16, key))
