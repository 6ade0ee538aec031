"""What is computed from the distributions: modes, entropies, divergences, the hard gates; and what bad input gets.

Statistical tests have fixed seeds and would fail by chance with probability 1e-6 or less.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import OneHotCategorical, kl_divergence

import argumbel.distributions as agd
from argumbel.distributions import (
    NUM_SAMPLES,
    ExpRelaxedCategorical,
    Gumbel,
    HardConcrete,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    kl_monte_carlo,
)

from .statistics import FAILURE_RATE as FAILURE

SIGMAS = float(scipy.stats.norm.isf(FAILURE / 2))  # 4.89


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def t(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def assert_mean(samples: Tensor, expected: float) -> None:
    error = samples.std().item() / math.sqrt(samples.numel())
    assert abs(samples.mean().item() - expected) < SIGMAS * error


def over_log_odds(d: LogitRelaxedBernoulli, f: Callable[[Tensor], Tensor]) -> float:
    """E f(log odds), by the trapezoid rule, which is spectrally accurate for smooth functions on the line."""
    center, width = (d.logits / d.temperature).item(), 60 / d.temperature.item()
    v = torch.linspace(center - width, center + width, 40_001, dtype=torch.float64)
    return torch.trapezoid(d.log_prob(v).exp() * f(v), v).item()


# --- modes and moments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.2, 1.0, 3.0])
def test_modes_are_maxima(tau: float) -> None:
    """Of the density in log space: nothing nearby, and no sample, has a higher one."""
    logits = torch.randn(5, generator=seeded(), dtype=torch.float64)
    for d, value_of in [
        (ExpRelaxedCategorical(tau, logits=logits), lambda m: m),
        (LogitRelaxedBernoulli(tau, logits=logits), lambda m: m),
        (Gumbel(logits, tau), lambda m: m),
    ]:
        mode = value_of(d.mode).clone().requires_grad_()
        top = d.log_prob(mode)
        (slope,) = torch.autograd.grad(top.sum(), mode)
        assert slope.abs().max() < 1e-9
        assert bool((d.log_prob(d.sample((1000,), generator=seeded())) <= top).all())
    relaxed, one = RelaxedOneHotCategorical(tau, logits=logits), RelaxedBernoulli(tau, logits=logits)
    torch.testing.assert_close(relaxed.base_dist.mode.exp(), torch.softmax(logits / tau, -1))
    torch.testing.assert_close(one.icdf(0.5), one.base_dist.mode.sigmoid())  # the median
    for d in (relaxed, one):
        with pytest.raises(NotImplementedError, match="has no mode, for its density may have no maximum"):
            _ = d.mode


def test_the_density_on_the_simplex_has_no_maximum_when_cold() -> None:
    d = RelaxedOneHotCategorical(0.3, logits=t(1.0, 0.0, -1.0))
    corner = t(1.0, 0.0, 0.0)
    densities = [d.log_prob(corner + eps * t(-2.0, 1.0, 1.0)).item() for eps in (1e-2, 1e-8, 1e-14)]
    assert densities == sorted(densities)
    assert densities[-1] > d.log_prob(d.base_dist.mode.exp()).item()


def test_moments_in_closed_form() -> None:
    for d in [Gumbel(t(1.0), t(0.5)), LogitRelaxedBernoulli(t(0.4), logits=t(1.5))]:
        y = d.sample((100_000,), generator=seeded())
        assert_mean(y, d.mean.item())
        assert_mean((y - d.mean).square(), d.variance.item())
        torch.testing.assert_close(d.stddev.square(), d.variance)
        assert_mean(-d.log_prob(y), d.entropy().item())


# --- entropy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.2, 1.0, 3.0])
def test_entropy_of_two_outcomes_against_quadrature(tau: float) -> None:
    odds = LogitRelaxedBernoulli(tau, logits=t(0.8))
    exact = over_log_odds(odds, lambda v: -odds.log_prob(v))
    assert odds.entropy().item() == pytest.approx(exact, abs=1e-9)
    pair = ExpRelaxedCategorical(tau, logits=t(0.8, 0.0))
    assert pair.entropy().item() == pytest.approx(exact, abs=1e-9)

    def log_jacobian(v: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(v) + torch.nn.functional.logsigmoid(-v)

    exact_unit = exact + over_log_odds(odds, log_jacobian)
    error = log_jacobian(odds.sample((10_000,), generator=seeded(1))).std().item() / math.sqrt(4000)
    assert RelaxedBernoulli(tau, logits=t(0.8)).entropy().item() == pytest.approx(exact_unit, abs=1e-9)
    estimate = RelaxedOneHotCategorical(tau, logits=t(0.8, 0.0)).entropy(num_samples=4000, generator=seeded()).item()
    assert abs(estimate - exact_unit) < SIGMAS * error / 2  # the control variates take off more than half of it


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_entropy_is_the_mean_of_the_negative_log_density(n: int) -> None:
    logits = torch.randn(n, generator=seeded(), dtype=torch.float64)
    d = ExpRelaxedCategorical(0.7, logits=logits)
    density = d.log_prob(d.sample((20_000,), generator=seeded()))
    if n == 1:
        assert bool((density == 0).all())
        assert d.entropy() == 0
        return
    assert_mean(-density, d.entropy().item())
    simplex = RelaxedOneHotCategorical(0.7, logits=logits)
    exact = simplex.entropy(100_000, generator=seeded(1)).item()
    own = -simplex.log_prob(simplex.sample((20_000,), generator=seeded(2)))
    assert abs(own.mean().item() - exact) < 2 * SIGMAS * own.std().item() / math.sqrt(20_000)


def test_entropy_has_a_gradient_and_a_generator() -> None:
    logits = torch.zeros(3, 4, requires_grad=True)
    d = RelaxedOneHotCategorical(0.5, logits=logits)
    a, b = (d.entropy(10, generator=seeded()) for _ in range(2))
    assert torch.equal(a, b)
    a.sum().backward()
    assert bool((logits.grad != 0).any())
    assert d.entropy().shape == (3,)


# --- divergences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tau_p", "tau_q"), [(0.3, 0.3), (0.5, 1.0), (1.5, 0.7)])
def test_divergence_of_two_outcomes_against_quadrature(tau_p: float, tau_q: float) -> None:
    p, q = LogitRelaxedBernoulli(t(tau_p), logits=t(1.2)), LogitRelaxedBernoulli(t(tau_q), logits=t(-0.4))
    exact = over_log_odds(p, lambda v: p.log_prob(v) - q.log_prob(v))
    y = p.sample((10_000,), generator=seeded(5))
    spread = (p.log_prob(y) - q.log_prob(y)).std().item()
    pairs = [
        (p, q),
        (ExpRelaxedCategorical(t(tau_p), logits=t(1.2, 0.0)), ExpRelaxedCategorical(t(tau_q), logits=t(-0.4, 0.0))),
    ]
    for a, b in pairs:
        estimate = kl_monte_carlo(a, b, 20_000, generator=seeded()).item()
        assert abs(estimate - exact) < SIGMAS * spread / math.sqrt(20_000)
    for a, b in [
        *pairs,
        (RelaxedBernoulli(t(tau_p), logits=t(1.2)), RelaxedBernoulli(t(tau_q), logits=t(-0.4))),
        (RelaxedOneHotCategorical(t(tau_p), logits=t(1.2, 0)), RelaxedOneHotCategorical(t(tau_q), logits=t(-0.4, 0))),
    ]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            registered = kl_divergence(a, b).item()
        assert abs(registered - exact) < 1.1 * SIGMAS * spread / math.sqrt(NUM_SAMPLES)


@pytest.mark.parametrize(
    "cls", [ExpRelaxedCategorical, RelaxedOneHotCategorical, LogitRelaxedBernoulli, RelaxedBernoulli, HardConcrete]
)
def test_divergence_to_itself_is_zero_and_shapes_broadcast(cls: type) -> None:
    x = torch.randn(2, 4, generator=seeded())
    p = cls(torch.tensor(0.1), logits=x)
    assert bool((kl_divergence(p, p) == 0).all())
    q = cls(torch.full((3, 1) if p.event_shape else (3, 1, 1), 0.2), logits=torch.zeros(x.shape[-1]))
    divergence = kl_divergence(p, q)
    assert divergence.shape == torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    assert bool(divergence.isfinite().all())


@pytest.mark.parametrize("n", [3, 1000])
def test_divergence_is_finite_and_differentiable_when_cold(n: int) -> None:
    logits = torch.randn(n, generator=seeded()).requires_grad_()
    tau = torch.tensor(0.1, requires_grad=True)
    p, q = RelaxedOneHotCategorical(tau, logits=logits), RelaxedOneHotCategorical(0.1, logits=torch.zeros(n))
    divergence = kl_divergence(p, q)
    divergence.backward()
    assert bool(divergence.isfinite())
    assert divergence > 0
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad != 0).all())


@pytest.mark.parametrize(("p", "q"), [((0.3, 1.0), (0.0, 1.0)), ((0.0, 2.0), (1.0, 0.5)), ((-1.0, 0.5), (0.5, 3.0))])
def test_gumbel_divergence_against_quadrature(p: tuple[float, float], q: tuple[float, float]) -> None:
    a, b = Gumbel(t(p[0]), t(p[1])), Gumbel(t(q[0]), t(q[1]))
    y = torch.linspace(p[0] - 6 * p[1], p[0] + 50 * p[1], 400_001, dtype=torch.float64)
    # Far to the left q's density is exp(-exp(large)): the product with p's is what counts.
    weight = a.log_prob(y).exp()
    integrand = torch.where(weight > 0, weight * (a.log_prob(y) - b.log_prob(y).clamp(min=-1e300)), 0)
    assert kl_divergence(a, b).item() == pytest.approx(torch.trapezoid(integrand, y).item(), rel=1e-6)


# --- hard concrete -----------------------------------------------------------------------------------------------

GATES = [(0.1, 0.0, {}), (2 / 3, -1.0, {}), (2 / 3, 2.5, {}), (1.0, 0.3, {"gamma": -0.5, "zeta": 1.2}), (5.0, 4.0, {})]


@pytest.mark.parametrize(("tau", "x", "stretch"), GATES)
def test_hard_concrete_is_a_law(tau: float, x: float, stretch: dict[str, float]) -> None:
    d = HardConcrete(t(tau), logits=t(x), **stretch)
    zero, one = (d.log_prob(t(end)).exp().item() for end in (0.0, 1.0))

    def integral(f: Callable[[float], float]) -> float:
        return scipy.integrate.quad(f, 0, 1, epsabs=1e-12)[0]

    def density(z: float) -> Tensor:
        return d.log_prob(t(z)).exp()

    inside = integral(lambda z: density(z).item())
    assert zero + inside + one == pytest.approx(1, abs=1e-9)
    assert d.prob_nonzero.item() == pytest.approx(1 - zero, abs=1e-12)
    assert d.prob_one.item() == pytest.approx(one, abs=1e-12)
    mean = one + integral(lambda z: z * density(z).item())
    square = one + integral(lambda z: z * z * density(z).item())
    assert d.mean.item() == pytest.approx(mean, abs=1e-10)
    assert d.variance.item() == pytest.approx(square - mean**2, abs=1e-10)
    entropy = -zero * math.log(zero) - one * math.log(one)
    entropy -= integral(lambda z: (density(z) * d.log_prob(t(z))).item())
    assert d.entropy().item() == pytest.approx(entropy, abs=1e-9)
    z = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(d.cdf(z).sum(), z)
    torch.testing.assert_close(slope, d.log_prob(z).exp())
    torch.testing.assert_close(d.icdf(d.cdf(z)), z)
    assert d.cdf(t(0.0)).item() == pytest.approx(zero)
    assert d.cdf(t(1.0)) == 1
    assert d.icdf(t(zero / 2)) == 0
    assert d.icdf(t(1 - one / 2)) == 1


@pytest.mark.parametrize(("tau", "x", "stretch"), GATES)
def test_hard_concrete_samples(tau: float, x: float, stretch: dict[str, float]) -> None:
    d = HardConcrete(tau, logits=t(x), **stretch)
    z = d.sample((20_000,), generator=seeded())
    assert_mean(z, d.mean.item())
    edges = t(0.2, 0.4, 0.6, 0.8)
    counts = torch.where(z == 0, 0, torch.where(z == 1, 6, torch.bucketize(z, edges) + 1)).bincount(minlength=7)
    below = torch.stack([d.cdf(t(0.0)), *d.cdf(edges), 1 - d.prob_one, t(1.0)])
    probs = below.diff(prepend=torch.zeros(1))
    kept = probs * 20_000 > 5
    assert probs[kept].sum() > 0.99
    expected = probs[kept] / probs[kept].sum() * counts[kept].sum()
    assert scipy.stats.chisquare(counts[kept].numpy(), expected.numpy()).pvalue > FAILURE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hard_concrete_ends_are_not_fed_by_rounding(dtype: torch.dtype) -> None:
    logits = torch.linspace(-4, 4, 9).to(dtype)
    low, high = (HardConcrete(0.5, logits=x).sample((20_000,), generator=seeded()) for x in (logits, logits.float()))
    assert bool((high[high < 1].to(dtype) == 1).any())
    for end in (0, 1):
        assert torch.equal(low == end, high == end)


def test_hard_concrete_divergence_against_quadrature() -> None:
    p, q = HardConcrete(t(0.6), logits=t(1.0)), HardConcrete(t(0.9), logits=t(-0.5), gamma=-0.3)
    exact = scipy.integrate.quad(
        lambda z: (p.log_prob(t(z)).exp() * (p.log_prob(t(z)) - q.log_prob(t(z)))).item(), 0, 1, epsabs=1e-12
    )[0]
    for end in (t(0.0), t(1.0)):
        exact += (p.log_prob(end).exp() * (p.log_prob(end) - q.log_prob(end))).item()
    assert kl_divergence(p, q).item() == pytest.approx(exact, abs=1e-9)
    y = p.sample((50_000,), generator=seeded())
    assert_mean(p.log_prob(y) - q.log_prob(y), exact)


def test_hard_concrete_as_published() -> None:
    """Louizos et al. 2018, eq. 11-13, at their settings."""
    x = torch.linspace(-6, 6, 13, dtype=torch.float64)
    d = HardConcrete(2 / 3, logits=x)
    torch.testing.assert_close(d.prob_nonzero, torch.sigmoid(x - 2 / 3 * math.log(0.1 / 1.1)))
    torch.testing.assert_close(d.deterministic_gate, (torch.sigmoid(x) * 1.2 - 0.1).clamp(0, 1))
    logits = torch.zeros(100, requires_grad=True)
    gates = HardConcrete(2 / 3, logits=logits)
    z = gates.rsample(generator=seeded())
    z.sum().backward()
    closed = (z == 0) | (z == 1)
    assert bool(closed.any())
    assert bool((logits.grad[closed] == 0).all())
    assert bool((logits.grad[~closed] > 0).all())


# --- bad input ---------------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf
X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: RelaxedOneHotCategorical(0.0, logits=X), ValueError, "temperature must be positive and finite.* 0.0"),
        (lambda: RelaxedOneHotCategorical(-1.0, logits=X), ValueError, "temperature must be positive"),
        (lambda: RelaxedOneHotCategorical(torch.tensor([1.0, NAN]), logits=X), ValueError, r"entry at \[1\] is nan"),
        (lambda: RelaxedBernoulli(INF, logits=X), ValueError, "temperature must be positive and finite"),
        (lambda: ExpRelaxedCategorical(1.0), ValueError, "exactly one of probs and logits .* neither"),
        (lambda: ExpRelaxedCategorical(1.0, X, X), ValueError, "exactly one of probs and logits .* both"),
        (lambda: ExpRelaxedCategorical(1.0, logits=X.int()), TypeError, "logits must be a floating tensor.*int32"),
        (lambda: ExpRelaxedCategorical(torch.tensor(1j), logits=X), TypeError, "temperature must be a floating tensor"),
        (lambda: ExpRelaxedCategorical("1", logits=X), TypeError, "temperature must be a tensor or a number.* str"),
        (lambda: ExpRelaxedCategorical(1.0, logits=[0.0, 1.0]), TypeError, "logits must be a tensor .* list"),
        (lambda: ExpRelaxedCategorical(1.0, logits=torch.tensor(0.0)), ValueError, "categories as its last dimension"),
        (lambda: ExpRelaxedCategorical(1.0, logits=torch.zeros(2, 0)), ValueError, "at least one category.*(2, 0)"),
        (lambda: ExpRelaxedCategorical(1.0, logits=torch.tensor([0.0, NAN])), ValueError, "not NaN.*nan"),
        (lambda: ExpRelaxedCategorical(1.0, logits=torch.tensor([0.0, INF])), ValueError, r"below \+inf.*inf"),
        (lambda: ExpRelaxedCategorical(1.0, logits=X - INF), ValueError, "logits must be possible for at least one"),
        (lambda: ExpRelaxedCategorical(1.0, probs=X), ValueError, "probs must be possible for at least one"),
        (lambda: ExpRelaxedCategorical(1.0, probs=X - 0.5), ValueError, "probs must be nonnegative.*-0.5"),
        (lambda: ExpRelaxedCategorical(torch.ones(3), logits=X), ValueError, r"batch shape \(2,\) of logits.*\(3,\)"),
        (lambda: RelaxedBernoulli(torch.ones(2), logits=X), ValueError, r"batch shape \(2, 3\) of logits"),
        (lambda: RelaxedBernoulli(1.0, probs=1.5), ValueError, r"probs must be probabilities of a 1, in \[0, 1\].*1.5"),
        (lambda: RelaxedBernoulli(1.0, probs=torch.tensor(NAN)), ValueError, "probs must be probabilities.*nan"),
        (lambda: RelaxedBernoulli(1.0, logits=INF), ValueError, "logits must be finite.*inf"),
        (lambda: HardConcrete(1.0, 0.5, gamma=0.0), ValueError, "gamma must be below 0"),
        (lambda: HardConcrete(1.0, 0.5, zeta=1.0), ValueError, "zeta must be above 1"),
        (lambda: Gumbel(0.0, 0.0), ValueError, "scale must be positive"),
        (lambda: Gumbel(NAN, 1.0), ValueError, "loc must be finite"),
        (lambda: Gumbel(torch.zeros(2), torch.ones(3)), ValueError, r"\(2,\) and \(3,\)"),
        (lambda: Gumbel(0.0, True), TypeError, "scale must be a tensor or a number"),
        (lambda: Gumbel(0.0, 1.0).icdf(torch.tensor(1.5)), ValueError, "value must be a probability.*1.5"),
        (lambda: RelaxedBernoulli(1.0, 0.5).icdf(torch.tensor(-0.1)), ValueError, "value must be a probability"),
        (lambda: RelaxedBernoulli(1.0, 0.5).log_prob(torch.tensor(1.1)), ValueError, "value must lie in the support"),
        (lambda: RelaxedBernoulli(1.0, 0.5).log_prob([0.3]), TypeError, "value must be a tensor or a number.* list"),
        (lambda: HardConcrete(1.0, 0.5).log_prob(torch.tensor(-0.1)), ValueError, "value must lie in the support"),
        (lambda: RelaxedOneHotCategorical(1.0, logits=X).log_prob(X), ValueError, r"Simplex\(\) of RelaxedOneHot"),
        (lambda: RelaxedOneHotCategorical(1.0, logits=X).log_prob(X[:, :2]), ValueError, r"\(2, 3\).*\(2, 2\)"),
        (lambda: ExpRelaxedCategorical(1.0, logits=X).log_prob(torch.zeros(5, 3)), ValueError, r"\(2, 3\).*\(5, 3\)"),
        (lambda: ExpRelaxedCategorical(1.0, logits=X).log_prob(X * NAN), ValueError, "value must lie in the support"),
        (lambda: RelaxedOneHotCategoricalStraightThrough(1.0, logits=X).log_prob(X + 1 / 3), ValueError, "OneHot"),
        (lambda: RelaxedBernoulliStraightThrough(1.0, logits=X).log_prob(X + 0.5), ValueError, "Boolean"),
        (lambda: RelaxedOneHotCategorical(1.0, logits=X).entropy(0), ValueError, "num_samples must be at least 1"),
        (lambda: RelaxedOneHotCategorical(1.0, logits=X).entropy(2.5), TypeError, "num_samples must be an integer"),
    ],
)
def test_bad_input(make: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def test_checks_can_be_turned_off() -> None:
    d = RelaxedBernoulli(1.0, torch.tensor(2.0), validate_args=False)
    assert d.probs == 2
    d = RelaxedOneHotCategorical(1.0, logits=X, validate_args=False)
    assert d.log_prob(X + 1).shape == (2,)


def test_names_and_arguments_are_those_of_torch() -> None:
    theirs = vars(torch.distributions) | vars(torch.distributions.relaxed_bernoulli)
    theirs |= vars(torch.distributions.relaxed_categorical)
    shared = [name for name in agd.__all__ if name in theirs]
    assert set(shared) == {
        "ExpRelaxedCategorical", "Gumbel", "LogitRelaxedBernoulli", "RelaxedBernoulli", "RelaxedOneHotCategorical"
    }  # fmt: skip
    for name in shared:
        assert getattr(agd, name) is not theirs[name]
        assert list(inspect.signature(getattr(agd, name)).parameters) == list(
            inspect.signature(theirs[name]).parameters
        )


# --- a straight-through guide with a prior -----------------------------------------------------------------------


PRIOR = torch.tensor([0.5, 0.3, 0.15, 0.05])
LOSSES = {
    "a prior of ours": lambda q, z: (
        q.log_prob(z) - RelaxedOneHotCategoricalStraightThrough(0.5, probs=PRIOR).log_prob(z)
    ),
    "the divergence": lambda q, z: kl_divergence(q, OneHotCategorical(PRIOR)),
    "the divergence to ours": lambda q, z: kl_divergence(q, RelaxedOneHotCategoricalStraightThrough(0.5, probs=PRIOR)),
    "torch's prior": lambda q, z: q.log_prob(z) - OneHotCategorical(PRIOR).log_prob(z),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_straight_through_guide_finds_a_prior_that_has_a_gradient(name: str) -> None:
    x = torch.zeros(4, requires_grad=True)
    optimizer, generator = torch.optim.Adam([x], lr=0.03), seeded()
    for _ in range(500):
        q = RelaxedOneHotCategoricalStraightThrough(0.5, logits=x)
        loss = LOSSES[name](q, q.rsample((64,), generator=generator)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = torch.full((4,), 0.25) if name == "torch's prior" else PRIOR  # the trap that the docstring warns of
    torch.testing.assert_close(torch.softmax(x.detach(), -1), expected, atol=0.04, rtol=0)
