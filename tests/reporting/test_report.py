"""Every number on the page, computed again from the tidy table by a program that shares no code with lth; and a real browser."""

import csv
import itertools
import json
import re
import shutil
from collections import defaultdict
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.grids import make_grid, tidy_rows
from lth.reporting.comparisons import comparisons
from scipy import stats as scipy_stats

import lth
from lth.cli import main
from lth.config import parse_config
from lth.errors import InputError
from lth.experiment.plan import plan
from lth.experiment.tidy import TidyRow, read_tidy
from lth.reporting import charts, figures
from lth.reporting.page import page
from lth.reporting.scores import Runs, results
from lth.reporting.tickets import MaskCost

GRID = {
    "tasks": ["Pendulum-v1", "drawer-close-v3"],
    "seeds": [0, 1, 2],
    "training": {"env_steps": 2000, "start_steps": 100, "segment_steps": 500},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "evaluation": {"every": 500},
    "pruning": {"methods": ["magnitude", "taylor", "random"], "sparsity": [0.8, 0.95], "controls": ["reinit"]},
    "analysis": {"connectivity": ["parent", "methods"]},
}
LOST = "drawer-close-v3/seed2/ticket-taylor-0.95-reinit"
"""A run that is not there: its condition has two seeds on that task."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A grid of result files and its report: the config, the page and the tidy table, as text and rows."""
    config = make_grid(GRID, tmp_path_factory.mktemp("made"), skip=(LOST,))
    html = lth.report(config)
    table = html.with_name("tidy.csv")
    with table.open(newline="") as file:
        return config, html, list(csv.DictReader(file))


