"""Relaxed choices: their equations, their laws, their gradients, and every habit of torch's gumbel_softmax."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import argumbel as ag
from argumbel import kernels
from argumbel.noise import logistic
from argumbel.relax import log_gumbel_softmax

from . import oracles
from .statistics import check_cdf, check_counts, check_draws, check_frequency, check_independent
from .strategies import DTYPES, logits, seeds

RELAXED: dict[str, Callable[..., Tensor]] = {
    "gumbel_softmax": ag.gumbel_softmax,
    "gumbel_softmax hard": lambda x, tau=1, **own: ag.gumbel_softmax(x, tau, hard=True, **own),
    "log_gumbel_softmax": log_gumbel_softmax,
    "gumbel_sigmoid": lambda x, tau=1, dim=-1, **own: ag.gumbel_sigmoid(x, tau, **own),
    "gumbel_sigmoid hard": lambda x, tau=1, dim=-1, **own: ag.gumbel_sigmoid(x, tau, hard=True, **own),
    "relaxed_topk": lambda x, tau=1, **own: ag.relaxed_topk(x, 2, tau, **own),
    "relaxed_topk hard": lambda x, tau=1, **own: ag.relaxed_topk(x, 2, tau, hard=True, **own),
    "relaxed_topk successive": lambda x, tau=1, **own: ag.relaxed_topk(x, 2, tau, method="successive", **own),
    "straight_through gumbel": lambda x, tau=1, **own: ag.straight_through(x, tau=tau, **own),
    "straight_through softmax": lambda x, tau=1, **own: ag.straight_through(x, method="softmax", tau=tau, **own),
}
SOFT = ["gumbel_softmax", "log_gumbel_softmax", "gumbel_sigmoid", "relaxed_topk", "relaxed_topk successive"]
HARD = [name for name in RELAXED if name not in SOFT]
ONE_HOT = ["gumbel_softmax hard", "straight_through gumbel", "straight_through softmax"]
EPS = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(x: Tensor, seed: int) -> Tensor:
    """logits plus keyed noise, in float64, as the functions see them."""
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (x.to(work) + ag.KeyedNoise(seed).gumbel(x.shape, dtype=work)).double()


# --- gumbel_softmax: equation and law ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [0.1, 0.5, 1, 3.0])
@pytest.mark.parametrize("n", [1, 2, 17, 500])
def test_equation(backend: str, dtype: torch.dtype, tau: float, n: int) -> None:
    x = torch.randn(6, n).to(dtype)
    expected = torch.softmax(perturbed(x, 3) / tau, -1)
    y = ag.gumbel_softmax(x, tau, noise=ag.KeyedNoise(3))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=EPS[dtype] * (1 + 3 / tau), atol=1e-7)
    noise = ag.KeyedNoise(3).gumbel(x.shape, dtype=torch.promote_types(dtype, torch.float32))
    torch.testing.assert_close(ag.gumbel_softmax(x, tau, noise=noise), y, rtol=3 * EPS[dtype] / min(tau, 1), atol=1e-7)


@pytest.mark.parametrize("tau", [0, 0.1, 1, 10.0])
@pytest.mark.parametrize("name", ["gumbel_softmax", "log_gumbel_softmax", *ONE_HOT])
def test_argmax_is_a_draw_at_every_temperature(backend: str, name: str, tau: float) -> None:
    x = torch.tensor([0.5, -1.0, -torch.inf, 2.0, 0.0])
    y = RELAXED[name](x.expand(20_000, 5), tau, generator=generator(2))
    check_draws(y.argmax(-1), oracles.softmax(x))
    check_independent(y[:-1].argmax(-1), y[1:].argmax(-1), oracles.softmax(x), oracles.softmax(x))


def test_two_equal_items_at_temperature_one_are_uniform(backend: str) -> None:
    y = ag.gumbel_softmax(torch.zeros(50_000, 2), generator=generator(1))
    check_cdf(y[:, 0], lambda u: u)


def test_each_marginal_of_a_relaxed_sample(backend: str) -> None:
    """log(y_i / y_j) tau is logistic around x_i - x_j: for every pair, not on average."""
    x, tau = torch.tensor([0.5, -1.0, 2.0]), 0.7
    log_y = log_gumbel_softmax(x.expand(30_000, 3), tau, generator=generator(3))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        z = tau * (log_y[:, i] - log_y[:, j]) - (x[i] - x[j])
        check_cdf(z, lambda v: 1 / (1 + np.exp(-v)))


@given(x=logits(), seed=seeds, tau=st.sampled_from([1e-40, 1e-6, 0.1, 1, 50.0]), data=st.data())
def test_samples_lie_in_the_simplex(x: Tensor, seed: int, tau: float, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["gumbel_softmax", *ONE_HOT]))
    x.requires_grad_()
    y = RELAXED[name](x, tau, noise=ag.KeyedNoise(seed))
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert (y >= 0).all()
    assert (y.masked_select(x == -torch.inf) == 0).all()
    torch.testing.assert_close(y.double().sum(-1), torch.ones(x.shape[:-1]).double(), rtol=0, atol=5 * EPS[x.dtype])
    (y * torch.arange(1.0, x.shape[-1] + 1).to(y)).sum().backward()
    assert not x.grad.isnan().any()
    assert (x.grad.masked_select(x == -torch.inf) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_never_makes_nan(backend: str, dtype: torch.dtype) -> None:
    x = torch.zeros(2000, 50, dtype=dtype)
    x[:, ::2] = -6e4
    for tau in (1, 1e-3, 1e-7, 100):
        y = ag.gumbel_softmax(x, tau, generator=generator(0))
        assert y.isfinite().all()
        assert (y[:, ::2] == 0).all()
        torch.testing.assert_close(y.double().sum(-1), torch.ones(2000).double(), rtol=0, atol=5 * EPS[dtype])


def test_log_space_does_not_underflow(backend: str) -> None:
    """At tau = 0.1 and a thousand items, entries of most samples are zero in float32; their logarithms are not."""
    x = torch.randn(20, 1000, generator=generator())
    log_y = log_gumbel_softmax(x, 0.1, noise=ag.KeyedNoise(1))
    assert (log_y.exp() == 0).any()
    torch.testing.assert_close(log_y.double(), torch.log_softmax(perturbed(x, 1) / 0.1, -1), rtol=1e-5, atol=1e-4)
    assert log_gumbel_softmax(x, 1e-4).isfinite().all()


# --- gumbel_softmax: a drop-in -----------------------------------------------------------------------------------


def test_positional_arguments_are_those_of_torch(backend: str) -> None:
    ours = inspect.signature(ag.gumbel_softmax).parameters
    theirs = inspect.signature(F.gumbel_softmax).parameters
    positional = [p for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in positional] == [(p.name, p.default) for p in theirs.values()]
    x = torch.randn(3, 4)
    y = ag.gumbel_softmax(x, 0.5, True, 1e-10, 0, noise=ag.KeyedNoise(0))
    assert torch.equal(y, ag.gumbel_softmax(x, tau=0.5, hard=True, dim=0, noise=ag.KeyedNoise(0)))
    assert torch.equal(y.sum(0), torch.ones(4))
    assert torch.equal(y, ag.gumbel_softmax(x, 0.5, True, 7.0, 0, noise=ag.KeyedNoise(0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_dtypes_are_those_of_torch(backend: str, dtype: torch.dtype, hard: bool, autocast: torch.dtype | None) -> None:
    x = torch.randn(3, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        y = ag.gumbel_softmax(x, hard=hard)
        assert y.dtype == F.gumbel_softmax(x, hard=hard).dtype
        assert log_gumbel_softmax(x).dtype == y.dtype
        assert ag.straight_through(x, method="softmax").dtype == y.dtype
        assert ag.relaxed_topk(x, 2).dtype == y.dtype
        assert ag.gumbel_sigmoid(x).dtype == torch.sigmoid(x).dtype
        weight = torch.randn(4, 5, requires_grad=True)
        (torch.nn.functional.linear(y.to(weight.dtype), weight.T) ** 2).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_any_dim(backend: str, name: str, dim: int) -> None:
    x = torch.randn(3, 4, 5)
    for tau in (0.5, torch.tensor(0.5), 0):
        y = RELAXED[name](x, tau, dim=dim, noise=ag.KeyedNoise(1))
        expected = RELAXED[name](x.movedim(dim, -1), tau, noise=ag.KeyedNoise(1)).movedim(-1, dim)
        if "sigmoid" not in name:  # which has no dim
            torch.testing.assert_close(y, expected)
        assert y.shape == x.shape


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (3, 0, 2)])
def test_empty_batches(backend: str, name: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for tau in (1, 0, torch.tensor(0.5)):
        assert RELAXED[name](x, tau).shape == shape
    RELAXED[name](x).sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_views_behave_as_copies(backend: str, name: str, dtype: torch.dtype) -> None:
    base = torch.randn(6, 8, 3).to(dtype)
    for view in (
        base.transpose(0, 1),
        base[::2, 2:-3],
        base.transpose(1, 2)[:, 1],
        base[:1].expand(5, 8, 3),
        base[..., :1].expand(6, 8, 4),
        base.flip(0),
    ):
        results = []
        for x in (view, view.clone(memory_format=torch.contiguous_format)):
            x = x.detach().requires_grad_()
            y = RELAXED[name](x, 0.5, noise=ag.KeyedNoise(3))
            upstream = torch.randn(y.shape, generator=generator(1)).to(dtype)
            results.append((y, *torch.autograd.grad(y, x, upstream)))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", RELAXED)
def test_upstream_gradients_may_be_views(backend: str, name: str) -> None:
    x = torch.randn(7, 5, requires_grad=True)
    y = RELAXED[name](x, 0.5, noise=ag.KeyedNoise(3))
    upstream = torch.randn(5, 7).T
    (strided,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
    (plain,) = torch.autograd.grad(y, x, upstream.contiguous(), retain_graph=True)
    (expanded,) = torch.autograd.grad(y, x, torch.ones(7, 1).expand(7, 5), retain_graph=True)
    (ones,) = torch.autograd.grad(y, x, torch.ones(7, 5))
    assert torch.equal(strided, plain)
    assert torch.equal(expanded, ones)


# --- temperature -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 1, 1), (4, 1), (3, 4, 1), (2, 1, 1, 1), (2, 3, 1, 1)])
def test_a_tensor_tau_broadcasts_and_differentiates(backend: str, name: str, shape: tuple[int, ...]) -> None:
    """Rows with their own temperatures are the rows one by one; a tau with more dimensions adds them in front."""
    x, tau = torch.randn(3, 4, 5), torch.rand(shape, generator=generator(1)) + 0.3
    x[0, 0, 0] = -torch.inf
    results = {}
    for dtype in (torch.float32, torch.float64):
        noise = (logistic if "sigmoid" in name else ag.gumbel)(x.shape, generator=generator(5), dtype=dtype)
        a, t = x.to(dtype).requires_grad_(), tau.to(dtype).requires_grad_()
        y = RELAXED[name](a, t, noise=noise)
        assert y.shape == torch.broadcast_shapes(x.shape, shape)
        upstream = torch.randn(y.shape, generator=generator(2)).to(dtype)
        finite = y.masked_fill(a == -torch.inf, 0)
        results[dtype] = (y, *torch.autograd.grad(finite, (a, t), upstream))
    expected = torch.empty_like(results[torch.float64][0])
    for i in np.ndindex(*expected.shape[:-1]):
        own = tau.expand(*expected.shape[:-1], 1).double()[i].item()
        expected[i] = RELAXED[name](x[i[-2:]].double(), own, noise=noise[i[-2:]])
    torch.testing.assert_close(results[torch.float64][0], expected, rtol=1e-12, atol=1e-14)
    for single, double in zip(results[torch.float32], results[torch.float64], strict=True):
        assert not single.isnan().any()
        torch.testing.assert_close(single.double(), double, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hard", [False, True])
def test_gradient_of_a_tensor_tau_with_keyed_noise(backend: str, dtype: torch.dtype, hard: bool) -> None:
    """Of one temperature for all and of one for each row, against the derivative written out in float64."""
    x, upstream = torch.randn(6, 40).to(dtype), torch.randn(6, 40).to(dtype)
    x[0, :3] = -torch.inf
    keys = perturbed(x, 4)
    for shape in ((), (1,), (6, 1)):
        tau = (torch.rand(shape, generator=generator(1)) + 0.4).to(dtype).requires_grad_()
        a = x.clone().requires_grad_()
        y = ag.gumbel_softmax(a, tau, hard=hard, noise=ag.KeyedNoise(4))
        x_grad, tau_grad = torch.autograd.grad(y, (a, tau), upstream)
        t = tau.detach().double()
        soft = torch.softmax(keys / t, -1)
        g = upstream.double()
        z_grad = soft * (g - (soft * g).sum(-1, keepdim=True))
        expected_tau = -(z_grad * keys.clamp(min=-1e9) / t**2).sum(-1, keepdim=True).sum_to_size(shape or (1, 1))
        loose = 20 * EPS[dtype]
        torch.testing.assert_close(x_grad.double(), z_grad / t, rtol=loose, atol=loose)
        torch.testing.assert_close(tau_grad.double(), expected_tau.reshape(shape), rtol=loose, atol=20 * loose)


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("zero", [0, 0.0, -0.0, torch.tensor(0.0), torch.tensor([[0.0]])])
def test_tau_zero_is_the_exact_choice(backend: str, name: str, zero: float | Tensor) -> None:
    x = torch.randn(50, 6, requires_grad=True)
    with torch.no_grad():
        x[:, 2] = -torch.inf
    law = "logistic" if "sigmoid" in name else "gumbel"
    keys = x + getattr(ag.KeyedNoise(2), law)(x.shape)
    y = RELAXED[name](x, zero, noise=ag.KeyedNoise(2))
    if "sigmoid" in name:
        expected = (keys > 0).float()
    else:
        top = keys.topk(2 if "topk" in name else 1, -1).indices
        expected = torch.zeros(50, 6).scatter(-1, top, 1.0)
    assert torch.equal(y, expected.log() if "log" in name.split("_") else expected)
    (grad,) = torch.autograd.grad(y.masked_fill(x == -torch.inf, 0), x, torch.randn(50, 6))
    assert (grad == 0).all()


def test_tau_may_be_zero_in_some_rows(backend: str) -> None:
    x, tau = torch.randn(4, 6, requires_grad=True), torch.tensor([[0.0], [0.5], [0.0], [2.0]], requires_grad=True)
    for name in RELAXED:
        y = RELAXED[name](x, tau, noise=ag.KeyedNoise(2))
        for i in range(4):
            alone = RELAXED[name](x[i : i + 1], tau[i].item(), noise=ag.KeyedNoise(2, rows=[i]))
            torch.testing.assert_close(y[i : i + 1], alone)
        grads = torch.autograd.grad(y.clamp(min=-30).sum(), (x, tau))
        assert not any(g.isnan().any() for g in grads)


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("tau", [1e-3, 1e-10, 1e-30, 1e-40, 1e-50, 1e-300])
def test_tiny_tau(backend: str, name: str, tau: float) -> None:
    """As tau falls samples approach the exact choice; no quotient overflows into NaN."""
    x = 3 * torch.randn(30, 6, generator=generator(8))
    x[:, 2] = -torch.inf
    x[:, 3] -= 600
    x.requires_grad_()
    y, exact = (RELAXED[name](x, t, noise=ag.KeyedNoise(2)) for t in (tau, 0))
    if name == "log_gumbel_softmax":
        y, exact = y.exp(), exact.exp()
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-6 if tau < 1e-3 else 0.5)
    (grad,) = torch.autograd.grad(y, x, torch.randn(30, 6))
    assert not grad.isnan().any()


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_enormous_logits(backend: str, name: str, dtype: torch.dtype) -> None:
    """Their quotients by tau exceed every number; their differences decide all the same."""
    x = torch.tensor([[1e30, 0.0, -1e30, 5e29], [-2e30, -1e30, -5e30, -9e29]], dtype=dtype, requires_grad=True)
    y, exact = (RELAXED[name](x, tau, noise=ag.KeyedNoise(0)) for tau in (1e-10, 0))
    if name == "log_gumbel_softmax":
        y, exact = y.exp(), exact.exp()
    assert torch.equal(y, exact)


@pytest.mark.parametrize("name", RELAXED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_by_the_lowest_number(backend: str, name: str, dtype: torch.dtype) -> None:
    """Many codes forbid by ``torch.finfo(dtype).min``, whose quotient by tau is no number any more."""
    lowest = torch.finfo(dtype).min
    x = torch.tensor([[0.0, 1.0, lowest, 2.0, lowest]], dtype=dtype, requires_grad=True)
    for tau in (0.5, torch.tensor(0.5, requires_grad=True), torch.tensor([[0.1]], requires_grad=True)):
        y = RELAXED[name](x, tau, noise=ag.KeyedNoise(0))
        forbidden = x == lowest
        assert (y[forbidden] < (-1e30 if "log" in name.split("_") else 1e-30)).all()
        assert not y.isnan().any()
        variables = [v for v in (x, tau) if isinstance(v, Tensor)]
        grads = torch.autograd.grad(y.masked_fill(forbidden, 0), variables, torch.randn(1, 5).to(dtype))
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_tau_is_uniform_over_what_is_allowed(backend: str, dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, -torch.inf, 1.0, 2.0, -3.0]], dtype=dtype)
    expected = torch.tensor([[0.25, 0.0, 0.25, 0.25, 0.25]], dtype=dtype)
    for tau in (1e9, math.inf, torch.tensor(math.inf)):
        torch.testing.assert_close(ag.gumbel_softmax(x, tau), expected)


# --- hard samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_HOT)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 63, 500])
def test_hard_samples_are_exact_one_hot_vectors_of_the_winner(
    backend: str, name: str, dtype: torch.dtype, n: int
) -> None:
    x = torch.randn(40, n).to(dtype).requires_grad_()
    y = RELAXED[name](x, 0.7, noise=ag.KeyedNoise(6))
    winner = ag.gumbel_max(x.detach(), noise=ag.KeyedNoise(6)).indices
    assert torch.equal(y, F.one_hot(winner, n).to(dtype))


def test_ties_make_one_winner(backend: str) -> None:
    """Two keys that are equal: one of them wins, not both."""
    x = torch.zeros(3, 4)
    for name in ONE_HOT:
        y = RELAXED[name](x, noise=torch.zeros(3, 4))
        assert torch.equal(y.sort(-1).values, torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(3, 4))
    assert torch.equal(ag.relaxed_topk(x, 2, hard=True, noise=torch.zeros(3, 4)).sum(-1), torch.full((3,), 2.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HARD)
def test_hard_samples_have_the_gradient_of_soft_ones(backend: str, name: str, dtype: torch.dtype) -> None:
    x = torch.randn(5, 30).to(dtype).requires_grad_()
    upstream = torch.randn(5, 30).to(dtype)
    hard = RELAXED[name](x, 0.7, noise=ag.KeyedNoise(6))
    assert (hard.detach() * (1 - hard.detach()) == 0).all()
    if name == "straight_through softmax":
        soft = torch.softmax(x.float() / 0.7, -1).to(dtype) if dtype != torch.float64 else torch.softmax(x / 0.7, -1)
    else:
        soft = RELAXED[name.replace("straight_through gumbel", "gumbel_softmax").replace(" hard", "")](
            x, 0.7, noise=ag.KeyedNoise(6)
        )
    (hard_grad,) = torch.autograd.grad(hard, x, upstream)
    (soft_grad,) = torch.autograd.grad(soft, x, upstream)
    torch.testing.assert_close(hard_grad, soft_grad, rtol=20 * EPS[dtype], atol=4 * EPS[dtype])


@pytest.mark.parametrize("method", ["gumbel", "softmax"])
def test_straight_through_masks(backend: str, method: str) -> None:
    x = torch.randn(4000, 5).requires_grad_()
    mask = torch.tensor([True, False, True, True, False])
    y = ag.straight_through(x[:1].expand(4000, 5), method=method, mask=mask, generator=generator())
    check_draws(y.argmax(-1), oracles.softmax(x[0].detach().masked_fill(~mask, -torch.inf)))
    (y * torch.arange(5.0)).sum().backward()
    assert (x.grad[:, ~mask] == 0).all()
    assert x.grad[0, mask].abs().sum() > 0


def test_plain_straight_through_is_unbiased_for_linear_losses(backend: str) -> None:
    """At tau = 1 its gradient, for any draw at all, is the gradient of the expected loss."""
    x, loss = torch.randn(6, requires_grad=True), torch.randn(6)
    (exact,) = torch.autograd.grad((torch.softmax(x, -1) * loss).sum(), x)
    for seed in range(3):
        (grad,) = torch.autograd.grad(
            (ag.straight_through(x, method="softmax", noise=ag.KeyedNoise(seed)) * loss).sum(), x
        )
        torch.testing.assert_close(grad, exact)


# --- masks and noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gumbel_softmax", "log_gumbel_softmax", *ONE_HOT])
def test_masks(backend: str, name: str) -> None:
    x = torch.randn(3, 4, 5)
    mask = torch.rand(4, 5) < 0.6
    mask[:, 1] = True
    hidden = x.masked_fill(~mask, torch.nan).requires_grad_()  # what is masked is not looked at
    y = RELAXED[name](hidden, 0.5, mask=mask, noise=ag.KeyedNoise(0))
    forbidden = x.masked_fill(~mask, -torch.inf).requires_grad_()
    assert torch.equal(y, RELAXED[name](forbidden, 0.5, noise=ag.KeyedNoise(0)))
    (y.masked_fill(~mask, 0) * torch.arange(5.0)).sum().backward()
    assert (hidden.grad.masked_select(~mask) == 0).all()
    assert not hidden.grad.isnan().any()


@pytest.mark.parametrize("name", RELAXED)
def test_generators(backend: str, name: str) -> None:
    x, g = torch.zeros(50, 9), generator(4)
    first, second = RELAXED[name](x, generator=g), RELAXED[name](x, generator=g)
    assert not torch.equal(first, second)
    after = g.get_state()
    g.manual_seed(4)
    assert torch.equal(RELAXED[name](x, generator=g), first)
    g.manual_seed(4)
    for _ in range(2):
        torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=g)
    assert torch.equal(g.get_state(), after)
    torch.manual_seed(4)
    third = RELAXED[name](x)
    assert not torch.equal(RELAXED[name](x), third)
    torch.manual_seed(4)
    assert torch.equal(RELAXED[name](x), third)


@pytest.mark.parametrize("name", RELAXED)
def test_parts_of_a_batch_have_the_samples_of_the_whole(backend: str, name: str) -> None:
    x = torch.randn(8, 6)
    whole = RELAXED[name](x, 0.5, noise=ag.KeyedNoise(1))
    rows = torch.tensor([5, 0, 7])
    assert torch.equal(RELAXED[name](x[rows], 0.5, noise=ag.KeyedNoise(1, rows=rows)), whole[rows])


# --- gumbel_sigmoid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [0, 0.1, 1, 5.0])
def test_sigmoid_law(backend: str, dtype: torch.dtype, tau: float) -> None:
    x = torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0], dtype=dtype)
    for hard in (True,) if EPS[dtype] > 1e-3 else (True, False):  # soft ones may round to 1/2 in half precision
        y = ag.gumbel_sigmoid(x.expand(20_000, 5), tau, hard, generator=generator(3))
        for j, p in enumerate(torch.sigmoid(x.double()).tolist()):
            check_frequency(int((y[:, j] > 0.5).sum()), 20_000, p)
        p = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))
        gates = (y[:, 1] > 0.5).long()
        check_independent(gates[:-1], gates[1:], p, p)


def test_sigmoid_gates_are_independent(backend: str) -> None:
    """Every gate has noise of its own: 2^3 outcomes with the product's probabilities."""
    x = torch.tensor([-0.5, 0.0, 1.0])
    gates = ag.gumbel_sigmoid(x.expand(20_000, 3), hard=True, generator=generator(1)).long()
    p = torch.sigmoid(x.double()).tolist()
    law = [math.prod(q if code >> j & 1 else 1 - q for j, q in enumerate(p)) for code in range(8)]
    check_counts(np.bincount((gates * torch.tensor([1, 2, 4])).sum(-1), minlength=8), law)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_equation(backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(30, 4).to(dtype)
    noise = ag.KeyedNoise(3).logistic(x.shape, dtype=torch.promote_types(dtype, torch.float32))
    expected = torch.sigmoid((x.double() + noise.double()) / 0.5)
    for given_noise in (noise, ag.KeyedNoise(3)):
        y = ag.gumbel_sigmoid(x, 0.5, noise=given_noise)
        torch.testing.assert_close(y.double(), expected, rtol=20 * EPS[dtype], atol=EPS[dtype])


def test_sigmoid_is_softmax_over_two() -> None:
    x, g = torch.randn(100, dtype=torch.float64), ag.KeyedNoise(1).gumbel((100, 2), dtype=torch.float64)
    pair = torch.stack([x, torch.zeros_like(x)], -1)
    two = ag.gumbel_softmax(pair, 0.6, noise=g)[:, 0]
    torch.testing.assert_close(ag.gumbel_sigmoid(x, 0.6, noise=g[:, 0] - g[:, 1]), two)


def test_sigmoid_of_certain_logits(backend: str) -> None:
    x = torch.tensor([-torch.inf, torch.inf, 0.0], requires_grad=True)
    for tau in (1, 0.1, torch.tensor(0.3, requires_grad=True)):
        for hard in (False, True):
            y = ag.gumbel_sigmoid(x, tau, hard)
            assert y[:2].tolist() == [0.0, 1.0]
            grads = torch.autograd.grad(y.sum(), [v for v in (x, tau) if isinstance(v, Tensor)])
            assert not any(g.isnan().any() for g in grads)


def test_sigmoid_of_a_scalar(backend: str) -> None:
    x = torch.tensor(0.3, requires_grad=True)
    y = ag.gumbel_sigmoid(x, 0.5, noise=torch.tensor(0.2))
    assert y.shape == ()
    torch.testing.assert_close(y, torch.sigmoid(torch.tensor(1.0)))
    y.backward()
    assert x.grad > 0
    assert ag.gumbel_sigmoid(x.detach(), noise=ag.KeyedNoise(0)).shape == ()


# --- gradients ---------------------------------------------------------------------------------------------------

SMOOTH: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "gumbel_softmax": lambda x, tau, g: ag.gumbel_softmax(x, tau, noise=g),
    "gumbel_softmax along 0": lambda x, tau, g: ag.gumbel_softmax(x, 0.7, dim=0, noise=g),
    "log_gumbel_softmax": lambda x, tau, g: log_gumbel_softmax(x, tau, noise=g),
    "gumbel_sigmoid": lambda x, tau, g: ag.gumbel_sigmoid(x, tau, noise=g),
    "relaxed_topk": lambda x, tau, g: ag.relaxed_topk(x, 3, tau, noise=g),
    "relaxed_topk, python tau": lambda x, tau, g: ag.relaxed_topk(x, 2, 0.6, noise=g),
    "relaxed_topk successive": lambda x, tau, g: ag.relaxed_topk(x, 3, tau, method="successive", noise=g),
}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("shape", [(), (3, 1), (2, 1, 1)])
def test_gradcheck_to_second_order(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    tau = torch.rand(shape, dtype=torch.float64).add(0.4).requires_grad_()
    noise = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SMOOTH[name], (x, tau, noise))
    assert torch.autograd.gradgradcheck(SMOOTH[name], (x, tau, noise))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hard", [False, True])
