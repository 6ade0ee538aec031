"""The probability of a draw: of k items in the order drawn, or of the same items as a set."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import Rows, can_raise
from .._core.integrals import FAR, log_prob_first
from ._shapes import check_other_dims

__all__ = ["topk_log_prob"]


def topk_log_prob(
    logits: Tensor,
    indices: Tensor,
    *,
    ordered: bool = True,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """``sum_i (x[s_i] - logsumexp(x without s_1, ..., s_{i-1}))``: log probability that Gumbel-top-k draws s, in order.

    With ``ordered=False`` the log probability that Gumbel-top-k draws the *set*, in any order. This is the logarithm of
    the sum of the probabilities of all k! orders. The function computes it as a one-dimensional integral, the
    probability that all items of the set arrive before all other items.

    The result is exact: the work is done in float64, and the result is rounded once, to the dtype of logits. Sampling
    without replacement follows the Plackett-Luce law, so this is also the density of a ranking.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        indices: int64, shape ``(*batch, k)`` for ``dim=-1``; the dimensions other than ``dim`` broadcast with the same
            dimensions of logits. Indices of shape ``(samples, *batch, k)`` are ``samples`` draws, each with its own
            log probability. A row that holds fewer than k items is padded by -1 after its last item; padding adds
            nothing to the log probability and has no gradient.
        ordered: True for the probability of the sequence, False for the probability of the set.
        dim: where the items lie, in logits and in indices. Pass a negative dim if indices has more dimensions than
            logits.
        mask: bool, broadcasts to logits; True where an item is allowed.

    Returns:
        Log probabilities, shape ``(*batch,)``: the broadcast shape without ``dim``. They are differentiable in logits.
        The log probability is -inf where an item is forbidden or comes twice, and 0 where there is no item. It is also
        -inf where it is below the range of the dtype, as it may be for logits near the ends of this range.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, an index outside of [0, n) that is not padding,
            padding in front of an index, shapes that do not broadcast. Under ``torch.compile``, under ``vmap`` and on
            an accelerator a bad row or index gives NaN.
        TypeError: logits are not a floating tensor, indices not int64, or mask not bool.

    Cost: a row takes n + k numbers for a sequence and 160 k numbers for a set; with a gradient they stay in memory.

    Example:
        >>> import torch, argumbel as ag
        >>> x = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> ag.topk_log_prob(x, torch.tensor([0, 1])).exp()  # 1/2, then 3/5 of what remains
        tensor(0.3000)
        >>> ag.topk_log_prob(x, torch.tensor([0, 1]), ordered=False).exp()  # plus 3/10 times 5/7
        tensor(0.5143)
        >>> ag.topk_log_prob(x, torch.tensor([[0, 1], [0, -1]])).exp()  # rankings of different lengths
        tensor([0.3000, 0.5000])

    Source: Plackett 1975, "The analysis of permutations"; Kool, van Hoof and Welling 2020, "Estimating gradients for
    discrete random variables by sampling without replacement", appendix (the integral).
    """
    rows = Rows(logits, dim, mask)
    n = rows.x.shape[-1]
    dim = rows.dim - logits.ndim
    _check_indices(indices, logits, dim)
    x = rows.x.to(torch.float64)
    items = indices.movedim(dim, -1)
    bad = ~(x.amax(-1).isfinite()) | x.isnan().any(-1)
    x = x.masked_fill(bad.unsqueeze(-1), 0)
    padding = items == -1
    outside = ((items < 0) | (items >= n)) & ~padding
    early = padding[..., :-1] & ~padding[..., 1:]
    if can_raise(x) and can_raise(items):
        if bool(bad.any()):
            rows.complain()
        if bool(outside.any()):
            raise ValueError(
                f"indices must be in [0, {n}), or -1 for padding, but they reach from {int(items.min())} to "
                f"{int(items.max())}; pass positions along dim of logits"
            )
        if bool(early.any()):
            raise ValueError(
                "indices must have their padding, -1, after the last item of a row, but some row has it in front of an "
                "item; move the items to the front"
            )
    batch = torch.broadcast_tensors(x[..., :1], items[..., :1])[0].shape[:-1]
    k = items.shape[-1]
    bad = bad | outside.any(-1) | early.any(-1)
    x = x.expand(*batch, n)
    items, padding = _padding_first(items, padding)
    items, padding = items.clamp(0, n - 1).expand(*batch, k), padding.expand(*batch, k)

    place = items.masked_fill(padding, n)
    drawn = torch.nn.functional.pad(torch.zeros_like(x, dtype=torch.bool), (0, 1)).scatter(-1, place, True)[..., :n]
    chosen = x.gather(-1, items).masked_fill(padding, 0)
    impossible = (drawn.sum(-1) < k - padding.sum(-1)) | (chosen == -torch.inf).any(-1)
    # An impossible draw gets a finite log probability first, so that its gradient is 0 and not NaN.
    chosen = chosen.masked_fill(impossible.unsqueeze(-1), 0)
    rest = x.masked_fill(drawn, -torch.inf)
    peak = rest.detach().amax(-1, keepdim=True)
    all_drawn = peak == -torch.inf
    log_rest = (rest.masked_fill(all_drawn, 0) - peak.masked_fill(all_drawn, 0)).logsumexp(-1, keepdim=True)
    log_rest = log_rest.masked_fill(all_drawn, 0)
    if k == 0:
        log_prob = 0 * log_rest.squeeze(-1)
    elif ordered or k == 1:
        peaks = torch.cat([chosen[..., 1:].detach(), peak], -1)
        logs = torch.cat([chosen[..., 1:] - chosen[..., 1:].detach(), log_rest], -1)
        peaks, logs = _sums_from(peaks, logs)
        # Against what is left *after* each draw: nothing cancels, however little that is.
        log_prob = _log_sigmoid((chosen - peaks) - logs).masked_fill(padding, 0).sum(-1)
    else:
        relative = ((chosen - peak) - log_rest).masked_fill(all_drawn, 0)
        relative = relative.masked_fill(padding, FAR)  # there at once, before all others
        log_prob = log_prob_first(relative).masked_fill(all_drawn.squeeze(-1) | padding.all(-1), 0)
    log_prob = log_prob - log_prob.detach().clamp(min=0)  # a probability of 1 may be rounded up
    return log_prob.masked_fill(impossible, -torch.inf).masked_fill(bad, torch.nan).to(logits.dtype)


def _padding_first(items: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
    """The rows with their padding moved to the front: so each item is followed by what is drawn after it, and by those
    that are not drawn."""
    places, padded = torch.arange(items.shape[-1], device=items.device), padding.sum(-1, keepdim=True)
    return items.gather(-1, (places - padded) % max(1, items.shape[-1])), places < padded


# A sum of weights e^x is a pair (peak, log), the sum being e^(peak + log): peak is the largest x, a number without a
# gradient, and log is in [0, log n]. So the difference of two x is exact, however far the other x are. Of two x at both
# ends of float64 it is infinite, and has the right limits and gradients.


def _sums_from(peaks: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of ``weights[..., i:]`` for each i, in log2(k) steps. (``Tensor.logcumsumexp`` has NaN in its second
    derivative.)"""
    reach = 1
    while reach < peaks.shape[-1]:
        near, far = peaks[..., :-reach], peaks[..., reach:]
        high = torch.maximum(near, far)
        added = _log_add((near - high) + logs[..., :-reach], (far - high) + logs[..., reach:])
        peaks = torch.cat([high, peaks[..., -reach:]], -1)
        logs = torch.cat([added, logs[..., -reach:]], -1)
        reach *= 2
    return peaks, logs


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """``log(e^a + e^b)``, one of them finite."""
    gap = a - b
    negative = gap < 0
    return torch.where(negative, b, a) + torch.log1p(torch.exp(torch.where(negative, gap, -gap)))


def _log_sigmoid(x: Tensor) -> Tensor:
    """The second derivative of ``torch.nn.functional.logsigmoid`` is NaN for large x."""
    negative = x < 0
    return torch.where(negative, x, 0) - torch.log1p(torch.exp(torch.where(negative, x, -x)))


def _check_indices(indices: Tensor, logits: Tensor, dim: int) -> None:
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        what = indices.dtype if isinstance(indices, Tensor) else f"a {type(indices).__name__}"
        raise TypeError(f"indices must be an int64 tensor, but it is {what}; pass torch.as_tensor(indices).long()")
    if indices.ndim < -dim:
        raise ValueError(
            f"indices must have the items along dim {dim}, but its shape is {tuple(indices.shape)}; "
            "add the dimensions of logits"
        )
    if indices.shape[dim] > logits.shape[dim]:
        raise ValueError(
            f"indices must hold at most {logits.shape[dim]} items along dim {dim}, as many as logits, but it holds "
            f"{indices.shape[dim]}; pass each item once"
        )
    check_other_dims("indices", indices, "logits", logits, dim)
