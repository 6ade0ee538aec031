"""What a draw says of the whole: sums over all items from k + 1 items drawn, the last of them the threshold."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits, floating
from .._core.integrals import log_arrived
from ..kernels.opaque import limited
from ._range import saturated, saturated_exp
from ._shapes import check_other_dims

__all__ = ["WeightedSum", "threshold_estimate", "threshold_weights"]

FAR = 500.0  # an item so far below the threshold has q = e^(x - threshold) to all digits, and an item so far above 1


class WeightedSum(NamedTuple):
    """An unbiased estimate of a sum over all items, and an unbiased estimate of the variance of that estimate."""

    value: Tensor
    variance: Tensor


def threshold_weights(values: Tensor, logits: Tensor, *, dim: int = -1) -> Tensor:
    """``weight_i = exp(x_i) / q_i``, ``q_i = 1 - exp(-exp(x_i - threshold))``: weights that make sums unbiased.

    Draw k + 1 items without replacement. The last of the k + 1 values is the threshold, and q_i is the probability that
    the value of item i is above the threshold. Then ``sum_i weight_i f_i`` over the first k items is an unbiased
    estimate of ``sum_i exp(x_i) f_i`` over all n items (Horvitz-Thompson). With logits that are log probabilities
    (``log_softmax``) the sum over all items is the expectation of f; with unnormalised logits it is an unnormalised
    sum. The variance falls to 0 as the draw comes to hold all items; the variance of draws with replacement does not.

    Args:
        values: shape ``(*batch, k + 1)`` for ``dim=-1``, any floating dtype: the perturbed logits of the items drawn,
            falling, as ``ag.sample_without_replacement(logits, k + 1)`` returns them. A last value of -inf says that
            the first k items are all there are.
        logits: shape ``(*batch, k + 1)``: the logits of the items drawn, ``logits.gather(dim, indices)``.
        dim: where the items lie.

    Returns:
        Weights of the first k items, shape ``(*batch, k)``, in the dtype of logits. The gradient of a weight with
        respect to logits treats q_i as a constant. So the gradient of ``(weights * f).sum()`` is an unbiased estimate
        of the gradient of the sum over all items. A weight above the range of the dtype is the largest number of the
        dtype, with the gradient 0.

    Raises:
        ValueError: shapes that differ, fewer than two values, a value that is NaN or below the last value. Under
            ``torch.compile``, under ``vmap`` and on an accelerator a NaN value gives NaN weights.
        TypeError: values or logits are not floating tensors.

    Example:
        >>> import torch, argumbel as ag
        >>> log_p, f = torch.randn(1000).log_softmax(0), torch.linspace(0, 1, 1000)
        >>> values, i = ag.sample_without_replacement(log_p, 101)
        >>> estimate = (ag.threshold_weights(values, log_p[i]) * f[i[:100]]).sum()
        >>> bool((estimate - log_p.exp() @ f).abs() < 0.3)
        True

    Source: Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them"; Duffield, Lund and
    Thorup 2007, "Priority sampling for estimation of arbitrary subset sums".
    """
    log_weights, _ = _log_weights(values, logits, dim)
    return saturated(saturated_exp(log_weights), logits.dtype).movedim(-1, dim)


def threshold_estimate(
    f: Tensor, values: Tensor, logits: Tensor, *, dim: int = -1, normalize: bool = False
) -> WeightedSum:
    """``sum_i weight_i f_i`` with :func:`threshold_weights`, and its variance, ``sum_i (weight_i f_i)^2 (1 - q_i)``.

    Both are unbiased, since the terms of different items are uncorrelated, whatever the items. The estimate of the
    variance needs k >= 2; for k = 1 it is NaN.

    Args:
        f: shape ``(*batch, k)`` for ``dim=-1``, any floating dtype: f of the first k items. The dimensions other than
            ``dim`` broadcast with the same dimensions of values.
        values: shape ``(*batch, k + 1)`` for ``dim=-1``, any floating dtype: the perturbed logits of the items drawn,
            falling, as ``ag.sample_without_replacement(logits, k + 1)`` returns them.
        logits: shape ``(*batch, k + 1)``: the logits of the items drawn, ``logits.gather(dim, indices)``.
        dim: where the items lie, in all three.
        normalize: divide by the sum of the weights. Then the estimate is a weighted mean: logits need not be
            normalised, and a constant f is estimated without error. The mean has a bias of order 1 / k, and so has its
            variance (which is linearised).

    Returns:
        ``(value, variance)``, shape ``(*batch,)``, in the promoted dtype of f and logits. What is beyond the range of
        the dtype is the largest number of the dtype, with the gradient 0.

    Raises:
        ValueError: f of a shape that does not fit values; values and logits of shapes that differ, fewer than two
            values, a value that is NaN or below the last value. Under ``torch.compile``, under ``vmap`` and on an
            accelerator a NaN value gives NaN.
        TypeError: f, values or logits are not floating tensors.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.subsets import threshold_estimate
        >>> log_p, f = torch.randn(1000).log_softmax(0), torch.linspace(0, 1, 1000)
        >>> values, i = ag.sample_without_replacement(log_p, 101)
        >>> value, variance = threshold_estimate(f[i[:100]], values, log_p[i])
        >>> bool((value - log_p.exp() @ f).abs() < 6 * variance.sqrt())
        True

    Source: Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them"; Duffield, Lund and
    Thorup 2007, "Priority sampling for estimation of arbitrary subset sums" (the variance).
    """
    floating("f", f)
    log_weights, log_q = _log_weights(values, logits, dim)
    dim = check_dim(values, dim) - values.ndim
    k = log_weights.shape[-1]
    if f.ndim < -dim or f.shape[dim] != k:
        raise ValueError(
            f"f must have {k} items along dim {dim}, one less than values, but its shape is {tuple(f.shape)}; leave "
            "out f of the last item"
        )
    check_other_dims("f", f, "values", values, dim)
    terms = limited(f.movedim(dim, -1).to(torch.float64), torch.finfo(f.dtype).max)
    weights = log_weights.softmax(-1) if normalize else saturated_exp(log_weights)
    most = torch.finfo(torch.float64).max / k  # k numbers up to this have a finite sum
    value = (weights * terms).clamp(-most, most).sum(-1)
    if normalize:
        terms = (terms - value.unsqueeze(-1)).clamp(-most, most)
    # The square root first: a square may overflow where 1 - q makes it small again.
    spread = weights * torch.expm1(log_q).neg().sqrt() * terms
    variance = spread.clamp(-math.sqrt(most), math.sqrt(most)).square().sum(-1)
    if k < 2:
        variance = variance * torch.nan
    dtype = torch.promote_types(f.dtype, logits.dtype)
    return WeightedSum(saturated(value, dtype), saturated(variance, dtype))


def _log_weights(values: Tensor, logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``log(exp(x_i) / q_i)`` and ``log q_i`` of the first k, items last, in float64."""
    check_logits(values, "values")
    check_logits(logits)
    dim = check_dim(values, dim)
    if logits.shape != values.shape:
        raise ValueError(
            f"logits must be the logits of the items drawn, in the shape {tuple(values.shape)} of values, but the "
            f"shape of logits is {tuple(logits.shape)}; pass logits.gather(dim, indices)"
        )
    k = values.shape[dim] - 1
    if k < 1:
        raise ValueError(
            f"values must hold at least two items along dim {dim}, the last of them the threshold, but the shape is "
            f"{tuple(values.shape)}; draw k + 1 items"
        )
    drawn, threshold = values.detach().to(torch.float64).movedim(dim, -1).split([k, 1], -1)
    if can_raise(values) and bool((~(drawn >= threshold) | (drawn == torch.inf)).any()):
        raise ValueError(
            "values must be finite and fall along dim, but some are NaN, +inf or below the last; pass them as they "
            "are drawn"
        )
    x = limited(logits.to(torch.float64), torch.finfo(logits.dtype).max).movedim(dim, -1)[..., :k]
    fixed = x.detach()
    above = fixed - threshold
    log_q = log_arrived(above)
    # An item far below the threshold has q = e^above, and the weight e^threshold, which x - log q would round away.
    near = above.clamp(-FAR, FAR)
    log_weights = torch.where(above < 0, threshold, fixed) + (near.clamp(max=0) - log_arrived(near))
    return log_weights + (x - fixed), log_q
