"""One thread, as `lth run` has by default, and small real runs that tests share."""

import os

os.environ.update({"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

SMALL = {
    "tasks": ["Pendulum-v1"],
    "seeds": [0],
    "training": {"env_steps": 600, "start_steps": 100, "segment_steps": 200, "batch_size": 32},
    "sac": {"actor_hidden": [16, 16], "critic_hidden": [16, 16], "max_grad_norm": 1.0},
    "evaluation": {"every": 400, "episodes": 1},
    "pruning": {"sparsity": 0.8, "num_gradient_batches": 8, "gradient_batch_size": 32},
}
"""A whole experiment in a few seconds; with clipping, so that what clipping sees is tested too."""


@pytest.fixture(scope="session")
def small_config(tmp_path_factory):
    """The config above, with an output directory of its own."""
    from lth.config import parse_config

    return parse_config({**SMALL, "output_dir": str(tmp_path_factory.mktemp("results"))})


@pytest.fixture(scope="session")
def dense(small_config):
    """A trained dense run of the small config, with the rewind point 200 kept: its spec and its directory."""
    from lth.experiment import stages
    from lth.experiment.spec import dense_spec

    spec = dense_spec(small_config, "Pendulum-v1", 0)
    return spec, stages.train_dense(small_config.output_dir, spec, rewind_points=(200,))


@pytest.fixture
def small_yaml(tmp_path):
    """The small config as a file, its results in `tmp_path / "results"`."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "output_dir": str(tmp_path / "results")}))
    return path


@pytest.fixture(scope="session")
def run_command():
    """Call Python in a process of its own, from another folder than the checkout; returns the finished process."""

    def call(*arguments, cwd=None, env=None, timeout=300):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=cwd or ROOT.parent,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )

    return call
