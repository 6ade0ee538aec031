"""Exact sums of numbers, which do not depend on the order of the numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import cpu
from .dispatch import refuses_half
from .operator import Operator

__all__ = ["LIMB", "UNIT", "exact_sums"]

LIMB, LIMBS = 32, 68  # bits of a limb, and limbs that hold any sum
UNIT = 1088  # every float64 is a whole number of 2^-UNIT


def _reference(x: Tensor, groups: Tensor | None, count: int, key: tuple[()]) -> tuple[Tensor, Tensor, Tensor, bool]:
    counts, range_ = x.new_zeros(count, dtype=torch.int64), x.new_zeros(2, dtype=torch.int64)
    w = x.double().contiguous()
    bits = w.view(torch.int64)
    field = (bits >> 52) & 2047
    number = (bits & ((1 << 52) - 1)) | ((field > 0).long() << 52)
    place = field.clamp(min=1) + (UNIT - 1075)  # w = number 2^(place - UNIT)
    of = torch.zeros_like(bits) if groups is None else groups.long()
    limb, shift = place // LIMB, place % LIMB
    rest = number >> (LIMB - shift)
    mask = (1 << LIMB) - 1
    limbs = x.new_zeros(count * LIMBS, dtype=torch.int64)
    for j, part in enumerate((number << shift & mask, rest & mask, rest >> LIMB)):
        limbs.index_add_(0, of * LIMBS + (limb + j).clamp(max=LIMBS - 1), part)
    limbs = limbs.view(count, LIMBS)
    some = limb[w > 0]
    lowest, width = (int(some.min()), int(some.max() - some.min()) + 3) if len(some) else (0, 0)
    range_[0], range_[1] = lowest, width
    limbs = limbs[:, lowest : lowest + width].contiguous()
    for j in range(width - 1):
        limbs[:, j + 1] += limbs[:, j] >> LIMB
        limbs[:, j] &= mask
    counts.index_add_(0, of, torch.ones_like(of))
    return counts, limbs, range_, not bool(((w >= 0) & w.isfinite()).all())


def _outputs(x: Tensor, groups: Tensor | None, count: int, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    width = torch.library.get_ctx().new_dynamic_size()
    counts, limbs = x.new_empty(count, dtype=torch.int64), x.new_empty((count, width), dtype=torch.int64)
    return counts, limbs, x.new_empty(2, dtype=torch.int64)


def _cpu(x: Tensor, groups: Tensor | None, count: int, key: tuple[()]) -> tuple[Tensor, Tensor, Tensor, bool]:
    counts, range_ = x.new_zeros(count, dtype=torch.int64), x.new_zeros(2, dtype=torch.int64)
    # Room for any numbers, of which the system gives only the pages that are written to.
    limbs = x.new_empty(count * LIMBS, dtype=torch.int64)
    groups = None if groups is None else groups.contiguous()
    bad = cpu.call(
        "exact_sums", x, cpu.NO_KEY, 0 if groups is None else groups.data_ptr(), count,
        counts.data_ptr(), limbs.data_ptr(), range_.data_ptr(),
    )  # fmt: skip
    width = int(range_[1])
    return counts, limbs[: count * width].view(count, width).clone(), range_, bad


#: ``exact_sums(x, groups, count, ()) -> (counts, limbs, range, bad)``: of ``n`` numbers of at least 0, fewer than 2^31,
#: in ``count`` groups (``groups``, int32, says of which group a number is; None: one group) how many numbers each group
#: has, and their sum ``sum over l of limbs[g, l] 2^(32 (range[0] + l) - UNIT)``. ``limbs`` are int64, ``(count,
#: range[1])``, each of them but the last below 2^32. A number that is negative, infinite or NaN is bad.
exact_sums = Operator(
    "exact_sums(Tensor x, Tensor? groups, SymInt count) -> (Tensor, Tensor, Tensor)",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    triton=False,
    float64=True,
    refuses=refuses_half,
)
