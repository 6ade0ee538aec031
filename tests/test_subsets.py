"""Subsets: probabilities against exact enumeration in 60 digits, estimates against what they are unbiased for."""

from __future__ import annotations

import decimal
import itertools
import math
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from argumbel import gumbel_topk
from argumbel.subsets import topk_log_prob

from . import oracles
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


def test_errors_of_log_prob() -> None:
    x, i = torch.zeros(2, 4), torch.zeros(2, 2, dtype=torch.int64)
    for error, message, f in [
        (TypeError, "indices must be an int64 tensor", lambda: topk_log_prob(x, i.int())),
        (TypeError, "indices must be an int64 tensor", lambda: topk_log_prob(x, [0, 1])),
        (TypeError, "logits must have a floating dtype", lambda: topk_log_prob(x.long(), i)),
        (ValueError, r"indices must be in \[0, 4\)", lambda: topk_log_prob(x, i + 4)),
        (ValueError, r"indices must be in \[0, 4\)", lambda: topk_log_prob(x, i - 1)),
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
