"""The first k of every row under keyed noise in Triton, which is never stored.

The first k items of a long row lie in the k groups of neighbours whose best items are best. So ``_heights`` finds the
best item of each group of G, ``order.py`` the first k of these, and ``_again`` the first k of the items of these
groups, whose noise it makes a second time. With G about sqrt(n / k), 2 sqrt(n k) entries are put in order instead of n:
of a million items and k = 1000 one in 16. To put an entry in order takes more instructions than its noise
(``kernels/README.md``). Where k is more than a 16th of n, and where a row is one tile, ``_perturb`` puts all items in
order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bitonic import PAD, first_of_tile, is_bad_row, keep, key_of
from .noise import Key, as_sources, launch, pointers, row_ids, row_seeds, take, tile, tile_shape
from .order import BLOCK, empty_entries, first_of_entries, kept_of
from .race import LAST

__all__ = ["group_size", "gumbel_topk", "keep_first", "open_groups", "repeated_topk"]

LEAST_GAIN = 16  # items for each of the k from which on groups pay
LARGEST_GROUP = 256  # so that a tile has four groups


@triton.jit
def _perturb(
    x, x_stride, sources, keys, items_kept, values, indices, lines, n, tiles, k, seed, seeds, rows, items, stride,
    OWN: tl.constexpr, FINAL: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first K items of each tile of each row; FINAL: a tile is a whole row, and the first k are the result.
    ``lines`` may be a multiple of the rows of x, ``sources``. ``OWN`` are the bits of the seed that are changed."""
    program = tl.program_id(0)
    line = (program // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    which = program % tiles
    start = which * BLOCK
    row, seed_of_row = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines) ^ OWN
    logits = take(x, x_stride, tl.where(line < lines, line % sources, sources), sources, start, n, float("-inf"), BLOCK)
    noise = tile("gumbel", logits, seed_of_row, row, line, start, n, lines, items, stride, ROWS, BLOCK)
    item = start + tl.arange(0, BLOCK)[None, :] + tl.zeros((ROWS, 1), tl.int32)
    key, item = first_of_tile(key_of(logits, noise), item, ROWS, BLOCK, K)
    bad = is_bad_row(tl.max(key, 1))[:, None]
    width = k if FINAL else tiles * K
    keep(keys, items_kept, values, indices, key, item, line, lines, which * K, width, bad, FINAL, K)


