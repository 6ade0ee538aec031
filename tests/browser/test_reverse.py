"""The page "Reverse": the noise given the winner, and what would have won, are what Python draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import argumbel as ag
from argumbel.coupling import counterfactual_probs, gumbel_coupling

from .frames import work_of_frames
from .places import box_of, middle

Open = Callable[..., Page]
Check = Callable[[Page], int]

PAGE = "play/reverse.html"
WORLDS = 500
STATES = [
    "",
    "known=c",
    "logits=0,0,0,0&other=0,0,0,0&seed=-3&known=a",
    "logits=2.95,-3,0.5,0.5&other=-3,3,0.5,0.55&seed=9007199254740995&world=499",
    "logits=-3,3,0.1,2.5&other=1,3,3,3&seed=42&known=a&world=17",
]


def _shown(page: Page) -> dict[str, Any]:
    return page.evaluate("document.querySelector('.play').play.shown()")


def _change(page: Page, changes: dict[str, Any]) -> None:
    page.evaluate("(changes) => document.querySelector('.play').play.change(changes)", changes)


def _parts(address: str) -> tuple[torch.Tensor, torch.Tensor, int, int | None]:
    parts = dict(pair.split("=") for pair in address.split("&")) if address else {}
    logits, other = (
        torch.tensor([float(v) for v in parts.get(name, default).split(",")])
        for name, default in (("logits", "0.8,0.4,-0.3,-0.7"), ("other", "-0.3,0.4,0,0.55"))
    )
    return logits, other, int(parts.get("seed", 7)), "abcd".index(parts["known"]) if "known" in parts else None


@pytest.mark.parametrize("address", STATES)
def test_worlds_are_those_of_python(open_page: Open, check_python: Check, address: str) -> None:
    page = open_page(f"{PAGE}#{address}", motion="reduce")
    logits, other, seed, known = _parts(address)
    noise = ag.KeyedNoise(seed)
    x, y = logits.expand(WORLDS, 4), other.expand(WORLDS, 4)
    shown = _shown(page)
    values = torch.tensor(shown["values"]).view(WORLDS, 4)
    if known is None:
        before, after = gumbel_coupling(x, y, noise=noise)
        expected = x + noise.gumbel((WORLDS, 4))
    else:
        before = torch.full((WORLDS,), known)
        after = ag.counterfactual(logits, before[0], other, WORLDS, noise=noise)
        expected = ag.posterior_gumbel(x, before, noise=noise)
    torch.testing.assert_close(values, expected, atol=5e-6, rtol=1e-6)
    assert shown["before"] == before.tolist() == values.argmax(-1).tolist()
    assert shown["after"] == after.tolist()
    assert shown["counts"] == torch.bincount(4 * before + after, minlength=16).view(4, 4).tolist()
    given = counterfactual_probs(x[:4].double(), torch.arange(4), y[:4].double())
    torch.testing.assert_close(torch.tensor(shown["given"], dtype=torch.float64), given, atol=1e-12, rtol=1e-9)
    assert check_python(page) == 1


@pytest.mark.parametrize("address", STATES)
def test_the_table_has_exact_numbers_beside_drawn_ones(open_page: Open, address: str) -> None:
    page = open_page(f"{PAGE}#{address}", motion="reduce")
    *_, known = _parts(address)
    shown = _shown(page)
    rows = range(4) if known is None else [known]
    exact = [v for i in rows for v in shown["joint" if known is None else "given"][i]]
    drawn = [v / WORLDS for i in rows for v in shown["counts"][i]]
    for kind, numbers in (("exact", exact), ("drawn", drawn)):
        cells = page.locator(f".play-table .play-{kind}").all_text_contents()
        assert [float(cell) for cell in cells] == pytest.approx(numbers, abs=5.001e-4)
    # Stability: what is exactly zero never happens, and is written without decimals.
    assert all(share == 0 for share, probability in zip(drawn, exact, strict=True) if probability == 0)
    cells = page.locator(".play-table .play-exact").all_text_contents()
    assert [cell == "0" for cell in cells] == [probability == 0 for probability in exact]


def test_many_flows_are_exact(open_page: Open) -> None:
    page = open_page(PAGE)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 6, dtype=torch.float64, generator=generator) * 3
    y[::5, 2] = x[::5, 2]  # equal ratios too, also to the winner's
    y[::10] = x[::10] + 1
    index = torch.arange(200) % 6
    shown = page.evaluate(
        "([x, k, y]) => x.map((row, i) => argumbel.laws.counterfactualProbs(row, k[i], y[i]))",
        [x.tolist(), index.tolist(), y.tolist()],
    )
    exact = counterfactual_probs(x, index, y)
    torch.testing.assert_close(torch.tensor(shown, dtype=torch.float64), exact, atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize("known", [None, 1, 3])
def test_the_density_behind_the_dots_is_their_law(open_page: Open, known: int | None) -> None:
    page = open_page(PAGE)
    logits = torch.tensor([0.8, 0.4, -0.3, -0.7], dtype=torch.float64)
    grid = torch.linspace(-8, 30, 4001, dtype=torch.float64)
    noise, many = ag.KeyedNoise(3), logits.expand(50_000, 4)
    values = many + noise.gumbel(many.shape, dtype=torch.float64)
    if known is not None:
        values = ag.posterior_gumbel(many, torch.full((len(many),), known), noise=noise)
    for item in range(4):
        density = torch.tensor(
            page.evaluate(
                "([x, i, k, grid]) => grid.map((v) => argumbel.laws.valueDensity(x, i, k, v))",
                [logits.tolist(), item, known, grid.tolist()],
            ),
            dtype=torch.float64,
        )
        cdf = torch.cumulative_trapezoid(density, grid)
        assert cdf[-1].item() == pytest.approx(1, abs=1e-4)
        drawn = torch.searchsorted(values[:, item].sort().values, grid[1:]) / len(many)
        # The bound of Massart, which one test in 1e6 fails by chance.
        assert (cdf - drawn).abs().max() < 0.0122


def test_the_winner_is_chosen_and_the_logits_are_moved(open_page: Open, check_python: Check) -> None:
    page = open_page(PAGE, motion="reduce")
    page.get_by_label("c", exact=True).check()
    assert set(_shown(page)["before"]) == {2}
    assert page.locator(".play-table tbody tr").count() == 1
    figure = page.locator(".play canvas").first
    box = box_of(figure)
    figure.click(position={"x": box["width"] * 0.4, "y": box["height"] - 14})  # the name of b, under its column
    assert set(_shown(page)["before"]) == {1}
    figure.click(position={"x": box["width"] * 0.4, "y": box["height"] - 14})  # and again: not known
    assert len(set(_shown(page)["before"])) == 4
    page.get_by_label("c", exact=True).check()

    said = page.locator(".play-say").text_content()
    slider = page.get_by_role("slider", name="Logit of d after")
    slider.focus()
    for key in ("PageUp", "ArrowUp", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    assert slider.get_attribute("aria-valuenow") == "1.1"  # 0.55 + 0.5 + 0.05
    assert page.locator(".play-say").text_content() != said
    assert check_python(page) == 1

    slider = page.get_by_role("slider", name="Logit of a before")
    x, y = middle(slider)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 40, steps=4)
    page.mouse.up()
    assert float(slider.get_attribute("aria-valuenow") or 0) < 0.5
    assert check_python(page) == 1
    page.wait_for_function("location.hash.includes('known=c')")


def test_a_click_on_a_dot_follows_its_world(open_page: Open, check_python: Check) -> None:
    page = open_page(PAGE, motion="reduce")
    figure = page.locator(".play canvas").first
    box = box_of(figure)
    figure.click(position={"x": box["width"] * 0.42, "y": box["height"] * 0.5})
    field = page.get_by_label("Follow world")
    assert field.input_value() != "0"
    assert f"In world {field.input_value()}," in (page.locator(".play-say").text_content() or "")
    assert check_python(page) == 1


def test_nothing_changes_where_the_logits_do_not(open_page: Open) -> None:
    page = open_page(PAGE, motion="reduce")
    for known in (None, 0, 3):
        _change(page, {"logits": [0.8, 0.4, -0.3, -0.7], "other": [1.3, 0.9, 0.2, -0.2], "known": known})
        assert (page.locator(".play-say").text_content() or "").startswith("0 of 500 worlds change their mind")


def test_sixty_frames_a_second_with_2000_dots(open_page: Open) -> None:
    page = open_page(PAGE)
    move = """() => {
        const part = document.querySelector('.play').play;
        let i = 0;
        return () => part.change({ other: [-0.3 + (i++ % 50) / 50, 0.4, 0, 0.55] });
    }"""
    dragged = work_of_frames(page, move, limit=12)
    assert dragged.median < 12, dragged
    # Two thousand dots on their way to the noise that could have been, and back.
    turn = """() => {
        const part = document.querySelector('.play').play;
        let i = 0;
        return () => i++ % 40 || part.change({ known: [null, 2][(i / 40) & 1] }, true);
    }"""
    wandering = work_of_frames(page, turn, limit=10)
    assert wandering.median < 10, wandering
    page.get_by_role("button", name="Let the worlds flow").click()
    flowing = work_of_frames(page, limit=10)
    assert flowing.median < 10, flowing
    page.get_by_role("button", name="Stop").click()


def test_less_motion_is_honoured(open_page: Open) -> None:
    page = open_page(PAGE, motion="reduce")
    assert page.get_by_role("button", name="Let the worlds flow").count() == 0
    page.get_by_label("after", exact=True).check()
    page.wait_for_timeout(100)
    look = "document.querySelector('.play canvas').toDataURL()"
    first = page.evaluate(look)
    page.wait_for_timeout(300)
    assert page.evaluate(look) == first
