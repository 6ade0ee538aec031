"""The law functions by Triton: draws that follow the law, by races of blocks and then of items."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag

from . import oracles
from .on_triton import DEVICE, HAS_GPU, MARKS, exactly, here, there
from .statistics import check_draws, check_frequency
from .test_kernels import SINGLE, logits

pytest.importorskip("triton", minversion="3.6")

from argumbel.kernels.law import LAW_RACES
from argumbel.kernels.triton import law, race
from argumbel.kernels.triton import noise as tiles

pytestmark = MARKS


@pytest.mark.parametrize("dtype", SINGLE)
def test_law_of_categorical_in_one_block(dtype: torch.dtype) -> None:
    x = logits((10,), dtype)
    generator = torch.Generator(DEVICE).manual_seed(1)
    check_draws(here(ag.categorical(there(x), (2500 if HAS_GPU else 1200,), generator=generator)), oracles.softmax(x))


def test_many_draws_of_a_few_rows_make_no_copies_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.tensor([[0.0, 1.0, -1.0], [2.0, -torch.inf, 0.0]])
    sizes = []

    def launch(kernel: object, programs: int, source: Tensor, *rest: object, **constants: object) -> None:
        sizes.append(source.untyped_storage().nbytes())
        tiles.launch(kernel, programs, source, *rest, **constants)

    monkeypatch.setattr(race, "launch", launch)
    draws = here(ag.categorical(there(x), (2000,), generator=torch.Generator(DEVICE).manual_seed(1)))
    assert sizes == [24]
    for row in range(2):
        check_draws(draws[:, row], oracles.softmax(x[row]))


@pytest.mark.parametrize("log_z", [False, True])
def test_law_of_categorical_over_blocks(log_z: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight, tiles of four of them; a whole block forbidden, and a rare item beside a common one."""
    monkeypatch.setattr(law, "BLOCK", 8)
    x = 2 * torch.randn(37, generator=torch.Generator().manual_seed(1))
    x[8:16] = -torch.inf
    x[3], x[33:] = -3, torch.tensor([1.0, -torch.inf, 3.0, -2.0])
    draws, z = law.categorical(there(x.expand(1, 37)), torch.Size([1500]), log_z, (there(torch.tensor(7)),))
    check_draws(here(draws).flatten(), oracles.softmax(x))
    if log_z:
        torch.testing.assert_close(here(z), x.double().logsumexp(-1, keepdim=True), rtol=1e-6, atol=1e-6)


def test_draws_are_the_race_of_blocks_and_then_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """The algorithm in plain PyTorch, from the same noise, far from zero and with logits far apart."""
    monkeypatch.setattr(law, "BLOCK", 64)
    n, seed, blocks, tile = 1000, 11, 16, 16
    x = logits((3, n)) + torch.tensor([[0.0], [3000.0], [-3000.0]])
    draws, log_z = law.categorical(there(x), torch.Size([5]), True, (there(torch.tensor(seed)),))
    torch.testing.assert_close(here(log_z), x.double().logsumexp(-1), rtol=2e-7, atol=2e-6)
    g = exactly(lambda: ag.KeyedNoise(seed ^ LAW_RACES["categorical"]).gumbel((15, tile + 4 + 64 + 28)))
    padded = torch.nn.functional.pad(x, (0, blocks * 64 - n), value=-torch.inf).double().unflatten(-1, (blocks, 64))
    for row in range(15):
        weights = padded[row % 3]
        block = int((weights.logsumexp(-1) + g[row, :blocks]).argmax())
        after = (blocks + tile) // tile * tile
        item = int((weights[block] + g[row, after : after + 64]).argmax())
        assert int(draws[row // 3, row % 3]) == block * 64 + item


def test_a_rare_block_is_drawn_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "BLOCK", 8)
    x = torch.full((16,), -5.0)
    x[3] = 0.0
    draws, _ = law.categorical(there(x.expand(1, 16)), torch.Size([1500]), True, (there(torch.tensor(7)),))
    p = oracles.softmax(x)
    check_frequency(int((draws >= 8).sum()), 1500, float(p[8:].sum()))


def test_functions_of_law_are_independent_from_equal_seeds() -> None:
    """Each has its own random numbers. Of 60 choices among 100 items more than 10 equal ones: below 1e-9."""
    x = there(torch.zeros(60, 100))
    one, ones = there(torch.ones(60, 1)), there(torch.zeros(100, 1))

    def draw(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return function(*inputs, generator=torch.Generator(DEVICE).manual_seed(7))

    draws = [
        draw(ag.gumbel_max, x).indices,
        draw(ag.categorical, x),
        draw(ag.sample_without_replacement, x, 3).indices[:, 0],
        draw(ag.linear_categorical, one, ones),
    ]
    for first, second in itertools.combinations(draws, 2):
        assert (first == second).sum() <= 10
