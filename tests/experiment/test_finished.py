"""Finished means right: what is read belongs to the run that asks for it, and what is written is finite."""

import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small import ROOT, SMALL

import lth
from lth.algorithms.checkpoint import dump_agent, load_agent_and_more
from lth.config import Sparsity, parse_config
from lth.errors import TrainingError
from lth.experiment import journal, lottery, records, store
from lth.experiment.build import dense_spec, mask_spec, ticket_spec
from lth.experiment.costs import flops, spent
from lth.experiment.plan import plan
from lth.experiment.status import states
from lth.files import checksum_path, dump_pickle, load_pickle, write_sealed, write_whole
from lth.replay import ReplayBuffer

HALF = Sparsity(actor=0.5, critic=0.5)


@pytest.fixture
def root(small_config, dense, tmp_path):
    """A copy of the dense run that may be changed; the config's output directory."""
    spec, run = dense
    shutil.copytree(run, tmp_path / spec.path)
    return tmp_path


@pytest.fixture
def config(small_config, root):
    return small_config.model_copy(update={"output_dir": root})


def other_seed(small_config):
    return dense_spec(small_config, "Pendulum-v1", 1)


def copied(root, spec, other):
    """The files of one seed under the name of another."""
    shutil.copytree(root / spec.path, root / other.path)
    (root / other.path / "spec.json").unlink()
    records.open_run(root, other)


