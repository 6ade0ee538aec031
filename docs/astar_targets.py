"""Three densities with bounds on boxes: the examples of `astar.md`, sampled in its pictures, its table and the tests.

Wherever log_ratio is a sum over data, the sum of the best each datum can have in the box is a bound on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from argumbel.astar import NormalTarget, UniformTarget, linear_range


def sine(split: str = "middle") -> UniformTarget:
    """exp(sin x) on [0, 2 pi]."""

    def bound(low: Tensor, high: Tensor) -> Tensor:
        # The peak, or what is nearest to it, or the right end, for sin rises again.
        return torch.maximum(torch.full_like(low, math.pi / 2).clamp(low, high).sin(), high.sin())

    return UniformTarget(torch.sin, bound, low=0, high=2 * math.pi, split=split)


def regression(points: int = 20, split: str = "middle") -> NormalTarget:
    """Intercept and slope of a line through data with Cauchy errors; each Normal(0, 2^2) before the data."""
    generator = torch.Generator().manual_seed(0)
    t = torch.linspace(-1, 1, points, dtype=torch.float64)
    inputs = torch.stack([torch.ones_like(t), t], -1)
    errors = torch.tan(math.pi * (torch.rand(points, generator=generator, dtype=torch.float64) - 0.5))
    observed = inputs @ torch.tensor([0.5, 1.5], dtype=torch.float64) + 0.5 * errors

    def log_likelihood(predicted: Tensor) -> Tensor:
        return -((observed - predicted) / 0.5).square().log1p().sum()

    def bound(low: Tensor, high: Tensor) -> Tensor:
        return log_likelihood(observed.clamp(*linear_range(inputs, low, high)))

    return NormalTarget(lambda x: log_likelihood(inputs @ x), bound, mean=[0, 0], std=2, split=split)


def clutter(dimension: int = 1, points: int = 20, split: str = "middle") -> NormalTarget:
    """Minka's clutter problem: the place of a cluster of variance 1, half of the data being noise of variance 10; the
    place is Normal(0, 10^2) in every coordinate before the data."""
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(points, dimension, generator=generator, dtype=torch.float64)
    cluster = torch.arange(points)[:, None] % 2 == 0
    data = torch.where(cluster, 2 + normal, math.sqrt(10) * normal)
    noise = -data.square().sum(-1) / 20 - dimension / 2 * math.log(10)

    def log_likelihood(place: Tensor) -> Tensor:  # up to a constant
        return torch.logaddexp(-(data - place).square().sum(-1) / 2, noise).sum()

    def bound(low: Tensor, high: Tensor) -> Tensor:
        return log_likelihood(data.clamp(low, high))

    return NormalTarget(log_likelihood, bound, mean=[0] * dimension, std=10, split=split)
