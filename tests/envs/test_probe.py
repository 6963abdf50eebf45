"""Tasks are looked at before anything is trained: what is wrong with one is said, and concerns that one alone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import helpers.odd
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box
from helpers.small import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import cli, envs
from lth.envs.probe import look, probe
from lth.training import evaluate

FAULTS = {
    "ArrayReward": "a reward of type numpy.ndarray of shape (1,)",
    "NanReward": "the reward nan, which is not finite",
    "UpperEnd": "step with the upper bound of action 1 raised RuntimeError",
    "FourValues": "expected 5, got 4",
    "WrongShape": "an observation of type numpy.ndarray of shape (3,)",
    "NoInfo": "reset",
    "Constructor": "KeyError: 'nothing'",
    "LargestFloats": "an unbounded action space",
    "helpers.odd:SUITE/any": "making it raised IndexError: list index out of range",
    "WordSuccess": "using what it returned raised ValueError: could not convert string to float: 'yes'",
}


@pytest.fixture
def module_path(monkeypatch):
    """Workers and probes find helpers.odd."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_named(name):
    found = look(name if ":" in name else f"{name}-v0")
    assert found.spaces is None
    assert not found.unknown
    assert FAULTS[name] in found.fault


def test_what_is_right_is_found():
    assert look("Good-v0")[:2] == (envs.task_spaces("Good-v0"), 20)
    assert look("Limited-v0").episode_steps == 15
    assert look("HalfChetah-v5").unknown
    assert look("no_such_module:X-v0").unknown


@pytest.mark.filterwarnings("default")
def test_a_bound_beyond_float32_is_none():
    assert look("LargestDoubles-v0")[:3] == (envs.task_spaces("Good-v0"), 20, "")
    space = envs.make("LargestDoubles-v0").observation_space
    assert space.dtype == np.float32
    assert np.isneginf(space.low).all()
    assert np.isposinf(space.high).all()


def test_a_task_that_hangs_or_dies_harms_nobody(module_path):
    found = probe([f"helpers.odd:{name}-v0" for name in ("Hangs", "Dies", "Good")], limit=20)
    assert [bool(x.fault) for x in found.values()] == [True, True, False]
    assert "could not be created, reset and stepped within 20 seconds" in found["helpers.odd:Hangs-v0"].fault
    assert "its process ended with status 3" in found["helpers.odd:Dies-v0"].fault


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.full)])
def test_a_task_that_hangs_ends_with_the_command(module_path, tmp_path, how):
    command = [sys.executable, "-m", "lth.cli", "run", "tasks=helpers.odd:Hangs-v0", f"output_dir={tmp_path}"]
    # A shell's background jobs ignore SIGINT, and so do their children, unless it is put back.
    with subprocess.Popen(["env", "--default-signal=INT", *command], stderr=subprocess.PIPE) as process:
        listed, probes = Path(f"/proc/{process.pid}/task"), []
        while not (probes and _is_probe(probes[0])):
            time.sleep(0.1)
            probes = " ".join(path.read_text() for path in listed.glob("*/children")).split()
        time.sleep(5)  # until it hangs
        process.send_signal(how)
        assert process.wait(20) == (130 if how == signal.SIGINT else -how)
        time.sleep(1)
        assert not _is_probe(probes[0])


def _is_probe(process):
    """Return whether a process, by its number, is a running check of a task."""
    file = Path(f"/proc/{process}/cmdline")
    return file.exists() and b"lth.envs.probe" in file.read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.integers(-40, 40), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_what_the_environment_gets_lies_in_its_action_space(tenths, width, dtype):
    low, high = np.full(2, tenths / 10, dtype), np.full(2, (tenths + width) / 10, dtype)

    class Asserts(helpers.odd.Good):
        action_space = Box(low, high, dtype=dtype)

    gymnasium.registry.pop("Asserts-v0", None)
    gymnasium.register("Asserts-v0", Asserts)
    env = envs.make("Asserts-v0")
    env.reset(seed=0)
    for action in ([-1, 1], [1, -1], [0.3, -0.7], [np.nextafter(np.float32(1), 0), 1]):
        env.step(np.asarray(action, np.float32))


def test_is_success_counts_as_success():
    env = envs.make("Good-v0")
    policy = _still(env)
    assert evaluate(policy, env, 2).success_rate == 1.0


def _still(env):
    import jax

    from lth.algorithms.acting import policy_of
    from lth.algorithms.base import Agent
    from lth.config import SACConfig

    config = SACConfig(actor_hidden=(4,), critic_hidden=(4,))
    return policy_of(Agent(config, config.build(envs.spaces_of(env)).init(jax.random.key(0))))


TINY = {
    "seeds": [0],
    "retries": 0,
    "training": {"env_steps": 200, "start_steps": 50, "segment_steps": 100, "batch_size": 16},
    "sac": {"actor_hidden": [8], "critic_hidden": [8]},
    "evaluation": {"every": 100, "episodes": 1, "last_episodes": 1},
    "report": {"random_episodes": 2},
    "pruning": {"methods": ["magnitude"], "sparsity": [0.5]},
}


def run(tmp_path, capsys, *names, **more):
    tree = {**TINY, "tasks": [f"helpers.odd:{name}-v0" for name in names], "output_dir": str(tmp_path / "r")}
    tree["training"] = {**TINY["training"], **more}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    status = cli.main(["run", str(tmp_path / "c.yaml")])
    return status, *capsys.readouterr()


def test_a_broken_task_fails_alone(module_path, tmp_path, capsys):
    status, out, err = run(tmp_path, capsys, "UpperEnd", "Good", num_envs=10)
    assert status == 1
    assert "raised RuntimeError: [/x] \\x1b[31mno\\udc80" in err
    assert len(list((tmp_path / "r").glob("*Good*/seed0/ticket-*/checkpoint.safetensors"))) == 1
    assert not list((tmp_path / "r").glob("*UpperEnd*/seed0/*"))
    assert "Note: an episode of helpers.odd:Good-v0 has 20 steps" in out
    assert "Set training.segment_steps to 200 or more" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HangsLater", "did not respond within training.step_timeout=3 seconds"),
        ("Interrupts", "KeyboardInterrupt"),
        ("ForksAndDies", "its process ended with status 7"),
        ("ReadsInput", "the input is empty"),
        ("LateInfiniteReward", "infinite"),
        ("Overflows", "not be saved|NaN or infinit|raised AssertionError"),
    ],
)
def test_a_run_that_goes_wrong_ends_and_is_listed(module_path, tmp_path, capsys, name, words):
    status, _, err = run(tmp_path, capsys, name, step_timeout=3)
    assert status == 1
    assert re.search(rf"failed: helpers.odd:{name}-v0 seed 0 dense: .*({words})", err), err
    assert not list((tmp_path / "r").glob("*/seed0/*/checkpoint.safetensors"))


def test_what_an_environment_leaves_alive_ends_with_its_worker(module_path, tmp_path, capsys):
    status, _, _ = run(tmp_path, capsys, "LeavesAChild")
    assert status == 0
    log = (tmp_path / "r" / "logs" / "worker0.log").read_text()
    (pid, *_) = [int(line.split()[1]) for line in log.splitlines() if line.startswith("child")]
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"  # ended, if perhaps not waited for
