"""Estimators of structures: means and variances against enumeration of the race."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.estimators import implicit_mle, reinforce, relax, trace_reinforce, trace_relax
from argumbel.perturbation import Solver
from argumbel.structures import OneHot, SpanningTree

from . import trace_oracles
from .statistics import check_mean
from .structure_problems import K4, row

TREE = SpanningTree(4)
ITEMS = row(0, 1, -0.5)
SQUARED_DEGREE = row(0.323860, 0.459118, 0.347861, -0.381753, -0.547059, -0.202027)  # the gradient of its mean


def squared_degree(y: Tensor) -> Tensor:
    """Of node 0."""
    return y[..., :3].sum(-1) ** 2


def critic() -> torch.nn.Module:
    """A random smooth function of perturbed scores."""
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1), torch.nn.Flatten(-2)
    ).double()


def gradients(estimator: Callable[..., Tensor], x: Tensor, count: int, **own: object) -> tuple[Tensor, Tensor]:
    """So many values of an estimator, and its gradients."""
    many = x.expand(count, *x.shape).clone().requires_grad_()
    loss = estimator(many, noise=ag.KeyedNoise(3), **own)
    return loss.detach(), torch.autograd.grad(loss.sum(), many)[0]


def check_each_mean(samples: Tensor, mean: Tensor, error: float = 0) -> None:
    """Each mean, and an error of the golden number."""
    for one, expected in zip(samples.T, mean, strict=True):
        off = float(one.mean() - expected)
        check_mean((one - off + (off if abs(off) > error else 0)).numpy(), float(expected), float(one.var()) + 1e-12)


def of_trees(name: str, **own: object) -> Callable[..., Tensor]:
    function = {"reinforce": trace_reinforce, "relax": trace_relax}[name]
    return lambda x, **k: function(squared_degree, x, structure=TREE, **own, **k)  # type: ignore[operator]


@pytest.mark.parametrize(
    "estimator",
    [
        of_trees("reinforce", baseline=0.0),
        of_trees("reinforce", num_samples=3),
        of_trees("reinforce", baseline=lambda x: torch.full((), 1.995097, dtype=torch.float64)),
        of_trees("relax", c=critic()),
        of_trees("relax", c=lambda z: 0.3 * squared_degree(z.sigmoid()), num_samples=2),
    ],
)
def test_unbiased(estimator: Callable[..., Tensor]) -> None:
    loss, slopes = gradients(estimator, K4, 40_000)
    check_mean(loss.numpy(), 1.995097, float(loss.var()))
    check_each_mean(slopes, SQUARED_DEGREE, 1e-6)


@pytest.mark.parametrize(("baseline", "variance"), [(0.0, 18.376843), (1.995097, 7.437638)])
def test_variance_of_the_trace_score(baseline: float, variance: float) -> None:
    _, slopes = gradients(of_trees("reinforce", baseline=baseline), K4, 200_000)
    assert abs(float(slopes.var(0).sum()) / variance - 1) < 0.02


def test_a_structure_of_one_item_is_a_categorical() -> None:
    """The families agree: one-hot structures are what `reinforce` and `relax` draw."""
    x = ITEMS.expand(50, 3).clone().requires_grad_()
    loss = lambda z: z @ row(1, 2, 4)  # noqa: E731
    for ours, theirs in (
        (trace_reinforce(loss, x, structure=OneHot(), num_samples=4, baseline=0.5, noise=ag.KeyedNoise(1)),
         reinforce(loss, x, num_samples=4, baseline=0.5, noise=ag.KeyedNoise(1))),
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs)
        slopes = [torch.autograd.grad(value.sum(), x)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*slopes)
    c = lambda z: (z.tanh() * row(0.3, -1, 2)).sum(-1)  # noqa: E731
    many = ITEMS.expand(40_000, 3).clone().requires_grad_()
    for value in (trace_relax(loss, many, structure=OneHot(), c=c), relax(loss, many, c=c)):
        (slope,) = torch.autograd.grad(value.sum(), many)
        p = ITEMS.softmax(-1)
        check_each_mean(slope, p * (row(1, 2, 4) - p @ row(1, 2, 4)))


def test_a_good_critic_lowers_the_variance_and_is_tuned() -> None:
    scale = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    x = K4.expand(500, 6).clone().requires_grad_()

    def c(z: Tensor) -> Tensor:
        y = ag.stochastic_softmax(TREE, z, 0.5, noise=torch.zeros_like(z))
        return scale * squared_degree(y)

    optimizer = torch.optim.Adam([scale], lr=0.1)
    for seed in range(25):
        optimizer.zero_grad()
        noise = ag.KeyedNoise(seed)
        trace_relax(squared_degree, x, structure=TREE, c=c, parameters=[scale], noise=noise).sum().backward()
        optimizer.step()
    assert float(scale.detach()) > 0.4
    plain = gradients(of_trees("reinforce", baseline=0.0), K4, 4000)[1].var(0).sum()
    tuned = gradients(of_trees("relax", c=c, parameters=[]), K4, 4000)[1].var(0).sum()
    assert float(tuned) < 0.4 * float(plain)


def test_factors_are_independent_structures_of_one_choice() -> None:
    x = torch.randn(30, 5, 6, dtype=torch.float64, requires_grad=True)  # five trees each
    joint = lambda y: y[..., 0].sum(-1) ** 2  # noqa: E731
    value = trace_reinforce(joint, x, structure=TREE, num_samples=2)
    assert value.shape == (30,)
    assert trace_relax(joint, x, structure=TREE, c=lambda z: z.sum((-1, -2))).shape == (30,)
    assert implicit_mle(joint, x, TREE).shape == (30,)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.shape == x.shape


# --- implicit MLE ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [OneHot(), lambda v: torch.nn.functional.one_hot(v.argmax(-1), v.shape[-1])])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("strength", [1, 0.1])
def test_implicit_mle(solver: object, symmetric: bool, strength: float) -> None:
    g = row(1, 2, 4)

    def estimator(x: Tensor, **own: object) -> Tensor:
        return implicit_mle(lambda z: z @ g, x, solver, strength=strength, symmetric=symmetric, **own)  # type: ignore[arg-type]

    loss, slopes = gradients(estimator, ITEMS, 150_000)
    mean, variance = trace_oracles.implicit_mle(ITEMS, g, strength, symmetric=symmetric)
    check_each_mean(slopes, mean)
    assert abs(float(slopes.var(0).sum() / variance) - 1) < 0.02
    check_mean(loss.numpy(), float(ITEMS.softmax(-1) @ g), float(loss.var()))


def test_implicit_mle_adapts_to_each_problem() -> None:
    """Scores and losses in other units give the same direction; a problem beside others is as it is alone."""
    x, g = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)

    def slope(x: Tensor, g: Tensor, rows: list[int], **own: float) -> Tensor:
        at = x.clone().requires_grad_()
        noise = ag.KeyedNoise(1, rows=rows)
        value = implicit_mle(lambda y: (y * g).sum(-1), at, TREE, strength=0.2, adaptive=True, noise=noise, **own)
        return torch.autograd.grad(value.sum(), at)[0]

    whole = slope(x, g, list(range(8)))
    torch.testing.assert_close(slope(x[5:6], g[5:6], [5]), whole[5:6])
    scaled = slope(10 * x, 1000 * g, list(range(8)), sigma=10)
    torch.testing.assert_close(scaled, 100 * whole)
    flat = x.clone().requires_grad_()
    value = implicit_mle(lambda y: 0 * y.sum(-1), flat, TREE, adaptive=True)
    assert not bool(torch.autograd.grad(value.sum(), flat)[0].any())


def test_implicit_mle_without_noise_is_deterministic() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    values = [implicit_mle(squared_degree, x, TREE, sigma=0) for _ in range(2)]
    assert torch.equal(*values)
    torch.testing.assert_close(values[0], squared_degree(TREE.argmax(x)))


# --- everything ------------------------------------------------------------------------------------------------------

EVERY: dict[str, Callable[..., Tensor]] = {
    "trace_reinforce": lambda f, x, **own: trace_reinforce(f, x, structure=TREE, **own),
    "trace_relax": lambda f, x, **own: trace_relax(f, x, structure=TREE, c=lambda z: z.tanh().sum(-1), **own),
    "implicit_mle": lambda f, x, **own: implicit_mle(f, x, TREE, **own),
}


@pytest.mark.parametrize("name", EVERY)
def test_parameters_of_the_loss_get_their_own_gradient(name: str) -> None:
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    seen = []

    def f(y: Tensor) -> Tensor:
        seen.append(y.detach() if not torch._C._functorch.is_functorch_wrapped_tensor(y) else None)
        return (y * weight).sum(-1)

    noise = ag.gumbel((4, 3, 6), dtype=torch.float64)
    value = EVERY[name](f, x, num_samples=4, noise=noise)
    (slope,) = torch.autograd.grad(value.sum(), weight, retain_graph=True)
    trees = TREE.argmax(x.detach() + noise)
    torch.testing.assert_close(slope, trees.mean(0).sum(0))
    torch.testing.assert_close(value, (trees * weight).sum(-1).mean(0))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_forbidden_parts_and_no_grad(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 6).to(dtype)
    x[1, 5] = -torch.inf
    x.requires_grad_()
    value = EVERY[name](squared_degree, x, num_samples=2)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.dtype == dtype
    assert bool(slope.isfinite().all())
    assert float(slope[1, 5]) == 0
    with torch.no_grad():
        assert EVERY[name](squared_degree, x).shape == (3,)


@pytest.mark.parametrize("name", EVERY)
def test_compiled(name: str) -> None:
    x = torch.randn(3, 6)

    def value(x: Tensor) -> Tensor:
        return EVERY[name](squared_degree, x, noise=ag.KeyedNoise(2))

    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), value(x))
    slopes = []
    for run in (compiled, value):
        at = x.clone().requires_grad_()
        run(at).sum().backward()
        slopes.append(at.grad)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("name", EVERY)
def test_wrong_arguments(name: str) -> None:
    x, estimator = torch.randn(3, 6, requires_grad=True), EVERY[name]
    with pytest.raises(TypeError, match="f must be a function of structures"):
        estimator(3, x)
    with pytest.raises(ValueError, match="f must return one loss per sample"):
        estimator(lambda y: y.sum(), x)
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        estimator(squared_degree, x, num_samples=0)
    with pytest.raises(ValueError, match="scores must have one number for each of the 6 edges"):
        estimator(squared_degree, torch.randn(3, 5))
    with pytest.raises(TypeError, match="scores must be a tensor"):
        estimator(squared_degree, x.tolist())
    for shape in ((3, 6), (1, 6, 3), (1, 18), ()):
        with pytest.raises(ValueError, match="noise must have the shape"):
            estimator(squared_degree, x, noise=torch.zeros(shape))
    with pytest.raises(ValueError, match="scores must leave at least one spanning tree"):
        estimator(squared_degree, torch.full((3, 6), -torch.inf))


def test_wrong_arguments_of_one() -> None:
    x = torch.randn(3, 6, requires_grad=True)
    with pytest.raises(TypeError, match="structure must be"):
        trace_reinforce(squared_degree, x, structure=TREE.argmax)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="baseline must be one of"):
        trace_reinforce(squared_degree, x, structure=TREE, baseline="mean")
    with pytest.raises(TypeError, match="c must be a function of perturbed scores"):
        trace_relax(squared_degree, x, structure=TREE, c=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength must be above 0"):
        implicit_mle(squared_degree, x, TREE, strength=0)
    with pytest.raises(ValueError, match="solver must return solutions in the shape"):
        implicit_mle(squared_degree, x, Solver(lambda v: v.argmax(-1)))
