"""The groups of rows (strata): their numbers, how many rows and how much weight each has, and its bar."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ._columns import column_of

__all__ = ["Groups"]


class Groups:
    """The values of the columns ``names`` that have come, numbered as they came; without columns one group, ().

    ``rows``, ``weight``, ``bars``: of each group the number of rows, the sum of their weights (``in_logs``: its
    logarithm), and the time from which on a row is of no use to the sample.
    """

    def __init__(self, names: tuple[str, ...], in_logs: bool = False) -> None:
        self.names, self.in_logs = names, in_logs
        self.values: dict[tuple[object, ...], int] = {}
        self.kinds: list[pa.DataType] = []
        self.rows, self.weight, self.bars = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        if not names:
            self._number(())
        self._grow()

    def __len__(self) -> int:
        return len(self.values)

    def _number(self, value: tuple[object, ...]) -> int:
        found = self.values.get(value)
        if found is None:
            found = self.values[value] = len(self.values)
        return found

    def _grow(self) -> None:
        """Room for the groups that have got a number: once for many, since it copies what there is."""
        more = len(self) - len(self.rows)
        if more:
            self.rows = np.append(self.rows, np.zeros(more, np.int64))
            self.weight = np.append(self.weight, np.full(more, -np.inf if self.in_logs else 0.0))
            self.bars = np.append(self.bars, np.full(more, np.inf))

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
        w = weights.double()
        if of is None:
            self.rows[0] += len(w)
            self.weight[0] += float(w.sum())
            return
        self.rows += np.bincount(of.numpy(), minlength=len(self))
        self.weight += np.bincount(of.numpy(), w.numpy(), minlength=len(self))

    def _count_logs(self, logs: np.ndarray, of: Tensor | None) -> None:
        code = np.zeros(len(logs), np.int64) if of is None else of.numpy()
        largest = np.full(len(self), -np.inf)
        np.maximum.at(largest, code, logs)
        base = np.where(np.isfinite(largest), largest, 0)
        with np.errstate(divide="ignore"):
            added = base + np.log(np.bincount(code, np.exp(logs - base[code]), minlength=len(self)))
        self.rows += np.bincount(code, minlength=len(self))
        self.weight = np.logaddexp(self.weight, added)

    def merge(self, other: Groups) -> np.ndarray:
        """Add what other has counted; the numbers here of its groups."""
        if any(map(pa.types.is_null, self.kinds or [pa.null()])):  # no value came here yet, or nothing but nulls
            self.kinds = other.kinds
        to = np.array([self._number(value) for value in other.values], np.int32)
        self._grow()
        self.rows[to] += other.rows
        self.weight[to] = (
            np.logaddexp(self.weight[to], other.weight) if self.in_logs else self.weight[to] + other.weight
        )
        return to

    def to_table(self) -> pa.Table:
        """The groups as a table: the columns of their values, then what is known of each."""
        columns = [pa.array([v[i] for v in self.values], kind) for i, kind in enumerate(self.kinds)]
        names = [*(self.names if self.kinds else ()), "rows", "weight", "bar"]
        return pa.table([*columns, self.rows, self.weight, self.bars], names)

    def fill(self, table: pa.Table) -> None:
        """Take what :meth:`to_table` wrote, where nothing was counted yet."""
        inner = table.columns[: len(table.columns) - 3]
        self.kinds = [column.type for column in inner]
        for value in zip(*(column.to_pylist() for column in inner), strict=True):
            self._number(value)
        self.rows, self.weight, self.bars = (c.to_numpy().copy() for c in table.columns[-3:])
