"""What each control keeps of its ticket and what it changes; iterative pruning, budgets, rewinding and transfer."""

import gymnasium
import jax
import numpy as np
import pytest
from helpers.small import SMALL
from hypothesis import given
from hypothesis import strategies as st

import lth
from lth.algorithms.architecture import Network, Spaces
from lth.config import load_config, parse_config
from lth.errors import InputError
from lth.experiment import attempt, journal, lottery, start
from lth.experiment.build import dense_spec
from lth.experiment.options import options_of
from lth.experiment.plan import plan, sparsity_paths
from lth.experiment.spec import DenseSpec, MaskSpec, TicketSpec
from lth.pruning.allocation import counts_by_layer, erk_counts, pruned_count
from lth.pruning.masks import pruned_counts
from lth.starting import write_template

# The inverted control is free to empty a layer, and here it does.
pytestmark = pytest.mark.filterwarnings("ignore:.*no weight is left")

TASK = "Pendulum-v1"
NETWORKS = ("actor", "critic")
CONTROLS = ["reinit", "shuffled", "permuted", "inverted", "random-erk", "small-dense", "retrained"]


def config_of(folder, **pruning):
    """Return the small config with other pruning settings."""
    tree = {**SMALL["pruning"], "methods": ["magnitude"], **pruning}
    if "rate" in pruning:
        del tree["sparsity"]
    return parse_config({**SMALL, "output_dir": str(folder), "pruning": tree})


def make(config):
    """Make every run of a config; returns its rows by method, control and rewind point."""
    how = options_of(config)
    for spec in plan(config).specs:
        attempt.make(config.output_dir, spec, how)
    return {(row.method, row.control, row.rewind): row for row in plan(config).rows}


def start_of(config, spec):
    """Return the state that a ticket starts from."""
    return lth.load((config.output_dir / spec.path), spec.start).agent.state


def end_of(config, spec):
    return lth.load(config.output_dir / spec.path).agent.state


def kernels(tree):
    """Return the kernels of a tree by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in leaves if "kernel" in jax.tree_util.keystr(p)}


def same(a, b):
    """Say whether two trees are equal to the bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def params_of(state, network):
    return state.params[network]


def parts_of(state):
    """Return all of a state but its key by name: `params/actor`, `env_steps`."""
    parts = {}
    for field, value in state._asdict().items():
        if isinstance(value, dict):
            parts.update({f"{field}/{name}": part for name, part in value.items()})
        elif field != "key":
            parts[field] = value
    return parts


def masks(config, spec):
    return lth.load_mask(journal.last_file(config.output_dir, spec.mask))


def moments(state, network):
    """Return Adam's two moments."""
    return [
        getattr(node, name)
        for node in jax.tree.leaves(state.opts[network].inner, is_leaf=lambda n: hasattr(n, "mu"))
        if hasattr(node, "mu")
        for name in ("mu", "nu")
    ]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """All controls of a magnitude ticket, from step 0 and from step 200."""
    config = config_of(tmp_path_factory.mktemp("controls"), controls=CONTROLS, rewind_steps=[0, 200])
    return config, make(config)


@pytest.mark.parametrize("rewind", ["0", "200"])
def test_reinit_keeps_the_mask_and_draws_every_weight_anew(controlled, rewind):
    config, found = controlled
    ticket, control = (found["magnitude", name, rewind].run for name in ("", "reinit"))
    assert control.mask == ticket.mask
    old, new, end = start_of(config, ticket), start_of(config, control), end_of(config, control)
    for network, mask in masks(config, ticket).items():
        for name, kept in kernels(mask).items():
            before, after = (kernels(params_of(state, network))[name] for state in (old, new))
            assert (after[kept == 0] == 0.0).all()
            assert (kernels(params_of(end, network))[name][kept == 0] == 0.0).all()
            assert (after[kept == 1] != before[kept == 1]).all()
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(moments(new, network)))
    assert same(new.params["critic"], new.targets["critic"])
    for part in ("normalizer", "values/log_alpha", "opts/alpha", "env_steps", "grad_steps"):
        assert same(parts_of(old)[part], parts_of(new)[part]), part


