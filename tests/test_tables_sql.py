"""SQL text draws the rows that `tables.sample` draws: DuckDB runs it here, Spark under `make test-clusters`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from argumbel.kernels.noise import exponential
from argumbel.tables import _sql, sample, sql

from .test_tables import TABLE
from .test_tables_clusters import slow_to_start, spark

duckdb = pytest.importorskip("duckdb")
__all__ = ["spark"]  # a fixture

SEEDS = [0, 7, -1, 2**63 - 1, -(2**63), 123456789012345]


def run(query: str, **tables: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(query).to_arrow_table()


def check_same(found: pa.Table, table: pa.Table, k: int, **wanted: Any) -> None:
    """Rows and order; times to the bit; weights up to the rounding of an engine's exp."""
    ours = sample(table, k, **wanted).table
    assert found.column_names == ours.column_names
    for name in ours.column_names:
        if name != "_weight":
            assert found[name].to_pylist() == ours[name].to_pylist(), name
    np.testing.assert_allclose(found["_weight"].to_numpy(), ours["_weight"].to_numpy(), rtol=1e-14)


def wild(n: int = 4000) -> pa.Table:
    """Ids of all 64 bits, weights over 200 decades, of which some are 0."""
    generator = np.random.default_rng(0)
    ids = generator.integers(-(2**63), 2**63 - 1, n)
    ids[:8] = [-(2**63), 2**63 - 1, 0, -1, 1, -2, 2**34, -(2**34)]
    weights = 10.0 ** generator.uniform(-100, 100, n) * (generator.random(n) > 0.1)
    return pa.table({"id": ids, "w": weights, "x": np.arange(n)})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("table", [TABLE, wild()], ids=["tame", "wild"])
def test_rows_and_times_are_those_of_sample(seed: int, table: pa.Table) -> None:
    """The last k takes all rows: those of weight 0 are left out, and all the others are sure."""
    for k in (1, 50, 4000):
        found = run(sql("rows", k, weights="w", key="id", seed=seed), rows=table)
        check_same(found, table, k, weights="w", key="id", seed=seed)
        assert min(found["w"].to_pylist()) > 0


