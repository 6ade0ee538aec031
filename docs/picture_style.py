"""What the pictures have in common."""

from __future__ import annotations

from pathlib import Path

from cycler import cycler
from matplotlib.axes import Axes
from PIL import Image

__all__ = ["BLUE", "FAINT", "GREEN", "INK", "ORANGE", "PINK", "STYLE", "plain", "shrink"]

# Okabe and Ito's palette, as in argumbel.plots.
BLUE, ORANGE, GREEN, PINK, INK, FAINT = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#222222", "#9A9A9A"

# matplotlib's settings for pictures whose code does not choose colours and sizes: the tutorials.
STYLE = {
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PINK, INK]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "figure.constrained_layout.use": True,
    "figure.figsize": (6.4, 3.6),
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def plain(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def shrink(path: Path) -> None:
    """A third of the bytes: 256 colours, on white. The same picture gives the same bytes."""
    with Image.open(path) as picture:
        if picture.mode == "P":
            return
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    flat.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
