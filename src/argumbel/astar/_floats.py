"""Small functions of Python's floats.

A step of the search handles one point, and a tensor of two numbers costs more to make than to add up: so the geometry
of the search is done on floats.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_float64", "log_add_exp", "returned_number"]


def as_float64(x: Any) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64, device="cpu")


def log_add_exp(a: float, b: float) -> float:
    """``log(exp(a) + exp(b))``."""
    low, high = sorted((a, b))
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def returned_number(name: str, value: Any) -> float:
    """The number that the function ``name`` of a target returned; not NaN."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise TypeError(
            f"{name} must return one number, but it returned a tensor of shape {tuple(value.shape)}; return its sum"
        )
    try:
        number = float(value.item() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must return one number, but it returned a {type(value).__name__}; return a float"
        ) from None
    if math.isnan(number):
        raise ValueError(f"{name} must not be NaN, but it is; return -inf for a point or a region without any mass")
    return number
