"""Make the README's picture, docs/quickstart.html and examples/quickstart.csv from the quickstart's results.

    lth run && lth report && python docs/make_gallery.py [results/quickstart]

Needs Debian's chromium and the extra `dev`.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, GAP = 700, 875, 14
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    results = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "results" / "quickstart")
    shutil.copy(results / "report.html", ROOT / "docs" / "quickstart.html")
    shutil.copy(results / "tidy.csv", ROOT / "examples" / "quickstart.csv")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, offline=True)
        page.goto((ROOT / "docs" / "quickstart.html").as_uri())
        page.wait_for_selector("svg")
        pictures = [page.screenshot()]
        page.evaluate("document.getElementById('learning-curves').scrollIntoView()")
        pictures.append(page.screenshot())
        browser.close()
    whole = Image.new("RGB", (2 * WIDTH + GAP, HEIGHT), "#888888")
    for i, picture in enumerate(pictures):
        whole.paste(Image.open(io.BytesIO(picture)), (i * (WIDTH + GAP), 0))
    whole.save(ROOT / "docs" / "report.png", optimize=True)


if __name__ == "__main__":
    main()
