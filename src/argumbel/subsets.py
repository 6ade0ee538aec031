"""Subsets: k of n without replacement. How likely a draw is, or an item in it, and what a draw says of the whole."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._core.checks import can_raise, check_dim, check_k, check_logits, forbid, raise_bad_logits
from ._core.integrals import fejer, log_arrived, log_prob_first
from .noise import KeyedNoise, draw_like, work_dtype

__all__ = [
    "PriorityDraw",
    "WeightedSum",
    "inclusion_probs",
    "priority_sample",
    "threshold_estimate",
    "threshold_weights",
    "topk_log_prob",
]

CHUNK = 1 << 20  # numbers in a temporary: several fit the cache

# --- the probability of a draw -----------------------------------------------------------------------------------


def topk_log_prob(
    logits: Tensor,
    indices: Tensor,
    *,
    ordered: bool = True,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """``sum_i (x[s_i] - logsumexp(x without s_1, ..., s_{i-1}))``: log probability that Gumbel-top-k draws s, in order.

    With ``ordered=False`` the log probability that it draws the *set*, in whatever order: the sum of the above over
    all k! orders, computed as the one-dimensional integral ``P(all of the set arrive before any of the rest)``.

    Exact: all work is done in float64 and rounded once, to the dtype of logits. A sequence of sampling without
    replacement follows the Plackett-Luce law, so this is also the density of a ranking.

    Args:
        logits: any shape, any floating dtype; need not be normalised; -inf forbids an item.
        indices: int64; k items along ``dim``, the other dimensions broadcast with those of logits. Of draws of shape
            ``(samples, *batch, k)`` every one is scored.
        ordered: score the sequence, else the set.
        dim: where the items lie, in both; a negative dim if the two differ in their number of dimensions.
        mask: bool, broadcasts to logits; True where an item is allowed.

    Returns:
        Log probabilities of the broadcast shape without ``dim``, differentiable in logits. -inf where an item is
        forbidden or comes twice; 0 for k = 0.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, an index outside of [0, n) (where values may not
            be looked at the result is NaN), shapes that do not broadcast.
        TypeError: logits are not a floating tensor, indices not int64, or mask not bool.

    Cost: n + k numbers a row for a sequence; 160 k for a set (with a gradient, these are kept).

    Example:
        >>> import torch, argumbel as ag
        >>> x = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> ag.topk_log_prob(x, torch.tensor([0, 1])).exp()  # 1/2, then 3/5 of what remains
        tensor(0.3000)
        >>> ag.topk_log_prob(x, torch.tensor([0, 1]), ordered=False).exp()  # and 3/10 times 5/7
        tensor(0.5143)

    Source: Plackett 1975, "The analysis of permutations"; Kool, van Hoof and Welling 2020, "Estimating gradients for
    discrete random variables by sampling without replacement", appendix (the integral).
    """
    check_logits(logits)
    dim = check_dim(logits, dim) - logits.ndim
    n = logits.shape[dim]
    _check_indices(indices, logits, dim)
    x = forbid(logits, mask).to(torch.float64).movedim(dim, -1)
    items = indices.movedim(dim, -1)
    bad = ~(x.amax(-1).isfinite()) | x.isnan().any(-1)
    outside = (items < 0) | (items >= n)
    if can_raise(x) and can_raise(items):
        if bool(bad.any()):
            raise_bad_logits(x.detach(), -1)
        if bool(outside.any()):
            raise ValueError(f"indices must be in [0, {n}), but some are not; they index the items along dim of logits")
    batch = torch.broadcast_shapes(x.shape[:-1], items.shape[:-1])
    k = items.shape[-1]
    bad = bad | outside.any(-1)
    x = x.masked_fill(x.isnan(), 0).expand(*batch, n)
    items = items.clamp(0, n - 1).expand(*batch, k)

    drawn = torch.zeros_like(x, dtype=torch.bool).scatter(-1, items, True)
    impossible = (drawn.sum(-1) < k) | (x.gather(-1, items) == -torch.inf).any(-1)
    # What cannot be is given some finite value, so that its gradient is 0 and not NaN. So is an empty rest: one so low
    # that adding to it changes nothing.
    chosen = x.gather(-1, items).masked_fill(impossible.unsqueeze(-1), 0)
    rest = x.masked_fill(drawn, -torch.inf)
    all_drawn = (rest == -torch.inf).all(-1)
    rest = torch.logsumexp(rest.masked_fill(all_drawn.unsqueeze(-1), 0), -1).masked_fill(all_drawn, -1e300)
    if k == 0:
        log_prob = 0 * rest
    elif ordered or k == 1:
        left = torch.cat([chosen[..., 1:], rest.unsqueeze(-1)], -1).flip(-1).logcumsumexp(-1).flip(-1)
        # Against what is left *after* each draw: nothing cancels, however little that is.
        log_prob = torch.nn.functional.logsigmoid(chosen - left).sum(-1)
    else:
        a = (chosen - rest.unsqueeze(-1)).masked_fill(all_drawn.unsqueeze(-1), 0)
        log_prob = log_prob_first(a).masked_fill(all_drawn, 0)
    log_prob = log_prob - log_prob.detach().clamp(min=0)  # a probability of 1 may be rounded up
    return log_prob.masked_fill(impossible, -torch.inf).masked_fill(bad, torch.nan).to(logits.dtype)


def _check_indices(indices: Tensor, logits: Tensor, dim: int) -> None:
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64:
        what = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"indices must be an int64 tensor, but it is {what}; pass torch.as_tensor(indices).long()")
    if indices.ndim < -dim:
        raise ValueError(
            f"indices must have the items along dim {dim}, but its shape is {tuple(indices.shape)}; "
            "add the dimensions of logits"
        )
    if indices.shape[dim] > logits.shape[dim]:
        raise ValueError(
            f"indices must hold at most {logits.shape[dim]} items along dim {dim}, as many as logits, but it holds "
            f"{indices.shape[dim]}"
        )
    others = [(*t.shape[: t.ndim + dim], *t.shape[t.ndim + dim + 1 :]) for t in (logits, indices)]
    try:
        torch.broadcast_shapes(*others)
    except RuntimeError:
        raise ValueError(
            f"indices must broadcast with logits but for dim {dim}, but their shapes are {tuple(indices.shape)} and "
            f"{tuple(logits.shape)}"
        ) from None


# --- the probability of an item ----------------------------------------------------------------------------------


def inclusion_probs(logits: Tensor, k: int, *, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``pi[i] = P(item i is among the first k of logits + Gumbel noise)``: exact, not sampled; they sum to k.

    Work is done in float64 and rounded once: within 1e-12 of enumeration, and within a relative 1e-11 where pi is
    tiny. The gradient (backward costs three times forward) is exact too. For k = 1 this is the softmax.

    Args:
        logits: any shape, any floating dtype; need not be normalised; -inf forbids an item.
        k: how many items are drawn, at most the number of allowed items in every row.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.

    Returns:
        Probabilities in the shape and dtype of logits.

    Raises:
        ValueError: NaN or +inf in logits, k negative or larger than the support of some row (where the values may not
            be looked at, such a row is NaN).
        TypeError: logits are not a floating tensor, k not an integer, or mask not bool.

    Cost: 8,000 n steps of arithmetic a row, whatever k (less for n < 96), in small chunks, so that memory is that of a
    few copies of the logits.

    Example:
        >>> import torch, argumbel as ag
        >>> ag.inclusion_probs(torch.tensor([0.5, 0.3, 0.2]).log(), 2)
        tensor([0.8393, 0.6750, 0.4857])

    Source: Rosen 1972, "Asymptotic theory for successive sampling with varying probabilities without replacement" (the
    race of exponentials); Fernandez and Williams 2010, "Closed-form expression for the Poisson-binomial probability
    density function" (its law from the unit circle).
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    check_k(k, logits.shape[dim])
    x = forbid(logits, mask).to(torch.float64).movedim(dim, -1)
    allowed = x > -torch.inf
    support = allowed.sum(-1, keepdim=True)
    bad = (x.isnan() | (x == torch.inf)).any(-1, keepdim=True) | (support < max(k, 1))
    if can_raise(x) and bool(bad.any()):
        raise_bad_logits(x.detach(), -1, k=k)
    certain = support == k
    x = x.masked_fill(bad | certain, 0)
    probs = k * torch.softmax(x, -1) if k in (0, 1, x.shape[-1]) else _Inclusion.apply(x, k)
    probs = torch.where(certain, allowed.to(x.dtype), probs).masked_fill(bad, torch.nan)
    return probs.to(logits.dtype).movedim(-1, dim)


# Item i arrives at an exponential time of rate w_i. With N_{-i} the number of the others there by time t = e^y,
#
#     pi_i = integral of a_i(y) P(N_{-i} <= k - 1) dy,    a_i = w_i t exp(-w_i t) the density of i's own log time.
#
# N is a sum of independent bits of probabilities q = 1 - exp(-w t), so its law is in the generating function
# G(z) = prod_j f_j(z), f_j = 1 + q_j (z - 1), taken on the unit circle, and that of N_{-i} in G / f_i. The probability
# is 1 before the first k can have arrived and 0 after they must have: the quadrature is over the time in between, and
# what comes before is 1 - exp(-w_i t) in closed form. The gradient is an integral of the same kind,
#
#     d pi_i / d x_j = -D_ij,    d pi_i / d x_i = sum_j D_ij,    D_ij = integral of a_i a_j P(N_{-ij} = k - 1) dy,
#
# symmetric, so that a product with it costs O(n) a node: sum_j a_j (g_i - g_j) / f_j is shared by all i.
TIMES = 160  # nodes in y: within 5e-13 of what 500 give, for clustered and geometric weights over 40 orders
ANGLES = 48  # nodes on the upper half circle; enough for any variance of N (see _circle)
LEFT_OUT = 1e-13  # probability outside of the window
SMALL = 1 << 14  # numbers in a temporary here: what is done to each is little, and must not leave the cache


class _Inclusion(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, k: int) -> Tensor:
        x = x - torch.logsumexp(x, -1, keepdim=True)
        y, weights = _times(x, k)
        probs = -torch.expm1(-_arrivals(x, y[0]))
        for y_t, weight in zip(y[1:].split(_step(x), 0), weights.split(_step(x), 0), strict=True):
            v = _arrivals(x, y_t)
            q = -torch.expm1(-v)
            circle = _circle(q)
            late = _without_each(_at_most(k - 1, circle) * _generating(q, circle), q, circle)
            probs = probs + (weight.unsqueeze(-1) * v * torch.exp(-v) * late).sum(0)
        return probs.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        x, ctx.k = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,), (grad,), k = ctx.saved_tensors, grads, ctx.k
        x = x - torch.logsumexp(x, -1, keepdim=True)
        y, weights = _times(x.detach(), k)
        result = torch.zeros_like(x)
        for y_t, weight in zip(y[1:].split(_step(x), 0), weights.split(_step(x), 0), strict=True):
            v = _arrivals(x, y_t)
            q = -torch.expm1(-v)
            circle = _circle(q.detach())
            a = v * torch.exp(-v)
            exactly = _exactly(k - 1, circle) * _generating(q, circle)
            of_all = _without_each(exactly * _sum_over(a, q, circle), q, circle)
            of_grad = _without_each(exactly * _sum_over(a * grad, q, circle), q, circle)
            result = result + (weight.unsqueeze(-1) * a * (grad * of_all - of_grad)).sum(0)
        return result, None


def _step(x: Tensor) -> int:
    """How many times are worked on together."""
    return max(1, SMALL // max(1, x.numel() * min(ANGLES, x.shape[-1] // 2 + 1)))


def _arrivals(x: Tensor, y: Tensor) -> Tensor:
    """Expected arrivals ``w t``; beyond 665 the item is there."""
    return (x + y.unsqueeze(-1)).clamp(max=6.5).exp()


def _times(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log times of shape (1 + TIMES, ...), the first the start of the window, and the weights of the others.

    The window is that of the k-th arrival T, but for LEFT_OUT on either side. ``-log P(T > t) / t`` never falls (true
    of every k-out-of-n system of exponentials), so seen from the middle it reaches from -32 to 6 at most.
    """
    low = x.new_full(x.shape[:-1], -1.0)
    high = math.log(math.log(2 * k)) - x.topk(k, -1).values[..., -1]  # here k of the items lack 1/2 in all, or less
    for _ in range(36):
        middle = (low + high) / 2
        early = -torch.expm1(-_arrivals(x, middle)).sum(-1) < k - 0.5
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    ones = [1] * middle.ndim
    start, end = _edges(x, k, middle, x.new_tensor([-32.0, 6.0]).reshape(2, *ones))
    at, weights = fejer(TIMES, x)
    at = at.reshape(-1, *ones)
    return torch.cat([start.unsqueeze(0), start + (end - start) * at]), (end - start) * weights.reshape(-1, *ones)


