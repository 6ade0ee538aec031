"""Keyed noise. The reference is the noise contract in plain PyTorch: this folder's README.md describes the path from
(seed, row, item) to a number operation by operation, and the functions below follow it line by line.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.bits import view_bits
from . import cpu
from .dispatch import Key, seed_tensor
from .operator import Operator

__all__ = ["keyed_noise", "work_dtype"]

MASK = 0xFFFFFFFF

# Philox4x32-10: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

# -log1p(-q) = q (1 + q (C0 + q (C1 + ...))) for 0 <= q <= 1/2, relative error below 1.6e-7 (Remez; float32 values).
COEFFICIENTS = (
    0.5000246167182922,
    0.33212924003601074,
    0.26966291666030884,
    0.05082383751869202,
    0.7516154050827026,
    -1.0361659526824951,
    1.160612940788269,
)
LN2 = 0.693147182464599609375  # the float32 nearest to log 2; it is right to 3e-9, so no second part is needed
LN2_HIGH_64, LN2_LOW_64 = 0x162E42FEFA3 / 2**41, 0x13DE6AF278ECE6 / 2**94  # the first 41 bits of log 2, and the rest
SQRT_HALF_64 = 0x3FE6A09E667F3BCD  # the bits of the float64 sqrt(1/2)
REFINE_BELOW = 1 << 18  # words this near to an end of the range take 32 more bits


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32 on int64 tensors that hold 32-bit words; everything broadcasts."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The products wrap in int64; both halves of the wrapped product are those of the true 64-bit one.
        p0, p1 = x0 * MULTIPLIERS[0], x2 * MULTIPLIERS[1]
        x0, x1, x2, x3 = ((p1 >> 32) & MASK) ^ x1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ x3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return x0, x1, x2, x3


def words(seed: Tensor, rows: Tensor, items: Tensor | int, stream: int) -> Tensor:
    """The 32-bit word of each (row, item) in one of four streams, as int64: shape ``rows.shape + (n,)``.

    The seed is one, or one for each row. ``items`` is a tensor of ids that broadcasts against ``rows[..., None]``, or n
    for the ids 0, ..., n - 1 (four of which then share one Philox block, a quarter of the work).
    """
    if isinstance(items, int):
        blocks = torch.arange((items + 3) // 4, device=rows.device)
        return torch.stack(_block_words(seed, rows, blocks, stream), -1).flatten(-2)[..., :items]
    lanes, lane = _block_words(seed, rows, items >> 2, stream), items & 3
    return torch.where(lane < 2, torch.where(lane == 0, lanes[0], lanes[1]), torch.where(lane == 2, lanes[2], lanes[3]))


def _block_words(seed: Tensor, rows: Tensor, blocks: Tensor, stream: int) -> tuple[Tensor, ...]:
    rows, seed = rows.unsqueeze(-1), seed.unsqueeze(-1)
    counter = (blocks & MASK, ((blocks >> 32) & 0x3FFF_FFFF) | (stream << 30), rows & MASK, (rows >> 32) & MASK)
    return philox4x32(counter, (seed & MASK, (seed >> 32) & MASK))


def _fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """``a * b + c`` rounded once to float32.

    In all its uses here the exact value has at most 53 significant bits (README, tests), so float64 holds it exactly
    and only the last conversion rounds: this *is* the fused multiply-add of the hardware, to the bit.
    """
    return (a.double() * b + c).float()


def _minus_log1p(q: Tensor, grid: Tensor) -> Tensor:
    """``-log1p(-q)`` for q in [0, 1/2]; ``grid`` is q rounded to a multiple of 2^-24 (see ``_fma``)."""
    s = _fma(grid, COEFFICIENTS[6], COEFFICIENTS[5])
    for c in COEFFICIENTS[4::-1]:
        s = _fma(s, grid, c)
    return q * _fma(s, grid, 1.0)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x = m * 2**-n`` with m in [1/2, 1), for positive normal float32 x; returns (m, n) with n int32."""
    bits = view_bits(x, torch.int32)
    return view_bits((bits & 0x7FFFFF) | 0x3F000000, torch.float32), 126 - (bits >> 23)


