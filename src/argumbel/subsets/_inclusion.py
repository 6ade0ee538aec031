"""The probability of an item: to be among the first k."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import Rows, can_raise, check_k
from .._core.elementwise import top_at_zero
from .._core.integrals import fejer
from ..kernels.opaque import opaque

__all__ = ["inclusion_probs"]


def inclusion_probs(logits: Tensor, k: int, *, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """``pi[i] = P(item i is among the first k of logits + Gumbel noise)``: exact, not sampled; they sum to k.

    The result is exact: the work is done in float64, and the result is rounded once. It agrees with enumeration to
    1e-12, and to a relative 1e-11 where pi is tiny. The gradient is exact too; its computation takes three times as
    long. For k = 1 the probabilities are the softmax.

    Args:
        logits: shape ``(*batch, n)`` for ``dim=-1``, any floating dtype; need not be normalised; -inf forbids an item.
        k: how many items are drawn, at most the number of allowed items in every row.
        dim: where the items lie.
        mask: bool, broadcasts to logits; True where an item is allowed.

    Returns:
        Probabilities in the shape and dtype of logits.

    Raises:
        ValueError: NaN or +inf in logits, a row with nothing allowed, k negative or larger than the number of allowed
            items in some row. Under ``torch.compile``, under ``vmap`` and on an accelerator a bad row gives NaN.
        TypeError: logits are not a floating tensor, k not an integer, or mask not bool.

    Cost: a row takes 8,000 n steps of arithmetic, whatever k (fewer for n < 96). They are done in small chunks, so that
    the memory is only a few copies of the logits.

    Example:
        >>> import torch, argumbel as ag
        >>> ag.inclusion_probs(torch.tensor([0.5, 0.3, 0.2]).log(), 2)
        tensor([0.8393, 0.6750, 0.4857])

    Source: Rosén 1972, "Asymptotic theory for successive sampling with varying probabilities without replacement" (the
    race of exponentials); Fernández and Williams 2010, "Closed-form expression for the Poisson-binomial probability
    density function" (the law of a number of arrivals, from the unit circle).
    """
    rows = Rows(logits, dim, mask)
    k = check_k(k, rows.x.shape[-1])
    x = rows.x.to(torch.float64)
    allowed = x > -torch.inf
    support = allowed.sum(-1, keepdim=True)
    bad = (x.isnan() | (x == torch.inf)).any(-1, keepdim=True) | (support < max(k, 1))
    if can_raise(x) and bool(bad.any()):
        rows.complain(k=k)
    certain = support == k
    x = x.masked_fill(bad | certain, 0)
    if k in (0, 1, x.shape[-1]):
        probs = k * torch.softmax(top_at_zero(x), -1)
    else:
        # Beside the k-th largest: only near it do differences matter, and there they are exact.
        probs = _inclusion((x - x.detach().topk(k, -1).values[..., -1:]).clamp(-FAR, FAR), k)
    probs = torch.where(certain, allowed.to(x.dtype), probs).masked_fill(bad, torch.nan)
    return rows.back(probs.to(logits.dtype))


# Item i arrives at an exponential time of rate w_i. Let N be the number of items that have arrived by time t = e^y, and
# N_{-i} the number of these without item i. Then
#
#     pi_i = integral of a_i(y) P(N_{-i} <= k - 1) dy,    a_i = w_i t exp(-w_i t) the density of i's own log time.
#
# N is a sum of independent bits with probabilities q = 1 - exp(-w t). Its law follows from the generating function
# G(z) = prod_j f_j(z), f_j = 1 + q_j (z - 1), on the unit circle, and the law of N_{-i} from G / f_i. The probability
# in the integral is 1 before the first k can have arrived and 0 after they must have arrived. So the quadrature covers
# the time in between, and the integral over the time before is 1 - exp(-w_i t). The gradient is another integral,
#
#     d pi_i / d x_j = -D_ij,    d pi_i / d x_i = sum_j D_ij,    D_ij = integral of a_i a_j P(N_{-ij} = k - 1) dy.
#
# D is symmetric, so a product with D costs O(n) a node: sum_j a_j (g_i - g_j) / f_j is shared by all i.
TIMES = 160  # nodes in y: within 5e-13 of what 500 give, for clustered and geometric weights over 40 orders
ANGLES = 48  # nodes on the upper half circle; enough for any variance of N (see _circle)
LEFT_OUT = 1e-13  # probability outside of the window
FAR = 800.0  # an item so far below the k-th has probability 0 in float64, and an item so far above has 1
CHUNK = 1 << 14  # numbers in a temporary: little is done to each, so a temporary must stay in the cache


def _marginals(x: Tensor, k: int) -> Tensor:
    """pi, for 1 < k < n, of rows in [-FAR, FAR] whose k-th largest number is 0."""
    y, weights = _times(x.detach(), k)
    probs = -torch.expm1(-_arrivals(x, y[0]))
    for y_t, weight in zip(y[1:].split(_step(x), 0), weights.split(_step(x), 0), strict=True):
        v = _arrivals(x, y_t)
        q = -torch.expm1(-v)
        circle = _circle(q.detach())
        late = _without_each(_at_most(k - 1, circle) * _generating(q, circle), q, circle)
        probs = probs + (weight.unsqueeze(-1) * v * torch.exp(-v) * late).sum(0)
    return probs.clamp(0, 1)


def _gradient(x: Tensor, k: int, grad: Tensor) -> Tensor:
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
    return result


_inclusion = opaque("inclusion_probs(Tensor x, SymInt k)", _marginals, _gradient)


def _step(x: Tensor) -> int:
    """How many log times are worked on together."""
    return max(1, CHUNK // max(1, x.numel() * min(ANGLES, x.shape[-1] // 2 + 1)))


def _arrivals(x: Tensor, y: Tensor) -> Tensor:
    """``w t``, the rates up to time t; beyond 665 the item has arrived."""
    return (x + y.unsqueeze(-1)).clamp(max=6.5).exp()


def _times(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log times, shape ``(1 + TIMES, *batch)``, the first the start of the window, and the weights of the others.

    The window holds the k-th arrival, at time T, except with probability LEFT_OUT on either side. ``-log P(T > t) / t``
    never falls (true of every k-out-of-n system of exponentials), so the window reaches from the middle by -32 to 6 at
    most.
    """
    # At the log time low, all q but the k - 1 largest sum to less than 1/2; at high, the k largest to at least k - 1/2.
    low = x.new_full(x.shape[:-1], -math.log(2 * (x.shape[-1] - k + 1)))
    high = x.new_full(x.shape[:-1], math.log(math.log(2 * k)))
    for _ in range(36):
        middle = (low + high) / 2
        early = -torch.expm1(-_arrivals(x, middle)).sum(-1) < k - 0.5
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    ones = [1] * middle.ndim
    # Not x.new_tensor: in PyTorch 2.4 it does not work under torch.vmap.
    start, end = _edges(x, k, middle, torch.tensor([-32.0, 6.0], dtype=x.dtype, device=x.device).reshape(2, *ones))
    at, weights = fejer(TIMES, x)
    at = at.reshape(-1, *ones)
    return torch.cat([start.unsqueeze(0), start + (end - start) * at]), (end - start) * weights.reshape(-1, *ones)


