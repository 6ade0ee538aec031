"""The built site in Chromium, opened from its files: no server, no network. `make test-docs` builds the site first."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("ARGUMBEL_SITE", ROOT / "site"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

Open = Callable[..., Page]


class Tab:
    """One page for all tests of a process: opening a page in it costs a third of what it costs in a context of its own.

    What a page leaves behind, its storage and its document, is gone before the next one is opened.
    """

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.wrong: list[str] = []  # errors on the console, and requests that leave the site
        self.renew()

    def renew(self) -> None:
        """A context that has opened no page yet."""
        for context in self.browser.contexts:
            context.close()
        self.page = page = self.browser.new_context().new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.wrong.append(f"{page.url}: {error}"))
        page.on("console", lambda line: line.type == "error" and self.wrong.append(f"{page.url}: {line.text}"))
        page.on(
            "request", lambda ask: ask.url.startswith("http") and self.wrong.append(f"{page.url} asks for {ask.url}")
        )

    def leave(self) -> None:
        try:
            if self.page.url.startswith("file:"):
                self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
            self.page.goto("about:blank")
        except Error:  # a page that does not answer any more
            self.renew()


@pytest.fixture(autouse=True)
def _poison() -> None:
    """In place of the fixture of all tests, which loads PyTorch's compiler, seconds for each process: here the site is
    tested, and Python is what it is compared with."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, "no Chromium is installed: install Debian's package chromium, or set CHROMIUM to the path of one"
    assert (SITE / "index.html").exists(), f"there is no site in {SITE}: run `make docs` first"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tab(browser: Browser) -> Tab:
    return Tab(browser)


@pytest.fixture
def open_page(tab: Tab) -> Iterator[Open]:
    """``open_page("play/race.html", width=390, scheme="dark", motion="reduce")``, in place of the page that was open.
    The test fails if a page wrote an error to the console, or asked for anything but files of the site."""

    def open_(
        path: str, *, width: int = 1280, height: int = 900, scheme: str = "light", motion: str = "no-preference"
    ) -> Page:
        tab.leave()
        tab.page.set_viewport_size({"width": width, "height": height})
        tab.page.emulate_media(color_scheme=scheme, reduced_motion=motion)
        tab.page.mouse.move(0, 0)
        tab.page.goto(SITE.as_uri() + "/" + path)
        return tab.page

    tab.wrong.clear()
    yield open_
    tab.leave()
    assert tab.wrong == []


Check = Callable[[Page], int]


@pytest.fixture
def check_python() -> Check:
    """``check_python(page)`` runs the lines of every Python box, which must print what the box says; how many boxes."""

    def check(page: Page) -> int:
        boxes = page.locator(".play-python").all()
        for box in boxes:
            printed = io.StringIO()
            code = box.locator(".play-code").text_content() or ""
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "<the Python box>", "exec"), {})
            assert printed.getvalue().strip() == box.locator(".play-output").text_content()
        return len(boxes)

    return check
