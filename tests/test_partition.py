"""What is Z: estimates against their theory, bounds against enumeration, a spin glass against its transfer matrices."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
from torch import Tensor

import argumbel as ag
from argumbel.partition import Estimate, PerturbAndMAP, log_partition, perturb_and_map

from . import oracles
from .statistics import Z, check_draws, check_mean
from .strategies import DTYPES

METHODS: list[tuple[str, float | None]] = [
    ("gumbel", None),
    ("exponential", None),
    ("weibull", 0.5),
    ("weibull", 1.0),
    ("weibull", 2.0),
    ("frechet", -0.2),
    ("frechet", -0.4),
    ("unbiased-log-z", None),
    ("unbiased-z", None),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maxima(count: int, repeats: int, log_z: float, seed: int = 0) -> Tensor:
    """``(count, repeats)`` of the law of perturbed maxima, straight from its definition."""
    return log_z + ag.gumbel((count, repeats), generator=generator(seed), dtype=torch.float64)


def check_variance(samples: Tensor, variance: float) -> None:
    """The z bound of a variance: that of the squared deviations is taken from the samples, which must be many."""
    squares = (samples.double() - samples.double().mean()).square()
    assert abs(float(squares.mean()) - variance) < Z * float(squares.std()) / math.sqrt(samples.numel())


# --- estimates of log Z ------------------------------------------------------------------------------------------


def theory(method: str, count: int) -> tuple[float, float]:
    """Bias and variance of those methods for which they have a closed form."""
    psi, trigamma = float(scipy.special.digamma(count)), float(scipy.special.polygamma(1, count))
    return {
        "gumbel": (0.0, math.pi**2 / 6 / count),
        "exponential": (math.log(count) - psi, trigamma),
        "unbiased-log-z": (0.0, trigamma),
        "unbiased-z": (math.log(count - 1) - psi, trigamma),
    }[method]


@pytest.mark.parametrize("count", [2, 3, 10, 100, 1000])
@pytest.mark.parametrize("method", ["gumbel", "exponential", "unbiased-log-z", "unbiased-z"])
def test_bias_and_variance_are_those_of_theory(method: str, count: int) -> None:
    repeats, log_z = max(2000, 400_000 // count), 3.7
    value, stderr = log_partition(maxima(count, repeats, log_z), method=method)
    bias, variance = theory(method, count)
    check_mean(value, log_z + bias, variance)
    check_variance(value, variance)
    assert torch.allclose(stderr, torch.tensor(math.sqrt(variance), dtype=torch.float64))


def test_the_unbiased_estimate_of_z_is_unbiased() -> None:
    """Z from three maxima has a finite variance, Z^2 / (M - 2); a tail too heavy for a z bound below M = 30 or so."""
    count, log_z = 40, -2.0
    z = log_partition(maxima(count, 20_000, log_z), method="unbiased-z").value.exp() / math.exp(log_z)
    check_mean(z, 1.0, 1 / (count - 2))
    check_variance(z, 1 / (count - 2))
    biased = log_partition(maxima(count, 20_000, log_z)).value.exp() / math.exp(log_z)
    with pytest.raises(AssertionError):
        check_mean(biased, 1.0, 1 / (count - 2))


@pytest.mark.parametrize("alpha", [-0.45, -0.2, -1e-3, 1e-3, 0.3, 1.0, 2.0, 6.0])
def test_mean_and_variance_of_any_exponent_for_two_maxima(alpha: float) -> None:
    """E_1 and E_2 are a sum S and a share B of it, uniform and independent: one integral each is the exact law."""

    def of_share(b: float) -> float:
        return -math.log((b**alpha + (1 - b) ** alpha) / 2) / alpha

    first, second = (scipy.integrate.quad(lambda b, p=p: of_share(b) ** p, 0, 1, limit=200)[0] for p in (1, 2))
    mean = math.lgamma(1 + alpha) / alpha - float(scipy.special.digamma(2)) + first
    variance = float(scipy.special.polygamma(1, 2)) + second - first**2
    value = log_partition(maxima(2, 400_000, 0.0), method="weibull" if alpha > 0 else "frechet", alpha=alpha).value
    check_mean(value, mean, variance)
    check_variance(value, variance)


@pytest.mark.parametrize("alpha", [-0.2, 0.5, 2.0])
def test_standard_errors_of_any_exponent_for_many_maxima(alpha: float) -> None:
    method = "weibull" if alpha > 0 else "frechet"
    value, stderr = log_partition(maxima(1000, 4000, 1.0), method=method, alpha=alpha)
    ratio = float(value.var() / stderr[0] ** 2)
    assert abs(ratio - 1) < Z * math.sqrt(2 / 4000) + 0.02  # the second order in 1 / M


def test_the_family_is_continuous_in_alpha() -> None:
    m = maxima(50, 20, 5.0)
    gumbel, exponential = log_partition(m, method="gumbel"), log_partition(m)
    for alpha in (1e-4, 1e-6, 1e-8, 1e-12, 1e-300):
        for method, a in (("weibull", alpha), ("frechet", -alpha)):
            near = log_partition(m, method=method, alpha=a)
            assert torch.allclose(near.value, gumbel.value, atol=3 * alpha + 5e-8, rtol=0)
            assert torch.allclose(near.stderr, gumbel.stderr, atol=3 * alpha + 1e-12, rtol=0)
    for alpha in (0.9e-4, 1.1e-4):  # either side of the seam
        exact = math.lgamma(1 + 2 * alpha) - 2 * math.lgamma(1 + alpha)
        stderr = log_partition(m, method="weibull", alpha=alpha).stderr
        assert torch.allclose(stderr, torch.tensor(math.sqrt(math.expm1(exact) / alpha**2 / 50)).double(), rtol=1e-6)
    assert torch.equal(log_partition(m, method="weibull", alpha=1).value, exponential.value)
    assert torch.equal(log_partition(m, method="weibull", alpha=1).stderr, exponential.stderr)
    near = log_partition(m, method="weibull", alpha=1 + 1e-9)
    assert torch.allclose(near.value, exponential.value, atol=1e-7)


def test_no_alpha_has_less_variance_to_first_order_than_one() -> None:
    m = maxima(1000, 1, 0.0)
    best = log_partition(m, method="weibull", alpha=1.0 + 1e-6).stderr
    for alpha in (-0.49, -0.1, 0.3, 0.9, 1.1, 3.0):
        assert (log_partition(m, method="weibull" if alpha > 0 else "frechet", alpha=alpha).stderr > best).all()
    assert log_partition(m, method="weibull", alpha=1e4).stderr.isinf().all()  # overflow says so


@pytest.mark.parametrize(("method", "alpha"), METHODS)
def test_estimates_from_real_maxima(method: str, alpha: float | None) -> None:
    logits = 3 * torch.randn(40, generator=generator())
    m = ag.gumbel_max(logits.expand(20_000, 40), noise=ag.KeyedNoise(2)).values
    value, stderr = log_partition(m, method=method, alpha=alpha)
    assert abs(value - oracles.logsumexp(logits)) < Z * stderr
    assert stderr < 0.02


@pytest.mark.parametrize(("method", "alpha"), METHODS)
def test_far_away_from_zero(method: str, alpha: float | None) -> None:
    near = log_partition(maxima(30, 4, 0.0), method=method, alpha=alpha)
    for shift in (1e4, -1e4):
        far = log_partition(maxima(30, 4, shift), method=method, alpha=alpha)
        assert torch.allclose(far.value - shift, near.value, atol=1e-9)
        assert torch.equal(far.stderr, near.stderr)
        single = log_partition(maxima(30, 4, shift).float(), method=method, alpha=alpha)
        assert torch.allclose(single.value, far.value.float(), rtol=2e-7)
    apart = log_partition(torch.tensor([-1e4, 0.0, 1e4]), method=method, alpha=alpha).value
    assert apart.isfinite()
    if method == "exponential":
        assert torch.isclose(apart, torch.tensor(-1e4 + math.log(3)))


@pytest.mark.parametrize(("method", "alpha"), METHODS)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_any_shape_dim_and_dtype(method: str, alpha: float | None, dim: int) -> None:
    m = torch.randn(3, 4, 5, generator=generator())
    expected = log_partition(m.movedim(dim, 0).double(), method=method, alpha=alpha)
    for dtype in DTYPES:
        value, stderr = log_partition(m.to(dtype), method=method, alpha=alpha, dim=dim)
        assert value.dtype == stderr.dtype == dtype
        assert value.shape == stderr.shape == expected.value.shape
        tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 2 * torch.finfo(dtype).eps}
        rounded = log_partition(m.to(dtype).double().movedim(dim, 0), method=method, alpha=alpha).value
        assert torch.allclose(value.double(), rounded, **tolerance)
        assert torch.allclose(stderr.double(), expected.stderr, **tolerance)
    assert log_partition(torch.zeros(4, 0), method=method, alpha=alpha).value.shape == (0,)
    assert log_partition(torch.zeros(4, 0, 2), method=method, alpha=alpha, dim=2).value.shape == (4, 0)


@pytest.mark.parametrize(("method", "alpha"), METHODS)
def test_gradients(method: str, alpha: float | None) -> None:
    m = torch.randn(4, 3, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: log_partition(x, method=method, alpha=alpha).value, (m,))
    assert torch.autograd.gradgradcheck(lambda x: log_partition(x, method=method, alpha=alpha).value, (m,))
    value, stderr = log_partition(m, method=method, alpha=alpha)
    assert not stderr.requires_grad
    (gradient,) = torch.autograd.grad(value.sum(), m)
    assert torch.allclose(gradient.sum(0), torch.ones(3, dtype=torch.float64))  # a shift of all shifts log Z


def test_the_gradient_of_log_z_is_the_law() -> None:
    """By way of the maxima: the mean of the winners' one-hots, and so the frequencies of the items."""
    logits = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    noise = ag.KeyedNoise(3)
    values, indices = ag.gumbel_max(logits.expand(5000, 3), noise=noise)
    log_partition(values, method="gumbel").value.backward()
    assert torch.allclose(logits.grad, torch.bincount(indices, minlength=3) / 5000)


