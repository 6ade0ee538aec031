"""What the pictures have in common."""

from __future__ import annotations

from matplotlib.axes import Axes

__all__ = ["BLUE", "FAINT", "GREEN", "INK", "ORANGE", "PINK", "plain"]

# Okabe and Ito's palette, as in argumbel.plots.
BLUE, ORANGE, GREEN, PINK, INK, FAINT = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#9A9A9A"


def plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
