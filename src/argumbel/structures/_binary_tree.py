"""Binary bracketings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from ..kernels import bracketing, greedy_bracketing
from ..noise import KeyedNoise
from ._base import Structure

__all__ = ["BinaryTree"]


class BinaryTree(Structure):
    """A binary bracketing of n leaves in a row: the span of all leaves is cut in two, and each piece again, down to
    single leaves.

    Scores and indicators have the shape ``(*batch, n, n)``: entry [i, j], i < j, is the span from leaf i to leaf j,
    both of them inside. Other entries are not parts: their scores are ignored, and their indicators are 0. A tree has
    n - 1 spans. The span of all leaves is one of them in every tree, so its score adds to the score of each tree. The
    methods are those of every structure (:class:`Structure`).

    - ``argmax``, ``log_partition`` and ``marginals`` are the algorithm of Cocke, Younger and Kasami, in plain PyTorch,
      all spans of one width at once. Time and memory grow like n^3.
    - ``sample`` draws in the same chart, from the whole down to the leaves, where each span is cut. It costs about as
      much as the marginals, for each tree.
    - ``trace`` is a greedy race: at each step the largest of the spans that cross no winner before wins. The span of
      all leaves does not compete. The tree is not the argmax. Where spans are forbidden, only spans that still leave a
      tree compete, so the race never ends too early; it then costs n times the marginals.

    Example:
        >>> import torch
        >>> from argumbel.structures import BinaryTree
        >>> scores = torch.zeros(4, 4)
        >>> scores[1, 2], scores[0, 2] = 1.0, 0.5
        >>> BinaryTree().argmax(scores).nonzero().tolist()
        [[0, 2], [0, 3], [1, 2]]
        >>> BinaryTree().log_partition(torch.zeros(4, 4)).exp().round()  # a Catalan number
        tensor(5.)

    Source: Younger 1967, "Recognition and parsing of context-free languages in time n^3"; Goodman 1998, "Parsing
    inside-out" (samples); Struminsky et al. 2021, "Leveraging recursive gumbel-max trick for approximate inference in
    combinatorial spaces" (traces).
    """

    event_ndim = 2
    noun = "binary tree"

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        if len(event) != 2 or event[0] != event[1] or event[0] < 1:
            raise ValueError(
                f"{name} must have a number for each span of n leaves, in the shape (*batch, n, n), n at least 1, but "
                f"the shape of one tree is {event}; pass {name}[..., i, j] of the span from leaf i to leaf j"
            )

    def parts(self, event: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.ones(event, dtype=torch.bool, device=device).triu(1)

    def _argmax(self, x: Tensor) -> Tensor:
        return bracketing.best(x)

    def _log_partition(self, x: Tensor) -> Tensor:
        return bracketing.log_partition(x)

    def _marginals(self, x: Tensor) -> Tensor:
        return bracketing.marginals(x)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        numbers = bracketing.numbers(x.shape[-1])
        return bracketing.draw(x, noise.gumbel((*x.shape[:-2], numbers), dtype=x.dtype, device=x.device))

    def _trace(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tree, chosen, rounds, _ = greedy_bracketing(x, ())
        steps = torch.arange(chosen.shape[-1], device=x.device)[:, None, None]
        return tree, chosen, steps < rounds.unsqueeze(-3)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        leaves = range(event[0])
        trees = [[[(i, j) in tree for j in leaves] for i in leaves] for tree in _trees(0, event[0] - 1)]
        return torch.tensor(trees, device="cpu")


def _trees(i: int, j: int) -> Iterator[set[tuple[int, int]]]:
    """The spans of every binary tree of the leaves i to j."""
    if i == j:
        yield set()
    for cut in range(i, j):
        for left, right in itertools.product(_trees(i, cut), _trees(cut + 1, j)):
            yield {(i, j)} | left | right
