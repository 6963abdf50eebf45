"""`lth report`: one HTML file that needs nothing else. Every number on it is computed from the tidy table."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from string import Template
from typing import Any

import yaml

from ..algorithms import ALGORITHMS
from ..experiment import journal, store
from ..experiment.plan import Plan
from ..experiment.question import Declared, declared_question
from ..experiment.spec import Spec
from ..experiment.tidy import TidyRow
from ..files import csv_bytes
from . import charts
from .answer import answer, sentence
from .charts import Chart, Picture, Point
from .families import families
from .findings import finding, finding_of_picture
from .html import anchor, fold, table, text
from .html import charts as chart_place
from .placement import WHAT_TICKETS_ARE, Source, place
from .savings import by_time, savings
from .scores import ALL_TASKS, Runs, results
from .sections import (
    answer_section,
    comparisons_section,
    costs_section,
    differences_section,
    results_section,
    savings_section,
    tasks_section,
    tickets_section,
    verdicts_section,
)
from .styles import Style, styles

REPORT_FILE = "report.html"
NO_RESULT = ("output_dir", "workers", "executor", "ray", "retries", "tensorboard", "wandb", "trackio")
"""Settings that change no result; the page leaves them out."""
MOST_SHOWN = 4
"""Charts of a section that are not folded; where there are charts over all tasks, it is these."""


def page(plan: Plan, tidy: Sequence[TidyRow], finished: Sequence[Spec]) -> str:
    """Return the report on a plan's finished runs as HTML; the same runs give the same bytes."""
    config, runs = plan.config, Runs(tidy)
    declared = declared_question(plan.root, config)
    tested, looks = families(runs, config.primary, config.report.margin), styles(runs)
    said, saved = answer(runs, tested, declared), savings(runs)
    drawn = {
        "time": by_time(runs),
        "sparsity": [chart for chart in charts.against_sparsity(runs) if len(chart.ticks) > 1],
        "curves": charts.curves(runs),
        "profiles": charts.profiles(runs),
    }
    pictures = charts.pictures(runs)
    views = place(Source(plan, set(finished), runs))
    title = f"Lottery tickets on {', '.join(runs.tasks)}"
    first = answer_section(said, runs, tested, looks)
    toggled = {
        "What it saves": savings_section(runs, tested, saved) + chart_place("time", "Return by time", _TIME),
        "Return against sparsity": chart_place("sparsity", "Return against sparsity", _SPARSITY)
        if drawn["sparsity"]
        else "",
        "Learning curves": chart_place("curves", "Learning curves", _CURVES),
        "Performance profiles": chart_place("profiles", "Performance profile", _PROFILES) if drawn["profiles"] else "",
    }
    rest = {
        **{name: body for name, body in views.items() if name != WHAT_TICKETS_ARE},
        WHAT_TICKETS_ARE: views.get(WHAT_TICKETS_ARE, "") + chart_place("pictures", "", _MASKS) + tickets_section(runs),
        "All numbers": verdicts_section(tested) + comparisons_section(tested) + results_section(results(runs)),
        "What it cost": costs_section(runs),
        "How it was made": _made(plan, finished),
    }
    before = {"What differs": differences_section(said), "Task by task": tasks_section(runs, tested, looks)}
    parts = [{name: body for name, body in some.items() if body} for some in (before, toggled, rest)]
    read = resources.files(__package__).joinpath
    vendor = {
        name: read(f"vendor/{name}").read_text("utf-8") for name in ("d3.min.js", "plot.umd.min.js", "LICENSES.txt")
    }
    contents = [*(name for some in parts for name in some), "How to read this"]
    data = json.dumps(_data(looks, drawn, pictures, tidy), separators=(",", ":"), allow_nan=False)
    return Template(read("page.html").read_text("utf-8")).substitute(
        title=text(title),
        about=text(_about(plan, runs, finished)),
        nav="".join(f'<a href="#{anchor(name)}">{name}</a>' for name in contents),
        first=first,
        before=_sections(parts[0]),
        toggled=_sections(parts[1]),
        rest=_sections(parts[2]),
        margin=f"{config.report.margin:g}",
        footer=_footer(plan, declared, finished),
        data=data.replace("<", "\\u003c"),
        licenses=vendor["LICENSES.txt"].replace("--", "- -"),
        css=_colors(looks) + read("page.css").read_text("utf-8"),
        d3=vendor["d3.min.js"],
        plot=vendor["plot.umd.min.js"],
        js=read("page.js").read_text("utf-8"),
    )


