"""A quantile by quadrature: how high the best outside a set stands, given that all of the set stand above it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["log_rate_outside"]

_PANELS, _NODES = 32, 12
_DROP = 36.0  # what lies further below the mode than this, in log density, is less than float64 sees


def _gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1], from the eigenvalues of the recurrence of the polynomials."""
    i = torch.arange(1, n, dtype=torch.float64, device="cpu")
    beside = i / (4 * i * i - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return ((1 + nodes) / 2).tolist(), vectors[0].square().tolist()


_RULE = _gauss_legendre(_NODES)


def log_rate_outside(a: Tensor, log_e: Tensor) -> Tensor:
    """z, of the log density z - e^z + sum over s of log(1 - exp(-e^(z + a_s))), with as much mass below as the log of a
    standard exponential has below log_e. Float64; a has the members last, log_e one number there.

    The density is log-concave with its mode in [0, log(1 + k)]. Left of -1 it falls faster than e^(z / 2), right of
    mode + 1 faster than e^(-z). Between the points where it has fallen by exp(-36), panels of Gauss-Legendre nodes give
    the distribution function; in the panel of the quantile Newton's method, kept within bounds, finds it.
    """
    nodes, weights = (torch.tensor(rule, dtype=a.dtype, device=a.device) for rule in _RULE)
    places = torch.arange(_PANELS, device=a.device)

    def log_density(z: Tensor) -> Tensor:
        r = z.unsqueeze(-1) + a.unsqueeze(-2)
        terms = torch.where(r < -37, r, torch.log(-torch.expm1(-torch.exp(r.clamp(min=-37)))))
        return z - torch.exp(z) + terms.sum(-1)

    def falls(z: Tensor) -> Tensor:
        rate = torch.exp((z.unsqueeze(-1) + a.unsqueeze(-2)).clamp(max=700))
        return 1 - torch.exp(z) + torch.where(rate > 1e-9, rate / torch.expm1(rate), 1).sum(-1) < 0

    def first(low: Tensor, high: Tensor, beyond: Callable[[Tensor], Tensor]) -> Tensor:
        """Where between low and high it begins to hold, to one part in 30 thousand."""
        for _ in range(3):
            step = (high - low) / (_PANELS + 1)
            low = low + step * (~beyond(low + step * (1 + places))).sum(-1, keepdim=True)
            high = low + step
        return high

    zero = torch.zeros_like(log_e)
    mode = first(zero, zero + math.log1p(a.shape[-1]), falls)
    peak = log_density(mode)
    left = first(zero - _DROP - 16, mode, lambda z: log_density(z) > peak - _DROP)
    right = first(mode, mode + _DROP, lambda z: log_density(z) < peak - _DROP)

    def mass(low: Tensor, width: Tensor) -> Tensor:
        """Of the intervals that begin at low."""
        inside = (low.unsqueeze(-1) + width.unsqueeze(-1) * nodes).flatten(-2)
        return width * (torch.exp(log_density(inside) - peak).unflatten(-1, (-1, _NODES)) * weights).sum(-1)

    width = (right - left) / _PANELS
    starts = left + width * places
    each = torch.cat([mass(part, width) for part in starts.split(4, -1)], -1)  # in parts, for memory
    until = each.cumsum(-1)
    target = -torch.expm1(-torch.exp(log_e)) * until[..., -1:]
    panel = (until < target).sum(-1, keepdim=True).clamp(max=_PANELS - 1)
    start, here = starts.gather(-1, panel), each.gather(-1, panel)
    wanted = target - (until.gather(-1, panel) - here)
    low, high = start, start + width
    z = (start + width * wanted / here).clamp(low, high)
    for _ in range(10):
        excess = mass(start, z - start) - wanted
        low, high = torch.where(excess > 0, low, z), torch.where(excess > 0, z, high)
        newton = z - excess / torch.exp(log_density(z) - peak)
        z = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return z
