"""Perturbed optimisers: means, Jacobians, variances and losses against closed forms and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.perturbation import Solver, fenchel_young_loss, perturbed
from argumbel.structures import OneHot, SpanningTree

from . import structure_oracles as oracles
from . import trace_oracles
from .statistics import Z, check_mean
from .structure_problems import K4, row

ITEMS, SIGMA = row(0, 1, -0.5), 0.7


def one_hot(scores: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1])


def jacobians(solver: object, x: Tensor, count: int, num_samples: int = 1, **own: object) -> tuple[Tensor, Tensor]:
    """So many estimates of the mean solution, and of its Jacobian."""
    many = x.expand(count, *x.shape).clone().requires_grad_()
    y = perturbed(solver, many, num_samples, noise=ag.KeyedNoise(1), **own)  # type: ignore[arg-type]
    rows = [torch.autograd.grad(part.sum(), many, retain_graph=True)[0] for part in y.T]
    return y.detach(), torch.stack(rows, 1)


def check_each_mean(samples: Tensor, mean: Tensor) -> None:
    for one, expected in zip(samples.flatten(1).T, mean.flatten(), strict=True):
        check_mean(one.numpy(), float(expected), float(one.var()) + 1e-12)


# --- the mean solution and its gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("control", ["leave-one-out", None])
@pytest.mark.parametrize("solver", [OneHot(), one_hot], ids=["trace", "noise"])
def test_one_hot_is_softmax(solver: object, control: str | None, num_samples: int) -> None:
    y, jacobian = jacobians(solver, ITEMS, 30_000, num_samples, sigma=SIGMA, control=control)
    p = (ITEMS / SIGMA).softmax(-1)
    check_each_mean(y, p)
    check_each_mean(jacobian, (p.diag() - p.outer(p)) / SIGMA)


@pytest.mark.parametrize("control", ["leave-one-out", None])
@pytest.mark.parametrize("solver", [SpanningTree(4), SpanningTree(4).argmax], ids=["trace", "noise"])
def test_trees_follow_the_race(solver: object, control: str | None) -> None:
    every = trace_oracles.traces(trace_oracles.kruskal(4))
    p = trace_oracles.law(K4, every)
    values = every.structures.double()
    y, jacobian = jacobians(solver, K4, 20_000, 2, control=control)
    check_each_mean(y, trace_oracles.inclusion(K4, every))
    exact = trace_oracles.jacobian(p, values, trace_oracles.trace_score(K4, every))
    check_each_mean(jacobian, exact)


@pytest.mark.parametrize(
    ("solver", "x", "sigma", "control", "variance"),
    [
        (OneHot(), ITEMS, SIGMA, "leave-one-out", 0.634351),  # with one sample nothing is subtracted
        (one_hot, ITEMS, SIGMA, None, 5.903207),
        (one_hot, ITEMS, SIGMA, "leave-one-out", 3.935583),  # y(x) is subtracted
        (SpanningTree(4), K4, 1, None, 5.651685),
        (SpanningTree(4).argmax, K4, 1, None, 17.494353),
        (SpanningTree(4).argmax, K4, 1, "leave-one-out", 12.514762),
    ],
)
def test_variances(solver: object, x: Tensor, sigma: float, control: str | None, variance: float) -> None:
    _, jacobian = jacobians(solver, x, 150_000, sigma=sigma, control=control)
    assert abs(float(jacobian.flatten(1).var(0).sum()) / variance - 1) < 0.02


def test_normal_noise() -> None:
    def exact(x: Tensor) -> Tensor:
        """P(item i wins), by quadrature over its own noise."""
        t, w = np.polynomial.hermite_e.hermegauss(80)
        z = torch.tensor(t).unsqueeze(-1) * SIGMA
        other = [torch.special.ndtr((x[i] + z - torch.cat([x[:i], x[i + 1 :]])) / SIGMA).prod(-1) for i in range(3)]
        return (torch.stack(other, -1) * torch.tensor(w / w.sum()).unsqueeze(-1)).sum(0)

    y, jacobian = jacobians(one_hot, ITEMS, 30_000, 4, sigma=SIGMA, law="normal")
    check_each_mean(y, exact(ITEMS))
    check_each_mean(jacobian, torch.autograd.functional.jacobian(exact, ITEMS))


def test_multiplicative_noise_keeps_signs_and_has_its_own_gradient() -> None:
    x = row(-1, -1.5, -0.5)
    seen = []

    def solver(values: Tensor) -> Tensor:
        seen.append(values)
        return one_hot(values)

    y, jacobian = jacobians(solver, x, 60_000, 2, sigma=0.5, law="normal", multiplicative=True)
    assert bool((seen[0] < 0).all())
    step, means = 1e-2, []
    for i in range(3):  # the same noise on both sides, so that few draws are enough
        ends = [perturbed(one_hot, (x + sign * step * torch.eye(3, dtype=x.dtype)[i]).expand(200_000, 3), sigma=0.5,
                          law="normal", multiplicative=True, noise=ag.KeyedNoise(9)) for sign in (1, -1)]  # fmt: skip
        means.append((ends[0] - ends[1]).mean(0) / (2 * step))
    difference = torch.stack(means, 1)
    spread = jacobian.std(0) / 60_000**0.5
    assert bool(((jacobian.mean(0) - difference).abs() < Z * spread + 0.02).all())
    assert abs(float(y.sum(-1).mean()) - 1) < 1e-9


def test_multiplicative_noise_has_no_gradient_at_zero() -> None:
    scores = torch.tensor([1.0, 0.0, -2.0], requires_grad=True)
    with pytest.raises(ValueError, match="scores must not be 0 where the noise is multiplicative"):
        perturbed(OneHot(), scores, 4, law="normal", multiplicative=True)
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            y = perturbed(OneHot(), scores.to(dtype), 4, law="normal", multiplicative=True)
        assert y.tolist() == [1, 0, 0]


def test_gradient_reaches_back_through_any_dtype_and_shape() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.randn(2, 3, 6, dtype=dtype, requires_grad=True)
        y = perturbed(SpanningTree(4), x, 4, sigma=torch.tensor([0.5, 1, 2]))
        assert y.dtype == dtype
        assert y.shape == x.shape
        (slope,) = torch.autograd.grad(y.square().sum(), x)
        assert bool(slope.isfinite().all())
        assert bool((slope != 0).any())
    assert perturbed(OneHot(), torch.zeros(0, 3), 2).shape == (0, 3)


def test_sigma_of_each_problem() -> None:
    x = ITEMS.expand(2, 40_000, 3)
    sigma = torch.tensor([[0.4], [5.0]])
    y = perturbed(OneHot(), x, sigma=sigma, noise=ag.KeyedNoise(0))
    for part, s in zip(y, sigma[:, 0].double(), strict=True):
        check_each_mean(part, (ITEMS / s).softmax(-1))


def test_keyed_and_seeded() -> None:
    x = torch.randn(4, 6)
    a = perturbed(SpanningTree(4), x, 3, noise=ag.KeyedNoise(1))
    noise = ag.KeyedNoise(1).gumbel((3, 4, 6))
    torch.testing.assert_close(perturbed(SpanningTree(4), x, 3, noise=noise), a, rtol=0, atol=0)
    seeded = [perturbed(one_hot, x, 3, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*seeded)


def test_forbidden_parts() -> None:
    x = torch.zeros(100, 6, requires_grad=True)
    mask = torch.tensor([True] * 5 + [False])
    for solver in (SpanningTree(4), SpanningTree(4).argmax):
        y = perturbed(solver, x, 3, mask=mask, law="gumbel")
        assert not bool(y[:, 5].any())
        (slope,) = torch.autograd.grad(y[:, 0].sum(), x)
        assert float(slope[:, 5].abs().max()) == 0
        assert bool(slope.isfinite().all())


def test_compiled_and_transformed() -> None:
    x = torch.randn(5, 6)

    def solved(x: Tensor) -> Tensor:
        return perturbed(SpanningTree(4), x, 3, noise=ag.KeyedNoise(1))

    torch.testing.assert_close(torch.compile(solved, fullgraph=True, backend="aot_eager")(x), solved(x))
    noise = ag.gumbel((3, 6))
    one = torch.vmap(lambda x: perturbed(SpanningTree(4), x, 3, noise=noise))(x)
    many = perturbed(SpanningTree(4), x, 3, noise=noise.unsqueeze(1).expand(3, 5, 6))
    torch.testing.assert_close(one, many)


# --- solvers of the user's -------------------------------------------------------------------------------------------


def cheapest_path(costs: np.ndarray, start: int = 0) -> np.ndarray:
    """Down a grid, from a cell of the first row, one row a step, at most one column to the side; -1 on the way."""
    rows, columns = costs.shape
    best, back = np.full_like(costs, np.inf), np.zeros(costs.shape, dtype=int)
    best[0, start] = costs[0, start]
    for i in range(1, rows):
        for j in range(columns):
            near = range(max(0, j - 1), min(columns, j + 2))
            back[i, j] = min(near, key=lambda k: best[i - 1, k])
            best[i, j] = costs[i, j] + best[i - 1, back[i, j]]
    path, j = np.zeros_like(costs), int(best[-1].argmin())
    for i in range(rows - 1, -1, -1):
        path[i, j] = 1
        j = back[i, j]
    costs[:] = 0  # a solver may write into its input
    return path


def test_a_solver_in_numpy_one_problem_at_a_time() -> None:
    costs = torch.rand(3, 5, 4, requires_grad=True)
    solver = Solver(lambda values, start: cheapest_path(-values, start), event_ndim=2, batched=False, numpy=True)
    path = perturbed(solver, costs.neg(), 6, sigma=0.1, args=(1,))
    assert path.shape == costs.shape
    torch.testing.assert_close(path.sum(-1), torch.ones(3, 5))
    assert bool((path[:, 0, 1] == 1).all())
    (slope,) = torch.autograd.grad(path[0].square().sum(), costs)
    assert bool((slope[0] != 0).any())
    assert float(slope[1:].abs().max()) == 0
    target = torch.from_numpy(np.stack([cheapest_path(c.detach().numpy().copy(), 1) for c in costs]))
    loss = fenchel_young_loss(costs.neg(), target, solver, 6, sigma=0.1, args=(1,))
    assert loss.shape == (3,)
    assert bool((loss >= 0).all())


def test_the_default_device_does_not_move_solutions() -> None:
    solver = Solver(lambda x: (x == x.max()).astype("f4"), batched=False, numpy=True)
    scores = torch.zeros(2, 3)
    with torch.device("meta"):
        assert perturbed(solver, scores, 2, law="normal").sum(-1).tolist() == [1, 1]


def test_solutions_of_another_shape() -> None:
    """The solution need not look like the scores: the mean largest value here."""
    x = torch.tensor([0.0, 1.0, -0.5], requires_grad=True)
    y = perturbed(lambda v: v.argmax(-1), x, 20_000, sigma=SIGMA, noise=ag.KeyedNoise(2))
    p = (ITEMS / SIGMA).softmax(-1)
    assert abs(float(y.detach() - p @ row(0, 1, 2))) < 0.02
    (slope,) = torch.autograd.grad(y, x)
    exact = torch.autograd.functional.jacobian(lambda x: (x / SIGMA).softmax(-1) @ row(0, 1, 2), ITEMS)
    torch.testing.assert_close(slope.double(), exact, rtol=0, atol=0.05)


def test_solvers_that_are_wrong() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(TypeError, match="solver must be a structure, but it is the class OneHot"):
        perturbed(OneHot, torch.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="solver must be a structure or a function"):
        perturbed("argmax", x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="solver must return one solution for each problem"):
        perturbed(lambda v: v.sum(), x)
    with pytest.raises(ValueError, match="solver must solve each problem for itself"):
        perturbed(lambda v: v - v.mean(), x)
    with pytest.raises(TypeError, match="solver must return a tensor, or an array of numbers"):
        perturbed(lambda v: "none", x)
    with pytest.raises(ValueError, match="solver must return solutions of one shape"):
        perturbed(Solver(lambda v: v[v > 0], batched=False), torch.tensor([[1.0, 1, -1], [9, 9, 9]]), sigma=0.01)
    with pytest.raises(ValueError, match="solver must return solutions in the shape"):
        fenchel_young_loss(x, one_hot(x), lambda v: v.argmax(-1))
    with pytest.raises(ValueError, match="args must be left out for a structure"):
        perturbed(OneHot(), x, args=(1,))


def test_wrong_arguments() -> None:
    x = torch.randn(4, 3)
    for sigma in (0, -1.0, torch.inf, torch.tensor([1.0, 2, 3, 0])):
        with pytest.raises(ValueError, match="sigma must"):
            perturbed(OneHot(), x, sigma=sigma)
    with pytest.raises(ValueError, match="sigma must be a number, or broadcast to"):
        perturbed(OneHot(), x, sigma=torch.ones(3))
    with pytest.raises(ValueError, match="law must be one of"):
        perturbed(OneHot(), x, law="cauchy")
    with pytest.raises(ValueError, match="where the noise is multiplicative"):
        perturbed(OneHot(), x, multiplicative=True)
    with pytest.raises(ValueError, match="control must be one of"):
        perturbed(OneHot(), x, control="mean")
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        perturbed(OneHot(), x, 0)
    with pytest.raises(ValueError, match="noise must have the shape"):
        perturbed(OneHot(), x, 2, noise=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="target must have the shape"):
        fenchel_young_loss(x, torch.zeros(3, 4), OneHot())
    with pytest.raises(TypeError, match="target must be a tensor"):
        fenchel_young_loss(x, [1, 0, 0], OneHot())  # type: ignore[arg-type]
    for solver in (OneHot(), one_hot):
        with pytest.raises(ValueError, match="scores must not be NaN"):
            perturbed(solver, x.masked_fill(x > 0, torch.nan))


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_of_one_item_is_the_cross_entropy() -> None:
    x = ITEMS.expand(100_000, 3).clone().requires_grad_()
    loss = fenchel_young_loss(x, row(1, 0, 0), OneHot(), sigma=SIGMA, noise=ag.KeyedNoise(3))
    assert float(loss.detach().min()) >= 0
    check_mean(loss.detach().numpy(), 1.213678, float(loss.detach().var()))
    (slope,) = torch.autograd.grad(loss.sum(), x)
    check_each_mean(slope, row(-0.823393, 0.736944, 0.086457))


@pytest.mark.parametrize("solver", [SpanningTree(4), SpanningTree(4).argmax])
def test_the_loss_of_trees(solver: object) -> None:
    """Its gradient is the mean tree minus the target; it is never negative, and convex along a line."""
    every = trace_oracles.traces(trace_oracles.kruskal(4))
    target = oracles.spanning_trees(4)[5].double()
    x = K4.expand(20_000, 6).clone().requires_grad_()
    loss = fenchel_young_loss(x, target, solver, noise=ag.KeyedNoise(4))  # type: ignore[arg-type]
    assert float(loss.detach().min()) >= 0
    (slope,) = torch.autograd.grad(loss.sum(), x)
    check_each_mean(slope, trace_oracles.inclusion(K4, every) - target)
    noise = ag.gumbel((100, 6), dtype=torch.float64)
    line = torch.linspace(-3, 3, 41, dtype=torch.float64).unsqueeze(-1) * row(1, -1, 2, 0, 0.5, -2)
    along = fenchel_young_loss(K4 + line, target, solver, 100, noise=noise.unsqueeze(1).expand(100, 41, 6))  # type: ignore[arg-type]
    assert float(along.diff().diff().min()) > -1e-9


def test_a_mean_of_solutions_as_target() -> None:
    target = (ITEMS / SIGMA).softmax(-1)
    x = ITEMS.expand(50_000, 3).clone().requires_grad_()
    loss = fenchel_young_loss(x, target, OneHot(), sigma=SIGMA, noise=ag.KeyedNoise(5))
    (slope,) = torch.autograd.grad(loss.sum(), x)
    check_each_mean(slope, torch.zeros(3))
