"""What all posterior draws share: dim, mask, noise and generator, transforms, compiled code and errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.reverse import (
    condition_max,
    inverse_cdf_gumbel,
    posterior_gumbel,
    posterior_gumbel_subset,
    posterior_gumbel_topk,
    posterior_noise,
    top_down,
)

from .posteriors import GIVEN, KNOWN
from .test_reverse_moves import TREES

# --- conventions -------------------------------------------------------------------------------------------------

SHARED: dict[str, Callable[..., Tensor]] = {
    **GIVEN,
    "noise": lambda x, order, dim=-1, **own: posterior_noise(x, order.select(dim, 0), dim=dim, **own),
    "top_down": lambda x, order, dim=-1, **own: top_down(x, dim=dim, **own),
    "inverse_cdf": lambda x, order, dim=-1, **own: (
        inverse_cdf_gumbel(x, order.select(dim, 0).to(x.dtype) / x.shape[dim], dim=dim, **own).values
    ),
}


def some(
    shape: tuple[int, ...] = (3, 4, 5), dim: int = -1, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    x = torch.randn(shape, dtype=dtype)
    return x, torch.rand(shape).argsort(dim)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", SHARED)
def test_any_dim(name: str, dim: int) -> None:
    x, order = some(dim=dim)
    ours = SHARED[name](x, order, dim=dim, noise=ag.KeyedNoise(1))
    theirs = SHARED[name](x.movedim(dim, -1), order.movedim(dim, -1), noise=ag.KeyedNoise(1))
    assert torch.equal(ours.movedim(dim, -1), theirs)


@pytest.mark.parametrize("name", SHARED)
def test_a_mask_is_minus_infinity(name: str) -> None:
    x, order = some()
    mask = torch.ones(4, 5, dtype=torch.bool)
    if KNOWN.get(name, 1) < 4:
        mask[2, 3] = False
        order = torch.where(order[..., 2:3, :].expand_as(order) == 3, order, order)
        order = torch.tensor([0, 1, 2, 4, 3]).expand(3, 4, 5)
    masked = SHARED[name](x, order, mask=mask, noise=ag.KeyedNoise(1))
    assert torch.equal(masked, SHARED[name](x.masked_fill(~mask, -torch.inf), order, noise=ag.KeyedNoise(1)))


@pytest.mark.parametrize("name", SHARED)
def test_the_doors_of_noise(name: str) -> None:
    x, order = some((30, 5))
    shape = (30, 6) if name == "top_down" else (30, 5)
    by_key = SHARED[name](x, order, noise=ag.KeyedNoise(7))
    torch.testing.assert_close(SHARED[name](x, order, noise=ag.KeyedNoise(7).gumbel(shape)), by_key)
    shard = SHARED[name](x[10:20], order[10:20], noise=ag.KeyedNoise(7, rows=range(10, 20)))
    torch.testing.assert_close(shard, by_key[10:20])
    a, b, c = (SHARED[name](x, order, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(SHARED[name](x, order), SHARED[name](x, order))


@pytest.mark.parametrize("name", [name for name in SHARED if name not in ("a set of one", "a set of three", "nothing")])
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    x, order = some((6, 5))
    compiled = torch.compile(
        lambda y, seed: SHARED[name](y, order, noise=ag.KeyedNoise(seed)), fullgraph=True, backend="aot_eager"
    )
    for seed in (3, -4):
        torch.testing.assert_close(compiled(x, torch.tensor(seed)), SHARED[name](x, order, noise=ag.KeyedNoise(seed)))


def test_compiled_condition_max_and_tree() -> None:
    torch._dynamo.reset()
    x = torch.randn(6, 4)
    compiled = torch.compile(condition_max, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, torch.ones(6)), condition_max(x, torch.ones(6)))
    parents = tuple(TREES["pairs"])
    tree = torch.compile(
        lambda y, seed: top_down(y, parents, noise=ag.KeyedNoise(seed)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(tree(x, torch.tensor(2)), top_down(x, parents, noise=ag.KeyedNoise(2)))


@pytest.mark.parametrize("name", SHARED)
def test_vmapped(name: str) -> None:
    x, order = some((6, 3, 5))
    noise = ag.KeyedNoise(0).gumbel((6, 3, 6) if name == "top_down" else (6, 3, 5))
    mapped = torch.vmap(lambda y, o, g: SHARED[name](y, o, noise=g))(x, order, noise)
    torch.testing.assert_close(mapped, SHARED[name](x, order, noise=noise))
    fresh = torch.vmap(SHARED[name], randomness="different")(x[:1].expand(2, 3, 5), order[:1].expand(2, 3, 5))
    assert not torch.equal(fresh[0], fresh[1])


def test_bad_rows_are_marked_where_they_may_not_be_looked_at() -> None:
    x = torch.zeros(5, 3)
    x[0, 1], x[1], x[2, 0] = math.nan, -math.inf, math.inf
    index = torch.tensor([0, 0, 1, 3, 2])
    for name in ("the winner", "the first", "a set of one", "noise"):
        marked = torch.vmap(lambda y, i, n=name: SHARED[n](y, i, noise=torch.zeros(3)))(x, index.unsqueeze(-1))
        assert marked[:4].isnan().all(), name
        assert marked[4].isfinite().all(), name
    zeros = torch.zeros(3)
    values = torch.vmap(lambda i, v: posterior_gumbel(zeros, i, value=v, noise=zeros))(
        index[:2], torch.tensor([math.inf, 0.0])
    )
    assert values[0].isnan().all()
    assert values[1].isfinite().all()
    twice = torch.vmap(lambda i: posterior_gumbel_topk(zeros, i, noise=zeros))(torch.tensor([[1, 1], [1, 2]]))
    assert twice[0].isnan().all()
    assert twice[1].isfinite().all()
    values, winner = torch.vmap(lambda y: inverse_cdf_gumbel(y, torch.tensor(0.5), noise=zeros))(x)
    assert winner[:3].tolist() == [-1, -1, -1]
    assert winner[4] >= 0
    assert values[:3].isnan().all()
    values, winner = torch.vmap(lambda u: inverse_cdf_gumbel(zeros, u, noise=zeros))(torch.tensor([1.0, 0.0]))
    assert winner.tolist() == [-1, 0]
    assert values[0].isnan().all()
    moved = torch.vmap(condition_max)(x, torch.tensor([0.0, 0.0, 0.0, math.nan, 0.0]))
    assert moved[:4].isnan().all()
    assert moved[4].isfinite().all()
    assert torch.vmap(lambda y: top_down(y, noise=torch.zeros(4)))(x)[:3].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("known", [False, True])
def test_compiled_an_index_out_of_range_marks_its_row(dtype: torch.dtype, known: bool) -> None:
    """The backward pass raised an IndexError."""
    torch._dynamo.reset()
    index = torch.tensor([7, 1, -1, 3])
    value = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True) if known else None
    x = torch.randn(4, 3).to(dtype).requires_grad_()

    def draw(x: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
        return posterior_gumbel(x, index, value=value, noise=ag.KeyedNoise(1))

    values = torch.compile(draw, fullgraph=True, backend="aot_eager")(x, index, value)
    assert values[[0, 2, 3]].isnan().all()
    assert values[1].isfinite().all()
    variables = [x] if value is None else [x, value]
    upstream = torch.randn(4, 3).to(dtype)
    slopes = torch.autograd.grad(values, variables, upstream)
    eager = draw(x, index.clamp(0, 2), value)
    for slope, expected in zip(slopes, torch.autograd.grad(eager, variables, upstream), strict=True):
        torch.testing.assert_close(slope[1], expected[1])


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_bad_logits(name: str) -> None:
    order = torch.arange(4).expand(2, 4)
    for value, message in [
        (math.nan, "must not be NaN"),
        (math.inf, "must not be \\+inf"),
        (-math.inf, "at least one"),
    ]:
        x = torch.zeros(2, 4)
        x[1] = value
        with pytest.raises(ValueError, match=message):
            SHARED[name](x, order)
    with pytest.raises(TypeError, match="logits must have a floating dtype"):
        SHARED[name](torch.zeros(2, 4, dtype=torch.int64), order)
    with pytest.raises(ValueError, match="noise must have the shape"):
        SHARED[name](torch.zeros(2, 4), order, noise=torch.zeros(4))
    with pytest.raises(ValueError, match="noise must be finite"):
        SHARED[name](torch.zeros(2, 4), order, noise=torch.full((2, 5 if name == "top_down" else 4), math.inf))
    with pytest.raises(ValueError, match="both are given"):
        SHARED[name](torch.zeros(2, 4), order, noise=ag.KeyedNoise(0), generator=torch.Generator())


def test_bad_winners() -> None:
    x = torch.tensor([[0.0, 1.0, -math.inf]])
    for function in (posterior_gumbel, posterior_noise):
        for index in (2, 3, -1):
            with pytest.raises(ValueError, match="index must name items that can have won: from 0 to 2"):
                function(x, torch.tensor([index]))
        with pytest.raises(ValueError, match=r"index must have the shape \(1,\).*\(\)"):
            function(x, torch.tensor(0))
        with pytest.raises(TypeError, match=r"index must be a tensor of integers.*float32"):
            function(x, torch.tensor([0.0]))
        with pytest.raises(TypeError, match=r"index must be a tensor of integers.*list"):
            function(x, [0])
        with pytest.raises(TypeError, match=r"value must be a floating tensor.*float"):
            function(x, torch.tensor([0]), value=1.0)
        with pytest.raises(ValueError, match=r"value must have the shape \(1,\) of index"):
            function(x, torch.tensor([0]), value=torch.zeros(2))
        with pytest.raises(ValueError, match="value must be finite"):
            function(x, torch.tensor([0]), value=torch.tensor([math.nan]))
    for function in (posterior_gumbel_topk, posterior_gumbel_subset):
        for indices in ([0, 0], [0, 2], [0, -1]):
            with pytest.raises(ValueError, match="indices must name items that can have won"):
                function(x, torch.tensor([indices]))
        for shape in [(2,), (1, 0), (1, 4), (2, 2)]:
            with pytest.raises(ValueError, match="indices must have the shape"):
                function(x, torch.zeros(shape, dtype=torch.int64))


def test_bad_heights_places_and_trees() -> None:
    with pytest.raises(ValueError, match="values must not be NaN or"):
        condition_max(torch.tensor([0.0, math.nan]), torch.tensor(0.0))
    with pytest.raises(ValueError, match="values must not be NaN or"):
        condition_max(torch.tensor([-math.inf]), torch.tensor(0.0))
    with pytest.raises(ValueError, match=r"new_max must have the shape \(\) of values without dim"):
        condition_max(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match="new_max must be finite"):
        condition_max(torch.zeros(2), torch.tensor(math.inf))
    for u in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"u must be in \[0, 1\)"):
            inverse_cdf_gumbel(torch.zeros(2), torch.tensor(u))
    with pytest.raises(ValueError, match="u must have the shape"):
        inverse_cdf_gumbel(torch.zeros(2), torch.zeros(2))
    for parents, message in [
        ([1, -1], "the parent of node 0 is 1"),  # a leaf is a parent
        ([2, 5, -1], "the parent of node 1 is 5"),
        ([2, 2, 2], "circle"),
        ([2, 2, -1, -1], "must begin with the 2 leaves"),  # node 3 has no child
        ([-1], "must begin with the 2 leaves"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_down(torch.zeros(2), parents)
    with pytest.raises(TypeError, match="parents must be integers"):
        top_down(torch.zeros(2), [2.0, 2.0, -1.0])