def test_second_derivatives_of_keyed_samples(backend: str, dtype: torch.dtype, hard: bool) -> None:
    """What gradient penalties need, against the same in float64 with a tensor of noise."""
    x, upstream = torch.randn(4, 7).to(dtype), torch.randn(4, 7).to(dtype)
    noise = ag.KeyedNoise(4).gumbel(x.shape)

    def second(a: Tensor, **own: object) -> tuple[Tensor, ...]:
        tau = torch.tensor(0.7, dtype=a.dtype, requires_grad=True)
        a = a.requires_grad_()
        y = ag.gumbel_softmax(a, tau, hard=hard, **own)
        first = torch.autograd.grad(y, (a, tau), upstream.to(a.dtype), create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in first), (a, tau))

    for ours, exact in zip(
        second(x, noise=ag.KeyedNoise(4)), second(x.detach().double(), noise=noise.double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), exact, rtol=50 * EPS[dtype], atol=50 * EPS[dtype])


@pytest.mark.parametrize("name", RELAXED)
def test_single_precision_gradients_are_those_of_double(backend: str, name: str) -> None:
    x, upstream = torch.randn(6, 300), torch.randn(6, 300)
    noise = getattr(ag.KeyedNoise(4), "logistic" if "sigmoid" in name else "gumbel")((6, 300))
    grads = []
    for dtype, given_noise in ((torch.float32, ag.KeyedNoise(4)), (torch.float64, noise)):
        a = x.to(dtype).requires_grad_()
        (grad,) = torch.autograd.grad(RELAXED[name](a, 0.8, noise=given_noise), a, upstream.to(dtype))
        grads.append(grad.double())
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")  # of checkpoint itself, 2.4
def test_checkpointing_recomputes_the_same_noise(backend: str) -> None:
    """The draw inside a checkpointed block is a function of its key: recomputed, it is the same draw."""
    x = torch.randn(5, 9, requires_grad=True)

    def block(a: Tensor) -> Tensor:
        return (ag.gumbel_softmax(2 * a, 0.5, noise=ag.KeyedNoise(7)) ** 2).sum()

    (plain,) = torch.autograd.grad(block(x), x)
    (recomputed,) = torch.autograd.grad(checkpoint(block, x, use_reentrant=False, preserve_rng_state=False), x)
    assert torch.equal(plain, recomputed)


