"""Arborescences against the list of all, and the C++ against plain PyTorch. (``test_structures.py`` tests what every
structure promises.)"""

from __future__ import annotations

import itertools
import math

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel import kernels
from argumbel.kernels.arborescence import _log_difference
from argumbel.structures import Arborescence, perturbed_argmax, posterior_gumbel_trace, stochastic_softmax
from argumbel.structures import trace_log_prob as log_prob

from . import structure_oracles as oracles
from . import trace_oracles
from .statistics import check_counts
from .structure_problems import ROOTED, check_golden

SINGLE = pytest.mark.parametrize("single", [False, True], ids=["any root", "single root"])
ROOTS = [(2, 0), (3, 1), (4, 0), (5, 4), (6, 0), (6, 2)]


def kinds(*shape: int) -> dict[str, Tensor]:
    """Scores: ordinary, far apart, tied, and with forbidden edges, few or many."""
    x = torch.randn(shape, dtype=torch.float64)
    few, many = torch.rand(shape) < 0.2, torch.rand(shape) < 0.7
    return {
        "plain": x,
        "far apart": 200 * x,
        "very far apart": 1e6 * x,
        "tied": (2 * x).round(),
        "moved": x + 1e5,
        "few forbidden": x.masked_fill(few, -torch.inf),
        "many forbidden": (2 * x).round().masked_fill(many, -torch.inf),
    }


def possible(x: Tensor, every: Tensor) -> Tensor:
    return oracles.log_partition(x, every) > -torch.inf


# --- goldens ---------------------------------------------------------------------------------------------------------


def test_golden_partition_and_marginals() -> None:
    check_golden(Arborescence(4).log_partition(ROOTED), 3.096705)
    one = Arborescence(4, single_root=True)
    check_golden(one.log_partition(ROOTED), 2.905661)
    golden = (0.496414, 0.195468, 0.308118, 0.466620, 0.476442, 0.208855, 0.215439, 0.294731, 0.337913)
    edges = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)]
    marginals = one.marginals(ROOTED)
    check_golden(torch.stack([marginals[edge] for edge in edges]), *golden)


def test_golden_race() -> None:
    x = torch.tensor([[0, 0.2, -0.4], [0, 0, 0.9], [0, 0.1, 0]], dtype=torch.float64)
    every = trace_oracles.traces(trace_oracles.contraction(3))
    probs = trace_oracles.orders(x, every)
    trace = Arborescence(3).trace(x + ag.KeyedNoise(1).gumbel((20_000, 9), dtype=torch.float64).reshape(-1, 3, 3))
    found = log_prob(x, trace).exp()
    for chosen, p in zip(trace.chosen[:50].tolist(), found, strict=False):
        assert float(p) == pytest.approx(probs[tuple(i for i in chosen if i >= 0)], rel=1e-12)
    trees = [tree.bool() for tree in trace.indicators.unique(dim=0)]
    law = {frozenset({1, 2}): 0.112432, frozenset({1, 5}): 0.653563, frozenset({2, 7}): 0.234005}
    counts = [int((trace.indicators.bool() == tree).flatten(1).all(-1).sum()) for tree in trees]
    check_counts(counts, [law[frozenset(tree.flatten().nonzero().flatten().tolist())] for tree in trees])


# --- the law and the best against the list of all --------------------------------------------------------------------


@SINGLE
@pytest.mark.parametrize(("n", "root"), ROOTS)
def test_sums_over_all(backend: str, n: int, root: int, single: bool) -> None:
    structure, every = Arborescence(n, root, single), oracles.arborescences(n, root, single)
    for kind, x in kinds(6, n, n).items():
        x = x[possible(x, every)]
        exact = oracles.log_partition(x, every)
        torch.testing.assert_close(structure.log_partition(x), exact, rtol=1e-11, atol=1e-9, msg=kind)
        expected = oracles.marginals(x, every)
        torch.testing.assert_close(structure.marginals(x), expected, rtol=0, atol=1e-9, msg=kind)


