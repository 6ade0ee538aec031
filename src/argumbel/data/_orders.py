"""Sequences of items, each a pure function of the weights and a seed: without replacement, and with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..noise import KeyedNoise
from ._weights import Spread, bad_weight, chunks

__all__ = ["Mark", "WithReplacement", "WithoutReplacement"]


class Mark(NamedTuple):
    """A place in an order where a bucket begins: so many items come before it, all by this time."""

    before: int
    time: float


class WithoutReplacement:
    """Items in the order of the times ``E / weight``, a bucket at a time: those that come between two times, sorted.

    Where the order ends it begins again.
    """

    def __init__(self, weights: Tensor, spread: Spread, bucket: int) -> None:
        self._weights, self._spread, self._bucket = weights, spread, bucket
        # Only weights beyond the range of float32 have times that round to 0; these must come as well.
        self.first = Mark(0, 0.0 if weights.dtype == torch.float32 else -1.0)

    def take(self, noise: KeyedNoise, positions: range, marks: list[Mark]) -> Iterator[Tensor]:
        """The items at these positions, by way of the last mark; marks that are passed are added to the list."""
        before, time = marks[-1]
        items = self._spread.items
        while positions:
            need = positions.stop - before
            wanted = min(self._bucket, need + 5 * math.sqrt(need) + 5)
            end = self._spread.after(time, wanted / (items - before % items))
            times, found = self._arrivals(noise, time, end)
            start, before = before, before + len(found)
            if end == math.inf and before % items:
                raise ValueError(
                    f"weights must stay the same while an order is drawn, but {before % items} of {items} items came; "
                    "make another sampler for other weights"
                )
            time = self.first.time if end == math.inf else end
            marks.append(Mark(before, time))
            if positions[0] < before:
                found = found[times.sort(stable=True).indices]  # the earlier position first where times are equal
                del times
                found = found[positions[0] - start : positions.stop - start : positions.step].contiguous()
                positions = positions[len(found) :]
                yield found
            del found  # before the next bucket is made

    def _arrivals(self, noise: KeyedNoise, begin: float, end: float) -> tuple[Tensor, Tensor]:
        """Times and positions of the items that come in (begin, end], in the order of positions."""
        bars = torch.tensor([end], dtype=torch.float64, device="cpu")
        all_times, all_found, key = [], [], (noise.seed, None, None)
        for start, part in chunks(self._weights):
            times, found, bad = kernels.arrivals(part, "exponential", begin, bars, None, start, key)
            if bad:
                raise bad_weight(self._weights)
            all_times.append(times)
            all_found.append(found.add_(start))
        times = torch.cat(all_times)
        all_times.clear()
        return times, torch.cat(all_found)


BLOCK = 32  # weights that share one number of the table
DRAWS = 1 << 13  # draws made at a time: the weights of their blocks stay in the cache


class WithReplacement:
    """Draw j is the item at which the running sum of the weights passes ``u_j sum(weights)``.

    A table holds the sums up to the ends of blocks of 32 weights, in float64; the sums within a block are made for the
    draw that needs them. So the table takes a quarter of a byte an item, and no draw looks at all items.
    """

    first = Mark(0, 0.0)

    def __init__(self, weights: Tensor) -> None:
        whole = len(weights) - len(weights) % BLOCK
        self._blocks = weights[:whole].unfold(0, BLOCK, BLOCK) if whole else weights.new_zeros(1, BLOCK)
        self._last = torch.nn.functional.pad(weights[whole:], (0, whole + BLOCK - len(weights))).double()
        sums = [part.double().unfold(0, BLOCK, BLOCK).sum(-1) for _, part in chunks(weights[:whole])]
        self._ends = torch.cat([*sums, self._last.sum().reshape(1)]).cumsum(0)
        if not bool(self._ends[-1].isfinite()):
            raise ValueError(
                "weights must have a finite sum where items are drawn with replacement, but the sum is inf; pass "
                "weights divided by their maximum"
            )

    def take(self, noise: KeyedNoise, positions: range, marks: list[Mark]) -> Iterator[Tensor]:
        """The draws of these numbers."""
        for i in range(0, len(positions), DRAWS):
            part = positions[i : i + DRAWS]
            numbers = torch.arange(part.start, part.stop, part.step, device="cpu")
            key = noise.seed, torch.zeros(1, dtype=torch.int64, device="cpu"), numbers
            u, _ = kernels.keyed_noise("uniform", (1, len(part)), torch.float64, numbers.device, key)
            yield self._find(u[0] * self._ends[-1])

    def _find(self, sums: Tensor) -> Tensor:
        """The first item with a running sum above each of these; it has a positive weight, for the sum grew there."""
        block = torch.searchsorted(self._ends, sums, right=True)
        rest = sums - torch.where(block > 0, self._ends[block - 1], 0)
        weights = self._blocks.index_select(0, block.clamp(max=len(self._blocks) - 1)).double()
        weights[block == len(self._ends) - 1] = self._last
        near = weights.cumsum(-1)
        # The sum of a block may be rounded otherwise than its running sum.
        rest = torch.minimum(rest, torch.nextafter(near[:, -1], torch.zeros_like(rest)))
        return block * BLOCK + torch.searchsorted(near, rest.unsqueeze(-1), right=True).squeeze(-1)
