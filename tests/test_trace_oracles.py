"""Races agree with the algorithms they stand for, their scores with derivatives, and all with the golden numbers."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import torch
from torch import Tensor

from . import oracles
from . import structure_oracles as so
from . import trace_oracles as to
from .posteriors import check_same
from .statistics import check_counts
from .structure_oracles import place
from .structure_problems import FIVE, K4, SQUARE, check_golden, row

RACES = {
    "top-k": (to.topk(4, 2), so.subsets(4, 2)),
    "spanning tree": (to.kruskal(4), so.spanning_trees(4)),
    "arborescence": (to.contraction(4, 1), so.arborescences(4, 1)),
    "matching": (to.crossing(2, 3), so.matchings(2, 3)),
    "bracketing": (to.splits(5), so.bracketings(5)),
    "nested spans": (to.nesting(4), so.bracketings(4)),
}
DRAWS = 3000


def scores(race: to.Race, seed: int = 0) -> Tensor:
    return torch.randn(race.event, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def perturbed(race: to.Race, x: Tensor, count: int, seed: int = 1) -> Tensor:
    """Independent perturbed values ``(count, *event)``, by torch's own exponentials."""
    times = torch.empty(count, *race.event, dtype=torch.float64)
    return x - times.exponential_(generator=torch.Generator().manual_seed(seed)).log()


@pytest.mark.parametrize("name", RACES)
def test_every_structure_is_made(name: str) -> None:
    race, structures = RACES[name]
    made = to.traces(race).structures
    assert {tuple(s) for s in made.flatten(1).tolist()} == {tuple(s) for s in structures.flatten(1).tolist()}


def test_counts() -> None:
    """Kruskal: every order of every tree's edges. Crossing: every order of every matching. Splits: one a tree. Nesting:
    every order of every tree's spans, but for the span of all leaves."""
    assert [len(to.traces(to.kruskal(n)).chosen) for n in (2, 3, 4)] == [1, 3 * 2, 16 * 6]
    assert [len(to.traces(to.crossing(n, n)).chosen) for n in (1, 2, 3)] == [math.factorial(n) ** 2 for n in (1, 2, 3)]
    assert [len(to.traces(to.splits(n)).chosen) for n in (1, 2, 3, 4, 5)] == [
        so.catalan(n - 1) for n in (1, 2, 3, 4, 5)
    ]
    assert [len(to.traces(to.nesting(n)).chosen) for n in (1, 2, 3, 4, 5)] == [1, 1, 2, 5 * 2, 14 * 6]
    # Of the 4 pairs of edges into two nodes one is a cycle, which then chooses one of two edges.
    assert len(to.traces(to.contraction(3)).chosen) == 3 + 2


@pytest.mark.parametrize("name", RACES)
def test_law(name: str) -> None:
    """Probabilities sum to 1, and a batch of scores is its rows."""
    race, structures = RACES[name]
    every = to.traces(race)
    x = torch.stack([scores(race), 300 * scores(race, 1)])
    torch.testing.assert_close(to.law(x, every).sum(-1), row(1, 1))
    for function in (to.log_prob, to.trace_score, to.structure_score, to.noise_moment, to.noise_square, to.inclusion):
        torch.testing.assert_close(function(x, every), torch.stack([function(one, every) for one in x]))
    p = to.law_of_structures(x, every, structures)
    torch.testing.assert_close(so.mean(p, structures), to.inclusion(x, every))
    assert list(to.orders(x[0], every).values()) == to.law(x[0], every).tolist()


@pytest.mark.parametrize("name", RACES)
def test_scores(name: str) -> None:
    """Both scores are derivatives of log P, with mean zero; the derivative of the inclusion is their covariance."""
    race, structures = RACES[name]
    every, x = to.traces(race), scores(race)
    score, p = to.trace_score(x, every), to.law(x, every)
    derivative = torch.func.jacrev(lambda v: to.log_prob(v, every))(x).flatten(1)
    torch.testing.assert_close(score, derivative)
    torch.testing.assert_close(p @ score, torch.zeros_like(score[0]))
    expected = torch.func.jacrev(lambda v: to.inclusion(v, every))(x)
    for one in (score, to.structure_score(x, every)):
        torch.testing.assert_close(to.jacobian(p, every.structures, one).reshape(expected.shape), expected)
    of_structures = torch.func.jacrev(lambda v: to.law_of_structures(v, every, structures).log())(x).flatten(1)
    same = (every.structures.flatten(1).unsqueeze(1) == structures.flatten(1)).all(-1)
    torch.testing.assert_close(to.structure_score(x, every), of_structures[same.long().argmax(-1)])


