"""The gallery of `structures.md`: every structure, drawn under noise, hard and relaxed; `pictures.py` draws it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Rectangle
from picture_style import BLUE, FAINT, INK, ORANGE
from torch import Tensor

import argumbel as ag
from argumbel.structures import (
    Arborescence,
    BinaryTree,
    Chain,
    CorrelatedSubset,
    Matching,
    OneHot,
    ProjectiveTree,
    Ranking,
    SpanningTree,
    Structure,
    Subset,
)

TAUS = (0.3, 1.0, 3.0)


def segment(axes: Axes, a: Tensor, b: Tensor, weight: float, arrow: bool = False) -> None:
    """A line whose ink is the weight."""
    if weight < 0.02:
        return
    style = "-|>" if arrow else "-"
    shrink = 4 if arrow else 0
    arrowprops = {
        "arrowstyle": style, "color": BLUE, "alpha": min(1.0, 0.12 + 0.88 * weight), "lw": 0.5 + 1.9 * weight,
        "shrinkA": shrink, "shrinkB": shrink, "mutation_scale": 7,
    }  # fmt: skip
    axes.annotate("", xy=b.tolist(), xytext=a.tolist(), arrowprops=arrowprops)


def dots(axes: Axes, points: Tensor, size: float = 16) -> None:
    axes.scatter(*points.T, s=size, color="white", edgecolor=INK, linewidth=0.8, zorder=3)


def circle(n: int) -> Tensor:
    angle = math.pi / 2 - 2 * math.pi * torch.arange(n) / n
    return torch.stack([angle.cos(), angle.sin()], -1)


def bars(axes: Axes, y: Tensor, most: float = 1.0) -> None:
    axes.bar(range(len(y)), y, width=0.78, color=BLUE)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlim=(-0.7, len(y) - 0.3), ylim=(-0.06 * most, 1.12 * most))


def linked_bars(axes: Axes, y: Tensor) -> None:
    """Items as bars, and their pairs as arcs below."""
    n = (len(y) + 1) // 2
    bars(axes, y[:n])
    for i, weight in enumerate(y[n:].tolist()):
        if weight >= 0.02:
            arc = Arc((i + 0.5, -0.03), 1, 0.45, theta1=180, theta2=360, color=ORANGE, alpha=weight, lw=2)
            axes.add_patch(arc)
    axes.set_ylim(-0.32, 1.12)


def tree(axes: Axes, y: Tensor) -> None:
    places = circle(6)
    for (u, v), weight in zip(torch.combinations(torch.arange(6)).tolist(), y.tolist(), strict=True):
        segment(axes, places[u], places[v], weight)
    dots(axes, places)


def arrows(axes: Axes, y: Tensor) -> None:
    places = circle(len(y))
    for u in range(len(y)):
        for v in range(1, len(y)):
            segment(axes, places[u], places[v], float(y[u, v]), arrow=True)
    dots(axes, places)
    axes.scatter(*places[0], s=18, color=ORANGE, zorder=4)


def trellis(axes: Axes, y: Tensor) -> None:
    steps, classes = y.shape[0], y.shape[1]
    for t in range(steps):
        for a in range(classes):
            for b in range(classes):
                segment(axes, torch.tensor([t, a]), torch.tensor([t + 1, b]), float(y[t, a, b]))
    dots(axes, torch.cartesian_prod(torch.arange(steps + 1), torch.arange(classes)), 9)


def two_sides(axes: Axes, y: Tensor) -> None:
    n, m = y.shape
    for i in range(n):
        for j in range(m):
            segment(axes, torch.tensor([0.0, -i]), torch.tensor([2.0, -j]), float(y[i, j]))
    for x, count in ((0, n), (2, m)):
        dots(axes, torch.stack([torch.full((count,), x), -torch.arange(count)], -1))


def arcs(axes: Axes, y: Tensor) -> None:
    """Words in a row, with an arc from each head to its word."""
    n = len(y)
    for u in range(n):
        for v in range(1, n):
            weight = float(y[u, v])
            if weight >= 0.02:
                color = ORANGE if u == 0 else BLUE
                arc = Arc(((u + v) / 2, 0), abs(u - v), 0.62 * abs(u - v), theta1=0, theta2=180, color=color)
                arc.set(alpha=min(1.0, 0.12 + 0.88 * weight), linewidth=0.5 + 1.9 * weight)
                axes.add_patch(arc)
    dots(axes, torch.stack([torch.arange(n), torch.zeros(n)], -1))
    axes.scatter(0, 0, s=18, color=ORANGE, zorder=4)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(-0.3, 0.31 * n + 0.2))


def brackets(axes: Axes, y: Tensor) -> None:
    """A span is a tile above its leaves, the wider the higher."""
    n = len(y)
    for i in range(n):
        for j in range(i + 1, n):
            tile = Rectangle((i, (j - i - 1) * 1.0), j - i + 0.8, 0.8, facecolor=BLUE, linewidth=0)
            tile.set_alpha(float(y[i, j]) * 0.9)
            axes.add_patch(tile)
    dots(axes, torch.stack([torch.arange(n) + 0.4, torch.full((n,), -0.5)], -1), 9)
    axes.set(xlim=(-0.2, n), ylim=(-0.9, n - 1))


GALLERY: list[tuple[str, Structure, tuple[int, ...], Callable[[Axes, Tensor], None]]] = [
    ("OneHot", OneHot(), (7,), bars),
    ("Subset(3)", Subset(3), (7,), bars),
    ("CorrelatedSubset(3)", CorrelatedSubset(3), (13,), linked_bars),
    ("Ranking", Ranking(), (7,), lambda axes, y: bars(axes, y, 6.0)),
    ("SpanningTree(6)", SpanningTree(6), (15,), tree),
    ("Arborescence(6)", Arborescence(6), (6, 6), arrows),
    ("Chain", Chain(), (5, 3, 3), trellis),
    ("Matching", Matching(), (5, 5), two_sides),
    ("ProjectiveTree", ProjectiveTree(), (6, 6), arcs),
    ("BinaryTree", BinaryTree(), (6, 6), brackets),
]


def gallery() -> Figure:
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    blocks = figure.subfigures(5, 2, wspace=0.04)
    for row, block in enumerate(blocks.flat):
        name, structure, event, draw = GALLERY[row]
        scores = torch.randn(event, generator=torch.Generator().manual_seed(row + 1))
        noise = ag.KeyedNoise(row, rows=[0])
        flat = noise.gumbel((1, scores.numel())).reshape(event)
        hard = ag.perturbed_argmax(structure, scores, noise=flat).indicators
        soft = [ag.stochastic_softmax(structure, scores, tau, noise=flat) for tau in TAUS]
        for column, (axes, y) in enumerate(zip(block.subplots(1, 4), (hard, *soft), strict=True)):
            draw(axes, y)
            axes.set_axis_off()
            if event[-1] == 6 or name in ("Matching", "Chain") or name.startswith("SpanningTree"):
                axes.margins(0.12)
            title = "tau = 0" if column == 0 else f"{TAUS[column - 1]:g}"
            axes.set_title(title, fontsize=8, color=FAINT if column else INK)
        block.suptitle(name, fontsize=10, color=INK, x=0.02, ha="left")
    return figure


PICTURES = {"structures-gallery": gallery}
