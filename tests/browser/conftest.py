"""The built site in Chromium, opened from its files: no server, no network. `make test-docs` builds the site first."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("ARGUMBEL_SITE", ROOT / "site"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, "no Chromium is installed: install Debian's package chromium, or set CHROMIUM to the path of one"
    assert (SITE / "index.html").exists(), f"there is no site in {SITE}: run `make docs` first"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """``open_page("play/race.html", width=390, scheme="dark", motion="reduce")``. The test fails if the page wrote an
    error to the console, or asked for anything but files of the site."""
    contexts, wrong = [], []

    def open_(
        path: str, *, width: int = 1280, height: int = 900, scheme: str = "light", motion: str = "no-preference"
    ) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion=motion
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(f"{path}: {error}"))
        page.on("console", lambda line: line.type == "error" and wrong.append(f"{path}: {line.text}"))
        page.on("request", lambda ask: ask.url.startswith("http") and wrong.append(f"{path} asks for {ask.url}"))
        page.goto(SITE.as_uri() + "/" + path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []


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
