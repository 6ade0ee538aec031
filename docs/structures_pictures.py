"""The pictures of `structures.md`, `perturbation.md` and `traces.md`; `pictures.py` draws them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from picture_style import BLUE, FAINT, INK, ORANGE, plain
from torch import Tensor

import argumbel as ag
from argumbel.structures import SpanningTree

CIRCLE = 2 * math.pi


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# --- perturbed optimisers --------------------------------------------------------------------------------------------

SIDES = 7
VERTICES = torch.stack(
    [torch.cos(CIRCLE * torch.arange(SIDES) / SIDES + 0.3), torch.sin(CIRCLE * torch.arange(SIDES) / SIDES + 0.3)], -1
).double()
SCORES = torch.tensor([0.9, 0.55], dtype=torch.float64)
SIGMAS = (0.1, 0.4, 1.0)


def furthest(scores: Tensor) -> Tensor:
    """The vertex of the polygon that lies furthest in the direction of the scores: a linear programme."""
    return VERTICES[(scores @ VERTICES.T).argmax(-1)]


def polytope(count: int = 4000) -> Figure:
    """A polygon, the vertices that perturbed scores choose, and their mean, which fills the polygon as sigma grows."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    for axes, sigma in zip(figure.subplots(1, 3), SIGMAS, strict=True):
        axes.add_patch(Polygon(VERTICES.numpy(), closed=True, facecolor="#f2f4f7", edgecolor=FAINT, linewidth=1))
        path = torch.linspace(0, CIRCLE, 181, dtype=torch.float64)
        around = SCORES.norm() * torch.stack([path.cos(), path.sin()], -1)
        noise = ag.KeyedNoise(0).gumbel((count, 2), dtype=torch.float64) - 0.5772
        ring = furthest(around.unsqueeze(0) + sigma * noise.unsqueeze(1)).mean(0)
        axes.plot(*ring.T, color=BLUE, linewidth=1.4, label="mean solution, as the scores turn")
        chosen = furthest(SCORES + sigma * noise)
        share = (chosen.unsqueeze(1) == VERTICES).all(-1).double().mean(0)
        axes.scatter(*VERTICES.T, s=900 * share + 6, color=ORANGE, alpha=0.75, linewidth=0, zorder=3)
        axes.scatter(*chosen.mean(0), s=46, color=BLUE, zorder=4)
        axes.annotate("", xy=SCORES * 1.02, xytext=(0, 0), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.3})
        axes.set(aspect="equal", xlim=(-1.2, 1.3), ylim=(-1.2, 1.3))
        axes.set_axis_off()
        axes.set_title(f"sigma = {sigma:g}", fontsize=11, color=INK)
    figure.supxlabel(
        "arrow: scores     orange: how often a vertex is the solution     blue: the mean solution, and its path as the "
        "scores turn",
        fontsize=8.5,
        color=INK,
    )
    return figure


def variances(count: int = 20_000) -> Figure:
    """Estimates of one entry of the Jacobian for trees: by the noise, and by the trace."""
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    axes = figure.subplots()
    tree = SpanningTree(4)
    scores = torch.tensor([0.5, -1, 0.3, 0, 1.2, -0.7], dtype=torch.float64).expand(count, 6).clone().requires_grad_()
    for solver, color, name in ((tree.argmax, ORANGE, "noise score"), (tree, BLUE, "trace score")):
        y = ag.perturbed(solver, scores, control=None, noise=ag.KeyedNoise(1))
        (slopes,) = torch.autograd.grad(y[:, 0].sum(), scores)
        entry = slopes[:, 2]
        label = f"{name}: variance {entry.var():.2f}"
        axes.hist(entry, bins=150, range=(-6, 1.5), color=color, alpha=0.6, label=label)
    axes.axvline(-0.161642, color=INK, linewidth=1.2, label="exact")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    title = "How the share of one edge moves with the score of another: 20,000 estimates"
    plain(axes, title, "estimate from one sample", "samples")
    return figure


# --- traces ----------------------------------------------------------------------------------------------------------

PLACES = torch.tensor([[0.08, 0.2], [0.5, 0.02], [0.95, 0.25], [0.85, 0.85], [0.4, 1.0], [0.02, 0.75]])


def edges_of(n: int) -> list[tuple[int, int]]:
    return [(u, v) for u in range(n) for v in range(u + 1, n)]


def draw_graph(axes: Axes, alive: Tensor, taken: list[int], last: int | None) -> None:
    for e, (u, v) in enumerate(edges_of(len(PLACES))):
        x, y = zip(PLACES[u], PLACES[v], strict=True)
        if e in taken:
            axes.plot(x, y, color=ORANGE if e == last else INK, linewidth=2.6, zorder=2)
        elif bool(alive[e]):
            axes.plot(x, y, color=BLUE, linewidth=0.7, alpha=0.55, zorder=1)
    axes.scatter(*PLACES.T, s=120, color="white", edgecolor=INK, zorder=3)
    for node, (x, y) in enumerate(PLACES.tolist()):
        axes.text(x, y, str(node), ha="center", va="center", fontsize=7.5, color=INK, zorder=4)
    axes.set(aspect="equal", xlim=(-0.12, 1.1), ylim=(-0.12, 1.14))
    axes.set_axis_off()


def trace() -> Figure:
    """A tree built edge by edge, and below it the times of all edges, known afterwards from the trace alone."""
    n = len(PLACES)
    tree = SpanningTree(n)
    scores = -4 * torch.cdist(PLACES, PLACES)[torch.triu_indices(n, n, 1).unbind()].double()
    noise = ag.KeyedNoise(6).gumbel((1, len(scores)), dtype=torch.float64)[0]
    race = tree.trace(scores + noise)
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, n - 1, height_ratios=(1, 1.15))
    chosen = race.chosen.tolist()
    for step, e in enumerate(chosen):
        axes = figure.add_subplot(grid[0, step])
        draw_graph(axes, race.alive[step], chosen[: step + 1], e)
        share = float((scores[e] - scores[race.alive[step]].logsumexp(-1)).exp())
        axes.set_title(f"step {step + 1}: probability {share:.2f}", fontsize=9, color=INK)
    axes = figure.add_subplot(grid[1, :])
    order = scores.argsort(descending=True)
    true = torch.exp(-(scores + noise))[order]
    for seed in range(60):
        values = ag.posterior_gumbel_trace(scores, race, noise=ag.KeyedNoise(seed))
        axes.scatter(range(len(order)), torch.exp(-values)[order], s=9, color=BLUE, alpha=0.35, linewidth=0)
    axes.scatter([], [], s=9, color=BLUE, label="60 draws of the times, given the trace")
    axes.scatter(range(len(order)), true, s=26, color=ORANGE, zorder=3, label="the times behind the trace")
    names = ["{}-{}".format(*edges_of(n)[e]) for e in order.tolist()]
    axes.set_xticks(range(len(order)), names)
    for tick, e in zip(axes.get_xticklabels(), order.tolist(), strict=True):
        if e in chosen:
            tick.set_fontweight("bold")
            tick.set_color(ORANGE)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    plain(axes, "", "edge, the shortest first; bold: in the tree", "arrival time")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "perturbation-polytope": polytope,
    "perturbation-variance": variances,
    "traces-tree": trace,
}
