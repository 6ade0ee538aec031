"""Two choices under one noise: laws against closed forms, these against integrals, stability to the last bit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import argumbel as ag
from argumbel.coupling import (
    Coupled,
    agreement_prob,
    counterfactual,
    counterfactual_probs,
    gumbel_coupling,
    maximal_coupling,
)
from argumbel.reverse import posterior_noise

from . import oracles
from .statistics import check_counts, check_draws
from .strategies import DTYPES, logits, seeds

DRAWS = 40_000
PAIRS = {
    "two": ([0.3, 0.7], [0.6, 0.4]),
    "three": ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]),
    "ties": ([0.25] * 4, [0.1, 0.4, 0.4, 0.1]),
    "the same": ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
    "partly forbidden": ([0.5, 0.3, 0.2, 0.0, 0.0], [0.0, 0.3, 0.3, 0.4, 0.0]),
    "apart": ([0.4, 0.6, 0.0, 0.0], [0.0, 0.0, 0.7, 0.3]),
}


def pair(name: str) -> tuple[Tensor, Tensor]:
    if name == "random":
        return torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    return tuple(torch.tensor(v, dtype=torch.float64).log() + c for v, c in zip(PAIRS[name], (3.0, -40.0), strict=True))


def enumerated(x: Tensor, y: Tensor) -> np.ndarray:
    """P(first = i, second = j) by quadrature over the ratio of two arrivals, from the definition."""
    p, q = oracles.softmax(x), oracles.softmax(y)
    n = len(p)
    joint = np.zeros((n, n))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(n):
            for j in range(n):
                if p[i] == 0 or q[j] == 0:
                    continue
                if i == j:
                    joint[i, i] = 1 / np.maximum(p / p[i], q / q[i]).sum()
                    continue
                low, high = p[j] / p[i], q[j] / q[i] if q[i] else np.inf
                if low >= high:
                    continue
                others = [k for k in range(n) if k not in (i, j)]
                density = functools.partial(
                    lambda r, i, j, k: 1 / (1 + r + np.maximum(p[k] / p[i], q[k] * r / q[j]).sum()) ** 2,
                    i=i,
                    j=j,
                    k=others,
                )
                cuts = sorted({low, *(c for k in others if q[k] and low < (c := p[k] * q[j] / (q[k] * p[i])) < high)})
                ends = [*cuts[1:], high]
                joint[i, j] = sum(scipy.integrate.quad(density, a, b)[0] for a, b in zip(cuts, ends, strict=True))
    return joint


def closed(x: Tensor, y: Tensor) -> Tensor:
    """The joint law from counterfactual_probs, row by row; rows of no probability are left 0."""
    joint = torch.zeros(len(x), len(x), dtype=torch.float64)
    for i in range(len(x)):
        if x[i] > -torch.inf:
            joint[i] = x.double().softmax(0)[i] * counterfactual_probs(x.double(), torch.tensor(i), y.double())
    return joint


# A winner 1e4 below the others was lifted by its noise, and stands as high again afterwards; one 2e4 below, higher.
FAR = (
    torch.tensor([1e4, 0.0, -1e4, -math.inf]),
    torch.tensor([-1e4, 0.0, 1e4, 1e4]),
    [[0.0, 0.0, 0.5, 0.5], [0.0, 1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0, 0.0]],
)

# --- the closed form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PAIRS, "random"])
def test_the_closed_form_is_the_integral(name: str) -> None:
    x, y = pair(name)
    np.testing.assert_allclose(closed(x, y).numpy(), enumerated(x, y), rtol=1e-7, atol=1e-12)


@given(x=logits(dtypes=(torch.float64,), batch=st.just(())), data=st.data())
def test_the_closed_form_has_the_marginals(x: Tensor, data: st.DataObject) -> None:
    y = data.draw(logits(dtypes=(torch.float64,), batch=st.just(()), max_items=9))
    n = min(len(x), len(y))
    x, y = x[:n], y[:n]
    if x.amax() == -torch.inf or y.amax() == -torch.inf:
        return
    joint = closed(x, y)
    torch.testing.assert_close(joint.sum(1), x.softmax(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(joint.sum(0), y.softmax(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(joint.trace(), agreement_prob(x, y), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(closed(y, x), joint.T, rtol=1e-9, atol=1e-12)
    apart = 1 - float(agreement_prob(x, y, method="maximal"))
    assert (1 - apart) / (1 + apart) - 1e-9 <= float(agreement_prob(x, y)) <= 1 - apart + 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_closed_form_at_the_ends_of_a_dtype(dtype: torch.dtype) -> None:
    """Logits as large as they get: float64 rounds away whatever is added to them."""
    most = torch.finfo(dtype).max
    for before, index, after, expected in [
        ([most, most, most], 0, [most, 0, 0], [1, 0, 0]),
        ([most, most, most], 1, [most, 0, 0], [1, 0, 0]),
        ([-most, -most, -most], 2, [most, most, most], [0, 0, 1]),
        ([most, 0, -most], 0, [0, most, -most], [0, 1, 0]),
        ([most, most, -most], 0, [-most, most, most], [0, 1 / 3, 2 / 3]),  # the second of three, or the last
        ([most, most, most], 0, [-torch.inf, most, most], [0, 1 / 2, 1 / 2]),
    ]:
        x, y = (torch.tensor(row, dtype=dtype) for row in (before, after))
        probs = counterfactual_probs(x, torch.tensor(index), y)
        torch.testing.assert_close(probs, torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_closed_form_far_apart(dtype: torch.dtype) -> None:
    x, y = FAR[0].to(dtype), FAR[1].to(dtype)
    for i, expected in enumerate(FAR[2]):
        probs = counterfactual_probs(x, torch.tensor(i), y)
        torch.testing.assert_close(probs, torch.tensor(expected, dtype=dtype))


# --- counterfactual ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*PAIRS, "random"])
def test_counterfactuals_have_the_closed_law(name: str, dtype: torch.dtype) -> None:
    x, y = (v.to(dtype) for v in pair(name))
    for i in range(len(x)):
        if x[i] > -torch.inf:
            draws = counterfactual(x, torch.tensor(i), y, DRAWS, noise=ag.KeyedNoise(i))
            check_draws(draws, counterfactual_probs(x.double(), torch.tensor(i), y.double()))


@pytest.mark.parametrize("name", [*PAIRS, "random"])
def test_it_is_a_replay_of_the_noise(name: str) -> None:
    """In float64, where a value and a deficit say the same."""
    x, y = (v.expand(5000, -1) for v in pair(name))
    prior = ag.KeyedNoise(1).gumbel(x.shape, dtype=torch.float64)
    index = (x + prior).argmax(-1)
    noise = posterior_noise(x, index, noise=ag.KeyedNoise(2))
    moved = (y - x).masked_fill((x == -torch.inf) | (y == -torch.inf), 0)
    tie = (y > -torch.inf).all() and bool((moved.amax(-1) - moved.amin(-1) < 1e-9).all())
    expected = index if tie else (y + noise).argmax(-1)
    assert torch.equal(counterfactual(x, index, y, noise=ag.KeyedNoise(2))[0], expected)


def test_observation_and_then_counterfactual_is_the_coupling() -> None:
    x, y = pair("random")
    rows = x.expand(DRAWS, -1)
    index = ag.gumbel_max(rows, noise=ag.KeyedNoise(5)).indices
    after = counterfactual(rows, index, y.expand(DRAWS, -1), noise=ag.KeyedNoise(6))[0]
    together = gumbel_coupling(rows, y.expand(DRAWS, -1), noise=ag.KeyedNoise(7))
    for first, second in ((index, after), together):
        check_counts(np.bincount((first * 6 + second).numpy(), minlength=36), closed(x, y).ravel())
    check_draws(after, oracles.softmax(y))


@given(x=logits(), seed=seeds, data=st.data())
def test_stable_to_the_last_bit(x: Tensor, seed: int, data: st.DataObject) -> None:
    """An item whose odds against the winner did not grow does not replace it; nothing forbidden wins."""
    index = ag.gumbel_max(
        x if data.draw(st.booleans()) else x.clamp(min=0).masked_fill(x == -torch.inf, -torch.inf),
        noise=ag.KeyedNoise(seed),
    ).indices
    new = x + data.draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0])) * ag.KeyedNoise(seed + 1 if seed < 9 else 3).gumbel(
        x.shape, dtype=x.dtype
    )
    forbid = data.draw(st.booleans())
    if forbid and x.shape[-1] > 1 and x.numel():
        best = new.argmax(-1, keepdim=True)
        new = new.masked_fill(torch.arange(x.shape[-1]) == (best + 1) % x.shape[-1], -torch.inf)
    answers = counterfactual(x, index, new, 7, noise=ag.KeyedNoise(seed))
    assert answers.shape == (7, *index.shape)
    assert answers.dtype == torch.int64
    if not x.numel():
        return
    assert (new.expand(7, *x.shape).gather(-1, answers.unsqueeze(-1)) > -torch.inf).all()
    shift = (new.double() - x.double()).masked_fill((x == -torch.inf) & (new > -torch.inf), torch.inf)
    grown = shift > shift.gather(-1, index.unsqueeze(-1))
    moved = answers != index
    assert (grown.expand(7, *x.shape).gather(-1, answers.unsqueeze(-1)).squeeze(-1) | ~moved).all()
    assert torch.equal(counterfactual(x, index, x, 3, noise=ag.KeyedNoise(seed)), index.expand(3, *index.shape))


@given(x=logits(batch=st.just((4,))), seed=seeds)
def test_the_law_is_stable_to_the_last_bit(x: Tensor, seed: int) -> None:
    index = ag.gumbel_max(x, noise=ag.KeyedNoise(seed)).indices
    same = counterfactual_probs(x, index, x)
    torch.testing.assert_close(same, torch.nn.functional.one_hot(index, x.shape[-1]).to(x.dtype))
    assert ((same == 0).sum(-1) == x.shape[-1] - 1).all()
    for moved in (ag.KeyedNoise(3).gumbel(x.shape, dtype=x.dtype), 8 * (torch.arange(x.shape[-1]) % 2)):
        new = x + moved
        shift = (new.double() - x.double()).nan_to_num(nan=-math.inf)
        shrunk = shift <= shift.gather(-1, index.unsqueeze(-1))
        shrunk.scatter_(-1, index.unsqueeze(-1), False)
        assert (counterfactual_probs(x, index, new)[shrunk] == 0).all()


def test_a_rival_at_the_same_height_does_not_win() -> None:
    """With a deficit that underflows, and odds that did not change, it is as high as the winner, and comes first."""
    x, noise = torch.tensor([3.0, 0.0]), torch.tensor([[200.0, 0.0]])
    assert counterfactual(x, torch.tensor(1), x, noise=noise) == 1
    assert counterfactual(x, torch.tensor(1), x + torch.tensor([1e-5, 0.0]), noise=noise) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_counterfactuals_far_apart(dtype: torch.dtype) -> None:
    x, y = FAR[0].to(dtype), FAR[1].to(dtype)
    for i, expected in enumerate(FAR[2]):
        check_draws(counterfactual(x, torch.tensor(i), y, 2000, noise=ag.KeyedNoise(i)), expected)


def test_a_winner_that_is_forbidden_afterwards() -> None:
    """Then whoever is left competes with noise that was truncated below the winner; not as if drawn anew."""
    x = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    y = torch.tensor([-math.inf, 2.0, 0.0], dtype=torch.float64)
    draws = counterfactual(x, torch.tensor(0), y, DRAWS, noise=ag.KeyedNoise(0))
    noise = posterior_noise(x.expand(DRAWS, -1), torch.zeros(DRAWS, dtype=torch.int64), noise=ag.KeyedNoise(0))
    assert torch.equal(draws, (y + noise).argmax(-1))
    probs = counterfactual_probs(x, torch.tensor(0), y)
    check_draws(draws, probs)
    assert abs(float(probs[1]) - oracles.softmax(y)[1]) > 0.02


def test_samples_are_rows_of_the_noise() -> None:
    x, y = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    index = torch.randint(0, 5, (2, 3))
    noise = ag.KeyedNoise(3).gumbel((4, 2, 3, 5))
    whole = counterfactual(x, index, y, 4, noise=ag.KeyedNoise(3))
    assert torch.equal(whole, counterfactual(x, index, y, 4, noise=noise))
    assert torch.equal(whole[2:3], counterfactual(x, index, y, noise=noise[2:3]))
    assert torch.equal(whole[2:3], counterfactual(x, index, y, noise=ag.KeyedNoise(3, rows=range(12, 18))))


# --- couplings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*PAIRS, "random"])
def test_the_maximal_coupling_agrees_as_often_as_draws_can(name: str, dtype: torch.dtype) -> None:
    x, y = (v.to(dtype) for v in pair(name))
    p, q = oracles.softmax(x), oracles.softmax(y)
    if name == "the same":
        p = q
    first, second = maximal_coupling(x.expand(DRAWS, -1), y.expand(DRAWS, -1), noise=ag.KeyedNoise(8))
    both = np.minimum(p, q)
    joint = np.diag(both)
    if both.sum() < 1 - 1e-6:
        joint += np.outer(p - both, q - both) / (1 - both.sum())
    check_counts(np.bincount((first * len(p) + second).numpy(), minlength=len(p) ** 2), joint)
    assert float(agreement_prob(x, y, method="maximal")) == pytest.approx(both.sum(), abs=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gumbel_coupling_is_two_choices_under_one_noise(dtype: torch.dtype) -> None:
    x, y = torch.randn(50, 6).to(dtype), torch.randn(50, 6).to(dtype)
    for noise in (ag.KeyedNoise(4), ag.KeyedNoise(4).gumbel((50, 6))):
        both = gumbel_coupling(x, y, noise=noise)
        assert isinstance(both, Coupled)
        assert torch.equal(both.first, ag.gumbel_max(x, noise=noise).indices)
        assert torch.equal(both.second, ag.gumbel_max(y, noise=noise).indices)
    drawn = gumbel_coupling(x, x, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn.first, drawn.second)


@given(x=logits(), seed=seeds)
def test_couplings_are_sound(x: Tensor, seed: int) -> None:
    y = x.flip(-1)
    for function in (gumbel_coupling, maximal_coupling):
        first, second = function(x, y, noise=ag.KeyedNoise(seed))
        assert first.shape == x.shape[:-1]
        assert (x.gather(-1, first.unsqueeze(-1)) > -torch.inf).all()
        assert (y.gather(-1, second.unsqueeze(-1)) > -torch.inf).all()
        same = function(x, x, noise=ag.KeyedNoise(seed))
        assert torch.equal(same.first, same.second)
    for method in ("gumbel", "maximal"):
        agree = agreement_prob(x, y, method=method)
        assert agree.dtype == x.dtype
        assert ((agree >= 0) & (agree <= 1)).all()


# --- conventions -------------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "counterfactual": lambda x, y, index, **own: counterfactual(x, index, y, **own)[0],
    "gumbel_coupling": lambda x, y, index, **own: torch.stack([*gumbel_coupling(x, y, **own)]),
    "maximal_coupling": lambda x, y, index, **own: torch.stack([*maximal_coupling(x, y, **own)]),
    "counterfactual_probs": lambda x, y, index, noise=None, **own: counterfactual_probs(x, index, y, **own),
    "agreement_prob": lambda x, y, index, noise=None, **own: agreement_prob(x, y, **own),
}


def some(dim: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    x, y = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    return x, y, torch.randn(3, 4, 5).argmax(dim)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_dim(name: str, dim: int) -> None:
    x, y, index = some(dim)
    ours = FUNCTIONS[name](x, y, index, dim=dim, noise=ag.KeyedNoise(1))
    theirs = FUNCTIONS[name](x.movedim(dim, -1), y.movedim(dim, -1), index, noise=ag.KeyedNoise(1))
    assert torch.equal(ours.movedim(dim, -1) if name == "counterfactual_probs" else ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_mask_is_minus_infinity_in_both(name: str) -> None:
    x, y, _ = some()
    index, mask = torch.full((3, 4), 1), torch.tensor([True, True, False, True, False])
    masked = FUNCTIONS[name](x, y, index, mask=mask, noise=ag.KeyedNoise(1))
    expected = FUNCTIONS[name](
        x.masked_fill(~mask, -torch.inf), y.masked_fill(~mask, -torch.inf), index, noise=ag.KeyedNoise(1)
    )
    assert torch.equal(masked, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_and_vmapped(name: str) -> None:
    torch._dynamo.reset()
    x, y, index = some()
    expected = FUNCTIONS[name](x, y, index, noise=ag.KeyedNoise(2))
    compiled = torch.compile(
        lambda a, b, i, seed: FUNCTIONS[name](a, b, i, noise=ag.KeyedNoise(seed)), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(x, y, index, torch.tensor(2)), expected)
    noise = ag.KeyedNoise(2).gumbel((3, 4, 5))

    def one(a: Tensor, b: Tensor, i: Tensor, g: Tensor) -> Tensor:
        return FUNCTIONS[name](a, b, i, noise=g.unsqueeze(0) if name == "counterfactual" else g)

    mapped = torch.vmap(one, out_dims=1 if "coupling" in name else 0)(x, y, index, noise)
    torch.testing.assert_close(mapped, expected)


def test_bad_rows_are_marked_where_they_may_not_be_looked_at() -> None:
    x, y, index = torch.zeros(6, 3), torch.zeros(6, 3), torch.tensor([0, 0, 0, 3, 0, 2])
    x[0, 1], x[1], y[2, 0], y[4] = math.nan, -math.inf, math.inf, -math.inf
    x[3, 2] = -math.inf
    zeros = torch.zeros(3)
    draws = torch.vmap(lambda a, b, i: counterfactual(a, i, b, noise=zeros[None])[0])(x, y, index)
    assert draws.tolist() == [-1, -1, -1, -1, -1, 2]
    assert torch.vmap(lambda a, b, i: counterfactual_probs(a, i, b))(x, y, index).isnan().all(-1).tolist() == [
        True
    ] * 5 + [False]
    assert torch.vmap(agreement_prob)(x, y).isnan().tolist() == [True, True, True, False, True, False]
    for function in (gumbel_coupling, maximal_coupling):
        first, second = torch.vmap(lambda a, b, f=function: f(a, b, noise=zeros))(x, y)
        for choice in (first, second):
            assert ((choice == -1) == torch.tensor([True, True, True, False, True, False])).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_batches_and_one_item(name: str) -> None:
    empty = FUNCTIONS[name](torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert empty.numel() == 0
    one = FUNCTIONS[name](torch.zeros(2, 1), torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))
    assert (one == (0 if name in ("counterfactual", "gumbel_coupling", "maximal_coupling") else 1)).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors(name: str) -> None:
    x, index = torch.zeros(2, 3), torch.tensor([0, 1])
    other = "other" if "coupling" in name or "agreement" in name else "new_logits"
    for value in (math.nan, math.inf, -math.inf):
        bad = torch.zeros(2, 3)
        bad[1] = value
        with pytest.raises(ValueError, match="logits must"):
            FUNCTIONS[name](bad, x, index)
        with pytest.raises(ValueError, match=f"{other} must not be NaN"):
            FUNCTIONS[name](x, bad, index)
    with pytest.raises(ValueError, match=rf"{other} must have the shape \(2, 3\) of logits.*\(2, 4\)"):
        FUNCTIONS[name](x, torch.zeros(2, 4), index)
    with pytest.raises(TypeError, match=f"{other} must have a floating dtype"):
        FUNCTIONS[name](x, torch.zeros(2, 3, dtype=torch.int64), index)
    with pytest.raises(TypeError, match="logits must be a tensor"):
        FUNCTIONS[name]([0.0], x, index)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        FUNCTIONS[name](x, x, index, mask=torch.ones(3))
    if name not in ("agreement_prob", "counterfactual_probs"):
        shape = (1, 2, 3) if name == "counterfactual" else (2, 3)
        with pytest.raises(ValueError, match="noise must be finite"):
            FUNCTIONS[name](x, x, index, noise=torch.full(shape, math.inf))
        with pytest.raises(ValueError, match="noise must have the shape"):
            FUNCTIONS[name](x, x, index, noise=torch.zeros(3))
        with pytest.raises(ValueError, match="both are given"):
            FUNCTIONS[name](x, x, index, noise=ag.KeyedNoise(0), generator=torch.Generator())
    if "counterfactual" in name:
        with pytest.raises(ValueError, match="index must name items that can have won"):
            FUNCTIONS[name](x, x, torch.tensor([0, 3]))


def test_other_errors() -> None:
    for num_samples, error in ((0, ValueError), (True, TypeError), (1.0, TypeError)):
        with pytest.raises(error, match=r"num_samples must be (at least 1|an integer), but it is"):
            counterfactual(torch.zeros(2), torch.tensor(0), torch.zeros(2), num_samples)
    with pytest.raises(ValueError, match="method must be one of 'gumbel', 'maximal', but it is 'optimal'"):
        agreement_prob(torch.zeros(2), torch.zeros(2), method="optimal")
