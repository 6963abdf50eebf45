"""docs/saliency-pruning.md works as it is written: its snippets are taken from there and run."""

import pickle
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from helpers.small import ROOT

import lth
from lth.config import PruningConfig, parse_config
from lth.experiment import store

DOCUMENT = (ROOT / "docs" / "saliency-pruning.md").read_text()


def blocks(language, heading):
    """Return the fenced blocks of a language below a heading."""
    section = re.split(r"\n#{2,} ", DOCUMENT.split(heading, 1)[1], maxsplit=1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def paste(script, marker, snippet):
    """Put a snippet into a script at its marked place, indented as the place is."""
    lines = script.split("\n")
    at = next(i for i, line in enumerate(lines) if f"# <<< {marker}" in line)
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    assert lines[at + 1].strip() == "# >>>"
    return "\n".join([*lines[: at + 1], *(indent + line for line in snippet.split("\n")), *lines[at + 1 :]])


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the scripts and the sources, to be edited as the document says."""
    place = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "scripts", place / "scripts")
    shutil.copytree(ROOT / "src", place / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return place


def test_option_3_as_it_stands(dense):
    agent, replay_buffer, _ = lth.load(dense[1])
    code = blocks("python", "### Option 3: Direct API Usage")[0]
    names = {"agent": agent, "replay_buffer": replay_buffer}
    exec(compile(code, "option 3", "exec"), names)
    assert lth.compute_sparsity(names["mask"]) == pytest.approx(0.8, abs=1e-3)
    assert jax.tree.structure(names["mask"]) == jax.tree.structure(agent.state.actor_params)
    weights, grads = agent.state.actor_params, names["actor_grads"]
    expected = lth.prune_kernels_by_gradient_saliency(weights, grads, 0.8, "taylor")
    assert jax.tree.all(jax.tree.map(jnp.array_equal, names["mask"], expected))
    assert names["batch"].observations.shape == (256, 3)


def test_the_configuration_block_loads_and_is_the_default(small_yaml):
    block = yaml.safe_load(blocks("yaml", "## Configuration")[0])
    config = parse_config(block)
    assert config.pruning == PruningConfig()
    assert config.pruning.sparsity[0].actor == block["pruning"]["sparsity"]
    for key in ("gradient_method", "num_gradient_batches", "gradient_batch_size"):
        assert getattr(config.pruning, key) == block["pruning"][key]


def test_the_document_is_kept_verbatim_and_its_signatures_are_ours():
    import hashlib
    import inspect

    digest = "2a3f41f221e8e88dfc7e42e5c2a239a306acf3a1d2566a20626e197952b11a51"
    assert hashlib.sha256(DOCUMENT.encode()).hexdigest() == digest
    signature = inspect.signature(lth.accumulate_gradient_statistics)
    assert list(signature.parameters) == ["agent", "replay_buffer", "num_batches", "batch_size", "normalize_obs", "key"]
    assert [p.default for p in signature.parameters.values()][2:] == [100, 256, True, None]
    signature = inspect.signature(lth.prune_kernels_by_gradient_saliency)
    assert list(signature.parameters)[:5] == ["params", "gradients", "target_sparsity", "method", "prev_mask"]


def test_the_scripts_as_they_stand_and_as_the_document_edits_them(checkout, small_yaml, tmp_path, run_command):
    def run(script, *arguments):
        done = run_command(checkout / "scripts" / script, "--config", small_yaml, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    results = tmp_path / "results" / "Pendulum-v1" / "seed0"
    assert "already finished" not in run("_01_train_dense.py")
    (dense_dir,) = results.glob("dense-*")
    buffer_bytes = (dense_dir / "replay_buffer.pkl").read_bytes()

    # Troubleshooting: the snippet at its place, on a run whose buffer was lost.
    first = checkout / "scripts" / "_01_train_dense.py"
    plain = first.read_text()
    snippet = blocks("python", '### Error: "No replay buffer found"')[0]
    first.write_text(paste(plain, "docs/saliency-pruning.md, Troubleshooting", snippet))
    (dense_dir / "replay_buffer.pkl").unlink()
    run("_01_train_dense.py")
    assert (dense_dir / "replay_buffer.pkl").read_bytes() == buffer_bytes
    data = pickle.loads(buffer_bytes)
    assert type(data) is dict
    assert all(type(value) is np.ndarray for value in data.values())
    assert data["observations"].shape == (600, 3)
    assert np.abs(data["observations"]).max() > 3  # raw: Pendulum's velocity reaches 8, a normalised one would not

    # Option 1, and the two masks of the comparison.
    run("_02_create_mask.py")
    run("_02b_create_mask_gradient.py")
    (magnitude_file,) = results.glob("mask-magnitude-0.8-*/mask.pkl")
    (taylor_file,) = results.glob("mask-taylor-0.8-*/mask_gradient.pkl")
    agent, replay_buffer, _ = lth.load(dense_dir)
    params = agent.state.actor_params
    magnitude, taylor = store.load_mask(magnitude_file), store.load_mask(taylor_file)
    expected = lth.prune_kernels_by_magnitude(params, 0.8)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, magnitude["actor"], expected))
    actor_grads, _ = lth.accumulate_gradient_statistics(agent, replay_buffer, 8, 32)
    expected = lth.prune_kernels_by_gradient_saliency(params, actor_grads, 0.8)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, taylor["actor"], expected))
    plain_mask = pickle.loads(taylor_file.read_bytes())
    assert {type(leaf) for leaf in jax.tree.leaves(plain_mask)} == {np.ndarray}

    # Tickets under either mask, in folders of their own.
    assert "magnitude" in run("_03_train_ticket.py")
    assert "taylor" in run("_03_train_ticket.py", "--mask", "mask_gradient.pkl")
    assert "already finished" in run("_03_train_ticket.py", "--mask", "mask_gradient.pkl")
    assert len(list(results.glob("ticket-magnitude-0.8-*"))) == len(list(results.glob("ticket-taylor-0.8-*"))) == 1

    # Option 2: the edited script's mask.pkl is the Taylor mask, and is not taken for the magnitude mask.
    second = checkout / "scripts" / "_02_create_mask.py"
    plain = second.read_text()
    before = magnitude_file.read_bytes()
    second.write_text(paste(plain, "docs/saliency-pruning.md, Option 2", blocks("python", "### Option 2")[0]))
    printed = run("_02_create_mask.py")
    (custom_file,) = results.glob("mask-custom-0.8-*/mask.pkl")
    assert str(custom_file) in printed
    actor_grads, _ = lth.accumulate_gradient_statistics(agent, replay_buffer, 100, 256)
    expected = lth.prune_kernels_by_gradient_saliency(params, actor_grads, 0.8)
    custom = store.load_mask(custom_file)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, custom["actor"], expected))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, custom["critic"], magnitude["critic"]))
    assert magnitude_file.read_bytes() == before
    assert "custom" in run("_03_train_ticket.py")
    (ticket,) = results.glob("ticket-custom-*")
    kept = lth.load(ticket).masks["actor"]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept, expected))

    # Undone, the script's mask is the magnitude mask again, also for _03.
    second.write_text(plain)
    run("_02_create_mask.py")
    assert not custom_file.exists()
    assert "magnitude" in run("_03_train_ticket.py")


def test_both_names_are_the_same_objects(run_command):
    code = """
import sys
import src.lth, lth, src.lth.gradient_pruning, lth.gradient_pruning
from src.lth.pruning.masks import MaskedState
from src.lth import prune_kernels_by_gradient_saliency, accumulate_gradient_statistics, compute_sparsity
import lth.pruning.masks
assert src.lth is lth and src.lth.gradient_pruning is lth.gradient_pruning
assert MaskedState is lth.pruning.masks.MaskedState
assert prune_kernels_by_gradient_saliency is lth.prune_kernels_by_gradient_saliency
assert compute_sparsity is lth.compute_sparsity
assert lth.__spec__.name == "lth" and lth.gradient_pruning.__spec__.name == "lth.gradient_pruning"
assert lth.gradient_pruning.__name__ == "lth.gradient_pruning"
"""
    done = run_command("-W", "error", "-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_other_name_works_without_an_installation(run_command):
    # -S and -E hide what is installed; the libraries' own folder is put back, without the editable install's finder.
    site = str(ROOT / "nowhere")
    code = "import importlib.util, sys; sys.path.insert(0, '.'); import src.lth; print(src.lth.__file__)"
    done = run_command("-S", "-E", "-c", code, cwd=ROOT, env={"PYTHONPATH": site})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("src/lth/__init__.py")


OTHER_TASK = """
import gymnasium
gymnasium.register("OtherPendulum-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=100)
"""


def test_the_transfer_script(small_yaml, tmp_path, run_command):
    (tmp_path / "other_task.py").write_text(OTHER_TASK)
    names = ["Pendulum-v1", "other_task:OtherPendulum-v0"]

    def run(script, *arguments, status=0):
        words = ["--config", small_yaml, f"tasks={names}", *arguments]
        done = run_command(ROOT / "scripts" / script, *words, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    run("_01_train_dense.py")
    run("_02b_create_mask_gradient.py")
    printed = run("_04_transfer.py", "--mask", "mask_gradient.pkl")
    assert "seed 0 taylor 0.8 from Pendulum-v1" in printed
    results = tmp_path / "results"
    (ticket,) = results.glob("other_task_OtherPendulum-v0/seed0/ticket-taylor-0.8-from-Pendulum-v1-*")
    (mask_file,) = results.glob("Pendulum-v1/seed0/mask-taylor-*/mask_gradient.pkl")
    (dense_dir,) = results.glob("other_task_OtherPendulum-v0/seed0/dense-*")
    mask = store.load_mask(mask_file)["actor"]
    start, initial = (lth.load(run_dir, 0).agent.state.actor_params for run_dir in (ticket, dense_dir))
    assert jax.tree.all(jax.tree.map(lambda s, m, p: bool((s == m * p).all()), start, mask, initial))

    # Other sizes are an error, never silently dense.
    names[1] = "InvertedPendulum-v5"
    run("_01_train_dense.py")
    printed = run("_04_transfer.py", "--mask", "mask_gradient.pkl", status=2)
    assert "the actor's mask" in printed
    assert "'layer_0/kernel' has shape (3, 16), the actor's has shape (4, 16)" in printed
    assert not list(results.glob("InvertedPendulum-v5/seed0/ticket-*"))
