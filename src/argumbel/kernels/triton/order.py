"""The first k of many entries, in order, in Triton. An entry is a key of 64 bits and an item of 32.

The key orders as a perturbed logit does: 32 bits of the sum, and 32 of what rounding took off it. The larger key comes
first, of equal keys the lower item. No two entries are equal, so every way to compare them gives the same order.

A tile of entries is put in order by a bitonic network, all of it in registers and shared memory, and keeps its first
k. If k is small, tiles of what was kept are put in order again: each round leaves a quarter of the entries or less. If
k is large, sorted runs are merged, two by two, and each merged run is cut at k. One way serves k from 1 to n. Every
program knows its place in advance: there are no atomic counters, and the result does not depend on who comes first. A
round of merges reads and writes 12 bytes an entry. A radix select reads less to find the k-th of many, but what it
finds must still be put in order; and where k is small beside n, callers spare most entries beforehand (``topk.py``).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .noise import launch, put
from .race import LAST, is_bad, is_far, rest_of

__all__ = [
    "BLOCK",
    "PAD",
    "Entries",
    "empty_entries",
    "first_of_entries",
    "first_of_tile",
    "is_bad_row",
    "keep",
    "kept_of",
    "key_of",
]

BLOCK = 1024  # entries of a tile
NO_REST = tl.constexpr(2**31)  # the lower half of a key from whose sum rounding took nothing
PAD = tl.constexpr(-(2**63) + 2**31)  # comes after all keys
WORST = tl.constexpr(2**31 - 2**23)  # the upper half of the key of +inf, which stands for a bad logit

Entries = tuple[Tensor, Tensor]  # keys, int64, and items, int32, of shape (lines, count)


@triton.constexpr_function
def _log2(n):
    return n.bit_length() - 1


@triton.constexpr_function
def _cube(n):
    """The shape of n numbers, a power of two, with a dimension for each bit of a place."""
    return [2] * (n.bit_length() - 1)


@triton.constexpr_function
def _only(dim, dims):
    return [2 if d == dim else 1 for d in range(dims)]


# ------------------------------------------------------------------------------------------------------------ entries


@triton.jit
def _ordered(x):
    """32 bits that order, as integers, as the numbers do."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def key_of(logits, noise):
    """Keys of sums of logits and noise; a bad logit is above everything."""
    sums = tl.where(is_bad(logits), float("inf"), tl.where(logits == float("-inf"), logits, logits + noise))
    low = tl.zeros_like(sums)
    if tl.max(tl.max(is_far(sums).to(tl.int32), 1)) > 0:
        low = rest_of(logits, noise, sums)
    return (_ordered(sums).to(tl.int64) << 32) | (_ordered(low).to(tl.int64) + NO_REST)


