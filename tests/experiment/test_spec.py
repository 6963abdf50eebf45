"""What a run is called follows from what it is, today and in later versions."""

import json
import time
from pathlib import Path

import pytest

from lth.config import Config, Sparsity, load_config, parse_config
from lth.errors import InputError
from lth.experiment import records
from lth.experiment.build import dense_spec, mask_spec, ticket_spec
from lth.experiment.plan import plan
from lth.experiment.spec import FileMask

HALF = Sparsity(actor=0.5, critic=0.5)
GOLDEN = ["b17dbe5b", "00206850", "d3d7e042", "4fd4bab7", "95dc6016", "45834526"]


def test_golden_hashes():
    """These may never change: old results would not be found again. If a default changes, raise SPEC_VERSION."""
    config = parse_config({"training": {"backend": "dense"}})
    dense = dense_spec(config, "HalfCheetah-v5", 0)
    mask = mask_spec(config, dense_spec(config, "HalfCheetah-v5", 0), "taylor", HALF)
    ticket = ticket_spec(config, dense_spec(config, "HalfCheetah-v5", 0), mask)
    other = parse_config({"training": {"env_steps": 7000, "start_steps": 10}, "sac": {"actor_hidden": [64, 32]}})
    of_file = FileMask(method="file", sha256="0" * 64, sparsity=HALF)
    hashes = [spec.sha256[:8] for spec in (dense, mask, ticket)]
    hashes += [
        dense_spec(other, "reach-v3", 3).sha256[:8],
        ticket_spec(config, dense_spec(config, "reach-v3", 1), of_file).sha256[:8],
        ticket_spec(Config(), dense_spec(Config(), "HalfCheetah-v5", 0), mask).sha256[:8],  # by the native kernel
    ]
    assert hashes == GOLDEN


def test_paths_are_for_people():
    config = Config()
    mask = mask_spec(config, dense_spec(config, "drawer-close-v3", 2), "gradient", Sparsity(actor=0.95, critic=0.8))
    ticket = ticket_spec(config, dense_spec(config, "drawer-close-v3", 2), mask).model_copy(
        update={"rewind_steps": 5000}
    )
    path = ticket.path
    assert path.parts[:2] == ("drawer-close-v3", "seed2")
    assert path.name == f"ticket-gradient-actor0.95-critic0.8-rewind5000-{ticket.sha256[:8]}"
    assert dense_spec(config, "space/Task-v0", 0).path.parts[0] == "space_Task-v0"


def test_whatever_changes_a_result_changes_the_directory():
    config = Config()
    settings = [
        {},
        {"training": {"backend": "dense"}},
        {"training": {"backend": "dense", "threads": 2}},
        {"training": {"segment_steps": 2500}},
        {"training": {"updates_per_step": 0.5}},
        {"sac": {"tau": 0.01}},
        {"sac": {"critic_layer_norm": True}},
        {"evaluation": {"episodes": 3}},
    ]
    paths = {dense_spec(parse_config(tree), "Pendulum-v1", 0).path for tree in settings}
    assert len(paths) == len(settings)
    masks = [
        mask_spec(
            parse_config({"pruning": tree}), dense_spec(parse_config({"pruning": tree}), "Pendulum-v1", 0), method, HALF
        )
        for method in ("magnitude", "gradient", "taylor", "random", "shuffled")
        for tree in ({}, {"exclude": ["output"]})
    ]
    fewer = parse_config({"pruning": {"num_gradient_batches": 5}})
    masks.append(mask_spec(fewer, dense_spec(fewer, "Pendulum-v1", 0), "taylor", HALF))
    assert len({mask.path for mask in masks}) == len(masks)
    tickets = {ticket_spec(config, dense_spec(config, "Pendulum-v1", 0), mask).path for mask in masks}
    assert len(tickets) == len(masks)


def test_what_does_not_bear_on_a_run_does_not_change_its_directory():
    plain = Config()
    other = parse_config(
        {
            "output_dir": "x",
            "seeds": [0, 1, 2],
            "training": {"threads": 2, "backend": "native"},
            "pruning": {"sparsity": 0.1},
        }
    )
    assert dense_spec(plain, "Pendulum-v1", 0).path == dense_spec(other, "Pendulum-v1", 0).path
    fewer = parse_config({"pruning": {"num_gradient_batches": 5}})
    same = [mask_spec(config, dense_spec(config, "Pendulum-v1", 0), "magnitude", HALF) for config in (plain, fewer)]
    assert same[0].path == same[1].path
    order = [parse_config({"pruning": {"exclude": names}}) for names in (["output", "layer_0"], ["layer_0", "output"])]
    paths = {mask_spec(config, dense_spec(config, "t", 0), "random", HALF).path for config in order}
    assert len(paths) == 1


