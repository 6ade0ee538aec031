"""Divergences to and from torch's distributions, and the integrals over the logistic law, against quadrature.

The statistical tests have fixed seeds and would fail by chance with probability 1e-6 or less.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import kl_divergence
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli as TorchLogit
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical as TorchExp

import argumbel.distributions as agd
from argumbel._core.integrals import mean_log_variance
from argumbel.distributions import Gumbel
from argumbel.distributions._monte_carlo import controlled_mean

from .statistics import Z

td = torch.distributions


def t(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Gumbel ------------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[Any, tuple[float, float]]] = {  # a distribution, and where its mass lies
    "Gumbel": (td.Gumbel(t(0.3), t(1.5)), (-8, 70)),
    "Normal": (td.Normal(t(0.3), t(1.5)), (-15, 15)),
    "Exponential": (td.Exponential(t(0.7)), (0, 60)),
    "Gamma": (td.Gamma(t(2.5), t(1.3)), (0, 60)),
    "Uniform": (td.Uniform(t(-1.0), t(2.0)), (-1, 2)),
}
OURS = Gumbel(t(-0.4), t(0.8)), (-4, 40)


def integrated(p: Any, q: Any, ends: tuple[float, float]) -> float:
    def integrand(y: float) -> float:
        log_p = p.log_prob(t(y)).item()
        return math.exp(log_p) * (log_p - q.log_prob(t(y)).item())

    cuts = [ends[0], *[x for x in (-2.0, 0.0, 2.0, 6.0) if ends[0] < x < ends[1]], ends[1]]
    return sum(scipy.integrate.quad(integrand, a, b, epsabs=1e-11)[0] for a, b in itertools.pairwise(cuts))


@pytest.mark.parametrize("name", OTHERS)
def test_other_to_gumbel(name: str) -> None:
    other, ends = OTHERS[name]
    assert kl_divergence(other, OURS[0]).item() == pytest.approx(integrated(other, OURS[0], ends), rel=1e-7)


@pytest.mark.parametrize("name", ["Gumbel", "Normal"])
def test_gumbel_to_other(name: str) -> None:
    assert kl_divergence(OURS[0], OTHERS[name][0]).item() == pytest.approx(
        integrated(OURS[0], OTHERS[name][0], OURS[1])
    )


@pytest.mark.parametrize("other", [td.Exponential(t(1.0)), td.Gamma(t(1.0), t(1.0)), td.Uniform(t(0.0), t(1.0)),
                                   td.Beta(t(1.0), t(1.0)), td.Pareto(t(1.0), t(1.0))])  # fmt: skip
def test_gumbel_to_what_cannot_be_negative(other: Any) -> None:
    assert kl_divergence(OURS[0], other) == torch.inf


def test_divergences_of_gumbels_broadcast_and_have_gradients() -> None:
    loc = torch.zeros(3, 1, requires_grad=True)
    for other in (td.Normal(torch.zeros(4), 1.0), td.Gumbel(torch.zeros(4), 1.0), td.Uniform(torch.zeros(4), 1.0)):
        divergence = kl_divergence(other, Gumbel(loc, 2.0))
        assert divergence.shape == (3, 4)
        assert divergence.dtype == torch.float32
        assert torch.autograd.grad(divergence.sum(), loc)[0].isfinite().all()
    assert kl_divergence(Gumbel(loc, 2.0), td.Exponential(torch.ones(4))).shape == (3, 4)
    half = Gumbel(torch.zeros(3, dtype=torch.float16), 2.0)
    assert kl_divergence(half, td.Normal(torch.zeros(3, dtype=torch.float16), 1.0)).dtype == torch.float16


# --- relaxed classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (agd.ExpRelaxedCategorical, TorchExp),
        (agd.RelaxedOneHotCategorical, td.RelaxedOneHotCategorical),
        (agd.LogitRelaxedBernoulli, TorchLogit),
        (agd.RelaxedBernoulli, td.RelaxedBernoulli),
    ],
)
@pytest.mark.parametrize("temperature", [(), (1,), (2, 1)])
def test_with_torchs_class_of_the_same_name(ours: Any, theirs: Any, temperature: tuple[int, ...]) -> None:
    x, y = torch.randn(2, 3, generator=seeded()), torch.randn(2, 3, generator=seeded(1))
    tau = torch.full(temperature, 0.5)
    own = tau.squeeze(-1) if tau.ndim and "Categorical" in ours.__name__ else tau
    p, q = ours(own, logits=x), ours(1.0, logits=y)
    a, b = theirs(tau, logits=x), theirs(torch.tensor(1.0), logits=y)
    results = []
    for pair in ((p, q), (a, q), (p, b)):
        torch.manual_seed(0)
        results.append(kl_divergence(*pair))
    assert results[0].shape == p.batch_shape
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)


def test_a_temperature_for_each_category_is_refused() -> None:
    theirs = td.RelaxedOneHotCategorical(torch.ones(3), logits=torch.zeros(3))
    with pytest.raises(ValueError, match="temperature must be the same for all categories"):
        kl_divergence(theirs, agd.RelaxedOneHotCategorical(1.0, logits=torch.zeros(3)))


# --- the integral over the logistic law --------------------------------------------------------------------------

LOCATIONS = [0.0, 0.3, -2.0, 8.0, -30.0, 80.0]
TAUS = [1e-3, 0.01, 0.1, 0.5, 1.0, 1.001, 2.0, 10.0, 1000.0]


def by_quadrature(location: float, tau: float, f: Callable[[float], float]) -> float:
    def integrand(x: float) -> float:
        e = math.exp(-abs(x))
        return e / (1 + e) ** 2 * f((location + x) / tau)

    near = [-location + c * tau for c in (-30, -5, 0, 5, 30)]
    cuts = sorted({-60.0, 0.0, 60.0, *[x for x in near if -60 < x < 60]})
    return sum(scipy.integrate.quad(integrand, a, b, limit=400, epsrel=1e-13)[0] for a, b in itertools.pairwise(cuts))


@pytest.mark.parametrize("tau", TAUS)
def test_the_mean_log_variance(tau: float) -> None:
    for x in LOCATIONS:
        location, scale = t(x).requires_grad_(), t(tau).requires_grad_()
        value = mean_log_variance(location, scale)
        assert value.item() == pytest.approx(
            by_quadrature(x, tau, lambda v: -abs(v) - 2 * math.log1p(math.exp(-abs(v)))), rel=1e-11
        )
        slopes = torch.autograd.grad(value, [location, scale])
        assert slopes[0].item() == pytest.approx(
            by_quadrature(x, tau, lambda v: -math.tanh(v / 2)) / tau, abs=1e-9 / tau
        )
        expected = by_quadrature(x, tau, lambda v: v * math.tanh(v / 2)) / tau
        assert slopes[1].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("tau_p", "tau_q"), list(itertools.product([0.1, 1.0, 3.0], repeat=2)))
def test_divergences_of_bits_are_exact(tau_p: float, tau_q: float) -> None:
    p, q = agd.LogitRelaxedBernoulli(t(tau_p), logits=t(1.2)), agd.LogitRelaxedBernoulli(t(tau_q), logits=t(-0.4))
    v = torch.linspace(-60 / tau_p, 60 / tau_p, 40_001, dtype=torch.float64) + 1.2 / tau_p
    exact = torch.trapezoid(p.log_prob(v).exp() * (p.log_prob(v) - q.log_prob(v)), v).item()
    assert kl_divergence(p, q).item() == pytest.approx(exact, rel=1e-9)
    bits = [agd.RelaxedBernoulli(d.temperature, logits=d.logits) for d in (p, q)]
    assert kl_divergence(*bits).item() == pytest.approx(exact, rel=1e-9)
    assert kl_divergence(p, p).item() == 0


# --- control variates --------------------------------------------------------------------------------------------


def test_a_controlled_mean_is_unbiased() -> None:
    rows = 20_000
    a, b = (torch.randn(20, rows, generator=seeded(s), dtype=torch.float64) for s in (0, 1))
    x = (a.square() + 3 * b - a + 0.1 * a * b).requires_grad_()
    estimate = controlled_mean(x, torch.stack([a, b], -1))
    assert abs(estimate.mean().item() - 1) < Z * estimate.std().item() / math.sqrt(rows)
    assert estimate.std() < 0.6 * x.mean(0).std()
    (weight,) = torch.autograd.grad(estimate.sum(), x)
    torch.testing.assert_close(weight, torch.full_like(weight, 1 / 20))


@pytest.mark.parametrize(("n", "factor"), [(3, 2.5), (100, 2.5)])
@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])
def test_the_entropy_on_the_simplex_has_less_variance(n: int, factor: float, tau: float) -> None:
    d = agd.RelaxedOneHotCategorical(tau, logits=torch.randn(n, generator=seeded(), dtype=torch.float64))
    many = d.expand((400,))
    ours = many.entropy(64, generator=seeded())
    log_y = many.base_dist.rsample((64,), generator=seeded())
    plain = d.base_dist.entropy() + log_y.sum(-1).mean(0)
    assert ours.std() < plain.std() / factor
    error = math.sqrt((ours.var() + plain.var()).item() / 400)
    assert abs((ours.mean() - plain.mean()).item()) < Z * error


def test_the_entropy_of_one_category_is_zero() -> None:
    assert agd.RelaxedOneHotCategorical(0.5, logits=torch.zeros(2, 1)).entropy().abs().max() < 1e-5
    forbidden = torch.tensor([0.0, -torch.inf, -torch.inf], requires_grad=True)
    entropy = agd.RelaxedOneHotCategorical(0.5, logits=forbidden).entropy()
    assert abs(entropy.item()) < 1e-5
    assert torch.autograd.grad(entropy, forbidden)[0].isfinite().all()
