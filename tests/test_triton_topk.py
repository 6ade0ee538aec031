"""The first k by Triton: all ways to put items in order, and draws without replacement by groups of items."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels

from . import oracles
from .on_triton import MARKS, exactly, here, there
from .statistics import check_cdf, check_draws
from .test_kernels import KEYS, SINGLE, keys_of, logits

pytest.importorskip("triton", minversion="3.6")

from argumbel.kernels.law import LAW_RACES
from argumbel.kernels.triton import order, topk, without_replacement

pytestmark = MARKS


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of some hundred items are many tiles of 32."""
    for module in (order, topk, without_replacement):
        monkeypatch.setattr(module, "BLOCK", 32)


def check(x: Tensor, k: int, noise: ag.KeyedNoise) -> None:
    exact = exactly(lambda: ag.gumbel_topk(x, k, noise=noise))
    values, indices = ag.gumbel_topk(there(x), k, noise=noise)
    assert values.dtype == x.dtype
    assert torch.equal(here(indices), exact[1])
    assert torch.equal(here(values), exact[0])


# --- gumbel_topk -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(300, 1), (300, 8), (300, 9), (300, 18), (300, 150), (300, 300), (33, 33)])
def test_every_way_is_the_reference_to_the_bit(n: int, k: int, small_tiles: None) -> None:
    """Up to 18 of 300 items are found by groups, whose last rounds are merges if k is more than 8, and more by merges
    of all tiles."""
    assert (topk.group_size(n, k) > 1) == (k <= 18)
    check(logits((1, n)).nan_to_num(neginf=-300.0), k, ag.KeyedNoise(5))


@pytest.mark.parametrize("dtype", SINGLE)
def test_keys_of_all_kinds(dtype: torch.dtype, small_tiles: None) -> None:
    """By groups and by merges; rows, items and seeds may have ids of their own."""
    shape = (2, 33)
    for which in range(KEYS if dtype == torch.float32 else 1):
        for k in (2, 20) if which in (0, KEYS - 1) else (2,):
            check(logits(shape, dtype), k, keys_of(shape)[which])


@pytest.mark.parametrize("offset", [1e6, -300.0, None])
@pytest.mark.parametrize("k", [4, 50])
def test_far_from_0_and_tied(offset: float | None, k: int, small_tiles: None) -> None:
    """Equal sums are settled by what rounding took off them, and equal pairs by the item, in every tile and round."""
    x = torch.randn(2, 70, generator=torch.Generator().manual_seed(1))
    x = torch.full_like(x, torch.finfo(x.dtype).min) if offset is None else x + offset
    x[1] = torch.randn(70)
    check(x, k, ag.KeyedNoise(3))
    x[1] = 0.0
    check(x.round(), k, ag.KeyedNoise(3, items=torch.arange(70) % 7))


def test_many_short_rows_in_a_tile() -> None:
    check(logits((70, 3)), 2, ag.KeyedNoise(3))
    check(logits((20, 50)).nan_to_num(neginf=-9.0), 50, ag.KeyedNoise(3))


def test_tiles_as_they_are() -> None:
    check(torch.randn(1, 2500), 30, ag.KeyedNoise(3))
    check(torch.randn(1, 1500), 1200, ag.KeyedNoise(3))


@pytest.mark.parametrize("k", [4, 40])
@pytest.mark.parametrize("name", ["gumbel_topk", "sample_without_replacement"])
def test_bad_rows_are_marked_in_every_round(name: str, k: int, small_tiles: None) -> None:
    """Rows with NaN, with +inf, with nothing allowed; and with two items allowed, in different tiles."""
    n = 70
    x = torch.zeros(5, n)
    x[0, n // 2], x[1, -1], x[2], x[3] = torch.nan, torch.inf, -torch.inf, -torch.inf
    x[3, [30, 69]] = torch.tensor([50.0, 0.0])
    seed = there(torch.tensor(1))
    if name == "gumbel_topk":
        values, indices = topk.gumbel_topk(there(x), k, (seed, None, None))
    else:
        values, indices = without_replacement.sample_without_replacement(there(x), k, (seed,))
    values, indices = here(values), here(indices)
    assert (indices[:3] == -1).all()
    assert values[:3].isnan().all()
    assert indices[3].tolist() == [30, 69, *[-1] * (k - 2)]
    assert values[3].isnan().tolist() == [False, False, *[True] * (k - 2)]
    assert len(set(indices[4].tolist())) == k
    assert (values[4].diff() <= 0).all()


# --- sample_without_replacement ----------------------------------------------------------------------------------


def by_groups(x: Tensor, k: int, group: int, g: Tensor, g_of_groups: Tensor) -> tuple[Tensor, Tensor]:
    """The algorithm in plain PyTorch; noise of items and of groups."""
    n = x.shape[-1]
    padding = (0, -n % group)
    x = torch.nn.functional.pad(x.double(), padding, value=-torch.inf).unflatten(-1, (-1, group))
    g = torch.nn.functional.pad(g.double(), padding).unflatten(-1, (-1, group))
    top = x.amax(-1, keepdim=True)
    base = torch.where(top == -torch.inf, 0, top)
    height = (x - base).exp().sum(-1, keepdim=True).log() + g_of_groups.double().unsqueeze(-1)
    best = (base + height).squeeze(-1)
    chosen = best >= best.topk(k, -1).values[..., -1:]
    free = x - base + g
    behind = (free.amax(-1, keepdim=True) - free).nan_to_num(nan=torch.inf)
    given = g - (-torch.expm1(-behind) + (free - height).exp()).log()
    return (x + given).masked_fill(~chosen.unsqueeze(-1), -torch.inf).flatten(-2).topk(k, -1)


def gumbels(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(shape[-1])
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_law_of_the_algorithm(k: int) -> None:
    """Groups of two, one of them forbidden; the order of the first k, and the values of the first two."""
    x = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf, -torch.inf, 0.5, -2.0, 1.5])
    draws = 40_000
    values, indices = by_groups(x.expand(draws, 9), k, 2, gumbels(draws, 9), gumbels(draws, 5))
    law = oracles.plackett_luce(x, k)
    number = {order: i for i, order in enumerate(law)}
    check_draws([number[tuple(row)] for row in indices.tolist()], list(law.values()))
    z = x.double().exp().sum()
    check_cdf((values[:, 0] - z.log()).numpy(), oracles.gumbel_cdf)
    if k > 1:
        # Between the first two arrivals lies an exponential time, at the rate of all items but the first.
        gap = (values[:, :2].neg().exp().diff().squeeze(-1) * (z - x.double().exp()[indices[:, 0]])).numpy()
        check_cdf(gap, lambda t: -torch.expm1(-torch.as_tensor(t)).numpy())