@triton.jit
def best_of_groups(key, item, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """Of a tile (1, BLOCK) the first entry of each group of neighbours: (1, BLOCK // GROUP)."""
    key = tl.reshape(key, [1, BLOCK // GROUP, GROUP])
    item = tl.reshape(item, [1, BLOCK // GROUP, GROUP])
    best = tl.max(key, 2)
    return best, tl.min(tl.where(key == tl.reshape(best, [1, BLOCK // GROUP, 1]), item, LAST), 2)


@triton.jit
def _heights(
    x, x_stride, sources, keys, items_kept, lines, n, tiles, groups, seed, seeds, rows, items, stride,
    OWN: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The best item of each group of neighbours."""
    program = tl.program_id(0)
    line = program // tiles + tl.zeros((1, 1), tl.int64)
    which = program % tiles
    start = which * BLOCK
    row, seed_of_row = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines) ^ OWN
    logits = take(x, x_stride, line % sources, sources, start, n, float("-inf"), BLOCK)
    noise = tile("gumbel", logits, seed_of_row, row, line, start, n, lines, items, stride, 1, BLOCK)
    key, item = best_of_groups(key_of(logits, noise), start + tl.arange(0, BLOCK)[None, :], GROUP, BLOCK)
    keep(
        keys, items_kept, None, None, key, item, line, lines, which * (BLOCK // GROUP), groups, False,
        False, BLOCK // GROUP,
    )  # fmt: skip


@triton.jit
def open_groups(x, x_stride, sources, chosen, lines, n, tiles, k, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """A tile of the items of the groups of items ``chosen``, (lines, k), a group to a row: its line and its number in
    the line; where each group begins, its line, which is ``lines`` where there is none, and its logits."""
    program = tl.program_id(0)
    here = program // tiles + tl.zeros((1, 1), tl.int64)
    which = program % tiles
    at = which * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)[:, None]
    first = tl.load(chosen + here * k + at, mask=at < k, other=-1)
    start, line = tl.maximum(first, 0) // GROUP * GROUP, tl.where(first < 0, lines, here)
    source = tl.where(line < lines, line % sources, sources)
    return here, which, start, line, take(x, x_stride, source, sources, start, n, float("-inf"), GROUP)


@triton.jit
def keep_first(
    keys, items, values, indices, key, here, which, start, line, lines, tiles, k,
    FINAL: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keep the first K of such a tile."""
    item = (start + tl.arange(0, GROUP)[None, :]).to(tl.int32)
    key = tl.where(line < lines, key, PAD)
    key, item = first_of_tile(tl.reshape(key, [1, BLOCK]), tl.reshape(item, [1, BLOCK]), 1, BLOCK, K)
    bad = is_bad_row(tl.max(key, 1))[:, None]
    width = k if FINAL else tiles * K
    keep(keys, items, values, indices, key, item, here, lines, which * K, width, bad, FINAL, K)


@triton.jit
def _again(
    x, x_stride, sources, chosen, keys, items_kept, values, indices, lines, n, tiles, k,
    seed, seeds, rows, items, stride,
    OWN: tl.constexpr, FINAL: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first K of each tile of the items of the groups that were chosen."""
    here, which, start, line, logits = open_groups(x, x_stride, sources, chosen, lines, n, tiles, k, GROUP, BLOCK)
    row, seed_of_row = row_ids(rows, line, lines), row_seeds(seed, seeds, line, lines) ^ OWN
    noise = tile("gumbel", logits, seed_of_row, row, line, start, n, lines, items, stride, BLOCK // GROUP, GROUP)
    key = key_of(logits, noise)
    keep_first(
        keys, items_kept, values, indices, key, here, which, start, line, lines, tiles, k, FINAL, K, GROUP, BLOCK
    )


def group_size(n: int, k: int) -> int:
    """Of how many items a group is where the first k of n are wanted: the power of two next to sqrt(n / k), at least 4;
    1 where groups do not pay."""
    if n <= BLOCK or n < LEAST_GAIN * k:
        return 1
    return min(1 << (math.isqrt(2 * n // k).bit_length() - 1), LARGEST_GROUP, BLOCK // 4)


def gumbel_topk(x: Tensor, k: int, key: Key) -> tuple[Tensor, Tensor]:
    """The first k of each row; where fewer are allowed the rest is NaN and -1, as is all of a bad row."""
    return repeated_topk(x, k, key)


def repeated_topk(x: Tensor, k: int, key: Key, own: int = 0) -> tuple[Tensor, Tensor]:
    """The same; ``own`` are the bits of the seed that are changed."""
    shape = (*x.shape[:-1], k)
    values, indices = x.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=x.device)
    if not indices.numel():
        return values, indices
    source, lines = as_sources(x)
    sources, n = source.shape
    common = (source, source.stride(0), sources)
    ids = pointers(key, x.shape)
    group = group_size(n, k)
    if group > 1:
        groups, tiles = triton.cdiv(n, group), triton.cdiv(n, BLOCK)
        heights = empty_entries(lines, groups, x.device)
        launch(
            _heights, lines * tiles, *common, *heights, lines, n, tiles, groups, *ids,
            OWN=own, GROUP=group, BLOCK=BLOCK,
        )  # fmt: skip
        chosen = torch.empty((lines, k), dtype=torch.int64, device=x.device)
        first_of_entries(heights, k, None, chosen)
        rows, block, tiles = 1, BLOCK, triton.cdiv(k, BLOCK // group)
    else:
        rows, block = tile_shape(n, BLOCK)
        tiles = triton.cdiv(n, block)
    kept = kept_of(k, block)
    stored = None if tiles == 1 else empty_entries(lines, tiles * kept, x.device)
    result = (None, None, values, indices) if stored is None else (*stored, None, None)
    if group > 1:
        launch(
            _again, lines * tiles, *common, chosen, *result, lines, n, tiles, k, *ids,
            OWN=own, FINAL=stored is None, K=kept, GROUP=group, BLOCK=BLOCK,
        )  # fmt: skip
    else:
        launch(
            _perturb, triton.cdiv(lines, rows) * tiles, *common, *result, lines, n, tiles, k, *ids,
            OWN=own, FINAL=stored is None, K=kept, ROWS=rows, BLOCK=block,
        )  # fmt: skip
    if stored is not None:
        first_of_entries(stored, k, values, indices, run=kept)
    return values, indices
