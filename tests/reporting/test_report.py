"""Every number and sentence on the page, computed again from the tidy table by a program that shares no code with lth."""

import base64
import csv
import gzip
import itertools
import json
import re
import shutil
from collections import defaultdict
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers.grids import make_grid, tidy_rows

import lth
from lth.cli import main
from lth.config import parse_config
from lth.errors import InputError
from lth.experiment.plan import plan
from lth.experiment.question import Declared
from lth.experiment.tidy import TidyRow, read_tidy
from lth.reporting import charts, figures
from lth.reporting.answer import answer, claim
from lth.reporting.families import families
from lth.reporting.page import page
from lth.reporting.scores import Runs, results
from lth.reporting.sections import answer_section
from lth.reporting.styles import styles
from lth.reporting.tickets import MaskCost

GRID = {
    "tasks": ["Pendulum-v1", "drawer-close-v3"],
    "seeds": [0, 1, 2, 3, 4, 5],
    "training": {"env_steps": 2000, "start_steps": 100, "segment_steps": 500},
    "sac": {"actor_hidden": [8, 8], "critic_hidden": [8, 8]},
    "evaluation": {"every": 500},
    "pruning": {"methods": ["magnitude", "taylor", "random"], "sparsity": [0.8, 0.95], "controls": ["reinit"]},
    "analysis": {"connectivity": ["parent", "methods"]},
}
LOST = "drawer-close-v3/seed2/ticket-taylor-0.95-reinit"
"""A run that is not there: its condition lacks a seed on that task."""
SKILL = {"magnitude": 1.15, "taylor": 1.25, "random": 0.6}
"""Tickets of taylor are as good as dense, those of random worse, those of magnitude in between at 95 %."""
MARGIN = 0.1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A grid of result files and its report: the config, the page and the tidy table, as text and rows."""
    config = make_grid(GRID, tmp_path_factory.mktemp("made"), skip=(LOST,), skill=SKILL)
    html = lth.report(config)
    table = html.with_name("tidy.csv")
    with table.open(newline="") as file:
        return config, html, list(csv.DictReader(file))


class Page(HTMLParser):
    """What a page says: tables by name as (caption, rows), words by element, the main charts, findings by chart, and data."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.captions, self.words, self.panels, self.data = {}, {}, [], [], ""
        self.findings, self.folded = {}, set()  # of the charts below the first screen, by title
        self._in, self._text, self._name, self._dots = [], "", "", False
        self.feed(text)
        self.data = json.loads(self.data)
        if self.data:
            self.charts = json.loads(gzip.decompress(base64.b64decode(self.data["charts"])))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("meta", "link", "img"):
            return
        single = tag == "details" and attributes.get("class", "").startswith("single")
        self._in.append(attributes.get("id") if tag == "script" else "details.single" if single else tag)
        if tag == "table":
            self._name = attributes["data-name"]
            self.tables[self._name] = []
        if tag == "tr":
            self.tables[self._name].append([])
        if tag == "figure":
            self.figure = attributes["data-title"].replace("\xa0", " ")
            if "details.single" in self._in:
                self.folded.add(self.figure)
        if tag == "svg":
            self._dots = attributes.get("class") == "dots"
            if self._dots:
                self.panels.append((self.figure, []))
        if "svg" in self._in and self._dots and tag in ("use", "line", "text"):
            self.panels[-1][1].append([tag, attributes, ""])
        if tag in ("td", "th", "p", "li", "caption", "title", "text", "figcaption", "summary"):
            self._text = ""

    def handle_endtag(self, tag):
        said = " ".join(self._text.replace("\xa0", " ").split())
        if tag in ("td", "th"):
            self.tables[self._name][-1].append(said)
        if tag == "caption":
            self.captions[self._name] = said
        if tag in ("p", "li", "figcaption", "summary"):
            self.words.append((tag, said))
        if tag == "figcaption":
            self.findings[self.figure] = said.removeprefix(self.figure).strip()
        if tag in ("title", "text") and "svg" in self._in and self._dots and self.panels[-1][1]:
            self.panels[-1][1][-1][2] = said
        self._in.pop()

    def handle_data(self, data):
        if "data" in self._in:
            self.data += data
        self._text += data

    def rows(self, name):
        """The rows of a table; what is said to be the same throughout is in each."""
        header, *body = self.tables[name]
        same = dict(re.findall(r"(?:Throughout: |; )([^:;]+): ([^;]+?)(?=;|\.$)", self.captions[name]))
        return [same | dict(zip(header, row, strict=True)) for row in body]

    def said(self, tag="p"):
        return [words for found, words in self.words if found == tag]


# --- the independent program -----------------------------------------------------------------------------------------

DENSE = ("dense", "", "")


def label(row):
    if row["method"] in ("random", "shuffled"):
        return f"{row['method']} (control)"
    return " + ".join(part for part in (row["method"], row["control"]) if part)


def percent(sparsity):
    return f"{100 * float(sparsity):g} %" if sparsity else ""


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
    """What the page should say, from the rows of the tidy table. `by` is return or success."""

    def __init__(self, rows):
        self.rows = rows
        self.tasks = list(dict.fromkeys(row["task"] for row in rows))
        self.curves = {by: by_run(rows, f"evaluation/{by}") for by in ("return", "success")}
        self.last = {by: last(self.curves[by]) for by in self.curves}
        self.values = defaultdict(list)
        for row in rows:
            self.values[row["task"], condition(row), row["metric"]].append(float(row["value"]))
        self.ends = {}
        for by, found in self.last.items():
            for task, key in found:
                if key == DENSE:
                    (low,) = self.values[task, ("random-policy", "", ""), f"random_policy/{by}"]
                    self.ends[by, task] = low, float(np.mean(list(found[task, key].values())))

    def scopes(self, by="return"):
        tasks = [task for task in self.tasks if (by, task) in self.ends]
        return {**({"all tasks": tasks} if len(tasks) > 1 else {}), **{task: [task] for task in tasks}}

    def main(self, by):
        return next(iter(self.scopes(by)))

    def scaled(self, task, values, by="return"):
        low, high = self.ends[by, task]
        return (np.array(list(values)) - low) / (high - low)

    def scores(self, scope, key):
        return [self.scaled(t, self.last["return"][t, key].values()) for t in self.scopes()[scope]]

    def by_seed(self, scope, key, by="return"):
        """Scores by seed, the mean over tasks, of the seeds that all tasks have."""
        found = []
        for task in self.scopes(by)[scope]:
            runs = self.last[by].get((task, key), {})
            found.append(dict(zip(runs, self.scaled(task, runs.values(), by), strict=True)))
        seeds = set(found[0]).intersection(*found)
        return {seed: np.mean([one[seed] for one in found]) for seed in sorted(seeds)}

    def differences(self, scope, first, second, by="return"):
        """By seed, the mean over tasks, of the seeds that have both on every task."""
        found = []
        for task in self.scopes(by)[scope]:
            a, b = (self.last[by].get((task, key), {}) for key in (first, second))
            found.append({s: np.subtract(*self.scaled(task, (a[s], b[s]), by)) for s in a if s in b})
        seeds = set(found[0]).intersection(*found)
        return {seed: np.mean([one[seed] for one in found]) for seed in sorted(seeds)}


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


