"""The rows that may be in a sample: what is kept of them, and which are the first."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ._columns import take
from ._groups import Groups

__all__ = ["Kept"]

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
PREFIX = "__argumbel_"  # of the columns of a table of rows kept that the user's rows do not have


class Kept:
    """The first k rows of each group by time, or those within the budget, then the one that is the threshold.

    Args:
        groups: the groups of rows; their bars are set here.
        k: rows of a group, or ids; None: any number.
        budget: the greatest sum of costs of a group; None: any.
        unit, key: as :class:`Reservoir` takes them.
    """

    def __init__(self, groups: Groups, k: int | None, budget: float | None, unit: str, key: tuple[str, ...]) -> None:
        self.groups, self.k, self.budget, self.unit, self.key = groups, k, budget, unit, key
        # What was kept, in order, and what came since; of each row its numbers here, and what is kept of its columns.
        self._parts: list[dict[str, np.ndarray]] = []
        self._payloads: list[pa.Table] = []
        self._rows = 0  # when last some were dropped
        self.beyond = np.zeros(0, bool)  # of the rows kept: the thresholds, which are not in the sample

    @property
    def has_begun(self) -> bool:
        """Whether it is known which columns rows have."""
        return bool(self._parts)

    # --- rows in ---------------------------------------------------------------------------------------------------

    def begin(self, payload: pa.Table) -> None:
        """Before the first rows, which have these columns: none are kept."""
        if not self._parts:
            self._parts = [{name: np.zeros(0, kind) for name, kind in FIELDS.items()}]
            self._payloads = [payload.slice(0, 0)]

    def add(self, numbers: dict[str, np.ndarray], payload: pa.Table) -> None:
        """More rows: their ``FIELDS``, and their columns."""
        self._parts.append(numbers)
        self._payloads.append(payload)
        if self._count() >= 2 * self._rows + 4096:
            self._trim()
            self._rows = self._count()

    def merge(self, other: Kept, to: np.ndarray) -> None:
        """Add the rows of another one, after both were cut; ``to`` has the numbers here of its groups."""
        if not other._parts:
            return
        self.begin(other._payloads[0])
        theirs = {**other._parts[0], "group": to[other._parts[0]["group"]]}
        self._parts = [*self._parts, theirs]
        # A column that holds nothing but nulls in one of them takes the type that it has in the other.
        payloads = [*self._payloads, other._payloads[0]]
        schema = pa.unify_schemas([payload.schema for payload in payloads], promote_options="permissive")
        self._payloads = [payload.cast(schema) for payload in payloads]
        self.cut()

    def _count(self) -> int:
        return sum(len(part["time"]) for part in self._parts)

    # --- the first k -----------------------------------------------------------------------------------------------

    def _trim(self) -> None:
        """Drop rows that have become useless. In the plain case without a sort: twice as fast as :meth:`cut`."""
        if self.groups.names or self.budget is not None or self.unit == "key" or self.k is None:
            self.cut()
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

    def cut(self) -> None:
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
        if self.k is not None:
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
        keep, self.beyond = order[stays], beyond[stays]
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

    # --- rows out --------------------------------------------------------------------------------------------------

    def first(self) -> tuple[pa.Table, dict[str, np.ndarray]]:
        """The rows of the sample, and their ``FIELDS``."""
        self.cut()
        drawn = ~self.beyond
        numbers = {name: values[drawn] for name, values in self._parts[0].items()}
        return take(self._payloads[0], np.flatnonzero(drawn)), numbers

    def to_table(self) -> pa.Table:
        """All that is kept, as one table."""
        self.cut()
        table = self._payloads[0]
        for name in FIELDS:
            table = table.append_column(PREFIX + name, pa.array(self._parts[0][name]))
        return table.append_column(PREFIX + "beyond", pa.array(self.beyond))

    def fill(self, table: pa.Table) -> None:
        """Keep what :meth:`to_table` wrote."""
        inner = [name for name in table.column_names if name.startswith(PREFIX)]
        self._parts = [
            {name: table[PREFIX + name].to_numpy().astype(kind, copy=False) for name, kind in FIELDS.items()}
        ]
        self.beyond = table[PREFIX + "beyond"].to_numpy()
        self._payloads = [table.drop_columns(inner)]
