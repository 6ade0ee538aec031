"""The Triton kernels are the reference: compiled where there is a GPU, else in Triton's interpreter, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels

from . import oracles
from .on_triton import DEVICE, HAS_GPU, MARKS, cases, exactly, here, there
from .statistics import check_draws
from .test_kernels import KEYS, LAWS, SINGLE, exact_max, exact_noise, keys_of, logits

pytest.importorskip("triton", minversion="3.6")
import triton
import triton.language as tl

from argumbel.kernels import dispatch
from argumbel.kernels import noise as reference
from argumbel.kernels.triton import law, order, posterior, race, softmax, topk, without_replacement
from argumbel.kernels.triton import noise as tiles

pytestmark = MARKS


# --- noise -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dtype", SINGLE)
def test_noise_is_the_reference_to_the_bit(law: str, dtype: torch.dtype) -> None:
    for shape, which in cases(dtype):
        exact = exactly(lambda: exact_noise(law, dtype, shape, which))  # noqa: B023
        ours = getattr(keys_of(shape)[which], law)(shape, dtype=dtype, device=DEVICE)
        assert ours.dtype == dtype
        assert torch.equal(here(ours), exact)


@pytest.mark.parametrize("law", LAWS)
def test_both_ends_are_refined_as_in_the_reference(law: str) -> None:
    """Of 40,000 numbers five take more bits; and keys of seed 0 within 2^-26 of an end."""
    key = ag.KeyedNoise(0x0123456789ABCDEF)
    exact = exactly(lambda: getattr(key, law)((40, 1000)))
    assert torch.equal(here(getattr(key, law)((40, 1000), device=DEVICE)), exact)
    u = exactly(lambda: key.uniform((40, 1000), dtype=torch.float64))
    assert (torch.minimum(u, 1 - u) < 2.0**-14).sum() >= 3
    far = ag.KeyedNoise(0, rows=[649, 840, 950], items=[201668, 257644, 72913])
    exact = exactly(lambda: getattr(far, law)((3, 3)))
    assert torch.equal(here(getattr(far, law)((3, 3), device=DEVICE)), exact)


@triton.jit
def bounds(words, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tiles.gumbel_bound(tl.load(words + at)))


def test_the_bound_of_a_number_is_above_it_and_near_to_a_large_one() -> None:
    """Whatever the second word: at both ends, about powers of two, where floats round, and anywhere."""
    edges = torch.tensor([sign * (1 << k) for k in range(32) for sign in (1, -1)])
    about = (edges[:, None] + torch.arange(-40, 41)).flatten() % 2**32
    first = torch.cat([torch.arange(3000), 2**32 - 1 - torch.arange(3000), about, torch.randint(2**32, (21_584,))])
    ours = torch.empty(len(first), device=DEVICE)
    bounds[(len(first) // 1024,)](there(first.int()), ours, BLOCK=1024)
    for second in (0, 2**32 - 1):
        exact = reference.gumbel(first, torch.full_like(first, second), torch.float32)
        assert (here(ours) >= exact).all()
        large = (exact > 2) & (first > 100)
        assert (here(ours) - exact)[large].max() < 0.14


def test_float64_noise_is_that_of_the_reference() -> None:
    noise = ag.KeyedNoise(3).gumbel((3, 5), dtype=torch.float64, device=DEVICE)
    torch.testing.assert_close(here(noise), exactly(lambda: ag.KeyedNoise(3).gumbel((3, 5), dtype=torch.float64)))


# --- the race ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SINGLE)
def test_gumbel_max_is_the_reference_to_the_bit(dtype: torch.dtype) -> None:
    for shape, which in cases(dtype):
        exact = exactly(lambda: exact_max(dtype, shape, which))  # noqa: B023
        values, indices = ag.gumbel_max(there(logits(shape, dtype)), noise=keys_of(shape)[which])
        assert values.dtype == dtype
        assert torch.equal(here(indices), exact[1])
        assert torch.equal(here(values), exact[0])


@pytest.mark.parametrize("n", [2048, 5000])
def test_rows_in_segments(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program for a row, several, and segments of several tiles."""
    x, noise = logits((2, n)), ag.KeyedNoise(5)
    exact = exactly(lambda: ag.gumbel_max(x, noise=noise))
    for programs in (1, 4, 10_000):
        monkeypatch.setattr(race, "PROGRAMS", programs)
        values, indices = ag.gumbel_max(there(x), noise=noise)
        assert torch.equal(here(indices), exact[1])
        assert torch.equal(here(values), exact[0])
    assert race.segments(2, n, 256, 4, 9) == (2, triton.cdiv(n, 512))
    assert race.segments(1, n, 256, 10_000, 3)[0] <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 7, 40])
def test_gumbel_topk_is_the_reference_to_the_bit(dtype: torch.dtype, k: int) -> None:
    for shape in [(3, 65), (20, 50), (2, 2500)]:
        for which in range(KEYS if shape == (3, 65) else 1):
            x, noise = logits(shape, dtype), keys_of(shape)[which]
            exact = exactly(lambda: ag.gumbel_topk(x, k, noise=noise))  # noqa: B023
            values, indices = ag.gumbel_topk(there(x), k, noise=noise)
            assert torch.equal(here(indices), exact[1])
            assert torch.equal(here(values), exact[0])


