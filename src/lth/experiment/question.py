"""The question of a study: written into the output directory, with the time, before its first run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config
from ..files import read_json, write_note
from .journal import now

QUESTION_FILE = "question.json"


class Declared(NamedTuple):
    """What is known of a question."""

    time: str
    """When it was written down, ISO 8601, local time with its offset from UTC; empty where it was not."""
    late: bool
    """Whether runs were there before it."""
    changes: tuple[str, ...]
    """What the config asks now that was declared otherwise, in words."""

    @property
    def confirmatory(self) -> bool:
        """Whether p values of the primary question mean what they say: it was asked beforehand, and is still the same."""
        return bool(self.time) and not self.late and not self.changes


def question(config: Config) -> dict[str, Any]:
    """Return what decides the primary question's test: methods, margin, and the runs that it is asked of."""
    pruning = config.pruning
    return {
        "primary": list(config.primary) if config.primary else None,
        "margin": config.report.margin,
        "tasks": list(config.tasks),
        "sparsity": [s.label() for s in pruning.sparsity] if pruning.rate is None else pruning.rate,
        "rounds": pruning.rounds,
        "rewind_steps": list(pruning.rewind_steps),
        "seeds": list(config.seeds),
    }


def declare_question(config: Config) -> None:
    """Write a config's question down, unless the output directory has one."""
    path = config.output_dir / QUESTION_FILE
    if path.exists():
        return
    late = any(config.output_dir.glob("*/seed*/*/spec.json"))
    fields = {"time": now(), "after_first_run": late, "question": question(config)}
    write_note(path, json.dumps(fields, indent=1) + "\n")


def declared_question(root: Path, config: Config) -> Declared:
    """Compare a config's question with the one that was written down."""
    try:
        fields = read_json(root / QUESTION_FILE)
        time, late, asked = str(fields["time"]), bool(fields["after_first_run"]), question(config)
        before = {"rounds": asked["rounds"], **fields["question"]}  # which earlier versions did not record
        names = [name for name in asked if asked[name] != before.get(name)]
        return Declared(time, late, tuple(_change(name, before.get(name), asked[name]) for name in names))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Declared("", True, ())


def _change(name: str, before: Any, now: Any) -> str:
    def words(value: Any) -> str:
        if name == "seeds" and isinstance(value, list) and len(value) > 3:
            return f"{len(value)} seeds"
        return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)

    return f"{name} was {words(before)} and is {words(now)}"
