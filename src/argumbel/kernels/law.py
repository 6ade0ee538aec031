"""Law operations: draws that have the right distribution, by whatever is fastest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.checks import can_raise
from . import cpu
from .dispatch import SeedOnly
from .noise import keyed_noise, work_dtype
from .operator import Operator
from .race import gumbel_topk

__all__ = ["LAW_RACES", "categorical", "sample_without_replacement"]

#: What a law function that runs a keyed race changes in the bits of the seed, so that no two functions, and no keyed
#: function, race with the same noise under one seed: the first 64 bits of the fractions of the roots of 2, 5, 11
#: and 17.
LAW_RACES = {
    "categorical": 0x6A09E667F3BCC908,
    "sample_without_replacement": 0x3C6EF372FE94F82B,
    "linear_categorical": 0x510E527FADE682D1,
    "structures": 0x1F83D9ABFB41BD6B,
}

# --- categorical -------------------------------------------------------------------------------------------------


def _categorical_reference(
    x: Tensor, sample_shape: torch.Size, with_log_z: bool, key: SeedOnly
) -> tuple[Tensor, Tensor | None, bool]:
    """The race is run in two rounds over about sqrt(n) items each: first the blocks, each as one Gumbel at its
    logsumexp, then the items of the winning block. All of it beside the row's maximum: a draw has the same law whatever
    is added to all logits of a row."""
    x = x.to(work_dtype(x.dtype)).contiguous()
    n = x.shape[-1]
    top = x.amax(-1, keepdim=True) if n else x.new_zeros(1)
    top = torch.where(top.isfinite(), top, 0)
    x = x - top
    size = math.isqrt(n - 1) + 1 if n else 1
    blocks = -(-n // size)
    x = torch.nn.functional.pad(x, (0, blocks * size - n), value=-torch.inf).unflatten(-1, (blocks, size))
    heights = x.logsumexp(-1)
    shape = torch.Size((*sample_shape, *x.shape[:-2]))
    own = key[0] ^ LAW_RACES["categorical"]
    g, _ = keyed_noise("gumbel", torch.Size((*shape, blocks + size)), x.dtype, x.device, (own, None, None))
    block = (heights + g[..., :blocks]).argmax(-1)
    x = x.expand(*shape, blocks, size)
    winners = x.gather(-2, block[..., None, None].expand(*shape, 1, size)).squeeze(-2)
    item = (winners + g[..., blocks:]).argmax(-1)
    log_z = heights.logsumexp(-1)
    bad = ~log_z.isfinite()
    draws = (block * size + item).masked_fill(bad, -1)
    return draws, log_z.double() + top.squeeze(-1) if with_log_z else None, can_raise(bad) and bool(bad.any())


def _categorical_outputs(x: Tensor, sample_shape: torch.Size, with_log_z: bool, *_: Any) -> tuple[Tensor, Tensor]:
    draws = x.new_empty((*sample_shape, *x.shape[:-1]), dtype=torch.int64)
    return draws, x.new_empty(x.shape[:-1] if with_log_z else (0,), dtype=torch.float64)


def _categorical_cpu(
    x: Tensor, sample_shape: torch.Size, with_log_z: bool, key: SeedOnly
) -> tuple[Tensor, Tensor | None, bool]:
    draws = x.new_empty((*sample_shape, *x.shape[:-1]), dtype=torch.int64)
    log_z = x.new_empty(x.shape[:-1], dtype=torch.float64) if with_log_z else None
    count = torch.Size(sample_shape).numel()
    address = 0 if log_z is None else log_z.data_ptr()
    bad = count > 0 and cpu.call("categorical", x, (*key, None, None), count, address, draws.data_ptr())
    return draws, log_z, bad


#: ``categorical(x, sample_shape, with_log_z, (seed,)) -> (draws, log_z, bad)``: draws of shape sample_shape +
#: x.shape[:-1], -1 in bad rows; log Z of each row in float64 where it is wanted.
categorical = Operator(
    "categorical(Tensor x, SymInt[] sample_shape, bool with_log_z, Tensor seed) -> (Tensor, Tensor)",
    outputs=_categorical_outputs,
    reference=_categorical_reference,
    cpu=_categorical_cpu,
    float64=True,
)

# --- sample_without_replacement ----------------------------------------------------------------------------------


def _without_replacement_reference(x: Tensor, k: int, key: SeedOnly) -> tuple[Tensor, Tensor, bool]:
    own = key[0] ^ LAW_RACES["sample_without_replacement"]
    values, indices, bad = gumbel_topk(x.detach(), k, (own, None, None))
    return values, indices, bad


def _without_replacement_outputs(x: Tensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _without_replacement_cpu(x: Tensor, k: int, key: SeedOnly) -> tuple[Tensor, Tensor, bool]:
    values, indices = _without_replacement_outputs(x, k)
    whole_key = (*key, None, None)
    bad = k > 0 and cpu.call("sample_without_replacement", x, whole_key, k, values.data_ptr(), indices.data_ptr())
    return values, indices, bad


def _dense_is_faster(x: Tensor, k: int, key: SeedOnly) -> str | None:
    return "k is so large a part of the items that the dense race is faster" if 256 * k > x.shape[-1] else None


#: ``sample_without_replacement(x, k, (seed,)) -> (values, indices, bad)``: the law of ``gumbel_topk``. No gradient.
sample_without_replacement = Operator(
    "sample_without_replacement(Tensor x, SymInt k, Tensor seed) -> (Tensor, Tensor)",
    outputs=_without_replacement_outputs,
    reference=_without_replacement_reference,
    cpu=_without_replacement_cpu,
    refuses=_dense_is_faster,
)
