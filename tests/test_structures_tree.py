"""Spanning trees: the C++ against plain PyTorch. (``test_structures.py`` tests what every structure promises.)"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from argumbel import kernels
from argumbel.kernels import (
    spanning_tree,
    spanning_tree_log_partition,
    spanning_tree_marginals,
    tree_log_partition,
)
from argumbel.kernels.gibbs import LOWEST, is_impossible
from argumbel.kernels.tree import both_ways

ROWS = [1, 3, 8, 21]  # fewer than, as many as, and more than graphs that stand side by side


def kinds(rows: int, n: int) -> dict[str, Tensor]:
    """Scores: ordinary, far apart, tied, with forbidden edges, and of all these in turn."""
    torch.manual_seed(100 * rows + n)
    x = torch.randn(rows, n * (n - 1) // 2, dtype=torch.float64)
    forbidden = torch.rand(x.shape) < 0.4
    found = {
        "plain": x,
        "far apart": 200 * x,
        "very far apart": 1e6 * x,
        "tied": (2 * x).round(),
        "moved": x + 1e5,
        "forbidden": x.masked_fill(forbidden, -torch.inf),
        "forbidden, far apart": (300 * x).masked_fill(forbidden, -torch.inf),
        "all forbidden": torch.full_like(x, -torch.inf),
    }
    turns = torch.stack(list(found.values()))
    found["in turn"] = turns[torch.arange(rows) % len(turns), torch.arange(rows)]
    return found


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("n", [2, 3, 6, 17])
def test_sums_are_those_of_the_reference(path: str, n: int, rows: int) -> None:
    for kind, x in kinds(rows, n).items():
        x = x.clamp(min=LOWEST).requires_grad_()
        direction = torch.randn(x.shape, dtype=torch.float64)

        def three(x: Tensor = x, direction: Tensor = direction) -> tuple[Tensor, Tensor, Tensor]:
            log_z, mu = spanning_tree_log_partition(x, n), spanning_tree_marginals(x, n)
            (along,) = torch.autograd.grad((mu * direction).sum(), x)
            return log_z.detach(), mu.detach(), along

        log_z, mu, along = three()
        with kernels.use("reference"):
            log_z_, mu_, along_ = three()
        left = ~is_impossible(log_z_)
        assert torch.equal(is_impossible(log_z), ~left), kind
        torch.testing.assert_close(log_z[left], log_z_[left], rtol=1e-13, atol=1e-12, msg=kind)
        torch.testing.assert_close(mu[left], mu_[left], rtol=1e-8, atol=1e-9, msg=kind)
        torch.testing.assert_close(along[left], along_[left], rtol=1e-7, atol=1e-7, msg=kind)


def test_neighbours_do_not_matter(path: str) -> None:
    """A graph has the same sums to the bit alone, among others, and beside one that needs another kind of number."""
    n = 7
    x = kinds(21, n)["in turn"].clamp(min=LOWEST)
    for operation in (spanning_tree_log_partition, spanning_tree_marginals):
        whole = operation(x, n)
        for row in range(len(x)):
            assert torch.equal(operation(x[row : row + 1], n)[0], whole[row])
        assert torch.equal(operation(x.flip(0), n).flip(0), whole)


def test_threads_do_not_matter(path: str) -> None:
    x, threads = torch.randn(500, 45, dtype=torch.float64), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(spanning_tree_marginals(x, 10))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_of_an_arborescence_with_both_directions() -> None:
    x = torch.randn(5, 28, dtype=torch.float64)
    torch.testing.assert_close(spanning_tree_log_partition(x, 8), tree_log_partition(both_ways(x, 8), False))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 17])
def test_the_best_tree_is_that_of_the_reference(path: str, n: int) -> None:
    for kind, x in kinds(13, n).items():
        tree, chosen, rounds, _ = spanning_tree(x, n, True, ())
        alone, none, no_rounds, _ = spanning_tree(x, n, False, ())
        assert torch.equal(alone, tree), kind
        assert none.numel() == no_rounds.numel() == 0
        with kernels.use("reference"):
            expected = spanning_tree(x, n, True, ())
            short = spanning_tree(x, n, False, ())
        assert [t.shape for t in short[:3]] == [t.shape for t in (alone, none, no_rounds)]
        for ours, theirs in zip((tree, chosen, rounds), expected[:3], strict=True):
            assert torch.equal(ours, theirs), kind