def test_arguments() -> None:
    check_same(run(sql("rows", 9, key="id"), rows=TABLE), TABLE, 9, key="id")
    wanted = {"weights": "w", "key": "id", "columns": ["x", "name"]}
    check_same(run(sql("rows", 9, **wanted), rows=TABLE), TABLE, 9, **wanted)
    empty = run(sql("rows", 9, weights="w", key="id"), rows=TABLE.slice(0, 0))
    check_same(empty, TABLE.slice(0, 0), 9, weights="w", key="id")


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()], ids=str
)
def test_integers_of_every_width(kind: pa.DataType) -> None:
    signed = pa.types.is_signed_integer(kind)
    low, high = -(2 ** (kind.bit_width - 1)) if signed else 0, 2 ** (kind.bit_width - signed) - 1
    ids = sorted({low, low + 1, 3, 100, high // 2 + 1, high - 1, high})
    for weights in (pa.array([float(i + 1) for i in range(len(ids))], pa.float32()), pa.array(range(len(ids)))):
        table = pa.table({"id": pa.array(ids, kind), "w": weights})
        check_same(run(sql("rows", 4, weights="w", key="id"), rows=table), table, 4, weights="w", key="id")


def test_times_near_both_ends_of_the_words() -> None:
    """Where u or 1 - u is as small as 2^-65, and where the logarithm changes its branch."""
    generator = np.random.default_rng(0)
    near = np.concatenate([2 ** np.arange(32), 2 ** np.arange(32) - 1, generator.integers(0, 2**32, 3000)])
    first = np.concatenate([near, 2**32 - 1 - near, np.full(len(near), 0), np.full(len(near), 2**32 - 1)])
    second = generator.permutation(np.concatenate([near, near, near, near]))
    first, second = np.append(first, [0, 2**32 - 1]), np.append(second, [0, 2**32 - 1])
    query = "words"
    for chosen in _sql._times():
        query = f"(SELECT {chosen} FROM {query})"
    words = pa.table({"id": np.arange(len(first)), "w": np.ones(len(first)), "f": first, "g": second})
    found = run(f"SELECT t FROM {query} ORDER BY id", words=words)["t"].to_numpy()
    true = exponential(torch.from_numpy(first), torch.from_numpy(second), torch.float64).numpy()
    assert found.tolist() == true.tolist()
    assert found.min() == 2.0**-65
    assert found.max() > 45


@pytest.mark.parametrize(
    "name", ['a"b', "it's", "a`b", "semi; drop table rows; --", "sp ace", "select", "Größe", "a\\'b"]
)
def test_names_are_quoted(name: str) -> None:
    """In every place, messages included."""
    table = pa.table({name: range(20), "w of " + name: [1.0] * 20})
    wanted = {"key": name, "weights": "w of " + name, "columns": [name]}
    with duckdb.connect() as connection:
        connection.register("other", table)
        connection.sql(f"CREATE TABLE {_sql._quoted(_sql.Duckdb(), 'table', name)} AS SELECT * FROM other")
        check_same(connection.sql(sql(name, 5, **wanted)).to_arrow_table(), table, 5, **wanted)
        qualified = connection.sql(sql(("main", name), 5, **wanted)).to_arrow_table()
        check_same(qualified, table, 5, **wanted)
        connection.register("bad", table.set_column(1, "w of " + name, pa.array([-1.0] * 20)))
        with pytest.raises(duckdb.Error, match="weights must be finite and at least 0, but w of"):
            connection.sql(sql("bad", 5, **wanted)).fetchall()


BAD = {
    "weights must be finite and at least 0, but w is -1": {"w": [1.0, -1.0]},
    "weights must be finite and at least 0, but w is nan": {"w": pa.array([1.0, np.nan], from_pandas=False)},
    "weights must be finite and at least 0, but w is inf": {"w": [1.0, np.inf]},
    "weights must be finite and at least 0, but w is null": {"w": pa.array([1.0, None])},
    "key must tell rows apart, but id is null": {"id": pa.array([1, None])},
    "key must tell rows apart, but two rows have the same id": {"id": [4, 4]},
    "key must be of integers, but the type of id is VARCHAR": {"id": ["1", "2"]},
    "key must be of integers, but the type of id is DOUBLE": {"id": [1.0, 2.0]},
}


@pytest.mark.parametrize("message", BAD)
def test_a_query_fails_on_bad_input(message: str) -> None:
    table = pa.table({"id": [1, 2], "w": [1.0, 2.0]} | BAD[message])
    for k in (1, 2):
        with pytest.raises(duckdb.Error, match=message):
            run(sql("rows", k, weights="w", key="id"), rows=table)


def test_errors() -> None:
    with pytest.raises(ValueError, match="dialect must be one of 'duckdb', 'spark'"):
        sql("rows", 3, key="id", dialect="oracle")
    for key in ((), ("a", "b")):
        with pytest.raises(ValueError, match="engines have no XXH64"):
            sql("rows", 3, key=key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be at least 1"):
        sql("rows", 0, key="id")
    with pytest.raises(ValueError, match="table must be a name"):
        sql("", 3, key="id")
    with pytest.raises(ValueError, match="columns must be a name"):
        sql("rows", 3, key="id", columns=["x", "\0"])
    with pytest.raises(ValueError, match="must be names, but there is none"):
        sql("rows", 3, key="id", columns=[])
    with pytest.raises(TypeError, match="table must be a name, but it is a int"):
        sql(("a", 3), 3, key="id")  # type: ignore[arg-type]


# --- Spark -------------------------------------------------------------------------------------------------------


@slow_to_start
@pytest.mark.filterwarnings("default")
def test_spark(spark: Any) -> None:
    """Its integers overflow with an error, so the text is another; rows and times are the same, to the bit."""
    for name, table in (("tame", TABLE), ("wild", wild())):
        spark.createDataFrame(table.to_pandas()).repartition(5).createOrReplaceTempView(name)
        for k, seed in ((50, 7), (4000, -1)):
            wanted = {"weights": "w", "key": "id", "seed": seed}
            check_same(spark.sql(sql(name, k, **wanted, dialect="spark")).toArrow(), table, k, **wanted)
    odd = pa.table({"a`b\\'": range(20), "w": [1.0] * 20})
    spark.createDataFrame(odd.to_pandas()).createOrReplaceTempView("odd")
    wanted = {"weights": "w", "key": "a`b\\'", "columns": ["a`b\\'"]}
    check_same(spark.sql(sql("odd", 5, **wanted, dialect="spark")).toArrow(), odd, 5, **wanted)
    for message, columns in BAD.items():
        bad = pa.table({"id": [1, 2], "w": [1.0, 2.0]} | columns)
        spark.createDataFrame(bad).createOrReplaceTempView("bad")
        kind = message.replace("VARCHAR", "string").replace("DOUBLE", "double")
        shown = kind.replace("is nan", "is NaN").replace("is inf", "is Infinity")
        with pytest.raises(Exception, match=shown):
            spark.sql(sql("bad", 1, weights="w", key="id", dialect="spark")).toArrow()
