"""The table of results in LaTeX, for `booktabs`."""

import math
from collections.abc import Sequence

import numpy as np

from .figures import METRICS, select
from .numbers import percent, rewound
from .scores import DENSE_AGENT, Condition, Runs
from .views import names_rewind

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def latex_table(
    runs: Runs,
    *,
    metric: str = "return",
    methods: Sequence[str] | None = None,
    sparsities: Sequence[float | str] | None = None,
) -> str:
    r"""Return a `tabular` with a row for each method and control, a column for each sparsity: mean and sd over seeds.

    Each task (and rewind point) is a block headed by its dense agents. Numbers have as many digits as two of the standard
    deviation allow; n is in the comment above, and beside each number of another n. Needs \usepackage{booktabs}.

    Args:
        runs: of all conditions.
        metric: `return` or `success`, at the last evaluation.
        methods: which of them, as in `figures`; None: all.
        sparsities: which of them; None: all.

    Raises:
        InputError: there are no such runs.

    >>> print(latex_table(runs, sparsities=[0.95]))  # doctest: +SKIP
    """
    runs, name = select(runs, methods, sparsities), METRICS.get(metric, metric)
    levels = list(dict.fromkeys(sparsity for _, sparsity in runs.levels()))
    rewinds = list(dict.fromkeys(rewind for rewind, _ in runs.levels()))
    counts = [len(runs.last(task, c, name)) for task in runs.tasks for c in runs.conditions if runs.last(task, c, name)]
    most = max(sorted(set(counts)), key=counts.count, default=0)
    columns = len(levels)
    lines = [
        f"% {metric} at the last evaluation: mean and sample standard deviation over n = {most} seeds. "
        r"Needs \usepackage{booktabs}.",
        rf"\begin{{tabular}}{{l{'r' * columns}}}",
        r"\toprule",
        rf" & \multicolumn{{{columns}}}{{c}}{{pruned}} \\",
        rf"\cmidrule(lr){{2-{columns + 1}}}",
        f" & {' & '.join(escaped(percent(level)).replace(' ', chr(92) + ',') for level in levels)} \\\\",
    ]
    for task in runs.tasks:
        for rewind in rewinds:
            back = f", {rewound(rewind)}" if names_rewind(rewinds) else ""
            dense = _number(runs, task, DENSE_AGENT, name, most)
            head = f"{escaped(task)}{back}; dense: {dense}"
            lines += [r"\midrule", rf"\multicolumn{{{columns + 1}}}{{l}}{{{head}}} \\"]
            rows: dict[str, dict[str, Condition]] = {}
            for c in runs.conditions:
                if c.rewind == rewind and c != DENSE_AGENT:
                    rows.setdefault(c.label, {})[c.sparsity] = c
            for label, found in rows.items():
                if "" in found:  # pruned nowhere
                    cells = [rf"\multicolumn{{{columns}}}{{c}}{{{_number(runs, task, found[''], name, most)}}}"]
                else:
                    cells = [_number(runs, task, found[s], name, most) if s in found else "--" for s in levels]
                lines.append(f"{escaped(label)} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _number(runs: Runs, task: str, condition: Condition, metric: str, most: int) -> str:
    values = list(runs.last(task, condition, metric).values())
    if not values:
        return "--"
    other = f" ($n = {len(values)}$)" if len(values) != most else ""
    return f"${mean_sd(values)}${other}"


def mean_sd(values: Sequence[float]) -> str:
    r"""Write the mean of some values with their sample standard deviation, if there are several, to two digits of the latter.

    >>> mean_sd([4500.0, 4700.0]), mean_sd([0.9, 1.0]), mean_sd([-1234.56])
    ('4{,}600 \\pm 140', '0.950 \\pm 0.071', '-1{,}235')
    """
    mean = float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    digits = 1 - math.floor(math.log10(sd)) if sd > 0 else 3 - math.floor(math.log10(abs(mean) or 1.0))
    parts = [mean, sd] if len(values) > 1 else [mean]
    return r" \pm ".join(f"{round(part, digits):,.{max(digits, 0)}f}".replace(",", "{,}") for part in parts)


def escaped(words: str) -> str:
    r"""Return words as LaTeX has to write them.

    >>> escaped("95 % of my_task")
    '95 \\% of my\\_task'
    """
    return "".join(_SPECIAL.get(c, c) for c in words)
