"""Draw the pictures of the documentation again: `python docs/pictures.py`."""

from __future__ import annotations

from pathlib import Path

import torch

from argumbel import plots

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, draw in [("simplex", plots.simplex), ("expectations", plots.expectations)]:
        figure = draw(generator=torch.Generator().manual_seed(3))
        # No date and no version in the file: the same picture is the same bytes.
        figure.savefig(IMAGES / f"{name}.png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