@triton.jit
def _sum_of(key):
    order = (key >> 32).to(tl.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def is_bad_row(top):
    return (top >> 32) == WORST


@triton.jit
def keep(
    keys, items, values, indices, key, item, line, lines, start, width, bad,
    FINAL: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Write K entries of each line from place ``start`` of ``width`` on; FINAL: as values and indices. What is not
    allowed, and all of a bad row, is NaN and -1 there. ``values`` may be None."""
    at = start + tl.arange(0, K)[None, :]
    mask = (line < lines) & (at < width)
    place = line * width + at
    if FINAL:
        value = _sum_of(key)
        absent = bad | ~(tl.abs(value) < float("inf"))
        if values is not None:
            put(values + place, tl.where(absent, float("nan"), value), mask)
        tl.store(indices + place, tl.where(absent, -1, item).to(tl.int64), mask=mask)
    else:
        tl.store(keys + place, key, mask=mask)
        tl.store(items + place, item, mask=mask)


# -------------------------------------------------------------------------------------------------------- the network


@triton.jit
def _swap(key, item, flip, BIT: tl.constexpr):
    """Compare entries whose places differ in one bit: the earlier one goes to the left, or to the right where flip."""
    dims: tl.constexpr = _log2(key.numel)
    axis: tl.constexpr = dims - 1 - BIT
    # The other of two is their sum less the one: the compiler makes one exchange of it.
    other = tl.sum(key, axis, keep_dims=True) - key
    whose = tl.sum(item, axis, keep_dims=True) - item
    ahead = ((key > other) | ((key == other) & (item < whose))).to(tl.int32)
    right = tl.reshape(tl.arange(0, 2), _only(axis, dims))
    stays = ahead != (flip ^ right)
    return tl.where(stays, key, other), tl.where(stays, item, whose)


@triton.jit
def _merge_bitonic(key, item, BITS: tl.constexpr, ALTERNATING: tl.constexpr):
    """Put bitonic stretches of 2^BITS entries in order; ALTERNATING: every second one in falling order."""
    dims: tl.constexpr = _log2(key.numel)
    flip = 0
    if ALTERNATING:
        flip = tl.reshape(tl.arange(0, 2), _only(dims - 1 - BITS, dims))
    for step in tl.static_range(BITS):
        key, item = _swap(key, item, flip, BITS - 1 - step)
    return key, item


@triton.jit
def _halve(key, item, BIT: tl.constexpr):
    """Of entries whose places differ in one bit the earlier one."""
    axis: tl.constexpr = _log2(key.numel) - 1 - BIT
    best = tl.max(key, axis, keep_dims=True)
    return tl.max(key, axis), tl.min(tl.where(key == best, item, LAST), axis)


@triton.jit
def _first(key, item, ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    key, item = tl.reshape(key, _cube(ROWS * N)), tl.reshape(item, _cube(ROWS * N))
    for bits in tl.static_range(1, _log2(K) + 1):
        key, item = _merge_bitonic(key, item, bits, bits < _log2(N))
    for bits in tl.static_range(_log2(K) + 1, _log2(N) + 1):
        key, item = _halve(key, item, _log2(K))
        key, item = _merge_bitonic(key, item, _log2(K), bits < _log2(N))
    return tl.reshape(key, [ROWS, K]), tl.reshape(item, [ROWS, K])


@triton.jit
def _merged(key, item, N: tl.constexpr):
    key, item = _merge_bitonic(tl.reshape(key, _cube(N)), tl.reshape(item, _cube(N)), _log2(N), False)
    return tl.reshape(key, [1, N]), tl.reshape(item, [1, N])


@triton.jit
def _have_rests(key):
    return tl.max(tl.max(((key & 0xFFFFFFFF) != NO_REST).to(tl.int32), 1)) > 0


@triton.jit
def _upper(key):
    return (key >> 32).to(tl.int32)


@triton.jit
def _widened(upper):
    return (upper.to(tl.int64) << 32) | NO_REST


@triton.jit
def first_of_tile(key, item, ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """The first K of N entries in each row of a tile, in order: (ROWS, N) to (ROWS, K), powers of two, K at least 2.

    Stretches of K are sorted; of two, the K first are kept and merged (Shanbhag, Pirk and Madden 2018, "Efficient top-k
    query processing on massively parallel hardware"). Near to 0, where nearly all rows lie, half a key says it all, and
    two words an entry change hands, not three.
    """
    if _have_rests(key):
        first, whose = _first(key, item, ROWS, N, K)
    else:
        upper, whose = _first(_upper(key), item, ROWS, N, K)
        first = _widened(upper)
    return first, whose


# -------------------------------------------------------------------------------------------------------- many entries


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
        ahead = (a > b) | ((a == b) & (i < j))
        low = tl.where(ahead, middle + 1, low)
        high = tl.where(ahead, high, middle)
    # Of the next BLOCK of either run, one forwards, one backwards, the first of each two: the first BLOCK of both.
    a = low + tl.arange(0, BLOCK)[None, :]
    b = skip - low + BLOCK - 1 - tl.arange(0, BLOCK)[None, :]
    key = tl.load(keys + left + a, mask=a < run, other=PAD)
    item = tl.load(items + left + a, mask=a < run, other=LAST)
    other = tl.load(keys + right + b, mask=b < others, other=PAD)
    whose = tl.load(items + right + b, mask=b < others, other=LAST)
    ahead = (key > other) | ((key == other) & (item < whose))
    key, item = tl.where(ahead, key, other), tl.where(ahead, item, whose)
    if _have_rests(key):
        key, item = _merged(key, item, BLOCK)
    else:
        upper, item = _merged(_upper(key), item, BLOCK)
        key = _widened(upper)
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
