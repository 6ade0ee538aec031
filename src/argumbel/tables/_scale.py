"""What multiplies weights to give the probabilities that "poisson" and "pareto" draw rows with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from .._core.checks import number
from ._columns import Names, as_names, from_bytes, raise_bad_weights, to_bytes, weights_of
from ._groups import Groups, as_group
from ._sums import UNIT

__all__ = ["Scale", "Scales", "as_scale"]

SLICE = 1 << 14  # so many weights are looked at first
Scales = float | dict[tuple[object, ...], float]  # one, or one for each group


def as_scale(scale: float | Mapping[Any, float] | None, by: tuple[str, ...]) -> Scales | None:
    """The scale that a user gives; of groups by the tuples of their values."""
    if scale is None:
        return None
    if not by:
        return number("scale", scale, least=0)
    if not isinstance(scale, Mapping):
        raise TypeError(
            f"scale must be a mapping of groups to numbers where by is given, but it is a {type(scale).__name__}; "
            "pass {group: scale}"
        )
    return {
        as_group(group if isinstance(group, tuple) else (group,)): number("scale", value, least=0)
        for group, value in scale.items()
    }


class Scale:
    """Of each group c with ``sum of min(1, c w_i) = k``; fewer than k rows have c w of 1 or more.

    Weights come in parts. Sums are exact, as whole numbers: c is a function of the weights, in whatever order and parts
    they come.
    """

    def __init__(self, k: int, weights: str | None, nulls: str, by: Names = None) -> None:
        self.k, self.weights, self.nulls, self.by = k, weights, nulls, as_names("by", by)
        self.groups, self.seen = Groups(self.by), 0
        # Of each group the number of positive weights, the least of them, and the k-th largest; the k largest of all.
        self.positive, self.least, self.floor = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        self.largest, self.of = np.zeros(0), np.zeros(0, np.int32)
        self._grow()

    def _grow(self) -> None:
        more = len(self.groups) - len(self.positive)
        self.positive = np.append(self.positive, np.zeros(more, np.int64))
        self.least, self.floor = np.append(self.least, np.full(more, np.inf)), np.append(self.floor, np.zeros(more))

    def update(self, table: pa.Table) -> Scale:
        """Look at the weights of more rows."""
        rows = len(table)
        w = torch.ones(rows) if self.weights is None else weights_of(table, self.weights, self.nulls, self.seen)
        codes = self.groups.codes(table)
        if self.groups.sums.add(w, codes):
            raise_bad_weights(w, self.weights or "", self.seen)
        self._grow()
        self.seen += rows
        some = w.double().numpy()
        of = np.zeros(rows, np.int32) if codes is None else codes.numpy()
        of, some = of[some > 0], some[some > 0]
        self.positive += np.bincount(of, minlength=len(self.groups))
        if self.by:
            np.minimum.at(self.least, of, some)
        else:
            self.least[0] = min(self.least[0], some.min(initial=np.inf))
        done, least = 0, max(SLICE, self.k * len(self.groups))
        while done < len(some):  # as many as before: few of them are above what has become the floor
            part = slice(done, max(2 * done, least))
            self._keep(some[part], of[part])
            done = part.stop
        return self

    def _keep(self, some: np.ndarray, of: np.ndarray) -> None:
        """The k largest weights of each group, in order, with these among them."""
        high = some > self.floor[of]
        w, of = np.concatenate([self.largest, some[high]]), np.concatenate([self.of, of[high]])
        order = np.lexsort((-w, of))
        w, of = w[order], of[order]
        starts = np.searchsorted(of, np.arange(len(self.groups)))
        rank = np.arange(len(of)) - starts[of]
        self.largest, self.of = w[rank < self.k], of[rank < self.k]
        self.floor[of[rank == self.k - 1]] = w[rank == self.k - 1]

    def merge(self, other: Scale) -> Scale:
        """Add what another one has seen."""
        to = self.groups.merge(other.groups)
        self._grow()
        self.seen += other.seen
        self.positive[to] += other.positive
        self.least[to] = np.minimum(self.least[to], other.least)
        self._keep(other.largest, to[other.of])
        return self

    def value(self) -> Scales:
        """c, of the rows seen so far."""
        ends = np.searchsorted(self.of, np.arange(len(self.groups) + 1))
        found = {
            group: self._of_group(i, self.largest[ends[i] : ends[i + 1]]) for group, i in self.groups.values.items()
        }
        return found if self.by else found[()]

    def _of_group(self, group: int, largest: np.ndarray) -> float:
        if self.positive[group] <= self.k:
            least = float(self.least[group])
            return float(np.nextafter(1 / least, np.inf)) * (1 + 1e-12) if self.positive[group] else 1.0
        rest, scale = self.groups.sums.whole(group), 0.0
        for j, w in enumerate(largest.tolist()):  # rest: the sum without the j largest
            scale = ((self.k - j) << UNIT) / rest
            if scale * w < 1:
                break
            over, under = w.as_integer_ratio()
            rest -= over * ((1 << UNIT) // under)
        return scale

    def to_bytes(self) -> bytes:
        settings = {name: getattr(self, name) for name in ("k", "weights", "nulls", "by")}
        about = {"argumbel": json.dumps({"settings": settings, "seen": self.seen})}
        kept = pa.table({"largest": self.largest, "of": self.of}).replace_schema_metadata(about)
        counts = pa.table({"positive": self.positive, "least": self.least, "floor": self.floor})
        return to_bytes(kept, counts, self.groups.to_state())

    @classmethod
    def from_bytes(cls, data: bytes) -> Scale:
        kept, counts, groups = from_bytes(data)
        about = json.loads(kept.schema.metadata[b"argumbel"])
        scale = cls(**about["settings"])
        scale.seen = about["seen"]
        scale.groups.fill(groups)
        for table in (kept, counts):
            for name in table.column_names:
                setattr(scale, name, table[name].to_numpy().copy())
        return scale
