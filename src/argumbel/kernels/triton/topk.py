"""The first k of every row under keyed noise in Triton: of each tile the first k, then ``torch.topk`` of those."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .noise import Key, as_rows, launch, pointers, row_ids, row_seeds, take, tile, tile_shape, within
from .race import LAST, is_bad, is_far, rest_of

__all__ = ["gumbel_topk"]

SMALL_K = 64  # up to here each tile keeps its own first k


@triton.jit
def order_of(x):
    """32 bits that order, as integers, as the numbers do."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _perturb(
    x, x_stride, out, places, lines, n, blocks, seed, seeds, rows, items, stride,
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
    noise = tile(
        "gumbel", logits, row_seeds(seed, seeds, line, lines), row, line, start, n, lines, items, stride, ROWS, BLOCK
    )
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
