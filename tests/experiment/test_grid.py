"""Grids of real processes that are killed, fail, meet each other and run out of disk."""

import contextlib
import os
import random
import shutil
import signal
import subprocess

import pytest
from helpers.grids import contents, differences
from helpers.processes import kill, wait_for, workers_of

from lth.cli import main
from lth.experiment import journal, records, runner, store

TASKS = """
import gymnasium
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv


class Stuck(PendulumEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 350:
            self.fail()
        return super().step(action)

    def fail(self):
        raise ValueError("the gripper is stuck")


class Blind(Stuck):
    def fail(self):
        self.state = np.full(2, np.nan)


for made in (Stuck, Blind):
    gymnasium.register(f"{made.__name__}-v0", made, max_episode_steps=200)
"""


@pytest.fixture(scope="module")
def alone(grid):
    """Where the grid was run by one worker, undisturbed."""
    folder = grid.parent / "alone"
    assert main(["run", str(grid), f"output_dir={folder}"]) == 0
    assert not list(folder.rglob("*.partial"))
    return folder


def test_workers_threads_checkpoints_and_event_files_change_no_bytes(grid, alone, tmp_path):
    pytest.importorskip("tensorboardX", reason="event files need tensorboardX: pip install 'lth[tensorboard]'")
    words = ["workers=2", "training.threads=3", "training.checkpoint_every=1", "tensorboard=true"]
    assert main(["run", str(grid), f"output_dir={tmp_path}", *words]) == 0
    assert differences(alone, tmp_path) == []
    assert len(contents(tmp_path)) > 30
    trained = [*tmp_path.glob("*/*/dense-*"), *tmp_path.glob("*/*/ticket-*")]
    assert len(trained) == 3
    assert all(file.stat().st_size > 500 for run in trained for file in (run / records.EVENTS).iterdir())
    assert sorted(p.parent.name for p in tmp_path.rglob(records.EVENTS)) == sorted(run.name for run in trained)


@pytest.mark.parametrize(
    "times", [1, pytest.param(3, marks=pytest.mark.full)]
)  # benchmarks/kill.py kills a hundred times
def test_a_grid_killed_at_random_moments_gives_the_bytes_of_one_left_alone(alone, start, tmp_path, times):
    chance = random.Random(0)
    words = [f"output_dir={tmp_path}", "workers=2", "training.checkpoint_every=1"]
    first = process = start(*words)
    wait_for(first, lambda: list(tmp_path.glob(f"*/*/dense-*/{journal.ATTEMPTS}")))
    kill(*workers_of(first))  # one of them trains
    printed = ""
    for everything in (True, False) * times:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(1.0, 5.0))
        if process.poll() is not None:
            break
        victims = workers_of(process)
        if not everything:
            kill(*victims[:1])
            continue
        kill(process.pid, *victims)
        printed += process.communicate()[0]
        assert process.returncode == -signal.SIGKILL
        process = start(*words)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    # With retries=0 a failure would have ended it: a kill is none.
    assert "its process was killed by SIGKILL; retrying" in printed + rest
    assert differences(alone, tmp_path) == []
    assert not list(tmp_path.rglob(journal.FAILURES))


def test_a_killed_run_goes_on_from_its_last_checkpoint(grid, alone, start, tmp_path, capsys):
    words = [f"output_dir={tmp_path}", "training.checkpoint_every=1"]
    process = start(*words)
    wait_for(process, lambda: list(tmp_path.glob(f"*/*/dense-*/{journal.RESUME}")))
    kill(process.pid)  # its worker goes with it
    process.wait()
    (run,) = tmp_path.glob("*/*/dense-*")
    with journal.locked(run / journal.LOCK, wait=True):
        pass
    assert (run / journal.RESUME).exists()
    assert not (run / journal.CHECKPOINT).exists()
    assert main(["status", str(grid), *words]) == 0
    assert "5 runs: 1 interrupted, 4 to do" in capsys.readouterr().out
    _, _, about, _ = store.load_agent_and_more(run / journal.RESUME, sealed=True)
    assert main(["run", str(grid), *words]) == 0
    assert differences(alone, tmp_path) == []
    assert [len(journal.read_lines(file)) for file in run.glob(journal.ATTEMPTS)] == [2]
    # The seconds of both attempts are counted, so the second began where the first was killed.
    assert journal.read_timings(run)["train"] > about["seconds"]["train"] > 0
    assert not list(tmp_path.rglob(journal.RESUME))