@pytest.mark.parametrize(("n", "k"), [(70, 1), (70, 4), (150, 9)])
def test_draws_are_those_of_the_algorithm(n: int, k: int, small_tiles: None) -> None:
    """Rows near 0 and far from it, with items and groups that are forbidden or lie far below the others."""
    x = torch.randn(4, n, generator=torch.Generator().manual_seed(n))
    x[1, 8:30], x[1, 40] = -torch.inf, 7.0
    x[2] += 4096
    x[3, 1::3] -= 200
    seed, group = 11, topk.group_size(n, k)
    values, indices = without_replacement.sample_without_replacement(there(x), k, (there(torch.tensor(seed)),))
    after, groups = -(-n // 4) * 4, -(-n // group)
    g = exactly(lambda: ag.KeyedNoise(seed ^ LAW_RACES["sample_without_replacement"]).gumbel((4, after + groups)))
    exact = by_groups(x, k, group, g[:, :n], g[:, after:])
    assert torch.equal(here(indices), exact[1])
    torch.testing.assert_close(here(values), exact[0].float(), rtol=2e-7, atol=2e-5)


def test_items_at_the_lowest_number_are_drawn_alike(small_tiles: None) -> None:
    """Beside a few others, when these have been drawn: far from 0 the noise still tells who comes first."""
    x = torch.full((2, 150), torch.finfo(torch.float32).min)
    x[:, [3, 70]] = 0.0
    draw = without_replacement.sample_without_replacement(there(x), 8, (there(torch.tensor(1)),))
    indices = here(draw[1])
    assert {tuple(sorted(row)) for row in indices[:, :2].tolist()} == {(3, 70)}
    assert all(len(set(row)) == 8 for row in indices.tolist())
    rest = indices[:, 2:].flatten()
    assert rest.max() > 80  # of the first of each group, or of the first group, all would be lower
    assert len(set((rest % 4).tolist())) > 1


def test_many_draws_of_a_row_make_no_copies_of_it(small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def launch(kernel: Any, programs: int, source: Tensor, *rest: Any, **constants: Any) -> None:
        sizes.append(source.untyped_storage().nbytes())
        order.launch(kernel, programs, source, *rest, **constants)

    monkeypatch.setattr(topk, "launch", launch)
    monkeypatch.setattr(without_replacement, "launch", launch)
    x = there(torch.randn(2, 70))
    for k in (2, 36):
        values, indices = ag.sample_without_replacement(x, k, (3,), generator=torch.Generator(x.device).manual_seed(1))
        assert values.shape == indices.shape == (3, 2, k)
        assert all(len(set(row)) == k for row in indices.flatten(0, 1).tolist())
        assert not torch.equal(indices[0], indices[1])
    assert sizes == [560, 560, 560]


def test_it_takes_any_k() -> None:
    x, key = there(torch.randn(2, 10)), (there(torch.tensor(1)),)
    for k in (0, 1, 10):
        assert kernels.explain(kernels.sample_without_replacement, x, k, key)["reference"] == "is not needed"
        indices = ag.sample_without_replacement(x, k).indices
        assert all(len(set(row)) == k for row in indices.tolist())
    assert ag.sample_without_replacement(there(torch.zeros(0, 5)), 2).indices.shape == (0, 2)
