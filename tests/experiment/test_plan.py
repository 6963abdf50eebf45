"""The plan of a config; what is remembered of what is finished; and the table that is written as runs finish."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from helpers.grids import make_grid, tidy_rows
from helpers.small import SMALL

from lth import envs, files
from lth.algorithms.architecture import Spaces
from lth.config import parse_config
from lth.errors import InputError
from lth.experiment import journal, status
from lth.experiment.costs import estimate
from lth.experiment.options import RunOptions, options_of
from lth.experiment.plan import plan
from lth.experiment.spec import DenseSpec
from lth.experiment.status import Outcome
from lth.experiment.tasks import check_tasks, record_tasks
from lth.experiment.tidy import Collector, LiveTable, read_tidy, update_table
from lth.experiment.trainer import keep_points

CONTROLS = ["reinit", "inverted", "random-erk", "small-dense", "retrained"]
GRID = {**SMALL, "seeds": [0, 1], "pruning": {**SMALL["pruning"], "sparsity": [0.5, 0.9], "controls": CONTROLS}}


def config_of(folder, **tree):
    return parse_config({**GRID, **tree, "output_dir": str(folder)})


def test_no_simulator_is_started_where_the_tasks_are_known(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    record_tasks(tmp_path, check_tasks(config).spaces)
    want = plan(config).specs
    monkeypatch.setattr(envs, "make", lambda *_, **__: pytest.fail("a simulator was started"))
    envs.task_spaces.cache_clear()
    assert plan(config).specs == want
    assert plan(config, {"Pendulum-v1": Spaces(3, 1)}.__getitem__).specs == want
    (tmp_path / "tasks.json").write_text(
        '{"Pendulum-v1": {"observation_dim": "3"}}'
    )  # damaged: made again from the task
    monkeypatch.undo()
    assert plan(config).specs == want


def test_small_dense_says_what_it_is_and_what_it_takes(tmp_path):
    found = plan(config_of(tmp_path))
    (dense, *small) = [spec for spec in found.specs if isinstance(spec, DenseSpec) and spec.seed == 0]
    titles = [spec.title() for spec in (dense, *small)]
    assert titles == ["Pendulum-v1 seed 0 dense", *(f"Pendulum-v1 seed 0 small-dense {s}" for s in (0.5, 0.9))]
    costs = {one.spec: one.cost for one in estimate(found, {"Pendulum-v1": Spaces(3, 1)}).runs}
    assert costs[small[1]].megabytes < costs[small[0]].megabytes < costs[dense].megabytes
    assert {costs[spec][:2] for spec in (dense, *small)} == {(600, 500)}


def test_each_run_says_its_role_cost_start_and_needs(tmp_path):
    found = plan(config_of(tmp_path, analysis={"connectivity": "parent"}))
    roles = {}
    for i, spec in enumerate(found.specs):
        assert all(needed in found.specs[:i] for needed in spec.needs())
        assert (spec.env_steps > 0) == (spec.stage in ("dense", "ticket"))
        assert spec.updates == (500 if spec.env_steps else 0)
        assert spec.start == 0
        roles.setdefault(spec.role.split()[0], []).append(spec)
    # A seed: 3 methods at 2 sparsities; inverted masks and random-erk's besides.
    count = {role: len(specs) // 2 for role, specs in roles.items()}
    assert count == {"dense": 1, "small-dense": 2, "mask": 14, "ticket": 12, "control": 9, "comparison": 6}
    assert len({spec.title() for spec in found.specs if spec.stage != "mask"}) >= len(found.specs) - 14 * 2 - 12


def test_a_checkpoint_is_hashed_when_it_is_written_and_not_to_ask_whether_it_is_there(tmp_path, monkeypatch):
    config = make_grid(config_tree := {**GRID, "pruning": {**GRID["pruning"], "controls": []}}, tmp_path / "made")
    found, hashed = plan(config), []
    assert config_tree["seeds"] == [0, 1]
    real = files.read_whole
    monkeypatch.setattr(
        journal, "read_whole", lambda path, *words, **more: hashed.append(path) or real(path, *words, **more)
    )
    assert all(journal.is_finished(config.output_dir, spec) for spec in found.specs)
    assert {state.state for state in status.states(found)} == {"finished"}
    assert hashed == []
    # Runs of an earlier version, or copied ones, are hashed once.
    for file in config.output_dir.rglob(journal.VERIFIED):
        file.unlink()
    assert all(journal.is_finished(config.output_dir, spec) for spec in found.specs)
    assert len(hashed) == len(found.specs)
    assert all(journal.is_finished(config.output_dir, spec) for spec in found.specs)
    assert len(hashed) == len(found.specs)
    # What changed is read again, and refused.
    last = journal.last_file(config.output_dir, found.specs[0])
    data = last.read_bytes()
    last.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="altered or truncated"):
        journal.is_finished(config.output_dir, found.specs[0])
    last.write_bytes(data)
    assert journal.is_finished(config.output_dir, found.specs[0])
    # A dense run includes its replay buffer, which masks are made from.
    buffer = config.output_dir / found.specs[0].path / journal.REPLAY_BUFFER
    buffer.rename(buffer.with_suffix(".away"))
    assert not journal.is_finished(config.output_dir, found.specs[0])
    assert [state.state for state in status.states(found)].count("finished") == len(found.specs) - 1
    buffer.with_suffix(".away").rename(buffer)
    assert journal.is_finished(config.output_dir, found.specs[0])
    # A memory of another run's is none.
    (one, other) = (config.output_dir / found.specs[i].path for i in (1, 2))
    (one / journal.VERIFIED).write_bytes((other / journal.VERIFIED).read_bytes())
    hashed.clear()
    assert journal.is_finished(config.output_dir, found.specs[1])
    assert len(hashed) == 1


def test_the_table_is_written_as_runs_finish_and_ends_as_if_made_at_once(tmp_path, monkeypatch):
    pruning = {**GRID["pruning"], "methods": ["magnitude", "taylor"], "sparsity": 0.9, "controls": ["reinit"]}
    tree = {**GRID, "pruning": pruning, "analysis": {"connectivity": ["parent", "methods"]}}
    config = make_grid(tree, tmp_path / "made")
    found = plan(config)
    monkeypatch.setattr(LiveTable, "SHARE", 1e9)  # after each run
    table = LiveTable(found)
    table.add(Outcome(found.specs[0], "kept", 0.0))
    assert not (config.output_dir / "tidy.csv").exists()  # what was there before is no reason to write
    table = LiveTable(found)
    sizes = []
    for spec in found.specs:
        table.add(Outcome(spec, "done", 0.0))
        rows = read_tidy(config.output_dir / "tidy.csv")
        assert rows == Collector(found).rows(found.specs[: len(sizes) + 1])
        sizes.append(len(rows))
    assert sizes == sorted(sizes)
    assert table.rows() == tidy_rows(config)


def test_the_table_is_read_back_only_while_nothing_changed(tmp_path):
    pruning = {**GRID["pruning"], "methods": ["magnitude", "taylor"], "sparsity": 0.9, "controls": []}
    config = make_grid({**GRID, "pruning": pruning}, tmp_path / "made")
    found = plan(config)
    rows = update_table(Collector(found), found.specs)
    assert rows == tidy_rows(config)
    table = config.output_dir / "tidy.csv"
    stamp = table.stat().st_mtime_ns
    assert update_table(Collector(found), found.specs) == rows
    assert table.stat().st_mtime_ns == stamp  # it was read, not made again

    def made_again():
        before = table.stat().st_mtime_ns
        current = update_table(Collector(found), found.specs)
        assert current == tidy_rows(config)
        assert read_tidy(table) == current
        return table.stat().st_mtime_ns != before

    run = next(spec for spec in found.specs if spec.stage == "ticket")
    for name in ("metrics.csv", "analysis.csv", "timings.json"):
        file = config.output_dir / run.path / name
        data = file.read_bytes()
        place = max(i for i, byte in enumerate(data) if 48 <= byte < 58)  # the last digit of all
        file.write_bytes(data[:place] + (b"8" if data[place] == 57 else b"9") + data[place + 1 :])
        assert made_again(), name
        assert not made_again()
    table.write_bytes(table.read_bytes()[:-40])  # cut short by somebody
    assert made_again()
    # Fewer runs, or other rows of the same runs, are another table.
    fewer = update_table(Collector(found), found.specs[:-1])
    assert fewer == Collector(found).rows(found.specs[:-1]) != rows
    assert made_again()


def test_status_needs_no_jax(tmp_path):
    code = f"""
