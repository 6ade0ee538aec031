"""What holds for every estimator of the registry: shapes, parameters, forbidden items, dtypes, randomness, errors."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel import estimators
from argumbel.estimators import ESTIMATORS

from .strategies import DTYPES, logits, seeds

BINARY = {"arm", "disarm"}
RELAXED = {name for name, est in ESTIMATORS.items() if est.__module__.endswith(("._relaxed", "._control_variates"))}
EXACT = {"exact"}
WEIGHTED = {"sum_and_sample", "unordered_set"}  # the value is a weighted sum over different outcomes, not a mean


def items(name: str) -> int:
    return 2 if name in BINARY else 4


def cost(z: Tensor) -> Tensor:
    """A loss for each last dimension, different for each item."""
    return (z * torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)).sum(-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_registry_names_its_functions() -> None:
    for name, est in ESTIMATORS.items():
        assert getattr(estimators, name) is est
        assert name in estimators.__all__


@pytest.mark.parametrize("name", ESTIMATORS)
def test_one_signature(name: str) -> None:
    parameters = inspect.signature(ESTIMATORS[name]).parameters
    assert list(parameters)[:3] == ["f", "logits", "num_samples"]
    assert list(parameters)[-2:] == ["noise", "generator"]
    assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n not in ("f", "logits"))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("batch", "factors"), [((), ()), ((3,), ()), ((), (2,)), ((3,), (2,)), ((2, 3), ()), ((2,), (2, 2)), ((0,), (2,))]
)
def test_batches_and_factors(name: str, batch: tuple[int, ...], factors: tuple[int, ...]) -> None:
    x = torch.randn(*batch, *factors, items(name), requires_grad=True)
    seen = []

    def f(z: Tensor) -> Tensor:
        seen.append(z.shape)
        loss = cost(z)
        return loss.flatten(loss.ndim - len(factors)).sum(-1) if factors else loss

    loss = ESTIMATORS[name](f, x, num_samples=4)
    assert loss.shape == batch
    assert loss.dtype == torch.float32
    assert all(shape[1:] == x.shape for shape in seen)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.shape == x.shape
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_of_a_batch_are_estimated_each_by_itself(name: str) -> None:
    """A loss that is zero in one row gives it no gradient, whatever the others' losses."""
    x = torch.randn(3, 2, items(name), requires_grad=True)
    use = torch.tensor([1.0, 0.0, 1.0])
    (gradient,) = torch.autograd.grad(ESTIMATORS[name](lambda z: use * cost(z).sum(-1), x, num_samples=4).sum(), x)
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).any()


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - RELAXED))
def test_a_sure_choice_is_its_loss(name: str) -> None:
    """One item allowed: the value is its loss, and nothing moves."""
    n = items(name)
    x = torch.full((3, n), -torch.inf)
    x[0, 0] = x[1, 1] = x[2, n - 1] = 0.5
    x.requires_grad_()
    loss = ESTIMATORS[name](cost, x, num_samples=4)
    torch.testing.assert_close(loss.detach(), torch.tensor([1.0, 2.0, float(n)]))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - RELAXED))
def test_f_never_sees_what_is_forbidden(name: str) -> None:
    n = items(name)
    x = torch.randn(50, 2, n)
    x[..., 1] = -torch.inf
    x.requires_grad_()

    def f(z: Tensor) -> Tensor:
        assert (z.sum(-1) == 1).all()
        assert (z[..., 1] == 0).all()
        return cost(z).sum(-1)

    loss = ESTIMATORS[name](f, x, num_samples=6)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[..., 1] == 0).all()


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - RELAXED - EXACT - WEIGHTED))
def test_the_value_is_the_mean_loss_and_parameters_get_its_gradient(name: str) -> None:
    x = torch.randn(5, 2, items(name))
    a = torch.randn(2, items(name), requires_grad=True)
    seen = []

    def f(z: Tensor) -> Tensor:
        seen.append(z)
        return (a * z).sum((-2, -1)) ** 2

    loss = ESTIMATORS[name](f, x, num_samples=4)
    torch.testing.assert_close(loss, f(seen[0]).mean(0))
    ours, plain = (torch.autograd.grad(v.sum(), a)[0] for v in (loss, f(seen[0]).mean(0)))
    torch.testing.assert_close(ours, plain)


