"""The race of a linear layer's logits in Triton, run in the epilogue of the matrix product: logits are never written.

Keyed, each tile of the product hands on its winner. As a law, a tile hands on two numbers for each few items
(``law.py``); the draw then makes the logits of the few that won once more.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..law import LAW_RACES
from .law import after_blocks, pick_block, weigh_tile
from .noise import FUSED, Key, as_rows, launch, pointers, row_ids, row_seeds, tile, tile_shape
from .race import first_of, is_bad, settle, store_winner, winner_of
from .softmax import COLD, temperature_of, temperature_pointer

__all__ = ["linear_categorical", "linear_gumbel_max"]

FEW = 16  # items that race as one
BLOCK = 128  # items of a tile
OWN = tl.constexpr(LAW_RACES["linear_categorical"])


@triton.jit
def _tempered(logits, temperature):
    """NaN where the temperature is none."""
    sound = (temperature >= 0.0) & (temperature < float("inf"))
    return tl.where(sound, logits / tl.where(temperature < COLD, 1.0, temperature), float("nan"))


@triton.jit
def _product(
    hidden, hidden_stride, weight, weight_stride, bias, tau, tau_stride, first, second, third, lines, n, depth, groups,
    seed, seeds, rows, items, stride,
    LAW: tl.constexpr, PRECISION: tl.constexpr, FEW: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    # Programs that share a stretch of the weight follow each other.
    line = (program % groups).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    block = program // groups
    item = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    at = tl.arange(0, DEPTH)
    logits = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, depth, DEPTH):
        place = start + at
        h = tl.load(
            hidden + line * hidden_stride + place[None, :], mask=(line < lines) & (place[None, :] < depth), other=0.0
        )
        w = tl.load(
            weight + item.to(tl.int64) * weight_stride + place[:, None],
            mask=(item < n) & (place[:, None] < depth),
            other=0.0,
        )
        if not FUSED:  # the interpreter multiplies the bits of bfloat16
            h, w = h.to(tl.float32), w.to(tl.float32)
        logits = tl.dot(h, w, logits, input_precision=PRECISION)
    if bias is not None:
        logits += tl.load(bias + item, mask=item < n, other=0.0).to(tl.float32)
    temperature = temperature_of(tau, tau_stride, line, lines)
    logits = tl.where(item < n, _tempered(logits, temperature), float("-inf"))
    if LAW:
        top, rest = weigh_tile(tl.reshape(logits, (ROWS * BLOCK // FEW, FEW)))
        few = block * (BLOCK // FEW) + tl.arange(0, BLOCK // FEW)[None, :]
        count = tl.cdiv(n, FEW)
        mask = (line < lines) & (few < count)
        tl.store(first + line * count + few, tl.reshape(top, (ROWS, BLOCK // FEW)), mask=mask)
        tl.store(second + line * count + few, tl.reshape(rest, (ROWS, BLOCK // FEW)), mask=mask)
    else:
        row = row_ids(rows, line, lines)
        noise = tile(
            "gumbel",
            logits,
            row_seeds(seed, seeds, line, lines),
            row,
            line,
            block * BLOCK,
            n,
            lines,
            items,
            stride,
            ROWS,
            BLOCK,
        )
        top, rest, index = winner_of(logits, tl.where(temperature < COLD, 0.0, noise), item)
        bad = tl.max(is_bad(logits).to(tl.int32), 1)[:, None] > 0
        place = line * tl.cdiv(n, BLOCK) + block
        store_winner(first, second, third, place, line < lines, top, rest, index, bad, False)


@triton.jit
def _draw(
    hidden, hidden_stride, weight, weight_stride, bias, tau, tau_stride, tops, rests, draws, heights, lines, n, depth,
    seed, FEW: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64) + tl.zeros((1, 1), tl.int64)
    key, blocks = tl.load(seed) ^ OWN, tl.cdiv(n, FEW)
    temperature = temperature_of(tau, tau_stride, line, lines)
    noise_scale = tl.where(temperature < COLD, 0.0, 1.0)
    block, height, _, bad = pick_block(tops, rests, line, lines, blocks, key, line, noise_scale, 1, TILE)
    item = block * FEW + tl.arange(0, FEW)[:, None]
    at = tl.arange(0, DEPTH)[None, :]
    logits = tl.zeros((FEW, 1), tl.float32)
    for start in range(0, depth, DEPTH):
        place = start + at
        h = tl.load(hidden + line * hidden_stride + place, mask=place < depth, other=0.0).to(tl.float32)
        w = tl.load(
            weight + item.to(tl.int64) * weight_stride + place, mask=(item < n) & (place < depth), other=0.0
        ).to(tl.float32)
        logits += tl.sum(h * w, 1)[:, None]
    if bias is not None:
        logits += tl.load(bias + item, mask=item < n, other=0.0).to(tl.float32)
    logits = tl.reshape(tl.where(item < n, _tempered(logits, temperature), float("-inf")), (1, FEW))
    noise = tile("gumbel", logits, key, line, line, after_blocks(blocks, TILE), n, lines, None, 0, 1, FEW)
    _, index = first_of(logits - height + noise_scale * noise, tl.reshape(item, (1, FEW)))
    one = tl.zeros((1, 1), tl.int32) == 0
    tl.store(draws + line, tl.where(bad, -1, index), mask=one)
    tl.store(heights + line, tl.where(bad, float("nan"), height), mask=one)


def _is_tf32() -> bool:
    """What PyTorch is told of its own products of float32, by its older or its newer interface."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def _launch_product(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, first: Tensor, second: Tensor,
    third: Tensor | None, ids: tuple[Any, ...], law: bool,
) -> None:  # fmt: skip
    (lines, depth), n = hidden.shape, weight.shape[0]
    # A tile of noise takes registers, the more so under ids of one's own.
    rows = min(max(triton.next_power_of_2(lines), 16), 128 if law else 64 if ids[3] is None else 32)
    groups = triton.cdiv(lines, rows)
    single = hidden.dtype == torch.float32
    precision = "tf32" if single and _is_tf32() else "ieee"
    launch(
        _product, groups * triton.cdiv(n, BLOCK),
        hidden, hidden.stride(0), weight, weight.stride(0), bias, *temperature_pointer(temperature, hidden),
        first, second, third, lines, n, depth, groups, *ids,
        LAW=law, PRECISION=precision, FEW=FEW, ROWS=rows, BLOCK=BLOCK, DEPTH=32 if single else 64,
        num_warps=4 if rows < 64 else 8,
    )  # fmt: skip


