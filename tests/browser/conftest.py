"""A real browser for the tests of pages: Chromium without a window, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import AXE, BROWSERS

SOFTWARE_GRAPHICS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
"""WebGL on the processor: what draws the volumes needs it, and test machines have no graphics card."""


@dataclass
class Opened:
    """A page and all that it did since it was opened.

    page: Playwright's. errors: what it wrote to the console as an error, what was thrown and not caught, and what did
    not load. requests: the address of everything it asked for, itself included; web sockets too.
    """

    page: Any
    screenshots: Path | None
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Begin to write down."""
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(f"not caught: {error}"))
        self.page.on("requestfailed", lambda one: self.errors.append(f"{one.url}: {one.failure}"))
        self.page.on("response", lambda one: self.errors.append(f"{one.url}: {one.status}") if not one.ok else None)
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("websocket", lambda one: self.requests.append(one.url))

    def foreign_requests(self, own: str) -> list[str]:
        """Addresses that do not begin with ``own``; a page's own memory (``data:``, ``blob:``) is no network."""
        return [address for address in self.requests if not address.startswith((own, "data:", "blob:"))]

    def axe(self) -> list[str]:
        """What axe-core's default rules find wrong with the page as it is now, a line each."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
        return [
            f"{rule['id']} ({rule['impact']}): {rule['help']}: {node['target']}: {node['html'][:200]}"
            for rule in found
            for node in rule["nodes"]
        ]

    def screenshot(self, name: str) -> None:
        """Keep a picture of the whole page as NAME.png, where ``--screenshots`` names a folder."""
        if self.screenshots is not None:
            self.screenshots.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=self.screenshots / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser. It ends with the module: while Playwright runs, nothing else in this thread may use asyncio."""
    from playwright.sync_api import sync_playwright

    executable = next(path for path in map(shutil.which, BROWSERS) if path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(SOFTWARE_GRAPHICS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Opened]]:
    """``open_page(address, width=1400, height=900, dark=False, **context)``: a page in a profile of its own.

    address: a URL, or the path of an HTML file. context: further options of Playwright's ``new_context``.
    """
    with ExitStack() as contexts:

        def opened(
            address: str | Path, width: int = 1400, height: int = 900, dark: bool = False, **context: Any
        ) -> Opened:
            scheme = "dark" if dark else "light"
            size = {"width": width, "height": height}
            profile = chromium.new_context(viewport=size, color_scheme=scheme, **context)
            contexts.callback(profile.close)
            one = Opened(profile.new_page(), request.config.getoption("--screenshots"))
            one.listen()
            one.page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
            return one

        yield opened
