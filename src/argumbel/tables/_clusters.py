"""Tables whose partitions lie on many machines: Dask, Spark, Ray. Each partition becomes a few bytes, which merge.

An engine is imported only when one of its own tables is handed over. What runs on a worker is a pure function of the
partition: a task that is run again gives the same bytes, and an engine takes the result of one run of each task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from .._core.checks import count
from ._columns import Names, as_names, as_table, needed
from ._reservoir import Reservoir
from ._sample import Sample
from ._scale import Scale

__all__ = ["Cluster", "open_cluster", "sample_cluster"]

FAN = 16  # states that one task merges
GATHER = 1 << 17  # rows that are looked at together: engines hand out small batches
STATE = "state"  # the column of bytes


class States:
    """Makes, reads and merges reservoirs, or scales, of the same arguments; can be sent to a worker."""

    def __init__(self, kind: type[Reservoir] | type[Scale], **arguments: Any) -> None:
        self.kind, self.arguments = kind, arguments

    def new(self) -> Any:
        return self.kind(**self.arguments)

    def read(self, data: bytes) -> Any:
        return self.kind.from_bytes(data)


def partition_bytes(states: States, batches: Iterable[Any]) -> bytes | None:
    """The state of a partition; None if it has no rows: the types of its columns are then often unknown."""
    state: Any = None
    try:
        for table in _gathered(batches):
            state = states.new() if state is None else state
            state.update(table)
    except ValueError as error:
        error.add_note("Rows are numbered within their partition.")
        raise
    return None if state is None else state.to_bytes()


def merge_bytes(states: States, parts: Iterable[bytes | None]) -> bytes | None:
    """The state of several partitions together."""
    merged: Any = None
    for part in parts:
        if part is not None:
            state = states.read(part)
            merged = state if merged is None else merged.merge(state)
    return None if merged is None else merged.to_bytes()


def _gathered(batches: Iterable[Any]) -> Iterator[pa.Table]:
    """The rows in larger tables, none of them empty."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in map(_plain, batches):
        waiting, rows = [*waiting, table], rows + len(table)
        if rows >= GATHER:
            yield pa.concat_tables(waiting, promote_options="permissive")
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting, promote_options="permissive")


def _plain(batch: Any) -> pa.Table:
    """A batch as a table whose types do not depend on its values: partitions must fit together."""
    if type(batch).__module__.partition(".")[0] == "pandas":
        batch = pa.Table.from_pandas(batch, preserve_index=any(name is not None for name in batch.index.names))
    table = as_table(batch).replace_schema_metadata(None)
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            kind = field.type.value_type
            table = table.set_column(place, field.with_type(kind), table.column(place).cast(kind))
    return table


# --- engines -----------------------------------------------------------------------------------------------------


class Cluster(Protocol):
    """A table of an engine."""

    def empty(self, columns: list[str] | None) -> pa.Table:
        """No rows, with these columns."""
        ...

    def reduce(self, states: States, columns: list[str] | None) -> Iterable[bytes | None]:
        """A few states that together are the state of all partitions; of these columns alone (default all)."""
        ...


class Dask:
    """A DataFrame of Dask: a task a partition, then a tree of tasks that merge neighbours."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def _select(self, columns: list[str] | None) -> Any:
        frame = self._frame
        if columns is None:
            return frame
        index = frame.index.name
        if index in columns:
            frame = frame.reset_index()
        _check_columns(columns, list(frame.columns))
        return frame[columns]

    def empty(self, columns: list[str] | None) -> pa.Table:
        return _plain(self._select(columns)._meta)

    def reduce(self, states: States, columns: list[str] | None) -> list[bytes | None]:
        import dask

        of_partition, of_parts = dask.delayed(_partition_of_dask), dask.delayed(merge_bytes)
        parts = [of_partition(states, part) for part in self._select(columns).to_delayed()]
        while len(parts) > FAN:
            parts = [of_parts(states, parts[i : i + FAN]) for i in range(0, len(parts), FAN)]
        return list(dask.compute(*parts))


def _partition_of_dask(states: States, frame: Any) -> bytes | None:
    return partition_bytes(states, [frame])


class Spark:
    """A DataFrame of Spark: mapInArrow makes a row of bytes of each partition, and a few tasks merge these."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def _select(self, columns: list[str] | None) -> Any:
        if columns is None:
            return self._frame
        _check_columns(columns, self._frame.columns)
        return self._frame.select(["`" + name.replace("`", "``") + "`" for name in columns])

    def empty(self, columns: list[str] | None) -> pa.Table:
        return _plain(self._select(columns).limit(0).toArrow())

    def reduce(self, states: States, columns: list[str] | None) -> list[bytes | None]:
        frame = self._select(columns)
        made = frame.mapInArrow(partial(_partition_of_spark, states), f"{STATE} binary")
        # One row a task, which goes where the number of its partition says: so, too, if the task is run again.
        merged = made.repartition(FAN).mapInArrow(partial(_merge_of_spark, states), f"{STATE} binary")
        return [bytes(row[0]) for row in merged.collect()]


