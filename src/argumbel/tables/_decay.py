"""Weights that grow with the time of a row, in logarithms: what is old counts less, and nothing is ever rescaled."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from .. import kernels
from .._core.checks import number
from ._columns import column_of, raise_bad_weights

__all__ = ["arrivals_of_logs", "as_decay", "log_weights"]

SLACK = 1e-12  # of a logarithm, and of 1: far beyond the error of a sum of two
HIGHEST = 700.0  # of logarithms whose exponential is finite


def as_decay(decay: tuple[str, float] | None) -> tuple[str, float] | None:
    """The column of times and the rate."""
    if decay is None:
        return None
    try:
        column, rate = decay
    except (TypeError, ValueError):
        column = None
    if not isinstance(column, str):
        raise TypeError(
            f"decay must be (column of times, rate), but it is {decay!r}; pass ('time', log(2) / half of life)"
        )
    return column, number("rate", rate, least=0)


def log_weights(
    table: pa.Table, weights: Tensor, name: str, decay: tuple[str, float], first: int
) -> tuple[Tensor, np.ndarray]:
    """``log w + rate t`` of each row, and ``rate t``. ``first`` is the first row's number."""
    column, rate = decay
    grown = rate * _times(table, column, first)
    w = weights.double().numpy()
    if not (np.isfinite(w) & (w >= 0)).all():
        raise_bad_weights(weights, name, first)
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(w) + grown), grown


def _times(table: pa.Table, name: str, first: int) -> np.ndarray:
    column = column_of(table, "decay", name)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        # The time of day counts within a second as far as float64 tells: to less than a microsecond.
        unit = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit] if pa.types.is_timestamp(kind) else 1e3
        whole = column if pa.types.is_timestamp(kind) else column.cast(pa.date64())
        column, unit = whole.cast(pa.int64()).cast(pa.float64(), safe=False), float(unit)
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        column, unit = column.cast(pa.float64(), safe=False), 1.0
    else:
        raise TypeError(f"decay must be of a column of times or numbers, but the type of {name!r} is {kind}; cast it")
    times = pc.fill_null(column, np.nan).to_numpy(zero_copy_only=False) / unit
    if not np.isfinite(times).all():
        row = int(np.flatnonzero(~np.isfinite(times))[0])
        raise ValueError(
            f"decay must be of times that are finite, but {name!r} is {column[row].as_py()} in row {first + row}; "
            "leave the row out"
        )
    return times


def arrivals_of_logs(
    logs: Tensor,
    law: str,
    bars: np.ndarray,
    of: Tensor | None,
    first: int,
    key: tuple[int, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Rows whose ``log noise - log weight`` is at most their bar, and a few more: these logarithms, and the places.

    A row's number is a function of its id, its weight and its time alone, whatever the batch.
    """
    seed, rows, items = key
    bar = bars[0] if of is None else torch.from_numpy(bars)[of.long()]
    # The row comes while its noise is at most exp(log weight + bar). Noise is above 1e-300, so what underflows is late.
    near = logs + bar + SLACK * (1 + logs.abs().nan_to_num(posinf=0))
    reach = near.nan_to_num(nan=-np.inf, posinf=HIGHEST, neginf=-np.inf).clamp(max=HIGHEST).exp()
    _, at, _ = kernels.arrivals(reach, law, 0.0, torch.ones(1, dtype=torch.float64), None, first, key)
    ids = (first + at) if items is None else items[at]
    rows = None if rows is None else rows[at]
    always = torch.full((1,), np.inf, dtype=torch.float64)
    noise, _, _ = kernels.arrivals(
        torch.ones(len(at), dtype=torch.float64), law, 0.0, always, None, 0, (seed, rows, ids)
    )
    return torch.from_numpy(np.log(noise.numpy())) - logs[at], at
