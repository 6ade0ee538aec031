"""Exact draws in Triton: a block of items races as one Gumbel at its logsumexp, so that the logits are read once.

``_weigh`` reads them, and writes two numbers a block: its largest logit, and the log of the sum of all weights relative
to it. ``_draw`` races the blocks of a row, then the items of the block that won. Its noise is that of the keyed race,
under a seed of its own: the blocks are items 0, 1, ... and the items of the winner follow them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..law import LAW_RACES
from .noise import as_rows, launch, take, tile, tile_shape
from .race import LAST, first_of, is_bad, repeated_max

__all__ = ["BLOCK", "after_blocks", "categorical", "pick_block", "weigh", "weigh_tile"]

BLOCK = 1024  # items that race as one
GROUP = 4  # blocks that a program weighs
OWN = tl.constexpr(LAW_RACES["categorical"])


@triton.jit
def weigh_tile(logits):
    """Of each row of a tile the largest logit, NaN if one is bad, and the log of the sum of e^(logit - largest)."""
    top = tl.max(logits, 1)
    base = tl.where(top == float("-inf"), 0.0, top)
    rest = tl.log(tl.sum(tl.exp(logits - base[:, None]), 1))
    return tl.where(tl.max(is_bad(logits).to(tl.int32), 1) > 0, float("nan"), top), rest


@triton.jit
def _weigh(x, x_stride, tops, rests, n, blocks, groups, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    line = (program // groups).to(tl.int64)
    block = program % groups * GROUP + tl.arange(0, GROUP)
    # As rows of a matrix of blocks.
    logits = take(
        x + line * x_stride, BLOCK, block[:, None], blocks, 0, n - block[:, None] * BLOCK, float("-inf"), BLOCK
    )
    top, rest = weigh_tile(logits)
    tl.store(tops + line * blocks + block, top, mask=block < blocks)
    tl.store(rests + line * blocks + block, rest, mask=block < blocks)


@triton.jit
def pick_block(tops, rests, line, lines, blocks, seed, row, noise_scale, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Of each row the block that wins, the largest logit of all, the sum of weights relative to it, and if it is bad.

    ``noise_scale`` multiplies the noise, and what differs between blocks beside their largest logits; 0 is the argmax.
    """
    place = tl.arange(0, TILE)[None, :]
    most = tl.full((ROWS, TILE), float("-inf"), tl.float32)
    bad = tl.zeros((ROWS, TILE), tl.int1)
    for start in range(0, blocks, TILE):
        block = start + place
        mask = (block < blocks) & (line < lines)
        top = tl.load(tops + line * blocks + block, mask=mask, other=float("-inf"))
        most = tl.maximum(most, top)
        bad = bad | is_bad(top)
    height = tl.max(most, 1)[:, None]
    base = tl.where(height == float("-inf"), 0.0, height)
    total = tl.zeros((ROWS, TILE), tl.float32)
    best = tl.full((ROWS, TILE), float("-inf"), tl.float32)
    winner = tl.full((ROWS, TILE), LAST, tl.int32)
    for start in range(0, blocks, TILE):
        block = start + place
        mask = (block < blocks) & (line < lines)
        top = tl.load(tops + line * blocks + block, mask=mask, other=float("-inf")) - base
        rest = tl.load(rests + line * blocks + block, mask=mask, other=0.0)
        noise = tile("gumbel", top, seed, row, line, start, blocks, lines, None, 0, ROWS, TILE)
        # What stands against a block without any weight is -inf, and stays it.
        keys = top + noise_scale * (noise + tl.where(top == float("-inf"), 0.0, rest))
        better = keys > best
        best, winner = tl.where(better, keys, best), tl.where(better, block, winner)
        total += tl.where(top == float("-inf"), 0.0, tl.exp(top + rest))
    _, index = first_of(best, winner)
    is_bad_row = (tl.max(bad.to(tl.int32), 1)[:, None] > 0) | (height == float("-inf"))
    return tl.where(is_bad_row, 0, index), base, tl.sum(total, 1)[:, None], is_bad_row


@triton.jit
def after_blocks(blocks, TILE: tl.constexpr):
    """Where, in the noise of a draw, that of the winner's items begins: no tile of ``pick_block`` reaches there."""
    return (blocks + TILE) // TILE * TILE


@triton.jit
def _draw(
    x, x_stride, tops, rests, draws, log_z, lines, n, blocks, count, seed,
    ROWS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    line = tl.where(row < count, row % lines, lines)
    key = tl.load(seed) ^ OWN
    block, height, total, bad = pick_block(tops, rests, line, lines, blocks, key, row, 1.0, ROWS, TILE)
    logits = take(x, x_stride, line, lines, block * BLOCK, n, float("-inf"), BLOCK)
    item = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    noise = tile("gumbel", logits, key, row, line, after_blocks(blocks, TILE), n, lines, None, 0, ROWS, BLOCK)
    _, index = first_of(logits - height + noise, item)
    tl.store(draws + row, tl.where(bad, -1, index), mask=row < count)
    if log_z is not None:
        value = height.to(tl.float64) + tl.log(total.to(tl.float64))
        tl.store(log_z + line, tl.where(bad, float("nan"), value), mask=row < lines)


def weigh(source: Tensor) -> tuple[Tensor, Tensor, int]:
    """Of each block of each row its largest logit, NaN if one is bad, and the log of the sum of all weights relative to
    it, float32 (lines, blocks); and the number of blocks."""
    lines, n = source.shape
    blocks = triton.cdiv(n, BLOCK)
    groups = triton.cdiv(blocks, GROUP)
    tops, rests = torch.empty((2, lines, blocks), dtype=torch.float32, device=source.device)
    launch(
        _weigh, lines * groups,
        source, source.stride(0), tops, rests, n, blocks, groups, GROUP=GROUP, BLOCK=BLOCK,
    )  # fmt: skip
    return tops, rests, blocks


def categorical(
    x: Tensor, sample_shape: torch.Size, with_log_z: bool, key: tuple[Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Draws of shape sample_shape + x.shape[:-1], -1 in bad rows, and log Z (float64) where it is wanted."""
    (seed,) = key
    sample_shape = torch.Size(sample_shape)
    shape = (*sample_shape, *x.shape[:-1])
    if x.shape[-1] <= BLOCK and not with_log_z:  # one block: the race of its items
        return repeated_max(x, sample_shape, (seed, None, None), LAW_RACES["categorical"])[1], None
    draws = torch.empty(shape, dtype=torch.int64, device=x.device)
    log_z = torch.empty(x.shape[:-1], dtype=torch.float64, device=x.device) if with_log_z else None
    if draws.numel():
        source = as_rows(x)
        lines, n = source.shape
        tops, rests, blocks = weigh(source)
        _, tile_size = tile_shape(blocks)
        rows = max(1024 // max(tile_size, BLOCK), 1)
        launch(
            _draw, triton.cdiv(draws.numel(), rows),
            source, source.stride(0), tops, rests, draws, log_z,
            lines, n, blocks, draws.numel(), seed, ROWS=rows, TILE=tile_size, BLOCK=BLOCK,
        )  # fmt: skip
    return draws, log_z
