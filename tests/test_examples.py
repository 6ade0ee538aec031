"""The scripts of examples/ run, and print what they promise; what they find they assert themselves."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTED = {
    "sample": "The third name, drawn alone:",
    "relax": "Columns chosen: 3 7 12",
    "differentiate": "the best of all 729 plans",
    "reverse": "log Z: 5.",
}


def test_one_script_for_each_verb() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("verb", PRINTED)
def test_it_runs(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / f"{verb}.py"), run_name="__main__")
    assert PRINTED[verb] in capsys.readouterr().out
