"""Operations that must look at their numbers: loops that end when they are done, and solvers outside of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .operator import NAMESPACE, Operator

__all__ = ["concrete"]


def concrete(
    schema: str, function: Callable[..., tuple[Tensor, ...]], outputs: Callable[..., Any]
) -> Callable[..., tuple[Tensor, ...]]:
    """``function(x, *numbers)``, which gets a tensor that holds numbers, and not one that stands for others, wherever
    the call is made: in eager mode, in compiled code, and under transforms of ``torch.func``. No derivative.

    Args:
        schema: as ``torch.library.define`` takes it: ``"name(Tensor x, SymInt k) -> (Tensor, Tensor)"``. x has any
            number of dimensions in front, and the results have the same ones.
        function: a tuple of new tensors.
        outputs: of the same arguments, empty outputs (:class:`Operator`).
    """

    class Concrete(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> tuple[Tensor, ...]:
            return function(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            ctx.mark_non_differentiable(*output)
            ctx.count = len(output)

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *numbers: Any) -> tuple[Any, Any]:
            found = Concrete.apply(x.movedim(in_dims[0], 0), *numbers)
            return found, (0,) * len(found)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> tuple[None, ...]:
            return (None,) * ctx.count

    def recorded_vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, *numbers: Any) -> tuple[Any, Any]:
        found = operator.registered(x.movedim(in_dims[0], 0), *numbers)
        return found, 0 if operator.is_single else (0,) * len(found)

    operator = Operator(
        schema, outputs=outputs, reference=lambda *inputs: (*Concrete.apply(*inputs[:-1]), False), triton=False
    )
    if hasattr(torch.library, "register_vmap"):  # from PyTorch 2.5 on
        torch.library.register_vmap(f"{NAMESPACE}::{operator.name}", recorded_vmap)

    def call(x: Tensor, *numbers: Any) -> tuple[Tensor, ...]:
        return operator(x.detach(), *numbers, ())[:-1]

    return call
