"""Write docs/configuration.md from src/lth/config.py: `python docs/make_configuration.py > docs/configuration.md`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from src.lth.config import Config


def text() -> str:
    """Return the page."""
    lines = [
        "# Configuration",
        "A config is a YAML file; every key is optional. On the command line `key=value` overrides one, the value in YAML:",
        "",
        "    lth run my.yaml training.env_steps=20000 'pruning.sparsity=[0.8, 0.95]' output_dir=results/longer",
        "",
        "Without a file, commands read `config.yaml` in the working folder; in a checkout that is the quickstart's, whose settings",
        "suit Pendulum only. If there is none, the overrides apply to the defaults below. `lth init` writes all keys to a file.",
        "",
        "Other settings give other run folders, but `table.csv`, `report.html` and the other tables hold the last command's,",
        "so give each study its own `output_dir`. A study that leaves out a method of `report.primary` needs another",
        "question, or `report.primary=null`.",
        "",
        "Unknown and duplicate keys are errors, and so are numbers that YAML would read in base 8 or 60 (`010`, `1:10`).",
        "(This page is made from `src/lth/config.py` by `python docs/make_configuration.py`.)",
    ]
    defaults = Config().model_dump(mode="json")
    top = [
        (name, field) for name, field in Config.model_fields.items() if not hasattr(field.annotation, "model_fields")
    ]
    sections = [(name, field) for name, field in Config.model_fields.items() if (name, field) not in top]
    lines += ["", *table("", top, defaults)]
    for name, field in sections:
        lines += [
            "",
            f"## {name}: {field.description}",
            *table(f"{name}.", field.annotation.model_fields.items(), defaults[name]),
        ]
    return "\n".join(lines) + "\n"


def table(prefix: str, fields: object, defaults: dict[str, object]) -> list[str]:
    """Return one section's keys as a Markdown table."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in fields:
        default = 0.8 if name == "sparsity" else defaults[name]
        shown = (
            "null"
            if default is None
            else yaml.safe_dump(default, default_flow_style=True).removesuffix("...\n").strip()
        )
        rows.append(f"| `{prefix}{name}` | `{shown}` | {escape(field.description)} |")
    return rows


def escape(description: str) -> str:
    """Put a description into one table cell."""
    return " ".join(description.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(text())