def _edges(x: Tensor, k: int, middle: Tensor, reach: Tensor) -> Tensor:
    """For each reach, the log time between middle and middle + reach beyond which the k-th arrival has probability
    LEFT_OUT."""
    left = reach < 0
    inner, outer = middle.expand(2, *middle.shape), middle + reach
    for _ in range(14):
        y = (outer + inner) / 2
        q = -torch.expm1(-_arrivals(x, y))
        circle = _circle(q)
        waiting = (_at_most(k - 1, circle) * _generating(q, circle)).real.sum(-1)
        # Far out, the rounding of a product of many factors exceeds the probability: there, Bennett's inequality.
        gap = torch.where(left, k - circle.mean, circle.mean - (k - 1))
        bound = (circle.variance + gap) * torch.log1p(gap / circle.variance) - gap
        beyond = (gap > 0) & (bound > -math.log(LEFT_OUT)) | (torch.where(left, 1 - waiting, waiting) < LEFT_OUT)
        outer, inner = torch.where(beyond, y, outer), torch.where(beyond, inner, y)
    return outer


class _Circle(NamedTuple):
    """Nodes z = e^(i angle) on the upper half circle, for the law of N on ``first, ..., first + period - 1``."""

    angle: Tensor  # (*batch, nodes)
    less_one: Tensor  # e^(i angle) - 1, (*batch, nodes)
    period: Tensor  # (*batch, 1)
    first: Tensor  # (*batch, 1)
    mean: Tensor  # of N, (*batch)
    variance: Tensor  # of N, (*batch)


def _circle(q: Tensor) -> _Circle:
    """Nodes half-way between the roots of z^period = 1, so never at z = -1, where a factor may vanish.

    For few items the period is more than n, and nothing is left out. For many items the period holds N except with
    probability e^-34, by Bernstein's inequality, and the nodes reach to where the bound
    ``|G| <= exp(-2 variance sin^2(angle / 2))`` is e^-34. The bound takes the most nodes, ANGLES, at variance 17, where
    it reaches e^-34 at angle pi.
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
    """Coefficients c with ``P(N <= m) = Re sum_z c(z) G(z)``."""
    terms = torch.minimum((m + 1 - circle.first).clamp(min=0), circle.period)
    half = circle.angle / 2
    size = (terms * half).sin() / half.sin() * 2 / circle.period
    return torch.polar(torch.ones_like(size), -circle.angle * (circle.first + (terms - 1) / 2)) * size


def _exactly(m: int, circle: _Circle) -> Tensor:
    """Coefficients c with ``P(N = m) = Re sum_z c(z) G(z)``."""
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
    constant = values.real.unsqueeze(-1)
    linear = (values.real * z.real + values.imag * z.imag).unsqueeze(-1)
    twice = 2 * z.real.unsqueeze(-1)
    parts = []
    for part in q.split(_width(circle), -1):
        p = part.unsqueeze(-2)
        parts.append(((constant + linear * p) / (1 + twice * (p * (1 - p)))).sum(-2))
    return torch.cat(parts, -1)


def _width(circle: _Circle) -> int:
    """How many items are worked on together."""
    return max(1, CHUNK // max(1, circle.angle.numel()))
