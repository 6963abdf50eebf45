"""Types: what editors and a user's mypy are told, and what the tests' own calls are checked against."""

import os
import re
import subprocess
import sys
from typing import get_args

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers.small import ROOT

from lth.algorithms import ALGORITHMS
from lth.algorithms.architecture import Spaces
from lth.algorithms.base import update_normalizer
from lth.algorithms.dqn.losses import q_loss
from lth.algorithms.learner import update
from lth.algorithms.sac.losses import sample_action
from lth.pruning import allocation, criteria
from lth.pruning.prune import prune
from lth.pruning.selection import lowest
from lth.replay import init_replay, insert, pack_rows, sample_rows
from lth.saliency import network_loss
from lth.types import Batch

VIOLATION = jaxtyping.TypeCheckError

PROGRAM = """\
import numpy as np

import lth

params = [(np.ones((4, 3), np.float32), np.zeros(3, np.float32))]
mask = lth.prune(params, 0.5, "taylor", gradients=params)
share: float = lth.compute_sparsity(mask)
agent, buffer, masks = lth.load("results/run")
reveal_type(agent.config)
reveal_type(agent.act(np.zeros(3)))
lth.prune(params, "0.5", "magnitude")
"""


def batch(n=4, observation_dim=3, action_dim=2):
    """Zeros in the shapes of transitions."""
    observations, numbers = np.zeros((n, observation_dim), np.float32), np.zeros(n, np.float32)
    return Batch(observations, np.zeros((n, action_dim), np.float32), numbers, observations, numbers)


def test_the_names_that_editors_complete_are_those_that_there_are():
    assert set(get_args(criteria.CriterionName)) == set(criteria.CRITERIA)
    assert set(get_args(allocation.AllocationName)) == set(allocation.ALLOCATIONS)
    assert set(get_args(allocation.PathName)) == set(allocation.PATHS)


@pytest.mark.slow
def test_a_users_mypy_sees_the_types_and_finds_the_error(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    cache = ROOT / ".mypy_cache" / "of-a-user"  # kept: the second time takes a fifth of the first
    # Found as an installed package is, so that py.typed counts: by sys.path, not by MYPYPATH.
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(program)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    messages = re.findall(r"program\.py:(\d+): (error|note): (.*)", done.stdout)
    lines = PROGRAM.splitlines()
    found = {(lines[int(number) - 1], kind): text for number, kind, text in messages}
    assert '"str"' in found.pop((lines[-1], "error")), done.stdout + done.stderr
    assert "AgentConfig" in found.pop((lines[-3], "note"))
    assert "ndarray" in found.pop((lines[-2], "note"))
    assert found == {}, done.stdout


@pytest.mark.parametrize(
    "call",
    [
        lambda: pack_rows(batch()._replace(rewards=np.zeros((4, 1), np.float32))),
        lambda: pack_rows(batch()._replace(rewards=np.zeros(5, np.float32))),
        lambda: insert(init_replay(8, 3, 2), np.zeros((4, 9), np.float32)),
        lambda: insert(init_replay(8, 3, 2), np.zeros((4, 10))),
        lambda: sample_action(jnp.zeros((4, 2)), jnp.zeros((4, 2)), jnp.zeros((4, 1))),
        lambda: lowest([jnp.zeros(3)], [jnp.zeros(3)], [jnp.ones(3)], [0], jnp.array([1], jnp.int32)),
        lambda: q_loss({}, {}, batch()._replace(terminated=np.zeros(4, bool)), lambda p, x: x, 0.9, False),
    ],
)
def test_what_has_another_shape_or_dtype_than_annotated_is_refused(call):
    with pytest.raises(VIOLATION):
        call()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_loss_mask_or_replay_buffer_promotes_a_dtype_or_a_rank_silently(name):
    """Of a whole update only ranks are checked: optax promotes the dtype of the update's number."""
    config = ALGORITHMS[name]()
    algorithm = config.build(Spaces(3, 2, config.DISCRETE))
    replay, drawn = init_replay(16, 3, algorithm.spaces.action_width), batch(8, 3, algorithm.spaces.action_width)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))

    def traced(state, key, rows):
        gradients = jax.grad(lambda params: network_loss(algorithm, state, params, drawn, key))(state.params)
        mask = prune(state.params, 0.5, "taylor", gradients=gradients)
        normalizer = update_normalizer(state.normalizer, rows[:, :3])
        return gradients, mask, normalizer, sample_rows(insert(replay, rows), key, 8)

    with jax.numpy_rank_promotion("raise"):
        noise = jnp.zeros(algorithm.noise_shape(8), jnp.float32)
        after, _ = jax.eval_shape(lambda state: update(algorithm, state, drawn, noise), state)
        assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        rows = jax.ShapeDtypeStruct((4, replay.rows.shape[1]), jnp.float32)
        found = jax.eval_shape(traced, state, jax.random.key(0), rows)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
