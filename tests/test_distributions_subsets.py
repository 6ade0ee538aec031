"""PlackettLuce and TopKSubset: laws against enumeration, moments against the support, shapes, gradients, bad input."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

import argumbel as ag
from argumbel.distributions import PlackettLuce, TopKSubset, _kl
from argumbel.subsets import inclusion_probs, topk_log_prob

from .statistics import Z, check_counts
from .strategies import DTYPES

BOTH = [PlackettLuce, TopKSubset]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_samples_follow_log_prob_which_sums_to_one(cls: type, k: int) -> None:
    d = cls(1.5 * randn(5), k)
    outcomes = d.enumerate_support()
    assert len(outcomes) == (math.perm if cls is PlackettLuce else math.comb)(5, k)
    probs = d.log_prob(outcomes).exp()
    assert probs.sum().item() == pytest.approx(1, abs=1e-12)
    draws = d.sample((20_000,), generator=seeded(k))
    assert draws.shape == (20_000, *d.event_shape)
    assert d.support.check(draws).all()
    counts = torch.stack([(draws == outcome).all(-1).sum() for outcome in outcomes])
    assert counts.sum() == 20_000
    check_counts(counts, probs)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_moments_and_modes_are_those_of_the_support(k: int) -> None:
    x = randn(2, 5)
    sets = TopKSubset(x, k)
    outcomes = sets.enumerate_support()
    p = sets.log_prob(outcomes).exp().unsqueeze(-1)
    mean = (p * outcomes).sum(0)
    torch.testing.assert_close(sets.mean, mean)
    torch.testing.assert_close(sets.variance, (p * (outcomes - mean) ** 2).sum(0))
    torch.testing.assert_close(sets.mean, inclusion_probs(x, k))
    for d in (sets, PlackettLuce(x, k)):
        outcomes = d.enumerate_support()
        assert d.support.check(d.mode).all()
        torch.testing.assert_close(d.log_prob(d.mode), d.log_prob(outcomes).amax(0))


@pytest.mark.parametrize("cls", BOTH)
def test_entropy_and_its_gradient_are_unbiased(cls: type) -> None:
    x = randn(4).requires_grad_()
    d = cls(x, 2)
    log_p = d.log_prob(d.enumerate_support())
    exact = -(log_p.exp() * log_p).sum()
    (exact_slope,) = torch.autograd.grad(exact, x)
    rows = x.expand(4000, 4).clone().detach().requires_grad_()
    estimate = cls(rows, 2).entropy(5, generator=seeded())
    (slope,) = torch.autograd.grad(estimate.sum(), rows)
    assert abs(estimate.mean() - exact) < Z * (estimate.var() / 4000).sqrt()
    assert ((slope.mean(0) - exact_slope).abs() < Z * (slope.var(0) / 4000).sqrt()).all()
    assert d.entropy().shape == ()


def test_log_prob_is_that_of_the_functions() -> None:
    x = randn(3, 6).requires_grad_()
    orders = PlackettLuce(x, 4)
    value = orders.sample((7,), generator=seeded())
    torch.testing.assert_close(orders.log_prob(value), topk_log_prob(x, value))
    k_hot = torch.zeros(7, 3, 6, dtype=torch.float64).scatter(-1, value, 1.0)
    log_prob = TopKSubset(x, 4).log_prob(k_hot)
    torch.testing.assert_close(log_prob, topk_log_prob(x, value, ordered=False))
    assert log_prob.shape == (7, 3)
    (slope,) = torch.autograd.grad(log_prob.sum(), x)
    assert slope.abs().min() > 0
    assert PlackettLuce(x).event_shape == (6,)
    ranking = PlackettLuce(x).sample(generator=seeded())
    assert torch.equal(ranking.sort(-1).values, torch.arange(6).expand(3, 6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_have_the_dtype_of_logits(dtype: torch.dtype) -> None:
    x = randn(3, 6).to(dtype).requires_grad_()
    d = TopKSubset(x, 2, tau=0.5)
    for draw in (d.sample, d.rsample):
        z = draw((4,), generator=seeded())
        assert z.dtype == dtype
        assert d.support.check(z).all()
        assert d.log_prob(z).dtype == dtype
    torch.autograd.backward((d.rsample((50,)) * torch.arange(6, dtype=dtype)).sum())
    assert x.grad.isfinite().all()
    assert PlackettLuce(x, 2).sample().dtype == torch.int64


def test_lists_that_end_early() -> None:
    """Padded by -1: the log probability of the items that came first, which is the sum over all ends."""
    d = PlackettLuce(randn(4), 3)
    orders = d.enumerate_support()
    for first in ([2, -1, -1], [3, 1, -1], [-1, -1, -1]):
        listed = torch.tensor(first)
        begins = (orders == listed) | (listed == -1)
        expected = d.log_prob(orders)[begins.all(-1)].logsumexp(0)
        for value in (listed, listed.float(), listed.expand(2, 3)):
            assert d.support.check(value).all()
            torch.testing.assert_close(d.log_prob(value), expected.expand(value.shape[:-1]))
    for wrong in ([-1, 0, 1], [0, -1, 1], [0, 0, -1], [0, -2, -1], [0, 1, 4]):
        assert not d.support.check(torch.tensor(wrong))
        with pytest.raises(ValueError, match="value must lie in the support"):
            d.log_prob(torch.tensor(wrong))


def test_rsample_is_relaxed_topk_of_the_race_of_sample() -> None:
    x = randn(3, 6).requires_grad_()
    d = TopKSubset(x, 2, tau=torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    hard = d.rsample((4,), generator=seeded())
    assert torch.equal(hard, d.sample((4,), generator=seeded()))
    soft = d.rsample((4,), hard=False, generator=seeded())
    tau = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    expected = ag.relaxed_topk(x.expand(4, 3, 6), 2, tau, generator=seeded())
    torch.testing.assert_close(soft, expected)
    weights = torch.arange(6.0, dtype=torch.float64)
    slopes = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (hard, soft)]
    torch.testing.assert_close(slopes[0], slopes[1])
    assert not d.sample().requires_grad


@pytest.mark.parametrize("cls", BOTH)
def test_generators(cls: type) -> None:
    d = cls(torch.zeros(4, 9), 3)
    a = d.sample((100,), generator=seeded(7))
    assert torch.equal(a, d.sample((100,), generator=seeded(7)))
    stream = seeded(7)
    assert not torch.equal(d.sample((100,), generator=stream), d.sample((100,), generator=stream))
    torch.manual_seed(3)
    b = d.sample((100,))
    torch.manual_seed(3)
    assert torch.equal(b, d.sample((100,)))


@pytest.mark.parametrize("cls", BOTH)
def test_shapes(cls: type) -> None:
    x = randn(3, 5)
    d = cls(x, 2)
    assert (d.batch_shape, d.event_shape) == ((3,), (2,) if cls is PlackettLuce else (5,))
    assert d.sample((4, 2)).shape == (4, 2, 3, *d.event_shape)
    wide = d.expand((7, 3))
    assert type(wide) is cls
    assert wide.batch_shape == (7, 3)
    assert wide.logits.data_ptr() == x.data_ptr()
    assert wide.log_prob(wide.sample()).shape == (7, 3)
    assert d.enumerate_support().shape[1:] == (3, *d.event_shape)
    assert d.enumerate_support(expand=False).shape[1:] == (1, *d.event_shape)
    torch.testing.assert_close(d.log_prob(d.enumerate_support(expand=False)), d.log_prob(d.enumerate_support()))
    assert Independent(d, 1).log_prob(d.sample((4,))).shape == (4,)
    for other in (copy.deepcopy(d), pickle.loads(pickle.dumps(d))):
        assert torch.equal(other.sample((9,), generator=seeded()), d.sample((9,), generator=seeded()))
    assert repr(cls(torch.zeros(2), 1)) == f"{cls.__name__}(k: 1, logits: [0.0, 0.0])"


@pytest.mark.parametrize("cls", BOTH)
def test_forbidden_items_never_come(cls: type) -> None:
    x = torch.tensor([0.3, -torch.inf, 1.0, -0.4], dtype=torch.float64)
    d, kept = cls(x, 2), cls(x[[0, 2, 3]], 2)
    draws = d.sample((1000,), generator=seeded())
    taken = draws == 1 if cls is PlackettLuce else draws[:, 1] == 1
    assert not taken.any()
    log_p = d.log_prob(d.enumerate_support())
    torch.testing.assert_close(log_p[log_p > -torch.inf], kept.log_prob(kept.enumerate_support()))


def test_errors() -> None:
    x = torch.zeros(2, 4)
    for error, message, f in [
        (TypeError, "logits must be a tensor", lambda: PlackettLuce([0.0, 1.0])),
        (TypeError, "k must be an integer", lambda: TopKSubset(x, 2.0)),
        (ValueError, "k must be between 0 and", lambda: TopKSubset(x, 5)),
        (ValueError, r"logits must be below \+inf and not NaN", lambda: PlackettLuce(x + torch.inf)),
        (ValueError, "possible for at least 4 items", lambda: PlackettLuce(torch.tensor([0.0, 0, 0, -torch.inf]))),
        (ValueError, "value must lie in the support", lambda: PlackettLuce(x, 2).log_prob(torch.tensor([1, 1]))),
        (ValueError, "value must lie in the support", lambda: PlackettLuce(x, 2).log_prob(torch.tensor([1, 4]))),
        (ValueError, "value must lie in the support", lambda: TopKSubset(x, 2).log_prob(torch.ones(4))),
        (ValueError, "value must lie in the support", lambda: TopKSubset(x, 2).log_prob(torch.full((4,), 0.5))),
        (ValueError, "value must broadcast", lambda: TopKSubset(x, 2).log_prob(torch.ones(3))),
        (ValueError, "tau must be at least 0", lambda: TopKSubset(x, 2, tau=-1.0).rsample()),
        (ValueError, "num_samples must be at least 2", lambda: TopKSubset(x, 2).entropy(1)),
        (TypeError, "num_samples must be an integer", lambda: TopKSubset(x, 2).entropy(2.0)),
        (ValueError, "support must be small", lambda: PlackettLuce(torch.zeros(20)).enumerate_support()),
    ]:
        with pytest.raises(error, match=message):
            f()


def test_compiled() -> None:
    x = randn(3, 5)

    def f(logits: Tensor, k_hot: Tensor) -> Tensor:
        return TopKSubset(logits, 2, validate_args=False).log_prob(k_hot)

    value = TopKSubset(x, 2).sample(generator=seeded())
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, value), f(x, value))


# --- divergences -------------------------------------------------------------------------------------------------


def listed_divergence(p: Distribution, q: Distribution) -> Tensor:
    outcomes = p.enumerate_support()
    log_p, log_q = p.log_prob(outcomes), q.log_prob(outcomes)
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0).sum(0)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("k", [0, 1, 2, 4])
def test_divergence_is_the_sum_over_all_outcomes(cls: type, k: int) -> None:
    x = torch.tensor([[0.1, -0.4, 0.9, 0.3], [0.2, -torch.inf, 0.0, 1.0]], dtype=torch.float64)[: 1 if k == 4 else 2]
    y = randn(3, 1, 4)
    p, q = cls(x, k), cls(y, k)
    divergence = kl_divergence(p, q)
    assert divergence.shape == (3, len(x))
    wide = [d.expand((3, len(x))) for d in (p, q)]
    torch.testing.assert_close(divergence, listed_divergence(*wide))
    assert not kl_divergence(p, p).any()
    if k == 1:
        log_p, log_q = torch.log_softmax(x, -1), torch.log_softmax(y, -1)
        expected = torch.where(x > -torch.inf, log_p.exp() * (log_p - log_q), 0).sum(-1)
        torch.testing.assert_close(divergence, expected)
    if k == 2:
        assert (kl_divergence(q, p)[:, 1] == torch.inf).all()
        assert kl_divergence(q, p)[:, 0].isfinite().all()


@pytest.mark.parametrize("cls", BOTH)
def test_divergence_by_sampling_is_unbiased(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = randn(5).requires_grad_(), randn(5, seed=1).requires_grad_()
    exact = kl_divergence(cls(x, 2), cls(y, 2))
    slopes = torch.autograd.grad(exact, [x, y])
    monkeypatch.setattr(_kl, "MAX_LISTED", 0)
    torch.manual_seed(0)
    rows = [z.detach().expand(300, 5).clone().requires_grad_() for z in (x, y)]
    estimate = kl_divergence(cls(rows[0], 2), cls(rows[1], 2))
    assert abs(estimate.mean() - exact) < Z * (estimate.var() / 300).sqrt()
    for own, slope in zip(torch.autograd.grad(estimate.sum(), rows), slopes, strict=True):
        assert ((own.mean(0) - slope).abs() < Z * (own.var(0) / 300).sqrt() + 1e-12).all()
    forbidden = cls(y.detach().index_fill(0, torch.tensor([0]), -torch.inf), 2)
    divergence = kl_divergence(cls(x, 2), forbidden)
    assert divergence == torch.inf
    assert torch.autograd.grad(divergence, x)[0].isfinite().all()


@pytest.mark.parametrize("cls", BOTH)
def test_divergence_needs_one_support(cls: type) -> None:
    for other in (cls(randn(4), 1), cls(randn(5), 2)):
        with pytest.raises(ValueError, match="p and q must draw equally many of equally many items"):
            kl_divergence(cls(randn(4), 2), other)
