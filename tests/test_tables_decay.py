"""Samples in which what is old counts less: the race of the weights ``w exp(rate t)``, in logarithms."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import argumbel as ag
from argumbel.tables import Reservoir, sample

from .statistics import FAILURE_RATE
from .test_tables import TABLE, repeated

RATE = 0.002
TIMED = TABLE.append_column("time", pa.array(np.random.default_rng(5).permutation(3000).astype(float)))
WANTED: dict[str, Any] = {"weights": "w", "key": "id", "seed": 3, "decay": ("time", RATE)}


def with_times(times: Any) -> pa.Table:
    return TIMED.set_column(TIMED.schema.get_field_index("time"), "time", pa.array(times))


@pytest.mark.parametrize("method", ["gumbel", "priority"])
@pytest.mark.parametrize("by", [None, "group"])
def test_it_is_the_sample_of_the_weights_themselves(method: str, by: str | None) -> None:
    """Where these do not overflow: the same rows, with the same probabilities, estimates and errors."""
    real = TIMED.to_pandas().assign(w=lambda t: t.w * np.exp(RATE * t.time))
    theirs = sample(real, 90, weights="w", key="id", seed=3, method=method, by=by)
    ours = sample(TIMED, 90, **WANTED, method=method, by=by)
    assert ours.table["id"].to_pylist() == theirs.table["id"].to_pylist()
    np.testing.assert_allclose(ours.table["_key"], np.log(theirs.table["_key"]), rtol=1e-12)
    np.testing.assert_allclose(ours.table["_weight"], theirs.table["_weight"], rtol=1e-11)
    np.testing.assert_allclose(ours.thresholds, np.log(theirs.thresholds), rtol=1e-12)
    np.testing.assert_allclose(ours.groups["log_weight"], np.log(theirs.groups["weight"]), rtol=1e-12)
    for calibrate in (False, True):
        np.testing.assert_allclose(ours.estimate("x", calibrate=calibrate), theirs.estimate("x", calibrate=calibrate))
    assert "total log weight" in repr(ours)


def test_times_of_arrival() -> None:
    """``log E - log w - rate t`` to the bit, E the float64 noise of the id."""
    drawn = sample(TIMED, 100, **WANTED)
    noise = ag.KeyedNoise(3, rows=[0], items=TIMED["id"].to_numpy()).exponential((1, 3000), dtype=torch.float64)[0]
    with np.errstate(divide="ignore"):
        logs = np.log(TIMED["w"].to_numpy()) + RATE * TIMED["time"].to_numpy()
    times = np.log(noise.numpy()) - logs
    order = np.argsort(times)
    assert drawn.table["id"].to_pylist() == TIMED["id"].to_numpy()[order[:100]].tolist()
    assert drawn.table["_key"].to_pylist() == times[order[:100]].tolist()
    assert drawn.thresholds.tolist() == [times[order[100]]]


@given(
    data=st.data(),
    k=st.sampled_from([1, 7, 200, 5000]),
    method=st.sampled_from(["gumbel", "priority"]),
    by=st.sampled_from([None, "group"]),
    start=st.sampled_from([0.0, -1e6, 2e9]),
    rate=st.sampled_from([0.0, 1e-3, 5.0]),
)
def test_batches_orders_and_merges_do_not_matter(
    data: st.DataObject, k: int, method: str, by: str | None, start: float, rate: float
) -> None:
    """At any time since 1970, at any rate: ``exp`` of 1e10 is no number, and none is computed."""
    table = with_times(TIMED["time"].to_numpy() + start)
    wanted = {**WANTED, "method": method, "by": by, "decay": ("time", rate)}
    whole = sample(table, k, **wanted)
    mixed = table.take(pa.array(np.random.default_rng(data.draw(st.integers(0, 99))).permutation(3000)))
    parts = [Reservoir(k, **wanted) for _ in range(data.draw(st.integers(1, 3)))]
    for part in parts:
        part.update(table.slice(0, 0))
    first = 0
    while first < 3000:
        size = data.draw(st.sampled_from([1700, 900, 611]))
        data.draw(st.sampled_from(parts)).update(mixed.slice(first, size))
        first += size
    merged = parts.pop()
    for part in parts:
        merged.merge(Reservoir.from_bytes(part.to_bytes()))
    found = merged.result()
    order = [*([("group", "ascending")] if by else []), ("_key", "ascending")]
    assert found.table.sort_by(order).equals(whole.table.sort_by(order))
    assert sorted(found.thresholds) == sorted(whole.thresholds)
    mine, theirs = (s.groups if by is None else s.groups.sort_by("group") for s in (found, whole))
    np.testing.assert_allclose(mine["log_weight"], theirs["log_weight"])
    assert found.table["_weight"].to_numpy().sum() == pytest.approx(whole.table["_weight"].to_numpy().sum())


def test_a_later_beginning_changes_nothing() -> None:
    """All times later by 2^20: the same rows, the same estimates."""
    ours, later = (sample(with_times(TIMED["time"].to_numpy() + s), 100, **WANTED) for s in (0, 2.0**20))
    assert ours.table["id"].equals(later.table["id"])
    np.testing.assert_allclose(ours.table["_weight"], later.table["_weight"], rtol=1e-9)
    assert ours.estimate("x") == pytest.approx(later.estimate("x"))
    assert ours.estimate("x", at=3000) == pytest.approx(later.estimate("x", at=3000 + 2.0**20))


@pytest.mark.parametrize("k", [1, 3])
def test_inclusion_is_that_of_the_library(k: int) -> None:
    """20,000 samples of seven rows, each half as heavy as if it came one unit later."""
    weights, times = [1.0, 4.0, 0.5, 2.0, 8.0, 0.0, 3.0], np.array([3.0, 1.0, 5.0, 2.0, 0.0, 6.0, 1.5])
    table = repeated(weights, 20_000).append_column("t", pa.array(np.tile(times + 1e6, 20_000)))
    drawn = sample(table, k, weights="w", key=["group", "item"], by="group", seed=k, decay=("t", math.log(2)))
    logits = torch.tensor(weights, dtype=torch.float64).log() + torch.from_numpy(times) * math.log(2)
    counts = np.bincount(drawn.table["item"].to_numpy(), minlength=7)
    for item, (count, prob) in enumerate(zip(counts, ag.inclusion_probs(logits, k).numpy(), strict=True)):
        assert scipy.stats.binomtest(int(count), 20_000, float(prob)).pvalue > FAILURE_RATE, item
    if k == 1:  # the estimate of one row for a group of seven: a variance without bound
        return
    # The sum of all rows, and the sum as it is at a time, without bias; a row of weight 0 is out of sight.
    x = table["x"].to_numpy() * (table["w"].to_numpy() > 0)
    for at, then in ((None, 1.0), (1e6 + 4, np.tile(2.0 ** (times - 4), 20_000))):
        found = drawn.estimate("x", calibrate=False, at=at)
        assert abs(found.value - (x * then).sum()) < 5 * found.stderr


def test_decayed_sums() -> None:
    """In proportion to the weights: exact, after calibration; else within its error."""
    drawn = sample(TIMED, 500, **WANTED)
    then = np.exp(RATE * (TIMED["time"].to_numpy() - 2500))
    found = drawn.estimate("w", at=2500)
    assert found.value == pytest.approx((TIMED["w"].to_numpy() * then).sum())
    assert found.stderr == pytest.approx(0, abs=1e-6)
    found = drawn.estimate("x", at=2500)
    assert abs(found.value - (TIMED["x"].to_numpy() * then).sum()) < 5 * found.stderr
    found = drawn.estimate("x", at=2500, calibrate=False)
    assert abs(found.value - (TIMED["x"].to_numpy() * then).sum()) < 5 * found.stderr


def test_times_of_every_kind(tmp_path: Any) -> None:
    """In seconds; and files are read in two passes."""
    seconds = TIMED["time"].to_numpy().astype(np.int64)
    expected = sample(with_times(seconds), 50, **WANTED).table["id"]
    kinds: dict[str, Any] = {
        unit: pa.array(seconds).cast(pa.timestamp("s")).cast(pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")
    }
    kinds["zone"] = pa.array(seconds).cast(pa.timestamp("s", "UTC"))
    kinds["float32"] = pa.array(seconds, pa.float32())
    for kind, times in kinds.items():
        assert sample(with_times(times), 50, **WANTED).table["id"].equals(expected), kind
    pyarrow.parquet.write_table(with_times(kinds["us"]), tmp_path / "t.parquet")
    assert sample(tmp_path / "t.parquet", 50, **WANTED).table["id"].equals(expected)
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(int(i)) for i in seconds]
    slow = {**WANTED, "decay": ("time", RATE / 86400)}
    for kind in (pa.date32(), pa.date64()):
        assert sample(with_times(pa.array(days, kind)), 50, **slow).table["id"].equals(expected)


def test_without_weights_within_a_budget_and_of_whole_ids() -> None:
    drawn = sample(TIMED, 300, key="id", decay=("time", 0.01))
    assert np.median(drawn.table["time"].to_numpy()) > 2700
    order = sample(TIMED, 3000, **WANTED)
    fits = int((np.cumsum(order.table["cost"].to_numpy()) <= 200).sum())
    within = sample(TIMED, **WANTED, budget=("cost", 200))
    assert within.table["id"].to_pylist() == order.table["id"].to_pylist()[:fits]
    planes = pa.table({"plane": [i % 50 for i in range(900)], "t": [float(i % 50) for i in range(900)]})
    assert len(sample(planes, 10, key="plane", unit="key", decay=("t", 0.1))) == 180
    few = sample(TIMED.slice(0, 4), 10, **WANTED)
    assert few.table["_weight"].to_pylist() == [1.0] * 4
    assert few.estimate("x", calibrate=False).value == pytest.approx(TIMED["x"].to_numpy()[:4].sum())
    none = sample(TIMED.slice(0, 0), 10, **WANTED)
    assert none.estimate("x") == (0, 0, 0)
    assert none.groups["log_weight"].to_pylist() == [-np.inf]


def test_errors() -> None:
    ours = Reservoir(3, **WANTED).update(TIMED)
    with pytest.raises(ValueError, match="reservoirs must have the same decay"):
        ours.merge(Reservoir(3, **{**WANTED, "decay": ("time", 0.1)}))
    with pytest.raises(ValueError, match="reservoirs must have the same decay"):
        ours.merge(Reservoir(3, weights="w", key="id", seed=3))
    with pytest.raises(TypeError, match="decay must be"):
        sample(TIMED, 3, decay=0.1)
    with pytest.raises(ValueError, match="rate must be at least 0"):
        sample(TIMED, 3, decay=("time", -1))
    with pytest.raises(ValueError, match="decay must be a column of the table"):
        sample(TIMED, 3, decay=("moment", 1))
    with pytest.raises(TypeError, match="decay must be of a column of times or numbers"):
        sample(TIMED, 3, decay=("name", 1))
    with pytest.raises(ValueError, match="decay must be for 'gumbel' or 'priority'"):
        sample(TIMED, 3, **WANTED, method="pareto")
    for bad in (None, math.nan, math.inf):
        with pytest.raises(ValueError, match="decay must be of times that are finite, but 't' is"):
            sample(pa.table({"t": [0.0, bad]}), 1, decay=("t", 1))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"weights must be finite and at least 0, but 'w' is {bad} in row 1"):
            sample(pa.table({"t": [0.0, 1.0], "w": [0.0, bad]}), 1, weights="w", decay=("t", 1))
    with pytest.raises(ValueError, match="at must be for a sample with decay"):
        sample(TABLE, 100, weights="w").estimate("x", at=1)
