"""A shortest path through a grid of digits: costs are learned from paths, with the solver as a black box.

Source: Vlastelica et al. 2020, "Differentiation of blackbox combinatorial solvers" (the problem, on maps of a game);
Berthet et al. 2020, "Learning with differentiable perturbed optimizers" (the loss).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...estimators import implicit_mle
from ...perturbation import Solver, fenchel_young_loss
from ..recipe import Figure, Job, Outcome, Recipe, recorded
from ..run import Run, stream
from ._paths_picture import draw
from ._terrain import LEAST, Grids, Terrain, path_cost, shortest_paths

__all__ = ["PATHS", "CellCosts", "Membership", "learn_paths", "measure"]

SOLVER = Solver(lambda scores: shortest_paths(-scores), event_ndim=2, numpy=True)
"""The path with the largest score, where the score of a cell is minus its cost."""

_EVERY, _SHOWN = 50, 200


class CellCosts(nn.Module):
    """What each cell costs: a small convolutional network sees its image, and nothing else."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(_look(channels), nn.Linear(8 * channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Costs ``(*batch, size, size)`` of images ``(*batch, size, size, 8, 8)``, at least LEAST."""
        cost = self.net(images.reshape(-1, 1, 8, 8))
        return LEAST + F.softplus(cost).reshape(images.shape[:-2])


