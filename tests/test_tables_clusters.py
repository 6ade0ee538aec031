"""Tables of Dask, Spark and Ray: the rows that the same call draws from a table in memory, however they are split."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from argumbel.tables import Reservoir, Sample, _clusters, sample

from .test_tables import METHODS, TABLE, WANTED

# Engines that take a minute to start, and whose packages are large: `make test-clusters` runs these.
slow_to_start = pytest.mark.skipif("ARGUMBEL_TEST_CLUSTERS" not in os.environ, reason="run by `make test-clusters`")


def of_dask(table: pa.Table, parts: int) -> Any:
    return pytest.importorskip("dask.dataframe").from_pandas(table.to_pandas(), npartitions=parts)


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    pyspark = pytest.importorskip("pyspark.sql")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers take the first python3 of the path
    local = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
    builder = pyspark.SparkSession.builder.master("local[2]")
    for name, value in local.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    engine = pytest.importorskip("ray")
    engine.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield engine
    engine.shutdown()


@pytest.fixture(
    params=["dask", *(pytest.param(engine, marks=[slow_to_start, pytest.mark.filterwarnings("default")])
                      for engine in ("spark", "ray"))]
)  # fmt: skip
def make(request: pytest.FixtureRequest) -> Callable[[pa.Table, int], Any]:
    """Makes a table of the engine, in so many partitions."""
    if request.param == "dask":
        return of_dask
    engine = request.getfixturevalue(request.param)
    if request.param == "spark":
        return lambda table, parts: engine.createDataFrame(table.to_pandas()).repartition(parts)
    return lambda table, parts: engine.data.from_arrow(table).repartition(parts)


def check_same(ours: Sample, theirs: Sample) -> None:
    assert theirs.table.column_names == ours.table.column_names
    for name in ours.table.column_names:
        assert theirs.table[name].to_pylist() == ours.table[name].to_pylist(), name
    np.testing.assert_array_equal(theirs.thresholds, ours.thresholds)
    assert theirs.groups["rows"].to_pylist() == ours.groups["rows"].to_pylist()
    if ours.groups.column_names[-1] == "weight":
        assert theirs.groups["weight"].to_pylist() == ours.groups["weight"].to_pylist()
    else:
        np.testing.assert_allclose(theirs.groups["log_weight"], ours.groups["log_weight"])


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_those_of_the_local_run(make: Callable[[pa.Table, int], Any], method: str) -> None:
    """To the last bit of their times: more parts than one task merges, one part, and a single row."""
    for parts in (1, 3, 40):
        ours = sample(TABLE, 70, **WANTED, method=method)
        check_same(ours, sample(make(TABLE, parts), 70, **WANTED, method=method))
    check_same(sample(TABLE.slice(0, 1), 5, **WANTED), sample(make(TABLE.slice(0, 1), 1), 5, **WANTED))


@pytest.mark.parametrize(
    "wanted",
    [
        {"k": 50, "key": "name", "weights": None},
        {"k": 50, "key": ["name", "id"]},
        {"k": None, "budget": ("cost", 300), "columns": ["x"]},
        {"k": None, "budget": "2kB", "columns": ["id", "w", "x", "cost"]},
        {"k": 30, "columns": ["x", "name"]},
        {"k": 30, "columns": ["x"], "decay": ("cost", 0.5)},
        {"k": 4000},
    ],
    ids=["no weights", "two keys", "budget", "bytes", "columns", "decay", "all"],
)
def test_arguments(make: Callable[[pa.Table, int], Any], wanted: dict[str, Any]) -> None:
    check_same(sample(TABLE, **(WANTED | wanted)), sample(make(TABLE, 7), **(WANTED | wanted)))


@pytest.mark.parametrize("method", METHODS)
def test_groups(make: Callable[[pa.Table, int], Any], method: str) -> None:
    """Groups come in whatever order; some partitions do not have them all."""
    ours, theirs = (sample(t, 20, **WANTED, by="group", method=method) for t in (TABLE, make(TABLE, 30)))
    order = [("group", "ascending"), ("_key", "ascending"), ("id", "ascending")]
    for name in ours.table.column_names:
        assert ours.table.sort_by(order)[name].to_pylist() == theirs.table.sort_by(order)[name].to_pylist()
    found, true = (s.groups.sort_by("group").to_pydict() for s in (theirs, ours))
    assert found["group"] == true["group"]
    assert found["rows"] == true["rows"]
    assert found["weight"] == true["weight"]


def test_ids_with_all_their_rows(make: Callable[[pa.Table, int], Any]) -> None:
    table = pa.table({"plane": [i % 50 for i in range(900)], "w": [1.0 + i % 50 for i in range(900)], "x": range(900)})
    ours, theirs = (sample(t, 10, key="plane", weights="w", unit="key") for t in (table, make(table, 8)))
    assert sorted(ours.table["x"].to_pylist()) == sorted(theirs.table["x"].to_pylist())
    assert len(theirs) == 180


def test_nothing_and_bad_input(make: Callable[[pa.Table, int], Any]) -> None:
    whole = make(TABLE, 3)
    with pytest.raises(ValueError, match="rows on a cluster have no order"):
        sample(whole, 5, weights="w")
    with pytest.raises(ValueError, match="must have the column 'price'"):
        sample(whole, 5, weights="price", key="id", columns="id")
    with pytest.raises(ValueError, match="k must be at least 1"):
        sample(whole, 0, **WANTED)
    bad = make(TABLE.set_column(2, "w", pa.array([1.0] * 2999 + [-1.0])), 3)
    for method in ("gumbel", "pareto"):  # engines wrap the error in their own kinds
        with pytest.raises(Exception, match="weights must be finite and at least 0, but 'w' is -1"):
            sample(bad, 5, **WANTED, method=method)
    with pytest.raises(Exception, match="two rows have the same cost"):
        sample(whole, 50, key="cost")


# --- Dask alone --------------------------------------------------------------------------------------------------


def test_frames_of_dask() -> None:
    """Filtered to nothing in some or all partitions; an index as the id; categories; nulls alone in some parts."""
    frame = of_dask(TABLE, 6)
    ours = sample(TABLE.filter(pa.compute.less(TABLE["cost"], 3)), 40, **WANTED)
    check_same(ours, sample(frame[frame.cost < 3].repartition(npartitions=4), 40, **WANTED))
    none = sample(frame[frame.cost < 0], 40, **WANTED)
    assert len(none) == 0
    assert none.table.column_names == ours.table.column_names
    assert len(sample(frame[frame.cost < 0], 40, **WANTED, method="pareto", columns=["x"]).table) == 0

    indexed = frame.set_index("id")
    for columns in (None, ["x"], ["id", "x"]):
        drawn = sample(indexed, 40, **WANTED, columns=columns)
        assert drawn.table["x"].to_pylist() == sample(TABLE, 40, **WANTED).table["x"].to_pylist()
        assert ("id" in drawn.table.column_names) == (columns != ["x"])

    pandas = TABLE.to_pandas()
    pandas["group"] = pandas["group"].astype("category")
    pandas["rare"] = np.where(pandas.index == 7, "seven", None)
    odd = pytest.importorskip("dask.dataframe").from_pandas(pandas, npartitions=9)
    drawn = sample(odd, 3000, **WANTED)
    assert sorted(drawn.table["rare"].drop_null().to_pylist()) == ["seven"]
    assert set(drawn.table["group"].to_pylist()) == {"a", "b", "c"}
    assert set(sample(odd, 3, **WANTED, by="rare").groups["rare"].to_pylist()) == {None, "seven"}


def test_only_needed_columns_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    plain = _clusters._plain
    monkeypatch.setattr(_clusters, "_plain", lambda batch: seen.append(list(batch.columns)) or plain(batch))
    sample(of_dask(TABLE, 3), 5, **WANTED, columns="x", method="pareto", nulls="zero")
    assert seen == [["w"]] * 3 + [["w", "id", "x"]] * 3


def test_a_task_that_runs_again_makes_the_same_bytes() -> None:
    """And who merges the bytes of one partition twice is told so."""
    states = _clusters.States(Reservoir, k=20, **WANTED)
    first, again = (_clusters.partition_bytes(states, TABLE.to_batches(max_chunksize=500)) for _ in range(2))
    assert first == again
    with pytest.raises(ValueError, match="or a batch came twice"):
        _clusters.merge_bytes(states, [first, again])


def test_small_batches_are_gathered() -> None:
    tables = list(_clusters._gathered(pa.table({"x": range(10_000)}) for _ in range(30)))
    assert [len(table) for table in tables] == [140_000, 140_000, 20_000]


def test_other_things_are_no_clusters() -> None:
    for source in (TABLE, TABLE.to_pandas(), [TABLE], {"a": [1]}, "files/*.parquet", Reservoir(1)):
        assert _clusters.open_cluster(source) is None
