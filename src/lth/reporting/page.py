"""`lth report`: one HTML file that needs nothing else. Every number on it is computed from the tidy table."""

import base64
import gzip
import json
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

import yaml

from ..experiment import store
from ..experiment.plan import Plan
from ..experiment.question import declared_question
from ..experiment.spec import Spec
from ..experiment.tidy import TidyRow
from ..files import csv_bytes
from . import charts
from .answer import answer
from .charts import Chart, Picture, Point
from .families import families
from .figures import styles
from .html import anchor, table, text
from .html import charts as chart_place
from .images import mask_images
from .scores import Runs, results
from .sections import (
    answer_section,
    comparisons_section,
    costs_section,
    results_section,
    tickets_section,
    verdicts_section,
)

REPORT_FILE = "report.html"
NO_RESULT = ("output_dir", "workers", "executor", "ray", "retries", "tensorboard")
"""Settings that change no result; the page leaves them out."""


def page(plan: Plan, tidy: Sequence[TidyRow], finished: Sequence[Spec]) -> str:
    """Return the report on a plan's finished runs as HTML; the same runs give the same bytes."""
    config, runs = plan.config, Runs(tidy)
    found, tested = results(runs), families(runs, config.primary, config.report.margin)
    said = answer(runs, tested, declared_question(plan.root, config))
    pictures = charts.pictures(runs)
    drawn = {
        "curves": charts.curves(runs),
        "sparsity": charts.against_sparsity(runs),
        "profiles": charts.profiles(runs),
    }
    whole = "all" if len(finished) == len(plan.specs) else f"only {len(finished)} of"
    seeds = len(config.seeds)
    about = (
        f"{', '.join(runs.tasks)}; {seeds} seed{'s' * (seeds > 1)}; {whole} {len(plan.specs)} runs finished. "
        f"{config.agent_config.NAME}; every number is of the last evaluation, never the best."
    )
    sections = {
        "The answer": answer_section(said),
        "Tickets beside dense": verdicts_section(tested),
        "Return against sparsity": chart_place("sparsity", _SPARSITY),
        "Learning curves": chart_place("curves", _CURVES),
        "Results": results_section(found),
        "Performance profiles": chart_place("profiles", _PROFILES) if drawn["profiles"] else "",
        "What the tickets are": chart_place("pictures", _MASKS)
        + mask_images(plan, set(finished))
        + tickets_section(runs),
        "Comparisons": comparisons_section(tested),
        "What it cost": costs_section(runs),
        "How it was made": _made(plan, finished),
    }
    here = {title: body for title, body in sections.items() if body}
    parts = [f'<section id="{anchor(t)}"><h2>{t}</h2>\n{body}</section>' for t, body in here.items()]
    read = resources.files(__package__).joinpath
    vendor = {
        name: read(f"vendor/{name}").read_text("utf-8") for name in ("d3.min.js", "plot.umd.min.js", "LICENSES.txt")
    }
    from .. import __version__

    return Template(read("page.html").read_text("utf-8")).substitute(
        title=text(f"Lottery tickets on {', '.join(runs.tasks)}"),
        about=text(about),
        nav="".join(f'<a href="#{anchor(title)}">{title}</a>' for title in here),
        verdicts=parts[0],
        main="\n".join(parts[1:]),
        version=__version__,
        data=json.dumps(_data(runs, drawn, pictures, tidy), separators=(",", ":"), allow_nan=False).replace(
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
    runs: Runs, drawn: dict[str, list[Chart]], pictures: Sequence[Picture], tidy: Sequence[TidyRow]
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
        return {**about, "columns": charts.Cell._fields, "rows": [[rounded(v) for v in cell] for cell in one.cells]}

    return {
        "series": {name: {k: v for k, v in s._asdict().items() if k != "marker"} for name, s in styles(runs).items()},
        "charts": [
            *(chart(section, one) for section, some in drawn.items() for one in some),
            *(picture(one) for one in pictures),
        ],
        "tidy": base64.b64encode(gzip.compress(csv_bytes(TidyRow._fields, tidy), mtime=0)).decode(),
    }


def _made(plan: Plan, finished: Sequence[Spec]) -> str:
    settings = {k: v for k, v in plan.config.model_dump(mode="json").items() if k not in NO_RESULT}
    if settings["pruning"]["rate"] is None:
        del settings["pruning"]["rate"]
    else:
        del settings["pruning"]["sparsity"]
    settings_text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)
    made: dict[str, dict[str, None]] = {}
    for spec in finished:
        known = store.read_provenance(plan.root / spec.path)
        if not known:
            continue
        facts = {**known["versions"], "git revision": known["git_revision"], "machine": known["machine"]}
        for name, value in {**facts, "devices": ", ".join(known["devices"])}.items():
            made.setdefault(name, {})[str(value)] = None
    versions = [{"what": name, "version": "; ".join(values)} for name, values in sorted(made.items())]
    mixed = [name for name, values in made.items() if len(values) > 1]
    warning = f"<p>Runs were made with different versions of {text(', '.join(mixed))}.</p>" if mixed else ""
    return f"""<p>Save the settings as <code>report.yaml</code>; with the versions below, the same processor type and
<code>training.threads</code>, these commands give the same bytes but for the clock's:</p>
<pre>lth run report.yaml output_dir=results/again
lth report report.yaml output_dir=results/again</pre>
<p class="save"><button type="button" id="config-save">Save settings</button>
<button type="button" id="tidy">Save the tidy table (CSV)</button></p>
<p class="note">Every number here is computed from the tidy table.</p>
<details open><summary>Settings, resolved</summary><pre id="config-text">{text(settings_text)}</pre></details>
{warning}<details open><summary>Versions</summary>{table("versions", 2, versions)}</details>"""