_TIME = (
    "The interquartile mean (IQM) of the return by seconds of training, which are spread evenly over environment steps."
)
_SPARSITY = (
    "Each point is the IQM of the returns at the last evaluation, the line through it a 95 % bootstrap interval over seeds. Hollow "
    "markers are controls: a ticket that does no better than they do owes nothing to the choice of its weights."
)
_CURVES = (
    "IQM over seeds, of evaluations with the policy's mean action on episodes that are the same for all runs. The band is a 95 % "
    "bootstrap interval of the dense agents, and of the series that the pointer is at."
)
_PROFILES = (
    "The share of runs whose score exceeds a threshold: higher is better, and where curves cross neither is better "
    "throughout."
)
_MASKS = (
    "Means over seeds. A layer that keeps little is the narrowest part of the network; an observation that keeps nothing "
    "cannot change an action any more (weights without a path to an output are not counted there)."
)


def _sections(some: Mapping[str, str]) -> str:
    return "\n".join(f'<section id="{anchor(t)}"><h2>{t}</h2>\n{body}</section>' for t, body in some.items())


def _about(plan: Plan, runs: Runs, finished: Sequence[Spec]) -> str:
    seeds = len(plan.config.seeds)
    whole = (
        f"{len(finished)} of {len(plan.specs)} runs finished"
        if len(finished) < len(plan.specs)
        else "all runs finished"
    )
    return (
        f"{plan.config.agent_config.NAME}, {seeds} seed{'s' * (seeds > 1)}, {whole}. Results are of the last evaluation, never "
        "the best."
    )


def _colors(looks: Mapping[str, Style]) -> str:
    """Return the series' colors as CSS variables; paper is light whatever the screen is."""
    by_name = {style.name: style for style in looks.values()}
    light, dark = ("".join(f"--c-{n}:{getattr(s, which)};" for n, s in by_name.items()) for which in ("color", "dark"))
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def _data(
    looks: Mapping[str, Style], drawn: dict[str, list[Chart]], pictures: Sequence[Picture], tidy: Sequence[TidyRow]
) -> dict[str, Any]:
    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return None if value != value else float(f"{value:.6g}")
        return value

    def chart(section: str, i: int, one: Chart) -> dict[str, Any]:
        about = {"section": section, **{k: v for k, v in one._asdict().items() if k != "points"}}
        body = [[p.series, p.x if one.kind != "time" else rounded(p.x), *map(rounded, p[2:])] for p in one.points]
        whole = [other for other in drawn[section] if other.title.startswith(ALL_TASKS)]
        return {
            **about,
            "folded": one not in whole if whole else i >= MOST_SHOWN,
            "finding": finding(one, looks),
            "columns": Point._fields,
            "rows": body,
        }

    def picture(i: int, one: Picture) -> dict[str, Any]:
        about = {"section": "pictures", "kind": "picture", "title": one.title, "finding": finding_of_picture(one)}
        return {
            **about,
            "folded": i >= MOST_SHOWN,
            "columns": charts.Cell._fields,
            "rows": [[rounded(v) for v in cell] for cell in one.cells],
        }

    shown = ("name", "path", "dash", "hollow")
    return {
        "series": {name: {k: getattr(s, k) for k in shown} for name, s in looks.items()},
        "charts": [
            *(chart(section, i, one) for section, some in drawn.items() for i, one in enumerate(some)),
            *(picture(i, one) for i, one in enumerate(pictures)),
        ],
        "tidy": base64.b64encode(gzip.compress(csv_bytes(TidyRow._fields, tidy), mtime=0)).decode(),
    }


