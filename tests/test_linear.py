"""Sampling from a linear layer by chunks and by shards: the choice of the whole, its law, and a chunk in memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import argumbel as ag
from argumbel.choice import Choice
from argumbel.kernels import linear as chunks
from argumbel.linear._merge import _merge

from . import oracles
from .statistics import check_cdf, check_draws, check_frequency, check_independent
from .strategies import DTYPES, logits, seeds

DRAW: dict[str, Callable[..., Tensor]] = {
    "linear_categorical": ag.linear_categorical,
    "linear_gumbel_max": lambda *layer, **own: ag.linear_gumbel_max(*layer, **own).indices,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layer(*rows: int, d: int = 8, n: int = 100, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """hidden and weight, in numbers that half precision holds."""
    g = generator(n)
    return tuple(torch.randn(shape, generator=g).to(torch.float16).to(dtype) for shape in ((*rows, d), (n, d)))


def full(hidden: Tensor, weight: Tensor, bias: Tensor | None = None, temperature: float | Tensor = 1) -> Tensor:
    """All the logits."""
    work = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    x = functional.linear(hidden.to(work), weight.to(work), None if bias is None else bias.to(work))
    return x / (temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature)


def as_bias(x: Tensor, *rows: int) -> tuple[Tensor, Tensor]:
    """A layer without features: its logits are its bias, to the bit, in all rows."""
    return torch.zeros(*rows, 0, dtype=x.dtype), torch.zeros(len(x), 0, dtype=x.dtype)


@pytest.fixture(params=[4, 32, None], ids=lambda size: f"chunks of {size}")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Chunks of so many items whatever the number of rows (None: as it is)."""
    if request.param is not None:
        set_chunk(monkeypatch, request.param)
    return request.param


def set_chunk(monkeypatch: pytest.MonkeyPatch, items: int) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ITEMS", items)
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", 0)


@pytest.fixture
def chunks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch, 4)


# --- the keyed promise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(), (1,), (37,), (2, 5)])
def test_the_choice_is_that_of_all_logits(
    backend: str, chunk: int | None, dtype: torch.dtype, rows: tuple[int, ...]
) -> None:
    hidden, weight = layer(*rows, dtype=dtype)
    bias = torch.randn(100, generator=generator())
    bias[3:9] = -torch.inf
    each = torch.linspace(0.5, 2, math.prod(rows)).reshape(rows)
    for temperature in (1, 0.7, torch.tensor(1.5), each):
        for own in (None, bias):
            noise = ag.KeyedNoise(5)
            ours = ag.linear_gumbel_max(hidden, weight, bias=own, temperature=temperature, noise=noise)
            expected = ag.gumbel_max(full(hidden, weight, own, temperature), noise=noise)
            assert isinstance(ours, Choice)
            assert torch.equal(ours.indices, expected.indices)
            torch.testing.assert_close(ours.values, expected.values)  # the dtype too: float32 for half precision
            drawn = ag.linear_categorical(hidden, weight, bias=own, temperature=temperature, noise=noise)
            assert torch.equal(drawn, ours.indices)


@given(x=logits(batch=st.just(())), seed=seeds, rows=st.integers(0, 3), size=st.sampled_from([1, 2, 4]))
def test_the_choice_to_the_bit(x: Tensor, seed: int, rows: int, size: int) -> None:
    """Awkward logits, ties and forbidden chunks among them, without the rounding of a product."""
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    with pytest.MonkeyPatch.context() as patch:
        set_chunk(patch, size)
        for noise in (ag.KeyedNoise(seed), ag.KeyedNoise(seed).gumbel((rows, len(x)), dtype=work)):
            ours = ag.linear_gumbel_max(*as_bias(x, rows), bias=x, noise=noise)
            expected = ag.gumbel_max(x.to(work).expand(rows, -1), noise=noise)
            assert torch.equal(ours.values, expected.values)
            assert torch.equal(ours.indices, expected.indices)


