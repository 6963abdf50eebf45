"""The families of tests on made-up studies whose answer is known, and on null studies, where they have to keep silent."""

import numpy as np
import pytest

from lth import stats
from lth.experiment.question import Declared
from lth.experiment.tidy import TidyRow
from lth.reporting import charts, dots
from lth.reporting.answer import answer
from lth.reporting.families import NOT_JUDGED, TOO_FEW, UNDECIDED, WINNING, WORSE, families
from lth.reporting.savings import saved, savings
from lth.reporting.scores import Condition, Runs
from lth.reporting.styles import styles
from lth.reporting.terminal import conclusion

RETURN, SUCCESS = "evaluation/return", "evaluation/success"
QUESTION = ("taylor", "magnitude")
BEFORE = Declared("2026-01-01T00:00:00+0000", False, ())


def study(tickets, dense, tasks=("task",), random=0.0, error=0.0, metric=RETURN, untrained=0.0):
    """Return tidy rows: `tickets` maps (method, control, sparsity) to values by seed, the same on each task."""

    def rows(task, method, control, sparsity, values):
        rewind = "0" if sparsity else ""
        for seed, value in enumerate(values):
            if method == "dense":
                yield TidyRow(task, seed, method, control, sparsity, rewind, "", 0, metric, untrained)
            yield TidyRow(task, seed, method, control, sparsity, rewind, "", 1, metric, float(value))

    found = []
    name = metric.removeprefix("evaluation/")
    for task in tasks:
        for what, value in ((name, random), (f"{name}_error", error)):
            found.append(TidyRow(task, 0, "random-policy", "", "", "", "", 0, f"random_policy/{what}", value))
        found += rows(task, "dense", "", "", dense)
        for (method, control, sparsity), values in tickets.items():
            found += rows(task, method, control, sparsity, values)
    return found


def around(center, seeds=8, spread=0.02):
    """Values whose mean is the center, spread symmetrically."""
    return center + spread * np.linspace(-1.0, 1.0, seeds)


def judged(rows, margin=0.1):
    found = families(Runs(rows), QUESTION, margin)
    return {(v.condition.method, v.condition.sparsity): v.verdict for v in found.verdicts}


def test_scores_start_at_the_random_policy_and_end_at_dense():
    runs = Runs(study({("taylor", "", "0.9"): [-60.0]}, [-100.0, 0.0], random=-150.0, error=1.0))
    assert runs.references["task"].dense == -50.0
    assert runs.scores(["task"], Condition("taylor", "", "0.9", "0"))[0].tolist() == [0.9]
    assert runs.scores(["task"], Condition("dense", "", "", ""))[0].tolist() == [0.5, 1.5]


def test_a_ticket_wins_within_the_margin_and_is_worse_beyond_it():
    dense = around(1.0, spread=0.05)
    tickets = {
        ("magnitude", "", "0.9"): dense - 0.05,
        ("gradient", "", "0.9"): dense - 0.3,
        ("taylor", "", "0.9"): dense + np.array([0.4, -0.4] * 4) - 0.1,
    }
    verdicts = judged(study(tickets, dense))
    assert verdicts == {("magnitude", "0.9"): WINNING, ("gradient", "0.9"): WORSE, ("taylor", "0.9"): UNDECIDED}
    # The margin decides: half as wide, a ticket that is 5 % below is exactly at it.
    assert judged(study(tickets, dense), margin=0.04)["magnitude", "0.9"] == WORSE


def test_a_sparser_ticket_wins_only_where_the_less_sparse_ones_do():
    dense = around(1.0, spread=0.05)
    lost = dense - 0.05 + np.array([0.4, -0.4] * 4)
    rows = study({("taylor", "", "0.9"): lost, ("taylor", "", "0.95"): dense}, dense)
    assert judged(rows) == {("taylor", "0.9"): UNDECIDED, ("taylor", "0.95"): UNDECIDED}
    rows = study({("taylor", "", "0.9"): dense, ("taylor", "", "0.95"): lost}, dense)
    assert judged(rows) == {("taylor", "0.9"): WINNING, ("taylor", "0.95"): UNDECIDED}


