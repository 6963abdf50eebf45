"""`lth plan`: the seeds that a study takes, from assumed spreads and from pilot runs."""

import numpy as np
import pytest
from helpers.small import SMALL
from test_families import QUESTION, around, study

from lth import api, cli, stats
from lth.config import parse_config
from lth.errors import InputError
from lth.reporting.power import seeds_needed
from lth.reporting.scores import Runs
from lth.reporting.terminal import assumed_notes


def test_without_pilot_runs_spreads_are_assumed():
    found = seeds_needed(None, QUESTION, 0.1, effect=0.2, power=0.8)
    asked = {one.spread: one.seeds for one in found if one.what == "taylor against magnitude"}
    assert asked == {sd: stats.seeds_needed(0.2, sd) for sd in (0.05, 0.1, 0.2, 0.4)}
    assert all(one.pilots == 0 and one.seeds == one.fewest == one.most for one in found)
    assert {one.what for one in seeds_needed(None, None, 0.1, 0.2, 0.8)} == {"a ticket within 10 % of dense"}


def test_pilot_runs_give_the_spread_and_its_range():
    rng = np.random.default_rng(0)
    tickets = {(m, "", s): rng.normal(0.9, 0.1, 6) for m in QUESTION for s in ("0.9", "0.95")}
    asked, winning = seeds_needed(Runs(study(tickets, around(1.0, 6))), QUESTION, 0.1, 0.2, 0.8)
    d = np.mean([tickets["taylor", "", s] - tickets["magnitude", "", s] for s in ("0.9", "0.95")], axis=0)
    assert asked.spread == pytest.approx(np.std(d, ddof=1))
    assert asked.pilots == winning.pilots == 6
    assert asked.fewest <= asked.seeds <= asked.most
    assert winning.effect == 0.1


def test_pilot_runs_may_lack_a_level_of_one_method():
    tickets = {(m, "", "0.9"): around(0.9, 6, spread) for m, spread in zip(QUESTION, (0.3, 0.1), strict=True)}
    whole = seeds_needed(Runs(study(tickets, around(1.0, 6))), QUESTION, 0.1, 0.2, 0.8)[0]
    tickets["taylor", "", "0.95"] = around(0.9, 6)
    assert whole.pilots == 6
    assert seeds_needed(Runs(study(tickets, around(1.0, 6))), QUESTION, 0.1, 0.2, 0.8)[0] == whole


def test_two_pilot_seeds_are_too_few():
    rows = study({(m, "", "0.9"): around(1.0, 2) for m in QUESTION}, around(1.0, 2))
    found = seeds_needed(Runs(rows), QUESTION, 0.1, 0.2, 0.8)
    assert all(one.pilots == 0 for one in found)
    (line,) = assumed_notes(found)
    assert "2 seeds to compare, and a spread takes 3" in line
    (line,) = assumed_notes(seeds_needed(Runs(rows[2:]), QUESTION, 0.1, 0.2, 0.8))  # without the random policy
    assert "no scores" in line
    assert assumed_notes(seeds_needed(None, QUESTION, 0.1, 0.2, 0.8)) == []


def test_more_power_and_smaller_effects_take_more_seeds(tmp_path):
    def seeds(**how):
        config = parse_config({**SMALL, "output_dir": str(tmp_path)})
        return next(one.seeds for one in api.plan_study(config, **how).needed if one.spread == 0.2)

    assert seeds() < seeds(power=0.95) < seeds(effect=0.1)


def test_the_command_prints_seeds_hours_and_disk(tmp_path, capsys):
    assert cli.main(["plan", "tasks=Pendulum-v1", f"output_dir={tmp_path / 'none'}", "--effect", "0.3"]) == 0
    out, _ = capsys.readouterr()
    assert "taylor against magnitude" in out
    assert "MB of disk" in out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("how", [{"effect": 0.0}, {"power": 1.0}, {"effect": float("nan")}])
def test_what_cannot_be_planned_is_refused(tmp_path, how):
    with pytest.raises(InputError, match=r"--effect|--power"):
        api.plan_study(parse_config({**SMALL, "output_dir": str(tmp_path)}), **how)
    with pytest.raises(InputError, match="tidy"):
        api.plan_study(parse_config(SMALL), pilot=tmp_path / "nothing")
