"""The noise of structures: one row for each structure, one item for each part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.checks import can_raise, floating
from ..noise import KeyedNoise, draw_like

__all__ = ["flat", "part_noise"]


def flat(x: Tensor, event_ndim: int) -> Tensor:
    """x with its last dimensions, the parts, in one."""
    lead = x.shape[: x.ndim - event_ndim]
    return x.reshape(*lead, math.prod(x.shape[x.ndim - event_ndim :]))


def part_noise(
    like: Tensor, event_ndim: int, noise: Tensor | KeyedNoise | None, generator: torch.Generator | None
) -> Tensor:
    """Gumbel noise, at least float32, in the shape ``(*rows, *event)`` of like."""
    items = flat(like.detach(), event_ndim)
    if isinstance(noise, Tensor):
        if noise.shape != like.shape:
            raise ValueError(
                f"noise must have the shape {tuple(like.shape)} of the perturbed scores, but its shape is "
                f"{tuple(noise.shape)}; expand noise that structures are meant to share"
            )
        noise = floating("noise", noise).reshape(items.shape)
        if can_raise(noise) and bool((noise.isnan() | (noise == torch.inf)).any()):
            raise ValueError("noise must not be NaN or +inf, but some is; find where it comes from")
    return draw_like(items, items.ndim - 1, noise, generator, "gumbel").reshape(like.shape)