def test_ties_go_to_the_first() -> None:
    """Items that share an id have the same noise, so equal logits tie; the lowest index wins, in whichever tile or
    segment. Where logits dwarf the noise, too."""
    for n in (5, 64, 2500):
        for height in (0.0, 2.0**26):
            x, noise = torch.full((4, n), height), ag.KeyedNoise(1, items=there(torch.arange(n) % 4))
            g = exactly(lambda: ag.KeyedNoise(1).gumbel((4, 4)))
            first = g.argmax(-1)
            assert torch.equal(here(ag.gumbel_max(there(x), noise=noise).indices), first)
            assert torch.equal(here(ag.gumbel_softmax(there(x), hard=True, noise=noise)).argmax(-1), first)
            two = here(ag.gumbel_topk(there(x), 2, noise=noise).indices)
            assert torch.equal(two % 4, torch.stack([first, first if n > 7 else two[:, 1] % 4], -1))
            assert height or torch.equal(two[:, 0], first)


def test_gradients_of_values_are_those_of_their_items() -> None:
    for call in (
        lambda x: ag.gumbel_max(x, noise=ag.KeyedNoise(1)),
        lambda x: ag.gumbel_topk(x, 3, noise=ag.KeyedNoise(1)),
    ):
        x = there(torch.randn(4, 9)).requires_grad_()
        values, indices = call(x)
        (grad,) = torch.autograd.grad(values.sum(), x)
        expected = torch.zeros_like(x).scatter(-1, indices.reshape(4, -1), 1.0)
        assert torch.equal(grad, expected)


def test_layouts() -> None:
    noise = ag.KeyedNoise(2)
    wide = there(torch.randn(5, 40))
    views = [wide[:, 1:18], wide[::2], wide.t(), wide[:1].expand(6, 40), wide[:, ::2], wide[:, :1]]
    for view in views:
        for call in (
            lambda x: ag.gumbel_max(x, noise=noise).indices,
            lambda x: ag.gumbel_softmax(x, 0.5, noise=noise),
            lambda x: ag.gumbel_topk(x, 1, noise=noise).values,
            lambda x: ag.categorical(x, generator=torch.Generator(DEVICE).manual_seed(1)),
        ):
            assert torch.equal(call(view), call(view.clone(memory_format=torch.contiguous_format)))


def test_places_beyond_the_support_get_no_gradient() -> None:
    """There, where rows may not be looked at, they are marked, all by the same index."""
    x = there(torch.tensor([[0.0, -torch.inf, -torch.inf, 1.0]])).requires_grad_()
    values, indices = kernels.gumbel_topk(x, 3, (1, None, None))[:2]
    assert (indices < 0).sum() == 1
    (grad,) = torch.autograd.grad(values[indices >= 0].sum(), x)
    assert grad.tolist() == [[1.0, 0.0, 0.0, 1.0]]


def test_winners_of_many_parts() -> None:
    """More than a tile of them; ties go to the larger rest, then to the first part, NaN to the row."""
    values = torch.randn(5, 2500)
    values[1, 1999], values[2, 7], values[3] = 9.0, torch.nan, -torch.inf
    values[1, 30], values[0, 50], values[0, 700], values[0, 1900] = 9.0, 512.0, 512.0, 512.0
    rests = torch.zeros(5, 2500)
    rests[0, 700], rests[0, 1900] = 1e-5, 1e-5
    items = torch.arange(2500).expand(5, 2500) * 3
    best, index = there(torch.empty(5)), there(torch.empty(5, dtype=torch.int64))
    race.settle(there(values), there(rests), there(items.contiguous()), best, index)
    exact = values.max(-1)
    assert index.tolist() == [2100, 90, -1, -1, int(exact.indices[4]) * 3]
    assert best.isnan().tolist() == [False, False, True, True, False]


def test_rows_too_long_for_the_kernels_run_on_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, noise = torch.randn(2, 40), ag.KeyedNoise(1)
    exact = exactly(lambda: ag.gumbel_max(x, noise=noise))[1]
    monkeypatch.setattr(dispatch, "LONGEST_ROW", 39)
    for module in (race, topk, order, posterior, without_replacement, tiles, softmax, law):
        monkeypatch.setattr(module, "launch", None)
    assert torch.equal(here(ag.gumbel_max(there(x), noise=noise).indices), exact)
    one, key = there(torch.ones(1)), (1, None, None)
    reasons = kernels.explain(kernels.linear_gumbel_max, there(x), there(torch.randn(40, 40)), None, one, key)
    assert reasons["triton"] == "a row is longer than 39"
    assert reasons["reference"] == "runs"
    for draw in (ag.gumbel_topk, ag.sample_without_replacement):
        assert draw(there(x), 2).indices.shape == (2, 2)
    index = torch.tensor([3, 39])
    assert torch.equal(here(ag.posterior_gumbel(there(x), there(index))).argmax(-1), index)
    assert ag.gumbel_softmax(there(x)).shape == ag.gumbel((2, 40), device=DEVICE).shape


