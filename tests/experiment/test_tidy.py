"""The tidy table of grids that were made up: what is left out, and what tells masks apart."""

import pytest
from helpers.grids import make_grid

from lth.experiment.plan import plan
from lth.experiment.spec import DenseSpec, TicketSpec
from lth.experiment.store import METRICS
from lth.experiment.tidy import Collector
from lth.reporting import views

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
