"""What a person sees in a terminal, against the files behind it and at the widths that terminals have."""

import csv
import io
import json
import re
import shlex

import pytest
import yaml
from helpers.grids import make_grid, tidy_rows
from helpers.small import ROOT
from hypothesis import given
from hypothesis import strategies as st

from lth.algorithms.architecture import Spaces
from lth.api import planned_runs, read_config
from lth.cli import main
from lth.config import load_config, parse_config
from lth.experiment import journal
from lth.experiment.last_run import record_config
from lth.experiment.plan import plan
from lth.experiment.rates import Rates, estimate_times, kind_of, modelled_seconds
from lth.experiment.spec import DenseSpec, MaskSpec, TicketSpec
from lth.experiment.status import Outcome, states
from lth.experiment.tasks import record_tasks
from lth.experiment.tidy import save_tidy
from lth.reporting import display
from lth.reporting.display import GridDisplay, PlainConsole, run_name
from lth.reporting.show import describe, sparkline
from lth.reporting.terminal import results_table
from lth.reporting.views import TableRow
from lth.text import wrapped

GRID = {
    "tasks": ["Pendulum-v1", "drawer-close-v3"],
    "seeds": [0, 1, 10],
    "training": {"env_steps": 2000, "start_steps": 100, "segment_steps": 500},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "evaluation": {"every": 500},
    "pruning": {"methods": ["taylor", "random"], "sparsity": [0.8, 0.95], "controls": ["reinit"]},
}
SPACES = {"Pendulum-v1": Spaces(3, 1), "drawer-close-v3": Spaces(39, 4)}
LOST, FAILED = "drawer-close-v3/seed1/ticket-taylor-0.95-reinit", "Pendulum-v1/seed10/ticket-random-0.8"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A folder with the files of a grid, of which one run is missing and one failed; and its config's file."""
    folder = tmp_path_factory.mktemp("terminal")
    config = make_grid(GRID, folder / "results", skip=(LOST, FAILED))
    record_config(config)
    failed = next(spec for spec in plan(config).specs if FAILED in str(spec.path))
    for name in (journal.ATTEMPTS, journal.FAILURES):
        journal.append_line(
            config.output_dir / failed.path / name, {"message": "the gripper is stuck", "traceback": "T"}
        )
    (folder / "c.yaml").write_text(yaml.safe_dump({**GRID, "output_dir": str(config.output_dir)}))
    return folder


def printed(capsys, *words):
    """Call a command, which succeeds; returns its lines."""
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out.splitlines()


def last_values(run):
    """Return a run's last evaluation from its file, by metric."""
    with (run / "metrics.csv").open() as file:
        return {row["metric"]: float(row["value"]) for row in csv.DictReader(file)}  # in order of steps


# --- bars ------------------------------------------------------------------------------------------------------------


