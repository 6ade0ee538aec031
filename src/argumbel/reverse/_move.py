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
    """``-log(exp(-new_max) + exp(-values) - exp(-max(values)))``: perturbed values with their maximum moved to new_max.

    The values of a race become the values of the same race, given that its maximum is new_max. The largest value
    becomes new_max. All other values were Gumbels truncated at the old maximum, and become Gumbels truncated at
    new_max. The order of the items stays. No randomness is used. The formula is computed in a form in which nothing
    overflows or cancels.

    Args:
        values: perturbed values, shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; -inf stays -inf.
        new_max: the new maximum of each row, ``(*batch,)``, any floating dtype.
        dim: where the items lie.

    Returns:
        Values in the given shape and dtype. The maximum is exactly new_max, and all other values are strictly smaller.
        They are differentiable in values and new_max.

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


def move_max(
    race: Tensor, top: Tensor, dtype: torch.dtype, best: Tensor | None = None, shift: Tensor | float = 0
) -> Tensor:
    """The values of a race whose maximum, best, is moved to top, then all of it by shift, in dtype; -inf stays -inf."""
    best = race.amax(-1, keepdim=True) if best is None else best
    absent, won = race == -torch.inf, race == best
    kept = race.masked_fill(absent | won, 0)  # absent items and the winner would have NaN for a gradient
    gap = (best - kept).masked_fill(absent | won, 1)
    lowered = -logaddexp(-top.masked_fill(top == -torch.inf, 0), torch.log(-torch.expm1(-gap)) - kept)
    lowered = strictly_below(lowered + shift, top + shift, dtype)
    return torch.where(won, representable(top + shift, dtype), lowered).masked_fill(absent, -torch.inf)
