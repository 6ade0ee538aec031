"""The first k of many entries (``bitonic.py``), in order, in Triton.

A tile of entries is put in order and keeps its first k. If k is small, tiles of what was kept are put in order again:
each round leaves a quarter of the entries or less. If k is large, sorted runs are merged, two by two, and each merged
run is cut at k. One way serves k from 1 to n. Every program knows its place in advance: there are no atomic counters,
and the result does not depend on who comes first. A round of merges reads and writes 12 bytes an entry. A radix select
reads less to find the k-th of many, but what it finds must still be put in order; and where k is small beside n,
callers spare most entries beforehand (``topk.py``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bitonic import PAD, comes_first, first_of_tile, is_bad_row, keep, merged_halves
from .noise import launch
from .race import LAST

__all__ = ["BLOCK", "Entries", "empty_entries", "first_of_entries", "kept_of"]

BLOCK = 1024  # entries of a tile

Entries = tuple[Tensor, Tensor]  # keys, int64, and items, int32, of shape (lines, count)


@triton.jit
def _select(
    keys, items, kept_keys, kept_items, values, indices, lines, count, tiles, k,
    FINAL: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first K of each tile; FINAL: a tile is a whole line, and the first k are the result."""
    program = tl.program_id(0)
    line = (program // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    tile = program % tiles
    at = tile * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (line < lines) & (at < count)
    key = tl.load(keys + line * count + at, mask=mask, other=PAD)
    item = tl.load(items + line * count + at, mask=mask, other=LAST)
    key, item = first_of_tile(key, item, ROWS, BLOCK, K)
    width = k if FINAL else tiles * K
    bad = is_bad_row(tl.max(key, 1))[:, None]
    keep(kept_keys, kept_items, values, indices, key, item, line, lines, tile * K, width, bad, FINAL, K)


@triton.jit
def _merge(
    keys, items, kept_keys, kept_items, values, indices, lines, runs, run, pairs, size, blocks,
    FINAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of the first ``size`` of two sorted runs of ``run`` entries; FINAL: these two are all of a line."""
    program = tl.program_id(0)
    line = (program // (pairs * blocks)).to(tl.int64)
    pair = program // blocks % pairs
    skip = program % blocks * BLOCK  # so many of both runs come before this block
    left = (line * runs + 2 * pair) * run
    right = left + run
    others = tl.where(2 * pair + 1 < runs, run, 0)
    # How many of those are of the left run (merge path: Green, McColl and Bader 2012).
    low, high = tl.maximum(skip - others, 0), tl.minimum(skip, run)
    while low < high:
        middle = low + (high - low) // 2
        a, b = tl.load(keys + left + middle), tl.load(keys + right + (skip - 1 - middle))
        i, j = tl.load(items + left + middle), tl.load(items + right + (skip - 1 - middle))
        ahead = comes_first(a, i, b, j)
        low = tl.where(ahead, middle + 1, low)
        high = tl.where(ahead, high, middle)
    # Of the next BLOCK of either run, one forwards, one backwards, the first of each two: the first BLOCK of both.
    a = low + tl.arange(0, BLOCK)[None, :]
    b = skip - low + BLOCK - 1 - tl.arange(0, BLOCK)[None, :]
    key = tl.load(keys + left + a, mask=a < run, other=PAD)
    item = tl.load(items + left + a, mask=a < run, other=LAST)
    other = tl.load(keys + right + b, mask=b < others, other=PAD)
    whose = tl.load(items + right + b, mask=b < others, other=LAST)
    key, item = merged_halves(key, item, other, whose, BLOCK)
    top = tl.maximum(tl.load(keys + left), tl.load(keys + right, mask=others > 0, other=PAD))
    # As lines of `size` places, one for each pair.
    keep(
        kept_keys, kept_items, values, indices, key, item,
        line * pairs + pair + tl.zeros((1, 1), tl.int64), lines * pairs, skip, size, is_bad_row(top), FINAL, BLOCK,
    )  # fmt: skip


def empty_entries(lines: int, count: int, device: torch.device) -> Entries:
    return (
        torch.empty((lines, count), dtype=torch.int64, device=device),
        torch.empty((lines, count), dtype=torch.int32, device=device),
    )


def kept_of(k: int, block: int) -> int:
    """How many entries a tile keeps, where the first k of all are wanted."""
    return min(max(triton.next_power_of_2(k), 2), block)


def first_of_entries(entries: Entries, k: int, values: Tensor | None, indices: Tensor, run: int = 1) -> None:
    """Write the first k entries of each line into values and indices, (lines, k). Runs of so many are sorted."""
    keys, items = entries
    kept = kept_of(k, BLOCK)
    while keys.shape[1] > BLOCK and (4 * kept <= BLOCK or run < kept):
        lines, count = keys.shape
        tiles = triton.cdiv(count, BLOCK)
        less = empty_entries(lines, tiles * kept, keys.device)
        launch(
            _select, lines * tiles, keys, items, *less, None, None, lines, count, tiles, k,
            FINAL=False, K=kept, ROWS=1, BLOCK=BLOCK,
        )  # fmt: skip
        (keys, items), run = less, kept
    lines, count = keys.shape
    if count <= BLOCK:
        block = max(triton.next_power_of_2(count), 4)
        rows = max(BLOCK // block // 2, 1)
        launch(
            _select, triton.cdiv(lines, rows), keys, items, None, None, values, indices, lines, count, 1, k,
            FINAL=True, K=kept_of(k, block), ROWS=rows, BLOCK=block,
        )  # fmt: skip
        return
    runs = count // run
    while runs > 1:
        pairs, size = triton.cdiv(runs, 2), min(2 * run, k)
        blocks = triton.cdiv(size, BLOCK)
        merged = None if pairs == 1 else empty_entries(lines, pairs * size, keys.device)
        result = (None, None, values, indices) if merged is None else (*merged, None, None)
        launch(
            _merge, lines * pairs * blocks, keys, items, *result, lines, runs, run, pairs, size, blocks,
            FINAL=merged is None, BLOCK=BLOCK,
        )  # fmt: skip
        if merged is None:
            return
        keys, items = merged
        runs, run = pairs, size
