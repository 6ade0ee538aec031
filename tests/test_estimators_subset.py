"""Choices of k items: unbiased for the expectation over subsets, k-hot, and the sure gain of scoring the set."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.estimators import reinforce_loo, subset_reinforce

from .problems import check_equal_means, total_variance


def subset_oracle(x: Tensor, a: Tensor, k: int) -> Tensor:
    """E (a . z)^2 over the k-hot z, by all ordered choices; differentiable."""
    w, total = torch.softmax(x, -1), x.new_zeros(())
    for order in itertools.permutations(range(len(x)), k):
        p, left = x.new_ones(()), list(range(len(x)))
        for i in order:
            p = p * w[i] / w[left].sum()
            left.remove(i)
        total = total + p * a[list(order)].sum() ** 2
    return total


@pytest.mark.parametrize(("n", "k"), [(3, 1), (3, 2), (4, 2), (5, 3), (6, 2)])
@pytest.mark.parametrize("ordered", [False, True])
def test_subsets_are_unbiased(n: int, k: int, ordered: bool) -> None:
    g = torch.Generator().manual_seed(n)
    x, a = (torch.randn(n, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    value = subset_oracle(x, a, k)
    expected = (value.detach(), *torch.autograd.grad(value, (x, a)))
    xs, as_ = (v.detach().expand(6_000, n).clone().requires_grad_() for v in (x, a))
    loss = subset_reinforce(lambda z: (as_ * z).sum(-1) ** 2, xs, k=k, num_samples=3, ordered=ordered)
    for sample, mean in zip((loss.detach(), *torch.autograd.grad(loss.sum(), (xs, as_))), expected, strict=True):
        check_equal_means(sample, mean)


def test_subsets_of_one_are_choices() -> None:
    x = torch.randn(30, 2, 4, dtype=torch.float64, requires_grad=True)
    noise = ag.KeyedNoise(1)
    f = lambda z: (z * torch.arange(4.0)).sum((-2, -1)) ** 2  # noqa: E731
    ours, theirs = subset_reinforce(f, x, k=1, noise=noise), reinforce_loo(f, x, noise=noise)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (ours, theirs)))


def test_scoring_the_set_has_less_variance_than_scoring_the_sequence() -> None:
    x = torch.randn(5, dtype=torch.float64).expand(6_000, 5).clone().requires_grad_()
    f = lambda z: (z @ torch.arange(5.0, dtype=torch.float64)) ** 2  # noqa: E731
    of_set, of_sequence = (
        total_variance(torch.autograd.grad(subset_reinforce(f, x, k=3, ordered=o).sum(), x)[0]) for o in (False, True)
    )
    assert of_set < 0.9 * of_sequence


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_subsets_are_k_hot_and_allowed(dtype: torch.dtype) -> None:
    x = torch.randn(20, 2, 6, dtype=dtype)
    x[..., 1] = -torch.inf
    x.requires_grad_()

    def f(z: Tensor) -> Tensor:
        assert z.dtype == dtype
        assert ((z == 0) | (z == 1)).all()
        assert (z.sum(-1) == 3).all()
        assert (z[..., 1] == 0).all()
        return (z[..., 0] * z[..., 2]).sum(-1)

    (gradient,) = torch.autograd.grad(subset_reinforce(f, x, k=3).sum(), x)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert (gradient[..., 1] == 0).all()
    with pytest.raises(ValueError, match="k must be at most"):
        subset_reinforce(f, x, k=6)
