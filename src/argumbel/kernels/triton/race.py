"""The keyed race in Triton: the winner of every row. Noise is made where it is needed, never stored.

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
    row_seeds,
    take,
    tile_shape,
    words,
)

__all__ = [
    "first_of",
    "gumbel_max",
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
    """Write the winner of each row, or of each segment of a row. A bad one gets NaN.

    FINAL: winners of rows. A row with nothing allowed gets NaN as well, and the index of both is -1; ``rests`` is None.
    Else: winners of segments. :func:`settle` will compare them, and needs their rests for that.
    """
    if FINAL:
        bad = bad | (top == float("-inf"))
        index = tl.where(bad, -1, index)
    else:
        tl.store(rests + place, rest, mask=mask)
    put(values + place, tl.where(bad, float("nan"), top), mask)
    tl.store(indices + place, index, mask=mask)


@triton.jit
def _race(
    x, x_stride, sources, values, rests, indices, lines, n, parts, steps, seed, seeds, rows, items, stride,
    OWN: tl.constexpr, FINAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The winner of each segment of each row; FINAL where a segment is the whole row. ``lines`` may be a multiple of
    the rows of x, ``sources``. ``OWN`` are the bits of the seed that are changed."""
    program = tl.program_id(0)
    line = (program // parts).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    begin = program % parts * steps * BLOCK
    row, key = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines) ^ OWN
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


def repeated_max(x: Tensor, sample_shape: torch.Size, key: Key, own: int = 0) -> tuple[Tensor, Tensor]:
    """The same of so many copies of x, which are not made; ``own`` are the bits of the seed that are changed."""
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
            *pointers(key, torch.Size((*shape, n))), OWN=own, FINAL=whole, ROWS=rows, BLOCK=block, num_warps=1,
        )  # fmt: skip
        if part_rests is not None:
            settle(part_values, part_rests, part_indices, values, indices)
    return values, indices
