"""The relaxed race in Triton, and its gradient. Noise is made again wherever it is needed, and never stored.

Rows that fit a tile are done by one kernel. Of longer ones ``_measure`` finds maximum and sums, segment by segment, and
``_write`` makes the result from them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .noise import Key, as_rows, launch, pointers, put, row_ids, row_seeds, take, tile, tile_shape, within
from .race import LAST, is_bad, is_far, rest_of, segments, settled_of, winner_of

__all__ = [
    "COLD",
    "gumbel_softmax",
    "gumbel_softmax_backward",
    "gumbel_softmax_backward_keyed",
    "temperature_of",
    "temperature_pointer",
]

LONGEST_TILE = 4096
BLOCK = 1024  # of longer rows
PROGRAMS = 2048  # to cut longer rows for, of four warps
MOST_SEGMENTS = 512  # of a row: each program reads what was measured of all
HUGE = tl.constexpr(torch.finfo(torch.float32).max)
COLD = tl.constexpr(2.0**-60)  # a temperature below counts as 0 (argumbel._core.checks)


@triton.jit
def temperature_of(tau, stride, line, lines):
    if tau.dtype.is_ptr():
        value = tl.load(tau + line * stride, mask=line < lines, other=1.0)
    else:
        value = tau + tl.zeros_like(line).to(tl.float32)
    return value


@triton.jit
def _keys(x, x_stride, line, start, n, lines, key, row, items, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Logits, -inf beyond the row, their noise, and which rows have bad logits."""
    logits = take(x, x_stride, line, lines, start, n, float("-inf"), BLOCK)
    noise = tile("gumbel", logits, key, row, line, start, n, lines, items, stride, ROWS, BLOCK)
    return logits, noise, tl.max(is_bad(logits).to(tl.int32), 1)[:, None] > 0


@triton.jit
def _below(keys, rest, top, top_rest):
    """Keys, and what rounding took off them, measured from the largest; -inf stays what it is."""
    below = (keys - tl.where(top == float("-inf"), 0.0, top)) + (rest - top_rest)
    return tl.where(keys == float("-inf"), float("-inf"), below)


@triton.jit
def _measured(logits, noise, top, rest):
    """Sums of logits and noise, measured from the largest, top, and what rounding took off it."""
    keys = logits + noise
    below = keys - tl.where(top == float("-inf"), 0.0, top)
    if tl.max(is_far(top).to(tl.int32)) > 0:
        exact = _below(keys, rest_of(logits, noise, keys), top, rest)
        below = tl.where(is_far(top), exact, below)
    return below


@triton.jit
def _weights(below, temperature):
    """e^(below / tau): keys are measured from their maximum, so that a huge factor leaves the argmax alone."""
    scale = tl.where(temperature < COLD, HUGE, 1.0 / temperature)
    return tl.where(below == float("-inf"), 0.0, tl.exp(below * scale))  # also at tau = inf


@triton.jit
def _sample(weights, total, item, winner, temperature, bad, HARD: tl.constexpr):
    """The relaxed sample; exactly one-hot where it is hard or cold."""
    exact = tl.where(item == winner, 1.0, 0.0)
    y = exact
    if not HARD:
        y = tl.where(temperature < COLD, exact, weights / total)
    return tl.where(bad, float("nan"), y)


@triton.jit
def _slope(y, grad, dot, temperature):
    """The gradient with respect to keys: zero at tau = 0, where the sample is exact and does not move."""
    scale = tl.where(temperature < COLD, 0.0, 1.0 / temperature)
    return y * (grad - dot) * scale


