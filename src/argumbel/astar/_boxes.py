"""Targets on boxes: from a density and a bound on it in a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import one_of
from ._floats import as_float64
from ._normal import log_mass_between, quantile_between

__all__ = ["Box", "NormalTarget", "UniformTarget", "linear_range"]


class Box(NamedTuple):
    """The points between two corners, of d numbers each. A side may be infinite."""

    low: tuple[float, ...]
    high: tuple[float, ...]


Numbers = float | Sequence[float] | Tensor


class _BoxTarget:
    """A target whose regions are boxes, under a measure that is a product over coordinates.

    A subclass gives, for the interval of a box along side i, its mass, its quantiles and its length.
    """

    def __init__(
        self,
        log_ratio: Callable[[Tensor], Tensor | float],
        bound: Callable[[Tensor, Tensor], Tensor | float],
        split: str,
        **numbers: Numbers,
    ) -> None:
        one_of("split", split, ("sample", "middle"))
        self._log_ratio, self._bound, self._at_sample = log_ratio, bound, split == "sample"
        sides = [as_float64(x) for x in numbers.values()]
        try:
            sides = torch.broadcast_tensors(*sides, torch.empty(1, device="cpu"))[:-1]
        except RuntimeError:
            sides = []
        if not sides or any(x.ndim != 1 for x in sides):
            shapes = {name: tuple(as_float64(x).shape) for name, x in numbers.items()}
            raise ValueError(
                f"{', '.join(numbers)} must be numbers, or d numbers each, but their shapes are {shapes}; "
                "give all of them the shape () or (d,)"
            )
        for name, x in zip(numbers, sides, strict=True):
            if bool(x.isnan().any()):
                raise ValueError(f"{name} must not be NaN, but it is {x.tolist()}; find where the NaN comes from")
        self._sides = dict(zip(numbers, (tuple(x.tolist()) for x in sides), strict=True))
        low, high = self._sides["low"], self._sides["high"]
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f"low must be below high along every side, but low is {low} and high is {high}; make every side longer "
                "than 0"
            )
        self._root = Box(low, high)

    def root(self) -> Box:
        return self._root

    def log_volume(self, region: Box) -> float:
        return sum(self._log_mass(i, low, high) for i, (low, high) in enumerate(zip(*region, strict=True)))

    def sample(self, region: Box, uniform: Callable[[], float]) -> tuple[float, ...]:
        intervals = enumerate(zip(*region, strict=True))
        return tuple(min(max(self._quantile(i, low, high, uniform()), low), high) for i, (low, high) in intervals)

    def split(self, region: Box, point: Sequence[float]) -> tuple[Box, Box]:
        low, high = region
        lengths = [self._length(i, *side) for i, side in enumerate(zip(low, high, strict=True))]
        i = lengths.index(max(lengths))
        at = point[i] if self._at_sample else self._quantile(i, low[i], high[i], 0.5)
        return Box(low, (*high[:i], at, *high[i + 1 :])), Box((*low[:i], at, *low[i + 1 :]), high)

    def log_ratio(self, point: Sequence[float]) -> Tensor | float:
        return self._log_ratio(as_float64(point))

    def bound(self, region: Box) -> Tensor | float:
        return self._bound(as_float64(region.low), as_float64(region.high))

    def _log_mass(self, i: int, low: float, high: float) -> float:
        """Log of the measure of the interval (low, high) along side i."""
        raise NotImplementedError

    def _quantile(self, i: int, low: float, high: float, u: float) -> float:
        """The point of the interval with the share u of its measure to the left."""
        raise NotImplementedError

    def _length(self, i: int, low: float, high: float) -> float:
        """The length of the interval: the longest side of a box is split."""
        raise NotImplementedError


class UniformTarget(_BoxTarget):
    """``density(x) = exp(log_ratio(x)) / Z`` on a box, ``Z = integral of exp(log_ratio(x)) dx``.

    The measure is volume, so log_ratio is the log density itself, up to a constant.

    Args:
        log_ratio: a function from a point, float64 ``(d,)``, to a number.
        bound: a function from the corners low and high of a box, float64 ``(d,)`` each, to a number that is at least
            the largest log_ratio in the box.
        low: the lower corner of the whole space, finite; a number, or ``(d,)``.
        high: the upper corner of the whole space, finite; a number, or ``(d,)``.
        split: where a box is split, along its longest side: in its ``"middle"``, or at the ``"sample"`` drawn in it.

    Raises:
        ValueError: low not below high, a corner that is not finite, shapes that do not fit, an unknown split.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.astar import UniformTarget
        >>> log_density = lambda x: -x.square().sum()  # is largest where x is nearest to 0
        >>> bound = lambda low, high: log_density(torch.zeros(2, dtype=low.dtype).clamp(low, high))
        >>> target = UniformTarget(log_density, bound, low=[-1, -1], high=[3, 3])
        >>> ag.astar_sample(target, 4).samples.shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        log_ratio: Callable[[Tensor], Tensor | float],
        bound: Callable[[Tensor, Tensor], Tensor | float],
        low: Numbers,
        high: Numbers,
        *,
        split: str = "middle",
    ) -> None:
        super().__init__(log_ratio, bound, split, low=low, high=high)
        if not all(math.isfinite(b - a) for a, b in zip(*self._root, strict=True)):
            raise ValueError(
                f"low and high must be finite, but they are {self._root}; use NormalTarget, whose sides may be infinite"
            )

    def _log_mass(self, i: int, low: float, high: float) -> float:
        return math.log(high - low) if high > low else -math.inf

    def _quantile(self, i: int, low: float, high: float, u: float) -> float:
        return low + (high - low) * u

    def _length(self, i: int, low: float, high: float) -> float:
        return high - low


