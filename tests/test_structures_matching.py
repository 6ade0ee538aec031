"""Matchings: the best, the greedy, and the relaxed one."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.kernels import usable_pairs
from argumbel.perturbation import fenchel_young_loss, perturbed
from argumbel.structures import (
    Matching,
    perturbed_argmax,
    posterior_gumbel_trace,
    stochastic_softmax,
    trace_log_prob,
)

from . import structure_oracles as oracles
from . import trace_oracles
from .statistics import check_frequency, check_mean
from .structure_problems import SQUARE, check_golden, row
from .versions import OLDEST

SHAPES = [(1, 1), (1, 3), (3, 1), (2, 2), (3, 4), (4, 3), (4, 4)]


def relaxed(x: Tensor, tau: float = 1) -> Tensor:
    return stochastic_softmax(Matching(), x, tau, noise=torch.zeros_like(x))


def all_matchings(n: int, m: int) -> Tensor:
    return oracles.matchings(n, m) if n <= m else oracles.matchings(m, n).mT


def some_allowed(n: int, m: int, count: int, share: float) -> Tensor:
    """Masks ``(count, n, m)``, each of which leaves a matching."""
    solutions = all_matchings(n, m)
    return solutions[torch.randint(len(solutions), (count,))] | (torch.rand(count, n, m) < share)


def check_sums(y: Tensor) -> None:
    """The sums of rows and columns are those of a mean of matchings."""
    rows, columns = (y, y.mT) if y.shape[-2] <= y.shape[-1] else (y.mT, y)
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]), rtol=0, atol=1e-9)
    assert bool((y >= 0).all())
    assert bool((columns.sum(-1) < 1 + 1e-9).all())
    if y.shape[-2] == y.shape[-1]:
        torch.testing.assert_close(columns.sum(-1), torch.ones_like(columns[..., 0]), rtol=0, atol=1e-9)


# --- golden numbers --------------------------------------------------------------------------------------------------


def test_golden_sinkhorn() -> None:
    check_golden(relaxed(SQUARE)[0], 0.503381, 0.210521, 0.286098)


def test_golden_law_of_the_greedy_matching() -> None:
    noise = ag.KeyedNoise(0).gumbel((20_000, 9), dtype=torch.float64).reshape(-1, 3, 3)
    trace = Matching().trace(SQUARE + noise)
    log_prob = trace_log_prob(SQUARE, trace)
    law = {
        (tuple(chosen), tuple(y)): p
        for chosen, y, p in zip(
            trace.chosen.tolist(), trace.indicators.argmax(-1).tolist(), log_prob.exp().tolist(), strict=True
        )
    }
    assert len(law) == 36  # each of the six matchings in six orders
    columns = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    found = [math.fsum(p for (_, y), p in law.items() if y == wanted) for wanted in columns]
    check_golden(row(*found), 0.390777, 0.104141, 0.188477, 0.046546, 0.122578, 0.147480)


def test_golden_law_of_the_best_matching_of_two() -> None:
    x = torch.tensor([[0.7, 0.0], [0.0, 0.3]])
    found = perturbed_argmax(Matching(), x.expand(20_000, 2, 2), noise=ag.KeyedNoise(1)).indicators
    check_frequency(int(found[:, 0, 0].sum()), 20_000, 0.661303)


# --- which pairs some matching has -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(n, m) for n, m in SHAPES if n <= m])
def test_pairs_that_some_matching_has(n: int, m: int) -> None:
    allowed = torch.rand(120, n, m) < torch.rand(120, 1, 1)
    usable, spare = usable_pairs(allowed)
    solutions = all_matchings(n, m)
    possible = ~(solutions & ~allowed.unsqueeze(1)).flatten(2).any(-1)  # (masks, solutions)
    left = solutions & possible[..., None, None]
    assert torch.equal(usable, left.any(1))
    assert torch.equal(spare, (~solutions.any(-2) & possible.unsqueeze(-1)).any(1))
    assert possible.any(-1).unique().tolist() == [False, True]


def test_pairs_of_a_large_matrix() -> None:
    """Only the diagonal is left of a triangle, whose first rows have to make room."""
    n = 60
    assert torch.equal(usable_pairs(torch.ones(n, n).tril().bool())[0], torch.eye(n, dtype=torch.bool))
    cycle = torch.eye(n, dtype=torch.bool) | torch.eye(n, dtype=torch.bool).roll(1, 0)
    assert torch.equal(usable_pairs(cycle)[0], cycle)


# --- the best matching -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_the_best_of_all_that_are_allowed(n: int, m: int) -> None:
    x = torch.randn(30, n, m, dtype=torch.float64).masked_fill(~some_allowed(n, m, 30, 0.4), -torch.inf)
    best = torch.stack([oracles.best(scores, all_matchings(n, m))[1] for scores in x])
    assert torch.equal(Matching().argmax(x).bool(), best)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"SciPy must be installed .* pip install 'argumbel\[structures\]'"):
        Matching().argmax(SQUARE)
    check_sums(relaxed(SQUARE))
    assert Matching().trace(SQUARE).chosen.tolist() == [8, 4, 0]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_a_matching_without_pairs(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="scores must have at least one row and one column"):
        Matching().argmax(torch.zeros(5, *shape))


def test_a_matching_has_two_dimensions() -> None:
    with pytest.raises(ValueError, match="scores must have 2 dimensions"):
        Matching().argmax(torch.zeros(5))
    with pytest.raises(NotImplementedError, match=r"permanent.*perturbed_argmax.*stochastic_softmax.*trace"):
        Matching().log_partition(SQUARE)


# --- the greedy matching ---------------------------------------------------------------------------------------------


def test_a_race_that_would_end_too_early() -> None:
    """The largest pair would take the only column that the second row may have: it is not in the race."""
    x = torch.tensor([[5.0, -1.0], [4.0, -torch.inf]], dtype=torch.float64)
    trace = Matching().trace(x)
    assert trace.indicators.tolist() == [[0, 1], [1, 0]]
    assert trace.chosen.tolist() == [2, 1]
    assert trace.alive.tolist() == [[[False, True], [True, False]], [[False, True], [False, False]]]
    torch.testing.assert_close(trace_log_prob(x, trace), 4 - torch.logaddexp(row(4), row(-1))[0])


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_races_where_pairs_are_forbidden(n: int, m: int) -> None:
    """The race is the one of the pairs that complete the winners so far to a matching."""
    allowed = some_allowed(n, m, 12, 0.5)
    x = torch.randn(12, n, m, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    noise = ag.KeyedNoise(2).gumbel((300, 12, n * m), dtype=torch.float64).reshape(300, 12, n, m)
    trace = Matching().trace(x + noise)
    log_prob = trace_log_prob(x, trace)
    again = Matching().trace(posterior_gumbel_trace(x, trace, noise=ag.KeyedNoise(3)))
    assert torch.equal(again.chosen, trace.chosen)
    for i, mask in enumerate(allowed):
        solutions = all_matchings(n, m)
        race = trace_oracles.among(solutions[~(solutions & ~mask).flatten(1).any(-1)])
        for values, chosen in zip((x[i] + noise[:20, i]), trace.chosen[:20, i], strict=True):
            assert tuple(chosen.tolist()) == trace_oracles.replay(race, values)
        every = trace_oracles.traces(race)
        law = trace_oracles.orders(x[i], every)
        assert math.fsum(law.values()) == pytest.approx(1)
        runs = {tuple(run.tolist()): at for at, run in enumerate(every.chosen)}
        for at, (chosen, p) in enumerate(zip(trace.chosen[:, i], log_prob[:, i].exp(), strict=True)):
            run = tuple(chosen.tolist())
            assert float(p) == pytest.approx(law[run])
            assert at >= 20 or torch.equal(trace.alive[at, i], every.alive[runs[run]])


@pytest.mark.parametrize(("n", "m"), SHAPES)
def test_the_race_of_all_pairs(n: int, m: int) -> None:
    x = torch.randn(20, n, m, dtype=torch.float64).round()  # with ties
    trace = Matching().trace(x)
    assert trace.indicators.sum((-1, -2)).unique().tolist() == [min(n, m)]
    race = trace_oracles.among(all_matchings(n, m))
    for values, chosen in zip(x, trace.chosen, strict=True):
        assert tuple(chosen.tolist()) == trace_oracles.replay(race, values)
    # A forbidden pair elsewhere in the batch, or one that is only very low, changes nothing.
    beside = torch.cat([x, all_matchings(n, m)[:1].double().log()])
    assert torch.equal(Matching().trace(beside).chosen[:20], trace.chosen)


def test_races_of_an_empty_batch() -> None:
    trace = Matching().trace(torch.zeros(0, 3, 4))
    assert [t.shape for t in trace] == [(0, 3, 4), (0, 3), (0, 3, 3, 4)]


def test_races_without_a_matching() -> None:
    x = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]])
    with pytest.raises(ValueError, match="values must leave at least one matching"):
        Matching().trace(x)
    marked = torch.vmap(lambda x: Matching().trace(x).chosen)(torch.stack([x, torch.zeros(2, 2)]))
    assert marked.tolist() == [[-1, -1], [0, 3]]


def test_compiled_races() -> None:
    x = torch.randn(4, 3, 3).masked_fill(~some_allowed(3, 3, 4, 0.5), -torch.inf)

    def race(x: Tensor) -> tuple[Tensor, ...]:
        trace = Matching().trace(x)
        return (*trace, trace_log_prob(x, trace))

    for found, expected in zip(torch.compile(race, fullgraph=True, backend="aot_eager")(x), race(x), strict=True):
        torch.testing.assert_close(found, expected)


# --- the relaxed matching --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1, 0.5, 0.2])
def test_sinkhorn_is_the_limit_of_its_iteration(tau: float) -> None:
    for x in torch.randn(3, 3, 3, dtype=torch.float64):
        torch.testing.assert_close(relaxed(x, tau), oracles.sinkhorn(x, tau, 100_000), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [*SHAPES, (12, 12), (10, 15), (15, 10)])
def test_rows_and_columns_sum_to_one(n: int, m: int) -> None:
    plain = torch.randn(20, n, m, dtype=torch.float64)
    allowed = torch.rand(20, n, m) < 0.3
    allowed |= Matching().argmax(torch.randn(20, n, m)).bool()
    masked = plain.masked_fill(~allowed, -torch.inf)
    problems = [plain, plain.round(), 200 * plain, masked, 200 * masked, plain + 1e5, torch.zeros_like(plain)]
    for x in [*problems, torch.where(allowed, plain, plain - 100)]:
        for tau in (100, 1, 0.1, 0.01, 1e-4):
            y = relaxed(x, tau)
            check_sums(y)
            assert not bool((y[x == -torch.inf]).any())


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 4), (4, 2), (6, 6)])
def test_the_relaxed_matching_maximises_with_entropy(n: int, m: int) -> None:
    """Away from a mean of matchings along any difference of two matchings the derivative is 0: log y - x is a sum of
    numbers of rows and columns, and columns that lack c add log c."""
    x = torch.randn(10, n, m, dtype=torch.float64)
    y = relaxed(x, 0.5)
    short = y if n <= m else y.mT
    lack = (1 - short.sum(-2, keepdim=True)).log() if n != m else torch.zeros(10, 1, max(n, m), dtype=torch.float64)
    left = short.log() - (x if n <= m else x.mT) / 0.5 - lack
    if n == m:
        left = left - left.mean(-2, keepdim=True)
    left = left - left.mean(-1, keepdim=True)
    torch.testing.assert_close(left, torch.zeros_like(left), rtol=0, atol=1e-8)


def test_pairs_that_no_matching_has_are_zero() -> None:
    """A plain iteration would take them to 0 like 1 / steps."""
    x = torch.zeros(3, 3, dtype=torch.float64).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf)
    x.requires_grad_()
    y = relaxed(x)
    assert torch.equal(y, torch.eye(3, dtype=torch.float64))
    (slope,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    assert not bool(slope.any())
    wide = torch.zeros(1, 3, dtype=torch.float64)
    wide[:, 1:] = -torch.inf  # the column that must be taken
    assert torch.equal(relaxed(wide), row(1, 0, 0).unsqueeze(0))


@pytest.mark.parametrize("tau", [1, 0.1])
@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 4), (3, 2)])
@pytest.mark.parametrize("share", [1, 0.6])
def test_derivatives(n: int, m: int, tau: float, share: float) -> None:
    x = torch.randn(n, m, dtype=torch.float64)
    allowed = some_allowed(n, m, 1, share)[0]

    def soft(free: Tensor) -> Tensor:
        return relaxed(torch.full_like(x, -torch.inf).masked_scatter(allowed, free), tau)

    free = x[allowed].requires_grad_()
    assert torch.autograd.gradcheck(soft, free, check_forward_ad=True)
    assert tau != 1 or torch.autograd.gradgradcheck(soft, free)


@pytest.mark.parametrize("tau", [1, 0.1, 0.01])
def test_gradients_are_those_of_the_linear_system(tau: float) -> None:
    """With P the relaxed matching and G the gradient of P: the gradient of scores is P (G - u_i - v_j) / tau, where u
    and v make the sums of its rows and columns 0."""
    x = torch.randn(8, 5, 5, dtype=torch.float64, requires_grad=True)
    y = relaxed(x, tau)
    g = torch.randn_like(y)
    (slope,) = torch.autograd.grad((y * g).sum(), x)
    one = torch.eye(5, dtype=torch.float64)
    design = torch.cat([one.repeat_interleave(5, 0), one.repeat(5, 1)], -1)  # (pairs, rows and columns)
    for p, g_, s in zip(y.detach(), g, slope, strict=True):
        root = p.flatten().sqrt().unsqueeze(-1)
        fit = design @ (torch.linalg.pinv(root * design, rtol=1e-12) @ (root * g_.reshape(-1, 1)))
        torch.testing.assert_close(s, p * (g_ - fit.reshape(5, 5)) / tau, rtol=0, atol=1e-8)


@pytest.mark.parametrize("tau", [1, 0.1, 0.01, 1e-3, 1e-8, 1e-17])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_low_temperatures(dtype: torch.dtype, tau: float) -> None:
    x = torch.randn(10, 8, 8, dtype=torch.float64).to(dtype).requires_grad_()
    y = relaxed(x, tau)
    torch.testing.assert_close(y.sum(-1), torch.ones_like(y[..., 0]), rtol=0, atol=8 * torch.finfo(dtype).eps + 1e-9)
    (slope,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    assert bool(slope.isfinite().all())
    if tau <= 1e-8 and dtype == torch.float64:
        torch.testing.assert_close(y, Matching().argmax(x), rtol=0, atol=0)


@pytest.mark.skipif(OLDEST, reason="PyTorch 2.4 has no rules for vmap of operators, and warns")
def test_compiled_transforms() -> None:
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    slope = torch.func.grad(lambda x: relaxed(x, 0.5).square().sum())
    for call in (Matching().argmax, relaxed, slope):
        many = torch.vmap(call)
        torch.testing.assert_close(torch.compile(many, fullgraph=True, backend="aot_eager")(x), many(x))


# --- perturbed -------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_mean_matching() -> None:
    x = torch.tensor([[0.7, 0.0], [0.0, 0.3]], dtype=torch.float64)
    d = row(1).requires_grad_()
    (exact,) = torch.autograd.grad(trace_oracles.assignment_of_two(d), d)  # of P(identity), in the entry [0, 0]
    many = x.expand(4000, 2, 2).clone().requires_grad_()
    mean = perturbed(Matching(), many, 4, noise=ag.KeyedNoise(5))
    (slope,) = torch.autograd.grad(mean[:, 0, 0].sum(), many)
    check_mean(slope[:, 0, 0].numpy(), float(exact), float(slope[:, 0, 0].var()))
    loss = fenchel_young_loss(many, torch.eye(2), Matching(), noise=ag.KeyedNoise(6))
    assert bool((loss >= 0).all())


def test_the_draws_are_laws_of_their_own() -> None:
    """Best and greedy matchings of the same scores differ, and none has the law exp(score) / Z."""
    x = SQUARE.expand(20_000, 3, 3)
    best = perturbed_argmax(Matching(), x, noise=ag.KeyedNoise(7)).indicators
    noise = ag.KeyedNoise(7).gumbel((20_000, 9), dtype=torch.float64).reshape(-1, 3, 3)
    greedy = Matching().trace(x + noise).indicators
    identity = torch.eye(3, dtype=torch.float64)
    shares = [float((y == identity).all(-1).all(-1).double().mean()) for y in (best, greedy)]
    assert np.allclose(shares, [0.471, 0.391], atol=0.02)
    check_golden(oracles.law(SQUARE, oracles.matchings(3, 3))[0], 0.600502)