def linear_gumbel_max(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, key: Key
) -> tuple[Tensor, Tensor]:
    """The winners, values in float32; a bad row has NaN and -1. temperature: float32, of one element or one a row."""
    shape = hidden.shape[:-1]
    values = torch.empty(shape, dtype=torch.float32, device=hidden.device)
    indices = torch.empty(shape, dtype=torch.int64, device=hidden.device)
    if values.numel():
        source, matrix = as_rows(hidden), as_rows(weight)
        bias = None if bias is None else bias.contiguous()
        n = matrix.shape[0]
        part_values = values.new_empty((values.numel(), triton.cdiv(n, BLOCK)))
        part_rests, part_indices = torch.empty_like(part_values), indices.new_empty(part_values.shape)
        ids = pointers(key, torch.Size((*shape, n)))
        _launch_product(source, matrix, bias, temperature, part_values, part_rests, part_indices, ids, False)
        settle(part_values, part_rests, part_indices, values, indices)
    return values, indices


def linear_categorical(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: Tensor, key: tuple[Tensor]
) -> tuple[Tensor, Tensor]:
    """Largest logits and draws; a bad row has NaN and -1."""
    (seed,) = key
    shape = hidden.shape[:-1]
    draws = torch.empty(shape, dtype=torch.int64, device=hidden.device)
    heights = torch.empty(shape, dtype=torch.float32, device=hidden.device)
    if draws.numel():
        source, matrix = as_rows(hidden), as_rows(weight)
        bias = None if bias is None else bias.contiguous()
        n, depth = matrix.shape
        blocks = triton.cdiv(n, FEW)
        tops, rests = torch.empty((2, draws.numel(), blocks), dtype=torch.float32, device=hidden.device)
        _launch_product(source, matrix, bias, temperature, tops, rests, None, (None, None, None, None, 0), True)
        launch(
            _draw, draws.numel(),
            source, source.stride(0), matrix, matrix.stride(0), bias, *temperature_pointer(temperature, hidden),
            tops, rests, draws, heights, draws.numel(), n, depth, seed,
            FEW=FEW, TILE=tile_shape(blocks)[1],
            DEPTH=min(max(triton.next_power_of_2(depth), 16), 512), num_warps=8,
        )  # fmt: skip
    return heights, draws
