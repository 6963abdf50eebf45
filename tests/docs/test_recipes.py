"""docs/recipes.md, followed literally: in a folder outside of the checkout, in processes of their own."""

import csv
import importlib.util

import jax
import numpy as np
import pytest
import yaml
from helpers.recipes import block_with
from helpers.small import SMALL

import lth
from lth.cli import main
from lth.pruning.layers import layer_names

ENTRIES = {
    "my_criteria.py": "tempered_taylor = Criterion",
    "my_allocations.py": "def widest_first",
    "my_controls.py": "signs = Control",
    "my_suites.py": "toys = Suite",
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory, run_command):
    """A grid with a criterion, an allocation, a control and a suite of the user's own, made by `lth run` and by Ray."""
    folder = tmp_path_factory.mktemp("entries")
    for name, text in ENTRIES.items():
        (folder / name).write_text(block_with(text))
    config = {**SMALL, "tasks": "my_suites:toys/reach", "retries": 0, "workers": 2}
    config["pruning"] = {
        **SMALL["pruning"],
        "methods": ["taylor", "my_criteria:tempered_taylor"],
        "allocation": "my_allocations:widest_first",
        "controls": ["my_controls:signs", "inverted"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    commands = {"run": ["run"], "status": ["status"], "report": ["report"]}
    if importlib.util.find_spec("ray"):
        commands["ray"] = ["run", "executor=ray", "output_dir=on-ray", "--only", "tempered"]
    environment = {"PYTHONPATH": str(folder)}
    return folder, {n: run_command("-m", "lth", *words, cwd=folder, env=environment) for n, words in commands.items()}


def test_entries_of_your_own_work_in_a_grid_as_ours_do(entries):
    folder, done = entries
    for name, result in done.items():
        assert result.returncode == 0, (name, result.stderr)
        assert "JAX is already imported" not in result.stderr
    with (folder / "results" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    mine = "my_criteria:tempered_taylor"
    controls = ("", "my_controls:signs", "inverted")
    assert [(row["method"], row["control"]) for row in rows] == [(m, c) for m in ("taylor", mine) for c in controls]
    assert {row["task"] for row in rows} == {"my_suites:toys/reach"}
    assert all(0 <= float(row["ticket_success"]) <= 1 for row in rows)  # it tells success
    with (folder / "results" / "inputs.csv").open() as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"position", "goal", "action[0]"}
    assert mine in (folder / "results" / "report.html").read_text()


def test_what_they_say_is_what_is_done(entries):
    folder, _ = entries
    runs = folder / "results" / "my_suites_toys_reach" / "seed0"
    dense = lth.load(next(runs.glob("dense-*")))
    gathered = lth.gradient_statistics(dense.agent, dense.replay_buffer, 8, 32)
    (file,) = runs.glob("mask-my_criteria_tempered_taylor-*/mask_gradient.pkl")
    for network, mask in lth.load_mask(file).items():
        layers = dict(zip(layer_names(mask), prunable(mask), strict=True))
        scores = prunable(
            jax.tree.map(lambda w, g: abs(w) * abs(g) ** 0.5, dense.agent.state.params[network], gathered[network])
        )
        sizes = [leaf.size for leaf in layers.values()]
        left, counts = round(0.8 * sum(sizes)), [0] * len(sizes)
        for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
            counts[i] = min(left, sizes[i] - 1)
            left -= counts[i]
        assert [int((leaf == 0).sum()) for leaf in layers.values()] == counts
        for leaf, score in zip(layers.values(), scores, strict=True):
            assert not (leaf == 0).any() or score[leaf == 0].max() <= score[leaf == 1].min()
    ticket, control = (
        lth.load(next(runs.glob(f"ticket-taylor-{words}-*")), 0).agent.state
        for words in ("my_allocations_widest_first-0.8", "my_allocations_widest_first-0.8-my_controls_signs")
    )
    for network in ("actor", "critic"):
        for one, other in zip(prunable(ticket.params[network]), prunable(control.params[network]), strict=True):
            assert (np.sign(one) == np.sign(other)).all()
            assert len({f"{value:.5g}" for value in abs(other[other != 0])}) <= 1


def prunable(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if leaf.ndim > 1]


def test_entries_of_your_own_work_on_ray_to_the_same_bytes(entries):
    pytest.importorskip("ray", reason="runs on a cluster need Ray")
    folder, _ = entries
    made = [path for path in (folder / "on-ray").rglob("*") if path.suffix in (".safetensors", ".pkl", ".csv")]
    assert len(made) >= 8
    for path in made:
        assert path.read_bytes() == (folder / "results" / path.relative_to(folder / "on-ray")).read_bytes(), path


def test_a_suite_in_jax_works_as_any_other(tmp_path, run_command):
    (tmp_path / "my_device_suites.py").write_text(block_with("toys = device_suite"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**SMALL, "retries": 0}))
    words = ("run", "tasks=my_device_suites:toys/reach", "--only", "dense")
    done = run_command("-m", "lth", *words, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "JAX is already imported" not in done.stderr
    (run,) = (tmp_path / "results" / "my_device_suites_toys_reach" / "seed0").glob("dense-*")
    batch = lth.load(run).replay_buffer.sample(400)
    moved = np.clip(batch.observations[:, 0] + 0.2 * batch.actions[:, 0], -2.0, 2.0)
    np.testing.assert_allclose(batch.next_observations[:, 0], moved, atol=1e-6)
    np.testing.assert_allclose(batch.rewards, -abs(moved - batch.observations[:, 1]), atol=1e-6)


def test_entries_of_your_own_work_in_prune(entries, monkeypatch):
    folder, _ = entries
    monkeypatch.syspath_prepend(folder)
    params = {"a": {"kernel": np.arange(12.0).reshape(3, 4) + 1}, "b": {"kernel": np.ones((2, 2))}}
    gradients = jax.tree.map(lambda w: 1.0 / w**4, params)  # |w| sqrt(|g|) = 1 / |w|
    mine = "my_criteria:tempered_taylor"
    mask = lth.prune(params, 0.25, mine, gradients=gradients)
    assert mask["a"]["kernel"].ravel().tolist() == [1.0] * 8 + [0.0] * 4
    mask = lth.prune(params, 0.75, "magnitude", allocation="my_allocations:widest_first", collapse="error")
    assert [int((leaf == 0).sum()) for leaf in jax.tree.leaves(mask)] == [11, 1]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        (
            "pruning.methods=my_nothing:score",
            "the criterion 'my_nothing:score' cannot be imported: ModuleNotFoundError",
        ),
        ("pruning.methods=json:JSONDecoder", "json has no instance of lth.pruning.criteria.Criterion 'JSONDecoder'"),
        ("pruning.methods=taylr", "did you mean 'taylor'"),
        ("pruning.controls=json:loads", "json has no instance of lth.algorithms.controls.Control 'loads'"),
        ("pruning.controls=reint", "did you mean 'reinit'"),
        ("pruning.allocation=json:nothing", "json has no callable 'nothing'"),
        ("pruning.allocation=erc", "did you mean 'erk'"),
        ("tasks=json:toys/reach", "'json:toys/reach'"),
    ],
)
def test_entries_that_cannot_be_used_are_errors_with_a_way_out(word, says, small_yaml, capsys):
    assert main(["run", str(small_yaml), word]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert says in errors


def test_an_allocation_that_counts_wrongly_is_refused(monkeypatch, tmp_path):
    (tmp_path / "bad_allocations.py").write_text("def none(shapes, sparsity):\n    return [0] * len(shapes)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(lth.InputError, match=r"returned the counts \[0\].*6 in total"):
        lth.prune({"kernel": np.ones((3, 4))}, 0.5, allocation="bad_allocations:none")


def test_an_allocation_may_return_one_number_for_all_layers(monkeypatch, tmp_path):
    code = "import math\ndef total(shapes, sparsity):\n    return {}\n"
    for name, count in (
        ("right", "round(sparsity * sum(map(math.prod, shapes)))"),
        ("wrong", "7"),
        ("nothing", "None"),
    ):
        (tmp_path / f"{name}_total.py").write_text(code.format(count))
    monkeypatch.syspath_prepend(tmp_path)
    params = {"a": {"kernel": np.ones((3, 4))}, "b": {"kernel": np.zeros((2, 4))}}
    mask = lth.prune(params, 0.4, allocation="right_total:total", collapse="allow")
    assert [int((leaf == 0).sum()) for leaf in jax.tree.leaves(mask)] == [0, 8]
    for name, count in (("wrong", 7), ("nothing", None)):
        with pytest.raises(lth.InputError, match=f"returned the counts {count} for.*8 in total"):
            lth.prune(params, 0.4, allocation=f"{name}_total:total")


def test_a_criterion_that_scores_wrongly_is_refused(monkeypatch, tmp_path):
    scores = {"complex": "w * 1j", "column": "abs(w).sum(axis=0)", "nothing": "None"}
    code = "from lth.pruning.criteria import Criterion\n"
    code += "".join(f"{name}_one = Criterion(lambda w, _: {score}, None)\n" for name, score in scores.items())
    (tmp_path / "bad_criteria.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    params = {"a": {"kernel": np.ones((3, 4), np.float32)}}
    says = {
        "complex": "complex64 and have no order",
        "column": r"an array of shape \(4,\), but.* \(3, 4\)",
        "nothing": "None",
    }
    for name, wanted in says.items():
        for make in (lth.prune, jax.jit(lth.prune, static_argnums=(1, 2))):
            with pytest.raises(lth.InputError, match=f"scores of 'a/kernel' are {wanted}"):
                make(params, 0.5, f"bad_criteria:{name}_one")
