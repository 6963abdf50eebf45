"""One thread, as `lth run` has by default; programs compiled once; and small real runs that tests share."""

import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.update({"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"})
# Most of the tests' time would be XLA's, compiling the same small programs in every process. The folder is of this session alone;
# docs/performance.md says why lth itself keeps none.
_COMPILED = None if "JAX_COMPILATION_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="lth-tests-")
if _COMPILED:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Programs that run for milliseconds are not worth optimizing for seconds. `.ci/full` compiles them as users' processes do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and version("jaxlib").startswith("0.10."):
    # Takes half of the compiler's time away. Later versions abort at flags that they no longer know.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '').replace(_QUICK, '')} {_QUICK}".strip()

import gc
import subprocess
import sys

import pytest
import yaml
from helpers import shapes
from helpers.small import ROOT, SMALL

# Programs that JAX has traced fill memory with objects that live on; the default would collect garbage among them too often.
gc.set_threshold(50_000, 20, 20)

collect_ignore_glob = ["helpers/*"]
shapes.install()

SLOW = (
    *("test_grid", "test_recipes", "test_document", "test_ray", "test_sparse", "test_algorithms", "test_sac"),
    *("test_cli", "test_envs", "test_contract", "test_sbx_masks", "test_pruning_odd", "test_bad_input", "test_probes"),
    *("test_boundary", "test_tickets", "test_controls", "test_analysis", "test_scheduled", "test_sbx_others"),
    *("test_gradients", "test_masks", "test_layers", "test_optax", "test_trees", "test_examples", "test_sbx"),
    *("test_export", "test_programs", "test_lockstep", "test_batched", "test_recipes_algorithm", "test_libraries"),
    *("test_adopt", "test_api", "test_probe"),
)
"""Files whose tests train, start processes or compile much: they are marked `slow`, and begin first, most of the longest before
the others, so that no process is left alone with one of them at the end."""


def pytest_addoption(parser):
    """Add `--full`."""
    parser.addoption("--full", action="store_true", help="also run the tests marked `full`, as .ci/full does")


def pytest_configure(config):
    """Say where tests are drawn whether many are wanted."""
    if config.getoption("--full"):
        os.environ["LTH_TEST_FULL"] = "1"


def pytest_collection_modifyitems(config, items):
    """Mark tests by what they need, and put the files that take longest first; within a file nothing moves."""
    if not config.getoption("--full"):
        left = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    place = {name: i for i, name in enumerate(SLOW)}
    for item in items:
        opens = "browser" in getattr(item, "fixturenames", ())
        if item.path.stem in place or opens:
            item.add_marker("slow")
        if opens:
            item.add_marker("browser")
        if item.path.stem == "test_sparse":
            item.add_marker("native")
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_unconfigure():
    """Remove what was compiled, in the process that began the session."""
    if _COMPILED:
        shutil.rmtree(_COMPILED, ignore_errors=True)


@pytest.fixture(scope="session")
def small_config(tmp_path_factory):
    """The config above, with an output directory of its own."""
    from lth.config import parse_config

    return parse_config({**SMALL, "output_dir": str(tmp_path_factory.mktemp("results"))})


@pytest.fixture(scope="session")
def dense(small_config):
    """A trained dense run of the small config, with the rewind point 200 kept: its spec and its directory."""
    from lth.experiment import lottery
    from lth.experiment.build import dense_spec
    from lth.experiment.options import RunOptions

    spec = dense_spec(small_config, "Pendulum-v1", 0)
    return spec, lottery.train_dense(small_config.output_dir, spec, RunOptions((200,)))


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
