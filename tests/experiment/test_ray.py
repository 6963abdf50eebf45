"""The same grid on a Ray cluster of several nodes, one of which goes away in the middle."""

import os
import time

import pytest
import yaml
from helpers.grids import contents, differences
from helpers.small import SMALL

RESULTS = ("table.csv", "runs.csv")


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_that_loses_a_node_gives_the_bytes_of_one_machine(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'", exc_type=ImportError)
    from ray.cluster_utils import Cluster

    from lth.cli import main

    # Nodes share this machine's temporary folder; a short path, because sockets lie below it.
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")
    tree = {**SMALL, "seeds": [0, 1], "workers": 2}
    tree["pruning"] = {**SMALL["pruning"], "methods": ["magnitude"]}
    files = {}
    for name in ("here", "cluster"):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump({**tree, "output_dir": str(tmp_path / name)}))
    assert main(["run", str(files["here"])]) == 0

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        leaving = cluster.add_node(num_cpus=1)
        pid = os.fork()
        if not pid:
            os.execvp("lth", ["lth", "run", str(files["cluster"]), "executor=ray", f"ray.address={cluster.address}"])
        started = time.monotonic()
        while not list((tmp_path / "cluster").rglob("attempts.jsonl")) and time.monotonic() - started < 120:
            time.sleep(0.2)
        time.sleep(2)
        cluster.remove_node(leaving, allow_graceful=False)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert set(RESULTS) <= set(contents(tmp_path / "here"))
    assert differences(tmp_path / "here", tmp_path / "cluster") == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("connected", [True, pytest.param(False, marks=pytest.mark.full)])
def test_tasks_have_their_number_of_threads_whoever_connected(connected, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'", exc_type=ImportError)
    from lth.config import parse_config
    from lth.experiment import cluster
    from lth.experiment.options import options_of
    from lth.experiment.plan import plan

    def says_its_threads(root, specs, options):  # here, so that Ray sends its code
        return [{"run": 0, "kind": "done", "seconds": 0.0, "threads": os.environ.get("NPROC")}]

    monkeypatch.delenv("NPROC")  # as in a notebook
    monkeypatch.setattr(cluster, "_attempt", says_its_threads)
    config = parse_config({**SMALL, "executor": "ray", "output_dir": str(tmp_path)})
    if connected:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"OWN": "1"}})
    try:
        pool = cluster.RayPool(config, options_of(config))
        pool.start(plan(config).specs[:1])
        found = []
        while not found:
            found = list(pool.events())
        assert found[0].data["threads"] == "1"
        pool.close()
        assert ray.is_initialized() == connected
    finally:
        ray.shutdown()
