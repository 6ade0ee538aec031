"""Sets of k of n items, ``P(S) = exp(sum of x over S) / Z``: log Z, and how likely each item is in a set.

With w = exp(x), and e_j the sum over all sets of j items of the products of their w, Z is e_k of all items, and

    mu_i = w_i e_{k-1}(all items but i) / Z.

All steps are sums of products of numbers that are not negative, so nothing cancels. The C++ multiplies one item after
another. Plain PyTorch has two ways: sums along the items for small k, where a step is made for each of the k, and a
tree over the items for large k.

The derivative of mu, the covariance of the law, is found by the same steps at complex numbers: mu is analytic, so
``mu(x + i h v) = mu(x) + i h (d mu / dx) v`` up to h^2, which is below all rounding, and no difference is taken (Squire
and Trapp 1998, "Using complex variables to estimate derivatives of real functions").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .gibbs import gibbs

__all__ = ["FAR", "subset_log_partition", "subset_marginals"]

FAR = 1500.0  # two scores further apart than this differ by more than float64 can hold
FEW = 32  # the number of sets of so many items is in the range of float64, for up to 10^10 items
CHUNK = 1 << 17  # numbers in a temporary
STEP = 2.0**-60  # h


class Row(NamedTuple):
    """Scores, moved so that the k-th largest is 0, in [-FAR, FAR] or -inf; and the items of the k largest, falling."""

    z: Tensor
    top: Tensor


def _row(x: Tensor, k: int) -> Row:
    top = x.detach().topk(k, -1).indices
    away = x - x.detach().gather(-1, top[..., -1:])
    z = away.masked_fill(~(away >= -FAR), -torch.inf).masked_fill(away > FAR, FAR)
    return Row(z, top)


def _log_z(x: Tensor, k: int) -> Tensor:
    row = _row(x, k)
    mass, log_unit = _masses(row.z, row)
    lost = (x - row.z).gather(-1, row.top).sum(-1)  # by the first k, when they were moved
    return (mass.sum(-1) / k).log() + log_unit + lost


def _mu(x: Tensor, k: int) -> Tensor:
    row = _row(x, k)
    mu = _normalized(row.z, row)
    return mu - (mu.detach() - 1).clamp(min=0)  # a 1 may be rounded up


def _covariance(x: Tensor, k: int, grad: Tensor) -> Tensor:
    """The derivative is symmetric, so that grad is as good as a direction."""
    row = _row(x, k)
    with torch.no_grad():  # a number; not detach(), which is_grads_batched does not take
        size = grad.abs().amax(-1, keepdim=True)
        size = size.masked_fill(size == 0, 1)
    moved = torch.complex(row.z, STEP * (grad.masked_fill(row.z == -torch.inf, 0) / size))
    return size * (_normalized(moved, row).imag / STEP)


#: ``subset_marginals(x, k)``: mu, for 1 <= k <= n, of float64 x; it sums to k up to rounding. Forbidden items are -inf
#: or LOWEST, and get exactly 0. A row with fewer than k others has no mu, but finite numbers.
#: ``subset_log_partition(x, k)``: log Z of the same; where fewer than k items are allowed, about LOWEST or below.
subset_log_partition, subset_marginals = gibbs(
    "subset_log_partition(Tensor x, SymInt k)", 1, _log_z, mean=_mu, covariance=_covariance, cpu=lambda x, k: (k,)
)


def _normalized(z: Tensor, row: Row) -> Tensor:
    mass, _ = _masses(z, row)
    return row.top.shape[-1] * mass / mass.sum(-1, keepdim=True)


def _masses(z: Tensor, row: Row) -> tuple[Tensor, Tensor]:
    """Z mu at z, whose real part is that of the row, in a unit of each row, and the logarithm of this unit."""
    k = row.top.shape[-1]
    return _by_sums(z, k, row.top) if k <= FEW else _by_tree(z, row.z.detach(), k, row.top)


# --- small k: sums along the items -------------------------------------------------------------------------------


def _by_sums(z: Tensor, k: int, top: Tensor) -> tuple[Tensor, Tensor]:
    """The unit is w_1 ... w_k.

    Let the k largest w come first, falling; the order of the others does not matter. Let f_j(l) be e_j of the first l
    items, divided by w_1 ... w_j, and b_j(l) be e_{k-j} of the items after the first l, divided by w_{j+1} ... w_k:

        f_j(l) = sum over i <= l of w_i / w_j f_{j-1}(i - 1),
        b_j(l) = sum over i > l of w_i / w_{j+1} b_{j+1}(i),
        mu_i ~ sum over j < k of f_j(i - 1) w_i / w_{j+1} b_{j+1}(i),

    where i > j throughout, so that no ratio exceeds 1, and f and b count at most all sets.
    """
    first = z.gather(-1, top)
    z = torch.cat([first, z.scatter(-1, top, -torch.inf)], -1)
    # Of the items from j on, counted from 0. (narrow, not z[..., j:], which is_grads_batched does not take for j = 0.)
    ratios = [torch.exp(z.narrow(-1, j, z.shape[-1] - j) - z.narrow(-1, j, 1)) for j in range(k)]
    before = [torch.ones_like(ratios[0])]  # f_j(i - 1), of the items from j on
    for j in range(k - 1):
        before.append((ratios[j] * before[j]).cumsum(-1)[..., :-1])
    after = torch.ones_like(ratios[-1])  # b_{j+1}(i), of the items from j on
    mu = torch.zeros_like(z)
    for j in range(k - 1, -1, -1):
        term = ratios[j] * after
        mu = mu + torch.nn.functional.pad(before[j] * term, (j, 0))
        after = torch.nn.functional.pad(term.flip(-1).cumsum(-1).flip(-1), (0, 1))
    of_first, of_rest = mu.split([k, mu.shape[-1] - k], -1)
    return of_rest.scatter(-1, top, of_first), first.sum(-1)


# --- large k: a tree over the items ------------------------------------------------------------------------------


def _by_tree(z: Tensor, real: Tensor, k: int, top: Tensor) -> tuple[Tensor, Tensor]:
    """The unit is the product of all 1 + exp(z_i - c), times exp(k c).

    With p_i = sigmoid(z_i - c), for any number c, the law is that of independent bits of probabilities p, given that
    exactly k of them are 1. So ``mu_i ~ p_i P(exactly k - 1 of the other bits are 1)``. The law of a number of bits is
    a polynomial, the product of the factors (1 - p) + p x. A binary tree over the items holds the products of its
    groups, and a second pass, from the root down, gives each item the product of all others. With about k bits that are
    1, nothing underflows that matters.
    """
    n = z.shape[-1]
    centre = _centre(real, k, top)
    x, below = z - centre, real < centre
    e = torch.exp(torch.where(below, x, -x))
    large, small = 1 / (1 + e), e / (1 + e)
    p, not_p = torch.where(below, small, large), torch.where(below, large, small)
    # Of the bits that are 1, or of those that are 0: whichever are fewer.
    others = _exactly(k - 1, not_p, p) if k - 1 <= n - k else _exactly(n - k, p, not_p)
    log_unit = k * centre.squeeze(-1) + (torch.where(below, 0, x) + torch.log1p(e)).sum(-1)
    return p * others, log_unit


def _centre(z: Tensor, k: int, top: Tensor) -> Tensor:
    """c with ``sum_i sigmoid(z_i - c)`` near k, by bisection; shape ``(*batch, 1)``.

    At c = z_(k+1) - log k the sum is at least k, and at c = z_(k) + log(n - k) it is at most k. If z_(k) = 0 and
    z_(k+1) are far apart, every c near their middle will do. An error d of c costs the probability that exactly k bits
    are 1 a factor of about exp(-n d^2 / 8), and only an underflow would matter.
    """
    n = z.shape[-1]
    second = z.scatter(-1, top, -torch.inf).amax(-1, keepdim=True).clamp(min=-FAR)
    middle = second / 2
    low = torch.maximum(second - math.log(k), middle - 40)
    high = torch.minimum(torch.full_like(second, math.log(max(n - k, 1))), middle + 40)
    for _ in range(12):
        c = (low + high) / 2
        too_many = (1 / (1 + torch.exp(c - z))).sum(-1, keepdim=True) > k
        low, high = torch.where(too_many, c, low), torch.where(too_many, high, c)
    return (low + high) / 2


def _exactly(m: int, zero: Tensor, one: Tensor) -> Tensor:
    """P(exactly m of the other bits are 1), for each of the bits, which are 1 and 0 with these probabilities.

    A polynomial lies in the last dimension, nodes lie in the one before.
    """
    n = zero.shape[-1]
    level = torch.stack([zero, one], -1).narrow(-1, 0, min(2, m + 1))
    levels = []
    while level.shape[-2] > 2:
        if level.shape[-2] % 2:  # a node with nobody in it
            level = torch.cat([level, _unit(level, 0)], -2)
        levels.append(level)
        left, right = _pairs(level).unbind(-2)
        size = left.shape[-1]
        level = _correlate(right, left.flip(-1), size - 1, min(2 * size - 1, m + 1))
    levels.append(level)
    # The coefficient m - j of the product of everybody outside of the node: so many of the node's others must be 1.
    outside = _unit(level, m)
    for height in range(len(levels) - 1, -1, -1):
        both = _correlate(outside.unsqueeze(-2), _pairs(levels[height]).flip(-2), 0, min(2**height, m + 1))
        outside = both.reshape(*both.shape[:-3], 2 * both.shape[-3], both.shape[-1]).narrow(-2, 0, -(-n // 2**height))
    return outside.squeeze(-1)


def _pairs(level: Tensor) -> Tensor:
    """Each two nodes that follow each other, in a dimension of their own. (Not unflatten, as above.)"""
    return level.reshape(*level.shape[:-2], level.shape[-2] // 2, 2, level.shape[-1])


def _unit(like: Tensor, degree: int) -> Tensor:
    """One node, the polynomial ``x^degree``."""
    size = max(degree + 1, like.shape[-1])
    unit = torch.zeros(size, dtype=like.dtype, device=like.device)
    unit = torch.where(torch.arange(size, device=like.device) == degree, 1.0, unit)
    return unit.expand(*like.shape[:-2], 1, size)


def _correlate(x: Tensor, y: Tensor, before: int, count: int) -> Tensor:
    """``sum_j x[..., i + j - before] y[..., j]`` for i < count; x is 0 outside of its places.

    The sums run along the last dimension (_core/elementwise.py says why), over windows of x. The windows are copies of
    x, one after another, cut into pieces that are longer than x by one: each piece begins one place later. (The
    gradient of ``Tensor.unfold`` cannot be batched.)
    """
    size = y.shape[-1]
    each = max(1, y.numel() * (count + size) // size)
    step = max(1, min(count, CHUNK // each))
    parts = []
    for start in range(0, count, step):
        here = min(step, count - start)
        period = here + size - 1
        padded = torch.nn.functional.pad(x, (before - start, start + period - before - x.shape[-1]))
        copies = padded.unsqueeze(-2).expand(*x.shape[:-1], here + 1, period)
        copies = copies.reshape(*x.shape[:-1], (here + 1) * period)
        windows = copies.narrow(-1, 0, here * (period + 1)).reshape(*x.shape[:-1], here, period + 1)
        windows = windows.narrow(-1, 0, size)
        parts.append((windows * y.unsqueeze(-2)).sum(-1))
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]
