"""Draws without replacement in Triton: a group of items races as one Gumbel at its logsumexp, and needs no more noise
unless it is among the first k groups.

As in ``topk.py``, the first k items lie in the k groups with the best items. How good the best item of a group is
(``_weigh_groups``) takes one number of noise, and the logits are read once for it. Then the items of k groups get noise
given the best of each (``_reopen``): where items arrive freely at times t, ``t - min t + T`` has the law of times whose
first is T, since what an exponential clock does after the first has rung does not depend on when that was (Kool, van
Hoof and Welling 2019, "Stochastic beams and where to find them", appendix B). So a row costs one pass without noise.

The noise is that of the keyed race, under a seed of its own: the items of a row are items 0, 1, ..., and its groups
come after them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..law import LAW_RACES
from .bitonic import keep, key_of
from .noise import as_sources, launch, take, tile
from .order import BLOCK, empty_entries, first_of_entries, kept_of
from .race import is_bad
from .topk import group_size, keep_first, open_groups, repeated_topk

__all__ = ["sample_without_replacement"]

OWN = tl.constexpr(LAW_RACES["sample_without_replacement"])


@triton.jit
def _after_items(n):
    """Where the noise of groups begins: the next multiple of four."""
    return (n.to(tl.int64) + 3) // 4 * 4


@triton.jit
def _weigh_groups(
    x, x_stride, sources, keys, items, heights, lines, n, tiles, groups, seed, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """The best of each group of neighbours: as an entry, and its height above the largest logit of the group."""
    program = tl.program_id(0)
    line = program // tiles + tl.zeros((1, 1), tl.int64)
    start = program % tiles * BLOCK
    first = program % tiles * (BLOCK // GROUP)
    logits = take(x, x_stride, line % sources, sources, start, n, float("-inf"), BLOCK)
    logits = tl.reshape(logits, [1, BLOCK // GROUP, GROUP])
    top = tl.max(logits, 2)
    base = tl.where(top == float("-inf"), 0.0, top)
    rest = tl.log(tl.sum(tl.exp(logits - tl.reshape(base, [1, BLOCK // GROUP, 1])), 2))
    top = tl.where(tl.max(is_bad(logits).to(tl.int32), 2) > 0, float("inf"), top)
    noise = tile(
        "gumbel", None, tl.load(seed) ^ OWN, line, line, _after_items(n) + first, n, lines, None, 0,
        1, BLOCK // GROUP,
    )  # fmt: skip
    height = tl.where(top == float("-inf"), 0.0, rest + noise)
    which = first + tl.arange(0, BLOCK // GROUP)[None, :]
    keep(
        keys, items, None, None, key_of(top, height), which * GROUP, line, lines, first, groups, False,
        False, BLOCK // GROUP,
    )  # fmt: skip
    tl.store(heights + line * groups + which, height, mask=which < groups)


@triton.jit
def _given_best(logits, noise, height):
    """Noise under which the best of each row of a tile has this height above the largest logit, and the others are as
    they are below it; ``noise`` is that of a free race."""
    top = tl.max(logits, 1)[:, None]
    relative = logits - tl.where(top == float("-inf"), 0.0, top) + noise
    behind = tl.max(relative, 1)[:, None] - relative
    # 1 - exp(-behind), by its series where the difference would have few digits.
    series = behind * (1.0 - behind * (0.5 - behind * (1.0 / 6.0 - behind * (1.0 / 24.0))))
    since = tl.where(behind < 0.03, series, 1.0 - tl.exp(-behind))
    return noise - tl.log(since + tl.exp(relative - height))


@triton.jit
def _reopen(
    x, x_stride, sources, chosen, heights, keys, items, values, indices, lines, n, tiles, groups, k, seed,
    FINAL: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first K of each tile of the items of the groups that were chosen."""
    here, which, start, line, logits = open_groups(x, x_stride, sources, chosen, lines, n, tiles, k, GROUP, BLOCK)
    noise = tile("gumbel", logits, tl.load(seed) ^ OWN, line, line, start, n, lines, None, 0, BLOCK // GROUP, GROUP)
    height = tl.load(heights + line * groups + start // GROUP, mask=line < lines, other=0.0)
    key = key_of(logits, _given_best(logits, noise, height))
    keep_first(keys, items, values, indices, key, here, which, start, line, lines, tiles, k, FINAL, K, GROUP, BLOCK)


def sample_without_replacement(x: Tensor, k: int, key: tuple[Tensor]) -> tuple[Tensor, Tensor]:
    """The first k of each row; where fewer are allowed the rest is NaN and -1, as is all of a bad row. Where groups do
    not pay, by the keyed race of all items."""
    (seed,) = key
    shape = (*x.shape[:-1], k)
    group = group_size(x.shape[-1], k) if k else 1
    if group == 1 or not x.numel():
        return repeated_topk(x, k, (seed, None, None), LAW_RACES["sample_without_replacement"])
    values, indices = x.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=x.device)
    source, lines = as_sources(x)
    sources, n = source.shape
    common = (source, source.stride(0), sources)
    groups, tiles = triton.cdiv(n, group), triton.cdiv(n, BLOCK)
    best = empty_entries(lines, groups, x.device)
    heights = torch.empty((lines, groups), dtype=torch.float32, device=x.device)
    launch(
        _weigh_groups, lines * tiles, *common, *best, heights, lines, n, tiles, groups, seed,
        GROUP=group, BLOCK=BLOCK,
    )  # fmt: skip
    chosen = torch.empty((lines, k), dtype=torch.int64, device=x.device)
    first_of_entries(best, k, None, chosen)
    tiles = triton.cdiv(k, BLOCK // group)
    kept = kept_of(k, BLOCK)
    stored = None if tiles == 1 else empty_entries(lines, tiles * kept, x.device)
    result = (None, None, values, indices) if stored is None else (*stored, None, None)
    launch(
        _reopen, lines * tiles, *common, chosen, heights, *result, lines, n, tiles, groups, k, seed,
        FINAL=stored is None, K=kept, GROUP=group, BLOCK=BLOCK,
    )  # fmt: skip
    if stored is not None:
        first_of_entries(stored, k, values, indices, run=kept)
    return values, indices
