"""Subsets of items whose logits reach both ends of their dtype: every value is right, and every gradient is finite."""

from __future__ import annotations

import decimal
import itertools
import math
from collections.abc import Iterator
from decimal import Decimal

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.subsets import (
    inclusion_probs,
    priority_sample,
    threshold_estimate,
    threshold_weights,
    topk_log_prob,
)

from .strategies import DTYPES

of_every_dtype = pytest.mark.parametrize("dtype", DTYPES)

# In units of the dtype's largest number, plus the second list.
ROWS = [
    ([1, -1, 0, 0], [0, 0, 0, 1]),
    ([1, 1, 1, 1], [0, 0, 0, 0]),
    ([-1, -1, -1, -1], [0, 0, 0, 0]),
    ([1, 1, -1, -1], [0, 0, 0, 0]),
    ([1, -1, -1, -1], [0, 0, 0, 0]),
    ([1, 0, -1, -math.inf], [0, 0, 0, 0]),
    ([-1, -math.inf, -1, 0], [0, 0, 0, 3]),
    ([1, 0, 0, 0], [0, 0.25, 0.5, 1]),
    ([-1, 0, 0, 0], [0, 0.25, 0.5, 1]),
    ([0.5, -0.5, 1, 0], [0, 0, 0, 2]),
    ([0, 0, 0, 0], [1000, -1000, 0, 2]),
]


def rows(dtype: torch.dtype) -> Iterator[Tensor]:
    most = torch.finfo(dtype).max
    for units, offsets in ROWS:
        yield torch.tensor([u * most + v for u, v in zip(units, offsets, strict=True)], dtype=torch.float64).to(dtype)


def exactly() -> decimal.Context:
    """Digits for sums of numbers near 1e308 and near 1."""
    return decimal.Context(prec=360, Emin=-999_999, Emax=999_999, traps=[decimal.InvalidOperation])


def log_sum(x: list[Decimal]) -> Decimal:
    top = max(x)
    return top + sum((v - top).exp() if v - top > -2_000_000 else Decimal(0) for v in x).ln()


def log_prob(x: list[Decimal], order: tuple[int, ...]) -> Decimal:
    """By definition."""
    left, total = dict(enumerate(x)), Decimal(0)
    for i in order:
        total += left[i] - log_sum(list(left.values()))
        del left[i]
    return total


def numbers(x: Tensor) -> tuple[list[int], list[Decimal]]:
    """The items that are allowed, and their logits."""
    allowed = [i for i, v in enumerate(x.tolist()) if v > -math.inf]
    return allowed, [Decimal(x[i].item()) for i in allowed]


def exp(x: Decimal) -> float:
    return float(x.exp()) if x > -2_000_000 else 0.0


@of_every_dtype
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
def test_inclusion_probs(dtype: torch.dtype, k: int) -> None:
    for x in rows(dtype):
        allowed, logits = numbers(x)
        if k > len(allowed):
            continue
        expected = torch.zeros(4, dtype=torch.float64)
        with decimal.localcontext(exactly()):
            for order in itertools.permutations(range(len(allowed)), k):
                p = exp(log_prob(logits, order))
                expected[[allowed[i] for i in order]] += p
        y = x.clone().requires_grad_()
        probs = inclusion_probs(y, k)
        torch.testing.assert_close(probs.double(), expected, rtol=0, atol=1e-12 + torch.finfo(dtype).eps)
        (slope,) = torch.autograd.grad(probs, y, torch.arange(4).to(dtype), create_graph=True)
        assert slope.isfinite().all()
        if slope.requires_grad:
            assert torch.autograd.grad(slope.sum(), y)[0].isfinite().all()


def test_inclusion_probs_below_an_item_that_is_sure() -> None:
    """Beside the largest logit, the differences of the others were rounded away: 2 / 3 for each."""
    others = torch.tensor([0.3, 0.5, -1.0])
    probs = inclusion_probs(torch.cat([torch.tensor([1e20]), others]), 3)
    torch.testing.assert_close(probs, torch.cat([torch.ones(1), inclusion_probs(others, 2)]))


@of_every_dtype
@pytest.mark.parametrize("ordered", [True, False])
def test_log_prob(dtype: torch.dtype, ordered: bool) -> None:
    """Finite wherever the dtype can hold it, with the gradient by definition."""
    draw = itertools.permutations if ordered else itertools.combinations
    for x in rows(dtype):
        allowed, logits = numbers(x)
        for k in range(1, len(allowed) + 1):
            for places in draw(range(len(allowed)), k):
                orders = [places] if ordered else list(itertools.permutations(places))
                with decimal.localcontext(exactly()):
                    terms = [log_prob(logits, order) for order in orders]
                    total = log_sum(terms)
                    shares = [exp(t - total) for t in terms]
                y = x.clone().requires_grad_()
                value = topk_log_prob(y, torch.tensor([allowed[i] for i in places]), ordered=ordered)
                expected = torch.tensor(float(total), dtype=torch.float64).to(dtype)
                torch.testing.assert_close(value, expected, rtol=max(1e-11, torch.finfo(dtype).eps), atol=1e-12)
                (slope,) = torch.autograd.grad(value, y, create_graph=True)
                by_definition = torch.zeros(4, dtype=torch.float64)
                for order, share in zip(orders, shares, strict=True):
                    left = x.double()
                    for i in order:
                        by_definition -= share * (left - left.max()).softmax(-1)
                        by_definition[allowed[i]] += share
                        left = left.index_fill(0, torch.tensor(allowed[i]), -math.inf)
                close = {"rtol": 0, "atol": 1e-11 + torch.finfo(dtype).eps}
                torch.testing.assert_close(slope.double(), by_definition, **close)
                (second,) = torch.autograd.grad(slope, y, torch.arange(4).to(dtype))
                assert second.isfinite().all()