def _made(plan: Plan, finished: Sequence[Spec]) -> str:
    other = {*ALGORITHMS, "agent"} - {plan.config.algorithm if plan.config.algorithm in ALGORITHMS else "agent"}
    settings = {k: v for k, v in plan.config.model_dump(mode="json").items() if k not in {*NO_RESULT, *other}}
    if settings["pruning"]["rate"] is None:
        del settings["pruning"]["rate"]
    else:
        del settings["pruning"]["sparsity"]
    settings_text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)
    made = _versions(plan, finished)
    versions = [{"what": name, "version": "; ".join(values)} for name, values in sorted(made.items())]
    mixed = [name for name, values in made.items() if len(values) > 1]
    warning = (
        f'<p class="warn">Runs were made with different versions of {text(", ".join(mixed))}.</p>' if mixed else ""
    )
    return f"""<p>Save the settings as <code>report.yaml</code>; with the versions below, the same processor type and
<code>training.threads</code>, these commands give the same results, byte for byte:</p>
<pre>lth run report.yaml output_dir=results/again
lth report report.yaml output_dir=results/again</pre>
<p class="save"><button type="button" id="config-save">Save settings</button>
<button type="button" id="tidy">Save the tidy table (CSV)</button></p>
{fold("Settings, resolved", f'<pre id="config-text">{text(settings_text)}</pre>', "printed")}
{warning}{fold("Versions", table("versions", 2, "What the runs were made with.", versions), "printed")}"""


def _versions(plan: Plan, finished: Sequence[Spec]) -> dict[str, dict[str, None]]:
    """Return what runs were made with: each fact's values in the order of the runs."""
    made: dict[str, dict[str, None]] = {}
    for spec in finished:
        known = store.read_provenance(plan.root / spec.path)
        if known:
            facts = {**known["versions"], "git revision": known["git_revision"], "machine": known["machine"]}
            for name, value in {**facts, "devices": ", ".join(known["devices"])}.items():
                made.setdefault(name, {})[str(value)] = None
    return made


def _footer(plan: Plan, declared: Declared, finished: Sequence[Spec]) -> str:
    """Return when the runs were made, with what, and where to find and how to cite it; the clock is not asked."""
    from .. import __version__

    begun = sorted(
        str(attempt["time"])
        for spec in finished
        for attempt in journal.read_lines(plan.root / spec.path / journal.ATTEMPTS)
        if isinstance(attempt, dict) and "time" in attempt
    )
    versions = {name: "; ".join(_versions(plan, finished).get(name.lower(), {})) for name in ("lth", "JAX", "Python")}
    made = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    dates = [f"question declared {declared.time[:10]}"] if declared.time else []
    if begun:
        first, last = begun[0][:10], begun[-1][:10]
        dates.append(f"runs made {first}" + (f" to {last}" if last != first else ""))
    links = _links()
    known = "; ".join([*dates, *([f"made with {made}"] if made else [])])
    cited = f"The lth authors. lth: winning lottery tickets for deep reinforcement learning, version {__version__}."
    addresses = "".join(f' <a href="{text(url)}">{text(name)}</a>.' for name, url in links.items())
    return f"""<p>{text(sentence(known))}{"." if known else ""}</p>
<p>Written by lth {text(__version__)}.{addresses}</p>
<p>To cite: {text(cited)} {text(links.get("Repository", ""))}</p>
<p>Statistics: Agarwal et al. 2021, <a href="https://arxiv.org/abs/2108.13264">Deep Reinforcement Learning at the Edge of the
Statistical Precipice</a>. Charts: Observable Plot and D3 (ISC license).</p>"""


def _links() -> dict[str, str]:
    """Return the project's addresses by name, from the installed package; none in a checkout that is not installed."""
    try:
        found = metadata.metadata("lth").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return {}
    return {name: url for name, _, url in (str(one).partition(", ") for one in found)}
