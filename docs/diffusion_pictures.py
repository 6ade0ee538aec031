"""The picture of `diffusion.md`; `pictures.py` draws it."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from picture_style import BLUE, FAINT, GREEN, INK, ORANGE, plain

DELTA = 2.0**-24


def closed_form(p: np.ndarray) -> np.ndarray:
    """How often a float32 race draws a token of probability p beside the rest of the mass, 1 - p."""
    with np.errstate(over="ignore"):
        return DELTA / np.expm1(DELTA / p)  # the token's own density adds p to m


def on_the_lattice(p: float) -> float:
    """The same for MDLM's formula, counted over all numbers u of the token and of the rest."""
    u = np.arange(1 << 24, dtype=np.float32) * np.float32(DELTA)
    eps = np.float32(1e-10)
    arrival = (eps - np.log(u + eps)).astype(np.float64)[::-1]
    later = (1 << 24) - np.searchsorted(arrival, arrival[: 1 << 15] * (1 - p) / p, side="right")
    return float((later * DELTA).sum() * DELTA)


def law_after(steps: int, p: np.ndarray) -> np.ndarray:
    """The law of a token drawn in so many steps: with r steps left, p / r for a token and the rest for the mask."""
    masked, law = 1.0, np.zeros_like(p)
    for left in range(steps, 0, -1):
        now = closed_form(p / left)
        now = now / now.sum() if left == 1 else now
        law += masked * now
        masked *= max(0.0, 1 - now.sum())
    return law / law.sum()


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum())


def effective_temperature(law: np.ndarray, p: np.ndarray) -> float:
    """The temperature at which p has the entropy of ``law``."""
    low, high, wanted = 0.05, 1.5, entropy(law)
    while high - low > 1e-4:
        middle = (low + high) / 2
        q = np.exp((np.log(p) - math.log(p[0])) / middle)
        low, high = (low, middle) if entropy(q / q.sum()) > wanted else (middle, high)
    return (low + high) / 2


def float32_tail() -> Figure:
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    p = np.geomspace(3e-9, 1e-5, 200)
    left.plot(p, p, color=FAINT, linewidth=1.2, label="the law, and argumbel")
    left.plot(p, closed_form(p), color=ORANGE, linewidth=1.4, label="closed form")
    some = np.geomspace(1e-8, 1e-5, 10)
    left.plot(some, [on_the_lattice(x) for x in some], "o", color=INK, markersize=3.5, label="MDLM's formula, counted")
    left.axvline(DELTA, color=FAINT, linestyle=":", linewidth=1)
    left.text(DELTA * 1.1, 1.5e-13, "$2^{-24}$", fontsize=8, color=INK)
    left.set(xscale="log", yscale="log", ylim=(1e-13, 2e-5))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    plain(left, "A rare token in one step of float32", "probability of the token", "how often it is drawn")

    counts = 2 ** np.arange(0, 14)
    for exponent, color in ((1.0, BLUE), (1.2, GREEN), (1.5, ORANGE)):
        zipf = np.arange(1, 50_258, dtype=np.float64) ** -exponent
        zipf /= zipf.sum()
        found = [effective_temperature(law_after(int(steps), zipf), zipf) for steps in counts]
        label = f"rank$^{{-{exponent:g}}}$, {entropy(zipf):.1f} nats"
        right.plot(counts, found, ".-", color=color, linewidth=1.2, label=label)
    right.axhline(1, color=FAINT, linewidth=1.2)
    right.set(xscale="log", ylim=(None, 1.02))
    right.legend(frameon=False, fontsize=8, loc="lower left")
    plain(right, "What many steps of float32 add up to", "number of steps", "effective temperature")
    return figure


PICTURES = {"diffusion-float32": float32_tail}
