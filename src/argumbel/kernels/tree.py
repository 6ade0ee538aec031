"""Trees: the best spanning tree and the race by which Kruskal's algorithm finds it; sums over all arborescences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.elementwise import logaddexp
from . import cpu
from .gibbs import LOWEST, gibbs
from .operator import Operator

__all__ = [
    "both_ways",
    "row_of_each",
    "spanning_tree",
    "spanning_tree_log_partition",
    "spanning_tree_marginals",
    "tree_log_partition",
    "tree_marginals",
]


def edge_numbers(n: int, device: torch.device) -> Tensor:
    """The number of the edge between two nodes, in the order of ``torch.triu_indices(n, n, 1)``; 0 on the diagonal."""
    u, v = torch.triu_indices(n, n, 1, device=device)
    numbers = torch.zeros(n, n, dtype=torch.int64, device=device)
    ids = torch.arange(len(u), device=device)
    return numbers.index_put((u, v), ids).index_put((v, u), ids)


# --- the best tree ---------------------------------------------------------------------------------------------------


def _reference(x: Tensor, n: int, race: bool, key: tuple[()]) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Prim's algorithm, on the ranks of the edges. The worst edge on the way between two nodes tells when Kruskal's
    algorithm would have joined them."""
    edges = x.shape[-1]
    if edges == 0:
        tree, chosen, rounds = _outputs(x, n, race)
        return tree, chosen, rounds, False
    order = x.sort(dim=-1, descending=True, stable=True).indices
    rank = order.argsort(-1)
    numbers = edge_numbers(n, x.device)
    nodes = torch.arange(n, device=x.device)
    same = nodes == nodes.unsqueeze(-1)
    of_pair = rank[..., numbers].masked_fill(same, edges)  # (*batch, n, n)
    inside = (nodes == 0).expand(*x.shape[:-1], n)
    best, worst = of_pair[..., 0, :], torch.zeros_like(of_pair)
    via, taken = torch.zeros_like(best), []
    for _ in range(n - 1):
        v = best.masked_fill(inside, edges + 1).argmin(-1, keepdim=True)
        r = best.gather(-1, v)
        row = torch.maximum(row_of_each(worst, via.gather(-1, v)), r).masked_fill(~inside, 0)
        new = nodes == v
        worst = torch.where(new.unsqueeze(-1), row.unsqueeze(-2), worst)
        worst = torch.where(new.unsqueeze(-2), row.unsqueeze(-1), worst)
        inside = inside | new
        row = row_of_each(of_pair, v)
        closer = (row < best) & ~inside
        best, via = torch.where(closer, row, best), torch.where(closer, v, via)
        taken.append(r)
    ranks = torch.cat(taken, -1).sort(-1).values
    chosen = order.gather(-1, ranks)
    u, v = torch.triu_indices(n, n, 1, device=x.device)
    rounds = (ranks.unsqueeze(-2) <= worst[..., u, v].unsqueeze(-1)).sum(-1)
    tree = torch.zeros_like(rank, dtype=torch.bool).scatter(-1, chosen, True)
    return tree, chosen if race else chosen[..., :0], rounds if race else rounds[..., :0], False


def row_of_each(table: Tensor, index: Tensor) -> Tensor:
    """The row ``index``, ``(*batch, 1)``, of every table."""
    return table.gather(-2, index.unsqueeze(-1).expand(*index.shape, table.shape[-1])).squeeze(-2)


