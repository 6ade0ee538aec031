"""Projective dependency trees."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from .._core.checks import flag
from ..kernels import projective
from ..noise import KeyedNoise
from ._base import Structure

__all__ = ["ProjectiveTree"]


class ProjectiveTree(Structure):
    """A projective dependency tree: each of the words 1 to n - 1 has a head, another word or the root 0, and edges that
    are drawn above the sentence do not cross.

    So it is an arborescence where a head is above all words between itself and its child. Scores and indicators have
    the shape ``(*batch, n, n)``: entry [u, v] is the edge from the head u to the word v. The diagonal and column 0 are
    not parts: their scores are ignored, and their indicators are 0. The methods are those of every structure
    (:class:`Structure`), but for ``trace``: no race of the edges finds a projective tree.

    - ``argmax``, ``log_partition`` and ``marginals`` are Eisner's algorithm, in plain PyTorch, all spans of one width
      at once. Time and memory grow like n^3.
    - ``sample`` draws in the same chart, from the whole sentence down to the words, how each span is made. It costs
      about as much as the marginals, for each tree.

    Args:
        single_root: whether one edge alone leaves the root; default any number of edges.

    Example:
        >>> import torch
        >>> from argumbel.structures import ProjectiveTree
        >>> scores = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
        >>> ProjectiveTree().argmax(scores).nonzero().tolist()  # 0 -> 1 -> 2
        [[0, 1], [1, 2]]
        >>> ProjectiveTree().log_partition(torch.zeros(4, 4)).exp().round()  # of three words
        tensor(12.)

    Source: Eisner 1996, "Three new probabilistic models for dependency parsing: an exploration"; Goodman 1998, "Parsing
    inside-out" (samples).
    """

    event_ndim = 2
    noun = "projective tree"
    has_trace = False

    def __init__(self, single_root: bool = False) -> None:
        self.single_root = flag("single_root", single_root)

    def check_event(self, event: tuple[int, ...], name: str = "scores") -> None:
        least = 2 if self.single_root else 1
        if len(event) != 2 or event[0] != event[1] or event[0] < least:
            raise ValueError(
                f"{name} must have a number for each edge between n nodes, in the shape (*batch, n, n), n at least "
                f"{least}, but the shape of one tree is {event}; pass {name}[..., u, v] of the edge from the head u to "
                "the word v, where node 0 is the root"
            )

    def parts(self, event: tuple[int, ...], device: torch.device) -> Tensor:
        nodes = torch.arange(event[0], device=device)
        return (nodes > 0) & (nodes != nodes.unsqueeze(-1))

    def _argmax(self, x: Tensor) -> Tensor:
        return projective.best(x, self.single_root)

    def _log_partition(self, x: Tensor) -> Tensor:
        return projective.log_partition(x, self.single_root)

    def _marginals(self, x: Tensor) -> Tensor:
        return projective.marginals(x, self.single_root)

    def _sample(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        numbers = projective.numbers(x.shape[-1], self.single_root)
        g = noise.gumbel((*x.shape[:-2], numbers), dtype=x.dtype, device=x.device)
        return projective.draw(x, g, self.single_root)

    def _enumerate(self, event: tuple[int, ...]) -> Tensor:
        nodes = range(event[0])
        trees = [tree for tree in _below(0, nodes[1:]) if not self.single_root or sum(u == 0 for u, _ in tree) == 1]
        return torch.tensor([[[(u, v) in tree for v in nodes] for u in nodes] for tree in trees], device="cpu")


def _below(head: int, words: range) -> Iterator[set[tuple[int, int]]]:
    """The edges of every way in which words in a row, all on one side of a head, are below it."""
    if not words:
        yield set()
    for size, child in itertools.product(range(1, len(words) + 1), words):
        if child in words[:size]:  # the first child has these words below it, or is one of them
            before, after = range(words[0], child), range(child + 1, words[size - 1] + 1)
            for parts in itertools.product(_below(child, before), _below(child, after), _below(head, words[size:])):
                yield {(head, child)}.union(*parts)