@pytest.mark.parametrize("name", RACES)
def test_noise_score(name: str) -> None:
    """Over all traces the noise score is what it is without a trace: independent, of mean 0 and variance 1."""
    race, _ = RACES[name]
    every, x = to.traces(race), scores(race)
    moment = torch.einsum("t,tij->ij", to.law(x, every), to.noise_moment(x, every))
    raced = every.alive.flatten(2).any(1).any(0)
    torch.testing.assert_close(moment, torch.diag(raced.double()))


@pytest.mark.parametrize("name", RACES)
def test_replay(name: str) -> None:
    """The algorithm on perturbed values makes the traces with the probabilities of the list, and solves its problem."""
    race, structures = RACES[name]
    x = scores(race)
    values = perturbed(race, x, DRAWS)
    runs = [to.replay(race, v) for v in values]
    law = to.orders(x, to.traces(race))
    counts = Counter(runs)
    check_counts(np.array([counts[order] for order in law]), np.array(list(law.values())))
    if name in ("top-k", "spanning tree"):
        solved = so.best(values, structures)[1]
    elif name == "arborescence":
        solved = so.best(-values.neg().exp(), structures)[1]
    else:
        return
    for run, expected in zip(runs, solved, strict=True):
        assert torch.equal(race.structure(run), expected)


def test_replay_by_hand() -> None:
    assert to.replay(to.crossing(2, 3), row(0, 1, 5, 2, 3, 4).reshape(2, 3)) == (2, 4)
    assert to.replay(to.splits(6), row(1, 3, 0, 5, 2)) == (3, 1, 0, 2, 4)
    assert to.splits(6).structure((3, 1, 0, 2, 4)).nonzero().tolist() == [[0, 1], [0, 3], [0, 5], [2, 3], [4, 5]]
    spans = torch.full((4, 4), -9.0)
    spans[0, 3], spans[1, 2], spans[0, 1], spans[1, 3] = 5, 2, 1, 0
    assert to.replay(to.nesting(4), spans) == (6, 7)
    assert to.nesting(4).structure((6, 7)).nonzero().tolist() == [[0, 3], [1, 2], [1, 3]]
    # Arrival times: nodes 1 and 2 choose each other, then of 0 -> 1 (5 - 1) and 0 -> 2 (3.5 - 2) the second enters.
    times = row(1, 5, 3.5, 1, 1, 2, 1, 1, 1).reshape(3, 3)
    assert to.replay(to.contraction(3), -times.log()) == (7, 5, 2)
    assert to.contraction(3).structure((7, 5, 2)).nonzero().tolist() == [[0, 2], [2, 1]]


@pytest.mark.parametrize("race", [to.contraction(3), to.crossing(2, 2), to.kruskal(3), to.splits(4)])
def test_values_given_a_run(race: to.Race) -> None:
    """The formula agrees with draws of which those are kept that went the same way."""
    every, x = to.traces(race), scores(race)
    run = int(to.law(x, every).argmax())
    winners = tuple(i for i in every.chosen[run].tolist() if i >= 0)
    raced = every.alive.any(1).any(0)
    ours = to.values_given(x, every, run, 3000, torch.Generator().manual_seed(2))
    assert {to.replay(race, v) for v in ours[:200]} == {winners}
    kept = torch.stack([v for v in perturbed(race, x, 6000) if to.replay(race, v) == winners])
    check_same(ours[:, raced], kept[:, raced])


@pytest.mark.parametrize("name", RACES)
def test_forbidden_items(name: str) -> None:
    """A forbidden item never wins, and has no score; the limit of small weights is reached."""
    race, _ = RACES[name]
    every, x = to.traces(race), scores(race).flatten()
    item = int(every.chosen[0, 0])
    small, x[item] = x.clone(), -torch.inf
    small[item] = -40
    x, small = x.reshape(race.event), small.reshape(race.event)
    if name == "bracketing":  # A gap that is alone in its span must win: no bracketing is left.
        assert to.law(x, every).sum() == 0
        return
    p = to.law(x, every)
    torch.testing.assert_close(p.sum(), row(1)[0])
    assert (p[(every.chosen == item).any(-1)] == 0).all()
    torch.testing.assert_close(p, to.law(small, every), rtol=0, atol=1e-12)
    possible = p > 0
    torch.testing.assert_close(to.trace_score(x, every)[possible], to.trace_score(small, every)[possible])
    assert (to.noise_moment(x, every)[possible][:, item] == 0).all()
    for moment in (to.noise_moment(x, every), to.structure_score(x, every)):
        assert moment.isfinite().all()


