"""REBAR and RELAX: unbiased whatever the control variate, tuned by the gradient of their variance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.estimators import rebar, reinforce, relax

from .problems import Problem, check_unbiased, problem, problems, replicates, total_variance


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Network(torch.nn.Module):
    """A control variate that is far from any loss: for each sample a number from all its perturbed values."""

    def __init__(self, inputs: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        with torch.random.fork_rng():
            torch.manual_seed(inputs)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(inputs, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
            ).double()

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z.clamp(min=-30).flatten(-self.dims)).squeeze(-1)


def network_relax(f: Callable[[Tensor], Tensor], logits: Tensor, **own: object) -> Tensor:
    return relax(f, logits, c=Network(logits.shape[-1] * logits.shape[-2], 2), **own)


# --- unbiased ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", problems(21), ids=lambda p: p.name)
@pytest.mark.parametrize("coupled", [False, True])
def test_rebar_is_unbiased(p: Problem, coupled: bool) -> None:
    check_unbiased(rebar, p, coupled=coupled)


@pytest.mark.parametrize("eta", [-1.0, 0.3, 5.0])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("coupled", [False, True])
def test_rebar_is_unbiased_for_any_eta_and_tau(eta: float, tau: float, coupled: bool) -> None:
    own = {"eta": eta, "tau": tau, "coupled": coupled}
    check_unbiased(rebar, problem(3, 2, "interaction", 8), count=30_000, num_samples=2, **own)


@pytest.mark.parametrize("p", problems(6), ids=lambda p: p.name)
@pytest.mark.parametrize("coupled", [False, True])
def test_relax_is_unbiased(p: Problem, coupled: bool) -> None:
    check_unbiased(network_relax, p, count=50_000, coupled=coupled)


@pytest.mark.parametrize("p", problems(6), ids=lambda p: p.name)
def test_coupled_is_the_estimate_under_the_noise_that_gives_z_again(p: Problem) -> None:
    c, x = Network(p.logits.numel(), 2), p.logits.clone().requires_grad_()
    g = ag.gumbel((1, *x.shape), dtype=torch.float64, generator=generator(4))
    value = relax(p.f(p.a), x, c=c, noise=g, coupled=True)
    (estimate,) = torch.autograd.grad(value, x)
    log_p = x.log_softmax(-1)
    z = log_p + g[0]
    index, height = z.argmax(-1), z.amax(-1, keepdim=True)
    # The others were cut off at the height: -log(exp(-z) - exp(-height)), less their own log_p.
    given = torch.where(z == height, z, z - torch.log1p(-torch.exp(z - height)) - log_p).detach()
    again = ag.posterior_gumbel(log_p, index, noise=given)
    torch.testing.assert_close(again, z)
    score = log_p.gather(-1, index.unsqueeze(-1)).sum()
    f = p.loss(torch.nn.functional.one_hot(index, x.shape[-1]).double(), p.a)
    control = c(again)
    surrogate = (f - control).detach() * score + c(z) - control
    torch.testing.assert_close(estimate, torch.autograd.grad(surrogate, x)[0])
    torch.testing.assert_close(value, f)


def test_relax_is_unbiased_for_a_black_box() -> None:
    """f is a table that knows one-hot vectors only: no gradient, no value in between."""
    p = problem(4, 2, "quadratic", 3)

    def table(z: Tensor, a: Tensor) -> Tensor:
        assert ((z == 0) | (z == 1)).all()
        return p.loss(z.detach(), a).ceil() + 0 * a.sum((-2, -1))

    check_unbiased(network_relax, Problem("table", p.logits, p.a, table), count=50_000)


# --- variance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", problems(9), ids=lambda p: p.name)
def test_tuned_rebar_varies_less_than_reinforce(p: Problem) -> None:
    log_eta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_tau = torch.tensor(0.5, dtype=torch.float64).log().requires_grad_()
    optimizer = torch.optim.Adam([log_eta, log_tau], lr=0.05)
    start = total_variance(replicates(rebar, p, 10_000, eta=1.0, tau=0.5)[1])
    rows = p.logits.expand(200, *p.logits.shape).clone().requires_grad_()
    for step in range(80):
        optimizer.zero_grad()
        rebar(p.f(p.a), rows, eta=log_eta.exp(), tau=log_tau.exp(), generator=generator(step)).mean().backward()
        optimizer.step()
    tuned = total_variance(replicates(rebar, p, 10_000, eta=log_eta.exp().item(), tau=log_tau.exp().item())[1])
    assert tuned < start
    assert tuned < 0.97 * total_variance(replicates(reinforce, p, 10_000)[1])


def test_tuned_relax_varies_less_than_reinforce() -> None:
    """A network alone, that knows nothing of the loss, learns it well enough."""
    p = problem(4, 1, "quadratic", 3)
    c = Network(4, 2)
    optimizer = torch.optim.Adam(c.parameters(), lr=0.02)
    rows = p.logits.expand(300, *p.logits.shape).clone().requires_grad_()
    for step in range(150):
        optimizer.zero_grad()
        relax(p.f(p.a), rows, c=c, generator=generator(step)).mean().backward()
        optimizer.step()
    tuned = total_variance(replicates(relax, p, 10_000, c=c)[1])
    assert tuned < 0.8 * total_variance(replicates(reinforce, p, 10_000)[1])


# --- what gets which gradient ------------------------------------------------------------------------------------


def squared_gradient(
    p: Problem, weights: Tensor, tune: bool = False, coupled: bool = False, **own: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The squared gradient that reaches logits, and the gradients of what is to be tuned, of weighted losses."""
    tuned = {k: torch.tensor(v, dtype=torch.float64, requires_grad=tune) for k, v in own.items()}
    rows = p.logits.expand(len(weights), *p.logits.shape).clone().requires_grad_()
    loss = rebar(p.f(p.a), rows, num_samples=2, noise=ag.KeyedNoise(3), coupled=coupled, **tuned)
    (loss * weights).sum().backward()
    return (rows.grad**2).sum(), {k: v.grad for k, v in tuned.items()}