def _outputs(x: Tensor, n: int, race: bool, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    chosen = x.new_empty((*x.shape[:-1], n - 1 if race else 0), dtype=torch.int64)
    rounds = x.new_empty((*x.shape[:-1], x.shape[-1] if race else 0), dtype=torch.int64)
    return x.new_empty(x.shape, dtype=torch.bool), chosen, rounds


def _cpu(x: Tensor, n: int, race: bool, key: tuple[()]) -> tuple[Tensor, Tensor, Tensor, bool]:
    tree, chosen, rounds = _outputs(x, n, race)
    cpu.call("spanning_tree", x, cpu.NO_KEY, n, race, tree.data_ptr(), chosen.data_ptr(), rounds.data_ptr())
    return tree, chosen, rounds, False


#: ``spanning_tree(x, n, race, ()) -> (tree, chosen, rounds, bad)``: the spanning tree of n nodes with the largest sum
#: of x, float64 ``(*batch, n (n - 1) / 2)`` without NaN. ``tree`` is bool. With race, ``chosen`` are its edges in the
#: order in which Kruskal's algorithm takes them, best first, ``(*batch, n - 1)``, and ``rounds`` is how often an edge
#: could have been taken; both are empty without race. Of equal edges the first counts as the better one.
spanning_tree = Operator(
    "spanning_tree(Tensor x, SymInt n, bool race) -> (Tensor, Tensor, Tensor)",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    triton=False,
    float64=True,
)


# --- sums over all arborescences -------------------------------------------------------------------------------------


def _log_z(x: Tensor, single_root: bool) -> Tensor:
    """Star-mesh elimination. A node k passes its edges on to the others and goes: with w = exp(x) and d = sum of w(u,
    k), w(u, v) grows by w(u, k) w(k, v) / d, and Z is the product of the d. Only positive numbers are added."""
    n = x.shape[-1]
    if single_root and n > 1:  # the sum over the only edge that leaves the root
        alone = torch.eye(n, dtype=torch.bool, device=x.device)[1:].unsqueeze(-2)  # (n - 1, 1, n)
        root = x[..., :1, :].unsqueeze(-3).masked_fill(~alone, LOWEST)
        rest = x[..., 1:, :].unsqueeze(-3).expand(*root.shape[:-2], n - 1, n)
        return _log_z(torch.cat([root, rest], -2), False).logsumexp(-1)
    total = x[..., 0, 0] * 0
    for k in range(n - 1, 0, -1):
        into = x[..., :k, k]
        d = into.logsumexp(-1)
        total = total + d
        x = logaddexp(x[..., :k, :k], (into - d.unsqueeze(-1)).unsqueeze(-1) + x[..., k, :k].unsqueeze(-2))
        x = x.masked_fill(torch.eye(k, dtype=torch.bool, device=x.device), LOWEST)
    return total


#: ``tree_log_partition(x, single_root)``: the log of the sum, over all arborescences of n nodes with node 0 as the
#: root, of the exponential of the sum of x[u, v] over its edges u -> v. x is float64, ``(*batch, n, n)``; the diagonal
#: must be LOWEST, and forbidden edges too. ``tree_marginals(x, single_root)`` is its gradient.
tree_log_partition, tree_marginals = gibbs(
    "tree_log_partition(Tensor x, bool single_root)",
    2,
    _log_z,
    cpu=lambda x, single_root: (x.shape[-1], single_root),
)


# --- sums over all spanning trees ------------------------------------------------------------------------------------


def both_ways(x: Tensor, n: int) -> Tensor:
    """The score of each edge in both directions, ``(*batch, n, n)``: a spanning tree is an arborescence whose root is
    node 0."""
    if n == 1:
        return x.sum(-1).reshape(*x.shape[:-1], 1, 1) + LOWEST  # no edge, but a node of autograd
    same = torch.eye(n, dtype=torch.bool, device=x.device)
    both = x.index_select(-1, edge_numbers(n, x.device).flatten())  # its gradient is faster than an index's
    return both.reshape(*x.shape[:-1], n, n).masked_fill(same, LOWEST)


#: ``spanning_tree_log_partition(x, n)``: the same sum over all spanning trees of n nodes, where x is float64,
#: ``(*batch, n (n - 1) / 2)``, and n is at least 2. ``spanning_tree_marginals(x, n)`` is its gradient.
spanning_tree_log_partition, spanning_tree_marginals = gibbs(
    "spanning_tree_log_partition(Tensor x, SymInt n)",
    1,
    lambda x, n: _log_z(both_ways(x, n), False),
    cpu=lambda x, n: (n,),
)
