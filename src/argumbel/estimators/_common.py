"""What all estimators share: drawing, calling f, telling batch from factors, giving a value another gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.checks import can_raise, check_dim, check_logits, raise_bad_logits
from ..choice import gumbel_max
from ..noise import KeyedNoise, work_dtype

__all__ = [
    "Loss",
    "call",
    "check_problem",
    "draw",
    "factor_dims",
    "joint_log_prob",
    "one_hot",
    "sum_factors",
    "with_gradient",
]

Loss = Callable[[Tensor], Tensor]
"""One-hot samples of shape ``(num_samples, *logits.shape)`` to losses of shape ``(num_samples, *batch)``."""


def check_problem(f: Loss, logits: Tensor, num_samples: int, least: int = 1) -> None:
    """The door of every estimator."""
    if not callable(f):
        raise TypeError(f"f must be a function of one-hot samples, but it is a {type(f).__name__}")
    check_logits(logits)
    check_dim(logits, -1)
    if isinstance(num_samples, bool) or not isinstance(num_samples, int):
        raise TypeError(f"num_samples must be an integer, but it is a {type(num_samples).__name__}")
    if num_samples < least:
        raise ValueError(f"num_samples must be at least {least} for this estimator, but it is {num_samples}")
    height = logits.detach().amax(-1)
    if can_raise(height) and not bool(height.isfinite().all()):
        raise_bad_logits(logits.detach(), logits.ndim - 1)


def draw(
    logits: Tensor, num_samples: int, generator: torch.Generator | None, noise: Tensor | KeyedNoise | None
) -> Tensor:
    """Independent one-hot samples of shape ``(num_samples, *logits.shape)``: the winners of logits + Gumbel noise."""
    x = logits.detach().expand(num_samples, *logits.shape)
    return one_hot(gumbel_max(x, generator=generator, noise=noise).indices, logits)


def one_hot(index: Tensor, logits: Tensor) -> Tensor:
    """One-hot vectors in the dtype of logits; NaN for index -1, which marks a bad row."""
    won = index.unsqueeze(-1) == torch.arange(logits.shape[-1], device=index.device)
    return won.to(logits.dtype).masked_fill((index < 0).unsqueeze(-1), torch.nan)


def call(f: Loss, samples: Tensor, logits: Tensor) -> Tensor:
    """``f(samples)``, checked: of shape ``(len(samples), *batch)``, batch a leading part of ``logits.shape[:-1]``.

    In float32 at least, so that what is computed from it does not round as half precision does.
    """
    loss = f(samples)
    if not isinstance(loss, Tensor) or not loss.dtype.is_floating_point:
        what = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"f must return a floating tensor of losses, but it returned {what}")
    lead = (len(samples), *logits.shape[:-1])
    if loss.ndim == 0 or tuple(loss.shape) != lead[: loss.ndim]:
        raise ValueError(
            f"f must return one loss per sample, of shape {lead} or with some of the last dimensions (factors of one "
            f"joint choice) summed away, but for samples of shape {tuple(samples.shape)} it returned the shape "
            f"{tuple(loss.shape)}"
        )
    return loss.to(work_dtype(loss.dtype))


def factor_dims(f: Loss, logits: Tensor, factors: int | None) -> int:
    """How many dimensions of logits before the last are factors of one joint choice: asked of f, on one sample."""
    if factors is None:
        with torch.no_grad():
            mode = one_hot(logits.detach().argmax(-1), logits).unsqueeze(0)
            return logits.ndim - call(f, mode, logits).ndim
    if isinstance(factors, bool) or not isinstance(factors, int):
        raise TypeError(f"factors must be an integer or None, but it is a {type(factors).__name__}")
    if not 0 <= factors < logits.ndim:
        raise ValueError(
            f"factors must count dimensions of logits before the last, 0 to {logits.ndim - 1} for the shape "
            f"{tuple(logits.shape)}, but it is {factors}"
        )
    return factors


def sum_factors(x: Tensor, loss: Tensor) -> Tensor:
    """x of shape ``(num_samples, *batch, *factors)`` summed to the shape ``(num_samples, *batch)`` of loss."""
    return x.reshape(*loss.shape, math.prod(x.shape[loss.ndim :])).sum(-1)


def joint_log_prob(logits: Tensor, samples: Tensor, loss: Tensor) -> Tensor:
    """``log p(sample)``, summed over the factors, in the shape of loss; a forbidden item gets no gradient, not NaN."""
    log_p = torch.log_softmax(logits.to(work_dtype(logits.dtype)), -1)
    return sum_factors(torch.where(samples > 0, log_p, 0).sum(-1), loss)


def with_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """value with its own gradient plus that of surrogate. The bracket is exactly zero, so the value stays as it is."""
    return value + (surrogate - surrogate.detach())