@pytest.mark.parametrize("p", problems(6), ids=lambda p: p.name)
@pytest.mark.parametrize("coupled", [False, True])
def test_eta_and_tau_get_the_gradient_of_the_squared_gradient(p: Problem, coupled: bool) -> None:
    weights = torch.tensor([1.0, 0.5, -2.0, 0.0], dtype=torch.float64)
    at, h = {"eta": 0.8, "tau": 0.7}, 1e-6
    _, gradients = squared_gradient(p, weights, tune=True, coupled=coupled, **at)
    for name in at:
        up, down = (squared_gradient(p, weights, coupled=coupled, **{**at, name: at[name] + s})[0] for s in (h, -h))
        torch.testing.assert_close(gradients[name], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)


def test_parameters_of_c_get_the_gradient_of_the_squared_gradient() -> None:
    p, c, h = problem(4, 2, "interaction", 3), Network(8, 2), 1e-6

    def squared(**own: object) -> Tensor:
        rows = p.logits.expand(5, 2, 4).clone().requires_grad_()
        relax(p.f(p.a), rows, c=c, noise=ag.KeyedNoise(3), **own).mean().backward()
        return (rows.grad**2).sum()

    squared()
    gradients = [(w, w.grad.clone()) for w in c.parameters() if w.grad is not None]
    assert len(gradients) == 4
    for w, gradient in gradients:
        flat = w.data.view(-1)
        for i in range(0, len(flat), 5):
            flat[i] += h
            up = squared()
            flat[i] -= 2 * h
            down = squared()
            flat[i] += h
            torch.testing.assert_close(gradient.view(-1)[i], (up - down) / (2 * h), rtol=1e-4, atol=1e-7)
    # A function is not a module: what is to be tuned must be named.
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    own = {"noise": ag.KeyedNoise(3), "c": lambda z: w * z.sum((-2, -1))}
    rows = p.logits.expand(5, 2, 4).clone().requires_grad_()
    relax(p.f(p.a), rows, **own).mean().backward()
    assert w.grad is None
    relax(p.f(p.a), rows, parameters=[w], **own).mean().backward()
    assert w.grad != 0


def test_tuning_changes_no_other_gradient() -> None:
    """Parameters inside f get the plain gradient at one-hot samples: none from the relaxed ones, none from tuning."""
    p = problem(4, 2, "interaction", 2)
    results = []
    for tune in (False, True):
        rows = p.logits.expand(5, 2, 4).clone().requires_grad_()
        a, eta = p.a.clone().requires_grad_(), torch.tensor(0.7, dtype=torch.float64, requires_grad=tune)
        loss = rebar(p.f(a), rows, eta=eta, num_samples=3, noise=ag.KeyedNoise(3))
        loss.mean().backward(retain_graph=True)
        results.append((loss.detach(), rows.grad, a.grad))
    for plain, tuned in zip(*results, strict=True):
        assert torch.equal(plain, tuned)
    index = ag.gumbel_max(p.logits.expand(3, 5, 2, 4), noise=ag.KeyedNoise(3)).indices
    a = p.a.clone().requires_grad_()
    discrete = p.loss(torch.nn.functional.one_hot(index, 4).double(), a).mean()
    torch.testing.assert_close(torch.autograd.grad(discrete, a)[0], results[0][2])
    before = eta.grad.clone()
    loss.mean().backward()  # once more over the same graph
    torch.testing.assert_close(eta.grad, 2 * before)