def _edges(x: Tensor, k: int, middle: Tensor, reach: Tensor) -> Tensor:
    """On each side the log time nearest to the middle beyond which, towards middle + reach, LEFT_OUT or less lies."""
    left = reach < 0
    inner, outer = middle.expand(2, *middle.shape), middle + reach
    for _ in range(14):
        y = (outer + inner) / 2
        q = -torch.expm1(-_arrivals(x, y))
        circle = _circle(q)
        waiting = (_at_most(k - 1, circle) * _generating(q, circle)).real.sum(-1)
        # Far out, the rounding of a product of many factors is more than what is left: there, Bennett's inequality.
        gap = torch.where(left, k - circle.mean, circle.mean - (k - 1))
        bound = (circle.variance + gap) * torch.log1p(gap / circle.variance) - gap
        beyond = (gap > 0) & (bound > -math.log(LEFT_OUT)) | (torch.where(left, 1 - waiting, waiting) < LEFT_OUT)
        outer, inner = torch.where(beyond, y, outer), torch.where(beyond, inner, y)
    return outer


class _Circle(NamedTuple):
    """Nodes z = e^(i angle) on the upper half circle, for the law of N on ``first, ..., first + period - 1``."""

    angle: Tensor  # (..., nodes)
    less_one: Tensor  # e^(i angle) - 1
    period: Tensor  # (..., 1)
    first: Tensor  # (..., 1)
    mean: Tensor  # (...)
    variance: Tensor  # (...)


