"""The page "Rows": its samples are those of argumbel.tables.Reservoir."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest
from playwright.sync_api import Page

import argumbel as ag
from argumbel.tables import Reservoir

Open = Callable[..., Page]
Check = Callable[[Page], int]

STATES = [
    "seed=2",
    "seed=-9223372036854775808&k=1&order=backwards&split=turns",
    "seed=123456789012345678&k=12&order=light&split=weight",
    "seed=5&k=3&order=light&split=halves",
]


def _outputs(page: Page) -> list[str]:
    return page.locator(".play-output").all_text_contents()


def _table(rows: int = 300) -> pa.Table:
    weight = ag.KeyedNoise(0, rows=[1]).exponential((1, rows))[0]
    return pa.table({"id": range(rows), "weight": weight.numpy()})


@pytest.mark.parametrize("state", STATES)
def test_a_shared_address_shows_what_python_draws(open_page: Open, check_python: Check, state: str) -> None:
    page = open_page(f"play/rows.html#{state}", motion="reduce")
    asked = dict(pair.split("=") for pair in state.split("&"))
    shown = page.evaluate(
        "(() => { const s = document.querySelector('.play').play.state;return {...s, seed: String(s.seed)}; })()"
    )
    assert {name: str(shown[name]) for name in asked} == asked
    assert check_python(page) == 2


def test_times_are_those_of_a_reservoir_to_the_bit(open_page: Open) -> None:
    page = open_page("play/rows.html", motion="reduce")
    sample = Reservoir(300, weights="weight", key="id", seed=2**62 + 1).update(_table()).result()
    weights = dict(zip(*(_table()[name].to_pylist() for name in ("id", "weight")), strict=True))
    ids, times = (sample.table[name].to_pylist() for name in ("id", "_key"))
    drawn = page.evaluate(
        "([ids, weights]) => ids.map((id, i) => argumbel.arrival(2n ** 62n + 1n, id, weights[i]))",
        [ids, [weights[i] for i in ids]],
    )
    assert drawn == times


def test_the_stream_runs_to_its_end(open_page: Open, check_python: Check) -> None:
    page = open_page("play/rows.html")
    assert page.evaluate("document.querySelector('.play').play.isRunning")
    page.get_by_role("button", name="Pause").click()
    seen = page.evaluate("document.querySelector('.play').play.seen")
    assert 1 <= seen < 300
    assert check_python(page) == 2
    page.get_by_role("button", name="Next row").click()
    assert page.evaluate("document.querySelector('.play').play.seen") == seen + 1
    page.get_by_role("button", name="Run").click()
    page.wait_for_function("!document.querySelector('.play').play.isRunning")
    assert page.evaluate("document.querySelector('.play').play.seen") == 300
    assert check_python(page) == 2


def test_the_order_and_the_partitions_change_no_sample(open_page: Open, check_python: Check) -> None:
    page = open_page("play/rows.html", motion="reduce")
    stream, merged = _outputs(page)
    for name in ("backwards", "light rows first"):
        page.get_by_role("radio", name=name).check()
        assert _outputs(page)[0] == stream
    for name in ("row by row in turn", "light and heavy"):
        page.get_by_role("radio", name=name).check()
        assert _outputs(page)[1].splitlines()[-1] == merged.splitlines()[-1]
        assert check_python(page) == 2


def test_keys_move_the_stream(open_page: Open, check_python: Check) -> None:
    page = open_page("play/rows.html", motion="reduce")
    page.get_by_role("radio", name="light rows first").check()
    place = page.get_by_role("slider", name="rows seen")
    place.focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.querySelector('.play').play.seen") == 1
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('.play').play.seen") == 13
    assert "threshold" in (page.locator("canvas").get_attribute("aria-label") or "")
    assert check_python(page) == 2
    page.get_by_role("slider", name="rows to keep").focus()
    page.keyboard.press("End")
    assert _outputs(page)[1].splitlines()[0].count(",") == 11
    page.get_by_label("seed").fill("99")
    assert check_python(page) == 2
    page.get_by_role("button", name="Merge again").click()
    assert "same" in (page.locator(".play-say").last.text_content() or "")