@pytest.mark.parametrize(("method", "alpha"), METHODS)
def test_compiled_and_mapped(method: str, alpha: float | None) -> None:
    torch._dynamo.reset()
    m = torch.randn(6, 5, generator=generator())
    expected = log_partition(m, method=method, alpha=alpha)
    function = lambda x: log_partition(x, method=method, alpha=alpha)  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for result in (compiled(m), torch.vmap(function, in_dims=1)(m)):
        assert torch.allclose(result.value, expected.value)
        assert torch.allclose(result.stderr, expected.stderr)
    assert torch.allclose(compiled(m[:4]).value, function(m[:4]).value)  # now of dynamic shape
    bad = m.clone()
    bad[0, 1], bad[2, 3] = torch.nan, torch.inf
    for result in (compiled(bad), torch.vmap(function, in_dims=1)(bad)):
        assert result.value.isnan().tolist() == [False, True, False, True, False]
        assert torch.allclose(result.value[::2], expected.value[::2])


@pytest.mark.parametrize(
    ("error", "own", "says"),
    [
        (ValueError, {"method": "gauss"}, "method must be one of 'gumbel', .* but it is 'gauss'"),
        (ValueError, {"method": "weibull"}, "alpha must be a number for method='weibull', but it is None"),
        (ValueError, {"alpha": 1.0}, "alpha must be left out unless .* but method is 'exponential'"),
        (ValueError, {"method": "weibull", "alpha": 0.0}, "alpha must be positive"),
        (ValueError, {"method": "weibull", "alpha": math.nan}, "alpha must be positive"),
        (ValueError, {"method": "weibull", "alpha": math.inf}, "alpha must be positive"),
        (ValueError, {"method": "frechet", "alpha": -0.5}, "alpha must lie between -1/2 and 0"),
        (ValueError, {"method": "frechet", "alpha": 0.0}, "alpha must lie between -1/2 and 0"),
        (TypeError, {"method": "weibull", "alpha": "1"}, "alpha must be a number, but it is a str"),
        (ValueError, {"dim": 2}, r"dim must be in \[-2, 1\] for maxima of shape \(3, 2\)"),
        (ValueError, {"maxima": torch.zeros(0, 2)}, "maxima must number at least 1 along dim 0"),
        (
            ValueError,
            {"maxima": torch.zeros(1, 2), "method": "unbiased-z"},
            "maxima must number at least 2 along dim 0",
        ),
        (ValueError, {"maxima": torch.tensor([0.0, torch.nan])}, "maxima must be finite"),
        (ValueError, {"maxima": torch.tensor([0.0, -torch.inf])}, "maxima must be finite"),
        (TypeError, {"maxima": [0.0]}, "maxima must be a tensor"),
        (TypeError, {"maxima": torch.zeros(3, dtype=torch.int64)}, "maxima must have a floating dtype"),
        (ValueError, {"maxima": torch.tensor(0.0)}, "maxima must have at least one dimension"),
    ],
)
def test_errors_of_estimates(error: type[Exception], own: dict[str, object], says: str) -> None:
    with pytest.raises(error, match=says):
        log_partition(**({"maxima": torch.zeros(3, 2)} | own))