@pytest.mark.parametrize("rewind", ["0", "200"])
def test_shuffled_keeps_what_each_layer_loses_and_moves_the_rest(controlled, rewind):
    config, found = controlled
    ticket, control = (found["magnitude", name, rewind].run for name in ("", "shuffled"))
    rewound = lth.load((config.output_dir / ticket.dense.path), int(rewind)).agent.state
    old, new = (lth.load((config.output_dir / spec.path), int(rewind)) for spec in (ticket, control))
    for network in NETWORKS:
        assert pruned_counts(old.masks[network]) == pruned_counts(new.masks[network])
        assert not same(old.masks[network], new.masks[network])
        for name, kept in kernels(new.masks[network]).items():
            values = kernels(params_of(new.agent.state, network))[name]
            assert (values == np.where(kept == 1, kernels(params_of(rewound, network))[name], 0.0)).all()


@pytest.mark.parametrize("rewind", ["0", "200"])
def test_permuted_keeps_mask_and_values_and_changes_who_has_which(controlled, rewind):
    config, found = controlled
    ticket, control = (found["magnitude", name, rewind].run for name in ("", "permuted"))
    old, new = (start_of(config, spec) for spec in (ticket, control))
    for network, mask in masks(config, ticket).items():
        trees = [
            [params_of(s, network), *moments(s, network), *([s.targets["critic"]] if network == "critic" else [])]
            for s in (old, new)
        ]
        for name, kept in kernels(mask).items():
            before, after = (np.stack([kernels(t)[name][kept == 1] for t in tree], axis=1) for tree in trees)
            assert (kernels(params_of(new, network))[name][kept == 0] == 0.0).all()
            if kept.all():
                assert (before == after).all()
                continue
            # Weight, moments and target travel together.
            assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))
            assert len(before) < 4 or (before != after).any(), name
        biases = [[x for x in jax.tree.leaves(params_of(s, network)) if x.ndim == 1] for s in (old, new)]
        assert same(*biases)
    if rewind == "0":
        assert same(new.params["critic"], new.targets["critic"])


def test_inverted_prunes_the_largest(controlled):
    config, found = controlled
    ticket, control = (found["magnitude", name, "0"].run for name in ("", "inverted"))
    dense = end_of(config, ticket.dense)
    for network, mask in masks(config, control).items():
        weights = np.concatenate([x.ravel() for x in kernels(params_of(dense, network)).values()])
        kept = np.concatenate([x.ravel() for x in kernels(mask).values()]) == 1
        assert (~kept).sum() == round(0.8 * weights.size)
        assert np.abs(weights[~kept]).min() >= np.abs(weights[kept]).max()


def test_random_erk_has_its_budget(controlled):
    config, found = controlled
    for mask in masks(config, found["", "random-erk", "0"].run).values():
        counts = pruned_counts(mask)
        shapes = [leaf.shape for leaf in kernels(mask).values()]
        assert [pruned for pruned, _ in counts.values()] == erk_counts(shapes, 0.8)


def test_small_dense_has_as_many_parameters_and_no_more(controlled):
    config, found = controlled
    spec = found["", "small-dense", "0"].run
    assert isinstance(spec, DenseSpec)
    end = end_of(config, spec)
    whole = end_of(config, found["magnitude", "", "0"].dense)
    for network, hidden, sizes in (
        ("actor", spec.agent.actor_hidden, (3, 2, 1)),
        ("critic", spec.agent.critic_hidden, (4, 1, 2)),
    ):
        have, full = (sum(x.size for x in jax.tree.leaves(params_of(s, network))) for s in (end, whole))
        n = sum(x.size for x in kernels(params_of(whole, network)).values())
        assert have <= full - round(0.8 * n)
        wider = tuple(width + 1 for width in hidden)
        inputs, outputs, times = sizes
        one = Network(("observations",), wider, outputs, learning_rate=1e-3)
        assert times * one.parameters(Spaces(inputs, 1)) > full - round(0.8 * n)


