"""The pages of the study, of made-up runs whose numbers are known (benchmarks/study_page.py)."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RETURN, SUCCESS = "evaluation/return", "evaluation/success"


@pytest.fixture
def study_page(monkeypatch):
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    yield importlib.import_module("study_page")
    for name in set(sys.modules) - before:
        if name in ("study_page", "study", "common"):
            del sys.modules[name]


def runs_of(study_page, seeds=8):
    """A dense agent, two methods and a control; tickets are rewound to step 0 and to step 5,000."""
    rows = []

    def add(seed, method, sparsity, rewind, values):
        for (steps, metric), value in values.items():
            rows.append(study_page.TidyRow("task", seed, method, "", sparsity, rewind, "", steps, metric, value))

    names = ("return", "return_error", "success", "success_error")
    add(0, "random-policy", "", "", {(0, f"random_policy/{name}"): 0.0 for name in names})
    names = ("env_steps", "updates", "train_seconds", "mask_seconds", "flops_dense", "flops")
    costs = {(9000, f"cost/{name}"): float(name.startswith("flops")) for name in names}
    for seed in range(seeds):
        dense = {(0, RETURN): 0.0, (9000, RETURN): 100.0 + seed, (0, SUCCESS): 0.0, (9000, SUCCESS): 1.0}
        add(seed, "dense", "", "", costs | dense)
        for rewind in ("0", "5000"):
            for method, value in (("magnitude", 40.0), ("taylor", 80.0), ("shuffled", 60.0)):
                first = {(int(rewind), RETURN): 0.0, (int(rewind), SUCCESS): 0.125}
                last = {(9000, RETURN): value + seed, (9000, SUCCESS): value / 100}
                if seed:
                    last[9000, study_page.AT_END] = 0.25
                spent = {(9000, "cost/train_seconds"): 3600.0, (9000, "cost/mask_seconds"): 1800.0}
                add(seed, method, "0.9", rewind, costs | first | last | spent)
    return study_page.Runs(rows)


def cells(lines, *begin):
    """Return the cells of the row of a table that begins so, by column."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    (row,) = [row for row in rows if tuple(row[: len(begin)]) == begin]
    return dict(zip(rows[0], row, strict=True))


def test_a_success_rate_is_in_the_column_of_its_step(study_page):
    lines = [*study_page.success(runs_of(study_page))]
    start = cells(lines, "taylor, rewound to step 0", "0.9")
    later = cells(lines, "taylor, rewound to step 5000", "0.9")
    assert (start["0"], start["5,000"], start["9,000"], start["runs"]) == ("0.12", "", "0.80 / 0.25", "8 (7)")
    assert (later["0"], later["5,000"], later["9,000"]) == ("", "0.12", "0.80 / 0.25")


def test_tickets_of_two_rewind_points_share_the_seconds_of_one_mask(study_page):
    runs = runs_of(study_page)
    # 3 methods x 8 seeds: an hour of training at each of two rewind points, half an hour for the mask of both.
    text = " ".join(study_page.cost(runs)).replace("\n", " ")
    assert "add up to 60.0 hours" in text
    assert "24.0 of them for tickets with a later rewind point" in text


def test_one_sided_tests_have_90_percent_intervals_and_two_sided_ones_95(study_page):
    runs = runs_of(study_page)
    found = study_page.families(runs, ("taylor", "magnitude"), 0.1)
    sections = {title: (note, [*body]) for title, note, body in study_page.tests(runs, found, True)}
    for title, percent in (("Primary question", 95), ("Winning", 90), ("Controls", 90), ("Exploratory", 95)):
        note, lines = sections[title]
        assert f"{percent} % interval" in note
        assert lines
    confidences = {round(c.confidence, 1) for c in found.controls} | {round(c.confidence, 2) for c in found.exploratory}
    assert confidences == {0.9, 0.95}


def test_comparisons_have_the_direction_of_the_primary_question(study_page):
    runs = runs_of(study_page)
    found = study_page.families(runs, ("taylor", "magnitude"), 0.1)
    (turned, *_) = [
        study_page.as_asked(runs, c, found.question)
        for c in found.exploratory
        if {c.first.method, c.second.method} == {"taylor", "magnitude"}
    ]
    assert (turned.first.method, turned.second.method) == ("taylor", "magnitude")
    assert turned.low <= turned.difference <= turned.high
    assert (turned.metric, turned.wins) == (SUCCESS, 8)
    assert turned.difference == pytest.approx(0.4)


def test_zero_has_no_sign(study_page):
    assert study_page.number(-0.001) == "0.00"
    assert study_page.number(-0.01) == "-0.01"
