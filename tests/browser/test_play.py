"""What holds of every interactive page."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from .axe import violations

ROOT = Path(__file__).parents[2]
PAGES = sorted(f"play/{page.stem}.html" for page in (ROOT / "docs" / "play").glob("*.md"))

# A page may not be wider than the screen; what is wider has a box of its own that scrolls.
SPARE = "document.documentElement.clientWidth - document.documentElement.scrollWidth"


@pytest.mark.parametrize("page", PAGES)
def test_python_boxes_print_what_they_say(
    open_page: Callable[..., Page], check_python: Callable[[Page], int], page: str
) -> None:
    opened = open_page(page, motion="reduce")
    assert check_python(opened) >= 1


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_the_screen(open_page: Callable[..., Page], page: str) -> None:
    opened = open_page(f"{page}#seed=-9223372036854775808")
    for width in (390, 1024, 1920):
        opened.set_viewport_size({"width": width, "height": 900})
        opened.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert opened.evaluate(SPARE) >= 0, width
        figure = opened.locator("div.play").first.bounding_box()
        assert figure, width
        assert figure["y"] < 600, width  # the figure begins on the first screen


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_accessible(open_page: Callable[..., Page], page: str) -> None:
    """In dark from the start; test_everyone_can_read has light, and the switch to dark."""
    opened = open_page(page, scheme="dark", motion="reduce")
    assert violations(opened, context=".play") == ""


@pytest.mark.parametrize("page", PAGES)
def test_every_control_is_reached_by_the_keyboard(open_page: Callable[..., Page], page: str) -> None:
    opened = open_page(page, motion="reduce")
    hosts = opened.locator("div.play")
    assert hosts.count() > 0
    for host in hosts.all():
        controls = host.locator("button, input, [role=slider]")
        assert controls.count() > 0
        for control in controls.all():
            if control.is_visible() and control.is_enabled():
                control.focus()
                assert control.evaluate("(element) => element === document.activeElement && element.tabIndex >= 0")


@pytest.mark.parametrize("page", PAGES)
def test_without_scripts_a_page_says_what_it_needs(page: str) -> None:
    source = (ROOT / "docs" / page).with_suffix(".md").read_text()
    assert 'class="play"' in source
    assert "JavaScript.</div>" in source


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "play").glob("*.js")), ids=lambda path: path.name)
def test_scripts_are_small_and_ask_for_nothing(script: Path) -> None:
    text = script.read_text()
    assert len(text) < 40_000
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_noise_in_node() -> None:
    code = "console.log(require('./noise.js').noise(7, 0, 3))"
    shown = subprocess.run(["node", "-e", code], cwd=ROOT / "docs" / "play", check=True, capture_output=True, text=True)
    import argumbel as ag

    assert float(shown.stdout) == ag.KeyedNoise(7).gumbel((1, 4))[0, 3].item()
