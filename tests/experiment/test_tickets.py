"""Tickets are exact, start where they should, and have the dense agent's budget."""

import csv

import jax
import numpy as np
import pytest
from helpers.small import SMALL
from helpers.trees import on_host

import lth
from lth.algorithms.architecture import Spaces
from lth.config import Sparsity, parse_config
from lth.experiment import journal, lottery, records, store
from lth.experiment.build import dense_spec, mask_spec, ticket_spec
from lth.experiment.options import RunOptions
from lth.experiment.spec import FileMask, TicketSpec
from lth.files import load_pickle, load_tensors
from lth.pruning.masks import apply_mask, pruned_counts

NETWORKS = ("actor", "critic")


def make_ticket(config, method, sparsity, rewind_steps=0):
    """Make a mask and its ticket; returns the ticket's directory and the mask."""
    mask = mask_spec(config, dense_spec(config, "Pendulum-v1", 0), method, sparsity)
    lottery.make_mask(config.output_dir, mask)
    spec = ticket_spec(config, dense_spec(config, "Pendulum-v1", 0), mask).model_copy(
        update={"rewind_steps": rewind_steps}
    )
    run = lottery.train_ticket(config.output_dir, spec)
    return run, on_host(store.load_mask(journal.last_file(config.output_dir, mask)))


def arrays_under_mask(state, network):
    """Name every tree of a state that a network's mask rules."""
    moments = state.opts[network].inner[1][0]
    trees = {"params": state.params[network], "mu": moments.mu, "nu": moments.nu}
    if network == "critic":
        trees["target"] = state.targets["critic"]
    return on_host(trees)


def same_bits(a, b):
    """Say whether two trees are equal to the bit."""
    raw = [jax.tree.map(lambda x: np.asarray(x).tobytes(), tree) for tree in (a, b)]
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.leaves(raw[0]) == jax.tree.leaves(raw[1])


def without_key(state):
    return state._replace(key=jax.random.key_data(state.key))


@pytest.mark.parametrize("rewind_steps", [0, 200])
@pytest.mark.parametrize("method", ["magnitude", "gradient", "taylor", "random", "shuffled"])
def test_ticket_starts_as_mask_times_rewound_and_stays_sparse(small_config, dense, method, rewind_steps):
    run, masks = make_ticket(small_config, method, Sparsity(actor=0.8, critic=0.7), rewind_steps)
    rewound = lth.load(dense[1], rewind_steps).agent.state
    start = lth.load(run, rewind_steps).agent.state
    end = lth.load(run).agent.state
    assert int(rewound.env_steps) == rewind_steps
    assert int(end.env_steps) == 600
    for network, sparsity in zip(NETWORKS, (0.8, 0.7), strict=True):
        n = sum(size for _, size in pruned_counts(masks[network]).values())
        assert lth.compute_sparsity(masks[network]) == round(sparsity * n) / n
        for name, tree in arrays_under_mask(start, network).items():
            before = arrays_under_mask(rewound, network)[name]
            zeroed = jax.tree.map(lambda m, p: np.where(m == 1, p, np.float32(0)), masks[network], before)
            assert same_bits(tree, zeroed), (network, name)
            product = jax.tree.map(lambda m, p: m * p, masks[network], before)
            assert jax.tree.all(jax.tree.map(lambda t, p: bool((t == p).all()), tree, product)), (network, name)
        for name, tree in arrays_under_mask(end, network).items():
            assert jax.tree.all(jax.tree.map(lambda t, m: bool((t[m == 0] == 0.0).all()), tree, masks[network])), name
        ends = on_host((end.params["actor"], start.params["actor"]))
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), *ends)
        assert jax.tree.all(moved)
        if rewind_steps:
            assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(arrays_under_mask(start, network)["mu"]))