def test_log_prob_below_an_item_that_is_sure() -> None:
    others = torch.tensor([0.3, 0.5, -1.0])
    x = torch.cat([torch.tensor([1e20]), others])
    for order in itertools.permutations(range(3), 2):
        expected = topk_log_prob(others, torch.tensor(order))
        torch.testing.assert_close(topk_log_prob(x, torch.tensor([0, order[0] + 1, order[1] + 1])), expected)


def weight(x: float, threshold: float) -> Decimal:
    """The logarithm of ``e^x / (1 - exp(-e^(x - threshold)))``."""
    a = Decimal(x) - Decimal(threshold)
    if abs(a) > 1000:
        return max(Decimal(x), Decimal(threshold))
    return Decimal(x) - (1 - (-a.exp()).exp()).ln()


@of_every_dtype
def test_threshold_weights(dtype: torch.dtype) -> None:
    """A weight that the dtype cannot hold is its largest number."""
    most = torch.finfo(dtype).max
    heights = [most, most / 2, 800.0, 100.0, 12.0, 5.0, 0.5, -0.5, -5.0, -100.0, -1e4, -most / 2, -most]
    for threshold in heights:
        values = torch.tensor([most, threshold], dtype=torch.float64).to(dtype)
        for height in heights:
            x = torch.tensor([height, 0], dtype=torch.float64).to(dtype).requires_grad_()
            with decimal.localcontext(decimal.Context(prec=700, Emin=-999_999, Emax=999_999)):
                expected = min(weight(x[0].item(), values[1].item()), Decimal(10_000)).exp()
                expected = float(min(max(expected, Decimal(10) ** -320), Decimal(most)))
            weights = threshold_weights(values, x)
            assert weights.item() == pytest.approx(
                expected, rel=max(1e-12, torch.finfo(dtype).eps), abs=torch.finfo(dtype).tiny
            )
            (slope,) = torch.autograd.grad(weights, x)
            assert slope[0] == (weights[0] if weights < most * (1 - 1e-6) else 0)
            for normalize in (False, True):
                for f in (most, 0.0, -most):
                    g = torch.tensor([f], dtype=torch.float64).to(dtype).requires_grad_()
                    estimate = threshold_estimate(g, values, x, normalize=normalize)
                    assert estimate.value.isfinite()
                    if normalize:
                        torch.testing.assert_close(estimate.value, g.detach()[0])
                    for slope in torch.autograd.grad(estimate.value, (g, x)):
                        assert slope.isfinite().all()


@of_every_dtype
@pytest.mark.parametrize("normalize", [False, True])
def test_estimates_of_many_extreme_items(dtype: torch.dtype, normalize: bool) -> None:
    most = torch.finfo(dtype).max
    x = torch.tensor([most, 900, 0.5, -900, -most, 0], dtype=torch.float64).to(dtype).requires_grad_()
    for values in (
        [most, most, 900, 1, 0, -5],
        [most, most, most, most, most, most],
        [0, 0, -most, -most, -most, -most],
    ):
        v = torch.tensor(values, dtype=torch.float64).to(dtype)
        for f in ([1.0, -1, 1, -1, 1], [most, -most, most, most, -most], [most] * 5, [0.0] * 5):
            g = torch.tensor(f, dtype=torch.float64).to(dtype).requires_grad_()
            estimate = threshold_estimate(g, v, x, normalize=normalize)
            for part in estimate:
                assert part.isfinite()
                assert all(slope.isfinite().all() for slope in torch.autograd.grad(part, (g, x), retain_graph=True))


def test_normalized_estimates_take_any_offset() -> None:
    log_p = torch.randn(6)
    values = ag.gumbel_topk(log_p, 6).values
    f = torch.arange(5.0)
    expected = threshold_estimate(f, values, log_p, normalize=True)
    for offset in (1024.0, -1024.0):
        found = threshold_estimate(f, values + offset, log_p + offset, normalize=True)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_an_item_far_below_its_threshold_has_the_weight_of_the_threshold() -> None:
    """It was 1: logit minus log q rounded the threshold away."""
    weights = threshold_weights(torch.tensor([1.0, 0.5]), torch.tensor([-1e20, 0.0]))
    torch.testing.assert_close(weights, torch.tensor([0.5]).exp())
    noise = torch.tensor([0.9, 0.5, 0.5])
    draw = priority_sample(torch.tensor([3.0, -1e20, -1e20 * 1.001]), 2, noise=noise)
    assert torch.equal(draw.indices, torch.tensor([0, 1]))
    torch.testing.assert_close(draw.weights, torch.tensor([3.0, -math.inf]).exp())


@of_every_dtype
@pytest.mark.parametrize("keyed", [False, True])
def test_priority_samples(dtype: torch.dtype, keyed: bool) -> None:
    for x in rows(dtype):
        work = torch.promote_types(dtype, torch.float32)
        noise = ag.KeyedNoise(3) if keyed else torch.full((4,), 1e-12, dtype=work)
        support = int((x > -math.inf).sum())
        for k in range(1, support + 1):
            y = x.clone().requires_grad_()
            draw = priority_sample(y, k, noise=noise)
            assert draw.values.isfinite().all()
            assert draw.weights.isfinite().all()
            assert draw.threshold.isfinite() if k < support else draw.threshold == -math.inf
            (slope,) = torch.autograd.grad(draw.weights, y, torch.ones_like(draw.weights))
            assert slope.isfinite().all()