def bounded(statistic, *groups):
    """Value, low, high; the bootstrap as docs/report.md describes it."""
    rng = np.random.default_rng(0)
    drawn = [[s[rng.integers(0, len(s), (2000, len(s)))] for s in samples] for samples in groups]
    low, high = np.percentile(statistic(*drawn), [2.5, 97.5])
    return float(statistic(*groups)), low, high


def flips(n):
    return np.array(list(itertools.product((1, -1), repeat=n)))


def p_of(d, greater=False):
    """The sign-flip test by counting: the share of all flips whose (absolute) sum is at least the observed one."""
    d = np.array(d)
    sums, seen = flips(len(d)) @ d, d.sum()
    if not greater:
        sums, seen = abs(sums), abs(seen)
    return np.mean(sums >= seen - 1e-9)


def inverted(d, confidence):
    """The interval that inverts the test, by bisection: shifts that a one-sided test at k / 2^n does not reject."""
    d, ways = np.array(d), 2 ** len(d)
    k = max(int((1 - confidence) / 2 * ways + 1e-9), 1)
    ends = []
    for sign in (1, -1):
        low, high = (sign * d).min() - 1, (sign * d).mean()
        for _ in range(45):
            middle = (low + high) / 2
            low, high = (middle, high) if p_of(sign * d - middle, True) <= k / ways else (low, middle)
        ends.append(sign * high)
    return ends[0], ends[1], 1 - 2 * k / ways


def closed(levels):
    """The primary question: the test of the mean over all levels, and of each level the largest p of the sets it is in."""
    d = np.array(levels)
    found = [0.0] * len(d)
    for size in range(1, len(d) + 1):
        for members in itertools.combinations(range(len(d)), size):
            p = p_of(d[list(members)].mean(axis=0))
            for i in members:
                found[i] = max(found[i], p)
    return p_of(d.mean(axis=0)), found


def largest(family, greater=False):
    """The step-down test by the largest statistic: {name: p} of {name: differences}, all of the same seeds."""
    d = np.array(list(family.values()))
    size = np.sqrt((d**2).sum(axis=1, keepdims=True))
    each = flips(d.shape[1]) @ (d / np.where(size, size, 1)).T
    each = each if greater else abs(each)
    seen, found, before = each[0], {}, 0.0
    for i in sorted(range(len(d)), key=lambda i: -seen[i]):
        left = [j for j in range(len(d)) if seen[j] <= seen[i]]
        before = max(before, np.mean(each[:, left].max(axis=1) >= seen[i] - 1e-9))
        found[list(family)[i]] = before
    return found


def corrected(family, greater=False):
    """`largest` where conditions may lack seeds: those of the same seeds together, and Bonferroni between."""
    groups = defaultdict(dict)
    for name, d in family.items():
        groups[tuple(d)][name] = list(d.values())
    return {name: min(p * len(groups), 1.0) for some in groups.values() for name, p in largest(some, greater).items()}


def sequence(p):
    return [max(p[: i + 1]) for i in range(len(p))]


def fixed(value, digits):
    return f"{value:.{digits}f}" if round(value, digits) else f"{0:.{digits}f}"


def written(values, digits=2):
    value, low, high = (fixed(v, digits) for v in values)
    return f"{value} [{low}, {high}]"


def short(p):
    return f"{p:.3f}".rstrip("0").rstrip(".") if p >= 0.001 else f"{p:.1g}"


def three(value):
    value = float(f"{value:.3g}")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


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


LEVELS = ("80 %", "95 %")


def key_of(name, level):
    return DENSE if name == "dense" else (name, level, "0")


def judged(again, scope, by):
    """{condition: (verdict, within, seeds, mean, low, high, p winning, p worse)}"""
    found = {}
    names = {key[0] for task, key in again.last[by] if key != DENSE}
    for name in names:
        d = [list(again.differences(scope, key_of(name, level), DENSE, by).values()) for level in LEVELS]
        wins = sequence([p_of(np.array(x) + MARGIN, True) for x in d])
        loses = sequence([p_of(-np.array(x) - MARGIN, True) for x in d[::-1]])[::-1]
        for level, x, win, lose in zip(LEVELS, d, wins, loses, strict=True):
            verdict = "winning" if win <= 0.05 else "worse" if lose <= 0.05 else "undecided"
            within = sum(v > -MARGIN for v in x)
            found[key_of(name, level)] = (verdict, within, len(x), np.mean(x), *inverted(x, 0.9)[:2], win, lose)
    return found


def all_tests(again):
    """{(family, scope, by, level, first, second): (differences, p, corrected p)} of all tests but those against dense."""
    found = {}
    d = [again.differences("all tasks", key_of("taylor", v), key_of("magnitude", v)) for v in LEVELS]
    whole, levels = closed([list(x.values()) for x in d])
    overall = {s: np.mean([x[s] for x in d]) for s in d[0]}
    found["primary", "all tasks", "return", "", "taylor", "magnitude"] = overall, whole
    for level, x, p in zip(LEVELS, d, levels, strict=True):
        found["primary", "all tasks", "return", level, "taylor", "magnitude"] = x, p
    for by in ("return", "success"):
        for scope in again.scopes(by):
            for method in ("magnitude", "taylor"):
                family = {
                    ("control", scope, by, level, method, control): again.differences(
                        scope, key_of(method, level), key_of(control, level), by
                    )
                    for level in LEVELS
                    for control in ("random (control)", f"{method} + reinit")
                }
                found |= {name: (family[name], p) for name, p in corrected(family, greater=True).items()}
            if (scope, by) != ("all tasks", "return"):
                family = {
                    ("exploratory", scope, by, level, "magnitude", "taylor"): again.differences(
                        scope, key_of("magnitude", level), key_of("taylor", level), by
                    )
                    for level in LEVELS
                }
                found |= {name: (family[name], p) for name, p in corrected(family).items()}
    return {
        name: (np.array(list(d.values())), p_of(list(d.values()), name[0] == "control"), p)
        for name, (d, p) in found.items()
    }


# --- the page against it ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read(made):
    _, html, rows = made
    return Page(html.read_text()), Again(rows)


@pytest.fixture(scope="module")
def tests(read):
    return all_tests(read[1])


def test_the_table_of_verdicts_and_the_grids(read):
    page, again = read
    rows = page.rows("verdicts")
    scopes = [(scope, by) for by in ("return", "success") for scope in again.scopes(by)]
    assert len(rows) == len(scopes) * 2 * 5 == 4 * 10
    expected = {scope: judged(again, *scope) for scope in scopes}
    for row in rows:
        key = (row["runs of"], row["pruned"], "0")
        verdict, within, seeds, *numbers, win, lose = expected[row["task"], row["by"]][key]
        assert row["verdict"] == verdict
        assert row["within the margin"] == f"{within} of {seeds}"
        assert close(row["difference"], written(numbers))
        assert (row["p winning"], row["p worse"]) == (short(win), short(lose))
    assert {row["verdict"] for row in rows} == {"winning", "worse", "undecided"}
    shapes = {"winning": "▲", "undecided": "◆", "worse": "▼"}
    for scope, by in scopes:
        for row in page.rows(f"grid-{by}-{scope.replace(' ', '-').lower()}-0"):
            for level in LEVELS:
                verdict, within, seeds, *_ = expected[scope, by][row["pruned"], level, "0"]
                assert row[level] == f"{shapes[verdict]} {verdict}{within} of {seeds}"
    lost = next(r for r in rows if (r["runs of"], r["pruned"], r["task"]) == ("taylor + reinit", "95 %", "all tasks"))
    assert lost["within the margin"].endswith("of 5")


