"""The keyed race in Triton: the winner of every row, and the first k. Noise is made where it is needed, never stored.

A row is cut into segments, one program for each, so that a few long rows fill the device as many short ones do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .noise import (
    Key,
    as_rows,
    finish,
    gumbel_bound,
    launch,
    pointers,
    put,
    row_ids,
    take,
    tile,
    tile_shape,
    within,
    words,
)

__all__ = ["gumbel_max", "gumbel_topk", "repeated_max", "segments", "settle"]

PROGRAMS = 8192  # to cut rows for: a large device runs about 3000 warps at a time
MOST_SEGMENTS = 4096  # of a row: one program compares their winners
BLOCK = 256  # items of a tile, for one warp, which needs no barriers
LAST = tl.constexpr(2**31 - 1)  # an index after all others
SMALL_K = 64  # up to here each tile keeps its own first k


def segments(groups: int, n: int, block: int, programs: int, most: int) -> tuple[int, int]:
    """Into how many segments (``most`` at most) of how many tiles to cut rows of n items, ``groups`` groups of rows."""
    tiles = triton.cdiv(n, block)
    wanted = min(triton.cdiv(programs, groups), most, tiles)
    steps = triton.cdiv(tiles, wanted)
    return triton.cdiv(tiles, steps), steps


@triton.jit
def first_of(keys, item):
    """The largest key of each row and its item, the first of those that tie: two columns."""
    top = tl.max(keys, 1)[:, None]
    return top, tl.min(tl.where(keys == top, item, LAST), 1)[:, None]


@triton.jit
def is_bad(x):
    """NaN or +inf."""
    return (x != x) | (x == float("inf"))


@triton.jit
def store_winner(values, indices, place, mask, top, index, bad, FINAL: tl.constexpr):
    """A bad row has value NaN; when it is settled, so has one with nothing allowed, and the index of either is -1."""
    if FINAL:
        bad = bad | (top == float("-inf"))
        index = tl.where(bad, -1, index)
    put(values + place, tl.where(bad, float("nan"), top), mask)
    tl.store(indices + place, index, mask=mask)


@triton.jit
def _race(
    x, x_stride, sources, values, indices, lines, n, parts, steps, seed, rows, items, stride,
    FINAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The winner of each segment of each row; FINAL where a segment is the whole row. ``lines`` may be a multiple of
    the rows of x, ``sources``."""
    program = tl.program_id(0)
    line = (program // parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = program % parts * steps * BLOCK
    row, key = row_ids(rows, line, lines), tl.load(seed)
    best = tl.full((ROWS, 1), float("-inf"), tl.float32)
    index = tl.full((ROWS, 1), LAST, tl.int32)
    bad = tl.zeros((ROWS, BLOCK), tl.int1)
    for step in range(steps):
        start = begin + step * BLOCK
        logits = take(x, x_stride, line % sources, sources, start, n, float("-inf"), BLOCK)
        bad = bad | is_bad(logits)
        first = words(key, row, line, start, n, lines, items, stride, 0, ROWS, BLOCK)
        # The t-th tile of a row in no order holds its best with probability 1 / t: most need no logarithms.
        if tl.max((logits + gumbel_bound(first) > best).to(tl.int32)) > 0:
            noise = finish("gumbel", first, logits, key, row, line, start, n, lines, items, stride, ROWS, BLOCK)
            top, item = first_of(logits + noise, start + tl.arange(0, BLOCK)[None, :])
            index = tl.where(top > best, item, index)
            best = tl.maximum(best, top)
    bad_row = tl.max(bad.to(tl.int32), 1)[:, None] > 0
    store_winner(values, indices, line * parts + program % parts, line < lines, best, index, bad_row, FINAL)


@triton.jit
def _settle(part_values, part_indices, values, indices, lines, parts, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The winner of each row among those of its parts."""
    line = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    best = tl.full((ROWS, BLOCK), float("-inf"), tl.float32)
    place = tl.full((ROWS, BLOCK), LAST, tl.int64)
    bad = tl.zeros((ROWS, BLOCK), tl.int1)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)[None, :]
        mask = (line < lines) & (part < parts)
        keys = tl.load(part_values + line * parts + part, mask=mask, other=float("-inf"))
        item = tl.load(part_indices + line * parts + part, mask=mask, other=LAST)
        better = keys > best
        best, place = tl.where(better, keys, best), tl.where(better, item, place)
        bad = bad | is_bad(keys)
    top, index = first_of(best, place)
    bad_row = tl.max(bad.to(tl.int32), 1)[:, None] > 0
    store_winner(values, indices, line, line < lines, top, index, bad_row, True)


def settle(part_values: Tensor, part_indices: Tensor, values: Tensor, indices: Tensor) -> None:
    """Winners of rows, (lines,), of those of their parts, (lines, parts), which are in the order of their items."""
    lines, parts = part_values.shape
    block = min(triton.next_power_of_2(parts), 1024)
    rows = 1024 // block
    launch(
        _settle, triton.cdiv(lines, rows),
        part_values, part_indices, values, indices, lines, parts, ROWS=rows, BLOCK=block,
    )  # fmt: skip


def gumbel_max(x: Tensor, key: Key) -> tuple[Tensor, Tensor]:
    """Values and indices of the winners. A bad row has NaN and -1, and is not reported: that would await the device."""
    return repeated_max(x, torch.Size(), key)


def repeated_max(x: Tensor, sample_shape: torch.Size, key: Key) -> tuple[Tensor, Tensor]:
    """The same of so many copies of x, which are not made."""
    shape = torch.Size((*sample_shape, *x.shape[:-1]))
    values, indices = x.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=x.device)
    if values.numel():
        source = as_rows(x)
        lines, (sources, n) = shape.numel(), source.shape
        rows, block = tile_shape(n, BLOCK)
        parts, steps = segments(triton.cdiv(lines, rows), n, block, PROGRAMS, MOST_SEGMENTS)
        whole = parts == 1
        part_values = values if whole else x.new_empty((lines, parts), dtype=torch.float32)
        part_indices = indices if whole else indices.new_empty((lines, parts))
        launch(
            _race, triton.cdiv(lines, rows) * parts,
            source, source.stride(0), sources, part_values, part_indices, lines, n, parts, steps,
            *pointers(key, torch.Size((*shape, n))), FINAL=whole, ROWS=rows, BLOCK=block, num_warps=1,
        )  # fmt: skip
        if not whole:
            settle(part_values, part_indices, values, indices)
    return values, indices


# ---------------------------------------------------------------------------------------------------------- the first k


@triton.jit
def _perturb(
    x, x_stride, out, lines, n, blocks, seed, rows, items, stride,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Perturbed logits as integers that order as they do, and ties by falling item: 32 bits of key, then LAST - item.
    Of each tile the K largest, or all in their order if K is 0. A bad logit is above everything."""
    program = tl.program_id(0)
    line = (program // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    block = program % blocks
    start = block * BLOCK
    logits = take(x, x_stride, line, lines, start, n, float("-inf"), BLOCK)
    row = row_ids(rows, line, lines)
    noise = tile("gumbel", logits, tl.load(seed), row, line, start, n, lines, items, stride, ROWS, BLOCK)
    keys = tl.where(is_bad(logits), float("inf"), logits + noise)
    bits = keys.to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    item = start + tl.arange(0, BLOCK)[None, :]
    packed = (order << 32) | (LAST - item)
    if K > 0:
        best = tl.topk(packed, K)
        place = line * (blocks * K) + block * K + tl.arange(0, K)[None, :]
        tl.store(out + place, best, mask=line < lines)
    else:
        tl.store(out + line * n + item, packed, mask=(line < lines) & within(start, n, BLOCK))


def gumbel_topk(x: Tensor, k: int, key: Key) -> tuple[Tensor, Tensor]:
    """The first k of each row; where fewer are allowed the rest is NaN and -1, as is all of a bad row."""
    shape = (*x.shape[:-1], k)
    if not (x.numel() and k):
        return x.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=x.device)
    source = as_rows(x)
    lines, n = source.shape
    rows, block = tile_shape(n)
    blocks = triton.cdiv(n, block)
    kept = max(triton.next_power_of_2(k), 2) if blocks > 1 and k <= SMALL_K else 0
    packed = torch.empty((lines, blocks * kept if kept else n), dtype=torch.int64, device=x.device)
    launch(
        _perturb, triton.cdiv(lines, rows) * blocks,
        source, source.stride(0), packed, lines, n, blocks, *pointers(key, x.shape), K=kept, ROWS=rows, BLOCK=block,
    )  # fmt: skip
    best = packed.topk(k, -1).values
    order = (best >> 32).int()
    values = (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32)
    indices = LAST.value - (best & 0xFFFFFFFF)
    bad = ~values.isfinite() | (values[:, :1] == torch.inf)
    values, indices = values.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    return values.to(x.dtype).reshape(shape), indices.reshape(shape)