def test_an_installed_lth_has_no_git_revision(tmp_path, run_command):
    """Not that of the project whose environment it is installed in."""
    shutil.copytree(ROOT / "src" / "lth", tmp_path / ".venv" / "lth", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text(".venv\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    program = "from lth.experiment.provenance import provenance; print(provenance()['git_revision'])"
    done = run_command("-c", program, env={"PYTHONPATH": str(tmp_path / ".venv")})
    assert done.stdout == "None\n", done.stderr


def test_files_of_another_run_are_refused(root, config, dense):
    spec, other = dense[0], other_seed(config)
    copied(root, spec, other)
    for step in (None, 0, 200):
        with pytest.raises(lth.InputError, match=rf"the run {spec.sha256[:8]}.*seed 1 .*\({other.sha256[:8]}\)"):
            store.read_agent(root, other, step)
    with pytest.raises(lth.InputError, match=f"replay buffer .* belongs to the run {spec.sha256[:8]}"):
        store.load_replay_buffer(root / other.path, spec=other)
    with pytest.raises(lth.InputError, match="belongs to the run"):
        lth.load(root / other.path)
    with pytest.raises(lth.InputError, match="belongs to the run"):
        lottery.make_mask(root, mask_spec(config, other, "taylor", HALF))
    assert lth.load(root / spec.path).agent.config == spec.agent
    shutil.copy(journal.checkpoint_file(root / spec.path, 200), journal.checkpoint_file(root / spec.path, 0))
    shutil.copy(
        f"{journal.checkpoint_file(root / spec.path, 200)}.sha256",
        f"{journal.checkpoint_file(root / spec.path, 0)}.sha256",
    )
    with pytest.raises(lth.InputError, match=r"is of environment step 200, but step 0"):
        store.read_agent(root, spec, 0)


def test_a_buffer_that_does_not_say_whose_it_is_is_read(root, dense):
    spec = dense[0]
    path = journal.replay_file(root / spec.path)
    data = load_pickle(path, "it")
    del data["spec_sha256"]
    write_whole(path, dump_pickle(data))
    assert len(store.load_replay_buffer(root / spec.path, spec=spec)) == len(ReplayBuffer.load(data))


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_a_mask_that_was_changed_trains_no_ticket(root, config, dense, allocation):
    mask = mask_spec(config, dense[0], "magnitude", HALF, allocation=allocation)
    run = lottery.make_mask(root, mask)
    masks = store.load_mask(run / "mask.pkl")
    store.save_mask(run, "mask.pkl", jax.tree.map(np.ones_like, masks))
    with pytest.raises(lth.InputError, match=r"prunes 0 weights of the actor, but .* the file was modified"):
        lottery.train_ticket(root, ticket_spec(config, dense[0], mask))
    (run / "mask.pkl.sha256").unlink()
    with pytest.raises(lth.InputError, match="the file was modified"):
        lottery.train_ticket(root, ticket_spec(config, dense[0], mask))


@pytest.mark.parametrize("what", ["a bit", "position", "capacity", "env_steps", "run", "rows"])
def test_a_changed_resume_file_is_refused(root, config, dense, what):
    spec = dense[0]
    run, agent = root / spec.path, store.read_agent(root, spec, 200)
    buffer = store.load_replay_buffer(run, 200, spec)
    buffer.state = buffer.full_state()
    store.save_resume(
        run, spec, store.Resume(agent.state, buffer.state, [(0, "evaluation/return", -1.0)], {"train": 1.0})
    )
    assert not checksum_path(run / journal.RESUME).exists()  # a process can be killed between two files
    resumed = store.load_resume(run, spec)
    assert int(resumed.state.env_steps) == 200
    path = run / journal.RESUME
    if what == "a bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        _, state, about, more = load_agent_and_more(path, sealed=True)
        if what == "position":
            more["replay/position"] = np.asarray(-5, np.int32)
        elif what == "capacity":
            more["replay/capacity"] = np.asarray(10**9)
        elif what == "env_steps":
            state = state._replace(env_steps=jnp.asarray(10**9, jnp.int32))
        elif what == "run":
            about["spec"] = other_seed(config).sha256
        else:
            more["replay/rows"][0, 0] = np.nan
        write_sealed(path, dump_agent(spec.agent, state, about, more))
    with pytest.raises(lth.InputError, match=r"resume\.safetensors"):
        store.load_resume(run, spec)


def test_what_is_not_finite_is_not_written(root, dense):
    spec = dense[0]
    agent, before = store.read_agent(root, spec), journal.checkpoint_file(root / spec.path).read_bytes()
    normalizer = jax.tree.map(lambda x: x * jnp.inf if x.ndim else x, agent.state.normalizer)
    with pytest.raises(TrainingError, match=r"normalizer.* too large for float32"):
        store.save_agent(root / spec.path, spec, agent.state._replace(normalizer=normalizer))
    assert journal.checkpoint_file(root / spec.path).read_bytes() == before


@pytest.mark.parametrize(
    "rows", ["400,evaluation/return,nan", "600,evaluation/return,inf", "200,evaluation/return,1.0"]
)
def test_evaluations_are_finite_and_reach_the_end(root, dense, rows):
    spec = dense[0]
    (root / spec.path / "metrics.csv").write_text(f"env_steps,metric,value\n{rows}\n")
    with pytest.raises(lth.InputError, match=r"metrics\.csv"):
        records.metrics_of(root, spec)


def test_two_ways_to_one_sparsity_are_two_rows():
    config = parse_config({**SMALL, "pruning": {"rounds": 2, "sparsity": [0.9, 0.99], "methods": ["magnitude"]}})
    rows = [row for row in plan(config).rows if row.run.seed == 0]
    labels = [row.sparsity for row in rows]
    assert labels == ["0.683772", "0.9", "0.9 (round 1 of 2)", "0.99"]
    assert len({row.run for row in rows}) == 4
    one = parse_config({**SMALL, "pruning": {"rate": 0.5, "rounds": 2, "methods": ["magnitude"]}})
    assert [row.sparsity for row in plan(one).rows if row.run.seed == 0] == ["0.5", "0.75"]


def test_gradual_pruning_counts_what_it_did(tmp_path):
    pruning = {"methods": ["gradual"], "sparsity": [1.0], "mask_every": 10, "mask_until": 0.75}
    tree = {**SMALL, "output_dir": str(tmp_path), "pruning": pruning}
    found = plan(parse_config(tree))
    ticket = next(spec for spec in found.specs if spec.stage == "ticket")
    weights, none = {"actor": 1000.0, "critic": 2000.0}, {"actor": 0.0, "critic": 0.0}
    updates, changes = ticket.updates, round(0.75 * ticket.updates) // 10
    kept = [1.0] * 10 + [(1 - k / changes) ** 3 for k in range(1, changes + 1) for _ in range(10)]
    kept = (kept + [0.0] * updates)[:updates]  # after the last change nothing is left
    share = spent(found, ticket, none, weights)["cost/flops"] / flops(ticket, weights)
    assert share == pytest.approx(np.mean(kept), rel=1e-6)
    assert 0.1 < share < 0.5
    assert spent(found, ticket, weights, weights)["cost/flops"] == flops(ticket, weights)


def test_runs_are_float32_under_x64(tmp_path, run_command, dense, small_config):
    spec, run = dense
    program = f"""
import lth
from lth.config import parse_config
from lth.experiment import lottery
from lth.experiment.build import dense_spec
from lth.experiment.options import RunOptions
config = parse_config({ {**SMALL, "output_dir": str(tmp_path)}!r})
place = lottery.train_dense(config.output_dir, dense_spec(config, "Pendulum-v1", 0), RunOptions((200,)))
theirs = lth.load({str(run)!r})
print(place, lth.gradient_statistics(theirs.agent, theirs.replay_buffer, 2)["actor"]["output"]["kernel"].dtype)
"""
    done = run_command("-c", program, env={"JAX_ENABLE_X64": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "float32"
    for name in ("checkpoint.safetensors", "replay_buffer.pkl", "metrics.csv", "checkpoint_200.safetensors"):
        assert (tmp_path / spec.path / name).read_bytes() == (run / name).read_bytes()


def test_a_run_whose_input_is_invalid_has_failed(tmp_path):
    training = {**SMALL["training"], "backend": "dense"}
    pruning = {"methods": ["magnitude"], "sparsity": [0.9]}
    config = parse_config({**SMALL, "training": training, "pruning": pruning, "output_dir": str(tmp_path)})
    dense = plan(config).specs[0]
    (tmp_path / dense.path).mkdir(parents=True)
    (tmp_path / dense.path / journal.RESUME).write_bytes(b"not a resume file")
    ended = {outcome.spec: outcome for outcome in lth.run(config).outcomes}
    assert ended[dense].status == "failed"
    assert journal.RESUME in ended[dense].message
    found = {state.spec: state for state in states(plan(config))}
    assert (found[dense].state, found[dense].message) == ("failed", ended[dense].message)
