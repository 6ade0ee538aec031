"""Gumbel noise below a bound."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import can_raise, floating
from .._core.elementwise import logaddexp
from ..kernels import work_dtype
from ._arguments import draw_like
from ._keyed import KeyedNoise

__all__ = ["truncated_gumbel"]


def truncated_gumbel(
    loc: Tensor,
    upper: Tensor | float,
    *,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``-logaddexp(-(loc + noise), -upper)``: a draw from Gumbel(loc) given that it is at most ``upper``.

    The losers of a race are such draws: Gumbels truncated at the value of the winner. Nothing overflows in this
    formula, however far apart loc and upper are. A *keyed* function.

    Args:
        loc: locations (logits), shape ``(*batch, n)``, any floating dtype; -inf gives -inf. Half precision is computed
            in float32.
        upper: bounds, a number or a tensor that broadcasts with loc; +inf is no bound.
        noise: a tensor of standard Gumbel noise in the broadcast shape, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Values in the broadcast shape and the dtype of loc, at most ``upper`` (in half precision, up to rounding). They
        are differentiable in loc and upper.

    Raises:
        ValueError: shapes that do not broadcast, NaN in loc or upper, noise of the wrong shape, both noise and
            generator. On an accelerator, under ``torch.compile`` and under ``vmap`` a NaN gives a NaN instead.
        TypeError: loc is not a floating tensor.

    Example:
        >>> import torch, argumbel as ag
        >>> x = ag.truncated_gumbel(torch.tensor([0.0, 5.0, -500.0]), upper=1.0)
        >>> bool((x <= 1.0).all())
        True

    Source: Maddison, Tarlow and Minka 2014, "A* sampling"; Maddison and Tarlow 2017, "Gumbel machinery" (blog post).
    """
    floating("loc", loc)
    work = work_dtype(loc.dtype)
    upper = torch.as_tensor(upper, dtype=work, device=loc.device)
    try:
        x, bound = torch.broadcast_tensors(loc.to(work), upper)
    except RuntimeError:
        raise ValueError(
            f"upper must broadcast with loc, of shape {tuple(loc.shape)}, but its shape is {tuple(upper.shape)}; "
            "pass a number, or a tensor in the shape of loc"
        ) from None
    if can_raise(x) and bool((x.isnan() | bound.isnan()).any()):
        raise ValueError("loc and upper must not be NaN, but some are; find where they come from")
    g = draw_like(x, max(x.ndim - 1, 0), noise, generator, "gumbel")
    # Infinite ends would make NaN of a gradient: -inf stays -inf, +inf is no bound.
    absent, free = x == -torch.inf, bound == torch.inf
    height = x.masked_fill(absent, 0) + g
    drawn = torch.where(free, height, -logaddexp(-height, -bound.masked_fill(free, 0)))
    return torch.minimum(drawn.masked_fill(absent, -torch.inf), bound).to(loc.dtype)
