"""Where something is on the screen."""

from __future__ import annotations

from playwright.sync_api import FloatRect, Locator


def box_of(element: Locator) -> FloatRect:
    element.hover()  # waits until it rests: a figure takes its size a frame after the page is loaded
    box = element.bounding_box()
    assert box is not None, "it is not shown"
    return box


def middle(element: Locator) -> tuple[float, float]:
    box = box_of(element)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
