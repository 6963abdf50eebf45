"""`lth.run` and `lth.report`: the command line from Python, more than once in one process."""

import pytest
import yaml
from helpers.grids import differences, make_grid
from helpers.small import SMALL

import lth
from lth.api import read_config
from lth.cli import main
from lth.config import parse_config
from lth.experiment import runner
from lth.experiment.spec import TicketSpec
from lth.experiment.status import Outcome
from lth.experiment.tidy import read_tidy


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A grid made by `lth.run` from nested dicts, twice in this process: its folder, and what both calls returned."""
    folder = tmp_path_factory.mktemp("api") / "results"
    tree = {**SMALL, "output_dir": str(folder), "pruning": {**SMALL["pruning"], "methods": ["magnitude", "random"]}}
    return folder, tree, [lth.run(tree), lth.run(tree)]


def test_what_run_returns_is_what_it_writes(made):
    folder, _, (first, again) = made
    assert [outcome.status for outcome in first.outcomes] == ["done"] * 5
    assert [outcome.status for outcome in again.outcomes] == ["kept"] * 5
    assert first.failed == again.failed == []
    assert [(row.method, row.sparsity, row.seeds) for row in first.table] == [
        ("magnitude", "0.8", 1),
        ("random", "0.8", 1),
    ]
    assert first.tidy == again.tidy
    assert {path.name for path in first.files} >= {"tidy.csv", "table.csv", "runs.csv", "returns.png"}
    assert all(path.parent == folder and path.stat().st_size for path in first.files)


def test_the_command_line_makes_the_same_bytes(made, tmp_path):
    folder, tree, _ = made
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**tree, "output_dir": str(tmp_path / "out")}))
    assert main(["run", str(tmp_path / "c.yaml")]) == 0
    assert differences(folder, tmp_path / "out") == []


def test_a_file_with_overrides_a_part_and_a_report(made, tmp_path):
    folder, tree, _ = made
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(tree))
    only = lth.run(path, f"output_dir={tmp_path / 'part'}", only="mask-magnitude")
    assert [outcome.spec.stage for outcome in only.outcomes] == ["dense", "mask"]
    assert (only.table, only.files) == ([], [])
    assert not (tmp_path / "part" / "table.csv").exists()
    page = lth.report(parse_config(tree))
    assert page == folder / "report.html"
    text = page.read_text()
    assert lth.report(path).read_text() == text  # and again, from the file
    with pytest.raises(lth.InputError, match="no ticket of this config is finished"):
        lth.report(path, f"output_dir={tmp_path / 'part'}")
    with pytest.raises(lth.InputError, match="no ticket of this config is finished"):
        lth.report(path, f"output_dir={tmp_path / 'nowhere'}")
    assert not (tmp_path / "nowhere").exists()


def test_mistakes_are_input_errors(made, tmp_path):
    _, tree, _ = made
    for call, says in (
        (lambda: lth.run({**tree, "seed": 3}), "did you mean 'seeds'"),
        (lambda: lth.run(3), "the config is of type int"),
        (lambda: lth.run(["seeds=[0]"]), "the config is of type list"),
        (lambda: lth.run("config.yaml", ["seeds=[0]"]), r"an override is \['seeds=\[0\]'\], but must be 'key=value'"),
        (lambda: lth.run(tree, "seeds=[1]"), "overrides such as"),
        (lambda: lth.run(tmp_path / "none.yaml"), "does not exist"),
        (lambda: lth.run({**tree, "tasks": ["Pendulum-v9"], "output_dir": str(tmp_path / "out")}), "Pendulum-v9"),
        (lambda: lth.run(tree, only="nothing-is-so"), "matches no run"),
    ):
        with pytest.raises(lth.InputError, match=says):
            call()
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_finished_ticket_names_the_table_that_it_wrote(tmp_path, monkeypatch):
    config = make_grid(SMALL, tmp_path / "results", skip=("ticket-",))

    def failing(planned, display, ended):
        outcomes = [
            Outcome(spec, "failed" if isinstance(spec, TicketSpec) else "kept", 0.0, "it diverged")
            for spec in planned.specs
        ]
        for outcome in outcomes:
            ended(outcome)
        return outcomes

    monkeypatch.setattr(runner, "run_plan", failing)
    results = lth.run(config)
    assert {outcome.spec.stage for outcome in results.failed} == {"ticket"}
    assert results.table == []
    assert results.files == [config.output_dir / "tidy.csv"]
    assert results.tidy == read_tidy(results.files[0])
    assert "dense" in {row.method for row in results.tidy}


def test_an_empty_path_is_not_the_config_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seeds: 3\n")
    assert read_config().seeds == (3,)
    for call in (lth.run, lth.report, read_config):
        with pytest.raises(lth.InputError, match=r"is a folder without last-run\.yaml"):
            call("")
