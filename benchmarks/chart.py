"""The picture of the results: how many times as long as ours the usual way takes, and the fastest other way."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from .measure import Row
from .report import Results, judge

BAR, DOT, FLOOR, GOAL = "#0072B2", "#D55E00", "#000000", "#009E73"  # of Okabe and Ito


def draw(results: Results, path: Path) -> bool:
    """Write the picture; False if there is nothing to show."""
    rows = [row for row in results.rows if row.entries and row.ours.timing and len(_ratios(row, False))]
    if not rows:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    places, labels, heads, y = [], [], [], 0.0
    for op, group in groupby(rows, key=lambda r: r.op):
        heads.append((y, op))
        y += 1.15
        for row in group:
            places.append(y)
            labels.append(row.size)
            y += 1
        y += 0.35
    figure = Figure(figsize=(9, 1.6 + 0.235 * y), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    goals = {j.row.case: j.target.at_least for j in reversed(judge(rows))}
    largest = 1.0
    for row, place in zip(rows, places, strict=True):
        ratios = _ratios(row, False)
        usual = next(iter(ratios.values()))
        largest = max(largest, *ratios.values())
        axes.barh(place, usual - 1, left=1, height=0.62, color=BAR if usual >= 1 else "#99999A", zorder=2)
        axes.plot(min(ratios.values()), place, "o", color=DOT, markersize=5, zorder=4, markeredgecolor="white")
        floors = _ratios(row, True)
        for ratio in floors.values():
            axes.plot(ratio, place, "|", color=FLOOR, markersize=7, markeredgewidth=1.3, zorder=4)
        if row.case in goals:
            axes.plot([goals[row.case]] * 2, [place - 0.42, place + 0.42], color=GOAL, linewidth=2, zorder=3)
        text = f"{usual:,.0f}x" if usual >= 10 else f"{usual:.1f}x"
        axes.annotate(
            text, (max(usual, 1, min(ratios.values())), place), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=8, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
        )  # fmt: skip
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1, zorder=3)
    axes.set_yticks(places, labels, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labeltop=True)
    for place, op in heads:
        axes.text(
            -0.005,
            place,
            op,
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontweight="bold",
            fontsize=9,
        )
    axes.set_ylim(y, -0.7)
    axes.set_xlim(right=largest * 1.9)
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    axes.set_xlabel("time of others, in units of ours (log scale)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(
        handles=[
            Patch(color=BAR, label="the usual way (first in its table)"),
            Line2D([], [], marker="o", linestyle="", color=DOT, label="fastest other way"),
            Line2D([], [], marker="|", linestyle="", color=FLOOR, label="floors: do less"),
            Line2D([], [], color=GOAL, linewidth=2, label="target"),
        ],
        loc="outside upper left", ncols=2, frameon=False, fontsize=8,
    )  # fmt: skip
    figure.supxlabel(f"{results.machine['CPU']}, {results.machine['threads']} threads", fontsize=7, color="#555555")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return True


def _ratios(row: Row, floor: bool) -> dict[str, float]:
    found = {e.name: row.ratio(e.name) for e in row.entries[1:] if e.floor == floor}
    return {name: ratio for name, ratio in found.items() if ratio is not None}
