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
    """The perturbed values of all items, and the index of the winner of each row."""

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
    """``values[index] = logsumexp(logits) - log(-log(v))``, with index the step of the distribution function on which u
    falls, and v the place of u within this step: the race behind a draw by inverse distribution function.

    The item was chosen by ``(u < softmax(logits).cumsum(-1)).argmax()``, and u is known. The place v is uniform in
    (0, 1) and does not depend on the item chosen, so v determines the value of the winner. The noise of the losers is
    not determined by u; it is drawn. A *keyed* function: one number of noise per item, where the number of the winner
    is not used. If u is uniform, values have the law of logits + noise, as far as the digits of u go (a float32 u has
    only sixteen numbers on a step of width 1e-6).

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            Half precision is computed in float32.
        u: the uniform number of each row, ``(*batch,)``, in [0, 1), any floating dtype.
        dim: where the items lie. The steps of the distribution function are in the order of the items.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        ``(values, indices)``: perturbed values in the shape and dtype of logits, and int64 indices ``(*batch,)``. The
        value at the index is strictly the largest. Values are differentiable in logits, with v held fixed.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, u of the wrong shape or outside [0, 1), noise or
            mask of the wrong shape, both noise and generator. On an accelerator, under ``torch.compile`` and under
            ``vmap`` a bad row gives values NaN and index -1 instead.
        TypeError: logits or u are not floating tensors, or mask is not bool.

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
    steps = steps / steps[..., -1:]  # the last step ends at exactly 1, so u is always below its end
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
