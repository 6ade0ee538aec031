"""A sample that grows with a stream of rows, and that merges with samples of other streams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from .. import kernels
from .._core.checks import count, integer, one_of
from ._columns import (
    Names,
    as_budget,
    as_names,
    as_table,
    column_of,
    from_bytes,
    ids_of,
    raise_bad_weights,
    row_bytes,
    take,
    to_bytes,
    weights_of,
)
from ._decay import arrivals_of_logs, as_decay, log_weights
from ._groups import Groups
from ._kept import Kept
from ._sample import Sample
from ._scale import as_scale

__all__ = ["Reservoir"]

# The law of a row's time times its weight, by the method of sampling.
LAWS = {"gumbel": "exponential", "priority": "uniform", "poisson": "uniform", "pareto": "odds"}
SLICE = 1 << 12  # so many rows are looked at first, before there is a bar that spares most rows their logarithm
NULLS = ("error", "zero")
SETTINGS = (
    "k",
    "seed",
    "method",
    "scale",
    "weights",
    "key",
    "by",
    "columns",
    "budget",
    "cost",
    "unit",
    "nulls",
    "decay",
)


class Reservoir:
    """The k rows of least time ``t_i = E_i / w_i`` of all rows seen so far: a weighted sample without replacement.

    E_i is the standard exponential that the seed gives the *id* of row i. So the sample is a function of the rows and
    of the seed: whatever the batches, their order, and the reservoirs that were merged, the rows are the same. Rows are
    drawn one after another, each with probability proportional to its weight among the rows that are left.

    A row that cannot be among the first k costs one random word, one product and one comparison.

    Args:
        k: the number of rows, at least 1; of each group, with ``by``. May be left out where a budget is given.
        weights: the column of weights, numbers of at least 0; a row of weight 0 is never drawn. Default: all weights 1.
        key: the column, or columns, that tell rows apart: integers (a date counts as its number of days, a timestamp in
            microseconds of UTC), strings, bytes, decimals. Default: the number of the row in the stream, so the stream
            must then always come in the same order.
        by: the column, or columns, of groups: each group has its own sample of k rows, or its own budget.
        seed: 64 bits. Tables sampled with the same seed share the noise of ids they share (coordinated samples).
        method: ``"gumbel"``, the draw above; ``"priority"``, times ``u_i / w_i`` with u uniform, whose estimates of
            sums have nearly the least variance; ``"poisson"``, each row by itself with probability
            ``min(1, scale w_i)`` (the number of rows is random); ``"pareto"``, k rows, nearly with these probabilities.
        scale: for ``"poisson"`` and ``"pareto"``: what multiplies weights to give these probabilities; with ``by`` a
            mapping, ``{group: scale}``, where a group of several columns is a tuple. (:func:`sample` finds it by a
            first pass.)
        budget: the greatest total cost of the rows, ``(column, total)``, or bytes of memory, ``"100MB"``: the sample is
            the longest sequence of first rows whose cost is within the budget.
        unit: ``"row"``, ids must differ; ``"key"``, k ids are drawn, and all rows that have these ids are taken. Rows
            of an id must have the same weight.
        nulls: ``"error"``, or ``"zero"``: a null weight counts as 0.
        columns: the columns that the sample keeps; default all.
        decay: ``(column of times, rate)``: the weight of a row is ``w exp(rate t)``, so what is older counts less, by
            half every ``log(2) / rate``. Times are numbers, or timestamps and dates in seconds; they may come in any
            order. For ``"gumbel"`` and ``"priority"``. All is done in logarithms: ``_key`` is then that of the time of
            arrival, ``log E - log w - rate t``, which nothing rescales and which no time overflows.

    Raises:
        ValueError: a weight that is negative, NaN, infinite or null; an id that is null, or that came twice; a column
            that the batch has not; scale, budget or k that do not suit the method.
        TypeError: a column of another type.

    Example:
        >>> import pyarrow as pa
        >>> from argumbel.tables import Reservoir
        >>> reservoir = Reservoir(2, weights="price", key="name", seed=1)
        >>> reservoir.update(pa.table({"name": ["a", "b", "c"], "price": [10.0, 1.0, 5.0]}))
        Reservoir(3 rows seen, k=2, seed=1, method='gumbel')
        >>> reservoir.update(pa.table({"name": ["d"], "price": [100.0]})).result().table.column_names
        ['name', 'price', '_key', '_weight']

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir"; Duffield, Lund and Thorup 2007,
    "Priority sampling for estimation of arbitrary subset sums"; Rosén 1997, "On sampling with probability proportional
    to size" (Pareto); Ting 2017, "Adaptive threshold sampling" (budgets); Cormode, Shkapenyuk, Srivastava and Xu 2009,
    "Forward decay: a practical time decay model for streaming systems".
    """

    def __init__(
        self,
        k: int | None = None,
        *,
        weights: str | None = None,
        key: Names = None,
        by: Names = None,
        seed: int = 0,
        method: str = "gumbel",
        scale: float | Mapping[Any, float] | None = None,
        budget: tuple[str, float] | str | None = None,
        unit: str = "row",
        nulls: str = "error",
        columns: Names = None,
        decay: tuple[str, float] | None = None,
    ) -> None:
        one_of("method", method, LAWS)
        one_of("unit", unit, ("row", "key"))
        one_of("nulls", nulls, NULLS)
        if k is None and budget is None and method != "poisson":
            raise ValueError("k must be given, or a budget, but neither is; pass the number of rows wanted")
        if (scale is None) != (method in ("gumbel", "priority")):
            raise ValueError(
                f"scale must be given for 'poisson' and 'pareto', and for them alone, but it is {scale} for "
                f"{method!r}; argumbel.tables.sample finds it"
            )
        if budget is not None and scale is not None:
            raise ValueError(
                f"budget must be for 'gumbel' or 'priority', but the method is {method!r}; choose one of these"
            )
        self.k = None if k is None else count("k", k, least=1)
        self.seed, self.method, self.unit, self.nulls = integer("seed", seed), method, unit, nulls
        self.key, self.by = as_names("key", key), as_names("by", by)
        self.weights, self.scale = weights, as_scale(scale, self.by)
        self.columns = None if columns is None else as_names("columns", columns)
        self.cost, self.budget = as_budget(budget)
        self.decay = as_decay(decay)
        if decay is not None and scale is not None:
            raise ValueError(
                f"decay must be for 'gumbel' or 'priority', but the method is {method!r}; choose one of these"
            )
        self.groups = Groups(self.by, in_logs=decay is not None)
        self.rows_seen = 0
        self._group_scales: list[float] = []
        self._fixed_bar = 1.0 if method == "poisson" else np.inf
        self._kept = Kept(self.groups, None if method == "poisson" else self.k, self.budget, unit, self.key)

    def __repr__(self) -> str:
        size = f"k={self.k}" if self.budget is None else f"budget={self.budget:g}"
        return f"Reservoir({self.rows_seen:,} rows seen, {size}, seed={self.seed}, method={self.method!r})"

    # --- rows in ---------------------------------------------------------------------------------------------------

    def update(self, batch: Any, *, first: int | None = None) -> Reservoir:
        """Look at more rows: an Arrow table or record batch, a dict of columns, or a data frame. Returns the reservoir.

        Args:
            batch: the rows.
            first: without ``key``, the number of the first of these rows in the whole table; default the number of rows
                seen so far.
        """
        table = as_table(batch)
        first = self.rows_seen if first is None else integer("first", first)
        weights = torch.ones(len(table)) if self.weights is None else weights_of(table, self.weights, self.nulls, first)
        grown = None
        if self.decay is not None:
            weights, grown = log_weights(table, weights, self.weights or "", self.decay, first)
        items, rows = ids_of(table, self.key) if self.key else (None, None)
        codes = self.groups.codes(table)
        for name in self.columns or ():
            column_of(table.slice(0, 0), "columns", name)  # raises where there is none
        payload = table if self.columns is None else table.select(list(self.columns))
        self._kept.begin(payload)
        done, least = 0, max(SLICE, 2 * (self.k or 0))
        while done < len(table):
            # No more than all rows before: the bar cannot fall far while these are looked at.
            size = max(least, self.rows_seen + done)
            part = slice(done, min(len(table), done + size))
            self._look(table, payload, weights, grown, items, rows, codes, part, first)
            done = part.stop
        self.groups.count(weights, codes)
        self.rows_seen += len(table)
        return self

    def _look(
        self,
        table: pa.Table,
        payload: pa.Table,
        weights: Tensor,
        grown: np.ndarray | None,
        items: Tensor | None,
        rows: Tensor | None,
        codes: Tensor | None,
        part: slice,
        first: int,
    ) -> None:
        w = weights[part]
        key = (self.seed, None if rows is None else rows[part], None if items is None else items[part])
        of = None if codes is None else codes[part]
        if grown is not None:
            times, at = arrivals_of_logs(w, LAWS[self.method], self._bars(), of, first + part.start, key)
        else:
            times, at = self._arrivals(w, of, first + part.start, key)
        if not len(at):
            return
        place = at.numpy()
        absolute = place + part.start
        item = first + absolute if items is None else items.numpy()[absolute]
        self._kept.add(
            {
                "time": times.numpy(),
                "item": item,
                "row": np.zeros_like(place) if rows is None else rows.numpy()[absolute],
                "group": np.zeros(len(place), np.int32) if codes is None else codes.numpy()[absolute],
                "weight": w[at].double().numpy(),
                "grown": np.zeros(len(place)) if grown is None else grown[absolute],
                "position": first + absolute,
                "cost": self._costs(table, absolute),
            },
            take(payload, absolute),
        )

    def _arrivals(
        self, w: Tensor, of: Tensor | None, first: int, key: tuple[int, Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Times and places of the rows that may be in the sample."""
        odds, sure = self._effective(w, of)
        bars = torch.from_numpy(self._bars())
        times, at, bad = kernels.arrivals(odds, LAWS[self.method], 0.0, bars, of, first, key)
        if bad:
            raise_bad_weights(w, self.weights or "", first)
        if sure is not None and len(sure):
            times, at = torch.cat([torch.zeros(len(sure), dtype=torch.float64), times]), torch.cat([sure, at])
        return times, at

    def _bars(self) -> np.ndarray:
        """The time of each group that no row of the sample can exceed."""
        return np.minimum(self.groups.bars, self._fixed_bar)

    def _scales(self) -> np.ndarray:
        """The scale of each group; without one, none."""
        if not isinstance(self.scale, dict):
            return np.zeros(0) if self.scale is None else np.array([self.scale])
        for group in islice(self.groups.values, len(self._group_scales), None):
            if group not in self.scale:
                value = group[0] if len(group) == 1 else group
                raise ValueError(
                    f"scale must be a mapping of all groups, but it has none for {value!r}; add it, or leave out its "
                    "rows"
                )
            self._group_scales.append(self.scale[group])
        return np.array(self._group_scales)

    def _effective(self, w: Tensor, of: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the times are divided by, and which rows are in the sample for sure."""
        if self.scale is None:
            return w, None
        scales = torch.from_numpy(self._scales())
        p = w.double() * (scales[0] if of is None else scales[of.long()])
        sure = ((p >= 1) & p.isfinite()).nonzero().squeeze(-1)
        p[sure] = 0
        return (p / (1 - p) if self.method == "pareto" else p), sure

    def _costs(self, table: pa.Table, places: np.ndarray) -> np.ndarray:
        if self.budget is None:
            return np.zeros(len(places))
        if self.cost is None:  # bytes of the columns that are kept
            return row_bytes(take(table if self.columns is None else table.select(list(self.columns)), places))
        cost = weights_of(take(table, places), self.cost, "error", 0).double().numpy().copy()
        if not (np.isfinite(cost) & (cost >= 0)).all():
            raise ValueError(
                f"budget must be of costs that are finite and at least 0, but {self.cost!r} has others; mend the column"
            )
        return cost

    # --- out, and together -----------------------------------------------------------------------------------------

    def result(self) -> Sample:
        """The sample of the rows seen so far; the reservoir goes on."""
        if not self._kept.has_begun:
            raise ValueError("a sample must be of rows, but no batch came; call update first")
        rows, numbers = self._kept.first()
        rate = None if self.decay is None else self.decay[1]
        return Sample(rows, numbers, self._bars(), self.groups, self.method, self._scales(), rate)

    def merge(self, other: Reservoir) -> Reservoir:
        """Add what another reservoir, of the same arguments, has seen. Returns this one."""
        if not isinstance(other, Reservoir):
            raise TypeError(f"other must be a Reservoir, but it is a {type(other).__name__}; make one from its bytes")
        for name in SETTINGS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"reservoirs must have the same {name} to be merged, but here it is {mine!r} and there "
                    f"{theirs!r}; make both alike"
                )
        self._kept.cut()
        other._kept.cut()
        self._kept.merge(other._kept, self.groups.merge(other.groups))
        self.rows_seen += other.rows_seen
        return self

    def to_bytes(self) -> bytes:
        """The reservoir as bytes (an Arrow stream), for another process: about what its rows take."""
        if not self._kept.has_begun:
            raise ValueError("a reservoir must have seen a batch to be bytes, but it has not; call update first")
        table = self._kept.to_table()
        settings = {name: getattr(self, name) for name in SETTINGS} | {"rows_seen": self.rows_seen}
        groups = self.groups.to_state()
        more = []
        if isinstance(self.scale, dict):
            columns = [pa.array(values) for values in zip(*self.scale, strict=True)]
            more = [
                pa.table(
                    [*columns, pa.array(self.scale.values(), pa.float64())], [*map(str, range(len(columns))), "scale"]
                )
            ]
            settings["scale"] = {}
        about = {b"argumbel": json.dumps(settings).encode()}
        return to_bytes(table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), groups, *more)

    @classmethod
    def from_bytes(cls, data: bytes) -> Reservoir:
        """The reservoir that :meth:`to_bytes` wrote."""
        table, groups, *more = from_bytes(data)
        settings = json.loads(table.schema.metadata[b"argumbel"])
        for scales in more:
            *values, scale = (column.to_pylist() for column in scales.columns)
            settings["scale"] = dict(zip(zip(*values, strict=True), scale, strict=True))
        rows_seen, cost, budget = settings.pop("rows_seen"), settings.pop("cost"), settings.pop("budget")
        limit = None if budget is None else (cost, budget) if cost else f"{Decimal(budget):f}B"
        reservoir = cls(**settings, budget=limit)
        reservoir.rows_seen = rows_seen
        reservoir.groups.fill(groups)
        metadata = {name: value for name, value in table.schema.metadata.items() if name != b"argumbel"}
        reservoir._kept.fill(table.replace_schema_metadata(metadata or None))
        return reservoir
