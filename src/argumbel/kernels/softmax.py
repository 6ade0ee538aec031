"""The relaxed race: ``softmax((x + noise) / tau)`` under keyed noise, its gradient, and the one-hot of its argmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import EXACT_BELOW, broadcasts_to, can_raise, is_traced
from .._core.modes import is_recorded
from . import cpu
from .dispatch import Key
from .noise import work_dtype
from .operator import Operator
from .race import any_far, is_far, rest_of, summands

__all__ = ["at_winner", "gumbel_softmax", "one_tau", "over", "relaxed", "row_taus", "softened", "straight_through"]

# --- in plain PyTorch --------------------------------------------------------------------------------------------


def over(values: Tensor, tau: float | Tensor) -> Tensor:
    """``values / tau`` for tau > 0, infinite values staying what they are: meeting tau, they would make NaN of an
    infinite one, and of the gradient of any. So would values whose quotient is too large for the dtype."""
    still = tau
    if isinstance(tau, Tensor):
        tau = tau.to(torch.promote_types(tau.dtype, values.dtype))
        still = tau.detach()
    quotient = values.detach() / still
    infinite = values.isinf() | quotient.isinf()
    finite = values.masked_fill(infinite, 0) / still
    if isinstance(tau, Tensor) and isinstance(still, Tensor):
        # A factor of 1, for the gradient of tau: that of values / tau takes values / tau^2, which may overflow, first.
        finite = finite * torch.where(still.isinf(), 1, still / tau)
    return torch.where(infinite, values.detach() * torch.inf, finite)


def softened(
    values: Tensor,
    tau: float | Tensor,
    dim: int,
    softmax: Callable[[Tensor, int], Tensor],
    one: float,
    zero: float,
) -> Tensor:
    """``softmax(values / tau)``; the exact argmax (``one`` there, else ``zero``) where tau is 0."""
    if not isinstance(tau, Tensor):
        return softmax(over(values, tau), dim) if tau > 0 else at_winner(values, values, dim, one, zero)
    frozen = tau < EXACT_BELOW
    soft = softmax(over(values, torch.where(frozen, 1, tau)), dim)
    if can_raise(tau) and not bool(frozen.any()):
        return soft
    return torch.where(frozen, at_winner(values, soft, dim, one, zero), soft)


def at_winner(values: Tensor, like: Tensor, dim: int, one: float, zero: float) -> Tensor:
    """``one`` at the argmax of values and ``zero`` elsewhere, in the shape of ``like``; NaN in a bad row.

    By index: two items may tie in value, never in index.
    """
    index = values.argmax(dim, keepdim=True).expand_as(like.narrow(dim, 0, 1))
    exact = torch.full_like(like, zero, requires_grad=False).scatter(dim, index, one)
    return exact + 0 * values.amax(dim, keepdim=True)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """hard, with the gradient of soft. The bracket is exactly zero, so the value stays exactly hard."""
    return hard + (soft - soft.detach())


def shifted(x: Tensor, g: Tensor, k: int = 1) -> tuple[Tensor, bool]:
    """Perturbed logits x + g, items last, moved to a maximum of 0 (no softmax minds, and no tau makes it overflow);
    whether a row was bad, or allows fewer than k items. A bad row is NaN throughout.

    Where the maximum is far from 0, what rounding took off the sums is put back."""
    sums = (x + g).contiguous()  # or sums along a row would be rounded by the row's place (_core/elementwise.py)
    fixed = sums.detach()
    height = fixed.amax(-1, keepdim=True)
    last = height if k <= 1 else fixed.topk(k, -1).values[..., k - 1 : k]
    sound = height.isfinite() & last.isfinite()
    values = sums - height + 0 * last
    if any_far(height):
        rest = torch.where(is_far(height), rest_of(x, g, fixed), 0)
        values = values + (rest - rest.masked_fill(fixed != height, -torch.inf).amax(-1, keepdim=True))
    return values, can_raise(values) and not bool(sound.all())


def relaxed(x: Tensor, g: Tensor, tau: float | Tensor, hard: bool) -> tuple[Tensor, bool]:
    """The relaxed sample of x + g, items last; tau may be of any shape that broadcasts against them."""
    values, bad = shifted(x, g)
    soft = softened(values, tau, -1, torch.softmax, 1.0, 0.0)
    return (straight_through(at_winner(values, soft, -1, 1.0, 0.0), soft) if hard else soft), bad


def row_taus(tau: float | Tensor, x: Tensor) -> Tensor | None:
    """tau as :data:`gumbel_softmax` takes it: of one element, or one a row; None where it is more than that, lies on
    another device, or is somewhere 0."""
    if not isinstance(tau, Tensor):
        return _number(tau, x)
    one = one_tau(tau, x)
    if one is not None or not _is_positive_there(tau, x):
        return one
    rows = (*x.shape[:-1], 1)
    if not broadcasts_to(tau.shape, rows):
        return None
    return tau.to(work_dtype(x.dtype)).expand(rows).squeeze(-1).contiguous()


def one_tau(tau: float | Tensor, x: Tensor) -> Tensor | None:
    """tau in a tensor of one element; None where it is more than that, lies on another device, or is 0.

    A number is kept on the CPU, where it costs a GPU nothing; of code that is compiled, on the device, for else the
    code could not become a CUDA graph. Where PyTorch only pretends (FakeTensorMode), no real tensor may be met.
    """
    if not isinstance(tau, Tensor):
        return _number(tau, x)
    if tau.numel() != 1 or tau.ndim > x.ndim or not _is_positive_there(tau, x):
        return None
    return tau.to(work_dtype(x.dtype)).reshape(1)


def _is_positive_there(tau: Tensor, x: Tensor) -> bool:
    return tau.device == x.device and not (can_raise(tau) and not bool((tau >= EXACT_BELOW).all()))


def _number(tau: float, x: Tensor) -> Tensor:
    dtype = work_dtype(x.dtype)
    if is_recorded():
        return torch.full((1,), tau, dtype=dtype, device=x.device)
    found = _NUMBERS.get((tau, dtype))
    if found is None:
        tau = min(float(tau), torch.finfo(dtype).max)  # a larger one overflows; it would change nothing
        with torch.inference_mode(False):  # shared by all, also by those who train; and written by nobody
            found = torch.full((1,), tau, dtype=dtype, device="cpu")
        if not is_traced(found):  # not where PyTorch only pretends, or transforms
            if len(_NUMBERS) > 64:
                _NUMBERS.clear()
            _NUMBERS[tau, dtype] = found
    return found


_NUMBERS: dict[tuple[float, torch.dtype], Tensor] = {}


def _reference(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool]:
    y, bad = relaxed(*summands(x, key), _per_row(tau, x), hard)
    return y.to(x.dtype), bad


def _per_row(tau: Tensor, x: Tensor) -> Tensor:
    tau = tau.to(x.device)
    return tau.reshape((*x.shape[:-1], 1)) if tau.numel() > 1 else tau.reshape(())


# --- the gradient ------------------------------------------------------------------------------------------------


def _backward_reference(y: Tensor, grad: Tensor, tau: Tensor, key: tuple[()]) -> tuple[Tensor, bool]:
    rows, (wide, grad) = _per_row(tau, y), (x.to(work_dtype(y.dtype)) for x in (y, grad))
    slope = torch.where(rows > 0, 1 / rows, 0)  # at tau = 0 the sample is exact and does not move
    return (wide * (grad - (wide * grad).sum(-1, keepdim=True)) * slope).to(y.dtype), False


def _backward_outputs(y: Tensor, *_: Any) -> Tensor:
    return y.new_empty(y.shape)


def _backward_cpu(y: Tensor, grad: Tensor, tau: Tensor, key: tuple[()]) -> tuple[Tensor, bool]:
    out, (grad, stride) = _empty_like(y), cpu.rows_of(grad)
    cpu.call("gumbel_softmax_backward", y, cpu.NO_KEY, grad.data_ptr(), stride, *_address(tau), out.data_ptr())
    return out, False


#: ``gumbel_softmax_backward(y, grad, tau, ()) -> (x_grad, False)``: from the sample y.
gumbel_softmax_backward = Operator(
    "gumbel_softmax_backward(Tensor y, Tensor grad, Tensor tau) -> Tensor",
    outputs=_backward_outputs,
    reference=_backward_reference,
    cpu=_backward_cpu,
    float64=True,
)


def _backward_keyed_reference(x: Tensor, grad: Tensor, tau: Tensor, key: Key) -> tuple[Tensor, bool]:
    return gumbel_softmax_backward(gumbel_softmax(x, tau, False, key)[0], grad, tau, ())


def _backward_keyed_cpu(x: Tensor, grad: Tensor, tau: Tensor, key: Key) -> tuple[Tensor, bool]:
    out, (grad, stride) = _empty_like(x), cpu.rows_of(grad)
    cpu.call("gumbel_softmax_backward_keyed", x, key, grad.data_ptr(), stride, *_address(tau), out.data_ptr())
    return out, False


#: ``gumbel_softmax_backward_keyed(x, grad, tau, key) -> (x_grad, False)``: from the logits x; the soft sample is made
#: again from its key.
gumbel_softmax_backward_keyed = Operator(
    "gumbel_softmax_backward_keyed(Tensor x, Tensor grad, Tensor tau, "
    "Tensor seed, Tensor? rows, Tensor? items) -> Tensor",
    outputs=_backward_outputs,
    reference=_backward_keyed_reference,
    cpu=_backward_keyed_cpu,
    float64=True,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, tau, ctx.hard, *key = inputs
    # A hard sample recomputes the soft one, noise and all, from the key: nothing of the size of the noise is stored. A
    # seed, or an id, that has been written to meanwhile is an error.
    ctx.seed = None if isinstance(key[0], Tensor) else key[0]
    ctx.save_for_backward(x if ctx.hard else output, tau, *(k if isinstance(k, Tensor) else None for k in key))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of ``softmax(values / tau)`` with respect to values and tau."""
    saved, tau, seed, rows, items = ctx.saved_tensors
    key = (ctx.seed if seed is None else seed, rows, items)
    # Plain PyTorch where the gradient is differentiated again, or batched (is_grads_batched).
    again = torch.is_grad_enabled() or is_traced(grad)
    if ctx.hard and not (again or ctx.needs_input_grad[1]):
        return gumbel_softmax_backward_keyed(saved, grad, tau, key)[0], None
    y = gumbel_softmax(saved, tau, False, key)[0] if ctx.hard else saved
    slope_of = _backward_reference if again else gumbel_softmax_backward
    if not ctx.needs_input_grad[1]:
        return slope_of(y, grad, tau, ())[0], None
    # values / tau is log y up to a constant of the row, which the gradient (its sum is zero) does not see. Divided by
    # tau last of all, and in float32 at least, no infinite terms of both signs meet.
    wide = y.to(work_dtype(y.dtype))
    log_y = torch.where(wide > 0, wide, 1).log()
    x_slope, _ = slope_of(wide, grad.to(wide.dtype), torch.ones_like(tau), ())
    rows = _per_row(tau, y)
    rate = torch.where(rows > 0, 1 / rows, 0)
    tau_grad = -(x_slope * log_y).sum(-1, keepdim=True) * rate
    return (x_slope * rate).to(y.dtype), (tau_grad if tau.numel() > 1 else tau_grad.sum()).reshape(tau.shape)


