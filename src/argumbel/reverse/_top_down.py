"""Perturbed values of a whole tree, the maximum first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits, forbid, raise_bad_logits
from .._core.trees import group_logsumexp, group_max, levels_of
from ..kernels.posterior import representable
from ..noise import KeyedNoise, draw_like
from ._move import move_max

__all__ = ["top_down"]


def top_down(
    logits: Tensor,
    parents: Sequence[int] | Tensor | None = None,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``values[root] = logsumexp(logits) + G[root]``, then, from the root down, the children of every node as a race
    whose maximum is the value of the node: perturbed values of a whole tree.

    The value of an inner node is the largest value of its children, and is a Gumbel at the logsumexp of its leaves. The
    leaves have the law of logits + noise. A *keyed* function: G is one number of noise per node.

    Args:
        logits: logits of the leaves, shape ``(*batch, leaves)`` for ``dim=-1``, any floating dtype; need not be
            normalised; -inf forbids a leaf.
        parents: the parent of every node, integers ``(nodes,)``, -1 for a root. The leaves come first, in the order of
            logits, then the inner nodes in any order. Default: one root above all leaves. Under ``torch.compile``, a
            tuple.
        dim: where the leaves lie.
        mask: bool, broadcasts to logits; True where a leaf is allowed.
        noise: a tensor of standard Gumbel noise, ``(*batch, nodes)`` for ``dim=-1``, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Perturbed values, ``(*batch, nodes)`` for ``dim=-1``, in the dtype of logits, differentiable in logits. The
        value of a node is -inf if all its leaves are forbidden.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, parents that do not describe one tree or several
            trees above the leaves of logits, noise or mask of the wrong shape, both noise and generator. On an
            accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, parents do not hold integers, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.reverse import top_down
        >>> values = top_down(torch.zeros(4), parents=[4, 4, 5, 5, 6, 6, -1])  # two pairs, 4 and 5, and a root
        >>> values[4] == values[:2].max(), values[6] == values.max()
        (tensor(True), tensor(True))

    Source: Maddison, Tarlow and Minka 2014, "A* sampling" (the top-down construction).
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    leaves = logits.shape[dim]
    levels = levels_of([leaves] * leaves + [-1] if parents is None else parents, leaves)
    count = sum(len(nodes) for nodes, _ in levels)
    x = forbid(logits, mask).movedim(dim, -1)
    nodes_like = x.new_empty(1).expand(*x.shape[:-1], count).movedim(-1, dim)
    g = draw_like(nodes_like, dim, noise, generator, "gumbel").movedim(dim, -1)
    x = x.to(g.dtype)
    best = x.amax(-1, keepdim=True)
    bad = ~best.isfinite() | ~g.isfinite().all(-1, keepdim=True)
    if can_raise(x) and can_raise(g) and bool(bad.any()):
        raise_bad_logits(x, -1, noise)
    peak = best.detach().masked_fill(bad, 0)
    x = x - peak  # the races are run beside the maximum: far from 0 their values would be rounded, and tie
    tree = [tuple(torch.tensor(ids, device=x.device) for ids in level) for level in levels]

    weights: list[Tensor] = []  # for each level, from the deepest up: the logsumexp of the leaves below each node
    for depth in reversed(range(len(tree))):
        nodes, _ = tree[depth]
        own = x[..., nodes.clamp(max=leaves - 1)]
        if weights:
            below, (_, above) = weights[-1], tree[depth + 1]
            own = torch.where(nodes < leaves, own, group_logsumexp(below, above, len(nodes)))
        weights.append(own)

    values: list[Tensor] = []  # for each level, from the roots down
    for (nodes, above), weight in zip(tree, reversed(weights), strict=True):
        race = weight + g[..., nodes]
        if not values:
            values.append(representable(race + peak, logits.dtype))
            continue
        best = group_max(race, above, values[-1].shape[-1])[..., above]
        values.append(move_max(race, values[-1][..., above].to(x.dtype) - peak, logits.dtype, best, peak))
    order = torch.cat([nodes for nodes, _ in tree]).argsort()
    return torch.cat(values, -1)[..., order].masked_fill(bad, torch.nan).movedim(-1, dim)
