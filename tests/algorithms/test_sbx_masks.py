"""Masks on SBX's own SAC, which goes on learning under them. Needs the extra `bench`."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.models import needs_sbx
from helpers.trees import on_host

import lth
from lth.algorithms.sac.sbx import _batches, _flow, _loss
from lth.pruning.criteria import CRITERIA
from lth.sbx import masks_of, prune_sbx, set_masks

pytestmark = needs_sbx

NETWORKS = ("actor", "critic")


@pytest.fixture(scope="module")
def sbx():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SBX's dependencies warn on import
        import sbx

        return sbx


@pytest.fixture(scope="module")
def model(sbx):
    """An agent that SBX has trained."""
    kwargs = {"net_arch": [16, 16]}
    model = sbx.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, learning_starts=50, batch_size=32, seed=3)
    return model.learn(120)


def params(model):
    return {"actor": model.policy.actor_state.params, "critic": model.policy.qf_state.params}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_masks_by_every_criterion(model, criterion):
    before = jax.tree.map(np.array, params(model))
    masks = prune_sbx(model, {"actor": 0.5, "critic": 0.75}, criterion, num_batches=2, batch_size=16, collapse="allow")
    for network, n, sparsity in (
        ("actor", 3 * 16 + 16 * 16 + 2 * 16, 0.5),
        ("critic", 2 * (4 * 16 + 16 * 16 + 16), 0.75),
    ):
        assert lth.compute_sparsity(masks[network]) == round(sparsity * n) / n
        assert jax.tree.structure(masks[network]) == jax.tree.structure(before[network])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, on_host(params(model))))


def test_the_loss_that_is_differentiated_is_sbx_s(sbx, model):
    ((batch, noise),) = _batches(model, 1, 32, 0)
    ours = jax.jit(jax.grad(lambda p: _loss(model)(p, (batch, noise))))(params(model))
    policy = model.policy
    alpha = model.ent_coef_state.apply_fn({"params": model.ent_coef_state.params})

    def theirs(p):  # as sbx.SAC.update_actor and update_critic write them, but for whence the noise comes
        def act(actor_params, observations, noise):
            dist = policy.actor_state.apply_fn(actor_params, observations)
            actions = jnp.tanh(dist.distribution.loc + dist.distribution.stddev() * noise)
            return actions, dist.log_prob(actions)

        q = policy.qf_state.apply_fn
        fixed = jax.lax.stop_gradient(p)
        actions, log_prob = act(p["actor"], batch.observations, noise[1])
        actor = (alpha * log_prob[:, None] - jnp.min(q(fixed["critic"], batch.observations, actions), axis=0)).mean()
        actions, log_prob = act(fixed["actor"], batch.next_observations, noise[0])
        values = jnp.min(q(policy.qf_state.target_params, batch.next_observations, actions), axis=0)
        target = values - alpha * log_prob[:, None]
        target = batch.rewards[:, None] + (1 - batch.terminated[:, None]) * model.gamma * target
        error = jax.lax.stop_gradient(target) - q(p["critic"], batch.observations, batch.actions)
        return actor + 0.5 * (error**2).mean(axis=1).sum()

    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(jax.jit(jax.grad(theirs))(params(model))), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)


def test_learning_goes_on_under_the_mask(sbx, model):
    masks = on_host(prune_sbx(model, 0.8, "taylor", num_batches=2, batch_size=16))
    set_masks(model, masks)
    start = jax.tree.map(np.array, params(model))
    model.learn(60, reset_num_timesteps=False)
    states = {"actor": model.policy.actor_state, "critic": model.policy.qf_state}
    for network, state in states.items():
        moments = state.opt_state.inner_state[0]
        trees = [state.params, moments.mu, moments.nu, *([state.target_params] if network == "critic" else [])]
        for tree in on_host(trees):
            for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(masks[network]), strict=True):
                assert bool((leaf[kept == 0] == 0.0).all())
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), start[network], on_host(state.params))
        assert jax.tree.all(moved), network
        assert state.opt_state.hyperparams["learning_rate"] == pytest.approx(3e-4)
    # Pruning further nests, and saving keeps the mask.
    more = on_host(prune_sbx(model, 0.9, pool=True))
    n = sum(round(lth.compute_sparsity(more[x]) * k) for x, k in (("actor", 336), ("critic", 672)))
    assert n == round(0.9 * (336 + 672))
    for network in NETWORKS:
        nested = jax.tree.map(lambda a, b: bool((a <= b).all()), more[network], masks[network])
        assert jax.tree.all(nested)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    again = sbx.SAC.load(file, env=model.get_env())
    for network, kept in on_host(masks_of(again)).items():
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(masks[network]), strict=True):
            assert bool((a == b).all())


def test_a_mask_replaces_the_one_before_it(model):
    """And the state of the optimizer keeps SBX's structure, under either of the two functions that mask."""
    structure = jax.tree.structure(model.policy.qf_state.opt_state)
    ones = jax.tree.map(np.ones_like, params(model))
    for masks in (lth.prune_agent(model, 0.95, collapse="allow"), ones, prune_sbx(model, 0.97, collapse="allow"), ones):
        set_masks(model, masks)
        for one, other in zip(jax.tree.leaves(masks), jax.tree.leaves(masks_of(model)), strict=True):
            assert (np.asarray(one) == np.asarray(other)).all()
        assert jax.tree.structure(model.policy.qf_state.opt_state) == structure
    kept = lambda: sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(params(model)))  # noqa: E731
    before = kept()
    model.learn(10, reset_num_timesteps=False)
    assert kept() > before  # the masks before the last hold nothing


