"""The race under keyed noise: who wins, and who are the first k."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.checks import can_raise
from . import cpu
from .dispatch import Key
from .noise import keyed_noise, work_dtype
from .operator import Operator

__all__ = ["any_far", "best_k", "first", "gumbel_max", "gumbel_topk", "is_far", "rest_of", "summands", "winner"]

# Sums of a logit and its noise of this magnitude or more count as far from 0: rounding takes 2^-16 or more off them.
FAR = {torch.float32: 2.0**8, torch.float64: 2.0**37}


def summands(x: Tensor, key: Key) -> tuple[Tensor, Tensor]:
    """x and its noise, in float32 or float64; items last."""
    dtype = work_dtype(x.dtype)
    return x.to(dtype), keyed_noise("gumbel", x.shape, dtype, x.device, key)[0]


def is_far(sums: Tensor) -> Tensor:
    """Where sums are far from 0: there float32 would round the noise away."""
    height = sums.abs()
    return (height >= FAR[sums.dtype]) & (height < torch.inf)


def any_far(sums: Tensor) -> bool:
    """Whether any sum is far from 0, or may be, where values may not be looked at."""
    return not can_raise(sums) or bool(is_far(sums).any())


def rest_of(x: Tensor, g: Tensor, sums: Tensor) -> Tensor:
    """What rounding took off sums = x + g, exactly (Knuth's two-sum), where they are far from 0; elsewhere 0."""
    x, g, sums = x.detach(), g.detach(), sums.detach()
    part = sums - x
    return torch.where(is_far(sums), (x - (sums - part)) + (g - part), 0)


def winner(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest of x + g in every row, what rounding took off it (:func:`rest_of`), and its item: of sums that are
    equal the one whose rest is largest, and of those the first."""
    sums = x + g
    best, indices = sums.max(-1)
    rest = torch.zeros_like(best.detach())
    if any_far(best):
        rest, indices = rest_of(x, g, sums).masked_fill(sums != best.unsqueeze(-1), -torch.inf).max(-1)
        best = torch.where(is_far(best), sums.gather(-1, indices.unsqueeze(-1)).squeeze(-1), best)  # for its gradient
    return best, rest, indices


def best_k(x: Tensor, g: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of x + g in every row, and their items."""
    sums = x + g
    best, indices = sums.topk(k, -1)
    if any_far(best):
        order = rest_of(x, g, sums).sort(dim=-1, descending=True, stable=True).indices
        order = order.gather(-1, sums.detach().gather(-1, order).sort(dim=-1, descending=True, stable=True).indices)
        far = is_far(best).any(-1, keepdim=True)
        indices = torch.where(far, order[..., :k], indices)
        best = torch.where(far, sums.gather(-1, indices), best)  # for its gradient
    return best, indices


def first(x: Tensor, g: Tensor, k: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, bool]:
    """Of x + g the largest of every row, or for a number k the k largest, in dtype; their items; and whether a row was
    bad. A bad row has NaN and -1, and so have places beyond the allowed items."""
    best, indices = winner(x, g)[::2] if k is None else best_k(x, g, k)
    bad = ~best.isfinite()
    if k:  # where the first is NaN or +inf, nothing of the row is sound
        bad = bad | best[..., :1].isnan() | (best[..., :1] == torch.inf)
    best, indices = best.masked_fill(bad, torch.nan), indices.masked_fill(bad, -1)
    return best.to(dtype), indices, can_raise(bad) and bool(bad.any())


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.shape = inputs[0].shape


def _backward(ctx: Any, grad: Tensor, _indices: Tensor) -> tuple[Tensor]:
    """The gradient of perturbed values goes to the items they belong to."""
    (indices,) = ctx.saved_tensors
    if indices.ndim < len(ctx.shape):
        indices, grad = indices.unsqueeze(-1), grad.unsqueeze(-1)
    # Places beyond the support are marked by -1, and get nothing.
    own = grad.masked_fill(indices < 0, 0)
    return (grad.new_zeros(ctx.shape).scatter_add(-1, indices.clamp(min=0), own),)


# --- the winner --------------------------------------------------------------------------------------------------


def _max_reference(x: Tensor, key: Key) -> tuple[Tensor, Tensor, bool]:
    return first(*summands(x, key), None, x.dtype)


def _max_outputs(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = x.shape[:-1]
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _max_cpu(x: Tensor, key: Key) -> tuple[Tensor, Tensor, bool]:
    values, indices = _max_outputs(x)
    return values, indices, cpu.call("gumbel_max", x, key, values.data_ptr(), indices.data_ptr())


#: ``gumbel_max(x, key) -> (values, indices, bad)``; items last.
gumbel_max = Operator(
    "gumbel_max(Tensor x, Tensor seed, Tensor? rows, Tensor? items) -> (Tensor, Tensor)",
    outputs=_max_outputs,
    reference=_max_reference,
    cpu=_max_cpu,
    float64=True,
    setup=_setup,
    backward=_backward,
)

# --- the first k -------------------------------------------------------------------------------------------------


def _topk_reference(x: Tensor, k: int, key: Key) -> tuple[Tensor, Tensor, bool]:
    return first(*summands(x, key), k, x.dtype)


def _topk_outputs(x: Tensor, k: int, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], k)
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)


def _topk_cpu(x: Tensor, k: int, key: Key) -> tuple[Tensor, Tensor, bool]:
    values, indices = _topk_outputs(x, k)
    bad = k > 0 and cpu.call("gumbel_topk", x, key, k, values.data_ptr(), indices.data_ptr())
    return values, indices, bad


#: ``gumbel_topk(x, k, key) -> (values, indices, bad)``, falling; items last.
gumbel_topk = Operator(
    "gumbel_topk(Tensor x, SymInt k, Tensor seed, Tensor? rows, Tensor? items) -> (Tensor, Tensor)",
    outputs=_topk_outputs,
    reference=_topk_reference,
    cpu=_topk_cpu,
    float64=True,
    setup=_setup,
    backward=_backward,
)