def test_the_table_of_other_tests(read, tests):
    page, _ = read
    rows = page.rows("comparisons")
    found = [tuple(row[name] for name in ("family", "task", "by", "pruned", "first", "second")) for row in rows]
    assert sorted(found) == sorted(tests)
    for row, name in zip(rows, found, strict=True):
        d, p, after = tests[name]
        assert row["first above"] == f"{sum(d > 0)} of {len(d)}"
        assert close(row["difference"], written((d.mean(), *inverted(d, 0.9 if name[0] == "control" else 0.95)[:2])))
        assert (row["p"], row["corrected p"]) == (short(p), short(after))
        assert row["decided"] == ("yes" if after <= 0.05 else "no")
    assert {row["decided"] for row in rows} == {"yes", "no"}


def worded(name, d, p, after):
    """A comparison as a sentence: the statistic that is tested, with its interval and p."""
    family, scope, by, level, first, second = name
    low, high, confidence = inverted(d, 0.9 if family == "control" else 0.95)
    value = d.mean()
    if after <= 0.05 and value < 0:
        first, second, value, low, high = second, first, -value, -high, -low
    digits = 3 if high - low < 0.1 else 2
    size = fixed(abs(value), digits)
    size = size if float(size) or not value else f"less than {10**-digits:g}"
    where = ", ".join(filter(None, (level, scope if scope != "all tasks" else "")))
    where += ", success" if by == "success" else ""
    more = "higher" if value >= 0 else "lower"
    which = "p" if p == after else "corrected p"
    also = {"primary": "; primary question", "exploratory": "; exploratory"}.get(family, "")
    interval = f"{100 * confidence:.3g} % interval {fixed(low, digits)} to {fixed(high, digits)}"
    return f"{where}: {first} scores {size} {more} than {second} ({interval}, {which} = {short(after)}{also})."


def test_every_comparison_is_one_sentence_of_what_is_tested(read, tests):
    page, _ = read
    said = [words for words in page.said("li") if " scores " in words]
    expected = [worded(name, *test) for name, test in tests.items() if name[3]]
    assert len(said) == len(expected)
    left = list(expected)
    for words in said:
        match = next((one for one in left if close(words, one)), None)
        assert match, words
        left.remove(match)
    decided = [words for words in said if float(re.search(r"p = ([\de.-]+)", words)[1]) <= 0.05]
    assert said[: len(decided)] == decided  # they come first; the rest is folded
    assert sum(test[2] <= 0.05 for name, test in tests.items() if name[3]) == len(decided)
    assert f"{len(said) - len(decided)} undecided comparisons" in page.said("summary")


def test_the_headline(read, tests):
    page, again = read
    head = page.said()[1:]  # after the line below the title
    d, p, _ = tests["primary", "all tasks", "return", "", "taylor", "magnitude"]
    low, high, confidence = inverted(d, 0.95)
    digits = 3 if high - low < 0.1 else 2
    interval = f"{100 * confidence:.3g} % interval {fixed(low, digits)} to {fixed(high, digits)}"
    assert close(
        head[0],
        f"Taylor tickets do better than magnitude tickets over 2 tasks, by {fixed(d.mean(), digits)} of dense on average "
        f"over 2 sparsities ({interval}, p = {short(p)}, {len(d)} seeds).",
    )
    question = next(i for i, words in enumerate(head) if words.startswith("Primary question: "))
    assert re.search(r"Declared on \d{4}-\d\d-\d\d, before the first run\.$", head[question])
    # Each line names every condition of its levels once, with its verdict; and who is shown to beat whom.
    verdicts = {by: judged(again, again.main(by), by) for by in ("return", "success")}
    assert {again.main("success") in line for line in head[1:question] if "by success" in line} == {True}
    words = {"match": "winning", "matches": "winning", "worse": "worse", "undecided": "undecided"}
    seen = set()
    for line in head[1:question]:
        about, _, text = line.partition(": ")
        metrics = [by for by in ("return", "success") if by in about] or ["return"]
        levels = re.findall(r"\d+ %", about)
        named, beaten = {}, defaultdict(set)
        for clause in text.rstrip(".").split("; "):
            who, verdict, _, others = re.fullmatch(
                r"(.*?)(?: (?:is |are )?(matches|match|worse|undecided)(?: than| against)?(?: dense)?)?"
                r"(?:, controls included)?((?: and)? beats? (.*))?",
                clause,
            ).groups()
            labels = who.replace("both methods", "magnitude and taylor").replace("every method", "everything")
            labels = [name.strip() for name in re.split(r",| and ", labels)]
            if labels == ["everything"]:
                labels = ["magnitude", "taylor", "random (control)"]
            if verdict:
                named |= dict.fromkeys(labels, words[verdict])
            for name in labels:
                beaten[name] |= {one.strip() for one in re.split(r",| and ", others)} if others else set()
        for by, level, name in itertools.product(metrics, levels, ("magnitude", "taylor")):
            won = {
                test[5] if d.mean() > 0 else test[4]
                for test, (d, _, after) in tests.items()
                if after <= 0.05
                and test[1:4] == (again.main(by), by, level)
                and (test[4] if d.mean() > 0 else test[5]) == name
            }
            won = {"its reinit control" if one == f"{name} + reinit" else one for one in won}
            assert beaten[name] <= won, (line, name)
            assert beaten[name] == won or len(metrics) == 2, (line, name)
        for by, level in itertools.product(metrics, levels):
            expected = {k[0]: v[0] for k, v in verdicts[by].items() if k[1] == level and "+" not in k[0]}
            assert named == expected
            seen.add((by, level))
    assert seen == {(by, level) for by in verdicts for level in LEVELS}