def test_the_law_of_topk() -> None:
    law = to.orders(FIVE, to.traces(to.topk(5, 2)))
    expected = oracles.plackett_luce(FIVE, 2)
    assert law.keys() == expected.keys()
    assert all(law[order] == pytest.approx(expected[order], rel=1e-12) for order in law)


def test_golden_spanning_tree() -> None:
    every, trees = to.traces(to.kruskal(4)), so.spanning_trees(4)
    law = to.law_of_structures(K4, every, trees)
    likeliest = place([(0,), (3,), (4,)], trees)  # the edges 01, 12, 13
    assert int(law.argmax()) == likeliest
    check_golden(law[likeliest], 0.235043)
    check_golden(to.inclusion(K4, every), 0.583053, 0.235638, 0.495606, 0.573310, 0.816421, 0.295973)
    check_golden(so.total_variation(law, so.law(K4, trees)), 0.078986)
    jacobian = to.jacobian(to.law(K4, every), every.structures, to.trace_score(K4, every))
    check_golden(jacobian[0], 0.287655, -0.028802, -0.161642, -0.017190, -0.072416, -0.007606)
    torch.testing.assert_close(jacobian, jacobian.mT)
    torch.testing.assert_close(jacobian.sum(-1), torch.zeros(6, dtype=torch.float64))


def test_golden_equal_rates() -> None:
    trees = so.spanning_trees(4)
    law = to.law_of_structures(torch.zeros(6), to.traces(to.kruskal(4)), trees)
    degrees = torch.stack([trees[:, [node in pair for pair in so.edges(4)]].sum(-1) for node in range(4)], -1)
    stars = (degrees == 3).any(-1)
    assert stars.sum() == 4
    torch.testing.assert_close(law, torch.where(stars, 1 / 15, 11 / 180).double())


def variances(every: to.Traces, x: Tensor, values: Tensor, baseline: Tensor | float) -> Tensor:
    """Total variance with the noise score, and with the trace score."""
    p, score = to.law(x, every), to.trace_score(x, every)
    squares = (to.noise_square(x, every), None)
    return torch.stack([to.total_variance(p, values, score, square, baseline) for square in squares])


def test_golden_variances_of_the_jacobian_of_a_tree() -> None:
    every = to.traces(to.kruskal(4))
    check_golden(variances(every, K4, every.structures, 0.0), 17.494353, 5.651685)
    check_golden(
        variances(every, K4, every.structures, so.best(K4, so.spanning_trees(4))[1].double()), 12.514762, 4.412789
    )
    check_golden(variances(every, K4, every.structures, to.inclusion(K4, every)), 7.432084, 2.394611)


def test_golden_variances_of_a_gradient() -> None:
    every = to.traces(to.kruskal(4))
    f = every.structures[:, :3].sum(-1).double().square()  # the degree of node 0
    p, score = to.law(K4, every), to.structure_score(K4, every)
    expected = p @ f
    check_golden(expected, 1.995097)
    check_golden(to.jacobian(p, f, score), 0.323860, 0.459118, 0.347861, -0.381753, -0.547059, -0.202027)
    check_golden(variances(every, K4, f, 0.0)[1], 18.376843)
    check_golden(variances(every, K4, f, expected)[1], 7.437638)
    check_golden(to.total_variance(p, f, score), 16.589932)
    check_golden(to.total_variance(p, f, score, None, expected), 6.636330)
    # By simulation 46.08 and 19.40; exactly 46.1903 and 19.4931.
    check_golden(variances(every, K4, f, 0.0)[0], 46.1903, digits=4)
    check_golden(variances(every, K4, f, expected)[0], 19.4931, digits=4)


def test_golden_arborescence() -> None:
    x = torch.tensor([[0, 0.2, -0.4], [0, 0, 0.9], [0, 0.1, 0]], dtype=torch.float64)
    trees = so.arborescences(3)
    law = to.law_of_structures(x, to.traces(to.contraction(3)), trees)
    order = [place(tree, trees) for tree in ([(0, 1), (0, 2)], [(0, 1), (1, 2)], [(0, 2), (2, 1)])]
    check_golden(law[order], 0.112432, 0.653563, 0.234005)


