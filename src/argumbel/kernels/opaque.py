"""Functions in plain PyTorch, with a gradient of their own, that are one node to a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._core.checks import is_traced
from .._core.modes import is_recorded, is_transformed
from .operator import Operator

__all__ = ["limited", "opaque"]

Function = Callable[..., Tensor]


def opaque(
    schema: str,
    value: Function,
    gradient: Callable[..., Tensor],
    *,
    drops: int = 0,
    cpu: Callable[..., Any] | None = None,
    cpu_gradient: Callable[..., Any] | None = None,
) -> Function:
    """``value(x, *other)``, as a node of autograd, and as two operators to a compiler.

    A compiler cannot look into an operator. Else it would unroll the loops of ``value``, and take minutes for them. (A
    body of an operator must not call ``Tensor.conj``: in the first run of compiled code, PyTorch 2.13 takes what it
    returns for the number itself.)

    Args:
        schema: of ``value``, as ``torch.library.define`` takes it: ``"name(Tensor x, SymInt k)"``. What stands
            beside x, tensors and then numbers, has no derivative.
        value: of x, a new tensor in the shape and dtype of x. PyTorch can differentiate it, for forward derivatives.
        gradient: of ``(x, *other, grad)``, the gradient of x. PyTorch can differentiate it, for second derivatives.
        drops: so many of the last dimensions of x the value does not have.
        cpu, cpu_gradient: C++ kernels of both, with the arguments and results of kernels (:class:`Operator`).
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *other = inputs
        ctx.numbers = [o for o in other if not isinstance(o, Tensor)]
        ctx.save_for_backward(x, *(o for o in other if isinstance(o, Tensor)))

    def kept(ctx: Any) -> tuple[Any, ...]:
        return *ctx.saved_tensors, *ctx.numbers

    class Opaque(torch.autograd.Function):
        generate_vmap_rule = True
        setup_context = staticmethod(keep)

        @staticmethod
        def forward(x: Tensor, *other: Any) -> Tensor:
            return value(x, *other)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            inputs = kept(ctx)
            return gradient(*inputs, *grads), *[None] * (len(inputs) - 1)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor]:
        inputs = kept(ctx)
        if torch.is_grad_enabled() or is_traced(grad):  # it is differentiated again, or batched (is_grads_batched)
            return (gradient(*inputs, grad),)
        return of_gradient(*inputs, grad, ())[:1]

    def outputs(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(x.shape[: x.ndim - drops])

    def outputs_of_gradient(x: Tensor, *_: Any) -> Tensor:
        return x.new_empty(x.shape)

    def describe(x: Tensor, *_: Any) -> tuple[torch.device, torch.dtype, int]:
        return x.device, x.dtype, x.numel()

    name, _, arguments = schema.rstrip(")").partition("(")
    of_value = Operator(
        f"{name}({arguments}) -> Tensor",
        outputs=outputs,
        reference=lambda *inputs: (Opaque.apply(*inputs[:-1]), False),
        cpu=cpu,
        float64=True,
        triton=False,
        describe=describe,
        setup=keep,
        backward=backward,
    )
    of_gradient = Operator(
        f"{name}_backward({arguments}, Tensor grad) -> Tensor",
        outputs=outputs_of_gradient,
        reference=lambda *inputs: (gradient(*inputs[:-1]), False),
        cpu=cpu_gradient,
        float64=True,
        triton=False,
        describe=describe,
    )

    def call(x: Tensor, *other: Any) -> Tensor:
        # Operators have no rule for transforms that are recorded. And PyTorch forgets the outer one of two forward
        # derivatives of a torch.autograd.Function.
        if forward_ad._current_level >= 0 or (is_recorded() and is_transformed()):
            return value(x, *other)
        return of_value(x, *other, ())[0]

    return call


#: ``limited(x, most) -> x``, with a gradient that is kept in [-most, most], so that a dtype with a smaller range can
#: hold it.
limited = opaque(
    "limited(Tensor x, float most)",
    lambda x, most: x.clone(),
    lambda x, most, grad: grad.clamp(-most, most),
)
