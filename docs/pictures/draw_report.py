"""Pictures of a report's sections for the README: ``python docs/pictures/draw_report.py REPORT.html SECTION PICTURE``.

Needs Chromium and Playwright, as the browser tests do. SECTION is an anchor of the page, such as ``cross-validation``.
A picture of patients' images does not belong into the repository: sections with pictures of cases are for reports of
the synthetic cohort (``nnbox demo``).
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

WIDTH, COLOURS = 1200, 128


def draw(report: Path, section: str, picture: Path, height: int) -> None:
    """The upper ``height`` pixels of a section, once its charts are drawn, as a PNG of few colours."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_context(viewport={"width": WIDTH, "height": height}, color_scheme="light").new_page()
        page.goto(report.resolve().as_uri())
        page.wait_for_function(
            "() => [...document.querySelectorAll('figure.chart .plot')].every((plot) => plot.querySelector('svg'))"
        )
        page.add_style_tag(content="nav { display: none } html { scroll-padding-top: 0 }")
        page.locator(f"#{section}").evaluate("(one) => one.scrollIntoView()")
        shot = page.screenshot()
        browser.close()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 900)
