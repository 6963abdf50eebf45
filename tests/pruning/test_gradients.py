"""Gradient statistics: what they are, what they cost, and that they are repeatable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lth
from lth.replay import sample_rows, unpack_rows
from lth.saliency import gradient_accumulator, gradient_halves


@pytest.fixture(scope="module")
def loaded(dense):
    return lth.load(dense[1])


def close(a, b, rtol=1e-4):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.allclose(x, y, rtol=rtol, atol=1e-7)), a, b))


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_accumulated_is_the_mean_of_absolute_gradients(loaded):
    agent, buffer, _ = loaded
    key = jax.random.key(7)
    sums = None
    for i in range(5):
        index_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        batch = unpack_rows(sample_rows(buffer.state, index_key, 64), buffer.observation_dim)
        grads = jax.tree.map(jnp.abs, lth.compute_gradients_from_batch(agent, batch, key=noise_key))
        sums = grads if sums is None else jax.tree.map(jnp.add, sums, grads)
    mean = jax.tree.map(lambda s: s / 5, sums)
    accumulated = lth.accumulate_gradient_statistics(agent, buffer, 5, 64, key=key)
    assert close(accumulated, mean)
    assert all(bool((leaf >= 0).all()) for leaf in jax.tree.leaves(accumulated))


def test_gradients_are_those_of_the_losses_by_finite_differences(loaded):
    from lth.algorithms.sac.algorithm import gaussian_of
    from lth.algorithms.sac.losses import actor_loss, critic_loss

    agent, buffer, _ = loaded
    key, batch = jax.random.key(1), buffer.sample(32)
    actor_grads, critic_grads = lth.compute_gradients_from_batch(agent, batch, key=key)
    algorithm, s = agent.algorithm, agent.state
    apply, log_alpha = algorithm.applies(), s.values["log_alpha"]
    actor_apply, critic_apply = gaussian_of(apply["actor"]), apply["critic"]
    noise = jax.random.normal(key, (2, 32, 1))
    ready = algorithm.prepare(s.normalizer, batch)

    def losses(actor_params, critic_params):
        target = (s.targets["critic"], s.params["actor"])
        q = critic_loss(critic_params, *target, log_alpha, ready, noise[0], actor_apply, critic_apply, 0.99)
        pi = actor_loss(actor_params, s.params["critic"], log_alpha, ready, noise[1], actor_apply, critic_apply)
        return np.array([float(pi[0]), float(q[0])])

    for network, grads, row in (("actor", actor_grads, 0), ("critic", critic_grads, 1)):
        params = s.params[network]
        direction = jax.tree.map(lambda g: g / (1e-12 + jnp.linalg.norm(g)), grads)
        slope = sum(
            float((g * d).sum()) for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
        )
        step = 1e-2
        moved = [jax.tree.map(lambda p, d, t=t: p + t * d, params, direction) for t in (step, -step)]
        args = [(m, s.params["critic"]) if network == "actor" else (s.params["actor"], m) for m in moved]
        difference = (losses(*args[0]) - losses(*args[1]))[row] / (2 * step)
        assert difference == pytest.approx(slope, rel=0.05), network


def test_without_a_key_it_repeats_and_leaves_the_state_alone(loaded):
    agent, buffer, _ = loaded
    before = jax.random.key_data(agent.state.key).tolist()
    first, second = (lth.accumulate_gradient_statistics(agent, buffer, 4, 32) for _ in range(2))
    assert equal(first, second)
    other = lth.accumulate_gradient_statistics(agent, buffer, 4, 32, key=jax.random.key(3))
    assert not equal(first, other)
    batch = buffer.sample(16)
    assert equal(lth.compute_gradients_from_batch(agent, batch), lth.compute_gradients_from_batch(agent, batch))
    assert jax.random.key_data(agent.state.key).tolist() == before


def test_normalisation_is_the_agents_and_can_be_left_out(loaded):
    agent, buffer, _ = loaded
    batch = buffer.sample(64)
    normalised, raw = (lth.compute_gradients_from_batch(agent, batch, normalize_obs=flag) for flag in (True, False))
    assert not close(normalised, raw)
    n = agent.state.normalizer
    by_hand = batch._replace(
        observations=(batch.observations - n.mean) / jnp.sqrt(n.variance + 1e-8),
        next_observations=(batch.next_observations - n.mean) / jnp.sqrt(n.variance + 1e-8),
    )
    assert close(lth.compute_gradients_from_batch(agent, by_hand, normalize_obs=False), normalised, rtol=1e-3)


def test_memory_does_not_grow_with_the_number_of_batches(loaded):
    agent, buffer, _ = loaded
    accumulate = gradient_accumulator(agent.algorithm, 32, True)

    def temporary(n):
        lowered = accumulate.lower(agent.state, buffer.state, jax.random.key(0), jnp.asarray(n, jnp.int32))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(1000) <= 1.05 * temporary(10)


def test_more_batches_are_more_stable(loaded):
    agent, buffer, _ = loaded

    def spread(n):
        draws = [lth.accumulate_gradient_statistics(agent, buffer, n, 32, key=jax.random.key(k))[0] for k in range(4)]
        return float(np.mean([np.std([d["layer_1"]["kernel"] for d in draws], axis=0)]))

    assert spread(64) < 0.5 * spread(2)


def test_a_buffer_of_another_task_is_refused(loaded):
    from lth.replay import init_replay, insert

    agent, _, _ = loaded
    state = insert(init_replay(4, 5, 2), jnp.zeros((2, 14)))
    with pytest.raises(lth.InputError, match=r"length 5 and actions of length 2, but the agent needs 3 and 1"):
        lth.accumulate_gradient_statistics(agent, lth.ReplayBuffer(state, 5))
    with pytest.raises(lth.InputError, match="No replay buffer found"):
        lth.accumulate_gradient_statistics(agent, None)
    with pytest.raises(lth.InputError, match="num_batches is 0"):
        lth.accumulate_gradient_statistics(agent, loaded.replay_buffer, num_batches=0)


def test_the_halves_are_the_even_and_the_odd_batches(loaded):
    agent, buffer, _ = loaded
    key = jax.random.key(2)
    whole = lth.accumulate_gradient_statistics(agent, buffer, 5, 32, key=key)
    even, odd = gradient_halves(agent, buffer, 5, 32, key=key)
    joined = jax.tree.map(lambda a, b: (3 * a + 2 * b) / 5, even, odd)
    assert close((joined["actor"], joined["critic"]), whole)
    assert not close(even, odd)
    first = lth.accumulate_gradient_statistics(agent, buffer, 1, 32, key=key)
    half = gradient_halves(agent, buffer, 2, 32, key=key)[0]
    assert equal((half["actor"], half["critic"]), first)
    with pytest.raises(lth.InputError, match="must be at least 2"):
        gradient_halves(agent, buffer, 1)
