"""The uniform number behind a choice is known: what was the race?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits, forbid, raise_bad_logits
from ..noise import KeyedNoise, draw_like
from ._known import one_per_row
from ._posterior import posterior_gumbel

__all__ = ["Perturbed", "inverse_cdf_gumbel"]


class Perturbed(NamedTuple):
    """The perturbed values of all items, and the indices of the winners."""

    values: Tensor
    indices: Tensor


def inverse_cdf_gumbel(
    logits: Tensor,
    u: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Perturbed:
    """``values[winner] = logsumexp(logits) - log(-log(v))``, where the winner is the step of the distribution function
    that u falls on and v the place on that step: the race behind a draw by inverse distribution function.

    Someone chose by ``(u < softmax(logits).cumsum(-1)).argmax()``, and u is known. It says more than who won: its place
    within the step is uniform and independent of the winner, so it can be the winner's height. What u does not say, the
    losers' noise, is drawn: a *keyed* function, one number per item, of which the winner's is not used. If u is
    uniform, values have the law of logits + noise (as far as u has digits: a step of width 1e-6 holds sixteen of
    the numbers that a float32 u can be).

    Args:
        u: in the shape of logits without ``dim``, in [0, 1), any floating dtype. Its steps are in the order of items.
        logits, dim, mask, noise, generator: as :func:`posterior_gumbel`.

    Returns:
        ``(values, indices)``: values in the shape and dtype of logits, strictly largest at the winner's int64 index.
        Differentiable in logits as :func:`posterior_gumbel`, v held fixed.

    Raises:
        ValueError, TypeError: as :func:`posterior_gumbel`; u outside [0, 1) (where this may not be looked at, values
            are NaN and the index is -1).

    Example:
        >>> import torch
        >>> from argumbel.reverse import inverse_cdf_gumbel
        >>> logits = torch.tensor([0.2, 0.5, 0.3]).log()
        >>> values, winner = inverse_cdf_gumbel(logits, torch.tensor(0.69))
        >>> winner, values.argmax()
        (tensor(1), tensor(1))

    Source: Dinh 2016, "Gumbel-max trick inference" (blog post).
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    x = forbid(logits.detach(), mask).double().movedim(dim, -1)
    place, unsound = one_per_row(u, x, torch.float64, "u", "logits without dim")
    unsound = unsound | (place < 0) | (place >= 1)
    nobody = ~x.amax(-1, keepdim=True).isfinite()
    if can_raise(x) and bool(nobody.any()):
        raise_bad_logits(x, -1)
    if can_raise(place) and bool(unsound.any()):
        raise ValueError("u must be in [0, 1), but some of it is not; pass the uniform number that the choice used")
    steps = x.softmax(-1).cumsum(-1)
    steps = steps / steps[..., -1:]  # the last is exactly 1, so u is below it
    index = (steps <= place).sum(-1, keepdim=True).clamp(max=x.shape[-1] - 1)
    upper = steps.gather(-1, index)
    lower = torch.where(index > 0, steps.gather(-1, (index - 1).clamp(min=0)), 0)
    eps = torch.finfo(torch.float64).eps
    v = ((place - lower) / (upper - lower)).clamp(eps / 2, 1 - eps / 2)
    bad = (nobody | unsound).squeeze(-1)
    g = draw_like(forbid(logits, mask), dim, noise, generator, "gumbel").movedim(dim, -1)
    g = g.scatter(-1, index, -torch.log(-torch.log(v)).to(g.dtype)).movedim(-1, dim)
    winner = index.squeeze(-1)
    values = posterior_gumbel(logits, winner, dim=dim, mask=mask, noise=g)
    return Perturbed(
        values.movedim(dim, -1).masked_fill(bad.unsqueeze(-1), torch.nan).movedim(-1, dim), winner.masked_fill(bad, -1)
    )
