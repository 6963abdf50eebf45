"""`agent.act`, `lth.export` and `lth export`: a trained agent in other people's hands, in the environment's own units."""

import hashlib
import json
import re
import shutil
import subprocess
import warnings

import jax
import numpy as np
import pytest
from helpers.policies import network, subject
from helpers.small import ROOT

import lth
from lth import envs
from lth.algorithms.acting import policy_of
from lth.cli import main
from lth.config import Sparsity
from lth.experiment import lottery, records
from lth.experiment.build import mask_spec, ticket_spec
from lth.exporting.build import build
from lth.exporting.check import for_environment
from lth.exporting.subjects import of_agent
from lth.exporting.write import write
from lth.files import write_whole
from lth.training import EVALUATION_SEED, evaluate

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler")


@pytest.fixture(scope="session")
def run(dense):
    return dense[1]


@pytest.fixture(scope="session")
def agent(run):
    return lth.load(run).agent


def episode(act, task):
    """Return what one evaluation episode in the environment's own units returns."""
    env = envs.make_own(task, 0, envs.EVALUATE)
    observation, _ = env.reset(seed=EVALUATION_SEED)
    total, done = 0.0, False
    while not done:
        action = act(observation)
        assert env.action_space.contains(for_environment(env, action)), action
        observation, reward, terminated, truncated, _ = env.step(for_environment(env, action))
        total, done = total + float(reward), terminated or truncated
    return total


def test_an_agent_acts_as_it_is_evaluated(agent):
    evaluated = evaluate(policy_of(agent), envs.make("Pendulum-v1", 0, envs.EVALUATE), 1)
    assert episode(agent.act, "Pendulum-v1") == pytest.approx(evaluated.return_mean, rel=1e-9)


def test_one_observation_a_batch_and_exploration(agent):
    seen = np.random.default_rng(0).normal(size=(5, 3))
    actions = agent.act(seen)
    assert (actions.shape, actions.dtype) == ((5, 1), np.float32)
    assert np.abs(actions).max() <= 2.0
    for observation, action in zip(seen, actions, strict=True):
        assert agent.act(observation) == pytest.approx(action, abs=1e-6)
    explored = agent.act(seen, np.random.default_rng(1))
    assert (explored != actions).all()
    assert (explored == agent.act(seen, np.random.default_rng(1))).all()


def test_an_agent_acts_by_its_own_settings(agent):
    """Also after an agent with the same weights, whose parts are kept for the next call."""
    raw = agent._replace(config=agent.config.model_copy(update={"normalize_obs": False}))
    seen = np.array([0.5, -0.3, 6.0])
    first, second = agent.act(seen), raw.act(seen)
    assert first != second
    assert second == raw._replace(state=agent.state._replace()).act(seen)
    assert agent.act(seen) == first


def test_an_agent_acts_by_weights_that_were_changed_in_place(agent):
    seen = np.array([0.5, -0.3, 6.0])
    copied = agent._replace(state=agent.state._replace(params=dict(agent.state.params)))
    first = copied.act(seen)
    weights = jax.tree.map(np.zeros_like, copied.state.params["actor"])
    copied.state.params["actor"] = weights
    assert copied.act(seen) == 0.0
    copied.state.params["actor"] = {**weights, "output": agent.state.params["actor"]["output"]}
    assert copied.act(seen) not in (0.0, first)
    assert agent.act(seen) == first


def test_what_act_refuses(agent):
    with pytest.raises(
        lth.InputError, match=r"needs observations of shape \(3,\) or \(n, 3\), but got float64 of shape \(4,\)"
    ):
        agent.act(np.zeros(4))
    with pytest.raises(lth.InputError, match="not finite at index 1"):
        agent.act(np.array([0.0, np.nan, 0.0]))
    with pytest.raises(lth.InputError, match=r"too large for float32 at index 2: -1e\+300"):
        agent.act(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1e300]]))
    with pytest.raises(lth.InputError, match="task is unknown"):
        agent._replace(task="").act(np.zeros(3))


