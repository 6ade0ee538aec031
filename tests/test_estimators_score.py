"""Score-function estimators: unbiased, of the variance they promise, and exact enumeration, which they are held to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import argumbel as ag
from argumbel.estimators import exact, reinforce, reinforce_loo, stratified, vimco
from argumbel.estimators._score_function import inverse_cdf, uniform

from . import oracles
from .problems import CHUNK, Problem, check_equal_means, check_unbiased, problem, problems, replicates, total_variance
from .statistics import check_cdf, check_draws, check_independent

PROBLEMS = pytest.mark.parametrize("p", problems(), ids=lambda p: p.name)


# --- exact -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", problems(9, (2, 3)), ids=lambda p: p.name)
def test_exact_is_the_sum_over_all_outcomes(p: Problem) -> None:
    """By a plain loop, and its gradients by finite differences."""
    weights, (factors, n) = torch.softmax(p.logits, -1), p.logits.shape
    expected = 0.0
    for outcome in itertools.product(range(n), repeat=factors):
        z = torch.nn.functional.one_hot(torch.tensor(outcome), n).double()
        expected += float(weights[range(factors), outcome].prod() * p.loss(z[None], p.a)[0])
    assert abs(float(exact(p.f(p.a), p.logits)) - expected) < 1e-12
    inputs = (p.logits.clone().requires_grad_(), p.a.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, a: exact(p.f(a), x), inputs)


def test_exact_in_batches_with_factors_given_or_asked_for() -> None:
    x = torch.randn(3, 2, 2, 3, dtype=torch.float64)
    f = lambda z: (z * torch.arange(3.0)).sum((-3, -2, -1)) ** 2  # noqa: E731
    rows = torch.stack([exact(f, row) for row in x])
    torch.testing.assert_close(exact(f, x), rows)
    torch.testing.assert_close(exact(f, x, factors=2), rows)
    calls = []
    exact(lambda z: calls.append(len(z)) or f(z), x, factors=2)
    assert calls == [3**4]


def test_exact_has_no_noise_and_no_bias_where_f_is_infinite_at_what_is_forbidden() -> None:
    x = torch.tensor([0.0, 1.0, -torch.inf], requires_grad=True)
    loss = exact(lambda z: torch.where(z[..., 2] > 0, torch.inf, z[..., 1]), x)
    loss.backward()
    p = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(loss.detach(), p)
    torch.testing.assert_close(x.grad, torch.stack([-p * (1 - p), p * (1 - p), torch.tensor(0.0)]))


def test_exact_refuses_what_it_cannot_list() -> None:
    with pytest.raises(ValueError, match=r"10\*\*30"):
        exact(lambda z: z.sum((-2, -1)), torch.zeros(30, 10))
    for bad, error in ((-1, ValueError), (3, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="factors"):
            exact(lambda z: z.sum((-2, -1)), torch.zeros(2, 3), factors=bad)


# --- unbiased ----------------------------------------------------------------------------------------------------


@PROBLEMS
@pytest.mark.parametrize(
    "estimator",
    [partial(reinforce, baseline=0.7), reinforce_loo, stratified, partial(stratified, method="antithetic")],
    ids=["reinforce", "reinforce_loo", "systematic", "antithetic"],
)
def test_unbiased(estimator: Callable[..., Tensor], p: Problem) -> None:
    check_unbiased(estimator, p)


def test_unbiased_for_more_samples_and_every_kind_of_baseline() -> None:
    p = problem(4, 2, "interaction")
    check_unbiased(reinforce, p, num_samples=3, count=40_000)
    check_unbiased(reinforce_loo, p, num_samples=5, count=40_000)
    check_unbiased(stratified, p, num_samples=5, count=40_000, baseline=p.exact()[0])
    check_unbiased(reinforce, p, count=40_000, baseline=torch.linspace(-1, 1, CHUNK))
    check_unbiased(reinforce, p, count=40_000, baseline=lambda x: x.logsumexp(-1).sum(-1))


def test_a_wrong_estimator_would_be_found() -> None:
    """The check itself: stratified samples with the mean of the others as the baseline are biased, though little."""
    p = problem(3, 1, "quadratic")

    def wrong(f: Callable[[Tensor], Tensor], x: Tensor, **own: object) -> Tensor:
        means: list[Tensor] = []
        stratified(lambda z: means.append(f(z)) or means[0], x, noise=(noise := ag.gumbel((2, *x.shape))))
        return stratified(f, x, noise=noise, baseline=means[0].detach().flip(0))

    with pytest.raises(AssertionError):
        check_unbiased(wrong, p)


def test_f_may_be_a_black_box() -> None:
    x = torch.zeros(200, 3, requires_grad=True)
    for estimator in (reinforce, reinforce_loo, stratified):
        loss = estimator(lambda z: torch.from_numpy(z.argmax(-1).numpy() * 1.0), x, num_samples=2)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert gradient.mean(0)[0] < 0 < gradient.mean(0)[2]


# --- the estimate itself -----------------------------------------------------------------------------------------


def test_gradients_by_hand() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    z = torch.nn.functional.one_hot((x + noise).argmax(-1), 4).double()
    f = lambda z: (z * torch.arange(12.0).reshape(3, 4)).sum((-2, -1)) ** 2  # noqa: E731
    direction = z - torch.softmax(x, -1).detach()  # grad log p(z)
    losses = f(z)
    others = (losses.sum(0) - losses) / 4
    for estimator, baseline in ((partial(reinforce, baseline=3.0), 3.0), (reinforce_loo, others)):
        loss = estimator(f, x, num_samples=5, noise=noise)
        torch.testing.assert_close(loss.detach(), losses.mean(0))
        expected = ((losses - baseline)[..., None, None] * direction).mean(0)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0], expected)


def test_baselines_get_no_gradient_and_must_fit() -> None:
    x, b = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, requires_grad=True)
    f = lambda z: z[..., 0]  # noqa: E731
    loss = reinforce(f, x, baseline=b).sum() + reinforce(f, x, baseline=lambda x: b + x.sum(-1)).sum()
    assert torch.autograd.grad(loss, b, allow_unused=True) == (None,)
    for bad in (torch.zeros(2), torch.zeros(1, 1, 3), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="baseline must broadcast"):
            reinforce(f, x, baseline=bad)


# --- variance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "p", [problem(4, f, "quadratic", seed=s) for f in (1, 2, 3) for s in (1, 2)], ids=lambda p: p.name
)
def test_leave_one_out_has_less_variance_than_no_baseline(p: Problem) -> None:
    plain, loo = (replicates(e, p, 20_000, num_samples=4)[1] for e in (reinforce, reinforce_loo))
    assert total_variance(loo) < 0.9 * total_variance(plain)


@pytest.mark.parametrize(("method", "items"), [("systematic", 4), ("systematic", 8), ("antithetic", 4)])
def test_stratified_samples_have_less_variance_than_independent_ones(method: str, items: int) -> None:
    p = problem(items, 1, "linear")
    plain = total_variance(replicates(reinforce, p, 20_000, num_samples=4)[1])
    assert total_variance(replicates(stratified, p, 20_000, num_samples=4, method=method)[1]) < 0.8 * plain


def test_more_samples_divide_the_variance() -> None:
    p = problem(3, 2, "quadratic")
    one, eight = (total_variance(replicates(reinforce, p, 40_000, num_samples=m)[1]) for m in (1, 8))
    assert abs(one / eight - 8) < 0.6


# --- stratified samples ------------------------------------------------------------------------------------------


def test_uniforms_of_gumbel_noise() -> None:
    u = uniform(ag.gumbel((50_000,), generator=torch.Generator().manual_seed(0)))
    check_cdf(u, lambda v: v)
    assert uniform(torch.tensor(40.0)) > 1 - 1e-15


def test_inverse_cdf_never_meets_what_is_forbidden() -> None:
    x = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    u = torch.tensor([0.0, 1e-300, 0.5, 1.0], dtype=torch.float64)
    assert inverse_cdf(x, u).tolist() == [1, 1, 3, 3]
    edges = torch.softmax(x.double(), -1).cumsum(-1)[1:2]
    assert inverse_cdf(x, torch.cat([edges * (1 - 1e-15), edges])).tolist() == [1, 3]


@pytest.mark.parametrize("method", ["systematic", "antithetic"])
def test_each_stratified_sample_has_the_law(method: str) -> None:
    x = torch.tensor([[0.3, -0.5, 1.0], [0.0, 1.0, -torch.inf]])
    seen: list[Tensor] = []
    f = lambda z: seen.append(z.argmax(-1)) or z.sum((-2, -1))  # noqa: E731
    stratified(f, x.expand(20_000, 2, 3), num_samples=4, method=method)
    p = [oracles.softmax(row) for row in x]
    for sample in seen[0]:
        for factor in (0, 1):
            check_draws(sample[:, factor], p[factor])
        check_independent(sample[:, 0], sample[:, 1], p[0], p[1])


def test_systematic_samples_hit_every_stratum() -> None:
    """Of m samples an item of probability p gets m p, rounded one way or the other."""
    x = torch.randn(500, 6)
    counts: list[Tensor] = []
    stratified(lambda z: counts.append(z.sum(0)) or z.sum(-1), x, num_samples=7)
    assert ((counts[0] - 7 * torch.softmax(x, -1)).abs() < 1 + 1e-5).all()


def test_stratified_errors() -> None:
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="method must be"):
        stratified(lambda z: z[..., 0], x, method="lattice")
    with pytest.raises(ValueError, match="even"):
        stratified(lambda z: z[..., 0], x, method="antithetic", num_samples=3)


# --- VIMCO -------------------------------------------------------------------------------------------------------


def bound_problem(samples: int, items: int, factors: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(factors, items, generator=g, dtype=torch.float64) for _ in range(2))


def log_weights(z: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """A joint in which the factors meet, over q; both gradients matter."""
    log_q = (torch.where(z > 0, x.log_softmax(-1), 0)).sum((-2, -1))
    return (a * z).sum((-2, -1)).sin() + (a * z).sum(-1).prod(-1) - log_q


@pytest.mark.parametrize(
    ("samples", "items", "factors"), [(2, 2, 1), (2, 3, 1), (3, 3, 1), (5, 2, 1), (2, 3, 2), (3, 2, 2)]
)
def test_vimco_is_unbiased_for_the_bound(samples: int, items: int, factors: int) -> None:
    """The oracle enumerates all tuples of samples, as factors of one choice."""
    x, a = (v.requires_grad_() for v in bound_problem(samples, items, factors, seed=samples))

    def bound(z: Tensor) -> Tensor:  # (outcomes, samples, factors, items)
        return log_weights(z, x, a).logsumexp(-1) - torch.log(torch.tensor(float(samples)))

    value = exact(bound, x.expand(samples, factors, items), factors=2)
    expected = (value.detach(), *torch.autograd.grad(value, (x, a)))
    count = 100_000
    xs, as_ = (v.detach().expand(count, factors, items).clone().requires_grad_() for v in (x, a))
    bounds = vimco(lambda z: log_weights(z, xs, as_), xs, num_samples=samples)
    drawn = (bounds.detach(), *torch.autograd.grad(bounds.sum(), (xs, as_)))
    for sample, mean in zip(drawn, expected, strict=True):
        check_equal_means(sample, mean)


def test_vimco_of_a_perfect_proposal_has_no_variance() -> None:
    """q is the posterior: all weights are p(x), the bound is tight, its gradient zero."""
    log_joint = torch.tensor([0.1, 0.3, 0.2]).log()
    x = log_joint.clone().expand(50, 3).requires_grad_()
    loss = vimco(lambda z: (z * (log_joint - x.log_softmax(-1))).sum(-1), x, num_samples=3)
    torch.testing.assert_close(loss.detach(), torch.tensor(0.6).log().expand(50))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    # The learning signal is zero; what is left is the gradient of -log q, of which the mean is zero.
    assert gradient.mean(0).abs().max() < 0.3


def test_vimco_with_weights_of_zero() -> None:
    """All weights but one are zero: the others' mean is -inf, and no gradient is NaN."""
    x = torch.zeros(100, 3, requires_grad=True)
    loss = vimco(lambda z: torch.where(z[..., 0] > 0, 0.5, -torch.inf), x, num_samples=3)
    (gradient,) = torch.autograd.grad(loss[loss > -torch.inf].sum(), x)
    assert gradient.isfinite().all()
    assert (loss == -torch.inf).any()


