"""Estimates over 100,000 independent samples of a small table, made in one call: no bias, and the stated variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from argumbel.tables import Reservoir, Sample, sample

DRAWS = 100_000
WEIGHTS = np.array([2.0, 4.0, 1.5, 2.0, 8.0, 3.0, 1.5, 2.5, 2.0, 6.0])
X = np.array([2.0, 6.0, 2.0, 5.0, 13.0, 7.0, 1.0, 6.0, 3.0, 11.0])
ROWS = pa.table(
    {
        "row": np.arange(10 * DRAWS),
        "draw": np.repeat(np.arange(DRAWS), 10),
        "stratum": np.tile([0, 1, 1, 0, 0, 1, 0, 1, 1, 0], DRAWS),
        "w": np.tile(WEIGHTS, DRAWS),
        "x": np.tile(X, DRAWS),
        "cost": np.tile([1, 3, 1, 2, 4, 2, 1, 1, 3, 2], DRAWS),
        "t": np.tile(1e9 + np.array([0.0, 3, 1, 2, 0, 1, 3, 2, 1, 0]), DRAWS),
    }
)
WANTED: dict[str, Any] = {"weights": "w", "key": "row", "by": "draw"}


def merged() -> Sample:
    """Of four parts, each with some rows of every draw."""
    parts = [
        Reservoir(8, **WANTED, seed=5).update(ROWS.filter(pa.array(np.arange(len(ROWS)) % 4 == i))) for i in range(4)
    ]
    first, *others = (Reservoir.from_bytes(part.to_bytes()) for part in parts)
    for other in others:
        first.merge(other)
    return first.result()


CASES = {
    "plain": lambda: sample(ROWS, 8, **WANTED, seed=1),
    "priority": lambda: sample(ROWS, 8, **WANTED, seed=2, method="priority"),
    "strata": lambda: sample(ROWS, 4, **(WANTED | {"by": ["draw", "stratum"]}), seed=7),
    "budget": lambda: sample(ROWS, **WANTED, seed=4, budget=("cost", 17)),
    "merged": merged,
    "decay": lambda: sample(ROWS, 8, **WANTED, seed=6, decay=("t", 0.3)),
    "poisson": lambda: sample(ROWS, 6, **WANTED, seed=8, method="poisson"),
}


@pytest.mark.parametrize("case", CASES)
def test_no_bias_and_the_stated_variance(case: str) -> None:
    drawn = CASES[case]().table
    draw, x, weight = (drawn[name].to_numpy() for name in ("draw", "x", "_weight"))
    value = np.bincount(draw, x * weight, minlength=DRAWS)
    stated = np.bincount(draw, x**2 * weight * (weight - 1), minlength=DRAWS)
    error = value - X.sum()
    assert abs(error.mean()) < 5 * error.std() / np.sqrt(DRAWS)
    # The stated variance is unbiased, too.
    excess = error**2 - stated
    assert abs(excess.mean()) < 5 * excess.std() / np.sqrt(DRAWS)
    assert abs(stated.mean() / error.var() - 1) < 0.02