@pytest.mark.parametrize("rewind", ["0", "200"])
def test_retrained_starts_as_the_dense_agent_and_draws_anew(controlled, rewind):
    config, found = controlled
    row = found["", "retrained", rewind]
    rewound = lth.load((config.output_dir / row.dense.path), int(rewind)).agent.state
    start, end, dense = start_of(config, row.run), end_of(config, row.run), end_of(config, row.dense)
    for part in ("params/actor", "params/critic", "targets/critic", "opts/actor", "opts/critic", "normalizer"):
        assert same(parts_of(start)[part], parts_of(rewound)[part]), part
    assert int(end.grad_steps) == int(dense.grad_steps)
    assert not same(end.params["actor"], dense.params["actor"])
    assert all((x != 0).all() for x in kernels(end.params["actor"]).values())


def test_a_control_that_serves_several_methods_is_run_once(tmp_path):
    config = config_of(tmp_path, controls=CONTROLS, methods=["magnitude", "taylor", "random"], sparsity=[0.5, 0.8])
    found = list(plan(config).rows)
    for control, times in (("random-erk", 2), ("small-dense", 2), ("retrained", 1), ("reinit", 4), ("inverted", 4)):
        assert sum(row.control == control for row in found) == times, control
    paths = [spec.path for spec in plan(config).specs]
    assert len(paths) == len(set(paths))
    specs = plan(config).specs
    for i, spec in enumerate(specs):
        assert all(needed in specs[:i] for needed in spec.needs())


@pytest.fixture(scope="module")
def iterative(tmp_path_factory):
    config = config_of(tmp_path_factory.mktemp("iterative"), rounds=3, rate=0.2, methods=["magnitude", "taylor"])
    make(config)
    return config


@pytest.mark.parametrize("method", ["magnitude", "taylor"])
def test_each_round_prunes_its_share_of_what_is_left(iterative, method):
    chain = [row.run for row in plan(iterative).rows if row.method == method]
    assert [spec.mask.round for spec in chain] == [1, 2, 3]
    assert [spec.mask.previous for spec in chain] == [None, *chain[:2]]
    before = None
    for k, spec in enumerate(chain, 1):
        found = masks(iterative, spec)
        for network in NETWORKS:
            counts = pruned_counts(found[network]).values()
            n = sum(size for _, size in counts)
            assert sum(pruned for pruned, _ in counts) == round((1 - (1 - 0.2) ** k) * n)
            if before:
                for name, kept in kernels(found[network]).items():
                    assert (kept <= kernels(before[network])[name]).all()
        before = found


def test_rounds_end_at_the_sparsity_that_was_asked_for(tmp_path):
    config = config_of(tmp_path, rounds=4, sparsity=[0.9, {"actor": 0.5, "critic": 0.75}])
    first, second = sparsity_paths(config)
    assert (first[-1].actor, second[-1].critic) == (0.9, 0.75)
    left = [1 - s.actor for s in first]
    np.testing.assert_allclose(np.divide(left[1:], left[:-1]), 0.1**0.25)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
    st.floats(0, 1, allow_nan=False),
)
def test_erk_counts(shapes, sparsity):
    sizes = [a * b for a, b in shapes]
    counts = erk_counts(shapes, sparsity)
    assert sum(counts) == pruned_count(sum(sizes), sparsity)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    shares = [
        (size - count) / (a + b) for count, size, (a, b) in zip(counts, sizes, shapes, strict=True) if 0 < count < size
    ]
    slack = max(1 / (a + b) for a, b in shapes)
    assert not shares or max(shares) - min(shares) <= 2 * slack + 1e-9


@pytest.mark.parametrize(("allocation", "rounds"), [("layer", 31), ("erk", 53)])
def test_many_small_rounds_prune_exactly(allocation, rounds):
    params = parse_config(SMALL).agent_config.build(Spaces(3, 1)).init(jax.random.key(0)).params["critic"]
    n, mask = sum(x.size for x in kernels(params).values()), None
    for k in range(1, rounds + 1):
        sparsity = 1 - 0.95**k
        mask = lth.prune_kernels_by_gradient_saliency(params, None, sparsity, "magnitude", mask, allocation=allocation)
        assert sum(pruned for pruned, _ in pruned_counts(mask).values()) == round(sparsity * n), k


