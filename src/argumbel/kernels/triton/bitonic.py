"""Entries of a race, a key of 64 bits and an item of 32, and the order of a tile of them in Triton.

A key orders as a perturbed logit does: 32 bits of the sum, and 32 of what rounding took off it. The larger key comes
first, of equal keys the lower item. No two entries are equal, so every way to compare them gives the same order.

The network is bitonic: all of it is in registers and shared memory, and its steps do not depend on the numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .noise import put
from .race import LAST, is_bad, is_far, rest_of

__all__ = ["PAD", "comes_first", "first_of_tile", "is_bad_row", "keep", "key_of", "merged_halves"]

NO_REST = tl.constexpr(2**31)  # the lower half of a key from whose sum rounding took nothing
PAD = tl.constexpr(-(2**63) + 2**31)  # comes after all keys
WORST = tl.constexpr(2**31 - 2**23)  # the upper half of the key of +inf, which stands for a bad logit


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


@triton.jit
def comes_first(key, item, other, whose):
    return (key > other) | ((key == other) & (item < whose))


@triton.jit
def _swap(key, item, flip, BIT: tl.constexpr):
    """Compare entries whose places differ in one bit: the earlier one goes to the left, or to the right where flip."""
    dims: tl.constexpr = _log2(key.numel)
    axis: tl.constexpr = dims - 1 - BIT
    # The other of two is their sum less the one: the compiler makes one exchange of it.
    other = tl.sum(key, axis, keep_dims=True) - key
    whose = tl.sum(item, axis, keep_dims=True) - item
    ahead = comes_first(key, item, other, whose).to(tl.int32)
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


@triton.jit
def merged_halves(key, item, other, whose, N: tl.constexpr):
    """The first N of two tiles (1, N), one in order and one in the opposite order."""
    ahead = comes_first(key, item, other, whose)
    key, item = tl.where(ahead, key, other), tl.where(ahead, item, whose)
    if _have_rests(key):
        key, item = _merged(key, item, N)
    else:
        upper, item = _merged(_upper(key), item, N)
        key = _widened(upper)
    return key, item
