"""The page "The simplex": soft choices, straight-through and estimators are what Python makes of the same noise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from torch import Tensor

import argumbel as ag

from .frames import work_of_frames
from .places import box_of, middle

Open = Callable[..., Page]
Check = Callable[[Page], int]

PAGE = "play/simplex.html"
DRAWS = 250
STATES = [
    {"logits": [-0.69, -1.2, -1.61], "tau": 0.5, "seed": 7, "draw": 4, "target": [0.1, 0.25, 0.65]},
    {"logits": [0.3, -2.5, 1.0], "tau": 0.05, "seed": -(2**60) - 1, "draw": 1999, "target": [0.8, 0.1, 0.1]},
    {"logits": [-3.91, -0.03, -3.91], "tau": 20, "seed": 123456789, "draw": 0, "target": [0.33, 0.33, 0.34]},
    {"logits": [0.0, 0.0, 0.0], "tau": 1, "seed": 0, "draw": 77, "target": [0.02, 0.96, 0.02]},
]


def _address(state: dict[str, Any]) -> str:
    return "&".join(
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in state.items()
    )


def _shown(page: Page, part: str) -> Any:
    return page.evaluate(f"document.querySelector('[data-play={part}]').play.shown()")


def _say(page: Page, part: str) -> str:
    return page.locator(f"[data-play={part}] .play-say").text_content() or ""


def _loss(target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: ((z - target) ** 2).sum(-1)


@pytest.mark.parametrize("state", STATES, ids=_address)
def test_points_winners_and_gradients_are_those_of_python(
    open_page: Open, check_python: Check, state: dict[str, Any]
) -> None:
    page = open_page(f"{PAGE}#{_address(state)}", motion="reduce")
    logits, target, tau = torch.tensor(state["logits"]), torch.tensor(state["target"]), state["tau"]
    noise = ag.KeyedNoise(state["seed"])

    shown = _shown(page, "simplex")
    x = logits.expand(2000, 3)
    points = torch.tensor(shown["points"]).view(2000, 3)
    torch.testing.assert_close(points, ag.gumbel_softmax(x, tau, noise=noise), atol=2e-5, rtol=0)
    assert shown["winners"] == ag.gumbel_max(x, noise=noise).indices.tolist()

    shown = _shown(page, "straight-through")
    x = logits.expand(150, 3).clone().requires_grad_()
    z = ag.straight_through(x, tau=tau, noise=noise)
    (gradient,) = torch.autograd.grad(_loss(target)(z).sum(), x)
    torch.testing.assert_close(torch.tensor(shown["mean"]), gradient.mean(0), atol=1e-4, rtol=1e-4)
    winner = ag.gumbel_max(logits.expand(1, 3), noise=ag.KeyedNoise(state["seed"], rows=[state["draw"]])).indices
    assert shown["one"]["won"] == winner.item()

    shown = _shown(page, "estimators")
    x = logits.expand(DRAWS, 3).clone().requires_grad_()
    assert len(shown["panels"]) == 8
    for panel in shown["panels"]:
        own = {} if panel["name"].startswith("reinforce") else {"tau": tau}
        estimate = ag.estimators.ESTIMATORS[panel["name"]](_loss(target), x, noise=noise, **own)
        (gradient,) = torch.autograd.grad(estimate.sum(), x)
        drawn = torch.tensor(panel["gradients"]).view(DRAWS, 3)
        torch.testing.assert_close(drawn, gradient, atol=2e-4, rtol=1e-4, msg=panel["name"])
    (exact,) = torch.autograd.grad(ag.estimators.exact(_loss(target), x).sum(), x)
    torch.testing.assert_close(torch.tensor(shown["exact"]), exact[0], atol=1e-6, rtol=1e-5)
    assert check_python(page) == 3


@pytest.mark.parametrize("tau", [0.05, 0.5, 1.0, 7.0])
def test_density_is_that_of_the_law(open_page: Open, tau: float) -> None:
    page = open_page(PAGE)
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    y = torch.tensor([[0.2, 0.3, 0.5], [0.98, 0.01, 0.01], [0.001, 0.499, 0.5]], dtype=torch.float64)
    density = "([x, tau, y]) => y.map((row) => argumbel.laws.concreteLogDensity(x, tau, row.map(Math.log)))"
    shown = page.evaluate(density, [logits.tolist(), tau, y.tolist()])
    law = ag.distributions.RelaxedOneHotCategorical(torch.tensor(tau, dtype=torch.float64), logits=logits)
    assert shown == pytest.approx(law.log_prob(y).tolist(), rel=1e-9)


def test_tau_moves_points_and_not_winners(open_page: Open, check_python: Check) -> None:
    page = open_page(PAGE)
    before = _shown(page, "simplex")
    slider = page.locator("[data-play=simplex] input[type=range]")
    slider.focus()
    for key in ("PageUp", "PageUp", "ArrowRight"):
        page.keyboard.press(key)
    after = _shown(page, "simplex")
    assert before["winners"] == after["winners"]
    assert before["points"] != after["points"]
    values = page.locator(".play-slider output").all_text_contents()
    assert len(values) == 3
    assert len(set(values)) == 1
    assert values[0] != "0.5"
    assert check_python(page) == 3
    page.wait_for_function("location.hash.includes('tau=')")


def test_handles_by_keyboard_and_pointer(open_page: Open, check_python: Check) -> None:
    page = open_page(PAGE)
    ring = page.get_by_role("button", name="Probabilities of a, b and c").first
    before = ring.get_attribute("aria-label")
    ring.focus()
    page.keyboard.press("ArrowUp")  # towards c
    page.keyboard.press("Shift+ArrowRight")  # towards b
    after = ring.get_attribute("aria-label")
    numbers = [[float(v) for v in str(label).split(": ")[1].split(". ")[0].split(", ")] for label in (before, after)]
    assert numbers[1][2] > numbers[0][2]
    assert numbers[1][1] > numbers[0][1]
    x, y = middle(ring)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 900, y + 900)  # beyond the corner of a: it stays inside
    page.mouse.up()
    assert "0.96, 0.02, 0.02" in (ring.get_attribute("aria-label") or "")
    target = page.locator("[data-play=straight-through] .play-target")
    target.focus()
    page.keyboard.press("ArrowLeft")
    # A figure that was off screen follows at the next frame.
    expect(target).to_have_attribute("aria-label", re.compile("0.12, 0.23, 0.65"))
    assert check_python(page) == 3


def test_a_click_follows_a_point(open_page: Open, check_python: Check) -> None:
    page = open_page(PAGE)
    figure = page.locator("[data-play=simplex] canvas").first
    box = box_of(figure)
    before = _say(page, "simplex")
    figure.click(position={"x": box["width"] * 0.36, "y": box["height"] * 0.85})
    assert _say(page, "simplex") != before
    assert "a wins" in _say(page, "simplex")
    assert check_python(page) == 3
    field = page.get_by_label("Follow draw")
    field.fill("12")
    assert _say(page, "simplex").startswith("Draw 12:")
    field.fill("2000")  # no such draw
    assert field.get_attribute("aria-invalid") == "true"
    assert _say(page, "simplex").startswith("Draw 12:")


def test_steps_of_straight_through(open_page: Open, check_python: Check) -> None:
    page = open_page(PAGE, motion="reduce")
    steps = page.locator("[data-play=straight-through] input[type=radio]")
    said = []
    for step in range(5):
        steps.nth(step).check()
        said.append(_say(page, "straight-through"))
        assert check_python(page) == 3
    assert len(set(said)) == 5
    assert said[1].startswith("Forward: the corner z")
    page.get_by_role("button", name="Next draw").click()
    assert page.get_by_label("Follow draw").input_value() == "5"


def test_sixty_frames_a_second_with_2000_points(open_page: Open) -> None:
    page = open_page(PAGE)
    page.get_by_role("button", name="Sweep tau").click()
    work = work_of_frames(page, limit=10)
    page.get_by_role("button", name="Stop").click()
    assert work.median < 10, work


def test_sixty_frames_a_second_while_tau_is_dragged_over_eight_estimators(open_page: Open) -> None:
    page = open_page(PAGE)
    slider = page.locator("[data-play=estimators] input[type=range]")
    slider.scroll_into_view_if_needed()
    page.locator("[data-play=estimators] .play-grid").scroll_into_view_if_needed()
    steps = json.dumps([0.2 + 0.01 * i for i in range(100)])
    work = work_of_frames(
        page,
        f"""() => {{
            const taus = {steps}, part = document.querySelector('[data-play=simplex]').play;
            let i = 0;
            return () => part.change({{ tau: Number(taus[i++ % taus.length].toFixed(2)) }});
        }}""",
        limit=14,
    )
    assert work.median < 14, work


def test_less_motion_is_honoured(open_page: Open) -> None:
    page = open_page(PAGE, motion="reduce")
    assert page.get_by_role("button", name="Sweep tau").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_something_is_drawn(open_page: Open, scheme: str) -> None:
    page = open_page(PAGE, scheme=scheme)
    page.locator("[data-play=estimators]").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    inked = page.evaluate(
        """Array.from(document.querySelectorAll('.play canvas'), (canvas) => {
            const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
            return count / (data.length / 4);
        })"""
    )
    assert len(inked) == 11
    assert all(0.005 < share < 0.95 for share in inked), inked