# --- bounds from a MAP solver ------------------------------------------------------------------------------------


class Model:
    """Variables that all interact, small enough to enumerate."""

    def __init__(self, variables: int, states: int, strength: float, seed: int, dtype: torch.dtype = torch.float64):
        g = generator(seed)
        self.every = torch.tensor(list(itertools.product(range(states), repeat=variables)))
        self.unary = torch.randn(variables, states, generator=g, dtype=torch.float64).to(dtype)
        self.rest = strength * torch.randn(len(self.every), generator=g, dtype=torch.float64).to(dtype)
        self.places = states ** torch.arange(variables - 1, -1, -1)
        self.which = torch.arange(variables)

    def score(self, x: Tensor) -> Tensor:
        return self.unary[self.which, x].sum(-1) + self.rest[(x * self.places).sum(-1)]

    def solve(self, unary: Tensor) -> Tensor:
        return self.every[(unary[..., self.which, self.every].sum(-1) + self.rest.to(unary)).argmax(-1)]

    @property
    def log_z(self) -> float:
        return float(self.score(self.every).double().logsumexp(0))


MODELS = [(1, 4, 1.0), (2, 2, 3.0), (3, 3, 1.0), (4, 2, 1.0), (5, 2, 0.2)]


@pytest.mark.parametrize(("variables", "states", "strength"), MODELS)
def test_bounds_hold(variables: int, states: int, strength: float) -> None:
    model = Model(variables, states, strength, seed=variables)
    _, upper, lower = perturb_and_map(model.score, model.solve, model.unary, 20_000, noise=ag.KeyedNoise(1))
    assert lower.value - Z * lower.stderr < model.log_z < upper.value + Z * upper.stderr
    if variables > 1:  # far enough apart for exchanged bounds to be seen
        assert lower.value + Z * lower.stderr < upper.value - Z * upper.stderr


