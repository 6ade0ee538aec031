"""Relaxed k-hot vectors: the marginals of the k-subset law, and sums of successive softmaxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel import kernels
from argumbel.kernels import subset

from . import oracles
from .statistics import check_counts
from .strategies import DTYPES, logits, seeds

EPS = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def marginals(z: Tensor, k: int) -> Tensor:
    """By enumeration of all sets of k items; z in float64, differentiable."""
    sets = torch.tensor(list(itertools.combinations(range(z.shape[-1]), k)), dtype=torch.int64)
    hot = torch.zeros(len(sets), z.shape[-1], dtype=torch.float64).scatter(-1, sets, 1.0)
    return torch.softmax(torch.where(hot.bool(), z.unsqueeze(-2), 0.0).sum(-1), -1) @ hot


@pytest.fixture(params=["sums", "tree", "native"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of the reference to compute the marginals, for any k, and the compiled kernels."""
    monkeypatch.setattr(subset, "FEW", 32 if request.param == "sums" else 0)
    with kernels.use(None if request.param == "native" else "reference"):
        yield


def test_relaxed_topk_stays_below_one() -> None:
    x = torch.zeros(1000, 20)
    for tau in (0.01, 0.1, 1, 10.0):
        y = ag.relaxed_topk(x, 5, tau, noise=ag.KeyedNoise(1))
        assert (y >= 0).all()
        assert (y <= 1).all()
        torch.testing.assert_close(y.sum(-1), torch.full((1000,), 5.0))
    assert ag.relaxed_topk(x, 5, 0.1, method="successive", noise=ag.KeyedNoise(1)).max() > 2


@pytest.mark.parametrize("n", [2, 3, 6, 9])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 900.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relaxed_topk_is_the_marginal_of_enumeration(way: None, n: int, spread: float, dtype: torch.dtype) -> None:
    x, upstream = torch.randn(2, 5, n, generator=generator(n), dtype=dtype)
    x, tolerance = spread * x, 1e-12 if dtype == torch.float64 else 1e-6
    noise = torch.zeros_like(x)
    for k in range(n + 1):  # k = 1 is a softmax, in float32
        a, exact = x.clone().requires_grad_(), x.double().requires_grad_()
        y, expected = ag.relaxed_topk(a, k, 0.75, noise=noise), marginals(exact / 0.75, k)
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)
        small = expected > (1e-30 if k > 1 else 0.01)  # rare items to a relative precision, too
        torch.testing.assert_close(y.double()[small], expected[small], rtol=max(tolerance, 1e-11), atol=0)
        (slope,) = torch.autograd.grad(y, a, upstream)
        if k > 0:
            (expected_slope,) = torch.autograd.grad(expected, exact, upstream.double())
            torch.testing.assert_close(slope.double(), expected_slope, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(("n", "k"), [(150, 1), (150, 2), (150, 32), (150, 33), (150, 140), (150, 149), (1101, 550)])
def test_relaxed_topk_of_many_items_against_a_recursion(backend: str, n: int, k: int) -> None:
    """One item after the other, in logarithms; without one item, the sum over sets of one item less."""
    x = 2 * torch.randn(n, generator=generator(k), dtype=torch.float64)

    def log_sets(z: np.ndarray, size: int) -> float:
        law = np.full(size + 1, -np.inf)
        law[0] = 0
        for v in z:
            law[1:] = np.logaddexp(law[1:], law[:-1] + v)
        return float(law[size])

    z = x.numpy() / 0.8
    y = ag.relaxed_topk(x, k, 0.8, noise=torch.zeros_like(x))
    assert (y <= 1).all()
    order = x.argsort(descending=True).tolist()
    for i in {order[0], order[k - 1], order[k], order[-1], 0}:
        expected = math.exp(z[i] + log_sets(np.delete(z, i), k - 1) - log_sets(z, k))
        assert y[i].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [2, 40])