def test_allocations_reach_the_masks(tmp_path):
    shapes = {"actor": [(3, 16), (16, 16), (16, 2)], "critic": [(4, 16), (16, 16), (16, 1)] * 2}
    for allocation in ("layer", "erk"):
        config = config_of(tmp_path, allocation=allocation, rewind_steps=0)
        spec = next(spec for spec in plan(config).specs if isinstance(spec, MaskSpec))
        lottery.train_dense(tmp_path, spec.dense)
        found = lth.load_mask(lottery.make_mask(tmp_path, spec) / "mask.pkl")
        for network in NETWORKS:
            counts = [pruned for pruned, _ in pruned_counts(found[network]).values()]
            assert counts == counts_by_layer(allocation, shapes[network], 0.8)
    with pytest.raises(InputError, match="choose from global, layer, erk"):
        counts_by_layer("some", [(2, 2)], 0.5)


def test_fine_tuning_starts_from_the_trained_weights_and_updates_as_often(tmp_path):
    config = config_of(tmp_path, rewind_steps="none", allocation="layer")
    (row,) = make(config).values()
    start, end, dense = start_of(config, row.run), end_of(config, row.run), end_of(config, row.dense)
    found = masks(config, row.run)
    for network in NETWORKS:
        for name, kept in kernels(found[network]).items():
            trained = kernels(params_of(dense, network))[name]
            assert (kernels(params_of(start, network))[name] == np.where(kept == 1, trained, 0.0)).all()
    assert int(end.grad_steps) == int(dense.grad_steps) == 500
    assert int(start.env_steps) == 100
    assert same(start.normalizer, dense.normalizer)


@pytest.mark.parametrize("part", ["optimizer", "normalizer", "temperature", "replay_buffer"])
def test_what_is_not_rewound_is_the_trained_agents(tmp_path_factory, controlled, part):
    config, found = controlled
    rest = tuple(name for name in ("optimizer", "normalizer", "temperature", "replay_buffer") if name != part)
    ticket = found["magnitude", "", "200"].run
    spec = ticket.model_copy(update={"rewound": rest})
    assert spec.path != ticket.path
    rewound = start.rewound_state(config.output_dir, ticket)
    state = start.rewound_state(config.output_dir, spec)
    last = end_of(config, ticket.dense)
    fields = {
        "optimizer": {"opts/actor", "opts/critic"},
        "normalizer": {"normalizer"},
        "temperature": {"values/log_alpha", "opts/alpha"},
        "replay_buffer": set(),
    }[part]
    have, ends, starts = (parts_of(s) for s in (state, last, rewound))
    assert fields <= have.keys()
    for name in have:
        assert same(have[name], (ends if name in fields else starts)[name]), name
    buffer = start.rewound_buffer(config.output_dir, spec, state)
    assert len(buffer) == (600 if part == "replay_buffer" else 200)


def test_transfer_to_another_shape(tmp_path):
    tree = {**SMALL["pruning"], "methods": ["magnitude"], "transfer_from": [TASK], "transfer_weights": "both"}
    settings = {**SMALL, "tasks": ["InvertedPendulum-v5"], "output_dir": str(tmp_path)}
    config = parse_config({**settings, "pruning": tree})
    with pytest.raises(InputError, match="layer_0/kernel"):
        make(config)
    config = parse_config({**settings, "pruning": {**tree, "transfer_mismatch": "dense"}})
    found = make(config)
    target = lth.load((tmp_path / dense_spec(config, "InvertedPendulum-v5", 0).path), 0).agent.state
    source = lth.load((tmp_path / dense_spec(config, TASK, 0).path), 0).agent.state
    for label, owner in ((f"from {TASK}", target), (f"from {TASK} with its weights", source)):
        run = lth.load((tmp_path / found["magnitude", label, "0"].run.path), 0)
        mask, state = run.masks["actor"], run.agent.state
        assert (np.asarray(mask["layer_0"]["kernel"]) == 1).all()
        assert same(state.params["actor"]["layer_0"]["kernel"], target.params["actor"]["layer_0"]["kernel"])
        theirs = lth.load_mask(journal.last_file(tmp_path, found["magnitude", label, "0"].run.mask))["actor"]
        kept = np.asarray(theirs["layer_1"]["kernel"])
        assert same(mask["layer_1"]["kernel"], kept)
        middle = np.asarray(owner.params["actor"]["layer_1"]["kernel"])
        assert (np.asarray(state.params["actor"]["layer_1"]["kernel"]) == np.where(kept == 1, middle, 0.0)).all()
        assert same(state.normalizer, target.normalizer)


