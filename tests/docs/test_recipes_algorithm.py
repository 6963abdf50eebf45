"""The tutorial's algorithm, followed literally: in a folder outside of the checkout, in processes of their own."""

import csv
import json
import os

import numpy as np
import pytest
import yaml
from helpers.recipes import written_by
from helpers.small import ROOT, SMALL

import lth
from lth.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory, run_command):
    """The grid of the tutorial's algorithm, small, made by its command."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_algorithms.py").write_text(written_by("algorithm", "my_algorithms.py"))
    config = {**SMALL, "output_dir": str(folder / "results"), "retries": 0}
    config["pruning"] = {
        **SMALL["pruning"],
        "methods": ["magnitude", "taylor", "rigl"],
        "sparsity": {"actor": 0.8, "critic": 0.7},
        "controls": ["permuted", "small-dense"],
        "mask_every": 50,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = [
        "algorithm=my_algorithms:DDPGConfig",
        "agent={learning_rate: 3.0e-4, actor_hidden: [16, 16], critic_hidden: [16, 16]}",
    ]
    commands = {name: ["-m", "lth", name, *words] for name in ("run", "report", "status")}
    done = {n: run_command(*c, cwd=folder, env={"PYTHONPATH": str(folder)}) for n, c in commands.items()}
    return folder, done, words


def test_an_algorithm_of_your_own_runs_as_ours_do(made):
    folder, done, _ = made
    assert all(result.returncode == 0 for result in done.values()), {n: r.stderr for n, r in done.items()}
    with (folder / "results" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["method"], row["control"]) for row in rows}
    assert found == {(m, c) for m in ("magnitude", "taylor") for c in ("", "permuted")} | {
        ("rigl", ""),
        ("", "small-dense"),
    }
    assert all(np.isfinite(float(row["ticket_return"])) for row in rows)
    specs = [json.loads(p.read_text()) for p in (folder / "results").glob("*/*/dense-*/spec.json")]
    assert {spec["my_algorithms:DDPGConfig"]["learning_rate"] for spec in specs} == {3e-4}
    assert len(specs) == 2  # the second is small-dense


def test_its_agents_load_where_it_is_imported_and_nowhere_else(made, run_command):
    folder, _, _ = made
    run = next((folder / "results").glob("*/*/ticket-taylor-*"))
    with pytest.raises(lth.InputError, match="a custom entry: run `import my_algorithms` first"):
        lth.load(run)
    code = f"""
import my_algorithms, lth, numpy as np
agent, buffer, masks = lth.load({str(run)!r})
assert isinstance(agent.algorithm, my_algorithms.DDPG)
for network, wanted in (("actor", 0.8), ("critic", 0.7)):
    assert abs(lth.compute_sparsity(masks[network]) - wanted) < 0.01
    for layer, leaves in masks[network].items():
        kernel = np.asarray(agent.state.params[network][layer]["kernel"])
        assert (kernel[np.asarray(leaves["kernel"]) == 0] == 0.0).all()
grads = lth.gradient_statistics(agent, buffer, num_batches=2, batch_size=16)
assert set(grads) == {{"actor", "critic"}}
"""
    result = run_command("-c", code, env={"PYTHONPATH": str(folder)})
    assert result.returncode == 0, result.stderr


def test_its_runs_are_shown_and_evaluated_by_name(made, run_command, capsys):
    folder, _, _ = made
    run = next((folder / "results").glob("*/*/ticket-taylor-*"))
    mine = ["--algorithm", "my_algorithms:DDPGConfig"]
    for command, says in (("show", "Pendulum-v1 seed 0 taylor"), ("eval", "return")):
        result = run_command("-m", "lth", command, str(run), *mine, cwd=folder, env={"PYTHONPATH": str(folder)})
        assert result.returncode == 0, result.stderr
        assert says in result.stdout
        assert main([command, str(run)]) == 2  # in this process, which has not imported it
        assert "import my_algorithms" in capsys.readouterr().err


def test_an_algorithm_that_cannot_be_found_is_an_error_with_a_way_out(made, monkeypatch, capsys):
    folder, _, words = made
    monkeypatch.chdir(folder)
    for word, says in (
        (words[0], "PYTHONPATH=."),  # the module is not on the path here
        ("algorithm=json:JSONDecoder", "json has no AgentConfig class 'JSONDecoder'"),
        ("algorithm=td4", "did you mean 'td3'?"),
    ):
        assert main(["run", word]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.full  # batches of built-in algorithms are tested in tests/experiment/test_batched.py
def test_its_runs_train_in_a_batch(made, run_command):
    folder, _, words = made
    words = [*words, "executor=batched", "batch=2", "seeds=[0, 1]", "pruning.methods=magnitude", "pruning.controls=[]"]
    for task, output in (("Pendulum-v1", "host"), ("device_suite:suite/pendulum", "device")):
        how = [f"tasks={task}", f"output_dir={folder / output}", "training.env_steps=200", "evaluation.every=200"]
        path = os.pathsep.join([str(folder), str(ROOT / "tests")])
        result = run_command("-m", "lth", "run", *words, *how, cwd=folder, env={"PYTHONPATH": path})
        assert result.returncode == 0, result.stderr
        with (folder / output / "table.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert np.isfinite(float(row["ticket_return"]))
