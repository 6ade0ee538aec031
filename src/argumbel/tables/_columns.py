"""Columns of a table as the race wants them: weights, ids of rows, groups."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from .._core.checks import number
from ..kernels import xxh64

__all__ = [
    "Names",
    "as_budget",
    "as_names",
    "as_table",
    "column_of",
    "from_bytes",
    "ids_of",
    "needed",
    "raise_bad_weights",
    "row_bytes",
    "take",
    "to_bytes",
    "weights_of",
]

Names = str | Sequence[str] | None


def as_names(what: str, names: Names) -> tuple[str, ...]:
    """The names of columns that an argument gives: one, several or none."""
    if names is None:
        return ()
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"{what} must be the name of a column, or several, but a name is a {type(name).__name__}; pass strings"
            )
    return names


def as_budget(budget: tuple[str, float] | str | None) -> tuple[str | None, float | None]:
    """The column of costs (None: bytes) and their greatest sum."""
    if budget is None:
        return None, None
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([kMGT]?)B\s*", budget)
        if match is None:
            raise ValueError(f"budget must be like '100MB' or (column, total), but it is {budget!r}; write '1.5GB'")
        return None, float(match[1]) * 1000 ** " kMGT".index(match[2] or " ")
    column, total = budget
    return column, number("budget", total, least=0)


def needed(
    weights: str | None,
    key: Names,
    by: Names,
    budget: tuple[str, float] | str | None,
    decay: tuple[str, float] | None,
) -> list[str]:
    """The columns that a draw looks at, each once."""
    cost = None if budget is None or isinstance(budget, str) else budget[0]
    time = None if decay is None else decay[0]
    names = [*(name for name in (weights, cost, time) if name), *as_names("key", key), *as_names("by", by)]
    return list(dict.fromkeys(names))


def as_table(batch: Any) -> pa.Table:
    """A batch of rows in whatever form, as an Arrow table."""
    if isinstance(batch, pa.Table):
        return _without_views(batch)
    if isinstance(batch, pa.RecordBatch):
        return _without_views(pa.Table.from_batches([batch]))
    if isinstance(batch, dict) or any(hasattr(batch, f"__arrow_c_{kind}__") for kind in ("array", "stream")):
        return _without_views(pa.table(batch))
    raise TypeError(
        f"a batch must be an Arrow table, a dict of columns or a data frame (of pandas, Polars, ...), but it is a "
        f"{type(batch).__name__}; pass pyarrow.table(...)"
    )


def _without_views(table: pa.Table) -> pa.Table:
    """The table; strings that are views, as those of Polars are, become plain ones: Arrow cannot pick rows of views."""
    for place, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            plain = pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
            table = table.set_column(place, field.with_type(plain), table.column(place).cast(plain))
    return table


def column_of(table: pa.Table, what: str, name: str) -> pa.Array:
    """A column in one piece."""
    try:
        column = table.column(name)
    except KeyError:
        raise ValueError(
            f"{what} must be a column of the table, of {table.column_names}, but it is {name!r}; name one of these"
        ) from None
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def tensor_of(column: pa.Array) -> Tensor:
    """Numbers of Arrow, none of them null, as a tensor of the same memory."""
    dtype = torch.from_numpy(np.empty(0, column.type.to_pandas_dtype())).dtype
    return _view(column.buffers()[1], dtype, len(column), column.offset)


def _view(buffer: pa.Buffer | None, dtype: torch.dtype, count: int, offset: int = 0) -> Tensor:
    if buffer is None or not count:
        return torch.empty(0, dtype=dtype, device="cpu")
    # Arrow's memory is read-only, of which torch would warn; nothing here writes to it.
    memory = (ctypes.c_char * buffer.size).from_address(buffer.address)
    memory.owner = buffer  # lives as long as the tensor
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset * dtype.itemsize)


def weights_of(table: pa.Table, name: str, nulls: str, first: int) -> Tensor:
    """The weights of rows, float32 or float64; their values are not checked. ``first`` is the first row's number."""
    column = column_of(table, "weights", name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_decimal(column.type)):
        raise TypeError(f"weights must be a column of numbers, but the type of {name!r} is {column.type}; cast it")
    if column.null_count:
        if nulls != "zero":
            row = first + pc.index(column.is_null(), True).as_py()
            raise ValueError(
                f"weights must not be null, but {name!r} is in row {row}; pass nulls='zero' to leave such rows out"
            )
        column = pc.fill_null(column, pa.scalar(0).cast(column.type))
    keep = pa.types.is_float32(column.type) or pa.types.is_float64(column.type)
    return tensor_of(column if keep else column.cast(pa.float64(), safe=False))


