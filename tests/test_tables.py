"""Weighted samples of tables: the same rows whatever the engine, the batches and their order; unbiased estimates."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import argumbel as ag
from argumbel import kernels
from argumbel.tables import Reservoir, Sample, _sources, sample
from argumbel.tables._scale import Scale

from .statistics import FAILURE_RATE, Z, check_counts

METHODS = ["gumbel", "priority", "poisson", "pareto"]


def table_of(n: int = 3000, seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    weights = generator.lognormal(3, 1.5, n)
    weights[5::50] = 0
    return pa.table(
        {
            "id": generator.permutation(n) * 1_000_003 - 17,
            "name": [f"row {i}" for i in range(n)],
            "w": weights,
            "x": np.where(weights > 0, 2 * weights + generator.normal(size=n), 0),
            "group": generator.choice(["a", "b", "c"], n, p=[0.7, 0.25, 0.05]),
            "cost": generator.integers(1, 20, n),
        }
    )


TABLE = table_of()
WANTED = {"weights": "w", "key": "id", "seed": 3}


# --- the rows ----------------------------------------------------------------------------------------------------


def test_rows_are_the_first_by_time_of_arrival() -> None:
    """Against the float64 noise of each id, divided by the weight, and sorted."""
    drawn = sample(TABLE, 100, **WANTED)
    noise = ag.KeyedNoise(3, rows=[0], items=TABLE["id"].to_numpy()).exponential((1, 3000), dtype=torch.float64)[0]
    with np.errstate(divide="ignore"):
        times = noise.numpy() / TABLE["w"].to_numpy()
    order = np.argsort(times)
    assert drawn.table["id"].to_pylist() == TABLE["id"].to_numpy()[order[:100]].tolist()
    assert drawn.table["_key"].to_pylist() == times[order[:100]].tolist()
    assert drawn.thresholds.tolist() == [times[order[100]]]
    p = -np.expm1(-drawn.table["w"].to_numpy() * times[order[100]])
    np.testing.assert_allclose(drawn.table["_weight"].to_numpy(), 1 / p)


def test_without_ids_rows_have_their_numbers() -> None:
    numbered = TABLE.append_column("number", pa.array(range(3000)))
    assert (
        sample(TABLE, 50, weights="w").table["id"].equals(sample(numbered, 50, weights="w", key="number").table["id"])
    )
    uniform = sample(TABLE, 50)
    assert uniform.table["_weight"].to_numpy() == pytest.approx(60, rel=0.6)


ENGINES: dict[str, Callable[[pa.Table], Any]] = {
    "arrow": lambda table: table,
    "batches": lambda table: iter(table.to_batches(max_chunksize=700)),
    "reader": lambda table: table.to_reader(max_chunksize=311),
    "dataset": lambda table: pyarrow.dataset.dataset(table),
    "dict": lambda table: table.to_pydict(),
    "pandas": lambda table: table.to_pandas(),
    "polars": lambda table: pytest.importorskip("polars").from_arrow(table),
    "lazy": lambda table: pytest.importorskip("polars").from_arrow(table).lazy(),
    "duckdb": lambda table: pytest.importorskip("duckdb").from_arrow(table),
    "datafusion": lambda table: pytest.importorskip("datafusion").SessionContext().from_arrow(table),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["gumbel", "pareto"])
def test_engines_give_the_same_rows(engine: str, method: str) -> None:
    source = ENGINES[engine](TABLE)
    if method == "pareto" and engine in ("batches", "reader"):
        with pytest.raises(ValueError, match="source must be a table that can be read twice"):
            sample(source, 40, **WANTED, method=method)
        return
    ours, theirs = (sample(s, 40, **WANTED, method=method) for s in (TABLE, source))
    assert theirs.table.column_names == ours.table.column_names
    for name in ("id", "w", "name", "_key", "_weight"):
        assert theirs.table[name].to_pylist() == ours.table[name].to_pylist(), name


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "feather"])
def test_files(tmp_path: Path, kind: str) -> None:
    """In two passes, from one file, a pattern or a folder, all columns or some."""
    write = {
        "parquet": lambda t, p: pyarrow.parquet.write_table(t, p, row_group_size=271),
        "csv": pyarrow.csv.write_csv,
        "tsv": lambda t, p: pyarrow.csv.write_csv(t, p, pyarrow.csv.WriteOptions(delimiter="\t")),
        "feather": pyarrow.feather.write_feather,
    }[kind]
    write(TABLE, str(tmp_path / f"all.{kind}"))
    for i in range(3):
        write(TABLE.slice(1000 * i, 1000), str(tmp_path / f"part{i}.{kind}"))
    ours = sample(TABLE, 60, **WANTED)
    for source in (
        tmp_path / f"all.{kind}",
        str(tmp_path / f"part*.{kind}"),
        [tmp_path / f"part{i}.{kind}" for i in (2, 0, 1)],
    ):
        theirs = sample(source, 60, **WANTED)
        assert theirs.table["name"].equals(ours.table["name"])
        assert theirs.estimate("x") == pytest.approx(ours.estimate("x"))
        some = sample(source, 60, **WANTED, columns=["name"])
        assert some.table.column_names == ["name", "_key", "_weight"]
        assert some.table["name"].equals(ours.table["name"])
        assert sample(source, 60, **WANTED, columns="id").table["id"].equals(ours.table["id"])
        assert sample(source, weights="w", key="id", budget=("cost", 100)).table["cost"].to_numpy().sum() <= 100
        assert sample(source, weights="w", key="id", budget="1kB").table.num_rows > 0
        with pytest.raises(ValueError, match="have the column 'price'"):
            sample(source, 60, weights="price")
    with pytest.MonkeyPatch.context() as one_core:
        one_core.setattr(pa, "cpu_count", lambda: 1)
        assert sample(tmp_path / f"all.{kind}", 60, **WANTED).table.equals(theirs.table)


def test_columns_of_files_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass keeps what it reads of the rows drawn; the second reads other columns, where a row was drawn."""
    seen: list[tuple[Any, int]] = []
    read = _sources._read

    def spy(rows: Any, columns: Any, *more: Any) -> Any:
        for batch in read(rows, columns, *more):
            seen.append((columns, len(batch)))
            yield batch

    monkeypatch.setattr(_sources, "_read", spy)
    twice = pa.concat_tables([TABLE.set_column(0, "id", pa.array(range(3000))), TABLE]).drop_columns(["group"])
    views = twice.set_column(1, "name", twice["name"].cast(pa.string_view()))
    pyarrow.parquet.write_table(views, tmp_path / "t.parquet", row_group_size=1000)
    pyarrow.feather.write_feather(views, tmp_path / "t.arrow")
    drawn = sample(tmp_path / "t.parquet", 2, **WANTED)
    groups = len(set((drawn.positions // 1000).tolist()))
    assert seen[:6] == [(["w", "id"], 1000)] * 6
    assert seen[6:] == [(["name", "x", "cost"], 1000)] * groups
    assert drawn.table.column_names == [*twice.column_names, "_key", "_weight"]
    expected = sample(twice, 2, **WANTED)
    for name in twice.column_names:
        assert drawn.table[name].to_pylist() == expected.table[name].to_pylist()
    assert sample(tmp_path / "t.arrow", 2, **WANTED).table.to_pylist() == expected.table.to_pylist()
    # A sample may be sampled again: what this draw adds stands beside what the table has.
    again = expected.table.append_column("y", pa.array([1, 2]))
    pyarrow.parquet.write_table(again, tmp_path / "s.parquet")
    names = ["_weight", "y", "_weight"]
    assert sample(tmp_path / "s.parquet", 1, weights="_weight", columns=names).table.num_columns == 5


@given(
    data=st.data(),
    k=st.sampled_from([1, 7, 200, 5000]),
    method=st.sampled_from(["gumbel", "priority"]),
    by=st.sampled_from([None, "group", ("group", "cost")]),
    key=st.sampled_from(["id", "name", ("name", "id")]),
)
def test_batches_orders_and_merges_do_not_matter(data: st.DataObject, k: int, method: str, by: Any, key: Any) -> None:
    table = TABLE.slice(0, data.draw(st.sampled_from([0, 1, 50, 1500])))
    wanted = {"weights": "w", "key": key, "seed": 11, "method": method, "by": by}
    whole = sample(table, k, **wanted)
    shuffled = table.take(
        pa.array(data.draw(st.randoms(use_true_random=False)).sample(range(len(table)), len(table)), pa.int64())
    )
    parts = [Reservoir(k, **wanted) for _ in range(data.draw(st.integers(1, 4)))]
    for part in parts:
        part.update(table.slice(0, 0))
    start = 0
    while start < len(table):
        size = data.draw(st.integers(1, 900))
        data.draw(st.sampled_from(parts)).update(shuffled.slice(start, size))
        start += size
    while len(parts) > 1:
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[data.draw(st.integers(0, len(parts) - 1))].merge(Reservoir.from_bytes(other.to_bytes()))
    merged = Reservoir.from_bytes(parts[0].to_bytes()).result()
    order = [("group", "ascending"), ("cost", "ascending"), ("_key", "ascending")] if by else [("_key", "ascending")]
    assert merged.table.sort_by(order).equals(whole.table.sort_by(order))
    assert sorted(merged.thresholds) == sorted(whole.thresholds)
    mine, theirs = (s.groups.sort_by([(name, "ascending") for name in s.groups.column_names]) for s in (merged, whole))
    assert mine.equals(theirs)  # sums of weights, too, to the last bit


@pytest.mark.parametrize("by", ["group", ("group", "cost"), None])
@pytest.mark.parametrize("method", ["poisson", "pareto"])
@pytest.mark.parametrize("weights", ["w", None])
def test_groups_have_scales_of_their_own(method: str, by: Any, weights: str | None) -> None:
    """Parts, in another order, merged, and once as bytes: to the bit what one pass gives, and each group alone."""
    k, wanted = 4, {"weights": weights, "key": "id", "seed": 3, "method": method, "by": by}
    whole = sample(TABLE, k, **wanted)
    shuffled = TABLE.take(pa.array(np.random.default_rng(2).permutation(len(TABLE))))
    parts = [shuffled.slice(start, 800) for start in range(0, len(TABLE), 800)]
    first, *others = (Scale.from_bytes(Scale(k, weights, "error", by).update(part).to_bytes()) for part in parts)
    for other in others:
        first.merge(other)
    scale: Any = first.value()
    assert scale == Scale(k, weights, "error", by).update(TABLE).value()
    if by == "group":  # as a user writes it
        scale = {group: value for (group,), value in scale.items()}
    one, *more = (
        Reservoir.from_bytes(Reservoir(k, **wanted, scale=scale).update(part).to_bytes()) for part in reversed(parts)
    )
    for other in more:
        one.merge(other)
    merged = Reservoir.from_bytes(one.to_bytes()).update(TABLE.slice(0, 0)).result()
    order = [(name, "ascending") for name in ("group", "cost", "_key", "id")][0 if by else 2 :]
    assert merged.table.sort_by(order).equals(whole.table.sort_by(order))
    for group in "abc" if by == "group" else "":
        alone = sample(TABLE.filter(pa.compute.equal(TABLE["group"], group)), k, **(wanted | {"by": None}))
        assert whole.table.filter(pa.compute.equal(whole.table["group"], group)).to_pylist() == alone.table.to_pylist()


def test_groups_of_numbers_that_are_nan() -> None:
    table = TABLE.append_column("part", pa.array([np.nan, 1.5, None] * 1000, from_pandas=False))
    drawn = sample(pyarrow.dataset.dataset(table), 5, **WANTED, by="part", method="pareto")
    assert drawn.groups["rows"].to_pylist() == [1000] * 3
    assert len(drawn) == 15
    scale = {np.nan: 1e-4, 1.5: 1e-4, None: 1e-4}
    reservoir = Reservoir(**WANTED, by="part", method="poisson", scale=scale)
    again = Reservoir.from_bytes(reservoir.update(table.slice(0, 900)).to_bytes()).update(table.slice(900))
    whole = reservoir.update(table.slice(900)).result()
    assert again.result().table["id"].to_pylist() == whole.table["id"].to_pylist()
    assert len(again.result().groups) == 3


def test_backends_agree(backend: str) -> None:
    with kernels.use(None):
        ours = sample(TABLE, 70, weights="w", key="name", by="group")
    assert sample(TABLE, 70, weights="w", key="name", by="group").table.equals(ours.table)


# --- the law -----------------------------------------------------------------------------------------------------


def repeated(weights: list[float], times: int) -> pa.Table:
    """A table of ``times`` groups, each of these weights, ids of two columns: many independent samples in one."""
    n = len(weights)
    return pa.table(
        {
            "group": np.repeat(np.arange(times), n),
            "item": np.tile(np.arange(n), times),
            "w": np.tile(np.array(weights), times),
            "x": np.tile(np.arange(1.0, n + 1) ** 2, times),
        }
    )


WEIGHTS = [1.0, 4.0, 0.5, 2.0, 8.0, 0.0, 3.0]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_inclusion_is_that_of_the_library(k: int) -> None:
    """20,000 samples: the frequency of each row, and of each set."""
    drawn = sample(repeated(WEIGHTS, 20_000), k, weights="w", key=["group", "item"], by="group", seed=k)
    counts = np.bincount(drawn.table["item"].to_numpy(), minlength=7)
    p = ag.inclusion_probs(torch.tensor(WEIGHTS, dtype=torch.float64).log(), k).numpy()
    for item, (count, prob) in enumerate(zip(counts, p, strict=True)):
        if prob in (0.0, 1.0):
            assert count == 20_000 * prob, item
        else:
            assert scipy.stats.binomtest(int(count), 20_000, prob).pvalue > FAILURE_RATE, item
    first = drawn.table["item"].to_numpy().reshape(20_000, k)[:, 0]
    check_counts(np.bincount(first, minlength=7), np.array(WEIGHTS) / sum(WEIGHTS))


def estimates(method: str, calibrate: bool, **wanted: Any) -> tuple[np.ndarray, float]:
    """Values and standard errors of sum x of 4000 small samples."""
    generator = np.random.default_rng(0)
    w = generator.lognormal(0, 1, 40)
    table = pa.table({"w": w, "x": 2 * w + generator.normal(size=40), "cost": generator.integers(1, 6, 40)})
    k = None if "budget" in wanted else 25
    draws = [sample(table, k, weights="w", seed=seed, method=method, **wanted) for seed in range(4000)]
    return np.array([d.estimate("x", calibrate=calibrate)[:2] for d in draws]), table["x"].to_numpy().sum()


@pytest.mark.filterwarnings("ignore:the estimate has about:RuntimeWarning")
@pytest.mark.parametrize("case", [*METHODS, "budget", "calibrated"])
def test_estimates_are_unbiased_and_their_errors_right(case: str) -> None:
    """|z| < 5, and the mean of the stated variances within 5 standard errors, plus 2%, of the variance there is."""
    wanted: dict[str, Any] = {"budget": ("cost", 60)} if case == "budget" else {}
    found, true = estimates(case if case in METHODS else "gumbel", case == "calibrated", **wanted)
    value, stderr = found.T
    z = (value.mean() - true) / (value.std() / np.sqrt(len(value)))
    # Pareto's probabilities are the stated ones up to order 1 / k; a ratio is unbiased up to order 1 / k.
    assert abs(value.mean() / true - 1) < 0.002 if case in ("pareto", "calibrated") else abs(z) < 5
    variance, stated = value.var(), (stderr**2).mean()
    spread = np.sqrt(2 / len(value)) + (stderr**2).std() / stated / np.sqrt(len(value))
    assert abs(stated / variance - 1) < 5 * spread + (0.1 if case == "calibrated" else 0.02)


def test_estimates_by_columns_and_of_numbers_of_rows() -> None:
    drawn = sample(TABLE, 2000, weights="w", key="id", by="group")
    by = drawn.estimate("x", by="group")
    assert by.column_names == ["group", "value", "stderr", "rows"]
    for group, value, stderr, _ in zip(*(by[name].to_pylist() for name in by.column_names), strict=True):
        true = TABLE.filter(pa.compute.equal(TABLE["group"], group))["x"].to_numpy().sum()
        assert abs(value - true) <= 5 * stderr + 1e-6
    total = drawn.estimate("x")
    assert total.value == pytest.approx(sum(by["value"].to_pylist()))
    assert total.stderr == pytest.approx(np.sqrt(np.square(by["stderr"].to_numpy()).sum()))
    everything = sample(TABLE, 5000, weights="w")
    assert len(everything) == (TABLE["w"].to_numpy() > 0).sum()
    assert everything.estimate(None) == (pytest.approx(len(everything)), 0, pytest.approx(len(everything)))
    with pytest.warns(RuntimeWarning, match="fewer than 20"):
        sample(TABLE, 100, weights="w", seed=1).estimate("x", by="cost")
    with pytest.warns(RuntimeWarning, match=r"the estimate has about \d"):
        sample(TABLE, 10, weights="w").estimate("cost")
    with pytest.raises(ValueError, match="column must be a column of the table"):
        everything.estimate("price")


def test_a_budget_takes_the_longest_prefix_that_fits() -> None:
    order = sample(TABLE, 3000, **WANTED)
    for budget in (0, 10, 200, 1e9):
        drawn = sample(TABLE, **WANTED, budget=("cost", budget))
        fits = int((np.cumsum(order.table["cost"].to_numpy()) <= budget).sum())
        assert len(drawn) == fits
        assert drawn.table["id"].to_pylist() == order.table["id"].to_pylist()[:fits]
        assert drawn.thresholds[0] == (order.table["_key"][fits].as_py() if fits < len(order) else np.inf)
    each = sample(TABLE, **WANTED, budget=("cost", 200), by="group")
    for group, bar in zip(each.groups["group"].to_pylist(), each.thresholds, strict=True):
        alone = sample(TABLE.filter(pa.compute.equal(TABLE["group"], group)), **WANTED, budget=("cost", 200))
        mine = pa.compute.equal(each.table["group"], group)
        assert each.table.filter(mine).to_pylist() == alone.table.to_pylist()
        assert bar == alone.thresholds[0]
    both = sample(TABLE, 5, **WANTED, budget=("cost", 200))
    assert len(both) == 5
    rows = sample(TABLE.select(["id", "w", "name"]), **WANTED, budget="1kB")
    size = sum(8 + 8 + 4 + len(name) for name in rows.table["name"].to_pylist())
    assert 1000 - 40 < size <= 1000
    # Columns that are not kept cost nothing; and what goes over the wire is what came from it.
    fewer = sample(TABLE, **WANTED, budget="1kB", columns=["id", "x"])
    assert len(fewer) == 1000 // 16
    assert Reservoir.from_bytes(Reservoir(**WANTED, budget="1kB").update(TABLE).to_bytes()).budget == 1000
    assert Reservoir.from_bytes(Reservoir(**WANTED, budget="99999TB").update(TABLE).to_bytes()).budget == 99999e12


def test_coordinated_samples_share_rows() -> None:
    """The same ids a month later, with other weights: most of the sample stays."""
    later = TABLE.set_column(
        2, "w", pa.array(TABLE["w"].to_numpy() * np.random.default_rng(1).uniform(0.8, 1.25, 3000))
    )
    now, then = (set(sample(t, 200, **WANTED).table["id"].to_pylist()) for t in (TABLE, later))
    assert len(now & then) > 150
    other = set(sample(later, 200, weights="w", key="id", seed=4).table["id"].to_pylist())
    assert len(now & other) < 120


# --- ids ---------------------------------------------------------------------------------------------------------


def test_ids_of_every_kind() -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in range(300)]
    moments = [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=i) for i in range(300)]
    texts = [f"{'x' * (i % 70)}{i}" for i in range(300)]
    whole = pa.array(range(300))
    columns = {
        "int64": whole,
        "uint8": pa.array(range(256), pa.uint8()),
        "uint64": pa.array([2**64 - 1 - i for i in range(300)], pa.uint64()),
        "bool": pa.array([True, False]),
        "date32": pa.array(days),
        "date64": pa.array(days, pa.date64()),
        "seconds": pa.array(moments, pa.timestamp("s", "UTC")),
        "nanoseconds": pa.array(moments, pa.timestamp("ns", "UTC")),
        "string": pa.array(texts),
        "large": pa.array(texts, pa.large_string()),
        "view": pa.array(texts, pa.string_view()),
        "dictionary": pa.array(texts).dictionary_encode(),
        "bytes": pa.array([t.encode() for t in texts]),
        "fixed": pa.array([f"{i:04d}".encode() for i in range(300)], pa.binary(4)),
        "decimal": pa.array([decimal.Decimal(i) / 4 for i in range(300)], pa.decimal128(10, 2)),
        "dictionary of numbers": whole.dictionary_encode(),
    }
    rows = {}
    for name, column in columns.items():
        for part in (column, pa.concat_arrays([column, column]).slice(len(column) - 1, 1)):
            sample(pa.table({"key": part}), 3, key="key")
        rows[name] = (
            sample(pa.table({"key": column, "at": pa.array(range(len(column)))}), 20, key="key").table["at"].to_pylist()
        )
    assert rows["date32"] == rows["date64"]
    assert rows["seconds"] == rows["nanoseconds"]
    assert rows["string"] == rows["large"] == rows["view"] == rows["dictionary"] == rows["bytes"]
    assert rows["int64"] == rows["dictionary of numbers"]
    numbers = {name: rows[name] for name in ("int64", "uint64", "date32", "string", "fixed", "decimal")}
    assert len({tuple(row) for row in numbers.values()}) == len(numbers)


def test_ids_of_several_columns_do_not_run_together() -> None:
    table = pa.table({"a": ["x", "x1", "x"], "b": ["12", "2", "12"], "c": [1, 1, 2]})
    assert len(sample(table, 3, key=["a", "b", "c"]).table) == 3
    with pytest.raises(ValueError, match="two rows have the same a and b"):
        sample(table, 3, key=["a", "b"])


def test_an_id_with_all_its_rows() -> None:
    table = pa.table(
        {"plane": [i % 50 for i in range(1000)], "w": [1.0 + i % 50 for i in range(1000)], "x": [1.0] * 1000}
    )
    drawn = sample(table, 10, key="plane", weights="w", unit="key")
    assert len(drawn) == 200
    assert len(set(drawn.table["plane"].to_pylist())) == 10
    whole = pa.table({"plane": range(50), "w": [1.0 + i for i in range(50)]})
    assert set(drawn.table["plane"].to_pylist()) == set(
        sample(whole, 10, key="plane", weights="w").table["plane"].to_pylist()
    )
    parts = [Reservoir(10, key="plane", weights="w", unit="key").update(table.slice(i, 77)) for i in range(0, 1000, 77)]
    merged = parts[0]
    for part in parts[1:]:
        merged.merge(part)
    assert sorted(merged.result().table["_key"].to_pylist()) == sorted(drawn.table["_key"].to_pylist())
    with pytest.warns(RuntimeWarning, match=r"about \d\.\d rows"):
        drawn.estimate("x")  # ten planes, not two hundred rows
    uneven = table.set_column(1, "w", pa.array(np.linspace(1, 2, 1000)))
    with pytest.raises(ValueError, match="weights must be the same for all rows of one plane"):
        sample(uneven, 10, key="plane", weights="w", unit="key")


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_bad_weights_are_named(bad: float, method: str) -> None:
    weights = TABLE["w"].to_numpy().copy()
    weights[2345] = bad
    with pytest.raises(ValueError, match=rf"weights must be finite and at least 0, but 'w' is {bad} in row 2345"):
        sample(TABLE.set_column(2, "w", pa.array(weights, from_pandas=False)), 10, weights="w", method=method)


def test_null_weights() -> None:
    table = pa.table({"w": pa.array([1.0, None, 3.0]), "id": [1, 2, None]})
    with pytest.raises(ValueError, match="weights must not be null, but 'w' is in row 1"):
        sample(table, 2, weights="w")
    assert len(sample(table, 3, weights="w", nulls="zero")) == 2
    with pytest.raises(ValueError, match="key must tell rows apart, but 'id' is null in row 2"):
        sample(table, 2, key="id")


def test_errors() -> None:
    with pytest.raises(ValueError, match="weights must be a column of the table"):
        sample(TABLE, 2, weights="price")
    with pytest.raises(TypeError, match="weights must be a column of numbers"):
        sample(TABLE, 2, weights="name")
    with pytest.raises(TypeError, match="key must be of integers"):
        sample(TABLE, 2, key="w")
    with pytest.raises(ValueError, match="two rows have the same cost"):
        sample(TABLE, 50, key="cost")
    with pytest.raises(ValueError, match="k must be at least 1"):
        sample(TABLE, 0)
    with pytest.raises(ValueError, match="k must be given, or a budget"):
        sample(TABLE)
    with pytest.raises(ValueError, match="method must be one of"):
        sample(TABLE, 1, method="best")
    with pytest.raises(ValueError, match="budget must be like"):
        sample(TABLE, budget="much")
    with pytest.raises(ValueError, match="scale must be given"):
        Reservoir(1, method="poisson")
    with pytest.raises(
        TypeError, match="scale must be a mapping of groups to numbers where by is given, but it is a f"
    ):
        Reservoir(3, method="pareto", by="group", scale=0.1)
    with pytest.raises(ValueError, match=r"scale must be a mapping of all groups, but it has none for '[bc]'"):
        Reservoir(3, method="pareto", by="group", scale={"a": 0.1}).update(TABLE)
    with pytest.raises(FileNotFoundError, match="none at 'nowhere"):
        sample("nowhere/*.parquet", 1)
    with pytest.raises(TypeError, match="source must be a path"):
        sample(3, 1)
    with pytest.raises(ValueError, match="exact in microseconds"):
        sample(pa.table({"t": pa.array([1], pa.timestamp("ns"))}), 1, key="t")
    ours = Reservoir(3, weights="w", key="id").update(TABLE)
    with pytest.raises(ValueError, match="reservoirs must have the same seed"):
        ours.merge(Reservoir(3, weights="w", key="id", seed=1))
    with pytest.raises(ValueError, match="two rows have the same id"):
        ours.merge(Reservoir(3, weights="w", key="id").update(TABLE))
    numbered = Reservoir(3).update(TABLE)
    with pytest.raises(ValueError, match="two rows have the same number"):
        numbered.merge(Reservoir(3).update(TABLE))
    with pytest.raises(ValueError, match="no batch came"):
        Reservoir(1).result()
    with pytest.raises(ValueError, match="a reservoir must have seen a batch"):
        Reservoir(1).to_bytes()


@pytest.mark.parametrize("by", [None, "group"])
def test_merging_with_what_saw_nothing(by: str | None) -> None:
    whole = sample(TABLE, 9, **WANTED, by=by).table
    for parts in ((Reservoir(9, **WANTED, by=by), TABLE), (TABLE, Reservoir(9, **WANTED, by=by))):
        one, two = (p if isinstance(p, Reservoir) else Reservoir(9, **WANTED, by=by).update(p) for p in parts)
        assert one.merge(two).result().table.equals(whole)
        assert Reservoir.from_bytes(one.to_bytes()).update(TABLE.slice(0, 0)).result().table.equals(whole)


def test_large_whole_weights_and_files_of_which_no_column_is_needed(tmp_path: Path) -> None:
    assert len(sample(pa.table({"w": [2**60 + 1, 3]}), 2, weights="w")) == 2
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(TABLE, path)
    assert sample(path, 20, seed=5).table.equals(sample(TABLE, 20, seed=5).table)


@pytest.mark.parametrize("method", METHODS)
def test_few_rows_and_none(method: str) -> None:
    empty = sample(TABLE.slice(0, 0), 3, weights="w", method=method)
    assert len(empty) == 0
    assert empty.estimate("x") == (0, 0, 0)
    assert empty.table.column_names == [*TABLE.column_names, "_key", "_weight"]
    few = sample(TABLE.slice(0, 5), 10, weights="w", method=method)
    assert len(few) == 5
    assert few.table["_weight"].to_pylist() == [1.0] * 5
    zero = sample(pa.table({"w": [0.0, 0.0]}), 1, weights="w", method=method)
    assert len(zero) == 0


def test_poisson_and_pareto_probabilities() -> None:
    """Rows with ``scale w`` of 1 or more are in the sample for sure; the others with about ``scale w``."""
    table = pa.table({"w": [10.0, 1.0, 1.0, 2.0, 0.0, 4.0]})
    for method in ("poisson", "pareto"):
        draws = [sample(table, 3, weights="w", seed=seed, method=method) for seed in range(3000)]
        assert method == "poisson" or all(len(d) == 3 for d in draws)
        counts = np.sum([np.bincount(d.positions, minlength=6) for d in draws], 0)
        assert counts[0] == 3000
        assert counts[4] == 0
        expected = np.array([1, 0.25, 0.25, 0.5, 0, 1.0])
        assert isinstance(draws[0], Sample)
        error = np.abs(counts / 3000 - expected) - (0.03 if method == "pareto" else 0)
        assert (error < Z * np.sqrt(expected * (1 - expected) / 3000) + 1e-12).all()


@pytest.mark.parametrize("method", ["poisson", "pareto"])
def test_probabilities_in_groups(method: str) -> None:
    """20,000 groups of two kinds, whose weights differ by a factor: ``min(1, c w)`` with the c of each group."""
    table = repeated(WEIGHTS, 20_000)
    grown = pa.array(table["w"].to_numpy() * np.where(table["group"].to_numpy() % 2, 7.0, 1.0))
    drawn = sample(table.set_column(2, "w", grown), 3, weights="w", key=["group", "item"], by="group", method=method)
    w = np.array(WEIGHTS)
    expected = np.minimum(1, w * 2 / (w.sum() - 8))  # the row of weight 8 is in for sure
    for kind in (0, 1):
        mine = drawn.table.filter(pa.array(drawn.table["group"].to_numpy() % 2 == kind))
        frequency = np.bincount(mine["item"].to_numpy(), minlength=7) / 10_000
        error = np.abs(frequency - expected) - (0.03 if method == "pareto" else 0)
        assert (error < Z * np.sqrt(expected * (1 - expected) / 10_000) + 1e-12).all()
        np.testing.assert_allclose(mine["_weight"], 1 / expected[mine["item"].to_numpy()])
    assert method == "poisson" or len(drawn) == 60_000
