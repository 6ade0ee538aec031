"""Priority sampling: k items with weights, drawn for estimates of sums over all items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import Rows, can_raise, check_k
from ..kernels.race import best_k
from ..noise import KeyedNoise, draw_like
from ._range import saturated, saturated_exp

__all__ = ["PriorityDraw", "priority_sample"]


class PriorityDraw(NamedTuple):
    """The k items of highest priority: their log priorities, falling, the items, their weights; the log threshold."""

    values: Tensor
    indices: Tensor
    weights: Tensor
    threshold: Tensor


def priority_sample(
    logits: Tensor,
    k: int,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> PriorityDraw:
    """``torch.topk(logits - log(u), k, dim)``: priority sampling, k items with weights that estimate any sum.

    With u uniform in (0, 1), the priority of item i is ``exp(x_i) / u_i``. The threshold is the (k+1)-th highest
    priority, and an item with a priority above the threshold has the weight ``max(exp(x_i), threshold)``. Then
    ``sum_i weight_i f_i`` over the k items is an unbiased estimate of ``sum_i exp(x_i) f_i`` over all items. No scheme
    of at most k items has a smaller sum of the variances of its single weights than this scheme has with k + 1 items.

    This is not Gumbel-top-k: an item heavier than the threshold is sure to be drawn, and its weight is ``exp(x_i)``
    itself. A *keyed* function.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        k: how many items, at most the number of allowed items in every row.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of uniform noise in the shape of logits, or a ``KeyedNoise``, whose ``uniform`` is used.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices, weights, threshold)``. The first three have the shape ``(*batch, k)`` for ``dim=-1``: log
        priorities ``logits - log(u)``, falling; int64 indices; weights. The log threshold has the shape ``(*batch,)``;
        it is -inf where all allowed items were drawn, and then the weights are ``exp(logits)``. All but the indices are
        in the dtype of logits; what is above the range of the dtype is the largest number of the dtype. The gradient of
        a weight with respect to its own logit is the weight itself, so the gradient of the estimated sum is unbiased
        too.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, noise or mask of the wrong shape, both noise and
            generator; k negative or larger than the number of allowed items in some row. Under ``torch.compile``, under
            ``vmap`` and on an accelerator a bad row gives values NaN and indices -1 instead.
        TypeError: logits are not a floating tensor, mask is not bool, or k is not an integer.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.subsets import priority_sample
        >>> w = torch.tensor([1000.0, 1.0, 1.0, 1.0])
        >>> draw = priority_sample(w.log(), 2)
        >>> draw.indices[0], draw.weights[0].round()  # heavier than the threshold, so it is sure to be drawn
        (tensor(0), tensor(1000.))

    Source: Duffield, Lund and Thorup 2007, "Priority sampling for estimation of arbitrary subset sums"; Szegedy 2006,
    "The DLT priority sampling is essentially optimal".
    """
    rows = Rows(logits, dim, mask)
    x, dim, n = rows.back(rows.x), rows.dim, rows.x.shape[-1]
    k = check_k(k, n)
    excess = -draw_like(x, dim, noise, generator, "uniform").log()
    top = [t.movedim(-1, dim) for t in best_k(rows.x.to(excess.dtype), excess.movedim(dim, -1), min(k + 1, n))]
    values, indices = (t.narrow(dim, 0, k) for t in top)
    threshold = torch.full_like(top[0].select(dim, 0), -torch.inf)
    if k < n:
        threshold = top[0].detach().select(dim, k)
    chosen = x.gather(dim, indices)
    bad = ~values.isfinite()
    if can_raise(values) and bool(bad.any()):
        rows.complain(noise, k)
    values, indices = values.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    # Not chosen - log q, which would round the threshold away where the item is far below it. NaN where the value is.
    height = torch.maximum(chosen.detach(), threshold.unsqueeze(dim)) + 0 * values.detach()
    weights = saturated_exp(height + (chosen - chosen.detach()))
    values, weights, threshold = (saturated(part, logits.dtype) for part in (values, weights, threshold))
    return PriorityDraw(values, indices, weights, threshold)
