"""Fuzz the small files: damage one of a finished grid, and call commands, which keep the contract of tests/cli/test_boundary.py."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from helpers.small import SMALL

import lth
from lth import cli
from lth.experiment import journal, lottery, options, records, store
from lth.text import plain

from .mutate import damage_file
from .record import Record, site

MOST_CPU, MOST_WALL, LONG_LINE = 60, 600, 20_000
"""Seconds of a command: of this process, and of the clock. The values put into files have up to 5,000 characters."""
CONFIG = SMALL | {
    "output_dir": "r",
    "pruning": {
        "methods": ["magnitude", "taylor"],
        "sparsity": [0.5],
        "exclude": ["output"],
        "num_gradient_batches": 2,
    },
}
FAILURE = {"time": "2026-01-01T00:00:00+0000", "host": "node", "pid": 5, "message": "a loss is nan", "traceback": "..."}
PROGRESS = {"env_steps": 200, "metrics": {"critic_loss": 0.5}, "seconds": 2.5, "time": 1.7e9}
FILES = {
    *(
        "spec.json",
        "provenance.json",
        "metrics.csv",
        "analysis.csv",
        "timings.json",
        "attempts.jsonl",
        "failures.jsonl",
    ),
    *(".verified.json", "progress.json", "resume.safetensors", "mask.pkl", "mask_gradient.pkl", "mask.safetensors"),
    *("checkpoint.safetensors", "checkpoint.safetensors.sha256", "mask.pkl.sha256", "replay_buffer.pkl"),
    *("tidy.csv", ".tidy.json", "tasks.json", "backend.json", "table.csv", "runs.csv", "c.yaml"),
}
OF_UNFINISHED_RUNS = ("attempts.jsonl", "failures.jsonl", "progress.json", journal.RESUME)


class TooLong(BaseException):
    """Not a subclass of Exception, so that no error handler catches it."""


def stop(*_: Any) -> None:
    raise TooLong


class FileFuzzer:
    """Works on a copy of a finished grid, which is restored after each case."""

    def __init__(self, record: Record):
        self.record, self.rng = record, record.rng
        self.template, self.work = record.folder / "template", record.folder / "a" / "b" / "work"
        self.logs = record.folder / "logs"
        self.logs.mkdir(exist_ok=True)
        if not self.template.exists():
            make_grid(self.template)
        self.files = [path for path in sorted(self.template.rglob("*")) if path.name in FILES]
        tempfile.tempdir = str(self.logs)  # where lth keeps the tracebacks of internal errors
        self._restore()
        os.chdir(self.work)
        signal.signal(signal.SIGALRM, stop)
        signal.signal(signal.SIGPROF, stop)

    def run(self, until: float) -> None:
        """Fuzz until a time of the monotonic clock."""
        while time.monotonic() < until:
            case = self._new_case()
            self.record.begin(json.dumps(case).encode())
            self._try(case)

    def replay(self, data: bytes) -> None:
        """Try a saved case."""
        self.record.begin(data)
        self._try(json.loads(data))

    def _new_case(self) -> dict[str, Any]:
        """Choose a file, damage it, and choose a command."""
        rng = self.rng
        name = rng.choice(sorted({path.name for path in self.files}))
        path = rng.choice([path for path in self.files if path.name == name])
        whole, others = path.read_bytes(), [rng.choice(self.files).read_bytes(), path.read_bytes()]
        if name == journal.RESUME:  # with its seal put right
            data = damage_file(rng, name, whole[:-32], others)
            data += hashlib.sha256(data).digest()
        else:
            data = damage_file(rng, name, whole, others)
        config, unfinished = name == "c.yaml", name in OF_UNFINISHED_RUNS and rng.random() < 0.7
        calls = rng.sample(
            [["status"], ["status", "--paths"], ["table"], ["run", "--dry-run"], ["clean", "--dry-run"], ["show"]], 3
        )
        if not config and rng.random() < 0.15:
            calls.append(["report"])
        if not (config or unfinished) and rng.random() < 0.05:
            calls.append(rng.choice((["run"], ["run"], ["eval", "--episodes", "1"])))
        checksum, path = rng.choice(("kept", "removed", "fits", "fits")), path.relative_to(self.template)
        return {"path": str(path), "data": data.hex(), "unfinished": unfinished, "checksum": checksum, "calls": calls}

    def _try(self, case: dict[str, Any]) -> None:
        path, data = self.work / case["path"], bytes.fromhex(case["data"])
        run, checksum = path.parent, path.with_name(path.name + ".sha256")
        path.write_bytes(data)
        if checksum.exists() and case["checksum"] == "removed":
            checksum.unlink()
        elif checksum.exists() and case["checksum"] == "fits":
            checksum.write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        if case["unfinished"]:
            (run / "checkpoint.safetensors").unlink(missing_ok=True)
        shown = run if (run / "spec.json").exists() else next(self.work.glob("r/*/*/dense-*"))
        with (run / ".lock").open("a") if path.name == "progress.json" else contextlib.nullcontext() as lock:
            if lock:  # as of a run that is being made
                fcntl.flock(lock, fcntl.LOCK_EX)
            for words in case["calls"]:
                self._command([*words, str(shown) if words[0] in ("show", "eval") else "c.yaml"], path.name)
        self._read(path, run)
        if not case["unfinished"]:
            self._compare(path, case["calls"])
        self._restore()

    def _command(self, words: list[str], damaged: str) -> None:
        """Call `lth`, and check its exit status and output."""
        self.record.counts["commands"] += 1
        what, finding = f"of {words[0]} with a damaged {damaged}", self.record.finding
        out, err, started, status = io.StringIO(), io.StringIO(), time.monotonic(), None
        signal.alarm(MOST_WALL)
        signal.setitimer(signal.ITIMER_PROF, MOST_CPU)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = cli.main(words)
        except BaseException as error:
            finding(f"{site(error)} {what}", traceback.format_exc())
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.record.took(time.monotonic() - started)
        for kept in self.logs.glob("lth-traceback-*"):
            told = kept.read_text()
            lines = [re.sub(".*/lth/", "", line) for line in told.splitlines() if "/lth/" in line]
            finding(f"internal error {what}: {lines[-1]}", told)
            kept.unlink()
        text, errors = out.getvalue(), err.getvalue()
        if status not in (0, 1, 2, None):
            finding(f"status {status} {what}", errors)
        if "Traceback" in text + errors:
            finding(f"a traceback {what}", text + errors)
        if plain(text + errors) != text + errors:
            finding(f"odd characters {what}", text + errors)
        if status and not errors.strip():
            finding(f"status {status} and no error message {what}", text)
        if max(map(len, (text + errors).splitlines()), default=0) > LONG_LINE:
            finding(f"a long line {what}", text + errors)

    def _read(self, path: Path, run: Path) -> None:
        """Read the damaged file with the public Python function."""
        readers = {
            journal.RESUME: lambda: store.load_resume(run, records.spec_of(run)),
            "mask.safetensors": lambda: lth.load_mask(path),
            "mask.pkl": lambda: (lth.load_mask(path), records.read_mask(path)),
            "checkpoint.safetensors": lambda: lth.load(run),
            "replay_buffer.pkl": lambda: store.load_replay_buffer(run),
        }
        if path.name in readers:
            try:
                readers[path.name]()
                self.record.counts["files_read"] += 1
            except lth.InputError:
                self.record.counts["files_refused"] += 1
            except Exception as error:
                self.record.finding(f"reading {path.name}: {site(error)}", traceback.format_exc())

    def _compare(self, damaged: Path, calls: list[list[str]]) -> None:
        """Check that no command changed a checkpoint, a mask or a replay buffer."""
        for good in self.template.glob("r/*/*/*"):
            kept = self.work / good.relative_to(self.template)
            if good.suffix not in (".safetensors", ".pkl") or kept == damaged or good.name == journal.RESUME:
                continue
            if not kept.exists() or (stamp(good) != stamp(kept) and good.read_bytes() != kept.read_bytes()):
                self.record.finding(f"{good.name} was altered with a damaged {damaged.name}", str(calls))

    def _restore(self) -> None:
        """Restore the working copy from the template; unchanged files are not copied."""
        self.work.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.work.rglob("*"), reverse=True):
            if not (self.template / path.relative_to(self.work)).exists():
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in self.template.rglob("*"):
            copy = self.work / path.relative_to(self.template)
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            elif not copy.exists() or stamp(path) != stamp(copy):
                shutil.copy2(path, copy)


def stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and the time of its last change."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def make_grid(place: Path) -> None:
    """Make a finished grid, with the additional files of unfinished and failed runs."""
    place.mkdir(parents=True)
    os.chdir(place)
    (place / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    with contextlib.redirect_stdout(io.StringIO()):
        if cli.main(["run", "c.yaml"]) or cli.main(["report", "c.yaml"]):
            raise SystemExit("the grid could not be made")
    (dense,) = place.glob("r/*/*/dense-*")
    save = store.save_resume
    store.save_resume = lambda run, *rest: (save(run, *rest), shutil.copy(run / journal.RESUME, dense))
    with tempfile.TemporaryDirectory() as elsewhere:
        lottery.train_dense(Path(elsewhere), records.spec_of(dense), options.RunOptions())
    store.save_resume = save
    lth.save_mask(dense / "mask.safetensors", {"a": {"kernel": np.eye(4)}, "b": [np.ones(3, np.int8)]})
    (dense / "failures.jsonl").write_text(json.dumps(FAILURE) + "\n")
    (dense / "progress.json").write_text(json.dumps(PROGRESS))
