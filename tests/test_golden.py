"""No draw changes under any key: what is drawn now is what ``golden.json`` recorded."""

from __future__ import annotations

import json

import pytest
import torch

from argumbel.kernels import cpu

from . import golden

RECORDED = json.loads(golden.FILE.read_text())
# Law functions promise a law, not a draw: the draws recorded are those of the compiled kernels.
LAW = ("categorical/", "without replacement/", "linear_categorical", "maximal_coupling")


def test_every_case_is_recorded() -> None:
    assert set(RECORDED) == set(golden.CASES)


@pytest.mark.parametrize("name", [name for name in golden.CASES if not name.startswith(LAW)])
def test_keyed_draws(backend: str, name: str) -> None:
    check(name)


@pytest.mark.skipif(cpu.library is None, reason="no compiled kernels")
@pytest.mark.parametrize("name", [name for name in golden.CASES if name.startswith(LAW)])
def test_law_draws(name: str) -> None:
    check(name)


def check(name: str) -> None:
    rtol = next((r for dtype, r in (("bfloat16", 2**-7), ("float16", 2**-10)) if dtype in name), 4e-6)
    for recorded, drawn in zip(RECORDED[name], map(golden.kept, golden.draw(name)), strict=True):
        expected, actual = torch.tensor(recorded), torch.tensor(drawn)
        if any(isinstance(number, float) for number in recorded):
            torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=2e-6, equal_nan=True)
        else:
            assert actual.tolist() == expected.tolist()