def half_distance(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """``(side, h)``: u = h where side is False and 1 - h where it is True, h in [2^-65, 1/2] a float32."""
    side = first >= 1 << 31
    near = torch.where(side, MASK - first, first)
    common = (near.int().float() + 0.5) * 2.0**-32
    rest = torch.where(side, MASK - second, second)
    refined = (((near.double() * 2.0**32 + rest.double()) + 0.5) * 2.0**-64).float()
    return side, torch.where(near < REFINE_BELOW, refined, common)


def half_distance64(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The same in float64, from all 64 bits."""
    side = first >= 1 << 31
    near = torch.where(side, ((MASK - first) << 32) | (MASK - second), (first << 32) | second)
    return side, (near.double() + 0.5) * 2.0**-64


def log64(x: Tensor) -> Tensor:
    """``log(x)`` of positive normal float64 numbers, right to an ulp, and the same on every machine: plain additions,
    products and quotients in a fixed order, where the logarithms of platforms (and of a vector and its tail) differ."""
    bits = view_bits(x, torch.int64)
    n = (bits - SQRT_HALF_64) >> 52
    f = view_bits(bits - n * 2**52, torch.float64) - 1
    s = f / (f + 2)
    z, half, k = s * s, 0.5 * f * f, n.double()
    r = torch.full_like(z, 2 / 21)
    for odd in range(19, 1, -2):
        r = r * z + 2 / odd
    return k * LN2_HIGH_64 + (f - (half - s * (half + r * z)) + k * LN2_LOW_64)


def uniform(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """u in (0, 1): at least 2^-65, and at most the largest number of the dtype below one."""
    if dtype == torch.float64:
        side, h = half_distance64(first, second)
    else:
        side, h = half_distance(first, second)
    return torch.where(side, 1 - h, h).clamp(max=1 - torch.finfo(h.dtype).eps / 2)


def exponential(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """E = -log1p(-u)."""
    if dtype == torch.float64:
        side, h = half_distance64(first, second)
        x = torch.where(side, h, 1 - h)
        return -(log64(x) + torch.where(side, 0, (1 - x) - h) / x)  # the second term: what rounding took off 1 - h
    side, h = half_distance(first, second)
    mantissa, exponent = _split(h)
    grid = 1 - torch.where(side, mantissa, 1 - h)
    n = torch.where(side, exponent, 0).float()
    return _fma(n, LN2, _minus_log1p(torch.where(side, grid, h), grid))


def gumbel(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """G = -log E."""
    e = exponential(first, second, dtype)
    if dtype == torch.float64:
        return -log64(e)
    mantissa, exponent = _split(e)
    q = 1 - mantissa
    return _fma(exponent.float(), LN2, _minus_log1p(q, q))


def logistic(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """-log u - (-log(1 - u)): the exponentials of the complemented words and of the words."""
    return exponential(MASK - first, MASK - second, dtype) - exponential(first, second, dtype)


def odds(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """u / (1 - u), of which `logistic` is the logarithm."""
    side, h = half_distance64(first, second) if dtype == torch.float64 else half_distance(first, second)
    return torch.where(side, (1 - h) / h, h / (1 - h))


TRANSFORMS = {"odds": odds, "uniform": uniform, "exponential": exponential, "gumbel": gumbel, "logistic": logistic}


def noise(law: str, seed: Tensor, rows: Tensor, items: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Keyed noise of shape ``rows.shape + (n,)``; dtype float32 or float64."""
    return TRANSFORMS[law](words(seed, rows, items, 0), words(seed, rows, items, 1), dtype)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that noise and comparisons live in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# --- the operation -----------------------------------------------------------------------------------------------


def _reference(
    law: str, shape: torch.Size, dtype: torch.dtype, device: torch.device | str, key: Key
) -> tuple[Tensor, bool]:
    device = torch.device(device)
    seed, rows, items = key
    lead, n = torch.Size(shape[:-1]), shape[-1]
    if rows is None:
        rows = torch.arange(lead.numel(), device=device)
    ids = n if items is None else items
    out = noise(law, seed_tensor(seed, device), rows.reshape(lead), ids, work_dtype(dtype))
    return out.to(dtype), False


def _cpu(law: str, shape: torch.Size, dtype: torch.dtype, device: torch.device | str, key: Key) -> tuple[Tensor, bool]:
    out = torch.empty(shape, dtype=dtype, device="cpu")
    cpu.call("keyed_noise", out, key, cpu.LAWS[law], out.data_ptr())
    return out, False


def _outputs(law: str, shape: torch.Size, dtype: torch.dtype, device: str, seed: Tensor, *_: Any) -> Tensor:
    return seed.new_empty(shape, dtype=dtype)


def _describe(
    law: str, shape: torch.Size, dtype: torch.dtype, device: torch.device | str, key: Key
) -> tuple[torch.device, torch.dtype, int]:
    return torch.device(device), dtype, shape[-1]


#: ``keyed_noise(law, shape, dtype, device, key) -> (noise, False)``: the law is "uniform", "exponential", "gumbel" or
#: "logistic"; the last dimension of shape is items.
keyed_noise = Operator(
    "keyed_noise(str law, SymInt[] shape, ScalarType dtype, str device, "
    "Tensor seed, Tensor? rows, Tensor? items) -> Tensor",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    float64=True,
    describe=_describe,
)
