"""The race given its winner by Triton: its formula in float64 from the same noise, up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import argumbel as ag

from .on_triton import MARKS, exactly, here, there
from .test_kernels import KEYS, SINGLE, keys_of, logits

pytest.importorskip("triton", minversion="3.6")

import triton
import triton.language as tl

from argumbel.kernels.triton import posterior

pytestmark = MARKS


@pytest.fixture(params=[True, False], ids=["whole rows", "rows in tiles"])
def whole(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(posterior, "LONGEST_TILE", 0)
        monkeypatch.setattr(posterior, "BLOCK", 64)
    return request.param


def second_best(x: Tensor) -> Tensor:
    return x.float().nan_to_num(neginf=-1e30).argsort(-1)[..., -min(x.shape[-1], 2)]


@pytest.mark.parametrize("dtype", SINGLE)
@pytest.mark.parametrize("known", [False, True])
def test_it_errs_no_more_than_rounding(dtype: torch.dtype, known: bool, whole: bool) -> None:
    """Values and their gradient."""
    shapes = [(3, 1), (2, 65), (2, 3, 4), (2, 1100 if whole else 200)] if dtype == torch.float32 else [(2, 65)]
    for shape in shapes:
        for which in range(KEYS if shape == (2, 65) and dtype == torch.float32 and known else 1):
            x, noise = logits(shape, dtype), keys_of(shape)[which]
            index, value = second_best(x), x.float().amax(-1) - 3 if known else None
            upstream = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
            a = there(x).requires_grad_()
            ours = ag.posterior_gumbel(a, there(index), value=None if value is None else there(value), noise=noise)
            (ours_grad,) = torch.autograd.grad(ours, a, there(upstream))
            ours, ours_grad = here(ours.detach()), here(ours_grad)
            g = exactly(lambda: noise.gumbel(shape, dtype=torch.float32)).double()  # noqa: B023
            b = x.double().requires_grad_()
            exact = ag.posterior_gumbel(b, index, value=None if value is None else value.double(), noise=g)
            (exact_grad,) = torch.autograd.grad(exact, b, upstream.double())
            assert ours.dtype == ours_grad.dtype == dtype
            assert torch.equal(ours.argmax(-1), index)
            assert ((ours == ours.amax(-1, keepdim=True)).sum(-1) == 1).all()
            forbidden = x == -torch.inf
            assert torch.equal(ours == -torch.inf, forbidden)
            size = exact.detach().masked_fill(forbidden, 0).abs() + exact.detach().amax(-1, keepdim=True).abs() + 1
            error = (ours.double() - exact.detach()).masked_fill(forbidden, 0).abs() / size
            assert error.max() <= 2 * torch.finfo(dtype).eps + 4 * torch.finfo(torch.float32).eps
            size = upstream.double().abs() + min(1, 10 / shape[-1]) * upstream.double().abs().sum(-1, keepdim=True)
            error = (ours_grad.double() - exact_grad).abs() / size
            assert error.max() <= torch.finfo(dtype).eps + 100 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("offset", [1e6, -300.0, None])
def test_far_from_0_it_is_the_reference(offset: float | None, whole: bool) -> None:
    """Where values are equal to the height, or would be above it, they are the number below it."""
    x = torch.randn(2, 70, generator=torch.Generator().manual_seed(1))
    x = torch.full_like(x, torch.finfo(x.dtype).min / 2) if offset is None else x + offset
    index, noise = torch.tensor([3, 69]), ag.KeyedNoise(3)
    exact = exactly(lambda: ag.posterior_gumbel(x, index, noise=noise))
    ours = here(ag.posterior_gumbel(there(x), there(index), noise=noise))
    assert torch.equal(ours.argmax(-1), index)
    assert ((ours == ours.amax(-1, keepdim=True)).sum(-1) == 1).all()
    torch.testing.assert_close(ours, exact, rtol=3e-7, atol=1e-5)


@triton.jit
def below(numbers, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, posterior._below(tl.load(numbers + at)))


def test_the_number_below() -> None:
    info = torch.finfo(torch.float32)
    numbers = torch.tensor([0.0, -0.0, 1e-45, -1e-45, info.tiny, -info.tiny, 1.0, -1.0, 2.0, -2.0, 3e38, -3e38])
    numbers = torch.cat([numbers, torch.tensor([info.max, info.min, 1e6, -300.0])])
    ours = there(torch.full((16,), torch.nan))
    below[(1,)](there(numbers), ours, BLOCK=16)
    assert torch.equal(here(ours), torch.nextafter(numbers, torch.tensor(-torch.inf)))


@pytest.mark.parametrize("height", [0.0, 30.0, -2.0])
def test_nothing_reaches_the_height(height: float, whole: bool) -> None:
    """Items that are far better than the winner: all of them stand just below it."""
    x, value = torch.full((1, 66), 90.0), torch.tensor([height])
    ours = here(ag.posterior_gumbel(there(x), there(torch.tensor([65])), value=there(value), noise=ag.KeyedNoise(1)))
    assert ours[0, 65] == height
    assert (ours[0, :65] < height).all()
    torch.testing.assert_close(ours, torch.full_like(ours, height), rtol=2e-7, atol=2e-7)


def test_bad_rows_are_marked(whole: bool) -> None:
    """Rows with NaN, with +inf, with nothing allowed, with winners that are forbidden or do not exist, or with heights
    that are not finite; and a sound one."""
    x = torch.zeros(9, 70)
    x[0, 35], x[1, 69], x[2], x[3, 8:] = torch.nan, torch.inf, -torch.inf, -torch.inf
    index, value = torch.tensor([0, 0, 0, 30, -1, 70, 5, 5, 5]), torch.zeros(9)
    value[6:8] = torch.tensor([torch.nan, torch.inf])
    key = (there(torch.tensor(1)), None, None)
    for given in (None, value):
        ours = here(posterior.posterior_gumbel(there(x), there(index), None if given is None else there(given), key))
        assert ours.dtype == torch.float32
        bad = [True] * 6 + [given is not None] * 2 + [False]
        assert ours.isnan().all(-1).tolist() == bad
        assert ours.isnan().any(-1).tolist() == bad


def test_layouts_and_no_rows(whole: bool) -> None:
    noise, wide, index = ag.KeyedNoise(2), there(torch.randn(20, 20)), there(torch.tensor([1, 0, 16]))
    for view in (wide[:3, 1:18], wide.t()[:3], wide[:1].expand(3, 20)):
        ours = ag.posterior_gumbel(view, index, noise=noise)
        assert torch.equal(ours, ag.posterior_gumbel(view.contiguous(), index, noise=noise))
    x = there(torch.empty(0, 5, requires_grad=True))
    ours = ag.posterior_gumbel(x, there(torch.empty(0, dtype=torch.int64)))
    assert torch.autograd.grad(ours.sum(), x)[0].shape == ours.shape == (0, 5)