def test_a_directory_of_other_settings_is_refused(tmp_path):
    spec = dense_spec(Config(), "Pendulum-v1", 0)
    run = records.open_run(tmp_path, spec)
    stored = json.loads((run / "spec.json").read_text())
    stored["sac"]["tau"] = 0.5
    (run / "spec.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"sac\.tau is 0\.5 in the folder, but 0\.005 in the config"):
        records.open_run(tmp_path, spec)


def test_a_field_that_came_later_does_not_orphan_a_run(tmp_path):
    spec = dense_spec(Config(), "Pendulum-v1", 0)
    run = records.open_run(tmp_path, spec)
    stored = json.loads((run / "spec.json").read_text())
    del stored["sac"]["critic_layer_norm"]
    (run / "spec.json").write_text(json.dumps(stored))
    assert records.open_run(tmp_path, spec) == run


def test_the_grid_has_each_run_after_what_it_needs():
    pruning = {"sparsity": [0.5, 0.9], "methods": ["random", "taylor"]}
    config = parse_config({"tasks": ["a", "b"], "seeds": [0, 1], "pruning": pruning})
    specs = list(plan(config).specs)
    assert len(specs) == 2 * 2 * (1 + 2 * 2 * 2)
    assert len({spec.path for spec in specs}) == len(specs)
    for i, spec in enumerate(specs):
        if spec.stage != "dense":
            assert spec.dense in specs[:i]
        if spec.stage == "ticket":
            assert spec.mask in specs[:i]


def test_overrides_and_files(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("tasks: reach-v3\npruning:\n  sparsity: {actor: 0.9, critic: 0.5}\nsac:\n  tau: 1e-3\n")
    config = load_config(
        path, ["seeds=[3, 4]", "training.env_steps=20000", "pruning.sparsity=[0.5, 0.95]", "sac.max_grad_norm=1"]
    )
    assert config.tasks == ("reach-v3",)
    assert config.seeds == (3, 4)
    assert config.sac.tau == 1e-3
    assert config.sac.max_grad_norm == 1.0
    assert [s.label() for s in config.pruning.sparsity] == ["0.5", "0.95"]
    assert load_config(path).pruning.sparsity[0].label() == "actor0.9-critic0.5"


@pytest.mark.parametrize("name", ["config.yaml", "configs/metaworld.yaml", "configs/drawer-close.yaml"])
def test_the_repositorys_configs_load(name):
    from helpers.small import ROOT

    assert len(list(plan(load_config(ROOT / name)).specs)) > 10


def test_the_page_of_settings_is_current(run_command):
    from helpers.small import ROOT

    page = run_command(ROOT / "docs" / "make_configuration.py")
    assert page.returncode == 0, page.stderr
    assert page.stdout == (ROOT / "docs" / "configuration.md").read_text()


def test_a_duplicate_key_is_an_error(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("pruning:\n  methods: [random]\nseeds: 0\npruning:\n  sparsity: 0.8\n")
    with pytest.raises(InputError, match=r"(?s)duplicate key 'pruning'.*line 4"):
        load_config(path)


def test_a_merged_key_is_no_duplicate(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("agent: {a: &a {tau: 1}, b: {c: &c {<<: *a, tau: 0.1}}}\nsac: {<<: *c}\n")
    assert load_config(path, ["agent={}"]).sac.tau == 0.1


@pytest.mark.parametrize(
    ("given", "steps"), [("0x4E20", 20_000), ("2_0_000", 20_000), ("2e4", 20_000), ("+20000", 20_000), ("0b1000", 8)]
)
def test_other_numbers_are_read_as_yaml_reads_them(given, steps, tmp_path):
    (tmp_path / "c.yaml").write_text(f"training: {{env_steps: {given}, start_steps: 0}}\n")
    for config in (
        load_config(tmp_path / "c.yaml"),
        load_config(None, [f"training.env_steps={given}", "training.start_steps=0"]),
    ):
        assert config.training.env_steps == steps
    assert load_config(None, ["sac.tau=1e-3"]).sac.tau == load_config(None, ["sac.tau=.001"]).sac.tau == 1e-3
    assert load_config(None, ["tensorboard=on"]).tensorboard is True


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("output_dir: ~/foo\n")
    found = [load_config(tmp_path / "c.yaml"), load_config(None, ["output_dir=~/foo"])]
    found += [Config(output_dir="~/foo"), Config(output_dir=Path("~/foo"))]
    assert {config.output_dir for config in found} == {home / "foo"}
    assert load_config(None, ["output_dir='~'"]).output_dir == home
    with pytest.raises(InputError, match=r"output_dir: '~nobody-here/x' .* write \./~nobody-here/x"):
        load_config(None, ["output_dir=~nobody-here/x"])
    # A folder of that name, as a setting and as the folder of a last run.
    assert load_config(None, ["output_dir=./~/foo"]).output_dir == Path("~/foo")
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "last-run.yaml").write_text("seeds: 3\n")
    assert load_config(Path("~")).output_dir == Path("~")


def test_whole_numbers_may_be_written_as_people_do():
    training = parse_config({"training": {"env_steps": "2e4", "segment_steps": 5e3}}).training
    assert (training.env_steps, training.segment_steps) == (20_000, 5_000)
    for value in (1.5, "1.5e0", True, "many"):
        with pytest.raises(InputError, match=r"training\.env_steps"):
            parse_config({"training": {"env_steps": value}})


@pytest.mark.parametrize(
    ("given", "seeds"),
    [("0-3", (0, 1, 2, 3)), ("range(2)", (0, 1)), ("range(3, 5)", (3, 4)), ("[7, 0-1]", (7, 0, 1)), ("10", (10,))],
)
def test_seeds_may_be_ranges(given, seeds):
    assert load_config(None, [f"seeds={given}"]).seeds == seeds


def test_an_override_changes_one_of_the_sections_that_share_an_alias(tmp_path):
    (tmp_path / "c.yaml").write_text("sac: &sizes {actor_hidden: [8, 8]}\ntd3: *sizes\n")
    config = load_config(tmp_path / "c.yaml", ["sac.actor_hidden=[16]", "sac.initial_alpha=0.1"])
    assert (config.sac.actor_hidden, config.td3.actor_hidden) == ((16,), (8, 8))


def test_a_long_range_of_seeds_is_read_at_once():
    start = time.process_time()
    assert len(load_config(None, ["seeds=0-29999"]).seeds) == 30_000
    assert time.process_time() - start < 10  # 90 s where each is counted among all


@pytest.mark.parametrize("given", ["3-1", "range(0)", "0-999999999", "[0-2, 1]", "range(a)"])
def test_an_impossible_range_of_seeds_is_one_error(given):
    with pytest.raises(InputError, match=r"^[^\n]*seeds[^\n]*$"):
        load_config(None, [f"seeds={given}"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        *(
            (f"pruning.rewind_steps={value}", "steps, or none")
            for value in ("foo", "-5000", "1.5", "[0, true]", "[[0]]")
        ),
        *((f"pruning.allocation={value}", "{layer: sparsity}") for value in ("[1]", "3", "null", "{1: 0.5}")),
    ],
)
def test_a_value_of_a_wrong_kind_is_one_error(setting, words):
    key = setting.partition("=")[0]
    with pytest.raises(InputError, match=rf"^[^\n]*{key}(\.\d)?: expected [^\n]*{words}[^\n]*$"):
        load_config(None, [setting])


@pytest.mark.parametrize(
    "setting", ["seeds=7,11", "tasks=Pendulum-v1, Hopper-v5", "pruning.methods=a,b", "pruning.sparsity=0.9,0.95"]
)
def test_values_with_commas_are_answered_with_the_list_that_was_meant(setting):
    key, _, value = setting.partition("=")
    with pytest.raises(InputError, match=rf"{key}: '{value}' is one value; write several as a list, \[{value}\]$"):
        load_config(None, [setting])
    assert load_config(None, ["seeds=range(5, 7)"]).seeds == (5, 6)
    assert load_config(None, ["pruning.exclude=body[0, 1]"]).pruning.exclude == ("body[0, 1]",)


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("pruning.sparsity=95", r"did you mean 0\.95\? \(got 95\)"),
        ("pruning.sparsity={actor: 90, critic: 0.5}", r"did you mean 0\.9\?"),
        ("pruning.allocation={output: 50}", r"'output'.*did you mean 0\.5\?"),
        ("pruning.sparsity=-1", r"from 0 to 1 \(got -1\)"),
        ("pruning.sparsity=much", r"a number from 0 to 1 \(got 'much'\)"),
    ],
)
def test_a_wrong_fraction_is_one_error(setting, hint):
    with pytest.raises(InputError, match=rf"^[^\n]*{hint}[^\n]*$"):
        load_config(None, [setting])
