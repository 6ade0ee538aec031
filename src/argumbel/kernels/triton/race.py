"""The keyed race in Triton: the winner of every row, and the first k. Noise is made where it is needed, never stored.

A row is cut into segments, one program for each, so that a few long rows fill the device as many short ones do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import race as reference
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

__all__ = [
    "first_of",
    "gumbel_max",
    "gumbel_topk",
    "is_bad",
    "is_far",
    "repeated_max",
    "rest_of",
    "segments",
    "settle",
    "settled_of",
    "store_winner",
    "winner_of",
]

PROGRAMS = 8192  # to cut rows for: a large device runs about 3000 warps at a time
MOST_SEGMENTS = 4096  # of a row: one program compares their winners
BLOCK = 256  # items of a tile, for one warp, which needs no barriers
LAST = tl.constexpr(2**31 - 1)  # an index after all others
FAR = tl.constexpr(reference.FAR[torch.float32])
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
def is_far(sums):
    """Where sums of logits and noise are so far from 0 that float32 rounds the noise away."""
    height = tl.abs(sums)
    return (height >= FAR) & (height < float("inf"))


@triton.jit
def rest_of(logits, noise, sums):
    """What rounding took off sums far from 0, exactly (Dekker's fast two-sum: there no noise exceeds its logit)."""
    return tl.where(is_far(sums), noise - (sums - logits), 0.0)


@triton.jit
def settled_of(keys, rest, item):
    """The largest key of each row, the largest rest of the keys that equal it, and of those the first item: columns."""
    top = tl.max(keys, 1)[:, None]
    most = tl.max(tl.where(keys == top, rest, float("-inf")), 1)[:, None]
    return top, most, tl.min(tl.where((keys == top) & (rest == most), item, LAST), 1)[:, None]


@triton.jit
def winner_of(logits, noise, item):
    """The same of keys that are sums of logits and noise; their rests are made only where some row needs them."""
    keys = logits + noise
    top = tl.max(keys, 1)[:, None]
    wins = keys == top
    most = tl.zeros_like(top)
    if tl.max(is_far(top).to(tl.int32)) > 0:
        rest = tl.where(wins, rest_of(logits, noise, keys), float("-inf"))
        most = tl.max(rest, 1)[:, None]
        wins = wins & (rest == most)
    return top, most, tl.min(tl.where(wins, item, LAST), 1)[:, None]


@triton.jit
def is_bad(x):
    """NaN or +inf."""
    return (x != x) | (x == float("inf"))


@triton.jit
def store_winner(values, rests, indices, place, mask, top, rest, index, bad, FINAL: tl.constexpr):
    """A bad row has value NaN; when it is settled, so has one with nothing allowed, and the index of either is -1; the
    rest is then done with."""
    if FINAL:
        bad = bad | (top == float("-inf"))
        index = tl.where(bad, -1, index)
    else:
        tl.store(rests + place, rest, mask=mask)
    put(values + place, tl.where(bad, float("nan"), top), mask)
    tl.store(indices + place, index, mask=mask)


@triton.jit
def _race(
    x, x_stride, sources, values, rests, indices, lines, n, parts, steps, seed, rows, items, stride,
    FINAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The winner of each segment of each row; FINAL where a segment is the whole row. ``lines`` may be a multiple of
    the rows of x, ``sources``."""
    program = tl.program_id(0)
    line = (program // parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = program % parts * steps * BLOCK
    row, key = row_ids(rows, line, lines), tl.load(seed)
    best = tl.full((ROWS, 1), float("-inf"), tl.float32)
    rest = tl.zeros((ROWS, 1), tl.float32)
    index = tl.full((ROWS, 1), LAST, tl.int32)
    bad = tl.zeros((ROWS, BLOCK), tl.int1)
    for step in range(steps):
        start = begin + step * BLOCK
        logits = take(x, x_stride, line % sources, sources, start, n, float("-inf"), BLOCK)
        bad = bad | is_bad(logits)
        first = words(key, row, line, start, n, lines, items, stride, 0, ROWS, BLOCK)
        # The t-th tile of a row in no order holds its best with probability 1 / t: most need no logarithms. Far from 0
        # equal sums count, too.
        least = tl.where(is_far(best), best - tl.abs(best) * 2.0**-23, best)
        if tl.max((logits + gumbel_bound(first) > least).to(tl.int32)) > 0:
            noise = finish("gumbel", first, logits, key, row, line, start, n, lines, items, stride, ROWS, BLOCK)
            top, most, item = winner_of(logits, noise, start + tl.arange(0, BLOCK)[None, :])
            ahead = (top > best) | ((top == best) & (most > rest))
            index, rest = tl.where(ahead, item, index), tl.where(ahead, most, rest)
            best = tl.maximum(best, top)
    bad_row = tl.max(bad.to(tl.int32), 1)[:, None] > 0
    place = line * parts + program % parts
    store_winner(values, rests, indices, place, line < lines, best, rest, index, bad_row, FINAL)


@triton.jit
def _settle(
    part_values, part_rests, part_indices, values, indices, lines, parts, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """The winner of each row among those of its parts."""
    line = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    best = tl.full((ROWS, BLOCK), float("-inf"), tl.float32)
    best_rest = tl.zeros((ROWS, BLOCK), tl.float32)
    place = tl.full((ROWS, BLOCK), LAST, tl.int64)
    bad = tl.zeros((ROWS, BLOCK), tl.int1)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)[None, :]
        mask = (line < lines) & (part < parts)
        keys = tl.load(part_values + line * parts + part, mask=mask, other=float("-inf"))
        rest = tl.load(part_rests + line * parts + part, mask=mask, other=0.0)
        item = tl.load(part_indices + line * parts + part, mask=mask, other=LAST)
        better = (keys > best) | ((keys == best) & (rest > best_rest))
        best, best_rest = tl.where(better, keys, best), tl.where(better, rest, best_rest)
        place = tl.where(better, item, place)
        bad = bad | is_bad(keys)
    top, most, index = settled_of(best, best_rest, place)
    bad_row = tl.max(bad.to(tl.int32), 1)[:, None] > 0
    store_winner(values, None, indices, line, line < lines, top, most, index, bad_row, True)


def settle(part_values: Tensor, part_rests: Tensor, part_indices: Tensor, values: Tensor, indices: Tensor) -> None:
    """Winners of rows, (lines,), of those of their parts, (lines, parts), which are in the order of their items."""
    lines, parts = part_values.shape
    block = min(triton.next_power_of_2(parts), 1024)
    rows = 1024 // block
    launch(
        _settle, triton.cdiv(lines, rows),
        part_values, part_rests, part_indices, values, indices, lines, parts, ROWS=rows, BLOCK=block,
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
        part_rests = None if whole else torch.empty_like(part_values)
        part_indices = indices if whole else indices.new_empty((lines, parts))
        launch(
            _race, triton.cdiv(lines, rows) * parts,
            source, source.stride(0), sources, part_values, part_rests, part_indices, lines, n, parts, steps,
            *pointers(key, torch.Size((*shape, n))), FINAL=whole, ROWS=rows, BLOCK=block, num_warps=1,
        )  # fmt: skip
        if part_rests is not None:
            settle(part_values, part_rests, part_indices, values, indices)
    return values, indices


# ---------------------------------------------------------------------------------------------------------- the first k


@triton.jit
def order_of(x):
    """32 bits that order, as integers, as the numbers do."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _perturb(
    x, x_stride, out, places, lines, n, blocks, seed, rows, items, stride,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Perturbed logits as integers that order as they do: 32 bits of key, then, for ties, LAST - item, or, of keys far
    from 0, what rounding took off them. Of each tile the K largest and the places of their items, or all in their order
    if K is 0. A bad logit is above everything."""
    program = tl.program_id(0)
    line = (program // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    block = program % blocks
    start = block * BLOCK
    logits = take(x, x_stride, line, lines, start, n, float("-inf"), BLOCK)
    row = row_ids(rows, line, lines)
    noise = tile("gumbel", logits, tl.load(seed), row, line, start, n, lines, items, stride, ROWS, BLOCK)
    keys = tl.where(is_bad(logits), float("inf"), logits + noise)
    item = start + tl.arange(0, BLOCK)[None, :]
    far = is_far(keys)
    low = (item ^ LAST).to(tl.int64) + tl.zeros((ROWS, 1), tl.int64)  # LAST - item
    if tl.max(far.to(tl.int32)) > 0:
        low = tl.where(far, order_of(rest_of(logits, noise, keys)) + 2**31, low)
    packed = (order_of(keys) << 32) | low
    if K > 0:
        best = tl.topk(packed, K)
        kept = tl.arange(0, K)[None, :]
        mine = (best & 0xFFFFFFFF).to(tl.int32) ^ LAST
        if tl.max(far.to(tl.int32)) > 0:  # a rest does not tell whose it is; of equal ones, one after another
            before = tl.full((ROWS, 1), -1, tl.int32)
            last = tl.max(best, 1)[:, None]
            for j in range(K):
                one = tl.max(tl.where(kept == j, best, -(2**63)), 1)[:, None]
                after = tl.where(one == last, before, -1)
                before = tl.min(tl.where((packed == one) & (item > after), item, LAST), 1)[:, None]
                mine = tl.where(kept == j, before, mine)
                last = one
        place = line * (blocks * K) + block * K + kept
        tl.store(out + place, best, mask=line < lines)
        tl.store(places + place, mine, mask=line < lines)
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
    places = torch.empty(packed.shape, dtype=torch.int32, device=x.device) if kept else None
    launch(
        _perturb, triton.cdiv(lines, rows) * blocks,
        source, source.stride(0), packed, places, lines, n, blocks, *pointers(key, x.shape),
        K=kept, ROWS=rows, BLOCK=block,
    )  # fmt: skip
    best, indices = packed.topk(k, -1)
    order = (best >> 32).int()
    values = (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32)
    if places is not None:
        indices = places.gather(-1, indices).long()
    bad = ~values.isfinite() | (values[:, :1] == torch.inf)
    values, indices = values.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    return values.to(x.dtype).reshape(shape), indices.reshape(shape)
