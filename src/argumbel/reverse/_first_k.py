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
    """``values[indices[j]] = -logaddexp(-(R[j] + G[indices[j]]), -values[indices[j - 1]])`` with R[j] the logsumexp of
    what remained before place j, and the rest truncated below the last: the race given its first k, in order.

    A *keyed* function: G is one number per item. Differentiable in logits, as :func:`posterior_gumbel`, which is the
    case k = 1.

    Args:
        indices: integers in the shape of logits, but of size k >= 1 along ``dim``: who came first, second, ..., k-th.
        logits, dim, mask, noise, generator: as :func:`posterior_gumbel`.

    Returns:
        Perturbed values in the shape and dtype of logits, whose top k are indices, in this order and without ties.

    Raises:
        ValueError, TypeError: as :func:`posterior_gumbel`; an item that is named twice.

    Example:
        >>> import torch, argumbel as ag
        >>> values = ag.posterior_gumbel_topk(torch.zeros(5), torch.tensor([3, 0]))
        >>> values.topk(2).indices
        tensor([3, 0])

    Source: Maddison and Tarlow 2017, "Gumbel machinery" (blog post); Kool, van Hoof and Welling 2019, "Stochastic beams
    and where to find them".
    """
    x, g, first, bad, dim = known_race(logits, indices, dim, mask, noise, generator, name="indices")
    rest = x.scatter(-1, first, -torch.inf)
    nobody = (rest == -torch.inf).all(-1, keepdim=True)
    rest = rest.masked_fill(nobody, torch.finfo(x.dtype).min).logsumexp(-1, keepdim=True)  # -inf: a gradient of NaN
    backwards = torch.cat([rest, x.gather(-1, first).flip(-1)], -1)
    remaining = backwards.logcumsumexp(-1)[..., 1:].flip(-1)
    falling = _strictly_falling((-(-remaining - g.gather(-1, first)).logcumsumexp(-1)).to(logits.dtype))
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
    """The race given that the *set* of its first k is known, but not their order.

    With M the highest value outside the set, c the total weight outside and t = exp(-M), the density of y = log t is
    proportional to ``c exp(y - c exp(y)) * prod over the set of (1 - exp(-weight exp(y)))``. M comes from it by
    inverting its distribution function, in float64 to about 1e-12; the members are Gumbels truncated to be above M, the
    rest is a race with its maximum moved to M. A *keyed* function: one number per item; the height of the race outside
    the set is what gives M. Its result does not carry a gradient.

    Args:
        indices: integers in the shape of logits, but of size k >= 1 along ``dim``: who is in the set, in any order.
        logits, dim, mask, noise, generator: as :func:`posterior_gumbel`.

    Returns:
        Perturbed values in the shape and dtype of logits, whose top k are the set, strictly above the rest. Where the
        set is all there is, nothing is known, and these are logits + noise.

    Raises:
        ValueError, TypeError: as :func:`posterior_gumbel_topk`.

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
    rest = x.scatter(-1, members, -torch.inf)
    nobody = (rest == -torch.inf).all(-1, keepdim=True)
    total = rest.masked_fill(nobody, 0).logsumexp(-1, keepdim=True)
    race = (rest + g).masked_fill(nobody, 0)
    best, inside = race.amax(-1, keepdim=True), x.gather(-1, members)
    highest = total - log_rate_outside(inside - total, total - best)
    lifted = _truncate_from_below(inside, g.gather(-1, members), highest)
    lifted = torch.where(nobody, inside + g.gather(-1, members), lifted).to(logits.dtype)
    edge = highest.to(logits.dtype)
    above = torch.nextafter(edge, torch.full_like(edge, torch.inf))
    lifted = torch.where(nobody | (lifted > edge), lifted, above)
    values = move_max(race, highest, logits.dtype).masked_fill(rest == -torch.inf, -torch.inf)
    return values.scatter(-1, members, lifted).masked_fill(bad, torch.nan).movedim(-1, dim)


def _strictly_falling(values: Tensor) -> Tensor:
    """values that fall along the last dimension, where rounding made ties the next numbers below.

    The bits of a float, read as an integer, count the floats in order; there "strictly falling" is a running minimum.
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

    In exponentials, e = exp(-g) is to be below b = exp(x - lower): with u = 1 - exp(-e) it becomes
    -log(1 - u (1 - exp(-b))). In this form for small e or b, as -log(exp(-e) + u exp(-b)) where both are large.
    """
    gap, e = x - lower, torch.exp(-g)
    b, u = torch.exp(gap), -torch.expm1(-e)
    small = -torch.log1p(u * torch.expm1(-b))
    large = -logaddexp(-e, u.log() - b)
    below = torch.where((e > 0.5) & (b > 0.5), large, small)
    return lower + torch.where(gap < -37, -u.log(), gap - below.log())  # exp(-37): b is then the same as 1 - exp(-b)
