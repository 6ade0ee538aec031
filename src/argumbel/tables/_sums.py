"""Sums of weights that are exact, so that they do not depend on the order in which rows come."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .. import kernels
from ..kernels.sums import LIMB, UNIT

__all__ = ["UNIT", "Sums"]


class Sums:
    """Of each group the number of its rows, ``rows``, and the sum of their weights, as a whole number of 2^-UNIT.

    The sum is ``sum over l of limbs[g, l] 2^(LIMB (lowest + l) - UNIT)``; all limbs are below 2^LIMB.
    """

    def __init__(self) -> None:
        self.rows, self.lowest, self.limbs = np.zeros(0, np.int64), 0, np.zeros((0, 0), np.int64)

    def resize(self, groups: int) -> None:
        """Room for so many groups."""
        more = groups - len(self.rows)
        if more > 0:
            self.rows = np.append(self.rows, np.zeros(more, np.int64))
            self.limbs = np.append(self.limbs, np.zeros((more, self.limbs.shape[1]), np.int64), 0)

    def add(self, weights: Tensor, of: Tensor | None) -> bool:
        """Add rows of these weights and groups. Whether one of them is no weight; nothing is then added."""
        counts, limbs, place, bad = kernels.exact_sums(weights, of, len(self.rows), ())
        if not bad:
            self.rows += counts.numpy()
            self._add(limbs.numpy(), int(place[0]), np.arange(len(self.rows)))
        return bool(bad)

    def merge(self, other: Sums, to: np.ndarray) -> None:
        """Add another one's; ``to`` has the numbers here of its groups."""
        self.rows[to] += other.rows
        self._add(other.limbs, other.lowest, to)

    def _add(self, limbs: np.ndarray, lowest: int, to: np.ndarray) -> None:
        if not limbs.size:
            return
        begin = min(lowest, self.lowest) if self.limbs.size else lowest
        # One more for what is carried.
        end = max(lowest + limbs.shape[1], self.lowest + self.limbs.shape[1]) + 1
        total = np.zeros((len(self.rows), end - begin), np.int64)
        total[:, self.lowest - begin :][:, : self.limbs.shape[1]] = self.limbs
        total[to, lowest - begin : lowest - begin + limbs.shape[1]] += limbs
        for place in range(end - begin - 1):
            total[:, place + 1] += total[:, place] >> LIMB
            total[:, place] &= (1 << LIMB) - 1
        width = end - begin
        while width and not total[:, width - 1].any():
            width -= 1
        self.lowest, self.limbs = begin, total[:, :width]

    def values(self) -> np.ndarray:
        """The sums as float64, rounded in a way that depends on them alone."""
        total = np.zeros(len(self.rows))
        for place in range(self.limbs.shape[1]):
            total += np.ldexp(self.limbs[:, place].astype(float), LIMB * (self.lowest + place) - UNIT)
        return total

    def whole(self, group: int) -> int:
        """The sum of a group over 2^-UNIT."""
        parts = enumerate(self.limbs[group].tolist(), self.lowest)
        return sum(int(limb) << (LIMB * place) for place, limb in parts)
