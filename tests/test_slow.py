"""The list of slow tests names tests that exist, and is made as it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import slow


def test_every_entry_is_a_test() -> None:
    for entry in slow.read():
        file, _, name = entry.partition("::")
        assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text(), f"{entry} is gone; mend tests/slow.txt"


def test_cheap_cases_stay_until_the_budget_is_full() -> None:
    times = {"many": [0.1] * 20, "one": [0.5], "long": [3.0], "longer": [0.1, 9.0]}
    assert slow.choose(times, 2.6) == ["long", "longer"]
    assert slow.choose(times, 5.6) == ["longer"]
    assert slow.choose(times, 99.0) == []


def test_the_list_is_written_from_what_pytest_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow, "LIST", tmp_path / "slow.txt")
    (tmp_path / "times.xml").write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="test_b[1-x]" time="400"/>'
        '<testcase classname="tests.test_a" name="test_c" time="1"/></testsuite></testsuites>'
    )
    slow.main(str(tmp_path / "times.xml"))
    assert slow.read() == {"tests/test_a.py::test_b"}
