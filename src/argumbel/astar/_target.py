"""What a search asks of a density."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

__all__ = ["Target", "check_target"]

Region = TypeVar("Region")


@runtime_checkable
class Target(Protocol[Region]):
    """A density to sample from: ``exp(log_ratio(x))`` with respect to a measure on a space that splits into regions.

    A region may be any object. Any class with these six methods is a target. :class:`argumbel.astar.UniformTarget` and
    :class:`argumbel.astar.NormalTarget` are two targets that need only a density and a bound.

    Example:
        >>> import math, torch, argumbel as ag
        >>> class Die:  # side i has weight 1 + i; the measure counts sides, a region is a range of sides
        ...     def root(self): return range(6)
        ...     def log_volume(self, sides): return math.log(len(sides)) if sides else -math.inf
        ...     def sample(self, sides, uniform): return [sides[int(uniform() * len(sides))]]
        ...     def split(self, sides, point): return sides[: len(sides) // 2], sides[len(sides) // 2 :]
        ...     def log_ratio(self, point): return math.log(1 + point[0])
        ...     def bound(self, sides): return math.log(1 + sides[-1])
        >>> draws = ag.astar_sample(Die(), 1000, noise=ag.KeyedNoise(0))
        >>> abs(float((draws.samples == 5).double().mean()) - 6 / 21) < 0.06
        True
    """

    def root(self) -> Region:
        """The whole space."""

    def log_volume(self, region: Region) -> float:
        """Log of the measure of a region: finite, or -inf for an empty region."""

    def sample(self, region: Region, uniform: Callable[[], float]) -> Any:
        """A point of a region, drawn from the measure restricted to the region: d numbers. Every call of ``uniform``
        returns a new random number in (0, 1). Use no other source of randomness."""

    def split(self, region: Region, point: Any) -> Iterable[Region]:
        """Disjoint parts that together make up the region. A set of measure 0, such as the point, may be missing."""

    def log_ratio(self, point: Any) -> float | Tensor:
        """Log of the unnormalised density with respect to the measure; -inf where the density is 0."""

    def bound(self, region: Region) -> float | Tensor:
        """A number that is at least the largest log_ratio in the region; +inf where no bound is known."""


def check_target(target: object) -> None:
    if isinstance(target, Target):
        return
    methods = ("root", "log_volume", "sample", "split", "log_ratio", "bound")
    missing = ", ".join(name for name in methods if not hasattr(target, name))
    raise TypeError(
        f"target must have the methods of argumbel.astar.Target, but it is a {type(target).__name__} without "
        f"{missing}; use UniformTarget or NormalTarget, or write the missing methods"
    )
