"""Relaxed estimators: their own expectations, by enumeration and by quadrature, and where these are exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.estimators import (
    decoupled_straight_through,
    gapped_straight_through,
    gumbel_rao,
    gumbel_softmax,
    gumbel_straight_through,
    reinmax,
    softmax_straight_through,
    subset_reinforce,
    subset_straight_through,
)

from .problems import Problem, check_equal_means, problem, problems, replicates, total_variance

THROUGH: dict[str, Callable[..., Tensor]] = {
    "softmax": softmax_straight_through,
    "gumbel": gumbel_straight_through,
    "gumbel-rao": gumbel_rao,
    "reinmax": reinmax,
    "gapped": gapped_straight_through,
    "decoupled": decoupled_straight_through,
}
OWN: dict[str, dict[str, float]] = {
    "gumbel-rao": {"num_conditional": 3},
    "gapped": {"gap": 0.5},
    "decoupled": {"temperature": 2.0},
}


def jacobian(p: np.ndarray) -> np.ndarray:
    return np.diag(p) - np.outer(p, p)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def mean_by_enumeration(name: str, p: Problem, tau: float) -> Tensor:
    """The mean gradient of an estimator whose gradient is a function of the draw: a sum over all joint draws of what
    the equation says of each factor, with the slope of the loss at that draw."""
    factors, n = p.logits.shape
    logits = p.logits.numpy()
    drawn_from = [softmax(x / OWN["decoupled"]["temperature"] if name == "decoupled" else x) for x in logits]
    mean = np.zeros((factors, n))
    for outcome in itertools.product(range(n), repeat=factors):
        z = torch.eye(n, dtype=torch.float64)[list(outcome)].requires_grad_()
        (slope,) = torch.autograd.grad(p.loss(z, p.a), z)
        weight = np.prod([q[i] for q, i in zip(drawn_from, outcome, strict=True)])
        for j, i in enumerate(outcome):
            x = logits[j]
            if name == "reinmax":
                matrix = 2 * jacobian((np.eye(n)[i] + softmax(x / tau)) / 2) - jacobian(softmax(x)) / 2
            else:
                if name == "gapped":
                    x = np.where(np.arange(n) == i, x.max(), np.minimum(x, x.max() - OWN["gapped"]["gap"]))
                matrix = jacobian(softmax(x / tau)) / tau
            mean[j] += weight * matrix @ slope[j].numpy()
    return torch.from_numpy(mean)


def two_items(p: Problem, tau: float, soft: bool) -> Tensor:
    """The mean gradient of (straight-through) Gumbel-softmax for one factor of two items, by quadrature.

    The relaxed sample is ``(1 - y, y)`` with ``y = sigmoid((x_1 - x_0 + difference) / tau)``. The unit interval of the
    difference's distribution function is cut where the winner changes, for there the slope of the loss jumps.
    """
    (x,) = p.logits
    gap = float(x[1] - x[0])
    cut = 1 / (1 + np.exp(gap))  # below it item 0 wins
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(200))
    total = 0.0
    for low, high in ((0.0, cut), (cut, 1.0)):
        u = low + (high - low) * (nodes + 1) / 2
        y = torch.sigmoid((gap + torch.logit(u)) / tau)
        z = torch.stack([1 - y, y], -1) if soft else torch.eye(2, dtype=torch.float64)[int(low > 0)].expand(200, 2)
        z = z.unsqueeze(1).requires_grad_()
        (slope,) = torch.autograd.grad(p.loss(z, p.a).sum(), z)
        total += ((slope[:, 0, 1] - slope[:, 0, 0]) * y * (1 - y) / tau * weights).sum() * (high - low) / 2
    return torch.stack([-total, total]).unsqueeze(0)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["softmax", "reinmax", "gapped", "decoupled"])
def test_expectation_by_enumeration(name: str, tau: float) -> None:
    for p in (
        problem(2, 1, "quadratic", 1),
        problem(3, 1, "interaction", 2),
        problem(3, 2, "interaction", 3),
        problem(5, 1, "linear", 4),
        problem(4, 3, "quadratic", 5),
    ):
        own = OWN.get(name, {})
        _, gradients, _ = replicates(THROUGH[name], p, 30_000, tau=tau, **own)
        check_equal_means(gradients, mean_by_enumeration(name, p, tau))


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("loss", ["linear", "quadratic", "interaction"])
def test_expectation_by_quadrature(loss: str, tau: float) -> None:
    p = problem(2, 1, loss, 6)
    for est in (gumbel_straight_through, gumbel_rao):
        check_equal_means(replicates(est, p, 100_000, tau=tau)[1], two_items(p, tau, soft=False))
    check_equal_means(replicates(gumbel_softmax, p, 100_000, tau=tau)[1], two_items(p, tau, soft=True))


@pytest.mark.parametrize("p", problems(9), ids=lambda p: p.name)
@pytest.mark.parametrize("name", THROUGH)
def test_value_and_parameters_are_those_of_discrete_samples(name: str, p: Problem) -> None:
    """The value has the exact mean, and so has the gradient of parameters; of the tempered law for decoupled."""
    own = OWN.get(name, {})
    values, _, of_a = replicates(THROUGH[name], p, 20_000, **own)
    if name == "decoupled":
        p = Problem(p.name, p.logits / own["temperature"], p.a, p.loss)
    mean, _, mean_of_a = p.exact()
    check_equal_means(values, mean)
    check_equal_means(of_a, mean_of_a)


@pytest.mark.parametrize("factors", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "loss", "is_exact"),
    [
        ("softmax", "linear", True),
        ("softmax", "quadratic", False),
        ("reinmax", "linear", True),
        ("reinmax", "quadratic", True),
        ("reinmax", "interaction", False),
        ("gapped", "linear", False),
    ],
)
def test_where_the_expectation_is_the_exact_gradient(name: str, loss: str, is_exact: bool, factors: int) -> None:
    p = problem(4, factors, loss, 3)
    assert torch.allclose(mean_by_enumeration(name, p, 1.0), p.exact()[1], rtol=1e-9, atol=1e-12) == is_exact


def test_bias_falls_and_variance_grows_as_tau_falls() -> None:
    p = problem(2, 1, "interaction", 6)
    truth = p.exact()[1]
    bias = [float((two_items(p, tau, soft=True) - truth).norm()) for tau in (2.0, 0.5, 0.1)]
    assert bias[0] > bias[1] > bias[2] > 0
    variance = [total_variance(replicates(gumbel_softmax, p, 10_000, tau=tau)[1]) for tau in (2.0, 0.5, 0.1)]
    assert 4 * variance[0] < 2 * variance[1] < variance[2]


@pytest.mark.parametrize("p", problems(6), ids=lambda p: p.name)
def test_variance_falls_with_conditional_draws(p: Problem) -> None:
    plain = total_variance(replicates(gumbel_straight_through, p, 10_000, tau=0.5)[1])
    few, many = (total_variance(replicates(gumbel_rao, p, 10_000, tau=0.5, num_conditional=k)[1]) for k in (4, 32))
    assert plain > few > many


@pytest.mark.parametrize("name", THROUGH)
def test_they_are_calls_of_straight_through(name: str) -> None:
    """The estimate is what the sample-level function gives, under the same noise."""
    x, cost = torch.randn(5, 2, 4, requires_grad=True), torch.randn(4)
    noise = ag.gumbel((3, 5, 2, 4), generator=torch.Generator().manual_seed(0))
    own = OWN.get(name, {})

    def f(z: Tensor) -> Tensor:
        return torch.exp(z @ cost).prod(-1)

    loss = THROUGH[name](f, x, num_samples=3, noise=noise, tau=0.7, **own)
    z = ag.straight_through(x.expand(3, -1, -1, -1), method=name, noise=noise, tau=0.7, **own)
    assert torch.equal(loss, f(z).mean(0))
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (loss, f(z).mean(0))))


def test_gumbel_softmax_is_the_plain_gradient_of_its_relaxed_loss() -> None:
    x, tau = torch.randn(5, 4, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    noise = ag.gumbel((3, 5, 4), generator=torch.Generator().manual_seed(0))
    f = lambda y: (y**2).sum(-1)  # noqa: E731
    loss = gumbel_softmax(f, x, num_samples=3, noise=noise, tau=tau)
    plain = f(torch.softmax((x + noise) / tau, -1)).mean(0)
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(*(torch.autograd.grad(v.sum(), (x, tau)) for v in (loss, plain)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", THROUGH)
def test_own_errors(name: str) -> None:
    with pytest.raises(ValueError, match="tau must be at least 0"):
        THROUGH[name](lambda z: z.sum(-1), torch.zeros(3), tau=-1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        THROUGH[name](lambda z: z.sum(-1), torch.zeros(3), forward_tau=1.0)


# --- subsets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3])
def test_subsets_are_those_of_the_score_function(k: int) -> None:
    x = torch.randn(50, 2, 5, requires_grad=True)
    x.data[:, :, 1] = -torch.inf
    seen = []

    def f(z: Tensor) -> Tensor:
        seen.append(z)
        return (z @ torch.arange(5.0)).prod(-1)

    losses = [
        est(f, x, k=k, num_samples=2, noise=ag.KeyedNoise(3)) for est in (subset_reinforce, subset_straight_through)
    ]
    assert torch.equal(seen[0], seen[1])
    assert (seen[1].sum(-1) == k).all()
    assert torch.equal(*losses)
    (gradient,) = torch.autograd.grad(losses[1].sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[..., 1] == 0).all()
    assert (gradient != 0).any()


def test_subset_straight_through_of_one_is_gumbel_straight_through() -> None:
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    f = lambda z: (z @ torch.arange(4.0, dtype=torch.float64)) ** 2  # noqa: E731
    gradients = []
    for est, own in ((subset_straight_through, {"k": 1}), (gumbel_straight_through, {})):
        loss = est(f, x, num_samples=2, tau=0.6, noise=ag.KeyedNoise(1), **own)
        gradients.append(torch.autograd.grad(loss.sum(), x)[0])
    torch.testing.assert_close(*gradients)


def test_subset_straight_through_goes_down() -> None:
    """A few steps make the costly items rare; parameters inside f get their plain gradient."""
    cost, x = torch.arange(6.0, requires_grad=True), torch.zeros(6, requires_grad=True)
    f = lambda z: (z * cost).sum(-1)  # noqa: E731
    noise = ag.KeyedNoise(0)
    loss = subset_straight_through(f, x, k=2, num_samples=8, noise=noise)
    (of_cost,) = torch.autograd.grad(loss, cost)
    assert of_cost.sum() == 2
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        loss = subset_straight_through(f, x, k=2, num_samples=8, generator=generator, tau=0.5)
        (gradient,) = torch.autograd.grad(loss, x)
        x.data -= 0.3 * gradient
    assert subset_straight_through(f, x, k=2, num_samples=500, noise=noise) < 1.5  # from 5; the least is 1


def test_compiled_subsets() -> None:
    x, noise = torch.randn(3, 6, requires_grad=True), torch.randn(4, 3, 6)
    f = lambda z: (z @ torch.arange(6.0)) ** 2  # noqa: E731
    function = lambda x: subset_straight_through(f, x, k=2, num_samples=4, noise=noise, tau=0.5)  # noqa: E731
    losses = function(x), torch.compile(function, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in losses))
