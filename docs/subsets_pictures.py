"""The pictures of `subsets.md`; `pictures.py` draws them."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, plain

import argumbel as ag
from argumbel.subsets import inclusion_probs, priority_sample, threshold_estimate


def inclusion(draws: int = 20_000) -> Figure:
    """P(item is among the first k) over its probability in a single draw, for several k."""
    n = 60
    x = torch.linspace(0, -8, n, dtype=torch.float64).log_softmax(0)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for k, color in ((1, INK), (3, BLUE), (10, GREEN), (30, ORANGE), (55, PINK)):
        drawn = ag.sample_without_replacement(x.expand(draws, n), k, generator=torch.Generator().manual_seed(k)).indices
        seen = drawn.flatten().bincount(minlength=n) / draws
        seen = seen.where(seen > 0, torch.nan)
        axes.plot(x.exp(), inclusion_probs(x, k), color=color, linewidth=1.2, label=f"k = {k}")
        axes.plot(x.exp()[::3], seen[::3], ".", color=color, markersize=4)
        axes.plot(x.exp(), (k * x.exp()).clamp(max=1), ":", color=FAINT, linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(3e-5, 1.5)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    plain(axes, f"The first k of {n} items", "probability of the item in one draw", "probability that it is drawn")
    return figure


def estimates(repeats: int = 4000) -> Figure:
    """Root mean squared errors of an expectation over 200 items, by how many of them are looked at."""
    n = 200
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(n, generator=generator, dtype=torch.float64)).log_softmax(0)
    f = 1 + torch.rand(n, generator=generator, dtype=torch.float64)
    truth = x.exp() @ f
    rows = x.expand(repeats, n)
    counts = [2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 160, 190, 198]
    errors: dict[str, list[float]] = {
        name: [] for name in ("with replacement", "priority", "threshold", "threshold, normalized")
    }
    for k in counts:
        values, i = ag.sample_without_replacement(rows, k + 1, generator=generator)
        given = (f[i[:, :k]], values, x[i])
        priority = priority_sample(rows, k, generator=generator)
        found = {
            "with replacement": f[ag.categorical(x, (repeats, k), generator=generator)].mean(-1),
            "priority": (priority.weights * f[priority.indices]).sum(-1),
            "threshold": threshold_estimate(*given).value,
            "threshold, normalized": threshold_estimate(*given, normalize=True).value,
        }
        for name, estimate in found.items():
            errors[name].append((estimate - truth).square().mean().sqrt().item())
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, error), color in zip(errors.items(), (FAINT, GREEN, BLUE, ORANGE), strict=True):
        axes.plot(counts, error, ".-", color=color, linewidth=1.2, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    plain(axes, f"An expectation over {n} items from k of them", "k", "root mean squared error")
    return figure


PICTURES = {"subsets-inclusion": inclusion, "subsets-estimates": estimates}