def test_below_five_seeds_nothing_is_tested():
    dense = around(1.0, 4)
    found = families(Runs(study({(m, "", "0.9"): dense for m in QUESTION}, dense)), QUESTION, 0.1)
    assert {v.verdict for v in found.verdicts} == {TOO_FEW}
    assert [v.within for v in found.verdicts] == [4, 4]
    assert all(np.isnan(v.low) for v in found.verdicts)
    assert np.isnan(found.primary.overall.p)
    assert not found.primary.overall.differs


def test_where_dense_agents_fail_nothing_wins():
    dense = np.array([0.0, 3.0, 0.1, -2.0, 0.3, 0.2, 0.0, -0.1])
    found = families(Runs(study({(m, "", "0.9"): dense for m in QUESTION}, dense)), QUESTION, 0.1)
    assert {v.verdict for v in found.verdicts} == {NOT_JUDGED}
    assert found.primary is None
    assert found.controls == found.exploratory == []
    said = answer(Runs(study({(m, "", "0.9"): dense for m in QUESTION}, dense)), found, BEFORE)
    assert any("learned too little" in note for note in said.notes)


def test_the_terminal_has_the_primary_question_by_sparsity():
    def lines(seeds, levels):
        dense = around(1.0, seeds)
        tickets = {(m, "", level): dense + shift * (m == "taylor") for level, shift in levels.items() for m in QUESTION}
        runs = Runs(study(tickets, dense))
        said = answer(runs, families(runs, QUESTION, 0.1), BEFORE)
        assert [said.headline[0], *said.levels] == conclusion(said)[: 1 + len(said.levels)]
        return said.levels

    assert lines(2, {"0.9": 0.3, "0.95": -0.1}) == [
        "90 %: taylor is above magnitude on 2 of 2 seeds; mean difference 0.30.",
        "95 %: taylor is above magnitude on 0 of 2 seeds; mean difference -0.10.",
    ]
    first, second = lines(8, {"0.9": 0.3, "0.95": 0.0})
    assert first.startswith(
        "90 %: taylor is 0.300 higher than magnitude, above on 8 of 8 seeds (decided, corrected p = "
    )
    assert second.startswith(
        "95 %: taylor is 0.000 higher than magnitude, above on 0 of 8 seeds (undecided, corrected p = "
    )
    assert lines(8, {"0.9": 0.3}) == []


def test_seconds_are_compared_without_start_up_and_compilation():
    def said(seconds, start):
        dense, ticket = Condition("dense", "", "", ""), Condition("taylor", "", "0.95", "0")
        rows = study({("taylor", "", "0.95"): [1.0, 1.0]}, [1.0, 1.1])
        for c in (dense, ticket):
            for seed in (0, 1):
                costs = {"train_seconds": seconds[c.method][seed], "env_steps": 9.0, "flops": 1.0}
                costs |= {"start_seconds": start[c.method][seed]} if start else {}
                rows += [TidyRow("task", seed, *c, "", 1, f"cost/{name}", value) for name, value in costs.items()]
        runs = Runs(rows)
        (sentence,) = saved(runs, families(runs, QUESTION, 0.1), savings(runs))
        return sentence

    seconds, start = {"dense": (46.0, 6.0), "taylor": (7.0, 3.0)}, {"dense": (40.0, 0.0), "taylor": (4.0, 0.0)}
    assert "ticket trained in 3 s where dense took 6 s (2 times faster), start-up and compilation left" in said(
        seconds, start
    )
    assert "are not compared by seconds" in said(seconds, None)
    assert "times faster" not in said(seconds, None)


def test_the_sparsest_winning_ticket_is_looked_for_at_all_rewind_points():
    dense = around(1.0)
    lost = dense - 0.05 + np.array([0.4, -0.4] * 4)
    rows = study({("taylor", "", "0.9"): dense, ("taylor", "", "0.95"): lost}, dense)
    late = [row for row in rewound_to(rows, "2000") if row.sparsity == "0.9"]
    rows = study({("taylor", "", "0.9"): dense, ("taylor", "", "0.95"): dense}, dense) + late
    rows += [
        TidyRow("task", seed, *about, "", 1, f"cost/{name}", value)
        for about in dict.fromkeys(tuple(row[2:6]) for row in rows if row.metric == RETURN)
        for seed in range(8)
        for name, value in {"train_seconds": 9.0, "start_seconds": 1.0, "env_steps": 9.0, "flops": 1.0}.items()
    ]
    runs = Runs(rows)
    (sentence,) = saved(runs, families(runs, QUESTION, 0.1), savings(runs))
    assert sentence.startswith("A 95 % ticket (rewound to step 0) trained in ")


