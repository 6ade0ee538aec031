"""What the library must agree with, by definition and by brute force: slow, plain, and independent of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

EULER = 0.5772156649015329
MASK32 = 0xFFFFFFFF


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 on Python's integers."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 1 << 32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return x0, x1, x2, x3


def word(seed: int, row: int, item: int, stream: int) -> int:
    """The 32 bits of a key, packed as ``kernels/README.md`` says; negative ids count as two's complement."""
    seed, row, item = (v % (1 << 64) for v in (seed, row, item))
    block = item >> 2
    counter = (block & MASK32, block >> 32 | stream << 30, row & MASK32, row >> 32)
    return philox4x32(counter, (seed & MASK32, seed >> 32))[item & 3]


def uniform(seed: int, row: int, item: int) -> tuple[float, float]:
    """(u, 1 - u) of a key from all 64 bits, both to float64's relative precision."""
    bits = word(seed, row, item, 0) << 32 | word(seed, row, item, 1)
    return (2 * bits + 1) / (1 << 65), (2 * ((1 << 64) - 1 - bits) + 1) / (1 << 65)


def gumbel(u: float, rest: float) -> float:
    """``-log(-log1p(-u))`` with rest = 1 - u: precise at both ends."""
    return -math.log(-math.log1p(-u) if u < 0.5 else -math.log(rest))


def gumbel_cdf(g: np.ndarray) -> np.ndarray:
    return np.exp(-np.exp(-np.asarray(g, dtype=np.float64)))


def gumbel_sf(g: np.ndarray) -> np.ndarray:
    return -np.expm1(-np.exp(-np.asarray(g, dtype=np.float64)))


def gumbel_quantile(p: np.ndarray) -> np.ndarray:
    return -np.log(-np.log(np.asarray(p, dtype=np.float64)))


def softmax(logits: Tensor) -> np.ndarray:
    """The law of one choice, over the last dimension."""
    return torch.softmax(logits.double(), -1).numpy()


def plackett_luce(logits: Tensor, k: int) -> dict[tuple[int, ...], float]:
    """The probability of every ordered choice of k of the items, one after another from what remains."""
    weights = softmax(logits)
    law = {}
    for order in itertools.permutations(range(len(weights)), k):
        left, p = 1.0, 1.0
        for i in order:
            p *= weights[i] / left if weights[i] else 0.0
            left = math.fsum(w for j, w in enumerate(weights) if j not in order[: order.index(i) + 1])
        law[order] = p
    return law


def logsumexp(logits: Tensor) -> float:
    return float(torch.logsumexp(logits.double(), -1))