# --- transforms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELAXED)
def test_vmap_draws_a_fresh_sample_for_each(name: str) -> None:
    for in_dim in (0, 1):
        x = torch.zeros(4000, 3).movedim(0, in_dim)
        y = torch.vmap(lambda a: RELAXED[name](a, 0.5), in_dims=in_dim, randomness="different")(x)
        assert y.shape == (4000, 3)
        first = (y[:, 0] > 0.5).long() if "sigmoid" in name else y.argmax(-1)
        if "sigmoid" in name:
            p = np.full(2, 0.5)
        elif name == "relaxed_topk hard":
            continue
        else:
            p = np.full(3, 1 / 3)
        check_draws(first, p)
        check_independent(first[:-1], first[1:], p, p)


@pytest.mark.parametrize("name", RELAXED)
def test_vmap_over_noise_and_tau_is_the_batch(name: str) -> None:
    x, noise, tau = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.rand(4) + 0.5
    mapped = torch.vmap(lambda a, g, t: RELAXED[name](a, t, noise=g))(x, noise, tau)
    torch.testing.assert_close(mapped, RELAXED[name](x, tau[:, None, None], noise=noise))


@pytest.mark.parametrize("name", RELAXED)
def test_functional_gradients(name: str) -> None:
    x, noise = torch.randn(3, 5), torch.randn(3, 5)

    def loss(a: Tensor, g: Tensor | ag.KeyedNoise) -> Tensor:
        return (RELAXED[name](a, 0.5, noise=g) * torch.arange(5.0)).sum()

    for g in (noise, ag.KeyedNoise(3)):
        a = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(a, g), a)
        torch.testing.assert_close(torch.func.grad(loss)(x, g), expected)
    each = torch.vmap(torch.func.grad(loss))(x, noise)
    a = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(a, noise), a)
    torch.testing.assert_close(each, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SOFT)
