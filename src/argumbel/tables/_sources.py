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

from ._columns import as_table

__all__ = ["Files", "Source", "open_source"]

BATCH = 1 << 20  # rows that are read at a time
FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv",
    ".arrow": "ipc", ".feather": "ipc", ".ipc": "ipc",
}  # fmt: skip


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
        for batch in self._dataset.to_batches(columns=columns, batch_size=BATCH, fragment_readahead=2):
            yield as_table(batch)

    def count(self) -> int | None:
        kind = getattr(self._dataset, "format", None)
        return self._dataset.count_rows() if isinstance(kind, (ds.ParquetFileFormat, ds.IpcFileFormat)) else None

    def take(self, positions: np.ndarray, columns: list[str] | None) -> pa.Table:
        """The rows of these numbers, in the order of ``positions``."""
        order = np.argsort(positions, kind="stable")
        wanted, found, start = positions[order], [], 0
        for piece, rows in self._pieces():
            table = None
            if rows is None:  # a file that does not say how many rows it has
                table = piece.to_table(columns=columns)
                rows = len(table)
            here = wanted[(wanted >= start) & (wanted < start + rows)] - start
            if len(here):
                found.append((piece.to_table(columns=columns) if table is None else table).take(pa.array(here)))
            start += rows
        schema = self._dataset.schema
        table = pa.concat_tables(found) if found else schema.empty_table().select(columns or schema.names)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return table.take(pa.array(back))

    def _pieces(self) -> Iterator[tuple[Any, int | None]]:
        """The row groups of Parquet files, with their numbers of rows; else whole files."""
        for fragment in self._dataset.get_fragments():
            if isinstance(fragment, ds.ParquetFileFragment):
                for group in fragment.row_groups:
                    yield fragment.subset(row_group_ids=[group.id], schema=self._dataset.schema), group.num_rows
            else:
                yield fragment, None


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
            matches = [str(p) for p in Path(path).rglob("*") if p.is_file() and p.suffix in FORMATS]
        else:
            matches = [path] if Path(path).is_file() else glob.glob(path, recursive=True)
        if not matches:
            raise FileNotFoundError(f"source must be files, but there is none at {path!r}; check the path")
        paths += matches
    kinds = {FORMATS.get(Path(path).suffix.lower()) for path in paths}
    kind = kinds.pop()
    if kinds or kind is None:
        raise ValueError(
            f"source must be files of one kind, named {', '.join(FORMATS)}, but they are {sorted(paths)[:3]}; pass "
            "pyarrow.dataset.dataset(...)"
        )
    if kind == "csv" and paths[0].lower().endswith(".tsv"):
        return ds.dataset(sorted(paths), format=ds.CsvFileFormat(pyarrow.csv.ParseOptions(delimiter="\t")))
    return ds.dataset(sorted(paths), format=kind)
