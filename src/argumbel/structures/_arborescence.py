"""Directed spanning trees."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import count, flag
from ..kernels import LOWEST, arborescence, tree_log_partition, tree_marginals
from ..noise import KeyedNoise
from ._base import Structure
from ._parents import sample_parents

__all__ = ["Arborescence"]


class Arborescence(Structure):
    """A directed spanning tree of n nodes: every node but the root has one incoming edge, and the root leads to all.
    Dependency trees of sentences are arborescences.

    Scores and indicators have the shape ``(*batch, n, n)``: entry ``[u, v]`` is for the edge from u to v. The diagonal
    and the column of the root are not parts: their scores are ignored, whatever they are, and their indicators are 0.
    The methods are those of every structure (:class:`Structure`).

    - ``argmax`` is the maximum arborescence, by the algorithm of Chu, Liu and Edmonds: each node takes its best
      incoming edge, a circle of such edges becomes one node, and so on. Of equal edges into a node (or a circle), the
      edge from the lowest node is better, and of those the edge into the lowest node. The cost is n^2.
    - ``log_partition`` is the matrix-tree theorem for directed graphs, without a determinant: a node passes its edges
      on to the others and goes, and only positive numbers are added. So the result is exact at any temperature. The
      cost is n^3.
    - ``sample`` draws the parent of one node after another, by the marginals given the parents before. The cost is n^4.
      The argmax of perturbed scores (:func:`perturbed_argmax`) is much faster, and has another law.
    - ``trace`` is the same algorithm in the time of arrival, ``exp(-value)``: each node takes the incoming edge that
      arrives first. When a circle closes, the edges that could replace an edge of it are known to arrive later than
      this edge did; the rest of their time is exponential again, and decides which of them comes first. At each step,
      of the nodes and circles without an incoming edge, the one with the lowest node goes first. There are at most
      2n - 2 steps; the others have ``chosen`` -1, and nothing alive. The cost is n^2, and n^3 to write down ``alive``.
      **This tree is not the argmax of the values**: it has the smallest sum of times, not the largest sum of values.

    Args:
        n: the number of nodes, at least 1.
        root: the node that leads to all others.
        single_root: whether exactly one edge leaves the root; n is at least 2 then. In the trace, the edges of the root
            then race when one circle has all other nodes (or all from which the others can be reached), and their
            times count from the start: the tree no longer has the smallest sum of times.

    Raises:
        ValueError: n or root is out of range.
        TypeError: n or root is no integer.

    Example:
        >>> import torch
        >>> from argumbel.structures import Arborescence
        >>> tree = Arborescence(3)
        >>> tree.argmax(torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 5.0], [0.0, 4.0, 0.0]]))  # 0 -> 1 -> 2
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [0., 0., 0.]])
        >>> tree.log_partition(torch.zeros(3, 3)).exp()  # n^(n - 2) arborescences
        tensor(3.)

    Source: Chu and Liu 1965, "On the shortest arborescence of a directed graph"; Edmonds 1967, "Optimum branchings";
    Tutte 1948, "The dissection of equilateral triangles into equilateral triangles" (matrix-tree theorem); Koo et al.
    2007, "Structured prediction models via the matrix-tree theorem" (single root); Colbourn, Myrvold and Neufeld 1996,
    "Two algorithms for unranking arborescences" (samples); Struminsky et al. 2021, "Leveraging recursive gumbel-max
    trick for approximate inference in combinatorial spaces" (trace).
    """

    event_ndim = 2
    noun = "arborescence"
    knows_event = True

    def __init__(self, n: int, root: int = 0, single_root: bool = False) -> None:
        single_root = flag("single_root", single_root)
        self.n = count("n", n, least=2 if single_root else 1)
        self.root = count("root", root, most=self.n - 1, of="the last node, ")
        self.single_root = single_root

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if event != (self.n, self.n):
            raise ValueError(
                f"{name} must have a number for each edge between {self.n} nodes, in the shape (*batch, {self.n}, "
                f"{self.n}), but the last two dimensions are {event}; pass {name}[..., u, v] of the edges u -> v"
            )

    def parts(self, event: tuple[int, ...], device: torch.device) -> Tensor:
        nodes = torch.arange(self.n, device=device)
        return (nodes != nodes.unsqueeze(-1)) & (nodes != self.root)

    def _argmax(self, x: Tensor) -> Tensor:
        return arborescence(x, self.root, self.single_root, False, ())[0]

    def _log_partition(self, x: Tensor) -> Tensor:
        return tree_log_partition(self._forbidden(x), self.single_root)

    def _marginals(self, x: Tensor) -> Tensor:
        return self._root_first(tree_marginals(self._forbidden(x), self.single_root))

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        return self._root_first(sample_parents(self._forbidden(x), self.single_root, noise))

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return arborescence(x, self.root, self.single_root, True, ())[:3]

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        # The head of each other node, in all ways; who follows the heads n times must be at the root.
        nodes = torch.arange(self.n, device="cpu")
        others = nodes[nodes != self.root]
        ways = torch.arange(self.n ** (self.n - 1), device="cpu").unsqueeze(-1)
        heads = torch.full((len(ways), self.n), self.root, device="cpu")
        heads[:, others] = ways // self.n ** torch.arange(self.n - 1, device="cpu").flip(0) % self.n
        up = heads
        for _ in nodes:
            up = heads.gather(-1, up)
        good = (up == self.root).all(-1)
        if self.single_root:
            good &= (heads[:, others] == self.root).sum(-1) == 1
        return (heads[good].unsqueeze(-2) == nodes.unsqueeze(-1)) & (nodes != self.root)

    def _forbidden(self, x: Tensor) -> Tensor:
        """Scores as the sums over all arborescences take them: the root is node 0, and what is no part is forbidden."""
        return self._root_first(x.masked_fill(~self.parts((), x.device), LOWEST))

    def _root_first(self, x: Tensor) -> Tensor:
        """The root and node 0 change places; done twice, they are back."""
        if self.root != 0:
            order = list(range(self.n))
            order[0], order[self.root] = self.root, 0
            x = x[..., order, :][..., order]
        return x
