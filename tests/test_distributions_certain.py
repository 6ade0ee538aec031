"""Certain and impossible outcomes: probabilities of exactly 0 and 1 give exact masses, divergences and gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, OneHotCategorical, kl_divergence

from argumbel.distributions import (
    HardConcrete,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)

INF = math.inf
PROBS = [0.0, 1e-30, 0.3, 1.0]


def divergence(p: list[float], q: list[float]) -> float:
    """``sum_i p_i log(p_i / q_i)`` by its definition."""
    return sum(0.0 if a == 0 else INF if b == 0 else a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def coin(p: float, dtype: torch.dtype = torch.float64) -> RelaxedBernoulliStraightThrough:
    return RelaxedBernoulliStraightThrough(0.5, probs=torch.tensor(p, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", PROBS)
def test_masses_of_a_bit(p: float, dtype: torch.dtype) -> None:
    d, one = coin(p, dtype), torch.tensor(1.0, dtype=dtype)
    assert d.log_prob(one).item() == pytest.approx(math.log(p) if p else -INF, rel=1e-6)
    assert d.log_prob(0 * one).item() == pytest.approx(math.log1p(-p) if p < 1 else -INF, rel=1e-6, abs=1e-9)
    entropy = -sum(a * math.log(a) for a in (p, 1 - p) if a)
    assert d.entropy().item() == pytest.approx(entropy, rel=1e-6)


def test_masses_of_a_bit_far_from_even_odds() -> None:
    d = RelaxedBernoulliStraightThrough(0.5, logits=torch.tensor([-200.0, 200.0]))
    torch.testing.assert_close(d.log_prob(torch.tensor([1.0, 0.0])), torch.tensor([-200.0, -200.0]))


@pytest.mark.parametrize(("p", "q"), list(itertools.product(PROBS, PROBS)))
def test_divergences_of_a_bit(p: float, q: float) -> None:
    expected = divergence([1 - p, p], [1 - q, q])
    theirs = [Bernoulli(probs=torch.tensor(x, dtype=torch.float64)) for x in (p, q)]
    for a, b in [(coin(p), coin(q)), (coin(p), theirs[1]), (theirs[0], coin(q))]:
        assert kl_divergence(a, b).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


VECTORS = [[0.0, 0.0, 1.0], [0.0, 0.4, 0.6], [0.2, 0.3, 0.5]]


@pytest.mark.parametrize("given", ["probs", "logits"])
@pytest.mark.parametrize(("p", "q"), list(itertools.product(VECTORS, VECTORS)))
def test_divergences_of_a_category(p: list[float], q: list[float], given: str) -> None:
    def arguments(x: list[float]) -> dict[str, Tensor]:
        probs = torch.tensor(x, dtype=torch.float64)
        return {given: probs if given == "probs" else probs.log()}

    ours = [RelaxedOneHotCategoricalStraightThrough(0.5, **arguments(x)) for x in (p, q)]
    theirs = [OneHotCategorical(**arguments(x)) for x in (p, q)]
    for a, b in [(ours[0], ours[1]), (ours[0], theirs[1]), (theirs[0], ours[1])]:
        assert kl_divergence(a, b).item() == pytest.approx(divergence(p, q), rel=1e-12, abs=1e-15)


def test_a_divergence_broadcasts() -> None:
    p, q = coin(0.3).expand((4, 1)), coin(0.5).expand((3,))
    assert kl_divergence(p, q).shape == (4, 3)
    assert kl_divergence(p, Bernoulli(torch.full((3,), 0.5))).shape == (4, 3)


def gradient(d: Distribution, param: Tensor, value: Tensor) -> Tensor:
    return torch.autograd.grad(value.masked_fill(value.isinf(), 0).sum(), param)[0]


def test_gradients_beside_impossible_outcomes() -> None:
    """None is NaN; the derivative of log(1 - p) at p = 0 is -1."""
    p = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    d = RelaxedBernoulliStraightThrough(0.5, probs=p)
    assert gradient(d, p, d.log_prob(torch.zeros_like(p))).tolist() == [-1, -2, 0]
    assert gradient(d, p, d.log_prob(torch.ones_like(p))).tolist() == [0, 2, 1]
    for value in (d.entropy(), kl_divergence(d, coin(0.5)), kl_divergence(coin(0.5), d), kl_divergence(d, d)):
        assert gradient(d, p, value).isfinite().all()
    x = torch.tensor([-INF, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    c = RelaxedOneHotCategoricalStraightThrough(0.5, logits=x)
    for q in (c, OneHotCategorical(logits=x.detach())):
        assert gradient(c, x, kl_divergence(c, q)).isfinite().all()
        assert gradient(c, x, kl_divergence(q, c)).isfinite().all()


# --- gates -------------------------------------------------------------------------------------------------------


def gate(p: float | Tensor) -> HardConcrete:
    return HardConcrete(0.5, probs=torch.as_tensor(p, dtype=torch.float64))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_a_gate_that_is_certain(p: float) -> None:
    d, at = gate(p), torch.tensor([p, 0.5, 1 - p], dtype=torch.float64)
    assert d.sample((100,)).unique().tolist() == [p]
    assert d.log_prob(at).tolist() == [0, -INF, -INF]
    for what in (d.mean, d.prob_nonzero, d.prob_one, d.deterministic_gate):
        assert what.item() == pytest.approx(p, abs=1e-14)
    assert d.variance.item() == pytest.approx(0, abs=1e-14)
    assert d.entropy().item() == 0
    assert d.icdf(torch.tensor([1e-9, 0.5, 1.0], dtype=torch.float64)).tolist() == [p, p, p]


@pytest.mark.parametrize(("p", "q"), list(itertools.product([0.0, 0.3, 1.0], [0.0, 0.3, 1.0])))
def test_divergences_of_gates(p: float, q: float) -> None:
    if p == q:
        expected = 0.0
    elif q in (0, 1):
        expected = INF
    else:
        expected = -gate(q).log_prob(torch.tensor(p, dtype=torch.float64)).item()
    assert kl_divergence(gate(p), gate(q)).item() == pytest.approx(expected, abs=1e-12)


def test_gradients_of_gates_that_are_certain() -> None:
    p = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    d = HardConcrete(tau, probs=p)
    values = [d.mean, d.variance, d.entropy(), d.prob_nonzero, d.rsample(), d.log_prob(torch.zeros_like(p))]
    for value in [*values, kl_divergence(d, gate(0.5)), kl_divergence(gate(0.5), d)]:
        total = value.masked_fill(value.isinf(), 0).sum()
        for slope in torch.autograd.grad(total, [p, tau], retain_graph=True):
            assert slope.isfinite().all()
