"""What was the noise? Posterior draws against the prior they average to, against rejection, and at the extremes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

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
    inverse_cdf_gumbel,
    posterior_gumbel,
    posterior_gumbel_subset,
    posterior_gumbel_topk,
    posterior_noise,
    top_down,
)

from . import oracles
from .statistics import FAILURE_RATE, check_cdf, check_draws, check_independent, quantile_bins
from .strategies import DTYPES, logits, seeds

# Every conditional draw as a function of logits and the whole order of the race, of which it uses what it may know.
GIVEN: dict[str, Callable[..., Tensor]] = {
    "the winner": lambda x, order, dim=-1, **own: posterior_gumbel(x, order.select(dim, 0), dim=dim, **own),
    "the first": lambda x, order, dim=-1, **own: posterior_gumbel_topk(x, order.narrow(dim, 0, 1), dim=dim, **own),
    "the first two": lambda x, order, dim=-1, **own: posterior_gumbel_topk(x, order.narrow(dim, 0, 2), dim=dim, **own),
    "the order of all": lambda x, order, dim=-1, **own: posterior_gumbel_topk(x, order, dim=dim, **own),
    "a set of one": lambda x, order, dim=-1, **own: posterior_gumbel_subset(x, order.narrow(dim, 0, 1), dim=dim, **own),
    "a set of two": lambda x, order, dim=-1, **own: posterior_gumbel_subset(x, order.narrow(dim, 0, 2), dim=dim, **own),
    "a set of three": lambda x, order, dim=-1, **own: posterior_gumbel_subset(
        x, order.narrow(dim, 0, 3).flip(dim), dim=dim, **own
    ),
    "nothing": lambda x, order, dim=-1, **own: posterior_gumbel_subset(x, order, dim=dim, **own),
}
KNOWN = {
    "the winner": 1,
    "the first": 1,
    "the first two": 2,
    "the order of all": 4,
    "a set of one": 1,
    "a set of two": 2,
    "a set of three": 3,
    "nothing": 4,
}
X = torch.tensor([0.0, 1.5, -1.0, 0.5])
DRAWS = 40_000


@functools.cache
def race(dtype: torch.dtype = torch.float64) -> Tensor:
    """The perturbed values of so many races between the items of X."""
    return X.to(dtype) + ag.KeyedNoise(11).gumbel((DRAWS, len(X)), dtype=dtype)


def check_prior(noise: Tensor) -> None:
    """Standard Gumbel noise, item by item and, on a grid of quantiles, pair by pair."""
    bins = [quantile_bins(column.double().numpy(), oracles.gumbel_cdf, 8) for column in noise.T]
    for column in noise.T:
        check_cdf(column.double().numpy(), oracles.gumbel_cdf)
    for a, b in itertools.combinations(bins, 2):
        check_independent(a, b, np.full(8, 1 / 8), np.full(8, 1 / 8))


def check_same(ours: Tensor, theirs: Tensor) -> None:
    """Two samples of one law of several numbers: each number by Kolmogorov-Smirnov, each pair by counts on a grid."""
    assert min(len(ours), len(theirs)) > 1500
    cuts = theirs.double().quantile(torch.arange(1, 5, dtype=torch.float64) / 5, 0)
    for i in range(ours.shape[1]):
        assert scipy.stats.ks_2samp(ours[:, i].numpy(), theirs[:, i].numpy()).pvalue > FAILURE_RATE
    for i, j in itertools.combinations(range(ours.shape[1]), 2):
        counts = [
            np.histogram2d(
                np.searchsorted(cuts[:, i].numpy(), v[:, i].numpy()),
                np.searchsorted(cuts[:, j].numpy(), v[:, j].numpy()),
                bins=[np.arange(6) - 0.5] * 2,
            )[0].ravel()
            for v in (ours, theirs)
        ]
        table = np.array(counts)
        table = table[:, table.sum(0) >= 20]
        assert scipy.stats.chi2_contingency(table).pvalue > FAILURE_RATE


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


def check_sound(name: str, x: Tensor, order: Tensor, values: Tensor) -> None:
    allowed, known = x > -torch.inf, min(KNOWN[name], order.shape[-1])
    assert values.shape == x.shape
    assert values.dtype == x.dtype
    assert torch.equal(values > -torch.inf, allowed)
    assert values.masked_fill(~allowed, 0).isfinite().all()
    if name == "nothing":
        return
    if name == "the order of all":
        known = order.shape[-1]
    elif name == "a set of three":
        known = min(3, order.shape[-1])
    inside = values.gather(-1, order[..., :known])
    outside = values.scatter(-1, order[..., :known], -torch.inf).amax(-1)
    assert (inside.amin(-1) > outside).all()
    if "set" not in name:
        assert (inside.diff(dim=-1) < 0).all()


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


# --- condition_max -------------------------------------------------------------------------------------------------


def test_condition_max_in_its_naive_form() -> None:
    v = torch.randn(50, 6, dtype=torch.float64)
    top = torch.randn(50, dtype=torch.float64)
    naive = -torch.log(torch.exp(-top)[:, None] + torch.exp(-v) - torch.exp(-v.amax(-1, keepdim=True)))
    torch.testing.assert_close(condition_max(v, top), naive)
    torch.testing.assert_close(condition_max(condition_max(v, top), v.amax(-1)), v)
    torch.testing.assert_close(condition_max(v, v.amax(-1)), v)


def test_condition_max_moves_one_race_to_another() -> None:
    """A race and another height, independent of it, make a race."""
    x = X.double().expand(DRAWS, -1)
    height = oracles.logsumexp(X) + ag.KeyedNoise(21).gumbel((DRAWS,), dtype=torch.float64)
    check_prior(condition_max(race(), height) - x)


@given(x=logits(), seed=seeds, top=st.sampled_from([-1e4, -300.0, -1.0, 0.0, 40.0, 1e4]))
def test_condition_max_is_sound(x: Tensor, seed: int, top: float) -> None:
    noise = ag.KeyedNoise(seed)
    values = (x + noise.gumbel(x.shape)).to(x.dtype)
    height = torch.full(x.shape[:-1], top, dtype=x.dtype)
    moved = condition_max(values, height)
    won = values == values.amax(-1, keepdim=True)
    assert not moved.isnan().any()
    assert moved.dtype == x.dtype
    assert torch.equal(moved == height.unsqueeze(-1), won)
    assert torch.equal(moved.argmax(-1), values.argmax(-1))
    assert torch.equal(moved == -torch.inf, values == -torch.inf)


def test_condition_max_keeps_the_order() -> None:
    v = torch.randn(100, 20, dtype=torch.float64)
    for top in (-50.0, 3.0, 500.0):
        moved = condition_max(v, torch.full((100,), top, dtype=torch.float64)).gather(-1, v.argsort(-1))
        assert (moved.diff(dim=-1) >= 0).all()


def test_condition_max_gradients_and_dims() -> None:
    v = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    top = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: condition_max(a, b, dim=0), (v, top))
    assert torch.autograd.gradgradcheck(lambda a, b: condition_max(a, b, dim=0), (v, top))
    assert torch.equal(condition_max(v, top, dim=0), condition_max(v.T, top).T)


# --- top_down ------------------------------------------------------------------------------------------------------

TREES = {
    "one level": None,
    "pairs": [4, 4, 5, 5, 6, 6, -1],
    "a comb": [6, 6, 5, 4, -1, 4, 5],
    "a chain above one": [4, 4, 4, 4, 5, 6, -1],
    "two trees": [4, 5, 4, 5, -1, -1],
    "a leaf that is a root": [-1, 4, 4, 4, -1],
    "leaves alone": [-1, -1, -1, -1],
}


def leaves_below(parents: list[int], leaves: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in parents]
    for leaf in range(leaves):
        node = leaf
        while node != -1:
            found[node].append(leaf)
            node = parents[node]
    return found


@pytest.mark.parametrize("name", TREES)
def test_top_down_has_the_law_of_bottom_up(name: str) -> None:
    parents = TREES[name] or [4, 4, 4, 4, -1]
    values = top_down(X.double().expand(DRAWS, -1), TREES[name], noise=ag.KeyedNoise(31))
    assert values.shape == (DRAWS, len(parents))
    check_prior(values[:, :4] - X)
    for node, below_it in enumerate(leaves_below(parents, 4)):
        assert torch.equal(values[:, node], values[:, below_it].amax(-1))
        check_cdf(values[:, node].numpy(), lambda v, b=below_it: oracles.gumbel_cdf(v - oracles.logsumexp(X[b])))


def test_top_down_begins_at_the_top() -> None:
    x, g = X.double(), ag.KeyedNoise(3).gumbel((7,), dtype=torch.float64)
    values = top_down(x, TREES["pairs"], noise=g)
    torch.testing.assert_close(values[6], x.logsumexp(0) + g[6])
    pair = torch.stack([x[:2].logsumexp(0), x[2:].logsumexp(0)]) + g[4:6]
    torch.testing.assert_close(values[4:6], condition_max(pair, values[6]))
    torch.testing.assert_close(values[:2], condition_max(x[:2] + g[:2], values[4]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TREES)
def test_top_down_with_forbidden_leaves(name: str, dtype: torch.dtype) -> None:
    parents = TREES[name] or [4, 4, 4, 4, -1]
    x = torch.tensor([[-math.inf, 0.0, -math.inf, -math.inf], [1e4, -math.inf, -1e4, 9990.0]], dtype=dtype)
    values = top_down(x.expand(50, 2, 4), TREES[name], noise=ag.KeyedNoise(0))
    assert values.dtype == dtype
    for node, below_it in enumerate(leaves_below(parents, 4)):
        assert torch.equal(values[..., node], values[..., below_it].amax(-1))
        allowed = (x[:, below_it] > -torch.inf).any(-1)
        assert torch.equal(values[..., node] > -torch.inf, allowed.expand(50, 2))
    for node in set(parents) - {-1}:  # one child, and no more, is the maximum
        reached = (
            values[..., [child for child, parent in enumerate(parents) if parent == node]] == values[..., node, None]
        )
        assert torch.equal(reached.sum(-1) == 1, values[..., node] > -torch.inf)


def test_top_down_gradients() -> None:
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    for parents in (TREES["pairs"], TREES["a comb"], None):
        assert torch.autograd.gradcheck(lambda y: top_down(y, parents, noise=ag.KeyedNoise(1)), (x,))  # noqa: B023


def test_top_down_takes_parents_of_any_kind() -> None:
    expected = top_down(X, TREES["pairs"], noise=ag.KeyedNoise(1))
    assert torch.equal(top_down(X, torch.tensor(TREES["pairs"]), noise=ag.KeyedNoise(1)), expected)
    assert torch.equal(top_down(X, tuple(TREES["pairs"]), noise=ag.KeyedNoise(1)), expected)
    columns = top_down(X[:, None].expand(4, 3), TREES["pairs"], dim=0, noise=ag.KeyedNoise(1))
    assert torch.equal(columns, top_down(X.expand(3, 4), TREES["pairs"], noise=ag.KeyedNoise(1)).T)


# --- inverse_cdf_gumbel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_draw_and_the_noise_behind_it(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -torch.inf, 1.5, -1.0], dtype=dtype).expand(DRAWS, -1)
    u = ag.KeyedNoise(41).uniform((DRAWS,), dtype=dtype)
    values, winner = inverse_cdf_gumbel(x, u, noise=ag.KeyedNoise(42))
    assert torch.equal(winner, values.argmax(-1))
    plain = (u.double()[:, None] < x.double().softmax(-1).cumsum(-1)).int().argmax(-1)
    assert torch.equal(winner, plain)
    check_draws(winner, oracles.softmax(x[0]))
    check_prior((values - x)[:, [0, 2, 3]])


def test_the_height_is_the_place_of_u_on_its_step() -> None:
    x = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    values, winner = inverse_cdf_gumbel(x, torch.tensor(0.2 + 0.5 * 0.25, dtype=torch.float64))
    assert winner == 1
    torch.testing.assert_close(values[1], torch.tensor(-math.log(-math.log(0.25)), dtype=torch.float64))


@given(x=logits(), u=st.sampled_from([0.0, 1e-8, 0.25, 0.5, 0.75, 1 - 2**-11]), seed=seeds)
def test_any_draw_is_sound(x: Tensor, u: float, seed: int) -> None:
    values, winner = inverse_cdf_gumbel(x, torch.full(x.shape[:-1], u, dtype=x.dtype), noise=ag.KeyedNoise(seed))
    check_sound("the winner", x, winner.unsqueeze(-1), values)


def test_the_last_step_ends_at_one() -> None:
    """Sums of probabilities end a little off 1; nobody may fall between, onto an item that is forbidden."""
    x = torch.cat([torch.randn(500, 30, dtype=torch.float64), torch.full((500, 2), -torch.inf)], -1)
    assert (x.softmax(-1).cumsum(-1)[:, -1] < 1).any()
    u = torch.full((500,), 1 - 2**-53, dtype=torch.float64)
    values, winner = inverse_cdf_gumbel(x, u, noise=ag.KeyedNoise(0))
    assert (winner == 29).all()
    check_sound("the winner", x, winner.unsqueeze(-1), values)


def test_gradient_of_an_inverse_draw() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    values, winner = inverse_cdf_gumbel(x, torch.full((3,), 0.4, dtype=torch.float64), noise=ag.KeyedNoise(1))
    values[torch.arange(3), winner].sum().backward()
    torch.testing.assert_close(x.grad, x.detach().softmax(-1))


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
