"""Draw the pictures of the documentation again: `python docs/pictures.py [name ...]`.

Pictures of a run (report.png, mnist.png, estimator-report.png, sweep-*.png) are only made smaller.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import astar_pictures
import diffusion_pictures
import matplotlib
import partition_pictures
import reverse_pictures
import sequences_pictures
import structures_gallery
import structures_pictures
import subsets_pictures
import tables_pictures
import torch
import tutorial_pictures
from matplotlib.figure import Figure
from picture_style import STYLE, shrink

from argumbel import plots

IMAGES = Path(__file__).parent / "images"


def _seeded(draw: Callable[..., Figure]) -> Callable[[], Figure]:
    return lambda: draw(generator=torch.Generator().manual_seed(3))


PICTURES: dict[str, Callable[[], Figure]] = {
    "simplex": _seeded(plots.simplex),
    "expectations": _seeded(plots.expectations),
    **subsets_pictures.PICTURES,
    **reverse_pictures.PICTURES,
    **partition_pictures.PICTURES,
    **astar_pictures.PICTURES,
    **sequences_pictures.PICTURES,
    **tables_pictures.PICTURES,
    **diffusion_pictures.PICTURES,
    **structures_gallery.PICTURES,
    **structures_pictures.PICTURES,
    **tutorial_pictures.PICTURES,
}


def main(names: list[str]) -> None:
    IMAGES.mkdir(exist_ok=True)
    for name in names or PICTURES:
        # Colours such as "C0" are looked up when the picture is saved.
        with matplotlib.rc_context(STYLE if name in tutorial_pictures.PICTURES else {}):
            # No date and no version in the file: the same picture is the same bytes.
            PICTURES[name]().savefig(IMAGES / f"{name}.png", dpi=130, metadata={"Software": None})
    for picture in Path(__file__).parent.rglob("*.png"):
        shrink(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
