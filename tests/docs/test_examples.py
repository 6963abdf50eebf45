"""The notebooks and the examples run, and do what they say."""

import json
import runpy
import shutil

import jax
import pytest
from helpers.small import ROOT


def test_the_notebook_runs_and_has_the_outputs_that_it_gives(run_command):
    pytest.importorskip("nbclient")
    done = run_command(ROOT / "docs" / "make_notebook.py", "--check")
    assert done.returncode == 0, done.stderr
    cells = json.loads((ROOT / "examples" / "report.ipynb").read_text())["cells"]
    assert sum("image/png" in output.get("data", ()) for cell in cells for output in cell.get("outputs", ())) == 8
    assert not any(output["output_type"] == "error" for cell in cells for output in cell.get("outputs", ()))


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_train_state_stays_under_its_mask_and_becomes_c(capsys, tmp_path):
    state, mask = runpy.run_path(str(ROOT / "examples" / "train_state.py"))["main"](tmp_path)
    assert "pruned 0.900; Dense_1 has " in capsys.readouterr().out
    assert "int policy_act(const float observation[POLICY_OBSERVATIONS]);" in (tmp_path / "c/src/policy.h").read_text()
    for tree in (state.params, state.target_params, state.opt_state.inner[0].mu):
        for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True):
            assert bool((leaf[kept == 0] == 0.0).all())
            assert bool((leaf[kept == 1] != 0.0).any())
