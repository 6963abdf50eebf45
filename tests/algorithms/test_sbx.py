"""Our losses are those of SBX, on the same weights, batch and noise. Needs the extra `bench`."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.models import needs_sbx

from lth.algorithms.architecture import Spaces
from lth.algorithms.sac.algorithm import gaussian_of
from lth.algorithms.sac.losses import actor_loss, critic_loss, temperature_loss
from lth.config import SACConfig
from lth.types import Batch

pytestmark = needs_sbx

DISCOUNT, ALPHA = 0.97, 0.3


@pytest.fixture(scope="module")
def model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SBX's dependencies warn on import
        import sbx

        return sbx.SAC(
            "MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [32, 32]}, ent_coef=ALPHA, seed=3, device="cpu"
        )


def ours(model):
    """Lay SBX's parameters out as ours: mean and log_std side by side, the critics' leading axis split."""
    actor = model.policy.actor_state.params["params"]
    (critics,) = model.policy.qf_state.params["params"].values()
    (layers,) = critics.values() if "Dense_0" not in critics else (critics,)
    actor_params = {
        "layer_0": actor["Dense_0"],
        "layer_1": actor["Dense_1"],
        "output": jax.tree.map(lambda m, s: jnp.concatenate([m, s], axis=-1), actor["Dense_2"], actor["Dense_3"]),
    }
    names = {"Dense_0": "layer_0", "Dense_1": "layer_1", "Dense_2": "output"}
    critic_params = {
        f"q{i + 1}": {names[name]: jax.tree.map(lambda leaf, i=i: leaf[i], layers[name]) for name in names}
        for i in (0, 1)
    }
    return actor_params, critic_params


def noise_of(model, observations, key):
    """Recover the Gaussian noise that SBX draws with a key."""
    state = model.policy.actor_state
    return state.apply_fn(state.params, observations).distribution.sample(seed=key)


@pytest.mark.parametrize("seed", range(5))
def test_losses_equal_sbx(model, seed):
    rng = np.random.default_rng(seed)
    n = 64
    batch = Batch(
        *(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((n, 3), (n, 1), (n,), (n, 3))),
        jnp.asarray(rng.integers(0, 2, n), jnp.float32),
    )
    batch = batch._replace(actions=jnp.tanh(batch.actions))
    config = SACConfig(actor_hidden=(32, 32), critic_hidden=(32, 32), discount=DISCOUNT)
    applies = config.build(Spaces(3, 1)).applies()
    actor_apply, critic_apply = gaussian_of(applies["actor"]), applies["critic"]
    actor_params, critic_params = ours(model)
    policy, log_alpha = model.policy, jnp.log(jnp.float32(ALPHA))
    mean, log_std = actor_apply(actor_params, batch.observations)
    dist = policy.actor_state.apply_fn(policy.actor_state.params, batch.observations).distribution
    assert jnp.allclose(mean, dist.loc, atol=1e-6)

    key = jax.random.key_data(jax.random.key(seed))
    discounts = jnp.full(n, DISCOUNT)
    _, (theirs, _), _ = model.update_critic(
        policy.actor_state,
        policy.qf_state,
        model.ent_coef_state,
        batch.observations,
        batch.actions,
        batch.next_observations,
        batch.rewards,
        batch.terminated,
        discounts,
        key,
    )
    _, noise_key, *_ = jax.random.split(key, 4)
    mean, log_std = actor_apply(actor_params, batch.next_observations)
    noise = (noise_of(model, batch.next_observations, noise_key) - mean) / jnp.exp(log_std)
    loss, _ = critic_loss(
        critic_params, critic_params, actor_params, log_alpha, batch, noise, actor_apply, critic_apply, DISCOUNT
    )
    assert float(loss) == pytest.approx(float(theirs), rel=1e-4)

    _, _, theirs, _, entropy = model.update_actor(
        policy.actor_state, policy.qf_state, model.ent_coef_state, batch.observations, key
    )
    *_, noise_key = jax.random.split(key, 3)
    mean, log_std = actor_apply(actor_params, batch.observations)
    noise = (noise_of(model, batch.observations, noise_key) - mean) / jnp.exp(log_std)
    loss, log_prob = actor_loss(actor_params, critic_params, log_alpha, batch, noise, actor_apply, critic_apply)
    assert float(loss) == pytest.approx(float(theirs), rel=1e-4)
    assert float(-log_prob) == pytest.approx(float(entropy), rel=1e-4)


@pytest.mark.parametrize("entropy", [-3.0, 0.5])
def test_the_temperature_s_loss_and_step_equal_sbx(entropy):
    import sbx

    model = sbx.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, ent_coef=f"auto_{ALPHA}", device="cpu")
    assert SACConfig().temperature_loss == "log_alpha"
    state, theirs = model.update_temperature(model.target_entropy, model.ent_coef_state, jnp.float32(entropy))
    log_alpha = jnp.log(jnp.float32(ALPHA))
    loss, gradient = jax.value_and_grad(temperature_loss)(
        log_alpha, -jnp.float32(entropy), float(model.target_entropy), "log_alpha"
    )
    assert float(loss) == pytest.approx(float(theirs), rel=1e-5)
    updates, _ = optax.adam(3e-4).update(gradient, optax.adam(3e-4).init(log_alpha))
    (after,) = jax.tree.leaves(state.params)
    assert float(log_alpha + updates) == pytest.approx(float(after), rel=1e-5)
