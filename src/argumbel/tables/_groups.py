"""The groups of rows (strata): their numbers, how many rows and how much weight each has, and its bar."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ._columns import column_of
from ._sums import Sums

__all__ = ["Groups", "as_group"]


def as_group(value: Iterable[object]) -> tuple[object, ...]:
    """The values of a group, as they are looked up: NaN is one object, or it would not be found again."""
    return tuple(math.nan if v != v else v for v in value)


class Groups:
    """The values of the columns ``names`` that have come, numbered as they came; without columns one group, ().

    ``sums``, ``bars``: of each group the number of rows and the sum of their weights, and the time from which on a row
    is of no use to the sample. With ``in_logs`` weights come as logarithms, and ``logs`` are those of the sums.
    """

    def __init__(self, names: tuple[str, ...], in_logs: bool = False) -> None:
        self.names, self.in_logs = names, in_logs
        self.values: dict[tuple[object, ...], int] = {}
        self.kinds: list[pa.DataType] = []
        self.sums, self.logs, self.bars = Sums(), np.zeros(0), np.zeros(0)
        if not names:
            self._number(())
        self._grow()

    def __len__(self) -> int:
        return len(self.values)

    def _number(self, value: tuple[object, ...]) -> int:
        value = as_group(value)
        found = self.values.get(value)
        if found is None:
            found = self.values[value] = len(self.values)
        return found

    def _grow(self) -> None:
        """Room for the groups that have got a number: once for many, since it copies what there is."""
        more = len(self) - len(self.bars)
        if more:
            self.sums.resize(len(self))
            self.logs = np.append(self.logs, np.full(more, -np.inf))
            self.bars = np.append(self.bars, np.full(more, np.inf))

    @property
    def rows(self) -> np.ndarray:
        """The number of rows of each group."""
        return self.sums.rows

    @property
    def weight(self) -> np.ndarray:
        """The sum of weights of each group; with ``in_logs`` its logarithm."""
        return self.logs if self.in_logs else self.sums.values()

    def codes(self, table: pa.Table) -> Tensor | None:
        """The group of each row, int32; None where there are no columns."""
        if not self.names:
            return None
        columns = [column_of(table, "by", name) for name in self.names]
        self.kinds = self.kinds or [c.type.value_type if pa.types.is_dictionary(c.type) else c.type for c in columns]
        together, dictionaries = np.zeros(len(table), np.int64), []
        for column in columns:
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            encoded = column.dictionary_encode(null_encoding="encode")
            dictionaries.append(encoded.dictionary.to_pylist())
            together = together * len(dictionaries[-1]) + encoded.indices.to_numpy()
        present, inverse = np.unique(together, return_inverse=True)
        numbers = np.empty(len(present), np.int32)
        for i, code in enumerate(present.tolist()):
            value = []
            for dictionary in reversed(dictionaries):
                code, place = divmod(code, len(dictionary))
                value.append(dictionary[place])
            numbers[i] = self._number(tuple(reversed(value)))
        self._grow()
        return torch.from_numpy(numbers[inverse])

    def count(self, weights: Tensor, of: Tensor | None) -> None:
        """Add rows of these weights (``in_logs``: logarithms of weights)."""
        if self.in_logs:
            self._count_logs(weights.numpy(), of)
            return
        bad = self.sums.add(weights, of)
        assert not bad  # who counts has looked at the weights

    def _count_logs(self, logs: np.ndarray, of: Tensor | None) -> None:
        code = np.zeros(len(logs), np.int64) if of is None else of.numpy()
        largest = np.full(len(self), -np.inf)
        np.maximum.at(largest, code, logs)
        base = np.where(np.isfinite(largest), largest, 0)
        with np.errstate(divide="ignore"):
            added = base + np.log(np.bincount(code, np.exp(logs - base[code]), minlength=len(self)))
        self.sums.rows += np.bincount(code, minlength=len(self))
        self.logs = np.logaddexp(self.logs, added)

    def merge(self, other: Groups) -> np.ndarray:
        """Add what other has counted; the numbers here of its groups."""
        if any(map(pa.types.is_null, self.kinds or [pa.null()])):  # no value came here yet, or nothing but nulls
            self.kinds = other.kinds
        to = np.array([self._number(value) for value in other.values], np.int32)
        self._grow()
        self.sums.merge(other.sums, to)
        self.logs[to] = np.logaddexp(self.logs[to], other.logs)
        return to

    def to_table(self) -> pa.Table:
        """The groups as a table: the columns of their values, then what is known of each."""
        columns = [pa.array([v[i] for v in self.values], kind) for i, kind in enumerate(self.kinds)]
        names = [*(self.names if self.kinds else ()), "rows", "weight", "bar"]
        return pa.table([*columns, self.rows, self.weight, self.bars], names)

    def to_state(self) -> pa.Table:
        """All there is to know, for :meth:`fill`."""
        limbs = {str(self.sums.lowest + place): column for place, column in enumerate(self.sums.limbs.T)}
        table = self.to_table()
        table = table.append_column("logs", pa.array(self.logs))
        for name, column in limbs.items():
            table = table.append_column(name, pa.array(column))
        return table.replace_schema_metadata({"values": str(len(self.kinds)), "lowest": str(self.sums.lowest)})

    def fill(self, state: pa.Table) -> None:
        """Take what :meth:`to_state` wrote, where nothing was counted yet."""
        about = {name.decode(): int(value) for name, value in state.schema.metadata.items()}
        inner, (rows, _, bars, logs, *limbs) = state.columns[: about["values"]], state.columns[about["values"] :]
        self.kinds = [column.type for column in inner]
        for value in zip(*(column.to_pylist() for column in inner), strict=True):
            self._number(value)
        self.sums.rows, self.bars, self.logs = (column.to_numpy().copy() for column in (rows, bars, logs))
        self.sums.lowest, self.sums.limbs = about["lowest"], np.zeros((len(self), len(limbs)), np.int64)
        for place, column in enumerate(limbs):
            self.sums.limbs[:, place] = column.to_numpy()