class Page(HTMLParser):
    """The tables of a page by name, (header, rows); its paragraphs and list items; its data."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.words, self.data, self._in, self._text = {}, [], "", [], ""
        self.feed(text)
        self.data = json.loads(self.data)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("meta", "link", "img"):
            return
        self._in.append(attributes.get("id") if tag == "script" else tag)
        if tag == "table":
            self._table = self.tables.setdefault(attributes["data-name"], [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th", "p", "li"):
            self._text = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._table[-1].append(self._text)
        if tag in ("p", "li"):
            self.words.append(" ".join(self._text.split()))
        self._in.pop()

    def handle_data(self, data):
        if "data" in self._in:
            self.data += data
        self._text += data

    def rows(self, name):
        header, *body = self.tables[name]
        return [dict(zip(header, row, strict=True)) for row in body]


# --- the independent program -----------------------------------------------------------------------------------------


def label(row):
    if row["method"] in ("random", "shuffled"):
        return f"{row['method']} (control)"
    return " + ".join(part for part in (row["method"], row["control"]) if part)


def percent(sparsity):
    return f"{float(sparsity) * 100:g} %" if sparsity else ""


def condition(row):
    return label(row), percent(row["sparsity"]), row["rewind"]


def by_run(rows, metric):
    """{(task, condition): {seed: {env_steps: value}}}"""
    found = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["metric"] == metric:
            found[row["task"], condition(row)][int(row["seed"])][int(row["env_steps"])] = float(row["value"])
    return found


def last(found):
    return {
        key: {seed: steps[max(steps)] for seed, steps in sorted(seeds.items())} for key, seeds in found.items() if seeds
    }


class Again:
    """What the page should say, from the rows of the tidy table."""

    def __init__(self, rows):
        self.rows = rows
        curves = by_run(rows, "evaluation/return")
        self.curves, self.returns = curves, last(curves)
        self.tasks = list(dict.fromkeys(row["task"] for row in rows))
        dense = ("dense", "", "")
        self.low = {t: np.mean([s[0] for s in curves[t, dense].values()]) for t in self.tasks}
        self.high = {t: np.mean(list(self.returns[t, dense].values())) for t in self.tasks}

    def scaled(self, task, values):
        return (np.array(list(values)) - self.low[task]) / (self.high[task] - self.low[task])

    def scores(self, scope, condition):
        tasks = self.tasks if scope == "all tasks" else [scope]
        return [self.scaled(t, self.returns[t, condition].values()) for t in tasks]


def trimmed(values):
    """The IQM of one sample: sorted, int(n / 4) off each end."""
    values = np.sort(values, axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def iqm(samples):
    return trimmed(np.concatenate(samples, axis=-1))


def mean(samples):
    return np.mean([s.mean(axis=-1) for s in samples], axis=0)


def median(samples):
    return np.median([s.mean(axis=-1) for s in samples], axis=0)


def gap(samples):
    return np.mean([np.clip(1 - s, 0, None).mean(axis=-1) for s in samples], axis=0)


def pooled(samples):
    return np.concatenate(samples, axis=-1).mean(axis=-1)


def better(mine, theirs):
    found = []
    for a, b in zip(mine, theirs, strict=True):
        wins = sum(np.where(x == y, 0.5, x > y) for x in np.moveaxis(a, -1, 0) for y in np.moveaxis(b, -1, 0))
        found.append(wins / (a.shape[-1] * b.shape[-1]))
    return np.mean(found, axis=0)


def bounded(statistic, *groups):
    """Value, low, high; the bootstrap as docs/report.md describes it."""
    rng = np.random.default_rng(0)
    drawn = [[s[rng.integers(0, len(s), (2000, len(s)))] for s in samples] for samples in groups]
    low, high = np.percentile(statistic(*drawn), [2.5, 97.5])
    return float(statistic(*groups)), low, high


def written(values, digits=2):
    value, low, high = (f"{v:.{digits}f}" if round(v, digits) else f"{0:.{digits}f}" for v in values)
    return f"{value} [{low}, {high}]"


def p_of(differences):
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    return np.mean(np.array(flips) >= abs(sum(differences)) * (1 - 1e-9))


def short(p):
    return f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.001 else f"{p:.0e}"


def corrected(p):
    order = sorted(range(len(p)), key=lambda i: p[i])
    found = [0.0] * len(p)
    for rank, i in enumerate(order):
        found[i] = min(1, max((len(p) - rank) * p[i], *(found[j] for j in order[: rank + 1])))
    return found


def needed(differences, many, tasks):
    d = np.array(differences)
    effect = abs(d.mean()) / d.std(ddof=1)
    for n in range(2, 1001):
        limit = scipy_stats.t.ppf(1 - 0.05 / many / 2, n - 1)
        if 2.0 ** (1 - n) <= 0.05 / many and 1 - scipy_stats.nct.cdf(limit, n - 1, effect * n**0.5) >= 0.8:
            return str(int(np.ceil(n / tasks)))
    return ""


def close(text, other):
    """The same text; numbers may differ by one in their last digit, where a half was rounded."""
    if text == other:
        return True
    pattern = r"-?\d[\d,]*\.?\d*"
    if re.sub(pattern, "#", text) != re.sub(pattern, "#", other):
        return False
    pairs = zip(re.findall(pattern, text), re.findall(pattern, other), strict=True)
    units = [
        (float(a.replace(",", "")), float(b.replace(",", "")), 10.0 ** -len(a.partition(".")[2])) for a, b in pairs
    ]
    return all(abs(a - b) <= 1.01 * unit and ("." in text) for a, b, unit in units)


# --- the page against it ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(made):
    _, html, rows = made
    return Page(html.read_text()), Again(rows)


def test_the_results_table(read):
    page, again = read
    rows = page.rows("results")
    assert {r["task"] for r in rows} == {"all tasks", *again.tasks}
    conditions = {c for _, c in again.returns}
    assert len(rows) == 3 * len(conditions) == 3 * 11
    for row in rows:
        key = (row["runs of"], row["pruned"], row["rewound to"])
        scores = again.scores(row["task"], key)
        assert int(row["runs"]) == sum(map(len, scores))
        assert close(row["score (IQM)"], written(bounded(iqm, scores)))
        assert close(row["mean"], written(bounded(mean, scores)))
        assert close(row["optimality gap"], written(bounded(gap, scores)))
        if row["task"] == "all tasks":
            assert close(row["median"], written(bounded(median, scores)))
            assert row["return (IQM)"] == row["success (mean)"] == ""
        else:
            returns = [np.array(list(again.returns[row["task"], key].values()))]
            assert row["median"] == ""
            assert close(row["return (IQM)"], written(bounded(iqm, returns), 1))
            success = last(by_run(again.rows, "evaluation/success")).get((row["task"], key))
            expected = written(bounded(mean, [np.array(list(success.values()))])) if success else ""
            assert close(row["success (mean)"], expected)


def test_the_comparisons_table(read):
    page, again = read
    rows = page.rows("comparisons")
    level = 4 + 3  # two tickets: 1 pair, 2 with dense, 2 with random, 2 with their own reinit
    assert len(rows) == 3 * 2 * level
    everything = []
    for row in rows:
        tasks = again.tasks if row["task"] == "all tasks" else [row["task"]]
        keys = [
            (name, "", "") if name == "dense" else (name, row["pruned"], row["rewound to"])
            for name in (row["first"], row["second"])
        ]
        seeds = [sorted(again.returns[t, keys[0]].keys() & again.returns[t, keys[1]].keys()) for t in tasks]
        sides = [
            [again.scaled(t, [again.returns[t, key][s] for s in some]) for t, some in zip(tasks, seeds, strict=True)]
            for key in keys
        ]
        differences = [a - b for a, b in zip(*sides, strict=True)]
        everything.append((row, np.concatenate(differences), len(tasks)))
        assert int(row["pairs"]) == sum(map(len, seeds))
        assert close(row["difference"], written(bounded(pooled, differences)))
        assert close(row["P(first better)"], written(bounded(better, *sides)))
    p = [p_of(d) for _, d, _ in everything]
    for (row, d, tasks), one, after in zip(everything, p, corrected(p), strict=True):
        assert close(row["p"], short(one))
        assert close(row["corrected p"], short(after))
        assert row["seeds needed"] == needed(d, len(p), tasks)
        assert row["verdict"] == ("different" if after <= 0.05 else "undecided")
    lost = [row for row in rows if row["task"] == "drawer-close-v3" and row["second"] == "taylor + reinit"]
    assert [row["pairs"] for row in lost] == ["3", "2"]


def test_the_charts(read):
    page, again = read
    kinds = defaultdict(int)
    for chart in page.data["charts"]:
        kinds[chart["section"]] += 1
        if chart["kind"] == "picture":
            continue
        scope, _, level = chart["title"].partition(", ")
        tasks = again.tasks if scope == "all tasks" else [scope]
        for row in chart["rows"]:
            series, x, y, low, high, runs = row
            pruned = chart["ticks"][x] if chart["kind"] == "sparsity" else level.removesuffix(" pruned")
            key = ("dense", "", "") if series == "dense" else (series, pruned, "0")
            source = by_run(again.rows, "evaluation/success") if "success" in chart["y"] else again.curves
            statistic = mean if "success" in chart["y"] else iqm
            if chart["kind"] == "curve":
                samples = [np.array([s[x] for _, s in sorted(source[t, key].items())]) for t in tasks]
            else:
                samples = [np.array(list(again.returns[t, key].values())) for t in tasks]
            if "score" in chart["x"] + chart["y"]:
                samples = [again.scaled(t, s) for t, s in zip(tasks, samples, strict=True)]
            if chart["kind"] == "profile":
                samples, statistic = [(s > x).astype(float) for s in samples], mean
            assert runs == sum(map(len, samples))
            assert [y, low, high] == pytest.approx(list(bounded(statistic, samples)), rel=1e-5)
    # all tasks and each: curves at 2 sparsities (with success on the Meta-World task); profiles over all tasks.
    assert kinds == {"curves": 2 * (1 + 1 + 2), "sparsity": 3, "profiles": 2, "pictures": 2 * 2 * 2}


def test_the_pictures_of_masks(read):
    page, again = read
    values = defaultdict(dict)
    for row in again.rows:
        values[row["task"], condition(row), row["metric"]][row["seed"]] = float(row["value"])
    names = set()
    for chart in page.data["charts"]:
        if chart["kind"] != "picture":
            continue
        task, level = chart["title"].split(": ")[1].split(", ")
        for series, row, share in chart["rows"]:
            key = (task, (series, level.removesuffix(" pruned"), "0"))
            if chart["title"].startswith("What the actor still reads"):
                names.add(row)
                inputs = 3 if task == "Pendulum-v1" else 39
                counts, weights = values[(*key, f"reads/actor/{row}")], values[(*key, "weights/actor/layer_0")]
                expected = np.mean([counts[s] for s in counts]) * inputs / np.mean(list(weights.values()))
            else:
                counts, weights = values[(*key, f"kept/{row}")], values[(*key, f"weights/{row}")]
                expected = np.mean([counts[s] / weights[s] for s in counts])
            assert share == pytest.approx(expected, rel=1e-5)
    assert {"cos(angle)", "hand x", "goal z"} <= names


def test_the_tickets_overlaps_and_costs(read):
    page, again = read
    values = defaultdict(list)
    for row in again.rows:
        values[row["task"], condition(row), row["metric"]].append(float(row["value"]))
    for row in page.rows("tickets"):
        key, net = (row["task"], (row["runs of"], row["pruned"], row["rewound to"])), row["network"]
        for name, kept in (("sparsity", "kept"), ("effective sparsity", "effective")):
            share = np.mean(values[(*key, f"{kept}/{net}")]) / np.mean(values[(*key, f"weights/{net}")])
            assert close(row[name], f"{1 - share:.3f}")
        units = np.mean(values[(*key, f"units/{net}")])
        assert units == {"actor": 2 * 8, "critic": 2 * 2 * 8}[net]
        for name in ("dead", "dormant"):
            assert close(row[f"{name} units"], f"{np.mean(values[(*key, f'{name}_units/{net}')]) / units:.3f}")
        for name, metric in (
            ("rank correlation", "spearman"),
            ("shared", "shared"),
            ("shared by chance", "shared_by_chance"),
        ):
            stable = values[(*key, f"saliency_{metric}/{net}")]
            assert bool(stable) == (key[1][0] == "taylor")
            assert close(row[name], f"{np.mean(stable):.3f}" if stable else "")
    overlaps = page.rows("overlaps")
    assert {(row["mask of"], row["and of"]) for row in overlaps} >= {
        ("magnitude", "taylor"),
        ("taylor", "another seed"),
    }
    for row in overlaps:
        kind_of = "task" if row["and of"] in again.tasks else "method"
        other = "seed/seed" if row["and of"] == "another seed" else f"{kind_of}/{row['and of']}"
        for column, kind in (("Jaccard index", "overlap"), ("by chance", "overlap_by_chance")):
            found = [
                float(r["value"])
                for r in again.rows
                if r["task"] == row["task"]
                and (r["method"], percent(r["sparsity"])) == (row["mask of"], row["pruned"])
                and r["metric"].startswith(f"{kind}/{row['network']}/{other}")
            ]
            assert int(row["pairs"]) == len(found) == 3
            assert close(row[column], f"{np.mean(found):.3f}")
    seconds = 0.0
    for row in page.rows("costs"):
        key = (row["task"], (row["runs of"], row["pruned"], row["rewound to"]))

        def cost(name, key=key):
            return np.mean(values[(*key, f"cost/{name}")])

        assert int(row["runs"]) == len(values[(*key, "cost/updates")])
        assert row["env steps"] == f"{cost('env_steps'):,.0f}" == "2,000"
        assert row["updates"] == f"{cost('updates'):,.0f}" == "1,900"
        assert close(row["seconds to train"], f"{cost('train_seconds'):.1f}")
        assert close(row["seconds on masks"], f"{cost('mask_seconds'):.2f}")
        assert close(row["GFLOPs dense"], f"{cost('flops_dense') / 1e9:,.1f}")
        assert close(row["GFLOPs sparse"], f"{cost('flops') / 1e9:,.1f}")
        assert close(row["ratio"], f"{cost('flops') / cost('flops_dense'):.3f}")
        seconds += sum(values[(*key, "cost/train_seconds")]) + sum(values[(*key, "cost/mask_seconds")])
    total = next(words for words in page.words if words.startswith("In all"))
    assert total.startswith(
        f"In all, {6 + 6 * 10 - 1} runs of {65 * 2000:,} environment steps took {seconds / 3600:.2f} hours"
    )


def test_the_lines_between_agents(read):
    page, again = read
    rows = page.rows("barriers")
    assert len(rows) == 2 * 2 * (3 + 3) * 2  # tasks, sparsities, lines (from dense; between three methods), metrics
    for row in rows:
        kind = "parent" if row["from"] == "dense" else "methods"
        for column, name in (("at its start", "value_one"), ("at its end", "value_other"), ("barrier", "barrier")):
            found = [
                float(r["value"])
                for r in again.rows
                if (r["task"], condition(r)) == (row["task"], (row["line to"], row["pruned"], row["rewound to"]))
                and r["metric"] == f"{name}/{kind}/{row['from']}/{row['metric']}"
            ]
            assert len(found) == int(row["seeds"]) == 3
            assert close(row[column], f"{np.mean(found):.4g}")


def test_flops_by_hand(made):
    rows = [row for row in made[2] if row["task"] == "Pendulum-v1" and row["seed"] == "0" and row["method"] == "dense"]
    found = {row["metric"]: float(row["value"]) for row in rows}
    actor = 2 * (3 * 8 + 8 * 8 + 8 * 2)
    critics = 2 * 2 * (4 * 8 + 8 * 8 + 8 * 1)
    assert found["cost/flops_dense"] == found["cost/flops"] == 1900 * 256 * (4 * actor + 6 * critics) + 2000 * actor


def test_every_number_in_the_verdicts(read):
    page, again = read
    results = {(r["task"], r["runs of"], r["pruned"]): r["score (IQM)"] for r in page.rows("results")}
    compared = page.rows("comparisons")
    said = checked = 0
    where = ("all tasks", "80 %")
    for words in page.words:
        if match := re.match(r"At (\d+ %) (?:on (\S+)|over 2 tasks), ", words):
            where = (match[2] or "all tasks", match[1])
            said += 1
            found = re.findall(
                r"(\S+ \+ \S+|\S+)(?: tickets| control)?(?: reach| reaches)? (-?\d\.\d\d \[[^]]*\])", words
            )
            for name, number in found:
                name = {"random": "random (control)"}.get(name, name)
                assert results[(where[0], name, where[1])] == number
                checked += 1
            assert len(re.findall(r"\d\.\d\d", words)) == 3 * len(found)
        here = [r for r in compared if (r["task"], r["pruned"]) == where]
        if match := re.match(r"An? (.+) run beats an? (.+) run with probability ([^;]+); 3 seeds cannot", words):
            row = next(r for r in here if {r["first"], r["second"]} == {match[1], match[2]})
            likely = [float(x) for x in re.findall(r"\d\.\d\d", row["P(first better)"])]
            if row["first"] != match[1]:
                likely = [1 - likely[0], 1 - likely[2], 1 - likely[1]]
            assert [float(x) for x in re.findall(r"\d\.\d\d", match[3])] == pytest.approx(likely, abs=0.011)
            assert f"(p = {row['p']})" in words
            assert f"about {row['seeds needed']} would." in words or "more than 1,000" in words
            said += 1
        if match := re.match(r"([\d to]+) seeds cannot separate an? (\S+) ticket from", words):
            mine = [r for r in here if r["first"] == match[2] and r["second"] not in ("magnitude", "taylor")]
            numbers = re.findall(r"about (\d+) would", words)
            assert numbers == [r["seeds needed"] for r in mine if r["seeds needed"]]
            said += 1
    assert said == 3 * 2 * (1 + 1 + 2)
    assert checked == 3 * 2 * 5
    # 6 pairs at most: p >= 2^-5; 42 comparisons want p <= 0.05 / 42, so 2^-10: 11 pairs, 6 seeds on 2 tasks.
    head = next(words for words in page.words if "cannot show any difference here" in words)
    assert "for 6 pairs is 0.031, and with 42 comparisons it takes at least 6 seeds" in head
    seconds = [
        float(r["value"]) for r in again.rows if r["metric"] == "cost/mask_seconds" and condition(r)[0] == "taylor"
    ]
    claim = next(words for words in page.words if words.startswith("docs/saliency-pruning.md"))
    assert (
        f"12 such masks with 100 batches took {np.median(seconds):.2f} s each (median; at most {max(seconds):.2f} s)"
        in claim
    )


# --- what it may not say ---------------------------------------------------------------------------------------------


def rows_of(returns):
    """Tidy rows of one task: {method: returns by seed}; untrained 0."""
    found = []
    for method, values in returns.items():
        dense = method == "dense"
        for seed, value in enumerate(values):
            about = ("T-v0", seed, method, "", "" if dense else "0.9", "" if dense else "0", f"{method}{seed}")
            found += [TidyRow(*about, 0, "evaluation/return", 0.0), TidyRow(*about, 10, "evaluation/return", value)]
    return found


def said_of(returns):
    from lth.reporting.verdicts import headline, verdicts

    runs = Runs(rows_of(returns))
    compared = comparisons(runs)
    return [
        *headline(runs, compared),
        *(s for v in verdicts(runs, results(runs), compared) for s in v.sentences),
    ]


@pytest.mark.parametrize(
    ("one", "together", "said"),
    [
        (2.0, 12.0, "so the claim holds."),
        (20.0, 120.0, "so the claim holds for one mask, and not for all those of a task and seed together."),
        (31.0, 31.0, "so the claim does not hold here."),
    ],
)
def test_the_claimed_seconds_are_checked(one, together, said):
    from lth.reporting.verdicts import claim

    assert claim(MaskCost(6, (100,), one, one, together)).endswith(said)
    assert claim(None) == "No mask of this grid took gradients."


def test_two_seeds_are_told_what_they_cannot_conclude():
    said = said_of({"dense": [100, 101], "magnitude": [20, 21], "taylor": [98, 99]})
    assert said[0].startswith(
        "2 seeds cannot show any difference here: the smallest p that the exact paired test can give for 2 pairs is 0.5, and "
        "with 3 comparisons it takes at least 7 seeds"
    )
    text = " ".join(said)
    assert (
        "A taylor run beats a magnitude run with probability 1.00 [1.00, 1.00]; 2 seeds cannot separate these" in text
    )
    assert not re.search(r"does (better|worse)", text)


def test_one_seed_has_no_interval_and_no_number_of_seeds():
    text = " ".join(said_of({"dense": [100], "taylor": [90]}))
    assert "taylor tickets reach 0.90 of dense." in text
    assert "would" not in text.replace("one could", "")
    assert "1 seed cannot separate a taylor ticket from the dense agent." in text


def test_ten_clear_seeds_are_called_different_and_named_rightly():
    rng = np.random.default_rng(0)
    returns = {
        m: list(level + rng.normal(0, 2, 10)) for m, level in (("dense", 100), ("magnitude", 60), ("taylor", 90))
    }
    text = " ".join(said_of(returns))
    assert "3 of 3 comparisons differ by more than chance explains" in text
    assert (
        "A taylor run beats a magnitude run with probability 1.00 [1.00, 1.00]; taylor does better (corrected p = 0.006)"
        in text
    )
    assert re.search(r"A magnitude ticket does worse than a dense agent: 0\.\d\d less of dense", text)


def test_equal_conditions_are_not_called_equal():
    rng = np.random.default_rng(1)
    text = " ".join(said_of({m: list(100 + rng.normal(0, 9, 10)) for m in ("dense", "magnitude", "taylor")}))
    assert "That is not the same as equal" in text
    assert "10 seeds cannot separate" in text


def test_a_task_that_dense_does_not_learn_has_no_scores():
    runs = Runs(rows_of({"dense": [5.0, -5.0, 1.0], "taylor": [9.0, 8.0, 9.0]}))
    assert runs.scored == []
    assert comparisons(runs) == []
    assert all(result.score is None and result.returns for result in results(runs))
    from lth.reporting.verdicts import headline

    assert "learned nothing to speak of" in headline(runs, [])[0]


def test_scores_are_right_where_returns_are_negative():
    rows = [row._replace(value=row.value - 1500.0) for row in rows_of({"dense": [1350.0] * 3, "taylor": [1215.0] * 3})]
    runs = Runs(rows)
    (taylor,) = [r for r in results(runs) if r.condition.method == "taylor"]
    assert taylor.returns.value == -285.0
    assert taylor.score.value == pytest.approx(0.9)  # and not -285 / -150 = 1.9


# --- files and figures -----------------------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes_and_a_table_that_reads_back(made):
    config, html, _ = made
    rows = tidy_rows(config)
    assert read_tidy(config.output_dir / "tidy.csv") == [row._replace(value=float(row.value)) for row in rows]
    found = plan(config)
    finished = [spec for spec in found.specs if (config.output_dir / spec.path / "spec.json").exists()]
    assert page(found, rows, finished) == html.read_text()


def test_the_page_needs_nothing_else_and_names_no_place(made):
    text = made[1].read_text()
    assert str(made[0].output_dir) not in text
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert "Copyright 2010-2026 Mike Bostock" in text
    assert "Permission to use, copy, modify" in text
    settings = re.search(r'id="config-text">(.*?)</pre>', text, re.DOTALL)[1]
    import yaml

    again = parse_config(yaml.safe_load(settings))
    assert again.model_copy(update={"output_dir": made[0].output_dir}) == made[0]


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(f"output_dir: {tmp_path / 'results'}\n")
    assert main(["report", str(tmp_path / "config.yaml")]) == 2
    assert "no ticket of this config is finished" in capsys.readouterr().err
    (tmp_path / "tidy.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"the tidy table .* cannot be read"):
        read_tidy(tmp_path / "tidy.csv")


@pytest.mark.parametrize("draw", [figures.learning_curves, figures.against_sparsity, figures.profiles, figures.masks])
def test_figures_draw_what_the_page_draws(made, draw, tmp_path):
    runs = Runs(read_tidy(made[0].output_dir / "tidy.csv"))
    figure = draw(runs)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    drawn = {
        figures.learning_curves: charts.curves,
        figures.against_sparsity: charts.against_sparsity,
        figures.profiles: charts.profiles,
        figures.masks: charts.pictures,
    }[draw](runs)
    assert [axis.get_title() for axis in panels] == [chart.title for chart in drawn]
    if draw is figures.learning_curves:
        line = next(one for one in panels[0].lines if one.get_label() == "taylor")
        assert list(line.get_ydata()) == [p.y for p in drawn[0].points if p.series == "taylor"]
    figure.savefig(tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_series_differ_without_their_colour(made):
    looks = figures.styles(Runs(read_tidy(made[0].output_dir / "tidy.csv")))
    assert len({(s.marker, s.dash) for s in looks.values()}) == len(looks) == 6
    assert [name for name, s in looks.items() if s.hollow] == [
        "random (control)",
        "magnitude + reinit",
        "taylor + reinit",
    ]


# --- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium here; .ci/run installs it")
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync"
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=quiet.split())
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, made, request):
    """The page, opened from disk with the network cut off; fails on a console message or a request."""
    width, scheme = getattr(request, "param", (1200, "light"))
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    opened, trouble = context.new_page(), []
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or trouble.append(asked.url))
    opened.goto(made[1].as_uri())
    opened.wait_for_selector("figure svg")
    yield opened
    context.close()
    assert trouble == []


@pytest.mark.parametrize("tab", [(1200, "light"), (390, "dark")], indirect=True)
def test_it_opens_at_two_widths(tab, read):
    assert tab.locator(".charts figure svg[role=img]").count() == len(read[0].data["charts"])
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing has to be scrolled sideways
    back, front = tab.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    dark = sum(map(int, re.findall(r"\d+", back)[:3])) < sum(map(int, re.findall(r"\d+", front)[:3]))
    assert dark == tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert tab.evaluate(
        "[...document.querySelectorAll('.charts svg')].every(s => s.clientWidth <= s.parentElement.clientWidth)"
    )


def test_series_are_toggled_in_all_charts(tab):
    def lines():
        return tab.locator("[data-section=curves] figure").first.locator("[stroke='#009E73']").count()

    before = lines()
    assert before > 1
    for name in ("taylor", "taylor + reinit"):  # of the same colour
        assert tab.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"
        tab.get_by_role("button", name=name, exact=True).click()
        assert tab.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "false"
    assert lines() == 0
    tab.get_by_role("button", name="taylor", exact=True).click()
    assert 0 < lines() < before


def test_a_point_says_what_it_is(tab):
    chart = tab.locator("[data-section=sparsity] svg[role=img]").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    tips = []
    for share in (0.25, 0.3, 0.35, 0.65, 0.7, 0.75):
        for height in (0.2, 0.4, 0.6):
            tab.mouse.move(box["x"] + share * box["width"], box["y"] + height * box["height"])
            tips.append(chart.locator("[aria-label=tip]").text_content())
    assert any("runs: " in tip and "95 %" in tip for tip in tips)


def test_data_and_pictures_are_saved(tab, made, tmp_path):
    figure = tab.locator("[data-section=sparsity] figure").first
    figure.locator("summary").click()
    chart = next(c for c in Page(made[1].read_text()).data["charts"] if c["section"] == "sparsity")
    assert figure.locator("tbody tr").count() == len(chart["rows"])
    saved = {}
    for name in ("Save SVG", "Save PNG"):
        with tab.expect_download() as download:
            figure.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / name)
        saved[name] = (tmp_path / name).read_bytes()
    assert saved["Save PNG"].startswith(b"\x89PNG")
    svg = saved["Save SVG"].decode()
    assert "var(--" not in svg
    assert chart["title"] in svg
    assert "taylor + reinit" in svg  # the legend
    import xml.etree.ElementTree as ElementTree

    ElementTree.fromstring(svg)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save the tidy table (CSV)").click()
    download.value.save_as(tmp_path / "tidy.csv")
    assert (tmp_path / "tidy.csv").read_bytes() == (made[0].output_dir / "tidy.csv").read_bytes()
