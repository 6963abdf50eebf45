"""Figures for papers, static pictures for the page, and the rows behind both, which a program of its own computes again."""

import csv
import itertools
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from statistics import fmean, stdev

import numpy as np
import pytest
from helpers.grids import make_grid, tidy_rows
from helpers.small import ROOT

from lth.algorithms.controls import CONTROLS
from lth.config import CONTROL_METHODS, METHODS
from lth.errors import InputError
from lth.experiment import journal, store
from lth.experiment.plan import plan
from lth.experiment.tidy import read_tidy
from lth.reporting import charts, figures, findings, networks, svg
from lth.reporting.latex import latex_table
from lth.reporting.scores import Condition, Runs
from lth.reporting.styles import BACKGROUNDS, contrast, css, looks, style

QUICKSTART = ROOT / "tests" / "helpers" / "two_levels.csv"


@pytest.fixture(scope="module")
def runs():
    """The quickstart's, as the repository has them."""
    return Runs(read_tidy(QUICKSTART))


@pytest.fixture(scope="module")
def rows():
    """The same as text."""
    with QUICKSTART.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Runs of a task with 39 observations and two metrics: plan, finished runs, and Runs."""
    tree = {
        "tasks": ["drawer-close-v3"],
        "seeds": [0, 1],
        "training": {"env_steps": 2000, "start_steps": 100, "segment_steps": 500},
        "sac": {"actor_hidden": [12, 8], "critic_hidden": [8, 8]},
        "evaluation": {"every": 500},
        "pruning": {"methods": ["magnitude", "taylor", "random"], "sparsity": [0.5, 0.8], "exclude": ["output"]},
    }
    config = make_grid(tree, tmp_path_factory.mktemp("wide"), skip=("seed1/ticket-taylor-0.8",))
    found = plan(config)
    finished = {spec for spec in found.specs if (config.output_dir / spec.path / "spec.json").exists()}
    return found, finished, Runs(tidy_rows(config))


def number(rows, metric, **about):
    """{seed: value} of a metric at its last step."""
    found = {}
    for row in rows:
        if row["metric"] == metric and all(row[k] == v for k, v in about.items()):
            found[int(row["seed"])] = float(row["value"])  # steps go up
    return found


# --- rows, computed again --------------------------------------------------------------------------------------------


def test_each_run_is_a_dot_and_the_mean_is_theirs(runs, rows):
    (chart,) = charts.against_sparsity(runs)
    for series, method in (("dense", "dense"), ("taylor", "taylor"), ("random (control)", "random")):
        for x, sparsity in enumerate(("0.9", "0.95")):
            about = {} if method == "dense" else {"sparsity": sparsity, "rewind": "0"}
            returns = number(rows, "evaluation/return", method=method, control="", **about)
            (point,) = [p for p in chart.points if (p.series, p.x) == (series, x)]
            assert point.y == pytest.approx(fmean(returns.values()))
            at = -1 if method == "dense" else x
            assert {d.seed: d.y for d in chart.dots if (d.series, d.x) == (series, at)} == returns


def test_intervals_and_improvement_are_those_of_the_scores(runs, rows):
    dense = number(rows, "evaluation/return", method="dense")
    (low,) = (float(r["value"]) for r in rows if r["metric"] == "random_policy/return")
    high = fmean(dense.values())

    def scores(method):
        found = number(rows, "evaluation/return", method=method, sparsity="0.95", rewind="0")
        return [(v - low) / (high - low) for v in found.values()]

    aggregates = charts.intervals(runs)[1]
    assert aggregates.title == "Pendulum-v1, 95 % pruned"
    values = {(bar.panel, bar.row): bar.value for bar in aggregates.bars}
    assert values["mean", "gradient"] == values["IQM", "gradient"] == pytest.approx(fmean(scores("gradient")))
    assert values["optimality gap", "gradient"] == pytest.approx(fmean(max(1 - s, 0) for s in scores("gradient")))
    assert {panel for panel, _ in values} == {"IQM", "mean", "optimality gap"}  # one task has no median over tasks
    pairs = [(a > b) + 0.5 * (a == b) for a in scores("taylor") for b in scores("shuffled")]
    (bar,) = [b for b in charts.improvement(runs)[1].bars if b.row == "taylor > shuffled (control)"]
    assert (bar.value, bar.series) == (pytest.approx(fmean(pairs)), "taylor")


def test_overlaps_are_means_of_the_table(runs, rows):
    (found,) = [one for one in charts.overlap(runs) if one.title == "Pendulum-v1, 95 % pruned, actor"]
    for one, other, metric in (("gradient", "taylor", "method/taylor"), ("taylor", "taylor", "seed/seed 1")):
        values = number(rows, f"overlap/actor/{metric}", method=one, sparsity="0.95")
        chance = number(rows, f"overlap_by_chance/actor/{metric}", method=one, sparsity="0.95")
        (cell,) = [c for c in found.cells if (c.row, c.column) == (one, other)]
        assert cell.jaccard == pytest.approx(fmean(values.values()))
        assert cell.by_chance == pytest.approx(fmean(chance.values()))
        assert cell.pairs == len(values)


def test_histograms_hold_every_weight_that_can_be_pruned(runs, rows):
    found = {(h.network, h.series): h for h in charts.histograms(runs)}
    assert set(found) == set(itertools.product(("actor", "critic"), ("magnitude", "gradient", "taylor")))
    for (network, series), one in found.items():
        assert (
            sum(b.weights for b in one.bins)
            == 2 * {"actor": 3 * 128 + 128**2, "critic": 2 * (4 * 128 + 128**2)}[network]
        )
        assert [cut.sparsity for cut in one.cuts] == ["90 %", "95 %"]  # of the same scores
        for cut, sparsity in zip(one.cuts, ("0.9", "0.95"), strict=True):
            counted = defaultdict(float)
            for row in rows:
                if row["metric"].startswith("scores_kept[") and (row["method"], row["sparsity"]) == (series, sparsity):
                    low, _, owner = row["metric"].removeprefix("scores_kept[").partition("]/")
                    counted[float(low)] += float(row["value"]) * (owner == network)
            assert {b.low: n for b, n in zip(one.bins, cut.kept, strict=True) if n} == {
                k: v for k, v in counted.items() if v
            }
            cuts = number(rows, f"score_threshold/{network}", method=series, sparsity=sparsity)
            assert cut.thresholds == list(cuts.values())


def test_training_is_drawn_at_the_evaluations(runs, rows):
    chart = next(c for c in charts.training(runs) if c.metric == "train/alpha")
    assert [c.y for c in charts.training(runs)][::2] == [
        *("critic loss", "actor loss", "temperature alpha", "entropy (nats)", "mean Q")
    ]
    for point in (p for p in chart.points if p.series == "taylor"):
        values = [
            float(r["value"])
            for r in rows
            if (r["metric"], r["method"], r["sparsity"], r["env_steps"])
            == ("train/alpha", "taylor", "0.9", str(int(point.x)))
        ]
        assert point.y == pytest.approx(fmean(values))
    assert {p.x for p in chart.points} == {2000, 4000, 6000, 8000}


def test_the_table_in_latex(runs, rows):
    text = latex_table(runs)
    body = re.findall(r"^(.*) \\\\$", text, re.MULTILINE)
    assert all(line.count(" & ") == 2 for line in body[1:2] + body[3:])
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    values = number(rows, "evaluation/return", method="gradient", sparsity="0.95", rewind="0").values()
    mean, sd = fmean(values), stdev(values)  # -749 and 842: two digits of the latter
    assert f"${round(mean, -1):.0f} \\pm {round(sd, -1):.0f}$" in text
    assert "random (control) & " in text
    assert r"95\,\%" in text
    assert "n = 2 seeds" in text.splitlines()[0]
    with pytest.raises(InputError, match=r"no runs of 'tayler'; .*did you mean 'taylor'"):
        latex_table(runs, methods=["tayler"])


# --- what only files say ---------------------------------------------------------------------------------------------


def test_masks_are_shown_with_the_inputs_names(wide):
    found, finished, _ = wide
    shown = networks.weight_masks(found, finished)
    assert [one.title for one in shown] == [f"drawer-close-v3, {p} % pruned, seed 0" for p in (50, 80)]
    for one in shown:
        assert list(one.columns) == ["magnitude", "taylor", "random (control)"]
        assert (len(one.inputs), one.inputs[0], one.inputs[-1]) == (39, "hand x", "goal z")
        for read in one.columns.values():
            assert [(layer.name, layer.kept.shape) for layer in read][:2] == [
                ("layer_0", (39, 12)),
                ("layer_1", (12, 8)),
            ]
        bare = [sum(not row.any() for row in read[0].kept) for read in one.columns.values()]
        counts = "magnitude {}, taylor {} and random (control) {}.".format(*bare)
        assert findings.finding_of_masks(one) == (
            f"Of 39 inputs, without any weight: {counts}" if any(bare) else "Every mask keeps a weight at each input."
        )


def test_bytes_are_those_of_the_program_of_such_weights(wide):
    from lth.exporting.c_tables import table_bytes
    from lth.exporting.fold import fold
    from lth.exporting.subjects import of_run

    found, finished, runs = wide
    sizes = {(s.seed, s.condition): s.bytes for s in networks.sizes(found, finished)}
    assert len(sizes) == 2 + 2 * 6 - 1
    for row in found.rows[3:5]:
        network = of_run(found.root / row.run.path).network
        masks = store.load_mask(journal.last_file(found.root, row.run.mask))["actor"]
        kernels = [np.asarray(masks[name]["kernel"]) for name in ("layer_0", "layer_1", "output")]
        kernels[-1] = kernels[-1][:, :4]  # means of four actions, and not their deviations
        layers = [layer._replace(kernel=k) for layer, k in zip(network.layers, kernels, strict=True)]
        program = table_bytes(fold(network._replace(layers=tuple(layers))))
        assert sizes[0, Condition(row.method, row.control, row.sparsity, row.rewind)] == program
    (chart,) = charts.against_bytes(runs, networks.sizes(found, finished))
    (point,) = [p for p in chart.points if p.series == "dense"]
    assert point.x == sizes[0, Condition("dense", "", "", "")]


def test_a_graph_has_the_weights_on_a_path_and_no_other():
    kernels = {
        "layer_0": np.array([[2.0, 0.0, 0.5], [0.0, 0.0, 0.0]]),
        "layer_1": np.array([[0.0, -3.0], [1.0, 0.0], [0.0, 0.0]]),  # unit 1 reads nothing, unit 2 is not read
        "output": np.array([[1.0, 9.0], [-1.0, 9.0]]),  # the second output is no action
    }
    found = networks.graph("", "taylor", kernels, ["a", "b"], 1)
    assert (found.sizes, found.weights) == ([2, 1, 1, 1], 3)
    assert findings.finding_of_graph(found) == "Observations that are read: 1 of 2, through 2 hidden units."
    assert [tuple(edge) for edge in found.edges] == [(0, 0, 0, 2.0), (1, 0, 0, -3.0), (2, 0, 0, -1.0)]
    rng = np.random.default_rng(0)
    many = {"layer_0": rng.normal(size=(9, 40)), "output": rng.normal(size=(40, 5))}
    found = networks.graph("", "taylor", many, list("abcdefghi"), 5)
    smallest = sorted(abs(np.concatenate([k.ravel() for k in many.values()])))[-networks.MOST_EDGES]
    assert (len(found.edges), found.weights) == (networks.MOST_EDGES, 40 * 14)
    assert min(abs(edge.weight) for edge in found.edges) == smallest
    assert "the 400 largest of 560 weights" in found.title


# --- looks -----------------------------------------------------------------------------------------------------------


def test_a_series_looks_the_same_on_every_page_and_unlike_all_others():
    tickets = [Condition(m, "", "0.9", "0") for m in ("dense", *METHODS)]
    shared = [Condition("", name, "0.9", "0") for name, c in CONTROLS.items() if c.each != "method"]
    own = [
        Condition(m, name, "0.9", "0")
        for m in ("magnitude", "taylor")
        for name, c in CONTROLS.items()
        if c.each == "method"
    ]
    every = [*tickets, *shared, *own]
    found = looks(every)
    assert len({(s.marker, s.dash) for s in found.values()}) == len(found) == len(every)
    for condition in every:  # whatever else is on the page
        assert (
            found[condition.label] == looks([condition])[condition.label] == style(condition.method, condition.control)
        )
    assert style("taylor", "shuffled").marker == style("shuffled").marker
    assert [c.label for c in every if found[c.label].hollow] == [
        *(c.label for c in tickets if c.method in CONTROL_METHODS),
        *(c.label for c in (*shared, *own)),
    ]
    assert style("my.module:criterion") == style("my.module:criterion") != style("my.module:other")


def test_every_color_stands_out_from_its_background():
    names = [*(("", c) for c in CONTROLS), *((m, "") for m in ("dense", *METHODS)), ("mine:one", ""), ("", "mine:two")]
    for method, control in names:
        one = style(method, control)
        assert min(contrast(one.color, b) for b in BACKGROUNDS["light"]) >= 3
        assert min(contrast(one.dark, b) for b in BACKGROUNDS["dark"]) >= 3
    assert contrast(style("dense").color, "#ffffff") > 15  # dense is not one more color


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_pdf_embeds_truetype_and_files_repeat(runs, tmp_path):
    figure = figures.against_sparsity(runs, width="column")
    one, two = (figures.save(figure, tmp_path / place / "figure.pdf").read_bytes() for place in "ab")
    assert one == two
    assert b"/FontFile2" in one
    assert b"/Type3" not in one
    if shutil.which("pdffonts"):
        listed = subprocess.run(
            ["pdffonts", tmp_path / "a/figure.pdf"], capture_output=True, text=True, check=True
        ).stdout
        kinds = {line.split()[1:3][-1] for line in listed.splitlines()[2:]}
        assert kinds == {"TrueType"}
    text = figures.save(figure, tmp_path / "figure.svg").read_text()
    assert ">dense</text>" in text
    clips = dict.fromkeys(re.findall(r'clip-path="url\(#(\w+)\)"', text))  # not hashes of where the layout puts them
    assert [*clips] == [f"clip{i + 1}" for i in range(len(clips))] == re.findall(r'<clipPath id="(\w+)">', text)
    assert figures.save(figure, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"'figure.jpg'; the path has to end in \.pdf, \.svg, \.png"):
        figures.save(figure, tmp_path / "figure.jpg")


@pytest.mark.parametrize(
    ("draw", "width"),
    [
        (figures.learning_curves, "column"),
        (figures.against_sparsity, "column"),
        (figures.masks, "text"),
        (figures.improvement, "column"),
        (figures.intervals, 6.75),
        (figures.overlap, "page"),
    ],
)
def test_a_figure_is_as_wide_as_it_should_be_and_nothing_is_cut(wide, draw, width):
    figure = draw(wide[2], width=width)
    inches = figures.WIDTHS.get(width, width)
    assert figure.get_figwidth() == inches
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert -0.02 <= box.x0 < box.x1 <= inches + 0.02
    assert -0.02 <= box.y0 < box.y1 <= figure.get_figheight() + 0.02


def test_39_inputs_are_legible(wide):
    found, finished, runs = wide
    for figure in (figures.masks(runs), figures.weight_masks(networks.weight_masks(found, finished)[0])):
        figure.draw_without_rendering()
        axis = next(a for a in figure.axes if len(a.get_yticklabels()) == 39)
        boxes = sorted((label.get_window_extent() for label in axis.get_yticklabels()), key=lambda b: b.y0)
        assert all(low.y1 <= high.y0 + 0.5 for low, high in itertools.pairwise(boxes))
        assert min(label.get_fontsize() for label in axis.get_yticklabels()) >= 6


def test_what_a_figure_shows_is_chosen(wide):
    runs = wide[2]
    figure = figures.learning_curves(runs, methods=["taylor", "random"], sparsities=[0.8], metric="success")
    (axis,) = [a for a in figure.axes if a.get_visible()]
    assert axis.get_ylabel() == "success rate (mean)"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", "taylor (n = 1)", "random (control)"]
    assert legend.get_title().get_text() == "n = 2 seeds"
    drawn = next(line for line in axis.lines if line.get_label() == "taylor")
    chart = next(c for c in charts.curves(runs) if c.metric == "evaluation/success" and "80 %" in c.title)
    assert list(drawn.get_ydata()) == [p.y for p in chart.points if p.series == "taylor"]
    both = [a.get_ylabel() for a in figures.learning_curves(runs).axes]
    assert both == ["return (IQM)", "", "success rate (mean)", ""]  # a row for each metric
    for wrong, said in (
        ({"methods": ["taylor", "fisher"]}, "no runs of 'fisher'; there are dense, magnitude, taylor, random"),
        ({"sparsities": [0.7]}, "no runs with the sparsity 0.7; there are 0.5, 0.8"),
        ({"metric": "loss"}, "no runs have the metric 'loss'; there is return, success"),
        ({"width": "narrow"}, "unknown width 'narrow'; give inches, from 1 to 40, or one of column, text, page"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            figures.learning_curves(runs, **wrong)
    with pytest.raises(InputError, match="nothing to draw"):
        figures.score_histograms(runs, methods=["random"])
    heat = figures.overlap(runs, methods=["taylor", "random"], sparsities=[0.8]).axes[0]
    assert [label.get_text() for label in heat.get_xticklabels()] == ["taylor", "random"]


def test_nothing_is_plotted_where_nothing_is_pruned(runs, tmp_path):
    rows = read_tidy(QUICKSTART)
    dense = [row for row in rows if row.method == "dense"]
    again = [row._replace(method="", control="retrained", rewind="0") for row in dense]
    assert figures.save_plot(tmp_path, Runs([*dense, *again])) == []
    assert figures.save_plot(tmp_path, runs) == [tmp_path / "returns.png"]


def test_seeds_are_dots_in_the_figure(runs):
    (axis,) = [a for a in figures.against_sparsity(runs).axes if a.get_visible()]
    dots = {line.get_label(): line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 4}
    assert sorted(dots["taylor"]) == sorted(d.y for d in charts.against_sparsity(runs)[0].dots if d.series == "taylor")


# --- static pictures for the page ------------------------------------------------------------------------------------


def test_static_pictures_are_small_named_and_take_the_pages_colors(runs, wide):
    found, finished, many = wide
    known = looks([*runs.conditions, *many.conditions])
    weights = {"layer_0": np.eye(3), "output": np.ones((3, 1))}
    pictures = [
        *(svg.sparsity(c, known) for c in charts.against_sparsity(runs) + charts.against_sparsity(many)),
        *(svg.curve(c, known) for c in charts.curves(runs)[:1] + charts.training(runs)[:1] + charts.profiles(runs)[:1]),
        *(svg.bars(c, known) for c in charts.intervals(runs)[:1] + charts.improvement(runs)[:1]),
        *(svg.heat(c) for c in charts.overlap(runs)[:1]),
        *(svg.picture(c) for c in charts.pictures(many)),
        *(svg.histogram(c, known) for c in charts.histograms(runs)),
        *(svg.weight_masks(c) for c in networks.weight_masks(found, finished)),
        svg.graph(networks.graph("", "taylor", weights, ["a", "<b>", "c"], 1)),
        *(svg.sizes(c, known) for c in charts.against_bytes(many, networks.sizes(found, finished))),
    ]
    assert len(pictures) == 23
    ids = []
    for text in pictures:
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root[0].tag.partition("}")[2] == "desc"
        assert root[0].text
        assert root.attrib["aria-label"]
        assert len(text) < 30_000
        assert "<script" not in text
        assert not re.search(r"[\d MLhv-]nan", text)
        ids += re.findall(r' id="([^"]+)"', text)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for words in root.iter("{http://www.w3.org/2000/svg}text"):
            assert 0 <= float(words.attrib["x"]) <= width
            assert 0 <= float(words.attrib["y"]) <= height
    assert len(ids) == len(set(ids)) > 0
    assert "var(--c-taylor,#00795a)" in pictures[0]
    assert f"--c-taylor:{style('taylor').dark}" in css(known).partition("prefers-color-scheme:dark")[2]
    assert "&lt;b&gt;" in pictures[-2]


def test_a_static_picture_has_a_mark_for_each_run(runs):
    (chart,) = charts.against_sparsity(runs)
    root = ElementTree.fromstring(svg.sparsity(chart, looks(runs.conditions)))
    paths = [
        p.attrib
        for p in root.iter("{http://www.w3.org/2000/svg}path")
        if p.attrib.get("stroke") == style("taylor").paint
    ]
    filled = [p["d"] for p in paths if p.get("fill")]
    assert [d.count("M") for d in filled] == [1, 4]  # in the legend; two sparsities of two seeds
    assert sum("M" in p["d"] and "fill" not in p for p in paths) == 2 * 2  # means and intervals