def test_golden_subset() -> None:
    every, pairs = to.traces(to.topk(5, 2)), so.subsets(5, 2)
    check_golden(to.inclusion(FIVE, every), 0.466139, 0.114673, 0.392187, 0.298796, 0.728205)
    check_golden(so.total_variation(to.law_of_structures(FIVE, every, pairs), so.law(FIVE, pairs)), 0.044127)


def test_golden_beams() -> None:
    """A beam of 2 over sequences of two tokens is a choice of 2 of the 9 leaves."""
    first, second = row(-0.7, -0.2, 1.7), row(0.7, -1.6, 0, -0.6, 0.1, -1.6, 0.2, 0.2, 1.6).reshape(3, 3)
    leaves = (first.log_softmax(0).unsqueeze(-1) + second.log_softmax(-1)).flatten()
    golden = (0.120762, 0.012307, 0.060531, 0.094412, 0.187222, 0.035043, 0.336991, 0.336991, 0.815742)
    check_golden(to.inclusion(leaves, to.traces(to.topk(9, 2))), *golden)


def test_golden_matching() -> None:
    square = so.matchings(3, 3)
    law = to.law_of_structures(SQUARE, to.traces(to.crossing(3, 3)), square)
    order = [place(list(enumerate(columns)), square) for columns in itertools.permutations(range(3))]
    check_golden(law[order], 0.390777, 0.104141, 0.188477, 0.046546, 0.122578, 0.147480)


def test_golden_one_hot() -> None:
    x, sigma, every = row(0, 1, -0.5), 0.7, to.traces(to.topk(3, 1))
    y = to.inclusion(x / sigma, every)
    check_golden(y, 0.176607, 0.736936, 0.086457)
    check_golden(sigma * (so.log_partition(x / sigma, so.subsets(3, 1)) + oracles.EULER), 1.617729)
    jacobian = to.jacobian(to.law(x / sigma, every), every.structures, to.trace_score(x / sigma, every)) / sigma
    check_golden(jacobian[0], 0.207739, -0.185926, -0.021813)
    for baseline, noise, trace in (
        (0.0, 5.903207, 0.634351),
        (row(0, 1, 0), 3.935583, 1.163488),
        (y, 2.896190, 0.692435),
    ):
        check_golden(variances(every, x / sigma, every.structures, baseline) / sigma**2, noise, trace)
    check_golden(-sigma * y[0].log(), 1.213678)  # the Fenchel-Young loss at the first item, and its gradient
    check_golden(y - row(1, 0, 0), -0.823393, 0.736936, 0.086457)


def test_golden_implicit_mle() -> None:
    x, g = row(0, 1, -0.5), row(1, 2, 4)
    check_golden(so.covariance(x, so.subsets(3, 1)) @ g, -0.242615, -0.030965, 0.273580)
    check_golden(to.implicit_mle(x, g, 1)[0], -0.261339, 0.135969, 0.125370)
    check_golden(to.implicit_mle(x, g, 0.1)[0], -0.246005, -0.006946, 0.252951)
    check_golden(to.implicit_mle(x, g, 1, symmetric=True)[0], -0.221976, -0.066687, 0.288663)
    check_golden(to.implicit_mle(x, g, 0.1, symmetric=True)[0], -0.242400, -0.031649, 0.274049)
    for common, one, tenth in ((True, 0.505668, 7.918825), (False, 1.046357, 105.722965)):
        check_golden(to.implicit_mle(x, g, 1, common=common)[1], one)
        check_golden(to.implicit_mle(x, g, 0.1, common=common)[1], tenth)


def test_golden_assignment_of_two() -> None:
    check_golden(to.assignment_of_two(row(1)), 0.661303)
    for x in (-3.0, -0.001, 0.0, 1e-4, 0.001, 0.7):
        # One logistic number is at z, the other at most x - z.
        law = scipy.integrate.quad(
            lambda z, x=x: scipy.special.expit(z) * scipy.special.expit(-z) * scipy.special.expit(x - z), -50, 50
        )
        assert float(to.assignment_of_two(row(x))) == pytest.approx(law[0], abs=1e-9)
