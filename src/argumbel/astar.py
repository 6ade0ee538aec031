"""Reverse: exact samples from a density, by searching for the maximum of a Gumbel process.

Gumbel-max with a continuum of items. Give every region B of a space the best Gumbel height in it, a Gumbel at
log volume(B). Heights need not be drawn all at once: the best of the whole space first, its place, then the best of the
two parts left and right of it, truncated at what is known, and so on. The point where ``height + log_ratio`` is largest
is a sample of the density ``exp(log_ratio)``, and bounds on log_ratio tell when no other region can hold a better one.

Geometry is done on Python's floats: a step of the search handles one point, and a tensor of two numbers costs more to
make than to add up.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from .noise import KeyedNoise, as_keyed

__all__ = [
    "AStarDraw",
    "AStarDraws",
    "Box",
    "NormalTarget",
    "Target",
    "UniformTarget",
    "astar_sample",
    "astar_stream",
    "linear_range",
]

METHODS = ("a*", "os*", "rejection")


class AStarDraw(NamedTuple):
    """A sample, its Gumbel value, and what it took: evaluations of log_ratio, evaluations of bounds, splits."""

    sample: Any
    value: float
    likelihoods: int
    bounds: int
    splits: int


class AStarDraws(NamedTuple):
    """Samples ``(n, d)``, their Gumbel values ``(n,)`` and what each took, ``(n,)``: float64 and int64."""

    samples: Tensor
    values: Tensor
    likelihoods: Tensor
    bounds: Tensor
    splits: Tensor


class Box(NamedTuple):
    """The points between two corners. A side may be infinite."""

    low: tuple[float, ...]
    high: tuple[float, ...]


Region = TypeVar("Region")


@runtime_checkable
class Target(Protocol[Region]):
    """A density to sample from: ``exp(log_ratio(x))`` with respect to a measure that can be cut into regions.

    Regions may be anything. Any class with these six methods is a target; see :class:`UniformTarget` and
    :class:`NormalTarget` for two that need only a density and a bound.

    Example:
        >>> import math, torch, argumbel as ag
        >>> class Die:  # side i has weight 1 + i; the measure counts sides, regions are ranges of them
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
        """Log of the measure of a region: finite, or -inf for one that is empty."""

    def sample(self, region: Region, uniform: Callable[[], float]) -> Any:
        """A point of a region, drawn from the measure restricted to it: d numbers. Every call of ``uniform`` gives a
        fresh number in (0, 1); there is no other source of randomness."""

    def split(self, region: Region, point: Any) -> Iterable[Region]:
        """Disjoint parts that make up the region, but for a set of measure 0, such as the point."""

    def log_ratio(self, point: Any) -> float | Tensor:
        """Log of the unnormalised density with respect to the measure; -inf where there is none."""

    def bound(self, region: Region) -> float | Tensor:
        """At least the largest log_ratio in the region; +inf where nothing is known."""