@SINGLE
@pytest.mark.parametrize(("n", "root"), ROOTS)
def test_argmax_is_the_best_of_all(path: str, n: int, root: int, single: bool) -> None:
    structure, every = Arborescence(n, root, single), oracles.arborescences(n, root, single)
    for kind, x in kinds(40, n, n).items():
        x = x[possible(x, every)]
        y, (largest, best) = structure.argmax(x), oracles.best(x, every)
        assert bool((y.bool().unsqueeze(1) == every).flatten(2).all(-1).any(-1).all()), kind
        torch.testing.assert_close(torch.where(y > 0, x, 0).sum((-1, -2)), largest, msg=kind)
        if "tied" not in kind and "many" not in kind:
            assert torch.equal(y.bool(), best), kind


@SINGLE
@pytest.mark.parametrize("kind", ["plain", "far apart", "tied"])
def test_every_set_of_allowed_edges(backend: str, single: bool, kind: str) -> None:
    """All 512 sets of the nine edges: values, marginals, second derivatives, the best, and where nothing is left."""
    structure, every = Arborescence(4, 0, single), oracles.arborescences(4, 0, single)
    edges = [(u, v) for u, v in itertools.product(range(4), range(1, 4)) if u != v]
    allowed = torch.zeros(512, 4, 4, dtype=torch.bool)
    for i, (u, v) in enumerate(edges):
        allowed[:, u, v] = torch.arange(512) >> i & 1 == 1
    x = kinds(4, 4)[kind].masked_fill(~allowed, -torch.inf)
    some = possible(x, every)
    for row in x[~some][::20]:
        for call in (structure.log_partition, structure.marginals, structure.sample, structure.argmax, structure.trace):
            with pytest.raises(ValueError, match=r"(scores|values) must leave at least one arborescence"):
                call(row)
    for call in (structure.log_partition, structure.argmax, lambda x: structure.trace(x).indicators):
        assert torch.equal(torch.vmap(call)(x).isnan().reshape(512, -1).all(-1), ~some)
    assert torch.equal((torch.vmap(lambda x: structure.trace(x).chosen)(x) < 0).all(-1), ~some)
    x = x[some].requires_grad_()
    log_z, mu = structure.log_partition(x), oracles.marginals(x.detach(), every)
    torch.testing.assert_close(log_z, oracles.log_partition(x.detach(), every), rtol=1e-12, atol=1e-9)
    (slope,) = torch.autograd.grad(log_z.sum(), x, create_graph=True)
    torch.testing.assert_close(slope, mu, rtol=0, atol=1e-9)
    torch.testing.assert_close(structure.marginals(x.detach()), mu, rtol=0, atol=1e-9)
    direction = torch.randn(x.shape, dtype=torch.float64)
    (along,) = torch.autograd.grad(slope, x, direction)
    covariance = oracles.covariance(x.detach(), every).reshape(-1, 16, 16)
    expected = (covariance @ direction.flatten(1).unsqueeze(-1)).reshape(x.shape)
    torch.testing.assert_close(along, expected, rtol=0, atol=1e-9)
    best = torch.where(structure.argmax(x) > 0, x, 0).sum((-1, -2))
    torch.testing.assert_close(best, oracles.best(x, every)[0])
    traced = structure.trace(x.detach()).indicators.bool()
    assert bool((traced.unsqueeze(1) == every).flatten(2).all(-1).any(-1).all())
    assert not bool((traced & (x == -torch.inf)).any())


def test_a_single_root_is_exact() -> None:
    """However much better the edges of the root are, one is taken, and the rest is the best there is."""
    x = torch.randint(-5, 6, (200, 5, 5)).double()
    x[:, 0] += 2.0**50
    every = oracles.arborescences(5, 0, True)
    y = Arborescence(5, single_root=True).argmax(x)
    assert bool((y[:, 0].sum(-1) == 1).all())
    torch.testing.assert_close((x * y).sum((-1, -2)), oracles.best(x, every)[0], rtol=0, atol=0)


