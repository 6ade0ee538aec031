"""Structures made of spans (projective trees, binary bracketings): a chart of all spans, from short to long.

A chart is one function of scores and of a ``reduce``, which says what many ways to build a span are worth. With the
logsumexp it is log Z, so its gradient is the marginals. With the maximum it is the largest score; or one way is drawn
at random. In both cases each span hands its gradient to one way alone, so the gradient is the indicator of one
structure: the best, or the one drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import can_raise
from .gibbs import LOWEST, gibbs, slope
from .opaque import Function
from .operator import Operator

__all__ = ["Spans", "bracketing", "greedy_bracketing", "projective"]

Reduce = Callable[[Tensor], Tensor]  # of the ways in the last dimension


# --- charts ----------------------------------------------------------------------------------------------------------
#
# All spans of one width are one step. At width w, `start[..., i, k]` is the span from i to i + k, and `end[..., i, k]`
# the span from i + k to i + w: the same row and column of both are two spans that meet.


def _append(start: Tensor, spans: Tensor) -> Tensor:
    """``start`` of the next width: its spans come last."""
    return torch.cat([start[..., :-1, :], spans.unsqueeze(-1)], -1)


def _prepend(end: Tensor, spans: Tensor) -> Tensor:
    """``end`` of the next width: its spans come first."""
    return torch.cat([spans.unsqueeze(-1), end[..., 1:, :]], -1)


def _bracketings(x: Tensor, reduce: Reduce) -> Tensor:
    """The algorithm of Cocke, Younger and Kasami: two neighbours make a span."""
    start = end = torch.zeros_like(x[..., :1])
    for w in range(1, x.shape[-1]):
        spans = x.diagonal(w, -2, -1) + reduce(start[..., :-1, :] + end[..., 1:, :])
        start, end = _append(start, spans), _prepend(end, spans)
    return start[..., 0, -1]


def _projective(x: Tensor, single_root: bool, reduce: Reduce) -> Tensor:
    """Eisner's algorithm. A span has its head at its left or its right end, and is whole or open: an open one ends at
    a child of the head that may still get children of its own beyond the end."""
    root = x[..., 0, 1:]
    if single_root:
        x = x[..., 1:, 1:]
    left_start = left_end = right_start = right_end = torch.zeros_like(x[..., :1])  # whole, by the side of the head
    open_left, open_right = x[..., :0], x[..., :0]  # from the start, and to the end
    for w in range(1, x.shape[-1]):
        apart = reduce(left_start[..., :-1, :] + right_end[..., 1:, :])  # two heads, to be joined by an edge
        open_left = _append(open_left, apart + x.diagonal(w, -2, -1))
        open_right = _prepend(open_right, apart + x.diagonal(-w, -2, -1))
        left = reduce(open_left + left_end[..., 1:, :])
        right = reduce(right_start[..., :-1, :] + open_right)
        left_start, left_end = _append(left_start, left), _prepend(left_end, left)
        right_start, right_end = _append(right_start, right), _prepend(right_end, right)
    if single_root:  # the sum over the only child of the root
        return reduce(root + right_start[..., 0, :] + left_end[..., 0, :])
    return left_start[..., 0, -1]


# --- what is made of a chart -----------------------------------------------------------------------------------------


def _sum(ways: Tensor) -> Tensor:
    return ways.logsumexp(-1)


def _largest(ways: Tensor) -> Tensor:
    return ways.max(-1).values  # not amax: of equal ways, the first gets the whole gradient


class _Drawn:
    """The logsumexp, whose gradient goes to one way alone, drawn by its share of the sum. Each way of each span has a
    number of the noise g of its own."""

    def __init__(self, g: Tensor) -> None:
        self.g, self.used = g, 0

    def __call__(self, ways: Tensor) -> Tensor:
        shape = ways.shape[self.g.ndim - 1 :]
        g = self.g[..., self.used : self.used + shape.numel()].unflatten(-1, shape)
        self.used += shape.numel()
        found = (ways.detach() + g).argmax(-1, keepdim=True)
        one = ways.gather(-1, found).squeeze(-1)
        return ways.detach().logsumexp(-1) + (one - one.detach())


class Spans(NamedTuple):
    """What is known of one kind of structure, each a function of float64 scores ``(*batch, n, n)`` and more.

    ``log_partition(x, *other)`` and ``marginals(x, *other)`` take forbidden parts as LOWEST. ``best(x, *other)`` takes
    them as -inf and returns the indicator of the structure with the largest score, bool; of equal ways to build a span
    the first counts as the better one. ``draw(x, g, *other)`` is the indicator of a structure from ``exp(<y, x>) / Z``,
    with Gumbel noise g, float64 ``(*batch, numbers(n, *other))``.
    """

    log_partition: Function
    marginals: Function
    best: Function
    draw: Function
    numbers: Callable[..., int]


def _spans(name: str, others: str, chart: Callable[..., Tensor], numbers: Callable[..., int]) -> Spans:
    """Args: ``others``, arguments of the chart between x and reduce, as a schema has them."""

    def outputs(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(x.shape, dtype=torch.bool)

    def solved(x: Tensor, *other_and_key: Any) -> tuple[Tensor, bool]:
        other = other_and_key[:-1]
        return slope(lambda at: chart(at, *other, _largest), x) != 0, False

    def drawn(x: Tensor, g: Tensor, *other_and_key: Any) -> tuple[Tensor, bool]:
        other = other_and_key[:-1]
        return slope(lambda at: chart(at, *other, _Drawn(g)), x) != 0, False

    log_partition, marginals = gibbs(
        f"{name}_log_partition(Tensor x{others})", 2, lambda x, *other: chart(x, *other, _sum)
    )
    best = Operator(f"{name}_best(Tensor x{others}) -> Tensor", outputs=outputs, reference=solved, triton=False)
    draw = Operator(
        f"{name}_draw(Tensor x, Tensor g{others}) -> Tensor", outputs=outputs, reference=drawn, triton=False
    )
    return Spans(
        log_partition,
        marginals,
        lambda *inputs: best(*inputs, ())[0],
        lambda *inputs: draw(*inputs, ())[0],
        numbers,
    )


def _ways(n: int) -> int:
    """In how many ways all spans of n places are cut in two: the sum over w of w (n - w)."""
    return (n - 1) * n * (n + 1) // 6


#: Binary bracketings of n leaves: x[i, j], i < j, scores the span from leaf i to leaf j; other entries are not read.
bracketing = _spans("bracketing", "", _bracketings, _ways)

#: ``(x, single_root)``: projective trees of the words 1 to n - 1 and the root 0: x[u, v] scores the edge from the head
#: u to v. The diagonal, and edges to the root, have no part in any tree.
projective = _spans(
    "projective",
    ", bool single_root",
    _projective,
    lambda n, single_root: 3 * _ways(n - 1) + n - 1 if single_root else 3 * _ways(n),
)


# --- the race for a bracketing ---------------------------------------------------------------------------------------


def _greedy(x: Tensor, key: tuple[()]) -> tuple[Tensor, Tensor, Tensor, bool]:
    n = x.shape[-1]
    j = torch.arange(n, device=x.device)
    i = j.unsqueeze(-1)
    whole = (i == 0) & (j == n - 1) & (i < j)
    tree, free = whole.expand(x.shape), ((i < j) & ~whole).expand(x.shape)
    allowed = x > LOWEST
    all_allowed = can_raise(x) and bool((allowed | (i >= j)).all())
    values, rounds, chosen = x.clamp(min=LOWEST), torch.zeros_like(x, dtype=torch.int64), []
    for _ in range(n - 2):
        if not all_allowed:
            free = _completed(tree, free, allowed)
        rounds = rounds + free
        best = values.masked_fill(~free, -torch.inf).flatten(-2).argmax(-1, keepdim=True)
        a, b = best.unsqueeze(-1) // n, best.unsqueeze(-1) % n
        won = (i == a) & (j == b)
        crossing = (a < i) & (i <= b) & (b < j) | (i < a) & (a <= j) & (j < b)
        tree, free = tree | won, free & ~won & ~crossing
        chosen.append(best)
    none = x.new_zeros((*x.shape[:-2], 0), dtype=torch.int64)
    return tree.clone(), torch.cat([none, *chosen], -1), rounds, False


def _completed(tree: Tensor, free: Tensor, allowed: Tensor) -> Tensor:
    """The free spans that some bracketing of allowed spans has, beside those of the tree; all where there is none."""
    usable = torch.where(tree | (free & allowed), 0.0, LOWEST).double()
    found = free & allowed & (slope(lambda at: _bracketings(at, _sum), usable) > 0)
    return torch.where(found.flatten(-2).any(-1)[..., None, None], found, free)


def _greedy_outputs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    chosen = x.new_empty((*x.shape[:-2], max(x.shape[-1] - 2, 0)), dtype=torch.int64)
    return x.new_empty(x.shape, dtype=torch.bool), chosen, x.new_empty(x.shape, dtype=torch.int64)


#: ``greedy_bracketing(x, ()) -> (tree, chosen, rounds, bad)``: the largest of x, float64 ``(*batch, n, n)``, among the
#: spans that cross no winner before wins, until the bracketing is whole. ``tree`` is bool; ``chosen`` are the winners,
#: ``(*batch, n - 2)``, counted in row order; ``rounds`` is how often a span could have won. The span of all leaves is
#: in every tree and does not compete. Where spans are forbidden (-inf), those compete that leave a bracketing.
greedy_bracketing = Operator(
    "greedy_bracketing(Tensor x) -> (Tensor, Tensor, Tensor)",
    outputs=_greedy_outputs,
    reference=_greedy,
    triton=False,
)