def test_the_main_chart_has_a_dot_for_each_seed(read):
    """Positions are an axis of scores: the random policy's line stands at 0, dense's at 1, a dot where its title says."""
    page, again = read
    shown = dict(page.panels)
    assert len(shown) == len(page.panels) == (1 + 2 + 1) * 2  # all tasks, each task by return, one by success; 2 levels
    for title, marks in shown.items():
        by = "success" if title.endswith("by success") else "return"
        scope = next((task for task in again.tasks if title.startswith(task)), again.main(by))
        level = re.search(r"\d+ %", title)[0]
        where = {text: float(a["x"][:-1]) for tag, a, text in marks if tag == "text" and "x" in a}
        zero, one = where["random policy"], where["dense"]
        dots = defaultdict(dict)
        for tag, attributes, text in marks:
            if tag == "use":
                name, seed, value = re.fullmatch(r"(.+), seed (\d+): (-?[\d.]+)", text).groups()
                dots[name][int(seed)] = float(attributes["x"][:-1]), float(value)
        verdicts = judged(again, scope, by)
        assert set(dots) == {"dense", *(key[0] for key in verdicts)}
        for name, found in dots.items():
            scores = again.by_seed(scope, key_of(name, level), by)
            assert found.keys() == scores.keys()
            for seed, (x, value) in found.items():
                assert value == pytest.approx(scores[seed], abs=0.0051)
                assert x == pytest.approx(zero + scores[seed] * (one - zero), abs=0.02)
            mean = next(a for tag, a, text in marks if tag == "line" and text.startswith(f"{name}, mean"))
            assert float(mean["x1"][:-1]) == pytest.approx(zero + np.mean([*scores.values()]) * (one - zero), abs=0.02)
            if name != "dense":
                verdict, within, seeds, *_ = verdicts[name, level, "0"]
                shape = {"winning": "▲", "undecided": "◆", "worse": "▼"}[verdict]
                assert f"{shape} {within} of {seeds}" in [text for tag, _, text in marks if tag == "text"]
        edge = next(a for tag, a, _ in marks if tag == "line" and "stroke-dasharray" in a)
        assert float(edge["x1"][:-1]) == pytest.approx(zero + (1 - MARGIN) * (one - zero), abs=0.02)
        best = max((v[1] / v[2] for k, v in verdicts.items() if k[0] in ("magnitude", "taylor") and k[1] == level))
        winners = [
            n for n in ("magnitude", "taylor") if verdicts[n, level, "0"][1] / verdicts[n, level, "0"][2] == best
        ]
        caption = next(c for c in page.said("figcaption") if c.startswith(f"{title} "))
        said = f"Most seeds within 10 %: {' and '.join(winners)} (" if best else "No ticket is within 10 % of dense"
        assert said in caption
        if scope in again.tasks:  # the axis has the returns (success rates) besides
            low, high = again.ends[by, scope]
            lowest = max(float(a["y"]) for tag, a, _ in marks if tag == "text")
            ticks = [t for tag, a, t in marks if tag == "text" and float(a["y"]) == lowest and "text-anchor" in a]
            values = [float(tick.replace(",", "")) for tick in ticks]
            assert values == pytest.approx([low, (low + high) / 2, high], abs=0.01 * (high - low))


def test_the_numbers_behind_the_main_chart(read):
    page, again = read
    names = [name for name in page.tables if name.startswith("seeds-")]
    assert len(names) == 8
    for name in names:
        by = "success" if name.endswith("by-success") else "return"
        scope = next((task for task in again.tasks if name.startswith(f"seeds-{task.lower()}")), again.main(by))
        level = f"{re.search(r'(80|95)-pruned', name)[1]} %"
        for row in page.rows(name):
            scores = again.by_seed(scope, key_of(row["runs of"], level), by)
            for seed in range(6):
                assert close(row[f"seed {seed}"], fixed(scores[seed], 2) if seed in scores else "")
            assert close(row["mean"], fixed(np.mean([*scores.values()]), 2))


def test_the_results_table(read):
    page, again = read
    rows = page.rows("results")
    assert {r["task"] for r in rows} == {"all tasks", *again.tasks}
    conditions = {c for _, c in again.last["return"]}
    assert len(rows) == 3 * len(conditions) == 3 * 11
    for row in rows:
        key = key_of(row["runs of"], row["pruned"])
        scores = again.scores(row["task"], key)
        assert int(row["runs"]) == sum(map(len, scores))
        assert close(row["score (IQM)"], written(bounded(iqm, scores)))
        assert close(row["mean"], written(bounded(mean, scores)))
        assert close(row["optimality gap"], written(bounded(gap, scores)))
        if row["task"] == "all tasks":
            assert close(row["median"], written(bounded(median, scores)))
            assert row["return (IQM)"] == row["success (mean)"] == ""
        else:
            returns = [np.array(list(again.last["return"][row["task"], key].values()))]
            assert row["median"] == ""
            assert close(row["return (IQM)"], written(bounded(iqm, returns), 1))
            success = again.last["success"].get((row["task"], key))
            expected = written(bounded(mean, [np.array(list(success.values()))])) if success else ""
            assert close(row["success (mean)"], expected)


def scope_and_level(chart):
    """`View: scope, 95 % pruned` as (scope, 95 %)."""
    scope, _, level = chart["title"].removeprefix(f"{chart['view']}: ").partition(", ")
    return scope, level.removesuffix(" pruned")


def by_view(page, view):
    return [chart for chart in page.charts if chart["view"] == view]


def test_the_charts(read):
    page, again = read
    counts = defaultdict(int)
    for chart in page.charts:
        counts[chart["view"]] += 1
        if "x" not in chart or chart["view"] in ("Return by size", "Training measurements"):
            continue
        scope, level = scope_and_level(chart)
        assert (chart["title"] in page.folded) == (
            scope != "all tasks" and any(scope_and_level(one)[0] == "all tasks" for one in by_view(page, chart["view"]))
        )
        tasks = again.scopes()[scope]
        for row in chart["rows"]:
            series, x, y, low, high, runs = row
            key = key_of(series, chart["ticks"][x] if chart["ticks"] else level)
            by = "success" if "success" in chart["y"] else "return"
            statistic = mean if by == "success" or "mean" in chart["y"] else iqm
            step = x
            if chart["x"] == "seconds of training":  # a run's seconds, spread evenly over its steps
                (task,) = tasks
                names = ("train_seconds", "start_seconds", "env_steps")
                took, start, steps = (np.array(again.values[task, key, f"cost/{n}"]) for n in names)
                step = round(x / np.mean((took - start) / steps), 1)
            if step in (0, 500, 1000, 1500, 2000) and not chart["ticks"] and "score" not in chart["x"]:
                samples = [np.array([s[step] for _, s in sorted(again.curves[by][t, key].items())]) for t in tasks]
            else:
                samples = [np.array(list(again.last[by][t, key].values())) for t in tasks]
            if "score" in chart["x"] + chart["y"]:
                samples = [again.scaled(t, s) for t, s in zip(tasks, samples, strict=True)]
            if chart["y"] == "share of runs above":
                samples, statistic = [(s > x).astype(float) for s in samples], mean
            assert runs == sum(map(len, samples))
            assert [y, low, high] == pytest.approx(list(bounded(statistic, samples)), rel=1e-5)
    # all tasks and each: curves at 2 sparsities (with success on the Meta-World task); sparsity too; profiles over all tasks.
    assert counts == {
        "Return by time": 4,
        "Return by size": 2,
        "Return against sparsity": 3,
        "Success against sparsity": 1,
        "Learning curves": 2 * 3,
        "Learning curves of success": 2,
        "Training measurements": 2 * 2 * 3,
        "Performance profiles": 2,
        "Aggregate scores": 3 * 2,
        "Probability of improvement": 3 * 2,
        "Share of each layer kept": 2 * 2,
        "What the policy still reads": 2 * 2,
        "Overlap of masks": 2 * 2 * 2,
        "Scores and threshold": 2 * 2 * 2,
    }


def test_training_measurements_are_those_of_the_table(read):
    page, again = read
    names = {"critic loss": "critic_loss", "temperature alpha": "alpha", "mean Q": "q_mean"}
    for chart in by_view(page, "Training measurements"):
        scope, level = scope_and_level(chart)
        task, level = level.split(", ")
        assert scope == chart["y"]
        measured = by_run([r for r in again.rows if r["task"] == task], f"train/{names[chart['y']]}")
        for series, step, *numbers, runs in chart["rows"]:
            found = measured[task, key_of(series, level.removesuffix(" pruned"))]
            sample = np.array([values[step] for _, values in sorted(found.items())])
            assert runs == len(sample)
            assert numbers == pytest.approx(list(bounded(iqm, [sample])), rel=1e-5)


