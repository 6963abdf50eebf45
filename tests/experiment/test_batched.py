"""Grids whose runs train in one program: the files are those of runs that train alone, and no disturbance changes a byte."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers.grids import contents, differences
from helpers.processes import kill, wait_for, workers_of
from helpers.small import SMALL

import lth
from lth.cli import main, script
from lth.config import load_config, parse_config
from lth.errors import InputError
from lth.experiment import backend, journal
from lth.experiment.attempt import attempt_all
from lth.experiment.build import dense_spec
from lth.experiment.costs import bytes_in_batch
from lth.experiment.options import options_of
from lth.experiment.plan import plan
from lth.experiment.runner import jobs_of
from lth.experiment.spec import DenseSpec, MaskSpec, TicketSpec

GRID = {
    **SMALL,
    "algorithm": "dqn",
    "tasks": ["CartPole-v1"],
    "seeds": [0, 1],
    "training": {"env_steps": 300, "start_steps": 50, "segment_steps": 50, "batch_size": 16, "checkpoint_every": 1},
    "dqn": {"q_hidden": [12, 12], "target_every": 30},
    "evaluation": {"every": 150, "episodes": 1, "last_episodes": 2},
    "pruning": {
        **SMALL["pruning"],
        "sparsity": 0.5,
        "methods": ["magnitude", "gradual"],
        "controls": ["small-dense", "retrained", "reinit"],
        "rewind_steps": [100],
        "mask_every": 50,
    },
    "executor": "batched",
    "batch": 4,
    "retries": 0,
}
"""Two seeds of a dense agent, a mask, a ticket from a later step, a schedule and three controls."""
del GRID["sac"]
RUNS = 14


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The grid as a file."""
    path = tmp_path_factory.mktemp("batched") / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID))
    return path


@pytest.fixture(scope="module")
def undisturbed(grid):
    """Where the grid was run without disturbance."""
    folder = grid.parent / "undisturbed"
    assert main(["run", str(grid), f"output_dir={folder}"]) == 0
    return folder


def runs_in(folder):
    """Return the directories of runs below a folder by their names without their hashes, of the first seed."""
    found = {}
    for run in sorted(folder.glob("*/seed0/*")):
        found.setdefault(run.name[:-9], []).append(run)
    return found


def test_a_grid_has_the_files_of_one_that_trains_run_by_run(grid, undisturbed, tmp_path, capsys):
    only = ["--only", "*seed0/*magnitude*"]
    assert main(["run", str(grid), f"output_dir={tmp_path}", "executor=local", "batch=null", *only]) == 0
    alone, together = runs_in(tmp_path), runs_in(undisturbed)
    assert len(alone) == 4
    for name, (run,) in alone.items():
        others = {path.name: path for path in together[name]}
        assert run.name not in others  # the hash has the batch in it
        for other in others.values():
            assert sorted(p.name for p in other.iterdir()) == sorted(p.name for p in run.iterdir())
            spec = json.loads((other / "spec.json").read_text())
            training = spec.get("dense", spec)["training"]
            assert (training["backend"], training["batch"]) == ("batched", 4)
    assert len([run for runs in together.values() for run in runs]) == RUNS // 2
    with (undisturbed / "table.csv").open() as file:
        rows = {(row["method"], row["control"]) for row in csv.DictReader(file)}
    assert rows == {("magnitude", ""), ("magnitude", "reinit"), ("gradual", ""), ("", "small-dense"), ("", "retrained")}
    assert not list(undisturbed.rglob("*.partial"))
    assert not list(undisturbed.rglob(journal.RESUME))

    before = contents(undisturbed)
    capsys.readouterr()
    assert main(["run", str(grid), f"output_dir={undisturbed}"]) == 0
    assert f"{RUNS} of {RUNS} runs were finished before" in capsys.readouterr().out
    assert contents(undisturbed) == before
    assert all(len(journal.read_lines(file)) == 1 for file in undisturbed.rglob(journal.ATTEMPTS))
    for log in (undisturbed / "logs").iterdir():
        assert log.read_text() == ""


