"""The commands, as a person types them."""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.grids import tidy_rows
from helpers.small import ROOT

import lth
from lth.cli import main
from lth.config import load_config
from lth.experiment import journal, records
from lth.experiment.plan import plan
from lth.experiment.spec import TicketSpec
from lth.experiment.tidy import read_tidy
from lth.reporting.views import RunRow, run_rows, summarize


@pytest.fixture(scope="module")
def finished(tmp_path_factory, run_command):
    """`lth run` on the small config with all five masks and two seeds: the config's path and what was printed."""
    import yaml
    from helpers.small import SMALL

    folder = tmp_path_factory.mktemp("run")
    config = {**SMALL, "seeds": [0, 1], "output_dir": "results"}
    config["pruning"] = {**SMALL["pruning"], "methods": ["magnitude", "gradient", "taylor", "random", "shuffled"]}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run_command("-m", "lth.cli", "run", "small.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def contents(folder):
    """Return the bytes of every file below a folder by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_lth_run_prints_and_saves_the_table(finished):
    path, printed = finished
    folder = path.parent / "results"
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["task"], r["method"], r["sparsity"], r["seeds"]) for r in rows] == [
        ("Pendulum-v1", method, "0.8", "2") for method in ("magnitude", "gradient", "taylor", "random", "shuffled")
    ]
    assert "shuffled (control)" in printed
    assert "[22/22]" in printed
    assert "fewer than 5 seeds" in printed or "learned too little" in printed
    # Each number can be computed again from the runs' own metrics: the last evaluation, never the best.
    os.chdir(path.parent)
    config = load_config(path)
    for row in rows:
        found = []
        for spec in plan(config).specs:
            if isinstance(spec, TicketSpec) and spec.mask.method == row["method"]:
                with ((config.output_dir / spec.path) / "metrics.csv").open() as file:
                    values = [float(r["value"]) for r in csv.DictReader(file) if r["metric"] == "evaluation/return"]
                found.append(values[-1])
        assert float(row["ticket_return"]) == pytest.approx(np.mean(found))
        assert float(row["ticket_return_sd"]) == pytest.approx(np.std(found, ddof=1))
        digits = 1 if max(abs(np.mean(found)), np.std(found, ddof=1)) < 1000 else 0
        assert f"{np.mean(found):.{digits}f} ±" in printed
    assert (folder / "returns.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "runs.csv").read_text().splitlines()) == 11


def test_start_up_and_compilation_are_recorded_apart(finished):
    path, _ = finished
    values = {}
    for row in read_tidy(path.parent / "results" / "tidy.csv"):
        if row.metric in ("cost/start_seconds", "cost/train_seconds"):
            values.setdefault(row.run, {})[row.metric] = row.value
    assert len(values) == 12
    assert all(0 < found["cost/start_seconds"] < found["cost/train_seconds"] for found in values.values())
    timings = [journal.read_timings(run) for run in path.parent.glob("results/*/*/dense-*")]
    assert max(found["compile"] for found in timings) > 0.05  # of the first in its process


def test_a_second_run_does_nothing_twice(finished, run_command):
    path, _ = finished
    before = contents(path.parent / "results")
    started = time.monotonic()
    done = run_command("-m", "lth.cli", "run", "small.yaml", cwd=path.parent)
    assert time.monotonic() - started < 30
    assert done.returncode == 0
    assert "22 of 22 runs were finished before" in done.stdout
    assert contents(path.parent / "results") == before


def test_lth_report_writes_a_page_of_the_same_numbers(finished, run_command):
    path, _ = finished
    done = run_command("-m", "lth.cli", "report", "small.yaml", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    assert re.match(r"Saved: results/report.html \(0.\d MB\), results/tidy.csv", done.stdout)
    last = {}
    with (path.parent / "results" / "tidy.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] == "evaluation/return":
                last[row["run"]] = row["value"]
    with (path.parent / "results" / "runs.csv").open() as file:
        for row in csv.DictReader(file):
            assert last[row["ticket_run"]] == row["ticket_return"]
            assert last[row["dense_run"]] == row["dense_return"]
    assert len(last) == 2 + 10
    text = (path.parent / "results" / "report.html").read_text()
    assert "all runs finished" in text
    assert "fewer than 5 seeds give no test" in text or "learned too little" in text


def test_the_same_seed_gives_the_same_bytes_in_another_process(finished, run_command, tmp_path):
    path, _ = finished
    (tmp_path / "small.yaml").write_bytes(path.read_bytes())
    arguments = ["seeds=0", "pruning.methods=[taylor, random]"]
    done = run_command("-m", "lth.cli", "run", "small.yaml", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = contents(path.parent / "results"), contents(tmp_path / "results")
    apart = {
        *records.CLOCK_FILES,
        "logs",
        "table.csv",
        "runs.csv",
        "returns.png",
        "tidy.csv",
        "layers.csv",
        "inputs.csv",
        "overlap.csv",
    }
    compared = [name for name in second if not apart & {*Path(name).parts}]
    assert sum(name.endswith(("safetensors", ".pkl", "metrics.csv")) for name in compared) > 10
    assert [name for name in compared if first[name] != second[name]] == []


def test_what_reads_results_loads_no_jax(finished, run_command):
    code = """
import sys
sys.modules.update(dict.fromkeys(("jax", "flax", "optax")))  # None is what cannot be imported
from lth.cli import main
for command in (["status"], ["table"], ["report"], ["clean", "--dry-run"]):
    assert main([*command, "small.yaml"]) == 0, command
for run in sys.argv[1:]:
    assert main(["show", run]) == 0, run
"""
    folder = finished[0].parent
    runs = [str(spec.parent) for spec in sorted(folder.glob("results/*/seed0/*/spec.json"))]
    assert len(runs) > 10
    (folder / "results" / records.TABLE_MEMORY).unlink(missing_ok=True)  # the table is made again
    done = run_command("-c", code, *runs, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Surviving weights" in (folder / "results" / "report.html").read_text()


def test_a_dry_run_lists_and_makes_nothing(small_yaml, run_command, tmp_path):
    done = run_command("-m", "lth.cli", "run", small_yaml, "--dry-run", "pruning.sparsity=[0.5, 0.9]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("13 of 13 runs to do: about ")
    assert "4,200 environment steps, 3,500 updates" in done.stdout
    assert re.search(r"taylor 90 % +1 +600 +0.\d +\d s", done.stdout)
    assert not (tmp_path / "results").exists()


def test_the_disk_estimate_is_right(finished, run_command):
    path, _ = finished
    done = run_command("-m", "lth.cli", "run", "small.yaml", "--dry-run", "output_dir=elsewhere", cwd=path.parent)
    estimated = float(re.search(r"([\d.]+) MB", done.stdout.replace(",", "")).group(1))
    actual = sum(len(data) for data in contents(path.parent / "results" / "Pendulum-v1").values()) / 1e6
    assert estimated == pytest.approx(actual, rel=0.5, abs=1)


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(small_yaml, tmp_path, capsys):
    words = ["training.env_steps=3000", "training.backend=dense", "pruning.methods=magnitude"]
    command = ["run", str(small_yaml), *words]
    # A shell's background jobs ignore SIGINT, and so do their children, unless it is put back.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "lth.cli", *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if "dense: return" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "\nInterrupted. Finished runs are kept; run the same command to resume.\n"
    assert "Traceback" not in errors
    assert not list((tmp_path / "results").rglob("*.partial"))
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "[1/3] Pendulum-v1 seed 0 dense" not in printed  # it was finished, and is kept
    assert "1 of 3 runs were finished before" in printed or "2 of 3" in printed


@pytest.mark.parametrize(
    "hide",
    [
        "gc.callbacks.append(once); gc.collect()",
        "f = lambda: 0; keep = weakref.ref(f, once); del f",
        "ctypes.CFUNCTYPE(None)(once)()",
    ],
)
def test_ctrl_c_is_not_lost_in_a_callback_that_drops_exceptions(run_command, hide):
    program = f"""
import ctypes, gc, os, signal, time, weakref
from lth import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
def once(*_):
    if once in gc.callbacks:
        gc.callbacks.remove(once)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
def command():
    {hide}
    time.sleep(60)
    return 0
raise SystemExit(cli.guard(command))
"""
    done = run_command("-c", program, timeout=50)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("error", "status"), [("KeyboardInterrupt", 130), ("ZeroDivisionError", 1)])
def test_no_exception_passes_where_the_reader_of_the_output_has_gone(error, status, tmp_path):
    """As in `lth run 2>&1 | tee log`, whose reader Ctrl-C ends at the same time."""
    program = f"""
import os, sys
from lth import cli
def command():
    sys.stdout.write("a part of a line")
    os.read(0, 1)
    raise {error}
os._exit(cli.guard(command))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}, "TMPDIR": str(tmp_path)},
    )
    process.stdout.close()
    process.communicate(b"!", timeout=60)
    assert process.returncode == status


