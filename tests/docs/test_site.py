"""The tutorials were run before they were committed, and still run; the built site finds names."""

import functools
import http.server
import json
import re
import shutil
import threading

import pytest
from helpers.small import ROOT

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_shows_what_it_printed(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run docs/make_tutorials.py"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert len(outputs) >= 4
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not re.search(r"/(tmp|home|root|Users)/", json.dumps(outputs)), "a path of the machine it was run on"
    assert any(path.stem in page.read_text() for page in (ROOT / "docs").glob("*.md")), "no page leads to it"


@pytest.mark.full
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path, monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import make_tutorials

    if path.stem == "robot" and not shutil.which("cc"):
        pytest.skip("no C compiler")
    before, (after, _) = json.loads(path.read_text()), make_tutorials.run(path)
    kinds = [
        [[output["output_type"] for output in cell.get("outputs", [])] for cell in notebook["cells"]]
        for notebook in (before, after)
    ]
    assert kinds[0] == kinds[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory, run_command):
    """The site, built as CI builds it."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = run_command("-m", "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    def log_message(self, *_):
        pass


SEARCHES = {
    "prune_kernels_by_magnitude": "lth.prune_kernels_by_magnitude",
    "keep_pruned": "lth.keep_pruned_at_zero",
    "training.env_steps": "Configuration",
    "replay buffer file": "The files of a run",
    "cite": "Citation",
    "synflow": "Synaptic flow: synflow",
}
"""What a reader types, and what the first hits have to hold."""


@pytest.mark.full
def test_search_finds_names_and_no_request_leaves_the_site(site):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no chromium here; .ci/run installs it")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, trouble = f"http://127.0.0.1:{server.server_port}/", []
    with playwright.sync_playwright() as started:
        page = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]).new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((home, "data:")) or trouble.append(asked.url))
        for words, wanted in SEARCHES.items():
            page.goto(home)
            page.fill("input.md-search__input", words)
            page.wait_for_selector("a.md-search-result__link")
            hits = page.locator("a.md-search-result__link").all_inner_texts()[:2]
            assert wanted in [line for hit in hits for line in hit.split("\n")], (words, hits)
    server.shutdown()
    server.server_close()
    assert not trouble


def test_a_doctest_becomes_a_fenced_block(monkeypatch):
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(ROOT / "docs")
    from site_docstrings import fence

    assert fence("Add.\n\n>>> 1 + 1\n2\n\nArgs:") == "Add.\n\n```python\n>>> 1 + 1\n2\n```\n\nArgs:"
    assert fence("No code.") == "No code."
