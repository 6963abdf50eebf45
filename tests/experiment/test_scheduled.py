"""Tickets whose mask changes in training, as rows of a grid; one pool; sparsities by layers' names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from helpers.small import SMALL
from helpers.trees import on_host

import lth
from lth.algorithms.tickets import masks_of
from lth.cli import main
from lth.config import parse_config
from lth.experiment import attempt, journal, lottery, masking
from lth.experiment.build import dense_spec, mask_spec
from lth.experiment.options import RunOptions, options_of
from lth.experiment.plan import plan
from lth.pruning.masks import pruned_counts

NETWORKS = ("actor", "critic")


def config_of(root, **pruning):
    sac = {**SMALL["sac"], "actor_hidden": [8], "critic_hidden": [8]}
    pruning = {**SMALL["pruning"], "mask_every": 50, **pruning}
    return parse_config({**SMALL, "sac": sac, "output_dir": str(root), "pruning": pruning})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("scheduled")
    sparsity = {"actor": 0.5, "critic": 0.75}
    config = config_of(root, methods=["gradual", "set", "rigl"], rewind_steps=200, sparsity=sparsity)
    for spec in plan(config).specs:
        attempt.make(root, spec, options_of(config))
    return config, {row.method: row.run for row in plan(config).rows}


def run_of(made, method, at=None):
    config, specs = made
    return lth.load((config.output_dir / specs[method].path), at)


def counts(mask):
    return [pruned for pruned, _ in pruned_counts(mask).values()]


@pytest.mark.parametrize("method", ["gradual", "set", "rigl"])
def test_the_state_follows_the_mask_and_the_last_is_recorded(made, method):
    config, specs = made
    start, end = run_of(made, method, 200), run_of(made, method)
    recorded = on_host(lth.load_mask((config.output_dir / specs[method].path) / "mask.pkl"))
    state, masks, before = on_host((end.agent.state, end.masks, start.masks))
    assert int(state.grad_steps) == 500
    for network, sparsity in zip(NETWORKS, (0.5, 0.75), strict=True):
        first, last = counts(before[network]), counts(masks[network])
        n = sum(size for _, size in pruned_counts(masks[network]).values())
        assert sum(last) == round(sparsity * n)
        assert first == ([0] * len(first) if method == "gradual" else last)
        moments = state.opts[network].inner[1][0]
        trees = [state.params[network], moments.mu, moments.nu]
        trees += [state.targets["critic"]] if network == "critic" else []
        for tree in trees:
            for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(masks[network]), strict=True):
                assert bool((leaf[kept == 0] == 0.0).all())
        for a, b in zip(jax.tree.leaves(recorded[network]), jax.tree.leaves(masks[network]), strict=True):
            assert bool((a == b).all())
        schedule = state.opts[network].schedule
        assert int(schedule.step) == 400
        if method == "gradual":
            assert schedule.at.tolist() == [50, 100, 150, 200, 250, 300]
        else:
            assert (int(schedule.every), int(schedule.until)) == (50, 300)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before["critic"], masks["critic"])
    assert any(jax.tree.leaves(moved))


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(made, tmp_path):
    config, specs = made
    spec = specs["rigl"]

    class Stopped(Exception):
        pass

    def stop(env_steps, metrics):
        if env_steps == 400:
            raise Stopped

    for needed in plan(config).specs:
        if needed in (spec.dense, spec.mask):
            attempt.make(tmp_path, needed, options_of(config))
    with pytest.raises(Stopped):
        lottery.train_ticket(tmp_path, spec, options=RunOptions(checkpoint_every=1, progress=stop))
    assert ((tmp_path / spec.path) / journal.RESUME).exists()
    again = lottery.train_ticket(tmp_path, spec)
    whole = config.output_dir / spec.path
    for name in ("checkpoint.safetensors", "mask.pkl", "metrics.csv"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


def test_each_setting_is_another_run_and_says_so(tmp_path):
    paths = {
        row.run.path
        for pruning in ({}, {"mask_every": 60}, {"mask_until": 0.5}, {"allocation": "layer"}, {"sparsity": 0.7})
        for row in plan(config_of(tmp_path, methods=["gradual", "rigl"], **pruning)).rows
    }
    assert len(paths) == 10
    fractions = [list(plan(config_of(tmp_path, methods=["gradual", "set"], mask_fraction=f)).rows) for f in (0.3, 0.2)]
    same = [a.run == b.run for a, b in zip(*fractions, strict=True)]
    assert same == [True, False]
    assert any("ticket-rigl-erk-0.8-" in str(path) for path in paths)


def test_one_pool_and_sparsities_by_name(dense, small_config):
    agent, root = lth.load(dense[1]).agent, small_config.output_dir

    def masks(**pruning):
        config = parse_config({**SMALL, "output_dir": str(root), "pruning": {**SMALL["pruning"], **pruning}})
        spec = mask_spec(config, dense_spec(config, "Pendulum-v1", 0), "magnitude", config.pruning.sparsity[0])
        return masking.create_masks(agent, lambda: None, spec)

    apart, together = masks(), masks(pool="together")
    sizes = {n: sum(size for _, size in pruned_counts(apart[n]).values()) for n in NETWORKS}
    assert [sum(counts(apart[n])) for n in NETWORKS] == [round(0.8 * sizes[n]) for n in NETWORKS]
    assert sum(sum(counts(together[n])) for n in NETWORKS) == round(0.8 * sum(sizes.values()))
    flat = {
        n: np.concatenate([np.abs(np.asarray(layer)).ravel() for layer in jax.tree.leaves(tree) if layer.ndim == 2])
        for n, tree in (("actor", agent.state.params["actor"]), ("critic", agent.state.params["critic"]))
    }
    threshold = np.sort(np.concatenate(list(flat.values())))[round(0.8 * sum(sizes.values()))]
    assert [sum(counts(together[n])) for n in NETWORKS] == [int((flat[n] < threshold).sum()) for n in NETWORKS]

    named = masks(allocation={"output": 0.5, "actor/layer_0": 0.25, "q2/output": 0.0}, exclude=["layer_1"])
    assert pruned_counts(named["actor"]) == {"layer_0": (12, 48), "layer_1": (0, 256), "output": (16, 32)}
    assert [pruned_counts(named["critic"])[x] for x in ("q1/layer_0", "q1/output", "q2/output")] == [
        (51, 64),
        (8, 16),
        (0, 16),
    ]
    assert jax.tree.structure(named["critic"]) == jax.tree.structure(masks_of(agent.state)["critic"])
    assert isinstance(jax.tree.leaves(named["critic"])[0], jnp.ndarray)


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"pool": "together", "sparsity": {"actor": 0.5, "critic": 0.6}}, "one sparsity"),
        ({"pool": "together", "controls": "small-dense"}, "small-dense"),
        ({"allocation": {"output": 0.5}, "controls": "random-erk"}, "random-erk"),
        ({"allocation": {"output": 1.5}}, "output"),
        ({"methods": ["rigel"]}, "did you mean 'rigl'"),
        ({"mask_fraction": 1.0}, "mask_fraction"),
    ],
)
def test_mistakes(pruning, message):
    with pytest.raises(lth.InputError, match=message):
        parse_config({**SMALL, "pruning": pruning})


@pytest.mark.parametrize("method", ["gradual", "set", "rigl"])
def test_a_mask_that_would_never_change_is_refused_before_anything_runs(tmp_path, capsys, method):
    path = tmp_path / "config.yaml"
    config = {**SMALL, "output_dir": str(tmp_path / "results")}
    # 500 updates, up to 375 of which a mask changes.
    for every, status in ((1000, 2), (376, 2), (375, 0 if method == "gradual" else 2), (374, 0)):
        path.write_text(yaml.safe_dump({**config, "pruning": {"methods": [method], "mask_every": every}}))
        assert main(["run", str(path), "--dry-run"]) == status
        said = capsys.readouterr().err
        assert ("would never change its mask" in said and "up to update 375 of 500" in said) == bool(status)
    assert not (tmp_path / "results").exists()


def test_a_name_that_is_no_layers_is_refused(tmp_path):
    config = config_of(tmp_path, allocation={"layer_7": 0.5})
    with pytest.raises(
        lth.InputError, match=r"unknown layer 'layer_7' in pruning\.allocation; the layers of actor or critic are"
    ):
        masking.named_layers(config.agent_config, (), tuple(config.pruning.allocation.items()))


def test_a_share_of_a_layer_that_stays_dense_is_refused(tmp_path):
    def check(allocation, exclude):
        config = config_of(tmp_path, allocation=allocation)
        masking.named_layers(config.agent_config, exclude, tuple(config.pruning.allocation.items()))

    with pytest.raises(
        lth.InputError, match=r"pruning\.allocation sets 'q1/output' to 0\.5, but pruning\.exclude keeps it"
    ):
        check({"q1/output": 0.5}, ["output"])
    check({"q1/output": 0.0}, ["output"])
    check({"output": 0.5}, ["q1/output"])  # the other outputs are pruned