def test_a_large_spread_is_written_in_full():
    dense = np.array([-1400.0, -900.0, -1100.0])
    runs = Runs(study({("taylor", "", "0.9"): dense}, dense, random=-1200.0, error=187.0))
    notes = " ".join(answer(runs, families(runs, QUESTION, 0.1), BEFORE).notes)
    assert "-1200 ± 190" in notes
    assert "a standard deviation of 250" in notes
    assert "e+" not in notes


def test_without_the_random_policy_there_are_no_scores():
    rows = [r for r in study({("taylor", "", "0.9"): around(1.0)}, around(1.0)) if r.method != "random-policy"]
    runs = Runs(rows)
    found = families(runs, QUESTION, 0.1)
    assert {v.verdict for v in found.verdicts} == {NOT_JUDGED}
    # That is not said of the dense agents, which learned.
    assert answer(runs, found, BEFORE).headline == [
        "90 %: no ticket is judged, because the random policy was not measured."
    ]
    (panel,) = dots.panels(runs, found, "task", ["task"], RETURN)
    assert (
        dots.finding(panel) == "There are no scores, because the random policy was not measured; the axis has returns."
    )


def test_success_rates_without_scores_have_two_digits():
    values = [0.62, 0.04, 0.0, 0.97, 0.33]
    rows = study({("taylor", "", "0.9"): values}, values, metric=SUCCESS, random=0.3)
    runs = Runs(study({("taylor", "", "0.9"): around(1.0, 5)}, around(1.0, 5)) + rows)
    (panel,) = dots.panels(runs, families(runs, None, 0.1), "task", ["task"], SUCCESS)
    assert dots.finding(panel) == "The dense agents learned too little for scores; the axis has success rates."
    assert "seed 1: 0.04<" in dots.draw(panel, styles(runs), "a")


def test_statements_name_their_tasks_where_others_have_no_part():
    dense, lost = around(1.0), np.array([0.0, 3.0, 0.1, -2.0, 0.3, 0.2, 0.0, -0.1])
    tickets = {("taylor", "", "0.9"): dense, ("magnitude", "", "0.9"): dense - around(0.3, spread=0.05)}

    def said(*rows):
        runs = Runs([row for some in rows for row in some])
        return answer(runs, families(runs, QUESTION, 0.1), BEFORE)

    bad = study(dict.fromkeys(tickets, lost), lost, tasks=("bad",))
    one = said(bad, study(tickets, dense, tasks=("good",)))
    assert one.headline[1] == "90 % on good: taylor matches dense and beats magnitude; magnitude is worse than dense."
    assert one.decided[0].startswith("90 %, good: taylor scores ")
    two = said(bad, study(tickets, dense, tasks=("good", "better")))
    assert two.headline[1].startswith("90 % over 2 tasks: taylor matches dense")
    assert said(study(tickets, dense, tasks=("good", "better"))).headline[1].startswith("90 %: taylor matches dense")
    # Success of one task is not what returns of two are.
    success = study(dict.fromkeys(tickets, [1.0] * 8), [1.0] * 8, tasks=("good",), metric=SUCCESS)
    some = said(study(dict.fromkeys(tickets, dense), dense, tasks=("good", "better")), success)
    assert some.headline[1:] == [
        "90 %: every method matches dense.",
        "90 %, by success on good: every method matches dense.",
    ]


def test_the_primary_question_is_one_test_of_each_seeds_mean_over_levels_and_tasks():
    rng = np.random.default_rng(0)
    dense = around(1.0)
    tickets = {(m, "", level): rng.normal(0.9, 0.1, 8) for m in QUESTION for level in ("0.9", "0.95", "0.98")}
    runs = Runs(study(tickets, dense, tasks=("one", "two")))
    found = families(runs, QUESTION, 0.1)
    assert found.primary.overall.scope == "all tasks"
    d = np.array([tickets["taylor", "", s] - tickets["magnitude", "", s] for s in ("0.9", "0.95", "0.98")])
    assert found.primary.overall.difference == pytest.approx(d.mean())
    assert found.primary.overall.seeds == 8  # not 16: runs of one seed on two tasks count once
    assert found.primary.overall.p == pytest.approx(stats.sign_flip_test(d.mean(axis=0)))
    assert [c.corrected for c in found.primary.levels] == pytest.approx(stats.closed_test(d.T)[1])
    assert all(c.corrected >= found.primary.overall.corrected for c in found.primary.levels)