def test_discrete_actions_are_the_environments_numbers():
    import jax

    from lth.config import DQNConfig

    config = DQNConfig(q_hidden=(8,))
    algorithm = config.build(envs.task_spaces("CartPole-v1"))
    agent = lth.Agent(config, algorithm.init(jax.random.key(0)), task="CartPole-v1")
    assert agent.act(np.zeros(4)) in (0, 1)
    assert agent.act(np.zeros((3, 4))).shape == (3,)
    assert episode(agent.act, "CartPole-v1") == evaluate(policy_of(agent), envs.make("CartPole-v1"), 1).return_mean
    made = build(of_agent(agent), ("c", "numpy"), False, 2, False)
    assert [row.returns for row in made.rows] == [made.rows[0].returns] * 3


@pytest.fixture(scope="session")
def ticket(small_config, dense):
    """A trained ticket of the small config: its directory."""
    mask = mask_spec(small_config, dense[0], "magnitude", Sparsity(actor=0.8, critic=0.8))
    lottery.make_mask(small_config.output_dir, mask)
    spec = ticket_spec(small_config, dense[0], mask)
    return lottery.train_ticket(small_config.output_dir, spec)


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    return lth.export(run, tmp_path_factory.mktemp("export") / "policy", episodes=3)


def test_every_program_returns_what_the_agent_does(exported, agent):
    assert [row.name for row in exported.rows] == ["agent", "c", "onnx", "numpy"]
    own = exported.rows[0].returns
    assert own.mean == pytest.approx(
        evaluate(policy_of(agent), envs.make("Pendulum-v1", 0, envs.EVALUATE), 3).return_mean
    )
    for row in exported.rows[1:]:
        assert row.deviation < 1e-5
        assert row.returns.mean == pytest.approx(own.mean, rel=1e-3)
        assert row.returns.error == pytest.approx(own.error, rel=1e-2)


def test_the_contract_says_what_a_port_needs(exported, run):
    policy = json.loads((exported.folder / "policy.json").read_text())
    assert policy == exported.contract
    assert [o["name"] for o in policy["observations"]] == ["cos(angle)", "sin(angle)", "angular velocity"]
    assert [(o["unit"], o["low"], o["high"]) for o in policy["observations"]][2] == ("rad/s", -8.0, 8.0)
    assert [(a["low"], a["high"]) for a in policy["actions"]] == [(-2.0, 2.0)]
    assert (policy["task"], policy["algorithm"], policy["method"], policy["dt"]) == (
        "Pendulum-v1",
        "sac",
        "dense",
        0.05,
    )
    assert policy["spec"] == records.spec_of(run).sha256
    assert policy["return"]["episodes"] == 3
    assert policy["sizes"]["multiply_adds_dense"] == 3 * 16 + 16 * 16 + 16
    assert set(policy["times_us"]) == {"agent", "c", "onnx", "numpy"}
    there = {str(p.relative_to(exported.folder)) for p in exported.folder.rglob("*") if p.is_file()}
    assert there == {"policy.json", *policy["files"]} == {str(p.relative_to(exported.folder)) for p in exported.files}
    for name, digest in policy["files"].items():
        assert hashlib.sha256((exported.folder / name).read_bytes()).hexdigest() == digest
    rollout = np.load(exported.folder / "rollout.npz")
    assert (rollout["observation"].shape, rollout["action"].shape) == ((200, 3), (200, 1))


def test_the_models_metadata_is_the_contract(exported):
    onnx = pytest.importorskip("onnx")
    props = {p.key: p.value for p in onnx.load(exported.folder / "policy.onnx").metadata_props}
    assert json.loads(props["observations"]) == exported.contract["observations"]
    assert props["task"] == "Pendulum-v1"
    assert json.loads(props["dt"]) == 0.05


