"""A grid that is killed, stopped and repeated, and what starts it in a process of its own."""

import contextlib
import subprocess
import sys

import pytest
import yaml
from helpers.small import SMALL

GRID = {
    **SMALL,
    "training": {**SMALL["training"], "env_steps": 1000, "segment_steps": 100},
    "pruning": {**SMALL["pruning"], "methods": ["magnitude", "taylor"]},
    "retries": 0,
}
"""A dense agent of ten segments, two masks, two tickets."""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The grid as a file."""
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID))
    return path


@pytest.fixture
def start(grid):
    """Start `lth run` on the grid in a process of its own; returns a Popen."""
    with contextlib.ExitStack() as stack:

        def call(*words):
            command = [sys.executable, "-m", "lth.cli", "run", str(grid), *map(str, words)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield call
