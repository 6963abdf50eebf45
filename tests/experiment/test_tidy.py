"""The tidy table of grids that were made up: what is left out, and what tells masks apart."""

import numpy as np
import pytest
from helpers.grids import make_grid, tidy_rows

from lth.errors import InputError
from lth.experiment.journal import METRICS, checkpoint_file
from lth.experiment.plan import plan
from lth.experiment.spec import DenseSpec, MaskSpec, TicketSpec
from lth.experiment.tidy import Collector
from lth.files import dump_tensors, load_tensors, write_whole
from lth.reporting import charts, networks, views
from lth.reporting.scores import Runs
from lth.reporting.tickets import overlaps

GRID = {
    "tasks": ["Pendulum-v1"],
    "seeds": [0],
    "training": {"env_steps": 1000, "start_steps": 100, "segment_steps": 500},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "evaluation": {"every": 500},
    "pruning": {"methods": ["magnitude", "taylor"], "sparsity": [0.9]},
}


@pytest.mark.parametrize(("damaged", "lines"), [(DenseSpec, 0), (TicketSpec, 1)])
def test_lines_to_an_agent_that_is_left_out_are_left_out(tmp_path, damaged, lines):
    config = make_grid({**GRID, "analysis": {"connectivity": ["parent", "methods"]}}, tmp_path)
    found = plan(config)
    spec = next(spec for spec in found.specs if isinstance(spec, damaged))
    (tmp_path / spec.path / METRICS).write_text("damaged")
    collector = Collector(found)
    rows = collector.rows()
    assert [*collector.left_out] == [spec]
    views.save_tables(tmp_path, rows)
    assert len({row.run for row in views.line_rows(rows)}) == lines


def test_random_masks_with_an_allocation_of_their_own_are_apart(tmp_path):
    pruning = {"methods": ["taylor", "random"], "sparsity": [0.9], "controls": ["random-erk"]}
    rows = tidy_rows(make_grid({**GRID, "pruning": pruning}, tmp_path))
    keys = [(*row[:6], row.metric, row.env_steps) for row in rows if row.metric.startswith("overlap/")]
    assert len(set(keys)) == len(keys)
    pairs = {(one.method, one.other) for one in overlaps(Runs(rows))}
    assert pairs == {("taylor", "random"), ("taylor", "random-erk"), ("random", "random-erk")}


def test_masks_of_several_rewind_points_are_all_there(tmp_path):
    pruning = {"methods": ["magnitude", "taylor"], "sparsity": [0.9], "rounds": 2, "rewind_steps": [0, 500]}
    config = make_grid({**GRID, "pruning": pruning}, tmp_path)
    runs = Runs(tidy_rows(config))
    last = [one for one in overlaps(runs) if (one.differ_in, one.sparsity, one.network) == ("method", "0.9", "actor")]
    assert [one.pairs for one in last] == [2]
    masks = [s for s in plan(config).specs if isinstance(s, MaskSpec) and s.previous and s.method == "taylor"]
    assert len(masks) == 2
    titles = [h.title for h in charts.histograms(runs) if (h.network, h.series) == ("actor", "taylor")]
    end = "Pendulum-v1, actor, taylor"
    assert titles == [end, f"{end}, rewound to step 0", f"{end}, rewound to step 500"]
    graphs = networks.graphs(found := plan(config), found.specs)
    assert len(graphs) == len({one.title.rpartition(", ")[0] for one in graphs}) == 4


@pytest.mark.parametrize("change", [np.ravel, np.transpose, np.float64, lambda kernel: kernel * np.nan, None])
def test_a_graph_of_a_checkpoint_with_another_kernel_is_refused(tmp_path, change):
    config = make_grid({**GRID, "pruning": {"methods": ["magnitude"], "sparsity": [0.5]}}, tmp_path)
    found = plan(config)
    assert len(networks.graphs(found, found.specs)) == 1
    path = checkpoint_file(tmp_path / next(spec for spec in found.specs if isinstance(spec, TicketSpec)).path)
    arrays, metadata = load_tensors(path, "the checkpoint")
    kernel = arrays.pop("actor_params/layer_0/kernel")
    if change:
        arrays["actor_params/layer_0/kernel"] = np.ascontiguousarray(change(kernel))
    write_whole(path, dump_tensors(arrays, metadata))  # with a checksum that is right
    with pytest.raises(InputError, match="'actor_params/layer_0/kernel' of finite float32 and shape"):
        networks.graphs(found, found.specs)
