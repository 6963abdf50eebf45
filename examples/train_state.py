"""Prune an agent with a Flax TrainState, as in CleanRL's JAX agents, continue training, and export it as C.

    python examples/train_state.py

A Q-network with a target network is trained on random transitions. Pruning needs two changes: the optimizer is wrapped once, when
the state is created, and `under_mask` applies a mask to the state. `export` compares the C program with the network and writes it
to results/train_state/c.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState as FlaxTrainState

import lth


class QNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (64, 64):
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(3)(x)


class TrainState(FlaxTrainState):
    target_params: dict


def td_loss(params, batch, target_params, apply_fn):
    values = jnp.take_along_axis(apply_fn(params, batch["obs"]), batch["action"][:, None], axis=1)[:, 0]
    best = jnp.max(apply_fn(target_params, batch["next_obs"]), axis=1)
    return jnp.mean((values - batch["reward"] - 0.99 * best) ** 2)


def under_mask(state, mask):
    """Apply a mask to a TrainState whose optimizer is wrapped in `lth.keep_pruned_at_zero`."""
    return state.replace(
        params=lth.apply_mask(state.params, mask),
        target_params=lth.apply_mask(state.target_params, mask),
        opt_state=lth.set_mask(state.opt_state, mask, state.params),
    )


@jax.jit
def train_step(state, batch):
    grads = jax.grad(td_loss)(state.params, batch, state.target_params, state.apply_fn)
    state = state.apply_gradients(grads=grads)
    return state.replace(target_params=optax.incremental_update(state.params, state.target_params, 0.005))


def sample(rng, size=128):
    return {
        "obs": rng.normal(size=(size, 4)).astype(np.float32),
        "action": rng.integers(0, 3, size),
        "reward": rng.normal(size=size).astype(np.float32),
        "next_obs": rng.normal(size=(size, 4)).astype(np.float32),
    }


def export(state, folder):
    """Write the greedy policy of a TrainState as C: it maps an observation to the index of the best action."""
    names = ["cart position", "cart velocity", "pole angle", "pole angular velocity"]
    return lth.export_mlp(state.params, folder, "c", apply=state.apply_fn, squash="argmax", inputs=names)


def main(folder="results/train_state"):
    rng, network = np.random.default_rng(0), QNetwork()
    params = network.init(jax.random.key(0), jnp.zeros((1, 4)))
    tx = lth.keep_pruned_at_zero(optax.adam(1e-3))
    state = TrainState.create(apply_fn=network.apply, params=params, target_params=params, tx=tx)
    state = under_mask(state, jax.tree.map(jnp.ones_like, params))  # dense until pruning
    for _ in range(50):
        state = train_step(state, sample(rng))

    mask = lth.prune(
        state.params,
        0.9,
        "taylor",
        loss=lambda params, batch: td_loss(params, batch, state.target_params, state.apply_fn),
        batches=[sample(rng) for _ in range(10)],
        exclude=["Dense_2"],
    )
    state = under_mask(state, mask)
    for _ in range(50):
        state = train_step(state, sample(rng))

    kernel = state.params["params"]["Dense_1"]["kernel"]
    print(f"pruned {lth.compute_sparsity(mask, exclude=['Dense_2']):.3f}; Dense_1 has {int((kernel == 0).sum())} zeros")
    print(export(state, folder))
    return state, mask


if __name__ == "__main__":
    main()
