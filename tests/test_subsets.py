"""Subsets: probabilities against exact enumeration in 60 digits, estimates against what they are unbiased for."""

from __future__ import annotations

import decimal
import itertools
import math
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel import gumbel_topk, sample_without_replacement
from argumbel.subsets import (
    inclusion_probs,
    priority_sample,
    threshold_estimate,
    threshold_weights,
    topk_log_prob,
)

from . import oracles
from .statistics import Z, check_mean
from .strategies import DTYPES, logits


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def weights_of(x: Tensor) -> list[Decimal]:
    return [Decimal(v).exp() if v > -math.inf else Decimal(0) for v in x.double().tolist()]


def sequence_prob(weights: list[Decimal], order: tuple[int, ...]) -> Decimal:
    """By definition, in 60 digits: nothing cancels, nothing underflows."""
    with decimal.localcontext(prec=60, Emin=-999_999, Emax=999_999):
        left, p = list(weights), Decimal(1)
        for i in order:
            p *= left[i] / sum(left)
            left[i] = Decimal(0)
        return p


def set_log_prob(x: Tensor, items: list[int]) -> float:
    weights = weights_of(x)
    with decimal.localcontext(prec=60, Emin=-999_999, Emax=999_999):
        return float(sum(sequence_prob(weights, order) for order in itertools.permutations(items)).ln())


HARD = {
    "ordinary": randn(9),
    "ties": torch.zeros(9, dtype=torch.float64),
    "weights from 1e-30": torch.tensor([0.0, -69, -30, -1, -1, -50, 0, -69, -12], dtype=torch.float64),
    "hundreds apart": torch.tensor([-300.0, 0, 300, -500, 2, 2, 2, 299, -300], dtype=torch.float64),
    "ten thousand apart": torch.tensor([1e4, 0, -1e4, 5, 1e4, 7, -40, 0, 1], dtype=torch.float64),
    "geometric": -5 * torch.arange(9, dtype=torch.float64),
    "nearly all the mass": torch.tensor([20.0, 19, 18, 25, 20, 21, -20, 22, -21], dtype=torch.float64),
}

# --- topk_log_prob -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_log_prob_is_that_of_enumeration(name: str, k: int) -> None:
    """In float32 too the logits are taken as exact; only the result is rounded."""
    for dtype in (torch.float64, torch.float32):
        x = HARD[name].to(dtype)
        for seed in range(2):
            items = torch.randperm(9, generator=generator(seed))[:k]
            log_sequence = float(sequence_prob(weights_of(x), tuple(items.tolist())).ln())
            for ordered, expected in ((True, log_sequence), (False, set_log_prob(x, items.tolist()))):
                value = topk_log_prob(x, items, ordered=ordered)
                assert value.dtype == dtype
                assert abs(value.item() - expected) <= 1e-12 + torch.finfo(dtype).eps * abs(expected)
                assert value <= 0


def test_a_set_of_probability_e_to_the_minus_500() -> None:
    x = torch.tensor([-250.0, -250, 0, 0.5], dtype=torch.float64)
    expected = set_log_prob(x, [0, 1])
    assert expected < -500
    assert topk_log_prob(x, torch.tensor([1, 0]), ordered=False).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("k", [2, 4])
def test_all_draws_together_have_probability_one(k: int) -> None:
    x = 3 * randn(6)
    orders = torch.tensor(list(itertools.permutations(range(6), k)))
    sets = torch.tensor(list(itertools.combinations(range(6), k)))
    assert topk_log_prob(x, orders).exp().sum().item() == pytest.approx(1, abs=1e-13)
    assert topk_log_prob(x, sets, ordered=False).exp().sum().item() == pytest.approx(1, abs=1e-13)
    law = oracles.plackett_luce(x, k)
    torch.testing.assert_close(topk_log_prob(x, orders).exp().tolist(), list(law.values()), rtol=1e-9, atol=0)


@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("k", [20, 300])
def test_large_sets_against_a_finer_rule(k: int, spread: float) -> None:
    """20,001 Simpson nodes over all times at which anything can happen."""
    x = spread * randn(2 * k, seed=k)
    rest = torch.logsumexp(x[k:], 0)
    u = torch.linspace(-60, 8, 20_001, dtype=torch.float64)
    v = (x[:k] - rest + u[:, None]).exp()
    tail = torch.where(v < 1e-12, x[:k] - rest + u[:, None], torch.log(-torch.expm1(-v.clamp(1e-12))))
    simpson = torch.full_like(u, 2 / 3)
    simpson[1::2] = 4 / 3
    simpson[[0, -1]] = 1 / 3
    expected = torch.logsumexp(u - u.exp() + tail.sum(-1) + (simpson * (u[1] - u[0])).log(), 0)
    value = topk_log_prob(x, torch.arange(k), ordered=False)
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-10)


