"""A seed for every row: each row is what it would be alone, in every keyed function and in every mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.astar import astar_stream

from .on_triton import here, there
from .test_modes import KEYED, SAMPLERS

SEEDS = torch.tensor([5, -(1 << 63), (1 << 63) - 1, 5, 0, 1 << 32])
POSITIONS = torch.tensor([0, 7, -1, 1 << 40, 3, 7])
FUNCTIONS = [name for name in KEYED if name != "gumbel_softmax dim 0"]


def logits(n: int = 5) -> Tensor:
    return torch.randn(len(SEEDS), n, generator=torch.Generator().manual_seed(n))


def alone(name: str, x: Tensor) -> Tensor:
    """The rows one by one, each under its own number."""
    keys = [ag.KeyedNoise(seed, rows=[row]) for seed, row in zip(SEEDS.tolist(), POSITIONS.tolist(), strict=True)]
    return torch.cat([SAMPLERS[name](x[i : i + 1], noise=key) for i, key in enumerate(keys)])


def close(ours: Tensor, theirs: Tensor) -> None:
    if ours.dtype == torch.int64:
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("backend")
def test_a_row_is_what_it_would_be_alone(name: str, dtype: torch.dtype) -> None:
    if "linear" in name and dtype != torch.float32:
        pytest.skip("the layer of these cases is float32")
    x = logits().to(dtype)
    close(SAMPLERS[name](x, noise=ag.KeyedNoise(SEEDS, rows=POSITIONS)), alone(name, x))


@pytest.mark.parametrize("n", [1, 10, 64, 65, 500, 513, 5000])
@pytest.mark.usefixtures("backend", "threads")
def test_a_token_depends_on_its_request_and_position_alone(n: int) -> None:
    """Of a batch of any size and order, at any place: the same token, and the same perturbed logit."""
    x, (seeds, rows) = logits(n), (SEEDS, POSITIONS)
    tokens = torch.cat(
        [ag.gumbel_max(x[i : i + 1], noise=ag.KeyedNoise(seeds[i : i + 1], rows[i : i + 1])).indices for i in range(6)]
    )
    for order in torch.arange(6), torch.arange(6).flip(0), torch.arange(24) % 6, torch.tensor([3, 3, 1]):
        batch = ag.gumbel_max(x[order], noise=ag.KeyedNoise(seeds[order], rows[order]))
        assert torch.equal(batch.indices, tokens[order])
        assert torch.equal(batch.values, ag.gumbel_max(x, noise=ag.KeyedNoise(seeds, rows)).values[order])


def test_shards_of_the_vocabulary_have_the_noise_of_the_whole() -> None:
    x, half = logits(9), ag.KeyedNoise(SEEDS, POSITIONS, items=torch.arange(4, 9))
    whole = ag.gumbel_max(x, noise=ag.KeyedNoise(SEEDS, POSITIONS))
    first = ag.gumbel_max(x[:, :4], noise=ag.KeyedNoise(SEEDS, POSITIONS))
    second = ag.gumbel_max(x[:, 4:], noise=half)
    found = torch.where(second.values > first.values, second.indices + 4, first.indices)
    assert torch.equal(found, whole.indices)


def test_one_seed_given_to_every_row_is_the_seed_of_the_batch() -> None:
    for law in "gumbel", "exponential", "uniform", "logistic":
        for shape in (3, 4), (2, 3, 70), (1, 5), (5,), ():
            lead = shape[:-1]
            each = getattr(ag.KeyedNoise(torch.full(lead, 11)), law)(shape)
            flat = getattr(ag.KeyedNoise([11] * torch.Size(lead).numel()), law)(shape)
            assert torch.equal(each, getattr(ag.KeyedNoise(11), law)(shape))
            assert torch.equal(flat, each)


def test_rows_of_other_seeds_are_independent() -> None:
    """Correlations of 4000 pairs of rows of 1000 numbers: mean 0 +- 5 / sqrt(4e6); a wrong pair would be 1."""
    u = ag.KeyedNoise(torch.arange(4001), rows=torch.zeros(4001, dtype=torch.int64)).uniform((4001, 1000)) - 0.5
    pairs = 12 * (u[1:] * u[:-1]).mean(-1)
    assert abs(pairs.mean()) < 5 / 4e6**0.5
    assert pairs.abs().max() < 6.5 / 1000**0.5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, seeds, rows: SAMPLERS[name](x, noise=ag.KeyedNoise(seeds, rows=rows)),
        fullgraph=True,
        backend="aot_eager",
    )
    x = logits()
    close(compiled(x, SEEDS, POSITIONS), alone(name, x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap(name: str) -> None:
    """Over rows, each with its seed; and over groups of rows."""
    x = logits()

    def one(x: Tensor, seed: Tensor, row: Tensor) -> Any:
        if name == "linear_gumbel_max" or name == "posterior_gumbel":
            return SAMPLERS[name](x[None], noise=ag.KeyedNoise(seed[None], rows=row[None]))[0]
        return SAMPLERS[name](x, noise=ag.KeyedNoise(seed, rows=row[None]))

    close(torch.func.vmap(one)(x, SEEDS, POSITIONS), alone(name, x))
    groups = torch.func.vmap(lambda x, s, r: SAMPLERS[name](x, noise=ag.KeyedNoise(s, rows=r)))
    pairs = (v.unflatten(0, (2, 3)) for v in (x, SEEDS, POSITIONS))
    close(groups(*pairs).flatten(0, 1), alone(name, x))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("n", [5, 600])
@pytest.mark.usefixtures("backend")
def test_gradients(hard: bool, n: int) -> None:
    """A hard sample's gradient makes the noise again, from the seeds of its rows."""
    x, g = logits(n).requires_grad_(), torch.randn(6, n, generator=torch.Generator().manual_seed(0))
    noise = ag.KeyedNoise(SEEDS, rows=POSITIONS)
    (ours,) = torch.autograd.grad(ag.gumbel_softmax(x, 0.7, hard=hard, noise=noise), x, g)
    (soft,) = torch.autograd.grad(((x + noise.gumbel(x.shape)) / 0.7).softmax(-1), x, g)
    torch.testing.assert_close(ours, soft)
    (ours,) = torch.autograd.grad(ag.gumbel_sigmoid(x, 0.7, hard=hard, noise=noise), x, g)
    (soft,) = torch.autograd.grad(((x + noise.logistic(x.shape)) / 0.7).sigmoid(), x, g)
    torch.testing.assert_close(ours, soft)


