"""Gradients of relaxed choices at the ends of the dtypes: what is too large may be infinite, nothing is NaN."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import argumbel as ag

from .strategies import DTYPES
from .test_relax import RELAXED

ROWS = {
    "ties": torch.zeros(6, 5),
    "ordinary": torch.randn(6, 5, generator=torch.Generator().manual_seed(1)),
    "far": torch.tensor([0.0, -1e4, 6e4, -6e4, 10.0]).expand(6, 5),
}
NOISE = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))


def taus(tau: float, dtype: torch.dtype) -> list[float | Tensor]:
    wide = torch.float32 if dtype == torch.float16 and tau < 1e-7 else dtype
    return [tau, torch.tensor(tau, dtype=wide), torch.full((6, 1), tau, dtype=wide)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RELAXED)
def test_no_gradient_is_nan(backend: str, name: str, dtype: torch.dtype) -> None:
    """Also of a loss that a gradient scaler has multiplied; an overflow is for the scaler to see."""
    most = torch.finfo(torch.float16).max
    for value, scale in itertools.product([1e-18, 1e-10, 1e-5, 1e-3, 0.1, 1e4], [1, most]):
        for (kind, row), tau in itertools.product(ROWS.items(), taus(value, dtype)):
            for noise in (ag.KeyedNoise(3), 0 * NOISE.to(dtype) if kind == "ties" else NOISE.to(dtype)):
                x = row.to(dtype).requires_grad_()
                y = RELAXED[name](x, tau.requires_grad_() if isinstance(tau, Tensor) else tau, noise=noise)
                upstream = (NOISE * scale).clamp(-most, most).to(y.dtype).masked_fill(y.isinf(), 0)
                variables = [v for v in (x, tau) if isinstance(v, Tensor)]
                for part in (y, *torch.autograd.grad(y, variables, upstream)):
                    assert not part.isnan().any(), (kind, tau, scale)


@pytest.mark.parametrize("name", ["gumbel_softmax", "gumbel_sigmoid", "relaxed_topk"])
def test_certain_choices_do_not_move_with_tau(backend: str, name: str) -> None:
    """values / tau^2 is no number of float32; it was multiplied by zero."""
    x = torch.tensor([[1e5, 2e5, -3e5, -4e5]])
    for noise in (ag.KeyedNoise(1), torch.zeros(1, 4)):
        tau = torch.tensor(1e-18, requires_grad=True)
        (grad,) = torch.autograd.grad(RELAXED[name](x, tau, noise=noise)[0, 1], tau)
        assert grad == 0


@pytest.mark.parametrize("hard", [False, True])
def test_an_exact_coin_has_a_gradient_of_zero(backend: str, hard: bool) -> None:
    for noise in (ag.KeyedNoise(1), NOISE):
        x = ROWS["ordinary"].clone().requires_grad_()
        y = ag.gumbel_sigmoid(x, 0, hard, noise=noise)
        assert torch.autograd.grad(y.sum(), x)[0].eq(0).all()
