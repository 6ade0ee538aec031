"""What is done to logits before a race: a temperature, and the items that ``top_k``, ``top_p`` and ``min_p`` leave."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import can_raise
from . import cpu
from .dispatch import Key, SeedOnly
from .law import categorical
from .noise import work_dtype
from .operator import Operator
from .race import gumbel_max

__all__ = ["Limits", "Terms", "limited_categorical", "tempered", "tempered_max", "truncation"]


class Terms(NamedTuple):
    """Logits are divided by ``temperature``, in float32 or float64, of one element or one a row. Items above ``cut``
    are left, and of those equal to it the ones up to place ``last``; both are one a row, or None: all are left."""

    temperature: Tensor
    cut: Tensor | None
    last: Tensor | None


class Limits(NamedTuple):
    """A temperature, in float32 (float64 for float64 logits), and limits: top_k int64, top_p and min_p float64. Each is
    of one element, on the CPU if it was a number, or one a row; None leaves all items."""

    temperature: Tensor
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None


def _one_a_row(x: Tensor, limit: Tensor) -> Tensor:
    return limit.reshape(()) if limit.numel() == 1 else limit.reshape(x.shape[:-1]).unsqueeze(-1)


def tempered(x: Tensor, temperature: Tensor, cut: Tensor | None, last: Tensor | None) -> Tensor:
    """x under these terms, at least in float32; items last."""
    x = x.to(work_dtype(x.dtype))
    scaled = x / _one_a_row(x, temperature)
    if cut is None or last is None:
        return scaled
    place = torch.arange(x.shape[-1], device=x.device)
    cut, last = cut.unsqueeze(-1), last.unsqueeze(-1)
    return scaled.masked_fill((x < cut) | ((x == cut) & (place > last)), -torch.inf)


# --- where rows are cut ------------------------------------------------------------------------------------------


def _truncation_reference(
    x: Tensor, temperature: Tensor, top_k: Tensor | None, top_p: Tensor | None, min_p: Tensor | None, key: tuple[()]
) -> tuple[Tensor, Tensor, bool]:
    """By a sort of each row; masses in float64."""
    dtype, n = work_dtype(x.dtype), x.shape[-1]
    x = x.to(dtype)
    t = _one_a_row(x, temperature.double().to(x.device))
    k, p, m = (
        torch.full((), neutral, dtype=kind, device=x.device) if limit is None else _one_a_row(x, limit.to(x.device))
        for limit, neutral, kind in ((top_k, n, torch.int64), (top_p, 1, torch.float64), (min_p, 0, torch.float64))
    )
    falling, order = x.sort(dim=-1, descending=True, stable=True)
    top = falling[..., :1]
    bad = ~top.isfinite() | x.isnan().any(-1, keepdim=True)
    kth = falling.gather(-1, (k.clamp(1, n) - 1).broadcast_to(top.shape))
    weight = ((falling - top).double() / torch.where(t == 0, 1, t)).exp()
    weight = torch.where((falling > -torch.inf) & (falling >= kth), weight, 0)
    before = weight.cumsum(-1) - weight
    # Each limit leaves a stretch of the order, from its front. Beside top_p, all that tie with the last are left.
    heaviest = ((before < p * weight.sum(-1, keepdim=True)) & (weight > 0)).sum(-1, keepdim=True).clamp(min=1) - 1
    cut = torch.where(p < 1, falling.gather(-1, heaviest), kth)
    last = torch.where(p < 1, order.gather(-1, heaviest), n - 1)
    high = ((falling - top).double() >= torch.where(m > 0, m, 1).log() * t).sum(-1, keepdim=True).clamp(min=1) - 1
    lowest = torch.where(m > 0, falling.gather(-1, high), -torch.inf)
    cut, last = torch.where(lowest > cut, lowest, cut), torch.where(lowest > cut, n - 1, last)
    cut, last = torch.where(t == 0, top, cut), torch.where(t == 0, order[..., :1], last)
    cut, last = cut.masked_fill(bad, torch.nan).squeeze(-1), last.masked_fill(bad, -1).squeeze(-1)
    return cut, last, can_raise(bad) and bool(bad.any())


def _truncation_outputs(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = x.shape[:-1]
    return x.new_empty(shape, dtype=work_dtype(x.dtype)), x.new_empty(shape, dtype=torch.int64)


def _limits(limits: Limits) -> tuple[tuple[int, ...], list[Tensor | None]]:
    """Limits as the C++ takes them, and what must live meanwhile."""
    held = [None if limit is None else limit.contiguous() for limit in limits]
    passed = [(0, 0) if limit is None else (limit.data_ptr(), int(limit.numel() > 1)) for limit in held]
    return tuple(number for pair in passed for number in pair), held


def _truncation_cpu(
    x: Tensor, temperature: Tensor, top_k: Tensor | None, top_p: Tensor | None, min_p: Tensor | None, key: tuple[()]
) -> tuple[Tensor, Tensor, bool]:
    cut, last = _truncation_outputs(x)
    limits, _held = _limits(Limits(temperature, top_k, top_p, min_p))
    return cut, last, cpu.call("truncation", x, cpu.NO_KEY, limits, cut.data_ptr(), last.data_ptr())


#: ``truncation(x, temperature, top_k, top_p, min_p, ()) -> (cut, last, bad)``: where :class:`Limits` cut rows (see
#: :class:`Terms`). Items last.
truncation = Operator(
    "truncation(Tensor x, Tensor temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p) -> (Tensor, Tensor)",
    outputs=_truncation_outputs,
    reference=_truncation_reference,
    cpu=_truncation_cpu,
    triton=False,
)

# --- draws under terms -------------------------------------------------------------------------------------------


def _passed(x: Tensor, terms: Terms) -> tuple[tuple[int, int, int, int], list[Tensor | None]]:
    """Terms as the C++ takes them, and what must live meanwhile."""
    held = [None if part is None else part.contiguous() for part in terms]
    temperature, cut, last = (0 if part is None else part.data_ptr() for part in held)
    return (temperature, int(terms.temperature.numel() > 1), cut, last), held


def _max_reference(
    x: Tensor, temperature: Tensor, cut: Tensor | None, last: Tensor | None, key: Key
) -> tuple[Tensor, Tensor, bool]:
    values, indices, bad = gumbel_max(tempered(x, temperature.to(x.device), cut, last), key)
    return values.to(x.dtype), indices, bad


def _max_outputs(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:-1]), x.new_empty(x.shape[:-1], dtype=torch.int64)


def _max_cpu(
    x: Tensor, temperature: Tensor, cut: Tensor | None, last: Tensor | None, key: Key
) -> tuple[Tensor, Tensor, bool]:
    terms, _held = _passed(x, Terms(temperature, cut, last))
    values, indices = _max_outputs(x)
    bad = cpu.call("tempered_max", x, key, terms, values.data_ptr(), indices.data_ptr())
    return values, indices, bad


#: ``tempered_max(x, temperature, cut, last, key) -> (values, indices, bad)``: ``gumbel_max`` under :class:`Terms`;
#: items last. No gradient.
tempered_max = Operator(
    "tempered_max(Tensor x, Tensor temperature, Tensor? cut, Tensor? last, Tensor seed, Tensor? rows, Tensor? items)"
    " -> (Tensor, Tensor)",
    outputs=_max_outputs,
    reference=_max_reference,
    cpu=_max_cpu,
    triton=False,
)


def _categorical_reference(
    x: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    sample_shape: torch.Size,
    key: SeedOnly,
) -> tuple[Tensor, bool]:
    cut, last, bad = None, None, False
    cold = temperature == 0
    if not (top_k is top_p is min_p is None and can_raise(cold) and not bool(cold.any())):
        cut, last, bad = _truncation_reference(x, temperature, top_k, top_p, min_p, ())
    divide_by = temperature.masked_fill(cold, 1).to(x.device)
    draws, _, also_bad = categorical(tempered(x, divide_by, cut, last), sample_shape, False, key)
    return draws, bad or also_bad


def _categorical_outputs(
    x: Tensor, temperature: Any, top_k: Any, top_p: Any, min_p: Any, shape: Any, *_: Any
) -> Tensor:
    return x.new_empty((*shape, *x.shape[:-1]), dtype=torch.int64)


def _categorical_cpu(
    x: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    sample_shape: torch.Size,
    key: SeedOnly,
) -> tuple[Tensor, bool]:
    draws = x.new_empty((*sample_shape, *x.shape[:-1]), dtype=torch.int64)
    limits, _held = _limits(Limits(temperature, top_k, top_p, min_p))
    count = torch.Size(sample_shape).numel()
    bad = count > 0 and cpu.call("limited_categorical", x, (*key, None, None), limits, count, draws.data_ptr())
    return draws, bad


#: ``limited_categorical(x, temperature, top_k, top_p, min_p, sample_shape, (seed,)) -> (draws, bad)``: ``categorical``
#: of what :class:`Limits` leave; at temperature 0 the first of the largest. Items last.
limited_categorical = Operator(
    "limited_categorical(Tensor x, Tensor temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p,"
    " SymInt[] sample_shape, Tensor seed) -> Tensor",
    outputs=_categorical_outputs,
    reference=_categorical_reference,
    cpu=_categorical_cpu,
    triton=False,
)