def better(first, second):
    """The chance that a run of the first beats one of the second, ties half; the mean over tasks."""
    pairs = (np.sign(a[..., :, None] - b[..., None, :]) for a, b in zip(first, second, strict=True))
    return np.mean([(1 + d).mean(axis=(-1, -2)) / 2 for d in pairs], axis=0)


def test_the_intervals_and_the_probability_of_improvement(read):
    page, again = read
    statistics = {"IQM": iqm, "mean": mean, "median": median, "optimality gap": gap}
    for chart in by_view(page, "Aggregate scores"):
        scope, level = scope_and_level(chart)
        assert {row[0] for row in chart["rows"]} == set(statistics) - ({"median"} if scope in again.tasks else set())
        found = {}
        for statistic, name, *numbers, runs in chart["rows"]:
            scores = again.scores(scope, key_of(name, level))
            assert numbers == pytest.approx(list(bounded(statistics[statistic], scores)), rel=1e-5)
            assert runs == sum(map(len, scores))
            found[statistic, name] = numbers[0]
        ranked = sorted(("magnitude", "taylor"), key=lambda name: -found["IQM", name])
        named = [f"{name} {fixed(found['IQM', name], 2)}" for name in ("dense", *ranked)]
        assert page.findings[chart["title"]] == f"IQM: {named[0]}, {named[1]} and {named[2]}."
    for chart in by_view(page, "Probability of improvement"):
        scope, level = scope_and_level(chart)
        assert len(chart["rows"]) == 1 + 2 + 2 + 2  # each other; dense; the random control; reinit
        found = {}
        for _, row, *numbers, _ in chart["rows"]:
            sides = [again.scores(scope, key_of(name, level)) for name in row.split(" > ")]
            assert numbers == pytest.approx(list(bounded(better, *sides)), rel=1e-5, abs=1e-9)
            found[row] = fixed(numbers[0], 2)
        named = [f"{name} {found[f'{name} > dense']}" for name in ("magnitude", "taylor")]
        assert page.findings[chart["title"]] == f"The chance to score above a dense agent: {' and '.join(named)}."


def test_the_overlaps_and_the_scores(read):
    page, again = read
    for chart in by_view(page, "Overlap of masks"):
        task, level, network = chart["title"].removeprefix("Overlap of masks: ").split(", ")
        assert len(chart["rows"]) == 3 * 3 - 3  # three methods with each other, and with other seeds
        for one, other, *numbers, pairs in chart["rows"]:
            kind = "seed/" if one == other else f"method/{other}"
            found = [
                [
                    float(r["value"])
                    for r in again.rows
                    if (r["task"], r["method"]) == (task, one)
                    and r["metric"].startswith(f"{metric}/{network}/{kind}")
                    and percent(r["sparsity"]) == level.removesuffix(" pruned")
                ]
                for metric in ("overlap", "overlap_by_chance")
            ]
            assert pairs == len(found[0]) == len(found[1]) == (15 if one == other else 6)
            assert numbers == pytest.approx([np.mean(v) for v in found], rel=1e-5)
        one, other, share, chance, _ = max(chart["rows"], key=lambda r: r[2] - r[3])
        who = f"two seeds of {one}" if one == other else f"{one} and {other}"
        assert (
            page.findings[chart["title"]]
            == f"Farthest above chance: {who}, {fixed(share, 2)} (by chance {fixed(chance, 2)})."
        )
    for chart in by_view(page, "Scores and threshold"):
        task, network, method = chart["title"].removeprefix("Scores and threshold: ").split(", ")
        cuts = [name.removeprefix("kept at ") for name in chart["columns"][3:]]
        assert cuts == list(LEVELS)
        for low, high, weights, *kept in chart["rows"]:
            assert high == pytest.approx(low + 0.2)
            for level, count in zip(cuts, kept, strict=True):
                parts = [
                    again.values[task, (method, level, ""), f"scores_{part}[{low:.1f}]/{network}"]
                    for part in ("kept", "pruned")
                ]
                assert count == sum(parts[0])
                assert weights == sum(map(sum, parts))
        said = page.findings[chart["title"]]
        assert said.startswith(f"Of {sum(row[2] for row in chart['rows']):,} weights, masks keep ")
        for i, level in enumerate(cuts):
            ends = again.values[task, (method, level, ""), f"score_threshold/{network}"]
            span = " to ".join(dict.fromkeys(f"{10**end:.2g}" for end in (min(ends), max(ends))))
            assert f"{sum(row[3 + i] for row in chart['rows']):,} at {level} (|score| of at least {span})" in said


def test_captions_state_what_the_charts_show(read):
    page, _ = read
    for chart in page.charts:
        rows, said, view = chart["rows"], page.findings[chart["title"]], chart["view"]
        assert said.endswith(".")
        if view == "Share of each layer kept":
            series, layer, share = min(rows, key=lambda r: r[2])
            assert close(said, f"Narrowest: {series} keeps {float(f'{100 * share:.2g}'):g} % of {layer}.")
        if view == "What the policy still reads":
            assert any(row[2] == 0 for row in rows) == said.startswith("Not read on any seed")
        if "x" not in chart:
            continue
        ends = {row[0]: row for row in sorted(rows, key=lambda r: r[1])}
        tickets = {name: ends[name] for name in ("magnitude", "taylor")}
        if view.startswith("Learning curves") or view == "Training measurements":
            ranked = sorted(tickets.values(), key=lambda r: -r[2])
            named = [f"{r[0]} {three(r[2])}" for r in (ends["dense"], *ranked)]
            assert said == f"At the last evaluation: {named[0]}, {named[1]} and {named[2]}."
        elif view == "Return by time":
            took = sorted(three(r[1]) for r in tickets.values())
            assert all(one in said for one in (*took, f"{three(ends['dense'][1])} s for dense"))
        elif view == "Performance profiles":
            share = {row[0]: row[2] for row in rows if row[1] == pytest.approx(0.9)}
            named = [f"{name} {100 * round(share[name], 2):g} %" for name in ("dense", "magnitude", "taylor")]
            assert said == f"Runs above 0.9: {named[0]}, {named[1]} and {named[2]}."
        elif view.endswith("against sparsity"):
            for x, tick in enumerate(chart["ticks"]):
                best = max((r for r in rows if r[1] == x and r[0] in tickets), key=lambda r: r[2])
                assert f"{best[0]} at {tick} ({three(best[2])})" in said
            assert said.endswith(f"dense: {three(ends['dense'][2])}.")
        else:
            least = min((r for r in rows if r[0] in tickets), key=lambda r: r[1])
            dense = next(r for r in rows if r[0] == "dense")
            assert said == (
                f"The smallest ticket, {least[0]}, takes {three(least[1])} bytes and returns {three(least[2])}; dense takes "
                f"{three(dense[1])} and returns {three(dense[2])}."
            )


