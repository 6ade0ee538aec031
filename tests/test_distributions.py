"""Densities against torch and quadrature, samples against densities, shapes, gradients, bad input.

Statistical tests have fixed seeds and would fail by chance with probability 1e-6 or less.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical, constraints, kl_divergence
from torch.distributions.constraint_registry import biject_to, transform_to

from argumbel.distributions import (
    ExpRelaxedCategorical,
    Gumbel,
    HardConcrete,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
)

from .statistics import FAILURE_RATE as FAILURE

CATEGORICAL = [ExpRelaxedCategorical, RelaxedOneHotCategorical, RelaxedOneHotCategoricalStraightThrough]
BINARY = [LogitRelaxedBernoulli, RelaxedBernoulli, RelaxedBernoulliStraightThrough, HardConcrete]
RELAXED = CATEGORICAL + BINARY
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def t(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def law_of_counts(counts: np.ndarray, probs: np.ndarray) -> None:
    probs = probs.astype(np.float64)
    assert scipy.stats.chisquare(counts, probs / probs.sum() * counts.sum()).pvalue > FAILURE


# --- densities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("given", ["probs", "logits"])
def test_densities_are_those_of_torch_where_torch_is_right(tau: float, given: str) -> None:
    x = torch.randn(7, 5, generator=seeded(), dtype=torch.float64)
    categorical = {given: x.exp() if given == "probs" else x}
    binary = {given: x.sigmoid() if given == "probs" else x}
    theirs = torch.distributions
    for cls, torch_cls, args in [
        (ExpRelaxedCategorical, theirs.relaxed_categorical.ExpRelaxedCategorical, categorical),
        (RelaxedOneHotCategorical, theirs.RelaxedOneHotCategorical, categorical),
        (LogitRelaxedBernoulli, theirs.relaxed_bernoulli.LogitRelaxedBernoulli, binary),
        (RelaxedBernoulli, theirs.RelaxedBernoulli, binary),
    ]:
        ours, reference = cls(t(tau), **args), torch_cls(t(tau), **args)
        value = ours.sample((11,), generator=seeded(1))
        torch.testing.assert_close(ours.log_prob(value), reference.log_prob(value), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.probs, reference.probs)
        torch.testing.assert_close(ours.logits, reference.logits)


def test_gumbel_is_that_of_torch() -> None:
    loc, scale = torch.randn(4, 1, generator=seeded(), dtype=torch.float64), t(0.3, 1.0, 4.0)
    ours, theirs = Gumbel(loc, scale), torch.distributions.Gumbel(loc, scale)
    y = ours.sample((9,), generator=seeded())
    for name in ("mean", "mode", "variance", "stddev"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name).expand(4, 3))
    for name in ("log_prob", "cdf"):
        torch.testing.assert_close(getattr(ours, name)(y), getattr(theirs, name)(y))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.icdf(ours.cdf(y)), y)
    other, torch_other = Gumbel(t(0.5), t(0.7)), torch.distributions.Gumbel(t(0.5), t(0.7))
    torch.testing.assert_close(kl_divergence(ours, other), kl_divergence(theirs, torch_other))
    assert float(kl_divergence(other, other).abs()) < 1e-15


@pytest.mark.parametrize(("tau", "x"), list(itertools.product([0.3, 1.0, 3.0], [-2.0, 0.0, 1.5])))
def test_binary_densities_integrate_to_one(tau: float, x: float) -> None:
    logit, unit = LogitRelaxedBernoulli(tau, logits=t(x)), RelaxedBernoulli(tau, logits=t(x))
    center, width = x / tau, 45 / tau
    mass = scipy.integrate.quad(
        lambda v: logit.log_prob(t(v)).exp().item(), center - width, center + width, points=[center], limit=200
    )[0]
    assert mass == pytest.approx(1, abs=1e-9)
    # The density of y at y = sigmoid(v), with dy = y (1 - y) dv: its ends may be poles.
    v = torch.linspace(center - width, center + width, 4001, dtype=torch.float64).clamp(-30, 30)
    y = v.sigmoid()
    density = (unit.log_prob(y) + torch.log(y) + torch.log1p(-y)).exp()
    outside = (logit.cdf(v[0]) + 1 - logit.cdf(v[-1])).item()
    assert torch.trapezoid(density, v).item() + outside == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("tau", [0.4, 1.0, 2.0])
def test_categorical_densities_integrate_to_one(tau: float) -> None:
    logits = t(0.3, -0.5, 1.0)
    line = torch.linspace(-45 / tau, 45 / tau, 1201, dtype=torch.float64)
    ratios = torch.stack([*torch.meshgrid(line, line, indexing="ij"), torch.zeros(1201, 1201, dtype=torch.float64)], -1)
    log_y = torch.log_softmax(ratios, -1)
    area = (line[1] - line[0]) ** 2
    density = ExpRelaxedCategorical(tau, logits=logits).log_prob(log_y)
    assert (density.exp().sum() * area).item() == pytest.approx(1, abs=1e-6)
    y = log_y.exp()
    representable = (y > 1e-300).all(-1)
    density = RelaxedOneHotCategorical(tau, logits=logits).log_prob(y / y.sum(-1, keepdim=True))
    jacobian = log_y.sum(-1)
    mass = torch.where(representable, density + jacobian, -torch.inf).exp().sum() * area
    assert mass.item() == pytest.approx(1, abs=1e-6)


def test_density_on_the_simplex_integrates_to_one_in_its_own_coordinates() -> None:
    d = RelaxedOneHotCategorical(2.0, logits=t(0.3, -0.5, 1.0))  # warm enough for a bounded density
    mass = scipy.integrate.dblquad(
        lambda b, a: d.log_prob(t(a, b, 1 - a - b).clamp(0, 1)).exp().item(), 0, 1, 0, lambda a: 1 - a, epsabs=1e-4
    )[0]
    assert mass == pytest.approx(1, abs=1e-3)


def test_two_categories_are_the_binary_case() -> None:
    tau, x = t(0.7), torch.randn(20, generator=seeded(), dtype=torch.float64)
    y = torch.rand(20, generator=seeded(1), dtype=torch.float64)
    pair = torch.stack([x, torch.zeros_like(x)], -1)
    of_two = RelaxedOneHotCategorical(tau, logits=pair).log_prob(torch.stack([y, 1 - y], -1))
    torch.testing.assert_close(RelaxedBernoulli(tau, logits=x).log_prob(y), of_two)
    at_equal_odds = RelaxedBernoulli(t(1.0), logits=torch.zeros_like(y))
    torch.testing.assert_close(at_equal_odds.log_prob(y), torch.zeros_like(y))  # uniform


def test_constants_do_not_matter() -> None:
    x, value = torch.randn(6, generator=seeded(), dtype=torch.float64), -torch.rand(6, dtype=torch.float64)
    density = ExpRelaxedCategorical(0.3, logits=x).log_prob(value)
    torch.testing.assert_close(ExpRelaxedCategorical(0.3, logits=x + 50).log_prob(value - 9), density)


# --- samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "d",
    [
        Gumbel(t(1.5), t(2.0)),
        LogitRelaxedBernoulli(t(0.3), probs=t(0.2)),
        RelaxedBernoulli(t(1.5), logits=t(1.0)),
        RelaxedBernoulli(t(0.5), logits=t(-1.0)),
    ],
    ids=repr,
)
def test_samples_follow_the_cdf_and_the_cdf_the_density(d: Distribution) -> None:
    y = d.sample((20_000,), generator=seeded())
    assert scipy.stats.kstest(y.numpy(), lambda v: d.cdf(torch.from_numpy(v)).numpy()).pvalue > FAILURE
    inside = d.icdf(torch.linspace(0.01, 0.99, 99, dtype=torch.float64)).requires_grad_()
    torch.testing.assert_close(d.cdf(inside), torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    (slope,) = torch.autograd.grad(d.cdf(inside).sum(), inside)
    torch.testing.assert_close(slope, d.log_prob(inside).exp())


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_log_ratios_of_samples_are_logistic(tau: float) -> None:
    x = t(0.0, 1.0, -2.0, 0.5, 3.0)
    log_y = ExpRelaxedCategorical(tau, logits=x).sample((10_000,), generator=seeded())
    for i, j in [(0, 1), (2, 4), (3, 1)]:
        noise = (log_y[:, i] - log_y[:, j]) * tau - (x[i] - x[j])
        assert scipy.stats.kstest(noise.numpy(), "logistic").pvalue > FAILURE


@pytest.mark.parametrize("cls", CATEGORICAL)
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_the_argmax_is_categorical_at_every_temperature(cls: type, tau: float) -> None:
    probs = torch.tensor([0.1, 0.2, 0.05, 0.65])
    winner = cls(tau, probs=probs).sample((20_000,), generator=seeded(3)).argmax(-1)
    law_of_counts(winner.bincount(minlength=4).numpy(), probs.numpy())


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_rounding_gives_the_bernoulli_at_every_temperature(tau: float) -> None:
    for probs, cls in itertools.product([0.1, 0.8], BINARY[:3]):
        threshold = 0 if cls is LogitRelaxedBernoulli else 0.5
        ones = (cls(tau, probs=probs).sample((20_000,), generator=seeded()) > threshold).sum().item()
        assert scipy.stats.binomtest(ones, 20_000, probs).pvalue > FAILURE


def test_very_hot_samples_are_uniform() -> None:
    assert RelaxedBernoulli(1e10, 0.999).sample().item() == pytest.approx(0.5)
    y = RelaxedOneHotCategorical(1e10, torch.tensor([0.2, 0.2, 0.6])).sample()
    torch.testing.assert_close(y, torch.full((3,), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_categories_as_float32_does(dtype: torch.dtype) -> None:
    """In half precision noise of 256 equal categories would tie, and ties go to low indices."""
    d = RelaxedOneHotCategoricalStraightThrough(0.5, logits=torch.zeros(256, dtype=dtype))
    z = d.sample((8_000,), generator=seeded())
    assert z.dtype == dtype
    law_of_counts(z.float().sum(0).numpy(), np.ones(256))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded(dtype: torch.dtype) -> None:
    x = torch.randn(50, generator=seeded()).to(dtype)
    for cls in [ExpRelaxedCategorical, RelaxedOneHotCategorical, LogitRelaxedBernoulli, RelaxedBernoulli]:
        low, high = cls(0.5, logits=x), cls(0.5, logits=x.float(), validate_args=False)
        a, b = low.sample(generator=seeded(1)), high.sample(generator=seeded(1))
        rounded = b.to(dtype)
        if cls is RelaxedBernoulli:
            rounded = rounded.clamp(max=1 - torch.finfo(dtype).eps / 2)  # strictly inside
        torch.testing.assert_close(a, rounded, rtol=0, atol=2.0**-24)  # the least number of float16
        torch.testing.assert_close(low.log_prob(a), high.log_prob(a.float()).to(dtype), rtol=1e-2, atol=1e-2)
        assert low.log_prob(a.float()).dtype == torch.float32
    low, high = Gumbel(x, 2.0), Gumbel(x.float(), 2.0)
    assert torch.equal(low.sample(generator=seeded(1)), high.sample(generator=seeded(1)).to(dtype))
    assert torch.equal(low.variance, high.variance.to(dtype))


def test_bad_luck_is_as_rare_as_it_should_be() -> None:
    """Noise beyond 16.6, which float32 uniforms never reach, at its right rate of 6e-8 or, here, beyond 12."""
    y = Gumbel(torch.zeros(3_000_000), 1.0).sample(generator=seeded())
    high = int((y > 12).sum())
    assert scipy.stats.binomtest(high, y.numel(), -math.expm1(-math.exp(-12))).pvalue > FAILURE


@pytest.mark.parametrize("cls", [*RELAXED, Gumbel])
def test_generators(cls: type) -> None:
    d = cls(torch.tensor(0.5), torch.full((4,), 0.25))
    a = d.sample((100,), generator=seeded(7))
    assert torch.equal(a, d.rsample((100,), generator=seeded(7)))
    assert not torch.equal(a, d.sample((100,), generator=seeded(8)))
    stream = seeded(7)
    assert not torch.equal(d.sample((100,), generator=stream), d.sample((100,), generator=stream))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        b = d.sample((100,))
        torch.manual_seed(3)
        assert torch.equal(b, d.sample((100,)))


# --- extremes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", CATEGORICAL)
def test_finite_at_temperature_a_tenth_with_a_thousand_categories(cls: type, dtype: torch.dtype) -> None:
    logits = torch.randn(8, 1000, generator=seeded()).to(dtype).requires_grad_()
    tau = torch.full((8,), 0.1, requires_grad=True)
    d = cls(tau, logits=logits, validate_args=True)
    y = d.rsample((4,), generator=seeded(1))
    density = d.log_prob(y)
    assert density.shape == (4, 8)
    assert density.dtype == dtype
    assert bool(density.isfinite().all())
    if (cls, dtype) != (RelaxedOneHotCategorical, torch.float16):  # 1 / y is beyond float16: a loss wants base_dist
        density.float().sum().backward()
        assert bool(logits.grad.isfinite().all())
        assert tau.grad is None or bool(tau.grad.isfinite().all())


def test_log_density_is_right_where_the_simplex_underflows() -> None:
    logits = torch.randn(1000, generator=seeded())
    log_y = ExpRelaxedCategorical(0.1, logits=logits).sample(generator=seeded(1))
    assert log_y.exp().min() == 0
    single = ExpRelaxedCategorical(0.1, logits=logits).log_prob(log_y)
    double = ExpRelaxedCategorical(0.1, logits=logits.double()).log_prob(log_y.double())
    torch.testing.assert_close(single, double.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [1e-30, 1e-4, 0.1, 1.0, 100.0])
def test_samples_lie_in_their_own_support(dtype: torch.dtype, tau: float) -> None:
    for cls in RELAXED:
        x = 3 * torch.randn(*(3, 1000) if cls in CATEGORICAL else (3000,), generator=seeded())
        d = cls(torch.tensor(tau, dtype=torch.float64), logits=x.to(dtype), validate_args=True)
        y = d.sample(generator=seeded(1))
        assert y.dtype == dtype
        assert bool(d.support.check(y).all())
        assert not bool(d.log_prob(y).isnan().any())
        assert bool(y.isfinite().all())
        if cls in (RelaxedBernoulli, RelaxedBernoulliStraightThrough, HardConcrete):
            assert bool(d.log_prob(y).isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_simplex_of_many_categories(dtype: torch.dtype) -> None:
    d = RelaxedOneHotCategorical(1.0, logits=torch.zeros(200_000, dtype=dtype), validate_args=True)
    y = d.sample(generator=seeded())
    assert bool(d.support.check(y))
    assert not bool(d.support.check(y * 2))
    assert not bool(d.support.check(torch.cat([y[:-1], -y[-1:]])))


def test_transforms_know_the_simplex() -> None:
    support = RelaxedOneHotCategorical(1.0, logits=torch.zeros(4)).support
    for registry in (transform_to, biject_to):
        assert bool(support.check(registry(support)(torch.randn(5, 3))).all())


def test_forbidden_categories() -> None:
    """-inf puts the distribution on the face of the simplex that is left, with the density of that face."""
    part, whole = t(0.3, 1.0, -0.4), t(0.3, -math.inf, 1.0, -0.4)
    kept = [0, 2, 3]
    for cls in CATEGORICAL:
        d, face = cls(0.6, logits=whole, validate_args=True), cls(0.6, logits=part)
        y = d.sample((50,), generator=seeded())
        assert bool((y[:, 1] == (-torch.inf if cls is ExpRelaxedCategorical else 0)).all())
        torch.testing.assert_close(d.log_prob(y), face.log_prob(y[:, kept]))
        torch.testing.assert_close(d.entropy(generator=seeded()), face.entropy(generator=seeded()), rtol=0.2, atol=0)
        elsewhere = cls(0.6, logits=torch.zeros(4, dtype=torch.float64)).sample(generator=seeded(2))
        if cls is RelaxedOneHotCategoricalStraightThrough:
            elsewhere = torch.eye(4, dtype=torch.float64)[1]
        assert d.log_prob(elsewhere) == -torch.inf
        if cls is not RelaxedOneHotCategorical:  # which has no mode
            torch.testing.assert_close(d.mode[kept], face.mode)
        by_probs = cls(0.6, probs=whole.exp())
        torch.testing.assert_close(by_probs.log_prob(y), d.log_prob(y))
    p, q = (ExpRelaxedCategorical(0.6, logits=x) for x in (whole, torch.zeros(4, dtype=torch.float64)))
    assert kl_divergence(p, q) == torch.inf == kl_divergence(q, p)
    assert kl_divergence(p, p) == 0
    assert ExpRelaxedCategorical(0.6, logits=t(-math.inf, 0)).entropy() == 0  # one certain category


@pytest.mark.parametrize("cls", CATEGORICAL)
def test_forbidden_categories_get_no_gradient(cls: type) -> None:
    for given, x in [("logits", t(0.3, -math.inf, 1.0)), ("probs", t(0.3, 0.0, 0.7))]:
        x.requires_grad_()
        tau = t(0.5).requires_grad_()
        d = cls(tau, **{given: x})
        y = d.rsample((5,), generator=seeded())
        weights = torch.rand(3, generator=seeded(), dtype=torch.float64)
        loss = (y.masked_fill(y == -torch.inf, 0) * weights).sum() + d.log_prob(y).sum()
        loss.backward()
        assert bool(x.grad.isfinite().all())
        assert given == "probs" or x.grad[1] == 0
        assert bool(tau.grad.isfinite())


def test_certain_bits() -> None:
    for cls, dtype in itertools.product(BINARY[:3], DTYPES):
        probs = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
        d = cls(0.5, probs=probs, validate_args=True)
        y = d.rsample((1000,), generator=seeded())
        half = 0 if cls is LogitRelaxedBernoulli else 0.5
        assert bool((y[:, 0] < half).all())
        assert bool((y[:, 1] > half).all())
        assert bool(d.log_prob(y).isfinite().all())
        (d.log_prob(y).sum() + y.sum()).backward()
        assert bool(probs.grad.isfinite().all())


# --- shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "batch", "expected"),
    [((), (), ()), ((), (5,), (5,)), ((5,), (), (5,)), ((5,), (5,), (5,)), ((1,), (5,), (5,)), ((5, 1), (5,), (5, 5)),
     ((4, 1), (5,), (4, 5)), ((5,), (4, 1), (4, 5)), ((2, 3), (2, 3), (2, 3)), ((0,), (0,), (0,)), ((1,), (), (1,))],
)  # fmt: skip
@pytest.mark.parametrize("cls", RELAXED)
def test_the_temperature_broadcasts_against_the_batch(cls: type, tau: tuple, batch: tuple, expected: tuple) -> None:
    event = (3,) if cls in CATEGORICAL else ()
    if event and (tau, batch) in [((5, 1), (5,)), ((1,), ())]:
        pytest.skip("torch writes it too, with another meaning: tests/test_distributions_temperatures.py")
    d = cls(torch.full(tau, 0.5), logits=torch.zeros(batch + event))
    assert d.batch_shape == expected
    assert d.event_shape == event
    assert d.probs.shape == d.logits.shape == d.param_shape == expected + event
    assert d.temperature.shape == expected
    assert d.entropy(3).shape == expected
    for sample_shape in [(), (6,), (2, 1), torch.Size([0])]:
        y = d.rsample(sample_shape)
        assert y.shape == (*sample_shape, *expected, *event)
        assert d.log_prob(y).shape == (*sample_shape, *expected)


@pytest.mark.parametrize("cls", RELAXED)
def test_each_row_has_its_own_temperature(cls: type) -> None:
    tau, x = torch.tensor([0.2, 1.0, 3.0]), torch.randn(3, 4, generator=seeded())
    x = x if cls in CATEGORICAL else x[:, 0]
    d = cls(tau, logits=x)
    y = d.sample((2,), generator=seeded())
    alone = [cls(tau[i], logits=x[i]).log_prob(y[:, i]) for i in range(3)]
    torch.testing.assert_close(d.log_prob(y), torch.stack(alone, 1))
    grid = cls(tau[:, None].expand(3, 3), logits=x)
    y = grid.sample((2,), generator=seeded())
    rows = [cls(tau[i], logits=x).log_prob(y[:, i]) for i in range(3)]
    torch.testing.assert_close(grid.log_prob(y), torch.stack(rows, 1))


def test_each_row_is_drawn_at_its_own_temperature() -> None:
    y = RelaxedOneHotCategorical(torch.tensor([1e-3, 1e3]), logits=torch.zeros(2, 4)).sample((50,), generator=seeded())
    assert y[:, 0].max(-1).values.median() > 0.999
    assert y[:, 1].max() < 0.3


def test_values_broadcast() -> None:
    d = RelaxedBernoulli(0.5, logits=torch.zeros(4, 3))
    assert d.log_prob(torch.full((3,), 0.2)).shape == (4, 3)
    assert d.log_prob(torch.full((2, 4, 1), 0.2)).shape == (2, 4, 3)
    d = RelaxedOneHotCategorical(0.5, logits=torch.zeros(4, 3))
    assert d.log_prob(torch.full((3,), 1 / 3)).shape == (4,)
    assert d.log_prob(torch.full((5, 1, 3), 1 / 3)).shape == (5, 4)


@pytest.mark.parametrize("cls", [*RELAXED, Gumbel])
@pytest.mark.parametrize("validate", [True, False])
def test_expand(cls: type, validate: bool) -> None:
    event = (3,) if cls in CATEGORICAL else ()
    own = {"gamma": -0.2, "zeta": 1.3} if cls is HardConcrete else {}
    d = cls(torch.full((2,), 0.5), torch.full((2, *event), 0.3), validate_args=validate, **own)
    wide = d.expand((4, 2))
    assert type(wide) is cls
    assert wide.batch_shape == (4, 2)
    assert wide.event_shape == event
    assert wide._validate_args is validate
    y = wide.rsample((5,), generator=seeded())
    assert y.shape == (5, 4, 2, *event)
    torch.testing.assert_close(wide.log_prob(y), d.log_prob(y))
    assert wide.expand((7, 4, 2)).sample().shape == (7, 4, 2, *event)
    with pytest.raises(RuntimeError):
        d.expand((3,))


@pytest.mark.parametrize("cls", [*RELAXED, Gumbel])
def test_they_are_torch_distributions(cls: type) -> None:
    d = cls(torch.full((2, 5), 0.5), torch.full((2, 5, 3) if cls in CATEGORICAL else (2, 5), 0.4))
    assert isinstance(d, Distribution)
    assert d.has_rsample
    assert isinstance(d.support, constraints.Constraint)
    assert set(d.arg_constraints) == ({"loc", "scale"} if cls is Gumbel else {"temperature", "probs", "logits"})
    for name, constraint in d.arg_constraints.items():
        assert bool(constraint.check(getattr(d, name)).all())
    assert cls.__name__ in repr(d)
    y = d.sample()
    assert not y.requires_grad
    both = Independent(d, 1)
    assert both.batch_shape == (2,)
    torch.testing.assert_close(both.log_prob(y), d.log_prob(y).sum(-1))
    for other in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert torch.equal(other.log_prob(y), d.log_prob(y))
    assert d.perplexity().shape == (2, 5)


def test_numbers_are_parameters() -> None:
    for cls in BINARY:
        d = cls(1, 0.3)
        assert d.batch_shape == d.sample().shape == ()
        assert d.log_prob(d.sample()).dtype == torch.get_default_dtype()
        assert cls(0.5, logits=t(0.0, 1.0)).temperature.dtype == torch.float64
    assert Gumbel(0, 1).sample((3,)).shape == (3,)
    assert RelaxedBernoulli(torch.tensor([2.2]), torch.tensor([0.1, 0.9])).batch_shape == (2,)


def test_parameters_are_lazy_and_normalised() -> None:
    d = RelaxedOneHotCategorical(0.5, probs=torch.tensor([1.0, 2.0, 0.0, 1.0]))
    torch.testing.assert_close(d.probs, torch.tensor([0.25, 0.5, 0.0, 0.25]))
    assert "logits" not in vars(d)
    torch.testing.assert_close(d.logits.exp(), d.probs)
    assert d.logits is d.logits
    d = RelaxedOneHotCategorical(0.5, logits=torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(d.logits.logsumexp(-1), torch.tensor(0.0))
    torch.testing.assert_close(RelaxedBernoulli(0.5, probs=0.2).logits, torch.tensor(0.25).log())


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("given", ["probs", "logits"])
@pytest.mark.parametrize("cls", RELAXED)
def test_gradients(cls: type, given: str, tau: float) -> None:
    x = torch.rand(2, 3, generator=seeded(), dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    tau_ = (t(tau) if cls not in CATEGORICAL else t(tau, 2 * tau)).requires_grad_()
    if cls in CATEGORICAL:
        value = torch.rand(2, 3, generator=seeded(3), dtype=torch.float64).add(0.1)
        value = value / value.sum(-1, keepdim=True)
    else:
        value = torch.rand(2, 3, generator=seeded(3), dtype=torch.float64).mul(0.8).add(0.1)
    value.requires_grad_()

    def density(value: Tensor, tau: Tensor, x: Tensor) -> Tensor:
        return cls(tau, **{given: x}, validate_args=False).log_prob(value)

    def moments(tau: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        d = cls(tau, **{given: x}, validate_args=False)
        own = [d.mean, d.variance, d.prob_nonzero, d.prob_one] if cls is HardConcrete else []
        return (d.entropy(5, generator=seeded()), *own)

    assert torch.autograd.gradcheck(density, (value, tau_, x))
    assert torch.autograd.gradcheck(moments, (tau_, x))
    if cls in (RelaxedOneHotCategoricalStraightThrough, RelaxedBernoulliStraightThrough):
        return

    def sample(tau: Tensor, x: Tensor) -> Tensor:
        return cls(tau, **{given: x}, validate_args=False).rsample((2,), generator=seeded(4))

    assert torch.autograd.gradcheck(sample, (tau_, x))


def test_gumbel_gradients() -> None:
    loc, scale = t(0.5, -1.0).requires_grad_(), t(0.7, 2.0).requires_grad_()
    value = t(0.1, 3.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, a, b: Gumbel(a, b).log_prob(v), (value, loc, scale))
    assert torch.autograd.gradcheck(lambda a, b: Gumbel(a, b).rsample((3,), generator=seeded()), (loc, scale))
    assert torch.autograd.gradcheck(lambda a, b: kl_divergence(Gumbel(a, b), Gumbel(b, b)), (loc, scale))


def test_the_gradient_of_the_log_density_of_a_sample_is_that_of_the_entropy() -> None:
    """In log space it does not depend on the logits, and on the temperature by -(n - 1) log(tau)."""
    logits = t(0.1, 0.7, -1.0, 0.4).expand(1000, 4).clone().requires_grad_()
    tau = t(0.5).expand(1000).clone().requires_grad_()
    d = ExpRelaxedCategorical(tau, logits=logits)
    d.log_prob(d.rsample(generator=seeded())).sum().backward()
    assert logits.grad.abs().max() < 1e-9  # not only in the mean: the density of a sample is a function of the noise
    torch.testing.assert_close(tau.grad, torch.full_like(tau, 3 / 0.5))


# --- straight-through --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [1e-3, 0.5, 10.0])
def test_straight_through_samples_are_exact_with_the_soft_gradient(dtype: torch.dtype, tau: float) -> None:
    for hard_cls, soft_cls, shape in [
        (RelaxedOneHotCategoricalStraightThrough, RelaxedOneHotCategorical, (5, 7)),
        (RelaxedBernoulliStraightThrough, RelaxedBernoulli, (35,)),
    ]:
        x = torch.randn(shape, generator=seeded()).to(dtype).requires_grad_()
        weights = torch.randn(shape, generator=seeded(1)).to(dtype)
        hard = hard_cls(tau, logits=x, validate_args=True).rsample((20,), generator=seeded(2))
        assert bool(((hard == 0) | (hard == 1)).all())
        if len(shape) == 2:
            assert bool((hard.sum(-1) == 1).all())
        soft = soft_cls(tau, logits=x).rsample((20,), generator=seeded(2))
        a, b = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (hard, soft))
        torch.testing.assert_close(a, b, rtol=2e-2 if dtype.itemsize == 2 else 1e-5, atol=float(b.abs().max()) * 1e-2)


def test_straight_through_log_prob_is_a_function_of_the_value_alone() -> None:
    x = torch.randn(6, 4, generator=seeded(), requires_grad=True)
    d = RelaxedOneHotCategoricalStraightThrough(0.1, logits=x)
    z = d.rsample(generator=seeded())
    expected = torch.log_softmax(x, -1).gather(-1, z.argmax(-1, keepdim=True)).squeeze(-1)
    for same in (z, z.clone(), z.view(6, 4), z.detach(), z + 0, copy.deepcopy(z.detach())):
        torch.testing.assert_close(d.log_prob(same), expected)
    (through_sample,) = torch.autograd.grad(d.log_prob(z).sum(), z, retain_graph=True)
    torch.testing.assert_close(through_sample, torch.log_softmax(x, -1))
    b = RelaxedBernoulliStraightThrough(0.1, logits=x[:, 0])
    z = b.rsample(generator=seeded())
    torch.testing.assert_close(b.log_prob(z.clone()), Bernoulli(logits=x[:, 0]).log_prob(z.detach()))


def test_straight_through_laws_are_discrete() -> None:
    probs = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    d, reference = RelaxedOneHotCategoricalStraightThrough(0.7, probs=probs), OneHotCategorical(probs)
    for name in ("mean", "variance", "mode"):
        torch.testing.assert_close(getattr(d, name), getattr(reference, name))
    torch.testing.assert_close(d.entropy(), reference.entropy(), atol=1e-5, rtol=0)
    assert torch.equal(d.enumerate_support(), reference.enumerate_support())
    torch.testing.assert_close(d.log_prob(d.enumerate_support()).exp().sum(0), torch.ones(2))
    b = RelaxedBernoulliStraightThrough(0.7, probs=torch.tensor([0.2, 0.9]))
    torch.testing.assert_close(b.mean, b.probs)
    assert b.mode.tolist() == [0, 1]
    torch.testing.assert_close(b.entropy(), Bernoulli(b.probs).entropy())
    torch.testing.assert_close(b.log_prob(b.enumerate_support()).exp().sum(0), torch.ones(2))
    uniform = OneHotCategorical(torch.ones(3) / 3)
    torch.testing.assert_close(kl_divergence(d, uniform)[0], kl_divergence(reference, uniform)[0])
    assert bool((kl_divergence(d, d) == 0).all())
    assert kl_divergence(uniform, d)[1] == torch.inf
    coin = Bernoulli(torch.tensor(0.5))
    torch.testing.assert_close(kl_divergence(b, coin), kl_divergence(Bernoulli(b.probs), coin))
    torch.testing.assert_close(kl_divergence(coin, b), kl_divergence(coin, Bernoulli(b.probs)))


@pytest.mark.parametrize("cls", [RelaxedOneHotCategoricalStraightThrough, RelaxedBernoulliStraightThrough])
def test_variational_inference_finds_the_prior(cls: type) -> None:
    """As a guide whose model is the prior alone, fitted by samples of log q - log p through the sample."""
    categorical = cls is RelaxedOneHotCategoricalStraightThrough
    target = torch.tensor([0.25, 0.25, 0.25, 0.25] if categorical else 0.25)
    prior = cls(1.0, probs=target)
    x = (torch.tensor([0.1, 0.2, 0.3, 0.4]) if categorical else torch.tensor(0.6)).logit().requires_grad_()
    optimizer, generator = torch.optim.Adam([x], lr=0.05), seeded()
    for _ in range(200):
        optimizer.zero_grad()
        guide = cls(0.5, logits=x)
        z = guide.rsample((500,), generator=generator)
        (guide.log_prob(z) - prior.log_prob(z)).mean().backward()
        optimizer.step()
    torch.testing.assert_close(cls(0.5, logits=x.detach()).probs, target, atol=0.03, rtol=0)
