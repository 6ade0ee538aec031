"""The first k of the race are known, in order or as a set: what was the noise?"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.bits import view_bits
from .._core.elementwise import logaddexp
from .._core.integrals import log_rate_outside
from ..kernels.posterior import strictly_below, truncate
from ..noise import KeyedNoise
from ._known import known_race
from ._move import move_max

__all__ = ["posterior_gumbel_subset", "posterior_gumbel_topk"]


def posterior_gumbel_topk(
    logits: Tensor,
    indices: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``values[indices[j]] = -logaddexp(-(R[j] + G[indices[j]]), -values[indices[j - 1]])``, with R[j] the logsumexp of
    the items that remain before place j: the race given its first k items, in order.

    Item number j is a Gumbel at R[j], truncated at the item before it. Every item outside the first k is a Gumbel at
    its logit, truncated at the last of the k. A *keyed* function: G is one number of noise per item. The case k = 1 is
    :func:`posterior_gumbel`.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
            Half precision is computed in float32.
        indices: the items that came first, second, ..., k-th, integers ``(*batch, k)`` for ``dim=-1``; k at least 1.
        dim: where the items lie, in logits and in indices.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Perturbed values in the shape and dtype of logits. Their top k are the indices, in this order and without ties.
        They are differentiable in logits.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, indices of the wrong shape, an index out of
            range, of a forbidden item or given twice, noise or mask of the wrong shape, both noise and generator. On an
            accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, indices does not hold integers, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> values = ag.posterior_gumbel_topk(torch.zeros(5), torch.tensor([3, 0]))
        >>> values.topk(2).indices
        tensor([3, 0])

    Source: Maddison and Tarlow 2017, "Gumbel machinery" (blog post); Kool, van Hoof and Welling 2019, "Stochastic beams
    and where to find them".
    """
    x, g, first, bad, dim = known_race(logits, indices, dim, mask, noise, generator, name="indices")
    peak = x.detach().amax(-1, keepdim=True)
    rest = (x - peak).scatter(-1, first, -torch.inf)
    nobody = (rest == -torch.inf).all(-1, keepdim=True)
    rest = rest.masked_fill(nobody, torch.finfo(x.dtype).min).logsumexp(-1, keepdim=True)  # -inf: NaN gradients
    backwards = torch.cat([rest, (x.gather(-1, first) - peak).flip(-1)], -1)
    remaining = backwards.logcumsumexp(-1)[..., 1:].flip(-1)
    heights = -(-remaining - g.gather(-1, first)).logcumsumexp(-1)
    falling = _strictly_falling((heights + peak).to(logits.dtype))
    last = falling[..., -1:]
    values = strictly_below(truncate(x, g, last.to(x.dtype)), last, logits.dtype)
    return values.scatter(-1, first, falling).masked_fill(bad, torch.nan).movedim(-1, dim)


def posterior_gumbel_subset(
    logits: Tensor,
    indices: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``values[i] > M`` for i in the set, ``values[i] <= M`` for all other i: the race given the *set* of its first k
    items, but not their order.

    M is the largest value outside the set. With ``w_i = exp(logits[i])`` and c the sum of the w_i outside the set, the
    density of ``y = -M`` is proportional to ``c exp(y - c exp(y)) * prod over the set of (1 - exp(-w_i exp(y)))``. M is
    drawn by inverting the distribution function of y, in float64 to about 1e-12. The items of the set are then Gumbels
    truncated to be above M, and the other items are a race with its maximum moved to M. A *keyed* function: one number
    of noise per item. The random number for M is the largest value of logits + noise outside the set.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        indices: the items of the set, in any order, integers ``(*batch, k)`` for ``dim=-1``; k at least 1.
        dim: where the items lie, in logits and in indices.
        mask: bool, broadcasts to logits; True where an item is allowed.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.

    Returns:
        Perturbed values in the shape and dtype of logits, without a gradient. The values of the set are strictly larger
        than all other values. If the set holds all allowed items, nothing is known, and values are logits + noise.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, indices of the wrong shape, an index out of
            range, of a forbidden item or given twice, noise or mask of the wrong shape, both noise and generator. On an
            accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, indices does not hold integers, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.reverse import posterior_gumbel_subset
        >>> values = posterior_gumbel_subset(torch.arange(5.0), torch.tensor([3, 0]))
        >>> sorted(values.topk(2).indices.tolist())
        [0, 3]

    Source: Kool, van Hoof and Welling 2020, "Estimating gradients for discrete random variables by sampling without
    replacement" (the law of the set).
    """
    x, g, members, bad, dim = known_race(logits.detach(), indices, dim, mask, noise, generator, name="indices")
    x, g = x.double(), g.double()
    peak = x.amax(-1, keepdim=True)
    x = x - peak
    rest = x.scatter(-1, members, -torch.inf)
    nobody = (rest == -torch.inf).all(-1, keepdim=True)
    total = rest.masked_fill(nobody, 0).logsumexp(-1, keepdim=True)
    race = (rest + g).masked_fill(nobody, 0)
    best, inside = race.amax(-1, keepdim=True), x.gather(-1, members)
    highest = total - log_rate_outside(inside - total, total - best)
    lifted = _truncate_from_below(inside, g.gather(-1, members), highest)
    lifted = (torch.where(nobody, inside + g.gather(-1, members), lifted) + peak).to(logits.dtype)
    edge = (highest + peak).to(logits.dtype)
    above = torch.nextafter(edge, torch.full_like(edge, torch.inf))
    lifted = torch.where(nobody | (lifted > edge), lifted, above)
    values = move_max(race, highest, logits.dtype, shift=peak).masked_fill(rest == -torch.inf, -torch.inf)
    return values.scatter(-1, members, lifted).masked_fill(bad, torch.nan).movedim(-1, dim)


def _strictly_falling(values: Tensor) -> Tensor:
    """values, which fall along the last dimension, with ties from rounding moved to the next smaller floats.

    The bits of a float, read as an integer, count the floats in order. On these integers a running minimum makes the
    sequence strictly falling.
    """
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    lowest = torch.iinfo(integer).min
    v = values.detach().clamp(max=torch.finfo(values.dtype).max)
    bits = view_bits(v, integer)
    count = torch.where(bits < 0, lowest - bits, bits).long()
    steps = torch.arange(v.shape[-1], device=v.device)
    count = ((count + steps).cummin(-1).values - steps).to(integer)
    return values + (view_bits(torch.where(count < 0, lowest - count, count), values.dtype) - values).detach()


def _truncate_from_below(x: Tensor, g: Tensor, lower: Tensor) -> Tensor:
    """Gumbels at x with noise g, given that they are above lower; float64.

    The value is above lower where the exponential e = exp(-g) is below b = exp(x - lower). With u = 1 - exp(-e), the
    truncated exponential is -log(1 - u (1 - exp(-b))). This form is computed for small e or b. Where both are large,
    the form -log(exp(-e) + u exp(-b)) is computed, which is the same number.
    """
    gap, e = x - lower, torch.exp(-g)
    b, u = torch.exp(gap), -torch.expm1(-e)
    small = -torch.log1p(u * torch.expm1(-b))
    large = -logaddexp(-e, u.log() - b)
    below = torch.where((e > 0.5) & (b > 0.5), large, small)
    # Below exp(-37) float64 cannot tell b from 1 - exp(-b).
    return lower + torch.where(gap < -37, -u.log(), gap - below.log())
