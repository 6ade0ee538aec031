"""Functions of one number: derivatives where two arguments are equal."""

from __future__ import annotations

import torch

from argumbel._core.elementwise import logaddexp


def test_logaddexp() -> None:
    a = torch.tensor([0, 1, 3, -1e30, -700, 5], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0, 3, 1, -1e30, -700, -1e30], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(logaddexp(a, b), torch.logaddexp(a, b))
    assert torch.autograd.gradcheck(logaddexp, (a[:3], b[:3]))
    assert torch.autograd.gradgradcheck(logaddexp, (a[:3], b[:3]))
    slope, _ = torch.autograd.grad(logaddexp(a, b).sum(), (a, b), create_graph=True)
    p = torch.sigmoid((a - b).detach())
    torch.testing.assert_close(slope, p)
    torch.testing.assert_close(torch.autograd.grad(slope.sum(), a)[0], p * (1 - p))


def test_logaddexp_of_infinities() -> None:
    a = torch.tensor([-torch.inf, -torch.inf, 2, torch.inf, torch.nan, 0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([-torch.inf, 2, -torch.inf, torch.inf, 0, torch.nan], dtype=torch.float64)
    found = logaddexp(a, b)
    torch.testing.assert_close(found, torch.logaddexp(a, b), equal_nan=True)
    (slope,) = torch.autograd.grad(found[:4].sum(), a)
    assert bool(slope[:4].isfinite().all())
