"""Without replacement: the beam search, the weights, unbiasedness, and less variance at low entropy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.estimators import exact, reinforce_loo, sum_and_sample, unordered_set
from argumbel.estimators._without_replacement import _came_first, beam

from . import oracles
from .problems import Problem, check_equal_means, check_unbiased, problem, problems, replicates, total_variance
from .statistics import check_counts

# --- the beam search ---------------------------------------------------------------------------------------------


def joint(log_p: Tensor) -> dict[tuple[int, ...], float]:
    factors, n = log_p.shape
    return {o: float(log_p[range(factors), o].sum()) for o in itertools.product(range(n), repeat=factors)}


@pytest.mark.parametrize(
    ("factors", "n", "size"), [(1, 5, 3), (2, 3, 4), (3, 3, 10), (4, 2, 16), (3, 2, 20), (2, 1, 3)]
)
def test_the_likeliest_outcomes(factors: int, n: int, size: int) -> None:
    log_p = torch.randn(factors, n, dtype=torch.float64).log_softmax(-1)
    outcomes, mass = beam(log_p, size)
    law = joint(log_p)
    expected = sorted(law, key=law.__getitem__, reverse=True)[:size]
    assert [tuple(o) for o in outcomes.tolist()] == expected
    torch.testing.assert_close(mass, torch.tensor([law[o] for o in expected], dtype=torch.float64))


def test_a_beam_on_noise_draws_without_replacement() -> None:
    """The first two of nine joint outcomes, in order: the Plackett-Luce law over the product."""
    log_p = torch.tensor([[0.5, -0.5, 0.3], [1.0, 0.0, -1.0]], dtype=torch.float64).log_softmax(-1)
    rows = 40_000
    outcomes, _ = beam(log_p.expand(rows, 2, 3), 2, ag.gumbel((rows, 2, 2, 3), dtype=torch.float64))
    law = oracles.plackett_luce((log_p[0].unsqueeze(-1) + log_p[1]).flatten(), 2)
    code = outcomes[..., 0] * 3 + outcomes[..., 1]
    pairs = torch.bincount(code[:, 0] * 9 + code[:, 1], minlength=81)
    check_counts(pairs, [law.get((i, j), 0.0) for i in range(9) for j in range(9)])


def test_a_beam_never_ends_where_it_may_not() -> None:
    x = torch.tensor([[0.0, -torch.inf, 1.0], [-torch.inf, 0.0, -torch.inf]], dtype=torch.float64)
    for gumbel in (None, ag.gumbel((5, 2, 3), dtype=torch.float64)):
        outcomes, mass = beam(x.log_softmax(-1), 5, gumbel)
        assert sorted(outcomes[mass > -torch.inf].tolist()) == [[0, 1], [2, 1]]


# --- the weights -------------------------------------------------------------------------------------------------


def set_probability(p: list[float], chosen: tuple[int, ...], rest: float) -> float:
    """That the chosen race ahead of a rest of that mass, by all their orders; no subtraction."""
    total = 0.0
    for order in itertools.permutations(chosen):
        term = 1.0
        for i, s in enumerate(order):
            term *= p[s] / (rest + math.fsum(p[t] for t in order[i:]))
        total += term
    return total


@pytest.mark.parametrize(("k", "n"), [(2, 3), (2, 9), (3, 5), (4, 6), (5, 9)])
@pytest.mark.parametrize("scale", [0.3, 2.0, 5.0])
def test_weights_are_ratios_of_set_probabilities(k: int, n: int, scale: float) -> None:
    log_p = (scale * torch.randn(n, dtype=torch.float64)).log_softmax(-1)
    p = log_p.exp().tolist()
    rest, everything = math.fsum(p[k:]), tuple(range(k))
    first, second = _came_first(log_p[:k])
    for s in everything:
        without = tuple(t for t in everything if t != s)
        expected = p[s] * set_probability(p, without, rest) / set_probability(p, everything, rest)
        assert abs(first[s] - expected) < 1e-8 * expected
        for t in without:
            fewer = tuple(u for u in without if u != t)
            expected = p[t] * set_probability(p, fewer, rest) / set_probability(p, without, rest)
            assert abs(second[s, t] - expected) < 1e-8 * expected
        assert second[s, s] == log_p[s].exp()


@pytest.mark.parametrize("k", [2, 4, 30, 200])
def test_weights_sum_to_one(k: int) -> None:
    for scale in (0.0, 3.0, 100.0):
        log_p = (scale * torch.randn(20, 2 * k, dtype=torch.float64)).log_softmax(-1)
        log_p[0, 1] = -torch.inf
        first, second = _came_first(log_p[:, :k])
        torch.testing.assert_close(first.sum(-1), torch.ones(20, dtype=torch.float64))
        assert first.isfinite().all()
        assert second.isfinite().all()
        assert first[0, 1] == 0


def test_a_set_that_is_the_whole_space_is_exact() -> None:
    p = problem(3, 2, "interaction")
    value, gradient, of_a = p.exact()
    for estimator in (sum_and_sample, unordered_set):
        for size in (9, 12):
            v, x, a = replicates(estimator, p, 3, num_samples=size)
            torch.testing.assert_close(v, value.expand(3))
            torch.testing.assert_close(x, gradient.expand_as(x))
            torch.testing.assert_close(a, of_a.expand_as(a))


# --- unbiased ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", problems(), ids=lambda p: p.name)
def test_sum_and_sample_is_unbiased(p: Problem) -> None:
    check_unbiased(sum_and_sample, p, num_samples=3, count=40_000)  # 120,000 outcomes


@pytest.mark.parametrize("p", problems(), ids=lambda p: p.name)
def test_unordered_set_is_unbiased(p: Problem) -> None:
    check_unbiased(unordered_set, p, count=50_000)  # 100,000 outcomes


def test_unbiased_with_more_samples_and_a_baseline() -> None:
    p = problem(3, 2, "quadratic", seed=3)
    check_unbiased(unordered_set, p, num_samples=5, count=10_000)
    check_unbiased(sum_and_sample, p, num_samples=2, count=40_000, baseline=2.0)


# --- variance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4])
def test_less_variance_than_leave_one_out_at_low_entropy(k: int) -> None:
    for seed in (0, 1, 2):
        p = problem(5, 1, "quadratic", seed=seed, scale=3.0)
        loo = total_variance(replicates(reinforce_loo, p, 10_000, num_samples=k)[1])
        assert total_variance(replicates(unordered_set, p, 10_000, num_samples=k)[1]) < 0.8 * loo


def test_no_outcome_is_evaluated_twice() -> None:
    seen: list[Tensor] = []
    x = 3 * torch.randn(50, 3, 4)
    for estimator in (sum_and_sample, unordered_set):
        estimator(lambda z: seen.append(z.argmax(-1)) or z.sum((-2, -1)), x, num_samples=6, factors=1)
        for row in seen.pop().movedim(0, 1):
            assert len(row.unique(dim=0)) == 6


def test_exact_is_the_oracle_of_joint_draws() -> None:
    """Twenty factors of ten items, as in a VAE: no enumeration, finite, and right on average for a linear loss."""
    x = torch.randn(20, 10, dtype=torch.float64)
    a = torch.randn(20, 10, dtype=torch.float64)
    xs = x.expand(2000, 20, 10).clone().requires_grad_()
    loss = unordered_set(lambda z: (a * z).sum((-2, -1)), xs, num_samples=4)
    one = x.clone().requires_grad_()
    rows = exact(lambda z: (a * z).sum(-1), one)  # linear: each factor by itself
    check_equal_means(loss.detach(), rows.sum().detach())
    check_equal_means(torch.autograd.grad(loss.sum(), xs)[0], torch.autograd.grad(rows.sum(), one)[0])