def test_what_is_rewound_with_the_weights(small_config, dense):
    run, _ = make_ticket(small_config, "magnitude", Sparsity(actor=0.8, critic=0.7), 200)
    rewound, start = (lth.load(place, 200).agent.state for place in (dense[1], run))
    assert same_bits(rewound.values["log_alpha"], start.values["log_alpha"])
    assert same_bits(rewound.opts["alpha"], start.opts["alpha"])
    for name in ("normalizer", "env_steps", "grad_steps"):
        assert same_bits(getattr(rewound, name), getattr(start, name)), name
    assert jax.random.key_data(rewound.key).tolist() == jax.random.key_data(start.key).tolist()
    assert int(rewound.grad_steps) == 100
    # The ticket goes on from the dense agent's first 200 transitions, and then sees others.
    mine, theirs = lth.load(run).replay_buffer.save(), lth.load(dense[1]).replay_buffer.save()
    assert len(mine["rewards"]) == len(theirs["rewards"]) == 600
    assert np.array_equal(mine["observations"][:200], theirs["observations"][:200])
    assert not np.array_equal(mine["actions"][200:], theirs["actions"][200:])


@pytest.mark.parametrize("rewind_steps", [0, 200])
def test_a_ticket_that_lost_nothing_is_the_dense_agent(small_config, dense, rewind_steps):
    run, _ = make_ticket(small_config, "magnitude", Sparsity(actor=0.0, critic=0.0), rewind_steps)
    assert same_bits(without_key(lth.load(run).agent.state), without_key(lth.load(dense[1]).agent.state))
    # The files say whose they are, and agree in all else.
    buffers = [load_pickle(journal.replay_file(place), "the replay buffer") for place in (run, dense[1])]
    checkpoints = [load_tensors(journal.checkpoint_file(place), "the checkpoint") for place in (run, dense[1])]
    for one, other in (buffers, [arrays for arrays, _ in checkpoints]):
        names = one.keys() - {"spec_sha256"}
        assert names == other.keys() - {"spec_sha256"}
        assert all(one[name].tobytes() == other[name].tobytes() for name in names)
    abouts = [{**metadata, "about": {**metadata["about"], "spec": ""}} for _, metadata in checkpoints]
    assert abouts[0] == abouts[1]


def test_clipping_sees_kept_weights_only(small_config, dense):
    # A ticket with all but one weight gone: were the pruned gradients seen, clipping would shrink what it learns.
    agent = lth.load(dense[1]).agent
    params = agent.state.params["actor"]
    mask = jax.tree.map(np.array, lth.prune_kernels_by_magnitude(params, 1.0))
    mask["output"]["kernel"][0, 0] = 1.0
    tx = agent.config.build(Spaces(3, 1)).optimizer("actor")
    masks = {"actor": mask, "critic": lth.load(dense[1]).masks["critic"]}
    state = lth.make_ticket(agent.state, masks).opts["actor"]
    fresh = state._replace(inner=jax.jit(tx.init)(params).inner)
    grads = jax.tree.map(lambda m: np.where(np.asarray(m) == 0, np.float32(1e6), np.float32(1e-3)), mask)
    _, after = jax.jit(tx.update)(grads, fresh, params)
    # Adam's first moment after one step is 0.1 * gradient: unclipped, because the kept gradients' norm is below 1.
    kept, first = on_host((apply_mask(grads, mask), after.inner[1][0].mu))
    assert jax.tree.all(jax.tree.map(lambda mu, g: bool(np.allclose(mu, 0.1 * g, rtol=1e-5)), first, kept))


def test_the_same_budget_and_the_last_evaluation(small_config, dense):
    run, _ = make_ticket(small_config, "taylor", Sparsity(actor=0.8, critic=0.7), 200)
    updates = [int(lth.load(place).agent.state.grad_steps) for place in (dense[1], run)]
    assert updates == [500, 500]
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "evaluation/return"]
    assert [int(row["env_steps"]) for row in rows] == [200, 400, 600]
    assert records.last_evaluation(run)["evaluation/return"] == float(rows[-1]["value"])


def test_a_rewind_point_asked_for_later_is_made_again(dense, tmp_path):
    spec, run = dense
    early = lottery.train_dense(tmp_path, spec)
    assert not journal.checkpoint_file(early, 200).exists()
    before = journal.checkpoint_file(early).stat().st_mtime_ns
    lottery.train_dense(tmp_path, spec, RunOptions((200,)))
    assert journal.checkpoint_file(early).stat().st_mtime_ns == before
    for file in (
        *(journal.checkpoint_file(run, k) for k in (0, 200, None)),
        journal.replay_file(run, 200),
        run / "metrics.csv",
    ):
        assert (early / file.name).read_bytes() == file.read_bytes(), file.name