@given(x=logits(), data=st.data())
def test_log_prob_of_what_is_drawn(x: Tensor, data: st.DataObject) -> None:
    """Finite, at most 0, with a finite gradient that sums to 0; a set is likelier than its order."""
    support = int((x > -torch.inf).sum(-1).amin()) if x.numel() else x.shape[-1]
    k = data.draw(st.integers(0, support))
    indices = gumbel_topk(x, k, generator=generator()).indices
    values = []
    for ordered in (True, False):
        y = x.double().requires_grad_()
        value = topk_log_prob(y, indices, ordered=ordered)
        assert value.shape == x.shape[:-1]
        assert value.isfinite().all()
        assert (value <= 0).all()
        (slope,) = torch.autograd.grad(value.sum(), y)
        assert slope.isfinite().all()
        assert (slope.sum(-1).abs() < 1e-9).all()
        assert topk_log_prob(x, indices, ordered=ordered).dtype == x.dtype
        values.append(value)
    assert (values[0] <= values[1] + 1e-9).all()


def test_log_prob_of_nothing_and_of_everything() -> None:
    x = randn(3, 5).requires_grad_()
    everything = torch.stack([torch.randperm(5, generator=generator(i)) for i in range(3)])
    for ordered in (True, False):
        nothing = topk_log_prob(x, everything[:, :0], ordered=ordered)
        assert torch.equal(nothing, torch.zeros(3, dtype=torch.float64))
    (slope,) = torch.autograd.grad(topk_log_prob(x, everything, ordered=False).sum(), x)
    assert torch.equal(topk_log_prob(x, everything, ordered=False), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(slope, torch.zeros(3, 5, dtype=torch.float64))


@pytest.mark.parametrize("ordered", [True, False])
def test_impossible_draws(ordered: bool) -> None:
    x = torch.tensor([0.0, 1.0, -torch.inf, 2.0], requires_grad=True)
    draws = torch.tensor([[0, 2], [1, 1], [0, 3]])
    value = topk_log_prob(x, draws, ordered=ordered)
    assert torch.equal(value[:2], torch.full((2,), -torch.inf))
    assert value[2].isfinite()
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.isfinite().all()
    masked = topk_log_prob(x.detach(), draws[2], ordered=ordered, mask=torch.tensor([True, False, True, True]))
    expected = topk_log_prob(x.detach()[[0, 3]], torch.tensor([0, 1]), ordered=ordered)
    torch.testing.assert_close(masked, expected)


@pytest.mark.parametrize("ordered", [True, False])
def test_gradients_of_log_prob(ordered: bool) -> None:
    x, indices = randn(3, 6).requires_grad_(), torch.tensor([[0, 2, 3], [1, 5, 4], [5, 1, 2]])
    assert torch.autograd.gradcheck(lambda y: topk_log_prob(y, indices, ordered=ordered), (x,))
    assert torch.autograd.gradgradcheck(lambda y: topk_log_prob(y, indices, ordered=ordered), (x,))
    apart = (torch.tensor([[0.0, -40, 30, 2, -90, 1]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: topk_log_prob(y, indices[:1], ordered=ordered), (apart,))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("row", [[0.3, -1.0, 2.0, 0.5], [0.0, 1.0, -torch.inf, 2.0], [1e4, 0.0, -1e4, 5.0], [0.0] * 4])
def test_second_derivatives_of_log_prob_are_finite(ordered: bool, row: list[float]) -> None:
    """Of draws of the whole support, too, and of items that are thousands apart."""
    x = torch.tensor(row, dtype=torch.float64)
    allowed = [i for i in range(4) if row[i] > -math.inf]
    for k in range(1, len(allowed) + 1):
        items = torch.tensor(allowed[:k])
        hessian = torch.autograd.functional.hessian(lambda y, i=items: topk_log_prob(y, i, ordered=ordered), x)
        assert hessian.isfinite().all()
        assert (hessian.sum(-1).abs() < 1e-9).all()  # a common offset changes nothing
        if ordered:
            expected = torch.zeros(4, 4, dtype=torch.float64)
            for j in range(k):  # minus the covariance of each softmax
                p = torch.softmax(x.index_fill(0, items[:j], -torch.inf), 0)
                expected -= torch.diag(p) - p.outer(p)
            torch.testing.assert_close(hessian, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ordered", [True, False])
def test_log_prob_along_any_dim_and_for_many_samples(ordered: bool) -> None:
    x = randn(3, 4, 5)
    for dim in (0, 1, 2, -1, -2, -3):
        indices = gumbel_topk(x, 2, dim=dim, generator=generator()).indices
        expected = topk_log_prob(x.movedim(dim, -1), indices.movedim(dim, -1), ordered=ordered)
        torch.testing.assert_close(topk_log_prob(x, indices, ordered=ordered, dim=dim), expected)
    samples = gumbel_topk(x.expand(7, 3, 4, 5), 3, generator=generator()).indices
    value = topk_log_prob(x, samples, ordered=ordered)
    assert value.shape == (7, 3, 4)
    torch.testing.assert_close(value[5], topk_log_prob(x, samples[5], ordered=ordered))
    assert topk_log_prob(torch.zeros(0, 4), torch.zeros(0, 2, dtype=torch.int64), ordered=ordered).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ordered", [True, False])
def test_log_prob_in_every_dtype_is_that_of_float64_rounded(dtype: torch.dtype, ordered: bool) -> None:
    x = randn(20, 30).to(dtype)
    indices = gumbel_topk(x, 6, generator=generator()).indices
    expected = topk_log_prob(x.double(), indices, ordered=ordered).to(dtype)
    assert torch.equal(topk_log_prob(x, indices, ordered=ordered), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("ordered", [True, False])
def test_log_prob_compiled_and_mapped(ordered: bool) -> None:
    x, indices = randn(3, 6), torch.tensor([[0, 2, 3], [1, 5, 4], [5, 1, 2]])
    bad = torch.cat([x, torch.full((1, 6), torch.nan, dtype=torch.float64)])
    bad_indices = torch.cat([indices, torch.tensor([[0, 1, 2]])])
    expected = topk_log_prob(x, indices, ordered=ordered)
    for f in (
        torch.compile(lambda y, i: topk_log_prob(y, i, ordered=ordered), fullgraph=True, backend="aot_eager"),
        torch.vmap(lambda y, i: topk_log_prob(y, i, ordered=ordered)),
    ):
        torch.testing.assert_close(f(x, indices), expected)
        assert torch.equal(f(bad, bad_indices).isnan(), torch.tensor([False, False, False, True]))
        marked = f(x, indices.masked_fill(indices == 5, -1))  # as a draw from a bad row is marked
        assert torch.equal(marked.isnan(), torch.tensor([False, True, True]))


# Rows of different lengths, padded by -1: none, one, some and all of the items.
RAGGED = torch.tensor([[-1] * 5, [3, -1, -1, -1, -1], [4, 0, 2, -1, -1], [1, 0, 2, 4, -1], [2, 4, 3, 1, 0]])


def row_by_row(x: Tensor, indices: Tensor, ordered: bool) -> Tensor:
    rows = zip(x.expand(len(indices), -1), indices, strict=True)
    return torch.stack([topk_log_prob(row, i[i >= 0], ordered=ordered) for row, i in rows])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("name", HARD)
def test_padded_lists_are_their_rows(name: str, ordered: bool) -> None:
    x = HARD[name][:5].requires_grad_()
    value, expected = topk_log_prob(x, RAGGED, ordered=ordered), row_by_row(x, RAGGED, ordered)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert value[0] == 0
    cotangents = randn(5)
    slopes = [torch.autograd.grad(v, x, cotangents, retain_graph=True)[0] for v in (value, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-10)
    (nothing,) = torch.autograd.grad(value[0], x, retain_graph=True)
    assert torch.equal(nothing, torch.zeros_like(x))
    many = x.detach().expand(3, 1, 5) + torch.arange(3.0)[:, None, None]  # logits and lists broadcast
    torch.testing.assert_close(topk_log_prob(many, RAGGED, ordered=ordered), expected.detach().expand(3, 5))
    along = topk_log_prob(x.detach().expand(5, 5).T, RAGGED.T, ordered=ordered, dim=0)
    torch.testing.assert_close(along, expected.detach())


@pytest.mark.parametrize("ordered", [True, False])
def test_padded_lists_with_forbidden_items(ordered: bool) -> None:
    """The first item, at which padding must not look, is forbidden or drawn."""
    x = torch.tensor([-torch.inf, 0.3, 1.0, -torch.inf, 2.0], dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[2, -1, -1], [0, -1, -1], [1, 1, -1], [4, 2, 1], [2, 1, -1]])
    value = topk_log_prob(x, indices, ordered=ordered)
    torch.testing.assert_close(value, row_by_row(x, indices, ordered), rtol=1e-12, atol=1e-12)
    assert (value == -torch.inf).tolist() == [False, True, True, False, False]
    assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()
    far = torch.tensor([0.0, -1e38, -1e38, -1e38], dtype=torch.float64)
    exact = topk_log_prob(far, torch.tensor([0, 1]), ordered=ordered)
    torch.testing.assert_close(topk_log_prob(far, torch.tensor([0, 1, -1, -1]), ordered=ordered), exact)


@pytest.mark.parametrize("ordered", [True, False])
def test_derivatives_of_padded_lists(ordered: bool) -> None:
    x = randn(5, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: topk_log_prob(y, RAGGED, ordered=ordered), (x,))
    assert torch.autograd.gradgradcheck(lambda y: topk_log_prob(y, RAGGED, ordered=ordered), (x,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ordered", [True, False])
def test_padded_lists_in_every_dtype(dtype: torch.dtype, ordered: bool) -> None:
    x = randn(5, 5).to(dtype)
    expected = topk_log_prob(x.double(), RAGGED, ordered=ordered).to(dtype)
    assert torch.equal(topk_log_prob(x, RAGGED, ordered=ordered), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("ordered", [True, False])
def test_log_prob_exported_for_any_batch(ordered: bool) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, items: Tensor) -> Tensor:
            return topk_log_prob(x, items, ordered=ordered)

    rows, n = torch.export.Dim("rows", min=2, max=10_000), torch.export.Dim("n", min=4, max=10_000)
    items = torch.tensor([3, 0, 1])
    shapes = {"x": {0: rows, 1: n}, "items": {0: rows}}
    exported = torch.export.export(Model(), (torch.randn(3, 6), items.repeat(3, 1)), dynamic_shapes=shapes).module()
    x, items = torch.randn(1000, 8), items.repeat(1000, 1)
    torch.testing.assert_close(exported(x, items), topk_log_prob(x, items, ordered=ordered))


@pytest.mark.parametrize("ordered", [True, False])
def test_padded_lists_compiled_and_mapped(ordered: bool) -> None:
    x = randn(5, 5)
    expected = row_by_row(x, RAGGED, ordered)
    early = torch.tensor([[-1, 0, 1, 2, 3], [-2, -1, -1, -1, -1], [0, -1, -1, -1, -1], [0, 5, -1, -1, -1], [-1] * 5])
    for f in (
        torch.compile(lambda y, i: topk_log_prob(y, i, ordered=ordered), fullgraph=True, backend="aot_eager"),
        torch.vmap(lambda y, i: topk_log_prob(y, i, ordered=ordered)),
    ):
        torch.testing.assert_close(f(x, RAGGED), expected, rtol=1e-12, atol=1e-12)
        assert f(x, early).isnan().tolist() == [True, True, False, True, False]
    slopes = torch.func.vmap(torch.func.grad(lambda y, i: topk_log_prob(y, i, ordered=ordered)))(x, RAGGED)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(slopes, torch.autograd.grad(row_by_row(y, RAGGED, ordered).sum(), y)[0])


def test_errors_of_log_prob() -> None:
    x, i = torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.int64)
    for error, message, f in [
        (TypeError, "indices must be an int64 tensor", lambda: topk_log_prob(x, i.int())),
        (TypeError, "indices must be an int64 tensor", lambda: topk_log_prob(x, [0, 1])),
        (TypeError, "logits must have a floating dtype", lambda: topk_log_prob(x.long(), i)),
        (ValueError, r"indices must be in \[0, 4\)", lambda: topk_log_prob(x, i + 4)),
        (ValueError, r"indices must be in \[0, 4\)", lambda: topk_log_prob(x, i - 2)),
        (ValueError, "indices must have their padding, -1, after", lambda: topk_log_prob(x, torch.tensor([[-1, 0]]))),
        (ValueError, "indices must hold at most 4", lambda: topk_log_prob(x, i.repeat(1, 3))),
        (ValueError, "indices must broadcast with logits", lambda: topk_log_prob(x, i.repeat(2, 1)[:3])),
        (ValueError, "indices must have the items along dim -2", lambda: topk_log_prob(x, i[0], dim=0)),
        (ValueError, "logits must not be NaN", lambda: topk_log_prob(x * torch.nan, i)),
        (ValueError, r"logits must not be \+inf", lambda: topk_log_prob(x + torch.inf, i)),
        (ValueError, "at least one item in each row", lambda: topk_log_prob(x - torch.inf, i)),
        (ValueError, "dim must be in", lambda: topk_log_prob(x, i, dim=2)),
    ]:
        with pytest.raises(error, match=message):
            f()


# --- inclusion_probs ---------------------------------------------------------------------------------------------


def inclusion_by_enumeration(x: Tensor, k: int) -> Tensor:
    weights = weights_of(x)
    with decimal.localcontext(prec=60, Emin=-999_999, Emax=999_999):
        probs = [Decimal(0)] * len(x)
        for order in itertools.permutations(range(len(x)), k):
            p = sequence_prob(weights, order)
            for i in order:
                probs[i] += p
        return torch.tensor([float(p) for p in probs], dtype=torch.float64)


@pytest.mark.parametrize("name", HARD)
def test_inclusion_probs_are_those_of_enumeration(name: str) -> None:
    """To a relative 1e-11 too, wherever float64 can hold the weights: a probability of 1e-30 is right."""
    for k in range(7):
        x = HARD[name][:6]
        expected = inclusion_by_enumeration(x, k)
        value = inclusion_probs(x, k)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
        held = expected > 1e-250
        torch.testing.assert_close(value[held], expected[held], rtol=1e-11, atol=0)
        assert value.max() <= 1


def late_by_recursion(q: np.ndarray, k: int) -> float:
    """P(fewer than k of independent bits are 1), one bit after another."""
    law = np.zeros(k)
    law[:1] = 1
    for p in q:
        law = law * (1 - p) + p * np.append(0, law[:-1])
    return float(law.sum())


@pytest.mark.parametrize(("n", "k", "spread"), [(120, 7, 1.0), (120, 100, 3.0), (200, 40, 0.3), (150, 3, 40.0)])
def test_inclusion_probs_of_many_items_against_a_recursion(n: int, k: int, spread: float) -> None:
    x = (spread * randn(n, seed=k)).log_softmax(0)
    value, weights = inclusion_probs(x, k), x.exp().numpy()
    assert abs(value.sum().item() - k) < 1e-11
    order = x.argsort(descending=True).tolist()
    for i in (order[0], order[k], order[-1]):
        others = np.delete(weights, i)

        def integrand(y: float, i: int = i, others: np.ndarray = others) -> float:
            v = weights[i] * math.exp(y)
            return v * math.exp(-v) * late_by_recursion(-np.expm1(-others * math.exp(y)), k)

        ends = -math.log(weights[i]) + np.array([-34.0, -25, -18, -12, -8, -6, -4.5, -3, -2, -1, 0, 1, 2, 4])
        middle = -math.log(np.sort(weights)[-k])
        cuts = sorted({*ends, *(middle + np.array([-4.0, -2, -1, 0, 1, 2]))})
        cuts = [c for c in cuts if ends[0] <= c <= ends[-1]]
        nodes, fractions = np.polynomial.legendre.leggauss(12)
        expected = sum(
            (b - a) / 2 * f * integrand((a + b) / 2 + (b - a) / 2 * t)
            for a, b in itertools.pairwise(cuts)
            for t, f in zip(nodes, fractions, strict=True)
        )
        assert value[i].item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "k"), [(20, 5), (800, 100), (800, 795)])
def test_frequencies_of_items_are_inclusion_probs(n: int, k: int) -> None:
    """Items pooled by weight: the count of a pool in a draw has a mean, and no more variance than independent bits."""
    x, rows = 1.5 * randn(n, seed=n), 3000
    probs = inclusion_probs(x, k)
    indices = sample_without_replacement(x.expand(rows, n), k, generator=generator(k)).indices
    for pool in x.argsort().tensor_split(10):
        inside = torch.zeros(n, dtype=torch.float64).index_fill(0, pool, 1.0)
        p = probs[pool]
        check_mean(inside[indices].sum(-1), p.sum().item(), max((p * (1 - p)).sum().item(), 1e-9))


@pytest.mark.parametrize("k", [1, 10, 1500])
def test_inclusion_probs_of_equal_items_are_k_over_n(k: int) -> None:
    n = 3000
    probs = inclusion_probs(torch.full((n,), 3.0, dtype=torch.float64), k)
    torch.testing.assert_close(probs, torch.full((n,), k / n, dtype=torch.float64), rtol=1e-11, atol=0)


@given(x=logits(), data=st.data())
def test_inclusion_probs_are_probabilities(x: Tensor, data: st.DataObject) -> None:
    support = int((x > -torch.inf).sum(-1).amin()) if x.numel() else x.shape[-1]
    k = data.draw(st.integers(0, support))
    y = x.double().requires_grad_()
    probs = inclusion_probs(y, k)
    assert probs.shape == x.shape
    assert ((probs >= 0) & (probs <= 1)).all()
    assert (probs[x == -torch.inf] == 0).all()
    assert ((probs.sum(-1) - k).abs() < 1e-11).all()
    ranked = probs.gather(-1, x.argsort(-1))
    assert (ranked.diff(dim=-1) >= -1e-12).all()  # the heavier, the likelier
    (slope,) = torch.autograd.grad((probs * torch.arange(x.shape[-1])).sum(), y)
    assert slope.isfinite().all()
    assert (slope.sum(-1).abs() < 1e-10).all()
    assert inclusion_probs(x, k).dtype == x.dtype


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_gradients_of_inclusion_probs(k: int) -> None:
    x = randn(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: inclusion_probs(y, k), (x,))
    apart = torch.tensor([0.0, -40, 30, 2, -90, -torch.inf], dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(inclusion_probs(apart, k)[:2].sum(), apart)
    assert slope.isfinite().all()
    if k == 2:
        assert torch.autograd.gradgradcheck(lambda y: inclusion_probs(y, k), (x[:1],))


def test_gradient_of_inclusion_probs_of_many_items() -> None:
    """Against a difference quotient, for more items than the circle has nodes."""
    x, g, step = 2 * randn(400), randn(400, seed=1), 1e-5 * randn(400, seed=2)
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(inclusion_probs(y, 60) @ g, y)
    rise = (inclusion_probs(x + step, 60) - inclusion_probs(x - step, 60)) @ g / 2
    assert (slope @ step).item() == pytest.approx(rise.item(), rel=1e-6)


def test_inclusion_probs_along_any_dim_under_a_mask_and_in_every_dtype() -> None:
    x = randn(3, 4, 5)
    for dim in (0, 1, 2, -2):
        expected = inclusion_probs(x.movedim(dim, -1), 2).movedim(-1, dim)
        torch.testing.assert_close(inclusion_probs(x, 2, dim=dim), expected)
    mask = torch.tensor([True, False, True, True, False])
    masked = inclusion_probs(x.masked_fill(~mask, torch.nan), 2, mask=mask)
    torch.testing.assert_close(masked[..., mask], inclusion_probs(x[..., mask], 2))
    assert (masked[..., ~mask] == 0).all()
    assert torch.equal(inclusion_probs(x, 3, mask=mask), mask.double().expand(3, 4, 5))  # all that is allowed
    for dtype in DTYPES:
        expected = inclusion_probs(x.to(dtype).double(), 2).to(dtype)
        assert torch.equal(inclusion_probs(x.to(dtype), 2), expected)
    assert inclusion_probs(torch.zeros(0, 4), 2).shape == (0, 4)


def test_rows_of_a_batch_do_not_meet() -> None:
    x = torch.stack([randn(300), 30 * randn(300), randn(300).masked_fill(randn(300) > 0, -torch.inf)])
    together = inclusion_probs(x, 90)
    for row, probs in zip(x, together, strict=True):
        torch.testing.assert_close(inclusion_probs(row, 90), probs, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inclusion_probs_compiled_and_mapped() -> None:
    x = torch.cat([randn(2, 5), torch.tensor([[torch.nan, 0, 0, 0, 0], [0, -torch.inf, -torch.inf, -torch.inf, 0]])])
    expected = inclusion_probs(x[:2], 3)
    compiled = torch.compile(lambda y: inclusion_probs(y, 3), fullgraph=True, backend="aot_eager")
    for f in (compiled, torch.vmap(lambda y: inclusion_probs(y, 3))):
        value = f(x)
        torch.testing.assert_close(value[:2], expected)
        assert value[2:].isnan().all()
    slope = torch.func.vmap(torch.func.grad(lambda y: inclusion_probs(y, 3)[0]))(x[:2])
    y = x[:2].clone().requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(inclusion_probs(y, 3)[:, 0].sum(), y)[0])


# --- what a draw says of the whole -------------------------------------------------------------------------------

ROWS = 20_000


@pytest.mark.parametrize("k", [2, 5, 8])
def test_threshold_estimates_are_unbiased_and_know_their_variance(k: int) -> None:
    x, f = randn(9).log_softmax(0), randn(9, seed=1)
    values, i = sample_without_replacement(x.expand(ROWS, 9), k + 1, generator=generator(k))
    of_items, drawn = f[i[:, :k]], x[i]
    weights = threshold_weights(values, drawn)
    truth = (x.exp() @ f).item()
    value, variance = threshold_estimate(of_items, values, drawn)
    torch.testing.assert_close(value, (weights * of_items).sum(-1))
    assert abs(value.mean().item() - truth) < Z * (value.var() / ROWS).sqrt().item()
    # The error squared is as large as the variance says, on average.
    surprise = (value - truth) ** 2 - variance
    assert abs(surprise.mean().item()) < Z * (surprise.var() / ROWS).sqrt().item()
    assert variance.mean() > 0
    total = weights.sum(-1)
    assert abs(total.mean().item() - 1) < Z * (total.var() / ROWS).sqrt().item()
    normalized = threshold_estimate(of_items, values, drawn, normalize=True)
    torch.testing.assert_close(normalized.value, value / total)
    constant = threshold_estimate(torch.ones_like(of_items), values, drawn + 3, normalize=True)
    torch.testing.assert_close(constant.value, torch.ones(ROWS, dtype=torch.float64))
    assert (constant.variance < 1e-20).all()


def test_normalized_estimates_close_in_and_know_their_spread() -> None:
    x, f, k = randn(2000).log_softmax(0), randn(2000, seed=1), 200
    values, i = sample_without_replacement(x.expand(2000, -1), k + 1, generator=generator())
    value, variance = threshold_estimate(f[i[:, :k]], values, x[i], normalize=True)
    error = value - x.exp() @ f
    assert abs(error.mean()) < 0.02
    assert (error**2).mean().item() == pytest.approx(variance.mean().item(), rel=0.25)


def test_the_gradient_of_a_threshold_estimate_is_unbiased() -> None:
    x, f, k = randn(6), randn(6, seed=1), 3
    y = x.expand(ROWS, 6).clone().requires_grad_()
    values, i = sample_without_replacement(y.log_softmax(-1), k + 1, generator=generator())
    weights = threshold_weights(values, y.log_softmax(-1).gather(-1, i))
    (slope,) = torch.autograd.grad((weights * f[i[:, :k]]).sum(), y)
    whole = x.clone().requires_grad_()
    (truth,) = torch.autograd.grad(whole.softmax(-1) @ f, whole)
    assert ((slope.mean(0) - truth).abs() < Z * (slope.var(0) / ROWS).sqrt()).all()


def test_threshold_weights_far_from_the_threshold() -> None:
    """Items far below it weigh exp(kappa), those far above exp(x); no overflow, no 0 / 0."""
    values = torch.tensor([900.0, 5.0, 4.0, 3.0, 2.0], dtype=torch.float64)
    x = torch.tensor([900.0 - 600, -800.0, -20.0, 2.0, 0.0], dtype=torch.float64)
    x[0] = 300.0
    weights = threshold_weights(values, x)
    expected = [math.exp(300), math.exp(2), math.exp(2), math.exp(2) / -math.expm1(-1)]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=0)
    assert weights[1].item() == pytest.approx(math.exp(2), rel=1e-12)
    all_there = threshold_weights(torch.tensor([1.0, 0.5, -torch.inf]), torch.tensor([0.3, -7.0, 0.0]))
    torch.testing.assert_close(all_there, torch.tensor([0.3, -7.0]).exp())


@pytest.mark.parametrize("k", [1, 2, 4])
def test_priority_samples_are_unbiased(k: int) -> None:
    x = torch.tensor([3.0, 0.5, 0.0, -1.0, -3.0], dtype=torch.float64)
    f = randn(5, seed=2)
    draw = priority_sample(x.expand(ROWS, 5), k, generator=generator(k))
    assert draw.values.shape == draw.indices.shape == draw.weights.shape == (ROWS, k)
    estimate = (draw.weights * f[draw.indices]).sum(-1)
    assert abs(estimate.mean() - x.exp() @ f) < Z * (estimate.var() / ROWS).sqrt()
    for i in range(5):  # the weight of each item, too
        of_item = (draw.weights * (draw.indices == i)).sum(-1)
        spread = (of_item.var() / ROWS).sqrt()
        assert abs(of_item.mean() - x[i].exp()) <= Z * spread + 1e-9


def test_priority_samples_are_the_topk_under_the_noise() -> None:
    x, u = randn(4, 7), ag.KeyedNoise(5).uniform((4, 7), dtype=torch.float64)
    draw = priority_sample(x, 3, noise=ag.KeyedNoise(5))
    top = (x - u.log()).topk(4)
    torch.testing.assert_close(draw.values, top.values[:, :3])
    assert torch.equal(draw.indices, top.indices[:, :3])
    torch.testing.assert_close(draw.threshold, top.values[:, 3])
    heavier = torch.maximum(x.gather(1, draw.indices), draw.threshold[:, None])
    torch.testing.assert_close(draw.weights, heavier.exp())
    again = priority_sample(x.T, 3, dim=0, noise=u.T)
    assert torch.equal(again.indices, draw.indices.T)
    torch.testing.assert_close(again.threshold, draw.threshold)


def test_priority_sample_of_everything_and_of_nothing() -> None:
    x = randn(3, 4)
    mask = torch.tensor([True, True, False, True])
    draw = priority_sample(x, 3, mask=mask)
    assert (draw.threshold == -torch.inf).all()
    torch.testing.assert_close(draw.weights, x.gather(1, draw.indices).exp())
    assert (priority_sample(x, 4).threshold == -torch.inf).all()
    assert priority_sample(x, 0).weights.shape == (3, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_estimates_in_every_dtype(dtype: torch.dtype) -> None:
    x = randn(20).log_softmax(0).to(dtype)
    values, i = sample_without_replacement(x.expand(500, 20), 6, generator=generator())
    weights = threshold_weights(values, x[i])
    assert weights.dtype == dtype
    torch.testing.assert_close(weights, threshold_weights(values.double(), x.double()[i]).to(dtype))
    assert threshold_estimate(torch.ones(500, 5), values, x[i]).value.dtype == torch.promote_types(dtype, torch.float32)
    draw = priority_sample(x, 5)
    assert draw.values.dtype == draw.weights.dtype == draw.threshold.dtype == dtype


def test_gradients_of_weights_are_the_weights() -> None:
    x = randn(8).requires_grad_()
    draw = priority_sample(x, 3)
    (slope,) = torch.autograd.grad(draw.weights.sum(), x)
    torch.testing.assert_close(
        slope, torch.zeros(8, dtype=torch.float64).scatter(0, draw.indices, draw.weights.detach())
    )
    values, i = sample_without_replacement(x, 4)
    weights = threshold_weights(values, x[i])
    (slope,) = torch.autograd.grad(weights.sum(), x)
    torch.testing.assert_close(slope, torch.zeros(8, dtype=torch.float64).scatter(0, i[:3], weights.detach()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_estimates_compiled_and_mapped() -> None:
    x, f = randn(3, 6), randn(3, 2, seed=1)
    values, i = sample_without_replacement(x, 3, generator=generator())
    drawn = x.gather(-1, i)
    values[2, 1] = torch.nan
    noise = ag.KeyedNoise(1).uniform((3, 6), dtype=torch.float64)
    expected = threshold_weights(values[:2], drawn[:2])
    calls = {
        "weights": lambda v, d, f: threshold_weights(v, d),
        "estimate": lambda v, d, f: threshold_estimate(f, v, d).variance,
    }
    for wrap in (torch.vmap, lambda g: torch.compile(g, fullgraph=True, backend="aot_eager")):
        torch.testing.assert_close(wrap(calls["weights"])(values, drawn, f)[:2], expected)
        torch.testing.assert_close(
            wrap(calls["estimate"])(values, drawn, f)[:2], threshold_estimate(f[:2], values[:2], drawn[:2]).variance
        )
        bad = torch.cat([x[:2], torch.full((1, 6), torch.nan, dtype=torch.float64)])
        draw = wrap(lambda y, u: tuple(priority_sample(y, 2, noise=u)))(bad, noise)
        plain = priority_sample(x[:2], 2, noise=noise[:2])
        torch.testing.assert_close(draw[2][:2], plain.weights)
        assert draw[2][2].isnan().all()
        assert (draw[1][2] == -1).all()


def test_errors_of_estimates() -> None:
    x, nan = torch.zeros(2, 4), torch.full((2, 4), torch.nan)
    for error, message, f in [
        (ValueError, "k must be between 0 and", lambda: inclusion_probs(x, 5)),
        (TypeError, "k must be an integer", lambda: inclusion_probs(x, 2.0)),
        (ValueError, "logits must not be NaN", lambda: inclusion_probs(nan, 2)),
        (ValueError, r"logits must not be \+inf", lambda: inclusion_probs(x + torch.inf, 2)),
        (ValueError, "at most the number of allowed", lambda: inclusion_probs(x, 3, mask=torch.arange(4) < 2)),
        (ValueError, "at least one item", lambda: inclusion_probs(x - torch.inf, 0)),
        (ValueError, "logits must be the logits of the items drawn", lambda: threshold_weights(x, x[:, :3])),
        (ValueError, "values must hold at least two", lambda: threshold_weights(x[:, :1], x[:, :1])),
        (ValueError, "fall along dim", lambda: threshold_weights(torch.arange(4.0), torch.zeros(4))),
        (ValueError, "fall along dim", lambda: threshold_weights(nan, x)),
        (TypeError, "values must have a floating dtype", lambda: threshold_weights(x.long(), x)),
        (ValueError, "f must have 3 items", lambda: threshold_estimate(x, x, x)),
        (ValueError, "f must broadcast with values", lambda: threshold_estimate(torch.zeros(3, 3), x, x)),
        (TypeError, "f must be a floating tensor", lambda: threshold_estimate(x.long(), x, x)),
        (ValueError, "k must be between 0 and", lambda: priority_sample(x, 5)),
        (ValueError, "at most the number of allowed", lambda: priority_sample(x, 3, mask=torch.arange(4) < 2)),
        (ValueError, "logits must not be NaN", lambda: priority_sample(nan, 2)),
        (ValueError, "both are given", lambda: priority_sample(x, 2, noise=ag.KeyedNoise(0), generator=generator())),
    ]:
        with pytest.raises(error, match=message):
            f()
    assert threshold_estimate(x[:, :1], x[:, :2], x[:, :2]).variance.isnan().all()
