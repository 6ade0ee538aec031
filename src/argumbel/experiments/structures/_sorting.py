"""Numbers are sorted by a network that knows no order: it learns permutations from sorted lists.

Source: Mena et al. 2018, "Learning latent permutations with Gumbel-Sinkhorn networks", section 4.1.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...structures import Matching, stochastic_softmax
from ..recipe import Figure, Job, Outcome, Recipe, recorded
from ..run import stream

__all__ = ["SORTING", "Places", "learn_to_sort", "mistakes"]


class Places(nn.Module):
    """How well a number fits each place of the sorted list; the same network for every number, on its own."""

    def __init__(self, length: int, hidden: int = 32) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, length))

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(*batch, length, length)``, entry [i, j] for number i at place j, of lists ``(*batch, length)``."""
        return self.net(x.unsqueeze(-1))


def mistakes(scores: Tensor, x: Tensor) -> dict[str, float]:
    """``any_wrong``: the share of lists that the best matching does not sort; ``wrong``: of places with a wrong number.

    >>> x = torch.tensor([[0.3, 0.1]])
    >>> mistakes(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), x)
    {'any_wrong': 0.0, 'wrong': 0.0}
    """
    wrong = (Matching().argmax(scores) * x.unsqueeze(-1)).sum(-2) != x.sort(-1).values
    return {"any_wrong": float(wrong.any(-1).float().mean()), "wrong": float(wrong.float().mean())}


def learn_to_sort(
    length: int,
    *,
    seed: int,
    steps: int,
    batch: int = 10,
    num_samples: int = 5,
    tau: float = 1.0,
    lr: float = 0.1,
    test_lists: int = 1000,
    every: int = 50,
    record: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> tuple[dict[str, float], float]:
    """Learn to sort lists of numbers that are uniform in [0, 1].

    The loss is the squared distance between the sorted list and ``P^T x``, with the matrix P of Sinkhorn of the noisy
    scores. Adam; the learning rate falls to 0 along a cosine.

    Args:
        length: of the lists.
        seed: of the weights, the lists and the noise.
        steps: number of steps.
        batch: new lists in each step.
        num_samples: noisy matrices for each list.
        tau: temperature of Sinkhorn.
        lr: the first learning rate.
        test_lists: the number of lists of the figures.
        every: steps between two records, which use 100 test lists.
        record: is called with ``{"step", "kind": "test", "any_wrong", "wrong"}``.

    Returns:
        :func:`mistakes` on the test lists, and the seconds that the steps took.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        net = Places(length)
    test = torch.rand(test_lists, length, generator=torch.Generator().manual_seed(stream(seed, "test")))
    generator = torch.Generator().manual_seed(stream(seed, "lists"))
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    seconds = 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        x = torch.rand(batch, length, generator=generator)
        scores = net(x).expand(num_samples, batch, length, length)
        soft = stochastic_softmax(Matching(), scores, tau, generator=generator)
        loss = ((soft * x.unsqueeze(-1)).sum(-2) - x.sort(-1).values).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - began
        if step % every == 0 or step == steps:
            with torch.no_grad():
                record({"step": step, "kind": "test", **mistakes(net(test[:100]), test[:100])})
    with torch.no_grad():
        return mistakes(net(test), test), seconds


def train_sorting(job: Job) -> Outcome:
    return recorded(job, learn_to_sort)


SORTING = Recipe(
    title="Sorting numbers by Sinkhorn",
    text=(
        "Lists of N numbers, uniform in [0, 1]. A network with one hidden layer of 32 sees one number at a time and "
        "scores it for each place; the matrix of Sinkhorn of the scores with Gumbel noise, at temperature 1, orders "
        "the list. The loss is the squared distance to the sorted list. 10 new lists and 5 noisy matrices for each in "
        "a step, Adam at 0.1 with a cosine schedule. The figures are of 1,000 lists, ordered by the best matching "
        "without noise: the share of the lists with any mistake, and the share of the places with a wrong number."
    ),
    rows={f"N = {n}": {"length": n} for n in (5, 15, 80)},
    train=train_sorting,
    figures=(Figure("any_wrong", "lists with a mistake", 4), Figure("wrong", "places with a wrong number", 4)),
    curves=(
        Figure("test/any_wrong", "lists with a mistake, 100 test lists", 2),
        Figure("test/wrong", "places with a wrong number, 100 test lists", 3),
    ),
    steps=400,
    seeds=(0,),
    published={"any_wrong": {"N = 5": "0", "N = 15": "0", "N = 80": "0"}},
    differences=(
        "Sinkhorn runs until the sums hold within 1e-9, by Newton's method; published: 10 iterations.",
        "The learning rate follows a cosine to 0.",
    ),
    source="Mena et al. 2018, section 4.1",
)
