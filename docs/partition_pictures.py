"""The pictures of `partition.md`; `pictures.py` draws them."""

from __future__ import annotations

import math

import spin_glass
import torch
from matplotlib.figure import Figure
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, plain

import argumbel as ag
from argumbel.partition import log_partition, perturb_and_map


def estimators(repeats: int = 10_000) -> Figure:
    """M times the mean squared error of estimates of log Z: left over alpha, right over M."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)

    def measured(count: int, **own: object) -> torch.Tensor:
        """Errors of estimates of log Z = 0: its maxima are plain Gumbels."""
        generator = torch.Generator().manual_seed(count)
        return log_partition(ag.gumbel((count, repeats), generator=generator, dtype=torch.float64), **own).value

    alphas = [a / 20 for a in range(-9, 51)]
    alphas.remove(0)
    named = [("weibull" if a > 0 else "frechet", a) for a in alphas]
    for count, color in ((10, ORANGE), (100, BLUE), (1000, GREEN)):
        errors = [count * measured(count, method=m, alpha=a).square().mean().item() for m, a in named]
        left.plot(alphas, errors, ".", color=color, markersize=4, label=f"measured, M = {count}")
    many = torch.zeros(10**6)
    first_order = [10**6 * log_partition(many, method=m, alpha=a).stderr.item() ** 2 for m, a in named]
    left.plot(alphas, first_order, color=INK, linewidth=1, label="theory, M to infinity")
    for a, name, height, place in ((0, "Gumbel", math.pi**2 / 6, (-45, -4)), (1, "exponential", 1.0, (-26, -14))):
        left.plot(a, height, "o", color=INK, markersize=5)
        left.annotate(name, (a, height), xytext=place, textcoords="offset points", fontsize=8, color=INK)
    left.set_ylim(0.8, 3)
    left.legend(frameon=False, fontsize=8, loc="upper center")
    plain(left, "Which power of exp(-m) to average", r"$\alpha$", "M × mean squared error")

    counts = [2, 3, 5, 10, 20, 50, 100, 200, 500]
    n = torch.tensor(counts, dtype=torch.float64)
    trigamma, gap = torch.special.polygamma(1, n), n.log() - n.digamma()
    for method, color, bias2, variance in (
        ("gumbel", ORANGE, 0 * n, math.pi**2 / 6 / n),
        ("exponential", BLUE, gap**2, trigamma),
        ("unbiased-log-z", GREEN, 0 * n, trigamma),
    ):
        errors = [measured(c, method=method).square().mean().item() * c for c in counts]
        right.plot(counts, errors, ".", color=color)
        right.plot(counts, n * (bias2 + variance), color=color, linewidth=1, label=method)
    right.set_xscale("log")
    right.set_ylim(0.9, 2)
    right.legend(frameon=False, fontsize=8, title="lines: theory; dots: measured", title_fontsize=8)
    plain(right, "How many maxima", "M", "M × mean squared error")
    return figure


def glass(num_samples: int = 400) -> Figure:
    """Left: bounds of log Z, per site, over the strength of the couplings. Right: marginals."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    strengths = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0]
    above, below, noise = [], [], []
    for strength in strengths:
        model, (log_z, marginals), result = _perturbed(strength, num_samples)
        sites = model.fields.numel()
        above.append((result.upper.value - log_z).item() / sites)
        below.append((result.lower.value - log_z).item() / sites)
        noise.append((result.upper.stderr.item() / sites, result.lower.stderr.item() / sites))
        for shown, color in ((0.5, GREEN), (1.0, BLUE), (3.0, ORANGE)):
            if strength == shown:
                shares = result.samples.double().mean(0)
                right.plot(marginals.flatten(), shares, ".", color=color, markersize=4, label=f"couplings to {shown}")
    for values, place, color, name in ((above, 0, ORANGE, "upper bound"), (below, 1, BLUE, "lower bound")):
        errors = [2 * pair[place] for pair in noise]
        left.errorbar(strengths, values, errors, fmt=".-", color=color, linewidth=1, capsize=2, label=name)
    left.axhline(0, color=INK, linewidth=1, label="exact")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    plain(left, "Bounds, 10 × 10 spins", "strength of the couplings", "(bound − log Z) per spin")
    right.plot([0, 1], [0, 1], color=FAINT, linewidth=1, zorder=0)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    plain(right, "Marginals of the samples", "exact P(spin up)", "share of samples with spin up")
    right.set_aspect("equal")
    return figure


def _perturbed(strength: float, num_samples: int) -> tuple:
    model = spin_glass.random_glass(10, 10, strength)
    exact = spin_glass.log_partition_and_marginals(model)
    result = perturb_and_map(
        lambda states: spin_glass.score(model, states),
        lambda unary: spin_glass.solve(model, unary),
        spin_glass.unary(model),
        num_samples,
        noise=ag.KeyedNoise(0),
    )
    return model, exact, result


PICTURES = {"partition-estimators": estimators, "partition-spin-glass": glass}
