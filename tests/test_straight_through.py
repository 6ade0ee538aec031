"""Straight-through draws: the law of the one-hot vector, and the gradient of every method against its equation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel.relax import STRAIGHT_THROUGH, further_noise

from . import oracles
from .problems import check_equal_means, total_variance
from .statistics import check_cdf, check_draws, check_independent, quantile_bins
from .strategies import DTYPES, logits, seeds

METHODS = sorted(STRAIGHT_THROUGH)
NEW = [m for m in METHODS if m not in ("gumbel", "softmax")]
OF_THE_DRAW = ["softmax", "reinmax", "gapped", "decoupled"]  # whose gradient is a function of the draw
EPS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def jacobian(p: np.ndarray) -> np.ndarray:
    """Of a softmax with value p, in its argument."""
    return np.diag(p) - np.outer(p, p)


def gradient_given_draw(method: str, x: np.ndarray, winner: int, tau: float, upstream: np.ndarray, **own: float):
    """The vector-Jacobian product of s, written out for each method, with no autograd."""
    d, p = np.eye(len(x))[winner], softmax(x)
    if method == "reinmax":
        return (2 * jacobian((d + softmax(x / tau)) / 2) - jacobian(p) / 2) @ upstream
    if method == "gapped":
        ceiling = x.max() - own.get("gap", 1.0)
        x = np.where(d == 1, x.max(), np.minimum(x, ceiling))
    return jacobian(softmax(x / tau)) @ upstream / tau


def mean_gumbel_gradient(x: np.ndarray, tau: float, slopes: np.ndarray) -> np.ndarray:
    """The mean of straight-through Gumbel-softmax by quadrature over the gaps of the losers behind the winner.

    With weights w and gap d_j = -log q_j, the density of all gaps and the winner i is (n - 1)! times the product of all
    w over ``(w_i + sum_j w_j / q_j)^n prod_j q_j^2`` in q, on the unit cube, where s is ``(1, q ..)^(1 / tau)``
    normalised. ``slopes[i]`` is the gradient of the loss at the one-hot vector i.
    """
    n, w = len(x), np.exp(x)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    nodes, weights = (nodes + 1) ** 2 / 4, weights * (nodes + 1) / 2  # denser at 0, where a power may be rough
    total, mass = np.zeros(n), 0.0
    for i in range(n):
        losers = [j for j in range(n) if j != i]
        for place in itertools.product(range(len(nodes)), repeat=n - 1):
            q = nodes[list(place)]
            density = math.factorial(n - 1) * w.prod() / ((w[i] + (w[losers] / q).sum()) ** n * (q**2).prod())
            s = np.ones(n)
            s[losers] = q ** (1 / tau)
            share = density * weights[list(place)].prod()
            mass += share
            total += share * (jacobian(s / s.sum()) @ slopes[i]) / tau
    assert abs(mass - 1) < 1e-6  # the quadrature is good: all winners and gaps together are certain
    return total


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda z, a: z @ a,
    "quadratic": lambda z, a: (z @ a) ** 2 + (z * z.roll(1, -1)).sum(-1) - z @ a,
    "sine": lambda z, a: torch.sin(2 * (z @ a)) + z[..., 0] ** 3,
}


def slopes_of(loss: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Losses and their gradients at the one-hot vectors."""
    z = torch.eye(n, dtype=torch.float64, requires_grad=True)
    value = LOSSES[loss](z, torch.linspace(-1, 1.5, n, dtype=torch.float64))
    (slopes,) = torch.autograd.grad(value.sum(), z)
    return value.detach().numpy(), slopes.numpy()


def gradients(method: str, x: Tensor, count: int, loss: str, seed: int = 0, **own: object) -> tuple[Tensor, Tensor]:
    """So many draws from one row: winners, and the gradient that each gives to its logits."""
    rows = x.expand(count, -1).clone().requires_grad_()
    z = ag.straight_through(rows, method=method, generator=generator(seed), **own)
    value = LOSSES[loss](z, torch.linspace(-1, 1.5, len(x), dtype=x.dtype))
    return z.detach().argmax(-1), torch.autograd.grad(value.sum(), rows)[0]


