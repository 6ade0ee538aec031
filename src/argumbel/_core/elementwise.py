"""Functions of one number whose rounding does not depend on where the number stands.

PyTorch runs a loop over a tensor in vectors, and the numbers that fill no vector one by one. The two ways round some
functions differently (``sigmoid``, ``softplus``, ``logaddexp``, ``pow``), so a row's result would depend on the rows
beside it. They round ``exp``, ``log``, ``log1p``, ``expm1`` and the four operations alike: results that promise to
depend on a key alone are made of these functions. (Sums and softmax are alike along the last dimension of a contiguous
tensor, and along no other.)
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_softmax", "logaddexp", "sigmoid", "top_at_zero"]


def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, in float32 or float64."""
    tail = x < (-700 if x.dtype == torch.float64 else -80)  # where exp(-x) may overflow, and its gradient be 0 * inf
    return torch.where(tail, torch.exp(x.masked_fill(~tail, 0)), 1 / (1 + torch.exp(-x.masked_fill(tail, 0))))


def top_at_zero(x: Tensor) -> Tensor:
    """Rows, items last, moved to a maximum of 0, for what a common offset does not change."""
    return x - x.detach().amax(-1, keepdim=True)


def log_softmax(x: Tensor) -> Tensor:
    """``x - logsumexp(x)``, items last. PyTorch subtracts a rounded logsumexp, which is wrong far from 0."""
    return torch.log_softmax(top_at_zero(x), -1)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """``log(exp(a) + exp(b))``, with derivatives of any order where a = b, too: minimum and maximum have none there."""
    is_first = a >= b
    high, low = torch.where(is_first, a, b), torch.where(is_first, b, a)
    return high + torch.log1p(torch.exp((low - high).masked_fill(high.isinf(), 0)))