def test_bounds_are_what_they_say() -> None:
    """Both expectations by another road: the maxima of all perturbed scores, enumerated."""
    model = Model(3, 2, 1.0, seed=7)
    noise = ag.gumbel((500, 3, 2), generator=generator(), dtype=torch.float64)
    samples, upper, lower = perturb_and_map(model.score, model.solve, model.unary, 500, noise=noise)
    added = (noise - oracles.EULER)[:, model.which, model.every].sum(-1)
    for bound, scale in ((upper, 1.0), (lower, 1 / 3)):
        values = (model.score(model.every) + scale * added).amax(-1)
        assert torch.isclose(bound.value, values.mean())
        assert torch.isclose(bound.stderr, values.std() / math.sqrt(500))
    assert torch.equal(samples, model.every[(model.score(model.every) + added).argmax(-1)])


def test_one_variable_is_exact() -> None:
    """Then the noise is full: samples are exact, and both bounds are the Gumbel estimate of log Z."""
    model = Model(1, 6, 2.0, seed=0)
    samples, upper, lower = perturb_and_map(model.score, model.solve, model.unary, 20_000, noise=ag.KeyedNoise(5))
    assert torch.equal(upper.value, lower.value)
    assert abs(upper.value - model.log_z) < Z * math.pi / math.sqrt(6 * 20_000)
    check_draws(samples.squeeze(-1), oracles.softmax(model.score(model.every)))


