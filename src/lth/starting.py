"""The config that `lth init` writes: the quickstart, and every other key with its default as a comment. Does not import JAX."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from .config import Config
from .errors import InputError
from .files import write_whole

QUICKSTART: dict[str, Any] = {
    "tasks": ["Pendulum-v1"],
    "seeds": [0, 1, 2, 3, 4, 5, 6, 7],
    "output_dir": "results/quickstart",
    "workers": 2,
    "training": {"env_steps": 8000, "start_steps": 500, "segment_steps": 1000, "batch_size": 64},
    "sac": {
        "actor_hidden": [128, 128],
        "critic_hidden": [128, 128],
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "alpha_learning_rate": 1e-3,
        "initial_alpha": 0.2,
        "reward_scale": 0.1,
    },
    "evaluation": {"every": 2000, "episodes": 10},
    "pruning": {
        "methods": ["magnitude", "gradient", "taylor", "random", "shuffled"],
        "sparsity": 0.95,
        "exclude": ["output"],
        "num_gradient_batches": 100,
        "gradient_batch_size": 256,
    },
    "report": {"primary": ["taylor", "magnitude"], "margin": 0.1},
}
"""A few minutes on two cores."""
_WIDTH = 116


def template() -> str:
    """Return the config text: quickstart keys are set, all others are commented out with their defaults and descriptions."""
    defaults = Config().model_dump(mode="json")
    fields = Config.model_fields.items()
    sections = [name for name, field in fields if hasattr(field.annotation, "model_fields")]
    lines = [
        "# The experiment of the quickstart: a few minutes on 2 cores. `lth run` with this file's name runs it,",
        "# `lth run FILE --dry-run` lists the planned runs. Keys behind a # show their defaults.",
        "",
    ]
    lines += _keys(((n, f) for n, f in fields if n not in sections), defaults, QUICKSTART, "")
    for name in sections:
        field: Any = Config.model_fields[name]
        given = QUICKSTART.get(name)
        lines += ["", *_comment(field.description, ""), f"{name}:" if given else f"# {name}:"]
        lines += _keys(field.annotation.model_fields.items(), defaults[name], given or {}, "  ")
    return "\n".join(lines) + "\n"


def _keys(fields: Iterable[tuple[str, Any]], defaults: dict[str, Any], given: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for name, field in fields:
        default = 0.8 if name == "sparsity" else defaults[name]
        lines += _comment(field.description, indent)
        mark = "" if name in given else "# "
        lines.append(f"{indent}{mark}{name}: {_yaml(given.get(name, default))}")
    return lines


def _comment(words: str | None, indent: str) -> list[str]:
    return textwrap.wrap(
        " ".join((words or "").split()), _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )


def _yaml(value: Any) -> str:
    return (
        "null"
        if value is None
        else str(yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip())
    )


def write_template(path: Path) -> None:
    """Write `template` to a new file.

    Raises:
        InputError: the file exists or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"'{path}' already exists; name another file, as in `lth init my.yaml`")
    write_whole(path, template().encode(), checksum=False)