def astar_sample(
    target: Target[Any],
    num_samples: int = 1,
    *,
    method: str = "a*",
    keep: bool = False,
    max_steps: int = 100_000,
    noise: KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> AStarDraws:
    """``argmax over x of (log_ratio(x) + G(x))``, G a Gumbel process: an exact draw from the density
    ``exp(log_ratio) / Z``, and the maximum, a Gumbel at log Z.

    A *keyed* function: sample number s is a function of the seed and of s (the s-th of the ``rows`` of ``noise``), and,
    with ``keep``, of the samples before it. Samples are independent and identically distributed. A value is independent
    of its sample, so ``argumbel.partition.log_partition(draws.values)`` estimates
    ``Z = integral of exp(log_ratio) d measure``. All of this holds for each of the methods:

    | method | how |
    | --- | --- |
    | ``"a*"`` | best-first search: the region that may hold the highest point is looked at, then split |
    | ``"os*"`` | adaptive rejection: candidates arrive under the bounds; where one is rejected, its region is split |
    | ``"rejection"`` | the same without splits: candidates under the bound of the whole space |

    For the last two the value is minus the log of the time of the first candidate accepted, when candidates arrive as a
    Poisson process.

    Args:
        target: a :class:`UniformTarget`, a :class:`NormalTarget`, or your own :class:`Target`. Its bounds are believed:
            one that is too low is noticed only where a point above it is drawn, and until then samples are wrong.
        num_samples: how many.
        method: a row of the table.
        keep: start each sample from the regions that were left by those before. They fit the target better and better,
            so evaluations per sample fall towards 1; the time spent on top of them grows with the number of regions.
            False starts each sample from the whole space, whose bound alone is remembered.
        max_steps: how many evaluations (of log_ratio and of bounds) one sample may take.
        noise: a ``KeyedNoise``, without ``items``; ``rows``, if given, are the numbers of the samples.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(samples, values, likelihoods, bounds, splits)``: samples ``(num_samples, d)`` and values ``(num_samples,)``,
        float64, on the CPU; per sample, how often log_ratio and bound were evaluated and how many regions were split.

    Raises:
        ValueError: log_ratio above the bound of its region, log_ratio or a bound NaN, log_ratio +inf; no mass (an empty
            space, or a bound of -inf everywhere); a bound of +inf for the whole space, unless method is ``"a*"``; parts
            of a region that are larger than it; an unknown method, a negative number of samples, rows that are not one
            per sample, both noise and generator.
        TypeError: target lacks a method of :class:`Target`, log_ratio or bound do not give one number, noise is not a
            ``KeyedNoise``.
        RuntimeError: a sample took more than max_steps.

    Example:
        >>> import math, torch, argumbel as ag
        >>> from argumbel.astar import UniformTarget
        >>> def bound(low, high):  # sin on an interval is at most 1, and at most its slope away from its middle
        ...     return (((low + high) / 2).sin() + (high - low) / 2).clamp(max=1)
        >>> target = UniformTarget(torch.sin, bound, low=0, high=2 * math.pi)
        >>> draws = ag.astar_sample(target, 500, noise=ag.KeyedNoise(0))
        >>> draws.samples.shape
        torch.Size([500, 1])
        >>> log_z = math.log(2 * math.pi * torch.special.i0(torch.tensor(1.0)))
        >>> abs(float(draws.values.mean()) - 0.5772 - log_z) < 0.2
        True

    Source: Maddison, Tarlow and Minka 2014, "A* sampling"; Dymetman, Bouchard and Carter 2012, "The OS* algorithm";
    Maddison 2016, "A Poisson process model for Monte Carlo" (rejection as arrivals).
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 0:
        raise ValueError(f"num_samples must be a whole number, at least 0, but it is {num_samples!r}")
    if isinstance(noise, KeyedNoise) and noise.rows is not None and noise.rows.numel() != num_samples:
        raise ValueError(
            f"noise must have one row per sample, {num_samples}, but it has {noise.rows.numel()}; leave rows out"
        )
    stream = astar_stream(target, method=method, keep=keep, max_steps=max_steps, noise=noise, generator=generator)
    draws = list(itertools.islice(stream, num_samples))
    if not draws:
        point = target.sample(target.root(), lambda: 0.5)
        return AStarDraws(_as_points([point])[:0], *(torch.empty(0, dtype=t, device="cpu") for t in _DTYPES))
    samples, *rest = zip(*draws, strict=True)
    return AStarDraws(
        _as_points(samples), *(torch.tensor(x, dtype=t, device="cpu") for x, t in zip(rest, _DTYPES, strict=True))
    )


_DTYPES = (torch.float64, torch.int64, torch.int64, torch.int64)


def _as_points(points: Sequence[Any]) -> Tensor:
    return torch.stack([_as_tensor(p).reshape(-1) for p in points])


def _as_tensor(point: Any) -> Tensor:
    return torch.as_tensor(point, dtype=torch.float64, device="cpu")


def astar_stream(
    target: Target[Any],
    *,
    method: str = "a*",
    keep: bool = False,
    max_steps: int = 100_000,
    noise: KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[AStarDraw]:
    """The samples of :func:`argumbel.astar_sample` one by one, as many as are asked for.

    A *keyed* function, as that. The seed is drawn from the generator when the stream is made.

    Args:
        target, method, keep, max_steps, generator: as :func:`argumbel.astar_sample`.
        noise: a ``KeyedNoise``; the stream ends after the last of its ``rows``, if it has any.

    Returns:
        An iterator of ``(sample, value, likelihoods, bounds, splits)``: the sample as the target draws it (a tuple of
        floats, for those provided), and Python numbers.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`argumbel.astar_sample`; what concerns the arguments at once, what
            concerns a sample when it is drawn.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.astar import NormalTarget, astar_stream
        >>> nearest = lambda low, high: torch.tensor([2.0]).clamp(low, high)
        >>> distance = lambda x: -10 * (x - 2).abs().sum()
        >>> target = NormalTarget(distance, lambda low, high: distance(nearest(low, high)), mean=0, std=1)
        >>> stream = astar_stream(target, noise=ag.KeyedNoise(0))
        >>> first = next(stream)
        >>> again = ag.astar_sample(target, noise=ag.KeyedNoise(0))
        >>> first.value == float(again.values)
        True
    """
    if not isinstance(target, Target):
        missing = [m for m in ("root", "log_volume", "sample", "split", "log_ratio", "bound") if not hasattr(target, m)]
        raise TypeError(
            f"target must have the methods of argumbel.astar.Target, but {type(target).__name__} lacks "
            f"{', '.join(missing)}; use UniformTarget or NormalTarget, or write them"
        )
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, but it is {method!r}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be a whole number, at least 1, but it is {max_steps!r}")
    if noise is not None and not isinstance(noise, KeyedNoise):
        raise TypeError(
            f"noise must be an argumbel.KeyedNoise, but it is a {type(noise).__name__}; how many numbers a sample "
            "takes is not known beforehand"
        )
    if noise is not None and noise.items is not None:
        raise ValueError("noise must not have items: a sample takes as many as it needs; name samples by rows")
    keyed = as_keyed(noise, generator, torch.device("cpu") if generator is None else generator.device)
    rows = itertools.count() if keyed.rows is None else keyed.rows.flatten().tolist()
    root = _Leaf(target.root(), math.nan)
    root.log_volume = _number("log_volume", target.log_volume(root.region))
    if not -math.inf < root.log_volume < math.inf:
        raise ValueError(
            f"target must have a space of finite volume above 0, but log_volume(root()) is {root.log_volume}; "
            "check its low and high"
        )
    return _stream(_Search(target, max_steps), [root], method, keep, int(keyed.seed), rows)


def _stream(
    search: _Search, leaves: list[_Leaf], method: str, keep: bool, seed: int, rows: Iterable[int]
) -> Iterator[AStarDraw]:
    for row in rows:
        search.start(seed, row)
        if method == "a*":
            point, value, after = _astar(search, leaves)
        else:
            point, value, after = _thinning(search, leaves, splits=method == "os*")
        leaves = after if keep else leaves
        yield AStarDraw(point, value, search.likelihoods, search.bounds, search.splits)


@dataclass(slots=True, eq=False)
class _Leaf:
    """A region nothing is cut from yet. Until its own bound is asked for, that of what it was cut from holds. The
    height is the best in it, in the search going on."""

    region: Any
    log_volume: float
    bound: float = math.inf
    own: bool = False
    height: float = math.nan


def _astar(search: _Search, leaves: list[_Leaf]) -> tuple[Any, float, list[_Leaf]]:
    """The highest point, its value, and the regions left. With leaves that make up the space, their best heights are
    independent Gumbels at their log volumes: the search may start from any of them."""
    heap: list[tuple[float, int, _Leaf]] = []
    order = itertools.count()

    def push(leaf: _Leaf) -> None:
        heapq.heappush(heap, (-(leaf.height + leaf.bound), next(order), leaf))

    for leaf in leaves:
        leaf.height = leaf.log_volume - math.log(search.exponential())
        push(leaf)
    best, winner = -math.inf, None
    while heap and -heap[0][0] > best:
        *_, leaf = heapq.heappop(heap)
        if not leaf.own:  # bounds are asked for only when nothing else can come first
            search.tighten(leaf)
            push(leaf)
            continue
        point, ratio = search.look(leaf)
        if leaf.height + ratio > best:
            best, winner = leaf.height + ratio, point
        for part in search.split(leaf, point):
            fresh = part.log_volume - math.log(search.exponential())
            part.height = min(leaf.height, -_logaddexp(-fresh, -leaf.height))  # truncated at the height above
            push(part)
    if best == -math.inf:
        raise ValueError("target must have mass somewhere, but log_ratio or its bound is -inf everywhere")
    # A search that looked once found nothing that a split would have shown; keeping none then keeps the leaves few.
    after = leaves if search.likelihoods == 1 else [leaf for *_, leaf in heap]
    return winner, best, after


def _thinning(search: _Search, leaves: list[_Leaf], *, splits: bool) -> tuple[Any, float, list[_Leaf]]:
    """The first candidate accepted, minus the log of its time, and the regions left.

    Candidates arrive in each region at the rate exp(bound) * volume; accepted with probability exp(log_ratio - bound)
    they arrive at the rate exp(log_ratio), whatever regions and bounds do between arrivals. So the first one's time is
    an exponential at rate Z.
    """
    leaves, log_time = list(leaves), -math.inf
    if len(leaves) == 1 and not leaves[0].own:
        search.tighten(leaves[0])
        if leaves[0].bound == math.inf:
            raise ValueError(
                "bound of the whole space must be finite for rejection, but it is inf; only method='a*' needs none"
            )
    while True:
        arrivals = [math.log(search.exponential()) - leaf.log_volume - leaf.bound for leaf in leaves]
        arrival = min(arrivals, default=math.inf)
        if arrival == math.inf:
            raise ValueError("target must have mass somewhere, but the bound of log_ratio is -inf everywhere")
        log_time = _logaddexp(log_time, arrival)
        first = arrivals.index(arrival)
        leaf = leaves[first]
        level = leaf.bound - search.exponential()  # accept where log_ratio reaches this
        if not leaf.own:
            search.tighten(leaf)
        if level > leaf.bound:
            continue
        point, ratio = search.look(leaf)
        if level <= ratio:
            return point, -log_time, leaves
        if splits:
            leaves[first : first + 1] = search.split(leaf, point)


class _Search:
    """What the searches share: the noise of a sample, calls of the target with their checks, and the counts."""

    def __init__(self, target: Target[Any], max_steps: int) -> None:
        self.target, self.max_steps = target, max_steps

    def start(self, seed: int, row: int) -> None:
        self.exponential = _exponentials(seed, row).__next__
        self.likelihoods = self.bounds = self.splits = 0

    def uniform(self) -> float:
        return min(-math.expm1(-self.exponential()), 1 - 2.0**-53)

    def step(self) -> None:
        if self.likelihoods + self.bounds >= self.max_steps:
            raise RuntimeError(
                f"a sample took more than max_steps={self.max_steps} evaluations (log_ratio {self.likelihoods}, bound "
                f"{self.bounds}); give bounds that close in on log_ratio as regions shrink, a proposal nearer to the "
                "target, or a larger max_steps"
            )

    def tighten(self, leaf: _Leaf) -> None:
        """Ask for the leaf's own bound. What bounds the whole bounds the part, so it never rises."""
        self.step()
        self.bounds += 1
        with torch.no_grad():
            leaf.bound = min(leaf.bound, _number("bound", self.target.bound(leaf.region)))
        leaf.own = True

    def look(self, leaf: _Leaf) -> tuple[Any, float]:
        """A point of the leaf and its log_ratio."""
        self.step()
        self.likelihoods += 1
        point = self.target.sample(leaf.region, self.uniform)
        with torch.no_grad():
            ratio = _number("log_ratio", self.target.log_ratio(point))
        # A bound that is attained may be rounded to just below, by functions that compute in float32 too.
        if ratio == math.inf or ratio > leaf.bound + 1e-6 * max(1, abs(leaf.bound)):
            raise ValueError(
                f"bound must be at least log_ratio everywhere in its region, but log_ratio is {ratio} at {point}, and "
                f"the bound of {leaf.region} is {leaf.bound}; correct bound, or log_ratio if it may be +inf"
            )
        return point, ratio

    def split(self, leaf: _Leaf, point: Any) -> list[_Leaf]:
        """The parts of a leaf that are not empty."""
        self.splits += 1
        parts = []
        for region in self.target.split(leaf.region, point):
            log_volume = _number("log_volume", self.target.log_volume(region))
            if log_volume > leaf.log_volume + 1e-9 * max(1, abs(leaf.log_volume)):
                raise ValueError(
                    f"split must give parts of a region, but log_volume of {region} is {log_volume}, more than that of "
                    f"{leaf.region}, {leaf.log_volume}"
                )
            if log_volume > -math.inf:
                parts.append(_Leaf(region, log_volume, leaf.bound))
        return parts


_BLOCK = 64


def _exponentials(seed: int, row: int) -> Iterator[float]:
    """Standard exponentials: items 0, 1, 2, ... of a row of keyed noise."""
    for start in itertools.count(0, _BLOCK):
        noise = KeyedNoise(seed, rows=[row], items=range(start, start + _BLOCK))
        yield from noise.exponential((1, _BLOCK), dtype=torch.float64, device="cpu")[0].tolist()


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise TypeError(f"{name} must give one number, but it gave a tensor of shape {tuple(value.shape)}; sum it")
    try:
        number = float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must give one number, but it gave a {type(value).__name__}") from None
    if math.isnan(number):
        raise ValueError(f"{name} must not be NaN, but it is; -inf is for points (or regions) without any mass")
    return number


def _logaddexp(a: float, b: float) -> float:
    low, high = sorted((a, b))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


Numbers = float | Sequence[float] | Tensor


class _BoxTarget:
    """Boxes under a measure that is a product over coordinates."""

    def __init__(
        self,
        log_ratio: Callable[[Tensor], Tensor | float],
        bound: Callable[[Tensor, Tensor], Tensor | float],
        split: str,
        **numbers: Numbers,
    ) -> None:
        if split not in ("sample", "middle"):
            raise ValueError(f"split must be 'sample' or 'middle', but it is {split!r}")
        self._log_ratio, self._bound, self._at_sample = log_ratio, bound, split == "sample"
        rows = [_as_tensor(x) for x in numbers.values()]
        try:
            rows = torch.broadcast_tensors(*rows, torch.empty(1, device="cpu"))[:-1]
        except RuntimeError:
            rows = []
        if not rows or any(x.ndim != 1 for x in rows):
            shapes = {name: tuple(_as_tensor(x).shape) for name, x in numbers.items()}
            raise ValueError(f"{', '.join(numbers)} must be numbers, or d numbers each, but their shapes are {shapes}")
        for name, x in zip(numbers, rows, strict=True):
            if bool(x.isnan().any()):
                raise ValueError(f"{name} must not be NaN, but it is {x.tolist()}")
        self._numbers = dict(zip(numbers, (tuple(x.tolist()) for x in rows), strict=True))
        low, high = self._numbers["low"], self._numbers["high"]
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ValueError(
                f"low must be below high along every side, but low is {low} and high is {high}: an empty box"
            )
        self._root = Box(low, high)

    def root(self) -> Box:
        return self._root

    def log_volume(self, region: Box) -> float:
        return sum(self._log_mass(i, low, high) for i, (low, high) in enumerate(zip(*region, strict=True)))

    def sample(self, region: Box, uniform: Callable[[], float]) -> tuple[float, ...]:
        sides = enumerate(zip(*region, strict=True))
        return tuple(min(max(self._quantile(i, low, high, uniform()), low), high) for i, (low, high) in sides)

    def split(self, region: Box, point: Sequence[float]) -> tuple[Box, Box]:
        low, high = region
        lengths = [self._length(i, *side) for i, side in enumerate(zip(low, high, strict=True))]
        i = lengths.index(max(lengths))
        at = point[i] if self._at_sample else self._quantile(i, low[i], high[i], 0.5)
        return Box(low, (*high[:i], at, *high[i + 1 :])), Box((*low[:i], at, *low[i + 1 :]), high)

    def log_ratio(self, point: Sequence[float]) -> Tensor | float:
        return self._log_ratio(_as_tensor(point))

    def bound(self, region: Box) -> Tensor | float:
        return self._bound(_as_tensor(region.low), _as_tensor(region.high))

    def _log_mass(self, i: int, low: float, high: float) -> float:
        """Log of the measure of the interval along side i."""
        raise NotImplementedError

    def _quantile(self, i: int, low: float, high: float, u: float) -> float:
        """Where the share u of the measure of the interval lies to the left."""
        raise NotImplementedError

    def _length(self, i: int, low: float, high: float) -> float:
        """Of the longest side a box is split."""
        raise NotImplementedError


class UniformTarget(_BoxTarget):
    """``density(x) = exp(log_ratio(x)) / Z`` on a box, ``Z = integral of exp(log_ratio(x)) dx``.

    The measure is plain volume, so log_ratio is the log density itself, up to a constant.

    Args:
        log_ratio: from a float64 tensor of shape ``(d,)`` to a number.
        bound: from the corners low and high of a box, two such tensors, to at least the largest log_ratio in it.
        low, high: the corners of the whole space, finite: numbers, or d of them.
        split: where a box is split, along its longest side: in its ``"middle"``, or at the ``"sample"`` drawn in it.

    Raises:
        ValueError: low not below high, corners that are not finite, shapes that do not fit, an unknown split.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.astar import UniformTarget
        >>> log_density = lambda x: -x.square().sum()  # falls from 0 outwards, so the point nearest to 0 bounds it
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
                f"low and high must be finite, but they are {self._root}; NormalTarget takes infinite sides"
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

    With a log likelihood as log_ratio this is the posterior under a normal prior, and Z the evidence.

    Args:
        log_ratio, bound: as :class:`UniformTarget`; a box may have infinite sides.
        mean, std: of the normal law, numbers or d of them; std above 0.
        low, high: where the space is cut off, if it is. The law is not normalised again: Z is the integral over what
            is left.
        split: where a box is split: in the ``"middle"``, the median of what the law puts there, or at the ``"sample"``
            drawn in it. Of its sides the one is split that is longest by the arctangent of ``(x - mean) / std``, since
            sides may be infinite.

    Raises:
        ValueError: std not above 0, mean or std infinite, and as :class:`UniformTarget`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.astar import NormalTarget
        >>> data = torch.tensor([1.0, 1.2, 9.0], dtype=torch.float64)
        >>> log_cauchy = lambda residuals: -residuals.square().log1p().sum()
        >>> bound = lambda low, high: log_cauchy(data - data.clamp(low, high))  # the best for each datum
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
        self._mean, self._std = self._numbers["mean"], self._numbers["std"]
        if not all(0 < s < math.inf for s in self._std) or not all(map(math.isfinite, self._mean)):
            raise ValueError(
                f"mean must be finite and std finite and above 0, but mean is {self._mean} and std is {self._std}"
            )

    def _standard(self, i: int, x: float) -> float:
        return (x - self._mean[i]) / self._std[i]

    def _log_mass(self, i: int, low: float, high: float) -> float:
        return _log_mass_between(self._standard(i, low), self._standard(i, high))

    def _quantile(self, i: int, low: float, high: float, u: float) -> float:
        return self._mean[i] + self._std[i] * _normal_between(self._standard(i, low), self._standard(i, high), u)

    def _length(self, i: int, low: float, high: float) -> float:
        return math.atan(self._standard(i, high)) - math.atan(self._standard(i, low))


_LOG_ROOT_2PI = math.log(2 * math.pi) / 2
_FAR = 37.0  # beyond so many standard deviations the tail is below what float64 can hold


def _log_ndtr(x: float) -> float:
    """Log of the standard normal distribution function."""
    if x < -_FAR:
        return float(torch.special.log_ndtr(_as_tensor(x)))
    tail = math.erfc(abs(x) / math.sqrt(2)) / 2
    return math.log(tail) if x < 0 else math.log1p(-tail)


def _log_ndtri(y: float) -> float:
    """The x whose _log_ndtr is y."""
    if y > _log_ndtr(-_FAR):
        return NormalDist().inv_cdf(min(math.exp(y), 1 - 2.0**-53))
    # Newton's method on a concave rising function, from its left: it never steps past the root.
    x, step = -math.sqrt(-2 * y), math.inf
    while abs(step) > 1e-15 * abs(x):
        log_cdf = _log_ndtr(x)
        step = (y - log_cdf) / math.exp(-x * x / 2 - _LOG_ROOT_2PI - log_cdf)
        x += step
    return x


def _log_mass_between(a: float, b: float) -> float:
    """Log of the standard normal mass of (a, b)."""
    if not a < b:
        return -math.inf
    if a + b > 0:  # the lower tail is the one that is resolved
        a, b = -b, -a
    middle = (a + b) / 2
    if (b - a) * max(1, abs(middle)) < 1e-5:  # there the difference of the ends cancels, and the density hardly bends
        return math.log(b - a) - middle * middle / 2 - _LOG_ROOT_2PI
    log_a, log_b = _log_ndtr(a), _log_ndtr(b)
    if log_b == -math.inf:  # so far out that even the logarithm is not a number of float64
        return log_b
    return log_b + math.log(-math.expm1(log_a - log_b))


def _normal_between(a: float, b: float, u: float) -> float:
    """The standard normal truncated to (a, b), at its quantile u."""
    share, rest = math.log(u), math.log1p(-u)
    below = _logaddexp(rest + _log_ndtr(a), share + _log_ndtr(b))
    if below < -math.log(2):
        return _log_ndtri(below)
    return -_log_ndtri(_logaddexp(rest + _log_ndtr(-a), share + _log_ndtr(-b)))  # from above, which is then resolved


def linear_range(weights: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """``(min, max) of weights @ x over low <= x <= high``: what a linear model can say on a box.

    Args:
        weights: ``(..., d)``.
        low, high: ``(d,)``, the corners; may be infinite.

    Returns:
        Two tensors of shape ``(...)``.

    Example:
        >>> import torch
        >>> from argumbel.astar import linear_range
        >>> low, high = torch.tensor([0.0, -torch.inf]), torch.tensor([1.0, 2.0])
        >>> linear_range(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), low, high)
        (tensor([0., -inf]), tensor([1., 2.]))
    """

    def total(below: Tensor, above: Tensor) -> Tensor:  # of an infinite side without weight nothing is to be added
        return torch.where(weights > 0, weights * above, torch.where(weights < 0, weights * below, 0)).sum(-1)

    return total(high, low), total(low, high)
