"""Antithetic pairs and swaps: unbiased, ARM by its own formula, DisARM below ARM."""

from __future__ import annotations

import pytest
import torch

import argumbel as ag
from argumbel.estimators import arm, arsm, disarm, reinforce_loo
from argumbel.estimators._binary import _swaps

from .problems import Problem, check_unbiased, problem, problems, replicates, total_variance


@pytest.mark.parametrize("p", problems(21, (2,)), ids=lambda p: p.name)
@pytest.mark.parametrize("estimator", [arm, disarm])
def test_unbiased_on_two_items(estimator: object, p: Problem) -> None:
    check_unbiased(estimator, p)


@pytest.mark.parametrize("p", problems(20, (2, 3, 4)), ids=lambda p: p.name)
def test_arsm_is_unbiased(p: Problem) -> None:
    """Each replicate calls f n (n - 1) / 2 + 1 times: 100,000 calls at least."""
    check_unbiased(arsm, p, count=50_000)


def test_arsm_is_unbiased_on_eight_items() -> None:
    check_unbiased(arsm, problem(8, 2, "quadratic"), count=10_000)


def test_unbiased_with_more_samples() -> None:
    p = problem(2, 3, "quadratic", seed=5)
    for estimator in (arm, disarm):
        check_unbiased(estimator, p, num_samples=6, count=40_000)
    check_unbiased(arsm, problem(3, 2, "interaction"), num_samples=3, count=40_000)


@pytest.mark.parametrize("factors", [1, 3])
def test_arm_by_its_own_formula(factors: int) -> None:
    """With u uniform: (f(1[u > sigmoid(-phi)]) - f(1[u < sigmoid(phi)])) (u - 1/2) for the log odds phi."""
    phi = torch.randn(50, factors, dtype=torch.float64, requires_grad=True)
    u = torch.rand(1, 50, factors, dtype=torch.float64)
    f = lambda b: (b * torch.arange(1.0, factors + 1)).sum(-1) ** 2  # noqa: E731
    expected = (f((u > torch.sigmoid(-phi)).double()) - f((u < torch.sigmoid(phi)).double())).unsqueeze(-1) * (u - 0.5)
    gap = torch.log(1 - u) - torch.log(u)  # the difference of the two Gumbels
    noise = torch.stack([torch.zeros_like(gap), gap], -1).expand(2, 50, factors, 2)
    logits = torch.stack([torch.zeros_like(phi), phi], -1)
    loss = arm(lambda z: f(z[..., 1]), logits, noise=noise)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), phi)[0], expected[0])


def test_arsm_of_two_items_is_arm() -> None:
    p = problem(2, 3, "interaction")
    noise = ag.gumbel((1, 100, 3, 2), dtype=torch.float64)
    results = []
    for estimator, samples in ((arm, 2), (arsm, 1)):
        x = p.logits.expand(100, 3, 2).clone().requires_grad_()
        loss = estimator(p.f(p.a), x, num_samples=samples, noise=noise.expand(samples, -1, -1, -1))
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), x)[0]))
    torch.testing.assert_close(*results)


def test_arsm_by_its_own_formula() -> None:
    """Two factors of four items: sum_j (f(z^cj) - mean_m f(z^mj)) (1/n - pi_j), swap by swap."""
    p = problem(4, 2, "interaction")
    noise = ag.gumbel((1, 2, 4), dtype=torch.float64)
    losses = torch.zeros(4, 4, dtype=torch.float64)
    for c in range(4):
        for j in range(4):
            swapped = noise[0].clone()
            swapped[:, [c, j]] = noise[0][:, [j, c]]
            losses[c, j] = p.f(p.a)(torch.nn.functional.one_hot((p.logits + swapped).argmax(-1), 4).double())
    expected = (1 / 4 - torch.softmax(-noise[0], -1)) @ (losses - losses.mean(0)).T
    x = p.logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(arsm(p.f(p.a), x, noise=noise), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "p", [problem(2, f, "quadratic", seed=s) for f in (1, 2, 3) for s in (1, 2)], ids=lambda p: p.name
)
def test_disarm_has_less_variance_than_arm_and_than_leave_one_out(p: Problem) -> None:
    of_disarm, of_arm, of_loo = (total_variance(replicates(e, p, 40_000)[1]) for e in (disarm, arm, reinforce_loo))
    assert of_disarm < of_arm * 1.001
    assert of_disarm < of_loo * 1.001


def test_disarm_is_the_average_of_arm_given_the_outcomes() -> None:
    """Many uniforms, one log odds: among those with the same pair of outcomes DisARM is one number, ARM's mean."""
    x = torch.tensor([0.0, 0.8], dtype=torch.float64).expand(200_000, 2).clone().requires_grad_()
    noise = ag.gumbel((1, 200_000, 2), dtype=torch.float64).expand(2, -1, -1)
    f = lambda z: z @ torch.tensor([1.0, 4.0], dtype=torch.float64)  # noqa: E731
    ours, theirs = (torch.autograd.grad(e(f, x, noise=noise).sum(), x)[0][:, 1] for e in (disarm, arm))
    for value in ours.unique():
        same = theirs[ours == value]
        assert (same.mean() - value).abs() < 5 * same.std() / len(same) ** 0.5 + 1e-12
    assert len(ours.unique()) == 2


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_swaps(n: int) -> None:
    swaps, which = _swaps(n, torch.device("cpu"))
    assert len(swaps) == n * (n - 1) // 2 + 1
    for c in range(n):
        for j in range(n):
            expected = list(range(n))
            expected[c], expected[j] = j, c
            assert swaps[which[c, j]].tolist() == expected


def test_errors() -> None:
    for estimator in (arm, disarm):
        with pytest.raises(ValueError, match="two items"):
            estimator(lambda z: z[..., 0], torch.zeros(3))
        with pytest.raises(ValueError, match="even"):
            estimator(lambda z: z[..., 0], torch.zeros(2), num_samples=3)