def _circle(q: Tensor) -> _Circle:
    """Half-way between the roots of z^period = 1, so never at z = -1, where a factor may vanish.

    For few items the period is more than n, and nothing is left out. For many it holds N but for e^-34, by Bernstein's
    inequality, and the nodes reach to where ``|G| <= exp(-2 variance sin^2(angle / 2))`` is e^-34. That takes the most
    nodes, ANGLES, at variance 17, when it is at angle pi.
    """
    n = q.shape[-1]
    mean, variance = q.sum(-1), (q * (1 - q)).sum(-1)
    nodes = min(ANGLES, n // 2 + 1)
    if n < 2 * ANGLES:
        period, first = torch.full_like(mean, 2 * nodes), torch.zeros_like(mean)
    else:
        period = (2 * (34 / 3 + (34**2 / 9 + 2 * 34 * variance).sqrt()) + 4).ceil().clamp(min=2 * nodes)
        first = (mean - period / 2).round()
    period, first = period.unsqueeze(-1), first.unsqueeze(-1)
    angle = (torch.arange(nodes, dtype=q.dtype, device=q.device) + 0.5) * (2 * math.pi) / period
    return _Circle(angle, torch.complex(-2 * (angle / 2).sin().square(), angle.sin()), period, first, mean, variance)


def _at_most(m: int, circle: _Circle) -> Tensor:
    """c with ``P(N <= m) = Re sum_z c(z) G(z)``."""
    terms = torch.minimum((m + 1 - circle.first).clamp(min=0), circle.period)
    half = circle.angle / 2
    size = (terms * half).sin() / half.sin() * 2 / circle.period
    return torch.polar(torch.ones_like(size), -circle.angle * (circle.first + (terms - 1) / 2)) * size


def _exactly(m: int, circle: _Circle) -> Tensor:
    """c with ``P(N = m) = Re sum_z c(z) G(z)``."""
    inside = (circle.first <= m) & (m < circle.first + circle.period)
    return torch.polar((2 * inside / circle.period).expand_as(circle.angle), -circle.angle * m)


def _generating(q: Tensor, circle: _Circle) -> Tensor:
    """``G(z) = prod_j f_j(z)`` at the nodes."""
    z = circle.less_one.unsqueeze(-1)
    product = torch.ones_like(circle.less_one)
    for part in q.split(_width(circle), -1):
        product = product * (1 + part.unsqueeze(-2) * z).prod(-1)
    return product


def _sum_over(a: Tensor, q: Tensor, circle: _Circle) -> Tensor:
    """``sum_j a_j / f_j(z)`` at the nodes."""
    z = circle.less_one.unsqueeze(-1)
    total = torch.zeros_like(circle.less_one)
    width = _width(circle)
    for a_part, part in zip(a.split(width, -1), q.split(width, -1), strict=True):
        total = total + (a_part.unsqueeze(-2) / (1 + part.unsqueeze(-2) * z)).sum(-1)
    return total


def _without_each(values: Tensor, q: Tensor, circle: _Circle) -> Tensor:
    """``Re sum_z values(z) / f_i(z)`` for each item i; in real numbers, as ``Re(values conj f) / |f|^2``."""
    z = circle.less_one
    constant, slope = values.real.unsqueeze(-1), (values * z.conj()).real.unsqueeze(-1)
    bend = 2 * z.real.unsqueeze(-1)
    parts = []
    for part in q.split(_width(circle), -1):
        p = part.unsqueeze(-2)
        parts.append(((constant + slope * p) / (1 + bend * (p * (1 - p)))).sum(-2))
    return torch.cat(parts, -1)


def _width(circle: _Circle) -> int:
    return max(1, SMALL // max(1, circle.angle.numel()))


# --- what a draw says of the whole -------------------------------------------------------------------------------


class WeightedSum(NamedTuple):
    """An unbiased estimate of a sum over all items, and an unbiased estimate of its variance."""

    value: Tensor
    variance: Tensor


class PriorityDraw(NamedTuple):
    """The k items of highest priority: log priorities (falling), the items, their weights; the log threshold."""

    keys: Tensor
    indices: Tensor
    weights: Tensor
    threshold: Tensor


def threshold_weights(keys: Tensor, logits: Tensor, *, dim: int = -1) -> Tensor:
    """``exp(x_i) / q_i``, ``q_i = 1 - exp(-exp(x_i - kappa))``: ``sum_i weight_i f_i`` is unbiased for a sum over all.

    From k + 1 items drawn without replacement: the last key is the threshold kappa, q_i is the probability that item i
    comes above it, and ``sum_i exp(x_i) f_i`` over all n items, drawn or not, is the expectation of the sum over the
    first k with these weights (Horvitz-Thompson). With logits that are log probabilities (``log_softmax``) it
    estimates the expectation of f; the weights of unnormalised logits estimate unnormalised sums. The more the draw
    holds of the whole, the smaller the variance; with replacement it would never vanish.

    Args:
        keys: the k + 1 keys along dim, falling, as ``ag.sample_without_replacement(logits, k + 1)`` returns them. A
            last key of -inf says that the first k are all there is.
        logits: the logits of these k + 1 items, ``logits.gather(dim, indices)``, in the shape of keys.
        dim: where the items lie.

    Returns:
        Weights of the first k items, in the shape of keys but k along dim, in the dtype of logits. Their gradient with
        respect to logits is that of ``exp(x_i)`` alone, q held fixed: so the gradient of ``(weights * f).sum()`` is
        unbiased for that of the whole sum too.

    Raises:
        ValueError: shapes that differ, fewer than two keys, a key that is NaN (where the values may not be looked at,
            NaN weights) or below the last one.
        TypeError: keys or logits are not floating tensors.

    Example:
        >>> import torch, argumbel as ag
        >>> log_p, f = torch.randn(1000).log_softmax(0), torch.linspace(0, 1, 1000)
        >>> keys, i = ag.sample_without_replacement(log_p, 101)
        >>> estimate = (ag.threshold_weights(keys, log_p[i]) * f[i[:100]]).sum()
        >>> bool((estimate - log_p.exp() @ f).abs() < 0.3)
        True

    Source: Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them"; Duffield, Lund and
    Thorup 2007, "Priority sampling for estimation of arbitrary subset sums".
    """
    log_weights, _ = _threshold(keys, logits, dim)
    return log_weights.exp().to(logits.dtype).movedim(-1, dim)


def threshold_estimate(
    values: Tensor, keys: Tensor, logits: Tensor, *, dim: int = -1, normalize: bool = False
) -> WeightedSum:
    """``sum_i weight_i f_i`` with :func:`threshold_weights`, and its variance, ``sum_i (weight_i f_i)^2 (1 - q_i)``.

    Both are unbiased (the variance for k >= 2; for k = 1 it is NaN, as a variance of one number is): the terms of
    different items are uncorrelated, whatever the items.

    Args:
        values: f of the first k items, k along dim; the other dimensions broadcast with those of keys.
        keys, logits, dim: as :func:`threshold_weights`.
        normalize: divide by the sum of the weights. Then the estimate is that of a weighted mean, logits need not be
            normalised, and a constant f is estimated without error; it is biased, by order 1 / k, and so is its
            variance (the linearised one).

    Returns:
        ``(value, variance)``, without dim, in the promoted dtype of values and logits.

    Raises:
        ValueError, TypeError: as :func:`threshold_weights`, and values of a shape that does not fit.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.subsets import threshold_estimate
        >>> log_p, f = torch.randn(1000).log_softmax(0), torch.linspace(0, 1, 1000)
        >>> keys, i = ag.sample_without_replacement(log_p, 101)
        >>> value, variance = threshold_estimate(f[i[:100]], keys, log_p[i])
        >>> bool((value - log_p.exp() @ f).abs() < 6 * variance.sqrt())
        True

    Source: as :func:`threshold_weights`.
    """
    if not isinstance(values, Tensor) or not values.dtype.is_floating_point:
        what = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a floating tensor, but it is {what}; pass torch.as_tensor(values).float()")
    log_weights, log_q = _threshold(keys, logits, dim)
    dim = check_dim(keys, dim) - keys.ndim
    k = log_weights.shape[-1]
    if values.ndim < -dim or values.shape[dim] != k:
        raise ValueError(
            f"values must have {k} items along dim {dim}, one less than keys, but its shape is {tuple(values.shape)}"
        )
    f, weights = values.movedim(dim, -1).to(torch.float64), log_weights.exp()
    value = (weights * f).sum(-1)
    if normalize:
        total = weights.sum(-1)
        value = value / total
        weights, f = weights / total.unsqueeze(-1), f - value.unsqueeze(-1)
    variance = ((weights * f).square() * -torch.expm1(log_q)).sum(-1)
    if k < 2:
        variance = variance * torch.nan
    dtype = torch.promote_types(values.dtype, logits.dtype)
    return WeightedSum(value.to(dtype), variance.to(dtype))


def _threshold(keys: Tensor, logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``log(exp(x_i) / q_i)`` and ``log q_i`` of the first k, items last, in float64."""
    check_logits(keys, "keys")
    check_logits(logits)
    dim = check_dim(keys, dim)
    if logits.shape != keys.shape:
        raise ValueError(
            f"logits must be those of the items drawn, of the shape {tuple(keys.shape)} of keys, but their shape is "
            f"{tuple(logits.shape)}; pass logits.gather(dim, indices)"
        )
    k = keys.shape[dim] - 1
    if k < 1:
        raise ValueError("keys must hold at least two items along dim, the last of them the threshold; draw k + 1")
    drawn, threshold = keys.detach().to(torch.float64).movedim(dim, -1).split([k, 1], -1)
    if can_raise(keys) and bool((~(drawn >= threshold) | (drawn == torch.inf)).any()):
        raise ValueError("keys must be finite and fall along dim, as they are drawn, but some are NaN or rise")
    x = logits.to(torch.float64).movedim(dim, -1)[..., :k]
    log_q = log_arrived(x.detach() - threshold)
    return x - log_q, log_q


def priority_sample(
    logits: Tensor,
    k: int,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | KeyedNoise | None = None,
    generator: torch.Generator | None = None,
) -> PriorityDraw:
    """``torch.topk(logits - log(u), k, dim)``: priority sampling, k items with weights that estimate any sum.

    The priorities are ``exp(x_i) / u_i`` with u uniform in (0, 1), tau is the (k+1)-th, and the items above it weigh
    ``max(exp(x_i), tau)``: ``sum_i weight_i f_i`` is unbiased for ``sum_i exp(x_i) f_i`` over all items. No scheme of
    at most k items has a smaller sum of the variances of its single weights than this one has with k + 1. It is not
    Gumbel-top-k: items heavier than tau are sure to be in, and weigh exactly what they weigh. A *keyed* function.

    Args:
        k: how many items, at most the number of allowed items in every row.
        noise: a tensor of uniform noise in the shape of logits, or a ``KeyedNoise``, whose ``uniform`` is used.
        logits, dim, mask, generator: as :func:`argumbel.gumbel_max`.

    Returns:
        ``(keys, indices, weights, threshold)``: log priorities, falling; int64 indices; weights, in the dtype of
        logits; log tau, without dim (-inf where all allowed items were drawn, and then weights are ``exp(logits)``).
        The gradient of a weight is the weight itself, at its own logit: that of the estimated sum is unbiased.

    Raises:
        ValueError: as :func:`argumbel.gumbel_topk` (keys NaN and indices -1 where the values may not be looked at).
        TypeError: as :func:`argumbel.gumbel_topk`.

    Example:
        >>> import torch, argumbel as ag
        >>> from argumbel.subsets import priority_sample
        >>> w = torch.tensor([1000.0, 1.0, 1.0, 1.0])
        >>> draw = priority_sample(w.log(), 2)
        >>> draw.indices[0], draw.weights[0].round()  # too heavy to be left to chance
        (tensor(0), tensor(1000.))

    Source: Duffield, Lund and Thorup 2007, "Priority sampling for estimation of arbitrary subset sums"; Szegedy 2006,
    "The DLT priority sampling is essentially optimal".
    """
    check_logits(logits)
    dim = check_dim(logits, dim)
    check_k(k, logits.shape[dim])
    x = forbid(logits, mask)
    priorities = x.to(work_dtype(x.dtype)) - draw_like(x, dim, noise, generator, "uniform").log()
    top = priorities.topk(min(k + 1, x.shape[dim]), dim)
    values, indices = (t.narrow(dim, 0, k) for t in top)
    threshold = torch.full_like(top.values.select(dim, 0), -torch.inf)
    if k < x.shape[dim]:
        threshold = top.values.detach().select(dim, k)
    chosen = x.gather(dim, indices)
    bad = ~values.isfinite()
    if can_raise(values) and bool(bad.any()):
        raise_bad_logits(x, dim, noise, k)
    keys, indices = values.masked_fill(bad, torch.nan).to(logits.dtype), indices.masked_fill(bad, -1)
    log_q = (chosen.detach() - threshold.unsqueeze(dim)).clamp(max=0)
    weights = torch.exp(chosen - log_q + 0 * keys.detach())
    return PriorityDraw(keys, indices, weights.to(logits.dtype), threshold.to(logits.dtype))
