"""The look of the reports: colours, style sheets, and pictures that are stored in the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BLUE", "CSS", "GREY", "INK", "ORANGE", "STYLE", "embed"]

INK, GREY, BLUE, ORANGE = "#1d2433", "#8a93a5", "#2463b4", "#d97a1d"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": "#c9ced8",
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eceff4",
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def embed(figure: Figure) -> str:
    """A picture as the text of the ``src`` of an ``<img>``, so that the page is one file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=170, facecolor="white")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


CSS = """
:root { --ink: #1d2433; --soft: #5b6577; --line: #e3e7ee; --blue: #2463b4; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0 0 14px; color: var(--soft); max-width: 96ch; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px; margin-top: 20px; }
img { display: block; width: 100%; height: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); gap: 12px; margin-top: 24px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile { display: flex; flex-direction: column; }
.tile b { display: block; margin-top: auto; white-space: nowrap; font-size: 24px; line-height: 1.25;
  font-variant-numeric: tabular-nums; color: var(--blue); }
.tile b i { font-size: 14px; font-style: normal; font-weight: 400; color: var(--soft); }
.tile.plain b { color: var(--soft); }
.tile span { display: block; font-size: 14px; font-weight: 600; }
.tile small { display: block; font-size: 12.5px; line-height: 1.4; color: var(--soft); margin-top: 2px; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
td { padding: 5px 12px 5px 0; border-top: 1px solid var(--line); vertical-align: top; }
td:nth-child(odd) { color: var(--soft); width: 17%; }
td:nth-child(even) { width: 33%; font-variant-numeric: tabular-nums; }
footer { color: var(--soft); font-size: 13px; margin-top: 20px; }
"""
