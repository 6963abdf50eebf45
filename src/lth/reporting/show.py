"""What `lth show` prints of one run: its results, then what was done, then its settings."""

import contextlib
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..algorithms.architecture import algorithm_key
from ..config import PruningConfig
from ..errors import InputError
from ..experiment import journal, records
from ..experiment.journal import RETURN, SUCCESS
from ..experiment.records import AnalysisRow
from ..experiment.spec import ConnectivitySpec, DenseSpec, MaskSpec, Spec, TicketSpec, parse_spec
from ..files import read_json
from .numbers import rounded, share

_LABEL = 13
"""Characters of the labels' column."""
_BARS = "▁▂▃▄▅▆▇█"


def describe(run: Path, width: int = 120, everything: bool = False) -> str:
    """Return what is known of a run, as lines of text.

    Args:
        run: its directory.
        width: of the lines, in characters; longer words are left whole.
        everything: add all settings, versions, timings, attempts, failures and files as YAML.

    Raises:
        InputError: there is no run.
    """
    if not (run / journal.SPEC).exists():
        raise InputError(records.no_run(run, run / journal.SPEC))
    try:
        fields = dict(read_json(run / journal.SPEC))
        spec = parse_spec({k: v for k, v in fields.items() if k != "spec_version"})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{run / journal.SPEC} is no description of a run: {error}") from None
    state = _state(run, spec)
    lines = [f"{spec.title()}: {state}"]
    for label, text in (*_results(run, spec), *_work(run, spec), ("settings", _settings(spec))):
        lines += textwrap.wrap(
            text,
            max(width, 2 * _LABEL),
            initial_indent=f"{label:<{_LABEL}}",
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
    if everything:
        lines += ["", _everything(run, spec, fields)]
    elif state.startswith("failed"):
        lines += ["", str(journal.read_lines(run / journal.FAILURES)[-1].get("traceback", "")).rstrip()]
    return "\n".join(lines)


def _state(run: Path, spec: Spec) -> str:
    if journal.is_locked(run / journal.LOCK):
        progress = journal.read_progress(run)
        if spec.env_steps and "env_steps" in progress:
            return f"running, at step {progress['env_steps']:,} of {spec.start + spec.env_steps:,}"
        return "running"
    if (run / journal.last_file(run, spec).name).exists():
        return "finished"
    if failure := journal.last_failure(run):
        return f"failed: {failure.get('message', '')}"
    return "interrupted; the `lth run` that began it resumes it"


def _results(run: Path, spec: Spec) -> Iterator[tuple[str, str]]:
    if isinstance(spec, ConnectivitySpec):
        yield from _line(run)
        return
    found = {} if isinstance(spec, MaskSpec) else journal.read_evaluations(run)
    dense = (
        {} if isinstance(spec, MaskSpec | DenseSpec) else journal.read_evaluations(run.parent / spec.dense.path.name)
    )
    for metric, label, form in ((RETURN, "return", ",.1f"), (SUCCESS, "success", ".0%")):
        if values := found.get(metric):
            before = dense.get(metric)
            beside = f"; its dense agent: {before[max(before)]:{form}}" if before else ""
            yield label, f"{values[max(values)]:{form}} at step {max(values):,}{beside}"
    newest = journal.read_progress(run).get("metrics", {})
    if not found and RETURN in newest:
        yield "return", f"{newest[RETURN]:,.1f} at the newest evaluation"
    rows: list[AnalysisRow] = []
    with contextlib.suppress(InputError):
        rows = records.read_analysis(run)
    yield from _sparsity(spec, rows)
    if len(values := found.get(RETURN, {})) > 1:
        steps = sorted(values)
        ends = f"from {values[steps[0]]:,.1f} at step {steps[0]:,} to {values[steps[-1]]:,.1f}"
        yield "evaluations", f"{sparkline([values[step] for step in steps])} {ends}"
    agreed = [row for row in rows if row.metric == "saliency_shared"]
    shared = [f"{share(round(row.value, 2))} of the {row.network}'s weights" for row in agreed]
    if shared:
        yield "stability", f"masks of two halves of the gradient batches agree on {', '.join(shared)}"


def _sparsity(spec: DenseSpec | MaskSpec | TicketSpec, rows: Sequence[AnalysisRow]) -> Iterator[tuple[str, str]]:
    """What is pruned, and what each network keeps; of a mask in each layer."""
    named = (
        spec if isinstance(spec, MaskSpec) else (spec.schedule or spec.mask) if isinstance(spec, TicketSpec) else None
    )
    counts = {(row.network, row.layer, row.metric): row.value for row in rows}
    kept: dict[str, list[str]] = {}
    for (network, layer, metric), weights in counts.items():
        if metric == "weights" and weights:
            keeps = counts.get((network, layer, "kept"), 0.0)
            part = f"has {weights:,.0f}" if keeps == weights else f"keeps {keeps:,.0f} of {weights:,.0f}"
            text = f"{layer} {100 * keeps / weights:.1f} %" if layer else f"{network} {part} weights"
            kept.setdefault(network if layer else "", []).append(text)
    pruned = f"{named.sparsity.label()} of the prunable weights" if named else "nothing is pruned"
    yield "sparsity", ": ".join(filter(None, [pruned, ", ".join(kept.pop("", []))]))
    if isinstance(spec, MaskSpec):
        for network, layers in kept.items():
            yield "", f"kept in the {network}: {', '.join(layers)}"


def _line(run: Path) -> Iterator[tuple[str, str]]:
    rows: list[records.LineRow] = []
    with contextlib.suppress(InputError):
        rows = records.read_line(run)
    for metric in dict.fromkeys(row.metric for row in rows):
        values = [row.value for row in sorted(rows) if row.metric == metric]
        first, last, lowest = (rounded(value, 4) for value in (values[0], values[-1], min(values)))
        yield metric, f"{sparkline(values)} from {first} to {last}, lowest {lowest}"


def sparkline(values: Sequence[float]) -> str:
    """Draw numbers as bars of eight heights, from the lowest to the highest.

    >>> sparkline([-1500.0, -800.0, -150.0]), sparkline([1.0, 1.0])
    ('▁▅█', '▁▁')
    """
    low, high = min(values), max(values)
    step = (high - low) / (len(_BARS) - 1) or 1.0
    return "".join(_BARS[round((value - low) / step)] for value in values)


def _work(run: Path, spec: Spec) -> Iterator[tuple[str, str]]:
    timings = journal.read_timings(run)
    seconds, compiled = timings.pop("total", None), timings.pop("compile", None)
    took = "" if seconds is None else f" in {seconds:,.1f} s"
    parts = ", ".join(f"{name} {value:,.1f}" for name, value in sorted(timings.items(), key=lambda part: -part[1]))
    parts += "" if compiled is None else f"; {compiled:,.1f} of it to compile"
    took += f" ({parts})" if parts else ""
    if spec.env_steps:
        yield "trained", f"{spec.env_steps:,} environment steps, {spec.updates:,} updates{took}"
    elif took:
        yield "made", took.strip()
    if needs := [needed.path.name for needed in spec.needs()]:
        yield "from", ", ".join(needs)
    made_with = records.read_provenance(run)
    if made_with:
        versions = [f"{name} {version}" for name, version in made_with["versions"].items()]
        revision = [f"revision {made_with['git_revision'][:10]}"] if made_with["git_revision"] else []
        yield "made with", ", ".join([*versions, made_with["machine"], *made_with["devices"], *revision])
    attempts, failures = (journal.read_lines(run / name) for name in (journal.ATTEMPTS, journal.FAILURES))
    if attempts:
        last = attempts[-1]
        yield "attempts", f"{len(attempts)}, the last at {last.get('time', '?')} on {last.get('host', '?')}"
    if failures:
        yield "failures", f"{len(failures)}, the last: {failures[-1].get('message', '')}"
    files = _files(run)
    yield (
        "files",
        f"{sum(files.values()) / 1e6:,.1f} MB: {', '.join(name for name in files if not name.endswith('.sha256'))}",
    )


def _files(run: Path) -> dict[str, int]:
    found = (file for file in sorted(run.rglob("*")) if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(run)): file.stat().st_size for file in found}