def test_vimco_needs_two() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        vimco(lambda z: z[..., 0], torch.zeros(3), num_samples=1)


def baselines(log_w: Tensor) -> Tensor:
    """``L_s``: the bound with log w_s replaced by the mean of the other log weights, one s after another."""
    without = []
    for s in range(len(log_w)):
        others = torch.cat([log_w[:s], log_w[s + 1 :]])
        without.append(torch.cat([others, others.mean(0, keepdim=True)]).logsumexp(0) - math.log(len(log_w)))
    return torch.stack(without)


@pytest.mark.parametrize("samples", [2, 3, 50])
@pytest.mark.parametrize("kind", ["ordinary", "far apart", "some zero", "one not zero"])
def test_vimco_replaces_each_weight_by_the_mean_of_the_others(samples: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(samples)
    log_w = torch.randn(samples, 4, dtype=torch.float64, generator=generator)
    if kind == "far apart":
        log_w = log_w * 1000
    elif kind == "some zero":
        log_w = log_w.masked_fill(torch.rand(samples, 4, generator=generator) < 0.3, -torch.inf)
        log_w[0, :2] = 0.5
    elif kind == "one not zero":
        log_w[1:] = -torch.inf
    index = torch.randint(3, (samples, 4), generator=generator)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    noise = 1e3 * torch.nn.functional.one_hot(index, 3).double()  # decides the samples
    bound = vimco(lambda z: log_w, x, num_samples=samples, noise=noise)
    torch.testing.assert_close(bound, log_w.logsumexp(0) - math.log(samples))
    (slope,) = torch.autograd.grad(bound.sum(), x)
    without = baselines(log_w)
    advantage = bound.detach() - without.masked_fill(without == -torch.inf, 0)
    scores = torch.nn.functional.one_hot(index, 3) - x.detach().softmax(-1)
    expected = (advantage.masked_fill(bound.detach() == -torch.inf, 0).unsqueeze(-1) * scores).sum(0)
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-9)


def test_vimco_makes_nothing_of_the_size_of_the_square() -> None:
    samples, batch, largest = 1000, 3, 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for y in out if isinstance(out, (tuple, list)) else (out,):
                largest = max(largest, y.numel() if isinstance(y, Tensor) else 0)
            return out

    x = torch.zeros(batch, 4, requires_grad=True)
    with Watch():
        vimco(lambda z: z[..., 0], x, num_samples=samples).sum().backward()
    assert largest <= samples * batch * 4
