"""Undirected spanning trees."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .._core.checks import count
from ..kernels import both_ways, spanning_tree, spanning_tree_log_partition, spanning_tree_marginals
from ..noise import KeyedNoise
from ._base import Structure
from ._parents import sample_parents

__all__ = ["SpanningTree"]


class SpanningTree(Structure):
    """A spanning tree of n nodes: n - 1 of the n (n - 1) / 2 edges between two nodes, without a circle.

    Scores and indicators have the shape ``(*batch, n (n - 1) / 2)``: one number for each edge, in the order of
    ``torch.triu_indices(n, n, 1)``. The methods are those of every structure (:class:`Structure`).

    - ``argmax`` is the maximum spanning tree, and ``trace`` is how Kruskal's algorithm finds the tree: at each step the
      best of the edges between different components wins.
    - ``log_partition`` is the matrix-tree theorem, without a determinant: a node passes its edges on to the others and
      goes, and only positive numbers are added. So the result is exact at any temperature.
    - ``sample`` chooses the edge that leads from each node towards node 0, one node after another, by the marginals
      given the edges before. The cost is n times the cost of the marginals. The argmax of perturbed scores
      (:func:`perturbed_argmax`) is much faster, and has another law: near the law of ``sample``, but not equal.

    Args:
        n: the number of nodes, at least 1.

    Example:
        >>> import torch
        >>> from argumbel.structures import SpanningTree
        >>> tree = SpanningTree(3)  # the edges 0-1, 0-2, 1-2
        >>> tree.argmax(torch.tensor([1.0, 0.0, 2.0]))
        tensor([1., 0., 1.])
        >>> tree.log_partition(torch.zeros(3)).exp()  # n^(n - 2) trees
        tensor(3.)

    Source: Kirchhoff 1847, "Ueber die Auflösung der Gleichungen, auf welche man bei der Untersuchung der linearen
    Vertheilung galvanischer Ströme geführt wird" (matrix-tree theorem); Kruskal 1956, "On the shortest spanning subtree
    of a graph and the traveling salesman problem"; Colbourn, Myrvold and Neufeld 1996, "Two algorithms for unranking
    arborescences" (samples); Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference
    in combinatorial spaces" (trace).
    """

    noun = "spanning tree"
    trace_is_argmax = True
    knows_event = True

    def __init__(self, n: int) -> None:
        self.n = count("n", n, least=1)

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        edges = self.n * (self.n - 1) // 2
        if event != (edges,):
            raise ValueError(
                f"{name} must have one number for each of the {edges} edges between {self.n} nodes, but the last "
                f"dimension has {event[0]}; pass {name}[..., u, v] of u, v = torch.triu_indices({self.n}, {self.n}, 1)"
            )

    def _argmax(self, x: Tensor) -> Tensor:
        return spanning_tree(x, self.n, False, ())[0]

    def _log_partition(self, x: Tensor) -> Tensor:
        return x.sum(-1) if self.n == 1 else spanning_tree_log_partition(x, self.n)  # no edge, but a node of autograd

    def _marginals(self, x: Tensor) -> Tensor:
        return x.clone() if self.n == 1 else spanning_tree_marginals(x, self.n)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        parents = sample_parents(both_ways(x, self.n), False, noise)
        u, v = torch.triu_indices(self.n, self.n, 1, device=x.device)
        return parents[..., u, v] | parents[..., v, u]

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tree, chosen, rounds, _ = spanning_tree(x, self.n, True, ())
        steps = torch.arange(self.n - 1, device=x.device).unsqueeze(-1)
        return tree, chosen, steps < rounds.unsqueeze(-2)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        u, v = torch.triu_indices(self.n, self.n, 1, device="cpu")
        found = []
        for edges in itertools.combinations(range(len(u)), self.n - 1):
            component = list(range(self.n))
            for e in edges:
                a, b = component[u[e]], component[v[e]]
                component = [a if c == b else c for c in component]
            if len(set(component)) == 1:
                found.append([e in edges for e in range(len(u))])
        return torch.tensor(found, dtype=torch.bool, device="cpu").reshape(len(found), len(u))
