"""A sample that grows with a stream of rows, and that merges with samples of other streams."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from .. import kernels
from .._core.checks import count, integer, number, one_of
from ._columns import (
    Names,
    as_budget,
    as_names,
    as_table,
    column_of,
    ids_of,
    raise_bad_weights,
    row_bytes,
    take,
    weights_of,
)
from ._decay import arrivals_of_logs, as_decay, log_weights
from ._groups import Groups
from ._sample import Sample

__all__ = ["Reservoir"]

# The law of a row's time times its weight, by the method of sampling.
LAWS = {"gumbel": "exponential", "priority": "uniform", "poisson": "uniform", "pareto": "odds"}
SLICE = 1 << 12  # so many rows are looked at first, before there is a bar that spares most rows their logarithm
FIELDS = {
    "time": np.float64,
    "item": np.int64,  # the id: a number of 64 bits, or the first half of 128
    "row": np.int64,  # 0, or the second half
    "group": np.int32,
    "weight": np.float64,  # with decay its logarithm
    "grown": np.float64,  # rate t, with decay
    "position": np.int64,  # the number of the row in the stream
    "cost": np.float64,
}
NULLS = ("error", "zero")
PREFIX = "__argumbel_"  # of the columns that a reservoir adds when it becomes bytes
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
        scale: for ``"poisson"`` and ``"pareto"``: what multiplies weights to give these probabilities. (:func:`sample`
            finds it by a first pass.)
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
        scale: float | None = None,
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
        if scale is not None and as_names("by", by):
            raise ValueError(
                f"by must be for 'gumbel' or 'priority', but the method is {method!r}, whose scale is that of one "
                "group; sample each group by itself"
            )
        if budget is not None and scale is not None:
            raise ValueError(
                f"budget must be for 'gumbel' or 'priority', but the method is {method!r}; choose one of these"
            )
        self.k = None if k is None else count("k", k, least=1)
        self.seed, self.method, self.unit, self.nulls = integer("seed", seed), method, unit, nulls
        self.weights, self.scale = weights, None if scale is None else number("scale", scale, least=0)
        self.key, self.by = as_names("key", key), as_names("by", by)
        self.columns = None if columns is None else as_names("columns", columns)
        self.cost, self.budget = as_budget(budget)
        self.decay = as_decay(decay)
        if decay is not None and scale is not None:
            raise ValueError(
                f"decay must be for 'gumbel' or 'priority', but the method is {method!r}; choose one of these"
            )
        self.groups = Groups(self.by, in_logs=decay is not None)
        self.rows_seen = 0
        self._fixed_bar = 1.0 if method == "poisson" else np.inf
        # What was kept, in order, and what came since; of each row its numbers here, and what is kept of its columns.
        self._parts: list[dict[str, np.ndarray]] = []
        self._payloads: list[pa.Table] = []
        self._kept = 0  # rows, when last some were dropped
        self._beyond = np.zeros(0, bool)  # of the rows kept: the thresholds, which are not in the sample

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
        self._begin(payload)
        done, least = 0, max(SLICE, 2 * (self.k or 0))
        while done < len(table):
            # No more than all rows before: the bar cannot fall far while these are looked at.
            size = max(least, self.rows_seen + done)
            part = slice(done, min(len(table), done + size))
            self._look(table, payload, weights, grown, items, rows, codes, part, first)
            done = part.stop
        self.rows_seen += len(table)
        return self

    def _begin(self, payload: pa.Table) -> None:
        """Before the first rows, which have these columns: none are kept."""
        if not self._parts:
            self._parts = [{name: np.zeros(0, kind) for name, kind in FIELDS.items()}]
            self._payloads = [payload.slice(0, 0)]

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
        self.groups.count(w, of)
        if not len(at):
            return
        place = at.numpy()
        absolute = place + part.start
        item = first + absolute if items is None else items.numpy()[absolute]
        self._parts.append(
            {
                "time": times.numpy(),
                "item": item,
                "row": np.zeros_like(place) if rows is None else rows.numpy()[absolute],
                "group": np.zeros(len(place), np.int32) if codes is None else codes.numpy()[absolute],
                "weight": w[at].double().numpy(),
                "grown": np.zeros(len(place)) if grown is None else grown[absolute],
                "position": first + absolute,
                "cost": self._costs(table, absolute),
            }
        )
        self._payloads.append(take(payload, absolute))
        if sum(len(part["time"]) for part in self._parts) >= 2 * self._kept + 4096:
            self._trim()
            self._kept = sum(len(part["time"]) for part in self._parts)

    def _arrivals(
        self, w: Tensor, of: Tensor | None, first: int, key: tuple[int, Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Times and places of the rows that may be in the sample."""
        odds, sure = self._effective(w)
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

    def _effective(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the times are divided by, and which rows are in the sample for sure."""
        if self.scale is None:
            return w, None
        p = w.double() * self.scale
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

    # --- the first k -----------------------------------------------------------------------------------------------

    def _trim(self) -> None:
        """Drop rows that have become useless. In the plain case without a sort: twice as fast as :meth:`_cut`."""
        if self.by or self.budget is not None or self.unit == "key" or self.k is None or self.method == "poisson":
            self._cut()
            return
        state, payload = self._together()
        if len(state["time"]) > self.k:
            bar = np.partition(state["time"], self.k)[self.k]
            keep = np.flatnonzero(state["time"] <= bar)
            state, payload = {name: values[keep] for name, values in state.items()}, take(payload, keep)
            self.groups.bars[0] = bar
        # As rows that are new: what is in order, and what is beyond, is for the next cut to say.
        self._parts, self._payloads = [self._parts[0], state], [self._payloads[0], payload.combine_chunks()]
        self._parts[0] = {name: values[:0] for name, values in state.items()}
        self._payloads[0] = payload.slice(0, 0)

    def _together(self) -> tuple[dict[str, np.ndarray], pa.Table]:
        state = {name: np.concatenate([part[name] for part in self._parts]) for name in FIELDS}
        return state, pa.concat_tables(self._payloads)

    def _cut(self) -> None:
        """Keep the first k rows of each group, and the first beyond them, whose time is the new bar."""
        if len(self._parts) < 2:
            return
        state, payload = self._together()
        order = np.lexsort((state["row"], state["item"], state["time"], state["group"]))
        ids = [state[name][order] for name in ("group", "time", "item", "row")]
        is_new = np.ones(len(order), bool)
        is_new[1:] = np.logical_or.reduce([a[1:] != a[:-1] for a in ids])
        self._check_ids(state)
        opens = np.ones(len(order), bool)
        opens[1:] = ids[0][1:] != ids[0][:-1]
        rank = np.cumsum(is_new)
        rank -= np.maximum.accumulate(np.where(opens, rank, 0))  # ids before this one, in its group
        beyond = np.zeros(len(order), bool)
        if self.k is not None and self.method != "poisson":
            beyond |= rank >= self.k
        if self.budget is not None:
            last = np.flatnonzero(np.append(is_new[1:], True))  # the last row of each id: an id is taken whole
            # Group by group: a sum that began elsewhere would be rounded elsewhere.
            costs = np.split(state["cost"][order], np.flatnonzero(opens[1:]) + 1)
            total = np.concatenate([np.cumsum(part) for part in costs])[last]
            beyond |= np.repeat(total > self.budget, np.diff(np.append(-1, last)))
        # Of those beyond, the first of each group is kept: the threshold.
        starts = beyond.copy()
        starts[1:] &= ~beyond[:-1] | opens[1:]
        bars = np.full(len(self.groups.bars), np.inf)
        bars[ids[0][starts]] = ids[1][starts]
        self.groups.bars = bars
        stays = ~beyond | starts
        keep, self._beyond = order[stays], beyond[stays]
        self._parts = [{name: values[keep] for name, values in state.items()}]
        self._payloads = [take(payload, keep).combine_chunks()]

    def _check_ids(self, state: dict[str, np.ndarray]) -> None:
        items = np.sort(state["item"])
        if not (items[1:] == items[:-1]).any():  # nearly always, and much sooner known than what follows
            return
        by_id = np.lexsort((state["time"], state["row"], state["item"]))
        item, row, time = (state[name][by_id] for name in ("item", "row", "time"))
        same = (item[1:] == item[:-1]) & (row[1:] == row[:-1])
        names = " and ".join(self.key) or "number"
        if self.unit == "row" and same.any():
            raise ValueError(
                f"key must tell rows apart, but two rows have the same {names} (or a batch came twice)"
                "; name the columns that do, or pass unit='key' to draw ids with all their rows"
            )
        if self.unit == "key" and (same & (time[1:] != time[:-1])).any():
            raise ValueError(
                f"weights must be the same for all rows of one {names}, but they differ; sum them up first"
            )

    # --- out, and together -----------------------------------------------------------------------------------------

    def result(self) -> Sample:
        """The sample of the rows seen so far; the reservoir goes on."""
        self._cut()
        if not self._parts:
            raise ValueError("a sample must be of rows, but no batch came; call update first")
        drawn = ~self._beyond
        return Sample(
            take(self._payloads[0], np.flatnonzero(drawn)),
            {name: values[drawn] for name, values in self._parts[0].items()},
            self._bars(),
            self.groups,
            self.method,
            self.scale,
            None if self.decay is None else self.decay[1],
        )

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
        self._cut()
        other._cut()
        to = self.groups.merge(other.groups)
        if other._parts:
            self._begin(other._payloads[0])
            theirs = {**other._parts[0], "group": to[other._parts[0]["group"]]}
            self._parts = [*self._parts, theirs]
            # A column that holds nothing but nulls in one of them takes the type that it has in the other.
            payloads = [*self._payloads, other._payloads[0]]
            schema = pa.unify_schemas([payload.schema for payload in payloads], promote_options="permissive")
            self._payloads = [payload.cast(schema) for payload in payloads]
            self._cut()
        self.rows_seen += other.rows_seen
        return self

    def to_bytes(self) -> bytes:
        """The reservoir as bytes (an Arrow stream), for another process: about what its rows take."""
        self._cut()
        if not self._parts:
            raise ValueError("a reservoir must have seen a batch to be bytes, but it has not; call update first")
        state, table = self._parts[0], self._payloads[0]
        for name in FIELDS:
            table = table.append_column(PREFIX + name, pa.array(state[name]))
        table = table.append_column(PREFIX + "beyond", pa.array(self._beyond))
        settings = {name: getattr(self, name) for name in SETTINGS} | {"rows_seen": self.rows_seen}
        groups = self.groups.to_table()
        about = {b"argumbel": json.dumps(settings).encode()}
        out = pa.BufferOutputStream()
        for part in (table.replace_schema_metadata({**(table.schema.metadata or {}), **about}), groups):
            with pa.ipc.new_stream(out, part.schema) as writer:
                writer.write_table(part)
        return out.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Reservoir:
        """The reservoir that :meth:`to_bytes` wrote."""
        stream = pa.BufferReader(data)
        table, groups = pa.ipc.open_stream(stream).read_all(), pa.ipc.open_stream(stream).read_all()
        settings = json.loads(table.schema.metadata[b"argumbel"])
        rows_seen, cost, budget = settings.pop("rows_seen"), settings.pop("cost"), settings.pop("budget")
        limit = None if budget is None else (cost, budget) if cost else f"{Decimal(budget):f}B"
        reservoir = cls(**settings, budget=limit)
        reservoir.rows_seen = rows_seen
        reservoir.groups = Groups.from_table(reservoir.by, groups, reservoir.groups.in_logs)
        inner = [name for name in table.column_names if name.startswith(PREFIX)]
        reservoir._parts = [
            {name: table[PREFIX + name].to_numpy().astype(kind, copy=False) for name, kind in FIELDS.items()}
        ]
        reservoir._beyond = table[PREFIX + "beyond"].to_numpy()
        metadata = {name: value for name, value in table.schema.metadata.items() if name != b"argumbel"}
        reservoir._payloads = [table.drop_columns(inner).replace_schema_metadata(metadata or None)]
        return reservoir