def test_derivatives_of_relaxed_topk(backend: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Jacobian is the covariance of the law: symmetric, with rows that sum to 0; and again, to the second order."""
    x = torch.randn(60, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda a: ag.relaxed_topk(a, k, 0.5, noise=0 * x), x)
    torch.testing.assert_close(jacobian, jacobian.T, rtol=0, atol=1e-13)
    assert (jacobian.sum(-1).abs() < 1e-13).all()
    y = ag.relaxed_topk(x, k, 0.5, noise=0 * x)
    torch.testing.assert_close(jacobian.diagonal(), y * (1 - y) / 0.5)
    monkeypatch.setattr(subset, "FEW", 0)
    a = torch.tensor([[0.0, 0, 1, -1, -torch.inf], [0, 0, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    function = lambda a, tau: ag.relaxed_topk(a, 2, tau, noise=torch.zeros_like(a))  # noqa: E731
    assert torch.autograd.gradgradcheck(function, (a[1:], tau))
    first = torch.autograd.grad(function(a, tau), (a, tau), torch.randn(2, 5).double(), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (a, tau))
    assert all(g.isfinite().all() for g in (*first, *second))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [1e-18, 1e-17, 1e-9, 1e-3, 1.0, 1e9])
@pytest.mark.parametrize("method", ["marginals", "successive"])
@pytest.mark.parametrize("noisy", [False, True])
def test_relaxed_topk_of_the_largest_numbers(dtype: torch.dtype, tau: float, method: str, noisy: bool) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor(
        [
            [largest, -largest, largest, -largest, 0],
            [largest, -largest, -largest, -largest, -torch.inf],
            [0, 1e-30, -1e-30, 0, 0],
            [largest / 2, largest, -torch.inf, -torch.inf, 3],
        ],
        dtype=torch.float64,
    ).to(dtype)
    noise = ag.KeyedNoise(5) if noisy else torch.zeros(x.shape, dtype=torch.promote_types(dtype, torch.float32))
    for k in (0, 1, 2, 3):
        a = x.clone().requires_grad_()
        t = torch.full((4, 1), tau, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
        y = ag.relaxed_topk(a, k, t, method=method, noise=noise)
        assert y.isfinite().all()
        assert (y[x == -torch.inf] == 0).all()
        assert (y.double().sum(-1) - k).abs().max() < 20 * torch.finfo(dtype).eps
        slopes = torch.autograd.grad(y, (a, t), torch.arange(20.0).reshape(4, 5).to(dtype))
        # Ties have large slopes at a small tau; those of successive softmaxes are as large as tau^-k.
        assert all(slope.isfinite().all() for slope in slopes if tau >= 1e-9 or method == "marginals")
        assert (slopes[0][x == -torch.inf] == 0).all() or (method == "successive" and tau < 1e-9)


@pytest.mark.parametrize("method", ["marginals", "successive"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_slopes_too_large_for_float16(method: str, k: int) -> None:
    """They are its largest number, and not infinite: a slope of ties is about 1 / tau, and more of successive ones."""
    most = torch.finfo(torch.float16).max
    x = torch.tensor([[0, 0, 0, 0, -1], [0.5, 0.5, -3, 0.5, 0.5]], dtype=torch.float16, requires_grad=True)
    for tau in (6e-8, 6e-6, 1e-3):
        t = torch.tensor(tau, dtype=torch.float16, requires_grad=True)
        y = ag.relaxed_topk(x, k, t, method=method, noise=torch.zeros(2, 5))
        slopes = torch.autograd.grad(y, (x, t), torch.arange(10).reshape(2, 5).half())
        assert all(slope.isfinite().all() for slope in slopes)
        assert slopes[0].abs().max() == most or tau == 1e-3
        a = x.detach().double().requires_grad_()
        exact = ag.relaxed_topk(a, k, t.item(), noise=torch.zeros(2, 5).double(), method=method)
        (expected,) = torch.autograd.grad(exact, a, torch.arange(10.0).reshape(2, 5).double())
        if method == "marginals":
            torch.testing.assert_close(slopes[0].double(), expected.clamp(-most, most), rtol=2e-3, atol=2e-3)


def test_relaxed_topk_under_a_mask() -> None:
    x, mask = torch.randn(3, 6), torch.tensor([True, False, True, True, False, True])
    for method in ("marginals", "successive"):
        own = {"method": method, "noise": torch.zeros(3, 6)}
        y = ag.relaxed_topk(x.masked_fill(~mask, torch.nan), 2, 0.5, mask=mask, **own)
        assert (y[:, ~mask] == 0).all()
        own["noise"] = torch.zeros(3, 4)
        torch.testing.assert_close(y[:, mask], ag.relaxed_topk(x[:, mask], 2, 0.5, **own))
    rows = torch.stack([mask, ~mask | mask])  # all that is allowed in one row, not in the other
    x = x[:2].clone().requires_grad_()
    y = ag.relaxed_topk(x, 4, 0.5, mask=rows, noise=ag.KeyedNoise(2))
    assert torch.equal(y[0], mask.float())
    (slope,) = torch.autograd.grad(y, x, torch.randn(2, 6))
    assert (slope[0] == 0).all()
    assert (slope[1] != 0).all()


@pytest.mark.parametrize("k", [0, 1, 2, 4, 6])
@pytest.mark.parametrize("tau", [0.3, 1, 4.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_successive_relaxed_topk_is_its_equation(k: int, tau: float, dtype: torch.dtype) -> None:
    x = torch.randn(20, 6, generator=generator()).to(dtype)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    z = (x.to(work) + ag.KeyedNoise(3).gumbel(x.shape, dtype=work)).double()  # as the function sees them
    total = torch.zeros_like(z)
    for _ in range(k):
        a = torch.softmax(z / tau, -1)
        total += a
        z = z + torch.log1p(-a)
    y = ag.relaxed_topk(x, k, tau, method="successive", noise=ag.KeyedNoise(3))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), total, rtol=1e-3 if dtype != torch.float64 else 1e-9, atol=2 * EPS[dtype])


def test_methods_of_relaxed_topk() -> None:
    with pytest.raises(ValueError, match=r"method must be one of 'marginals', 'successive', but it is 'simple'"):
        ag.relaxed_topk(torch.zeros(3), 2, method="simple")


@given(
    x=logits(),
    seed=seeds,
    tau=st.sampled_from([1e-40, 1e-17, 1e-6, 0.1, 1, 50.0]),
    method=st.sampled_from(["marginals", "successive"]),
    data=st.data(),
)
def test_relaxed_topk_sums_to_k(x: Tensor, seed: int, tau: float, method: str, data: st.DataObject) -> None:
    support = int((x > -torch.inf).sum(-1).amin()) if x.numel() else x.shape[-1]
    k = data.draw(st.integers(0, support))
    x.requires_grad_()
    y = ag.relaxed_topk(x, k, tau, hard=data.draw(st.booleans()), method=method, noise=ag.KeyedNoise(seed))
    assert (y >= 0).all()
    assert (y <= 1).all() or method == "successive"
    assert (y.masked_select(x == -torch.inf) == 0).all()
    torch.testing.assert_close(y.double().sum(-1), torch.full(x.shape[:-1], k).double(), rtol=0, atol=9 * EPS[x.dtype])
    (y * torch.arange(1.0, x.shape[-1] + 1).to(y)).sum().backward()
    assert not x.grad.isnan().any()
    assert (x.grad.masked_select(x == -torch.inf) == 0).all()


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("method", ["marginals", "successive"])
def test_relaxed_topk_approaches_the_topk_of_the_same_noise(backend: str, k: int, method: str) -> None:
    x = torch.randn(200, 6)
    x[:, 4] -= 300
    top = ag.gumbel_topk(x, k, noise=ag.KeyedNoise(3)).indices
    expected = torch.zeros(200, 6).scatter(-1, top, 1.0)
    own = {"method": method, "noise": ag.KeyedNoise(3)}
    for tau in (1e-9, 1e-12, 1e-40, 0):  # 300 tau is below every gap
        y = ag.relaxed_topk(x, k, tau, **own)
        torch.testing.assert_close(y, expected, rtol=0, atol=0.05)
        assert method == "successive" or torch.equal(y, expected)
    assert torch.equal(ag.relaxed_topk(x, k, 2.0, hard=True, **own), expected)


@pytest.mark.parametrize("k", [1, 5, 50])
@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_the_top_k_of_relaxed_topk_are_those_of_the_race(backend: str, k: int, tau: float) -> None:
    x = torch.randn(100, 80, dtype=torch.float64)
    top = ag.gumbel_topk(x, k, noise=ag.KeyedNoise(3)).indices
    y = ag.relaxed_topk(x, k, tau, noise=ag.KeyedNoise(3))
    assert torch.equal(y.topk(k, -1).indices.sort(-1).values, top.sort(-1).values)


def test_hard_relaxed_topk_has_the_law_of_subsets(backend: str) -> None:
    x = torch.tensor([0.5, -0.5, 1.0, 0.0])
    y = ag.relaxed_topk(x.expand(20_000, 4), 2, hard=True, generator=generator(1))
    law = np.zeros(16)
    for (i, j), p in oracles.plackett_luce(x, 2).items():
        law[(1 << i) + (1 << j)] += p
    check_counts(np.bincount((y.long() * torch.tensor([1, 2, 4, 8])).sum(-1), minlength=16), law)


@pytest.mark.parametrize("method", ["marginals", "successive"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_relaxed_topk_of_one_is_gumbel_softmax(method: str, dtype: torch.dtype) -> None:
    x = torch.randn(5, 6, generator=generator()).to(dtype)
    for tau in (0, 1e-6, 0.4, 30):
        y = ag.relaxed_topk(x, 1, tau, method=method, noise=ag.KeyedNoise(0))
        torch.testing.assert_close(y, ag.gumbel_softmax(x, tau, noise=ag.KeyedNoise(0)))
