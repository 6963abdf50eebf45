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
from ..experiment import journal, records
from ..experiment.plan import Plan
from ..experiment.question import Declared, declared_question
from ..experiment.spec import Spec
from ..experiment.tidy import TidyRow
from ..files import csv_bytes
from .answer import answer
from .families import families
from .html import anchor, fold, table, text
from .numbers import seeds, sentence
from .placement import SAVINGS, TICKETS, Source, place
from .savings import savings
from .scores import Runs, results
from .sections import (
    answer_section,
    comparisons_section,
    costs_section,
    differences_section,
    results_section,
    savings_section,
    swatch,
    tasks_section,
    tickets_section,
    verdicts_section,
)
from .styles import Style, css, styles

REPORT_FILE = "report.html"
NO_RESULT = ("output_dir", "workers", "executor", "ray", "retries", "tensorboard", "wandb", "trackio")
"""Settings that change no result; the page leaves them out."""
NO_SERIES = ("Aggregates", TICKETS)
"""Sections of charts whose series cannot be hidden."""


def page(plan: Plan, tidy: Sequence[TidyRow], finished: Sequence[Spec]) -> str:
    """Return the report on a plan's finished runs as HTML; the same runs give the same bytes."""
    config, runs = plan.config, Runs(tidy)
    declared = declared_question(plan.root, config)
    tested, looks = families(runs, config.primary, config.report.margin), styles(runs)
    said, source = answer(runs, tested, declared), Source(plan, set(finished), runs, looks)
    views, behind = place(source)
    versions = _versions(plan, finished)
    title = f"Lottery tickets on {', '.join(runs.tasks)}"
    saved = savings(runs, source.mean_sizes())
    views[SAVINGS] = savings_section(runs, tested, saved) + views.get(SAVINGS, "")
    views[TICKETS] = views.get(TICKETS, "") + tickets_section(runs)
    before = {"What differs": differences_section(said), "Task by task": tasks_section(runs, tested, looks)}
    toggled = {name: body for name, body in views.items() if name not in NO_SERIES}
    rest = {
        **{name: views.get(name, "") for name in NO_SERIES},
        "All numbers": verdicts_section(tested) + comparisons_section(tested) + results_section(results(runs)),
        "What it cost": costs_section(runs),
        "How it was made": _made(plan, versions),
    }
    parts = [{name: body for name, body in some.items() if body} for some in (before, toggled, rest)]
    read = resources.files(__package__).joinpath
    contents = [*(name for some in parts for name in some), "How to read this"]
    data = json.dumps(_data(looks, behind, tidy), separators=(",", ":"), allow_nan=False)
    return Template(read("page.html").read_text("utf-8")).substitute(
        title=text(title),
        about=text(_about(plan, runs, finished)),
        nav="".join(f'<a href="#{anchor(name)}">{name}</a>' for name in contents),
        first=answer_section(said, runs, tested, looks),
        before=_sections(parts[0]),
        toggled=_sections(parts[1]),
        rest=_sections(parts[2]),
        margin=f"{config.report.margin:g}",
        footer=_footer(plan, declared, finished, versions),
        data=data.replace("<", "\\u003c"),
        css=css(looks) + read("page.css").read_text("utf-8"),
        js=read("page.js").read_text("utf-8"),
    )


def _sections(some: Mapping[str, str]) -> str:
    return "\n".join(f'<section id="{anchor(t)}"><h2>{t}</h2>\n{body}</section>' for t, body in some.items())


def _about(plan: Plan, runs: Runs, finished: Sequence[Spec]) -> str:
    whole = (
        f"{len(finished)} of {len(plan.specs)} runs finished"
        if len(finished) < len(plan.specs)
        else "all runs finished"
    )
    return (
        f"{plan.config.agent_config.NAME}, {seeds(len(plan.config.seeds))}, {whole}. Results are of the last evaluation, never "
        "the best."
    )


def _data(looks: Mapping[str, Style], behind: Sequence[Any], tidy: Sequence[TidyRow]) -> dict[str, Any]:
    """Return what page.js needs: markers, and compressed the numbers behind the charts and the tidy table."""
    cells = zip(TidyRow._fields, zip(*tidy, strict=True), strict=True)
    columns = (csv_bytes((name, ""), ((cell, "") for cell in column)) for name, column in cells)
    return {
        "series": {name: swatch(style) for name, style in looks.items()},
        "charts": _packed(json.dumps(behind, separators=(",", ":"), allow_nan=False).encode()),
        "tidy": _packed(b"\0".join(column.replace(b",\n", b"\n") for column in columns)),  # half the size of rows
    }


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _made(plan: Plan, made: Mapping[str, Mapping[str, None]]) -> str:
    other = {*ALGORITHMS, "agent"} - {plan.config.algorithm if plan.config.algorithm in ALGORITHMS else "agent"}
    settings = {k: v for k, v in plan.config.model_dump(mode="json").items() if k not in {*NO_RESULT, *other}}
    if settings["pruning"]["rate"] is None:
        del settings["pruning"]["rate"]
    else:
        del settings["pruning"]["sparsity"]
    settings_text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)
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
        known = records.read_provenance(plan.root / spec.path)
        if known:
            facts = {**known["versions"], "git revision": known["git_revision"], "machine": known["machine"]}
            for name, value in {**facts, "devices": ", ".join(known["devices"])}.items():
                made.setdefault(name, {})[str(value)] = None
    return made


def _footer(
    plan: Plan, declared: Declared, finished: Sequence[Spec], versions: Mapping[str, Mapping[str, None]]
) -> str:
    """Return when the runs were made, with what, and where to find and how to cite it; the clock is not asked."""
    from .. import __version__

    begun = sorted(
        str(attempt["time"])
        for spec in finished
        for attempt in journal.read_lines(plan.root / spec.path / journal.ATTEMPTS)
        if isinstance(attempt, dict) and "time" in attempt
    )
    known = {name: "; ".join(versions.get(name.lower(), {})) for name in ("lth", "JAX", "Python")}
    made = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    dates = [f"question declared {declared.time[:10]}"] if declared.time else []
    if begun:
        first, last = begun[0][:10], begun[-1][:10]
        dates.append(f"runs made {first}" + (f" to {last}" if last != first else ""))
    links = _links()
    history = "; ".join([*dates, *([f"made with {made}"] if made else [])])
    cited = f"The lth authors. lth: winning lottery tickets for deep reinforcement learning, version {__version__}."
    addresses = "".join(f' <a href="{text(url)}">{text(name)}</a>.' for name, url in links.items())
    return f"""<p>{text(sentence(history))}{"." if history else ""}</p>
<p>Written by lth {text(__version__)}.{addresses}</p>
<p>To cite: {text(cited)} {text(links.get("Repository", ""))}</p>
<p>Statistics: Agarwal et al. 2021, <a href="https://arxiv.org/abs/2108.13264">Deep Reinforcement Learning at the Edge of the
Statistical Precipice</a>.</p>"""


def _links() -> dict[str, str]:
    """Return the project's addresses by name, from the installed package; none in a checkout that is not installed."""
    try:
        found = metadata.metadata("lth").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return {}
    return {name: url for name, _, url in (str(one).partition(", ") for one in found)}