def test_what_it_saves(read):
    page, again = read
    rows = page.rows("savings")
    assert len(rows) == 2 * 2
    shown = {}
    for row in rows:
        names = ("magnitude", "taylor")

        def both(metric, row=row, names=names):
            mine = [v for n in names for v in again.values[row["task"], key_of(n, row["pruned"]), f"cost/{metric}"]]
            return np.mean(mine), np.mean(again.values[row["task"], DENSE, f"cost/{metric}"])

        seconds, dense = np.subtract(both("train_seconds"), both("start_seconds"))
        flops, whole = both("flops")
        assert (row["seconds"], row["seconds, dense"]) == (three(seconds), three(dense))
        assert row["times as fast"] == f"{dense / seconds:.2g}"
        assert row["FLOPs of dense"] == f"{100 * flops / whole:.2g} %"
        assert int(row["runs"]) == 2 * 6
        shown[row["task"], row["pruned"]] = (three(seconds), three(dense), f"{dense / seconds:.2g}")
    for task in again.tasks:
        wins = {
            level
            for scope in ("all tasks", task)
            for (name, level, _), found in judged(again, scope, "return").items()
            if found[0] == "winning" and name in ("magnitude", "taylor")
        }
        level = max(wins or LEVELS)
        took, dense, times = shown[task, level]
        expected = f"On {task} a {level} ticket trained in {took} s where dense took {dense} s ({times} times faster), "
        expected += "start-up and compilation left out. "
        row = next(row for row in rows if (row["task"], row["pruned"]) == (task, level))
        small, whole = (float(row[name].replace(",", "")) for name in ("bytes", "bytes, dense"))
        size, of = (f"{three(v / 1000)} kB" if v >= 1000 else f"{v:.0f} bytes" for v in (small, whole))
        expected += f"Exported it takes {size}, dense {of} ({whole / small:.2g} times smaller)."
        assert expected in page.said()
    for chart in by_view(page, "Return by size"):
        sizes = defaultdict(list)
        for series, size, value, *_, runs in chart["rows"]:  # of a series, the least sparse first
            task = chart["title"].removeprefix("Return by size: ")
            key = key_of(series, LEVELS[len(sizes[series])])
            sizes[series].append(size)
            returns = [*again.last["return"][task, key].values()]
            assert (value, runs) == (pytest.approx(np.mean(returns), rel=1e-5), len(returns))
        for i, level in enumerate(LEVELS):
            row = next(row for row in rows if (row["task"], row["pruned"]) == (task, level))
            tickets = np.mean([sizes[name][i] for name in ("magnitude", "taylor")])
            assert row["bytes"].replace(",", "") == f"{tickets:.0f}"
            assert row["bytes, dense"].replace(",", "") == f"{sizes['dense'][0]:.0f}"


def test_the_pictures_of_masks(read):
    page, again = read
    values = defaultdict(dict)
    for row in again.rows:
        values[row["task"], condition(row), row["metric"]][row["seed"]] = float(row["value"])
    names = set()
    for chart in by_view(page, "Share of each layer kept") + by_view(page, "What the policy still reads"):
        task, level = scope_and_level(chart)
        for series, row, share in chart["rows"]:
            key = (task, (series, level, "0"))
            if chart["view"] == "What the policy still reads":
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
    values = again.values
    for row in page.rows("tickets"):
        key, net = (row["task"], key_of(row["runs of"], row["pruned"])), row["network"]
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
            assert close(row.get(name, ""), f"{np.mean(stable):.3f}" if stable else "")
    overlaps = page.rows("overlaps")
    assert {row["and of"] for row in overlaps} <= set(again.tasks)  # methods and seeds have their heat maps
    for row in overlaps:
        other = f"task/{row['and of']}"
        for column, kind in (("Jaccard index", "overlap"), ("by chance", "overlap_by_chance")):
            found = [
                float(r["value"])
                for r in again.rows
                if r["task"] == row["task"]
                and (r["method"], percent(r["sparsity"])) == (row["mask of"], row["pruned"])
                and r["metric"].startswith(f"{kind}/{row['network']}/{other}")
            ]
            assert int(row["pairs"]) == len(found) == 6
            assert close(row[column], f"{np.mean(found):.3f}")
    seconds = 0.0
    for row in page.rows("costs"):
        key = (row["task"], key_of(row["runs of"], row["pruned"]))

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
    total = next(words for words in page.said() if words.startswith("In all"))
    runs = 12 + 12 * 10 - 1
    assert total.startswith(f"In all, {runs} runs of {runs * 2000:,} environment steps took {seconds / 3600:.2f} hours")
    seconds = [
        float(r["value"]) for r in again.rows if r["metric"] == "cost/mask_seconds" and condition(r)[0] == "taylor"
    ]
    expected = (
        f"24 such masks with 100 batches took {np.median(seconds):.2f} s each (median; at most {max(seconds):.2f} s)"
    )
    assert expected in next(words for words in page.said() if words.startswith("docs/saliency-pruning.md"))


def test_the_lines_between_agents(read):
    page, again = read
    rows = page.rows("barriers")
    assert len(rows) == 2 * 2 * (3 + 3) * 2  # tasks, sparsities, lines (from dense; between three methods), metrics
    for row in rows:
        kind = "parent" if row["from"] == "dense" else "methods"
        for column, name in (("at its start", "value_one"), ("at its end", "value_other"), ("barrier", "barrier")):
            found = again.values[
                row["task"], key_of(row["line to"], row["pruned"]), f"{name}/{kind}/{row['from']}/{row['metric']}"
            ]
            assert len(found) == int(row["seeds"]) == 6
            assert close(row[column], f"{np.mean(found):.4g}")


def test_flops_by_hand(made):
    rows = [row for row in made[2] if row["task"] == "Pendulum-v1" and row["seed"] == "0" and row["method"] == "dense"]
    found = {row["metric"]: float(row["value"]) for row in rows}
    actor = 2 * (3 * 8 + 8 * 8 + 8 * 2)
    critics = 2 * 2 * (4 * 8 + 8 * 8 + 8 * 1)
    assert found["cost/flops_dense"] == found["cost/flops"] == 1900 * 256 * (4 * actor + 6 * critics) + 2000 * actor


# --- what it may not say ---------------------------------------------------------------------------------------------


def rows_of(returns, levels=("0.9",), rewinds=("0",)):
    """Tidy rows of one task: {method: returns by seed}, the same at each level; untrained and random policy 0."""
    found = [
        TidyRow("T-v0", 0, "random-policy", "", "", "", "", 0, f"random_policy/return{what}", 0.0)
        for what in ("", "_error")
    ]
    for method, values in returns.items():
        for seed, value in enumerate(values):
            for level, rewind in [("", "")] if method == "dense" else itertools.product(levels, rewinds):
                about = ("T-v0", seed, method, "", level, rewind, f"{method}{seed}")
                found += [TidyRow(*about, 0, "evaluation/return", 0.0), TidyRow(*about, 10, "evaluation/return", value)]
    return found


def said_of(returns, **more):
    """The first screen of made-up runs as (its text, what it is made of)."""
    runs = Runs(rows_of(returns, **more))
    found = families(runs, ("taylor", "magnitude"), MARGIN)
    said = answer(runs, found, Declared("", True, ()))
    return answer_section(said, runs, found, styles(runs)), said, runs


@pytest.mark.parametrize(
    ("one", "together", "said"),
    [
        (2.0, 12.0, "so the claim holds."),
        (20.0, 120.0, "so the claim holds for one mask, and not for all those of a task and seed together."),
        (31.0, 31.0, "so the claim does not hold here."),
    ],
)
def test_the_claimed_seconds_are_checked(one, together, said):
    assert claim(MaskCost(6, (100,), one, one, together)).endswith(said)
    assert claim(None) == "No mask of this grid took gradients."