# --- bad rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [9, 2500])
def test_bad_rows_are_marked(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with NaN, with +inf, with nothing allowed; one with a single item, and a sound one."""
    monkeypatch.setattr(softmax, "LONGEST_TILE", 1024)
    x = torch.zeros(5, n)
    x[0, n // 2], x[1, -1], x[2], x[3, 1:] = torch.nan, torch.inf, -torch.inf, -torch.inf
    x = there(x)
    seed = there(torch.tensor(1))
    values, indices = race.gumbel_max(x, (seed, None, None))
    assert indices.tolist()[:4] == [-1, -1, -1, 0]
    assert values.isnan().tolist() == [True, True, True, False, False]
    values, indices = topk.gumbel_topk(x, 2, (seed, None, None))
    assert indices[:4].tolist() == [[-1, -1]] * 3 + [[0, -1]]
    assert values.isnan().sum(-1).tolist() == [2, 2, 2, 1, 0]
    draws, log_z = law.categorical(x, torch.Size([2]), True, (seed,))
    assert draws[:, :4].tolist() == [[-1, -1, -1, 0]] * 2
    assert log_z.isnan().tolist() == [True, True, True, False, False]
    for tau in (1.0, 0.0):
        y = softmax.gumbel_softmax(x, there(torch.tensor([tau])), False, (seed, None, None))
        assert y.isnan().all(-1).tolist() == [True, True, True, False, False]
        torch.testing.assert_close(here(y[3:].sum(-1)), torch.ones(2))


def test_empty_tensors() -> None:
    x = there(torch.empty(0, 5, requires_grad=True))
    assert ag.gumbel_max(x).values.shape == (0,)
    assert ag.gumbel_topk(x, 2).values.shape == (0, 2)
    assert ag.categorical(x, (3,)).shape == (3, 0)
    (grad,) = torch.autograd.grad(ag.gumbel_softmax(x, hard=True).sum(), x)
    assert grad.shape == (0, 5)
    assert ag.gumbel_topk(there(torch.zeros(3, 5)), 0).values.shape == (3, 0)
    assert ag.gumbel((0, 3), device=DEVICE).shape == (0, 3)


# --- far from 0 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e6, -1.6e7, -300.0, None])
@pytest.mark.parametrize(("rows", "n"), [(70, 3), (5, 48), (3, 600), (2, 2500), (1, 5000)])
def test_far_from_0_it_is_the_reference(rows: int, n: int, offset: float | None) -> None:
    """Logits beside which float32 rounds the noise away: equal sums are settled alike, and rows near 0 stay."""
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(n))
    x = torch.full_like(x, torch.finfo(x.dtype).min) if offset is None else x + offset
    x[1::3] = torch.randn(n)
    key, k = ag.KeyedNoise(11), min(n, 7)
    grad = torch.randn(rows, n)

    def keyed(to: Callable[[Tensor], Tensor]) -> list[Tensor]:
        a = to(x).requires_grad_()
        y, hard = ag.gumbel_softmax(a, 0.7, noise=key), ag.gumbel_softmax(a, 0.7, True, noise=key)
        zeros = to(torch.zeros(rows, 1)), to(torch.zeros(n, 1))
        indices = (
            ag.gumbel_max(a.detach(), noise=key).indices,
            *ag.gumbel_topk(a.detach(), k, noise=key),
            ag.linear_gumbel_max(*zeros, bias=to(x[0]), noise=key).indices,
        )
        grads = (torch.autograd.grad((s * to(grad)).sum(), a)[0] for s in (y, hard))
        return [here(part.detach()) for part in (*indices, hard, y, *grads)]

    found, expected = keyed(there), exactly(lambda: tuple(keyed(lambda t: t.clone())))
    for ours, exact in zip(found[:5], expected[:5], strict=True):
        assert torch.equal(ours, exact)
    for ours, exact in zip(found[5:], expected[5:], strict=True):
        torch.testing.assert_close(ours, exact, rtol=2e-5, atol=2e-6)


def test_far_from_0_the_first_of_a_tile_are_different_items() -> None:
    """Pairs of sum and rest may be equal, too: of equal logits under equal noise, here by equal ids."""
    items = torch.zeros(1100, dtype=torch.int64)
    items[3::5] = torch.arange(3, 1100, 5)
    noise = ag.KeyedNoise(2, items=there(items))
    indices = here(ag.gumbel_topk(there(torch.full((2, 1100), 1e6)), 60, noise=noise).indices)
    assert all(len(set(row)) == 60 for row in indices.tolist())


@pytest.mark.parametrize("offset", [1e6, None])
def test_draws_far_from_0(offset: float | None) -> None:
    x = torch.tensor([0.5, 0.3, 0.2]).log()
    x = torch.full_like(x, torch.finfo(x.dtype).min) if offset is None else x + offset
    draws = ag.categorical(there(x), (20_000 if HAS_GPU else 4000,), generator=torch.Generator(DEVICE).manual_seed(3))
    check_draws(here(draws), oracles.softmax(x))
