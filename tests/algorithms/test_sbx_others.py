"""TD3 and DQN: losses and one update are those of SBX, on the same weights, batch and noise. Needs the extra `bench`."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import needs_sbx
from helpers.trees import on_host

from lth.algorithms.architecture import Spaces
from lth.algorithms.learner import update
from lth.config import DQNConfig, TD3Config
from lth.types import Batch

pytestmark = needs_sbx

N, RATE = 64, 1e-3
close = {"rtol": 1e-5, "atol": 1e-7}


@functools.cache
def model_of(kind, task, **settings):
    """Return a model, whose training functions change nothing of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SBX's dependencies warn on import
        import sbx

        architecture = {"policy_kwargs": {"net_arch": [32, 32]}, "learning_rate": RATE, "gamma": 0.97}
        return getattr(sbx, kind)("MlpPolicy", task, seed=3, device="cpu", **architecture, **settings)


def renamed(params, member=None):
    """Lay SBX's layers out under our names; `member` picks one of a vmapped ensemble."""
    tree = on_host(params.get("params", params))
    while "Dense_0" not in tree:
        (tree,) = tree.values()
    names = {"Dense_0": "layer_0", "Dense_1": "layer_1", "Dense_2": "output"}
    return {
        ours: jax.tree.map(lambda x: x if member is None else x[member], tree[name]) for name, ours in names.items()
    }


def twins(params):
    return {f"q{i + 1}": renamed(params, i) for i in (0, 1)}


def compare(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, **close)


def nudged(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32), on_host(tree))


updated = jax.jit(update, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def losses(algorithm, state, batch, noise):
    return algorithm.losses(state, state.params, batch, noise, algorithm.applies())


def batch_of(rng, observation_dim, actions):
    observations, after = (rng.normal(size=(N, observation_dim)).astype(np.float32) for _ in range(2))
    rewards, ends = rng.normal(size=N).astype(np.float32), (rng.random(N) < 0.2).astype(np.float32)
    return Batch(observations, actions, rewards, after, ends)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("grad_steps", [0, 1])  # before the second update the actor is due
def test_td3(seed, grad_steps):
    model = model_of("TD3", "Pendulum-v1", tau=0.01, policy_delay=2)
    rng = np.random.default_rng(seed)
    batch = batch_of(rng, 3, np.tanh(rng.normal(size=(N, 1))).astype(np.float32))
    config = TD3Config(
        actor_hidden=(32, 32),
        critic_hidden=(32, 32),
        actor_learning_rate=RATE,
        critic_learning_rate=RATE,
        discount=0.97,
        tau=0.01,
        normalize_obs=False,
    )
    algorithm = config.build(Spaces(3, 1))
    actor, critic = model.policy.actor_state, model.policy.qf_state
    actor = actor.replace(target_params=nudged(actor.params, 1))
    critic = critic.replace(target_params=nudged(critic.params, 2))
    key = jax.random.key_data(jax.random.key(seed))
    _, noise_key, *_ = jax.random.split(key, 4)
    noise = jax.random.normal(noise_key, (N, 1))

    state = algorithm.init(jax.random.key(0))
    state = state._replace(
        params={"actor": renamed(actor.params), "critic": twins(critic.params)},
        targets={"actor": renamed(actor.target_params), "critic": twins(critic.target_params)},
        grad_steps=jnp.int32(grad_steps),
    )
    ours = losses(algorithm, state, batch, noise)

    from sbx.common.type_aliases import ReplayBufferSamplesNp

    data = ReplayBufferSamplesNp(
        batch.observations,
        batch.actions,
        batch.next_observations,
        batch.terminated,
        batch.rewards,
        np.full(N, 0.97, np.float32),
    )
    offset = (grad_steps + 1) % 2
    new_critic, new_actor, _, (_, q_loss) = model._train(0.01, 1, data, 2, offset, 0.2, 0.5, critic, actor, key)
    assert float(ours["critic"]) == pytest.approx(float(q_loss), rel=1e-5)
    _, _, pi_loss, _ = model.update_actor(actor, critic, batch.observations, key)
    assert float(ours["actor"]) == pytest.approx(float(pi_loss), rel=1e-5)

    after, _ = updated(algorithm, state, batch, noise)
    compare(after.params, {"actor": renamed(new_actor.params), "critic": twins(new_critic.params)})
    compare(after.targets, {"actor": renamed(new_actor.target_params), "critic": twins(new_critic.target_params)})
    moved = not np.array_equal(after.params["actor"]["output"]["kernel"], state.params["actor"]["output"]["kernel"])
    assert moved == (grad_steps == 1)


@pytest.mark.parametrize("seed", range(3))
def test_dqn(seed):
    model = model_of("DQN", "CartPole-v1", tau=1.0)
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 2, (N, 1))
    batch = batch_of(rng, 4, actions.astype(np.float32))
    config = DQNConfig(q_hidden=(32, 32), q_learning_rate=RATE, discount=0.97, normalize_obs=False, double=False)
    algorithm = config.build(Spaces(4, 2, True))
    q = model.policy.qf_state
    q = q.replace(target_params=nudged(q.params, 1))
    state = algorithm.init(jax.random.key(0))
    state = state._replace(params={"q": renamed(q.params)}, targets={"q": renamed(q.target_params)})
    ours = losses(algorithm, state, batch, np.zeros(0))
    theirs, (loss, mean) = model.update_qnetwork(
        q,
        batch.observations,
        actions,
        batch.next_observations,
        batch.rewards,
        batch.terminated,
        np.full(N, 0.97, np.float32),
    )
    assert float(ours["q"]) == pytest.approx(float(loss), rel=1e-5)
    after, metrics = updated(algorithm, state, batch, np.zeros(0))
    assert float(metrics["q_mean"]) == pytest.approx(float(mean), rel=1e-5)
    compare(after.params, {"q": renamed(theirs.params)})
    compare(after.targets, {"q": renamed(q.target_params)})
