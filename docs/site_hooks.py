"""What mkdocs does to the pages before it renders them; mkdocs.yml names this file.

- Notebooks become pages: text, code, and the outputs that were saved with them.
- A line `<!-- lth run --help -->` is followed by that command's help.
- CHANGELOG.md, CONTRIBUTING.md and their like become pages.
- Links to files outside of docs/ go to the repository.
"""

import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Any, config: Any) -> Any:
    """Put a Markdown page beside each notebook, which stays as a file to download."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        notebook = json.loads(Path(file.abs_src_path).read_text(encoding="utf-8"))
        page = File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=notebook_page(notebook, file.name))
        files.append(page)
    for name in ("CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=INCLUDED.sub(from_root, text)))
    return files


def from_root(link: re.Match[str]) -> str:
    """Return a link of a file in the repository's root as a link of a page."""
    return f"]({link[1] or link[2].lower() + (link[3] or '')})"


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """Return a notebook as Markdown.

    Args:
        notebook: the notebook's JSON, format 4, with its outputs.
        name: its file name without `.ipynb`, for the link.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(fenced("python", source))
            parts += [part for output in cell["outputs"] for part in output_parts(output)]
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\n[Download this notebook]({name}.ipynb){{ .md-button }}\n{rest}\n"


def output_parts(output: dict[str, Any]) -> list[str]:
    """Return what a cell put out as Markdown: a picture, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return [
            f'<img alt="output of the cell above" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
        ]
    if "text/html" in data:
        return [f'<div class="cell-output">{"".join(data["text/html"])}</div>']
    text = "".join(output.get("text", data.get("text/plain", "")))
    return [fenced("text", text.rstrip(), " .cell-output")] if text.strip() else []


def fenced(language: str, text: str, classes: str = "") -> str:
    """Return text as a fenced block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{{ .{language}{classes} }}\n{text}\n{fence}"


HELP = re.compile(r"^<!-- (lth(?: \w+)?) --help -->$", re.MULTILINE)
NOTEBOOK = re.compile(r"\]\(((?:\.\./)?(?:tutorials/)?[\w-]+)\.ipynb\)(?!\{ \.md-button)")
OUTSIDE = re.compile(r"\]\((?:\.\./)+((?:src|tests|scripts|examples|configs|benchmarks)\b[^)]*)\)")
AT_ROOT = re.compile(r"\]\(\.\./([A-Z_]+\.md)(#[^)]*)?\)")
INCLUDED = re.compile(r"\]\((?:docs/([^)]*)|([A-Z_]+\.md)(#[^)]*)?)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Insert the help of commands, and point links to notebooks at their pages and links to other files at the repository."""
    markdown = HELP.sub(lambda found: fenced("text", command_help(found[1].split()[1:])), markdown)
    markdown = AT_ROOT.sub(lambda found: f"]({found[1].lower()}{found[2] or ''})", markdown)
    markdown = NOTEBOOK.sub(r"](\1.md)", markdown)
    return OUTSIDE.sub(rf"]({config.extra['repository']}/blob/main/\1)", markdown)


def command_help(words: list[str]) -> str:
    """Return what `lth ... --help` prints on a terminal of 88 columns."""
    from lth.cli import main

    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "88"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return printed.getvalue().rstrip()