class Membership(nn.Module):
    """How likely each cell is on the path. The network sees the whole grid, but knows no solver.

    The result plays the role of a cost: minus the log probability.
    """

    def __init__(self, channels: int = 16, hidden: int = 32, layers: int = 5) -> None:
        super().__init__()
        self.look = nn.Sequential(_look(channels), nn.Linear(8 * channels, hidden))
        between = [nn.Conv2d(hidden + 2 * (i == 0), hidden, 3, padding=1) for i in range(layers)]
        self.grid = nn.Sequential(*(part for layer in between for part in (layer, nn.ReLU())))
        self.out = nn.Conv2d(hidden, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """``-log p``, ``(batch, size, size)``, of images ``(batch, size, size, 8, 8)``."""
        return F.softplus(-self.log_odds(images))

    def log_odds(self, images: Tensor) -> Tensor:
        batch, size = images.shape[:2]
        seen = self.look(images.reshape(-1, 1, 8, 8)).reshape(batch, size, size, -1).movedim(-1, 1)
        line = torch.linspace(-1, 1, size).expand(batch, 1, size, size)
        return self.out(self.grid(torch.cat([seen, line, line.transpose(-1, -2)], 1))).squeeze(1)


def _look(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )


def measure(model: nn.Module, grids: Grids) -> tuple[dict[str, float], Tensor]:
    """How good the paths are that are shortest under the costs of the model; and these paths.

    ``optimal``: the share of grids whose path costs as little as the shortest path. ``excess``: how much more the paths
    cost than the shortest paths, in percent of all costs.
    """
    with torch.no_grad():
        paths = torch.from_numpy(shortest_paths(model(grids.images).numpy()))
    least, found = path_cost(grids.paths, grids.digits), path_cost(paths, grids.digits)
    optimal = float((found <= least).float().mean())
    return {"optimal": optimal, "excess": 100 * float(found.mean() / least.mean() - 1)}, paths


def learn_paths(
    method: str,
    *,
    seed: int,
    steps: int,
    sigma: float = 1.0,
    multiplicative: bool = False,
    num_samples: int = 4,
    strength: float = 10.0,
    size: int = 12,
    batch: int = 16,
    lr: float = 3e-3,
    test_grids: int = 1000,
    record: Callable[[dict[str, Any]], None] = lambda entry: None,
    keep: Callable[[dict[str, Tensor]], None] = lambda state: None,
) -> tuple[dict[str, float], float]:
    """Learn the costs of cells by Adam, from new grids and their shortest paths in each step.

    Args:
        method: ``fenchel_young_loss``; ``implicit_mle`` (of the Hamming distance of the paths); ``membership``, which
            learns which cells are on the path without a solver; or ``digits``, which is told the digits and learns them
            by least squares, for comparison.
        seed: of weights, grids and noise.
        steps: number of steps.
        sigma: scale of the noise.
        multiplicative: normal noise as a factor of each cost, in place of Gumbel noise that is added.
        num_samples: perturbed problems for each grid.
        strength: of ``implicit_mle``.
        size: cells on a side of a grid.
        batch: grids in each step.
        lr: learning rate.
        test_grids: the number of grids of the last figures; the records use the first 200.
        record: is called with ``{"step", "kind": "test", "optimal", "excess"}``.
        keep: is called with what the picture shows.

    Returns:
        The figures of :func:`measure` on the test grids, and the seconds that the steps took.
    """
    terrain = Terrain(size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        model = Membership() if method == "membership" else CellCosts()
    generator = torch.Generator().manual_seed(stream(seed, "test"))
    test = terrain.draw(test_grids, generator, test=True)
    few = Grids(*(part[:_SHOWN] for part in test))
    generator.manual_seed(stream(seed, "train"))
    noise: dict[str, Any] = {"sigma": sigma, "num_samples": num_samples, "generator": generator}
    if multiplicative:
        noise |= {"law": "normal", "multiplicative": True}

    def loss(grids: Grids) -> Tensor:
        target = grids.paths.float()
        if isinstance(model, Membership):
            return F.binary_cross_entropy_with_logits(model.log_odds(grids.images), target)
        costs = model(grids.images)
        if method == "digits":
            return (costs - grids.digits).square().mean()
        if multiplicative:
            # The loss grows in proportion to the costs, and would be least where all costs are 0.
            costs = costs * (size / path_cost(target, costs))[:, None, None]
        scores = -costs
        if method == "fenchel_young_loss":
            return fenchel_young_loss(scores, target, SOLVER, **noise).mean()
        distance = lambda y: (y + target - 2 * y * target).sum((-2, -1))  # noqa: E731
        return implicit_mle(distance, scores, SOLVER, strength=strength, symmetric=False, **noise).mean()

    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    before, paths_before = measure(model, few)
    record({"step": 0, "kind": "test", **before})
    seconds = 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        value = loss(terrain.draw(batch, generator))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - began
        if step % _EVERY == 0 or step == steps:
            record({"step": step, "kind": "test", **measure(model, few)[0]})
    figures, paths = measure(model, test)
    with torch.no_grad():
        costs = model(test.images[:_SHOWN])
    keep({**few._asdict(), "costs": costs, "before": paths_before, "after": paths[:_SHOWN]})
    return figures, seconds


def train_paths(job: Job) -> Outcome:
    return recorded(job, learn_paths, keep=lambda state: Run(job.folder).save("picture.pt", state))


PATHS = Recipe(
    title="Shortest paths through grids of digits",
    text=(
        "A grid of 12 x 12 handwritten digits of scikit-learn; a digit is the cost of stepping on its cell, and a path "
        "goes from the first corner to the last one, with 8 neighbours for each cell. A small convolutional network "
        "sees the image of each cell and says what it costs. It learns from 16 new grids in each step and their "
        "shortest paths; it is never told a digit. The solver is a black box in NumPy. Adam at 3e-3 with a cosine "
        "schedule, 4 noisy problems for each grid. Normal factors are multiplied with the costs, which are first "
        "scaled so that the shortest path costs 12: the loss of factors would be least where all costs are 0. "
        "implicit_mle has strength 10 and is not symmetric. The figures are of 1,000 test grids, made of images that "
        "were not in training: the share of the grids in which the path costs as little as the shortest path, and how "
        "much more the paths cost, in percent. The row without a solver has another network, which sees the whole grid "
        "and says which cells are on the path; in tests the solver makes a path of it, with minus the log "
        "probabilities as costs. The last row is told the digits and learns them by least squares."
    ),
    rows={
        "fenchel_young_loss, Gumbel noise": {"method": "fenchel_young_loss", "sigma": 1.0},
        "fenchel_young_loss, normal factors": {"method": "fenchel_young_loss", "sigma": 0.5, "multiplicative": True},
        "implicit_mle, Hamming distance": {"method": "implicit_mle", "sigma": 1.0, "strength": 10.0},
        "cells on the path, no solver": {"method": "membership"},
        "told the digits": {"method": "digits"},
    },
    train=train_paths,
    figures=(
        Figure("optimal", "share of optimal paths", 3),
        Figure("excess", "excess cost (%)", 2),
    ),
    curves=(
        Figure("test/optimal", "share of optimal paths, 200 test grids", 3),
        Figure("test/excess", "excess cost (%), 200 test grids", 2),
    ),
    steps=1000,
    seeds=(0, 1),
    differences=(),
    source=(
        "Vlastelica et al. 2020 and Berthet et al. 2020 learned shortest paths on maps of a game (Warcraft); the "
        "digits are ours, so there is no published figure."
    ),
    picture=draw,
    picture_title="A test grid",
    picture_text=(
        "Above, a grid of test images with the shortest path (wide, grey) and the path of the model before and after "
        "training. Below, the digits as costs, and the costs that were learned from paths alone. Right, the learned "
        "cost of every test image: the order of the digits has been found, though no digit was ever named. Of the "
        "first row of the table."
    ),
)
