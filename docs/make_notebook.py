"""Execute examples/report.ipynb and write its outputs into it; or compare what it prints with what is committed.

    python docs/make_notebook.py [--check]

Needs the extra `dev`. Of pictures it is compared that they are there: their bytes differ between versions of matplotlib.
"""

import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "report.ipynb"


def execute(path: Path) -> Any:
    """Return a notebook with new outputs, without the times at which cells ran."""
    notebook = nbformat.read(path, 4)
    where = {"metadata": {"path": path.parent}}
    nbclient.NotebookClient(
        notebook, kernel_name="python3", resources=where, timeout=120, record_timing=False
    ).execute()
    return notebook


def said(notebook: Any) -> list[list[str]]:
    """Return the outputs of each cell of code: what it printed, and which pictures it shows."""

    def one(output: Any) -> str:
        if output["output_type"] == "stream":
            return str(output["text"])
        return "picture" if "image/png" in output["data"] else str(output["data"].get("text/plain"))

    return [[one(output) for output in cell["outputs"]] for cell in notebook.cells if cell.cell_type == "code"]


def main() -> None:
    made = execute(NOTEBOOK)
    if "--check" not in sys.argv:
        nbformat.write(made, NOTEBOOK)
        return
    for committed, new in zip(said(nbformat.read(NOTEBOOK, 4)), said(made), strict=True):
        if committed != new:
            sys.exit(
                f"The notebook says {new} and has {committed}. `python docs/make_notebook.py` makes its outputs again."
            )


if __name__ == "__main__":
    main()