def test_large_graphs() -> None:
    """Against networkx."""
    x = torch.randn(3, 14, 14, dtype=torch.float64)
    for row, y in zip(x, Arborescence(14, 5).argmax(x), strict=True):
        graph = networkx.DiGraph()
        graph.add_weighted_edges_from(
            (u, v, float(row[u, v])) for u, v in itertools.permutations(range(14), 2) if v != 5
        )
        best = networkx.maximum_spanning_arborescence(graph)
        assert sorted(best.edges) == [tuple(edge) for edge in y.nonzero().tolist()]


def test_equal_scores() -> None:
    """The edge from the lowest node is better, and of those the edge into the lowest node."""
    assert Arborescence(4).argmax(torch.zeros(4, 4)).nonzero().tolist() == [[0, 1], [0, 2], [0, 3]]
    # 0 takes 1 -> 0, and 1 takes 0 -> 1. The circle takes 2 -> 0, and 2 takes 0 -> 2; that circle takes 3 -> 0.
    assert Arborescence(4, 3).argmax(torch.zeros(4, 4)).nonzero().tolist() == [[0, 1], [0, 2], [3, 0]]
    assert Arborescence(3, 0, True).argmax(torch.zeros(3, 3)).nonzero().tolist() == [[0, 1], [1, 2]]
    assert Arborescence(4, 3).trace(torch.zeros(4, 4)).chosen.tolist() == [4, 1, 8, 2, 12, -1]


# --- the race --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "root", "single"), [(3, 0, False), (5, 0, False), (5, 3, False), (5, 1, True)])
@pytest.mark.parametrize("scale", [1, 100])
def test_the_race_step_by_step(path: str, n: int, root: int, single: bool, scale: float) -> None:
    race = trace_oracles.contraction(n, root, single)
    values = scale * torch.randn(25, n, n, dtype=torch.float64)
    trace = Arborescence(n, root, single).trace(values)
    assert trace.chosen.shape == (25, 2 * n - 2)
    assert trace.alive.shape == (25, 2 * n - 2, n, n)
    for row, y, chosen, alive in zip(values, *trace, strict=True):
        winners = trace_oracles.replay(race, row)
        made = len(winners)
        assert chosen.tolist() == [*winners, *[-1] * (2 * n - 2 - made)]
        assert torch.equal(y.bool(), race.structure(winners))
        racing = [race.racing(winners[:step]) for step in range(made)]
        assert [a.flatten().nonzero().flatten().tolist() for a in alive[:made]] == racing
        assert not alive[made:].any()


def test_the_tree_of_the_race_has_the_smallest_sum_of_times() -> None:
    """It is the best for times, and not always for values."""
    values, every = torch.randn(200, 5, 5, dtype=torch.float64), oracles.arborescences(5)
    structure = Arborescence(5)
    found = structure.trace(values).indicators
    assert torch.equal(found.bool(), oracles.best(-torch.exp(-values), every)[1])
    assert not structure.trace_is_argmax
    assert 0 < int((found != structure.argmax(values)).flatten(1).any(-1).sum()) < 200


@SINGLE
def test_values_of_any_range(path: str, single: bool) -> None:
    """No value is too far away: the race does not change when all move, and it ends when they are 1e29 apart."""
    structure, x = Arborescence(7, 0, single), 2.0**-20 * torch.randint(-(2**22), 2**22, (50, 7, 7)).double()
    for offset in (-(2.0**30), 2.0**20):
        moved = structure.trace(x + offset)
        assert all(torch.equal(a, b) for a, b in zip(moved, structure.trace(x), strict=True))
    for far in (1e5, 1e29):
        trace = structure.trace(far * x)
        assert bool((trace.indicators.sum((-1, -2)) == 6).all())
        assert bool(((trace.chosen >= 0) == trace.alive.flatten(2).any(-1)).all())