import sys
from lth.cli import main
assert main(["status", {str(tmp_path / "c.yaml")!r}]) == 0
assert "jax" not in sys.modules and "gymnasium" not in sys.modules
"""
    (tmp_path / "c.yaml").write_text(f"output_dir: {tmp_path / 'out'}\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "14 runs: 14 to do" in done.stdout


def test_specs_are_equal_if_their_json_is():
    config = parse_config(GRID)
    one, other = plan(config), plan(parse_config(GRID))
    assert one.specs == other.specs
    assert len({spec.sha256 for spec in one.specs}) == len(set(one.specs)) == len(one.specs)
    spec = one.specs[0]
    changed = spec.model_copy(update={"seed": 7})
    assert changed != spec
    assert changed.path != spec.path
    assert spec.model_copy(update={"role": "x"}) == spec
    digest = hashlib.sha256(f'{{"spec_version":2,"stage":"dense",{spec.text[1:]}'.encode()).hexdigest()
    assert len(digest) == 64


def test_processes_that_make_runs_are_told_every_option():
    training = {"threads": 3, "checkpoint_every": 2, "step_timeout": 9.0}
    tree = {"pruning": {"rewind_steps": [0, 5000]}, "training": training, "report": {"random_episodes": 7}}
    options = options_of(parse_config(tree))
    sent = json.loads(json.dumps(options.for_workers()))
    received = RunOptions(**sent)
    assert (received.threads, received.checkpoint_every, received.step_timeout) == (3, 2, 9.0)
    assert (list(received.rewind_points), received.random_episodes, list(received.trackers)) == ([0, 5000], 7, [])
    assert {*sent} == {*RunOptions._fields} - {"progress"}


def test_missing_rewind_points_are_made_under_the_time_limit_of_a_step(tmp_path):
    config = parse_config({**SMALL, "output_dir": str(tmp_path)})
    spec = next(spec for spec in plan(config).specs if isinstance(spec, DenseSpec))
    options = RunOptions(rewind_points=(spec.training.segment_steps,), step_timeout=9.0)
    job = next(keep_points(tmp_path, spec, options))
    assert (job.until, job.step_timeout) == (spec.training.segment_steps, 9.0)