def test_chunks_do_not_matter(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = layer(50, n=5000)
    noise = ag.KeyedNoise(-2)
    expected = ag.linear_gumbel_max(hidden, weight, noise=noise)
    for size in (64, 1024, 4096):
        set_chunk(monkeypatch, size)
        ours = ag.linear_gumbel_max(hidden, weight, noise=noise)
        assert torch.equal(ours.indices, expected.indices)
        torch.testing.assert_close(ours.values, expected.values)


def test_rows_and_items_by_ids(backend: str, chunks_of_four: None) -> None:
    hidden, weight = layer(6, n=21, dtype=torch.float64)
    rows, ids = torch.tensor([9, 2, 2**40, 7, -1, 0]), torch.arange(21) * 3 - 9
    noise = ag.KeyedNoise(4, rows=rows, items=ids)
    expected = ag.gumbel_max(full(hidden, weight), noise=noise)
    assert torch.equal(ag.linear_gumbel_max(hidden, weight, noise=noise).indices, expected.indices)
    each = ag.KeyedNoise(4, items=ids + torch.arange(6)[:, None])  # ids of each row's own
    expected = ag.gumbel_max(full(hidden, weight), noise=each)
    assert torch.equal(ag.linear_gumbel_max(hidden, weight, noise=each).indices, expected.indices)


def test_half_precision_is_not_rounded_to_half(backend: str) -> None:
    """4096 products that are 256 or 257, which bfloat16 cannot tell apart."""
    rows = 2000 if backend == "native" else 400
    hidden = torch.ones(rows, 2, dtype=torch.bfloat16)
    weight = torch.stack([torch.full((4096,), 256.0), torch.arange(4096) % 2], -1).bfloat16()
    indices = ag.linear_gumbel_max(hidden, weight, generator=generator()).indices
    check_draws(indices % 2, oracles.softmax(torch.tensor([0.0, 1.0])))
    check_frequency(int((indices < 2048).sum()), rows, 0.5)
    indices = ag.linear_categorical(hidden, weight, generator=generator())
    check_draws(indices % 2, oracles.softmax(torch.tensor([0.0, 1.0])))


def test_autocast_does_not_round_either() -> None:
    hidden, weight = layer(50)
    noise = ag.KeyedNoise(1)
    expected = ag.linear_gumbel_max(hidden, weight, noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ag.linear_gumbel_max(hidden, weight, noise=noise).values, expected.values)


# --- law ---------------------------------------------------------------------------------------------------------


MIXED = [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)]


@pytest.mark.parametrize(("dtype", "of_weight"), MIXED)
def test_mixed_dtypes_under_autocast_are_those_of_torch(
    backend: str, chunks_of_four: None, dtype: torch.dtype, of_weight: torch.dtype
) -> None:
    """Both are rounded to autocast's dtype, as ``linear`` of torch rounds them; the logits are not rounded."""
    hidden, weight = layer(6, n=50)
    hidden, weight, bias = hidden.to(dtype), weight.to(of_weight), torch.randn(50)
    noise = ag.KeyedNoise(3)
    rounded = full(hidden.bfloat16().float(), weight.bfloat16().float(), bias, 0.7)
    expected = ag.gumbel_max(rounded, noise=noise)

    def draw(g: torch.Generator) -> Tensor:
        return ag.linear_categorical(hidden, weight, bias=bias, temperature=0.7, generator=g)

    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.nn.functional.linear(hidden, weight, bias)
        choice = ag.linear_gumbel_max(hidden, weight, bias=bias, temperature=0.7, noise=noise)
        keyed = ag.linear_categorical(hidden, weight, bias=bias, temperature=0.7, noise=noise)
        drawn = draw(generator())
        compiled = torch.compile(draw, backend="eager")(generator())
    torch.testing.assert_close(rounded * 0.7, logits.float(), rtol=0.02, atol=0.05)
    torch.testing.assert_close(choice.values, expected.values)
    assert torch.equal(choice.indices, expected.indices)
    assert torch.equal(keyed, expected.indices)
    same = ag.linear_categorical(
        hidden.bfloat16(), weight.bfloat16(), bias=bias, temperature=0.7, generator=generator()
    )
    assert torch.equal(drawn, same)
    assert torch.equal(compiled, same)
    for name in ("linear_gumbel_max", "linear_categorical"):
        with pytest.raises(TypeError, match="weight must have the dtype of hidden"):
            getattr(ag, name)(hidden, weight)
        with pytest.raises(TypeError, match="weight must have the dtype of hidden"), torch.autocast("cpu"):
            getattr(ag, name)(hidden.double(), weight)


