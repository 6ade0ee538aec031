"""Where rows come from: files, Arrow, data frames, streams."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.fs

from .._core.files import SUFFIXES
from ._columns import as_table, take

__all__ = ["Files", "Source", "open_source"]

BATCH = 1 << 20  # rows that are read at a time


class Source:
    """Rows that come in batches, once; see the subclasses for rows that may be read again."""

    can_repeat = False

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows in order, as tables; of at least these columns (default all)."""
        for batch in self._batches:
            yield as_table(batch)

    def check(self, columns: list[str] | None) -> None:
        """Raise ``ValueError`` for a column that there is not, where columns are known before rows are read."""

    def count(self) -> int | None:
        """The number of rows, where it is known before they are read."""
        return None


class Frame(Source):
    """Anything that gives an Arrow stream whenever it is asked: data frames, relations of an engine."""

    can_repeat = True

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        if isinstance(self._frame, pa.Table):
            yield as_table(self._frame)
            return
        for batch in pa.RecordBatchReader.from_stream(self._frame):
            yield as_table(batch)

    def count(self) -> int | None:
        return len(self._frame) if isinstance(self._frame, pa.Table) else None  # a relation would run its query


class Lazy(Source):
    """A lazy frame of Polars."""

    can_repeat = True

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        frame = self._frame if columns is None else self._frame.select(columns)
        for batch in frame.collect_batches(maintain_order=True):
            yield as_table(batch)


class Files(Source):
    """A dataset of Arrow: Parquet, CSV or Arrow files."""

    can_repeat = True

    def __init__(self, dataset: ds.Dataset) -> None:
        self._dataset = dataset

    def check(self, columns: list[str] | None) -> None:
        names = self._dataset.schema.names
        for name in columns or ():
            if name not in names:
                raise ValueError(f"the files must have the column {name!r}, but they have {names}; name another")

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        self.check(columns)
        return map(as_table, _read(self._dataset, columns))

    def count(self) -> int | None:
        kind = getattr(self._dataset, "format", None)
        return self._dataset.count_rows() if isinstance(kind, (ds.ParquetFileFormat, ds.IpcFileFormat)) else None

    def complete(self, rows: pa.Table, positions: np.ndarray, columns: list[str] | None) -> pa.Table:
        """These columns (default all) of the rows of these numbers; what ``rows`` holds of them is not read again."""
        names = self._dataset.schema.names if columns is None else columns
        missing = [name for name in dict.fromkeys(names) if name not in rows.column_names]
        read = self._take(positions, missing) if missing else rows
        parts = [rows if name in rows.column_names else read for name in names]
        schema = pa.schema([part.schema.field(name) for part, name in zip(parts, names, strict=True)])
        return pa.table([part.column(name) for part, name in zip(parts, names, strict=True)], schema)

    def _take(self, positions: np.ndarray, columns: list[str]) -> pa.Table:
        """The rows of these numbers, in the order of ``positions``."""
        order = np.argsort(positions, kind="stable")
        wanted, start, schema = positions[order], 0, self._dataset.schema
        found = [as_table(pa.schema([schema.field(name) for name in columns]).empty_table())]
        for fragment in self._dataset.get_fragments():
            here, rows = wanted[np.searchsorted(wanted, start) :] - start, 0
            if isinstance(fragment, ds.ParquetFileFragment):
                fragment, here, rows = _row_groups(fragment, here, schema)
            if fragment is not None:
                seen = 0
                for batch in _read(fragment, columns, schema):
                    first, last = np.searchsorted(here, (seen, seen + len(batch)))
                    if last > first:
                        found.append(take(as_table(batch), here[first:last] - seen))
                    seen += len(batch)
                rows = rows or seen
            start += rows
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return take(pa.concat_tables(found), back)


def _row_groups(
    fragment: ds.ParquetFileFragment, rows: np.ndarray, schema: pa.Schema
) -> tuple[ds.ParquetFileFragment | None, np.ndarray, int]:
    """The part of a file that holds some of these rows, their numbers in this part, and the rows of the whole file."""
    groups = fragment.row_groups
    ends = np.cumsum([0, *(group.num_rows for group in groups)])
    rows = rows[: np.searchsorted(rows, ends[-1])]
    of = np.searchsorted(ends, rows, side="right") - 1
    held = np.unique(of)
    starts = np.cumsum([0, *np.diff(ends)[held]])
    part = fragment.subset(row_group_ids=[groups[i].id for i in held], schema=schema) if len(held) else None
    return part, rows - ends[of] + starts[np.searchsorted(held, of)], int(ends[-1])


def _read(rows: ds.Dataset | ds.Fragment, columns: list[str] | None, schema: pa.Schema | None = None) -> Any:
    """Batches, in order. A thread of its own reads ahead only where there is a core for it."""
    more = {} if schema is None else {"schema": schema}
    return rows.to_batches(
        columns=columns, batch_size=BATCH, fragment_readahead=2, use_threads=pa.cpu_count() > 1, **more
    )


def open_source(source: Any) -> Source:
    """Whatever a user calls a table, as a source of batches."""
    if isinstance(source, (str, Path)) or (
        isinstance(source, (list, tuple)) and source and all(isinstance(path, (str, Path)) for path in source)
    ):
        return Files(_dataset(source))
    if isinstance(source, ds.Dataset):
        return Files(source)
    if isinstance(source, pa.RecordBatchReader):
        return Source(source)
    if isinstance(source, (pa.RecordBatch, dict)):
        return Frame(as_table(source))
    if hasattr(source, "collect_batches"):
        return Lazy(source)
    if isinstance(source, pa.Table) or hasattr(source, "__arrow_c_stream__"):
        return Frame(source)
    if isinstance(source, (list, tuple)) or hasattr(source, "__iter__"):
        return Source(source)
    raise TypeError(
        "source must be a path, a table of Arrow, a data frame, or an iterator of batches, but it is a "
        f"{type(source).__name__}; pass pyarrow.table(...)"
    )


def _dataset(source: Any) -> ds.Dataset:
    """The files of a path, a pattern, a folder, or several, sorted: the number of a row is its number in this order."""
    paths: list[str] = []
    for path in [source] if isinstance(source, (str, Path)) else source:
        path = str(path)
        if Path(path).is_dir():
            matches = [str(p) for p in Path(path).rglob("*") if p.is_file() and p.suffix in SUFFIXES]
        else:
            matches = [path] if Path(path).is_file() else glob.glob(path, recursive=True)
        if not matches:
            raise FileNotFoundError(f"source must be files, but there is none at {path!r}; check the path")
        paths += matches
    kinds = {SUFFIXES.get(Path(path).suffix.lower()) for path in paths}
    kind = kinds.pop()
    if kinds or kind is None:
        raise ValueError(
            f"source must be files of one kind, named {', '.join(SUFFIXES)}, but they are {sorted(paths)[:3]}; pass "
            "pyarrow.dataset.dataset(...)"
        )
    tabs = ds.CsvFileFormat(pyarrow.csv.ParseOptions(delimiter="\t"))
    form: Any = {"tsv": tabs, "arrow": "ipc"}.get(kind, kind)
    # Mapped memory spares a copy of all bytes of the file.
    return ds.dataset(sorted(paths), format=form, filesystem=pyarrow.fs.LocalFileSystem(use_mmap=True))