class Clock:
    """Stands still until it is moved."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(display.time, "monotonic", lambda: self.now)


def drawn(shown, width, height=24):
    """Return the lines of the bars on a terminal of a size."""
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system="standard")
    console.print(display._Bars(shown.rows()))
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).splitlines()


@pytest.fixture
def live(monkeypatch):
    """A display of a grid on a terminal, its plan, the clock, and what is printed."""
    config = parse_config({**GRID, "workers": 2, "output_dir": "nowhere"})
    runs, clock = plan(config, SPACES.__getitem__), Clock(monkeypatch)
    console = PlainConsole(file=io.StringIO(), force_terminal=False)
    return GridDisplay(console, runs, SPACES), runs, clock, console.file


@pytest.mark.parametrize("width", [80, 200])
def test_bars_fit_the_terminal_and_names_stay_apart(live, width):
    shown, runs, clock, _ = live
    tickets = [spec for spec in runs.specs if isinstance(spec, TicketSpec) and spec.task == "drawer-close-v3"][:9]
    for spec in tickets:
        shown.begin(spec)
        shown.step(spec, 0, {"evaluation/return": -1234.5678, "evaluation/success": 0.25})
        clock.now += 1
        shown.step(spec, 1000, {"evaluation/return": -1234.5678, "evaluation/success": 0.25})
        shown.step(spec, 1001, {"evaluation/return": -1234.5678, "evaluation/success": 0.25})
    lines = drawn(shown, width)
    assert len(lines) == 1 + len(tickets)
    assert max(map(len, lines)) <= width
    assert all(len(re.search("[━╸╺]+", line)[0]) >= 12 for line in lines)
    names = [line.split("━")[0].strip() for line in lines[1:]]
    assert len(set(names)) == len(tickets)
    for name, spec in zip(names, tickets, strict=True):
        task, _, rest = spec.title().partition(" ")
        rest = rest.replace("0.95", "95 %").replace("0.8", "80 %")
        assert name == (f"{task if width > 80 else 'draw…'} {rest}")
    assert all("return -1235" in line and "50 %" in line for line in lines[1:])
    short = drawn(shown, width, height=8)
    assert len(short) < 8
    assert short[-1] == "and 5 more"


def test_what_all_names_share_is_left_out():
    config = parse_config({**GRID, "tasks": ["Pendulum-v1"], "pruning": {**GRID["pruning"], "rewind_steps": 500}})
    specs = plan(config).specs
    shared = display.shared_words(specs)
    names = {spec: display.short_title(spec, shared) for spec in specs}
    assert {"seed 10 dense", "seed 1 taylor 95 %", "seed 1 taylor 95 % reinit"} <= set(names.values())
    assert len({names[spec] for spec in names if not isinstance(spec, MaskSpec)}) == sum(
        not isinstance(spec, MaskSpec) for spec in names
    )


def test_runs_are_named_as_in_the_results():
    pruning = {"methods": "magnitude", "sparsity": 0.552786, "controls": ["random-erk", "small-dense"]}
    runs = plan(parse_config({"tasks": "Pendulum-v1", "seeds": 0, "pruning": pruning}), SPACES.__getitem__)
    named = {run_name(spec).removeprefix("Pendulum-v1 seed 0 ") for spec in runs.specs if spec.env_steps}
    assert named == {"dense", "magnitude 55.3 %", "random-erk 55.3 %", "small-dense 55.3 %"}


def test_a_single_rewind_point_is_named_unless_it_is_the_start(capsys):
    def titles(rewind):
        row = TableRow("Ant-v5", "taylor", "", "0.9", rewind, 1, 1.0, None, 1.0, None, None, None, None, None)
        console = PlainConsole(width=80)
        console.print(results_table([row]))
        return capsys.readouterr().out

    assert "rewound" not in titles("0")
    assert "Ant-v5, sparsity 0.9, rewound to step 500" in titles("500")
    assert "Ant-v5, sparsity 0.9, fine-tuned" in titles("none")


def test_a_run_says_what_it_is_at_and_the_time_left_comes_from_kinds_that_were_timed(live):
    shown, runs, clock, out = live
    dense = next(spec for spec in runs.specs if isinstance(spec, DenseSpec))
    shown.begin(dense)
    assert "starting" in drawn(shown, 100)[1]
    shown.step(dense, 0, {"evaluation/return": -5.0})
    assert "compiling" in drawn(shown, 100)[1]
    clock.now = 60.0
    shown.step(dense, 500, {"evaluation/return": -5.0})
    assert "compiling" not in drawn(shown, 100)[1]
    assert "estimating" in drawn(shown, 100)[0]
    shown.end(Outcome(dense, "done", 100.0))
    mask, ticket = (next(s for s in runs.specs if isinstance(s, kind)) for kind in (MaskSpec, TicketSpec))
    shown.end(Outcome(mask, "done", 1.0))
    assert "estimating" in drawn(shown, 100)[0]
    shown.step(ticket, 0, {})
    shown.end(Outcome(ticket, "done", 10.0))
    # Every kind of a task takes in the same proportion longer or shorter than the committed rates say.
    rates = Rates(SPACES)
    for spec, seconds in ((dense, 100.0), (mask, 1.0), (ticket, 10.0)):
        rates.add(spec, seconds)
    left = sum(rates.seconds(spec) for spec in runs.specs if spec not in (dense, mask, ticket)) / 2
    assert f"about {display.duration(left)} left" in drawn(shown, 100)[0]
    assert rates.seconds(dense) == 100.0
    assert 5.0 < rates.seconds(ticket.model_copy(update={"mask": mask.model_copy(update={"method": "taylor"})})) < 20.0
    assert "estimating" in out.getvalue()
    for spec in runs.specs:
        if spec not in (dense, mask, ticket):
            shown.end(Outcome(spec, "done", 1.0))
    assert "left" not in drawn(shown, 100)[0]
    assert "100 %" in drawn(shown, 100)[0]


def test_a_resumed_run_is_no_measure_of_its_kind(live):
    shown, runs, _, _ = live
    dense, *_ = (spec for spec in runs.specs if isinstance(spec, DenseSpec))
    ticket = next(spec for spec in runs.specs if isinstance(spec, TicketSpec))
    shown.end(Outcome(dense, "kept", 50.0))
    shown.begin(ticket)
    shown.step(ticket, 1500, {})
    assert drawn(shown, 100)[1].count("75 %") == 1
    shown.end(Outcome(ticket, "done", 1.0))
    assert "estimating" in drawn(shown, 100)[0]


def test_masks_share_a_line_for_a_task_and_seed(live):
    shown, runs, _, out = live
    masks = [spec for spec in runs.specs if isinstance(spec, MaskSpec)]
    for spec in masks[:-1]:
        shown.end(Outcome(spec, "done", 0.5))
    shown.end(Outcome(masks[-1], "failed", 0.5, "no room"))
    lines = out.getvalue().splitlines()
    of_one = sum((spec.task, spec.seed) == (masks[0].task, masks[0].seed) for spec in masks)
    cells = len({(spec.task, spec.seed) for spec in masks})
    assert [line for line in lines if f"seed 0: {of_one} masks ({of_one / 2:.1f} s" in line] != []
    assert len(lines) == cells + 1
    assert "failed: no room" in lines[-2]
    assert f"{of_one - 1} masks" in lines[-1]


@given(st.text("ab/- \n", max_size=200), st.integers(1, 30))
def test_lines_are_wrapped_between_words_alone(text, width):
    lines = wrapped(text, width).split("\n")
    assert [line.split() for line in lines if line.split()] != [] or not text.split()
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or len(line.split()) <= 1 for line in lines)


# --- how long --------------------------------------------------------------------------------------------------------


def test_times_come_from_finished_runs_and_say_so(grid):
    runs = planned_runs(read_config(grid / "results"))
    found = estimate_times(runs, SPACES)
    took = {}
    for spec in runs.specs:
        file = runs.root / spec.path / "timings.json"
        if file.exists():
            took.setdefault(kind_of(spec), []).append(json.loads(file.read_text())["total"])
    assert found.measured == sum(map(len, took.values())) == len(runs.specs) - 2
    assert found.source == f"from {found.measured} finished runs in this folder"
    for kind, seconds in took.items():
        low, high = sorted(seconds)[(len(seconds) - 1) // 2], sorted(seconds)[len(seconds) // 2]
        assert low <= found.seconds[kind] <= high
    nothing = estimate_times(runs, SPACES, [])
    assert nothing.measured == 0
    assert "AMD EPYC" in nothing.source
    dense = [spec for spec in runs.specs if isinstance(spec, DenseSpec)]
    part = estimate_times(runs, SPACES, dense)
    assert "AMD EPYC" in part.source
    ticket = next(spec for spec in runs.specs if isinstance(spec, TicketSpec))
    scale = part.of(dense[0]) / nothing.of(dense[0])
    assert part.of(ticket) == pytest.approx(scale * nothing.of(ticket), rel=1e-9)


@pytest.mark.parametrize("backend", ["native", "dense"])
def test_a_sparser_ticket_is_faster_on_the_kernel_and_not_on_xla(backend):
    sparsities = [0.1, 0.6, 0.85, 0.97, 0.999]
    training = {"env_steps": 20000, "backend": backend}
    config = parse_config({"training": training, "pruning": {"methods": ["taylor"], "sparsity": sparsities}})
    tickets = [s for s in plan(config, SPACES.__getitem__).specs if isinstance(s, TicketSpec) and s.seed == 0]
    seconds = [modelled_seconds(spec, Spaces(39, 4)) for spec in tickets]
    assert len(seconds) == 5
    if backend == "native":
        assert seconds == sorted(seconds, reverse=True)
        assert seconds[0] > 5 * seconds[-1]
    else:
        assert len(set(seconds)) == 1


def test_a_dry_run_adds_up_and_honours_only(grid, capsys):
    record_tasks(grid / "elsewhere", SPACES)
    words = ["run", grid / "c.yaml", f"output_dir={grid / 'elsewhere'}", "--dry-run"]
    first, *table = printed(capsys, *words)
    runs = len(planned_runs(load_config(grid / "c.yaml")).specs)
    steps = int(
        re.match(rf"{runs} of {runs} runs to do: about .*?([\d,]+) environment steps", first)[1].replace(",", "")
    )
    rows = [re.match(r"   (.+?)  +(\d+)  +([\d,]*) ", line) for line in table if line.startswith("   ")]
    rows = [row for row in rows if row]
    assert sum(int(row[2]) for row in rows) == runs
    assert sum(int(row[3].replace(",", "") or 0) for row in rows) == steps
    assert len(rows) < runs / 3
    assert not any("seed" in row[1] for row in rows)
    listed = [line for line in printed(capsys, *words, "--list") if re.match(r" \S+ seed \d+ ", line)]
    assert len(listed) == runs
    only = printed(capsys, *words, "--only", "*seed10/ticket-taylor-0.8-*")
    assert only[0].startswith("8 of 8 runs to do")  # on each task a dense agent, its mask, the ticket, reinit's
    assert "One more seed" in table[-1]
    assert "One more seed" not in only[-1]
    assert [path.name for path in (grid / "elsewhere").iterdir()] == ["tasks.json"]
    assert main([str(word) for word in words if word != "--dry-run"] + ["--list"]) == 2
    assert "--list" in capsys.readouterr().err


# --- results ---------------------------------------------------------------------------------------------------------


def matrices(lines):
    """Read the tables of `lth status`: title -> row -> column -> text."""
    found, title, columns = {}, None, []
    for line in lines:
        if match := re.match(r"(\S+, .*): return", line):
            title = found.setdefault(match[1], {})
        elif title is not None and re.match(r" +seed \d| +mean", line):
            columns = re.findall(r"seed \d+|mean", line)
        elif title is not None and line.startswith(" ") and columns:
            name, *cells = re.split(r"  +", line.strip())
            title.setdefault(name, {}).update(zip(columns, cells, strict=False))
    return found


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("where", ["c.yaml", "results"])
def test_status_ends_in_methods_by_seeds(grid, capsys, monkeypatch, columns, where):
    monkeypatch.setattr("lth.cli._console", lambda: PlainConsole(width=columns))
    lines = printed(capsys, "status", grid / where)
    assert re.match(r"\d+ runs: \d+ finished, 1 failed, 1 to do; ", lines[0])
    assert max(map(len, lines[1:])) <= columns
    found = matrices(lines)
    assert [*found] == [f"{task}, sparsity {s}" for task in GRID["tasks"] for s in (0.8, 0.95)]
    runs = planned_runs(load_config(grid / "c.yaml"))
    checked = 0
    for row in runs.rows:
        name = {"random": "random (control)"}.get(row.method, row.method) + (" + reinit" if row.control else "")
        cells = found[f"{row.run.task}, sparsity {row.sparsity}"]
        for label, spec in ((name, row.run), ("dense", row.dense)):
            cell = cells[label][f"seed {spec.seed}"]
            if LOST in str(spec.path) or FAILED in str(spec.path):
                assert cell == ("." if LOST in str(spec.path) else "failed")
                continue
            values = last_values(runs.root / spec.path)
            value, *success = cell.split()
            assert float(value) == pytest.approx(values["evaluation/return"], abs=0.51)
            if "evaluation/success" in values:
                assert success == [f"{values['evaluation/success']:.0%}"]
            checked += 1
    assert checked == 2 * len(runs.rows) - 2


def test_a_folder_stands_for_the_config_that_was_last_run_in_it(tmp_path, grid, capsys):
    trees = [
        {},
        {"pruning": {"rate": 0.2, "rounds": 3}},
        {"pruning": {"sparsity": [0.8, {"actor": 0.95, "critic": 0.5}], "rewind_steps": [0, "none"]}},
        {
            "algorithm": "dqn",
            "tasks": "CartPole-v1",
            "dqn": {"q_learning_rate": 1e-5},
            "pruning": {"sparsity": {"q": 0.9}},
        },
    ]
    configs = [parse_config(tree) for tree in trees]
    configs += [load_config(path) for path in sorted((ROOT / "configs").glob("*.yaml"))]
    for i, config in enumerate(configs):
        moved = config.model_copy(update={"output_dir": tmp_path / str(i)})
        record_config(moved)
        assert read_config(tmp_path / str(i)) == moved
        assert read_config(tmp_path / str(i), "workers=3").workers == 3
    with (tmp_path / "0" / journal.LOCK).open("a") as lock:
        journal.fcntl.flock(lock, journal.fcntl.LOCK_EX)  # another command is at work there
        record_config(configs[1].model_copy(update={"output_dir": tmp_path / "0"}))
    assert read_config(tmp_path / "0").pruning.rate is None
    (tmp_path / "other").mkdir()
    for command in ("status", "report", "run"):
        assert main([command, str(tmp_path / "other")]) == 2
        assert "is a folder without last-run.yaml" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "other")]) == 2
    assert "has no tidy.csv" in capsys.readouterr().err


def test_table_prints_the_last_one_again(grid, capsys):
    config = read_config(grid / "results")
    save_tidy(config.output_dir, tidy_rows(config))
    before = {path: path.stat().st_mtime_ns for path in grid.rglob("*")}
    table = printed(capsys, "table", grid / "results")
    assert printed(capsys, "table", grid / "c.yaml") == table
    assert {path: path.stat().st_mtime_ns for path in grid.rglob("*")} == before
    assert "last evaluation, mean ± sd over 2 or 3 seeds" in table[0]
    assert max(len(line) for line in table if line.startswith((" ", "last"))) <= 80
    start = next(i for i, line in enumerate(table) if "drawer-close-v3, sparsity 0.95" in line)
    name, seeds, value, *rest = re.split(r"  +", table[start + 2].strip())
    assert (name, seeds) == ("taylor", "3")
    runs = [spec for spec in planned_runs(read_config(grid / "results")).specs if isinstance(spec, TicketSpec)]
    path = "drawer-close-v3/seed{}/ticket-taylor-0.95-"
    values = [
        last_values(grid / "results" / spec.path)
        for spec in runs
        if any(str(spec.path).startswith(path.format(s)) for s in GRID["seeds"]) and not spec.control
    ]
    assert len(values) == 3
    returns = [found["evaluation/return"] for found in values]
    assert float(value.split(" ± ")[0]) == pytest.approx(sum(returns) / 3, abs=0.51)
    successes = [found["evaluation/success"] for found in values]
    assert float(rest[0].split(" ± ")[0]) == pytest.approx(sum(successes) / 3, abs=0.006)


def test_one_seed_has_no_mean(grid, capsys):
    lines = printed(capsys, "status", grid / "results", "seeds=0")
    assert "seed 0" in " ".join(lines)
    assert "mean" not in " ".join(lines)


def test_show_begins_with_the_results(grid, capsys):
    (run,) = (grid / "results").glob("drawer-close-v3/seed1/ticket-taylor-0.95-????????")
    title, *lines = printed(capsys, "show", run)
    values = last_values(run)
    assert title == "drawer-close-v3 seed 1 taylor 0.95: finished"
    assert [line.split()[0] for line in lines[:4]] == ["return", "success", "sparsity", "evaluations"]
    assert lines[0].split()[1].replace(",", "") == f"{values['evaluation/return']:.1f}"
    assert lines[1].split()[1] == f"{values['evaluation/success']:.0%}"
    assert "0.95 of the prunable weights: actor keeps" in lines[2]
    assert max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines if line[0] != " "][4:] == ["trained", "from", "made", "files", "settings"]
    (run,) = (grid / "results").glob("Pendulum-v1/seed10/ticket-random-0.8*")
    assert main(["show", str(run)]) == 2  # it has no spec.json: it failed before that was written
    assert "there is no run at" in capsys.readouterr().err


def test_sparklines_keep_the_order():
    values = [3.0, -1.0, 7.0, 2.0, 2.0]
    drawn = sparkline(values)
    assert len(drawn) == len(values)
    assert sorted(drawn)[0] == drawn[1]
    assert sorted(drawn)[-1] == drawn[2]
    assert drawn[3] == drawn[4]


@pytest.mark.parametrize(
    ("named", "settings"),
    [
        (
            "pruning.methods=[rigl, gradual]",
            ["pruning.mask_every=50", "pruning.mask_until=0.5", "pruning.exclude=output"],
        ),
        ("pruning.methods=set", ["pruning.mask_fraction=0.2", "pruning.allocation={output: 0.5}"]),
        ("pruning.transfer_from=reach-v3", ["pruning.transfer_mismatch=dense", "pruning.allocation={layer_0: 0.9}"]),
        ("analysis.connectivity=parent", ["analysis.connectivity_points=5", "batch=8", "pruning.rewind_steps=none"]),
        ("pruning.controls=reinit", ["training.threads=2", "training.backend=dense", "pruning.rewound=[optimizer]"]),
    ],
)
def test_the_settings_of_lth_show_are_what_lth_run_takes(named, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def specs(words):
        return plan(load_config(None, [*words, named]), lambda task: SPACES["Pendulum-v1"]).specs

    for spec in specs(["seeds=0", *settings]):
        run = tmp_path / spec.path
        run.mkdir(parents=True)
        (run / journal.SPEC).write_text(json.dumps({"spec_version": 4, **spec.model_dump(mode="json")}))
        (line,) = re.findall("^settings +(.*)", describe(run, width=10_000), re.MULTILINE)
        assert spec in specs(shlex.split(re.split("all (?:others are )?at", line)[0].rstrip("; ")))


def test_the_last_evaluation_of_a_run_is_estimated_with_its_own_episodes():
    def seconds(**evaluation):
        config = parse_config({**GRID, "tasks": ["Pendulum-v1"], "evaluation": {"every": 500, **evaluation}})
        return modelled_seconds(plan(config).specs[0], SPACES["Pendulum-v1"])

    # Of 2,000 steps: evaluations at 0, 500, 1,000, 1,500 and 2,000.
    one = (seconds(episodes=110, last_episodes=50) - seconds(episodes=10, last_episodes=50)) / 400
    assert seconds(episodes=10, last_episodes=60) - seconds(episodes=10, last_episodes=50) == pytest.approx(10 * one)


@pytest.mark.parametrize(
    ("attempts", "failures", "state"),
    [
        ("3", "3", "failed"),
        ("13", "3", "failed"),  # the process of the first attempt was killed
        ("133", "33", "failed"),
        ("13", "4", "failed"),  # as `lth run` records it where a process crashed
        ("13", "1", "interrupted"),
        ("113", "11", "interrupted"),
    ],
)
def test_a_run_has_failed_if_its_last_attempt_did(attempts, failures, state, tmp_path):
    config = parse_config({**GRID, "tasks": ["Pendulum-v1"], "output_dir": str(tmp_path)})
    planned = plan(config)
    run = tmp_path / planned.specs[0].path
    for name, seconds in ((journal.ATTEMPTS, attempts), (journal.FAILURES, failures)):
        for second in seconds:
            journal.append_line(run / name, {"time": f"2026-11-28T10:00:0{second}+0000", "message": "it is stuck"})
    (run / journal.SPEC).write_text(json.dumps(planned.specs[0].model_dump(mode="json")))
    assert states(planned)[0].state == state
    assert describe(run).splitlines()[0].split(": ")[1].split(";")[0] == state