class NormalTarget(_BoxTarget):
    """``density(x) = exp(log_ratio(x)) * prod_i Normal(x_i; mean_i, std_i) / Z``,
    ``Z = integral of exp(log_ratio) dNormal``.

    If log_ratio is a log likelihood, the density is the posterior under a normal prior, and Z is the evidence.

    Args:
        log_ratio: a function from a point, float64 ``(d,)``, to a number.
        bound: a function from the corners low and high of a box, float64 ``(d,)`` each, to a number that is at least
            the largest log_ratio in the box. A side of the box may be infinite.
        mean: the mean of the normal law, finite; a number, or ``(d,)``.
        std: the standard deviation of the normal law, finite and above 0; a number, or ``(d,)``.
        low: the lower corner of the whole space; a number, or ``(d,)``. Default: the space has no lower end. The normal
            law is not normalised again: Z is the integral over the space.
        high: the upper corner of the whole space; a number, or ``(d,)``. Default: the space has no upper end.
        split: where a box is split: in the ``"middle"``, which is the median of the normal law in the box, or at the
            ``"sample"`` drawn in the box. Sides may be infinite, so the longest side is the longest in the arctangent
            of ``(x - mean) / std``.

    Raises:
        ValueError: std not above 0, mean or std not finite, low not below high, shapes that do not fit, an unknown
            split.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.astar import NormalTarget
        >>> data = torch.tensor([1.0, 1.2, 9.0], dtype=torch.float64)
        >>> log_cauchy = lambda residuals: -residuals.square().log1p().sum()
        >>> bound = lambda low, high: log_cauchy(data - data.clamp(low, high))  # the best x for each datum
        >>> target = NormalTarget(lambda x: log_cauchy(data - x), bound, mean=0, std=5)
        >>> draws = ag.astar_sample(target, 100, noise=ag.KeyedNoise(0))
        >>> bool((draws.samples.median() - 1.1).abs() < 1)
        True
    """

    def __init__(
        self,
        log_ratio: Callable[[Tensor], Tensor | float],
        bound: Callable[[Tensor, Tensor], Tensor | float],
        mean: Numbers,
        std: Numbers,
        *,
        low: Numbers = -math.inf,
        high: Numbers = math.inf,
        split: str = "middle",
    ) -> None:
        super().__init__(log_ratio, bound, split, low=low, high=high, mean=mean, std=std)
        self._mean, self._std = self._sides["mean"], self._sides["std"]
        if not all(0 < s < math.inf for s in self._std) or not all(map(math.isfinite, self._mean)):
            raise ValueError(
                f"mean must be finite and std finite and above 0, but mean is {self._mean} and std is {self._std}; "
                "pass finite numbers"
            )

    def _standardized(self, i: int, x: float) -> float:
        return (x - self._mean[i]) / self._std[i]

    def _log_mass(self, i: int, low: float, high: float) -> float:
        return log_mass_between(self._standardized(i, low), self._standardized(i, high))

    def _quantile(self, i: int, low: float, high: float, u: float) -> float:
        return self._mean[i] + self._std[i] * quantile_between(
            self._standardized(i, low), self._standardized(i, high), u
        )

    def _length(self, i: int, low: float, high: float) -> float:
        return math.atan(self._standardized(i, high)) - math.atan(self._standardized(i, low))


def linear_range(weights: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """``(min, max) of weights @ x over low <= x <= high``: the range of a linear model on a box.

    Args:
        weights: ``(*batch, d)``.
        low: the lower corner of the box, ``(d,)``; may be -inf.
        high: the upper corner of the box, ``(d,)``; may be +inf.

    Returns:
        ``(least, most)``, each ``(*batch,)``.

    Example:
        >>> import torch
        >>> from argumbel.astar import linear_range
        >>> low, high = torch.tensor([0.0, -torch.inf]), torch.tensor([1.0, 2.0])
        >>> linear_range(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), low, high)
        (tensor([0., -inf]), tensor([1., 2.]))
    """

    def total(below: Tensor, above: Tensor) -> Tensor:  # a weight of 0 adds nothing, on an infinite side too
        return torch.where(weights > 0, weights * above, torch.where(weights < 0, weights * below, 0)).sum(-1)

    return total(high, low), total(low, high)
