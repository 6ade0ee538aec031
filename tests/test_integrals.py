"""Rules against polynomials; the integrals over the arrival of the first outsider against sums over subsets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from argumbel._core.integrals import fejer, first_without, gauss_legendre, log_arrived, log_prob_first
from argumbel.distributions import HardConcrete
from argumbel.estimators._without_replacement import _came_first


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- rules for an interval ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 8, 12, 64])
def test_gauss_legendre_is_exact_for_polynomials(n: int) -> None:
    nodes, weights = gauss_legendre(n)
    assert len(nodes) == len(weights) == n
    assert nodes == sorted(nodes)
    x, w = torch.tensor(nodes, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
    for degree in range(2 * n):
        assert (w * x**degree).sum().item() == pytest.approx(1 / (degree + 1), abs=1e-14)
    if n <= 8:
        assert (w * x ** (2 * n)).sum().item() != pytest.approx(1 / (2 * n + 1), abs=1e-14)


def test_fejer_is_exact_for_polynomials() -> None:
    nodes, weights = fejer(20, torch.zeros(0, dtype=torch.float64))
    for degree in range(20):
        assert (weights * nodes**degree).sum().item() == pytest.approx(1 / (degree + 1), abs=1e-14)


def test_no_mode_gets_into_a_rule() -> None:
    """The first use may be under inference mode or with fake tensors; the next one wants a gradient."""
    with torch.inference_mode():
        HardConcrete(0.5, logits=torch.zeros(3)).mean  # noqa: B018
    with torch._subclasses.FakeTensorMode():
        HardConcrete(0.5, logits=torch.zeros(3)).mean  # noqa: B018
    logits = torch.zeros(3, requires_grad=True)
    HardConcrete(0.5, logits=logits).mean.sum().backward()
    assert (logits.grad > 0).all()
    assert all(type(number) is float for half in gauss_legendre(3) for number in half)


# --- the arrival of the first outsider ---------------------------------------------------------------------------


def prob_first(a: list[float]) -> float:
    """By inclusion and exclusion over the members that are late: exact to 1e-10 for few members of ordinary weight."""
    weights = [math.exp(v) for v in a]
    return math.fsum(
        (-1) ** r / (1 + math.fsum(late)) for r in range(len(a) + 1) for late in itertools.combinations(weights, r)
    )


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_the_probability_to_be_first(k: int, scale: float) -> None:
    a = 1 + scale * randn(k, seed=k)
    assert log_prob_first(a).exp().item() == pytest.approx(prob_first(a.tolist()), abs=1e-10)


@pytest.mark.parametrize("k", [2, 3, 5, 12])
def test_sets_without_one_and_without_two(k: int) -> None:
    """The law of who came first is ``exp(x_s + log P(S without s | without s) - log P(S))``."""
    for scale in (0.0, 1.0, 4.0, 20.0):
        a = scale * randn(k, seed=k) - 1
        one, two = first_without(a)
        for s in range(k):
            fewer = torch.cat([a[:s], a[s + 1 :]])
            expected = log_prob_first(fewer) - log_prob_first(a)
            assert one[s].item() == pytest.approx(expected.item(), abs=3e-11)
            if k > 2:
                expected = torch.stack([log_prob_first(torch.cat([fewer[:t], fewer[t + 1 :]])) for t in range(k - 1)])
                expected = expected - log_prob_first(fewer)
                torch.testing.assert_close(torch.cat([two[s, :s], two[s, s + 1 :]]), expected, rtol=0, atol=3e-11)
        log_p = a - torch.logsumexp(torch.cat([a, torch.zeros(1)]), 0)
        if scale <= 4:  # beyond, what is left of probability 1 is lost to rounding
            torch.testing.assert_close(_came_first(log_p)[0], (log_p + one).exp(), rtol=3e-11, atol=0)


def test_a_member_that_is_sure_to_be_there_changes_nothing() -> None:
    a = randn(4)
    sure = torch.cat([a, torch.full((2,), torch.inf)])
    torch.testing.assert_close(log_prob_first(sure), log_prob_first(a), rtol=0, atol=1e-12)
    for with_sure, without in zip(first_without(sure), first_without(a), strict=True):
        torch.testing.assert_close(with_sure[..., :4][:4], without, rtol=0, atol=1e-10)


def test_log_arrived_in_the_limits() -> None:
    a = torch.tensor([-1e4, -800.0, -40.0, 0.0, 3.0, 800.0, 1e4], dtype=torch.float64).requires_grad_()
    value = log_arrived(a)
    expected = torch.tensor([-1e4, -800, -40, math.log(-math.expm1(-1)), math.log1p(-math.exp(-math.exp(3))), 0, 0])
    torch.testing.assert_close(value, expected.double(), rtol=1e-7, atol=1e-10)
    (slope,) = torch.autograd.grad(value.sum(), a)
    torch.testing.assert_close(slope[[0, 1, 2, 5, 6]], torch.tensor([1.0, 1, 1, 0, 0]).double(), rtol=1e-14, atol=0)
