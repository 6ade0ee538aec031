"""What was the noise? Posterior draws against the prior they average to, against rejection, and at the extremes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel._core.integrals import log_rate_outside
from argumbel.reverse import (
    condition_max,
    posterior_gumbel,
    posterior_gumbel_subset,
    posterior_gumbel_topk,
    posterior_noise,
    top_down,
)

from . import oracles
from .posteriors import DRAWS, GIVEN, KNOWN, X, check_prior, check_same, check_sound, race
from .statistics import check_cdf
from .strategies import DTYPES, logits, seeds

# --- law ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float32) for name in GIVEN), ("the winner", torch.float64)])
def test_outcome_and_then_noise_given_it_is_noise(name: str, dtype: torch.dtype) -> None:
    x = X.to(dtype).expand(DRAWS, -1)
    order = race(dtype).argsort(-1, descending=True)
    values = GIVEN[name](x, order, noise=ag.KeyedNoise(12))
    check_prior(values - x)
    assert not torch.equal(values, race(dtype))


def test_the_same_with_the_height_known() -> None:
    x = X.double().expand(DRAWS, -1)
    best = race().max(-1)
    values = posterior_gumbel(x, best.indices, value=best.values, noise=ag.KeyedNoise(12))
    assert torch.equal(values.amax(-1), best.values)
    check_prior(values - x)
    check_prior(posterior_noise(x, best.indices, value=best.values, noise=ag.KeyedNoise(12)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_posterior_noise_is_noise(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, -torch.inf, 2.0, -1.0], dtype=dtype).expand(DRAWS, -1)
    work = torch.promote_types(dtype, torch.float32)
    winner = (x + ag.KeyedNoise(3).gumbel(x.shape, dtype=work)).argmax(-1)
    noise = posterior_noise(x, winner, noise=ag.KeyedNoise(4))
    assert noise.dtype == work
    check_prior(noise)  # the item that took no part included


@pytest.mark.parametrize("name", GIVEN)
def test_it_is_what_rejection_gives(name: str) -> None:
    wanted = torch.tensor([1, 3, 0, 2])
    order, known = race().argsort(-1, descending=True), KNOWN[name]
    if "set" in name or name == "nothing":
        order, target = order[:, :known].sort(-1).values, wanted[:known].sort().values
    else:
        order, target = order[:, :known], wanted[:known]
    accepted = race()[(order == target).all(-1)]
    x = X.double().expand(10_000, -1)
    ours = GIVEN[name](x, wanted.expand(10_000, -1), noise=ag.KeyedNoise(13))
    check_same(ours, accepted)


def test_the_height_is_gumbel_at_logsumexp_whoever_won() -> None:
    for k in range(4):
        values = posterior_gumbel(X.expand(10_000, -1), torch.full((10_000,), k), noise=ag.KeyedNoise(k))
        check_cdf(values[:, k].numpy(), lambda v: oracles.gumbel_cdf(v - oracles.logsumexp(X)))


def test_a_surprising_winner() -> None:
    """50 below the others: its noise is what had to be, and the others are truncated where they mostly are."""
    x = torch.tensor([-50.0, 0.0, 1.0], dtype=torch.float64).expand(20_000, -1)
    values = posterior_gumbel(x, torch.zeros(20_000, dtype=torch.int64), noise=ag.KeyedNoise(0))
    height = values[:, 0]
    check_cdf(height.numpy(), lambda v: oracles.gumbel_cdf(v - oracles.logsumexp(x[0])))
    for i in (1, 2):  # given the height, a truncated Gumbel: its distribution function is uniform
        log_cdf = torch.exp(x[:, i] - height) - torch.exp(x[:, i] - values[:, i])
        check_cdf(log_cdf.exp().numpy(), scipy.stats.uniform.cdf)


# --- given a set: the quantile -------------------------------------------------------------------------------------


def below(z: float, a: list[float]) -> float:
    """The share of t = e^z below, by expanding the product: exact to 1e-10 for few members of ordinary weight."""
    weights = [math.exp(v) for v in a]
    terms = [
        ((-1) ** r, 1 + math.fsum(chosen)) for r in range(len(a) + 1) for chosen in itertools.combinations(weights, r)
    ]
    until = math.fsum(-sign / c * math.expm1(-c * math.exp(z)) for sign, c in terms)
    return until / math.fsum(sign / c for sign, c in terms)


@pytest.mark.parametrize("a", [[0.0], [1.0, -1.0], [30.0, 0.5], [800.0, 2.0], [-0.5, 0.0, 0.5, 2.0], [3.0] * 5])
def test_the_quantile_of_the_height_outside_a_set(a: list[float]) -> None:
    log_e = torch.linspace(-9, 3.2, 60, dtype=torch.float64)[:, None]
    z = log_rate_outside(torch.tensor(a, dtype=torch.float64).clamp(max=700).expand(60, -1), log_e)
    wanted = -torch.expm1(-torch.exp(log_e))
    found = torch.tensor([below(v, [min(w, 700.0) for w in a]) for v in z.flatten().tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, wanted.flatten(), rtol=0, atol=1e-10)
    assert (z.diff(dim=0) > 0).all()


def test_the_quantile_in_the_limits() -> None:
    log_e = torch.linspace(-9, 3.2, 60, dtype=torch.float64)[:, None]
    sure = log_rate_outside(torch.full((60, 3), 1e4, dtype=torch.float64), log_e)  # no constraint
    torch.testing.assert_close(torch.exp(-torch.exp(sure)), torch.exp(-torch.exp(log_e)), rtol=0, atol=1e-12)
    for k in (1, 40, 1000):  # members of no weight to speak of: t^k e^-t, a gamma law
        gamma = log_rate_outside(torch.full((60, k), -1e4, dtype=torch.float64), log_e).exp()
        share = scipy.stats.gamma(k + 1).cdf(gamma.numpy())
        np.testing.assert_allclose(share, -np.expm1(-np.exp(log_e.numpy())), rtol=0, atol=1e-9)


# --- extremes ----------------------------------------------------------------------------------------------------


@given(x=logits(), seed=seeds, data=st.data())
def test_sound_for_any_logits_and_outcome(x: Tensor, seed: int, data: st.DataObject) -> None:
    """Also for the least likely outcome: strict after rounding, nothing NaN."""
    support = int((x > -torch.inf).sum(-1).amin()) if x.numel() else x.shape[-1]
    name = data.draw(st.sampled_from([n for n in GIVEN if min(KNOWN[n], x.shape[-1]) <= support and n != "nothing"]))
    known = support if name == "the order of all" else KNOWN[name]
    if known > support:
        return
    shuffled = ag.gumbel_topk(
        torch.zeros_like(x).masked_fill(x == -torch.inf, -torch.inf), known, noise=ag.KeyedNoise(seed)
    )
    likely = ag.gumbel_topk(x, known, noise=ag.KeyedNoise(seed))
    for order in (shuffled.indices, likely.indices):
        check_sound(name, x, order, GIVEN[name](x, order, noise=ag.KeyedNoise(seed)))
        noise = posterior_noise(x, order[..., 0], noise=ag.KeyedNoise(seed))
        assert noise.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in GIVEN if name != "nothing"])
def test_sound_for_logits_ten_thousand_apart(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1e4, -1e4, 9999.0, 1e4]).to(dtype).expand(120, 5)
    order = torch.tensor(list(itertools.permutations(range(5))))
    check_sound(name, x, order, GIVEN[name](x, order, noise=ag.KeyedNoise(1)))
    noise = posterior_noise(x, order[:, 0], noise=ag.KeyedNoise(1))
    assert noise.isfinite().all()
    torch.testing.assert_close(
        (x.to(noise.dtype) + noise).amax(-1),
        x.to(noise.dtype).gather(-1, order[:, :1])[:, 0] + noise.gather(-1, order[:, :1])[:, 0],
    )


def test_the_largest_half() -> None:
    x = torch.full((50, 3), 65504.0, dtype=torch.float16)
    values = posterior_gumbel(x, torch.full((50,), 1), noise=ag.KeyedNoise(0))
    assert (values[:, 1] > values[:, [0, 2]].amax(-1)).all()


def test_members_far_above_the_rest_are_free() -> None:
    """Even noise as low as it gets, where 1 - exp(-exp(-G)) is 1 to the last digit, stays what it was."""
    x, g = torch.tensor([0.0, 1.0, -100.0], dtype=torch.float64), torch.tensor([-3.8, -3.7, 0.0], dtype=torch.float64)
    values = posterior_gumbel_subset(x, torch.tensor([0, 1]), noise=g)
    torch.testing.assert_close(values, x + g)


def test_a_set_of_all_that_is_allowed_says_nothing() -> None:
    x, g = torch.tensor([0.5, -torch.inf, 2.0]), ag.KeyedNoise(0).gumbel((3,))
    assert torch.equal(posterior_gumbel_subset(x, torch.tensor([2, 0]), noise=g), x + g)


@pytest.mark.parametrize("name", GIVEN)
def test_one_item_and_empty_batches(name: str) -> None:
    if KNOWN[name] == 1:
        one = GIVEN[name](torch.full((5, 1), 3.0), torch.zeros(5, 1, dtype=torch.int64), noise=ag.KeyedNoise(1))
        torch.testing.assert_close(one, 3 + ag.KeyedNoise(1).gumbel((5, 1)))
    order = torch.arange(4).expand(0, 4)
    assert GIVEN[name](torch.zeros(0, 4), order).shape == (0, 4)


def test_noise_of_far_off_logits_does_not_depend_on_where_they_are() -> None:
    """Computed from the values by subtraction it would keep one digit of seven."""
    x, index = torch.tensor([0.0, 1.0, -2.0]), torch.tensor(2)
    far = posterior_noise(x + 2.0**20, index, noise=ag.KeyedNoise(0))
    assert torch.equal(far, posterior_noise(x, index, noise=ag.KeyedNoise(0)))


@given(x=logits(dtypes=(torch.float64,)), seed=seeds)
def test_noise_replays_the_race(x: Tensor, seed: int) -> None:
    index = ag.gumbel_max(x, noise=ag.KeyedNoise(seed)).indices
    noise = posterior_noise(x, index, noise=ag.KeyedNoise(seed))
    values = posterior_gumbel(x, index, noise=ag.KeyedNoise(seed))
    torch.testing.assert_close(x + noise, values, rtol=1e-12, atol=1e-12)


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["the winner", "the first two", "the order of all"])
def test_gradcheck(name: str) -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    noise = ag.KeyedNoise(0).gumbel((3, 5), dtype=torch.float64)
    order = torch.tensor([[0, 4, 1, 2, 3], [3, 2, 1, 0, 4], [1, 0, 2, 3, 4]])
    assert torch.autograd.gradcheck(lambda y: GIVEN[name](y, order, noise=noise), (x,))
    if name == "the winner":
        assert torch.autograd.gradgradcheck(lambda y: GIVEN[name](y, order, noise=noise), (x,))
        assert torch.autograd.gradcheck(lambda y: posterior_noise(y, order[:, 0], noise=noise), (x,))
        height = torch.randn(3, dtype=torch.float64, requires_grad=True)
        for function in (posterior_gumbel, posterior_noise):
            assert torch.autograd.gradcheck(lambda y, v: function(y, order[:, 0], value=v, noise=noise), (x, height))  # noqa: B023


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_in_closed_form(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=dtype)
    noise = ag.KeyedNoise(5).gumbel((4,))
    jacobian = torch.autograd.functional.jacobian(lambda y: posterior_gumbel(y, torch.tensor(1), noise=noise), x)
    values = posterior_gumbel(x.double(), torch.tensor(1), noise=noise.double())
    to_height = torch.exp(values - values[1])
    expected = torch.outer(to_height, torch.softmax(x.double(), 0)) + torch.diag(-torch.expm1(values - values[1]))
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-6)
    torch.testing.assert_close(jacobian.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_with_forbidden_items_and_far_apart_are_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, -math.inf, 1e4, -1e4], [-math.inf, 2.0, 2.0, -math.inf]], dtype=dtype)
    order = torch.tensor([[3, 0], [2, 1]])
    for function in (
        lambda y: posterior_gumbel(y, order[:, 0], noise=ag.KeyedNoise(0)),
        lambda y: posterior_noise(y, order[:, 0], noise=ag.KeyedNoise(0)),
        lambda y: posterior_gumbel_topk(y, order, noise=ag.KeyedNoise(0)),
        lambda y: condition_max(y, torch.zeros(2, dtype=dtype)),
        lambda y: top_down(y, [4, 4, 5, 5, 6, 6, -1], noise=ag.KeyedNoise(0)),
    ):
        y = x.clone().requires_grad_()
        values = function(y)
        values[values.isfinite()].sum().backward()
        assert y.grad.isfinite().all()
        assert y.grad.any()
        assert (y.grad[x == -torch.inf] == 0).all()


def test_a_tie_that_rounding_made_has_the_gradient_of_the_height() -> None:
    x = torch.tensor([1e4, 1e4, -50.0], requires_grad=True)
    values = posterior_gumbel(x, torch.tensor(2), noise=torch.tensor([40.0, 40.0, 0.0]))
    assert values[2] > values[0]
    (values[0] + values[1]).backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-3)


def test_the_set_carries_no_gradient() -> None:
    x = torch.randn(5, requires_grad=True)
    assert not posterior_gumbel_subset(x, torch.tensor([1, 2])).requires_grad
