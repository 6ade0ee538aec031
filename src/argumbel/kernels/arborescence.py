"""Arborescences by the algorithm of Chu, Liu and Edmonds: each node takes its best incoming edge, a circle of edges
becomes one node, and this node takes an edge again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.bits import view_bits
from . import cpu
from .noise import LN2_HIGH_64, LN2_LOW_64, log64
from .operator import Operator
from .tree import row_of_each

__all__ = ["arborescence"]


def _log_difference(a: Tensor, b: Tensor) -> Tensor:
    """``log(exp(a) - exp(b))``, for a >= b: -inf where they are equal. The order of the operations is fixed, and all of
    them round alike everywhere."""
    d = a - b
    some = d > 0  # two times of -inf differ by nothing, too
    d = d.clamp(max=40).masked_fill(~some, 1)  # exp(-40) is nothing beside 1
    shifted = d * -1.4426950408889634 + 1.5 * 2**52  # the low bits now hold k = round(-d / log 2)
    k = shifted - 1.5 * 2**52
    r = (-d - k * LN2_HIGH_64) - k * LN2_LOW_64
    p = torch.full_like(r, 1 / 14)
    for i in range(13, 0, -1):
        p = (p * r + 1) * (1 / i)  # exp(r) - 1 is r p
    power = view_bits((view_bits(shifted, torch.int64) << 52) + (1023 << 52), torch.float64)  # 2^k
    q = (1 - power) - power * (r * p)
    return torch.where(some, a + log64(q.clamp(min=2.0**-1022)), -torch.inf)


def _reference(
    x: Tensor, root: int, single_root: bool, race: bool, key: tuple[()]
) -> tuple[Tensor, Tensor, Tensor, bool]:
    n = x.shape[-1]
    nodes = torch.arange(n, device=x.device)
    # A block is a node, or a circle that became one; it has the number of one of its nodes. Entry [b, u] is about the
    # best edge from node u into block b.
    cost = -x.mT
    end = nodes.unsqueeze(-1).expand(x.shape)  # where the edge ends
    block = nodes.expand(x.shape[:-1])  # of each node
    above = (nodes == nodes.unsqueeze(-1)).expand(x.shape)  # whether a block is another one, or leads to it
    entered = (nodes == root).expand(x.shape[:-1])
    paid = torch.zeros_like(x[..., 0])  # the cost of the edge that enters the block
    steps = []
    for _ in range(2 * n - 2):
        b = (~entered).byte().argmax(-1, keepdim=True)
        own, inside = nodes == b, block == b
        costs = row_of_each(cost, b).masked_fill(inside, torch.inf)
        if single_root:  # an edge of the root is the last resort
            others = costs.masked_fill(nodes == root, torch.inf)
            costs = torch.where((others < torch.inf).any(-1, keepdim=True), others, costs)
        u = costs.argmin(-1, keepdim=True)
        least = costs.gather(-1, u)
        made = ~entered.all(-1, keepdim=True) & (least < torch.inf)
        v = row_of_each(end, b).gather(-1, u)
        steps.append((made, u, v, inside & made))
        paid = torch.where(own & made, least, paid)
        # Where the edge comes from a block that b leads to, the blocks between them are a circle.
        at = block.gather(-1, u)
        below, over = row_of_each(above, b), row_of_each(above.mT, at)
        circle = below & over & (block == nodes) & made
        closes = circle.any(-1, keepdim=True)
        above = above | (over.unsqueeze(-1) & below.unsqueeze(-2) & (made & ~closes).unsqueeze(-1))
        entered = entered | (own & made & ~closes)
        left = _log_difference(cost, paid.unsqueeze(-1)) if race else cost - paid.unsqueeze(-1)
        if race and single_root:
            left = torch.where(nodes == root, cost, left)  # edges of the root have not raced yet
        left = left.masked_fill(~circle.unsqueeze(-1), torch.inf)
        least_left = left.amin(-2, keepdim=True)
        first = end.masked_fill(~circle.unsqueeze(-1) | (left > least_left), n).amin(-2, keepdim=True)
        new = (own & closes).unsqueeze(-1)
        cost, end = torch.where(new, least_left, cost), torch.where(new, first, end)
        block = torch.where(circle.gather(-1, block), b, block)
    return *_unfolded(x, root, single_root, race, entered, steps), False


def _unfolded(
    x: Tensor, root: int, single_root: bool, race: bool, entered: Tensor, steps: Sequence[tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor, Tensor]:
    """From the last edge to the first: an edge stays, unless a later one enters its block."""
    n = x.shape[-1]
    nodes = torch.arange(n, device=x.device)
    head = torch.full_like(x[..., 0], -1, dtype=torch.int64)
    for made, u, v, inside in reversed(steps):
        stays = made & ~(inside & (head >= 0)).any(-1, keepdim=True)
        head = torch.where(stays & (nodes == v), u, head)
    impossible = ~entered.all(-1, keepdim=True)
    if single_root:
        impossible = impossible | ((head == root).sum(-1, keepdim=True) != 1)
    tree = torch.where(impossible.unsqueeze(-1), x == -torch.inf, nodes.unsqueeze(-1) == head.unsqueeze(-2))
    _, chosen, alive = _outputs(x, root, single_root, race)
    if race and n > 1:
        chosen = torch.cat([torch.where(made & ~impossible, u * n + v, -1) for made, u, v, _ in steps], -1)
        within = torch.stack([inside & ~impossible for *_, inside in steps], -2)
        alive = within.unsqueeze(-2) & ~within.unsqueeze(-1)
        if single_root:
            last = (torch.stack([u for _, u, _, _ in steps], -2) == root).unsqueeze(-1)
            alive = alive & ((nodes == root).unsqueeze(-1) == last)
    return tree, chosen, alive


def _outputs(x: Tensor, root: int, single_root: bool, race: bool, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    n = x.shape[-1]
    chosen = x.new_empty((*x.shape[:-2], 2 * n - 2 if race else 0), dtype=torch.int64)
    return x.new_empty(x.shape, dtype=torch.bool), chosen, x.new_empty((*chosen.shape, n, n), dtype=torch.bool)


def _cpu(x: Tensor, root: int, single_root: bool, race: bool, key: tuple[()]) -> tuple[Tensor, Tensor, Tensor, bool]:
    tree, chosen, alive = _outputs(x, root, single_root, race)
    cpu.call(
        "arborescence", x.flatten(-2), cpu.NO_KEY, x.shape[-1], root, single_root, race,
        tree.data_ptr(), chosen.data_ptr(), alive.data_ptr(),
    )  # fmt: skip
    return tree, chosen, alive, False


#: ``arborescence(x, root, single_root, race, ()) -> (tree, chosen, alive, bad)``: x is float64 ``(*batch, n, n)``, for
#: edges u -> v, without NaN and +inf; -inf forbids an edge. The diagonal and the edges into the root are not looked at.
#:
#: Of nodes and circles without an incoming edge, the one with the lowest node goes first. It takes the best edge from
#: outside; of equal ones, the one from the lowest node, and of those the one into the lowest node. When a circle
#: closes, the cost of the edge that a node has is taken off the cost of the edges that could replace it. With
#: single_root an edge of the root is taken only where there is no other.
#:
#: - Without race, the cost is -x: ``tree`` is the largest arborescence; ``chosen`` and ``alive`` are empty.
#: - With race, the cost is exp(-x), of which the logarithm is computed. (With single_root the edges of the root race
#:   for themselves: nothing is taken off their cost.) ``chosen`` are the edges u n + v that were taken,
#:   ``(*batch, 2n - 2)``, -1 for steps that were not made; ``alive``, bool ``(*batch, 2n - 2, n, n)``, are the edges
#:   that could be taken.
#:
#: Where there is no arborescence, ``tree`` is all that is forbidden, and no step is made.
arborescence = Operator(
    "arborescence(Tensor x, SymInt root, bool single_root, bool race) -> (Tensor, Tensor, Tensor)",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    triton=False,
    float64=True,
)