@triton.jit
def _whole(
    x, x_stride, grad, grad_stride, tau, tau_stride, out, lines, n, seed, seeds, rows, items, stride,
    HARD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of one tile: the sample, or, given the gradient of a loss with respect to it, that with respect to x.
    Without a key x is the sample."""
    line = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    item = tl.arange(0, BLOCK)[None, :]
    start = 0
    temperature = temperature_of(tau, tau_stride, line, lines)
    if seed is None:
        y = take(x, x_stride, line, lines, start, n, 0.0, BLOCK)
    else:
        row = row_ids(rows, line, lines)
        logits, noise, bad = _keys(
            x, x_stride, line, start, n, lines, row_seeds(seed, seeds, line, lines), row, items, stride, ROWS, BLOCK
        )
        top, rest, winner = winner_of(logits, noise, item)
        weights = _weights(_measured(logits, noise, top, rest), temperature)
        total = tl.sum(weights, 1)[:, None]
        y = _sample(weights, total, item, winner, temperature, bad | (top == float("-inf")), HARD)
    if grad is not None:
        slope = take(grad, grad_stride, line, lines, start, n, 0.0, BLOCK)
        y = _slope(y, slope, tl.sum(y * slope, 1)[:, None], temperature)
    put(out + line * n + item, y, (line < lines) & within(start, n, BLOCK))


@triton.jit
def _measure(
    x, x_stride, grad, grad_stride, tau, tau_stride, tops, rests, winners, totals, dots, lines, n, parts, steps,
    seed, seeds, rows, items, stride, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of a segment of a row: the largest key (NaN in a bad row), its rest and its item, the sum of weights relative to
    it, and that of weight times gradient. Without a key x is the sample, and the last is the sum of sample times
    gradient."""
    program = tl.program_id(0)
    line = program // parts + tl.zeros((1, 1), tl.int64)
    begin = program % parts * steps * BLOCK
    temperature = temperature_of(tau, tau_stride, line, lines)
    top = tl.full((1, 1), float("-inf"), tl.float32)
    rest = tl.zeros((1, 1), tl.float32)
    winner = tl.full((1, 1), LAST, tl.int32)
    total = tl.zeros((1, 1), tl.float32)
    dot = tl.zeros((1, 1), tl.float32)
    bad = tl.zeros((1, 1), tl.int1)
    for step in range(steps):
        start = begin + step * BLOCK
        item = start + tl.arange(0, BLOCK)[None, :]
        if seed is None:
            weights = take(x, x_stride, line, lines, start, n, 0.0, BLOCK)
        else:
            row = row_ids(rows, line, lines)
            logits, noise, bad_here = _keys(
                x, x_stride, line, start, n, lines, row_seeds(seed, seeds, line, lines), row, items, stride, 1, BLOCK
            )
            bad = bad | bad_here
            highest, most, index = winner_of(logits, noise, item)
            ahead = (highest > top) | ((highest == top) & (most > rest))
            winner = tl.where(ahead, index, winner)
            higher, higher_rest = tl.maximum(highest, top), tl.where(ahead, most, rest)
            factor = _weights(_below(top, rest, higher, higher_rest), temperature)
            top, rest = higher, higher_rest
            weights = _weights(_measured(logits, noise, top, rest), temperature)
            total = total * factor + tl.sum(weights, 1)[:, None]
            dot = dot * factor
        if grad is not None:
            dot += tl.sum(weights * take(grad, grad_stride, line, lines, start, n, 0.0, BLOCK), 1)[:, None]
    place = line * parts + program % parts
    if seed is not None:
        tl.store(tops + place, tl.where(bad, float("nan"), top))
        tl.store(rests + place, rest)
        tl.store(winners + place, winner)
        tl.store(totals + place, total)
    if grad is not None:
        tl.store(dots + place, dot)


@triton.jit
def _write(
    x, x_stride, grad, grad_stride, tau, tau_stride, tops, rests, winners, totals, dots, out, lines, n, parts, steps,
    seed, seeds, rows, items, stride, HARD: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A segment of the result, from what was measured of all segments of its row."""
    program = tl.program_id(0)
    line = program // parts + tl.zeros((1, 1), tl.int64)
    begin = program % parts * steps * BLOCK
    temperature = temperature_of(tau, tau_stride, line, lines)
    part = tl.arange(0, PARTS)[None, :]
    place, is_part = line * parts + part, part < parts
    dot = tl.zeros((1, 1), tl.float32)
    if grad is not None:
        dot_parts = tl.load(dots + place, mask=is_part, other=0.0)
        dot = tl.sum(dot_parts, 1)[:, None]
    if seed is not None:
        top_parts = tl.load(tops + place, mask=is_part, other=float("-inf"))
        rest_parts = tl.load(rests + place, mask=is_part, other=0.0)
        item_parts = tl.load(winners + place, mask=is_part, other=LAST)
        top, rest, winner = settled_of(top_parts, rest_parts, item_parts)
        bad = (tl.max(is_bad(top_parts).to(tl.int32), 1)[:, None] > 0) | (top == float("-inf"))
        factor = _weights(_below(top_parts, rest_parts, top, rest), temperature)
        total = tl.sum(tl.load(totals + place, mask=is_part, other=0.0) * factor, 1)[:, None]
        if grad is not None:
            dot = tl.sum(dot_parts * factor, 1)[:, None] / total
    for step in range(steps):
        start = begin + step * BLOCK
        item = start + tl.arange(0, BLOCK)[None, :]
        if seed is None:
            y = take(x, x_stride, line, lines, start, n, 0.0, BLOCK)
        else:
            row = row_ids(rows, line, lines)
            logits, noise, _ = _keys(
                x, x_stride, line, start, n, lines, row_seeds(seed, seeds, line, lines), row, items, stride, 1, BLOCK
            )
            weights = _weights(_measured(logits, noise, top, rest), temperature)
            y = _sample(weights, total, item, winner, temperature, bad, HARD)
        if grad is not None:
            y = _slope(y, take(grad, grad_stride, line, lines, start, n, 0.0, BLOCK), dot, temperature)
        put(out + line * n + item, y, within(start, n, BLOCK))


def temperature_pointer(tau: Tensor, x: Tensor) -> tuple[Tensor | float, int]:
    """As kernels take it, with its stride between rows: a number that is known here needs no memory of the device."""
    if tau.device.type == "cpu" and x.device.type != "cpu":
        return float(tau), 0
    return tau, int(tau.numel() > 1)


def _run(x: Tensor, grad: Tensor | None, tau: Tensor, hard: bool, key: Key | None) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not x.numel():
        return out
    source = as_rows(x)
    lines, n = source.shape
    upstream = None if grad is None else as_rows(grad)
    common = (
        source, source.stride(0), upstream, 0 if upstream is None else upstream.stride(0), *temperature_pointer(tau, x)
    )  # fmt: skip
    ids = (None, None, None, None, 0) if key is None else pointers(key, x.shape)
    if n <= LONGEST_TILE:
        rows, block = tile_shape(n, LONGEST_TILE) if n > BLOCK else tile_shape(n)
        launch(
            _whole, triton.cdiv(lines, rows), *common, out, lines, n, *ids, HARD=hard, ROWS=rows, BLOCK=block,
            num_warps=4 if block <= BLOCK else 8,
        )  # fmt: skip
        return out
    parts, steps = segments(lines, n, BLOCK, PROGRAMS, MOST_SEGMENTS)
    tops, rests, totals, dots = torch.empty((4, lines, parts), dtype=torch.float32, device=x.device)
    winners = torch.empty((lines, parts), dtype=torch.int64, device=x.device)
    measured = (tops, rests, winners, totals, dots)
    launch(_measure, lines * parts, *common, *measured, lines, n, parts, steps, *ids, BLOCK=BLOCK)
    launch(
        _write, lines * parts, *common, *measured, out, lines, n, parts, steps, *ids,
        HARD=hard, PARTS=triton.next_power_of_2(parts), BLOCK=BLOCK,
    )  # fmt: skip
    return out


def gumbel_softmax(x: Tensor, tau: Tensor, hard: bool, key: Key) -> Tensor:
    """tau: float32, of one element (which may lie on the CPU) or one a row. A bad row is NaN, and not reported."""
    return _run(x, None, tau, hard, key)


def gumbel_softmax_backward(y: Tensor, grad: Tensor, tau: Tensor, key: tuple[()]) -> Tensor:
    return _run(y, grad, tau, False, None)


def gumbel_softmax_backward_keyed(x: Tensor, grad: Tensor, tau: Tensor, key: Key) -> Tensor:
    """The gradient with respect to x, from that with respect to the soft sample, which is made again from its key."""
    return _run(x, grad, tau, False, key)
