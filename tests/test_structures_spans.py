"""Projective trees and binary trees: golden numbers, counts, entries that are no parts, and the race for brackets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import argumbel as ag
from argumbel.kernels import spans
from argumbel.structures import (
    BinaryTree,
    ProjectiveTree,
    Structure,
    perturbed_argmax,
    posterior_gumbel_trace,
    stochastic_softmax,
    trace_log_prob,
)

from . import structure_oracles as oracles
from .structure_problems import SPANS, WORDS, check_golden

STRUCTURES = [ProjectiveTree(), ProjectiveTree(single_root=True), BinaryTree()]
EVERY = pytest.mark.parametrize("structure", STRUCTURES, ids=repr)


def parts(structure: Structure, n: int) -> Tensor:
    found = structure.parts((n, n), torch.device("cpu"))
    assert found is not None
    return found


# --- golden numbers and counts ---------------------------------------------------------------------------------------


def test_golden_projective_trees() -> None:
    tree, single = ProjectiveTree(), ProjectiveTree(single_root=True)
    check_golden(tree.log_partition(WORDS), 3.808344)
    check_golden(single.log_partition(WORDS), 3.255527)
    best = tree.argmax(WORDS)
    assert best.argmax(0)[1:].tolist() == [0, 1, 2]  # the heads
    check_golden((best * WORDS).sum(), 2.4, digits=12)


def test_golden_brackets() -> None:
    tree = BinaryTree()
    check_golden(tree.log_partition(SPANS), 1.996025)
    mu = tree.marginals(SPANS)
    check_golden(mu[[0, 1, 2, 0, 1], [1, 2, 3, 2, 3]], 0.485805, 0.413537, 0.403052, 0.430990, 0.266616)
    check_golden(mu[0, 3], 1, digits=12)


@pytest.mark.parametrize("words", range(1, 13))
def test_counts(words: int) -> None:
    """log Z of zeros, against closed forms."""
    zeros = torch.zeros(words + 1, words + 1, dtype=torch.float64)
    multi = math.comb(3 * words, words) // (2 * words + 1)
    single = math.comb(3 * words - 2, words - 1) // words
    for structure, count in zip(STRUCTURES, (multi, single, oracles.catalan(words)), strict=True):
        assert float(structure.log_partition(zeros)) == pytest.approx(math.log(count), rel=1e-12)
        if words <= 5:
            assert len(structure.enumerate(words + 1, words + 1)) == count


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_other_sizes_against_all_solutions(n: int) -> None:
    solutions = [
        *([oracles.projective_trees(n), oracles.projective_trees(n, True)] if n < 6 else [None, None]),
        oracles.bracketings(n),
    ]
    for structure, every in zip(STRUCTURES, solutions, strict=True):
        if every is None:
            continue
        x = torch.randn(3, n, n, dtype=torch.float64)
        torch.testing.assert_close(structure.log_partition(x), oracles.log_partition(x, every))
        torch.testing.assert_close(structure.marginals(x), oracles.marginals(x, every), rtol=0, atol=1e-12)
        torch.testing.assert_close(
            structure.argmax(x), torch.stack([oracles.best(row, every)[1] for row in x]).double()
        )


@EVERY
def test_long_sentences(structure: Structure) -> None:
    """Of 40 nodes, in float32 at a low temperature: sums are exact, and the hard limits agree."""
    n = 40
    x = torch.randn(2, n, n, requires_grad=True)
    for tau in (1, 0.01):
        mu = structure.marginals(x / tau)
        torch.testing.assert_close(mu.sum((-2, -1)), torch.full((2,), n - 1.0), rtol=0, atol=1e-4)
        (slope,) = torch.autograd.grad((mu * torch.randn_like(mu)).sum(), x)
        assert bool(slope.isfinite().all())
    best = structure.argmax(x)
    torch.testing.assert_close(structure.marginals(1e5 * x.double()), best.double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(structure.sample(1e5 * x.double()), best.double(), rtol=0, atol=0)


@EVERY
def test_equal_scores_have_one_answer(structure: Structure) -> None:
    """A tie is broken alike in every row, mode and dtype."""
    x = torch.zeros(4, 7, 7)
    found = structure.argmax(x)
    assert int(found[0].sum()) == 6
    assert bool((found == found[0]).all())
    for other in (torch.vmap(structure.argmax)(x), structure.argmax(x.double()).float(), structure.argmax(x - 1)):
        torch.testing.assert_close(other, found, rtol=0, atol=0)
    torch.compiler.reset()
    compiled = torch.compile(structure.argmax, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, found, rtol=0, atol=0)


# --- samples ---------------------------------------------------------------------------------------------------------


def test_no_number_of_the_noise_is_used_twice() -> None:
    """A chart takes as many numbers as are drawn for it: those of later spans begin where those before end."""
    for n in (1, 2, 5, 8):
        for chart, other in ((spans._bracketings, ()), (spans._projective, (False,)), (spans._projective, (True,))):
            if other == (True,) and n == 1:
                continue
            kind = spans.projective if other else spans.bracketing
            g = ag.KeyedNoise(1).gumbel((2, kind.numbers(n, *other)), dtype=torch.float64)
            drawn = spans._Drawn(g)
            value = chart(torch.randn(2, n, n, dtype=torch.float64), *other, drawn)
            assert drawn.used == g.shape[-1]
            assert value.shape == (2,)


@EVERY
def test_samples_under_one_generator_are_the_same(structure: Structure) -> None:
    x = torch.randn(3, 6, 6)
    first, again = (structure.sample(x, (5,), generator=torch.Generator().manual_seed(7)) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert bool((first.sum((-2, -1)) == 5).all())


# --- what is no part -------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("other", [torch.nan, torch.inf, -torch.inf, 1e6])
def test_what_is_no_part_is_ignored(structure: Structure, other: float) -> None:
    x = torch.randn(2, 5, 5, dtype=torch.float64)
    changed = x.masked_fill(~parts(structure, 5), other).requires_grad_()
    for method in (structure.argmax, structure.log_partition, structure.marginals):
        torch.testing.assert_close(method(changed), method(x), rtol=0, atol=0)
        assert not bool(method(changed).isnan().any())
    noise = ag.KeyedNoise(3)
    torch.testing.assert_close(
        perturbed_argmax(structure, changed, noise=noise).values, perturbed_argmax(structure, x, noise=noise).values
    )
    torch.testing.assert_close(
        stochastic_softmax(structure, changed, 0.5, noise=noise), stochastic_softmax(structure, x, 0.5, noise=noise)
    )
    (slope,) = torch.autograd.grad(structure.log_partition(changed).sum(), changed)
    assert not bool(slope[:, ~parts(structure, 5)].any())
    if structure.has_trace:
        torch.testing.assert_close(structure.trace(changed.detach()), structure.trace(x))


def test_one_leaf_one_word_and_no_word() -> None:
    x = torch.randn(3, 1, 1)
    for structure in (ProjectiveTree(), BinaryTree()):
        for found in (structure.argmax(x), structure.marginals(x), structure.sample(x), structure.log_partition(x)):
            assert not bool(found.any())
        assert structure.sample(x, (2,)).shape == (2, 3, 1, 1)
        assert structure.enumerate(1, 1).tolist() == [[[False]]]
        slopes = torch.vmap(torch.func.grad(structure.log_partition))(x)
        torch.testing.assert_close(slopes, torch.zeros_like(x), rtol=0, atol=0)
    trace = BinaryTree().trace(x)
    assert trace.chosen.shape == (3, 0)
    assert trace_log_prob(x, trace).tolist() == [0, 0, 0]
    two = torch.randn(3, 2, 2)
    for structure in STRUCTURES:
        assert structure.argmax(two).tolist() == [[[0, 1], [0, 0]]] * 3
        torch.testing.assert_close(structure.log_partition(two), two[:, 0, 1])
    assert BinaryTree().trace(two).indicators.tolist() == [[[0, 1], [0, 0]]] * 3


# --- the race for brackets -------------------------------------------------------------------------------------------


def test_only_spans_that_leave_a_tree_race() -> None:
    """Where spans are forbidden, those are alive that some possible tree has, together with the winners before."""
    n, solutions = 6, oracles.bracketings(6)
    for seed in range(12):
        torch.manual_seed(seed)
        allowed = solutions[torch.randperm(len(solutions))[:4]].any(0)
        x = torch.randn(n, n, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
        possible = solutions[(solutions <= allowed).flatten(1).all(-1)]
        trace = BinaryTree().trace(x)
        made = torch.zeros(n, n, dtype=torch.bool)
        made[0, n - 1] = True
        for winner, alive in zip(trace.chosen.tolist(), trace.alive, strict=True):
            left = possible[(made <= possible).flatten(1).all(-1)]
            assert torch.equal(alive, left.any(0) & ~made)
            assert winner == int(x.masked_fill(~alive, -torch.inf).argmax())
            made.view(-1)[winner] = True
        assert torch.equal(made, trace.indicators.bool())
        values = posterior_gumbel_trace(x, trace)
        assert torch.equal(BinaryTree().trace(values).chosen, trace.chosen)
        assert float(trace_log_prob(x, trace)) > -torch.inf


def test_the_race_is_not_the_argmax() -> None:
    x = torch.zeros(4, 4)
    x[1, 2], x[0, 1], x[2, 3] = 3, 2, 2
    tree = BinaryTree()
    assert tree.trace(x).indicators[1, 2] == 1
    assert tree.argmax(x)[1, 2] == 0
    assert not tree.trace_is_argmax


def test_traces_in_all_modes() -> None:
    x = torch.randn(3, 6, 6, dtype=torch.float64)
    x[:, 1, 3] = -torch.inf
    tree, noise = BinaryTree(), ag.KeyedNoise(1)

    def race(x: Tensor) -> tuple[Any, ...]:
        trace = tree.trace(x)
        return *trace, trace_log_prob(x, trace), posterior_gumbel_trace(x, trace, noise=noise)

    expected = race(x)
    torch.compiler.reset()
    for found, value in zip(torch.compile(race, fullgraph=True, backend="aot_eager")(x), expected, strict=True):
        torch.testing.assert_close(found, value)
    for found, value in zip(torch.vmap(lambda x: tuple(tree.trace(x)))(x), expected, strict=False):
        torch.testing.assert_close(found, value)
    assert tree.trace(x[:0]).alive.shape == (0, 4, 6, 6)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_projective_tree_has_no_trace() -> None:
    with pytest.raises(NotImplementedError, match=r"has no trace: .* use sample .* or perturbed_argmax"):
        ProjectiveTree().trace(torch.zeros(3, 3))
    assert not ProjectiveTree().has_trace
    assert BinaryTree().has_trace


@EVERY
def test_shapes_that_do_not_fit(structure: Structure) -> None:
    for shape in ((3, 4), (2, 0, 0)):
        with pytest.raises(ValueError, match=r"scores must have a number for each .* \(\*batch, n, n\)"):
            structure.log_partition(torch.zeros(shape))
    for event, words in (((), "event"), ((4,), "event"), ((3, 4), "scores must have a number for each")):
        with pytest.raises(ValueError, match=words):
            structure.enumerate(*event)


def test_a_single_root_needs_a_word() -> None:
    with pytest.raises(ValueError, match="n at least 2"):
        ProjectiveTree(single_root=True).argmax(torch.zeros(1, 1))
    assert repr(ProjectiveTree(True)) == "ProjectiveTree(single_root=True)"
    assert ProjectiveTree() != ProjectiveTree(True)


def test_the_span_of_all_leaves_may_not_be_forbidden() -> None:
    x = torch.zeros(4, 4)
    x[0, 3] = -torch.inf
    for method in (BinaryTree().argmax, BinaryTree().trace, BinaryTree().sample):
        with pytest.raises(ValueError, match=r"(scores|values) must leave at least one binary tree"):
            method(x)