def test_forward_mode(name: str) -> None:
    x, direction = torch.randn(3, 5), torch.randn(3, 5)
    function = lambda a: RELAXED[name](a, 0.5, noise=ag.KeyedNoise(3))  # noqa: E731
    y, tangent = torch.func.jvp(function, (x,), (direction,))
    torch.testing.assert_close(y, function(x))
    jacobian = torch.autograd.functional.jacobian(function, x)
    torch.testing.assert_close(tangent, torch.einsum("ijkl,kl->ij", jacobian, direction))


@pytest.mark.parametrize(
    ("backend", "name"),
    [*(("native", name) for name in RELAXED), ("reference", "gumbel_softmax hard"), ("reference", "relaxed_topk")],
    indirect=["backend"],
)
def test_compiled_samples_are_the_eager_ones(backend: str, name: str) -> None:
    torch._dynamo.reset()
    function = lambda a, t, seed: RELAXED[name](2 * a, t, noise=ag.KeyedNoise(seed))  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, tau = torch.randn(6, 17, requires_grad=True), torch.tensor(0.6, requires_grad=True)
    for seed in (3, -4):
        results = []
        for f in (compiled, function):
            y = f(x, tau, torch.tensor(seed))
            results.append((y, *torch.autograd.grad((y * torch.arange(17.0)).sum(), (x, tau))))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through softmax", "gumbel_sigmoid"])
