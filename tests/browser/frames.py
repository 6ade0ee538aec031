"""How long the scripts of a page work on each frame of an animation."""

from __future__ import annotations

import itertools
import statistics
from typing import NamedTuple

from playwright.sync_api import Page

# All callbacks of a frame get the same time stamp. `each` is called once a frame, before the page's own callbacks are.
MEASURE = """([setup, seconds]) => new Promise((resolve) => {
    const each = setup ? eval(setup)() : () => {};
    const ask = window.requestAnimationFrame.bind(window);
    const work = new Map();
    const timed = (callback) => (time) => {
        const start = performance.now();
        callback(time);
        work.set(time, (work.get(time) || 0) + performance.now() - start);
    };
    window.requestAnimationFrame = (callback) => ask(timed(callback));
    const first = performance.now();
    const drive = timed(() => {
        each();
        if (performance.now() - first < 1000 * seconds) ask(drive);
        else {
            window.requestAnimationFrame = ask;
            resolve(Array.from(work.entries()));
        }
    });
    ask(drive);
})"""


class Work(NamedTuple):
    """Milliseconds: script work of a frame, and the time between frames; and how many frames there were."""

    median: float
    ninth_decile: float
    interval: float
    frames: int


def work_of_frames(page: Page, setup: str | None = None, *, limit: float, seconds: float = 1.5) -> Work:
    """Of a page that is moving, or that `setup`, a script that returns a function, moves at each frame.

    The clock also runs while other processes have the processor. So a median above the limit is measured again, and the
    least of three counts.
    """
    found: list[Work] = []
    while not found or (found[-1].median >= limit and len(found) < 3):
        frames = sorted(page.evaluate(MEASURE, [setup, seconds]))[1:-1]
        work = [spent for _, spent in frames]
        intervals = [b - a for a, b in itertools.pairwise(time for time, _ in frames)]
        decile = statistics.quantiles(work, n=10)[-1]
        found.append(Work(statistics.median(work), decile, statistics.median(intervals), len(work)))
    return min(found)
