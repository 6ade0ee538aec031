"""Reverse: the winner of the race is known; what was the noise?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels
from ._core.checks import can_raise, check_dim, check_logits, forbid, is_traced, raise_bad_logits
from ._core.integrals import log_rate_outside
from ._core.trees import group_logsumexp, group_max, levels_of
from .noise import KeyedNoise, as_keyed, draw_like, work_dtype

__all__ = [
    "Perturbed",
    "condition_max",
    "inverse_cdf_gumbel",
    "posterior_gumbel",
    "posterior_gumbel_subset",
    "posterior_gumbel_topk",
    "posterior_noise",
    "top_down",
]


class Perturbed(NamedTuple):
    """The perturbed values of all items, and who won."""

    values: Tensor
    winner: Tensor


def posterior_gumbel(
    logits: Tensor,
    index: Tensor,
    *,
    value: Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``values[index] = T = logsumexp(logits) + G[index]``, ``values[i] = -logaddexp(-(logits[i] + G[i]), -T)``: the
    perturbed logits of a race whose winner is known.

    The height of the winner does not depend on who won: it is Gumbel at logsumexp(logits). The others are Gumbels at
    their logits, truncated at that height. Draw a winner and then this, and the values have the law of logits plus
    noise. A *keyed* function: G is one number per item.

    Differentiable in logits and value: with T the height, d values[i] / d logits[i] = 1 - exp(values[i] - T),
    d values[i] / dT = exp(values[i] - T) and dT / d logits = softmax(logits). An estimator that wants the noise held
    fixed instead, as Gumbel-Rao does, must detach the result: this path has another mean.

    Args:
        logits: any shape, any floating dtype; need not be normalised; -inf forbids an item. Half precision is computed
            in float32.
        index: integers in the shape of logits without ``dim``: who won.
        value: the height of the winner, in the shape of index, if it is known too. Default: drawn.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of standard Gumbel noise in the shape of logits, or a ``KeyedNoise``.

    Returns:
        Perturbed values in the shape and dtype of logits. The winner's is strictly the largest, also after rounding;
        that of a forbidden item is -inf.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, an index of the wrong shape, out of range or of a
            forbidden item, a value that is not finite, noise or mask of the wrong shape, both noise and generator. On
            an accelerator, under ``torch.compile`` and under ``vmap`` a bad row is NaN instead.
        TypeError: logits are not a floating tensor, index does not hold integers, or mask is not bool.

    Example:
        >>> import torch, argumbel as ag
        >>> logits, index = torch.tensor([[0.0, 2.0, -torch.inf], [9.0, 0.0, 1.0]]), torch.tensor([0, 2])
        >>> values = ag.posterior_gumbel(logits, index)
        >>> values.argmax(-1)
        tensor([0, 2])

    Source: Maddison and Tarlow 2017, "Gumbel machinery" (blog post); Maddison, Tarlow and Minka 2014, "A* sampling".
    """
    if not isinstance(noise, Tensor):
        check_logits(logits)
        noise, generator = as_keyed(noise, generator, logits.device), None
        drawn = _native_posterior(logits, index, value, check_dim(logits, dim), mask, noise)
        if drawn is not None:
            return drawn
    x, g, won, bad, dim = _known_race(logits, index, dim, mask, noise, generator)
    top, unsound = _height(x, g, won, value)
    return _crowned(_truncate(x, g, top), top, won, logits.dtype).masked_fill(bad | unsound, torch.nan).movedim(-1, dim)