# --- the sample --------------------------------------------------------------------------------------------------


def _address(tau: Tensor) -> tuple[int, int]:
    """As the C++ takes it, with its stride between rows."""
    return tau.data_ptr(), int(tau.numel() > 1)


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty_like(x) if x.is_contiguous() else x.new_empty(x.shape)


def _outputs(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _cpu(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool]:
    out = torch.empty_like(x) if x.is_contiguous() else x.new_empty(x.shape)
    return out, cpu.call("gumbel_softmax", x, key, tau.data_ptr(), tau.numel() > 1, hard, out.data_ptr())


SMALL = 512  # below this many logits a Python function in the graph costs more than all of PyTorch's own


def _small(x: Tensor, tau: Tensor, hard: bool, key: Key) -> tuple[Tensor, bool] | None:
    """The same value (up to rounding) and gradient, the graph made of PyTorch's own nodes."""
    if not 0 < x.numel() <= SMALL or x.dtype != torch.float32 or tau.numel() > 1 or tau.requires_grad:
        return None
    number = tau.item()
    if not 1e-3 < number < 1e3 or cpu.call("extreme_row", x, cpu.NO_KEY):  # a quotient could overflow
        return None
    noise = _empty_like(x)
    cpu.call("keyed_noise", noise, key, cpu.LAWS["gumbel"], noise.data_ptr())
    values = x + noise
    soft = torch.softmax(values if number == 1 else values / number, -1)
    if not hard:
        return soft, False
    one_hot, bad = _cpu(x, tau, True, key)
    return one_hot + (soft - soft.detach()), bad


#: ``gumbel_softmax(x, tau, hard, key) -> (y, bad)``; items last; tau as :func:`row_taus` makes it.
gumbel_softmax = Operator(
    "gumbel_softmax(Tensor x, Tensor tau, bool hard, Tensor seed, Tensor? rows, Tensor? items) -> Tensor",
    outputs=_outputs,
    reference=_reference,
    cpu=_cpu,
    float64=True,
    differentiable=(0, 1),
    setup=_setup,
    backward=_backward,
    small=_small,
)
