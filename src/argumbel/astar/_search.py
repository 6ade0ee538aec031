"""How one sample is found: best-first search, or rejection with regions that are split."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from ..noise import KeyedNoise
from ._floats import log_add_exp, returned_number
from ._target import Target

__all__ = ["METHODS", "Found", "Leaf", "Search", "best_first"]


@dataclass(slots=True, eq=False)
class Leaf:
    """A region that is not split yet.

    ``bound`` is the bound of the region it was split from, until ``has_own_bound``. ``gumbel`` is the maximum of the
    Gumbel process in the region, in the current search.
    """

    region: Any
    log_volume: float
    bound: float = math.inf
    has_own_bound: bool = False
    gumbel: float = math.nan


class Found(NamedTuple):
    """What a search found: the sample, its value, and the leaves that are left."""

    point: Any
    value: float
    leaves: list[Leaf]


class Search:
    """What the methods share: the noise of one sample, the calls of the target with their checks, and the counts."""

    def __init__(self, target: Target[Any], max_steps: int) -> None:
        self.target, self.max_steps = target, max_steps

    def start(self, seed: int, row: int) -> None:
        """Begin the sample with the number ``row``."""
        self.exponential = _exponentials(seed, row).__next__
        self.likelihoods = self.bounds = self.splits = 0

    def uniform(self) -> float:
        return min(-math.expm1(-self.exponential()), 1 - 2.0**-53)

    def compute_bound(self, leaf: Leaf) -> None:
        """Ask the target for the leaf's own bound. The bound of a region also bounds its parts, so it never rises."""
        self._check_steps()
        self.bounds += 1
        with torch.no_grad():
            leaf.bound = min(leaf.bound, returned_number("bound", self.target.bound(leaf.region)))
        leaf.has_own_bound = True

    def evaluate(self, leaf: Leaf) -> tuple[Any, float]:
        """A point drawn in the leaf, and its log_ratio."""
        self._check_steps()
        self.likelihoods += 1
        point = self.target.sample(leaf.region, self.uniform)
        with torch.no_grad():
            ratio = returned_number("log_ratio", self.target.log_ratio(point))
        # Functions that compute in float32 may round a bound that is attained to a number just below it.
        if ratio == math.inf or ratio > leaf.bound + 1e-6 * max(1, abs(leaf.bound)):
            raise ValueError(
                f"bound must be at least log_ratio everywhere in its region, but the bound of {leaf.region} is "
                f"{leaf.bound} and log_ratio is {ratio} at {point}; correct bound, or log_ratio if it may be +inf"
            )
        return point, ratio

    def split(self, leaf: Leaf, point: Any) -> list[Leaf]:
        """The parts of a leaf that are not empty."""
        self.splits += 1
        parts = []
        for region in self.target.split(leaf.region, point):
            log_volume = returned_number("log_volume", self.target.log_volume(region))
            if log_volume > leaf.log_volume + 1e-9 * max(1, abs(leaf.log_volume)):
                raise ValueError(
                    f"split must return parts of a region, but log_volume of {region} is {log_volume}, more than "
                    f"{leaf.log_volume}, the log_volume of {leaf.region}; correct split or log_volume"
                )
            if log_volume > -math.inf:
                parts.append(Leaf(region, log_volume, leaf.bound))
        return parts

    def _check_steps(self) -> None:
        if self.likelihoods + self.bounds >= self.max_steps:
            raise RuntimeError(
                f"max_steps must be enough for each sample, but one took more than {self.max_steps} evaluations "
                f"(log_ratio {self.likelihoods}, bound {self.bounds}); write bounds that approach log_ratio as regions "
                "shrink, choose a measure nearer to the target, or pass a larger max_steps"
            )


