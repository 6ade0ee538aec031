"""Who wins the race, and who are the first k: laws against enumeration, conventions against torch."""

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
from argumbel import kernels
from argumbel.choice import Choice

from . import oracles
from .statistics import check_cdf, check_counts, check_draws, check_frequency, check_independent, quantile_bins
from .strategies import DTYPES, logits, seeds

DRAW: dict[str, Callable[..., Tensor]] = {
    "categorical": ag.categorical,
    "gumbel_max": lambda x, **own: ag.gumbel_max(x, **own).indices,
    "gumbel_topk": lambda x, **own: ag.gumbel_topk(x, 1, **own).indices.squeeze(own.get("dim", -1)),
    "sample_without_replacement": lambda x, **own: ag.sample_without_replacement(x, 1, **own).indices.squeeze(
        own.get("dim", -1)
    ),
}
SIZES = [1, 2, 3, 10, 63, 128, 500]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws_of(name: str, x: Tensor, draws: int, seed: int = 0) -> Tensor:
    """So many draws from one row: by sample_shape where there is one, else by expanding."""
    if name == "categorical":
        return ag.categorical(x, (draws,), generator=generator(seed))
    return DRAW[name](x.expand(draws, -1), generator=generator(seed))


# --- law ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("n", SIZES)
def test_law_of_one_choice(backend: str, name: str, n: int) -> None:
    x = 1.5 * torch.randn(n, generator=generator(n)) - 40
    if n > 3:
        x[1] = -torch.inf
    fast = backend == "native" or name == "categorical"
    indices, p = draws_of(name, x, 30_000 if fast else max(3000, min(30_000, 1_000_000 // n))), oracles.softmax(x)
    if fast or n < 128:
        check_draws(indices, p)
    else:  # not enough draws for so many bins
        check_draws(indices % 25, np.bincount(np.arange(n) % 25, p))


@pytest.mark.parametrize("dtype", DTYPES)
def test_law_in_every_dtype(backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(20, generator=generator()).to(dtype)
    for name in DRAW:
        check_draws(draws_of(name, x, 20_000), oracles.softmax(x))


@pytest.mark.parametrize("n", [2, 37, 300])
def test_law_of_logits_hundreds_apart(backend: str, n: int) -> None:
    """All but two items are hopeless; these two share the draws."""
    x = torch.full((n,), -500.0)
    x[0], x[-1] = 400.0, 401.0
    for name in DRAW:
        check_draws(draws_of(name, x, 2000), oracles.softmax(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DRAW)
def test_equal_logits_in_half_precision_are_uniform(backend: str, name: str, dtype: torch.dtype) -> None:
    """4096 classes: compared in half precision they would tie, and the first would win most of the time."""
    n = 4096
    draws = 600 if backend == "reference" and name != "categorical" else 6000
    if name == "categorical" and backend == "native":
        draws = 45_000
    indices = draws_of(name, torch.zeros(n, dtype=dtype), draws)
    check_draws(indices // 256, np.full(16, 1 / 16))
    check_draws(indices % 16, np.full(16, 1 / 16))
    check_frequency(int((indices >= n // 2).sum()), indices.numel(), 0.5)
    if indices.numel() > 40_960:
        check_draws(indices, np.full(n, 1 / n))


def test_a_class_17_below_is_drawn_as_often_as_it_should(backend: str) -> None:
    """1 in 24 million against the leader. Noise from 24 bits never gets there. Many rare classes share the work."""
    gap, rows, n = (17.0, 125_000, 4096) if backend == "native" else (11.0, 400, 4096)
    x = torch.full((n,), -gap)
    x[7] = 0.0
    p = (n - 1) / (n - 1 + math.exp(gap))
    assert rows * p > 15  # so that none at all would fail
    wins = 0
    for chunk in range(4):
        wins += int((ag.gumbel_max(x.expand(rows // 4, n), generator=generator(chunk)).indices != 7).sum())
    check_frequency(wins, rows // 4 * 4, p)


def test_categorical_draws_a_class_17_below_as_often_as_it_should(backend: str) -> None:
    """A race of the leader's block against 4000 blocks of rare classes."""
    n = 1 << 24 if backend == "native" else 1 << 20
    draws, gap = 1000, 17.0
    x = torch.full((n,), -gap - 1)
    x[n // 3] = 0.0
    p = (n - 1) / (n - 1 + math.exp(gap + 1))
    indices = ag.categorical(x, (draws,), generator=generator())
    check_frequency(int((indices != n // 3).sum()), draws, p)


def test_more_than_2_to_the_24_categories(backend: str) -> None:
    """Above 2^24 a float32 cannot count: odd items would never come, nor the last."""
    n, draws = (1 << 24) + 1, 120
    indices = ag.categorical(torch.zeros(n), (draws,), generator=generator())
    check_frequency(int((indices >= 1 << 23).sum()), draws, (n - (1 << 23)) / n)
    check_frequency(int((indices % 2).sum()), draws, (1 << 23) / n)
    assert ag.categorical(torch.cat([torch.full((n - 1,), -300.0), torch.zeros(1)])).item() == n - 1


@given(x=logits(), seed=st.integers(0, 1 << 40), data=st.data())
def test_what_is_forbidden_is_never_drawn(x: Tensor, seed: int, data: st.DataObject) -> None:
    allowed = x > -torch.inf
    name = data.draw(st.sampled_from(sorted(DRAW)))
    index = DRAW[name](x, generator=generator(seed))
    assert index.shape == x.shape[:-1]
    assert index.dtype == torch.int64
    assert allowed.gather(-1, index.unsqueeze(-1)).all()


@given(x=logits(), seed=st.integers(0, 1 << 40))
def test_a_choice_hundreds_below_is_never_drawn(x: Tensor, seed: int) -> None:
    gap = x.double().amax(-1) - x.double().gather(-1, ag.categorical(x, generator=generator(seed))[..., None])[..., 0]
    assert (gap < 60).all()


@pytest.mark.parametrize("name", DRAW)
def test_forbidden_items_by_mask_or_by_logits(backend: str, name: str) -> None:
    x = torch.randn(6, generator=generator())
    mask = torch.tensor([True, False, True, True, False, True])
    masked = DRAW[name](x.expand(5000, 6), mask=mask, generator=generator(1))
    assert torch.equal(masked, DRAW[name](x.masked_fill(~mask, -torch.inf).expand(5000, 6), generator=generator(1)))
    check_draws(masked, oracles.softmax(x.masked_fill(~mask, -torch.inf)))
    x[1] = torch.nan  # what is masked is not looked at
    assert torch.equal(DRAW[name](x.expand(5000, 6), mask=mask, generator=generator(1)), masked)


# --- independence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("n", [3, 70])
def test_neighbouring_rows_are_independent(backend: str, name: str, n: int) -> None:
    x = torch.zeros(n)
    x[0] = math.log(n)
    rows = 20_001 if n == 3 or backend == "native" or name == "categorical" else 3001
    indices = (DRAW[name](x.expand(rows, n), generator=generator(5)) > 0).long()
    p = oracles.softmax(x)
    p = np.array([p[0], 1 - p[0]])
    for lag in (1, 2, 4):
        check_independent(indices[:-lag], indices[lag:], p, p)


def test_samples_rows_and_calls_are_independent(backend: str) -> None:
    x = torch.tensor([0.3, -0.2, 0.9, 0.0])
    p = oracles.softmax(x)
    g = generator(1)
    first, second = (ag.categorical(x.expand(100, 4), (200,), generator=g) for _ in range(2))
    check_independent(first, second, p, p)
    check_independent(first[:-1], first[1:], p, p)
    check_independent(first[:, :-1], first[:, 1:], p, p)


EQUALLY_SEEDED = {
    "gumbel_max": lambda x, g: ag.gumbel_max(x, generator=g).indices,
    "gumbel_topk": lambda x, g: ag.gumbel_topk(x, 2, generator=g).indices[..., 1],
    "categorical": lambda x, g: ag.categorical(x, generator=g),
    "categorical, float64": lambda x, g: ag.categorical(x.double(), generator=g),
    "categorical, many": lambda x, g: ag.categorical(x[0], (len(x),), generator=g),
    "without replacement, few": lambda x, g: ag.sample_without_replacement(x, 2, generator=g).indices[..., 0],
    "without replacement, many": lambda x, g: ag.sample_without_replacement(x, 20, generator=g).indices[..., 0],
    "linear_categorical": lambda x, g: ag.linear_categorical(x[:, :1], torch.ones(x.shape[-1], 1), generator=g),
}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pair
        for pair in itertools.combinations(EQUALLY_SEEDED, 2)
        if len({name.partition(",")[0].removesuffix("_max").removesuffix("_topk") for name in pair}) == 2
    ],
)
def test_functions_of_law_are_independent_from_equal_seeds(backend: str, a: str, b: str) -> None:
    """Each has its own random numbers; chi-square of the quarter and of the place in it, failure rate 1e-6 each."""
    x = torch.zeros(1, 4096).expand(500, 4096)
    first, second = (EQUALLY_SEEDED[name](x, generator(7)) for name in (a, b))
    quarters = np.full(4, 1 / 4)
    check_independent(first // 1024, second // 1024, quarters, quarters)
    check_independent(first // 256 % 4, second // 256 % 4, quarters, quarters)
    assert (first == second).sum() < 6  # 1/8 is expected; six or more have a probability below 1e-8


def test_seeds_that_are_neighbours_choose_independently(backend: str) -> None:
    x = torch.tensor([0.3, -0.2, 0.9, 0.0])
    a, b = (ag.gumbel_max(x.expand(20_000, 4), noise=ag.KeyedNoise(seed)).indices for seed in (8, 9))
    check_independent(a, b, oracles.softmax(x), oracles.softmax(x))


# --- max-stability -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_maximum_is_gumbel_at_logsumexp_and_independent_of_the_index(backend: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, -1.0, 2.0, 0.0, -torch.inf], dtype=dtype)
    values, indices = ag.gumbel_max(x.expand(50_000, 5), generator=generator(3))

    def cdf(v: np.ndarray) -> np.ndarray:
        return oracles.gumbel_cdf(v - oracles.logsumexp(x))

    check_cdf(values, cdf)
    check_independent(quantile_bins(values, cdf, 10), indices, np.full(10, 0.1), oracles.softmax(x))


# --- the first k -------------------------------------------------------------------------------------------------

FIRST_K = {"gumbel_topk": ag.gumbel_topk, "sample_without_replacement": ag.sample_without_replacement}


@pytest.mark.parametrize("name", FIRST_K)
@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 2), (5, 3), (4, 4), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ordered_subsets_are_plackett_luce(backend: str, name: str, n: int, k: int, dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, -0.5, 1.0, 0.0, -torch.inf], dtype=dtype)[:n]
    k = min(k, int((x > -torch.inf).sum()))
    indices = FIRST_K[name](x.expand(30_000, n), k, generator=generator(n + k)).indices
    law = oracles.plackett_luce(x, k)
    place = {order: i for i, order in enumerate(law)}
    counts = np.zeros(len(law))
    orders, found = np.unique(indices.numpy(), axis=0, return_counts=True)
    for order, count in zip(orders.tolist(), found, strict=True):
        counts[place[tuple(order)]] = count
    check_counts(counts, list(law.values()))


@pytest.mark.parametrize("name", FIRST_K)
@pytest.mark.parametrize("n", [700, 5000])
def test_ordered_pairs_of_many_items(backend: str, name: str, n: int) -> None:
    """One leader, one item of note and a crowd: who comes first and who second."""
    x = torch.zeros(n)
    x[n // 2], x[-1] = math.log(n), math.log(n / 2)
    group = torch.zeros(n, dtype=torch.int64)
    group[n // 2], group[-1], group[: n // 3] = 2, 3, 1
    p = oracles.softmax(x)
    pairs = p[:, None] * p / (1 - p[:, None])
    np.fill_diagonal(pairs, 0)
    member = np.eye(4)[group.numpy()]
    rows = 20_000 if backend == "native" else 1_500_000 // n
    indices = FIRST_K[name](x.expand(rows, n), 2, generator=generator(n)).indices
    assert (indices[:, 0] != indices[:, 1]).all()
    code = group[indices[:, 0]] * 4 + group[indices[:, 1]]
    check_draws(code, (member.T @ pairs @ member).ravel())


@pytest.mark.parametrize("name", FIRST_K)
def test_keys_of_the_first_k(backend: str, name: str) -> None:
    """exp(-key) are the arrival times of a race: its gaps are exponential, at the rate of the weight still running."""
    for n, rows in ((4, 30_000), (1000, 5000 if backend == "native" else 800)):
        x = torch.tensor([0.5, -0.5, 1.0, 0.0]).repeat(n // 4)
        keys, indices = FIRST_K[name](x.expand(rows, n), 3, generator=generator(2))
        assert (keys.diff(dim=-1) <= 0).all()
        weights = x.double().exp()
        left = weights.sum() - torch.cat([torch.zeros(rows, 1), weights[indices].cumsum(-1)[:, :-1]], -1)
        gaps = torch.exp(-keys.double()).diff(dim=-1, prepend=torch.zeros(rows, 1, dtype=torch.float64)) * left
        for j in range(3):
            check_cdf(gaps[:, j], lambda e: -np.expm1(-e))
        first = quantile_bins(gaps[:, 0], lambda e: -np.expm1(-e), 8)
        check_independent(first, indices[:, 0] % 4, np.full(8, 1 / 8), oracles.softmax(x[:4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4, 600])
def test_many_subsets_of_a_row_follow_the_law_of_a_loop(backend: str, dtype: torch.dtype, n: int) -> None:
    """Draws of ``sample_shape``, and draws one after another, against Plackett-Luce over four groups of equal items;
    both samples of a row are independent. (n = 600 has kernels of its own.)"""
    x = torch.tensor([[0.5, -0.5, 1.0, 0.0], [0.0, 1.0, -1.0, 2.0]], dtype=dtype).repeat(1, n // 4)
    draws = 4000 if n == 4 or backend == "native" else 500
    g = generator(n)
    drawn = ag.sample_without_replacement(x, 2, (draws, 2), generator=g)
    looped = [ag.sample_without_replacement(x, 2, generator=g).indices for _ in range(draws if n == 4 else 500)]
    assert drawn.values.shape == drawn.indices.shape == (draws, 2, 2, 2)
    assert (drawn.values[..., 0] >= drawn.values[..., 1]).all()
    assert (drawn.indices[..., 0] != drawn.indices[..., 1]).all()
    for row in range(2):
        p = oracles.softmax(x[row])
        pairs = p[:, None] * p / (1 - p[:, None])
        np.fill_diagonal(pairs, 0)
        law = pairs.reshape(n // 4, 4, n // 4, 4).sum((0, 2)).ravel()
        for indices in (drawn.indices[:, 0], torch.stack(looped)):
            check_draws(indices[:, row, 0] % 4 * 4 + indices[:, row, 1] % 4, law)
        code = drawn.indices[:, :, row, 0] % 4
        group = oracles.softmax(x[row, :4])
        check_independent(code[:, 0], code[:, 1], group, group)


def test_many_subsets_in_any_layout(backend: str) -> None:
    x = torch.randn(3, 5, 4)
    for dim in (0, 1, 2, -1):
        last = x.movedim(dim, -1)
        drawn, expected = (
            ag.sample_without_replacement(y, 2, (7,), dim=d, generator=generator()) for y, d in ((x, dim), (last, -1))
        )
        away = dim if dim < 0 else dim - 3
        assert torch.equal(drawn.indices.movedim(away, -1), expected.indices)
        assert torch.equal(drawn.values.movedim(away, -1), expected.values)
        assert expected.indices.shape == (7, *last.shape[:-1], 2)
    assert ag.sample_without_replacement(x, 2, 6).indices.shape == (6, 3, 5, 2)
    assert ag.sample_without_replacement(x, 0, (6,)).indices.shape == (6, 3, 5, 0)
    assert ag.sample_without_replacement(x, 2, (0,)).indices.shape == (0, 3, 5, 2)
    once, torn = (ag.sample_without_replacement(x, 2, s, generator=generator()) for s in ((), (1,)))
    assert torch.equal(once.indices, torn.indices[0])
    mapped = torch.vmap(lambda y: ag.sample_without_replacement(y, 2, (7,)).indices, randomness="different")(x)
    assert mapped.shape == (3, 7, 5, 2)
    compiled = torch.compile(ag.sample_without_replacement, backend="eager", fullgraph=True)(x, 2, (7,))
    assert compiled.indices.shape == (7, 3, 5, 2)
    with pytest.raises(ValueError, match="k must be at most the number of allowed items"):
        ag.sample_without_replacement(x.masked_fill(torch.arange(4) > 0, -torch.inf), 2, (7,))
    with pytest.raises(TypeError, match="sample_shape must be"):
        ag.sample_without_replacement(x, 2, 1.5)


def test_neighbouring_rows_of_subsets_are_independent(backend: str) -> None:
    x = torch.tensor([0.5, -0.5, 1.0, 0.0])
    indices = ag.sample_without_replacement(x.expand(30_001, 4), 2, generator=generator(7)).indices
    pairs = oracles.plackett_luce(x, 2)
    p = np.zeros(16)
    for (i, j), probability in pairs.items():
        p[4 * i + j] = probability
    code = indices[:, 0] * 4 + indices[:, 1]
    check_independent(code[:-1], code[1:], p, p)


@given(x=logits(), seed=seeds, data=st.data())
def test_the_first_k_are_the_topk_of_the_perturbed(x: Tensor, seed: int, data: st.DataObject) -> None:
    support = int((x > -torch.inf).sum(-1).amin()) if x.numel() else x.shape[-1]
    k = data.draw(st.integers(0, support))
    noise = ag.KeyedNoise(seed)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    keys = x.to(work) + noise.gumbel(x.shape, dtype=work)
    values, indices = ag.gumbel_topk(x, k, noise=noise)
    expected = keys.topk(k, -1)
    assert torch.equal(values, expected.values.to(x.dtype))
    assert torch.equal(keys.gather(-1, indices), expected.values)
    assert (indices.sort(-1).values.diff(dim=-1) > 0).all()
    best = ag.gumbel_max(x, noise=noise)
    if k:
        assert torch.equal(best.values, values[..., 0])
        assert torch.equal(best.indices, indices[..., 0])


# --- the keyed promise -------------------------------------------------------------------------------------------


@given(x=logits(), seed=seeds)
def test_gumbel_max_is_the_max_of_the_perturbed(x: Tensor, seed: int) -> None:
    noise = ag.KeyedNoise(seed)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    given_noise = noise.gumbel(x.shape, dtype=work)
    expected = (x.to(work) + given_noise).max(-1)
    for choice in (ag.gumbel_max(x, noise=noise), ag.gumbel_max(x, noise=given_noise)):
        assert torch.equal(choice.values, expected.values.to(x.dtype))
        assert torch.equal(choice.indices, expected.indices)


@given(x=logits(dtypes=(torch.float32, torch.float64)), seed=seeds, data=st.data())
def test_a_shard_chooses_as_the_whole(x: Tensor, seed: int, data: st.DataObject) -> None:
    """Rows re-ordered and items split between two shards: the better of the shards' winners is the winner."""
    x = x.reshape(-1, x.shape[-1])
    rows, n = x.shape
    whole = ag.gumbel_max(x, noise=ag.KeyedNoise(seed))
    order = data.draw(st.permutations(range(rows)))
    again = ag.gumbel_max(x[order], noise=ag.KeyedNoise(seed, rows=order))
    assert torch.equal(again.indices, whole.indices[order])
    cut = data.draw(st.integers(1, n))
    finite = x.clamp(min=-1e4)  # a shard may have nothing allowed
    best = ag.gumbel_max(finite, noise=ag.KeyedNoise(seed))
    left = ag.gumbel_max(finite[:, :cut], noise=ag.KeyedNoise(seed))
    if cut < n:
        right = ag.gumbel_max(finite[:, cut:], noise=ag.KeyedNoise(seed, items=range(cut, n)))
        ahead = right.values > left.values
        assert torch.equal(torch.where(ahead, right.indices + cut, left.indices), best.indices)
    else:
        assert torch.equal(left.indices, best.indices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_noise_tensor_is_used_as_it_is(dtype: torch.dtype) -> None:
    x, noise = torch.tensor([[2.0, 1.0, -torch.inf]], dtype=dtype), torch.tensor([[0.25, 1.5, 9.0]])
    values, indices = ag.gumbel_max(x, noise=noise)
    assert (values.item(), indices.item()) == (2.5, 1)
    assert values.dtype == dtype
    values, indices = ag.gumbel_topk(x, 2, noise=noise)
    assert (values.tolist(), indices.tolist()) == ([[2.5, 2.25]], [[1, 0]])


# --- conventions -------------------------------------------------------------------------------------------------


def test_results_are_named_as_torch_names_them() -> None:
    x = torch.zeros(2, 3)
    assert isinstance(ag.gumbel_max(x), Choice)
    assert Choice._fields == ("values", "indices")
    assert isinstance(ag.sample_without_replacement(x, 1), Choice)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_dim(backend: str, dim: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 5, dtype=dtype)
    last = x.movedim(dim, -1)
    best, expected = (ag.gumbel_max(y, dim=d, noise=ag.KeyedNoise(1)) for y, d in ((x, dim), (last, -1)))
    assert torch.equal(best.values, expected.values)
    assert torch.equal(best.indices, expected.indices)
    top, expected = (ag.gumbel_topk(y, 2, dim=d, noise=ag.KeyedNoise(1)) for y, d in ((x, dim), (last, -1)))
    assert torch.equal(top.values.movedim(dim, -1), expected.values)
    assert torch.equal(top.indices.movedim(dim, -1), expected.indices)
    drawn, expected_draw = (
        ag.sample_without_replacement(y, 2, dim=d, generator=generator()) for y, d in ((x, dim), (last, -1))
    )
    assert torch.equal(drawn.values.movedim(dim, -1), expected_draw.values)
    sample, expected_sample = (ag.categorical(y, (7,), dim=d, generator=generator()) for y, d in ((x, dim), (last, -1)))
    assert torch.equal(sample, expected_sample)


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_views_choose_as_copies_do(backend: str, name: str, dtype: torch.dtype) -> None:
    base = torch.randn(6, 40, 3).to(dtype)
    views = [
        base.transpose(0, 1),
        base[::2, 5:-3],
        base[:, :, 1],
        base[:, ::3].transpose(1, 2),
        base[:1].expand(5, 40, 3),
        base[:, :1, :].expand(6, 4, 3),
        base[..., :1].expand(6, 40, 8),
        base.flip(0),
    ]
    for view in views:
        copy = view.clone(memory_format=torch.contiguous_format)
        assert torch.equal(DRAW[name](view, generator=generator(3)), DRAW[name](copy, generator=generator(3)))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (3, 0, 2)])
def test_empty_batches(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    assert ag.categorical(x).shape == shape[:-1]
    assert ag.categorical(x, (4,)).shape == (4, *shape[:-1])
    assert ag.gumbel_max(x).indices.shape == shape[:-1]
    assert ag.gumbel_topk(x, 2).values.shape == (*shape[:-1], 2)
    assert ag.sample_without_replacement(x, 2).indices.shape == (*shape[:-1], 2)


def test_no_samples_and_no_places(backend: str) -> None:
    x = torch.zeros(2, 3)
    assert ag.categorical(x, (0,)).shape == (0, 2)
    assert ag.categorical(x, (3, 0)).shape == (3, 0, 2)
    assert ag.gumbel_topk(x, 0).indices.shape == (2, 0)


@pytest.mark.parametrize("sample_shape", [(), (1,), (5,), (2, 3), torch.Size([4])])
def test_shapes_are_those_of_torch(backend: str, sample_shape: tuple[int, ...]) -> None:
    for shape in [(4,), (2, 4), (3, 2, 4)]:
        x = torch.zeros(shape)
        theirs = torch.distributions.Categorical(logits=x).sample(torch.Size(sample_shape))
        ours = ag.categorical(x, sample_shape)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("name", [*DRAW, "keys"])
def test_generators(backend: str, name: str) -> None:
    draw = DRAW.get(name, lambda x, **own: ag.sample_without_replacement(x, 3, **own).values)
    x = torch.zeros(50, 9)
    g = generator(4)
    first, second = draw(x, generator=g), draw(x, generator=g)
    assert not torch.equal(first, second)
    after = g.get_state()
    g.manual_seed(4)
    assert torch.equal(draw(x, generator=g), first)
    g.manual_seed(4)
    for _ in range(2):
        torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=g)
    assert torch.equal(g.get_state(), after)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    third = draw(x)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert torch.equal(draw(x), third)


# --- gradients and transforms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_of_a_value_is_the_one_hot_of_its_index(backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 6, dtype=dtype).requires_grad_()
    values, indices = ag.gumbel_max(x, noise=ag.KeyedNoise(0))
    weights = torch.arange(1.0, 5.0, dtype=dtype)
    (values * weights).sum().backward()
    assert torch.equal(x.grad, torch.nn.functional.one_hot(indices, 6).to(dtype) * weights[:, None])
    x.grad = None
    values, indices = ag.gumbel_topk(x, 2, noise=ag.KeyedNoise(0))
    values.sum().backward()
    assert torch.equal(x.grad, torch.nn.functional.one_hot(indices, 6).sum(1).to(dtype))
    assert not ag.sample_without_replacement(x, 2).values.requires_grad
    assert not ag.categorical(x).requires_grad


def test_gradcheck_of_values() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    noise = ag.KeyedNoise(0).gumbel((3, 5), dtype=torch.float64)
    for function in (
        lambda y: ag.gumbel_max(y, noise=noise).values,
        lambda y: ag.gumbel_max(y, dim=0, noise=ag.KeyedNoise(0)).values,
        lambda y: ag.gumbel_topk(y, 3, noise=noise).values,
    ):
        assert torch.autograd.gradcheck(function, (x,))
        assert torch.autograd.gradgradcheck(function, (x,))


def test_gradient_with_forbidden_items(backend: str) -> None:
    x = torch.tensor([0.0, -torch.inf, 1.0], requires_grad=True)
    ag.gumbel_max(x, mask=torch.tensor([True, True, False])).values.backward()
    assert x.grad.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_functional_gradients() -> None:
    x = torch.randn(3, 5)
    noise = ag.KeyedNoise(1)
    grad = torch.func.grad(lambda y: ag.gumbel_max(y, noise=noise).values.sum())(x)
    assert torch.equal(grad, torch.nn.functional.one_hot(ag.gumbel_max(x, noise=noise).indices, 5).float())
    tangent = torch.func.jvp(lambda y: ag.gumbel_max(y, noise=noise).values, (x,), (torch.ones_like(x),))[1]
    assert torch.equal(tangent, torch.ones(3))


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("in_dim", [0, 1])
def test_vmap_draws_a_fresh_choice_for_each(name: str, in_dim: int) -> None:
    x = torch.zeros(4000, 3).movedim(0, in_dim)
    indices = torch.vmap(DRAW[name], in_dims=in_dim, randomness="different")(x)
    assert indices.shape == (4000,)
    check_draws(indices, np.full(3, 1 / 3))
    check_independent(indices[:-1], indices[1:], np.full(3, 1 / 3), np.full(3, 1 / 3))


def test_vmap_over_dims_masks_and_noise() -> None:
    x, mask = torch.randn(4, 3, 5), torch.rand(4, 3, 5) < 0.7
    mask[:, 0] = True
    noise = torch.randn(4, 3, 5)
    mapped = torch.vmap(lambda y, m, g: ag.gumbel_max(y, dim=0, mask=m, noise=g))(x, mask, noise)
    expected = ag.gumbel_max(x, dim=1, mask=mask, noise=noise)
    assert torch.equal(mapped.indices, expected.indices)
    assert torch.equal(mapped.values, expected.values)


COMPILED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gumbel_max": lambda x, seed: ag.gumbel_max(x, noise=ag.KeyedNoise(seed)).values,
    "gumbel_max along 0": lambda x, seed: ag.gumbel_max(x, dim=0, noise=ag.KeyedNoise(seed)).indices,
    "gumbel_topk": lambda x, seed: ag.gumbel_topk(x, 2, noise=ag.KeyedNoise(seed)).indices,
    "gumbel_topk, masked": lambda x, seed: ag.gumbel_topk(x, 2, mask=x < 9, noise=ag.KeyedNoise(seed)).values,
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_keyed_choices_are_the_eager_ones(backend: str, name: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(COMPILED[name], fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 17)
    for seed in (3, -4):
        assert torch.equal(compiled(x, torch.tensor(seed)), COMPILED[name](x, torch.tensor(seed)))


@pytest.mark.parametrize("name", DRAW)
def test_compiled_choices_have_the_law(name: str) -> None:
    torch._dynamo.reset()
    x = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    compiled = torch.compile(DRAW[name], fullgraph=True, backend="aot_eager")
    rows = x.expand(5000, 4)
    first, second = compiled(rows), compiled(rows)
    check_draws(torch.cat([first, second]), oracles.softmax(x))
    check_independent(first, second, oracles.softmax(x), oracles.softmax(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_by_inductor() -> None:
    torch._dynamo.reset()
    draw = lambda x, seed: ag.gumbel_max(2 * x, noise=ag.KeyedNoise(seed))  # noqa: E731
    compiled = torch.compile(draw, fullgraph=True)
    x = torch.randn(6, 100)
    for seed in (3, -4):
        ours, eager = compiled(x, torch.tensor(seed)), draw(x, torch.tensor(seed))
        assert torch.equal(ours.indices, eager.indices)
        assert torch.equal(ours.values, eager.values)


def test_compiled_gradient(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: ag.gumbel_max(x, noise=ag.KeyedNoise(2)).values, fullgraph=True, backend="aot_eager"
    )
    x = torch.randn(6, 17, requires_grad=True)
    compiled(x).sum().backward()
    expected = torch.nn.functional.one_hot(ag.gumbel_max(x, noise=ag.KeyedNoise(2)).indices, 17)
    assert torch.equal(x.grad, expected.float())


def test_the_reference_is_the_reference() -> None:
    """Both backends make the same keyed choices, to the bit."""
    x = torch.randn(50, 77)
    ours = ag.gumbel_max(x, noise=ag.KeyedNoise(5))
    with kernels.use("reference"):
        theirs = ag.gumbel_max(x, noise=ag.KeyedNoise(5))
    assert torch.equal(ours.values, theirs.values)
    assert torch.equal(ours.indices, theirs.indices)


def test_meta_tensors_have_shapes() -> None:
    x = torch.zeros(2, 3, device="meta")
    assert ag.gumbel_max(x).indices.shape == (2,)
    assert ag.gumbel_topk(x, 2).values.shape == (2, 2)
    assert ag.categorical(x, (5,)).shape == (5, 2)


def test_values_that_float16_cannot_hold(backend: str) -> None:
    """They are infinite, as those of torch; their items are right."""
    x = torch.tensor([[65504.0, 65504.0, 65472.0, -torch.inf]], dtype=torch.float16)
    noise = torch.tensor([[16.0, 17.0, 16.0, 0.0]])
    best = ag.gumbel_max(x, noise=noise)
    assert best.values.tolist() == [torch.inf]
    assert best.indices.tolist() == [1]
    first = ag.gumbel_topk(x, 3, noise=noise)
    assert first.values.tolist() == [[torch.inf, torch.inf, 65472.0]]
    assert first.indices.tolist() == [[1, 0, 2]]
    key = ag.KeyedNoise(0, items=[3, 22_469_883, 5])  # the noise of the second is 16.02
    for choice in (ag.gumbel_max(x[:, :3], noise=key), ag.gumbel_topk(x[:, :3], 1, noise=key)):
        assert choice.values.flatten().tolist() == [torch.inf]
        assert choice.indices.flatten().tolist() == [1]
