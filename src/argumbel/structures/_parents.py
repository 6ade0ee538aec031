"""Exact samples of arborescences: the parent of one node after another."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import LOWEST, tree_marginals
from ..noise import KeyedNoise

__all__ = ["sample_parents"]


def sample_parents(x: Tensor, single_root: bool, noise: KeyedNoise) -> Tensor:
    """Arborescences with the root 0 from ``exp(<y, x>) / Z``, bool, in the shape ``(*batch, n, n)`` of x.

    The marginals of the edges into a node are the law of its parent. Once it is drawn, the other edges into this node
    are forbidden, and the marginals of the rest are those given what was drawn.
    """
    n = x.shape[-1]
    nodes = torch.arange(n, device=x.device)
    g = noise.gumbel((*x.shape[:-2], n * n), dtype=torch.float64, device=x.device).reshape(x.shape)
    for v in range(1, n):
        mu = tree_marginals(x, single_root)[..., v].clamp(min=0)  # by rounding it may be below
        parent = (mu.log() + g[..., v]).argmax(-1, keepdim=True)
        others = (nodes != parent).unsqueeze(-1) & (nodes == v)
        x = x.masked_fill(others, LOWEST)
    return (x > LOWEST) & (nodes > 0)
