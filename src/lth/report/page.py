"""`lth report`: one HTML file that needs nothing else. The numbers come from `findings`, and through it from the tidy table."""

import base64
import gzip
import html
import io
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import yaml

from ..analysis.paths import layers
from ..analysis.stability import LEAST_SHARED
from ..config import Config
from ..experiment import store
from ..experiment.spec import MaskSpec, Spec, TicketSpec, grid, rows
from ..files import write_whole
from . import findings
from .figures import styles
from .findings import Chart, Comparison, CostRow, Estimate, Picture, Point, Result, Runs
from .tables import label
from .tidy import TidyRow, save_tidy, tidy_rows
from .verdicts import bounds, claim, headline, number, p_value, verdicts

REPORT_FILE = "report.html"
NO_RESULT = ("output_dir", "workers", "executor", "ray", "retries", "tensorboard")
"""Settings that change no result; the page leaves them out."""
MOST_IMAGES = 400_000
"""Bytes that pictures of single masks may take."""


def save_report(config: Config) -> tuple[Path, Path]:
    """Write `report.html` and `tidy.csv` into the output directory; returns their paths.

    Raises:
        InputError: no ticket is finished, or a file is damaged.
    """
    tidy = tidy_rows(config)
    table = save_tidy(config.output_dir, tidy)
    write_whole(config.output_dir / REPORT_FILE, page(config, tidy).encode(), checksum=False)
    return config.output_dir / REPORT_FILE, table


def page(config: Config, tidy: Sequence[TidyRow]) -> str:
    """Return the report on a config's finished runs as HTML; the same runs give the same bytes."""
    runs = Runs(tidy)
    found, compared = findings.results(runs), findings.comparisons(runs)
    pictures = findings.pictures(runs)
    charts = {
        "curves": findings.curves(runs),
        "sparsity": findings.against_sparsity(runs),
        "profiles": findings.profiles(runs),
    }
    specs = grid(config)
    finished = [spec for spec in specs if store.is_finished(config.output_dir, spec)]
    whole = "all" if len(finished) == len(specs) else f"only {len(finished)} of"
    seeds = len(config.seeds)
    about = (
        f"{', '.join(runs.tasks)}; {seeds} seed{'s' * (seeds > 1)}; {whole} {len(specs)} runs finished. "
        f"{config.agent_config.NAME}; every number is of the last evaluation, never the best."
    )
    sections = {
        "Verdicts": _verdicts(runs, found, compared),
        "Return against sparsity": _charts("sparsity", _SPARSITY),
        "Learning curves": _charts("curves", _CURVES),
        "Results": _results(found),
        "Performance profiles": _charts("profiles", _PROFILES) if charts["profiles"] else "",
        "What the tickets are": _charts("pictures", _MASKS) + _images(config) + _tickets(runs),
        "Comparisons": _comparisons(runs, compared),
        "What it cost": _costs(runs),
        "How it was made": _made(config, finished),
    }
    here = {title: body for title, body in sections.items() if body}
    parts = [f'<section id="{_anchor(t)}"><h2>{t}</h2>\n{body}</section>' for t, body in here.items()]
    read = resources.files(__package__).joinpath
    vendor = {
        name: read(f"vendor/{name}").read_text("utf-8") for name in ("d3.min.js", "plot.umd.min.js", "LICENSES.txt")
    }
    from .. import __version__

    return Template(read("page.html").read_text("utf-8")).substitute(
        title=_text(f"Lottery tickets on {', '.join(runs.tasks)}"),
        about=_text(about),
        nav="".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in here),
        verdicts=parts[0],
        main="\n".join(parts[1:]),
        version=__version__,
        data=json.dumps(_data(runs, charts, pictures, tidy), separators=(",", ":"), allow_nan=False).replace(
            "<", "\\u003c"
        ),
        licenses=vendor["LICENSES.txt"].replace("--", "- -"),
        css=read("page.css").read_text("utf-8"),
        d3=vendor["d3.min.js"],
        plot=vendor["plot.umd.min.js"],
        js=read("page.js").read_text("utf-8"),
    )


_SPARSITY = (
    "Each point is the interquartile mean (IQM) of the returns at the last evaluation, the line through it a 95 % bootstrap "
    "interval over seeds; the band is the dense agents. Hollow signs are controls: a ticket that does no better than they do "
    "owes nothing to the choice of its weights."
)
_CURVES = (
    "IQM over seeds with 95 % bootstrap bands, of evaluations with the policy's mean action on episodes that are the same for "
    "all runs. A ticket that learns faster than dense is above its curve early on."
)
_PROFILES = (
    "The share of runs whose score exceeds a threshold: higher is better, and curves that cross say that neither is better "
    "throughout. A score is 0 for the untrained agent and 1 for the mean dense agent."
)
_MASKS = (
    "Means over seeds. A layer that keeps little is the narrowest part of the network; an observation that keeps nothing "
    "cannot change an action any more (weights without a path to an output are not counted there)."
)


