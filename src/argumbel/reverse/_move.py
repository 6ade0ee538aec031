"""A race whose maximum is moved."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits
from .._core.elementwise import logaddexp
from ..kernels.posterior import representable, strictly_below
from ..noise import work_dtype
from ._known import one_per_row

__all__ = ["condition_max", "move_max"]


def condition_max(values: Tensor, new_max: Tensor, *, dim: int = -1) -> Tensor:
    """``-log(exp(-new_max) + exp(-values) - exp(-max(values)))``: perturbed values, their maximum moved to new_max.

    A race that was run, given that its maximum had been another: the maximum goes to new_max, the others from Gumbels
    truncated at the old maximum to Gumbels truncated at the new one. The order stays. Computed in a form in which
    nothing overflows or cancels; no randomness is used. Differentiable in values and new_max.

    Args:
        values: perturbed values, any shape, any floating dtype; -inf stays -inf.
        new_max: the new height of the maximum, in the shape of values without ``dim``.
        dim: where the items lie.

    Returns:
        Values in the shape and dtype of the given; the maximum is exactly new_max, the others strictly below.

    Raises:
        ValueError: NaN or +inf in values, a row that is -inf throughout, new_max of the wrong shape or not finite. On
            an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: values or new_max are not floating tensors.

    Example:
        >>> import torch
        >>> from argumbel.reverse import condition_max
        >>> condition_max(torch.tensor([0.0, 3.0, -torch.inf]), torch.tensor(1.0))
        tensor([-0.2762,  1.0000,    -inf])

    Source: Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them" (appendix B).
    """
    check_logits(values, "values")
    dim = check_dim(values, dim)
    v = values.to(work_dtype(values.dtype)).movedim(dim, -1)
    top, unsound = one_per_row(new_max, v, v.dtype, "new_max", "values without dim")
    best = v.amax(-1, keepdim=True)  # NaN where there is any
    bad = ~best.isfinite()
    if can_raise(v) and bool(bad.any()):
        raise ValueError(
            "values must not be NaN or +inf, and not -inf throughout a row, but some are; find where they come from"
        )
    return move_max(v, top, values.dtype).masked_fill(bad | unsound, torch.nan).movedim(-1, dim)


def move_max(race: Tensor, top: Tensor, dtype: torch.dtype, best: Tensor | None = None) -> Tensor:
    """The values of a race whose maximum, best, is moved to top, in dtype; -inf stays -inf."""
    best = race.amax(-1, keepdim=True) if best is None else best
    absent, won = race == -torch.inf, race == best
    kept = race.masked_fill(absent | won, 0)  # these are kept out of the arithmetic: their gradients would be NaN
    gap = (best - kept).masked_fill(absent | won, 1)
    lowered = -logaddexp(-top.masked_fill(top == -torch.inf, 0), torch.log(-torch.expm1(-gap)) - kept)
    lowered = strictly_below(lowered, top, dtype)
    return torch.where(won, representable(top, dtype), lowered).masked_fill(absent, -torch.inf)
