"""Every quadrature of the library: two rules for intervals, and the integrals over the arrival of the first outsider.

The arrival integrals are about a race of exponentials. A set of k members with log weights a runs against everybody
else, whose weights add up to 1. Let u be the log of the time at which the first of the others arrives. Then the log
density of u, together with the event that all members have arrived by then, is

    phi(u) = u - e^u + sum_s log(1 - exp(-e^(a_s + u))).

phi is concave. Its slope 1 - e^u + sum_s h(a_s + u), with h in (0, 1), is 0 where M = e^u lies in [1, k + 1], and at
distance d from there phi is lower by at least M (e^d - 1 - d) on the right and M (e^-d - 1 + d) on the left. The
integrand exp(phi) is entire and vanishes at both ends, so the trapezoid rule converges exponentially.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from .modes import is_recorded

__all__ = [
    "FAR",
    "fejer",
    "first_without",
    "gauss_legendre",
    "log_arrived",
    "log_prob_first",
    "log_rate_outside",
    "mean_log_variance",
]

# --- rules for an interval ---------------------------------------------------------------------------------------


def gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    """Nodes x and weights w of ``sum_i w_i f(x_i) = integral of f over [0, 1]``, exact to degree 2n - 1.

    Python numbers, made without PyTorch, so that no mode in force at the time (inference mode, fake tensors, a default
    device) gets into them. Call it when a module is imported: 64 nodes take a millisecond.

    Newton's method for the angles at which the Legendre polynomial of the cosine is 0.
    """
    nodes, weights = [], []
    for i in range((n + 1) // 2):
        angle, step = math.pi * (i + 0.75) / (n + 0.5), 1.0
        while abs(step) > 1e-14:  # it squares the error of the angle
            x = math.cos(angle)
            before, value = 1.0, x
            for j in range(2, n + 1):
                before, value = value, ((2 * j - 1) * x * value - (j - 1) * before) / j
            scale = math.sin(angle) / (n * (before - x * value))
            step = value * scale
            angle += step
        nodes.append(math.sin(angle / 2) ** 2)
        weights.append(scale**2)
    mirrored = range(n // 2 - 1, -1, -1)
    return nodes + [1 - nodes[i] for i in mirrored], weights + [weights[i] for i in mirrored]


def fejer(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1] at the cosines of n equal angles: n even, in the dtype and on the device of like."""
    angle = (torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) * (math.pi / n)
    m = torch.arange(1, n // 2, dtype=like.dtype, device=like.device)
    weights = (1 - 2 * (torch.cos(2 * m * angle.unsqueeze(-1)) / (4 * m * m - 1)).sum(-1)) / n
    return (1 - angle.cos()) / 2, weights


# --- a mean over the logistic law ---------------------------------------------------------------------------------

# Both rules leave less than 1e-13: the integrands have no singularity closer than pi to the path.
STEP, REACH = 0.55, 42.0
PANEL = gauss_legendre(24)
PANEL_WIDTH, PANEL_COUNT = 8.0, 5


def mean_log_variance(location: Tensor, tau: Tensor) -> Tensor:
    """``E [log y + log(1 - y)]``, ``y = sigmoid((location + L) / tau)``, L standard logistic.

    With v = (location + L) / tau this is the mean of ``-|v| - 2 log(1 + exp(-|v|))``. Above tau = 1 the trapezoid rule
    over L is good enough. Up to 1 the density of L is the smoother factor: the mean of |v| is taken in closed form, and
    Gauss-Legendre panels over |v| integrate the rest.

    Args:
        location: float64, any shape.
        tau: float64, above 0, broadcasts with location.

    Returns:
        The mean, in the broadcast shape; differentiable.
    """
    location, tau = torch.broadcast_tensors(location.unsqueeze(-1), tau.unsqueeze(-1))
    warm = tau > 1
    # Each rule gets only what it is made for, so that neither overflows where the other is taken.
    wide, cold = torch.where(warm, tau, 1.0), torch.where(warm, 1.0, tau)

    def density(x: Tensor) -> Tensor:
        return torch.sigmoid(x) * torch.sigmoid(-x)

    steps = torch.arange(-REACH, REACH, STEP, dtype=tau.dtype, device=tau.device)
    v = (location + steps) / wide
    by_noise = (STEP * density(steps) * (logsigmoid(v) + logsigmoid(-v))).sum(-1)

    nodes, weights = torch.tensor(PANEL, dtype=tau.dtype, device=tau.device) * PANEL_WIDTH
    starts = PANEL_WIDTH * torch.arange(PANEL_COUNT, dtype=tau.dtype, device=tau.device)
    v = (starts.unsqueeze(-1) + nodes).flatten()
    here = density(cold * v - location) + density(cold * v + location)
    rest = cold.squeeze(-1) * (weights.repeat(PANEL_COUNT) * here * torch.log1p(torch.exp(-v))).sum(-1)
    distance = (softplus(location) + softplus(-location)).squeeze(-1) / cold.squeeze(-1)
    return torch.where(warm.squeeze(-1), by_noise, -distance - 2 * rest)


# --- the density of the arrival ----------------------------------------------------------------------------------

CHUNK = 1 << 17  # numbers in a temporary
FAR = 600.0  # log weights beyond this are 0 or infinite to every time that matters


def _weights(a: Tensor) -> tuple[Tensor, Tensor]:
    """``(w, lift)``: ``log(1 - exp(-e^a t)) = lift + log(1 - exp(-w t))`` for e^-90 < t < e^90, nothing overflows."""
    below = a.clamp(max=FAR)
    inside = below.clamp(min=-FAR)
    return inside.exp(), below - inside


def log_arrived(a: Tensor) -> Tensor:
    """``log(1 - exp(-e^a))``: log probability that an exponential of rate 1 has arrived by the time e^a."""
    w, lift = _weights(a)
    return lift + torch.log(-torch.expm1(-w))


def _parts(w: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    """w, as many members together as a temporary at the log times u can hold. A compiler gets w whole: it need not
    write temporaries, and may have to do with any number of rows."""
    return (w,) if is_recorded() else w.split(max(1, CHUNK // max(1, u.numel())), -1)


def _log_density(w: Tensor, u: Tensor) -> Tensor:
    """phi at the log times u, shape ``(*batch, nodes)``, for weights w, shape ``(*batch, k)``; lifts left out."""
    t = u.exp()
    phi = u - t
    for part in _parts(w, u):
        phi = phi + torch.log(-torch.expm1(part.unsqueeze(-2) * -t.unsqueeze(-1))).sum(-1)
    return phi


def _window(w: Tensor, drop: float) -> tuple[Tensor, Tensor, Tensor]:
    """``(near, left, right)``, shape ``(*batch, 1)``: near is a point close to the mode of phi, and phi is lower than
    there by ``drop`` or more outside of [left, right]."""
    k = w.shape[-1]
    near = torch.zeros_like(w[..., :1])
    width = math.log(k + 1)
    while width > 0.5 / math.sqrt(k + 1):  # half the width of the narrowest peak
        width /= 5
        u = near + width * torch.arange(1, 5, dtype=w.dtype, device=w.device)
        t = u.exp()
        slope = 1 - t
        for part in _parts(w, u):
            v = part.unsqueeze(-2) * t.unsqueeze(-1)
            slope = slope + (v / torch.expm1(v)).sum(-1)
        near = near + width * (slope > 0).sum(-1, keepdim=True)
    flat = drop * torch.exp(-near)
    root = (2 * flat).sqrt()
    right = near + width + torch.log1p(flat + root)  # e^d - 1 - d >= flat for d = log(1 + flat + root)
    step = (flat + root.clamp(max=1)) / 8  # e^-d - 1 + d >= flat for d = flat + min(root, 1)
    left = near - 8 * step
    # On the left it may end earlier: nodes are better spent where something is.
    eight = torch.arange(1, 9, dtype=w.dtype, device=w.device)
    phi = _log_density(w, left + step * eight)
    floor = phi[..., -1:] - drop
    left = left + step * (phi < floor).sum(-1, keepdim=True)
    step = step / 8
    phi = _log_density(w, left + step * eight)
    return near, left + step * (phi < floor).sum(-1, keepdim=True), right


# NODES over a window of DROP leave 2e-14 up to k = 1000 and 7e-13 up to k = 10,000, whatever the weights (measured
# against 1601 nodes, clusters up to e^90 apart).
NODES, DROP = 160, 38.0


def log_prob_first(a: Tensor) -> Tensor:
    """``log P(all members arrive before all others)``, the log of the integral of exp(phi).

    Args:
        a: float64 log weights of the members relative to all others together, shape ``(*batch, k)``.

    Returns:
        Shape ``(*batch,)``; differentiable, twice too.
    """
    w, lift = _weights(a)
    _, left, right = _window(w.detach(), DROP)
    step = (right - left) / (NODES - 1)
    u = left + step * torch.arange(NODES, dtype=a.dtype, device=a.device)
    return torch.logsumexp(_log_density(w, u), -1) + lift.sum(-1) + step.squeeze(-1).log()


def first_without(a: Tensor) -> tuple[Tensor, Tensor]:
    """``(one, two)``: ``one[s] = log_prob_first(S without s) - log_prob_first(S)``, and the same once more,
    ``two[s, t] = log_prob_first(S without s and t) - log_prob_first(S without s)``; two[s, s] means nothing.

    All of these sets and all rows share one set of nodes: what a set lacks is divided out of exp(phi). Its peak is as
    narrow as the density of a gamma law of shape k + 1, so a hundred nodes or so leave 3e-11 for few members.

    Args:
        a: as :func:`log_prob_first` takes it; +inf for a member that is sure to be there.

    Returns:
        Shapes ``(*batch, k)`` and ``(*batch, k, k)``.
    """
    k = a.shape[-1]
    u = torch.arange(-26.0, math.log(60 + 10 * k), 0.6 / math.sqrt(k + 2), dtype=a.dtype, device=a.device)
    t = u.exp()
    w, lift = _weights(a)
    missing = torch.expm1(-w)
    factor = torch.expm1(w.unsqueeze(-1) * -t) / missing.unsqueeze(-1)  # relative to time 1, so that all stay in range
    phi = factor.log().sum(-2) + (u - t)
    whole = torch.exp(phi - phi.amax(-1, keepdim=True)).unsqueeze(-2)
    inverse = factor.reciprocal()
    without = whole * inverse
    pairs, without = without @ inverse.mT, without.sum(-1)
    height = lift + torch.log(-missing)
    one = torch.log(without / whole.sum(-1)) - height
    return one, torch.log(pairs / without.unsqueeze(-1)) - height.unsqueeze(-2)


# --- a quantile of the arrival -----------------------------------------------------------------------------------

PANELS = 32
RULE = gauss_legendre(12)


def log_rate_outside(a: Tensor, log_e: Tensor) -> Tensor:
    """u with as large a share of the integral of exp(phi) below it as a standard exponential has below e^log_e.

    Between the ends of the window panels of Gauss-Legendre nodes give the distribution function; in the panel that
    holds the quantile Newton's method, kept within bounds, finds it.

    Args:
        a: float64, shape ``(*batch, k)``, as :func:`log_prob_first` takes it.
        log_e: float64, shape ``(*batch, 1)``.

    Returns:
        Shape ``(*batch, 1)``.
    """
    nodes, weights = torch.tensor(RULE, dtype=a.dtype, device=a.device)
    w, _ = _weights(a)
    near, left, right = _window(w, DROP)
    peak = _log_density(w, near)

    def mass(low: Tensor, width: Tensor) -> Tensor:
        """Of the intervals that begin at low."""
        u = (low.unsqueeze(-1) + width.unsqueeze(-1) * nodes).flatten(-2)
        density = torch.exp(_log_density(w, u) - peak)
        return width * (density.unflatten(-1, (-1, len(nodes))) * weights).sum(-1)

    width = (right - left) / PANELS
    starts = left + width * torch.arange(PANELS, device=a.device)
    each = mass(starts, width)
    until = each.cumsum(-1)
    target = -torch.expm1(-torch.exp(log_e)) * until[..., -1:]
    panel = (until < target).sum(-1, keepdim=True).clamp(max=PANELS - 1)
    start, here = starts.gather(-1, panel), each.gather(-1, panel)
    wanted = target - (until.gather(-1, panel) - here)
    low, high = start, start + width
    u = (start + width * wanted / here).clamp(low, high)
    for _ in range(10):
        excess = mass(start, u - start) - wanted
        low, high = torch.where(excess > 0, low, u), torch.where(excess > 0, u, high)
        newton = u - excess / torch.exp(_log_density(w, u) - peak)
        u = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return u
