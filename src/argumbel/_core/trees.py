"""Trees of groups: their levels, and reductions over the children of every node."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["group_logsumexp", "group_max", "levels_of"]


def levels_of(parents: Sequence[int] | Tensor, leaves: int) -> list[tuple[list[int], list[int]]]:
    """The nodes of each level from the roots down, and the place of each one's parent in the level above."""
    ids = parents.tolist() if isinstance(parents, Tensor) else list(parents)
    if not all(type(parent) is int for parent in ids):
        raise TypeError("parents must be integers, one for each node, but some are not; pass a list of int")
    children: list[list[int]] = [[] for _ in ids]
    for node, parent in enumerate(ids):
        if parent != -1 and not leaves <= parent < len(ids):
            raise ValueError(
                f"parents must name inner nodes, from {leaves} (the number of leaves) to {len(ids) - 1}, or be -1 for "
                f"a root, but the parent of node {node} is {parent}; number the leaves first, then the inner nodes"
            )
        if parent != -1:
            children[parent].append(node)
    if len(ids) < leaves or not all(children[leaves:]):
        raise ValueError(
            f"parents must begin with the {leaves} leaves of logits, and every node after them must be the parent of "
            f"some node, but there are {len(ids)} nodes, of which {len(set(ids) - {-1})} are parents; drop inner nodes "
            "without children"
        )
    levels: list[tuple[list[int], list[int]]] = [([node for node, parent in enumerate(ids) if parent == -1], [])]
    while levels[-1][0]:
        below = [(child, place) for place, node in enumerate(levels[-1][0]) for child in children[node]]
        levels.append(([child for child, _ in below], [place for _, place in below]))
    if sum(len(nodes) for nodes, _ in levels) < len(ids):
        raise ValueError(
            "parents must lead from every node to a root, but some lead round in a circle; give one node of the circle "
            "the parent -1"
        )
    return levels[:-1]


def group_max(v: Tensor, group: Tensor, groups: int) -> Tensor:
    """The maximum of each group of items; items last."""
    lowest = v.new_full((*v.shape[:-1], groups), -torch.inf)
    return lowest.scatter_reduce(-1, group.expand(v.shape), v, "amax")


def group_logsumexp(v: Tensor, group: Tensor, groups: int) -> Tensor:
    """The logsumexp of each group of items; items last. -inf for a group of which all are."""
    top = group_max(v.detach(), group, groups)
    top = top.masked_fill(top == -torch.inf, 0)
    total = torch.zeros_like(top).index_add(-1, group, torch.exp(v - top[..., group]))
    nobody = total == 0
    return (total.masked_fill(nobody, 1).log() + top).masked_fill(nobody, -torch.inf)
