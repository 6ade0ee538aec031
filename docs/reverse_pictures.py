"""The pictures of `reverse.md` and `coupling.md`; `pictures.py` draws them."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, plain
from torch import Tensor

import argumbel as ag
from argumbel.coupling import counterfactual_probs
from argumbel.reverse import inverse_cdf_gumbel, posterior_gumbel


def square(draws: int = 700) -> Figure:
    """The unit square of the noise of two items, cut where the winner changes, and the uniform draw that it unfolds."""
    p = torch.tensor([0.7, 0.3], dtype=torch.float64)
    figure = Figure(figsize=(7.4, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [0.8, 1]})

    # One stratified number u for each draw, and the noise behind it.
    u = (torch.arange(draws) + 0.5).double() / draws
    values, winner = inverse_cdf_gumbel(p.log().expand(draws, 2), u, noise=ag.KeyedNoise(seed=5))
    uniforms = torch.exp(-torch.exp(-(values - p.log())))
    place = torch.where(winner == 0, u / p[0], (u - p[0]) / p[1])
    colors = [(BLUE, ORANGE)[k] for k in winner.tolist()]

    left.scatter(u, place, s=7, c=colors, linewidths=0)
    left.set_xticks([0, 0.7, 1])
    left.set_yticks([0, 0.5, 1])
    for middle, name, color in ((0.35, "a wins", BLUE), (0.85, "b wins", ORANGE)):
        left.annotate(name, (middle, 1.03), ha="center", fontsize=9, color=color, weight="bold")
    left.set_ylim(0, 1.12)
    left.set_xlim(0, 1)
    plain(left, "The draw: u and its place v", "u", "v")

    # b loses to a where u_b < u_a^(p_b / p_a): the area below the curve is p_a.
    line = torch.linspace(0, 1, 200, dtype=torch.float64)
    border = line ** float(p[1] / p[0])
    right.fill_between(line, 0, border, color=BLUE, alpha=0.10, linewidth=0)
    right.fill_between(line, border, 1, color=ORANGE, alpha=0.13, linewidth=0)
    right.scatter(uniforms[:, 0], uniforms[:, 1], s=7, c=colors, linewidths=0)
    right.plot(line, border, color=INK, linewidth=1.4)
    for v in (0.1, 0.25, 0.5, 0.75):
        corner = [v ** float(p[0]), v ** float(p[1])]
        right.plot([corner[0], corner[0], 0], [0, corner[1], corner[1]], color=INK, linewidth=0.8)
        label = right.annotate(f"v = {v:g}", (0.02, corner[1]), va="center", fontsize=7.5, color=INK)
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    right.set_xlim(0, 1)
    right.set_ylim(0, 1)
    right.set_xticks([0, 0.5, 1])
    right.set_yticks([0, 0.5, 1])
    right.set_aspect("equal")
    plain(right, "The race behind it", r"$u_a$ = exp(-exp(-noise of a))", r"$u_b$ = exp(-exp(-noise of b))")
    return figure


def race(draws: int = 400_000) -> Figure:
    """Densities of four perturbed values: before the race, given who won, and given the height as well."""
    x = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    names, colors, won, height = "abcd", (BLUE, GREEN, PINK, ORANGE), 3, 0.5
    rows, index = x.expand(draws, 4), torch.full((draws,), won)
    stages = (
        ("Before the race", x + ag.KeyedNoise(seed=1).gumbel((draws, 4))),
        ("d won", posterior_gumbel(rows, index, noise=ag.KeyedNoise(seed=2))),
        (
            f"d won, at height {height}",
            posterior_gumbel(rows, index, value=torch.full((draws,), height), noise=ag.KeyedNoise(seed=3)),
        ),
    )
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    edges = torch.linspace(-6, 6, 241)
    middles, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    for axes, (title, values) in zip(figure.subplots(3, 1, sharex=True, sharey=True), stages, strict=True):
        for k, (name, color) in enumerate(zip(names, colors, strict=True)):
            if values[:, k].amin() == values[:, k].amax():
                axes.axvline(height, color=color, linewidth=2)
                axes.annotate(name, (height + 0.1, 0.8), color=color, weight="bold")
                continue
            density = torch.histogram(values[:, k], edges).hist / draws / width
            axes.plot(middles, density, color=color, linewidth=1.4)
            axes.fill_between(middles, density, color=color, alpha=0.10, linewidth=0)
            top = int(density.argmax())
            axes.annotate(name, (middles[top], density[top]), xytext=(0, 2), textcoords="offset points", color=color,
                          weight="bold", ha="center")  # fmt: skip
        axes.set_ylim(0, 1.0)
        axes.set_yticks([0, 0.5, 1])
        plain(axes, title, "", "density")
    axes.set_xlabel("logit + noise", color=INK)
    return figure


def flow() -> Figure:
    """From each observed class to each counterfactual class: bands as wide as the probability of both."""
    x, y = (torch.tensor(p, dtype=torch.float64).log() for p in ([0.45, 0.3, 0.15, 0.1], [0.15, 0.3, 0.2, 0.35]))
    laws = (
        (
            "One noise: what would have won",
            torch.stack([counterfactual_probs(x, torch.tensor(i), y) for i in range(4)]),
        ),
        ("Fresh noise: what wins another time", y.exp().expand(4, 4)),
    )
    figure = Figure(figsize=(8.6, 4.3), layout="constrained")
    for axes, (title, law) in zip(figure.subplots(1, 2), laws, strict=True):
        _flow(axes, x.exp()[:, None] * law)
        axes.set_title(title, fontsize=11, color=INK)
    return figure


def _flow(axes: Axes, joint: Tensor) -> None:
    names, colors, bar, space = "abcd", (BLUE, GREEN, PINK, ORANGE), 0.05, 0.04
    n = len(joint)

    def starts(sizes: Tensor) -> Tensor:  # from the top down
        return 1 + space * (n - 1) - sizes.cumsum(0) - space * torch.arange(n)

    sources, targets = joint.sum(1), joint.sum(0)
    for side, sizes in ((0.0, sources), (1.0, targets)):
        for name, color, size, low in zip(names, colors, sizes.tolist(), starts(sizes).tolist(), strict=True):
            axes.add_patch(Rectangle((side - bar * (1 - side), low), bar, size, color=color, linewidth=0))
            axes.annotate(
                f"{name}  {size:.2f}", (side + (0.08 if side else -0.08), low + size / 2), va="center",
                ha="left" if side else "right", color=color, weight="bold", fontsize=9.5,
            )  # fmt: skip
    # Bands leave a source in the order of the targets, and arrive in the order of the sources.
    leave = starts(sources)[:, None] + sources[:, None] - joint.cumsum(1)
    arrive = starts(targets)[None] + targets[None] - joint.cumsum(0)
    for i in range(n):
        for j in range(n):
            size, a, b = float(joint[i, j]), float(leave[i, j]), float(arrive[i, j])
            if size == 0:
                continue
            points = [
                (0, a),
                (0.5, a),
                (0.5, b),
                (1, b),
                (1, b + size),
                (0.5, b + size),
                (0.5, a + size),
                (0, a + size),
            ]
            codes = [Outline.MOVETO, *[Outline.CURVE4] * 3, Outline.LINETO, *[Outline.CURVE4] * 3]
            band = PathPatch(Outline(points, codes), facecolor=colors[i], alpha=0.75 if i == j else 0.35, linewidth=0)
            axes.add_patch(band)
    axes.set_xlim(-0.32, 1.32)
    axes.set_ylim(-0.03, 1 + space * (n - 1) + 0.08)
    for side, text in ((-0.02, "observed"), (1.02, "under the new logits")):
        axes.annotate(text, (side, 1 + space * (n - 1) + 0.03), ha="center", fontsize=8.5, color=FAINT)
    axes.axis("off")


PICTURES = {"reverse-square": square, "reverse-race": race, "reverse-flow": flow}
