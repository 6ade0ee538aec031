"""The bits of a number, also inside ``torch.vmap``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["view_bits"]


def view_bits(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.view(dtype)``, for a dtype of the same width. No gradient."""
    # PyTorch 2.13 no longer needs this: before, torch.vmap had no rule for view(dtype).
    if not torch.compiler.is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):
        return _View.apply(x, dtype)
    return x.view(dtype)


class _View(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.view(dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, dtype: torch.dtype) -> tuple[Tensor, int | None]:
        return view_bits(x, dtype), in_dims[0]
