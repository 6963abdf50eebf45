"""Every public name is in the API reference of the site, with its arguments, what it returns or raises, and an example."""

import ast
import importlib
import inspect
import json
import re
from typing import Any

import pytest
from helpers.small import ROOT

import lth
from lth import sbx, sparse, stats

PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
DIRECTIVES = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


def resolve(name):
    """Return what a dotted name stands for, or None."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found
    return None


def taught():
    """Yield what the documentation tells its readers to import: `from lth.x import y`, or to write: `lth.x.y`."""
    texts = [path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]]
    texts += [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    for path in [*(ROOT / "docs").rglob("*.ipynb"), *(ROOT / "examples").glob("*.ipynb")]:
        texts += ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    for text in texts:
        for module, names in re.findall(r"from (lth(?:\.\w+)*) import ([\w, ]+)", text):
            yield from (f"{module}.{name.strip()}" for name in names.split(","))
        yield from re.findall(r"\blth(?:\.[a-z_]+)*\.\w+", text)


def public():
    """Return the public names: all of `lth`, `lth.stats`, `lth.sparse` and `lth.sbx`, and what the documentation teaches."""
    names = {f"lth.{name}" for name in lth.__all__}
    names |= {f"lth.{module.__name__[4:]}.{name}" for module in (sbx, sparse) for name in module.__all__}
    names |= {f"lth.stats.{name}" for name, f in vars(stats).items() if inspect.isfunction(f) and name[0] != "_"}
    names |= set(taught())
    return sorted(name for name in names if inspect.isfunction(resolve(name)) or inspect.isclass(resolve(name)))


def test_help_does_not_spell_out_numpys_types():
    spelled = {name: str(inspect.signature(resolve(name))) for name in public() if inspect.isfunction(resolve(name))}
    assert not [name for name, text in spelled.items() if "numpy._typing" in text]


def test_no_page_names_a_folder_by_its_hash():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert not [page.name for page in pages if re.search(r"(dense|mask|ticket)-\S*-?[0-9a-f]{8}\b", page.read_text())]


def test_every_public_name_is_in_the_reference_once():
    assert not [name for name in DIRECTIVES if resolve(name) is None]
    documented = [found for found in map(resolve, DIRECTIVES) if inspect.isfunction(found) or inspect.isclass(found)]
    once = [found for found in documented if found is not Any]  # Any: three type aliases
    assert len({id(found) for found in once}) == len(once), "a name is documented twice"
    missing = [name for name in public() if not any(resolve(name) is found for found in documented)]
    assert not missing, f"add `::: name` to a page of docs/api for {missing}"


@pytest.mark.parametrize("name", DIRECTIVES)
def test_its_docstring_says_what_a_reader_needs(name):
    found, lacks = resolve(name), []
    if inspect.isclass(found):
        methods = [f"{name}.{key}" for key, value in vars(found).items() if key[0] != "_" and inspect.isroutine(value)]
        lacks += [method for method in methods if not inspect.getdoc(resolve(method)) and "_make" not in method]
        assert inspect.getdoc(found), name
        source = inspect.getsource(found)
        fields = [field for field in getattr(found, "_fields", ()) if not re.search(rf"\b{field}\b", found.__doc__)]
        lacks += [f for f in fields if not re.search(rf'^    {f}: .*\n(?:    [\])].*\n)?    """', source, re.MULTILINE)]
    elif inspect.isfunction(found):
        text = inspect.getdoc(found) or ""
        own = inspect.unwrap(found)
        parameters = inspect.signature(own).parameters
        lacks += [f"argument {p}" for p in parameters if not re.search(rf"^    {p}: ", text, re.MULTILINE)]
        code = ast.parse(inspect.cleandoc("\n" + inspect.getsource(own))).body[0]
        returns = str(inspect.signature(own).return_annotation) not in ("None", "<class 'NoneType'>")
        if returns and not (text.startswith("Return ") or "\nReturns:\n" in text):
            lacks.append("Returns:")
        if any(isinstance(node, ast.Raise) for node in ast.walk(code)) and "\nRaises:\n" not in text:
            lacks.append("Raises:")
        if ">>> " not in text:
            lacks.append("an example: >>>")
    assert not lacks, f"the docstring of {name} lacks {', '.join(lacks)}"


def test_all_places_that_name_the_version_agree():
    version = lth.__version__
    for place, words in (
        ("pyproject.toml", f'\nversion = "{version}"\n'),
        ("CITATION.cff", f"\nversion: {version}\n"),
        ("docs/citation.md", f"version = {{{version}}}"),
        ("CHANGELOG.md", f"\n## [{version}] - 20"),
    ):
        assert words in (ROOT / place).read_text(), place
