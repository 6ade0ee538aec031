"""The picture of the results: how many times as long as ours the usual way takes, and the fastest other way."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .measure import Row
from .report import SETS, Results, in_order, judge

BAR, DOT, FLOOR, GOAL = "#0072B2", "#D55E00", "#000000", "#009E73"  # of Okabe and Ito


def draw(runs: Sequence[Results], path: Path) -> bool:
    """Write the picture, a column for each run; False if there is nothing to show."""
    shown = [[row for row in run.rows if row.entries and row.ours.timing and _ratios(row, False)] for run in runs]
    cases = in_order({row.case: row for rows in shown for row in rows}.values())
    if not cases:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    places, heads, y = dict[str, float](), [], 0.0
    for op, group in groupby(cases, key=lambda r: r.op):
        heads.append((y, op))
        y += 1.15
        for row in group:
            places[row.case] = y
            y += 1
        y += 0.35
    figure = Figure(figsize=(3.5 + 5.5 * len(runs), 1.6 + 0.235 * y), layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, run, rows in zip(columns, runs, shown, strict=True):
        _column(axes, run, rows, places)
    columns[0].set_yticks(list(places.values()), [row.size for row in cases], fontsize=8)
    columns[0].set_ylim(y, -0.7)
    for place, op in heads:
        columns[0].text(
            -0.005,
            place,
            op,
            transform=columns[0].get_yaxis_transform(),
            ha="right",
            va="center",
            fontweight="bold",
            fontsize=9,
        )
    figure.legend(
        handles=[
            Patch(color=BAR, label="the usual way (first in its table)"),
            Line2D([], [], marker="o", linestyle="", color=DOT, label="fastest other way"),
            Line2D([], [], marker="|", linestyle="", color=FLOOR, label="floors: do less"),
            Line2D([], [], color=GOAL, linewidth=2, label="target"),
        ],
        loc="outside upper left", ncols=2, frameon=False, fontsize=8,
    )  # fmt: skip
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return True


def _column(axes: Any, run: Results, rows: Sequence[Row], places: dict[str, float]) -> None:
    goals = {j.row.case: j.target.at_least for j in reversed(judge(rows, kernels=run.kernels))}
    largest = 1.0
    for row in rows:
        place, ratios = places[row.case], _ratios(row, False)
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
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labeltop=True)
    axes.set_xlim(right=largest * 1.9)
    axes.grid(axis="x", color="#dddddd", zorder=0)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    axes.set_title(SETS[run.kernels], fontsize=9, fontweight="bold")
    machine = f"{SETS[run.kernels]}: {run.machine['CPU']}, {run.machine['threads']} threads"
    axes.set_xlabel(f"time of others, in units of ours (log scale)\n{machine}", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _ratios(row: Row, floor: bool) -> dict[str, float]:
    found = {e.name: row.ratio(e.name) for e in row.entries[1:] if e.floor == floor}
    return {name: ratio for name, ratio in found.items() if ratio is not None}
