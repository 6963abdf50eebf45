"""Grids of the other algorithms, killed in the middle of a ticket. In a file of its own, so that it runs beside test_grid.py."""

import csv
import importlib.util

import pytest
from helpers.grids import differences
from helpers.processes import kill, wait_for

from lth.cli import main
from lth.experiment import journal

OTHERS = {
    "td3": ["algorithm=td3", "td3={actor_hidden: [16, 16], critic_hidden: [16, 16]}"],
    "dqn": ["algorithm=dqn", "tasks=CartPole-v1", "dqn={q_hidden: [16, 16], target_every: 30}"],
}


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize(("name", "where"), [("td3", "here"), *((name, "ray") for name in OTHERS)])
def test_a_killed_grid_of_another_algorithm_goes_on_to_the_same_bytes(name, where, grid, start, tmp_path):
    pruning = ["pruning.methods=[taylor, rigl]", "pruning.mask_every=50", "pruning.rounds=2", "training.env_steps=600"]
    words = [*OTHERS[name], *pruning, "pruning.controls=[small-dense, permuted]", "training.checkpoint_every=1"]
    words += ["analysis.connectivity=rounds", "analysis.connectivity_points=3"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert main(["run", str(grid), f"output_dir={undisturbed}", *words]) == 0
    process = start(f"output_dir={killed}", *words)
    wait_for(process, lambda: list(killed.glob(f"*/*/ticket-*/{journal.RESUME}")))
    kill(process.pid)
    process.wait()
    # Where it goes on changes nothing.
    ray = ["executor=ray", "ray.address=local"] if where == "ray" and importlib.util.find_spec("ray") else []
    assert main(["run", str(grid), f"output_dir={killed}", *words, *ray]) == 0
    assert differences(undisturbed, killed) == []
    with (undisturbed / "table.csv").open() as file:
        rows = [(row["method"], row["control"], row["sparsity"]) for row in csv.DictReader(file)]
    first = f"{1 - 0.2**0.5:g}"  # two rounds of the same share reach 0.8
    tickets = [("taylor", "", first), ("taylor", "", "0.8"), ("taylor", "permuted", "0.8"), ("rigl", "", "0.8")]
    assert sorted(rows) == sorted([*tickets, ("", "small-dense", "0.8")])
    assert (undisturbed / "barriers.csv").read_text().count("rounds") >= 1
    assert main(["report", str(grid), f"output_dir={undisturbed}", *words]) == 0
