"""W&B and trackio, offline: what is logged, that it changes no byte, and what happens if they fail or are missing."""

import contextlib
import csv
import json
import sqlite3
import sys

import pytest

from lth.config import parse_config
from lth.errors import InputError
from lth.experiment import lottery
from lth.experiment.build import dense_spec
from lth.experiment.journal import METRICS
from lth.experiment.options import RunOptions
from lth.experiment.trackers import TRACKERS, trackers_of

pytestmark = pytest.mark.filterwarnings("default")  # the packages' own


class Stopped(Exception):
    """Ends a run in the middle."""


@pytest.fixture
def train(dense, tmp_path):
    """Train the dense run of conftest.py again with a tracker, interrupted once if asked; returns its rows."""
    spec, run = dense

    def call(tracker, interrupted=False):
        def stop(env_steps, metrics):
            if env_steps >= 400:
                raise Stopped

        options = RunOptions((200,), checkpoint_every=1, trackers=(tracker,))
        if interrupted:
            with pytest.raises(Stopped):
                lottery.train_dense(tmp_path, spec, options._replace(progress=stop))
        made = lottery.train_dense(tmp_path, spec, options)
        assert (made / METRICS).read_bytes() == (run / METRICS).read_bytes()
        assert (made / "checkpoint.safetensors").read_bytes() == (run / "checkpoint.safetensors").read_bytes()
        return list(csv.reader((made / METRICS).read_text().splitlines()))[1:]

    return call


def test_a_resumed_run_goes_on_in_the_same_run_of_wandb(train, dense, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs W&B: pip install 'lth[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "a-project")
    rows = train("wandb", interrupted=True)
    wandb.teardown()  # waits until its process has written the files
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{dense[0].sha256[:16]}.wandb"] * 2
    logged = b"".join(file.read_bytes() for file in files)
    assert all(metric.encode() in logged and json.dumps(float(value)).encode() in logged for _, metric, value in rows)
    assert all(text.encode() in logged for text in ("a-project", str(dense[0].path), dense[0].task, '"sac"'))


def test_trackio_has_every_metric_at_its_step_under_the_name_of_the_tidy_table(train, dense, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs trackio: pip install 'lth[trackio]'")
    rows = train("trackio", interrupted=True)
    (file,) = (tmp_path / "trackio").glob(f"{tmp_path.name}*.db")
    with contextlib.closing(sqlite3.connect(file)) as database:
        found = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert {name for name, _, _ in found} == {str(dense[0].path)}
    logged = {(step, metric, value) for _, step, text in found for metric, value in json.loads(text).items()}
    assert {(int(step), metric, float(value)) for step, metric, value in rows} <= logged


def test_training_continues_without_a_log_that_fails(train, monkeypatch):
    pytest.importorskip("wandb", reason="needs W&B: pip install 'lth[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "not/allowed")
    with pytest.warns(UserWarning, match="wandb failed, so Pendulum-v1 seed 0 dense is no longer logged") as warned:
        train("wandb")
    assert len([w for w in warned if "wandb failed" in str(w.message)]) == 1


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_an_error_that_says_what_to_install(name, small_config, dense, monkeypatch):
    fields = {**small_config.model_dump(mode="json", exclude_unset=True), name: True}
    monkeypatch.setitem(sys.modules, TRACKERS[name][0], None)
    with pytest.raises(InputError, match=rf"{name}=true needs the package .*pip install 'lth\[{name}\]'"):
        trackers_of(parse_config(fields))
    assert dense_spec(parse_config(fields), "Pendulum-v1", 0) == dense[0]