def test_astar_samples_of_own_seeds() -> None:
    distance = lambda x: -10 * (x - 2).abs().sum()  # noqa: E731
    target = ag.astar.NormalTarget(
        distance, lambda low, high: distance(torch.full_like(low, 2).clamp(low, high)), mean=0, std=1
    )
    seeds, rows = torch.tensor([3, 4]), torch.tensor([9, 9])
    draws = list(astar_stream(target, noise=ag.KeyedNoise(seeds, rows=rows)))
    assert len(draws) == 2
    for draw, seed in zip(draws, (3, 4), strict=True):
        assert draw.value == next(astar_stream(target, noise=ag.KeyedNoise(seed, rows=[9]))).value
    with pytest.raises(ValueError, match="noise must have one seed per sample, 3, but it has 2"):
        ag.astar_sample(target, 3, noise=ag.KeyedNoise(seeds))


@pytest.mark.parametrize("name", sorted({*FUNCTIONS} - {"posterior_gumbel", "gumbel_sigmoid", "straight_through"}))
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.parametrize("n", [5, 300])
def test_triton(name: str, n: int, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("triton", minversion="3.6")
    if n != 5 and "linear" in name:
        pytest.skip("the layer of these cases has five items")
    noise = ag.KeyedNoise(SEEDS, rows=POSITIONS)
    expected = SAMPLERS[name](logits(n), noise=noise)
    request.getfixturevalue("by_triton")
    close(here(SAMPLERS[name](there(logits(n)), noise=noise)), expected)
