"""A relaxed k-hot vector."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, Rows, check_k, check_tau
from ..choice import summands
from ..kernels.race import first
from ..kernels.softmax import over, shifted, straight_through
from ..noise import KeyedNoise
from ._softmax import items_last, soft_dtype

__all__ = ["relaxed_topk"]


def relaxed_topk(
    logits: Tensor,
    k: int,
    tau: float | Tensor = 1,
    hard: bool = False,
    dim: int = -1,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``a_1 + ... + a_k``, ``a_j = softmax(x_j / tau)``, ``x_1 = logits + noise``, ``x_{j+1} = x_j + log(1 - a_j)``: a
    relaxed k-hot draw of k items without replacement.

    Each softmax takes weight away from the items that the softmaxes before it chose. As tau falls, the sum approaches
    the k-hot vector of :func:`argumbel.gumbel_topk` under the same noise. A *keyed* function.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        k: how many items, at most the number of allowed items in every row.
        tau: at least 0; a number, or a tensor that broadcasts against logits with size 1 along dim. At 0 the result is
            the exact k-hot vector.
        hard: return the exact k-hot vector of the top k, with the gradient of the soft vector (straight-through).
        dim: where the items lie.
        noise: a tensor of Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        A tensor in the shape and dtype of logits (under autocast, in the dtype of torch's softmax). It sums to k along
        dim, and its entries are at least 0. For large tau an entry may exceed 1, since one item can have much weight in
        more than one softmax.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, k negative or larger than the number of allowed
            items in some row, tau < 0, noise of the wrong shape, both noise and generator. On an accelerator, under
            ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, or k is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> y = ag.relaxed_topk(torch.zeros(2, 6), k=2, tau=0.5)
        >>> torch.allclose(y.sum(-1), torch.tensor([2.0, 2.0]))
        True

    Source: Xie and Ermon 2019, "Reparameterizable subset sampling via continuous relaxations".
    """
    rows = Rows(logits, dim)
    tau = items_last(check_tau(tau, logits, rows.dim), rows)
    k = check_k(k, rows.x.shape[-1])
    x, g = summands(rows, noise, generator)
    values, bad = shifted(x, g, k)
    if bad:
        rows.complain(noise, k)
    drawn = first(x.detach(), g, k, g.dtype)[1].clamp(min=0)
    exact = torch.zeros_like(values).scatter(-1, drawn, 1.0)
    exact = exact + 0 * values.detach().amax(-1, keepdim=True)
    tau = torch.as_tensor(tau, dtype=values.dtype, device=values.device)
    frozen = tau < EXACT_BELOW
    soft = torch.where(frozen, exact, _successive_softmaxes(values, k, torch.where(frozen, 1, tau)))
    y = straight_through(exact.expand_as(soft), soft) if hard else soft
    return rows.back(y.to(soft_dtype(logits)))


def _successive_softmaxes(values: Tensor, k: int, tau: Tensor) -> Tensor:
    total = torch.zeros_like(values / tau)
    x = values
    for j in range(k):
        z = over(x - x.detach().amax(-1, keepdim=True), tau)
        a = torch.softmax(z, -1)
        total = total + a
        if j + 1 < k:
            # log(1 - a). At the largest item a may be near 1 and 1 - a would cancel. There, log(1 - a) is the logsumexp
            # of the other items minus the logsumexp of all items.
            top = z.argmax(-1, keepdim=True)
            largest = torch.zeros_like(z, dtype=torch.bool).scatter(-1, top, True)
            rest = z.masked_fill(largest, -torch.inf).logsumexp(-1, keepdim=True) - z.logsumexp(-1, keepdim=True)
            x = x + torch.where(largest, rest, torch.log1p(-a.masked_fill(largest, 0)))
    return total