def best_first(search: Search, leaves: list[Leaf]) -> Found:
    """A* sampling: evaluate and split the leaf with the largest ``gumbel + bound`` until no leaf can hold a larger
    value than the best point.

    The leaves make up the space, so the maxima of the Gumbel process in them are independent Gumbels at their log
    volumes: the search may start from any such leaves.
    """
    heap: list[tuple[float, int, Leaf]] = []
    order = itertools.count()

    def push(leaf: Leaf) -> None:
        heapq.heappush(heap, (-(leaf.gumbel + leaf.bound), next(order), leaf))

    for leaf in leaves:
        leaf.gumbel = leaf.log_volume - math.log(search.exponential())
        push(leaf)
    best, best_point = -math.inf, None
    while heap and -heap[0][0] > best:
        *_, leaf = heapq.heappop(heap)
        if not leaf.has_own_bound:  # a bound is computed only when no other leaf can come first
            search.compute_bound(leaf)
            push(leaf)
            continue
        point, ratio = search.evaluate(leaf)
        if leaf.gumbel + ratio > best:
            best, best_point = leaf.gumbel + ratio, point
        for part in search.split(leaf, point):
            free = part.log_volume - math.log(search.exponential())
            part.gumbel = min(leaf.gumbel, -log_add_exp(-free, -leaf.gumbel))  # truncated at the maximum of the whole
            push(part)
    if best == -math.inf:
        raise ValueError(
            "target must have mass somewhere, but log_ratio or its bound is -inf everywhere; correct log_ratio, or "
            "bound if it is too low"
        )
    # After one evaluation the split has shown nothing; the leaves before it are fewer and serve as well.
    left = leaves if search.likelihoods == 1 else [leaf for *_, leaf in heap]
    return Found(best_point, best, left)


def thinning(search: Search, leaves: list[Leaf], *, splits: bool) -> Found:
    """Rejection: the first candidate that is accepted; its value is minus the log of its arrival time.

    Candidates arrive in each region at the rate exp(bound) * volume. Each is accepted with probability
    exp(log_ratio - bound), so accepted candidates arrive at the rate exp(log_ratio), whatever happens to regions and
    bounds between arrivals. The time of the first accepted candidate is therefore an exponential of rate Z.
    """
    leaves, log_time = list(leaves), -math.inf
    if len(leaves) == 1 and not leaves[0].has_own_bound:
        search.compute_bound(leaves[0])
        if leaves[0].bound == math.inf:
            raise ValueError(
                "bound of the whole space must be finite for rejection, but it is inf; use method='a*', which needs no "
                "such bound"
            )
    while True:
        arrivals = [math.log(search.exponential()) - leaf.log_volume - leaf.bound for leaf in leaves]
        arrival = min(arrivals, default=math.inf)
        if arrival == math.inf:
            raise ValueError(
                "target must have mass somewhere, but the bound of log_ratio is -inf everywhere; correct bound"
            )
        log_time = log_add_exp(log_time, arrival)
        first = arrivals.index(arrival)
        leaf = leaves[first]
        threshold = leaf.bound - search.exponential()  # accept where log_ratio is at least this
        if not leaf.has_own_bound:
            search.compute_bound(leaf)
        if threshold > leaf.bound:
            continue
        point, ratio = search.evaluate(leaf)
        if threshold <= ratio:
            return Found(point, -log_time, leaves)
        if splits:
            leaves[first : first + 1] = search.split(leaf, point)


METHODS: dict[str, Callable[[Search, list[Leaf]], Found]] = {
    "a*": best_first,
    "os*": partial(thinning, splits=True),
    "rejection": partial(thinning, splits=False),
}

_BLOCK = 64


def _exponentials(seed: int, row: int) -> Iterator[float]:
    """Standard exponentials: items 0, 1, 2, ... of a row of keyed noise."""
    for start in itertools.count(0, _BLOCK):
        noise = KeyedNoise(seed, rows=[row], items=range(start, start + _BLOCK))
        yield from noise.exponential((1, _BLOCK), dtype=torch.float64, device="cpu")[0].tolist()