def _partition_of_spark(states: States, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from _batch(partition_bytes(states, batches))


def _merge_of_spark(states: States, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield from _batch(merge_bytes(states, (part.as_py() for batch in batches for part in batch.column(0))))


def _batch(data: bytes | None) -> list[pa.RecordBatch]:
    return [] if data is None else [pa.record_batch({STATE: pa.array([data], pa.binary())})]


class Ray:
    """A Dataset of Ray: map_batches makes a row of bytes of each block, then merges several of these."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def empty(self, columns: list[str] | None) -> pa.Table:
        schema = self._dataset.schema()
        kinds = {} if schema is None else dict(zip(schema.names, schema.types, strict=True))
        _check_columns(columns or [], list(kinds))
        # Blocks of pandas have no types of Arrow: what stands in an empty column matters to nobody.
        return pa.schema(
            [(name, kinds[name] if isinstance(kinds[name], pa.DataType) else pa.float64()) for name in columns or kinds]
        ).empty_table()

    def reduce(self, states: States, columns: list[str] | None) -> Iterable[bytes | None]:
        dataset = self._dataset
        if columns is not None:
            _check_columns(columns, dataset.columns() or columns)
            dataset = dataset.select_columns(columns)
        made = dataset.map_batches(partial(_partition_of_ray, states), batch_size=None, batch_format="pyarrow")
        merged = made.map_batches(partial(_merge_of_ray, states), batch_size=FAN, batch_format="pyarrow")
        return (bytes(row[STATE]) for row in merged.iter_rows())


def _partition_of_ray(states: States, block: pa.Table) -> pa.Table:
    return pa.Table.from_batches(_batch(partition_bytes(states, [block])), _STATES)


def _merge_of_ray(states: States, block: pa.Table) -> pa.Table:
    return pa.Table.from_batches(_batch(merge_bytes(states, block.column(STATE).to_pylist())), _STATES)


_STATES = pa.schema([(STATE, pa.binary())])


def _check_columns(wanted: list[str], present: list[str]) -> None:
    for name in wanted:
        if name not in present:
            raise ValueError(f"the table must have the column {name!r}, but it has {present}; name another")


# --- the door ----------------------------------------------------------------------------------------------------


def open_cluster(source: Any) -> Cluster | None:
    """The table of an engine; None if the source is something else. No engine is imported to find out."""
    engines: dict[tuple[str, str], Callable[[Any], Cluster]] = {
        ("dask", "DataFrame"): Dask,
        ("dask_expr", "DataFrame"): Dask,
        ("pyspark", "DataFrame"): Spark,
        ("ray", "Dataset"): Ray,
    }
    for kind in type(source).__mro__:
        if kind.__module__.startswith("pyspark.pandas"):
            return Spark(source.to_spark())
        engine = engines.get((kind.__module__.partition(".")[0], kind.__name__))
        if engine is not None:
            return engine(source)
    return None


def sample_cluster(
    cluster: Cluster,
    k: int | None,
    *,
    weights: str | None,
    key: Names,
    by: Names,
    method: str,
    budget: tuple[str, float] | str | None,
    nulls: str,
    columns: Names,
    decay: tuple[str, float] | None,
    **others: Any,
) -> Sample:
    """:func:`sample` of a table of an engine."""
    if not as_names("key", key):
        raise ValueError(
            "key must be given for a table of Dask, Spark or Ray, but it is None: rows on a cluster have no order, so "
            "no numbers; name the column, or columns, that tell rows apart"
        )
    scale = None
    if method in ("poisson", "pareto"):
        arguments = {"k": count("k", k, least=1), "weights": weights, "nulls": nulls, "by": by}
        # Without weights any column will do: it counts the rows.
        first = list(dict.fromkeys([weights or as_names("key", key)[0], *as_names("by", by)]))
        scale = _reduced(cluster, States(Scale, **arguments), first).value()
    wanted = None if columns is None else list(as_names("columns", columns))
    states = States(
        Reservoir, k=k, weights=weights, key=key, by=by, method=method, scale=scale, budget=budget, nulls=nulls,
        columns=wanted, decay=decay, **others,
    )  # fmt: skip
    states.new()  # says what is wrong before any work begins
    read = None if wanted is None else list(dict.fromkeys([*needed(weights, key, by, budget, decay), *wanted]))
    return _reduced(cluster, states, read).result()


def _reduced(cluster: Cluster, states: States, columns: list[str] | None) -> Any:
    data = merge_bytes(states, cluster.reduce(states, columns))
    return states.new().update(cluster.empty(columns)) if data is None else states.read(data)