def test_a_run_made_again_alone_has_the_same_bytes(grid, undisturbed, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(undisturbed, folder)
    for pattern in ("*/seed0/ticket-gradual-*", "*/seed1/ticket-magnitude-0.5-rewind*"):
        (run,) = folder.glob(pattern)
        shutil.rmtree(run)
    assert main(["run", str(grid), f"output_dir={folder}"]) == 0
    assert differences(undisturbed, folder) == []


@pytest.mark.full
def test_a_grid_whose_processes_are_killed_goes_on_to_the_same_bytes(grid, undisturbed, tmp_path):
    command = [sys.executable, "-m", "lth.cli", "run", str(grid), f"output_dir={tmp_path}"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **how) as process:
        wait_for(process, lambda: list(tmp_path.glob(f"*/*/dense-*/{journal.RESUME}")))
        (worker,) = workers_of(process)
        kill(worker)
        wait_for(process, lambda: list(tmp_path.glob(f"*/*/ticket-*/{journal.RESUME}")))
        (other,) = workers_of(process)
        assert other != worker
        kill(process.pid)
        process.wait()
    wait_until_gone(tmp_path)
    assert main(["run", str(grid), f"output_dir={tmp_path}"]) == 0
    assert differences(undisturbed, tmp_path) == []
    assert not list(tmp_path.rglob(journal.FAILURES))


def wait_until_gone(folder):
    """Wait until the workers and all that they started have ended."""
    until = time.monotonic() + 20
    while found := processes_with(folder):
        assert time.monotonic() < until, found
        time.sleep(0.05)


def processes_with(folder):
    """Return the processes whose standard error is a log of the folder: workers and all that these started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            if (process / "fd" / "2").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks for processes as Linux lists them")
def test_ctrl_c_leaves_no_process(grid, tmp_path):
    # A shell's background jobs ignore SIGINT, and so do their children, unless it is put back.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "lth.cli", "run", str(grid)]
    command += [f"output_dir={tmp_path}", "training.env_steps=100000"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **how) as process:
        wait_for(process, lambda: list(tmp_path.glob(f"*/*/dense-*/{journal.RESUME}")))
        assert len(processes_with(tmp_path)) > 2
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    wait_until_gone(tmp_path)
    assert (tmp_path / "logs" / "worker0.log").read_text() == ""


class Interrupted(Exception):
    pass


def test_an_error_in_one_run_leaves_the_others_and_it_resumes(grid, undisturbed, tmp_path):
    config = load_config(grid, [f"output_dir={tmp_path}"])
    shutil.copy(undisturbed / "tasks.json", tmp_path)
    specs = [spec for spec in plan(config).specs if isinstance(spec, DenseSpec) and spec.agent == config.dqn]
    dumped = [spec.model_dump(mode="json") for spec in specs]
    events = []

    def tell(event):
        if event["kind"] == "step" and event["run"] == 0 and event["env_steps"] == 200:
            raise Interrupted("stop")
        events.append(event)

    attempt_all(tmp_path, dumped, options_of(config), tell)
    ended = {event["run"]: event for event in events if event["kind"] != "step"}
    assert (ended[0]["kind"], ended[0]["message"]) == ("failed", "stop")
    assert ended[1]["kind"] == "done"
    first, second = (spec.path for spec in specs)
    assert differences(undisturbed / second, tmp_path / second) == []
    assert (tmp_path / first / journal.RESUME).exists()
    events.clear()
    attempt_all(tmp_path, dumped, options_of(config), events.append)
    assert [event["kind"] for event in events if event["kind"] != "step"] == ["done", "done"]
    assert {event["run"] for event in events if event["kind"] == "step"} == {0}
    assert min(event["env_steps"] for event in events if event["kind"] == "step") >= 150
    (tmp_path / first / journal.FAILURES).unlink()
    assert differences(undisturbed / first, tmp_path / first) == []


TASKS = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Stuck(CartPoleEnv):
    taken = 0

    def step(self, action):
        self.taken += 1
        if self.taken == 120:
            raise ValueError("the cart is stuck")
        return super().step(action)


gymnasium.register("Stuck-v0", Stuck, max_episode_steps=500)
"""


def test_a_task_that_fails_is_retried_and_stops_no_other(grid, undisturbed, tmp_path, monkeypatch, capsys):
    (tmp_path / "stuck_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    folder = tmp_path / "out"
    words = [
        "tasks=[stuck_tasks:Stuck-v0, CartPole-v1]",
        f"output_dir={folder}",
        "retries=1",
        "pruning.methods=magnitude",
    ]
    assert main(["run", str(grid), *words, "pruning.controls=[]"]) == 1
    printed, errors = capsys.readouterr()
    assert printed.count("the cart is stuck; retrying") == 2
    for seed in (0, 1):
        # The retry resumes at step 100, with a new environment.
        says = f"failed: stuck_tasks:Stuck-v0 seed {seed} dense: the environment raised ValueError at step 219: the cart is stuck"
        assert says in errors
    assert "Traceback" not in errors
    for run in folder.glob("stuck*/*/dense-*"):
        assert [line["message"].split(": ")[-1] for line in journal.read_lines(run / journal.FAILURES)] == [
            "the cart is stuck"
        ] * 2
        assert "stuck_tasks.py" in journal.read_lines(run / journal.FAILURES)[0]["traceback"]
    made = [run for run in folder.glob("CartPole-v1/*/*") if (run / "spec.json").exists()]
    assert len(made) == 6
    for run in made:
        assert differences(undisturbed / run.relative_to(folder), run) == []


@pytest.mark.full  # took four minutes on two busy cores
def test_the_same_grid_on_ray(grid, undisturbed, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'", exc_type=ImportError)
    only = ["--only", "*ticket-magnitude-0.5-rewind*"]
    words = ["executor=ray", "ray.address=local", f"output_dir={tmp_path}", *only]
    done = subprocess.run([sys.executable, "-m", "lth.cli", "run", str(grid), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [path.parent for path in tmp_path.glob("*/*/*/spec.json")]
    assert len(made) == 6
    for run in made:
        assert differences(undisturbed / run.relative_to(tmp_path), run) == []


def test_jobs_are_full_batches_then_what_is_left_and_masks_alone(grid, undisturbed):
    words = ["seeds=[0, 1, 2, 3, 4]", f"output_dir={undisturbed}"]
    found = plan(load_config(grid, words))
    dense = [spec for spec in found.specs if isinstance(spec, DenseSpec) and spec.agent == found.config.dqn]
    tickets = [
        spec for spec in found.specs if isinstance(spec, TicketSpec) and spec.schedule is None and not spec.control
    ]
    masks = [spec for spec in found.specs if isinstance(spec, MaskSpec)]
    (full,) = jobs_of(dense, found, idle=False)
    assert full == dense[:4]
    assert jobs_of(dense[:3], found, idle=False) == []
    assert jobs_of(dense[:3], found, idle=True) == [dense[:3]]
    assert jobs_of(masks[:2] + dense[:3], found, idle=True) == [[masks[0]], [masks[1]]]
    assert jobs_of([*dense[:2], *tickets[:2]], found, idle=True) == [dense[:2]]
    assert jobs_of([*tickets[:3], *dense[:4], tickets[3]], found, idle=False) == [tickets[:4], dense[:4]]
    # In one order everywhere, because the runs of a batch are locked one after the other.
    assert jobs_of(dense[3::-1], found, idle=False) == [dense[:4]]
    scheduled = [spec for spec in found.specs if isinstance(spec, TicketSpec) and spec.schedule][:2]
    assert jobs_of([*tickets[:2], *scheduled], found, idle=False) == []
    alone = plan(load_config(grid, [*words, "executor=local", "batch=null"]))
    assert jobs_of(dense, alone, idle=False) == [[spec] for spec in dense]


def config_of(root, **settings):
    return parse_config({**GRID, "output_dir": str(root), **settings})


def test_the_size_of_batches_is_halved_until_they_fit_and_recorded(tmp_path):
    asked = config_of(tmp_path, batch=20)
    have = backend.MEMORY_SHARE * backend.device_memory()
    for each, places in ((1, 20), (have / 11, 10), (have / 9.5, 5), (have / 3.5, 3), (have, 1), (100 * have, 1)):
        assert backend.resolve_batch(asked, int(each)).batch_size == places
    assert not list(tmp_path.iterdir())
    backend.record_batch(asked, backend.resolve_batch(asked, int(have / 9.5)))
    assert json.loads((tmp_path / "batch.json").read_text()) == {"20": 5}
    assert backend.resolve_batch(asked, 1).batch_size == 5
    assert backend.recorded(asked).batch_size == 5
    assert backend.resolve_batch(config_of(tmp_path, batch=4), 1).batch_size == 4
    backend.record_batch(config_of(tmp_path, batch=4), config_of(tmp_path, batch=4))
    assert backend.resolve_batch(asked, 1).batch_size == 5
    assert backend.resolve_batch(config_of(tmp_path, batch=None), int(have / 10)).batch_size == 8  # of 32
    local = config_of(tmp_path, batch=None, executor="local")
    assert backend.resolve_batch(local, 1) is local


def test_the_scripts_make_the_runs_of_a_folder_whose_batches_were_halved(grid, tmp_path, monkeypatch):
    (tmp_path / "batch.json").write_text('{"4": 2}')
    words = [f"output_dir={tmp_path}", "seeds=0"]
    monkeypatch.setattr(sys, "argv", ["_01_train_dense.py", "--config", str(grid), *words])
    config, _ = script("")
    expected = plan(backend.recorded(load_config(grid, words))).specs[0]
    assert expected.training.batch == 2
    assert dense_spec(config, "CartPole-v1", 0) == expected


def test_the_memory_of_a_run_counts_its_replay_buffer(tmp_path):
    spaces = {"CartPole-v1": lth.algorithms.architecture.Spaces(4, 2, discrete=True)}
    small, large = (
        bytes_in_batch(config_of(tmp_path, training={**GRID["training"], "env_steps": steps}), spaces)
        for steps in (1000, 101_000)
    )
    assert large - small == 2 * 4 * 11 * 100_000


@pytest.mark.parametrize("text", ["", "[]", "{", '{"4": 0}', '{"4": "4"}', '{"4": 1.5}', "4", '{"4": true}'])
def test_a_damaged_record_of_sizes_is_an_error_with_a_way_out(tmp_path, text):
    (tmp_path / backend.BATCH).write_text(text)
    with pytest.raises(InputError, match=r"batch.json', which records the size of batches .* delete it"):
        backend.resolve_batch(config_of(tmp_path), 1)


def test_a_dry_run_writes_nothing_and_knows_the_size(grid, undisturbed, tmp_path, capsys):
    assert main(["run", str(grid), f"output_dir={tmp_path / 'out'}", "--dry-run", "--list"]) == 0
    assert f"{RUNS} of {RUNS} runs to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    few = ["pruning.methods=[magnitude]", "pruning.controls=[]"]
    assert main(["run", str(grid), f"output_dir={tmp_path / 'out'}", "--dry-run", *few]) == 0
    # Dense agents, then the tickets that need them.
    assert "Batches: 4 runs train in 2 batches, each with 4 places" in capsys.readouterr().out
    assert main(["run", str(grid), f"output_dir={undisturbed}", "--dry-run"]) == 0
    assert f"0 of {RUNS} runs to do" in capsys.readouterr().out
    shutil.copytree(undisturbed, tmp_path / "smaller")
    (tmp_path / "smaller" / "batch.json").write_text('{"32": 4}')  # the memory was too small for 32
    assert main(["run", str(grid), f"output_dir={tmp_path / 'smaller'}", "batch=32", "--dry-run"]) == 0
    assert f"0 of {RUNS} runs to do" in capsys.readouterr().out
    assert main(["status", str(grid), f"output_dir={tmp_path / 'smaller'}", "batch=32"]) == 0
    assert f"{RUNS} runs: {RUNS} finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"training": {"backend": "native"}}, "training.backend=native trains one run at a time"),
        ({"training": {"backend": "dense"}}, "training.backend=dense trains one run at a time"),
        ({"training": {"step_timeout": 5.0}}, "training.step_timeout works only with executor: local"),
        ({"training": {"batch": 4}}, "training.batch is set automatically; set batch: 4 instead"),
        ({"training": {"backend": "batched"}, "executor": "local", "batch": None}, "is set by executor: batched"),
        ({"batch": 0}, "batch"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, says):
    settings = {**settings, "training": {**GRID["training"], **settings.get("training", {})}}
    with pytest.raises(InputError, match=says):
        config_of(tmp_path, **settings)