def _data(
    runs: Runs, charts: dict[str, list[Chart]], pictures: Sequence[Picture], tidy: Sequence[TidyRow]
) -> dict[str, Any]:
    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return None if value != value else float(f"{value:.6g}")
        return value

    def chart(section: str, one: Chart) -> dict[str, Any]:
        about = {"section": section, **{k: v for k, v in one._asdict().items() if k != "points"}}
        body = [[p.series, p.x, *(rounded(v) for v in p[2:])] for p in one.points]
        return {**about, "columns": Point._fields, "rows": body}

    def picture(one: Picture) -> dict[str, Any]:
        about = {"section": "pictures", "kind": "picture", "title": one.title}
        return {**about, "columns": findings.Cell._fields, "rows": [[rounded(v) for v in cell] for cell in one.cells]}

    return {
        "series": {name: {k: v for k, v in s._asdict().items() if k != "marker"} for name, s in styles(runs).items()},
        "charts": [
            *(chart(section, one) for section, some in charts.items() for one in some),
            *(picture(one) for one in pictures),
        ],
        "tidy": base64.b64encode(gzip.compress(store.csv_bytes(TidyRow._fields, tidy), mtime=0)).decode(),
    }


def _text(words: Any) -> str:
    return html.escape(str(words), quote=True)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _charts(section: str, words: str) -> str:
    return f'<p class="note">{words}</p>\n<div class="charts" data-section="{section}"></div>'


