"""Sections 1 to 3 of ``kernels/README.md`` in Triton: from a key to Gumbel noise, a tile of rows x items at a time.

Kernels take tensors as pointers, and None where there is no such tensor. ``line`` counts the rows of the tensors at
hand, ``row`` holds their ids; both are int64 columns, (ROWS, 1). Items ``start``, ``start + 1``, ... of a tile lie in
its second dimension; ``start`` is a multiple of four. Within a row places are counted in 32 bits.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import noise as reference

__all__ = [
    "FUSED",
    "INTERPRETED",
    "Key",
    "as_rows",
    "as_sources",
    "fill",
    "finish",
    "gumbel_bound",
    "gumbel_of",
    "keyed_noise",
    "launch",
    "pointers",
    "put",
    "row_ids",
    "row_seeds",
    "take",
    "tile",
    "tile_shape",
    "within",
    "words",
]

Key = tuple[Tensor, Tensor | None, Tensor | None]  # seed (0-dimensional, or one a row), row ids, item ids

INTERPRETED = bool(triton.knobs.runtime.interpret)
# Triton's interpreter rounds twice in a fused multiply-add; in float64 nothing but the end rounds (kernels/README.md).
FUSED = tl.constexpr(not INTERPRETED)

REFINE_BELOW = tl.constexpr(reference.REFINE_BELOW)
LN2 = tl.constexpr(reference.LN2)
C0, C1, C2, C3, C4, C5, C6 = (tl.constexpr(c) for c in reference.COEFFICIENTS)


# ---------------------------------------------------------------------------------------------------------- launching


def launch(kernel: Any, programs: int, *args: Any, num_warps: int = 4, **constants: Any) -> None:
    """Run so many programs on the device of the tensors, every multiply-add as it is written (no contraction)."""
    device = next(a.device for a in args if isinstance(a, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[(programs,)](*args, **constants, num_warps=num_warps, enable_fp_fusion=False)


def as_rows(x: Tensor) -> Tensor:
    """x as rows of contiguous items: no copy wherever strides can say it."""
    x = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def as_sources(x: Tensor) -> tuple[Tensor, int]:
    """The rows that x repeats over its first dimensions, as :func:`as_rows`, and how many rows x has with the copies,
    which are not made: line i of x is row i % rows."""
    lines = x.shape[:-1].numel()
    while x.ndim > 1 and (x.stride(0) == 0 or x.shape[0] == 1):
        x = x[0]
    return as_rows(x), lines


def pointers(key: Key, shape: torch.Size) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, int]:
    """Seed, seeds of rows, row ids, item ids and the stride between their lines, as kernels take them."""
    seed, rows, items = key
    seeds = seed.contiguous() if seed.ndim else None
    stride = 0
    if items is not None:
        if items.numel() != items.shape[-1]:
            items, stride = items.expand(shape), shape[-1]
        items = items.contiguous()
    return seed, seeds, None if rows is None else rows.contiguous(), items, stride


# ----------------------------------------------------------------------------------------------------- bits to numbers


@triton.jit
def _block_words(seed, row, low, high, STREAM: tl.constexpr):
    high = (high.to(tl.uint32) & 0x3FFFFFFF) | (STREAM << 30)
    return tl.philox(seed, low.to(tl.uint32), high, row.to(tl.uint32), (row >> 32).to(tl.uint32))


@triton.jit
def words(
    seed, row, line, start, n, lines, items, stride, STREAM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """The 32-bit word of each item, (ROWS, BLOCK), as int32."""
    if items is None:  # four neighbours share a Philox block
        block = (start >> 2) + tl.arange(0, BLOCK // 4)[None, :]
        w0, w1, w2, w3 = _block_words(seed, row, block, tl.zeros((1, 1), tl.int32), STREAM)
        out = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (ROWS, BLOCK))
    else:
        mask = (line < lines) & within(start, n, BLOCK)
        item = tl.load(items + (line * stride + start) + tl.arange(0, BLOCK)[None, :], mask=mask, other=0)
        w0, w1, w2, w3 = _block_words(seed, row, item >> 2, item >> 34, STREAM)
        lane = item & 3
        out = tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))
    return out.to(tl.int32, bitcast=True)


@triton.jit
def _fma(a, b, c):
    return tl.fma(a, b, c) if FUSED else (a.to(tl.float64) * b + c).to(tl.float32)


@triton.jit
def _minus_log1p(q, grid):
    s = _fma(grid, C6, C5)
    s = _fma(s, grid, C4)
    s = _fma(s, grid, C3)
    s = _fma(s, grid, C2)
    s = _fma(s, grid, C1)
    s = _fma(s, grid, C0)
    return q * _fma(s, grid, 1.0)


@triton.jit
def _split(x):
    bits = x.to(tl.int32, bitcast=True)
    return ((bits & 0x7FFFFF) | 0x3F000000).to(tl.float32, bitcast=True), 126 - (bits >> 23)


@triton.jit
def _exponential(side, h):
    mantissa, exponent = _split(h)
    grid = 1.0 - tl.where(side, mantissa, 1.0 - h)
    n = tl.where(side, exponent, 0).to(tl.float32)
    return _fma(n, LN2, _minus_log1p(tl.where(side, grid, h), grid))


@triton.jit
def gumbel_of(exponential):
    """The Gumbel number, minus the logarithm, of a positive exponential one."""
    mantissa, exponent = _split(exponential)
    q = 1.0 - mantissa
    return _fma(exponent.to(tl.float32), LN2, _minus_log1p(q, q))


@triton.jit
def gumbel_bound(first):
    """At least the Gumbel number of each first word, for a fraction of its cost, and within 0.07 of a large one.

    With u the fraction of 2^32 that the word is, ``-log(-log1p(-u)) <= -log(u)``; and log2 of a number in [1, 2) is at
    least the number less one, so the bits of a float, read as an integer, are a logarithm from below.
    """
    bits = first.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
    return (159.001 - bits.to(tl.float32) * 2.0**-23) * LN2


@triton.jit
def finish(
    LAW: tl.constexpr,
    first, logits, seed, row, line, start, n, lines, items, stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Noise of first words; of items whose logit (if there are logits) is -inf it need not be right."""
    side = first < 0
    near = tl.where(side, ~first, first)
    h = (near.to(tl.float32) + 0.5) * 2.0**-32
    # One word in 8192 lies so near to an end that it takes more bits; most tiles have none. (Asked by way of the
    # logits, which lie as memory has them: else the compiler makes the words twice, once in the layout it reduces in.)
    needed = near if logits is None else tl.where(logits == float("-inf"), REFINE_BELOW, near)
    if tl.min(needed) < REFINE_BELOW:
        second = words(seed, row, line, start, n, lines, items, stride, 1, ROWS, BLOCK)
        rest = tl.where(side, ~second, second).to(tl.uint32, bitcast=True)
        # Twice the 64-bit number, plus one: below 2^51, and rounded once, by this conversion.
        twice = (near.to(tl.int64) << 33) | (rest.to(tl.int64) << 1) | 1
        h = tl.where(near < REFINE_BELOW, twice.to(tl.float32) * 2.0**-65, h)
    if LAW == "uniform":
        out = tl.minimum(tl.where(side, 1.0 - h, h), 1.0 - 2.0**-24)
    elif LAW == "exponential":
        out = _exponential(side, h)
    elif LAW == "logistic":
        out = _exponential(side == 0, h) - _exponential(side, h)
    else:
        out = gumbel_of(_exponential(side, h))
    return out


