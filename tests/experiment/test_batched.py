"""Grids whose runs train in one program: the same files as of runs that train alone, after any disturbance."""

import json
import os

import pytest
import yaml
from helpers.grids import contents, differences
from helpers.processes import kill, wait_for, workers_of
from helpers.small import SMALL

import lth
from lth.cli import main
from lth.config import parse_config
from lth.errors import InputError
from lth.experiment import journal
from lth.experiment.plan import plan

GRID = {
    **SMALL,
    "seeds": [0, 1],
    "training": {"env_steps": 400, "start_steps": 100, "segment_steps": 100, "batch_size": 16},
    "sac": {"actor_hidden": [16, 16], "critic_hidden": [16, 16]},
    "evaluation": {"every": 200, "episodes": 1, "last_episodes": 2},
    "pruning": {
        **SMALL["pruning"],
        "methods": ["magnitude", "gradual"],
        "controls": ["small-dense", "retrained", "reinit"],
        "rewind_steps": [100],
        "mask_every": 50,
    },
    "executor": "batched",
    "batch": 4,
    "retries": 0,
}
"""Two dense agents, their masks and tickets from a later step, three controls and a schedule."""


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


def test_all(grid, undisturbed):
    pass
