"""The notebooks and the examples run, and do what they say."""

import runpy
import shutil

import jax
import pytest
from helpers.small import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))

RUN = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": sys.argv[2]}}, timeout=120).execute()
print([output for cell in notebook.cells for output in cell.get("outputs", [])])
"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(notebook, run_command):
    pytest.importorskip("nbclient")
    done = run_command("-c", RUN, notebook, notebook.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("image/png") == 4
    assert "2 seeds cannot show any difference here" in done.stdout
    assert "error" not in done.stderr.lower()


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")
def test_a_train_state_stays_under_its_mask_and_becomes_c(capsys, tmp_path):
    state, mask = runpy.run_path(str(ROOT / "examples" / "train_state.py"))["main"](tmp_path)
    assert "pruned 0.900; Dense_1 has " in capsys.readouterr().out
    assert "int policy_act(const float observation[POLICY_OBSERVATIONS]);" in (tmp_path / "c/src/policy.h").read_text()
    for tree in (state.params, state.target_params, state.opt_state.inner[0].mu):
        for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True):
            assert bool((leaf[kept == 0] == 0.0).all())
            assert bool((leaf[kept == 1] != 0.0).any())