def _table(header: Sequence[str], body: Iterable[Sequence[str]], words: int, name: str) -> str:
    """Lay out a table whose first `words` columns are text."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return (
            "<tr>"
            + "".join(f"<{tag}{' class=t' if i < words else ''}>{_text(c)}</{tag}>" for i, c in enumerate(cells))
            + "</tr>"
        )

    lines = "\n".join(line("td", cells) for cells in body)
    return (
        f'<div class="scroll"><table data-name="{name}"><thead>{line("th", header)}</thead>\n<tbody>\n{lines}\n</tbody>'
        "</table></div>"
    )


def _verdicts(runs: Runs, found: Sequence[Result], compared: Sequence[Comparison]) -> str:
    parts = ['<div class="headline">', *(f"<p>{_text(s)}</p>" for s in headline(runs, compared)), "</div>"]
    parts.append(
        '<p class="note">&ldquo;Of dense&rdquo; is the share of what dense agents gained in training: 0 is the '
        "untrained agent, 1 the mean dense agent. In brackets: 95 % intervals over seeds. "
        "How many seeds would do is a rough guide, taken from the "
        "differences seen here.</p>"
    )
    said: dict[str, list[str]] = {}
    for verdict in verdicts(runs, found, compared):
        first, *more = verdict.sentences
        text = f'<h3>{_text(verdict.title)}</h3><p class="reach">{_text(first)}</p>'
        text += "<ul>" + "".join(f"<li>{_text(s)}</li>" for s in more) + "</ul>" if more else ""
        said.setdefault(verdict.scope, []).append(text)
    for i, (scope, texts) in enumerate(said.items()):
        body = "\n".join(texts)
        parts.append(f"<details><summary>{_text(scope)} alone</summary>{body}</details>" if i else body)
    return "\n".join(parts)


def _level(result: findings.Condition) -> tuple[str, str]:
    return findings.percent(result.sparsity) if result.sparsity else "", result.rewind


def _results(found: Sequence[Result]) -> str:
    def cell(estimate: Estimate | None, digits: int = 2) -> str:
        return "" if estimate is None else bounds(estimate, digits)

    optional = ("median", "success (mean)")  # columns that may be empty throughout
    header = ["task", "runs of", "pruned", "rewound to", "runs", "score (IQM)", "mean", "median", "optimality gap"]
    header += ["return (IQM)", "success (mean)"]
    body = [
        [
            r.scope,
            r.condition.label,
            *_level(r.condition),
            str(r.runs),
            *(cell(e) for e in (r.score, r.mean, r.median, r.gap)),
            cell(r.returns, 1),
            cell(r.success),
        ]
        for r in found
    ]
    keep = [i for i, name in enumerate(header) if name not in optional or any(line[i] for line in body)]
    return '<p class="note">Aggregates over runs (and tasks) with their 95 % intervals.</p>' + _table(
        [header[i] for i in keep], ([line[i] for i in keep] for line in body), 4, "results"
    )


def _comparisons(runs: Runs, compared: Sequence[Comparison]) -> str:
    if not compared:
        return ""
    header = ["task", "pruned", "rewound to", "first", "second", "pairs", "difference", "P(first better)", "p"]
    header += ["corrected p", "seeds needed", "verdict"]
    body = [
        [
            c.scope,
            *_level(c.first),
            c.first.label,
            c.second.label,
            str(c.pairs),
            bounds(c.difference),
            bounds(c.probability),
            p_value(c.p),
            p_value(c.corrected),
            "" if c.seeds_needed is None else str(c.seeds_needed),
            "different" if c.differs else "undecided",
        ]
        for c in compared
    ]
    words = (
        f"Every comparison that this page makes, {len(compared)} in all: tickets with each other, with the dense agents and with "
        "their controls. The difference is of scores, its mean over pairs of the same task and seed. Undecided is not equal."
    )
    return f'<p class="note">{words}</p>' + _table(header, body, 5, "comparisons")


def _costs(runs: Runs) -> str:
    spent = findings.costs(runs)

    def giga(value: float) -> str:
        return f"{value / 1e9:,.1f}"

    def line(c: CostRow) -> list[str]:
        words = [
            c.task,
            c.condition.label,
            *_level(c.condition),
            str(c.runs),
            f"{c.env_steps:,.0f}",
            f"{c.updates:,.0f}",
        ]
        flops = [giga(c.flops_dense), giga(c.flops), number(c.flops / c.flops_dense, 3)]
        return [*words, number(c.train_seconds, 1), number(c.mask_seconds, 2), *flops]

    header = [
        "task",
        "runs of",
        "pruned",
        "rewound to",
        "runs",
        "env steps",
        "updates",
        "seconds to train",
        "seconds on masks",
    ]
    header += ["GFLOPs dense", "GFLOPs sparse", "ratio"]
    steps = sum(c.runs * c.env_steps for c in spent)
    hours = sum(c.runs * (c.train_seconds + c.mask_seconds) for c in spent) / 3600
    return (
        f"<p>{_text(claim(findings.gradient_masks(runs)))}</p>"
        f"<p>In all, {sum(c.runs for c in spent)} runs of {steps:,.0f} environment steps took {hours:.2f} hours of wall time "
        "(summed over workers).</p>"
        '<p class="note">Means over the runs of a row. A ticket needs its dense agent besides, once for all tickets of a task and '
        "seed; rounds of iterative pruning are counted in. Seconds are wall time, compilation and evaluations included. FLOPs are "
        "those of training's matrix products: dense, and what is left where every pruned weight is skipped, as the native backend "
        "does; the dense one computes them all, whatever is pruned.</p>"
    ) + _table(header, (line(c) for c in spent), 4, "costs")


def _tickets(runs: Runs) -> str:
    def share(value: float) -> str:
        return "" if value != value else number(value, 3)

    what = [
        "sparsity",
        "effective sparsity",
        "dead units",
        "dormant units",
        "rank correlation",
        "shared",
        "shared by chance",
    ]
    header = ["task", "runs of", "pruned", "rewound to", "network", *what]
    body = [
        [t.task, t.condition.label, *_level(t.condition), t.network, *(share(v) for v in t[3:])]
        for t in findings.tickets(runs)
    ]
    keep = [i for i in range(len(header)) if i < 5 or any(line[i] for line in body)]
    words = (
        "Means over seeds. Effective sparsity counts weights on no path from an input to an output as pruned; dead units put out "
        "zero on all transitions that were looked at, dormant ones next to nothing. Where gradients were taken: how well the "
        "rankings of two halves of the batches agree (docs/analysis.md)."
    )
    found = f'<p class="note">{words}</p>' + _table(
        [header[i] for i in keep], ([line[i] for i in keep] for line in body), 5, "tickets"
    )
    unstable = [t for t in findings.tickets(runs) if t.shared < LEAST_SHARED]
    if unstable:
        names = ", ".join(dict.fromkeys(f"{t.condition.label} ({t.task}, {_level(t.condition)[0]})" for t in unstable))
        found += (
            f'<div class="headline"><p>Unstable: two halves of the gradient batches share less than {LEAST_SHARED:.0%} of the '
            f"weights kept by {_text(names)}, so these masks depend on the draw. Raise pruning.num_gradient_batches.</p></div>"
        )
    shared = findings.overlaps(runs)
    if shared:
        lines = [
            [
                s.task,
                findings.percent(s.sparsity),
                s.method,
                s.other,
                s.network,
                str(s.pairs),
                share(s.jaccard),
                share(s.by_chance),
            ]
            for s in shared
        ]
        header = ["task", "pruned", "mask of", "and of", "network", "pairs", "Jaccard index", "by chance"]
        found += (
            "<h3>Overlap of masks</h3>"
            '<p class="note">The weights that both masks keep, as a share of those that either keeps; and the mean by chance, of '
            "masks with as many weights in each layer.</p>"
        ) + _table(header, lines, 5, "overlaps")
    lines = [
        [
            b.task,
            b.condition.label,
            *_level(b.condition),
            b.other,
            b.metric,
            str(b.seeds),
            *(f"{v:.4g}" for v in b[5:]),
        ]
        for b in findings.barriers(runs)
    ]
    if lines:
        header = [
            "task",
            "line to",
            "pruned",
            "rewound to",
            "from",
            "metric",
            "seeds",
            "at its start",
            "at its end",
            "barrier",
        ]
        found += (
            "<h3>Between agents</h3>"
            '<p class="note">Along the straight line between the weights of two agents: how much worse than its ends a metric gets '
            "at the worst (docs/analysis.md). Near 0, the two lie in one valley. Means over seeds.</p>"
        ) + _table(header, lines, 6, "barriers")
    return found


def _made(config: Config, finished: Sequence[Spec]) -> str:
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in NO_RESULT}
    if settings["pruning"]["rate"] is None:
        del settings["pruning"]["rate"]
    else:
        del settings["pruning"]["sparsity"]
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)
    made: dict[str, dict[str, None]] = {}
    for spec in finished:
        known = json.loads((store.directory(config.output_dir, spec) / store.PROVENANCE).read_text())
        facts = {**known["versions"], "git revision": known["git_revision"], "machine": known["machine"]}
        for name, value in {**facts, "devices": ", ".join(known["devices"])}.items():
            made.setdefault(name, {})[str(value)] = None
    versions = [[name, "; ".join(values)] for name, values in sorted(made.items())]
    mixed = [name for name, values in made.items() if len(values) > 1]
    warning = f"<p>Runs were made with different versions of {_text(', '.join(mixed))}.</p>" if mixed else ""
    return f"""<p>Save the settings as <code>report.yaml</code>; with the versions below, the same processor type and