def test_a_seed_that_lacks_a_level_is_left_out():
    dense = around(1.0)
    tickets = {(m, "", level): around(0.9) for m in QUESTION for level in ("0.9", "0.95")}
    tickets["taylor", "", "0.95"] = around(0.9)[:7]
    assert families(Runs(study(tickets, dense)), QUESTION, 0.1).primary.overall.seeds == 7


def test_tickets_are_compared_with_their_own_controls():
    dense = around(1.0)
    tickets = {
        ("taylor", "", "0.9"): dense,
        ("magnitude", "", "0.9"): dense,
        ("taylor", "reinit", "0.9"): dense - around(0.2, spread=0.1),
        ("random", "", "0.9"): dense - around(0.5, spread=0.1),
        ("", "small-dense", "0.9"): dense + around(0.1, spread=0.01),
    }
    found = families(Runs(study(tickets, dense)), QUESTION, 0.1)
    pairs = {(c.first.label, c.second.label): c for c in found.controls}
    assert set(pairs) == {
        ("taylor", "taylor + reinit"),
        ("taylor", "random (control)"),
        ("taylor", "small-dense"),
        ("magnitude", "random (control)"),
        ("magnitude", "small-dense"),
    }
    assert pairs["taylor", "random (control)"].differs
    assert pairs["taylor", "random (control)"].p == 2.0**-8
    # Flipped, the lead of small-dense is as extreme, so one flip more of 256 is.
    assert pairs["taylor", "random (control)"].corrected == 2.0**-7
    assert not pairs["taylor", "small-dense"].differs  # the control is better, which is not what is tested


def test_what_the_primary_question_answers_is_not_tested_twice():
    dense = around(1.0)
    tickets = {(m, "", "0.9"): around(0.9) for m in (*QUESTION, "gradient")}
    found = families(Runs(study(tickets, dense)), QUESTION, 0.1)
    assert {frozenset((c.first.method, c.second.method)) for c in found.exploratory} == {
        frozenset(("taylor", "gradient")),
        frozenset(("magnitude", "gradient")),
    }
    assert len(families(Runs(study(tickets, dense)), None, 0.1).exploratory) == 3


def test_success_is_judged_too_where_tasks_define_it():
    dense = around(1.0)
    tickets = {(m, "", "0.9"): dense for m in QUESTION}
    success = {("magnitude", "", "0.9"): [1.0] * 8, ("taylor", "", "0.9"): [0.5] * 8}
    rows = study(tickets, dense) + study(success, [1.0] * 8, metric=SUCCESS)
    found = families(Runs(rows), QUESTION, 0.1)
    verdicts = {(v.metric, v.condition.method): v.verdict for v in found.verdicts}
    assert verdicts[RETURN, "taylor"] == verdicts[SUCCESS, "magnitude"] == WINNING
    assert verdicts[SUCCESS, "taylor"] == WORSE


def test_counts_by_return_are_not_given_as_those_by_success():
    def headline(success):
        dense = around(1.0, 3)
        rows = study({("taylor", "", "0.9"): dense}, dense)
        runs = Runs(rows + study({("taylor", "", "0.9"): success}, [1.0] * 3, metric=SUCCESS))
        return answer(runs, families(runs, None, 0.1), BEFORE).headline

    assert headline([0.2, 0.3, 1.0]) == [
        "90 %: seeds within 10 % of dense: taylor 3 of 3.",
        "90 %, by success: seeds within 10 % of dense: taylor 1 of 3.",
    ]
    assert headline([1.0] * 3) == ["90 %, by return and by success: seeds within 10 % of dense: taylor 3 of 3."]


def rewound_to(rows, *points):
    """Repeat the tickets' rows at each rewind point."""
    dense = [row for row in rows if not row.sparsity]
    return dense + [row._replace(rewind=at) for at in points for row in rows if row.sparsity]