def test_two_seeds_give_counts_and_no_test():
    page, said, _ = said_of({"dense": [100, 101], "magnitude": [20, 21], "taylor": [98, 99]})
    assert said.headline == [
        "Taylor scores above magnitude on 2 of 2 seeds; the mean difference is 0.78; fewer than 5 seeds give no test.",
        "90 %: seeds within 10 % of dense: magnitude 0 of 2 and taylor 2 of 2.",
    ]
    assert said.decided == said.undecided == []
    assert said.untested == ["90 %: taylor is above magnitude on 2 of 2 seeds; mean difference 0.78."]
    text = " ".join([*said.headline, *said.notes, page])
    assert not re.search(r"interval \S+ to|p = |about \d+ (seeds )?would", text)
    assert page.count("too few seeds") == 2


def test_a_task_that_dense_does_not_learn_has_returns_and_no_verdicts():
    page, said, runs = said_of({"dense": [5.0, -5.0, 1.0, 2.0, 0.0], "taylor": [9.0, 8.0, 9.0, 7.0, 9.0]})
    assert runs.scored == []
    assert all(result.score is None and result.returns for result in results(runs))
    assert said.headline == ["90 %: the dense agents learned too little for tickets to be judged."]
    assert "the dense agents learned too little (a random policy returns 0" in said.notes[0]
    assert page.count("<use") == 10
    assert "seed 0: 9.0" in page
    assert "winning:" in page
    assert "▲ winning</" not in page
    assert "within" not in Page(f"<table data-name=x></table>{page}<script id=data>0</script>").panels[0][1][-1][2]


def test_many_sparsities_and_rewind_points_take_one_sentence():
    dense = list(np.linspace(99, 101, 8))
    levels, rewinds = ("0.5", "0.8", "0.9", "0.95"), ("0", "2000")
    runs = {"dense": dense, "magnitude": dense, "taylor": [d - 40 for d in dense]}
    _, said, _ = said_of(runs, levels=levels, rewinds=rewinds)
    assert said.headline[0].startswith(
        "Magnitude tickets do better than taylor tickets, by 0.400 of dense on average over 4 sparsities and 2 rewind points"
    )
    assert said.headline[1:] == [
        "Rewound to step 0 and rewound to step 2000: magnitude matches dense at every sparsity; taylor is worse at every "
        "sparsity."
    ]


def test_a_lost_run_far_away_does_not_squeeze_the_others():
    dense = list(np.linspace(99, 101, 8))
    page, _, _ = said_of({"dense": dense, "magnitude": [*dense[:7], -1e6], "taylor": dense})
    marks = Page(f"<table data-name=x></table>{page}<script id=data>0</script>").panels[0][1]
    where = {text: float(a["x"][:-1]) for tag, a, text in marks if tag == "text" and "x" in a and "%" in a["x"]}
    assert where["dense"] - where["random policy"] > 20
    assert any("magnitude, seed 7" in text for tag, _, text in marks if tag == "text")  # an arrow at the edge


# --- files and figures -----------------------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes_and_a_table_that_reads_back(made, read):
    config, html, _ = made
    before, rows = html.read_text(), tidy_rows(config)
    assert read_tidy(config.output_dir / "tidy.csv") == rows
    found = plan(config)
    finished = [spec for spec in found.specs if (config.output_dir / spec.path / "spec.json").exists()]
    assert page(found, rows, finished) == before
    assert lth.report(config).read_text() == before  # from the table that was written, which is read back
    columns = gzip.decompress(base64.b64decode(read[0].data["tidy"])).decode().split("\0")
    lines = map(",".join, zip(*(column.splitlines() for column in columns), strict=True))
    assert "".join(f"{line}\n" for line in lines).encode() == (config.output_dir / "tidy.csv").read_bytes()


def test_the_page_needs_nothing_else_names_no_place_and_says_where_it_is_from(made):
    text = made[1].read_text()
    assert str(made[0].output_dir) not in text
    outside = re.sub(r"<script>.*?</script>|<a href=\"https://[^\"]*\">", "", text, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:)", outside)
    footer = text[text.index("<footer>") : text.index("</footer>")]
    question = json.loads((made[0].output_dir / "question.json").read_text())
    assert f"Question declared {question['time'][:10]}; made with lth {lth.__version__}, JAX " in footer
    assert 'href="https://github.com/' in footer
    assert (
        f"To cite: The lth authors. lth: winning lottery tickets for deep reinforcement learning, version {lth.__version__}."
        in footer
    )
    settings = re.search(r'id="config-text">(.*?)</pre>', text, re.DOTALL)[1]
    again = parse_config(yaml.safe_load(settings))
    assert again.model_copy(update={"output_dir": made[0].output_dir}) == made[0]


def test_tables_are_marked_up_for_all_readers(made, read):
    """Columns and rows have headers, tables captions; no column repeats one value; names are used once."""
    text = made[1].read_text()
    body = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"<th(?! scope=)[ >]", body)
    assert body.count("<table") == body.count("<caption>") > 10
    for name, (header, *rows) in read[0].tables.items():
        for i, column in enumerate(header):
            if len(rows) > 1 and not name.startswith(("grid", "seeds")):
                assert len({row[i] for row in rows}) > 1, (name, column)
    for attribute in ("id", "data-name", "data-title"):
        found = re.findall(rf'[ ]{attribute}="([^"]+)"', body)
        assert len(set(found)) == len(found), attribute


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
    # A figure leaves out what all of its panels have in common.
    titles = [axis.get_title().replace("\n", " ") for axis in panels]
    assert len([title for title in titles if title]) == len(drawn)
    assert all(any(title in chart.title for chart in drawn) for title in titles)
    if draw is figures.learning_curves:
        line = next(one for one in panels[0].lines if one.get_label() == "taylor")
        assert list(line.get_ydata()) == [p.y for p in drawn[0].points if p.series == "taylor"]
    figure.savefig(tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_series_differ_without_their_color_and_stand_out_from_the_page(made):
    looks = styles(Runs(read_tidy(made[0].output_dir / "tidy.csv")))
    assert len({(s.marker, s.dash) for s in looks.values()}) == len(looks) == 6
    assert [name for name, s in looks.items() if s.hollow] == [
        "random (control)",
        "magnitude + reinit",
        "taylor + reinit",
    ]


# --- in a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")
SIZES = {"desk": (1440, 900), "phone": (390, 844), "paper": (718, 1017)}  # A4 at 96 dots an inch, without its margins


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
    size, more = getattr(request, "param", ("desk", {}))
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **more)
    opened, trouble = context.new_page(), []
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or trouble.append(asked.url))
    opened.goto(made[1].as_uri())
    if more.get("java_script_enabled", True):
        opened.wait_for_selector(".charts figure details")
    yield opened
    context.close()
    assert trouble == []


@pytest.mark.parametrize("tab", [("desk", {}), ("phone", {"color_scheme": "dark"})], indirect=True)
def test_the_answer_is_on_the_first_screen(tab):
    """Headline, verdicts, dots, in that order: on one screen of a desk, on two of a phone; nothing scrolls sideways."""
    size = tab.viewport_size
    screens = size["height"] * (1 if size["width"] > 1000 else 2)
    order = [tab.locator(f"#answer {place}").first.bounding_box() for place in (".headline", ".grid", ".panels figure")]
    assert all(box["y"] + box["height"] <= screens for box in order)
    if size["width"] < 1000:
        assert [box["y"] for box in order] == sorted(box["y"] for box in order)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate(
        "[...document.querySelectorAll('.charts .picture svg')].every(s => s.clientWidth <= s.parentElement.clientWidth)"
    )
    back, front = tab.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    dark = sum(map(int, re.findall(r"\d+", back)[:3])) < sum(map(int, re.findall(r"\d+", front)[:3]))
    assert dark == tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")