def test_the_command_that_lth_init_prints_can_be_copied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my config.yaml"]) == 0
    printed = capsys.readouterr().out
    command = re.search("`(lth run [^`]*) --dry-run`", printed)[1]
    assert shlex.split(command) == ["lth", "run", "my config.yaml"]


def test_load_gives_everything_back(finished):
    path, _ = finished
    for run in (path.parent / "results").glob("Pendulum-v1/seed0/[dt]*"):
        agent, buffer, masks = lth.load(run)
        assert len(buffer) == 600
        assert agent.replay_buffer is buffer
        expected = 0.0 if run.name.startswith("dense") else 0.8
        assert lth.compute_sparsity(masks["actor"]) == pytest.approx(expected, abs=1e-3)
        assert buffer.sample(4).observations.shape == (4, 3)


def test_lth_eval_repeats_the_last_evaluation_and_films(finished, run_command, tmp_path):
    path, _ = finished
    (run,) = (path.parent / "results").glob("Pendulum-v1/seed0/ticket-taylor*")
    done = run_command("-m", "lth.cli", "eval", run, "--episodes", "2")
    assert done.returncode == 0, done.stderr
    assert f"return {records.last_evaluation(run)['evaluation/return']:.1f}" in done.stdout
    pytest.importorskip("pygame", reason="drawing Pendulum needs pygame: pip install 'lth[video]'")
    assert main(["eval", str(run), "--episodes", "1", "--video", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "nowhere"], "there is no run at 'nowhere'"),
        (["eval", "nowhere", "--episodes", "0"], "--episodes is 0"),
        (["eval", "nowhere", "--video", "film.avi"], "unsupported format; use .gif or .mp4"),
        (["run", "nowhere.yaml"], "the config file 'nowhere.yaml' does not exist"),
        (["run", "a.yaml", "b.yaml"], "one config file at a time"),
    ],
)
def test_a_users_mistake_is_answered_in_a_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert words in errors


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "--workers", "2"], "; settings are written without dashes: workers=VALUE"),
        (["status", "--training.env-steps=5"], "; settings are written without dashes: training.env_steps=5"),
        (["run", "--everything"], "'\n"),
        (["eval", "run", "--seeds"], "'--seeds'; settings are written without dashes: seeds=VALUE"),
    ],
)
def test_a_setting_given_as_an_option_is_answered_with_how_it_is_written(arguments, meant, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert meant in capsys.readouterr().err


def test_a_run_that_diverges_does_not_stop_the_others(small_yaml, capsys):
    wild = ["sac.critic_learning_rate=1e30", "sac.max_grad_norm=null", "seeds=[0, 1]", "pruning.methods=magnitude"]
    assert main(["run", str(small_yaml), *wild]) == 1
    errors = capsys.readouterr().err
    assert errors.count("failed: Pendulum-v1 seed") == 2
    assert errors.count("skipped: Pendulum-v1 seed") == 4
    assert "became NaN or infinite by environment step" in errors
    assert "Traceback" not in errors


def row(seed, dense, ticket):
    return RunRow("t", seed, "taylor", "", "0.9", "0", dense, ticket, None, 0.5, "d", "t")


def test_the_summary_is_the_mean_and_the_sample_deviation():
    (summary,) = summarize([row(0, 1.0, 2.0), row(1, 3.0, 6.0)])
    assert (summary.dense_return, summary.ticket_return, summary.seeds) == (2.0, 4.0, 2)
    assert summary.dense_return_sd == pytest.approx(2**0.5)
    assert summary.ticket_return_sd == pytest.approx(8**0.5)
    assert summary.dense_success is None
    assert summary.ticket_success_sd == 0.0
    (single,) = summarize([row(0, 1.0, 2.0)])
    assert single.ticket_return_sd is None


def test_run_rows_reports_only_what_is_finished(finished, tmp_path):
    path, _ = finished
    config = load_config(path, [f"output_dir={tmp_path}"])
    assert run_rows(tidy_rows(config)) == []
    assert len(run_rows(tidy_rows(load_config(path, [f"output_dir={path.parent / 'results'}"])))) == 10


def test_the_version_and_the_help(run_command):
    done = run_command("-m", "lth.cli", "--version")
    assert done.stdout == f"lth {lth.__version__}\n"
    assert f'version = "{lth.__version__}"' in (ROOT / "pyproject.toml").read_text()
    done = run_command("-m", "lth.cli")
    assert done.returncode == 2
    assert "lth run" in done.stdout or "run" in done.stdout