def posterior_noise(
    logits: Tensor,
    index: Tensor,
    *,
    value: Tensor | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``noise[index] = T - logits[index]``, ``noise[i] = -logaddexp(-G[i], logits[i] - T)``: the noise of a race whose
    winner is known, with T its height, ``logsumexp(logits) + G[index]``.

    ``logits + posterior_noise(logits, index)`` is :func:`posterior_gumbel`, but the noise is computed without
    subtracting, and is finite everywhere: an item of zero weight took no part in the race, so its noise is as free as
    it was before. It can therefore be replayed under other logits. (What would have won there? For many samples, and
    exact also where logits + noise would round, see :func:`argumbel.counterfactual`.) A *keyed* function.

    Args:
        logits, index, value, dim, mask, generator, noise: as :func:`posterior_gumbel`.

    Returns:
        Noise in the shape of logits, in float32 or, for float64 logits, float64; differentiable in logits and value.

    Raises:
        ValueError, TypeError: as :func:`posterior_gumbel`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.reverse import posterior_noise
        >>> logits = torch.tensor([0.0, 2.0, -torch.inf])
        >>> noise = posterior_noise(logits, torch.tensor(0))
        >>> ag.gumbel_max(logits, noise=noise).indices, bool(noise.isfinite().all())
        (tensor(0), True)

    Source: Oberst and Sontag 2019, "Counterfactual off-policy evaluation with Gumbel-max structural causal models".
    """
    x, g, won, bad, dim = _known_race(logits, index, dim, mask, noise, generator)
    shift = x.detach().amax(-1, keepdim=True)  # noise does not change when all logits move: so they move to 0
    x = x - shift
    top, unsound = _height(x, g, won, value, shift)
    drawn = torch.where(_is_at(won, x), top - x, -torch.logaddexp(-g, x - top))
    return drawn.masked_fill(bad | unsound, torch.nan).movedim(-1, dim)


def posterior_gumbel_topk(
    logits: Tensor,
    indices: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``values[indices[j]] = -logaddexp(-(R[j] + G[indices[j]]), -values[indices[j - 1]])`` with R[j] the logsumexp of
    what remained before place j, and the rest truncated below the last: the race given its first k, in order.

    A *keyed* function: G is one number per item. Differentiable in logits, as :func:`posterior_gumbel`, which is the
    case k = 1.

    Args:
        indices: integers in the shape of logits, but of size k >= 1 along ``dim``: who came first, second, ..., k-th.
        logits, dim, mask, generator, noise: as :func:`posterior_gumbel`.

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
    x, g, first, bad, dim = _known_race(logits, indices, dim, mask, noise, generator, name="indices")
    rest = x.scatter(-1, first, -torch.inf)
    nobody = (rest == -torch.inf).all(-1, keepdim=True)
    rest = rest.masked_fill(nobody, torch.finfo(x.dtype).min).logsumexp(-1, keepdim=True)  # -inf: a gradient of NaN
    backwards = torch.cat([rest, x.gather(-1, first).flip(-1)], -1)
    remaining = backwards.logcumsumexp(-1)[..., 1:].flip(-1)
    falling = _strictly_falling((-(-remaining - g.gather(-1, first)).logcumsumexp(-1)).to(logits.dtype))
    last = falling[..., -1:]
    values = _strictly_below(_truncate(x, g, last.to(x.dtype)), last, logits.dtype)
    return values.scatter(-1, first, falling).masked_fill(bad, torch.nan).movedim(-1, dim)


def posterior_gumbel_subset(
    logits: Tensor,
    indices: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """The race given that the *set* of its first k is known, but not their order.

    With M the highest value outside the set, c the total weight outside and t = exp(-M), the density of y = log t is
    proportional to ``c exp(y - c exp(y)) * prod over the set of (1 - exp(-weight exp(y)))``. M comes from it by
    inverting its distribution function, in float64 to about 1e-12; the members are Gumbels truncated to be above M, the
    rest is a race with its maximum moved to M. A *keyed* function: one number per item; the height of the race outside
    the set is what gives M. Its result does not carry a gradient.

    Args:
        indices: integers in the shape of logits, but of size k >= 1 along ``dim``: who is in the set, in any order.
        logits, dim, mask, generator, noise: as :func:`posterior_gumbel`.

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
    x, g, members, bad, dim = _known_race(logits.detach(), indices, dim, mask, noise, generator, name="indices")
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
    values = _move_max(race, highest, logits.dtype).masked_fill(rest == -torch.inf, -torch.inf)
    return values.scatter(-1, members, lifted).masked_fill(bad, torch.nan).movedim(-1, dim)


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
    top, unsound = _one_a_row(new_max, v, v.dtype, "new_max", "values without dim")
    best = v.amax(-1, keepdim=True)  # NaN where there is any
    bad = ~best.isfinite()
    if can_raise(v) and bool(bad.any()):
        raise ValueError(
            "values must not be NaN or +inf, and not -inf throughout a row, but some are; find where they come from"
        )
    return _move_max(v, top, values.dtype).masked_fill(bad | unsound, torch.nan).movedim(-1, dim)


def top_down(
    logits: Tensor,
    parents: Sequence[int] | Tensor | None = None,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
) -> Tensor:
    """``values[root] = logsumexp(logits) + G[root]``, then the children of every node as a race whose maximum is the
    value of the node: perturbed values of a whole tree, the maximum first, who reaches it next, the rest truncated.

    Every inner node is the maximum of its children, and Gumbel at the logsumexp of its leaves; the leaves have the law
    of logits + noise. A *keyed* function: G is one number per node. Differentiable in logits.

    Args:
        logits: of the leaves; any shape, any floating dtype; -inf forbids a leaf.
        parents: the parent of every node, -1 for a root: the leaves first, in the order of logits, then the inner
            nodes, in any order. Default: one root above all leaves. Under ``torch.compile``, a tuple.
        dim: where the leaves lie.
        mask: bool, broadcasts to logits; True where a leaf is allowed.
        generator: one 64-bit seed is drawn from it; default PyTorch's global generator.
        noise: a tensor of standard Gumbel noise in the shape of the result, or a ``KeyedNoise``.

    Returns:
        Perturbed values in the shape and dtype of logits, but of all nodes along dim. A node all of whose leaves are
        forbidden is -inf.

    Raises:
        ValueError: parents that do not describe a tree (or several) above as many leaves; logits, mask and noise as
            :func:`posterior_gumbel`.
        TypeError: logits are not a floating tensor, parents do not hold integers, or mask is not bool.

    Example:
        >>> import torch
        >>> from argumbel.reverse import top_down
        >>> values = top_down(torch.zeros(4), parents=[4, 4, 5, 5, 6, 6, -1])  # two pairs, 4 and 5, and a root
        >>> values[4] == values[:2].max(), values[6] == values.max()
        (tensor(True), tensor(True))

    Source: Maddison, Tarlow and Minka 2014, "A* sampling" (the top-down construction).
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    leaves = logits.shape[dim]
    levels = levels_of([leaves] * leaves + [-1] if parents is None else parents, leaves)
    count = sum(len(nodes) for nodes, _ in levels)
    x = forbid(logits, mask).movedim(dim, -1)
    nodes_like = x.new_empty(1).expand(*x.shape[:-1], count).movedim(-1, dim)
    g = draw_like(nodes_like, dim, noise, generator, "gumbel").movedim(dim, -1)
    x = x.to(g.dtype)
    best = x.amax(-1, keepdim=True)
    bad = ~best.isfinite() | ~g.isfinite().all(-1, keepdim=True)
    if can_raise(x) and can_raise(g) and bool(bad.any()):
        raise_bad_logits(x, -1, noise)
    tree = [tuple(torch.tensor(ids, device=x.device) for ids in level) for level in levels]

    weights: list[Tensor] = []  # of the levels, from the deepest up: logsumexp of the leaves below each node
    for depth in reversed(range(len(tree))):
        nodes, _ = tree[depth]
        own = x[..., nodes.clamp(max=leaves - 1)]
        if weights:
            below, (_, above) = weights[-1], tree[depth + 1]
            own = torch.where(nodes < leaves, own, group_logsumexp(below, above, len(nodes)))
        weights.append(own)

    values: list[Tensor] = []  # from the roots down
    for (nodes, above), weight in zip(tree, reversed(weights), strict=True):
        race = weight + g[..., nodes]
        if not values:
            values.append(_representable(race, logits.dtype))
            continue
        best = group_max(race, above, values[-1].shape[-1])[..., above]
        values.append(_move_max(race, values[-1][..., above].to(x.dtype), logits.dtype, best))
    order = torch.cat([nodes for nodes, _ in tree]).argsort()
    return torch.cat(values, -1)[..., order].masked_fill(bad, torch.nan).movedim(-1, dim)


def inverse_cdf_gumbel(
    logits: Tensor,
    u: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Tensor | KeyedNoise | None = None,
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
        logits, dim, mask, generator, noise: as :func:`posterior_gumbel`.

    Returns:
        ``(values, winner)``: values in the shape and dtype of logits, strictly largest at the winner, an int64 index.
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
    place, unsound = _one_a_row(u, x, torch.float64, "u", "logits without dim")
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


def _truncate(x: Tensor, g: Tensor, upper: Tensor) -> Tensor:
    """Gumbels at x with noise g, given that they are at most upper; -inf stays -inf."""
    absent = x == -torch.inf  # kept out of the arithmetic: its gradient would be NaN
    return -torch.logaddexp(-(x.masked_fill(absent, 0) + g), -upper).masked_fill(absent, torch.inf)


def _native_posterior(
    logits: Tensor, index: Tensor, value: Tensor | None, dim: int, mask: Tensor | None, noise: KeyedNoise
) -> Tensor | None:
    """posterior_gumbel by a kernel; None where there is none, or a row is bad: the long way says what is wrong."""
    x = forbid(logits, mask).movedim(dim, -1)
    key = noise.key(x.shape, x.device)
    at = _checked_indices(index, logits, dim, "index")
    if not kernels.is_native(x, key, only_cpu=True) or is_traced(index) or (value is not None and is_traced(value)):
        return None
    height = None if value is None else _one_a_row(value, at, torch.float32, "value", "index")[0].squeeze(-1)
    values, bad = kernels.posterior_gumbel(x, at.squeeze(-1), height, key)
    if bad:
        return None
    if x.dtype != values.dtype:
        won = at.clamp(0, x.shape[-1] - 1)
        values = _crowned(values, values.gather(-1, won), won, x.dtype)
    return values.movedim(-1, dim)


def _crowned(values: Tensor, top: Tensor, won: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype, with top at the winner's place and everything else strictly below it."""
    return torch.where(_is_at(won, values), _representable(top, dtype), _strictly_below(values, top, dtype))


def _strictly_below(values: Tensor, ceiling: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype; where rounding brought one up to the ceiling, the number below it (with the gradient of the
    ceiling, which is what the value was rounded to)."""
    values, ceiling = values.to(dtype), _representable(ceiling, dtype)
    edge = ceiling.detach()
    below = ceiling + (torch.nextafter(edge, torch.full_like(edge, -torch.inf)) - edge)
    return torch.where(values < ceiling, values, below)


def _representable(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype, where float16 overflows its largest number."""
    return values.to(dtype).clamp(max=torch.finfo(dtype).max)


def _strictly_falling(values: Tensor) -> Tensor:
    """values that fall along the last dimension, where rounding made ties the next numbers below.

    The bits of a float, read as an integer, count the floats in order; there "strictly falling" is a running minimum.
    """
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    lowest = torch.iinfo(integer).min
    v = values.detach().clamp(max=torch.finfo(values.dtype).max)
    bits = v.view(integer)
    count = torch.where(bits < 0, lowest - bits, bits).long()
    steps = torch.arange(v.shape[-1], device=v.device)
    count = ((count + steps).cummin(-1).values - steps).to(integer)
    return values + (torch.where(count < 0, lowest - count, count).view(values.dtype) - values).detach()


def _move_max(race: Tensor, top: Tensor, dtype: torch.dtype, best: Tensor | None = None) -> Tensor:
    """The values of a race whose maximum, best, is moved to top, in dtype; -inf stays -inf."""
    best = race.amax(-1, keepdim=True) if best is None else best
    absent, won = race == -torch.inf, race == best
    kept = race.masked_fill(absent | won, 0)  # these are kept out of the arithmetic: their gradients would be NaN
    gap = (best - kept).masked_fill(absent | won, 1)
    lowered = -torch.logaddexp(-top.masked_fill(top == -torch.inf, 0), torch.log(-torch.expm1(-gap)) - kept)
    lowered = _strictly_below(lowered, top, dtype)
    return torch.where(won, _representable(top, dtype), lowered).masked_fill(absent, -torch.inf)


def _truncate_from_below(x: Tensor, g: Tensor, lower: Tensor) -> Tensor:
    """Gumbels at x with noise g, given that they are above lower; float64.

    In exponentials, e = exp(-g) is to be below b = exp(x - lower): with u = 1 - exp(-e) it becomes
    -log(1 - u (1 - exp(-b))). In this form for small e or b, as -log(exp(-e) + u exp(-b)) where both are large.
    """
    gap, e = x - lower, torch.exp(-g)
    b, u = torch.exp(gap), -torch.expm1(-e)
    small = -torch.log1p(u * torch.expm1(-b))
    large = -torch.logaddexp(-e, u.log() - b)
    below = torch.where((e > 0.5) & (b > 0.5), large, small)
    return lower + torch.where(gap < -37, -u.log(), gap - below.log())  # exp(-37): b is then the same as 1 - exp(-b)


def _is_at(place: Tensor, x: Tensor) -> Tensor:
    """The one-hot of a place, as bool, items last."""
    return torch.arange(x.shape[-1], device=x.device) == place


def _known_race(
    logits: Tensor,
    index: Tensor,
    dim: int,
    mask: Tensor | None,
    noise: Tensor | KeyedNoise | None,
    generator: torch.Generator | None,
    *,
    name: str = "index",
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """The door of all posteriors: :func:`known_winners` and noise, in one precision, with items last."""
    x, won, bad, dim = known_winners(logits, index, dim, mask, name=name)
    g = draw_like(logits, dim, noise, generator, "gumbel").movedim(dim, -1)
    if isinstance(noise, Tensor):
        loud = ~g.isfinite().all(-1, keepdim=True)
        if can_raise(g) and bool(loud.any()):
            raise_bad_logits(x, -1, noise)
        bad = bad | loud
    return x.to(g.dtype), g, won, bad, dim


def known_winners(
    logits: Tensor, index: Tensor, dim: int, mask: Tensor | None, *, name: str = "index"
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits, at least float32, and indices of items that can have won, both with items last; which rows are bad, in
    the shape (..., 1); and dim counted from the front.

    ``index`` is of one item and has no dimension of items; ``indices`` has one.
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    at = _checked_indices(index, logits, dim, name)
    x = forbid(logits, mask).to(work_dtype(logits.dtype)).movedim(dim, -1)
    best = x.amax(-1, keepdim=True)  # NaN where there is any
    won = at.clamp(0, x.shape[-1] - 1)
    again = (won.sort(-1).values.diff(dim=-1) == 0).any(-1, keepdim=True)
    wrong = again | ((won != at) | (x.gather(-1, won) == -torch.inf)).any(-1, keepdim=True)
    if can_raise(x) and can_raise(won):
        if not bool(best.isfinite().all()):
            raise_bad_logits(x, -1)
        if bool(wrong.any()):
            raise ValueError(
                f"{name} must name items that can have won: from 0 to {x.shape[-1] - 1}, allowed by logits and mask, "
                "none twice; but some row has another"
            )
    return x, won, wrong | ~best.isfinite(), dim


def _checked_indices(index: Tensor, logits: Tensor, dim: int, name: str) -> Tensor:
    """index, or indices, as int64 with items last."""
    if not isinstance(index, Tensor) or index.dtype.is_floating_point or index.dtype in (torch.bool, torch.complex64):
        what = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name} must be a tensor of integers, but it is {what}; pass an int64 tensor")
    n, others = logits.shape[dim], (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if name == "index":
        if index.shape != others:
            raise ValueError(
                f"index must have the shape {others} of logits without dim, but its shape is {tuple(index.shape)}; "
                "expand an index that rows are meant to share"
            )
        return index.to(torch.int64).unsqueeze(-1)
    at = index.movedim(dim, -1) if index.ndim == logits.ndim else index
    if index.ndim != logits.ndim or at.shape[:-1] != others or not 1 <= at.shape[-1] <= n:
        raise ValueError(
            f"indices must have the shape {tuple(logits.shape)} of logits with 1 to {n} items along dim, but their "
            f"shape is {tuple(index.shape)}"
        )
    return at.to(torch.int64)


def _height(
    x: Tensor, g: Tensor, won: Tensor, value: Tensor | None, shift: Tensor | float = 0
) -> tuple[Tensor, Tensor | bool]:
    """The winner's height, drawn or given (less the shift of x), and which rows have none."""
    if value is None:
        return x.logsumexp(-1, keepdim=True) + g.gather(-1, won), False
    top, unsound = _one_a_row(value, won, g.dtype, "value", "index")
    return top - shift, unsound


def _one_a_row(value: Tensor, row: Tensor, dtype: torch.dtype, name: str, of: str) -> tuple[Tensor, Tensor]:
    """A number per row, with a dimension of items; and where it is not finite."""
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating tensor, but it is {what}; pass torch.as_tensor({name}).float()")
    if value.shape != row.shape[:-1]:
        raise ValueError(
            f"{name} must have the shape {tuple(row.shape[:-1])} of {of}, but its shape is {tuple(value.shape)}"
        )
    number = value.to(dtype).unsqueeze(-1)
    unsound = ~number.isfinite()
    if can_raise(number) and bool(unsound.any()):
        raise ValueError(f"{name} must be finite, but some is not")
    return number, unsound