def luminance(color):
    channels = [int(c) / 255 for c in re.findall(r"\d+", color)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_line_stands_out_from_its_card(tab):
    """A contrast of 3, WCAG 2.2, 1.4.11; grid lines are decoration, and say nothing."""
    found = {}
    for name, more in (
        ("light", {"color_scheme": "light"}),
        ("dark", {"color_scheme": "dark"}),
        ("forced", {"color_scheme": "dark", "forced_colors": "active"}),
    ):
        tab.emulate_media(**more)
        found[name] = tab.evaluate(
            """() => [...document.querySelectorAll('figure svg :is(line, path)')]
                .filter((e) => !e.matches('.rule, .band') && !e.closest('button'))
                .map((e) => [getComputedStyle(e).stroke, getComputedStyle(e.closest('figure')).backgroundColor])"""
        )
    for name, strokes in found.items():
        pairs = {(one, card) for one, card in map(tuple, strokes) if one != "none"}
        assert len(pairs) >= 4
        assert len({card for _, card in pairs}) == 1
        for one, card in pairs:
            high, low = sorted((luminance(one), luminance(card)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (name, one, card)
    assert len({tuple(map(tuple, strokes)) for strokes in found.values()}) == 3


@pytest.mark.parametrize("tab", [("desk", {"java_script_enabled": False})], indirect=True)
def test_without_javascript_the_answer_is_whole(tab):
    for place in tab.locator("#answer svg.dots").all():
        box = place.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    assert tab.locator("#answer svg.dots use").count() > 50
    assert tab.locator("svg.view:visible").count() > 40
    tab.locator("summary", has_text="Learning curves: 4 more charts").click()
    assert tab.locator("[data-view='Learning curves'] svg:visible").count() == 6
    assert tab.locator("footer noscript p").is_visible()
    assert tab.get_by_role("button").count() == 0
    tab.locator("summary", has_text="undecided comparisons").click()
    assert tab.locator("li", has_text="primary question").or_(tab.locator("li", has_text="reinit")).first.is_visible()


@pytest.mark.parametrize("tab", [("paper", {})], indirect=True)
def test_on_paper_nothing_is_cut_folded_or_floating(tab, tmp_path):
    tab.emulate_media(media="print")
    assert tab.locator(".save:visible, nav:visible, #tip:visible, #series:visible").count() == 0
    right = tab.evaluate(
        "Math.max(...[...document.querySelectorAll('main :is(td, th, p, li, pre, figure, svg.dots, svg.view)')]"
        ".filter((e) => e.checkVisibility()).map((e) => e.getBoundingClientRect().right))"
    )
    assert right <= SIZES["paper"][0]
    assert tab.locator("li", has_text="reinit").last.is_visible()  # what is undecided is printed too
    assert tab.locator(".single figure svg:visible").count() > 4
    tab.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_series_are_toggled_in_all_charts_by_keyboard_too(tab):
    def lines():
        chart = tab.locator("[data-view='Learning curves'] figure").first
        return chart.locator("path[stroke^='var(--c-taylor']:visible").count()

    def button(name):
        return tab.get_by_role("group").get_by_role("button", name=name, exact=True)

    before = lines()
    assert before > 1
    for name in ("taylor", "taylor + reinit"):  # of the same color
        assert button(name).get_attribute("aria-pressed") == "true"
        button(name).press("Space")
        assert button(name).get_attribute("aria-pressed") == "false"
        assert tab.evaluate("document.activeElement.textContent") == name
    assert lines() == 0
    button("taylor").click()
    assert 0 < lines() < before


def test_tables_are_sorted(tab):
    tab.locator("summary", has_text="Aggregates").press("Enter")
    table = tab.locator("table[data-name=results]")
    head = table.get_by_role("button", name="score (IQM)")
    for order in ("ascending", "descending"):
        head.press("Enter")
        assert table.locator("th", has_text="score (IQM)").get_attribute("aria-sort") == order
        place = table.locator("thead th").all_inner_texts().index("score (IQM)")
        cells = [row.locator("td, th").nth(place).inner_text() for row in table.locator("tbody tr").all()]
        values = [float(cell.partition(" ")[0]) for cell in cells]
        assert values == sorted(values, reverse=order == "descending")


@pytest.mark.parametrize("tab", [("phone", {})], indirect=True)
def test_a_point_says_what_it_is_within_the_screen_and_shows_its_band(tab):
    chart = tab.locator("[data-view='Learning curves'] svg[role=img]").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    tips = set()
    for across, down in itertools.product((0.2, 0.5, 0.97), (0.2, 0.5)):
        tab.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        note = tab.locator("#tip")
        if note.is_visible():
            place = note.bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= SIZES["phone"][0]
            tips.add(note.text_content())
            name = note.text_content().splitlines()[0]
            bands = chart.locator(".band").evaluate_all(
                "all => all.filter((e) => e.getAttribute('display') !== 'none').map((e) => e.parentNode.dataset.series)"
            )
            assert set(bands) == {"dense", name}
    assert len(tips) > 1
    assert all(re.search(r"environment steps: [\d,]+\n.*\n95 % interval: .*\nruns: \d+$", tip) for tip in tips)


def test_data_and_pictures_are_saved_under_names_of_their_own(tab, made, read, tmp_path):
    names = tab.get_by_role("button").evaluate_all("all => all.map((e) => e.ariaLabel || e.textContent)")
    pictures = [name for name in names if name.startswith("Save")]
    assert len(set(pictures)) == len(pictures) > 30
    figure = tab.locator("[data-view='Return against sparsity'] figure").first
    figure.locator("summary").click()
    chart = by_view(read[0], "Return against sparsity")[0]
    assert figure.locator("tbody tr").count() == len(chart["rows"])
    assert figure.locator("thead th").all_inner_texts() == [
        *chart["columns"][:5],
        *(["runs"] if len({r[5] for r in chart["rows"]}) > 1 else []),
    ]
    assert figure.locator("tbody th[scope=row]").count() == len(chart["rows"])
    files = {}
    for place in (figure, tab.locator("#answer figure").nth(0), tab.locator("#answer figure").nth(1)):
        with tab.expect_download() as download:
            place.get_by_role("button", name="Save SVG").click()
        download.value.save_as(tmp_path / "saved")
        files[download.value.suggested_filename] = (tmp_path / "saved").read_text()
    assert len(files) == 3
    for name, svg in files.items():
        assert name.startswith("lth-")
        assert "var(--" not in svg
        assert "taylor + reinit" in svg.replace("\xa0", " ") or "+ reinit" in svg
        ElementTree.fromstring(svg)
    with tab.expect_download() as download:
        figure.get_by_role("button", name="Save PNG").click()
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes().startswith(b"\x89PNG")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save the tidy table (CSV)").click()
    download.value.save_as(tmp_path / "tidy.csv")
    assert (tmp_path / "tidy.csv").read_bytes() == (made[0].output_dir / "tidy.csv").read_bytes()
