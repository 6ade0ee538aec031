"""The table of estimators: each has a row, a check that can fail, and a time in units of the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import estimators, machine, page, report

from argumbel.estimators import ESTIMATORS

NAMED = [(name, classes) for classes, names in estimators.CLASSES.items() for name in names]


def test_every_estimator_that_samples_has_a_row() -> None:
    assert {name for name, _ in NAMED} == ESTIMATORS.keys() - {"exact"}
    assert ESTIMATORS.keys() > estimators.UNBIASED


@pytest.mark.parametrize(("name", "classes"), NAMED)
def test_checks_pass(name: str, classes: int) -> None:
    estimators.check(name, classes)


@pytest.mark.parametrize(("name", "fault"), [("reinforce", "gumbel_softmax"), ("disarm", "softmax_straight_through")])
def test_a_biased_estimator_does_not_pass_for_an_unbiased_one(
    name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(estimators.ESTIMATORS, name, ESTIMATORS[fault])
    with pytest.raises(AssertionError, match="standard errors from"):
        estimators.check(name, 4)


def test_measure_and_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: object, **own: object) -> torch.Tensor:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(estimators, "CLASSES", {10: ["reinforce_loo", "rebar", "reinmax"], 2: ["disarm"]})
    monkeypatch.setitem(estimators.ESTIMATORS, "reinmax", broken)
    monkeypatch.setattr(estimators, "_num_samples", lambda name: 2)
    rows = estimators.measure(0.01, least=1)
    assert [(r.estimator, r.classes, r.samples) for r in rows] == [
        ("reinforce_loo", 10, 2), ("rebar", 10, 6), ("reinmax", 10, 0), (estimators.LOSS, 10, 1),
        ("disarm", 2, 2), (estimators.LOSS, 2, 1),
    ]  # fmt: skip
    assert rows[2].failure == "RuntimeError: no such thing"
    assert rows[2].seconds is None
    for row in rows:
        assert row.failure or row.ratio == row.seconds / next(
            r.seconds for r in rows if (r.estimator, r.classes) == (estimators.LOSS, row.classes)
        )
    results = report.Results(machine.describe(machine.cores()), machine.versions(), overheads=rows)
    results.save(tmp_path / "results.json")
    assert report.Results.load(tmp_path / "results.json").overheads == rows
    text = page.markdown([results], None)
    assert "## Gradient estimators" in text
    assert "| `reinmax` | 10 | 0 | RuntimeError: no such thing |  |" in text
    assert f"| *{estimators.LOSS}* | 2 | 1 |" in text
