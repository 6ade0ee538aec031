"""Gradients of sampling from a linear layer, under transforms and in compiled code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.choice import Choice
from argumbel.kernels import linear as chunks

from . import oracles
from .heads import DRAW, as_bias, full, generator, layer, set_chunk
from .statistics import check_draws, check_independent
from .strategies import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_those_of_the_full_expression(backend: str, chunks_of_four: None, dtype: torch.dtype) -> None:
    """Without a noise tensor, which would be differentiated too."""
    hidden, weight = layer(6, n=30, dtype=dtype)
    inputs = [hidden, weight, torch.randn(30, dtype=dtype), torch.linspace(0.5, 2, 6)]
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    noise = ag.KeyedNoise(0)
    weights = torch.arange(1.0, 7.0)
    hidden, weight, bias, temperature = ours
    choice = ag.linear_gumbel_max(hidden, weight, bias=bias, temperature=temperature, noise=noise)
    plain = ag.linear_gumbel_max(*inputs[:2], bias=inputs[2], temperature=inputs[3], noise=noise)
    assert torch.equal(choice.values, plain.values)
    assert not choice.indices.requires_grad
    (choice.values * weights).sum().backward()
    (ag.gumbel_max(full(*theirs), noise=noise).values * weights).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    assert not ag.linear_categorical(hidden, weight, noise=noise).requires_grad
    assert not ag.linear_categorical(hidden, weight).requires_grad
    with torch.no_grad():
        assert not ag.linear_gumbel_max(hidden, weight, noise=noise).values.requires_grad


def test_gradcheck(chunks_of_four: None) -> None:
    hidden, weight = (x.requires_grad_() for x in layer(3, d=2, n=9, dtype=torch.float64))
    bias, temperature = torch.randn(9).double().requires_grad_(), torch.tensor([0.5, 0.0, 2.0]).double()
    noise = ag.KeyedNoise(0).gumbel((3, 9), dtype=torch.float64).requires_grad_()

    def values(hidden: Tensor, weight: Tensor, bias: Tensor, noise: Tensor) -> Tensor:
        return ag.linear_gumbel_max(hidden, weight, bias=bias, temperature=temperature, noise=noise).values

    assert torch.autograd.gradcheck(values, (hidden, weight, bias, noise))
    assert torch.autograd.gradgradcheck(values, (hidden, weight, bias, noise))
    own = temperature.clamp(min=0.3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t: ag.linear_gumbel_max(hidden, weight, temperature=t, noise=ag.KeyedNoise(0)).values, own
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_functional_gradients(chunks_of_four: None) -> None:
    hidden, weight = layer(3, n=30)

    def values(hidden: Tensor) -> Tensor:
        return ag.linear_gumbel_max(hidden, weight, temperature=2, noise=ag.KeyedNoise(1)).values

    chosen = weight[ag.linear_gumbel_max(hidden, weight, temperature=2, noise=ag.KeyedNoise(1)).indices] / 2
    torch.testing.assert_close(torch.func.grad(lambda x: values(x).sum())(hidden), chosen)
    own = torch.func.grad(lambda weight, x: ag.linear_gumbel_max(x, weight, noise=ag.KeyedNoise(1)).values)
    each = torch.vmap(own, (None, 0))(weight, hidden)  # of each sample, with respect to the weight
    torch.testing.assert_close(each, torch.stack([own(weight, x) for x in hidden]))
    one = torch.func.grad(lambda x: values(x[None]).sum())
    torch.testing.assert_close(torch.vmap(one)(hidden), torch.stack([one(x) for x in hidden]))
    tangent = torch.func.jvp(values, (hidden,), (torch.ones_like(hidden),))[1]
    torch.testing.assert_close(tangent, chosen.sum(-1))


@pytest.mark.parametrize("name", DRAW)
def test_vmap(chunks_of_four: None, name: str) -> None:
    hidden, weight = layer(4, 3, n=30, dtype=torch.float64)
    noise = ag.KeyedNoise(1)
    mapped = torch.vmap(lambda x: DRAW[name](x, weight, noise=noise))(hidden)
    assert torch.equal(mapped, torch.stack([DRAW[name](x, weight, noise=noise) for x in hidden]))
    x = torch.zeros(3, 6)
    x[:, 2] = -torch.inf
    draw = torch.vmap(lambda i: DRAW[name](*as_bias(x[0]), bias=x[0] + 0 * i), randomness="different")
    indices, p = draw(torch.arange(4000)), oracles.softmax(x[0])
    check_draws(indices, p)
    check_independent(indices[:-1], indices[1:], p, p)


@pytest.mark.parametrize("temperature", [0.5, torch.tensor([0.5, 0.0, 1.0, 2.0, 0.7, 0.0])])
def test_compiled_choices_are_the_eager_ones(
    backend: str, monkeypatch: pytest.MonkeyPatch, temperature: float | Tensor
) -> None:
    torch._dynamo.reset()
    set_chunk(monkeypatch, 16)

    def choose(hidden: Tensor, weight: Tensor, seed: Tensor) -> Choice:
        return ag.linear_gumbel_max(hidden, weight, temperature=temperature, noise=ag.KeyedNoise(seed))

    compiled = torch.compile(choose, fullgraph=True, backend="aot_eager")
    hidden, weight = layer(6, n=17)
    for seed in (3, -4):
        ours, eager = (f(hidden, weight, torch.tensor(seed)) for f in (compiled, choose))
        assert torch.equal(ours.indices, eager.indices)
        assert torch.equal(ours.values, eager.values)
    hidden.requires_grad_()
    grads = [
        torch.autograd.grad(f(hidden, weight, torch.tensor(3)).values.sum(), hidden)[0] for f in (compiled, choose)
    ]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", DRAW)
def test_compiled_draws_have_the_law(backend: str, chunks_of_four: None, name: str) -> None:
    torch._dynamo.reset()
    x = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf, 0.5])
    compiled = torch.compile(DRAW[name], fullgraph=True, backend="aot_eager")
    first, second = (compiled(*as_bias(x, 5000), bias=x) for _ in range(2))
    check_draws(torch.cat([first, second]), oracles.softmax(x))
    check_independent(first, second, oracles.softmax(x), oracles.softmax(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_by_inductor_for_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(chunks, "CHUNK_ITEMS", 16)
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 256)
    weight = layer(1, n=64)[1]
    noise = ag.KeyedNoise(0)
    draw = lambda x: ag.linear_gumbel_max(x, weight, noise=noise).indices  # noqa: E731
    compilations = 0

    def counted(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    compiled = torch.compile(draw, fullgraph=True, backend=counted, dynamic=True)
    for rows in (2, 3, 4, 5, 6, 8, 9, 12, 16, 17, 40, 100):
        hidden = torch.randn(rows, 8, generator=generator(rows))
        assert torch.equal(compiled(hidden), draw(hidden))
    assert compilations == 1  # the operation is opaque, whatever its chunks
    torch._dynamo.reset()
    hidden = hidden[:8]  # two chunks
    assert torch.equal(torch.compile(draw, fullgraph=True)(hidden), draw(hidden))