def test_masks_depend_on_seed_and_method_alone(small_config, dense):
    bits = {}
    for method in ("random", "shuffled", "taylor", "magnitude"):
        for sparsity in (Sparsity(actor=0.5, critic=0.5), Sparsity(actor=0.5, critic=0.6)):
            spec = mask_spec(small_config, dense_spec(small_config, "Pendulum-v1", 0), method, sparsity)
            run = lottery.make_mask(small_config.output_dir, spec)
            bits[method, sparsity.critic] = store.load_mask(run / journal.mask_name(method))
        assert same_bits(bits[method, 0.5]["actor"], bits[method, 0.6]["actor"])
    assert not same_bits(bits["random", 0.5]["actor"], bits["shuffled", 0.5]["actor"])
    assert not same_bits(bits["taylor", 0.5]["actor"], bits["magnitude", 0.5]["actor"])


def test_a_mask_that_empties_a_layer_is_made_with_a_warning(small_config, dense):
    with pytest.warns(UserWarning, match="no weight is left in the actor's layer_0, layer_1, output"):
        run, masks = make_ticket(small_config, "magnitude", Sparsity(actor=1.0, critic=0.7))
    assert lth.compute_sparsity(masks["actor"]) == 1.0
    assert lth.compute_sparsity(lth.load(run).masks["actor"]) == 1.0


def test_a_transferred_ticket_starts_from_the_target_and_lies_apart(small_config, dense):
    # The other task has the same sizes: the same task under another seed's dense run stands in a folder of its own.
    other = parse_config({**small_config.model_dump(), "seeds": [1]})
    target = dense_spec(other, "Pendulum-v1", 1)
    lottery.train_dense(other.output_dir, target)
    mask = mask_spec(
        small_config, dense_spec(small_config, "Pendulum-v1", 0), "magnitude", Sparsity(actor=0.8, critic=0.7)
    )
    lottery.make_mask(small_config.output_dir, mask)
    spec = TicketSpec(dense=target, mask=mask)
    run = lottery.train_ticket(small_config.output_dir, spec)
    masks = on_host(store.load_mask(journal.last_file(small_config.output_dir, mask)))
    initial = on_host(lth.load((other.output_dir / target.path), 0).agent.state.params["actor"])
    start = on_host(lth.load(run, 0).agent.state.params["actor"])
    assert jax.tree.all(jax.tree.map(lambda s, m, p: bool((s == m * p).all()), start, masks["actor"], initial))
    own = ticket_spec(small_config, dense_spec(small_config, "Pendulum-v1", 0), mask)
    assert (other.output_dir / own.path) != run


def test_a_mask_from_any_file(small_config, dense, tmp_path):
    import pickle

    state = lth.load(dense[1]).agent.state
    masks = {
        "actor": jax.tree.map(np.asarray, lth.random_mask(state.params["actor"], 0.6, jax.random.key(5))),
        "critic": jax.tree.map(lambda p: np.ones(p.shape, bool), state.params["critic"]),
    }
    path = tmp_path / "mine.pkl"
    path.write_bytes(pickle.dumps(masks))
    found = store.file_mask(path, "file")
    assert isinstance(found, FileMask)
    assert found.sparsity.critic == 0.0
    run = lottery.train_ticket(
        small_config.output_dir, ticket_spec(small_config, dense_spec(small_config, "Pendulum-v1", 0), found), path
    )
    kept = lth.load(run).masks
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), kept["actor"], masks["actor"]))
    assert lth.compute_sparsity(kept["critic"]) == 0.0


def test_a_grid_keeps_the_rewind_point_as_training_passes_it(tmp_path):
    from lth.experiment.plan import plan
    from lth.experiment.runner import run_plan

    pruning = {"sparsity": 0.5, "methods": ["random"], "rewind_steps": 200}
    config = parse_config({**SMALL, "pruning": pruning, "output_dir": str(tmp_path)})
    there = []

    class Watch:
        def begin(self, spec):
            if spec.stage == "mask":
                run = tmp_path / spec.dense.path
                there.append(journal.checkpoint_file(run, 200).exists() and journal.replay_file(run, 200).exists())

        def step(self, spec, env_steps, metrics):
            pass

        def end(self, outcome):
            assert outcome.status == "done"

    run_plan(plan(config), Watch())
    assert there == [True]