# --- the draw ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("method", NEW)
def test_the_draw_has_the_law_of_the_logits(backend: str, method: str, tau: float) -> None:
    x = torch.tensor([0.5, -1.0, -torch.inf, 2.0, 0.0])
    z = ag.straight_through(x.expand(20_000, 5), method=method, tau=tau, generator=generator(2))
    assert torch.equal(z, torch.nn.functional.one_hot(z.argmax(-1), 5).float())
    check_draws(z.argmax(-1), oracles.softmax(x))
    check_independent(z[:-1].argmax(-1), z[1:].argmax(-1), oracles.softmax(x), oracles.softmax(x))


@pytest.mark.parametrize("temperature", [0.4, 2.5, 1e3])
def test_decoupled_draws_at_its_own_temperature(backend: str, temperature: float) -> None:
    x = torch.tensor([0.5, -1.0, -torch.inf, 2.0, 0.0])
    z = ag.straight_through(
        x.expand(20_000, 5), method="decoupled", temperature=temperature, tau=0.7, generator=generator(2)
    )
    check_draws(z.argmax(-1), oracles.softmax(x / temperature))


@pytest.mark.parametrize("temperature", [0, 1e-30])
def test_decoupled_at_zero_is_the_argmax(backend: str, temperature: float) -> None:
    x = torch.randn(50, 6, requires_grad=True)
    z = ag.straight_through(x, method="decoupled", temperature=temperature, generator=generator())
    assert torch.equal(z.argmax(-1), x.argmax(-1))
    z[:, 0].sum().backward()
    torch.testing.assert_close(x.grad[:, 1], -torch.softmax(x.detach(), -1)[:, :2].prod(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_methods_draw_the_same_under_the_same_noise(backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(50, 6).to(dtype)
    expected = ag.gumbel_max(x, noise=ag.KeyedNoise(4)).indices
    for method in METHODS:
        z = ag.straight_through(x, method=method, noise=ag.KeyedNoise(4))
        assert z.dtype == dtype
        assert torch.equal(z.argmax(-1), expected)


# --- the gradient ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("method", OF_THE_DRAW)
def test_gradient_given_the_draw_is_its_equation(method: str, n: int, tau: float) -> None:
    x = 1.5 * torch.randn(n, dtype=torch.float64, generator=generator(n))
    winners, grads = gradients(method, x, 400, "sine", tau=tau)
    _, slopes = slopes_of("sine", n)
    assert len(winners.unique()) > n // 2
    for winner, grad in zip(winners.tolist(), grads.numpy(), strict=True):
        expected = gradient_given_draw(method, x.numpy(), winner, tau, slopes[winner])
        np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gap", [0, 0.3, 5.0])
def test_gap(gap: float) -> None:
    x = torch.tensor([0.2, 1.0, -2.0], dtype=torch.float64)
    winners, grads = gradients("gapped", x, 100, "sine", tau=0.8, gap=gap)
    _, slopes = slopes_of("sine", 3)
    for winner, grad in zip(winners.tolist(), grads.numpy(), strict=True):
        expected = gradient_given_draw("gapped", x.numpy(), winner, 0.8, slopes[winner], gap=gap)
        np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-12)


def mean_over_draws(method: str, x: np.ndarray, tau: float, loss: str, temperature: float = 1.0) -> np.ndarray:
    """The mean gradient by enumeration of the draws, each with the gradient that the function itself gives."""
    p, (_, slopes) = softmax(x / temperature), slopes_of(loss, len(x))
    mean = np.zeros(len(x))
    for i in range(len(x)):
        noise = torch.full((len(x),), -50.0, dtype=torch.float64)
        noise[i] = 50.0
        row = torch.tensor(x, requires_grad=True)
        own = {"temperature": temperature} if method == "decoupled" else {}
        z = ag.straight_through(row, method=method, tau=tau, noise=noise, **own)
        assert z.argmax() == i
        (grad,) = torch.autograd.grad(z @ torch.tensor(slopes[i]), row)
        mean += p[i] * grad.numpy()
    return mean


@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize(
    ("method", "tau", "loss", "temperature", "exact"),
    [
        ("softmax", 1.0, "linear", 1.0, True),
        ("softmax", 1.0, "quadratic", 1.0, False),
        ("softmax", 0.5, "linear", 1.0, False),
        ("reinmax", 1.0, "linear", 1.0, True),
        ("reinmax", 1.0, "quadratic", 1.0, True),
        ("reinmax", 1.0, "sine", 1.0, False),
        ("reinmax", 2.0, "quadratic", 1.0, False),
        ("decoupled", 2.0, "linear", 2.0, True),
        ("decoupled", 1.0, "linear", 2.0, False),
    ],
)
def test_which_means_are_exact(n: int, method: str, tau: float, loss: str, temperature: float, exact: bool) -> None:
    x = np.random.default_rng(n).normal(size=n)
    p, (values, _) = softmax(x / temperature), slopes_of(loss, n)
    truth = jacobian(p) @ values / temperature
    assert np.allclose(mean_over_draws(method, x, tau, loss, temperature), truth, rtol=1e-9, atol=1e-12) == exact


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("n", [2, 3])
def test_means_of_the_gumbel_methods_by_quadrature(n: int, tau: float) -> None:
    x = torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64)[:n]
    _, slopes = slopes_of("sine", n)
    mean = torch.tensor(mean_gumbel_gradient(x.numpy(), tau, slopes))
    _, plain = gradients("gumbel", x, 100_000, "sine", tau=tau)
    check_equal_means(plain, mean)
    for num_conditional in (1, 2, 7):
        _, rao = gradients("gumbel-rao", x, 100_000, "sine", tau=tau, num_conditional=num_conditional)
        check_equal_means(rao, mean)


def test_each_draws_share_of_gumbel_rao_by_quadrature() -> None:
    """Given the draw too: the noises are draws given their winner, not just of the right mean on average."""
    x = torch.tensor([0.4, -0.7, 1.1], dtype=torch.float64)
    p, (_, slopes) = softmax(x.numpy()), slopes_of("sine", 3)
    winners, grads = gradients("gumbel-rao", x, 60_000, "sine", tau=0.7, num_conditional=3)
    for i in range(3):
        only = np.where(np.arange(3)[:, None] == i, slopes, 0)
        check_equal_means(grads[winners == i], torch.tensor(mean_gumbel_gradient(x.numpy(), 0.7, only) / p[i]))


def test_variance_falls_with_conditional_draws() -> None:
    x = torch.tensor([0.4, -0.7, 1.1, 0.0], dtype=torch.float64)
    variance = [total_variance(gradients("gumbel", x, 20_000, "sine", tau=0.5)[1])]
    for num_conditional in (2, 8, 64):
        _, grads = gradients("gumbel-rao", x, 20_000, "sine", tau=0.5, num_conditional=num_conditional)
        variance.append(total_variance(grads))
    excess = np.array(variance) - variance[-1]  # over what the draw itself varies: falls as 1 / num_conditional
    assert excess[0] > 1.5 * excess[1] > 3 * excess[2] > 0


def test_one_conditional_draw_is_the_race_itself() -> None:
    x = torch.randn(200, 5, dtype=torch.float64)
    grads = []
    for method, own in (("gumbel", {}), ("gumbel-rao", {"num_conditional": 1})):
        a = x.clone().requires_grad_()
        z = ag.straight_through(a, method=method, tau=0.7, noise=ag.KeyedNoise(2), **own)
        grads.append(torch.autograd.grad((z * torch.arange(5.0)).sum(), a)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def testfurther_noise_is_new_and_a_function_of_each_row(dtype: torch.dtype) -> None:
    """Gumbel each, and independent of the noise that it comes from, of each other and of other rows."""
    race = ag.gumbel((20_000, 2), generator=generator(1), dtype=dtype)
    draws = [race, *further_noise(race, 2, -1)]
    assert torch.equal(torch.stack(further_noise(race[7:9], 2, -1)), torch.stack(draws[1:])[:, 7:9])
    across = torch.stack(further_noise(race.T, 2, 0))
    assert torch.equal(across, torch.stack(draws[1:]).mT)
    bins = []
    for g in draws:
        assert g.dtype == dtype
        check_cdf(g, oracles.gumbel_cdf)
        bins += [torch.from_numpy(quantile_bins(g[:, i].numpy(), oracles.gumbel_cdf, 8)) for i in (0, 1)]
    for one, other in itertools.combinations(bins, 2):
        check_independent(one, other, np.full(8, 1 / 8), np.full(8, 1 / 8))
    check_independent(bins[2][:-1], bins[2][1:], np.full(8, 1 / 8), np.full(8, 1 / 8))


def testfurther_noise_tells_rows_apart() -> None:
    """Rows that differ in one bit, or in the order of items, have nothing in common."""
    row = ag.gumbel((3,), generator=generator(1))
    rows = torch.stack([row, row.flip(0), torch.nextafter(row, row + 1), row * torch.tensor([1.0, 1.0, -1.0])])
    (noise,) = further_noise(rows, 1, -1)
    assert len(noise.unique()) == noise.numel()


@pytest.mark.parametrize("method", ["gumbel-rao", "gapped", "decoupled"])
def test_gradient_of_a_tensor_tau(method: str) -> None:
    """By finite differences of the soft vector at the draw made; gumbel-rao of one draw by that of gumbel."""
    x, upstream = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    tau = torch.linspace(0.4, 2, 6, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    own = {"num_conditional": 1} if method == "gumbel-rao" else {}
    z = ag.straight_through(x, method=method, tau=tau, noise=ag.KeyedNoise(1), **own)
    (grad,) = torch.autograd.grad((z * upstream).sum(), tau)
    if method == "gumbel-rao":
        keys = x + ag.KeyedNoise(1).gumbel(x.shape, dtype=torch.float64)
    elif method == "gapped":
        keys = torch.where(z > 0, x.amax(-1, keepdim=True), x.minimum(x.amax(-1, keepdim=True) - 1)).detach()
    else:
        keys = x
    t, h = tau.detach(), 1e-6
    change = (torch.softmax(keys / (t + h), -1) - torch.softmax(keys / (t - h), -1)) / (2 * h)
    torch.testing.assert_close(grad, (change * upstream).sum(-1, keepdim=True), rtol=1e-6, atol=1e-8)


# --- the habits of the house -------------------------------------------------------------------------------------


@given(x=logits(), seed=seeds, tau=st.sampled_from([0, 1e-40, 1e-6, 0.1, 1, 50.0]), method=st.sampled_from(NEW))
def test_awkward_logits(x: Tensor, seed: int, tau: float, method: str) -> None:
    x.requires_grad_()
    z = ag.straight_through(x, method=method, tau=tau, noise=ag.KeyedNoise(seed))
    assert z.shape == x.shape
    assert z.dtype == x.dtype
    assert torch.equal(z.sum(-1), torch.ones(x.shape[:-1]).to(z))
    assert ((z == 0) | (z == 1)).all()
    assert (z.masked_select(x == -torch.inf) == 0).all()
    (z * torch.arange(1.0, x.shape[-1] + 1).to(z)).sum().backward()
    assert not x.grad.isnan().any()
    assert (x.grad.masked_select(x == -torch.inf) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", NEW)
def test_enormous_logits(method: str, dtype: torch.dtype) -> None:
    lowest = torch.finfo(dtype).min
    x = torch.tensor([[1e30, 0.0, -1e30, lowest], [1e4, 0.0, 2e4, -1e4]], dtype=dtype, requires_grad=True)
    for tau in (1e-10, 1.0):
        z = ag.straight_through(x, method=method, tau=tau, noise=ag.KeyedNoise(0))
        assert torch.equal(z.argmax(-1), torch.tensor([0, 2]))
        (grad,) = torch.autograd.grad(z[:, 0].sum(), x)
        assert not grad.isnan().any()


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_any_dim(method: str, dim: int) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    for tau in (0.5, torch.tensor(0.5), 0):
        results = []
        for given_x, given_dim in ((x, dim), (x.movedim(dim, -1), -1)):
            a = given_x.clone().requires_grad_()
            z = ag.straight_through(a, method=method, tau=tau, dim=given_dim, noise=ag.KeyedNoise(1))
            upstream = torch.arange(60.0, dtype=torch.float64).reshape(3, 4, 5)
            upstream = upstream if given_dim == dim and given_x is x else upstream.movedim(dim, -1)
            results += [z, torch.autograd.grad((z * upstream).sum(), a)[0]]
        torch.testing.assert_close(results[0].movedim(dim, -1), results[2])
        torch.testing.assert_close(results[1].movedim(dim, -1), results[3])


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 1, 1), (4, 1), (2, 1, 1, 1), (2, 3, 1, 1)])
def test_a_tensor_tau_broadcasts(method: str, shape: tuple[int, ...]) -> None:
    """Rows with their own temperatures are the rows one by one."""
    x, tau = torch.randn(3, 4, 5, dtype=torch.float64), torch.rand(shape, dtype=torch.float64) + 0.3
    x[0, 0, 0] = -torch.inf
    noise = ag.KeyedNoise(5)
    a = x.clone().requires_grad_()
    z = ag.straight_through(a, method=method, tau=tau, noise=noise)
    assert z.shape == torch.broadcast_shapes(x.shape, shape)
    (grad,) = torch.autograd.grad((z * torch.arange(5.0)).sum(), a)
    expected = torch.zeros_like(x)
    for i in np.ndindex(*z.shape[:-1]):
        row = x[i[-2:]].clone().requires_grad_()
        own = tau.expand(*z.shape[:-1], 1)[i].item()
        alone = ag.straight_through(row, method=method, tau=own, noise=ag.KeyedNoise(5, rows=[4 * i[-2] + i[-1]]))
        assert torch.equal(alone, z[i])
        expected[i[-2:]] += torch.autograd.grad((alone * torch.arange(5.0)).sum(), row)[0]
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", NEW)
def test_low_precision_gradients_are_those_of_double(backend: str, method: str, dtype: torch.dtype) -> None:
    x, upstream = torch.randn(20, 30).to(dtype), torch.randn(20, 30).to(dtype)
    noise = ag.gumbel((20, 30), generator=generator(1))
    own = {"num_conditional": 1} if method == "gumbel-rao" else {}  # the others depend on the bits, so on the dtype
    grads = []
    for to in (dtype, torch.float64):
        a = x.to(to).requires_grad_()
        z = ag.straight_through(a, method=method, tau=0.8, noise=noise, **own)
        grads.append(torch.autograd.grad(z, a, upstream.to(z.dtype))[0].double())
    torch.testing.assert_close(*grads, rtol=EPS[dtype], atol=EPS[dtype])


@pytest.mark.parametrize("method", NEW)
def test_forbidden_items_by_mask_or_by_logits(method: str) -> None:
    x, mask = torch.randn(100, 6), torch.tensor([True, False, True, True, False, True])
    x[:, 1] = torch.nan  # what is masked is not looked at
    results = []
    for own, a in (({"mask": mask}, x.clone()), ({}, x.masked_fill(~mask, -torch.inf))):
        z = ag.straight_through(a.requires_grad_(), method=method, noise=ag.KeyedNoise(1), **own)
        results.append((z, *torch.autograd.grad((z * torch.arange(6.0)).sum(), a)))
    torch.testing.assert_close(*results)
    assert (results[0][1][:, ~mask] == 0).all()
    assert results[0][1].isfinite().all()


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_empty_batches(method: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for tau in (1, 0, torch.tensor(0.5)):
        z = ag.straight_through(x, method=method, tau=tau)
        assert z.shape == shape
    z.sum().backward()
    assert x.grad.shape == shape


@pytest.mark.parametrize("method", NEW)
def test_parts_of_a_batch_have_the_samples_of_the_whole(backend: str, method: str) -> None:
    rows, results = torch.tensor([5, 0, 7]), []
    x = torch.randn(8, 6)
    for part, noise in ((x, ag.KeyedNoise(-3)), (x[rows], ag.KeyedNoise(-3, rows=rows))):
        a = part.clone().requires_grad_()
        z = ag.straight_through(a, method=method, tau=0.5, noise=noise)
        results.append((z, *torch.autograd.grad((z * torch.arange(6.0)).sum(), a)))
    torch.testing.assert_close([r[rows] for r in results[0]], list(results[1]))


@pytest.mark.parametrize("method", NEW)
def test_generators(method: str) -> None:
    x = torch.randn(40, 6, requires_grad=True)

    def of(seed: int | None) -> Tensor:
        z = ag.straight_through(x, method=method, generator=None if seed is None else generator(seed))
        return torch.cat([z, *torch.autograd.grad((z * torch.arange(6.0)).sum(), x)])

    assert torch.equal(of(3), of(3))
    assert not torch.equal(of(3), of(4))
    torch.manual_seed(1)
    first = of(None)
    assert not torch.equal(first, of(None))
    torch.manual_seed(1)
    assert torch.equal(first, of(None))


@pytest.mark.parametrize("method", NEW)
def test_compiled_draws_are_the_eager_ones(method: str) -> None:
    own = {"num_conditional": 3} if method == "gumbel-rao" else {}

    def function(a: Tensor, t: Tensor, seed: Tensor) -> Tensor:
        return ag.straight_through(2 * a, method=method, tau=t, noise=ag.KeyedNoise(seed), **own)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, tau = torch.randn(6, 17, requires_grad=True), torch.tensor(0.6)
    for seed in (3, -4):
        results = []
        for f in (compiled, function):
            z = f(x, tau, torch.tensor(seed))
            results.append((z, *torch.autograd.grad((z * torch.arange(17.0)).sum(), x)))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("method", NEW)
def test_compiled_with_own_arguments_and_fresh_noise(method: str) -> None:
    own = {"gumbel-rao": {"num_conditional": 2}, "gapped": {"gap": 2}, "decoupled": {"temperature": 2.0}}.get(
        method, {}
    )
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda a: ag.straight_through(a, method=method, **own), fullgraph=True, backend="aot_eager"
    )
    x = torch.zeros(500, 2)
    first, second = compiled(x).argmax(-1), compiled(x).argmax(-1)
    check_independent(first, second, [0.5, 0.5], [0.5, 0.5])
    assert compiled(torch.full((3, 2), torch.nan)).isnan().all()


@pytest.mark.parametrize("method", NEW)
def test_vmap(method: str) -> None:
    x, tau = torch.randn(4, 3, 5), torch.rand(4) + 0.5
    noise, own = torch.randn(4, 3, 5), {"num_conditional": 2} if method == "gumbel-rao" else {}

    def loss(a: Tensor, g: Tensor, t: Tensor) -> Tensor:
        z = ag.straight_through(a, method=method, tau=t, noise=g, **own)
        return (z * torch.arange(5.0)).sum()

    mapped = torch.vmap(torch.func.grad(loss))(x, noise, tau)
    alone = [torch.func.grad(loss)(*row) for row in zip(x, noise, tau, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(alone))
    fresh = torch.vmap(lambda a: ag.straight_through(a, method=method), randomness="different")(torch.zeros(4000, 3))
    check_draws(fresh.argmax(-1), np.full(3, 1 / 3))
    check_independent(fresh[:-1].argmax(-1), fresh[1:].argmax(-1), np.full(3, 1 / 3), np.full(3, 1 / 3))
    bad = torch.vmap(lambda a: ag.straight_through(a, method=method), randomness="different")
    assert bad(torch.tensor([[torch.nan, 0.0], [-torch.inf, -torch.inf], [torch.inf, 0.0]])).isnan().all()


@pytest.mark.parametrize("method", NEW)
def test_meta_tensors_have_shapes(method: str) -> None:
    for dtype in DTYPES:
        own = {"num_conditional": 2} if method == "gumbel-rao" else {}
        z = ag.straight_through(torch.zeros(2, 3, device="meta", dtype=dtype), method=method, **own)
        assert z.shape == (2, 3)
        assert z.dtype == dtype


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize(
    ("bad", "own", "error", "words"),
    [
        (torch.tensor([torch.nan, 0.0]), {}, ValueError, "NaN"),
        (torch.tensor([torch.inf, 0.0]), {}, ValueError, r"\+inf"),
        (torch.tensor([-torch.inf, -torch.inf]), {}, ValueError, "at least one item"),
        (torch.zeros(2), {"tau": -1}, ValueError, "tau must be at least 0"),
        (torch.zeros(2), {"dim": 1}, ValueError, "dim must be in"),
        (torch.zeros(2), {"noise": torch.zeros(3)}, ValueError, "noise must have the shape"),
        (torch.zeros(2), {"noise": ag.KeyedNoise(0), "generator": generator()}, ValueError, "both are given"),
        (torch.zeros(2), {"noise": torch.zeros(2), "generator": generator()}, ValueError, "both are given"),
        (torch.zeros(2), {"noise": torch.tensor([0.0, torch.nan])}, ValueError, "noise must be finite"),
        (torch.zeros(2), {"mask": torch.zeros(2)}, TypeError, "mask must be a bool tensor"),
        (torch.zeros(2, dtype=torch.int64), {}, TypeError, "floating"),
        (torch.zeros(2), {"hard": True}, TypeError, "has no argument hard"),
    ],
)
def test_errors(method: str, bad: Tensor, own: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ag.straight_through(bad, method=method, **own)


def test_errors_of_own_arguments() -> None:
    x = torch.zeros(3)
    for method in METHODS:
        for own in ({"num_conditional": 2}, {"gap": 1.0}, {"temperature": 1.0}):
            if (method, *own) not in [
                ("gumbel-rao", "num_conditional"),
                ("gapped", "gap"),
                ("decoupled", "temperature"),
            ]:
                with pytest.raises(TypeError, match=f"method '{method}' has no argument {next(iter(own))}"):
                    ag.straight_through(x, method=method, **own)
    with pytest.raises(ValueError, match="num_conditional must be at least 1"):
        ag.straight_through(x, method="gumbel-rao", num_conditional=0)
    with pytest.raises(TypeError, match="num_conditional must be an integer"):
        ag.straight_through(x, method="gumbel-rao", num_conditional=2.0)
    with pytest.raises(ValueError, match="gap must be at least 0"):
        ag.straight_through(x, method="gapped", gap=-1)
    with pytest.raises(TypeError, match="temperature must be a number"):
        ag.straight_through(x, method="decoupled", temperature=torch.tensor(1.0))
    for bad in (torch.full((3,), -torch.inf), torch.tensor([torch.inf, 0.0, 0.0]), torch.tensor([torch.nan, 0.0, 0.0])):
        with pytest.raises(ValueError, match="logits must"):
            ag.straight_through(bad, method="decoupled", temperature=2.0)
