"""Run the tutorials and save them with their outputs: `python docs/make_tutorials.py [name ...]`.

Each runs in an empty folder, as a reader runs it. Needs the extra `dev` and a C compiler.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent / "tutorials"


def run(path: Path, timeout: int = 3600) -> tuple[Any, float]:
    """Return a notebook with the outputs of a fresh run, and the seconds that it took.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook, begun = nbformat.read(path, 4), time.monotonic()
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where `lth` is
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook, kernel_name="python3", timeout=timeout, resources={"metadata": {"path": folder}}
        )
        client.execute()
        tidy(notebook, folder)
    return notebook, time.monotonic() - begun


def tidy(notebook: Any, folder: str) -> None:
    """Leave out what differs from run to run without meaning: times of cells, pieces of streams, the folder."""
    for cell in notebook.cells:
        cell.metadata.clear()
        outputs: list[Any] = []
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            for data in (output, output.get("data", {})):
                for key in ("text", "text/plain"):
                    if key in data:
                        data[key] = data[key].replace(folder + "/", "")
            if outputs and output.output_type == outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        if cell.cell_type == "code":
            cell.outputs = outputs
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            notebook, seconds = run(path)
            nbformat.write(notebook, path)
            print(f"{path.name}: {seconds:.0f} s")


if __name__ == "__main__":
    main()
