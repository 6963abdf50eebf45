"""The examples run, and do what they say."""

import runpy

import jax
from conftest import ROOT


def test_a_train_state_stays_under_its_mask(capsys):
    state, mask = runpy.run_path(str(ROOT / "examples" / "train_state.py"))["main"]()
    assert "pruned 0.900; Dense_1 has " in capsys.readouterr().out
    for tree in (state.params, state.target_params, state.opt_state.inner[0].mu):
        for leaf, kept in zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True):
            assert bool((leaf[kept == 0] == 0.0).all())
            assert bool((leaf[kept == 1] != 0.0).any())
