"""Small random problems whose exact gradient is known by enumeration, and what an unbiased estimator does on them.

An estimate is drawn many times by one call: logits and parameters are repeated along a batch dimension, and the
gradient at each copy is one replicate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.stats
import torch
from torch import Tensor

from argumbel.estimators import exact

from .statistics import FAILURE_RATE

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda z, a: (a * z).sum((-2, -1)) + 1,
    "quadratic": lambda z, a: ((a * z).sum((-2, -1)) - 0.5) ** 2,
    # The factors meet each other; where z is relaxed, each item meets its neighbour too.
    "interaction": lambda z, a: ((a * z).sum(-1) + 0.7).prod(-1) + (a * z * (z + z.roll(1, -1))).sum((-2, -1)).sin(),
}


CHUNK = 5000  # replicates in one call: the temporaries fit the cache


@dataclass(frozen=True)
class Problem:
    """``E loss(z, a)`` for independent factors z: logits and parameters a of shape ``(factors, items)``, float64."""

    name: str
    logits: Tensor
    a: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]

    def f(self, a: Tensor) -> Callable[[Tensor], Tensor]:
        """The loss as a function of samples alone, for the parameters a of shape ``(*batch, factors, items)``."""
        return lambda z: self.loss(z, a)

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """The expected loss, its gradient for the logits, and for the parameters."""
        logits, a = self.logits.clone().requires_grad_(), self.a.clone().requires_grad_()
        value = exact(self.f(a), logits)
        return value.detach(), *torch.autograd.grad(value, (logits, a))


def problem(items: int, factors: int, loss: str, seed: int = 0, scale: float = 1.0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(factors, items, generator=generator, dtype=torch.float64)
    a = torch.randn(factors, items, generator=generator, dtype=torch.float64)
    return Problem(f"{items}x{factors}-{loss}-{seed}", logits, a, LOSSES[loss])


def problems(count: int = 21, items: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)) -> list[Problem]:
    """So many problems: all kinds of losses, one to three factors, 2 to 8 items."""
    names = list(LOSSES)
    return [
        problem(items[i % len(items)], 1 + i // len(items) % 3, names[i % len(names)], seed=i) for i in range(count)
    ]


def replicates(
    estimator: Callable[..., Tensor], p: Problem, count: int, *, seed: int = 0, **own: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """So many independent estimates: values ``(count,)``, gradients ``(count, factors, items)`` for logits and a."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for start in range(0, count, CHUNK):
        rows = min(CHUNK, count - start)
        logits = p.logits.expand(rows, *p.logits.shape).clone().requires_grad_()
        a = p.a.expand(rows, *p.a.shape).clone().requires_grad_()
        value = estimator(p.f(a), logits, generator=generator, **own)
        assert value.shape == (rows,)
        parts.append((value.detach(), *torch.autograd.grad(value.sum(), (logits, a))))
    values, of_logits, of_a = (torch.cat(part) for part in zip(*parts, strict=True))
    return values, of_logits, of_a


def check_equal_means(samples: Tensor, mean: Tensor) -> None:
    """The mean over the first dimension is ``mean``, in every entry, but for chance once in 1e6 (5.3 standard errors
    for ten entries). Exact where all samples agree."""
    z = float(scipy.stats.norm.isf(FAILURE_RATE / 2 / max(mean.numel(), 1)))
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - mean).abs() <= z * error + 1e-9).all()


def check_unbiased(
    estimator: Callable[..., Tensor], p: Problem, *, count: int = 100_000, seed: int = 0, **own: Any
) -> None:
    """Value and both gradients have the exact ones as their means, over ``count`` replicates."""
    for samples, mean in zip(replicates(estimator, p, count, seed=seed, **own), p.exact(), strict=True):
        check_equal_means(samples, mean)


def total_variance(gradients: Tensor) -> float:
    """The variances of all entries, summed."""
    return float(gradients.var(0).sum())