def test_compiled_samples_are_fresh(name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda a: RELAXED[name](a, 0.5), fullgraph=True, backend="aot_eager")
    x = torch.zeros(500, 2)
    first, second = compiled(x)[:, 0] > 0.5, compiled(x)[:, 0] > 0.5
    check_independent(first.long(), second.long(), [0.5, 0.5], [0.5, 0.5])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("hard", [False, True])
def test_compiled_by_inductor(hard: bool) -> None:
    torch._dynamo.reset()
    function = lambda a, seed: ag.gumbel_softmax(2 * a, 0.5, hard, noise=ag.KeyedNoise(seed))  # noqa: E731
    compiled = torch.compile(function, fullgraph=True)
    x = torch.randn(6, 100, requires_grad=True)
    upstream = torch.randn(6, 100)
    for seed in (3, -4):
        ours, eager = compiled(x, torch.tensor(seed)), function(x, torch.tensor(seed))
        if hard or kernels.cpu.library is not None:
            assert torch.equal(ours, eager)
        torch.testing.assert_close(ours, eager)
        torch.testing.assert_close(torch.autograd.grad(ours, x, upstream), torch.autograd.grad(eager, x, upstream))


@pytest.mark.parametrize("name", RELAXED)
def test_meta_tensors_have_shapes(name: str) -> None:
    for dtype in DTYPES:
        y = RELAXED[name](torch.zeros(2, 3, device="meta", dtype=dtype))
        assert y.shape == (2, 3)
        assert y.dtype == dtype
