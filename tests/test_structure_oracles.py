"""The lists of structures count what is known, and give the golden numbers to the last digit printed."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from . import structure_oracles as so
from .structure_oracles import catalan, place
from .structure_problems import CHAIN, FIVE, FOUR, K4, PAIRS, ROOTED, SPANS, SQUARE, WORDS, check_golden

LISTS = {
    "subsets": so.subsets(5, 2),
    "correlated subsets": so.correlated_subsets(5, 2),
    "spanning trees": so.spanning_trees(4),
    "arborescences": so.arborescences(4, 2),
    "arborescences of one edge at the root": so.arborescences(4, 0, True),
    "projective trees": so.projective_trees(4),
    "sequences": so.sequences(4, 3),
    "matchings": so.matchings(2, 4),
    "rankings": so.rankings(4)[1],
    "bracketings": so.bracketings(5),
}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_counts(n: int) -> None:
    assert len(so.spanning_trees(n)) == len(so.arborescences(n)) == len(so.arborescences(n, n - 1)) == n ** (n - 2)
    # The one child of the root is any other node, and is the root of an arborescence of the others.
    assert len(so.arborescences(n, 0, True)) == (n - 1) ** (n - 2)
    assert len(so.projective_trees(n)) == math.comb(3 * n - 3, n - 1) // (2 * n - 1)
    assert len(so.projective_trees(n, True)) == [1, 2, 7, 30, 143][n - 2]
    assert len(so.bracketings(n)) == catalan(n - 1)
    assert len(so.matchings(2, n)) == n * (n - 1)
    assert len(so.subsets(n, 2)) == len(so.correlated_subsets(n, 2)) == n * (n - 1) // 2
    assert len(so.sequences(n, 2)) == 2**n
    orders, matrices = so.rankings(n)
    assert len(orders) == math.factorial(n)
    assert torch.equal(matrices.byte().argmax(-1), orders)


@pytest.mark.parametrize("name", LISTS)
def test_no_structure_twice(name: str) -> None:
    assert len(torch.unique(LISTS[name], dim=0)) == len(LISTS[name])


def test_parts_of_a_structure() -> None:
    assert (so.spanning_trees(5).sum(-1) == 4).all()
    for root, one in itertools.product(range(4), (False, True)):
        trees = so.arborescences(4, root, one)
        assert (trees.sum(-2) == 1 - torch.eye(4)[root]).all()
        assert not one or (trees[:, root].sum(-1) == 1).all()
    assert (so.sequences(4, 3).sum((-2, -1)) == 1).all()
    assert (so.matchings(2, 4).sum(-1) == 1).all()
    assert (so.matchings(2, 4).sum(-2) <= 1).all()
    assert (so.bracketings(5).sum((-2, -1)) == 4).all()
    assert so.bracketings(5)[:, 0, 4].all()


@pytest.mark.parametrize("name", LISTS)
def test_family(name: str) -> None:
    """Marginals and covariance are the derivatives of log Z; a batch is its rows; entropy is log Z - <x, marginals>."""
    structures = LISTS[name]
    x = torch.randn(2, *structures.shape[1:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradient = torch.func.grad(lambda v: so.log_partition(v, structures))
    for i, one in enumerate(x):
        torch.testing.assert_close(so.marginals(x, structures)[i], gradient(one))
        torch.testing.assert_close(so.covariance(x, structures)[i], torch.func.jacrev(gradient)(one))
        expected = so.log_partition(one, structures) - (one * so.marginals(one, structures)).sum()
        torch.testing.assert_close(so.entropy(x, structures)[i], expected)
        value, structure = so.best(x, structures)
        assert value[i] == so.totals(one, structures).max()
        torch.testing.assert_close((one * structure[i]).sum(), value[i])
    torch.testing.assert_close(so.law(x, structures).sum(-1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", LISTS)
def test_forbidden_parts(name: str) -> None:
    """A part at -inf leaves the law of the structures without it."""
    structures = LISTS[name]
    x = torch.randn(structures.shape[1:], generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    part = tuple((structures.any(0) & ~structures.all(0)).nonzero()[0])
    left = structures[~structures[(slice(None), *part)]]
    forbidden = x.clone()
    forbidden[part] = -torch.inf
    assert 0 < len(left) < len(structures)
    for function in (so.log_partition, so.marginals, so.covariance, so.entropy):
        torch.testing.assert_close(function(forbidden, structures), function(x, left))
    assert torch.equal(so.best(forbidden, structures)[1], so.best(x, left)[1])


def test_all_forbidden() -> None:
    x = torch.full((4,), -torch.inf, dtype=torch.float64)
    assert so.log_partition(x, so.subsets(4, 2)) == -torch.inf
    assert so.marginals(x, so.subsets(4, 2)).isnan().all()


def test_the_first_among_equals() -> None:
    assert so.best(torch.zeros(4), so.subsets(4, 2))[1].tolist() == [True, True, False, False]


def test_golden_spanning_tree() -> None:
    trees = so.spanning_trees(4)
    check_golden(so.log_partition(K4, trees), 3.296164)
    check_golden(so.marginals(K4, trees), 0.572974, 0.269897, 0.506216, 0.576512, 0.754934, 0.319468)
    check_golden(so.entropy(K4, trees), 2.445416)


def test_golden_arborescence() -> None:
    single = so.arborescences(4, 0, True)
    check_golden(so.log_partition(ROOTED, so.arborescences(4)), 3.096705)
    check_golden(so.log_partition(ROOTED, single), 2.905661)
    mu = so.marginals(ROOTED, single)
    check_golden(mu[0, 1:], 0.496414, 0.195468, 0.308118)
    check_golden(mu[1, 2:], 0.466620, 0.476442)
    check_golden(mu[2, [1, 3]], 0.208855, 0.215439)
    check_golden(mu[3, 1:3], 0.294731, 0.337913)


def test_golden_subsets() -> None:
    pairs = so.subsets(5, 2)
    check_golden(so.log_partition(FIVE, pairs), 3.053637)
    check_golden(so.marginals(FIVE, pairs), 0.469734, 0.127046, 0.403622, 0.315520, 0.684077)
    check_golden(so.covariance(FIVE, pairs)[0], 0.249084, -0.031058, -0.084579, -0.070412, -0.063036)
    x, correlated = torch.cat([FIVE, PAIRS]), so.correlated_subsets(5, 2)
    check_golden(so.log_partition(x, correlated), 3.331509)
    check_golden(so.marginals(x, correlated)[:5], 0.377749, 0.111216, 0.322445, 0.466587, 0.722004)


def test_golden_chain() -> None:
    states = so.sequences(4, 3)
    check_golden(so.log_partition(CHAIN, states), 6.091494)
    check_golden(so.marginals(CHAIN, states)[1].sum(-1), 0.503164, 0.250036, 0.246800)
    check_golden(so.entropy(CHAIN, states), 3.798725)
    value, structure = so.best(CHAIN, states)
    check_golden(value, 3.5)
    assert structure.nonzero().tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_golden_projective_trees() -> None:
    check_golden(so.log_partition(WORDS, so.projective_trees(4)), 3.808344)
    check_golden(so.log_partition(WORDS, so.projective_trees(4, True)), 3.255527)
    value, structure = so.best(WORDS, so.projective_trees(4))
    check_golden(value, 2.4)
    assert structure.nonzero().tolist() == [[0, 1], [1, 2], [2, 3]]


def test_golden_bracketings() -> None:
    check_golden(so.log_partition(SPANS, so.bracketings(4)), 1.996025)
    mu = so.marginals(SPANS, so.bracketings(4))
    check_golden(mu[[0, 1, 2, 0, 1], [1, 2, 3, 2, 3]], 0.485805, 0.413537, 0.403052, 0.430990, 0.266616)


def test_golden_matching() -> None:
    square = so.matchings(3, 3)
    check_golden(so.log_partition(SQUARE, square), 2.809989)
    check_golden(so.law(SQUARE, square)[place([(0, 0), (1, 1), (2, 2)], square)], 0.600502)


def test_golden_sinkhorn() -> None:
    out = so.sinkhorn(SQUARE, 1.0)
    check_golden(out[0], 0.503381, 0.210521, 0.286098)
    assert (out.sum(-1) - 1).abs().max() < 1e-12
    # Given the sums, the plan is the one of the form exp(score / tau + row + column).
    ratio = out.log() - SQUARE
    assert (ratio - ratio[:1] - ratio[:, :1] + ratio[0, 0]).abs().max() < 1e-12


def test_golden_sorts() -> None:
    check_golden(so.neural_sort(FOUR, 1.0)[0], 0.338452, 0.003402, 0.616700, 0.041446)
    check_golden(so.soft_sort(FOUR, 1.0)[0], 0.276251, 0.083205, 0.503362, 0.137182)
    order = FOUR.argsort(descending=True)
    for sort in (so.neural_sort, so.soft_sort):
        assert torch.equal(sort(FOUR, 0.01).argmax(-1), order)