def test_a_mask_replaces_that_of_the_users_optimizer(sbx):
    def optimizer(learning_rate):
        return lth.keep_pruned_at_zero(optax.adam(learning_rate))

    kwargs = {"net_arch": [4], "optimizer_class": optimizer}
    model = sbx.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, learning_starts=5, batch_size=8, seed=3)
    ones = jax.tree.map(np.ones_like, params(model))
    for name in ("actor_state", "qf_state"):
        state = getattr(model.policy, name)
        none = jax.tree.map(jnp.zeros_like, state.params)
        setattr(model.policy, name, state.replace(opt_state=lth.set_mask(state.opt_state, none, state.params)))
    set_masks(model, ones)
    before = on_host(params(model))
    model.learn(10)
    after = on_host(params(model))
    for network in NETWORKS:
        moved = jax.tree.map(lambda one, other: bool((one != other).any()), before[network], after[network])
        assert all(jax.tree.leaves(moved))


def test_what_cannot_be_done_is_said(sbx):
    model = sbx.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, param_resets=[1000], seed=3)
    with pytest.raises(lth.InputError, match="param_resets"):
        set_masks(model, prune_sbx(model, 0.5, collapse="allow"))
    with pytest.raises(lth.InputError, match="replay buffer is empty"):
        prune_sbx(model, 0.5, "snip")
    with pytest.raises(lth.InputError, match="one sparsity"):
        prune_sbx(model, {"actor": 0.5, "critic": 0.6}, pool=True)
    for call in (lambda given: set_masks(model, given), lambda given: prune_sbx(model, given)):
        with pytest.raises(lth.InputError, match=r"must have an entry for each network, .*, but has actor"):
            call({"actor": 0.5})


def test_the_flow_of_deep_networks_follows_their_layers():
    """There are more than ten, and by the alphabet Dense_10 comes before Dense_2."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(3, 4)), *rng.normal(size=(10, 4, 4)), *rng.normal(size=(2, 4, 2))]
    flow = np.ones(3)
    for kernel in kernels[:-2]:
        flow = flow @ kernel
    params = {"params": {f"Dense_{i}": {"kernel": jnp.asarray(kernel)} for i, kernel in enumerate(kernels)}}
    assert float(_flow({"actor": params}, None)) == pytest.approx(
        flow @ (kernels[-2] + kernels[-1]).sum(axis=1), rel=1e-4
    )
