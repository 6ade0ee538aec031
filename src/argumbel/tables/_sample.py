"""A weighted sample of rows, and what it tells about all of them."""

from __future__ import annotations

import copy
import warnings
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ._columns import Names, as_names, column_of
from ._groups import Groups

__all__ = ["Estimate", "Sample"]

FEW = 20  # effective rows behind an estimate: with fewer, its standard error is not to be trusted


class Estimate(NamedTuple):
    """An estimated sum: its value, its standard error, and the effective number of sampled rows behind it."""

    value: float
    stderr: float
    rows: float


class Sample:
    """Rows that were drawn, in the order of arrival (with groups: group after group), and what they stand for.

    Attributes:
        table: the rows. Two columns are added: ``_key``, the time of arrival (with decay its logarithm), and
            ``_weight``, how many rows of the whole a row stands for: one over its probability to be drawn, given the
            threshold. The sum of ``_weight`` times x estimates the sum of x, without bias.
        thresholds: of each group, the least time that was not drawn; infinite where all rows were.
        groups: of each group, its values, the number of rows and the sum of weights of the whole (``weight``; with
            decay its logarithm, ``log_weight``); a table.
        method: how rows were drawn.
    """

    def __init__(
        self,
        rows: pa.Table,
        drawn: dict[str, np.ndarray],
        bars: np.ndarray,
        groups: Groups,
        method: str,
        scales: np.ndarray,
        rate: float | None = None,
    ) -> None:
        self.method = method
        self.thresholds = bars
        counted = groups.to_table()
        names = [*counted.column_names[:-2], "weight" if rate is None else "log_weight"]
        self.groups = counted.drop_columns(["bar"]).rename_columns(names)
        self.positions = drawn["position"]
        self._weights, self._group = drawn["weight"], drawn["group"]
        self._ids = np.stack([drawn["row"], drawn["item"]])
        self._totals = groups.weight.copy()
        w, bar = self._weights, bars[self._group]
        self._rate, self._grown = rate, drawn["grown"]
        if rate is not None:
            reach = np.exp(np.minimum(w + bar, 700))  # the greatest noise with which the row is drawn
            self._p = np.minimum(1.0, reach) if method == "priority" else -np.expm1(-reach)
            # Estimates need weights in proportion to the sum of their group only.
            self._totals = np.where(np.isneginf(groups.weight), 0.0, 1.0)
            self._weights = np.exp(w - groups.weight[self._group])
        elif method == "gumbel":
            self._p = np.where(np.isinf(bar), 1.0, -np.expm1(-w * np.where(np.isinf(bar), 0, bar)))
        elif method == "priority":
            self._p = np.minimum(1.0, w * bar)
        else:
            self._p = np.minimum(1.0, w * scales[self._group])
        self._times = drawn["time"]
        self.table = self._complete(rows)

    @cached_property
    def _unit(self) -> np.ndarray:
        """The number of each row's id, among the ids of the sample."""
        order = np.lexsort(self._ids)
        ids, unit = self._ids[:, order], np.zeros(len(order), np.int64)
        unit[order[1:]] = np.cumsum((ids[:, 1:] != ids[:, :-1]).any(0))
        return unit

    def _complete(self, rows: pa.Table) -> pa.Table:
        added = pa.table({"_key": self._times, "_weight": 1 / self._p})
        for name in added.column_names if rows.num_columns else ():
            rows = rows.append_column(name, added[name])
        return rows if rows.num_columns else added

    def with_rows(self, rows: pa.Table) -> Sample:
        """The same sample; its rows have these columns."""
        other = copy.copy(self)
        other.table = other._complete(rows)
        return other

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        rows, weights = int(self.groups["rows"].to_numpy().sum()), self.groups.column(-1).to_numpy()
        weight = f"weight {weights.sum():g}" if self._rate is None else f"log weight {np.logaddexp.reduce(weights):g}"
        return f"Sample({len(self):,} of {rows:,} rows, of total {weight}, method={self.method!r})"

    def estimate(
        self, column: str | None, by: Names = None, *, calibrate: bool = True, at: float | None = None
    ) -> Estimate | pa.Table:
        """``sum_i x_i`` over all rows of the table, from the rows drawn: ``sum over drawn rows of x_i / p_i``.

        Calibrated, the estimate is multiplied, in each group of the sample, by the known sum of weights over its own
        estimate: where x is nearly proportional to the weights this takes away most of the error, at the price of a
        bias of order 1 / k.

        Args:
            column: the column x of numbers; null counts as 0. None: x = 1, so that the sum is a number of rows.
            by: columns; one sum for each of their values.
            calibrate: use the known sum of weights. False: the Horvitz-Thompson estimate, exactly unbiased.
            at: a time (of timestamps, seconds since 1970), of a sample with decay: the sum as it is then, that is, the
                sum of ``x_i exp(rate (t_i - at))``.

        Returns:
            :class:`Estimate`; with ``by`` a table of the columns of ``by``, ``value``, ``stderr`` and ``rows``.

        Warns:
            RuntimeWarning: fewer than 20 effective rows are behind an estimate: its standard error is then too small
                more often than not.

        Raises:
            ValueError: the sample has no such column; ``at`` of a sample without decay.

        Example:
            >>> import pyarrow as pa
            >>> from argumbel.tables import sample
            >>> table = pa.table({"price": [float(i) for i in range(1, 1001)]})
            >>> drawn = sample(table, 100, weights="price", seed=0)
            >>> round(drawn.estimate("price").value)  # in proportion to the weights: exact
            500500

        Source: Horvitz and Thompson 1952, "A generalization of sampling without replacement from a finite universe";
        Duffield, Lund and Thorup 2007, "Priority sampling for estimation of arbitrary subset sums".
        """
        if column is None:
            x = np.ones(len(self))
        else:
            x = pc.fill_null(column_of(self.table, "column", column).cast(pa.float64()), 0.0).to_numpy()
        if at is not None:
            if self._rate is None:
                raise ValueError(f"at must be for a sample with decay, but it is {at} for one without; leave it out")
            x = x * np.exp(self._grown - self._rate * at)
        names = as_names("by", by)
        if not names:
            return self._warned(self._sum(x, np.ones(len(self), bool), calibrate), "the estimate")
        domains = Groups(names)
        codes = domains.codes(self.table)
        assert codes is not None
        found = [self._sum(x, codes.numpy() == code, calibrate) for code in range(len(domains))]
        few = [i for i, estimate in enumerate(found) if estimate.stderr > 0 and estimate.rows < FEW]
        if few:
            value = list(domains.values)[few[0]]
            self._warned(found[few[0]], f"{len(few)} of {len(found)} estimates, among them {names} = {value},")
        columns = domains.to_table().select(list(names))
        for name, values in zip(Estimate._fields, zip(*found, strict=True), strict=True):
            columns = columns.append_column(name, pa.array(values, pa.float64()))
        return columns

    def _warned(self, estimate: Estimate, what: str) -> Estimate:
        if estimate.stderr > 0 and estimate.rows < FEW:
            warnings.warn(
                f"{what} has about {estimate.rows:.1f} rows of the sample behind it, fewer than {FEW}: the standard "
                "error is not to be trusted; draw more rows, or sample each group by itself (by=)",
                RuntimeWarning,
                stacklevel=3,
            )
        return estimate

    def _sum(self, x: np.ndarray, domain: np.ndarray, calibrate: bool) -> Estimate:
        # Rows of one id are drawn together: what counts is their sum.
        unit = self._unit
        units = unit.max() + 1 if len(x) else 0
        first = np.zeros(units, np.int64)
        first[unit] = np.arange(len(x))
        x = np.bincount(unit, np.where(domain, x, 0.0), minlength=units)
        w = np.bincount(unit, self._weights, minlength=units)
        p, group = self._p[first], self._group[first]
        groups = len(self._totals)
        each = np.bincount(group, x / p, minlength=groups)
        scale, residual = np.ones(groups), x
        if calibrate:
            known = np.bincount(group, w / p, minlength=groups)
            scale = np.divide(self._totals, known, out=np.ones(groups), where=known > 0)
            slope = np.divide(each, known, out=np.zeros(groups), where=known > 0)
            residual = x - slope[group] * w
        if self.method == "pareto":
            q = 1 - p
            share = np.bincount(group, q, minlength=groups)
            centre = np.divide(
                np.bincount(group, q * residual / p, minlength=groups), share, out=np.zeros(groups), where=share > 0
            )
            drawn = np.bincount(group, minlength=groups)
            factor = np.divide(drawn, drawn - 1, out=np.ones(groups), where=drawn > 1)
            variance = np.bincount(group, q * (residual / p - centre[group]) ** 2, minlength=groups) * factor
        else:
            variance = np.bincount(group, residual**2 * (1 - p) / p**2, minlength=groups)
        a = np.abs(x / p)
        rows = float(a.sum() ** 2 / (a**2).sum()) if a.any() else 0.0
        return Estimate(float((scale * each).sum()), float(np.sqrt((scale**2 * variance).sum())), rows)
