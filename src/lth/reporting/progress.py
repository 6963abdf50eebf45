"""What `lth status` prints: how far a grid has come, and its results so far. Imports no JAX."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from ..algorithms.architecture import Spaces
from ..experiment.journal import RETURN, SUCCESS, read_evaluations
from ..experiment.plan import Plan, Row, label, names_rewind
from ..experiment.rates import estimate_times, wall_seconds
from ..experiment.spec import Spec
from ..experiment.status import State
from .display import duration, plain_table, run_name
from .numbers import rewound, rounded

_TO_DO = "."


def status_summary(plan: Plan, states: Sequence[State], spaces: Mapping[str, Spaces]) -> str:
    """Count the runs of a grid by their state, with the disk that they take and how long is left."""
    counts = Counter(state.state for state in states)
    names = ("finished", "running", "failed", "interrupted", "to do")
    text = f"{len(states)} runs: " + ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
    text += f"; {sum(state.megabytes for state in states):,.1f} MB on disk"
    left = [state for state in states if state.state != "finished"]
    finished = [state.spec for state in states if state.state == "finished"]
    if left and finished and (times := estimate_times(plan, spaces, finished)).measured:
        runs = ((times.of(s.spec) * (1.0 - s.env_steps / s.total_steps if s.total_steps else 1.0), 1) for s in left)
        text += f"; about {duration(wall_seconds(runs, plan.config.workers))} left with workers={plan.config.workers}"
    return text


def status_table(states: Sequence[State]) -> Table:
    """Lay out what is being made and what failed."""
    table = plain_table()
    for name in ("run", "state", "env steps", "return", "note"):
        table.add_column(name, overflow="fold")
    for state in states:
        if state.state in ("running", "failed", "interrupted"):
            metrics, last = state.progress.get("metrics"), state.progress.get("time")
            value = metrics.get(RETURN) if isinstance(metrics, dict) else None
            alive = ""
            if state.state == "running" and isinstance(last, int | float):
                alive = f"last sign of life {duration(max(time.time() - last, 0.0))} ago"
            table.add_row(
                run_name(state.spec),
                state.state,
                f"{state.env_steps:,} of {state.total_steps:,}"
                if state.state == "running" and state.total_steps
                else "",
                rounded(value, 4) if isinstance(value, int | float) else "",
                "; ".join(filter(None, (alive, state.message))),
            )
    return table


def results_matrix(plan: Plan, states: Sequence[State], width: int) -> Iterator[str]:
    """Yield the lines of a table for each task and sparsity: methods by seeds, with returns and, where there is any, success.

    A run that is not finished has its state instead: how much of it is done, `failed`, `stopped` or a dot. Tables without any run
    that has begun are left out.

    Args:
        plan: the grid.
        states: of all its runs.
        width: of a line, in characters; where all seeds do not fit, tables go on below.
    """
    by_run = {state.spec: state for state in states}
    rewinds = {row.rewind for row in plan.rows}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in plan.rows:
        groups.setdefault((row.run.task, row.rewind, row.sparsity), []).append(row)
    results = {spec: _result(plan, state) for spec, state in by_run.items() if spec.env_steps}
    for (task, rewind, sparsity), rows in groups.items():
        title = level_title(task, sparsity, rewind if names_rewind(rewinds) else "")
        cells: dict[str, dict[int, Spec]] = {"dense": {row.dense.seed: row.dense for row in rows}}
        for row in rows:
            cells.setdefault(label(row.method, row.control), {})[row.dense.seed] = row.run
        scores = [results[spec] for found in cells.values() for spec in found.values()]
        if all(score == _TO_DO for score in scores):
            continue
        with_success = any(isinstance(score, dict) and SUCCESS in score for score in scores)
        yield ""
        yield f"{title}: return{' and success' * with_success} at the last evaluation"
        texts = {
            name: {f"seed {seed}": _cell(results[spec]) for seed, spec in sorted(found.items())}
            for name, found in cells.items()
        }
        for name, found in cells.items():
            if mean := _mean([results[spec] for spec in found.values()]):
                texts[name]["mean"] = mean
        yield from _blocks(texts, width)


def level_title(task: str, sparsity: str, rewind: str) -> str:
    """Name what is compared: `drawer-close-v3, sparsity 0.9, rewound to step 5000`; an empty rewind point is left out."""
    parts = [task, f"sparsity {sparsity}" if sparsity else "not pruned"]
    parts += [rewound(rewind)] if rewind else []
    return ", ".join(parts)


def _result(plan: Plan, state: State) -> dict[str, float] | str:
    """The last evaluation of a finished run, or a word for its state."""
    if state.state == "finished":
        found = read_evaluations(plan.root / state.spec.path)
        last = {metric: values[max(values)] for metric, values in found.items()}
        return last if RETURN in last else "damaged"
    if state.state == "running":
        return f"{100 * state.env_steps // max(state.total_steps, 1)} %"
    return {"failed": "failed", "interrupted": "stopped"}.get(state.state, _TO_DO)


def _cell(score: dict[str, float] | str) -> str:
    if isinstance(score, str):
        return score
    value = score[RETURN]
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}"
    return text + (f" {score[SUCCESS]:.0%}" if SUCCESS in score else "")


def _mean(scores: Sequence[dict[str, float] | str]) -> str:
    """The mean of the finished runs, if they are several."""
    found = [score for score in scores if isinstance(score, dict)]
    if len(found) < 2:
        return ""
    names = [name for name in (RETURN, SUCCESS) if all(name in score for score in found)]
    return _cell({name: sum(score[name] for score in found) / len(found) for name in names})


def _blocks(texts: dict[str, dict[str, str]], width: int) -> Iterator[str]:
    columns = list(dict.fromkeys(column for cells in texts.values() for column in cells))
    name = max(map(len, texts)) + 1
    wide = max(len(text) for cells in texts.values() for text in (*cells, *cells.values()))
    fit = max((width - name) // (wide + 2), 1)
    for start in range(0, len(columns), fit):
        some = columns[start : start + fit]
        yield " " * name + "".join(f"  {column:>{wide}}" for column in some)
        for row, cells in texts.items():
            yield f" {row:<{name - 1}}" + "".join(f"  {cells.get(column, ''):>{wide}}" for column in some).rstrip()
