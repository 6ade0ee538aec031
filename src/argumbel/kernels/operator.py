"""What all operations share: a schema, a reference, kernels, and the one place that decides how a call is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from .._core.modes import is_differentiated, is_recorded, transforms_work
from .dispatch import choose, seed_tensor

__all__ = ["Operator"]

NAMESPACE = "argumbel"
STAND_INS = frozenset((FakeTensor, FunctionalTensor))  # of tensors, while PyTorch traces


class Operator:
    """``operator(*inputs, key) -> (*outputs, bad)``: an operation that takes any tensor, on any device, anywhere.

    A call is made in one of four ways. While PyTorch records or traces (``torch.compile``, ``torch.export``,
    ``torch.jit.trace``, ``FakeTensorMode``): as an operator of ``torch.library``, opaque to the compiler, so that
    compiled code draws what eager code draws. Where no kernel takes the inputs (:mod:`.dispatch` says why): by the
    reference, which PyTorch can differentiate, batch and transform. Where a gradient will be wanted: by the kernel as a
    node of autograd. Else: by the kernel directly, for a registered operator would cost more than many a small draw.

    Args:
        schema: as ``torch.library.define`` takes it, written out: ``"name(Tensor x, ..., Tensor seed, Tensor? rows,
            Tensor? items) -> (Tensor, Tensor)"``. The key's parts come last: all three, the seed alone, or none. In a
            call they are one argument, the tuple ``key``.
        outputs: of the same arguments as the schema, empty outputs: what the compiler is told.
        reference: in plain PyTorch, with the arguments and the results of a call. ``bad`` says whether a row was bad,
            where values may be looked at; elsewhere it is False, and bad rows are marked.
        cpu: the C++ kernel, with the same arguments and results as the reference. None: there is none.
        triton: whether ``kernels/triton`` has a function of this name.
        float64: whether the C++ takes float64, too.
        refuses: of the inputs, why the C++ does not take them (None: it does), beyond what :mod:`.dispatch` asks.
        describe: of the inputs, the device, the dtype and the number of items; by default those of the first.
        differentiable: the places of the inputs that may have a gradient.
        setup, backward: as ``torch.library.register_autograd`` takes them; gradients that are left out are None.
        small: another way to a differentiable result, for inputs so few that a Python function in the graph would cost
            more than all else; it returns None where it does not apply.
    """

    def __init__(
        self,
        schema: str,
        *,
        outputs: Callable[..., Any],
        reference: Callable[..., tuple[Any, ...]],
        cpu: Callable[..., tuple[Any, ...]] | None = None,
        triton: bool = True,
        float64: bool = False,
        refuses: Callable[..., str | None] | None = None,
        describe: Callable[..., tuple[torch.device, torch.dtype, int]] | None = None,
        differentiable: tuple[int, ...] = (0,),
        setup: Callable[..., None] | None = None,
        backward: Callable[..., tuple[Tensor | None, ...]] | None = None,
        small: Callable[..., tuple[Any, ...] | None] | None = None,
    ) -> None:
        self.name, _, rest = schema.partition("(")
        taken, _, returned = rest.partition("->")
        self.arity = taken.count(",") + 1
        self.key_parts = 3 if "? rows" in taken else 1 if " seed" in taken else 0
        self.is_single = "(" not in returned
        self.reference, self.cpu, self.triton, self.float64 = reference, cpu, triton, float64
        self.refuses, self.small = refuses, small
        self.differentiable, self._backward = differentiable, backward
        if describe is not None:
            self.describe = describe  # type: ignore[method-assign]
        qualified = f"{NAMESPACE}::{self.name}"
        torch.library.define(qualified, f"({rest}")
        torch.library.impl(qualified, "default", self._body)
        torch.library.register_fake(qualified, outputs)
        self.registered = getattr(getattr(torch.ops, NAMESPACE), self.name).default
        self._function: Any = None
        if backward is not None:
            torch.library.register_autograd(qualified, self._gradients, setup_context=setup)
            self._function = _function_of(self, setup)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        if is_recorded() or type(inputs[0]) in STAND_INS:
            if self._function is not None and is_differentiated():  # an operator has no rule for it
                return self.reference(*inputs)
            out = self.registered(*self._flat(inputs))
            return (out, False) if self.is_single else (*out, False)
        run = choose(self, inputs)
        if self._function is None or run is self.reference or not torch.is_grad_enabled():
            return run(*inputs)
        for place in self.differentiable:
            if inputs[place] is not None and inputs[place].requires_grad:
                break
        else:
            return run(*inputs)
        if self.small is not None and run is self.cpu:
            found = self.small(*inputs)
            if found is not None:
                return found
        return self._function.apply(*inputs[:-1], *inputs[-1], run)

    @staticmethod
    def describe(x: Any, *_: Any) -> tuple[torch.device, torch.dtype, int]:
        return x.device, x.dtype, x.shape[-1]

    def device(self, *inputs: Any) -> torch.device:
        return self.describe(*inputs)[0]

    def _flat(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs as the schema has them: the seed a tensor; for torch.jit.trace, a device its name."""
        *others, key = inputs
        rest = [str(value) if type(value) is torch.device else value for value in others]
        if self.key_parts == 0:
            return tuple(rest)
        return (*rest, seed_tensor(key[0], self.device(*inputs)), *key[1:])

    def nested(self, flat: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of a call, from the arguments of the schema."""
        first = self.arity - self.key_parts
        return (*flat[:first], tuple(flat[first:]))

    def _body(self, *flat: Any) -> Any:
        inputs = self.nested(flat)
        with transforms_work():
            *out, _ = choose(self, inputs)(*inputs)
        if self.is_single:
            return out[0]
        # None is an output that was not asked for; a schema has no word for that.
        return tuple(torch.empty(0, dtype=torch.float64, device=out[0].device) if x is None else x for x in out)

    def _gradients(self, ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        assert self._backward is not None
        found = self._backward(ctx, *grads)
        return (*found, *[None] * (self.arity - len(found)))


def _function_of(operator: Operator, setup: Any) -> Any:
    """A kernel as a node of autograd, for eager mode; its last argument is the kernel, its last result ``bad``."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *flat: Any) -> tuple[Any, ...]:
            *arguments, run = flat
            results = run(*operator.nested(tuple(arguments)))
            setup(ctx, arguments, results[0] if operator.is_single else results[:-1])
            return results

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
            return *operator._gradients(ctx, *grads[:-1]), None

    Function.__name__ = Function.__qualname__ = operator.name
    return Function
