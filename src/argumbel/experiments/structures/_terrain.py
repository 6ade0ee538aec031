"""Grids of handwritten digits, and shortest paths through them."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data import bundled_digits

__all__ = ["LEAST", "Terrain", "path_cost", "shortest_paths"]

LEAST = 0.01
"""What a step costs at least. The solver raises lower costs to it: so a path never goes around in circles."""

_STEPS = [step for step in itertools.product((-1, 0, 1), repeat=2) if step != (0, 0)]
_TRAIN = 1297  # images; the other 500 are for tests


def shortest_paths(costs: Any) -> Any:
    """The cheapest paths from the first corner to the last corner of grids, in which each cell has 8 neighbours.

    ``d(cell) = cost(cell) + min over its neighbours of d`` (Bellman and Ford), for all grids at once, until nothing
    changes.

    Args:
        costs: of stepping on each cell, an array ``(*batch, height, width)``. The first and the last cell cost too.

    Returns:
        An array of bool in the same shape, True in the cells of the path.
    """
    given = np.asarray(costs, dtype=np.float64)
    height, width = given.shape[-2:]
    cost = np.maximum(given, LEAST).reshape(-1, height, width)
    rows = np.arange(len(cost))
    d = np.full((len(cost), height + 2, width + 2), np.inf)  # with a border that no path can enter
    d[:, 1, 1] = cost[:, 0, 0]
    inner = d[:, 1:-1, 1:-1]
    neighbours = [d[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in _STEPS]
    while True:
        best = np.minimum(inner, cost + np.minimum.reduce(neighbours))
        if np.array_equal(best, inner):
            break
        inner[...] = best
    path = np.zeros(cost.shape, dtype=bool)
    steps = np.array(_STEPS)
    row, column = np.full(len(cost), height - 1), np.full(len(cost), width - 1)
    path[rows, row, column] = True
    while (row + column).any():
        around = np.stack([d[rows, 1 + row + i, 1 + column + j] for i, j in _STEPS])
        step = np.where(((row + column) > 0)[:, None], steps[around.argmin(0)], 0)
        row, column = row + step[:, 0], column + step[:, 1]
        path[rows, row, column] = True
    return path.reshape(given.shape)


def path_cost(paths: Tensor, costs: Tensor) -> Tensor:
    """What the paths cost, ``(*batch,)``."""
    return (paths * costs).sum((-2, -1))


class Grids(NamedTuple):
    """Grids of digits.

    Attributes:
        images: ``(count, size, size, 8, 8)`` in [0, 1].
        digits: what each cell shows, which is what it costs, ``(count, size, size)``.
        paths: shortest paths, ``(count, size, size)``; where there are many, one at random.
    """

    images: Tensor
    digits: Tensor
    paths: Tensor


class Terrain:
    """Draws grids whose cells are handwritten digits. A digit is the cost of stepping on its cell.

    Grids for training are made of 1,297 images, and grids for tests of the other 500, so a test shows no image that was
    seen in training.

    Args:
        size: cells on a side.
    """

    def __init__(self, size: int = 12) -> None:
        self.size = size
        images, labels = (torch.from_numpy(part) for part in bundled_digits())
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self.images, self.labels = images[order].reshape(-1, 8, 8), labels[order].float()

    def draw(self, count: int, generator: torch.Generator, *, test: bool = False) -> Grids:
        low, high = (_TRAIN, len(self.images)) if test else (0, _TRAIN)
        shape = (count, self.size, self.size)
        which = torch.randint(low, high, shape, generator=generator)
        digits = self.labels[which]
        # Many paths may have the same cost. The noise decides, and is too small to make another path better.
        jitter = torch.rand(shape, generator=generator) * (LEAST / self.size**2)
        return Grids(self.images[which], digits, torch.from_numpy(shortest_paths(digits.clamp(min=LEAST) + jitter)))
