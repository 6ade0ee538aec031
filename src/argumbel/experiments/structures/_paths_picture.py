"""The picture of learned paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..page import BLUE, GREY, INK, ORANGE
from ..run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]


def draw(runs: Mapping[str, Run]) -> Figure | None:
    """A test grid with its shortest path and the paths before and after training, the costs that were learned beside
    the digits, and the learned costs of each digit: of the first row that knows a cost for each image."""
    from matplotlib.figure import Figure as Canvas

    run = next((run for label, run in runs.items() if (run.path / "picture.pt").is_file()), None)
    if run is None:
        return None
    state = run.load("picture.pt")
    which = _telling(state)
    images, digits, costs = (state[name][which] for name in ("images", "digits", "costs"))
    true, before, after = (state[name][which] for name in ("paths", "before", "after"))
    canvas = Canvas(figsize=(10.4, 8.2), layout="constrained")
    named = canvas.subplot_mosaic([["before", "after", "law"], ["true", "learned", "law"]], width_ratios=(1, 1, 0.62))
    for axis, title, path, colour in (
        (named["before"], "before training", before, ORANGE),
        (named["after"], "after training", after, BLUE),
    ):
        axis.imshow(_sheet(images).numpy(), cmap="Greys", vmin=0, vmax=1.3, extent=_extent(digits))
        _path(axis, true, INK, "shortest path", width=7.5, alpha=0.28)
        _path(axis, path, colour, "path of the model", width=2.6)
        axis.set_title(f"{title}: it costs {int((path * digits).sum())}, the shortest {int((true * digits).sum())}")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=8)
    for axis, title, values, path in (
        (named["true"], "true costs, and the shortest path", digits, true),
        (named["learned"], "learned costs, and the path of the model", costs, after),
    ):
        axis.imshow(values.numpy(), cmap="YlGnBu", extent=_extent(digits))
        axis.set_title(title)
        for (row, column), value in _cells(digits):
            colour = "white" if float(values[row, column]) > float(values.min() + values.max()) / 2 else INK
            axis.text(column, row, f"{int(value)}", color=colour, ha="center", va="center", fontsize=7)
        _path(axis, path, ORANGE, "", width=5, alpha=0.45)
    for name in ("before", "after", "true", "learned"):
        named[name].set(xticks=[], yticks=[])
        named[name].grid(visible=False)
        named[name].spines[:].set_visible(False)
    _by_digit(named["law"], state)
    return canvas


def _telling(state: dict[str, Tensor]) -> int:
    """The test grid whose shortest path has the most cells, among those whose path became right, if there are such."""
    least, after = ((state[name] * state["digits"]).sum((-2, -1)) for name in ("paths", "after"))
    return int(state["paths"].sum((-2, -1)).masked_fill(after > least, 0).argmax())


def _sheet(images: Tensor) -> Tensor:
    """The images of a grid as one image, with a margin between them."""
    wide = torch.nn.functional.pad(images, (1, 1, 1, 1))
    return wide.transpose(1, 2).reshape(wide.shape[0] * wide.shape[2], -1)


def _extent(cells: Tensor) -> tuple[float, float, float, float]:
    return (-0.5, cells.shape[1] - 0.5, cells.shape[0] - 0.5, -0.5)


def _cells(cells: Tensor) -> list[tuple[tuple[int, int], float]]:
    return [((i, j), float(cells[i, j])) for i in range(cells.shape[0]) for j in range(cells.shape[1])]


def _path(axis: Axes, path: Tensor, colour: str, label: str, *, width: float, alpha: float = 1.0) -> None:
    """A line through the cells of a path, from the first corner on."""
    left = {(i, j) for (i, j), used in _cells(path) if used}
    line = [(0, 0)]
    left.discard((0, 0))
    while left:
        i, j = line[-1]
        near = [cell for cell in left if max(abs(cell[0] - i), abs(cell[1] - j)) == 1]
        if not near:
            break
        line.append(min(near))
        left.discard(line[-1])
    rows, columns = zip(*line, strict=True)
    axis.plot(columns, rows, color=colour, linewidth=width, alpha=alpha, label=label or None, solid_capstyle="round")


def _by_digit(axis: Axes, state: dict[str, Tensor]) -> None:
    """The learned cost of each image of the test grids, against its digit."""
    digits, costs = state["digits"].flatten(), state["costs"].flatten()
    spread = torch.linspace(-0.3, 0.3, 61).repeat(len(digits) // 61 + 1)[: len(digits)]
    axis.plot(costs.numpy(), (digits + spread).numpy(), ",", color=BLUE, alpha=0.35)
    medians = [float(costs[digits == d].median()) for d in digits.unique()]
    axis.plot(medians, digits.unique().numpy(), "o", color=ORANGE, markersize=5, label="median")
    axis.set(title="learned cost of each test image", ylabel="digit", yticks=range(10))
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.03), fontsize=8)
    axis.tick_params(colors=GREY)
