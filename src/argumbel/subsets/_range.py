"""Numbers that may be beyond the range of a dtype: there they are its largest number, and have the gradient 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["saturated", "saturated_exp"]

LARGEST = math.log(torch.finfo(torch.float64).max)


def saturated_exp(x: Tensor) -> Tensor:
    """``e^x`` in float64, and its largest number where it would overflow."""
    return x.to(torch.float64).clamp(max=LARGEST).exp()


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in dtype, and the largest number of its sign where it would overflow; -inf stays -inf."""
    most = torch.finfo(dtype).max
    return torch.where(x == -torch.inf, x, x.clamp(-most, most)).to(dtype)