def test_independent_variables_are_sampled_exactly_and_the_upper_bound_is_log_z() -> None:
    model = Model(3, 2, 0.0, seed=4)
    samples, upper, _ = perturb_and_map(model.score, model.solve, model.unary, 20_000, noise=ag.KeyedNoise(6))
    assert abs(upper.value - model.log_z) < Z * math.sqrt(3 * math.pi**2 / 6 / 20_000)
    check_draws((samples * model.places).sum(-1), oracles.softmax(model.score(model.every)))


def test_a_batch_of_models_is_each_of_them() -> None:
    models = [Model(3, 2, 1.0, seed=s) for s in range(4)]
    unary = torch.stack([m.unary for m in models]).reshape(2, 2, 3, 2)
    noise = ag.gumbel((60, 2, 2, 3, 2), generator=generator(), dtype=torch.float64)

    def each(method: str) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.stack(
            [getattr(m, method)(part) for m, part in zip(models, x.flatten(1, 2).unbind(1), strict=True)], 1
        ).unflatten(1, (2, 2))

    samples, upper, lower = perturb_and_map(each("score"), each("solve"), unary, 60, noise=noise)
    for i, model in enumerate(models):
        one = perturb_and_map(model.score, model.solve, model.unary, 60, noise=noise.flatten(1, 2)[:, i])
        assert torch.equal(samples.flatten(1, 2)[:, i], one.samples)
        for batch, single in ((upper, one.upper), (lower, one.lower)):
            assert torch.isclose(batch.value.flatten()[i], single.value)
            assert torch.isclose(batch.stderr.flatten()[i], single.stderr)
    assert upper.value.shape == lower.stderr.shape == (2, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_of_models(dtype: torch.dtype) -> None:
    model = Model(3, 2, 1.0, seed=2, dtype=dtype)
    seen = []

    def solve(unary: Tensor) -> Tensor:
        seen.append(unary.dtype)
        return model.solve(unary).int()  # any integers

    samples, upper, lower = perturb_and_map(model.score, solve, model.unary, 2000, noise=ag.KeyedNoise(1))
    assert seen == 2 * [torch.float64 if dtype == torch.float64 else torch.float32]
    assert samples.dtype == torch.int64
    assert {x.dtype for x in (*upper, *lower)} == {dtype}
    slack = 8 * torch.finfo(dtype).eps
    assert lower.value - Z * lower.stderr - slack < model.log_z < upper.value + Z * upper.stderr + slack


def test_the_gradient_of_the_bound_is_the_mean_of_scores() -> None:
    model = Model(3, 2, 1.0, seed=3)
    model.unary.requires_grad_()
    samples, upper, lower = perturb_and_map(model.score, model.solve, model.unary, 100, noise=ag.KeyedNoise(2))
    (gradient,) = torch.autograd.grad(upper.value, model.unary)
    assert torch.allclose(gradient, torch.nn.functional.one_hot(samples, 2).double().mean(0))
    assert lower.value.requires_grad
    assert not upper.stderr.requires_grad
    # The bound is a maximum for each noise, so the gradient is right although the assignments stand still.
    step = 1e-6 * torch.randn(3, 2, dtype=torch.float64, generator=generator())
    with torch.no_grad():
        model.unary += step
    moved = perturb_and_map(model.score, model.solve, model.unary, 100, noise=ag.KeyedNoise(2)).upper.value
    assert torch.isclose(moved - upper.value, (gradient * step).sum(), rtol=1e-5)


def test_forbidden_states() -> None:
    """A variable with fewer states than the others: -inf in unary, whatever the rest says."""
    model = Model(3, 3, 1.0, seed=5)
    model.unary[1, 2] = -torch.inf
    samples, upper, lower = perturb_and_map(model.score, model.solve, model.unary, 3000, noise=ag.KeyedNoise(2))
    assert (samples[:, 1] < 2).all()
    assert lower.value - Z * lower.stderr < model.log_z < upper.value + Z * upper.stderr


def test_keys_and_generators_of_models() -> None:
    model = Model(3, 2, 1.0, seed=3)
    call = lambda **own: perturb_and_map(model.score, model.solve, model.unary, 50, **own)  # noqa: E731
    noise = ag.KeyedNoise(4).gumbel((50, 3, 2), dtype=torch.float64)
    a, b = call(noise=ag.KeyedNoise(4)), call(noise=noise)
    assert torch.equal(a.samples, b.samples)
    assert torch.equal(a.upper.value, b.upper.value)
    g = generator(1)
    first, second = call(generator=g), call(generator=g)
    assert torch.equal(first.upper.value, call(generator=generator(1)).upper.value)
    assert not torch.equal(first.upper.value, second.upper.value)
    assert isinstance(a, PerturbAndMAP)
    assert isinstance(a.upper, Estimate)
    assert (PerturbAndMAP._fields, Estimate._fields) == (("samples", "upper", "lower"), ("value", "stderr"))
    empty = perturb_and_map(
        lambda x: torch.zeros(x.shape[:-1]), lambda u: u.argmax(-1), torch.zeros(0, 3, 2), 5, generator=g
    )
    assert empty.upper.value.shape == (0,)
    assert empty.samples.shape == (5, 0, 3)


def test_compiled_models() -> None:
    torch._dynamo.reset()
    model = Model(3, 2, 1.0, seed=3)

    def function(unary: Tensor, seed: Tensor) -> PerturbAndMAP:
        return perturb_and_map(model.score, model.solve, unary, 50, noise=ag.KeyedNoise(seed))

    expected = function(model.unary, torch.tensor(4))
    result = torch.compile(function, fullgraph=True, backend="aot_eager")(model.unary, torch.tensor(4))
    assert torch.equal(result.samples, expected.samples)
    for a, b in zip((*result.upper, *result.lower), (*expected.upper, *expected.lower), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize(
    ("error", "own", "says"),
    [
        (TypeError, {"unary": [[0.0]]}, "unary must be a tensor"),
        (ValueError, {"unary": torch.zeros(3)}, r"unary must have the shape \(\*batch, n, states\)"),
        (ValueError, {"unary": torch.zeros(3, 0)}, r"unary must have the shape \(\*batch, n, states\)"),
        (ValueError, {"unary": torch.tensor([[0.0, torch.nan]])}, "unary must not be NaN"),
        (ValueError, {"unary": torch.tensor([[0.0, torch.inf]])}, "unary must not be NaN or .inf"),
        (ValueError, {"unary": torch.full((1, 2), -torch.inf)}, "unary must .* allow at least one state"),
        (ValueError, {"num_samples": 1}, "num_samples must be at least 2"),
        (TypeError, {"num_samples": 2.0}, "num_samples must be an integer, but it is a float"),
        (ValueError, {"noise": torch.zeros(4, 2)}, r"noise must have the shape \(5, 4, 2\)"),
        (ValueError, {"noise": ag.KeyedNoise(0), "generator": generator()}, "both are given"),
        (TypeError, {"solver": lambda u: u.amax(-1)}, "solver must return a tensor of integers"),
        (TypeError, {"solver": lambda u: u.argmax(-1).tolist()}, "solver must return a tensor of integers.*list"),
        (ValueError, {"solver": lambda u: u.argmax(-1)[0]}, r"solver must return assignments of shape \(5, 4\)"),
        (ValueError, {"solver": lambda u: u.argmax(-1) + 1}, "solver must return states between 0 and 1"),
        (ValueError, {"solver": lambda u: u.argmax(-1) - 1}, "solver must return states between 0 and 1"),
        (TypeError, {"score": lambda x: x.sum(-1)}, "score must return a floating tensor, but it returned torch.int64"),
        (ValueError, {"score": lambda x: x.float()}, r"score must return one number .* \(5,\)"),
        (ValueError, {"score": lambda x: torch.full(x.shape[:1], -torch.inf)}, "score must be finite"),
        (
            ValueError,
            {"unary": torch.tensor([[0.0, -torch.inf]]), "solver": lambda u: torch.ones(5, 1, dtype=torch.int64)},
            "solver must return allowed assignments",
        ),
    ],
)
def test_errors_of_bounds(error: type[Exception], own: dict[str, object], says: str) -> None:
    arguments = {
        "score": lambda x: x.sum(-1).float(),
        "solver": lambda u: u.argmax(-1),
        "unary": torch.zeros(4, 2),
        "num_samples": 5,
    }
    with pytest.raises(error, match=says):
        perturb_and_map(**(arguments | own))


# --- the spin glass of the documentation -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glass() -> ModuleType:
    path = Path(__file__).parent.parent / "docs" / "spin_glass.py"
    spec = importlib.util.spec_from_file_location("spin_glass", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (5, 1), (3, 4), (4, 3)])
def test_the_glass_is_solved_exactly(glass: ModuleType, rows: int, columns: int) -> None:
    model, sites = glass.random_glass(rows, columns, coupling=2.0, seed=rows), rows * columns
    every = torch.tensor(list(itertools.product([0, 1], repeat=sites)))
    scores = glass.score(model, every).double()
    log_z, marginals = glass.log_partition_and_marginals(model)
    assert torch.isclose(log_z, scores.logsumexp(0), rtol=1e-6)
    expected = (scores.softmax(0)[:, None] * every).sum(0).reshape(rows, columns)
    assert torch.allclose(marginals, expected, atol=1e-6)
    noise = ag.gumbel((30, sites, 2), generator=generator(), dtype=torch.float64)
    best = every[(scores + noise[:, torch.arange(sites), every].sum(-1)).argmax(-1)]
    assert torch.equal(glass.solve(model, glass.unary(model) + noise), best)


def test_bounds_of_a_glass_of_a_hundred_sites(glass: ModuleType) -> None:
    model = glass.random_glass(10, 10, coupling=2.0)
    log_z, marginals = glass.log_partition_and_marginals(model)
    samples, upper, lower = perturb_and_map(
        lambda x: glass.score(model, x),
        lambda u: glass.solve(model, u),
        glass.unary(model),
        100,
        noise=ag.KeyedNoise(0),
    )
    assert lower.value + Z * lower.stderr < log_z < upper.value + Z * upper.stderr
    shares = samples.double().mean(0).reshape(10, 10)
    assert np.corrcoef(shares.flatten(), marginals.flatten())[0, 1] > 0.9