@SINGLE
def test_replay(single: bool) -> None:
    """Values given a trace make the trace again, on a graph with forbidden edges, too."""
    structure, x = Arborescence(6, 2, single), torch.randn(6, 6, dtype=torch.float64)
    x[0, 1] = x[3, 4] = x[5, 0] = -torch.inf
    values = x + ag.KeyedNoise(3).gumbel((500, 36), dtype=torch.float64).reshape(500, 6, 6)
    trace = structure.trace(values)
    again = structure.trace(posterior_gumbel_trace(x, trace, noise=ag.KeyedNoise(4)))
    assert all(torch.equal(a, b) for a, b in zip(again, trace, strict=True))
    assert bool(log_prob(x, trace).isfinite().all())


def test_log_difference() -> None:
    """log(exp(a) - exp(b)), to the last bits, wherever a and b lie."""
    gaps = [1e-300, 1e-12, 1e-3, 0.3, 0.346, 0.347, 0.7, 1, 5, 36, 39.9, 41, 1e3]
    for b in (-700.0, -1.0, 0.0, 3.0, 1e10):
        for gap in gaps:
            d = (b + gap) - b  # what is left of the gap
            a = torch.tensor(b + gap, dtype=torch.float64)
            found = float(_log_difference(a, torch.tensor(b, dtype=torch.float64)))
            expected = b + gap + math.log(-math.expm1(-d)) if d > 0 else -math.inf
            assert found == pytest.approx(expected, rel=4e-16, abs=4e-16 * abs(expected - b))
    at = torch.tensor([torch.inf, torch.inf, -torch.inf, 2], dtype=torch.float64)
    less = torch.tensor([0, -torch.inf, -torch.inf, -torch.inf], dtype=torch.float64)
    assert _log_difference(at, less).tolist() == [math.inf, math.inf, -math.inf, 2]


# --- C++ and plain PyTorch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("race", [False, True], ids=["argmax", "race"])
@SINGLE
def test_kernel_is_the_reference(path: str, threads: int, single: bool, race: bool) -> None:
    """The same tree, the same steps, and the same edges that race, to the bit."""
    for n, root in [(2, 1), (4, 2), (7, 0), (17, 3)]:
        x = torch.stack(list(kinds(5, n, n).values()))
        ours = kernels.arborescence(x, root, single, race, ())
        with kernels.use("reference"):
            exact = kernels.arborescence(x, root, single, race, ())
        for a, b in zip(ours[:3], exact[:3], strict=True):
            assert torch.equal(a, b), (n, root)
        assert ours[3] is exact[3] is False


@SINGLE
def test_exact_samples(single: bool) -> None:
    every = oracles.arborescences(4, 3, single)
    x = torch.randn(4, 4, dtype=torch.float64)
    draws = Arborescence(4, 3, single).sample(x, (10_000,), generator=torch.Generator().manual_seed(0)).bool()
    same = (draws.flatten(1).unsqueeze(1) == every.flatten(1)).all(-1)
    assert bool(same.any(-1).all())
    check_counts(np.bincount(same.int().argmax(-1).numpy(), minlength=len(every)), oracles.law(x, every).numpy())


# --- shapes, modes, what is no part ----------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [torch.nan, torch.inf, -torch.inf, 1e9])
def test_the_diagonal_and_the_edges_into_the_root_are_no_parts(junk: float) -> None:
    structure, x = Arborescence(4, 1), torch.randn(3, 4, 4, dtype=torch.float64)
    none = torch.eye(4, dtype=torch.bool) | (torch.arange(4) == 1)
    junked = x.masked_fill(none, junk).requires_grad_()
    for name in ("argmax", "log_partition", "marginals"):
        assert torch.equal(getattr(structure, name)(junked), getattr(structure, name)(x))
    for a, b in zip(structure.trace(junked), structure.trace(x), strict=True):
        assert torch.equal(a, b)
    (slope,) = torch.autograd.grad(structure.log_partition(junked).sum(), junked)
    for y in (slope, structure.argmax(junked), structure.sample(junked), structure.marginals(junked)):
        assert bool((y[..., none] == 0).all())
    soft = stochastic_softmax(structure, junked, 0.5, noise=ag.KeyedNoise(1))
    torch.testing.assert_close(soft, stochastic_softmax(structure, x, 0.5, noise=ag.KeyedNoise(1)), rtol=0, atol=0)
    values, y = perturbed_argmax(structure, junked, noise=ag.KeyedNoise(1))
    expected = perturbed_argmax(structure, x, noise=ag.KeyedNoise(1))
    assert torch.equal(values, expected.values)
    assert torch.equal(y, expected.indicators)


