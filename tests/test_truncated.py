"""truncated_gumbel: its law, its extremes, its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import argumbel as ag

from .statistics import check_cdf

DRAWS = 40_000


def truncated_cdf(loc: float, upper: float) -> object:
    """P(X <= x | X <= upper) = exp(e^(loc - upper) - e^(loc - x)), in a form without cancellation."""
    return lambda x: np.exp(-np.exp(loc - upper) * np.expm1(np.minimum(upper - x, 700)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loc", "upper"), [(0.0, 0.0), (1.0, 3.0), (2.0, -1.5), (-1.0, 8.0)])
def test_law(loc: float, upper: float, dtype: torch.dtype, backend: str) -> None:
    x = ag.truncated_gumbel(torch.full((DRAWS // 50, 50), loc, dtype=dtype), upper, noise=ag.KeyedNoise(3))
    assert (x <= upper).all()
    check_cdf(x.flatten().double().numpy(), truncated_cdf(loc, upper))


def test_it_is_what_rejection_gives() -> None:
    g = 0.5 + ag.gumbel((400_000,), generator=torch.Generator().manual_seed(1))
    kept = g[g <= 0.25]
    assert len(kept) > 80_000
    check_cdf(kept.double().numpy(), truncated_cdf(0.5, 0.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ends_far_apart(dtype: torch.dtype) -> None:
    noise = torch.tensor([0.5, -1.0], dtype=dtype)
    far_above = ag.truncated_gumbel(torch.full((2,), 500.0, dtype=dtype), 0.0, noise=noise)
    assert (far_above <= 0).all()
    assert (far_above.double() > -1e-3).all()
    far_below = ag.truncated_gumbel(torch.full((2,), -500.0, dtype=dtype), 0.0, noise=noise)
    torch.testing.assert_close(far_below, (noise.float() - 500).to(dtype))
    nobody = ag.truncated_gumbel(torch.full((2,), -math.inf, dtype=dtype), 0.0, noise=noise)
    assert (nobody == -math.inf).all()
    free = ag.truncated_gumbel(torch.zeros(2, dtype=dtype), math.inf, noise=noise)
    torch.testing.assert_close(free, noise)


def test_gradients() -> None:
    loc = torch.tensor([[0.3, -2.0, 40.0]], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([[0.7], [-1.0]], dtype=torch.float64, requires_grad=True)
    noise = ag.KeyedNoise(2).gumbel((2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: ag.truncated_gumbel(a, b, noise=noise), (loc, upper))
    ends = torch.tensor([-math.inf, 0.0], requires_grad=True)
    ag.truncated_gumbel(ends, torch.tensor([1.0, math.inf]), noise=noise[0, :2])[1].backward()
    assert ends.grad.tolist() == [0.0, 1.0]


def test_shapes_keys_and_compilation() -> None:
    loc, upper = torch.zeros(4, 1), torch.zeros(3)
    by_key = ag.truncated_gumbel(loc, upper, noise=ag.KeyedNoise(5))
    assert by_key.shape == (4, 3)
    assert torch.equal(by_key, ag.truncated_gumbel(loc, upper, noise=ag.KeyedNoise(5).gumbel((4, 3))))
    compiled = torch.compile(ag.truncated_gumbel, fullgraph=True, backend="aot_eager")
    assert torch.equal(by_key, compiled(loc, upper, noise=ag.KeyedNoise(torch.tensor(5))))
    assert ag.truncated_gumbel(torch.tensor(0.0), 1.0).shape == ()
    assert ag.truncated_gumbel(torch.zeros(0, 3), 1.0).shape == (0, 3)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"loc must be a floating tensor.*int64"):
        ag.truncated_gumbel(torch.tensor([1]), 0.0)
    with pytest.raises(ValueError, match=r"upper must broadcast with loc.*\(2,\).*\(3,\)"):
        ag.truncated_gumbel(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="must not be NaN"):
        ag.truncated_gumbel(torch.zeros(2), math.nan)
    with pytest.raises(ValueError, match="noise must have the shape"):
        ag.truncated_gumbel(torch.zeros(2), 0.0, noise=torch.zeros(3))