def test_a_failed_check_writes_nothing(tmp_path):
    policy = network()
    honest = subject(policy)
    wrong = honest._replace(act=lambda seen: honest.act(seen) + np.float32(2e-5) * np.arange(3, dtype=np.float32))
    with pytest.raises(lth.ExportError, match=r"policy differs from the agent by .* nothing was written"):
        write(tmp_path / "out", build(wrong, ("c",), False, 0, False))
    assert not (tmp_path / "out").exists()


def names_in(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_formats_of_a_policy_are_exported_one_after_another(run, tmp_path):
    first = lth.export(run, tmp_path, to="c", quantize="int8", episodes=2)
    second = lth.export(run, tmp_path, to="numpy", episodes=0)
    assert second.notes == ["kept from an earlier export of this policy: c"]
    policy = json.loads((tmp_path / "policy.json").read_text())
    assert policy == second.contract
    assert names_in(tmp_path) == {"policy.json", *policy["files"]} >= set(first.contract["files"])
    for name, digest in policy["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert policy["return"] == policy["checked"]["agent"]["return"] == first.contract["return"]
    assert policy["checked"]["c int8"] == first.contract["checked"]["c int8"]
    assert set(policy["checked"]) == set(policy["times_us"]) == {"agent", "c int8", "numpy"}
    assert policy["sizes"]["flash_bytes_cortex_m4"] == first.contract["sizes"]["flash_bytes_cortex_m4"]
    third = lth.export(run, tmp_path, to="c", episodes=0)
    assert set(third.contract["checked"]) == {"agent", "c", "numpy"}


def test_an_export_of_another_policy_is_replaced(tmp_path):
    write(tmp_path, build(subject(network()), ("c", "numpy"), False, 0, False))
    (tmp_path / "c" / "mine.txt").write_text("kept")
    (tmp_path / "numpy" / "policy.py").unlink()
    made = write(tmp_path, build(subject(network(seed=1)), ("numpy",), False, 0, False))
    assert names_in(tmp_path) == {"policy.json", *made.contract["files"], "c/mine.txt"}
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["mine.txt"]  # no empty folders
    assert made.notes == ["replaced an earlier export, of another policy or with other names: c, numpy"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", [0, 1], ids=["same policy", "another policy"])
def test_an_export_that_was_interrupted_is_repeated(seed, tmp_path, monkeypatch):
    from lth.exporting import folder
    from lth.exporting import write as module

    first = build(subject(network()), ("onnx", "numpy"), False, 0, False)
    other = build(subject(network(seed=seed)), ("numpy",), False, 0, False)
    for killed_at in range(1, 20):
        root = tmp_path / str(killed_at)
        write(root, first)
        left = iter(range(1, killed_at))

        def step(own, left=left):
            def call(*given, **how):
                if next(left, None) is None:
                    raise Killed
                return own(*given, **how)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_whole", step(write_whole))
            patch.setattr(folder.Path, "unlink", step(folder.Path.unlink))
            try:
                write(root, other)
                break
            except Killed:
                pass
        other.files["numpy/policy.py"] += b"#"  # as the metadata of ONNX, in which times differ from export to export
        made = write(root, other)
        assert names_in(root) == {"policy.json", *made.contract["files"]}
        assert ("kept from an earlier export of this policy: onnx" in made.notes) == (seed == 0)
        assert "unfinished" not in json.loads((root / "policy.json").read_text())
    assert killed_at > 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("policy.json", "was not written by an export"),
        ("numpy/policy.npz", "was changed after it was exported"),
        ("numpy/policy.py", "was changed after it was exported"),
        ("c/Makefile", "is not listed in its policy.json"),
    ],
)
def test_files_of_your_own_are_not_touched(name, message, tmp_path):
    write(tmp_path, build(subject(network()), ("numpy",), False, 0, False))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    other = build(subject(network(seed=1)), ("c",), False, 0, False)
    with pytest.raises(lth.InputError, match=rf"{name}' {message}.*nothing was written.*--out"):
        write(tmp_path, other)
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before


def test_the_bytes_in_the_table_are_those_of_the_files(exported):
    policy = json.loads((exported.folder / "policy.json").read_text())
    sizes = {row.name: row.bytes for row in exported.rows}
    for name, file in (("onnx", "policy.onnx"), ("numpy", "numpy/policy.npz")):
        assert sizes[name] == policy["checked"][name]["bytes"] == (exported.folder / file).stat().st_size
    assert "Bytes of C" in str(exported)
    assert "Bytes of C" not in str(exported._replace(rows=[row for row in exported.rows if row.name != "c"]))


def test_the_command_line(run, ticket, tmp_path, capsys):
    assert (
        main(
            ["export", str(ticket), "--to", "c", "--quantize", "int8", "--episodes", "2", "--out", str(tmp_path / "x")]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "c int8" in out
    assert "needed" in out
    policy = json.loads((tmp_path / "x" / "policy.json").read_text())
    assert (policy["method"], policy["sparsity"]) == ("magnitude", {"actor": 0.8006, "critic": 0.8006})
    assert policy["sizes"]["multiply_adds"] < 0.2 * policy["sizes"]["multiply_adds_dense"]
    for words, message in (
        ([str(tmp_path / "nowhere")], "there is no run"),
        ([str(run), "--episodes", "-1"], "episodes is -1"),
        ([str(run), "--to", "onnx", "--quantize", "int8"], "needs the format c"),
        ([str(run), "--to", "numpy", "--episodes", "0", "--out", str(tmp_path / "x" / "policy.json")], "is a file"),
    ):
        assert main(["export", *words]) == 2
        assert message in capsys.readouterr().err


def test_what_export_refuses(agent, monkeypatch, tmp_path):
    with pytest.raises(lth.InputError, match=r"unknown format 'onx'.*did you mean 'onnx'"):
        lth.export(agent, tmp_path, to="onx")
    diverged = jax.tree.map(lambda leaf: leaf * np.nan, agent.state.params)
    with pytest.raises(lth.InputError, match=r"kernel of layer 0: nan .* training diverged"):
        lth.export(agent._replace(state=agent.state._replace(params=diverged)), tmp_path)
    with pytest.raises(lth.InputError, match="type dict cannot be exported"):
        lth.export({}, tmp_path)
    with pytest.raises(lth.InputError, match="env is for agents of other libraries"):
        lth.export(agent, tmp_path, env=lambda: None)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(lth.InputError, match="there is no C compiler"):
        lth.export(agent, tmp_path, to="c", episodes=0)
    made = lth.export(agent, tmp_path, episodes=0)
    assert made.notes[0].startswith("skipped c: ")
    assert not (tmp_path / "c").exists()


def test_a_reward_that_is_not_a_number(tmp_path):
    import gymnasium

    nan = lambda: gymnasium.wrappers.TransformReward(gymnasium.make("Pendulum-v1"), lambda reward: np.nan)  # noqa: E731
    of = subject(network((3, 4, 1), squash="tanh"))._replace(make_env=nan)
    with pytest.raises(lth.InputError, match=r"reward is nan at step 1 of an episode.*--episodes 0"):
        write(tmp_path / "x", build(of, ("numpy",), False, 1, False))
    write(tmp_path / "x", build(of, ("numpy",), False, 0, False))


def test_a_compiler_for_another_machine(monkeypatch, tmp_path):
    made = build(subject(network()), ("c", "numpy"), False, 0, True)
    assert [row.name for row in made.rows] == ["agent", "c", "numpy"]
    compiler = tmp_path / "cross-gcc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho program > "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(lth.InputError, match=r"cross-gcc, does not load here .* unset it"):
        build(subject(network()), ("c",), False, 0, False)
    made = build(subject(network()), ("c", "numpy"), False, 0, True)
    assert [row.name for row in made.rows] == ["agent", "numpy"]


def test_a_grids_return_against_flash(small_config, run, ticket):
    from lth.experiment.plan import plan
    from lth.exporting.flash import measure, save_table
    from lth.reporting.figures import save_flash

    pruning = small_config.pruning.model_copy(update={"methods": ["magnitude"]})
    found = plan(small_config.model_copy(update={"pruning": pruning}))
    measured = measure(found)
    table, figure = save_table(found.root, measured), save_flash(found.root, measured)
    lines = [line.split(",") for line in table.read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [(row["method"], row["sparsity"], row["weights"]) for row in rows] == [
        (method, sparsity, weights)
        for method, sparsity in (("dense", ""), ("magnitude", "0.8"))
        for weights in ("float32", "int8")
    ]
    sizes = [int(row["bytes"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert [float(row["return"]) for row in rows[::2]] == [
        records.last_evaluation(folder)["evaluation/return"] for folder in (run, ticket)
    ]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_runs_are_filmed_side_by_side(run, ticket, tmp_path, monkeypatch):
    pytest.importorskip("pygame", reason="drawing Pendulum needs pygame: pip install 'lth[video]'")
    from gymnasium.envs.classic_control.pendulum import PendulumEnv
    from PIL import Image

    from lth.evaluation import evaluate_run, film_runs

    closed, close = [], PendulumEnv.close
    monkeypatch.setattr(PendulumEnv, "close", lambda env: closed.append(env.render_mode) or close(env))
    film_runs([run, ticket], tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (2 * 320, 320 + 24)
        assert film.n_frames > 50
    evaluate_run(run, 1)
    assert closed == ["rgb_array", "rgb_array", None]

    def stuck(env, action):
        raise ValueError("stuck")

    monkeypatch.setattr(PendulumEnv, "step", stuck)
    with pytest.raises(lth.TrainingError, match=r"^the environment raised ValueError during an evaluation: stuck$"):
        film_runs([run], tmp_path / "film.gif")


def test_films_of_odd_sizes_and_at_other_rates(run, ticket, tmp_path, monkeypatch):
    pytest.importorskip("pygame", reason="drawing Pendulum needs pygame: pip install 'lth[video]'")
    imageio = pytest.importorskip("imageio.v3", reason="an .mp4 needs ffmpeg: pip install 'lth[video]'")
    pytest.importorskip("imageio_ffmpeg", reason="an .mp4 needs ffmpeg: pip install 'lth[video]'")
    from gymnasium.envs.classic_control.pendulum import PendulumEnv
    from PIL import Image

    from lth.evaluation import film_runs

    monkeypatch.setattr("lth.evaluation.PANEL", 101)
    film_runs([run, ticket], tmp_path / "film.mp4")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*os.fork", RuntimeWarning)  # ffmpeg runs in a subprocess
        assert imageio.imread(tmp_path / "film.mp4", index=0).shape == (126, 202, 3)  # of 101 + 24 by 2 * 101
    monkeypatch.setitem(PendulumEnv.metadata, "render_fps", 80)  # Meta-World's, of which a GIF has every third frame
    film_runs([run], tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["duration"] == 40  # 37.5 ms


def test_the_example_of_a_robot_works_when_it_is_copied(tmp_path):
    folder = shutil.copytree(ROOT / "examples" / "robot", tmp_path / "robot")
    done = subprocess.run(["make"], cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    assert "200 steps replayed, 0 actions differ" in done.stdout
    angle = float(re.search(r"final angle (\S+) rad", done.stdout)[1])
    assert abs(angle) < 0.2  # upright
    policy = json.loads((folder / "policy" / "policy.json").read_text())
    for name, digest in policy["files"].items():
        assert hashlib.sha256((folder / "policy" / name).read_bytes()).hexdigest() == digest
