"""The code of docs/recipes.md and of the tutorials."""

import json
import re

from .small import ROOT

RECIPES = (ROOT / "docs" / "recipes.md").read_text()


def block_with(text):
    """Return the Python block of the recipes that holds a text."""
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", RECIPES, re.DOTALL) if text in code]
    return found


def written_by(tutorial, file):
    """Return the file that a cell of a tutorial writes."""
    notebook = json.loads((ROOT / "docs" / "tutorials" / f"{tutorial}.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    (found,) = [cell.split("\n", 1)[1] for cell in cells if cell.startswith(f"%%writefile {file}\n")]
    return found
