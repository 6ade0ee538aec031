"""The standard normal law on an interval, right to the tails, on Python's floats."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from ._floats import as_float64, log_add_exp

__all__ = ["log_mass_between", "quantile_between"]

_LOG_ROOT_2PI = math.log(2 * math.pi) / 2
_SMALLEST = 37.0  # so many standard deviations below 0 the distribution function is below what float64 can hold


def log_mass_between(a: float, b: float) -> float:
    """Log of the standard normal mass of (a, b)."""
    if not a < b:
        return -math.inf
    if a + b > 0:  # float64 resolves the lower tail
        a, b = -b, -a
    middle = (a + b) / 2
    # On so short an interval the difference of the two ends would cancel, and the density is nearly constant.
    if (b - a) * max(1, abs(middle)) < 1e-5:
        return math.log(b - a) - middle * middle / 2 - _LOG_ROOT_2PI
    log_a, log_b = _log_cdf(a), _log_cdf(b)
    if log_b == -math.inf:  # the interval is so far out that even the logarithm overflows float64
        return log_b
    return log_b + math.log(-math.expm1(log_a - log_b))


def quantile_between(a: float, b: float, u: float) -> float:
    """The standard normal truncated to (a, b), at its quantile u."""
    log_u, log_rest = math.log(u), math.log1p(-u)
    below = log_add_exp(log_rest + _log_cdf(a), log_u + _log_cdf(b))
    if below < -math.log(2):
        return _inverse_log_cdf(below)
    above = log_add_exp(log_rest + _log_cdf(-a), log_u + _log_cdf(-b))  # float64 resolves this tail here
    return -_inverse_log_cdf(above)


def _log_cdf(x: float) -> float:
    """Log of the standard normal distribution function."""
    if x < -_SMALLEST:
        return float(torch.special.log_ndtr(as_float64(x)))
    tail = math.erfc(abs(x) / math.sqrt(2)) / 2
    return math.log(tail) if x < 0 else math.log1p(-tail)


def _inverse_log_cdf(y: float) -> float:
    """The x for which ``_log_cdf(x)`` is y."""
    if y > _log_cdf(-_SMALLEST):
        return NormalDist().inv_cdf(min(math.exp(y), 1 - 2.0**-53))
    # Newton's method on a concave rising function, from its left: it never steps past the root.
    x, step = -math.sqrt(-2 * y), math.inf
    while abs(step) > 1e-15 * abs(x):
        log_cdf = _log_cdf(x)
        step = (y - log_cdf) / math.exp(-x * x / 2 - _LOG_ROOT_2PI - log_cdf)
        x += step
    return x