def test_transfer_between_tasks_of_one_size(tmp_path):
    # Other dynamics: between tasks that differ in nothing, whose weights are taken would make no difference.
    gymnasium.register(
        "lth-test/Pendulum-v7", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=100, kwargs={"g": 5.0}
    )
    try:
        config = parse_config(
            {
                **SMALL,
                "tasks": ["lth-test/Pendulum-v7"],
                "output_dir": str(tmp_path),
                "pruning": {
                    **SMALL["pruning"],
                    "methods": ["random"],
                    "transfer_from": [TASK],
                    "transfer_weights": "both",
                    "rewind_steps": [0, 200, "none"],
                },
            }
        )
        found = make(config)
        spec = found["random", f"from {TASK}", "0"].run
        assert isinstance(spec, TicketSpec)
        assert spec.mask_task() == TASK
        assert "from-Pendulum-v1" in spec.path.name
        assert same(lth.load(tmp_path / spec.path).masks["critic"], masks(config, spec)["critic"])
        for rewind, at in (("200", 200), ("none", None)):
            for label, task in ((f"from {TASK}", spec.dense.task), (f"from {TASK} with its weights", TASK)):
                run = found["random", label, rewind].run
                theirs = lth.load((tmp_path / dense_spec(config, task, 0).path), at).agent.state
                expected = lth.apply_mask(theirs.params["critic"], masks(config, run)["critic"])
                assert same(start_of(config, run).params["critic"], expected), (label, rewind)
    finally:
        gymnasium.registry.pop("lth-test/Pendulum-v7")


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"controls": ["reinitt"]}, "did you mean 'reinit'"),
        ({"rewound": ["optimiser"]}, "did you mean 'optimizer'"),
        ({"rate": 0.2, "sparsity": 0.5}, "rate and sparsity"),
        ({"rewind_steps": [0, 200, 0]}, "more than once"),
        ({"rewind_steps": "never"}, "rewind_steps"),
        ({"allocation": "er"}, "allocation"),
    ],
)
def test_mistakes(pruning, message):
    with pytest.raises(InputError, match=message):
        parse_config({**SMALL, "pruning": pruning})


def test_an_override_of_rate_or_sparsity_replaces_the_other(tmp_path):
    write_template(tmp_path / "c.yaml")  # sets a sparsity
    (tmp_path / "rate.yaml").write_text("pruning: {rate: 0.2, rounds: 2, sparsity: null}")

    def pruning(name, *overrides):
        found = load_config(tmp_path / name, overrides).pruning
        return found.rate, found.sparsity[0].same

    assert pruning("c.yaml", "pruning.rounds=5", "pruning.rate=0.2")[0] == 0.2
    assert pruning("c.yaml", "pruning.rate=0.2", "pruning.sparsity=null")[0] == 0.2
    assert pruning("c.yaml", "pruning.rate=null") == (None, 0.95)
    assert pruning("rate.yaml")[0] == 0.2
    assert pruning("rate.yaml", "pruning.sparsity=0.5") == (None, 0.5)
    with pytest.raises(InputError, match="rate and sparsity"):
        pruning("c.yaml", "pruning.rate=0.2", "pruning.sparsity=0.5")
