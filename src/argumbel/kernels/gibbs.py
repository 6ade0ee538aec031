"""Gibbs laws over structures: ``P(y) = exp(<y, x>) / Z``, of which one function is known, ``log Z(x)``.

The gradient of log Z is the marginals, and the Hessian is the covariance of the law. So a file of structures gives one
function in plain PyTorch, and may give three kernels: log Z, the marginals, and the product of the covariance with a
direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._core.modes import is_eager
from .cpu import NO_KEY, call
from .opaque import Function, opaque

__all__ = ["LOWEST", "gibbs", "is_impossible", "slope"]

#: Stands for -inf in sums: no difference of two of them is NaN, and the exponential of any of them is 0.
LOWEST = -1e30


def is_impossible(log_z: Tensor) -> Tensor:
    """Where no structure was left: the best of them uses a forbidden part."""
    return ~(log_z > LOWEST / 2)


def slope(value: Function, x: Tensor) -> Tensor:
    """The gradient of the sum of ``value(x)``."""
    last = not (torch.is_grad_enabled() and x.requires_grad) and forward_ad._current_level < 0
    if last and is_eager() and not torch.is_inference_mode_enabled():  # by plain autograd, which is 2 to 5 times faster
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            total = value(at).sum()
        if total.requires_grad:  # not in the body of an operator below autograd
            return torch.autograd.grad(total, at)[0]
    return torch.func.grad(lambda at: value(at).sum())(x)


def gibbs(
    schema: str,
    event_ndim: int,
    log_z: Function,
    *,
    mean: Function | None = None,
    covariance: Function | None = None,
    cpu: Callable[..., tuple[int, ...]] | None = None,
) -> tuple[Function, Function]:
    """``(log_partition, marginals)``, each a function of ``(x, *other)``.

    Args:
        schema: of log Z, as ``torch.library.define`` takes it: ``"NAME_log_partition(Tensor x, SymInt k)"``.
        event_ndim: how many dimensions of x, the last ones, are those of one structure.
        log_z: of float64 ``(*batch, *event)`` and ``*other``; plain PyTorch. -inf comes as LOWEST.
        mean, covariance: the gradient of log_z, of ``(x, *other)``, and the product of its Hessian with a direction,
            of ``(x, *other, grad)``; by default PyTorch makes them of log_z.
        cpu: of ``(x, *other)``, what C++ kernels take beside x, the direction and the result. They are
            ``NAME_log_partition``, ``NAME_marginals`` and ``NAME_covariance``. None: there are none.
    """
    name, _, arguments = schema.partition("(")
    stem = name.removesuffix("_log_partition")

    def slope_of_log_z(x: Tensor, *other: Any) -> Tensor:
        return slope(lambda at: log_z(at, *other), x)

    def hessian_of_log_z(x: Tensor, *other_and_grad: Any) -> Tensor:
        """The Hessian is symmetric: its product with grad is the gradient of the slope along grad. (Reverse mode twice:
        PyTorch's forward mode loads what warns and takes seconds.)"""
        *other, grad = other_and_grad
        return slope(lambda at: slope_of_log_z(at, *other) * grad, x)

    def pull(x: Tensor, *other_and_grad: Any) -> Tensor:
        *other, grad = other_and_grad
        return marginals(x, *other) * grad.reshape(*grad.shape, *[1] * event_ndim)

    def run(kernel: str, x: Tensor, other: Sequence[Any], out: Tensor, *addresses: int) -> tuple[Tensor, bool]:
        assert cpu is not None
        own = cpu(x, *other)
        return out, call(f"{stem}_{kernel}", x.flatten(-event_ndim), NO_KEY, *own, *addresses, out.data_ptr())

    def cpu_log_z(x: Tensor, *other_and_key: Any) -> tuple[Tensor, bool]:
        return run("log_partition", x, other_and_key[:-1], x.new_empty(x.shape[: x.ndim - event_ndim]))

    def cpu_mean(x: Tensor, *other_and_key: Any) -> tuple[Tensor, bool]:
        return run("marginals", x, other_and_key[:-1], x.new_empty(x.shape))

    def cpu_covariance(x: Tensor, *other_grad_and_key: Any) -> tuple[Tensor, bool]:
        *other, grad, _ = other_grad_and_key
        grad = grad.contiguous()
        return run("covariance", x, other, x.new_empty(x.shape), grad.data_ptr())

    marginals = opaque(
        f"{stem}_marginals({arguments}",
        mean or slope_of_log_z,
        covariance or hessian_of_log_z,
        cpu=cpu and cpu_mean,
        cpu_gradient=cpu and cpu_covariance,
    )
    partition = opaque(schema, log_z, pull, cpu=cpu and cpu_log_z, drops=event_ndim)
    return partition, marginals
