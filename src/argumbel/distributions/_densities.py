"""Log densities as functions of tensors, all in log space. Arguments share one working dtype and broadcast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .._core.elementwise import log_softmax, top_at_zero

__all__ = [
    "binary_concrete",
    "category_mass",
    "concrete",
    "divergence_of_masses",
    "exp_concrete",
    "gumbel",
    "log_prob_pair",
    "logistic",
    "simplex_to_log",
    "unit_to_logit",
]


def gumbel(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """``-z - exp(-z) - log(scale)``, ``z = (value - loc) / scale``."""
    z = (value - loc) / scale
    return -z - torch.exp(-z) - scale.log()


def exp_concrete(log_value: Tensor, logits: Tensor, tau: Tensor) -> Tensor:
    """``log (n-1)! + (n-1) log(tau) + sum_i log_softmax(logits - tau * log_value)_i`` over the last dimension.

    The density of log y in its n - 1 log ratios, ``log y_i - log y_n``; adding a constant to ``log_value`` or to
    ``logits`` changes nothing. n counts the categories that logits allow (> -inf). A value with mass on a forbidden
    category, or without mass on an allowed one, has log density -inf.
    """
    allowed, inside = logits > -torch.inf, log_value > -torch.inf
    # Masked before the arithmetic, not after: 0 * inf would be NaN in the backward pass.
    score = top_at_zero(logits).masked_fill(~allowed, 0) - tau * log_value.masked_fill(~(allowed & inside), 0)
    score = score.masked_fill(~allowed, -torch.inf)
    total = log_softmax(score).masked_fill(~allowed, 0).sum(-1)
    n = allowed.sum(-1).to(logits.dtype)
    density = torch.lgamma(n) + (n - 1) * tau.squeeze(-1).log() + total
    return density.masked_fill((allowed != inside).any(-1), -torch.inf)


def concrete(log_value: Tensor, logits: Tensor, tau: Tensor) -> Tensor:
    """``exp_concrete(log_value, logits, tau) - sum_i log_value_i``: the density of y itself, in any n - 1 of its n
    coordinates."""
    forbidden = logits == -torch.inf
    return exp_concrete(log_value, logits, tau) - log_value.masked_fill(forbidden, 0).sum(-1)


def simplex_to_log(value: Tensor, logits: Tensor, least: float) -> Tensor:
    """log(value). An entry of an allowed category below ``least`` counts as ``least``; an entry of a forbidden category
    up to ``least`` counts as zero."""
    forbidden = (logits == -torch.inf) & (value <= least)
    return value.clamp(min=least).log().masked_fill(forbidden, -torch.inf)


def logistic(value: Tensor, logits: Tensor, tau: Tensor) -> Tensor:
    """``log(tau) + logsigmoid(d) + logsigmoid(-d)``, ``d = logits - tau * value``: the density of relaxed log odds."""
    d = logits - tau * value
    return tau.log() + logsigmoid(d) + logsigmoid(-d)


def binary_concrete(log_odds: Tensor, logits: Tensor, tau: Tensor) -> Tensor:
    """``logistic(log_odds, logits, tau) - log y - log(1 - y)``, ``y = sigmoid(log_odds)``: the density of y."""
    return logistic(log_odds, logits, tau) - logsigmoid(log_odds) - logsigmoid(-log_odds)


def unit_to_logit(value: Tensor, least: float, most: float) -> Tensor:
    """``log(y) - log(1 - y)`` of value clamped to [least, most], inside (0, 1)."""
    y = value.clamp(least, most)
    return y.log() - torch.log1p(-y)


def log_prob_pair(scores: Tensor, probs: Tensor | None) -> Tensor:
    """``(log(1 - p), log(p))`` in the last dimension, p = sigmoid(scores), or probs where they are given.

    Of probs, for log odds cannot hold a certain outcome: its opposite has log probability -inf, with gradient 0.
    """
    if probs is None:
        return torch.stack([logsigmoid(-scores), logsigmoid(scores)], -1)
    both = torch.stack([1 - probs, probs], -1)
    return both.masked_fill(both == 0, 1).log().masked_fill(both == 0, -torch.inf)


def divergence_of_masses(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_i p_i (log p_i - log q_i)`` with 0 log 0 = 0; inf where p has mass and q has none. No gradient is NaN."""
    mine, theirs = log_p > -torch.inf, log_q > -torch.inf
    safe_p, safe_q = log_p.masked_fill(~mine, 0), log_q.masked_fill(~theirs, 0)
    terms = (safe_p.exp() * (safe_p - safe_q)).masked_fill(~mine, 0)
    return terms.sum(-1).masked_fill((mine & ~theirs).any(-1), torch.inf)


def category_mass(value: Tensor, log_probs: Tensor) -> Tensor:
    """``sum_i value_i * log_probs_i`` with 0 * -inf = 0: for a one-hot value, the log probability of its category."""
    impossible = log_probs == -torch.inf
    mass = (value * log_probs.masked_fill(impossible, 0)).sum(-1)
    return mass.masked_fill((impossible & (value > 0)).any(-1), -torch.inf)