def test_the_headline_counts_sparsities_and_rewind_points():
    def averaged(points, levels):
        dense = around(1.0)
        tickets = {(m, "", level): dense + 0.2 * (m == "taylor") for m in QUESTION for level in levels}
        runs = Runs(rewound_to(study(tickets, dense), *points))
        return answer(runs, families(runs, QUESTION, 0.1), BEFORE).headline[0].partition(" of dense")[2]

    assert averaged(["0"], ["0.9"]).startswith(" (")
    assert averaged(["0"], ["0.9", "0.95"]).startswith(" on average over 2 sparsities (")
    assert averaged(["0", "2000", "none"], ["0.9"]).startswith(" on average over 3 rewind points (")
    both = averaged(["0", "2000", "none"], ["0.9", "0.95"])
    assert both.startswith(" on average over 2 sparsities and 3 rewind points (")


def test_levels_ascend():
    tickets = {("taylor", "", level): around(1.0) for level in ("0.9", "1e-05", "0.95", "0.9 (round 1 of 2)")}
    runs = Runs(rewound_to(study(tickets, around(1.0)), "none", "10000", "0", "2000"))
    sparsities = ["1e-05", "0.9", "0.9 (round 1 of 2)", "0.95"]
    assert runs.levels() == [(at, sparsity) for at in ("0", "2000", "10000", "none") for sparsity in sparsities]


def test_an_interval_of_the_same_runs_is_made_once(monkeypatch):
    made = []

    def counted(statistic, *groups, rng, resamples=stats.RESAMPLES):
        made.append(groups)
        return original(statistic, *groups, rng=rng, resamples=resamples)

    rng = np.random.default_rng(3)
    dense, levels = rng.normal(1.0, 0.1, 7), ("0.5", "0.8", "0.9", "0.95")
    tickets = {("taylor", "", level): rng.normal(0.8, 0.1, 7) for level in levels}
    runs = Runs(study(tickets, dense))
    original = stats.interval
    monkeypatch.setattr(stats, "interval", counted)
    profiles = charts.profiles(runs)
    assert len(made) == 5  # dense agents once, and four tickets
    shares = runs.scores(["task"], Condition("dense", "", "", ""))
    low, _ = original(lambda s: stats.profile(s, charts.THRESHOLDS), shares, rng=np.random.default_rng(0))
    for chart in profiles:
        assert [point.low for point in chart.by_series()["dense"]] == low.tolist()


def test_headlines_give_the_primary_answer_first():
    dense = around(1.0)
    tickets = {("taylor", "", "0.9"): dense, ("magnitude", "", "0.9"): dense - around(0.2, spread=0.05)}
    runs = Runs(study(tickets, dense))
    said = answer(runs, families(runs, QUESTION, 0.1), BEFORE)
    assert said.headline[0].startswith("Taylor tickets do better than magnitude tickets")
    assert "p = 0.008" in said.headline[0]
    assert "before the first run" in said.question


@pytest.mark.parametrize("dying", [0.0, 0.2])
def test_null_studies_raise_few_alarms(dying):
    """benchmarks/false_alarms.py does this at length, at 3, 5 and 10 seeds."""
    rng, studies, alarms = np.random.default_rng(0), 150, 0

    def scores():
        return np.where(rng.random(6) >= dying, rng.normal(1.0, 0.2, 6), rng.normal(0.0, 0.2, 6))

    for _ in range(studies):
        tickets = {(m, "", s): scores() for m in (*QUESTION, "random") for s in ("0.9", "0.95")}
        found = families(Runs(study(tickets, scores())), QUESTION, 0.1)
        alarms += found.primary is not None and found.primary.overall.differs
        alarms += any(c.differs and c.first.method == "taylor" for c in found.controls)
    assert alarms / (2 * studies) <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / (2 * studies))


def test_a_question_that_was_asked_and_cannot_be_tested_is_not_called_unasked():
    tickets = {(method, "", "0.9"): around(0.0) for method in QUESTION}
    runs = Runs(study(tickets, around(0.0, spread=0.5), error=0.1))  # dense agents no better than a random policy
    said = answer(runs, families(runs, QUESTION, 0.1), BEFORE).question
    assert said.startswith("Primary question: do taylor tickets score higher or lower than magnitude tickets? No task")
    assert "it is not tested. Declared on 2026-01-01, before the first run." in said
    assert answer(runs, families(runs, None, 0.1), BEFORE).question == "No primary question was asked."