<code>training.threads</code>, these commands give the same bytes but for the clock's:</p>
<pre>lth run report.yaml output_dir=results/again
lth report report.yaml output_dir=results/again</pre>
<p class="save"><button type="button" id="config-save">Save settings</button>
<button type="button" id="tidy">Save the tidy table (CSV)</button></p>
<p class="note">Every number here is computed from the tidy table.</p>
<details open><summary>Settings, resolved</summary><pre id="config-text">{_text(text)}</pre></details>
{warning}<details open><summary>Versions</summary>{_table(["what", "version"], versions, 2, "versions")}</details>"""


def _images(config: Config) -> str:
    """Show the policy's masks of the first seed as they are: a dot is a weight that is kept."""
    seed, size, policy = config.seeds[0], 0, config.agent_config.POLICY
    parts: list[str] = []
    for row in rows(config.model_copy(update={"seeds": (seed,)})):
        mask = row.run.mask if isinstance(row.run, TicketSpec) and not row.control else None
        if not isinstance(mask, MaskSpec) or not store.is_finished(config.output_dir, mask):
            continue
        name = f"{row.dense.task}, {label(row.method, row.control)}, {findings.percent(row.sparsity)}"
        images = ""
        for layer in layers(store.load_mask(store.last_file(config.output_dir, mask))[policy]):
            if layer.kept.all():
                continue
            height, width = layer.kept.shape
            png, zoom = _png(layer.kept), max(1, 256 // width)
            size += len(png)
            images += (
                f'<img alt="{_text(name)}, {layer.name}" width="{width * zoom}" height="{height * zoom}" '
                f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            )
        if size > MOST_IMAGES:
            return _image_section(parts, seed, policy, f" Only the first {len(parts)}; the page would get too large.")
        parts.append(f"<figure>{images}<figcaption>{_text(name)}</figcaption></figure>")
    return _image_section(parts, seed, policy, "")


def _image_section(parts: Sequence[str], seed: int, policy: str, more: str) -> str:
    if not parts:
        return ""
    return (
        f"<details><summary>The masks of the {policy}, weight by weight (seed {seed})</summary>"
        f'<p class="note">A dot is a weight that is kept; rows are inputs, columns are units; the first layer on top.{more}</p>'
        f'<div class="masks">{"".join(parts)}</div></details>'
    )


def _png(kept: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(kept.astype(np.uint8), mode="P")
    image.putpalette([128, 128, 128, 0, 114, 178])
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True, bits=1, transparency=0)
    return data.getvalue()
