"""The picture of `tables.md`; `pictures.py` draws it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, plain

from argumbel import KeyedNoise
from argumbel.tables import Reservoir


def race(n: int = 3600, k: int = 60, batches: int = 9) -> Figure:
    """Times of rows over their weights, and over their numbers, with the threshold that falls batch by batch."""
    w = np.random.default_rng(0).lognormal(3, 1.2, n)
    table = pa.table({"id": np.arange(n), "w": w})
    times = KeyedNoise(3, rows=[0], items=table["id"].to_numpy()).exponential((1, n))[0].numpy() / w
    size = n // batches
    reservoir, bars = Reservoir(k, weights="w", key="id", seed=3), [np.inf]
    for start in range(0, n, size):
        bars.append(reservoir.update(table.slice(start, size)).result().thresholds[0])
    drawn = np.isin(np.arange(n), reservoir.result().table["id"].to_numpy())
    # What was within the threshold when its batch came, and fell out when later rows arrived earlier.
    dropped = (times < np.repeat(bars[:-1], size)) & ~drawn

    figure = Figure(figsize=(8.6, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [0.8, 1]})

    def rows(axes: Axes, x: np.ndarray, dropped: np.ndarray) -> None:
        passed = ~drawn & ~dropped
        axes.scatter(x[passed], times[passed], s=3, color=FAINT, alpha=0.55, linewidths=0, label="passed over")
        axes.scatter(x[dropped], times[dropped], s=8, color=GREEN, alpha=0.8, linewidths=0, label="dropped later")
        axes.scatter(x[drawn], times[drawn], s=13, color=BLUE, linewidths=0, label="drawn", zorder=3)

    rows(left, w, np.zeros(n, bool))
    left.axhline(bars[-1], color=ORANGE, linewidth=1.6)
    left.annotate(
        "threshold", (0, bars[-1]), xytext=(4, -3), xycoords=("axes fraction", "data"), textcoords="offset points",
        va="top", fontsize=8.5, color=ORANGE, weight="bold",
    )  # fmt: skip
    line = np.array([w.min(), w.max()])
    left.plot(line, 1 / line, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    left.annotate("mean time, 1 / w", (line[0] * 1.4, 1 / line[0]), fontsize=8.5, color=INK, va="bottom")
    left.set_xscale("log")
    left.set_yscale("log")
    plain(left, f"{k} of {n:,} rows arrive before the threshold", "weight", "time of arrival")

    rows(right, np.arange(n), dropped)
    steps = np.array(bars)
    steps[0] = times.max() * 1.5  # before the first rows there is none
    right.stairs(steps, np.arange(batches + 2) * size, baseline=None, color=ORANGE, linewidth=1.6)
    for start in range(size, n, size):
        right.axvline(start, color=FAINT, linewidth=0.4, alpha=0.6, zorder=0)
    right.set_xlim(0, n + size * 0.6)
    right.set_xticks(range(0, n + 1, 2 * size))
    plain(right, f"The threshold falls with each batch of {size}", "number of the row", "")
    right.legend(framealpha=1, edgecolor="none", fontsize=8, loc="lower right", markerscale=1.6)
    return figure


PICTURES = {"tables-race": race}
