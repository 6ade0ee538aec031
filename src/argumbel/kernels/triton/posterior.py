"""The race given its winner in Triton. The noise is never stored.

Rows that fit a tile are done by one kernel. Of longer ones the blocks are weighed (``law.py``), ``_settle_height``
finds the height of each row's winner, and ``_truncate`` writes the values, a tile to a program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .law import weigh
from .noise import Key, as_rows, gumbel_of, launch, pointers, row_ids, row_seeds, take, tile, tile_shape, within
from .race import is_bad

__all__ = ["posterior_gumbel"]

LONGEST_TILE = 4096
BLOCK = 1024  # of longer rows


@triton.jit
def _below(top):
    """The float32 number before each number."""
    bits = top.to(tl.int32, bitcast=True)
    # Integers order as the numbers do, but that 0 is two of them.
    order = tl.where(top == 0.0, -1, bits ^ ((bits >> 31) & 0x7FFFFFFF)) - 1
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _height(top, rest, logit, given, noise, index, n, bad):
    """The height of each row's winner, NaN if the row is bad or the winner cannot have won it. The logsumexp of a row
    is top + rest, which is not rounded: far from 0 that would move the height."""
    height = top + (rest + noise) if given is None else given
    bad = bad | (top == float("-inf")) | (index < 0) | (index >= n) | (logit == float("-inf"))
    return tl.where(bad | ~(tl.abs(height) < float("inf")), float("nan"), height)


@triton.jit
def _truncated(logits, exponential, height, item, index):
    """Gumbels at the logits, made of exponential noise, given that they are at most the height: minus the logarithm of
    e^-logit times noise, plus e^-height. That of the winner is the height, all others are below it."""
    difference = logits - height
    lower = difference <= 0
    weight = tl.exp(tl.where(lower, difference, -difference))  # nothing overflows
    sums = tl.where(lower, exponential + weight, 1.0 + exponential * weight)
    values = tl.where(lower, logits, height) + gumbel_of(sums)
    values = tl.where(values < height, values, _below(height))
    values = tl.where(logits == float("-inf"), logits, values)
    return tl.where(height != height, height, tl.where(item == index, height, values))


@triton.jit
def _whole(
    x, x_stride, indices, given, out, lines, n, seed, seeds, rows, items, stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of one tile."""
    line = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    item = tl.arange(0, BLOCK)[None, :]
    row, seed_of_row = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines)
    logits = take(x, x_stride, line, lines, 0, n, float("-inf"), BLOCK)
    noise = tile("exponential", logits, seed_of_row, row, line, 0, n, lines, items, stride, ROWS, BLOCK)
    index = tl.load(indices + line, mask=line < lines, other=-1)
    won = item == index
    top = tl.max(logits, 1)[:, None]
    base = tl.where(top == float("-inf"), 0.0, top)
    rest = tl.log(tl.sum(tl.exp(logits - base), 1))[:, None]
    logit = tl.max(tl.where(won, logits, float("-inf")), 1)[:, None]
    own = gumbel_of(tl.sum(tl.where(won, noise, 0.0), 1)[:, None])
    bad = tl.max(is_bad(logits).to(tl.int32), 1)[:, None] > 0
    height = None if given is None else tl.load(given + line, mask=line < lines, other=0.0)
    height = _height(top, rest, logit, height, own, index, n, bad)
    tl.store(out + line * n + item, _truncated(logits, noise, height, item, index), mask=(line < lines) & (item < n))


@triton.jit
def _settle_height(
    x, x_stride, tops, rests, indices, given, heights, lines, n, blocks, seed, seeds, rows, items, stride,
    TILE: tl.constexpr,
):  # fmt: skip
    """The height of a row's winner, from what was weighed of its blocks."""
    line = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1), tl.int64)
    place = tl.arange(0, TILE)[None, :]
    most = tl.full((1, TILE), float("-inf"), tl.float32)
    bad = tl.zeros((1, TILE), tl.int1)
    for start in range(0, blocks, TILE):
        top = tl.load(tops + line * blocks + start + place, mask=start + place < blocks, other=float("-inf"))
        most = tl.maximum(most, top)
        bad = bad | is_bad(top)
    top = tl.max(most, 1)[:, None]
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros((1, TILE), tl.float32)
    for start in range(0, blocks, TILE):
        mask = start + place < blocks
        height = tl.load(tops + line * blocks + start + place, mask=mask, other=float("-inf")) - base
        rest = tl.load(rests + line * blocks + start + place, mask=mask, other=0.0)
        total += tl.where(height == float("-inf"), 0.0, tl.exp(height + rest))
    rest = tl.log(tl.sum(total, 1))[:, None]
    index = tl.load(indices + line)
    # The winner's noise, with that of its three neighbours in the same Philox block.
    inside = tl.minimum(tl.maximum(index, 0), n - 1)
    four = (inside // 4 * 4).to(tl.int32)
    row, seed_of_row = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines)
    noise = tile("gumbel", None, seed_of_row, row, line, four, n, lines, items, stride, 1, 4)
    own = tl.sum(tl.where(tl.arange(0, 4)[None, :] == inside - four, noise, 0.0), 1)[:, None]
    logit = tl.load(x + line * x_stride + inside).to(tl.float32)
    height = None if given is None else tl.load(given + line)
    is_bad_row = tl.max(bad.to(tl.int32), 1)[:, None] > 0
    tl.store(heights + line, _height(top, rest, logit, height, own, index, n, is_bad_row))


@triton.jit
def _truncate(
    x, x_stride, indices, heights, out, lines, n, blocks, seed, seeds, rows, items, stride, BLOCK: tl.constexpr
):
    """A tile of the values, from the height of the winner."""
    program = tl.program_id(0)
    line = program // blocks + tl.zeros((1, 1), tl.int64)
    start = program % blocks * BLOCK
    item = start + tl.arange(0, BLOCK)[None, :]
    row, seed_of_row = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines)
    logits = take(x, x_stride, line, lines, start, n, float("-inf"), BLOCK)
    noise = tile("exponential", logits, seed_of_row, row, line, start, n, lines, items, stride, 1, BLOCK)
    values = _truncated(logits, noise, tl.load(heights + line), item, tl.load(indices + line))
    tl.store(out + line * n + item, values, mask=within(start, n, BLOCK))


def posterior_gumbel(x: Tensor, index: Tensor, value: Tensor | None, key: Key) -> Tensor:
    """Values in float32, whatever x is. A bad row is NaN, and not reported."""
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if not x.numel():
        return out
    source = as_rows(x)
    lines, n = source.shape
    index, given = index.contiguous(), None if value is None else value.contiguous()
    ids = pointers(key, x.shape)
    if n <= LONGEST_TILE:
        rows, block = tile_shape(n, LONGEST_TILE) if n > BLOCK else tile_shape(n)
        launch(
            _whole, triton.cdiv(lines, rows), source, source.stride(0), index, given, out, lines, n, *ids,
            ROWS=rows, BLOCK=block, num_warps=4 if block <= BLOCK else 8,
        )  # fmt: skip
        return out
    tops, rests, weighed = weigh(source)
    heights = torch.empty(lines, dtype=torch.float32, device=x.device)
    launch(
        _settle_height, lines,
        source, source.stride(0), tops, rests, index, given, heights, lines, n, weighed, *ids,
        TILE=min(triton.next_power_of_2(weighed), 1024),
    )  # fmt: skip
    blocks = triton.cdiv(n, BLOCK)
    launch(
        _truncate, lines * blocks, source, source.stride(0), index, heights, out, lines, n, blocks, *ids, BLOCK=BLOCK
    )
    return out