def test_rebar_is_relax_with_the_relaxed_loss() -> None:
    p = problem(5, 2, "quadratic", 4)
    rows = p.logits.expand(6, 2, 5).clone().requires_grad_()
    losses = (
        rebar(p.f(p.a), rows, eta=0.6, tau=0.8, num_samples=2, noise=ag.KeyedNoise(1)),
        relax(
            p.f(p.a),
            rows,
            c=lambda z: 0.6 * p.loss(torch.softmax(z / 0.8, -1), p.a),
            num_samples=2,
            noise=ag.KeyedNoise(1),
        ),
    )
    assert torch.equal(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), rows)[0] for loss in losses))


def test_eta_zero_is_reinforce() -> None:
    p = problem(5, 2, "quadratic", 4)
    rows = p.logits.expand(6, 2, 5).clone().requires_grad_()
    losses = [
        est(p.f(p.a), rows, num_samples=2, noise=ag.KeyedNoise(1), **own)
        for est, own in ((rebar, {"eta": 0.0}), (reinforce, {}))
    ]
    assert torch.equal(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), rows)[0] for loss in losses))


def test_calls_of_f() -> None:
    kinds: list[bool] = []

    def f(z: Tensor) -> Tensor:
        assert z.shape == (4, 3, 5)
        kinds.append(bool(((z == 0) | (z == 1)).all()))
        return z[..., 0]

    x = torch.randn(3, 5, requires_grad=True)
    rebar(f, x, num_samples=4)
    assert sorted(kinds) == [False, False, True]
    with torch.no_grad():
        rebar(f, x, num_samples=4)
    assert kinds[3:] == [True]
    relax(f, x, c=lambda z: z[..., 0], num_samples=4)
    assert kinds[4:] == [True]
    rebar(f, x, num_samples=4, coupled=True)
    assert sorted(kinds[5:]) == [False, True]


# --- the habits of the house, for relax, which is not in the registry --------------------------------------------


@pytest.mark.parametrize(("batch", "factors"), [((), 0), ((3,), 0), ((), 1), ((3,), 1), ((2, 3), 2), ((0,), 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("coupled", [False, True])
def test_shapes_dtypes_and_forbidden_items(
    batch: tuple[int, ...], factors: int, dtype: torch.dtype, coupled: bool
) -> None:
    x = torch.randn(*batch, *(2,) * factors, 4).to(dtype)
    x[..., 1] = -torch.inf
    x.requires_grad_()

    def total(z: Tensor) -> Tensor:
        assert z.shape[1:] == x.shape
        return (z.nan_to_num(neginf=0) * torch.arange(4).to(z)).sum(tuple(range(1 + len(batch), z.ndim)))

    loss = relax(total, x, c=total, num_samples=3, coupled=coupled)
    assert loss.shape == batch
    assert loss.isfinite().all()
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert (gradient[..., 1] == 0).all()


@pytest.mark.parametrize("coupled", [False, True])
def test_compiled_and_mapped(coupled: bool) -> None:
    x, noise, w = torch.randn(3, 2, 4), torch.randn(3, 5, 2, 4), torch.randn(4)

    def loss(x: Tensor, noise: Tensor) -> Tensor:
        own = {"num_samples": 5, "noise": noise, "coupled": coupled}
        return relax(lambda z: (z @ w).prod(-1), x, c=lambda z: (z @ w).tanh().sum(-1), **own)

    gradient = torch.func.grad(loss)
    alone = torch.stack([gradient(*row) for row in zip(x, noise, strict=True)])
    torch.testing.assert_close(torch.vmap(gradient)(x, noise), alone)
    torch._dynamo.reset()
    rows = x[0].clone().requires_grad_()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(rows, noise[0])
    torch.testing.assert_close(torch.autograd.grad(compiled, rows)[0], alone[0])


def test_errors() -> None:
    f, x = lambda z: z.sum(-1), torch.zeros(3, 4, requires_grad=True)
    for tau in (0, 1e-300, torch.tensor([[0.5], [0.0], [1.0]])):
        with pytest.raises(ValueError, match="tau must be above 0"):
            rebar(f, x, tau=tau)
    with pytest.raises(ValueError, match="tau must be at least 0"):
        rebar(f, x, tau=-1.0)
    with pytest.raises(ValueError, match="tau must be the same for all items"):
        rebar(f, x, tau=torch.ones(4))
    with pytest.raises(ValueError, match="shape of the losses"):
        rebar(f, x, eta=torch.ones(2, 1, 1))
    with pytest.raises(ValueError, match="shape of the losses"):
        relax(f, x, c=lambda z: z.sum((-2, -1)))
    with pytest.raises(TypeError, match="c must be a function"):
        relax(f, x, c=3)
    with pytest.raises(ValueError, match="both are given"):
        relax(f, x, c=f, noise=ag.KeyedNoise(0), generator=generator())
    with pytest.raises(ValueError, match="noise must have the shape"):
        rebar(f, x, noise=torch.zeros(3, 4))
