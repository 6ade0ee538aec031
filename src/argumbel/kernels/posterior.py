"""The race given its winner: perturbed values, as the winner and perhaps its height are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.checks import can_raise
from .._core.elementwise import logaddexp
from . import cpu
from .dispatch import Key
from .noise import keyed_noise, work_dtype
from .operator import Operator

__all__ = ["is_at", "posterior", "posterior_gumbel", "put_on_top", "representable", "strictly_below", "truncate"]


def truncate(x: Tensor, g: Tensor, upper: Tensor) -> Tensor:
    """Gumbels at x with noise g, given that they are at most upper; -inf stays -inf."""
    absent = x == -torch.inf  # kept out of the arithmetic: its gradient would be NaN
    return -logaddexp(-(x.masked_fill(absent, 0) + g), -upper).masked_fill(absent, torch.inf)


def is_at(place: Tensor, x: Tensor) -> Tensor:
    """The one-hot of a place, as bool, items last."""
    return torch.arange(x.shape[-1], device=x.device) == place


def representable(values: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype, where float16 overflows its largest number."""
    return values.to(dtype).clamp(max=torch.finfo(dtype).max)


def strictly_below(values: Tensor, ceiling: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype; where rounding brought one up to the ceiling, the number below it (with the gradient of the
    ceiling, which is what the value was rounded to)."""
    values, ceiling = values.to(dtype), representable(ceiling, dtype)
    edge = ceiling.detach()
    below = ceiling + (torch.nextafter(edge, torch.full_like(edge, -torch.inf)) - edge)
    return torch.where(values < ceiling, values, below)


def put_on_top(values: Tensor, top: Tensor, won: Tensor, dtype: torch.dtype) -> Tensor:
    """values in dtype, with top at the winner's place and everything else strictly below it."""
    return torch.where(is_at(won, values), representable(top, dtype), strictly_below(values, top, dtype))


def posterior(x: Tensor, g: Tensor, index: Tensor, value: Tensor | None) -> tuple[Tensor, bool]:
    """The perturbed values under this noise, and whether a row was bad; a bad row is NaN."""
    place = index.unsqueeze(-1)
    won = place.clamp(0, x.shape[-1] - 1)
    chosen = x.gather(-1, won)
    # Beside the row's maximum: log Z alone, rounded far from 0, would move the height.
    peak = x.detach().amax(-1, keepdim=True)
    height = (x - peak).logsumexp(-1, keepdim=True)
    top = peak + (height + g.gather(-1, won)) if value is None else value.to(x.dtype).unsqueeze(-1)
    bad = (won != place) | (chosen == -torch.inf) | ~height.isfinite() | ~top.isfinite() | ~g.isfinite().all(-1, True)
    values = put_on_top(truncate(x, g, top), top, won, x.dtype)
    return values.masked_fill(bad, torch.nan), can_raise(bad) and bool(bad.any())


def _reference(x: Tensor, index: Tensor, value: Tensor | None, key: Key) -> tuple[Tensor, bool]:
    x = x.to(work_dtype(x.dtype)).contiguous()
    return posterior(x, keyed_noise("gumbel", x.shape, x.dtype, x.device, key)[0], index, value)


def _outputs(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape, dtype=work_dtype(x.dtype))


def _cpu(x: Tensor, index: Tensor, value: Tensor | None, key: Key) -> tuple[Tensor, bool]:
    out = _outputs(x)
    index, value = index.contiguous(), None if value is None else value.contiguous()
    height = 0 if value is None else value.data_ptr()
    return out, cpu.call("posterior_gumbel", x, key, index.data_ptr(), height, out.data_ptr())


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, index, value = inputs[:3]
    ctx.is_drawn = value is None
    ctx.save_for_backward(x, index, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Each value hangs between its own logit and the height T of the winner, and T on all logits where it was drawn:
    d values[i] / dT = exp(values[i] - T), d values[i] / d x[i] = 1 - that, dT / dx = softmax(x)."""
    x, index, values = ctx.saved_tensors
    won = index.unsqueeze(-1).clamp(0, x.shape[-1] - 1)  # an index out of range has made its row NaN
    below = values - values.gather(-1, won)
    rise = (grad * below.exp()).sum(-1, keepdim=True)
    x_grad = -grad * below.expm1()
    if ctx.is_drawn:
        x_grad = x_grad + rise * x.to(values.dtype).softmax(-1)
    x_grad = x_grad.masked_fill(x == -torch.inf, 0).to(x.dtype)
    return x_grad, None, None if ctx.is_drawn else rise.squeeze(-1)


#: ``posterior_gumbel(x, index, value, key) -> (values, bad)``: values in float32, or in float64 for float64 logits;
#: index, int64, of each row's winner, and value, in that dtype, its height or None: drawn. Items last.
posterior_gumbel = Operator(
    "posterior_gumbel(Tensor x, Tensor index, Tensor? value, Tensor seed, Tensor? rows, Tensor? items) -> Tensor",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    float64=True,
    differentiable=(0, 2),
    setup=_setup,
    backward=_backward,
)
