"""Lazy draws have the law of full ones, and look at few items."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.lazy import LazyDraw, Top, lazy_categorical, search_top
from argumbel.partition import log_partition

from . import oracles
from .statistics import Z, check_cdf, check_counts, check_draws, check_independent, check_mean, quantile_bins
from .strategies import DTYPES


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lazy(scores: Tensor, k: int, draws: int, seed: int = 0, **own: object) -> LazyDraw:
    """Draws from scores of which the top k are known, in no order."""
    order = torch.randperm(k, generator=generator(k))
    top = scores.topk(k)
    return lazy_categorical(
        top.values[order],
        top.indices[order],
        len(scores),
        lambda ids: scores[ids],
        (draws,),
        generator=generator(seed),
        **own,
    )


LAWS = {
    "spread": lambda n: 2 * torch.randn(n, generator=generator(n)),
    "equal": torch.zeros,
    "far": lambda n: 1e4 + torch.randn(n, generator=generator(n)),
    "one leads": lambda n: torch.cat([torch.zeros(n - 1), torch.tensor([4.0])]),
    "forbidden": lambda n: torch.randn(n, generator=generator(n)).masked_fill(torch.arange(n) % 3 == 0, -torch.inf),
}

# --- law ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 20, 299, 300])
@pytest.mark.parametrize("name", LAWS)
def test_law(name: str, k: int) -> None:
    scores = LAWS[name](300)
    draws = 10_000 if k == 1 else 30_000
    values, indices, touched = lazy(scores, k, draws)
    check_draws(indices, oracles.softmax(scores))

    def cdf(v: np.ndarray) -> np.ndarray:
        return oracles.gumbel_cdf(v - oracles.logsumexp(scores))

    if name != "far":  # rounded too coarsely for a test of a continuous law
        check_cdf(values, cdf)
        p = oracles.softmax(scores)
        group = torch.arange(300) % 4
        shares = np.bincount(group, p)
        check_independent(quantile_bins(values, cdf, 6), group[indices], np.full(6, 1 / 6), shares)
    assert touched.shape == (draws,)
    assert (touched >= k).all()


@pytest.mark.parametrize("excess", [0.0, 0.5, 2.0])
def test_a_loose_bound_costs_time_and_no_more(excess: float) -> None:
    scores = LAWS["spread"](300)
    bound = float(scores.topk(30).values[-1]) + excess
    values, indices, touched = lazy(scores, 30, 20_000, bound=bound)
    check_draws(indices, oracles.softmax(scores))
    check_cdf(values, lambda v: oracles.gumbel_cdf(v - oracles.logsumexp(scores)))
    mean = 270 * math.exp(bound - oracles.logsumexp(scores.topk(30).values))
    check_mean(touched - 30, mean, mean + mean**2)


@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_tail_items_touched_are_geometric(k: int) -> None:
    """A Poisson number whose mean is exponential: the bound at e^-M, M a Gumbel."""
    scores, n = LAWS["spread"](1000), 1000
    bound = float(scores.topk(k).values[-1])
    touched = lazy(scores, k, 4000 if k == 1 else 40_000, bound=bound).touched - k
    mean = (n - k) * math.exp(bound - oracles.logsumexp(scores.topk(k).values))
    assert mean <= (n - k) / k * (1 + 1e-6)
    check_mean(touched, mean, mean + mean**2)
    ends = np.unique(np.concatenate([np.arange(20), np.geomspace(20, 20 + 30 * mean, 20)]).astype(int))
    below = 1 - (mean / (1 + mean)) ** (ends + 1)  # P(at most so many)
    probs = np.diff(below, prepend=0, append=1)
    check_counts(np.bincount(np.searchsorted(ends, touched.numpy()), minlength=len(probs)), probs)


def test_every_tail_item_may_arrive() -> None:
    """Equal scores, one known: the others, at both ends and beside the one, are drawn like it."""
    n = 7
    for known in range(n):
        indices = lazy_categorical(
            torch.zeros(1),
            torch.tensor([known]),
            n,
            lambda ids: torch.zeros(len(ids)),
            (20_000,),
            generator=generator(),
        ).indices
        check_draws(indices, np.full(n, 1 / n))


def test_draws_are_independent() -> None:
    scores = torch.tensor([0.0, 0.5, 1.0, -1.0])
    p = oracles.softmax(scores)
    indices = lazy(scores, 2, 30_000).indices
    check_independent(indices[:-1], indices[1:], p, p)


def test_more_items_than_an_int32_counts() -> None:
    n = 1 << 40
    top = torch.full((1 << 16,), 12.0)
    seen = []

    def score(ids: Tensor) -> Tensor:
        seen.append(ids)
        return torch.zeros(len(ids))

    draw = lazy_categorical(top, torch.arange(1 << 16) * 3, n, score, (20,), bound=0.0, generator=generator())
    p = (n - (1 << 16)) / ((1 << 16) * math.exp(12.0) + n - (1 << 16))
    assert p > 0.9
    tail = int((~torch.isin(draw.indices, torch.arange(1 << 16) * 3)).sum())
    assert tail >= 12  # less has probability 4e-7 at most
    ids = seen[0]
    assert ids.max() > n // 2
    check_draws(ids * 8 // n, np.full(8, 1 / 8))


# --- what is scored ----------------------------------------------------------------------------------------------


def test_score_is_called_once_for_tail_items_only() -> None:
    scores, calls = torch.randn(500, generator=generator()), []
    top = scores.topk(40)

    def score(ids: Tensor) -> Tensor:
        calls.append(ids)
        return scores[ids]

    draw = lazy_categorical(top.values, top.indices, 500, score, (2000,), generator=generator())
    assert len(calls) == 1
    (ids,) = calls
    assert ids.dtype == torch.int64
    assert (ids.diff() > 0).all()
    assert not torch.isin(ids, top.indices).any()
    assert 0 <= ids.min() <= ids.max() < 500
    assert (torch.isin(draw.indices, ids) | torch.isin(draw.indices, top.indices)).all()
    never = lambda ids: pytest.fail("nothing to score")  # noqa: E731
    assert lazy_categorical(scores, torch.arange(500), 500, never, (9,)).touched.tolist() == [500] * 9
    assert lazy_categorical(top.values, top.indices, 500, never, (0, 3)).values.shape == (0, 3)
    certain = torch.tensor([0.0, -torch.inf])
    assert lazy_categorical(certain, torch.tensor([3, 1]), 500, never, (9,)).indices.tolist() == [3] * 9


@pytest.mark.parametrize("k", [100, 316, 1000])
def test_items_touched_are_few(k: int) -> None:
    n = k * k
    scores = torch.randn(n, generator=generator())
    touched = lazy(scores, k, 2000).touched
    assert touched.double().mean() < 2 * k
    mean = (n - k) * math.exp(1e-6 * 4 + float(scores.topk(k).values[-1]) - oracles.logsumexp(scores.topk(k).values))
    check_mean(touched - k, mean, mean + mean**2)


def test_a_wrong_bound_is_noticed() -> None:
    scores = torch.zeros(50)
    scores[17] = 1.0
    with pytest.raises(ValueError, match=r"score must be at most bound, 1e-06, .* but item 17 has 1; pass a bound"):
        lazy_categorical(torch.zeros(5), torch.arange(5), 50, lambda ids: scores[ids], (200,), generator=generator())
    right = lazy_categorical(
        torch.zeros(5), torch.arange(5), 50, lambda ids: scores[ids], (20_000,), bound=1.0, generator=generator()
    )
    check_draws(right.indices, oracles.softmax(scores))
    with pytest.raises(ValueError, match=r"score must be at most bound, .* has nan"):
        lazy_categorical(torch.zeros(5), torch.arange(5), 50, lambda ids: scores[ids] * torch.nan, (200,))


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_rounding_at_the_bound_is_forgiven(size: float) -> None:
    """Scores computed another way may exceed the least top score by an ulp or two."""
    top = torch.full((5,), size)
    lazy_categorical(top, torch.arange(5), 50, lambda ids: torch.full((len(ids),), size * (1 + 9e-7)), (100,))


# --- log Z and learning ------------------------------------------------------------------------------------------


def test_log_z_from_the_same_draws() -> None:
    scores = 1.5 * torch.randn(5000, generator=generator(1))
    value, stderr = log_partition(lazy(scores, 70, 4000).values, method="unbiased-log-z")
    assert abs(value - oracles.logsumexp(scores)) < Z * stderr
    assert stderr < 0.02


# --- an index ----------------------------------------------------------------------------------------------------


def test_the_top_set_of_an_index() -> None:
    features = torch.randn(300, 5, generator=generator())
    query = torch.randn(1, 5, generator=generator(1))

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ features.numpy().T
        ids = np.argsort(-scores, -1)[:, :k]
        return np.take_along_axis(scores, ids, -1), ids

    top = search_top(search, query.numpy(), 17)
    assert isinstance(top, Top)
    assert torch.allclose(top.scores, features[top.ids] @ query[0])
    draw = lazy_categorical(*top, 300, lambda ids: features[ids] @ query[0], (20_000,), generator=generator())
    check_draws(draw.indices, oracles.softmax(features @ query[0]))
    short = search_top(lambda q, k: (torch.tensor([[2.0, 1.0, -9.0]]), torch.tensor([[4, 0, -1]])), None, 3)
    assert (short.scores.tolist(), short.ids.tolist()) == ([2.0, 1.0], [4, 0])
    flat = search_top(lambda q, k: (torch.tensor([2.0, 1.0]), torch.tensor([4, 0])), None, 2)
    assert flat.ids.tolist() == [4, 0]
    for scores, ids in [((2, 3), (2, 3)), ((3,), (2,)), ((), ())]:
        with pytest.raises(ValueError, match=r"search must return scores and ids of shape \(k,\) or \(1, k\)"):
            search_top(lambda q, k, s=scores, i=ids: (torch.zeros(s), torch.zeros(i)), None, 3)


# --- conventions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_shapes(dtype: torch.dtype) -> None:
    scores = torch.randn(100, generator=generator()).to(dtype)
    top = scores.topk(10)
    for shape in ((), (4,), (2, 3)):
        draw = lazy_categorical(*top, 100, lambda ids: scores[ids], shape)
        assert isinstance(draw, LazyDraw)
        assert (draw.values.shape, draw.indices.shape, draw.touched.shape) == 3 * (shape,)
        assert (draw.values.dtype, draw.indices.dtype, draw.touched.dtype) == (dtype, torch.int64, torch.int64)
    check_draws(lazy(scores, 10, 20_000).indices, oracles.softmax(scores))


def test_generators_and_gradients() -> None:
    scores = torch.randn(100, generator=generator()).requires_grad_()
    top = scores.topk(10)
    call = lambda g=None: lazy_categorical(*top, 100, lambda ids: scores[ids], (50,), generator=g)  # noqa: E731
    g = generator(3)
    first, second = call(g), call(g)
    assert not torch.equal(first.values, second.values)
    once = generator(3)
    assert torch.equal(call(once).values, first.values)
    expected = generator(3)
    torch.randint(-(1 << 63), (1 << 63) - 1, (), generator=expected)
    assert torch.equal(once.get_state(), expected.get_state())
    assert not first.values.requires_grad
    torch.manual_seed(3)
    third = call()
    torch.manual_seed(3)
    assert torch.equal(call().values, third.values)


@pytest.mark.parametrize(
    ("error", "own", "says"),
    [
        (TypeError, {"top_scores": [0.0]}, "top_scores must be a tensor"),
        (TypeError, {"top_scores": torch.zeros(2, dtype=torch.int64)}, "top_scores must have a floating dtype"),
        (ValueError, {"top_scores": torch.zeros(3)}, r"top_scores and top_ids must have the same shape \(k,\)"),
        (ValueError, {"top_scores": torch.zeros(0), "top_ids": torch.zeros(0).long()}, "k at least 1"),
        (ValueError, {"top_scores": torch.zeros(1, 2), "top_ids": torch.tensor([[0, 1]])}, "must have the same shape"),
        (ValueError, {"top_scores": torch.tensor([0.0, torch.nan])}, "top_scores must not be NaN"),
        (ValueError, {"top_scores": torch.tensor([0.0, torch.inf])}, "top_scores must not be NaN or .inf"),
        (ValueError, {"top_scores": torch.full((2,), -torch.inf)}, "nor -inf throughout"),
        (TypeError, {"top_ids": torch.zeros(2)}, "top_ids must be a tensor of integers, but it is torch.float32"),
        (TypeError, {"top_ids": [0, 1]}, "top_ids must be a tensor of integers, but it is a list"),
        (ValueError, {"top_ids": torch.tensor([3, 3])}, "top_ids must be different ids between 0 and n - 1 = 8"),
        (ValueError, {"top_ids": torch.tensor([3, 9])}, "top_ids must be different ids"),
        (ValueError, {"top_ids": torch.tensor([3, -1])}, "top_ids must be different ids"),
        (TypeError, {"n": 9.0}, "n must be an integer"),
        (ValueError, {"bound": 3.0}, "bound must be at most the logsumexp of top_scores, 0.693147, .* but it is 3;"),
        (ValueError, {"bound": math.nan}, "bound must be at most"),
        (TypeError, {"score": lambda ids: ids}, "score must return a floating tensor, but it returned torch.int64"),
        (TypeError, {"score": lambda ids: [0.0]}, "score must return a floating tensor, but it returned a list"),
        (ValueError, {"score": lambda ids: torch.zeros(1, len(ids))}, "score must return one number for each id"),
    ],
)
def test_errors(error: type[Exception], own: dict[str, object], says: str) -> None:
    arguments = {
        "top_scores": torch.zeros(2),
        "top_ids": torch.tensor([1, 3]),
        "n": 9,
        "score": lambda ids: torch.zeros(len(ids)),
        "sample_shape": (100,),
    }
    with pytest.raises(error, match=says):
        lazy_categorical(**(arguments | own))


def test_the_dense_race_agrees() -> None:
    """The same law as the function that looks at everything."""
    scores = torch.randn(60, generator=generator())
    pair = torch.stack([lazy(scores, 8, 40_000).indices, ag.categorical(scores, (40_000,), generator=generator(1))])
    for indices in pair:
        check_draws(indices, oracles.softmax(scores))