@triton.jit
def tile(
    LAW: tl.constexpr,
    logits, seed, row, line, start, n, lines, items, stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Noise for rows ``row`` and items from ``start`` on, (ROWS, BLOCK), to be added to these logits, or to none;
    beyond n items or lines it is anything."""
    first = words(seed, row, line, start, n, lines, items, stride, 0, ROWS, BLOCK)
    return finish(LAW, first, logits, seed, row, line, start, n, lines, items, stride, ROWS, BLOCK)


@triton.jit
def within(start, n, BLOCK: tl.constexpr):
    """Which places of a tile from ``start`` on lie in a row of n, (1, BLOCK)."""
    return tl.arange(0, BLOCK)[None, :] < n - start


@triton.jit
def take(x, x_stride, line, lines, start, n, other, BLOCK: tl.constexpr):
    """A tile of x in float32; ``other`` beyond the row or the last line."""
    mask = (line < lines) & within(start, n, BLOCK)
    return tl.load(x + (line * x_stride + start) + tl.arange(0, BLOCK)[None, :], mask=mask, other=other).to(tl.float32)


@triton.jit
def put(out, x, mask):
    """``tl.store``, x rounded to nearest even."""
    if (not FUSED) and out.dtype.element_ty == tl.bfloat16:  # the interpreter would drop the carry
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        x = tl.where(x != x, 0x7FC0, bits).to(tl.int16).to(tl.bfloat16, bitcast=True)
    tl.store(out, x, mask=mask)


@triton.jit
def row_seeds(seed, seeds, line, lines):
    return tl.load(seed) if seeds is None else tl.load(seeds + line, mask=line < lines, other=0)


@triton.jit
def row_ids(rows, line, lines):
    return line if rows is None else tl.load(rows + line, mask=line < lines, other=0)


# ----------------------------------------------------------------------------------------------------------- the fill


@triton.jit
def fill(
    out, lines, n, blocks, seed, seeds, rows, items, stride,
    LAW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    line = (program // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    start = program % blocks * BLOCK
    x = tile(
        LAW,
        None,
        row_seeds(seed, seeds, line, lines),
        row_ids(rows, line, lines),
        line,
        start,
        n,
        lines,
        items,
        stride,
        ROWS,
        BLOCK,
    )
    put(out + (line * n + start) + tl.arange(0, BLOCK)[None, :], x, (line < lines) & within(start, n, BLOCK))


def tile_shape(n: int, most: int = 1024) -> tuple[int, int]:
    """Rows and items of a tile of about ``most`` numbers for rows of n."""
    block = min(max(triton.next_power_of_2(n), 4), most)
    return max(most // block // 2, 1), block


def keyed_noise(law: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, key: Key) -> Tensor:
    """float32, float16 or bfloat16."""
    shape = torch.Size(shape)
    out = torch.empty(shape, dtype=dtype, device=device)
    if out.numel():
        n = shape[-1]
        lines = out.numel() // n
        rows, block = tile_shape(n)
        blocks = triton.cdiv(n, block)
        programs = triton.cdiv(lines, rows) * blocks
        launch(fill, programs, out, lines, n, blocks, *pointers(key, shape), LAW=law, ROWS=rows, BLOCK=block)
    return out