def test_law_of_mixed_dtypes_under_autocast(backend: str, chunks_of_four: None) -> None:
    hidden, weight = layer(d=4, n=10)
    hidden, weight = hidden.bfloat16(), weight / 2
    rounded = full(hidden.float(), weight.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        drawn = ag.linear_categorical(hidden.expand(20_000, 4), weight, generator=generator())
    check_draws(drawn, oracles.softmax(rounded))


def test_gradients_of_mixed_dtypes_under_autocast() -> None:
    """In the dtypes of the arguments; summed in float32 for a float32 weight, however many rows an item wins."""
    hidden = torch.ones(1000, 2, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[30.0, 1.0], [0.0, 0.0]], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        values = ag.linear_gumbel_max(hidden, weight, noise=ag.KeyedNoise(0)).values
    values.sum().backward()
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(weight.grad, torch.tensor([[1000.0, 1000.0], [0.0, 0.0]]))
    assert torch.equal(hidden.grad, torch.tensor([30.0, 1.0]).bfloat16().expand(1000, 2))


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("dtype", DTYPES)
def test_law(backend: str, chunk: int | None, name: str, dtype: torch.dtype) -> None:
    hidden, weight = layer(1, d=4, n=50, dtype=dtype)
    bias = torch.randn(50, generator=generator(1))
    bias[[0, 5, 49]] = -torch.inf
    bias[8:16] = -torch.inf  # chunks that allow nothing
    indices = DRAW[name](hidden.expand(20_000, 4), weight, bias=bias, temperature=1.5, generator=generator())
    assert indices.dtype == torch.int64
    check_draws(indices, oracles.softmax(full(hidden[0], weight, bias, 1.5)))


@pytest.mark.parametrize("name", DRAW)
def test_law_with_a_temperature_for_each_row(backend: str, chunk: int | None, name: str) -> None:
    hidden, weight = layer(1, d=4, n=30)
    temperature = torch.tensor([0.5, 1.0, 3.0, 0.0]).repeat(8000)
    indices = DRAW[name](hidden.expand(32_000, 4), weight, temperature=temperature, generator=generator())
    for i, t in enumerate((0.5, 1.0, 3.0)):
        check_draws(indices[i::4], oracles.softmax(full(hidden[0], weight, None, t)))
    assert (indices[3::4] == full(hidden[0], weight).argmax()).all()


@pytest.mark.parametrize("name", DRAW)
def test_law_of_logits_hundreds_apart(backend: str, chunks_of_four: None, name: str) -> None:
    """All but two items, in chunks apart, are hopeless; these two share the draws."""
    x = torch.full((37,), -500.0)
    x[0], x[-1] = 400.0, 401.0
    check_draws(DRAW[name](*as_bias(x, 2000), bias=x, generator=generator()), oracles.softmax(x))


def test_items_17_below_are_drawn_as_often_as_they_should(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 in 24 million each against the leader: those of its own chunk, and those of others."""
    gap, half, rows, calls = (17.0, 1 << 16, 64, 128) if backend == "native" else (11.0, 1 << 12, 100, 3)
    set_chunk(monkeypatch, half)
    x = torch.full((2 * half,), -gap)
    x[7] = 0.0
    found = torch.cat([ag.linear_categorical(*as_bias(x, rows), bias=x, generator=generator(i)) for i in range(calls)])
    assert rows * calls * half * math.exp(-gap) > 15  # so that none at all would fail
    total = 2 * half - 1 + math.exp(gap)
    check_frequency(int(((found < half) & (found != 7)).sum()), rows * calls, (half - 1) / total)
    check_frequency(int((found >= half).sum()), rows * calls, half / total)


def test_values_are_gumbel_at_logsumexp(backend: str, chunks_of_four: None) -> None:
    hidden, weight = layer(1, d=4, n=30)
    values = ag.linear_gumbel_max(hidden.expand(20_000, 4), weight, generator=generator()).values
    check_cdf(values, lambda v: oracles.gumbel_cdf(v - oracles.logsumexp(full(hidden[0], weight))))


# --- independence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAW)
def test_the_chunk_and_the_item_inside_are_independent(backend: str, chunks_of_four: None, name: str) -> None:
    chunks, items = torch.tensor([0.0, 1.0, -0.5, 0.3, 0.2]), torch.tensor([0.3, -0.2, 0.9, 0.0])
    x = (chunks[:, None] + items).flatten()
    indices = DRAW[name](*as_bias(x, 30_000), bias=x, generator=generator())
    check_independent(indices // 4, indices % 4, oracles.softmax(chunks), oracles.softmax(items))


@pytest.mark.parametrize("name", DRAW)
def test_rows_and_calls_are_independent(backend: str, chunks_of_four: None, name: str) -> None:
    x = torch.tensor([0.3, -0.2, 0.9, 0.0, 0.1, 0.4, -0.6, 0.8, 0.2])
    g, p = generator(2), oracles.softmax(x)
    first, second = (DRAW[name](*as_bias(x, 20_000), bias=x, generator=g) for _ in range(2))
    check_independent(first, second, p, p)
    for lag in (1, 2, 4):
        check_independent(first[:-lag], first[lag:], p, p)


def test_draws_inside_different_chunks_are_independent(backend: str, chunks_of_four: None) -> None:
    """What a chunk would have drawn had it won must not be told by another chunk's draw: two calls under one seed, in
    which one chunk and then the other is all there is."""
    a, b = torch.full((8,), -torch.inf), torch.full((8,), -torch.inf)
    a[:4] = b[4:] = torch.tensor([0.3, -0.2, 0.9, 0.0])
    left, right = (ag.linear_categorical(*as_bias(x, 20_000), bias=x, generator=generator(3)) for x in (a, b))
    p = oracles.softmax(a[:4])
    check_independent(left, right - 4, p, p)


# --- temperature 0 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("temperature", [0, 0.0, 1e-40, torch.tensor(0.0), torch.zeros(40).half(), torch.tensor(1e-40)])
def test_temperature_zero_is_the_argmax(backend: str, chunk: int | None, name: str, temperature: float) -> None:
    hidden, weight = layer(40, dtype=torch.float64)
    indices = DRAW[name](hidden, weight, temperature=temperature)
    assert torch.equal(indices, full(hidden, weight).argmax(-1))
    ties = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert (DRAW[name](*as_bias(ties, 40), bias=ties, temperature=temperature) == 1).all()


def test_values_at_temperature_zero_are_logits(backend: str, chunks_of_four: None) -> None:
    hidden, weight = layer(4, n=30, dtype=torch.float64)
    temperature = torch.tensor([0.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    noise = ag.KeyedNoise(1)
    values, indices = ag.linear_gumbel_max(hidden, weight, temperature=temperature, noise=noise)
    best = full(hidden, weight).max(-1)
    warm = ag.gumbel_max(full(hidden, weight, None, temperature.clamp(min=0.5)), noise=noise)
    torch.testing.assert_close(values[::2], best.values[::2])
    assert torch.equal(indices[::2], best.indices[::2])
    torch.testing.assert_close(values[1::2], warm.values[1::2])
    torch.testing.assert_close(ag.linear_gumbel_max(hidden, weight, temperature=0).values, best.values)


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize(
    ("rows", "d", "dtype", "sizes"),
    [
        (1, 4, torch.float32, {1 << 16}),  # all at once: few enough
        (64, 4, torch.float32, {1 << 14}),
        (64, 4, torch.bfloat16, {1 << 14}),
        (2, 2048, torch.bfloat16, {1 << 10}),  # here the float32 copy of the weight is what counts
        (2000, 4, torch.float32, {1 << 10}),
        (0, 4, torch.float32, {1 << 16}),
    ],
)
def test_no_more_than_a_chunk_of_logits(
    monkeypatch: pytest.MonkeyPatch, name: str, rows: int, d: int, dtype: torch.dtype, sizes: set[int]
) -> None:
    made: list[int] = []
    plain = functional.linear

    def counted(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = plain(hidden, weight, bias)
        made.append(out.shape[-1])
        assert out.numel() <= max(chunks.CHUNK_LOGITS, rows * chunks.CHUNK_ITEMS)
        assert dtype == torch.float32 or weight.numel() <= max(chunks.CHUNK_LOGITS, d * chunks.CHUNK_ITEMS)
        return out

    monkeypatch.setattr(functional, "linear", counted)
    DRAW[name](torch.zeros(rows, d, dtype=dtype), torch.zeros(1 << 16, d, dtype=dtype))
    assert set(made) == sizes
    assert sum(made) == 1 << 16


# --- conventions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("rows", [(0,), (2, 0, 3), (3, 1)])
def test_shapes(backend: str, chunks_of_four: None, name: str, rows: tuple[int, ...]) -> None:
    for n in (1, 9):
        for d in (0, 3):
            indices = DRAW[name](torch.zeros(*rows, d), torch.zeros(n, d))
            assert indices.shape == rows
            assert n > 1 or not indices.any()


@pytest.mark.parametrize("name", DRAW)
def test_views_choose_as_copies_do(backend: str, chunks_of_four: None, name: str) -> None:
    hidden, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, 30, dtype=torch.float64)
    bias = torch.randn(60)
    views = DRAW[name](hidden[::2], weight.T, bias=bias[::2], generator=generator())
    copies = DRAW[name](hidden[::2].clone(), weight.T.contiguous(), bias=bias[::2].contiguous(), generator=generator())
    assert torch.equal(views, copies)


@pytest.mark.parametrize("name", DRAW)
def test_generators(backend: str, name: str) -> None:
    x = torch.zeros(3000)
    g = generator(4)
    first, second = (DRAW[name](*as_bias(x, 50), bias=x, generator=g) for _ in range(2))
    assert not torch.equal(first, second)
    after = g.get_state()
    g.manual_seed(4)
    assert torch.equal(DRAW[name](*as_bias(x, 50), bias=x, generator=g), first)
    g.manual_seed(4)
    for _ in range(2):
        torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=g)
    assert torch.equal(g.get_state(), after)  # one 64-bit seed a call, however many chunks
    torch.manual_seed(4)
    third = DRAW[name](*as_bias(x, 50), bias=x)
    torch.manual_seed(4)
    assert torch.equal(DRAW[name](*as_bias(x, 50), bias=x), third)


# --- gradients and transforms ------------------------------------------------------------------------------------


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


# --- errors ------------------------------------------------------------------------------------------------------

H, W, B = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(5)
NAN, INF = torch.full((2, 3), torch.nan), torch.full((5,), torch.inf)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize(
    ("own", "error", "match"),
    [
        ({"hidden": [[1.0]]}, TypeError, "hidden must be a floating tensor, but it is a list"),
        ({"hidden": H.long()}, TypeError, "hidden must be a floating tensor, but it is torch.int64"),
        ({"weight": W.long()}, TypeError, "weight must be a floating tensor"),
        ({"bias": B.long()}, TypeError, "bias must be a floating tensor"),
        ({"hidden": torch.tensor(1.0)}, ValueError, "hidden must have at least one dimension"),
        ({"weight": W.T}, ValueError, "weight must have a row for each item.*features.*its shape is"),
        ({"weight": W[0]}, ValueError, "weight must have a row"),
        ({"weight": W[:0]}, ValueError, "weight must have a row for each item, at least one"),
        ({"weight": W.double()}, TypeError, "weight must have the dtype of hidden, torch.float32"),
        ({"weight": W.to("meta")}, ValueError, "weight must be on the device of hidden, cpu, but it is on meta"),
        ({"bias": B[:4]}, ValueError, r"bias must have a number for each item, the shape \(5,\)"),
        ({"bias": B[:, None]}, ValueError, "bias must have a number"),
        ({"temperature": "1"}, TypeError, "temperature must be a number or a tensor"),
        ({"temperature": -1}, ValueError, "temperature must be at least 0 and finite, but it is -1"),
        ({"temperature": math.nan}, ValueError, "temperature must be at least 0"),
        ({"temperature": math.inf}, ValueError, "temperature must be at least 0 and finite"),
        (
            {"temperature": torch.tensor([1.0, -1.0])},
            ValueError,
            "temperature must be at least 0 and finite everywhere",
        ),
        ({"temperature": torch.tensor([1.0, math.nan])}, ValueError, "everywhere"),
        ({"temperature": torch.tensor([1.0, math.inf])}, ValueError, "everywhere"),
        ({"temperature": torch.ones(5)}, ValueError, r"temperature must be one number, or a tensor.*\(2,\)"),
        ({"temperature": torch.ones(2, 1)}, ValueError, "temperature must be one number, or a tensor with a number"),
        ({"hidden": NAN}, ValueError, "hidden must be finite"),
        ({"weight": NAN[:1].expand(5, 3)}, ValueError, "weight must be finite"),
        ({"bias": INF}, ValueError, r"bias must not be NaN or \+inf"),
        ({"bias": -INF}, ValueError, "bias must allow at least one item"),
        (
            {"hidden": H + 1e30, "weight": W + 1e30},
            ValueError,
            "logits.*must be finite in torch.float32, but some over",
        ),
        ({"noise": 3}, TypeError, "noise must be a tensor or an argumbel.KeyedNoise"),
        ({"noise": torch.zeros(5)}, ValueError, r"noise must have the shape \(2, 5\)"),
        ({"noise": torch.full((2, 5), torch.nan)}, ValueError, "noise must be finite"),
        ({"noise": ag.KeyedNoise(0), "generator": generator()}, ValueError, "both are given"),
        ({"noise": torch.zeros(2, 5), "generator": generator()}, ValueError, "both are given"),
        ({"noise": ag.KeyedNoise(0, items=range(4))}, ValueError, "items must give one id per item"),
        ({"noise": ag.KeyedNoise(0, rows=range(4))}, ValueError, "rows must give one id per row"),
    ],
)
def test_errors(
    backend: str, chunks_of_four: None, name: str, own: dict[str, object], error: type[Exception], match: str
) -> None:
    own = dict(own)
    hidden, weight = own.pop("hidden", H), own.pop("weight", W)
    with pytest.raises(error, match=match):
        DRAW[name](hidden, weight, **own)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_rows_are_marked_where_they_may_not_be_looked_at(
    backend: str, chunks_of_four: None, name: str, bad: float
) -> None:
    """In the middle of the vocabulary: the chunks after it must not hide it."""
    hidden, weight = torch.tensor([[0.0], [1.0]]), torch.zeros(12, 1)
    weight[5] = bad
    expected = [True, bad != -math.inf]  # 0 * inf is NaN, but -inf forbids an item
    draw = torch.vmap(lambda x, w, b: DRAW[name](x, w, bias=b), (0, None, None), randomness="different")
    assert (draw(hidden, weight, torch.zeros(12)) == -1).tolist() == expected
    assert (draw(hidden, torch.zeros(12, 1), torch.full((12,), -torch.inf)) == -1).all()
    values = torch.vmap(lambda x: ag.linear_gumbel_max(x, weight, noise=ag.KeyedNoise(0)).values)(hidden)
    assert values.isnan().tolist() == expected


@pytest.mark.parametrize("name", DRAW)
def test_bad_rows_are_marked_in_compiled_code(chunks_of_four: None, name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(DRAW[name], fullgraph=True, backend="aot_eager")
    hidden, weight, bias = torch.tensor([[0.0], [1.0]]), torch.zeros(9, 1), torch.zeros(9)
    assert (compiled(hidden, weight, bias=bias) >= 0).all()
    for bad, expected in ((math.nan, [True, True]), (math.inf, [True, True]), (-math.inf, [True, False])):
        weight[5] = bad
        assert (compiled(hidden, weight, bias=bias) == -1).tolist() == expected
    assert (compiled(hidden, torch.zeros(9, 1), bias=torch.full((9,), -torch.inf)) == -1).all()


def test_meta_tensors_have_shapes() -> None:
    hidden, weight = torch.zeros(2, 3, device="meta"), torch.zeros(9, 3, device="meta")
    assert ag.linear_gumbel_max(hidden, weight).values.shape == (2,)
    assert ag.linear_categorical(hidden, weight, temperature=torch.ones(2)).shape == (2,)


# --- shards ------------------------------------------------------------------------------------------------------


@given(x=logits(batch=st.just(()), dtypes=(torch.float32, torch.float64)), seed=seeds, data=st.data())
def test_shards_choose_as_the_whole(x: Tensor, seed: int, data: st.DataObject) -> None:
    """Items dealt out to shards in any way; one may allow nothing, and then passes -inf."""
    n, rows = len(x), 3
    shard = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    winners = []
    for k in range(3):
        ids = (shard == k).nonzero().flatten()
        if not bool((x[ids] > -torch.inf).any()):
            winners.append(Choice(torch.full((rows,), -torch.inf, dtype=x.dtype), torch.full((rows,), -1)))
            continue
        noise = ag.KeyedNoise(seed, items=ids)
        own = ag.linear_gumbel_max(*as_bias(x[ids], rows), bias=x[ids], noise=noise)
        winners.append(Choice(own.values, ids[own.indices]))
    merged = _merge(*(torch.stack(part) for part in zip(*winners, strict=True)))
    whole = ag.gumbel_max(x.expand(rows, n), noise=ag.KeyedNoise(seed))
    assert torch.equal(merged.values, whole.values)
    assert torch.equal(merged.indices, whole.indices)


def test_ties_go_to_the_lowest_id_and_bad_rows_stay_bad() -> None:
    values = torch.tensor([[1.0, 2.0, torch.nan, 1.0, -torch.inf], [1.0, 3.0, 1.0, torch.inf, -torch.inf]])
    indices = torch.tensor([[7, 7, -1, 0, -1], [4, 1, 8, 1, -1]])
    best = _merge(values, indices)
    torch.testing.assert_close(best.values, torch.tensor([1.0, 3.0, *[torch.nan] * 3]), equal_nan=True)
    assert best.indices.tolist() == [4, 1, -1, -1, -1]


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sixteen_bytes_a_row_in_one_exchange(
    alone: None, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    sent: list[Tensor] = []
    plain = dist.all_gather
    monkeypatch.setattr(dist, "all_gather", lambda out, x, **own: (sent.append(x), plain(out, x, **own)))
    values, ids = torch.randn(shape, dtype=dtype), torch.randint(-(1 << 62), 1 << 62, shape)
    best = ag.merge_winners(values.requires_grad_(), ids)
    assert torch.equal(best.values, values)
    assert torch.equal(best.indices, ids)
    assert best.values.dtype == dtype
    assert not best.values.requires_grad
    (packed,) = sent
    assert packed.numel() * packed.element_size() == 16 * values.numel()


PROCESS = """
import json, sys
from datetime import timedelta
import torch, torch.distributed as dist, argumbel as ag

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2, timeout=timedelta(seconds=60))
g = torch.Generator().manual_seed(0)
hidden, weight = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((40, 6), (500, 6)))
noise = ag.KeyedNoise(seed=3, items=range(500))
whole = ag.linear_gumbel_max(hidden, weight, noise=noise)
ids = torch.arange(rank, 500, 2)
own = ag.linear_gumbel_max(hidden, weight[ids], noise=ag.KeyedNoise(seed=3, items=ids))
merged = ag.merge_winners(own.values, ids[own.indices])
assert torch.equal(merged.indices, whole.indices)
torch.testing.assert_close(merged.values, whole.values)
values = own.values.clone()
values[rank] = torch.nan
marked = ag.merge_winners(values, ids[own.indices])
out = {"indices": merged.indices.tolist(), "marked": marked.indices.tolist(), "values": merged.values.tolist()}
dist.barrier()
dist.destroy_process_group()
print(json.dumps(out))
"""


def test_two_processes_agree(tmp_path: Path) -> None:
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the name of this machine resolves to
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], [error for _, error in results]
    first, second = (json.loads(out) for out, _ in results)
    assert first == second
    assert {i % 2 for i in first["indices"]} == {0, 1}  # both had winners
    assert first["marked"] == [-1, -1, *first["indices"][2:]]


def test_errors_of_merging() -> None:
    values, indices = torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group in each process first"):
        ag.merge_winners(values, indices)
    with pytest.raises(TypeError, match=r"values must be a float32 or float64 tensor.*bfloat16"):
        ag.merge_winners(values.bfloat16(), indices)
    with pytest.raises(TypeError, match=r"values must be a float32 or float64 tensor.*list"):
        ag.merge_winners([0.0], indices)
    with pytest.raises(TypeError, match=r"indices must be an int64 tensor.*int32"):
        ag.merge_winners(values, indices.int())
    with pytest.raises(ValueError, match="indices must have the shape and device of values"):
        ag.merge_winners(values, indices[:2])
    with pytest.raises(ValueError, match="indices must have the shape and device of values"):
        ag.merge_winners(values, indices.to("meta"))
