"""Rankings, and matrices that sort softly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.perturbation import fenchel_young_loss, perturbed
from argumbel.structures import (
    Ranking,
    neural_sort,
    perturbed_argmax,
    posterior_gumbel_trace,
    soft_sort,
    stochastic_softmax,
    trace_log_prob,
)

from . import structure_oracles as oracles
from . import trace_oracles
from .statistics import check_mean
from .structure_problems import FOUR, check_golden, row

SORTS = pytest.mark.parametrize(
    ("sort", "exact"), [(neural_sort, oracles.neural_sort), (soft_sort, oracles.soft_sort)], ids=["neural", "soft"]
)
METHODS = pytest.mark.parametrize(("method", "sort"), [("neuralsort", neural_sort), ("softsort", soft_sort)])


# --- matrices that sort softly ---------------------------------------------------------------------------------------


def test_golden_sorts() -> None:
    check_golden(neural_sort(FOUR)[0], 0.338452, 0.003402, 0.616700, 0.041446)
    check_golden(soft_sort(FOUR)[0], 0.276251, 0.083205, 0.503362, 0.137182)


@SORTS
@pytest.mark.parametrize("tau", [2, 1, 0.1, 0.01])
def test_sorts(sort: Callable[..., Tensor], exact: Callable[..., Tensor], tau: float) -> None:
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    for scores in (x, x.round(), 200 * x, x[..., :1]):
        found = sort(scores, tau)
        expected = torch.stack([exact(s, tau) for s in scores.flatten(0, 1)]).reshape(found.shape)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@SORTS
def test_sorts_at_temperatures_of_rows(sort: Callable[..., Tensor], exact: Callable[..., Tensor]) -> None:
    x, tau = torch.randn(3, 5, dtype=torch.float64), torch.tensor([0.0, 0.5, 2], dtype=torch.float64)
    found = sort(x, tau)
    assert found[0].argmax(-1).tolist() == x[0].argsort(descending=True).tolist()
    torch.testing.assert_close(found[0].sum(-1), found[0].amax(-1), rtol=0, atol=0)
    for i in (1, 2):
        torch.testing.assert_close(found[i], exact(x[i], float(tau[i])), rtol=0, atol=1e-12)
    ties = sort(torch.zeros(3, dtype=torch.float16), 0)
    torch.testing.assert_close(ties, torch.eye(3, dtype=torch.float16), rtol=0, atol=0)
    tau.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, t: sort(x, t), (x.requires_grad_(), tau[1:].detach().mean() + 0 * tau))
    assert sort(x[:0], 1).shape == (0, 5, 5)


@SORTS
def test_sorts_leave_out_forbidden_items(sort: Callable[..., Tensor], exact: Callable[..., Tensor]) -> None:
    x, mask = torch.randn(5, dtype=torch.float64), torch.tensor([True, False, True, True, False])
    for tau in (0.7, 0):
        found = sort(x, tau, mask=mask)
        torch.testing.assert_close(found, sort(x.masked_fill(~mask, -torch.inf), tau), rtol=0, atol=0)
        torch.testing.assert_close(found[:3, mask], sort(x[mask], tau), rtol=0, atol=1e-12)
        assert not bool(found[:, ~mask].any())
        assert not bool(found[3:].any())
    x = x.masked_fill(~mask, -torch.inf).requires_grad_()
    (slope,) = torch.autograd.grad((sort(x) * torch.randn(5, 5)).sum(), x)
    assert bool(slope.isfinite().all())
    assert not bool(slope[~mask].any())


@SORTS
def test_sorts_of_bad_input(sort: Callable[..., Tensor], exact: Callable[..., Tensor]) -> None:
    for wrong, words in ((torch.nan, "NaN"), (torch.inf, "NaN or"), (-torch.inf, "leave at least one ranking")):
        with pytest.raises(ValueError, match=f"scores must .*{words}"):
            sort(torch.full((3,), wrong))
        marked = torch.vmap(sort)(torch.stack([torch.zeros(3), torch.full((3,), wrong)]))
        assert marked.flatten(1).isnan().all(-1).tolist() == [False, True]
    with pytest.raises(ValueError, match="tau must be at least 0"):
        sort(torch.zeros(3), -1)
    with pytest.raises(ValueError, match="at least one item"):
        sort(torch.zeros(2, 0))
    with pytest.raises(TypeError, match="scores must have a floating dtype"):
        sort(torch.zeros(3, dtype=torch.int64))


@SORTS
def test_sorts_are_compiled(sort: Callable[..., Tensor], exact: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 4)
    compiled = torch.compile(lambda x: sort(x, 0.5), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), sort(x, 0.5))


# --- rankings --------------------------------------------------------------------------------------------------------


def test_ranks() -> None:
    x = torch.tensor([[0.9, -0.3, 1.5, 0.2], [0.0, 1.0, 0.0, 1.0], [2.0, -torch.inf, 3.0, -torch.inf]])
    assert Ranking().argmax(x).tolist() == [[2, 0, 3, 1], [1, 3, 0, 2], [0, 0, 1, 0]]
    trace = Ranking().trace(x)
    assert trace.chosen.tolist() == [[2, 0, 3, 1], [1, 3, 0, 2], [2, 0, -1, -1]]
    assert trace.alive[2].tolist() == [[True, False, True, False], [True, False, False, False], *[[False] * 4] * 2]


def test_a_forbidden_item_is_as_good_as_absent() -> None:
    x, mask = torch.randn(6, 5, dtype=torch.float64), torch.tensor([True, False, True, True, False])
    long, short = (x.masked_fill(~mask, -torch.inf), x[:, mask])
    noise = torch.randn_like(x)
    for method in Ranking.methods:
        for tau in (0, 0.5):
            found = stochastic_softmax(Ranking(), long, tau, method=method, noise=noise)
            expected = stochastic_softmax(Ranking(), short, tau, method=method, noise=noise[:, mask])
            torch.testing.assert_close(found[:, mask], expected, rtol=0, atol=1e-12)
            assert not bool(found[:, ~mask].any())
    values, y = perturbed_argmax(Ranking(), long, noise=noise)
    assert bool(values.isfinite().all())
    torch.testing.assert_close(values, perturbed_argmax(Ranking(), short, noise=noise[:, mask]).values)
    trace, shorter = Ranking().trace(long + noise), Ranking().trace((long + noise)[:, mask])
    torch.testing.assert_close(trace_log_prob(long, trace), trace_log_prob(short, shorter))
    assert torch.equal(trace.indicators, y)
    values = posterior_gumbel_trace(long, trace, noise=noise)
    assert torch.equal(Ranking().trace(values).chosen, trace.chosen)
    assert bool((values[:, ~mask] == -torch.inf).all())
    with pytest.raises(ValueError, match="scores must leave at least one ranking"):
        Ranking().argmax(torch.full((2, 3), -torch.inf))


def test_the_law_is_plackett_luce() -> None:
    x = torch.randn(7, 5, dtype=torch.float64)
    trace = Ranking().trace(x + torch.randn_like(x))
    torch.testing.assert_close(trace_log_prob(x, trace), ag.topk_log_prob(x, trace.chosen))


@METHODS
def test_relaxed_ranks(method: str, sort: Callable[..., Tensor]) -> None:
    x = torch.randn(3, 5, dtype=torch.float64)
    noise = torch.randn_like(x)
    y = stochastic_softmax(Ranking(), x, 0.5, method=method, noise=noise)
    places = torch.arange(4, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(y, torch.einsum("bpi,p->bi", sort(x + noise, 0.5), places))
    torch.testing.assert_close(y.sum(-1), torch.full((3,), 10.0, dtype=torch.float64))  # each row sums to 1
    x.requires_grad_()
    tau = torch.tensor([0.5, 1, 2], dtype=torch.float64, requires_grad=True)
    soft = lambda x, tau: stochastic_softmax(Ranking(), x, tau, method=method, noise=noise)  # noqa: E731
    assert torch.autograd.gradcheck(soft, (x, tau))
    assert torch.autograd.gradgradcheck(soft, (x, tau))


@pytest.mark.parametrize("samples", [1, 4])
def test_the_gradient_of_mean_ranks(samples: int) -> None:
    """Indicators are not 0 and 1: their mean, and its gradient by the score of the trace, against all rankings."""
    x = row(0.4, -0.2, 0.1)
    every = trace_oracles.traces(trace_oracles.plackett_luce(3))
    weight = row(1, -2, 0.5)

    def mean(x: Tensor) -> Tensor:
        return trace_oracles.inclusion(x, every)

    exact = torch.func.jacrev(mean)(x).T @ weight
    many = x.expand(6000, 3).clone().requires_grad_()
    y = perturbed(Ranking(), many, samples, noise=ag.KeyedNoise(1))
    for found, expected in zip(y.detach().T, mean(x), strict=True):
        check_mean(found.numpy(), float(expected), float(found.var()))
    (slope,) = torch.autograd.grad((y @ weight).sum(), many)
    for found, expected in zip(slope.T, exact, strict=True):
        check_mean(found.numpy(), float(expected), float(found.var()))


def test_the_loss_of_a_ranking() -> None:
    x = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    target = Ranking().argmax(torch.randn(50, 4, dtype=torch.float64))
    loss = fenchel_young_loss(x, target, Ranking(), noise=ag.KeyedNoise(2))
    assert bool((loss >= 0).all())
    (slope,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close(slope, perturbed(Ranking(), x, noise=ag.KeyedNoise(2)).detach() - target)
    padded = torch.cat([x, torch.full((50, 1), -torch.inf, dtype=torch.float64)], -1)
    longer = fenchel_young_loss(padded, torch.nn.functional.pad(target, (0, 1)), Ranking(), noise=ag.KeyedNoise(2))
    assert bool(longer.isfinite().all())
