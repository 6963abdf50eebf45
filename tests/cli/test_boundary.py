"""One contract: no command, odd config or damaged small file gives a traceback, and none stops what is whole."""

import errno
import fcntl
import json
import os
import pickle
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml
from helpers.small import SMALL

from lth import cli
from lth.text import plain

pytestmark = pytest.mark.filterwarnings("default")

CONFIG = {
    **SMALL,
    "pruning": {
        "methods": ["magnitude", "taylor"],
        "sparsity": [0.5],
        "exclude": ["output"],
        "num_gradient_batches": 2,
    },
    "seeds": [0],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished grid and its config."""
    folder = tmp_path_factory.mktemp("boundary")
    (folder / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "output_dir": str(folder / "r")}))
    assert cli.main(["run", str(folder / "c.yaml")]) == 0
    assert cli.main(["report", str(folder / "c.yaml")]) == 0
    return folder


@pytest.fixture
def there(finished, tmp_path):
    """A copy of the folder that a test may damage."""
    shutil.copytree(finished, tmp_path / "f")
    (tmp_path / "f" / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "output_dir": str(tmp_path / "f" / "r")}))
    return tmp_path / "f"


def calls(folder, all_of_them):
    config = str(folder / "c.yaml")
    runs = sorted(path.parent for path in (folder / "r").glob("*/*/*/checkpoint.safetensors"))
    show = [
        ["show", str(path), *more] for path in (folder / "r").glob("*/*/*") if path.is_dir() for more in ([], ["--all"])
    ]
    return [
        ["status", config],
        ["status", "--paths", config],
        ["status", str(folder / "r")],
        ["table", config],
        ["run", "--dry-run", config],
        ["clean", "--dry-run", config],
        *show,
        *([["report", config], ["eval", "--episodes", "1", str(runs[0])]] if all_of_them and runs else []),
    ]


def contract(arguments, capsys):
    """Call a command: it says what is wrong in sentences, whatever was done to the files."""
    status = cli.main(arguments)
    out, err = capsys.readouterr()
    assert status in (0, 1, 2), arguments
    for text in (out, err):
        assert "Traceback" not in text, arguments
        assert plain(text) == text, arguments
        assert "internal error" not in err, (arguments, err)
    assert status == 0 or err.strip(), arguments
    return status, out, err


DAMAGES = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"3",
    "an object": b"{}",
    "not UTF-8": b"\xff\xfe\x80\n\xff",
    "nested": b"[" * 100_000,
    "null": b"null\n",
    "odd lines": b'3\n{"message": 5}\n[]\n"x"\n',
    "a row too many": b"a,b\n1,2,3\n",
}
SMALL_FILES = (
    *(
        "spec.json",
        "provenance.json",
        "metrics.csv",
        "analysis.csv",
        "timings.json",
        "attempts.jsonl",
        "failures.jsonl",
    ),
    *(".verified.json", "progress.json", "checkpoint.safetensors.sha256", "mask.pkl", "mask.pkl.sha256"),
)
TOP_FILES = ("tidy.csv", ".tidy.json", "tasks.json", "backend.json", "table.csv")


def damaged(there, name, how):
    """Damage every file of a name, as `how` says."""
    files = (
        [there / "r" / name]
        if name in TOP_FILES
        else [run / name for run in (there / "r").glob("*/*/*") if run.is_dir()]
    )
    for file in files:
        if file.is_dir():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        if how == "a folder":
            file.mkdir()
        elif how == "a pipe":
            os.mkfifo(file)
        elif how != "missing":
            file.write_bytes(DAMAGES[how])


HOWS = [*DAMAGES, "missing", "a folder", "a pipe"]
PAIRS = [(name, how, i + j) for i, name in enumerate([*SMALL_FILES, *TOP_FILES]) for j, how in enumerate(HOWS)]


# Every third pair of a file and a damage, so that each file and each damage is among them; with --full all pairs.
@pytest.mark.parametrize(
    ("name", "how", "number"), [pytest.param(*pair, marks=[pytest.mark.full] if pair[2] % 3 else []) for pair in PAIRS]
)
def test_a_damaged_small_file(there, capsys, pytestconfig, name, how, number):
    damaged(there, name, how)
    # A page and an episode take a second each, so not every pair goes through those.
    for arguments in calls(there, number % 12 == 0 or pytestconfig.getoption("--full")):
        contract(arguments, capsys)


def nested(depth):
    return json.loads("[" * depth + "]" * depth)


ODD_VALUES = {
    # What a fuzzer found: values whose JSON is valid, in the place of the right ones.
    "a device that is no text": ("provenance.json", {"devices": [{"kind": "cpu"}]}),
    "a version that is no text": ("provenance.json", {"versions": {"jax": [1]}}),
    "a version for all": ("provenance.json", {"versions": "0.10"}),
    "seconds beyond a float": ("timings.json", {"total": 10**400}),
    "seconds without end": ("timings.json", {"total": float("inf")}),
    "no seconds": ("timings.json", {"total": float("nan")}),
    **{
        f"{depth} levels in {name}": (name, {"versions": nested(depth), "total": nested(depth), "stage": nested(depth)})
        for depth in (60, 900)
        for name in ("provenance.json", "timings.json", "spec.json", "progress.json", "attempts.jsonl")
    },
}


@pytest.mark.parametrize("case", ODD_VALUES)
def test_an_odd_value_in_a_small_file(there, capsys, case):
    name, changes = ODD_VALUES[case]
    for run in (there / "r").glob("*/*/*-*"):
        known = json.loads((run / name).read_text()) if (run / name).exists() else {}
        (run / name).write_text(json.dumps({**known, **changes}) + "\n")
    for arguments in [*calls(there, False), ["report", str(there / "c.yaml")]]:
        contract(arguments, capsys)


@pytest.mark.parametrize("sizes", [{"observation_dim": 0}, {"action_dim": -1}, {"observation_dim": 10**30}])
def test_odd_sizes_in_tasks_json(there, capsys, sizes):
    tasks = there / "r" / "tasks.json"
    known = json.loads(tasks.read_text())
    tasks.write_text(json.dumps({task: {**spaces, **sizes} for task, spaces in known.items()}))
    for command in (["run", "--dry-run"], ["status"], ["run"]):
        assert contract([*command, str(there / "c.yaml")], capsys)[0] == 0
    assert json.loads(tasks.read_text()) == known


@pytest.mark.parametrize(
    "changes",
    [
        *({"env_steps": 10**400}, {"env_steps": -5}, {"env_steps": True}, {"env_steps": 0.5}, {"time": 10**400}),
        *(
            {"metrics": {"evaluation/return": 10**400}},
            {"metrics": {"evaluation/return": float("nan")}},
            {"metrics": 3},
        ),
    ],
)
def test_odd_progress_of_a_run_that_is_being_made(there, capsys, changes):
    run = next((there / "r").glob("*/*/ticket-*"))
    (run / "checkpoint.safetensors").unlink()
    about = {"env_steps": 400, "metrics": {"evaluation/return": -1200.0}, "seconds": 2.5, "time": 1.7e9, **changes}
    (run / "progress.json").write_text(json.dumps(about))
    with (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["status"], ["status", "--paths"]):
            status, out, _ = contract([*command, str(there / "c.yaml")], capsys)
            assert status == 0
            assert "1 running" in out


ODD_ANALYSES = {
    "a metric renamed": lambda text: text.replace("critic,,kept,", "critic,,keep,"),
    "a layer missing": lambda text: "".join(x for x in text.splitlines(True) if not x.startswith("actor,layer_0,")),
    "a count changed": lambda text: text.replace("actor,layer_0,kept,", "actor,layer_0,kept,1"),
    "not a number": lambda text: text.replace("actor,,sparsity,0.", "actor,,sparsity,nan\nactor,,sparsity,0."),
    "more than there are": lambda text: text.replace("actor,,kept,", "actor,,kept,1e999\nactor,,kept,"),
    "another network": lambda text: text.replace("critic,", "crytic,"),
    "the header alone": lambda text: text.splitlines()[0],
}


@pytest.mark.parametrize("kind", ["mask-magnitude", "ticket-magnitude"])
@pytest.mark.parametrize("odd", ODD_ANALYSES)
def test_an_odd_analysis_is_left_out(there, capsys, odd, kind):
    (file,) = (there / "r").glob(f"*/*/{kind}*/analysis.csv")
    file.write_text(ODD_ANALYSES[odd](file.read_text()))
    for command in ("report", "run"):
        status, _, err = contract([command, str(there / "c.yaml")], capsys)
        assert status == 0
        assert f"the analysis '{file}' is damaged" in err
    file.unlink()
    assert "damaged" not in contract(["report", str(there / "c.yaml")], capsys)[2]


def other_names(mask):
    return {{"actor": "actor", "critic": "x"}[network]: layers for network, layers in mask.items()}


def other_layers(mask):
    return {**mask, "actor": {{"layer_0": "zz"}.get(name, name): layer for name, layer in mask["actor"].items()}}


def all_ones(mask):
    return jax.tree.map(np.ones_like, mask)


@pytest.mark.parametrize("change", [other_names, other_layers, all_ones])
def test_a_mask_that_is_not_its_runs_is_left_out(there, capsys, change):
    (file,) = (there / "r").glob("*/*/mask-magnitude*/mask.pkl")
    file.write_bytes(pickle.dumps(change(pickle.loads(file.read_bytes()))))
    file.with_name("mask.pkl.sha256").unlink()
    for command in ("report", "run"):
        status, _, err = contract([command, str(there / "c.yaml")], capsys)
        assert status == 0
        assert f"the mask {file} does not keep the weights" in err


def test_an_error_does_not_quote_a_whole_file(there, capsys):
    import lth

    (there / "mask.pkl").write_bytes(b"(S" + b"9" * 100_000 + b"\n.")
    with pytest.raises(lth.InputError, match=r"99\.\.\.\)") as raised:
        lth.load_mask(there / "mask.pkl")
    assert len(str(raised.value)) < 1000
    run = next((there / "r").glob("*/*/dense-*"))
    (run / "metrics.csv").write_text("env_steps,metric,value\n0,evaluation/return," + "x" * 100_000)
    _, _, err = contract(["report", str(there / "c.yaml")], capsys)
    assert str(run / "metrics.csv") in err
    assert max(map(len, err.splitlines())) < 1000


ODD_CONFIGS = {
    "missing": None,
    "empty": b"",
    "a list": b"- 1\n",
    "not UTF-8": b"\xff\xff",
    "tabs": b"\ttasks: x\n",
    "twice": b"seeds: 1\nseeds: 2\n",
    "deep": b"a: " + b"[" * 3000,
    "aliases": b"a: &a [1]\n<<: *a\n",
    "unknown": b"taks: [Pendulum-v1]\n",
    "unknown in brackets": b"'[/x]': 1\nsac: {'a(b)': 2}\n",
    "markup": b"tasks: ['[/x]']\n",
    "escape": b'tasks: ["\\e[31mred"]\n',
    "surrogate": b'tasks: ["\\ud800"]\n',
    "null bytes": b"tasks: [a\x00b]\n",
    "a date": b"output_dir: 2026-13-45\n",
    "true": b"sac: {tau: true}\n",
    "nan": b"sac: {tau: .nan}\n",
    "huge": b"training: {threads: 100000000000}\n",
    "rounds": b"pruning: {rounds: 1000000000}\n",
    "no tasks": b"tasks: []\n",
    "a network": b"pruning: {sparsity: {actr: 0.9}}\n",
    "transfer": b"pruning: {transfer_from: [Nothing-v0]}\n",
    "a module": b"algorithm: 'no_such.module:Thing'\n",
    "too big": b"sac: {actor_hidden: [65536, 65536, 65536], buffer_size: 1000000000000}\ntraining: {env_steps: 1000000000000}\n",
    "a folder to write in": b"output_dir: /proc/nowhere\n",
}


@pytest.mark.parametrize("odd", ODD_CONFIGS)
@pytest.mark.parametrize(
    "command", [["run", "--dry-run"], ["run"], ["status"], ["status", "--paths"], ["report"], ["clean"]]
)
def test_an_odd_config(tmp_path, monkeypatch, capsys, odd, command):
    monkeypatch.chdir(tmp_path)
    if ODD_CONFIGS[odd] is not None:
        (tmp_path / "odd.yaml").write_bytes(ODD_CONFIGS[odd])
    if command == ["run"] and odd == "empty":
        return  # the defaults: a run of hours
    contract([*command, "odd.yaml"], capsys)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", ".", "pipe", "a=b.yaml"])
def test_what_is_no_config_file(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "a=b.yaml").write_text(yaml.safe_dump({**CONFIG, "output_dir": str(tmp_path)}))
    status, out, _ = contract(["run", "--dry-run", path], capsys)
    assert status == (0 if path == "a=b.yaml" else 2)
    assert ("5 of 5 runs" in out) or status


@pytest.mark.parametrize("command", ["show", "eval"])
def test_what_is_no_run(tmp_path, capsys, command):
    for path in (tmp_path, tmp_path / "none", "/dev/zero"):
        assert contract([command, str(path)], capsys)[0] == 2


def test_one_unreadable_run_does_not_stop_the_others(there, capsys):
    config = str(there / "c.yaml")
    ticket = next((there / "r").glob("*/*/ticket-magnitude*"))
    (ticket / "metrics.csv").write_text("env_steps,metric,value\n400,evaluation/return,nan\n")
    status, _, err = contract(["report", config], capsys)
    assert status == 0
    assert f"'{ticket / 'metrics.csv'}' contains an evaluation that is not finite" in err
    data = bytearray((ticket / "checkpoint.safetensors").read_bytes())
    data[-1] ^= 1
    (ticket / "checkpoint.safetensors").write_bytes(data)
    other = next((there / "r").glob("*/*/ticket-taylor*"))
    shutil.rmtree(other)
    assert cli.main(["run", config]) == 1
    _, err = capsys.readouterr()
    assert f"'{ticket / 'checkpoint.safetensors'}' was altered" in err
    assert (other / "checkpoint.safetensors").exists()


def test_a_fault_of_lth_itself_is_kept_in_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def fails():
        raise LookupError("[/x] \x1b[31m\udc80")

    assert cli.guard(fails) == 1
    _, err = capsys.readouterr()
    assert "LookupError: [/x] \\x1b[31m\\udc80" in err
    assert "Traceback" not in err
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err
    assert "in fails" in kept.read_text()
    assert cli.guard(fails, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_mistake(capsys):
    assert cli.main(["run", "--debug", "no.yaml"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.rstrip().endswith("'no.yaml' does not exist, nor does an output directory of that name")


def test_a_closed_pipe_ends_quietly_and_the_grid_goes_on(tmp_path, run_command):
    pruning = {**CONFIG["pruning"], "methods": ["magnitude"]}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "pruning": pruning, "output_dir": str(tmp_path / "r")}))
    program = (
        "import subprocess, sys\n"
        "lth = subprocess.Popen([sys.executable, '-m', 'lth', 'run', 'c.yaml'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "lth.stdout.readline(); lth.stdout.close()\n"
        "print(lth.stderr.read().decode(), lth.wait())\n"
    )
    done = run_command("-c", program, cwd=tmp_path)
    assert done.stdout.split() == ["141"], done
    assert len(list((tmp_path / "r").glob("*/*/ticket-*/checkpoint.safetensors"))) == 1
    run = next((tmp_path / "r").glob("*/*/dense-*"))
    for command in (f"show {run}", "table r", "plan r", "run r --dry-run", "--version"):
        pipe = f"{sys.executable} -m lth {command} | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("141\n", ""), command


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_fault_of_lth(capsys, code):
    def fails():
        raise OSError(code, os.strerror(code))

    assert cli.guard(fails) == 2
    err = capsys.readouterr().err
    assert "is full" in err
    assert "internal error" not in err


def test_output_to_a_full_disk(tmp_path):
    for stderr in ("", "2>&1"):
        shell = f"{sys.executable} -m lth --version >/dev/full {stderr}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: the disk") == (not stderr)


def test_an_ascii_terminal_and_a_folder_that_is_gone(tmp_path, run_command):
    (tmp_path / "ü").mkdir()
    (tmp_path / "ü" / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "output_dir": str(tmp_path / "ü" / "a[b]")}))
    for command in ("run --dry-run", "status"):
        done = run_command(
            "-m", "lth", *command.split(), "c.yaml", cwd=tmp_path / "ü", env={"PYTHONIOENCODING": "ascii"}
        )
        assert (done.returncode, done.stderr) == (0, "")
    gone = (
        "import os, tempfile; folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder); "
        "import lth.cli; print(lth.cli.main(['status', 'x']))"
    )
    done = run_command("-c", gone)
    assert done.stdout.strip() == "2"
    assert "working directory no longer exists" in done.stderr


def test_the_config_of_lth_init_is_the_quickstart(tmp_path, monkeypatch, capsys):
    from helpers.small import ROOT

    from lth.config import load_config

    monkeypatch.chdir(tmp_path)
    assert cli.main(["init"]) == 0
    assert load_config(None) == load_config(ROOT / "config.yaml")
    assert cli.main(["init"]) == 2
    text = (tmp_path / "config.yaml").read_text()
    # Uncommented, every key is known and at its default.
    lines = [
        line.replace("# ", "", 1) if ": " in line and line.lstrip().startswith("# ") else line
        for line in text.splitlines()
    ]
    keys = {line.split(":")[0].strip() for line in lines if ":" in line}
    assert {"step_timeout", "temperature_loss", "connectivity_points", "retries"} <= keys
    capsys.readouterr()
    assert json.loads(json.dumps(yaml.safe_load(text)))["tasks"] == ["Pendulum-v1"]


def test_a_pickle_of_marks_is_refused_soon(tmp_path):
    import time

    import lth

    (tmp_path / "mask.pkl").write_bytes(b"\x80\x04" + b"(" * 1_000_000 + b".")
    began = time.monotonic()
    with pytest.raises(lth.InputError, match="more than 200,000 operations"):
        lth.load_mask(tmp_path / "mask.pkl")
    assert time.monotonic() - began < 5  # 7 seconds without the bound; a second with it, where the machine is at rest
