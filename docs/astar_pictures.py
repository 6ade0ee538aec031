"""The pictures of `astar.md`, which `pictures.py` draws; run by itself, this measures the table of that page again."""

from __future__ import annotations

import math
from typing import Any

import astar_targets
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, plain

import argumbel as ag
from argumbel.astar import UniformTarget, astar_sample
from argumbel.astar._search import Leaf, Search, best_first
from argumbel.partition import log_partition


class _Recorded(Search):
    """A search that remembers what it evaluates, as (point, Gumbel of the region, log_ratio)."""

    def start(self, seed: int, row: int) -> None:
        super().start(seed, row)
        self.evaluated: list[tuple[Any, float, float]] = []

    def evaluate(self, leaf: Leaf) -> tuple[Any, float]:
        point, ratio = super().evaluate(leaf)
        self.evaluated.append((point, leaf.gumbel, ratio))
        return point, ratio


def _run(target: Any, seed: int) -> tuple[list[tuple[Any, float, float]], Any, float, list[Leaf]]:
    """What one search evaluated, the sample, its value, and the regions left."""
    search, root = _Recorded(target, 100_000), Leaf(target.root(), target.log_volume(target.root()))
    search.start(seed, 0)
    found = best_first(search, [root])
    return search.evaluated, found.point, found.value, found.leaves


def hills() -> UniformTarget:
    """Two hills on [0, 10], one high and narrow, one low and wide."""
    centres, widths, peaks = (torch.tensor(v, dtype=torch.float64) for v in ([2.2, 6.5], [0.4, 1.4], [3.0, 2.0]))

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return (peaks - ((x - centres) / widths).square() / 2).logsumexp(-1)

    def bound(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return log_density(centres.clamp(low, high))

    return UniformTarget(log_density, bound, low=0, high=10)


def search(seed: int = 24) -> Figure:
    """One search on a line: above, log_ratio under the bounds; below, heights added."""
    target = hills()
    evaluated, sample, value, leaves = _run(target, seed)
    figure = Figure(figsize=(8.4, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    x = torch.linspace(0, 10, 1001, dtype=torch.float64)
    upper.plot(x, [float(target.log_ratio([v])) for v in x.tolist()], color=INK, linewidth=1.3)
    for leaf in sorted(leaves, key=lambda leaf: leaf.region):
        (low,), (high,) = leaf.region
        style = "-" if leaf.has_own_bound else (0, (3, 2))
        upper.plot([low, high], [leaf.bound] * 2, color=BLUE, linewidth=1.8, linestyle=style, solid_capstyle="butt")
        ceiling = leaf.gumbel + leaf.bound
        lower.plot([low, high], [ceiling] * 2, color=BLUE, linewidth=1.8, linestyle=style, solid_capstyle="butt")
        for axes in (upper, lower):
            axes.axvline(low, color=FAINT, linewidth=0.5, alpha=0.6)
    for number, ((place,), gumbel, ratio) in enumerate(evaluated, 1):
        won = (place,) == sample
        color = ORANGE if won else GREEN
        upper.plot(place, ratio, "o", color=color, markersize=6)
        lower.plot([place, place], [ratio, ratio + gumbel], color=color, linewidth=1)
        lower.plot(place, ratio, "o", color=color, markersize=4, markerfacecolor="white")
        lower.plot(place, ratio + gumbel, "o", color=color, markersize=6)
        lower.annotate(str(number), (place, ratio + gumbel), (5, 3), textcoords="offset points", fontsize=8, color=INK)
    lower.axhline(value, color=ORANGE, linewidth=1, linestyle=":")
    lower.annotate("best found", (10, value), (0, 3), textcoords="offset points", ha="right", fontsize=8, color=ORANGE)
    upper.set_ylim(top=4.0)
    plain(upper, "log_ratio (black), bounds of the regions left (blue), points looked at", "", "log_ratio")
    plain(
        lower, "the same points with their Gumbel heights, and what each region can still reach", "x", "log_ratio + G"
    )
    return figure


def boxes(seeds: tuple[int, ...] = (0, 1, 2)) -> Figure:
    """Searches in the plane: regions left, points looked at, the sample."""
    target = astar_targets.clutter(dimension=2)
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    around = 5.0, 3.5  # half of the window, before and after the middle of the posterior
    posterior = astar_sample(target, 400, keep=True, noise=ag.KeyedNoise(100)).samples
    centre = posterior.mean(0)
    for axes, seed in zip(figure.subplots(1, len(seeds)), seeds, strict=True):
        evaluated, sample, _, leaves = _run(target, seed)
        axes.set_xlim(float(centre[0]) - around[0], float(centre[0]) + around[1])
        axes.set_ylim(float(centre[1]) - around[0], float(centre[1]) + around[1])
        axes.plot(*posterior.T, ".", color=FAINT, markersize=2, alpha=0.5)
        for leaf in leaves:
            (a, b), (c, d) = (tuple(min(max(v, -99), 99) for v in corner) for corner in leaf.region)
            axes.add_patch(Rectangle((a, b), c - a, d - b, fill=False, edgecolor=BLUE, linewidth=0.6))
        for place, *_ in evaluated:
            axes.plot(*place, ".", color=GREEN, markersize=4)
        axes.plot(*sample, "o", color=ORANGE, markersize=7)
        plain(axes, f"{len(evaluated)} points looked at", "first coordinate", "second coordinate")
        axes.set_aspect("equal")
    return figure


PICTURES = {"astar-search": search, "astar-boxes": boxes}


def table() -> None:
    """Evaluations per sample, and their standard errors; what plain rejection would take, from Z."""
    examples = {
        "sine": astar_targets.sine,
        "regression": astar_targets.regression,
        "clutter": astar_targets.clutter,
        "clutter in the plane": lambda split: astar_targets.clutter(2, split=split),
    }
    for name, make in examples.items():
        count = 10_000 if name == "sine" else 500
        for split in ("middle", "sample"):
            for method, keep in (("a*", False), ("os*", False), ("a*", True), ("os*", True)):
                number = min(count, 500) if keep else count
                target = make(split=split)
                draws = astar_sample(target, number, method=method, keep=keep, noise=ag.KeyedNoise(0))
                spent = draws.likelihoods.double()
                print(
                    f"{name:22}{split:8}{method:5}keep={keep!s:6}{spent.mean():8.3f} +- {spent.std() / number**0.5:.3f}"
                    f"  bounds {draws.bounds.double().mean():7.2f}  last hundred {spent[-100:].mean():.2f}",
                    flush=True,
                )
        # Each candidate of plain rejection is accepted with probability Z / (exp(bound) * volume) of the whole space.
        root = target.root()
        log_z = float(log_partition(draws.values, method="unbiased-log-z").value)
        print(f"{name:22}rejection expects {math.exp(float(target.bound(root)) + target.log_volume(root) - log_z):.2g}")


if __name__ == "__main__":
    table()
