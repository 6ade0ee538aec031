"""Samples of a density: so many at once, or one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import count, one_of
from ..noise import KeyedNoise, as_keyed
from ._floats import as_float64, returned_number
from ._search import METHODS, Leaf, Search
from ._target import Target, check_target

__all__ = ["AStarDraw", "AStarDraws", "astar_sample", "astar_stream"]


class AStarDraw(NamedTuple):
    """A sample, its value, and what it took: evaluations of log_ratio, evaluations of bounds, splits."""

    sample: Any
    value: float
    likelihoods: int
    bounds: int
    splits: int


class AStarDraws(NamedTuple):
    """Samples ``(num_samples, d)`` and their values ``(num_samples,)``, float64; what each sample took, int64
    ``(num_samples,)``: evaluations of log_ratio, evaluations of bounds, splits."""

    samples: Tensor
    values: Tensor
    likelihoods: Tensor
    bounds: Tensor
    splits: Tensor


_DTYPES = (torch.float64, torch.int64, torch.int64, torch.int64)  # of all fields but the samples


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
    ``exp(log_ratio) / Z``. The maximum itself is a Gumbel at log Z.

    A *keyed* function: sample number s is a function of the seed and of s (the s-th of the ``rows`` of ``noise``), and,
    with ``keep``, of the samples before it. Samples are independent and identically distributed. A value is independent
    of its sample, so ``argumbel.partition.log_partition(draws.values)`` estimates log Z, with
    ``Z = integral of exp(log_ratio) d measure``. All this holds for each of the methods:

    | method | how a sample is found |
    | --- | --- |
    | ``"a*"`` | best-first search: the region that may hold the largest value is evaluated, then split |
    | ``"os*"`` | adaptive rejection: candidates arrive under the bounds; the region of a rejected candidate is split |
    | ``"rejection"`` | rejection without splits: candidates arrive under the bound of the whole space |

    With ``"os*"`` and ``"rejection"`` candidates arrive as a Poisson process, and the value is minus the log of the
    arrival time of the first candidate that is accepted.

    Args:
        target: a :class:`argumbel.astar.UniformTarget`, a :class:`argumbel.astar.NormalTarget`, or your own
            :class:`argumbel.astar.Target`. Its bounds must hold. A bound that is too low makes samples wrong, and is
            noticed only if a point above it is drawn.
        num_samples: how many samples, at least 0.
        method: a row of the table.
        keep: start each sample from the regions that the samples before it left. These regions fit the target better
            and better, so the evaluations per sample fall towards 1; the time for everything else grows with the
            number of regions. False starts each sample from the whole space, and remembers only the bound of the whole
            space.
        max_steps: how many evaluations (of log_ratio and of bounds together) one sample may take.
        noise: a ``KeyedNoise`` without ``items``; its ``rows``, if given, are the numbers of the samples,
            ``(num_samples,)``, as are the seeds, if each sample has its own.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(samples, values, likelihoods, bounds, splits)``, on the CPU: samples ``(num_samples, d)`` and values
        ``(num_samples,)``, float64; and for each sample, int64 ``(num_samples,)``, how often log_ratio was evaluated,
        how often bound was evaluated, and how many regions were split.

    Raises:
        ValueError: log_ratio above the bound of its region; log_ratio or a bound NaN; log_ratio +inf; no mass (an empty
            space, or log_ratio or its bound -inf everywhere); a bound of +inf for the whole space, unless method is
            ``"a*"``; parts of a region that are larger than the region; an unknown method; num_samples below 0,
            max_steps below 1; noise with items, or with rows that are not one per sample; both noise and generator.
        TypeError: target lacks a method of :class:`argumbel.astar.Target`; log_ratio or bound do not return one number;
            num_samples or max_steps is not an integer; noise is not a ``KeyedNoise``.
        RuntimeError: a sample took more than max_steps evaluations.

    Example:
        >>> import math, torch, argumbel as ag
        >>> from argumbel.astar import UniformTarget
        >>> def bound(low, high):  # sin is at most 1, and at most half the length above the middle
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
    num_samples = count("num_samples", num_samples)
    if isinstance(noise, KeyedNoise):
        seeds = noise.seed if isinstance(noise.seed, Tensor) and noise.seed.ndim else None
        for what, ids in ("row", noise.rows), ("seed", seeds):
            if ids is not None and ids.numel() != num_samples:
                raise ValueError(
                    f"noise must have one {what} per sample, {num_samples}, but it has {ids.numel()}; pass as many"
                )
    stream = astar_stream(target, method=method, keep=keep, max_steps=max_steps, noise=noise, generator=generator)
    draws = list(itertools.islice(stream, num_samples))
    if not draws:
        point = target.sample(target.root(), lambda: 0.5)
        return AStarDraws(_stacked([point])[:0], *(torch.empty(0, dtype=t, device="cpu") for t in _DTYPES))
    samples, *rest = zip(*draws, strict=True)
    return AStarDraws(
        _stacked(samples), *(torch.tensor(x, dtype=t, device="cpu") for x, t in zip(rest, _DTYPES, strict=True))
    )


def astar_stream(
    target: Target[Any],
    *,
    method: str = "a*",
    keep: bool = False,
    max_steps: int = 100_000,
    noise: KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[AStarDraw]:
    """The samples of :func:`argumbel.astar_sample` one by one: as many as the caller asks for.

    A *keyed* function: the s-th sample is sample number s of :func:`argumbel.astar_sample` under the same seed. The
    seed is drawn from the generator when the stream is made.

    Args:
        target: a :class:`argumbel.astar.UniformTarget`, a :class:`argumbel.astar.NormalTarget`, or your own
            :class:`argumbel.astar.Target`.
        method: ``"a*"``, ``"os*"`` or ``"rejection"``, as the table of :func:`argumbel.astar_sample` says.
        keep: start each sample from the regions that the samples before it left.
        max_steps: how many evaluations (of log_ratio and of bounds together) one sample may take.
        noise: a ``KeyedNoise`` without ``items``; if it has ``rows``, or seeds of rows, the stream ends after the
            last of them.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        An iterator of ``(sample, value, likelihoods, bounds, splits)``: the sample as the target draws it (a tuple of d
        floats, for the targets of this module), then Python numbers: the value, how often log_ratio was evaluated, how
        often bound was evaluated, and how many regions were split.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`argumbel.astar_sample`. A bad argument raises the error when the
            stream is made; an error in a search is raised when its sample is asked for.

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

    Source: Maddison, Tarlow and Minka 2014, "A* sampling".
    """
    check_target(target)
    one_of("method", method, METHODS)
    max_steps = count("max_steps", max_steps, least=1)
    if noise is not None and not isinstance(noise, KeyedNoise):
        raise TypeError(
            f"noise must be an argumbel.KeyedNoise, but it is a {type(noise).__name__}; pass KeyedNoise(seed), since "
            "nobody knows beforehand how many random numbers a sample takes"
        )
    if noise is not None and noise.items is not None:
        raise ValueError(
            f"noise must not have items, since a sample takes as many as it needs, but it has {noise.items.numel()}; "
            "leave items out, and name samples by rows"
        )
    keyed = as_keyed(noise, generator, torch.device("cpu") if generator is None else generator.device)
    rows = itertools.count() if keyed.rows is None else keyed.rows.flatten().tolist()
    seed = keyed.seed
    seeds = seed.flatten().tolist() if isinstance(seed, Tensor) and seed.ndim else itertools.repeat(int(seed))
    region = target.root()
    log_volume = returned_number("log_volume", target.log_volume(region))
    if not -math.inf < log_volume < math.inf:
        raise ValueError(
            f"target must have a space of finite volume above 0, but log_volume(root()) is {log_volume}; "
            "check its low and high"
        )
    return _stream(Search(target, max_steps), [Leaf(region, log_volume)], method, keep, zip(seeds, rows, strict=False))


def _stream(
    search: Search, leaves: list[Leaf], method: str, keep: bool, keys: Iterable[tuple[int, int]]
) -> Iterator[AStarDraw]:
    for seed, row in keys:
        search.start(seed, row)
        found = METHODS[method](search, leaves)
        leaves = found.leaves if keep else leaves
        yield AStarDraw(found.point, found.value, search.likelihoods, search.bounds, search.splits)


def _stacked(points: Sequence[Any]) -> Tensor:
    return torch.stack([as_float64(point).reshape(-1) for point in points])
