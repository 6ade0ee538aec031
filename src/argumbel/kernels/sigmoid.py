"""Relaxed Bernoulli draws under keyed noise: ``sigmoid((x + noise) / tau)`` with logistic noise, and the exact draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, can_raise
from .._core.elementwise import sigmoid
from . import cpu
from .dispatch import Key
from .noise import keyed_noise, work_dtype
from .operator import Operator
from .softmax import over, straight_through

__all__ = ["gumbel_sigmoid", "relaxed_coin"]


def relaxed_coin(values: Tensor, tau: float | Tensor, hard: bool) -> tuple[Tensor, bool]:
    """The relaxed draw of perturbed log odds; tau may have any shape that broadcasts against them."""
    bad = values.isnan()
    exact = torch.where(bad, torch.nan, (values > 0).to(values.dtype))
    if isinstance(tau, Tensor):
        frozen = tau < EXACT_BELOW
        soft = torch.where(frozen, exact, sigmoid(over(values, torch.where(frozen, 1, tau))))
    elif tau == 0:
        soft = exact + 0 * values.masked_fill(values.isinf(), 0)  # with a gradient, of zero
    else:
        soft = sigmoid(over(values, tau))
    return straight_through(exact, soft) if hard else soft, can_raise(bad) and bool(bad.any())


def _reference(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool]:
    dtype = work_dtype(x.dtype)
    noise, _ = keyed_noise("logistic", x.shape, dtype, x.device, key)
    y, bad = relaxed_coin(x.to(dtype) + noise, tau.to(x.device).reshape(()), hard)
    return y.to(x.dtype), bad


def _outputs(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _cpu(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool]:
    out = torch.empty_like(x) if x.is_contiguous() else x.new_empty(x.shape)
    return out, cpu.call("gumbel_sigmoid", x, key, tau.data_ptr(), hard, out.data_ptr())


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, tau, hard, *key = inputs
    # A hard draw makes the soft one again, from its key.
    ctx.seed = None if isinstance(key[0], Tensor) else key[0]
    ctx.save_for_backward(x, None if hard else output, tau, *(k if isinstance(k, Tensor) else None for k in key))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """With v = x + noise: dy / dx = y (1 - y) / tau, and dy / dtau = -v y (1 - y) / tau^2."""
    x, y, tau, seed, rows, items = ctx.saved_tensors
    key = (ctx.seed if seed is None else seed, rows, items)
    if y is None:
        y, _ = gumbel_sigmoid(x, tau, False, key)
    number = tau.to(y.device).reshape(())
    rate = torch.where(number < EXACT_BELOW, 0, 1 / number)
    dtype = work_dtype(x.dtype)
    wide = y.to(dtype)
    slope = grad.to(dtype) * wide * (1 - wide)
    x_grad = (slope * rate).to(y.dtype)
    if not ctx.needs_input_grad[1]:
        return x_grad, None
    values = x.to(dtype) + keyed_noise("logistic", x.shape, dtype, x.device, key)[0]
    moved = torch.where(slope == 0, 0, slope * values)  # infinite logits are certain at any tau
    return x_grad, -(moved.sum() * rate * rate).reshape(tau.shape)


#: ``gumbel_sigmoid(x, tau, hard, key) -> (y, bad)``; tau of one element, in float32 or, for float64 logits, float64.
gumbel_sigmoid = Operator(
    "gumbel_sigmoid(Tensor x, Tensor tau, bool hard, Tensor seed, Tensor? rows, Tensor? items) -> Tensor",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    triton=False,
    differentiable=(0, 1),
    setup=_setup,
    backward=_backward,
)
