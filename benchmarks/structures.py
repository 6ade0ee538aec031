"""Structures: our calls, their checks, and the peers. The last dimensions of a size are the scores of one structure;
noise is part of every draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import argumbel as ag
from argumbel.structures import Arborescence, Chain, SpanningTree, Subset

from .ops import op
from .peers import Call, peer
from .problem import Problem

TREE, MATRIX_TREE = "perturbed_argmax, spanning tree", "log_partition + gradient, spanning tree"
ARBORESCENCE, VITERBI = "perturbed_argmax, arborescence", "viterbi, chain"
SUBSET = "log_partition + gradient, subset"

# Names that targets refer to.
NETWORKX = "networkx"
SCIPY = "scipy.sparse.csgraph"
SLOGDET = "slogdet of the Laplacian, float32, autograd"
UFAL = "ufal.chu_liu_edmonds"
TORCH_VITERBI = "a loop of max over batch x classes x classes"
NUMPY_SUBSET = "forward and backward recursions in NumPy"


def nodes(p: Problem) -> int:
    """Of a complete graph with so many edges."""
    return round((1 + (1 + 8 * p.size.shape[-1]) ** 0.5) / 2)


def gumbel(x: Tensor) -> Tensor:
    return -torch.empty_like(x).exponential_().log()


# --- spanning trees --------------------------------------------------------------------------------------------------


def networkx_tree(x: Any, n: int, edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    import networkx as nx

    graph = nx.Graph()
    graph.add_weighted_edges_from((u, v, w) for (u, v), w in zip(edges, x, strict=True))
    return sorted((min(e), max(e)) for e in nx.maximum_spanning_edges(graph, data=False))


def edges_of(n: int) -> list[tuple[int, int]]:
    return [(u, v) for u in range(n) for v in range(u + 1, n)]


def _check_tree(p: Problem) -> None:
    n, noise = nodes(p), ag.KeyedNoise(1)
    values, trees = ag.perturbed_argmax(SpanningTree(n), p.logits, noise=noise)
    x = p.logits.double() + noise.gumbel(p.logits.shape).double()
    torch.testing.assert_close(values.double(), (x * trees).sum(-1), rtol=1e-5, atol=1e-5)
    edges = edges_of(n)
    for row, tree in zip(x[:4].tolist(), trees[:4].bool().tolist(), strict=True):
        assert networkx_tree(row, n, edges) == [e for e, taken in zip(edges, tree, strict=True) if taken]


@op(TREE, _check_tree)
def _(p: Problem) -> Call:
    tree = SpanningTree(nodes(p))
    return lambda: ag.perturbed_argmax(tree, p.logits)


@peer(NETWORKX, TREE, library="networkx")
def _(p: Problem) -> Call:
    n = nodes(p)
    edges = edges_of(n)
    return lambda: [networkx_tree(row, n, edges) for row in (p.logits + gumbel(p.logits)).tolist()]


@peer(SCIPY, TREE, library="scipy")
def _(p: Problem) -> Call:
    from scipy.sparse.csgraph import minimum_spanning_tree

    n = nodes(p)
    upper = np.triu_indices(n, 1)

    def call() -> list[Any]:
        found = []
        for row in (p.logits + gumbel(p.logits)).numpy():
            cost = np.zeros((n, n))
            cost[upper] = 100 - row  # an entry of 0 would be no edge
            found.append(minimum_spanning_tree(cost))
        return found

    return call


def laplacian_log_z(x: Tensor, n: int, index: tuple[Tensor, Tensor]) -> Tensor:
    w = x.new_zeros((*x.shape[:-1], n, n)).index_put((torch.arange(len(x)).unsqueeze(-1), *index), x.exp())
    w = w + w.mT
    return torch.linalg.slogdet((torch.diag_embed(w.sum(-1)) - w)[..., 1:, 1:])[1]


def _check_matrix_tree(p: Problem) -> None:
    n = nodes(p)
    index = torch.triu_indices(n, n, 1).unbind()
    x = p.logits.double().requires_grad_()
    exact = laplacian_log_z(x, n, index)
    ours = SpanningTree(n).log_partition(p.leaf)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    (slope,), (truth,) = torch.autograd.grad(ours.sum(), p.leaf), torch.autograd.grad(exact.sum(), x)
    assert float((slope - truth).abs().max()) < 1e-5


@op(MATRIX_TREE, _check_matrix_tree)
def _(p: Problem) -> Call:
    tree = SpanningTree(nodes(p))
    return lambda: torch.autograd.grad(tree.log_partition(p.leaf).sum(), p.leaf)


@peer(SLOGDET, MATRIX_TREE)
def _(p: Problem) -> Call:
    n = nodes(p)
    index = torch.triu_indices(n, n, 1).unbind()
    return lambda: torch.autograd.grad(laplacian_log_z(p.leaf, n, index).sum(), p.leaf)


# --- arborescences ---------------------------------------------------------------------------------------------------


def _check_arborescence(p: Problem) -> None:
    import networkx as nx

    n, noise = p.size.shape[-1], ag.KeyedNoise(1)
    flat = p.logits.flatten(-2)
    _, found = ag.perturbed_argmax(Arborescence(n), p.logits, noise=noise)
    x = (p.logits.double() + noise.gumbel(flat.shape).reshape(p.logits.shape).double())[:2]
    for row, tree in zip(x, found, strict=False):
        graph = nx.DiGraph()
        graph.add_weighted_edges_from((u, v, float(row[u, v])) for u in range(n) for v in range(1, n) if u != v)
        best = nx.maximum_spanning_arborescence(graph)
        assert set(best.edges) == set(map(tuple, tree.nonzero().tolist()))


@op(ARBORESCENCE, _check_arborescence)
def _(p: Problem) -> Call:
    tree = Arborescence(p.size.shape[-1])
    return lambda: ag.perturbed_argmax(tree, p.logits)


@peer(UFAL, ARBORESCENCE, library="ufal.chu_liu_edmonds")
def _(p: Problem) -> Call:
    from ufal.chu_liu_edmonds import chu_liu_edmonds

    n = p.size.shape[-1]
    parts = torch.eye(n, dtype=torch.bool) | (torch.arange(n) == 0)

    def call() -> list[Any]:
        x = (p.logits + gumbel(p.logits)).double().masked_fill(parts, torch.nan)
        return [chu_liu_edmonds(row.T.numpy()) for row in x]  # it wants rows of dependents

    return call


# --- chains ----------------------------------------------------------------------------------------------------------


def torch_viterbi(x: Tensor) -> Tensor:
    """Best classes, ``(batch, length)``."""
    score, back = x.new_zeros(x.shape[0], x.shape[-1]), []
    for t in range(x.shape[1]):
        score, choice = (score.unsqueeze(-1) + x[:, t]).max(-2)
        back.append(choice)
    path = [score.argmax(-1)]
    for choice in reversed(back):
        path.append(choice.gather(-1, path[-1].unsqueeze(-1)).squeeze(-1))
    return torch.stack(path[::-1], -1)


def _check_chain(p: Problem) -> None:
    values, classes = Chain().viterbi(p.logits)
    assert torch.equal(classes, torch_viterbi(p.logits.double()))
    score = (Chain().encode(classes, p.logits.shape[-1]) * p.logits).sum((-3, -2, -1))
    torch.testing.assert_close(values, score, rtol=1e-5, atol=1e-4)


@op(VITERBI, _check_chain)
def _(p: Problem) -> Call:
    chain = Chain()
    return lambda: chain.viterbi(p.logits)


@peer(TORCH_VITERBI, VITERBI)
def _(p: Problem) -> Call:
    return lambda: torch_viterbi(p.logits)


# --- subsets ---------------------------------------------------------------------------------------------------------


def _check_subset(p: Problem) -> None:
    ours = Subset(p.k).log_partition(p.leaf)
    (slope,) = torch.autograd.grad(ours.sum(), p.leaf)
    exact = ag.relaxed_topk(p.logits.double(), p.k, noise=torch.zeros_like(p.logits, dtype=torch.float64))
    assert float((slope - exact).abs().max()) < 1e-5
    log_z, mu = numpy_subset(p.logits[:4].double().numpy(), p.k)
    torch.testing.assert_close(ours[:4].double(), torch.from_numpy(log_z), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(slope[:4].double(), torch.from_numpy(mu), rtol=1e-4, atol=1e-5)


@op(SUBSET, _check_subset)
def _(p: Problem) -> Call:
    subset = Subset(p.k)
    return lambda: torch.autograd.grad(subset.log_partition(p.leaf).sum(), p.leaf)


def numpy_subset(x: Any, k: int) -> tuple[Any, Any]:
    """log Z and the marginals, in logarithms: sums over sets of the items before and after each item."""
    batch, n = x.shape
    none = np.full((batch, 1), -np.inf)
    before = [np.concatenate([np.zeros((batch, 1)), np.full((batch, k), -np.inf)], 1)]
    after = [before[0]]
    for i in range(n):
        for sums, item in ((before, i), (after, n - 1 - i)):
            grown = np.concatenate([none, sums[-1][:, :-1] + x[:, item : item + 1]], 1)
            sums.append(np.logaddexp(sums[-1], grown))
    log_z = before[-1][:, k]
    mu = [
        np.exp(np.logaddexp.reduce(before[i][:, :k] + after[n - 1 - i][:, k - 1 :: -1], 1) + x[:, i] - log_z)
        for i in range(n)
    ]
    return log_z, np.stack(mu, 1)


@peer(NUMPY_SUBSET, SUBSET, library="numpy")
def _(p: Problem) -> Call:
    return lambda: numpy_subset(p.logits.numpy(), p.k)
