"""One race moved to another: to a height, down a tree of groups, and behind a draw by inverse distribution function."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel.reverse import condition_max, inverse_cdf_gumbel, top_down

from . import oracles
from .posteriors import DRAWS, X, check_prior, check_sound, race
from .statistics import check_cdf, check_draws
from .strategies import DTYPES, logits, seeds

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
