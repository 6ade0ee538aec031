"""The page "The race": what it shows is what Python draws, whoever moves what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from playwright.sync_api import Page, expect

import argumbel as ag

Open = Callable[..., Page]
Check = Callable[[Page], int]

AT_REST = "!document.querySelector('.play').play.isRunning"


def _counts(page: Page) -> list[int]:
    return page.evaluate("Array.from(document.querySelector('.play').play.count.counts)")


def _press(page: Page, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_function(AT_REST)


@pytest.mark.parametrize(
    "state",
    [
        "logits=1,0.5,-0.5,2,0,1.5&seed=7",
        "logits=-2,3,0.1,0.2,0.3,-0.7&seed=-12345678901234567&races=777&temperature=0.43&tau=0.05",
        "seed=9223372036854775807&k=3&races=2500&temperature=4.4&tau=10",
        "k=6&races=12&logits=0,0,0,0,0,0",
        "k=2&races=40000&temperature=0.7",
    ],
)
def test_a_shared_address_shows_what_python_draws(open_page: Open, check_python: Check, state: str) -> None:
    page = open_page(f"play/race.html#{state}", motion="reduce")
    page.wait_for_function(AT_REST)
    asked = dict(pair.split("=") for pair in state.split("&"))
    shown = page.evaluate(
        "(() => { const {state, count} = document.querySelector('.play').play;"
        "return {...state, seed: String(state.seed), races: count.races}; })()"
    )
    for name, value in asked.items():
        got = ",".join(f"{x:g}" for x in shown[name]) if name == "logits" else str(shown[name])
        assert got == value
    assert check_python(page) == 1


def test_draws(open_page: Open, check_python: Check) -> None:
    page = open_page("play/race.html")
    page.wait_for_function(AT_REST)
    assert sum(_counts(page)) == 1
    _press(page, "Draw one")
    _press(page, "Draw 100")
    assert sum(_counts(page)) == 102
    assert check_python(page) == 1
    _press(page, "Draw a million")
    counts = torch.tensor(_counts(page))
    assert counts.sum() == 1_000_000
    logits = torch.tensor([1, 0.5, -0.5, 2, 0, 1.5])
    assert (counts / 1e6 - logits.softmax(-1)).abs().max() < 0.001
    assert check_python(page) == 1
    _press(page, "Draw one")  # a million is the most
    assert sum(_counts(page)) == 1_000_000
    _press(page, "Start again")
    assert sum(_counts(page)) == 1


def test_keys_and_pointers_move_logits(open_page: Open, check_python: Check) -> None:
    page = open_page("play/race.html#races=50", motion="reduce")
    before = _counts(page)
    handle = page.get_by_role("slider", name="logit of c")
    handle.focus()
    for key in ("ArrowRight", "ArrowUp", "PageUp", "ArrowLeft"):
        page.keyboard.press(key)
    assert handle.get_attribute("aria-valuenow") == "0.6"  # -0.5 + 0.1 + 0.1 + 1 - 0.1
    assert _counts(page) != before
    assert check_python(page) == 1
    page.keyboard.press("Home")
    assert handle.get_attribute("aria-valuenow") == "-2"
    box = handle.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 5, steps=4)
    page.mouse.up()
    assert float(handle.get_attribute("aria-valuenow") or "nan") > -1.5
    assert check_python(page) == 1


def test_sliders_and_seed(open_page: Open, check_python: Check) -> None:
    page = open_page("play/race.html", motion="reduce")
    page.get_by_role("slider", name="the first k").focus()
    page.keyboard.press("End")
    assert _counts(page) == [1] * 6
    page.keyboard.press("Home")
    for name, key in (("temperature", "PageDown"), ("tau", "PageUp")):
        page.get_by_role("slider", name=name).focus()
        page.keyboard.press(key)
    seed = page.get_by_label("seed")
    seed.fill("18446744073709551616")
    assert seed.get_attribute("aria-invalid") == "true"
    seed.fill("-9223372036854775808")
    assert seed.get_attribute("aria-invalid") is None
    assert check_python(page) == 1
    # Tau moves no winner, and the address holds what is shown.
    page.wait_for_function("location.hash.includes('seed=-9223372036854775808')")
    counts = _counts(page)
    page.get_by_role("slider", name="tau").focus()
    page.keyboard.press("Home")
    assert _counts(page) == counts


def test_the_picture_is_told(open_page: Open) -> None:
    page = open_page("play/race.html", motion="reduce")
    label = page.locator(".race svg").get_attribute("aria-label") or ""
    winner = "abcdef"[int(ag.gumbel_max(torch.tensor([1, 0.5, -0.5, 2, 0, 1.5]), noise=ag.KeyedNoise(7)).indices)]
    assert f"Race 1: {winner} wins" in label
    assert f"{winner} 100% (exact" in label
    expect(page.get_by_role("status").first).to_contain_text(f"{winner} wins")


def test_a_million_does_not_block_the_page(open_page: Open) -> None:
    page = open_page("play/race.html")
    page.wait_for_function(AT_REST)
    frames = page.evaluate(
        """() => new Promise((done) => {
            document.querySelectorAll("button.play-button")[2].click();
            let frames = 0;
            requestAnimationFrame(function tick() {
                frames += 1;
                if (document.querySelector(".play").play.isRunning) requestAnimationFrame(tick);
                else done(frames);
            });
        })"""
    )
    assert frames > 20  # 75 on a quiet machine: each counts for 9 milliseconds


ADD_SMALL = """() => {
    const host = document.createElement("div");
    host.className = "play";
    host.dataset.play = "race-small";
    document.querySelector(".play").before(host);
    argumbel.mount();
}"""
SMALL = "document.querySelector('[data-play=race-small]').play"


def test_the_small_race_runs_by_itself_and_can_be_paused(open_page: Open) -> None:
    page = open_page("play/race.html", width=390)
    page.evaluate(ADD_SMALL)
    page.wait_for_function(f"{SMALL}.count.races > 2")
    page.get_by_role("button", name="Pause").click()
    races = page.evaluate(f"{SMALL}.count.races")
    page.wait_for_timeout(500)
    assert page.evaluate(f"{SMALL}.count.races") == races
    counts = page.evaluate(f"Array.from({SMALL}.count.counts)")
    logits = torch.tensor([1, 0.5, -0.5, 2, 0, 1.5]).expand(races, 6)
    assert counts == ag.gumbel_max(logits, noise=ag.KeyedNoise(7)).indices.bincount(minlength=6).tolist()
    page.get_by_role("button", name="Run").click()
    page.wait_for_function(f"{SMALL}.count.races > {races}")


def test_the_small_race_rests_where_less_motion_is_asked_for(open_page: Open) -> None:
    page = open_page("play/race.html", motion="reduce")
    page.evaluate(ADD_SMALL)
    page.wait_for_timeout(500)
    assert page.evaluate(f"{SMALL}.count.races") == 200
    page.locator("[data-play=race-small] button").click()
    assert page.evaluate(f"{SMALL}.count.races") == 201