def test_one_node_and_two() -> None:
    one = Arborescence(1)
    x = torch.zeros(3, 1, 1)
    assert one.log_partition(x).tolist() == [0, 0, 0]
    for y in (one.argmax(x), one.marginals(x), one.sample(x), perturbed_argmax(one, x).indicators):
        assert torch.equal(y, x)
    trace = one.trace(x)
    assert trace.chosen.shape == (3, 0)
    assert trace.alive.shape == (3, 0, 1, 1)
    assert log_prob(x, trace).tolist() == [0, 0, 0]
    assert one.enumerate().tolist() == [[[False]]]
    for single in (False, True):
        two = Arborescence(2, 1, single)
        assert two.sample(torch.randn(2, 2)).tolist() == [[0, 0], [1, 0]]
        assert two.log_partition(torch.tensor([[1.0, 2], [3, 4]])) == 3
        assert two.trace(torch.zeros(2, 2)).chosen.tolist() == [2, -1]


@SINGLE
@pytest.mark.parametrize(("n", "root"), [(1, 0), *ROOTS])
def test_enumerate(n: int, root: int, single: bool) -> None:
    if single and n == 1:
        return
    found, expected = Arborescence(n, root, single).enumerate(), oracles.arborescences(n, root, single)
    assert {tuple(row) for row in found.flatten(1).tolist()} == {tuple(row) for row in expected.flatten(1).tolist()}
    assert len(found) == len(expected)


def test_modes_of_traces() -> None:
    structure, x = Arborescence(4, 2), torch.randn(3, 4, 4)

    def race(x: Tensor) -> tuple[Tensor, ...]:
        trace = structure.trace(x)
        return (*trace, log_prob(x, trace), posterior_gumbel_trace(x, trace, noise=ag.KeyedNoise(1)))

    compiled = torch.compile(race, fullgraph=True, backend="aot_eager")
    for found, known in zip(compiled(x), race(x), strict=True):
        torch.testing.assert_close(found, known)
    for one in (structure, Arborescence(4, 1, True)):
        for found, known in zip(torch.vmap(one.trace)(x), one.trace(x), strict=True):
            assert torch.equal(found, known)


def test_errors() -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        Arborescence(0)
    with pytest.raises(ValueError, match="n must be at least 2"):
        Arborescence(1, single_root=True)
    with pytest.raises(ValueError, match="root must be between 0 and the last node, 3"):
        Arborescence(4, 4)
    with pytest.raises(TypeError, match="root must be an integer"):
        Arborescence(4, 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="single_root must be True or False"):
        Arborescence(4, 0, "no")  # type: ignore[arg-type]
    tree = Arborescence(3)
    for wrong in (torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(4, 3)):
        with pytest.raises(ValueError, match=r"scores must have (a number for each edge|2 dimensions)"):
            tree.argmax(wrong)
    with pytest.raises(ValueError, match="scores must not be NaN"):
        tree.argmax(torch.full((3, 3), torch.nan))
    # After 1 and 2 have become one node, nothing leads to it.
    x = torch.zeros(3, 3)
    x[0] = -torch.inf
    for call in (tree.argmax, tree.trace, tree.log_partition, tree.sample):
        with pytest.raises(ValueError, match="must leave at least one arborescence"):
            call(x)
    assert repr(tree) == "Arborescence(n=3, root=0, single_root=False)"