@given(x=logits(max_items=5), seed=seeds, name=st.sampled_from(sorted(ESTIMATORS)))
def test_nothing_is_nan(x: Tensor, seed: int, name: str) -> None:
    """Ties, forbidden items, logits hundreds apart, one item, empty batches, all dtypes."""
    if name in BINARY:
        x = torch.cat([x[..., :1], torch.zeros_like(x[..., :1])], -1)
    x.requires_grad_()
    loss = ESTIMATORS[name](lambda z: cost(z).float(), x, num_samples=4, noise=ag.KeyedNoise(seed))
    assert loss.shape == x.shape[:-1]
    assert loss.isfinite().all()
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.dtype == x.dtype
    assert gradient.isfinite().all()
    assert (gradient[x == -torch.inf] == 0).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_logits_ten_thousand_apart(name: str) -> None:
    x = torch.tensor([[0.0, 1e4], [5e3, -5e3]]).repeat(1, items(name) // 2).requires_grad_()
    loss = ESTIMATORS[name](cost, x, num_samples=4)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """In half precision f sees half precision; the estimate is computed in float32 and only the gradient rounded."""
    x = torch.linspace(-1, 1, 3 * items(name)).reshape(3, items(name)).to(dtype)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    noise = ag.KeyedNoise(3)
    results = []
    for logits_, wanted in ((x, work), (x.to(work), work)):
        logits_.requires_grad_()
        loss = ESTIMATORS[name](cost, logits_, num_samples=4, noise=noise)
        assert loss.dtype == wanted
        results.append((loss.detach(), torch.autograd.grad(loss.sum(), logits_)[0].to(work)))
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*(r[0] for r in results), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(*(r[1] for r in results), rtol=tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - EXACT))
def test_randomness_comes_by_two_doors(name: str) -> None:
    x = torch.randn(20, 3, items(name), requires_grad=True)

    def gradient(**own: object) -> Tensor:
        loss = ESTIMATORS[name](lambda z: cost(z).sum(-1) ** 2, x, num_samples=2, **own)
        return torch.autograd.grad(loss.sum(), x)[0]

    first, again, other = gradient(generator=generator(1)), gradient(generator=generator(1)), gradient()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    keyed = ag.KeyedNoise(7)
    assert torch.equal(gradient(noise=keyed), gradient(noise=keyed))
    with pytest.raises(ValueError, match="both are given"):
        gradient(noise=keyed, generator=generator())
    with pytest.raises(ValueError, match="noise must have the shape"):
        gradient(noise=torch.zeros(20, 3, items(name)))


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - EXACT))
def test_keyed_noise_is_the_noise_it_stands_for(name: str) -> None:
    x = torch.randn(5, 3, items(name), requires_grad=True)
    noise = ag.KeyedNoise(2)
    both = (noise, noise.gumbel((4, *x.shape)))
    losses = [ESTIMATORS[name](lambda z: cost(z).sum(-1), x, num_samples=4, noise=g) for g in both]
    assert torch.equal(*losses)
    assert torch.equal(*(torch.autograd.grad(loss.sum(), x)[0] for loss in losses))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_errors(name: str) -> None:
    est, x = ESTIMATORS[name], torch.zeros(3, items(name))
    with pytest.raises(TypeError, match="f must be a function"):
        est(3, x)
    with pytest.raises(TypeError, match="logits must be a tensor"):
        est(cost, [0.0, 0.0])
    with pytest.raises(TypeError, match="floating"):
        est(cost, x.long())
    with pytest.raises(TypeError, match="f must return a floating tensor"):
        est(lambda z: 1.0, x)
    with pytest.raises(TypeError, match="f must return a floating tensor"):
        est(lambda z: cost(z).long(), x)
    with pytest.raises(ValueError, match="f must return one loss per sample"):
        est(lambda z: cost(z).sum(), x)
    with pytest.raises(ValueError, match="f must return one loss per sample"):
        est(lambda z: cost(z).sum(0), x)
    with pytest.raises(TypeError, match="num_samples must be an integer"):
        est(cost, x, num_samples=2.0)
    with pytest.raises(ValueError, match="num_samples must be at least"):
        est(cost, x, num_samples=0)
    for bad, what in ((torch.nan, "NaN"), (torch.inf, "inf"), (-torch.inf, "at least one item")):
        with pytest.raises(ValueError, match=what):
            est(cost, torch.full((3, items(name)), bad))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_bad_row_that_may_not_be_looked_at_is_nan(name: str) -> None:
    torch._dynamo.reset()
    x = torch.randn(3, items(name))
    x[1] = torch.nan
    loss = torch.compile(lambda x: ESTIMATORS[name](cost, x, num_samples=4), backend="aot_eager", fullgraph=True)(x)
    assert loss.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    x = torch.randn(3, 2, items(name), requires_grad=True)
    noise = torch.randn(4, *x.shape)

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        return ESTIMATORS[name](lambda z: cost(z).prod(-1), x, num_samples=4, noise=noise)

    eager, compiled = gradient(x), torch.compile(gradient, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(eager, compiled)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), x)[0] for v in (eager, compiled)))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_vmap(name: str) -> None:
    x = torch.randn(3, 2, items(name))
    noise = torch.randn(3, 4, 2, items(name))

    def gradient(x: Tensor, noise: Tensor) -> Tensor:
        return torch.func.grad(lambda x: ESTIMATORS[name](lambda z: cost(z).prod(-1), x, num_samples=4, noise=noise))(x)

    together = torch.vmap(gradient)(x, noise)
    torch.testing.assert_close(together, torch.stack([gradient(*row) for row in zip(x, noise, strict=True)]))


def test_one_step_downhill() -> None:
    """The whole use: a few steps of each estimator lower the expected loss."""
    for name, est in ESTIMATORS.items():
        x = torch.zeros(2, items(name), requires_grad=True)
        start = estimators.exact(lambda z: cost(z).sum(-1), x).item()
        optimizer = torch.optim.SGD([x], lr=0.2)
        for step in range(40):
            optimizer.zero_grad()
            est(lambda z: cost(z).sum(-1), x, num_samples=4, generator=generator(step)).backward()
            optimizer.step()
        assert estimators.exact(lambda z: cost(z).sum(-1), x).item() < start - 0.3, name
