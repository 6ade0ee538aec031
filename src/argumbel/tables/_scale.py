"""What multiplies weights to give the probabilities that "poisson" and "pareto" draw rows with."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from ._columns import raise_bad_weights, weights_of

__all__ = ["Scale"]

UNIT = 1126  # every float64 is a whole number of 2^-1126
PIECE = 1 << 24  # rows whose halves of mantissas have a sum below 2^53


class Scale:
    """c with ``sum of min(1, c w_i) = k``, for weights that come in parts; fewer than k rows have c w of 1 or more.

    Sums are exact, as whole numbers: c is a function of the weights, in whatever order and parts they come.
    """

    def __init__(self, k: int, weights: str | None, nulls: str) -> None:
        self.k, self.weights, self.nulls = k, weights, nulls
        self.largest, self.least = np.zeros(0), np.inf  # the k largest weights, the least positive one
        self.total = self.positive = self.seen = 0  # the sum of weights over 2^-UNIT, and numbers of rows

    def update(self, table: pa.Table) -> Scale:
        """Look at the weights of more rows."""
        if self.weights is None:
            w = np.ones(len(table))
        else:
            column = weights_of(table, self.weights, self.nulls, self.seen)
            w = column.double().numpy()
            if not (np.isfinite(w) & (w >= 0)).all():
                raise_bad_weights(column, self.weights, self.seen)
        some = w[w > 0]
        self.seen += len(w)
        self.positive, self.least = self.positive + len(some), min(self.least, float(some.min(initial=np.inf)))
        self.total += sum(_exact(some[i : i + PIECE]) for i in range(0, len(some), PIECE))
        self._keep(some)
        return self

    def _keep(self, some: np.ndarray) -> None:
        largest = np.concatenate([self.largest, some])
        place = len(largest) - self.k
        self.largest = np.partition(largest, place)[place:] if place > 0 else largest

    def merge(self, other: Scale) -> Scale:
        """Add what another one has seen."""
        self.seen, self.positive, self.total = (
            self.seen + other.seen, self.positive + other.positive, self.total + other.total,
        )  # fmt: skip
        self.least = min(self.least, other.least)
        self._keep(other.largest)
        return self

    def value(self) -> float:
        """c, of the rows seen so far."""
        if self.positive <= self.k:
            return float(np.nextafter(1 / self.least, np.inf)) * (1 + 1e-12) if self.positive else 1.0
        rest, scale = self.total, 0.0
        for j, w in enumerate(np.sort(self.largest)[::-1]):  # rest: the sum without the j largest
            scale = ((self.k - j) << UNIT) / rest
            if scale * w < 1:
                break
            rest -= _exact(w[None])
        return scale

    def to_bytes(self) -> bytes:
        return json.dumps({**vars(self), "largest": self.largest.tolist()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Scale:
        state = json.loads(data)
        scale = cls(state["k"], state["weights"], state["nulls"])
        vars(scale).update(state, largest=np.array(state["largest"], float))
        return scale


def _exact(w: np.ndarray) -> int:
    """The sum of finite numbers of at least 0 in units of 2^-UNIT: of each exponent the two halves of mantissas."""
    mantissa, exponent = np.frexp(w)
    whole = (mantissa * 2.0**53).astype(np.int64)
    place = exponent + (UNIT - 53)
    total = 0
    for half, shift in ((whole >> 27, 27), (whole & (2**27 - 1), 0)):
        sums = np.bincount(place, half)
        total += sum(int(sums[i]) << (int(i) + shift) for i in np.flatnonzero(sums))
    return total