def test_failures_are_recorded_tried_again_and_stop_nothing_else(grid, alone, tmp_path, monkeypatch, capsys):
    (tmp_path / "wild_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    tasks = "tasks=[wild_tasks:Stuck-v0, wild_tasks:Blind-v0, Pendulum-v1]"
    words = [str(grid), tasks, f"output_dir={tmp_path / 'out'}"]
    assert main(["run", *words, "retries=1"]) == 1
    printed, errors = capsys.readouterr()
    assert printed.count("; retrying") == 2
    assert errors.count("failed: ") == 2
    assert errors.count("skipped: ") == 8
    raised = "the environment raised ValueError at step 349: the gripper is stuck"
    blind = "the environment returned NaN or infinite observations or rewards at environment step 349"
    assert f"failed: wild_tasks:Stuck-v0 seed 0 dense: {raised}" in errors
    assert f"failed: wild_tasks:Blind-v0 seed 0 dense: {blind}" in errors
    assert "Traceback" not in errors
    assert differences(alone / "Pendulum-v1", tmp_path / "out" / "Pendulum-v1") == []

    for task, message in (("Stuck", raised), ("Blind", blind)):
        (run,) = (tmp_path / "out" / f"wild_tasks_{task}-v0").glob("seed0/*")
        assert [line["message"] for line in journal.read_lines(run / journal.FAILURES)] == [message] * 2
        assert len(journal.read_lines(run / journal.ATTEMPTS)) == 2
        assert not (run / journal.PROGRESS).exists()
    (run,) = (tmp_path / "out" / "wild_tasks_Stuck-v0").glob("seed0/*")
    assert main(["show", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "Traceback (most recent call last)" in shown
    assert "wild_tasks.py" in shown

    assert main(["status", *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "15 runs: 5 finished, 2 failed, 8 to do" in printed
    assert "the gripper is stuck" in printed
    assert main(["clean", *words]) == 2
    assert "10 runs of this grid are not finished" in capsys.readouterr().err


DYING = """
import os
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

class Dying(PendulumEnv):
    calls = 0

    def step(self, action):
        Dying.calls += 1
        if Dying.calls == 250:
            self.die()
        return super().step(action)

class Killed(Dying):
    def die(self):
        os.kill(os.getpid(), 9)

class Crashed(Dying):
    def die(self):
        os._exit(3)

for task in (Killed, Crashed):
    gymnasium.register(f"{task.__name__}-v0", task, max_episode_steps=200)
"""


def test_a_run_whose_process_dies_for_ever_is_given_up(grid, tmp_path, monkeypatch, capsys):
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(runner, "MAX_KILLS", 2)
    words = [str(grid), "tasks=[dying:Killed-v0, dying:Crashed-v0]", f"output_dir={tmp_path / 'out'}", "retries=0"]
    assert main(["run", *words]) == 1
    errors = capsys.readouterr().err
    assert "failed: dying:Killed-v0 seed 0 dense: its process was killed by SIGKILL" in errors
    assert "failed: dying:Crashed-v0 seed 0 dense: its process ended with status 3" in errors
    attempts = {
        task: [len(journal.read_lines(f)) for f in (tmp_path / "out" / f"dying_{task}-v0").rglob(journal.ATTEMPTS)]
        for task in ("Killed", "Crashed")
    }
    assert attempts == {"Killed": [3], "Crashed": [1]}
    assert main(["status", *words]) == 0
    assert " ".join(capsys.readouterr().out.split()).count(" failed ") >= 1


def test_two_at_once_in_one_folder(grid, alone, start, tmp_path, capsys):
    words = [str(grid), f"output_dir={tmp_path}"]
    process = start(*words[1:])
    wait_for(process, lambda: list(tmp_path.rglob(journal.PROGRESS)))
    for command in (["run"], ["run", "--only", "taylor"], ["clean"]):
        assert main([*command, *words]) == 2
        errors = capsys.readouterr().err
        assert errors.startswith("error: an")
        assert "`lth run` is " in errors
        assert str(tmp_path) in errors
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert differences(alone, tmp_path) == []


def test_shares_of_a_grid_side_by_side_give_the_same_bytes(grid, alone, start, tmp_path, capsys):
    words = [str(grid), f"output_dir={tmp_path}"]
    shares = [start(*words[1:], "--only", method) for method in ("magnitude", "*ticket-taylor*")]
    wait_for(shares[0], lambda: list(tmp_path.rglob(journal.ATTEMPTS)))
    assert main(["run", *words]) == 2
    assert "another `lth run` is using" in capsys.readouterr().err
    assert main(["status", *words]) == 0
    assert "1 running" in capsys.readouterr().out
    for process in shares:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not (tmp_path / "table.csv").exists()
    assert main(["run", *words]) == 0
    assert "5 of 5 runs were finished before" in capsys.readouterr().out
    assert differences(alone, tmp_path) == []
    assert all(len(journal.read_lines(file)) == 1 for file in tmp_path.rglob(journal.ATTEMPTS))


@pytest.fixture
def disk(tmp_path):
    """A disk of 200 kB, and what mounts it anew with other options."""

    def mount(options):
        return subprocess.run(["mount", "-o", options, *where], capture_output=True, text=True)

    where = ["-t", "tmpfs", "tmpfs", str(tmp_path)]
    done = mount("size=200k") if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip() if done else 'there is no mount'}")
    where = [str(tmp_path)]
    yield tmp_path, mount
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_or_read_only_disk(grid, alone, disk, capsys):
    folder, mount = disk
    words = [str(grid), f"output_dir={folder / 'out'}"]
    assert mount("remount,ro").returncode == 0
    assert main(["run", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: '{folder / 'out'}' cannot be written: Read-only file system.")
    assert len(errors.splitlines()) == 1

    assert mount("remount,rw").returncode == 0
    assert main(["run", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: Pendulum-v1 seed 0 ")
    assert "cannot be written: No space left on device" in errors
    assert str(folder / "out" / "Pendulum-v1") in errors
    assert len(errors.splitlines()) == 1
    assert not [file for file in folder.rglob("*.partial") if journal.PROGRESS not in file.name]

    assert mount("remount,size=20m").returncode == 0
    assert main(["run", *words]) == 0
    assert differences(alone, folder / "out") == []
    capsys.readouterr()
    assert mount("remount,ro").returncode == 0
    assert main(["run", *words, "seeds=[0, 1]"]) == 2
    assert "Read-only file system" in capsys.readouterr().err


def test_status_show_and_clean(grid, alone, tmp_path, capsys):
    folder = tmp_path / "out"
    words = [str(grid), f"output_dir={folder}"]
    assert main(["status", *words]) == 0
    assert "5 runs: 5 to do; 0.0 MB on disk" in capsys.readouterr().out
    shutil.copytree(alone, folder)
    assert main(["status", *words, "--paths"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished ") == 5
    assert all(str(run) in printed for run in folder.glob("*/seed*/*"))
    assert "5 runs: 5 finished; " in printed

    (ticket,) = folder.glob("*/*/ticket-taylor-*")
    assert main(["show", str(ticket)]) == 0
    printed = capsys.readouterr().out
    for words_of_it in (
        "Pendulum-v1 seed 0 taylor 0.8: finished",
        "training.env_steps=1000",
        "jax 0.",
        "replay_buffer.pkl",
    ):
        assert words_of_it in printed
    assert "failures" not in printed
    assert main(["show", str(ticket), "--all"]) == 0
    everything = capsys.readouterr().out
    assert everything.startswith(printed)
    assert all(words_of_it in everything for words_of_it in ("env_steps: 1000", "jax:", "attempts:", "bytes"))

    moved = tmp_path / ticket.name
    ticket.rename(moved)
    assert main(["status", *words]) == 0
    assert "5 runs: 4 finished, 1 to do; " in capsys.readouterr().out
    before = contents(folder)
    assert main(["clean", *words]) == 2
    assert "1 runs of this grid are not finished, such as Pendulum-v1 seed 0 taylor 0.8" in capsys.readouterr().err
    assert contents(folder) == before
    moved.rename(ticket)

    (ticket / ".mask.pkl.abc.partial").write_bytes(b"of a killed process")
    (ticket / journal.RESUME).write_bytes(b"too")
    before = contents(folder)
    assert main(["clean", "--dry-run", *words]) == 0
    *listed, total = capsys.readouterr().out.splitlines()
    assert contents(folder) == before
    buffers = {f"{p}{end}" for p in folder.glob("*/*/ticket-*/replay_buffer.pkl") for end in ("", ".sha256")}
    assert {*listed} == {*buffers, str(ticket / ".mask.pkl.abc.partial"), str(ticket / journal.RESUME)}
    assert total.startswith("would remove 6 files, 0.1 MB")
    assert main(["clean", *words]) == 0
    assert "\nremoved 6 files, 0.1 MB" in f"\n{capsys.readouterr().out}"
    assert before.keys() - contents(folder).keys() == {name.removeprefix(f"{folder}/") for name in listed}

    after = contents(folder)
    assert main(["run", *words]) == 0
    printed = capsys.readouterr().out
    assert "5 of 5 runs were finished before" in printed
    assert contents(folder) == after
    assert main(["clean", *words]) == 0
    assert "removed 0 files" in capsys.readouterr().out