def _settings(spec: Spec) -> str:
    """Write the settings that are not at their defaults as `key=value`, as `lth run` takes them."""
    dense = spec.dense
    found: dict[str, Any] = {f"training.{k}": v for k, v in dense.training.model_dump(exclude_defaults=True).items()}
    if "training.batch" in found:  # it and the backend are set by `batch`
        found["batch"] = found.pop("training.batch")
        del found["training.backend"]
    algorithm = algorithm_key(dense.agent)
    found |= {"algorithm": algorithm} if algorithm != "sac" else {}
    section = "agent" if ":" in algorithm else algorithm
    found |= {f"{section}.{k}": v for k, v in dense.agent.model_dump(exclude_defaults=True).items()}
    found |= {f"evaluation.{k}": v for k, v in dense.evaluation.model_dump(exclude_defaults=True).items()}
    ticket = spec.other if isinstance(spec, ConnectivitySpec) else spec if isinstance(spec, TicketSpec) else None
    schedule, mask = (ticket.schedule, ticket.mask) if ticket else (None, spec if isinstance(spec, MaskSpec) else None)
    apart = {"stage", "dense", "previous", "method", "sparsity", "sha256", *_SCHEDULE}
    if part := schedule or mask:
        found |= {f"pruning.{k}": v for k, v in part.model_dump(exclude_defaults=True, exclude=apart).items()}
    for name, key in _SCHEDULE.items() if schedule else ():
        value = getattr(schedule, name)
        if value and value != PruningConfig.model_fields[key].default:  # gradual has no fraction
            found[f"pruning.{key}"] = value
    if isinstance(found.get("pruning.allocation"), tuple):
        found["pruning.allocation"] = dict(found["pruning.allocation"])
    if ticket:
        own = ticket.model_dump(exclude_defaults=True, include={"rewind_steps", "rewound", "mismatch"})
        found |= {f"pruning.{'transfer_mismatch' if k == 'mismatch' else k}": v for k, v in own.items()}
    if isinstance(spec, ConnectivitySpec):
        own = spec.model_dump(exclude_defaults=True, include={"points", "episodes"})
        found |= {f"analysis.connectivity_{k}": v for k, v in own.items()}
    given = " ".join(
        shlex.quote(text) if " " in text else text for text in (f"{k}={_value(v)}" for k, v in found.items())
    )
    return f"{given}; all others are at their defaults (--all)" if given else "all at their defaults (--all)"


_SCHEDULE = {"every": "mask_every", "until": "mask_until", "fraction": "mask_fraction"}
"""The keys of `pruning` by the fields of a ScheduleSpec."""


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_value(v)}' for k, v in value.items())}}}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _everything(run: Path, spec: Spec, fields: Mapping[str, Any]) -> str:
    import yaml

    found = {
        "run": {"folder": str(run), "title": spec.title()},
        "settings": dict(fields),
        "made with": records.read_provenance(run) or f"unknown: {records.PROVENANCE} is missing or damaged",
        "seconds": journal.read_timings(run),
        "progress": journal.read_progress(run),
        "attempts": journal.read_lines(run / journal.ATTEMPTS),
        "failures": journal.read_lines(run / journal.FAILURES),
        "files": {name: f"{size:,} bytes" for name, size in _files(run).items()},
    }

    def block(title: str, value: Any) -> str:
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        return f"{title}:\n" + textwrap.indent(text, "  ").rstrip()

    return "\n".join(block(title, value) for title, value in found.items() if value)