def raise_bad_weights(weights: Tensor, name: str, first: int) -> None:
    """Say which weight is none, of those in which one is."""
    row = int((~((weights >= 0) & weights.isfinite())).nonzero()[0])
    raise ValueError(
        f"weights must be finite and at least 0, but {name!r} is {weights[row].item()} in row {first + row}; leave the "
        "row out, or give it weight 0"
    )


def ids_of(table: pa.Table, names: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
    """The ids of rows: 64 bits where numbers have no more, and 128 bits, in two tensors, of anything else."""
    columns = [column_of(table, "key", name) for name in names]
    for name, column in zip(names, columns, strict=True):
        if column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise ValueError(
                f"key must tell rows apart, but {name!r} is null in row {row} of a batch; fill nulls, or leave these "
                "rows out"
            )
    if len(columns) == 1:
        number = _as_int64(columns[0], names[0])
        return (tensor_of(number), None) if number is not None else _hashed(_as_binary(columns[0], names[0]))
    # Several columns: the texts, each after its length, so that no two rows have the same bytes by chance.
    parts = []
    for name, column in zip(names, columns, strict=True):
        number = _as_int64(column, name)
        text = _as_binary(column if number is None else number.cast(pa.string()), name)
        parts += [pc.binary_length(text).cast(pa.string()).cast(pa.large_binary()), text]
    colon = pa.scalar(b":", pa.large_binary())
    return _hashed(pc.binary_join_element_wise(*parts, colon))


def _as_int64(column: pa.Array, name: str) -> pa.Array | None:
    """A column whose values are whole numbers of 64 bits; None: it is another kind of column."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        if _as_int64(column.dictionary, name) is None:
            return None
        return _as_int64(column.dictionary_decode(), name)
    if pa.types.is_uint64(kind):
        return column.view(pa.int64())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.int64())
    if pa.types.is_date32(kind):
        return column.cast(pa.int32()).cast(pa.int64())
    if pa.types.is_date64(kind):
        return column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if pa.types.is_timestamp(kind):
        try:
            return column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())
        except pa.ArrowInvalid:
            raise ValueError(
                f"key must be exact in microseconds, but {name!r} has finer times; cast it to int64 (nanoseconds)"
            ) from None
    return None


def _as_binary(column: pa.Array, name: str) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_binary(column.dictionary_decode(), name)  # XXH64 costs less than to look up would save
    if pa.types.is_decimal(kind):
        return column.cast(pa.string()).cast(pa.large_binary())
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    if any(is_kind(kind) for is_kind in text):
        return column.cast(pa.large_string()).cast(pa.large_binary())
    if any(is_kind(kind) for is_kind in binary):
        return column.cast(pa.large_binary())
    raise TypeError(
        f"key must be of integers, dates, timestamps, decimals, strings or bytes, but the type of {name!r} is {kind}; "
        "rows are best told apart by a column that is exact, so cast it to one of these"
    )


def _hashed(text: pa.Array) -> tuple[Tensor, Tensor]:
    _, offsets, data = text.buffers()
    ends = _view(offsets, torch.int64, len(text) + 1, text.offset) if len(text) else torch.zeros(1, dtype=torch.int64)
    whole = _view(data, torch.uint8, data.size if data is not None else 0)
    return xxh64(whole, ends, 0), xxh64(whole, ends, 1)


def take(table: pa.Table, places: np.ndarray) -> pa.Table:
    """The rows at these places. (Without columns Arrow forgets how many there are.)"""
    return table.take(pa.array(places)) if table.num_columns else table


def to_bytes(*tables: pa.Table) -> bytes:
    """Tables as streams of Arrow, one after another."""
    out = pa.BufferOutputStream()
    for table in tables:
        with pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return out.getvalue().to_pybytes()


def from_bytes(data: bytes) -> list[pa.Table]:
    """The tables of :func:`to_bytes`."""
    stream, tables = pa.BufferReader(data), []
    while stream.tell() < stream.size():
        tables.append(pa.ipc.open_stream(stream).read_all())
    return tables


def row_bytes(table: pa.Table) -> np.ndarray:
    """The bytes of each row in Arrow's memory."""
    total = np.zeros(len(table))
    for name in table.column_names:
        column = column_of(table, "columns", name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            total += column.type.bit_width / 8
        except ValueError:
            try:
                total += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False) + 4
            except pa.ArrowNotImplementedError:
                raise TypeError(
                    f"budget in bytes must be of numbers, strings and bytes, but {name!r} is {column.type}; pass "
                    "(column of costs, total)"
                ) from None
    return total
